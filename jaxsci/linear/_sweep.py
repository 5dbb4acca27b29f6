"""Elimination along a band, a block of rows after the other, with partial pivoting.

A block has k rows and touches k + w unknowns, of which the first k are touched by no later one. They
are eliminated by an LU factorisation of its rows and the l that earlier blocks have left over. l ghost
unknowns before the first row, which are zero, start it. LAPACK does the work: good on CPUs for a wide band,
but one block waits for the other.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Num

from .. import _tree
from ._small import diagonal, lu_factor, lu_solve

_PRECISE = jax.lax.Precision.HIGHEST


class Sweep(NamedTuple):
    """The factors of T blocks."""

    forward: Num[Array, "T l+k l+k"]
    """From right-hand sides to A₁₁⁻¹ r₁ and what is left of the other rows."""
    backward: Num[Array, "T k w"]
    """A₁₁⁻¹ A₁₂."""
    last: tuple[Array, Array]
    """LU factors of the l rows that are left at the end."""


def _multiply(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, precision=_PRECISE)


def factor(slabs: Num[Array, "T k k+w"], l: int) -> tuple[Sweep, list[Array]]:
    """The factors, and the sizes of all pivots."""
    _, k, columns = slabs.shape
    w = columns - k
    identity = jnp.eye(l + k, dtype=slabs.dtype)
    solve = lambda a, b, lower: jax.lax.linalg.triangular_solve(
        a, b, left_side=True, lower=lower, unit_diagonal=lower
    )

    def step(rows, slab):
        # The whole window is factorised, and the rows that are left over with it: one call of LAPACK does
        # all that is to be done in a row.
        window = jnp.concatenate([jnp.pad(rows, ((0, 0), (0, k))), slab])
        lu, pivots, _ = jax.lax.linalg.lu(window)
        return jnp.triu(lu[k:, k:]), (lu, pivots)

    first = _tree.vary_like(jnp.eye(l, w, dtype=slabs.dtype), slabs)
    rest, (lu, pivots) = jax.lax.scan(step, first, slabs)
    order = jax.lax.linalg.lu_pivots_to_permutation(pivots, l + k)

    def inverses(lu, order):
        lowered = solve(lu[:, : l + k], identity[order], True)
        both = solve(lu[:k, :k], jnp.concatenate([lowered[:k], lu[:k, k:]], axis=1), False)
        return jnp.concatenate([both[:, : l + k], lowered[k:]]), both[:, l + k :]

    forward, backward = jax.vmap(inverses)(lu, order)
    last = lu_factor(rest[:, :l])
    sizes = [jnp.abs(jax.vmap(lambda a: diagonal(a[:k, :k]))(lu)), jnp.abs(diagonal(last[0]))]
    return Sweep(forward, backward, last), sizes


def solve(sweep: Sweep, b: Num[Array, "T k"]) -> Num[Array, " T*k"]:
    """x with A x = b."""
    _, k, w = sweep.backward.shape
    l = sweep.forward.shape[1] - k

    def down(rows, x):
        b, forward = x
        out = _multiply(forward, jnp.concatenate([rows, b]))
        return out[k:], out[:k]

    first = _tree.vary_like(jnp.zeros(l, b.dtype), b, sweep.forward)
    rows, values = jax.lax.scan(down, first, (b, sweep.forward))
    end = lu_solve(*sweep.last, rows, False) if l else rows

    def up(known, x):
        value, backward = x
        new = value - _multiply(backward, known)
        return jnp.concatenate([new, known])[:w], new

    first = _tree.vary_like(jnp.pad(end, (0, w - l)), values, sweep.backward)
    _, x = jax.lax.scan(up, first, (values, sweep.backward), reverse=True)
    return jnp.concatenate([jnp.ravel(x), end])[l:]
