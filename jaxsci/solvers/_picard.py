"""The plain fixed-point iteration."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import jax.tree_util as jtu
import optimistix as optx
from jaxtyping import Array, Bool, Float, PyTree

from .. import _tree
from .._solution import RESULTS
from ._plain import AbstractPlainSolver, check_tolerances


class _State(eqx.Module):
    size: Float[Array, ""]  # ‖T(y) − y‖₂ of the last step
    relative: Float[Array, ""]  # the same, divided by atol + rtol ‖y‖


class Picard(AbstractPlainSolver, optx.AbstractFixedPointSolver):
    """y ← (1 − ω) y + ω T(y, θ), until ‖T(y) − y‖ ≤ atol + rtol ‖y‖ (root-mean-square norms).

    One evaluation of T a step and no memory: the quickest where T contracts well (by a half or more);
    `Anderson` elsewhere. The point returned is one step further than the one that was measured. Plain JAX
    without callbacks, also inside `jax.shard_map`. Under `vmap` every lane stops on its own. Also an
    `optimistix.AbstractFixedPointSolver`.

    **Arguments:**

    - `rtol`, `atol`: relative (dimensionless) and absolute (unit of y) tolerance of T(y) − y.
    - `damping`: ω in (0, 1] (dimensionless).

    **Raises:** `ValueError` for tolerances or a damping outside of their ranges.

    **Limits:** converges where (1 − ω) y + ω T(y) contracts, by c < 1; the error is then at most c/(1 − c)
    times the last step.

    **Reference:** Banach, Sur les opérations dans les ensembles abstraits, Fund. Math. 3, 1922.
    """

    rtol: float
    atol: float
    damping: float
    norm: Any

    def __init__(self, rtol: float, atol: float, *, damping: float = 1.0):
        check_tolerances(rtol, atol)
        if not 0 < damping <= 1:
            raise ValueError(f"`damping` is {damping!r}; expected a number in (0, 1]; 1 damps nothing.")
        self.rtol = rtol
        self.atol = atol
        self.damping = damping
        self.norm = optx.rms_norm

    def init(self, fn, y, args, options, f_struct, aux_struct, tags):
        unknown = jnp.full((), jnp.inf, _tree.norm(y).dtype)
        return _State(unknown, unknown)

    def step(self, fn, y, args, options, state, tags):
        f = fixed_point_residual(fn, y, args)
        size, count = _tree.norm(f), max(_tree.size(y), 1) ** 0.5
        relative = size / count / (self.atol + self.rtol * _tree.norm(y) / count)
        return _tree.axpy(self.damping, f, y), _State(size, relative), None

    def status(self, state) -> tuple[Bool[Array, ""], RESULTS]:
        """Whether to stop, and with which result."""
        return fixed_point_status(state)

    def postprocess(self, fn, y, aux, args, options, state, tags, result):
        return y, aux, {"linear_iterations": jnp.array(0)}


def fixed_point_residual(fn, y: PyTree[Array], args) -> PyTree[Array]:
    """T(y) − y."""
    image = fn(y, args)[0]
    if jtu.tree_map(jnp.shape, image) != jtu.tree_map(jnp.shape, y):
        raise ValueError(
            f"The fixed-point map returns arrays of shapes {jtu.tree_map(jnp.shape, image)}, but the "
            f"unknown `y` has shapes {jtu.tree_map(jnp.shape, y)}; expected the same. Reshape what the "
            "map returns, or start from a guess of its shape."
        )
    return jtu.tree_map(lambda g, x: (g - x).astype(x.dtype), image, y)


def fixed_point_status(state) -> tuple[Bool[Array, ""], RESULTS]:
    """Whether T(y) − y, of which the state holds `size` and `relative`, is small enough, or not finite."""
    converged = (state.relative <= 1) | (state.size == 0)
    # Before the first step the size is infinite; NaN is what diverging leads to.
    lost = jnp.isnan(state.size)
    return converged | lost, RESULTS.where(lost, RESULTS.nonfinite, RESULTS.successful)
