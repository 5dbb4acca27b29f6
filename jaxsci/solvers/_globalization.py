"""What the members of Newton's family share: how long a step is, and how far along it to go."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, PyTree

from .. import _tree
from .._solution import RESULTS


class Progress(eqx.Module):
    """What decides whether to go on.

    - `f`: F at the current point; `size`: ‖F‖₂ there.
    - `relative_step`: ‖step‖ / (atol + rtol ‖y‖); infinite where the step tells nothing of the error.
    - `stalled`: no point along the step is better.
    - `singular`: the linear system gave no direction.
    - `linear_iterations`: over all steps.
    """

    f: PyTree[Array]
    size: Array
    relative_step: Array
    stalled: Bool[Array, ""]
    singular: Bool[Array, ""]
    linear_iterations: Array

    @property
    def status(self) -> tuple[Bool[Array, ""], RESULTS]:
        """Whether to stop, and with which result."""
        converged = (self.relative_step <= 1) | (self.size == 0)
        finite = jnp.isfinite(self.size)
        reason = RESULTS.where(finite, RESULTS.stagnated, RESULTS.nonfinite)
        reason = RESULTS.where(self.singular, RESULTS.singular_system, reason)
        done = converged | self.stalled | self.singular | ~finite
        return done, RESULTS.where(converged, RESULTS.successful, reason)


def start(residual: Callable, y: PyTree[Array]) -> Progress:
    """Before the first step."""
    f = residual(y)
    size, no = _tree.norm(f), jnp.array(False)
    return Progress(f, size, jnp.full_like(size, jnp.inf), no, no, jnp.array(0))


def relative_length(step: PyTree[Array], y: PyTree[Array], rtol: Any, atol: Any) -> Array:
    """‖step‖ / (atol + rtol ‖y‖), as root-mean-squares."""
    count = _tree.size(y) ** 0.5
    return _tree.norm(step) / count / (atol + rtol * _tree.norm(y) / count)


def backtrack(
    residual: Callable, y: PyTree[Array], direction: PyTree[Array], size: Array, slope: Any, accept: Any,
    halvings: int,
) -> tuple[Array, PyTree[Array], Array, Array]:  # fmt: skip
    """t = 1, ½, ¼, … until ‖F(y + t d)‖ ≤ (1 − 10⁻⁴ t · slope) ‖F(y)‖.

    If ‖F + J d‖ ≤ η ‖F‖, then ‖F(y + t d)‖ ≤ (1 − t (1 − η)) ‖F‖ + O(t²): a `slope` of 1 − η is possible.

    **Returns:** t, F and ‖F‖ there, and whether this is progress. A full step is taken as it is where
    `accept` holds: near the solution rounding hides the descent.
    """

    def at(t):
        new = residual(_tree.axpy(t, direction, y))
        return t, new, _tree.norm(new)

    shortest = 0.5**halvings

    def too_long(carry):
        t, _, reached = carry
        enough = (reached <= (1 - 1e-4 * t * slope) * size) | (accept & (t == 1))
        return (t > shortest) & ~enough

    first = at(jnp.ones((), size.dtype))
    if halvings > 0:
        first = _tree.while_loop(too_long, lambda carry: at(carry[0] / 2), first)
    t, new, reached = first
    return t, new, reached, (reached < size) | (accept & (t == 1))
