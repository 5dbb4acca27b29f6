"""Elimination in many chunks of rows at once, with partial pivoting.

A band of w = lower + upper is a chain: the w rows from row kw on touch only the w unknowns before and the
w unknowns behind a cut, `[Cₖ Dₖ] (sₖ₋₁, sₖ) = rₖ`. A chunk of any number of rows can be brought to that
form by elimination of the unknowns that no other chunk touches, and two neighbors again to one, until one is
left: (C + D) s = r. The chain may be closed to a ring (a periodic band), at no cost. (Wright 1994, SIAM J.
Sci. Comput. 15, treats the two-point boundary value problem so.)

All rows that hold an unknown stand together when it is eliminated, so that pivoting is as safe as that of
the sequential band solver, and no chunk has to be regular on its own. Chunks are the last axis of every
array: elimination is elementwise along it, and is compiled to vector instructions.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Num

from .. import _tree


class Step(NamedTuple):
    """Elimination of one unknown in r + 1 rows of c chunks."""

    pivot: Int[Array, " c"]
    """Which row is the pivot's; r: the new one."""
    multipliers: Num[Array, "r c"]
    row: Num[Array, "k c"]
    """The pivot's row over the other unknowns, divided by the pivot."""
    inverse: Num[Array, " c"]
    """1/pivot."""


UNROLLED = 8
"""Up to this number of rows one is chosen by comparisons that are written out: half of the time."""


def _chosen(pivot: Int[Array, " c"], rows: Num[Array, "r ... c"], new: Array) -> tuple[Array, Array]:
    """The pivot's row; and the others, among which the new one takes its place."""
    number = jnp.arange(len(rows), dtype=pivot.dtype).reshape(-1, *[1] * (rows.ndim - 1))
    taken = pivot == number
    if len(rows) <= UNROLLED:
        chosen = new
        for i in range(len(rows)):
            chosen = jnp.where(pivot == i, rows[i], chosen)
    else:
        chosen = jnp.sum(jnp.where(taken, rows, 0), axis=0) + jnp.where(pivot == len(rows), new, 0)
    return chosen, jnp.where(taken, new, rows)


def _eliminate(
    rows: Num[Array, "r k c"], new: Num[Array, "k c"], further: Num[Array, " c"], at: int
) -> tuple[Num[Array, "r k c"], Step, Num[Array, " c"]]:
    """The rows that are left without unknown `at`, how, and the size of the pivot.

    One more unknown, of which only the new row has an entry (`further`), becomes the last.
    """
    size = jnp.abs(rows[:, at])
    largest = jnp.max(size, axis=0, initial=0)
    number = jnp.arange(len(rows), dtype=jnp.int32).reshape(-1, 1)
    first = jnp.min(jnp.where(size == largest, number, len(rows)), axis=0, initial=len(rows))
    pivot = jnp.where(jnp.abs(new[at]) > largest, len(rows), first)
    chosen, rest = _chosen(pivot, rows, new)
    entry, entries = _chosen(pivot, jnp.zeros_like(rows[:, 0]), further)
    value, multipliers = chosen[at], rest[:, at]
    inverse = 1 / jnp.where(value == 0, 1, value)
    left = rest - multipliers[:, None] * (chosen * inverse)
    last = entries - multipliers * (entry * inverse)
    left = jnp.concatenate([left[:, :at], left[:, at + 1 :], last[:, None]], axis=1)
    row = jnp.concatenate([chosen[:at], chosen[at + 1 :], entry[None]]) * inverse
    return left, Step(pivot, multipliers, row, inverse), jnp.abs(value)


def _forward(step: Step, rows: Num[Array, "r c"], new: Num[Array, " c"]) -> tuple[Array, Array]:
    """The right-hand side of the rows that are left, and that of the pivot's, divided by the pivot."""
    chosen, rest = _chosen(step.pivot, rows, new)
    value = chosen * step.inverse
    return rest - step.multipliers * value, value


def _backward(step: Step, value: Num[Array, " c"], known: Num[Array, "k c"]) -> Num[Array, " c"]:
    return value - jnp.sum(step.row * known, axis=0)


# What is linear comes first in `xs`: otherwise `scan` cannot be transposed.
def _scan(body: Callable, first: Array, xs, reverse: bool = False):
    return jax.lax.scan(body, _tree.vary_like(first, xs), xs, reverse=reverse)


def _active(m: int, w: int, short: int, p: int) -> Bool[Array, "m-w p"]:
    """False in the last step of the last `short` chunks, which have one row less."""
    last = (jnp.arange(w, m) == m - 1)[:, None]
    return ~(last & (jnp.arange(p) >= p - short))


