"""Least squares."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.tree_util as jtu
import lineax as lx
from jaxtyping import Array, PyTree

from .._residual import AbstractResidual
from ..linear import Operator


class LeastSquares(AbstractResidual):
    """min over y of ½‖r(y, θ)‖². Solvers see r; the implicit function theorem linearises Jᵀr = 0.

    ∂(Jᵀr)/∂y = JᵀJ + Σᵢ rᵢ ∂²rᵢ/∂y². The second term vanishes only with the residual.

    **Arguments:**

    - `fn`: (y, args) ↦ r, a pytree of arrays with any number of scalars.
    - `gauss_newton`: keep JᵀJ only. Cheaper, and exact where r = 0 at the solution for all θ near the
      given one; otherwise it is a *wrong* derivative, by as much as the residual is large. The
      default is exact.

    **Limits:** the derivative exists where the matrix above is regular; r with fewer independent
    scalars than y has no unique minimum.
    """

    fn: Callable
    gauss_newton: bool = eqx.field(static=True, default=False)

    @property
    def tags(self):
        return frozenset({lx.symmetric_tag})

    def __call__(self, y: PyTree[Array], args: PyTree[Any]) -> PyTree[Array]:
        return self.fn(y, args)

    def optimality(self, y: PyTree[Array], args: PyTree[Any]) -> PyTree[Array]:
        r, pull = jax.vjp(lambda y: self.fn(y, args), y)
        return pull(jtu.tree_map(lambda x: x.conj(), r))[0]

    def jacobian(self, y: PyTree[Array], args: PyTree[Any]) -> Operator | None:
        if not self.gauss_newton:
            return None

        def mv(v):
            _, jv = jax.jvp(lambda y: self.fn(y, args), (y,), (v,))
            _, pull = jax.vjp(lambda y: self.fn(y, args), y)
            return pull(jv)[0]

        return Operator(mv, y, None, self.tags | {lx.positive_semidefinite_tag})
