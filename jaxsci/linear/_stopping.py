"""When an iteration stops, and how well it has to have done."""

import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, PyTree

from .. import _tree
from ._operator import Operator


def target(rtol: float | None, b: PyTree[Array]) -> Array:
    """The norm of a residual that is small enough for the right-hand side b."""
    dtype = jnp.result_type(*jtu.tree_leaves(b))
    return (30 * float(jnp.finfo(dtype).eps) if rtol is None else rtol) * _tree.norm(b)


def limit(rtol: float | None, precision: float) -> float | Array:
    """A tolerance that was asked for is accepted, with room for what recurrences lose."""
    return precision**0.5 if rtol is None else jnp.maximum(precision**0.5, 10 * rtol)


def steps(max_steps: int | None, operator: Operator) -> int:
    """Iterations at most."""
    return 10 * operator.size + 100 if max_steps is None else max_steps
