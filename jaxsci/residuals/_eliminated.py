"""Residuals with a linear solve inside: what is eliminated leaves a square condition in y alone."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jax.scipy.linalg as jsl
import jax.tree_util as jtu
import lineax as lx
from jaxtyping import Array, Float, PyTree

from .. import _tree
from .._residual import AbstractResidual
from ..linear import Operator


def _flat(fn: Callable, y: PyTree[Array], args: PyTree[Any]) -> tuple[Callable, Float[Array, " n"]]:
    """fn on the raveled unknown, and that."""
    return lambda v: _tree.ravel(fn(_tree.unravel(v, y), args)), _tree.ravel(y)


class NewtonFixedPoint(AbstractResidual):
    """G(y, θ) = 0, as the fixed point of Newton's method: y = T(y, θ) = y − η (∂G/∂y)⁻¹ G(y, θ).

    At a root ∂(y − T)/∂y = η I, whatever G is: the system of the implicit function theorem is solved
    already, and its right-hand side is the derivative of a Newton step. With
    `ImplicitAdjoint(jaxsci.linear.CG())` that takes one product.

    **Arguments:**

    - `fn`: G, (y, args) ↦ a pytree of arrays with as many scalars as y.
    - `step`: η, in (0, 1] (dimensionless).

    **Raises:** `ValueError` if there are not as many equations as unknowns.

    **Limits:** the derivative is wrong by the order of ‖G‖ where G ≠ 0. The Jacobian is an n × n array
    and is factorised; for large n use `Root`, whose system may be solved without one.

    **Reference:** Blondel et al., Efficient and Modular Implicit Differentiation, NeurIPS 2022.
    """

    fn: Callable
    step: Array | float = 1.0

    def _newton_step(self, y, args):
        flat, v = _flat(self.fn, y, args)
        g, jacobian = flat(v), jax.jacfwd(flat)(v)
        if jacobian.shape[0] != jacobian.shape[1]:
            raise ValueError(
                f"`fn` of NewtonFixedPoint returns {g.size} equations for {v.size} unknowns; expected as "
                "many. Use `jaxsci.LeastSquares` for more, `jaxsci.MinNorm` for fewer."
            )
        return _tree.unravel(self.step * jnp.linalg.solve(jacobian, g), y)

    def __call__(self, y: PyTree[Array], args: PyTree[Any]) -> PyTree[Array]:
        return self._newton_step(y, args)

    def fixed_point(self, y: PyTree[Array], args: PyTree[Any]) -> PyTree[Array]:
        return jtu.tree_map(jnp.subtract, y, self._newton_step(y, args))

    def jacobian(self, y: PyTree[Array], args: PyTree[Any]) -> Operator | None:
        tags = frozenset({lx.symmetric_tag, lx.positive_semidefinite_tag})
        return Operator(lambda v: _tree.scaled(self.step, v), y, None, tags)


class MinNorm(AbstractResidual):
    """min over y of ½‖y − c‖² subject to r(y, θ) = 0, for fewer equations than unknowns.

    With J = ∂r/∂y of full row rank and multipliers ν the conditions are y − c + Jᵀν = 0 and r = 0. The
    multipliers can be eliminated: y − c has no part in the null space of J, and its part in the row
    space is what r = 0 determines. Both together are n equations for y,

        F(y, θ) = y − c − J⁺ (J (y − c) − r) = 0,   J⁺ = Jᵀ (J Jᵀ)⁻¹.

    For a linear r the derivative is dy = dc − J⁺(J dc + dr); for a nonlinear one ∂²r/∂y² turns the row
    space with y, which F knows and −J⁺dr does not.

    **Arguments:**

    - `fn`: r, (y, args) ↦ a pytree of arrays with at most as many scalars as y.
    - `center`: c, a number or a pytree of the structure of y (unit of y); differentiated if it holds
      arrays.

    **Raises:** `ValueError` if r has more scalars than y.

    **Limits:** J is an m × n array, and is factorised (Jᵀ = Q R). The derivative exists where J has full
    row rank and the Hessian of the Lagrangian, I + Σ νᵢ ∂²rᵢ/∂y², is regular on its null space. Other
    stationary points of the distance satisfy F = 0 too.
    """

    fn: Callable
    center: PyTree = 0.0

    def __call__(self, y: PyTree[Array], args: PyTree[Any]) -> PyTree[Array]:
        flat, v = _flat(self.fn, y, args)
        r, jacobian = flat(v), jax.jacrev(flat)(v)
        if r.size > v.size:
            raise ValueError(
                f"`fn` of MinNorm returns {r.size} equations for {v.size} unknowns; expected at most as "
                "many. Use `jaxsci.LeastSquares` for more."
            )
        leaves = jtu.tree_leaves(self.center)
        away = v - (leaves[0] if len(leaves) == 1 and jnp.ndim(leaves[0]) == 0 else _tree.ravel(self.center))
        q, triangle = jnp.linalg.qr(jacobian.T)
        wanted = jnp.matmul(jacobian, away, precision=jax.lax.Precision.HIGHEST) - r
        part = jsl.solve_triangular(triangle, wanted, trans=1)
        return _tree.unravel(away - jnp.matmul(q, part, precision=jax.lax.Precision.HIGHEST), y)
