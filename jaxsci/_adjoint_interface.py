"""What every way of differentiating a solution has in common."""

import abc
from collections.abc import Callable
from typing import Any

import optimistix as optx
from jaxtyping import Array, PyTree

from ._residual import AbstractResidual
from .linear import AbstractLinearSolver


class AbstractAdjoint(optx.AbstractAdjoint):
    """How a solution gets its derivatives. Also an `optimistix.AbstractAdjoint`."""

    @property
    def loop(self) -> Callable | None:
        """None: the solver runs on stopped inputs, and `attach` gives the derivative. Or the loop,
        (condition, body, first, *, max_steps) ↦ last, in which the solver is differentiated itself."""
        return None

    @property
    def options(self) -> dict[str, Any]:
        """What a solver of this package has to know in that loop."""
        return {}

    def reuses(self, y: PyTree[Array]) -> bool:
        """Whether factors of the Jacobian that a solver ends with are of use for an unknown like y."""
        return False

    def reusing(self, factorised: AbstractLinearSolver) -> "AbstractAdjoint":
        """The same, with those factors."""
        return self

    @abc.abstractmethod
    def attach(self, residual: AbstractResidual, y: PyTree[Array], args: PyTree[Any]) -> PyTree[Array]:
        """y, with derivatives with respect to everything that the residual's optimality reads."""


def check_adjoint(value: Any) -> None:
    """Raise `TypeError` unless `value` is an adjoint of this package."""
    if not isinstance(value, AbstractAdjoint):
        raise TypeError(
            f"`adjoint` is {value!r} of type {type(value).__name__}; expected an adjoint of jaxsci, such "
            "as jaxsci.ImplicitAdjoint()."
        )
