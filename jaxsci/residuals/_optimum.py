"""Minima, free and under equality constraints."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import lineax as lx
from jaxtyping import Array, PyTree

from .. import _tree
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
        return _scalar(self.fn(y, args), "Stationary", "fn")

    def __call__(self, y: PyTree[Array], args: PyTree[Any]) -> PyTree[Array]:
        return jax.grad(self.objective)(y, args)


class KKT(AbstractResidual):
    """min over x of f(x, θ) subject to g(x, θ) = 0, by the Karush–Kuhn–Tucker conditions

        ∇f(x, θ) + (∂g/∂x)ᵀ ν = 0,   g(x, θ) = 0.

    The unknown is the pair y = (x, ν), with one multiplier for every scalar of g; `KKT.start` makes one.

    **Arguments:**

    - `objective`: (x, args) ↦ the scalar f.
    - `equality`: (x, args) ↦ g, a pytree of arrays.

    **Limits:** the derivative exists where ∂g/∂x has full rank and the Hessian of the Lagrangian is
    regular on its null space (linear independence and second-order conditions).
    """

    function: Callable
    equality: Callable

    def __init__(self, objective: Callable, equality: Callable):
        self.function = objective
        self.equality = equality

    @property
    def tags(self):
        return frozenset({lx.symmetric_tag})

    def start(self, x: PyTree[Array], args: PyTree[Any] = None) -> tuple[PyTree[Array], PyTree[Array]]:
        """(x, 0): a first guess with zero multipliers."""
        shapes = jax.eval_shape(self.equality, x, args)
        return x, jtu.tree_map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)

    def _pair(self, y):
        if not isinstance(y, tuple | list) or len(y) != 2:
            raise ValueError(
                f"`y` is a pytree of shapes {jtu.tree_map(jnp.shape, y)}; expected the pair (x, ν) of "
                "unknowns and multipliers. Make the first guess with `KKT(...).start(x, args)`."
            )
        return y

    def __call__(self, y: PyTree[Array], args: PyTree[Any]) -> PyTree[Array]:
        x, multipliers = self._pair(y)
        values, pull = jax.vjp(lambda x: self.equality(x, args), x)
        form = lambda tree: jtu.tree_map(jnp.shape, tree)
        if form(values) != form(multipliers):
            raise ValueError(
                f"`y` is the pair (x, ν); ν has shapes {form(multipliers)}, but `equality` returns shapes "
                f"{form(values)}, and there is one multiplier for each of its scalars. Make the first "
                "guess with `KKT(...).start(x, args)`."
            )
        (forces,) = pull(_tree.vary_like(multipliers, values))
        gradient = jax.grad(lambda x: _scalar(self.function(x, args), "KKT", "objective"))(x)
        return jtu.tree_map(jnp.add, gradient, forces), values


def _scalar(value: Array, owner: str, name: str) -> Array:
    value = jnp.asarray(value)
    if value.shape != ():
        raise ValueError(
            f"`{name}` of {owner} returned an array of shape {value.shape}; expected a scalar. Sum or "
            "average it, or use `jaxsci.LeastSquares` for a vector of residuals."
        )
    return value