def factor_chunks(
    start: Num[Array, "w 2w p"], rest: Num[Array, "m-w w+1 p"], short: int
) -> tuple[Num[Array, "w 2w p"], Step, Array]:
    """Brings every chunk to w rows [C D].

    **Arguments:** `start`: its first w rows, over the 2w unknowns that they touch; `rest`: the others, each
    over w + 1 unknowns; `short`: how many chunks, the last ones, lack their last row.
    """
    w, _, p = start.shape

    def step(rows, x):
        band, active = x
        new = jnp.concatenate([jnp.zeros_like(rows[0, :w]), band[:-1]])
        left, how, size = _eliminate(rows, new, band[-1], w)
        if short:
            left, size = jnp.where(active, left, rows), jnp.where(active, size, 1)
        return left, (how, size)

    rows, (how, sizes) = _scan(step, start, (rest, _active(len(rest) + w, w, short, p)))
    return rows, how, sizes


def solve_chunks(
    how: Step, short: int, solve_rest: Callable, b: Num[Array, "m p"], w: int
) -> Num[Array, "m p"]:
    """The unknowns of every chunk, which begin with those before its first cut.

    `solve_rest` solves the chain of the w rows that are left of each.
    """
    m, p = b.shape
    active = _active(m, w, short, p)

    def down(r, x):
        new, how, active = x
        rest, value = _forward(how, r, new)
        return (jnp.where(active, rest, r) if short else rest), value

    r, values = _scan(down, b[:w], (b[w:], how, active))
    behind = solve_rest(r)
    before = jnp.roll(behind, 1, axis=1)

    def up(after, x):
        value, how, active = x
        new = _backward(how, value, jnp.concatenate([before, after]))
        known = jnp.concatenate([new[None], after[:-1]])
        return (jnp.where(active, known, after) if short else known), new

    _, inside = _scan(up, behind, (values, how, active), reverse=True)
    return jnp.concatenate([before, inside])


# --- joining neighbors ------------------------------------------------------------------------------
# log₂ p times, each time with p/2 pairs of which the first are real and the others zero, so that one
# program serves all. In a pair the unknowns are ordered: left, right, between the two.


def _halves(a: Num[Array, "... p"]) -> tuple[Array, Array]:
    return a[..., ::2], a[..., 1::2]


def _doubled(a: Num[Array, "... p/2"]) -> Num[Array, "... p"]:
    return jnp.concatenate([a, jnp.zeros_like(a)], axis=-1)


def factor_pairs(chain: Num[Array, "w 2w p"]) -> tuple[Step | None, Num[Array, "w w"], Array]:
    """Joins neighbors until one chunk is left; p is a power of two. Returns its matrix C + D, too."""
    w, _, p = chain.shape
    count = p.bit_length() - 1

    def join(chain, pairs):
        (c, e), (d, f) = _halves(chain[:, :w]), _halves(chain[:, w:])
        none = jnp.zeros_like(c)
        window = jnp.concatenate([jnp.concatenate([c, none, d], 1), jnp.concatenate([none, f, e], 1)])
        real = jnp.arange(p // 2) < pairs

        def step(rows, _):
            others = jnp.concatenate([rows[:w], rows[w + 1 :]])
            left, how, size = _eliminate(others, rows[w], jnp.zeros_like(rows[0, 0]), 2 * w)
            return jnp.concatenate([left, jnp.zeros_like(left[:1])]), (how, jnp.where(real, size, 1))

        rows, out = jax.lax.scan(step, window, None, w)
        return _doubled(rows[:w, : 2 * w]), out

    how, sizes = None, jnp.ones(0, jnp.abs(chain).dtype)
    if count > 0:
        chain, (how, sizes) = _scan(join, chain, 2 ** jnp.arange(count - 1, -1, -1))
    return how, chain[:, :w, 0] + chain[:, w:, 0], sizes


def solve_pairs(how: Step | None, last: Callable, r: Num[Array, "w p"]) -> Num[Array, "w p"]:
    """The unknowns s behind every chunk; `last` solves (C + D) s = r of the one that is left."""
    w, p = r.shape
    if how is None:
        return last(r[:, 0])[:, None]

    def split(r, how):
        def down(r, how):
            rest, value = _forward(how, jnp.concatenate([r[:w], r[w + 1 :]]), r[w])
            return jnp.concatenate([rest, jnp.zeros_like(rest[:1])]), value

        r, values = _scan(down, jnp.concatenate(_halves(r)), how)
        return _doubled(r[:w]), values

    r, values = _scan(split, r, how)
    s = jnp.pad(last(r[:, 0])[:, None], ((0, 0), (0, p - 1)))
    pairs = 2 ** jnp.arange(p.bit_length() - 2, -1, -1)

    def fill(s, x):
        values, how, pairs = x
        right = s[:, : p // 2]
        end = jnp.sum(jnp.where(jnp.arange(p // 2) == pairs - 1, right, 0), axis=1)
        fixed = jnp.concatenate([jnp.roll(right, 1, axis=1).at[:, 0].set(end), right])

        def up(between, x):
            value, how = x
            new = _backward(how, value, jnp.concatenate([fixed, between]))
            return jnp.concatenate([new[None], between[:-1]]), None

        between, _ = _scan(up, jnp.zeros_like(right), (values, how), reverse=True)
        return jnp.reshape(jnp.stack([between, right], axis=2), (w, p)), None

    s, _ = _scan(fill, s, (values, how, pairs), reverse=True)
    return s
