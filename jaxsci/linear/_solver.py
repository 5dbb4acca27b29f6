"""The protocol of the linear solvers, and the check that makes each of them right or loud."""

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .. import _tree
from ._operator import Operator


class AbstractLinearSolver(eqx.Module):
    """Solves A x = b; forward only (the caller gives it stopped inputs), plain JAX, no callback.

    A subclass factorises once (`prepare`) and applies the factors to any number of right-hand sides,
    also transposed (`apply`). `solve` is what callers use: it is free of scale and checked.
    """

    check: eqx.AbstractVar[float | None]

    @property
    def exact(self) -> bool:
        """Whether x is A⁻¹b; False for a solver that gives A⁺b."""
        return True

    @property
    def direct(self) -> bool:
        """Whether all the work is in `prepare`, and what it returns solves for any b."""
        return True

    @abc.abstractmethod
    def prepare(self, operator: Operator) -> Any:
        """What can be computed before the right-hand side is known (factors, a preconditioner)."""

    @abc.abstractmethod
    def apply(
        self, operator: Operator, prepared: Any, b: PyTree[Array], transpose: bool
    ) -> tuple[PyTree[Array], Array]:
        """x with A x ≈ b (or Aᵀ x ≈ b), and the number of iterations (0 for a direct solver)."""

    def product(self, operator: Operator, prepared: Any, transpose: bool) -> Callable:
        """x ↦ A x (or Aᵀ x), with which a solution is checked."""
        return (operator.transpose() if transpose else operator).mv

    def limit(self, precision: float) -> float | Array:
        """The largest accepted relative residual where `check` is None."""
        return precision**0.5

    def defect(
        self, operator: Operator, prepared: Any, error: PyTree[Array], transpose: bool
    ) -> PyTree[Array]:
        """What has to vanish for a solution with b − A x = `error`; it is checked relative to b."""
        return error

    def faults(self, operator: Operator, seed: int) -> tuple[str, ...]:
        """What this operator lacks for this solver, for `verify`; by default nothing is known of it."""
        return ()

    def attempt(
        self, operator: Operator, prepared: Any, b: PyTree[Array], *, transpose: bool = False
    ) -> tuple[PyTree[Array], Array, Array, Array]:
        """Solve A x = b (or Aᵀ x = b), free of scale, and measure.

        b is divided by s = max|b| first, so that no absolute tolerance inside a solver can mistake
        a small right-hand side for a solved one; x is multiplied by s at the end. The relative
        residual ρ = ‖b − A x‖₂/‖b‖₂ is then computed with one more product, and the solution accepted
        if ρ ≤ `check` (default: the square root of the precision; `inf` turns the check off).
        b = 0 gives x = 0, whatever A is.

        **Returns:** x as it was found, ρ, whether it is accepted, iterations.
        """
        s = _tree.max_abs(b)
        zero = s == 0
        unit = _tree.scaled(1 / jnp.where(zero, 1, s), b)
        x, iterations = self.apply(operator, prepared, unit, transpose)
        error = _tree.axpy(-1.0, self.product(operator, prepared, transpose)(x), unit)
        error = self.defect(operator, prepared, error, transpose)
        rho = jnp.where(zero, 0, _tree.norm(error) / jnp.where(zero, 1, _tree.norm(unit)))
        limit = self.limit(float(jnp.finfo(rho.dtype).eps)) if self.check is None else self.check
        x = _tree.where(zero, jax.tree.map(jnp.zeros_like, x), _tree.scaled(s, x))
        return x, rho, rho <= limit, iterations

    def solve(
        self, operator: Operator, prepared: Any, b: PyTree[Array], *, transpose: bool = False
    ) -> tuple[PyTree[Array], Array, Array]:
        """As `attempt`, but x is NaN unless it is accepted.

        **Returns:** x, whether the check held, iterations.
        """
        x, _, ok, iterations = self.attempt(operator, prepared, b, transpose=transpose)
        x = _tree.where(ok, x, jax.tree.map(lambda u: jnp.full_like(u, jnp.nan), x))
        return x, ok, iterations


def check_linear_solver(value: Any) -> None:
    """Raise `TypeError` unless `value` is a linear solver of this package, or None."""
    if value is not None and not isinstance(value, AbstractLinearSolver):
        raise TypeError(
            f"`linear_solver` is {value!r} of type {type(value).__name__}; expected a solver of "
            "jaxsci.linear, such as jaxsci.linear.GMRES(), or None for a choice by size."
        )
