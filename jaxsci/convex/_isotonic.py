"""Nondecreasing sequences."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from .. import _tree
from ._base import AbstractSet, floating, held, only


class Isotonic(AbstractSet):
    """{x : x₁ ≤ x₂ ≤ … ≤ xₙ}, all scalars of v in the order of its leaves: isotonic regression.

    P(v) is constant, the mean of v, on blocks that are found by pooling adjacent violators: O(n), in at
    most 2n sequential steps. For nonincreasing sequences: −P(−v).

    **Limits:** a kink where neighboring blocks have the same mean; they count as apart.

    **Reference:** Best, Chakravarti, Active set algorithms for isotonic regression, Mathematical
    Programming 47, 1990.
    """

    def __call__(self, v: PyTree[Array], args: PyTree[Any] = None) -> PyTree[Array]:
        v = floating(v)
        x = _tree.ravel(v)
        if x.size < 2:
            return v
        blocks = _pool(held(x))
        count = jax.ops.segment_sum(jnp.ones_like(x), blocks, x.size)
        mean = jax.ops.segment_sum(x, blocks, x.size) / jnp.maximum(count, 1)
        return _tree.unravel(only(held(jnp.all(jnp.isfinite(x))), mean[blocks]), v)


def _pool(v: Float[Array, " n"]) -> Int[Array, " n"]:
    """The number of the block of each entry."""
    n = v.size

    def step(carry):
        i, top, means, counts = carry
        # Blocks 0 … top are a stack; the two on top are merged if out of order, else the next comes.
        below = jnp.maximum(top - 1, 0)
        merge = (top > 0) & (means[below] > means[top])
        both = counts[below] + counts[top]
        share = counts[top] / both
        place = jnp.where(merge, below, top + 1)
        mean = jnp.where(merge, means[below] + share * (means[top] - means[below]), v[jnp.minimum(i, n - 1)])
        means = means.at[place].set(mean, mode="drop")
        counts = counts.at[place].set(jnp.where(merge, both, 1), mode="drop")
        return i + ~merge, place, means, counts

    def unfinished(carry):
        i, top, means, _ = carry
        return (i < n) | ((top > 0) & (means[jnp.maximum(top - 1, 0)] > means[top]))

    first = (jnp.array(1), jnp.array(0), jnp.full_like(v, v[0]), jnp.ones_like(v))
    _, top, _, counts = _tree.while_loop(unfinished, step, first)
    ends = jnp.cumsum(jnp.where(jnp.arange(n) <= top, counts, 0).astype(int))
    return jnp.searchsorted(ends, jnp.arange(n), side="right")
