"""Deep equilibrium models."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, PyTree

from .._adjoint import AbstractAdjoint, ImplicitAdjoint
from .._solution import Solution
from .._solve import solve
from ..linear import GMRES
from ..residuals import FixedPoint
from ..solvers import Anderson
from ._implicit import started, value_of


class FixedPointLayer(eqx.Module):
    """x ↦ z with z = f(z, x): a deep equilibrium model (DEQ), a network of infinite depth in the memory of
    one layer.

    The derivative is that of the equilibrium, not of the iterations: dz = (I − ∂f/∂z)⁻¹ ∂f · d(x,
    parameters), matrix-free by default.

    **Arguments:**

    - `fn`: f, (z, x) ↦ a pytree of the structure of z. If it is an Equinox module its arrays are the
      layer's parameters.
    - `solver`: `Anderson(1e-6, 1e-6)` by default; any fixed-point solver or root finder
      (`jaxsci.solvers.Broyden`, `Newton`, `optimistix.FixedPointIteration`).
    - `start`: the first guess: x ↦ z, or z. None: zeros of the form of x.
    - `adjoint`: `ImplicitAdjoint(GMRES())` by default. `ImplicitAdjoint()` forms ∂f/∂z up to 1024 unknowns;
      `jaxsci.NeumannAdjoint` and `jaxsci.OneStepAdjoint` are cheaper and inexact.
    - `max_steps`: evaluations of f at most.
    - `throw`: as in `ImplicitLayer`.

    **Raises:** `ValueError` if f does not return what it is given.

    **Limits:** nothing makes the equilibrium exist or be one: bound the Lipschitz constant of f in z below
    one (a spectral norm, a small initialization), and watch `solve(x).stats`.

    **Reference:** Bai, Kolter & Koltun, Deep equilibrium models, NeurIPS 2019.
    """

    fn: Callable
    solver: Any = eqx.field(default=Anderson(1e-6, 1e-6), kw_only=True)
    start: Any = eqx.field(default=None, kw_only=True)
    adjoint: AbstractAdjoint = eqx.field(default=ImplicitAdjoint(GMRES()), kw_only=True)
    max_steps: int = eqx.field(static=True, default=100, kw_only=True)
    throw: bool = eqx.field(static=True, default=True, kw_only=True)

    def __call__(self, x: PyTree[Any], z0: PyTree[Array] | None = None) -> PyTree[Array]:
        """The equilibrium, for one sample; `z0` replaces the layer's first guess."""
        return value_of(self.solve(x, z0))

    def solve(self, x: PyTree[Any], z0: PyTree[Array] | None = None) -> Solution:
        """The whole `jaxsci.Solution`: the value where the solver stopped, result and figures."""
        start = _zeros if self.start is None else self.start
        z0 = started(start, x, z0)
        form = lambda tree: jtu.tree_map(lambda leaf: jnp.shape(leaf), tree)
        image = jax.eval_shape(lambda z: self.fn(z, x), z0)
        if form(image) != form(z0):
            raise ValueError(
                f"`fn` returns arrays of shapes {form(image)} for a z of shapes {form(z0)}; expected the "
                "same. If z has another form than x, give `start`, such as `start=lambda x: jnp.zeros(64)`."
            )
        return solve(
            FixedPoint(self.fn),
            self.solver,
            z0,
            x,
            adjoint=self.adjoint,
            throw=self.throw,
            max_steps=self.max_steps,
        )


def _zeros(x: PyTree[Array]) -> PyTree[Array]:
    return jtu.tree_map(jnp.zeros_like, x)
