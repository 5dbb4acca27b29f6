"""When an iteration stops, and how well it has to have done."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, PyTree

from .. import _tree
from ._operator import Operator
from ._solver import AbstractLinearSolver


class AbstractIterativeSolver(AbstractLinearSolver):
    """Iterates until ‖b − A x‖₂ ≤ rtol ‖b‖₂; None: 30 times the precision."""

    rtol: eqx.AbstractVar[Any]

    @property
    def direct(self):
        return False

    def limit(self, precision):
        # A tolerance that was asked for is accepted, with room for what recurrences lose.
        return precision**0.5 if self.rtol is None else jnp.maximum(precision**0.5, 10 * self.rtol)


def target(rtol: float | None, b: PyTree[Array]) -> Array:
    """The norm of a residual that is small enough for the right-hand side b."""
    dtype = jnp.result_type(*jtu.tree_leaves(b))
    return (30 * float(jnp.finfo(dtype).eps) if rtol is None else rtol) * _tree.norm(b)


def steps(max_steps: int | None, operator: Operator) -> int:
    """Iterations at most."""
    return 10 * operator.size + 100 if max_steps is None else max_steps


def learned(solver: AbstractIterativeSolver, operator: Operator, b: PyTree[Array], iterate: Callable):
    """x (NaN unless it is accepted), whether it is, iterations, and the last of (x, iterations, rest) that
    `iterate` gives for a right-hand side with a largest entry of one: `solve` for what learns from it."""
    s = _tree.max_abs(b)
    unit = _tree.scaled(1 / jnp.where(s == 0, 1, s), b)
    x, k, rest = iterate(unit)
    error = _tree.axpy(-1.0, operator.mv(x), unit)
    rho = _tree.norm(error) / jnp.where(s == 0, 1, _tree.norm(unit))
    ok = rho <= (solver.limit(float(jnp.finfo(rho.dtype).eps)) if solver.check is None else solver.check)
    x = _tree.where(ok, _tree.scaled(s, x), jtu.tree_map(lambda u: jnp.full_like(u, jnp.nan), x))
    return x, ok, k, rest
