"""What training asks of a model."""

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from .. import pde

Inputs = tuple[Array, ...]
"""What a term needs at each of its points: arrays with the points on the leading axis."""


class AbstractPINN(eqx.Module):
    """A solution of an equation by networks: what [`jaxsci.pinn.fit`][] trains.

    `network` is what is unknown by default, `domain` where the points of training are drawn.
    """

    equation: eqx.AbstractVar[pde.AbstractEquation]
    domain: eqx.AbstractVar[pde.AbstractDomain]
    network: eqx.AbstractVar[Any]

    @abc.abstractmethod
    def __call__(self, point: Float[Array, " d"]) -> Float[Array, " fields"]:
        """The fields at one point, in the order of `equation.fields`."""

    @abc.abstractmethod
    def residual(self, point: Float[Array, " d"]) -> Float[Array, " rows"]:
        """What is to vanish at a point of `domain`."""

    @abc.abstractmethod
    def terms(self) -> "tuple[AbstractTerm, ...]":
        """The summands of the loss; the first is the residual inside, by the name `"equation"`."""

    @abc.abstractmethod
    def with_equation(self, equation: pde.AbstractEquation) -> "AbstractPINN":
        """The same networks for another equation of the same fields and coordinates."""


class AbstractTerm(eqx.Module):
    """One summand of the loss: rows at points."""

    name: eqx.AbstractVar[str]

    @abc.abstractmethod
    def draw(self, model: Any, n: int, sampler: pde.AbstractSampler, key: PRNGKeyArray) -> Inputs:
        """Points, and what else the rows need there."""

    @abc.abstractmethod
    def rows(self, model: Any, *inputs: Array) -> Float[Array, " k"]:
        """The rows at one point."""

    def current(self, inputs: Inputs) -> Inputs:
        """Inputs of an earlier draw, with what this term knows better."""
        return inputs


class EquationTerm(AbstractTerm):
    """The residual of the equation inside."""

    name: str = eqx.field(static=True, default="equation")

    def draw(self, model, n, sampler, key):
        return (model.domain.interior(n, sampler, key),)

    def rows(self, model, p):
        return model.residual(p)


def check_point(model: AbstractPINN, point: Any) -> Array:
    """One point, as an array of floats; raise otherwise."""
    names = model.equation.coordinates
    if jnp.shape(point) != (len(names),):
        raise ValueError(
            f"`point` has shape {jnp.shape(point)}; expected ({len(names)},), one number for each of "
            f"the coordinates {names}. Batch with `jax.vmap`."
        )
    return jnp.asarray(point, jnp.result_type(float, point))


def same_equation(equation: Any, old: pde.AbstractEquation) -> pde.AbstractEquation:
    """`equation`, if it has the coordinates and fields of `old`; raise otherwise."""
    names = (old.coordinates, old.fields)
    if not isinstance(equation, pde.AbstractEquation):
        raise TypeError(f"`equation` is {equation!r}; expected a pde.Equation, such as pde.Burgers(0.01).")
    if (equation.coordinates, equation.fields) != names:
        raise ValueError(
            f"`equation` has the coordinates {equation.coordinates} and the fields {equation.fields}; "
            f"expected {names[0]} and {names[1]}."
        )
    return equation


Choose = Callable[[AbstractPINN], Any]
