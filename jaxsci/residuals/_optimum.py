"""Free minima."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, PyTree

from .._residual import AbstractResidual


class Stationary(AbstractResidual):
    """min over y of f(y, θ), as F(y, θ) = ∇f(y, θ) = 0.

    **Arguments:**

    - `fn`: (y, args) ↦ the scalar f.
    - `convex`: promise that the Hessian is positive definite at the solution, which lets the linear
      solves use Cholesky or conjugate gradients. Not checked; the result of each solve is.

    **Limits:** a maximum or a saddle point is stationary too; the derivative follows whichever point
    the solver returned. It exists where the Hessian is regular.
    """

    fn: Callable
    convex: bool = eqx.field(static=True, default=False)

    @property
    def tags(self):
        return frozenset({lx.symmetric_tag} | ({lx.positive_semidefinite_tag} if self.convex else set()))

    def objective(self, y: PyTree[Array], args: PyTree[Any]) -> Array:
        return check_scalar(self.fn(y, args), "Stationary", "fn")

    def __call__(self, y: PyTree[Array], args: PyTree[Any]) -> PyTree[Array]:
        return jax.grad(self.objective)(y, args)


def check_scalar(value: Array, owner: str, name: str) -> Array:
    """`value` as an array; `ValueError` unless it is a scalar."""
    value = jnp.asarray(value)
    if value.shape != ():
        raise ValueError(
            f"`{name}` of {owner} returned an array of shape {value.shape}; expected a scalar. Sum or "
            "average it, or use `jaxsci.LeastSquares` for a vector of residuals."
        )
    return value
