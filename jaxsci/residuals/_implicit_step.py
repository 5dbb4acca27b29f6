"""One implicit step of a time integration."""

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, Float, PyTree

from .._residual import AbstractResidual


class TimeStep(eqx.Module):
    """What a step starts from: the `args` of an `ImplicitStep`.

    **Fields:**

    - `y`: y₀, the state at t, a pytree of arrays.
    - `t`: t, the time at the beginning of the step (unit of time).
    - `dt`: h, its length (unit of time).
    - `args`: θ, passed to the vector field; any pytree.
    - `before`: y₋₁, the state at t − h, for schemes of two steps (`BDF2`); else None.
    """

    y: PyTree[Array]
    t: Float[Array, ""] | float
    dt: Float[Array, ""] | float
    args: PyTree[Any] = None
    before: PyTree[Array] = None


class AbstractScheme(eqx.Module):
    """A formula F(y₁, y₀, …) = 0 for the state y₁ at t + h, the residual of one implicit step."""

    @abc.abstractmethod
    def __call__(self, vector_field: Callable, y: PyTree[Array], step: TimeStep) -> PyTree[Array]:
        """F, of the structure of y (unit of y)."""


def _plus(y: PyTree[Array], *terms: tuple[Any, PyTree[Array]]) -> PyTree[Array]:
    """y + Σ weight · term."""
    for weight, term in terms:
        y = jtu.tree_map(lambda a, b, w=weight: a + w * b, y, term)
    return y


class Theta(AbstractScheme):
    """y₁ = y₀ + h [(1 − ϑ) f(t, y₀) + ϑ f(t + h, y₁)]. Order 1; 2 with ϑ = ½.

    **Arguments:**

    - `theta`: ϑ: 1 for the backward Euler method, ½ for the trapezoidal rule; A-stable if ϑ ≥ ½.

    **Reference:** Hairer & Wanner, Solving Ordinary Differential Equations II, 1996.
    """

    theta: Float[Array, ""] | float = 1.0

    def __call__(self, vector_field: Callable, y: PyTree[Array], step: TimeStep) -> PyTree[Array]:
        h, weight = step.dt, self.theta
        after = vector_field(step.t + h, y, step.args)
        rows = _plus(y, (-1, step.y), (-weight * h, after))
        if isinstance(weight, float | int) and weight == 1:
            return rows
        return _plus(rows, ((weight - 1) * h, vector_field(step.t, step.y, step.args)))


class OneStage(AbstractScheme):
    """y₁ = y₀ + h f(t + ϑh, (1 − ϑ) y₀ + ϑ y₁). Order 1; with ϑ = ½, the implicit midpoint rule, order 2.

    The midpoint rule is A-stable, symplectic and keeps quadratic invariants.

    **Arguments:**

    - `theta`: ϑ, in (0, 1] (dimensionless).

    **Reference:** Hairer, Lubich & Wanner, Geometric Numerical Integration, 2006.
    """

    theta: Float[Array, ""] | float = 0.5

    def __call__(self, vector_field: Callable, y: PyTree[Array], step: TimeStep) -> PyTree[Array]:
        between = jtu.tree_map(lambda a, b: (1 - self.theta) * a + self.theta * b, step.y, y)
        rate = vector_field(step.t + self.theta * step.dt, between, step.args)
        return _plus(y, (-1, step.y), (-step.dt, rate))


class BDF2(AbstractScheme):
    """y₁ = (4 y₀ − y₋₁ + 2 h f(t + h, y₁))/3, for two steps of one length. Order 2, L-stable.

    y₋₁ is `TimeStep.before`; make the first step with another scheme.

    **Reference:** Hairer & Wanner, Solving Ordinary Differential Equations II, 1996.
    """

    def __call__(self, vector_field: Callable, y: PyTree[Array], step: TimeStep) -> PyTree[Array]:
        if step.before is None:
            raise ValueError(
                "`before` of the TimeStep is None; BDF2 needs the state one step earlier. Make the first "
                "step with Theta() or OneStage(), and pass its beginning as `before`."
            )
        rate = vector_field(step.t + step.dt, y, step.args)
        return _plus(y, (-4 / 3, step.y), (1 / 3, step.before), (-2 / 3 * step.dt, rate))


class ImplicitStep(AbstractResidual):
    """The state y at t + h after one implicit step of dy/dt = f(t, y, θ) from y₀ at t.

    By default y = y₀ + h f(t + h, y, θ), the backward Euler method. In a `scan` over steps every step is
    solved and differentiated on its own: memory is one state for each step, and derivatives of every
    order with respect to θ, y₀, t and h are those of the scheme.

    **Arguments:**

    - `vector_field`: f, (t, y, args) ↦ dy/dt, of the structure of y (unit of y over time).
    - `scheme`: `jaxsci.residuals.Theta()`, `.OneStage()` or `.BDF2()`, or a scheme of one's own.

    The `args` of the solve are a `jaxsci.TimeStep(y, t, dt, args, before)`; its `y` is a good first guess.

    **Raises:** `TypeError` if `args` is no `TimeStep`; `ValueError` if f is not of the shape of y.

    **Limits:** the derivative exists where I − ϑ h ∂f/∂y is regular. It is the derivative of the scheme,
    as far from that of the differential equation as the scheme is.
    """

    vector_field: Callable
    scheme: AbstractScheme = Theta()

    def __call__(self, y: PyTree[Array], args: TimeStep) -> PyTree[Array]:
        if not isinstance(args, TimeStep):
            raise TypeError(
                f"`args` of ImplicitStep is of type {type(args).__name__}; expected a "
                "jaxsci.TimeStep(y, t, dt, args), from which the step starts."
            )

        def field(t, y, args):
            rate = self.vector_field(t, y, args)
            form = lambda tree: jtu.tree_map(jnp.shape, tree)
            if form(rate) != form(y):
                raise ValueError(
                    f"`vector_field` returned shapes {form(rate)} for a state of shapes {form(y)}; "
                    "expected a rate for every scalar of the state."
                )
            return rate

        return self.scheme(field, y, args)
