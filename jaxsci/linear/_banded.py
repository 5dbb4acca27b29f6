"""A band: its entries from products with the operator, and its direct solvers."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, Bool, Int, Num

from .. import _tree
from . import _elimination, _sweep
from ._dense import _reciprocal
from ._operator import Operator
from ._small import diagonal, lu_factor, lu_solve
from ._solver import AbstractLinearSolver
from ._verify import pattern_faults

NARROW = 8
"""Up to this lower + upper, chunks side by side are quicker on a CPU than blocks in a row."""

SELECTED = 8
"""Up to this number of products an entry is picked by comparisons: a gather takes four times as long."""


def products(operator: Operator, vectors: Num[Array, "k n"]) -> Num[Array, "k n"]:
    """A times each of the vectors."""
    vectors = _tree.vary_like(vectors, operator.like)
    return jax.vmap(lambda v: _tree.ravel(operator.mv(_tree.unravel(v, operator.like))))(vectors)


def dtype_of(operator: Operator):
    return jnp.result_type(*jtu.tree_leaves(operator.like))


def whole(name: str, value: Any, least: int = 0) -> None:
    """Raise `ValueError` unless the value is an int of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"`{name}` is {value!r}; expected an int ≥ {least}.")


def refined(back: Callable, mv: Callable, b: Array, steps: int) -> Array:
    """x = A⁻¹b by the factors, then steps of iterative refinement: x ← x + A⁻¹(b − A x)."""
    x = back(b)
    for _ in range(steps):
        x = x + back(b - mv(x))
    return x


def tiny(pivots: Num[Array, "..."], depth: int) -> Bool[Array, ""]:
    """Whether one of the pivots of a matrix with rows of size one is nothing but rounding.

    A pivot ends a chain of at most `depth` eliminations, each of which leaves an error of the precision;
    see `_dense._singular`.
    """
    noise = (16 + depth) * jnp.finfo(pivots.dtype).eps
    return ~(jnp.min(pivots, initial=jnp.inf) > noise * jnp.max(pivots, initial=0))


def raveled(operator: Operator, transpose: bool) -> Callable:
    """x ↦ A x (or Aᵀ x) on the raveled unknown."""
    mv = (operator.transpose() if transpose else operator).mv
    return lambda x: _tree.ravel(mv(_tree.unravel(x, operator.like)))


def _colors(n: int, width: int) -> tuple[Callable[[Array], Array], int]:
    """A color for each of n columns in a ring; two of one color are at least `width` apart.

    The ring is cut into ⌊n/width⌋ groups whose lengths differ by one at most; the place in the group is
    the color.
    """
    groups = max(n // width, 1)
    short, longer = divmod(n, groups)
    length = short + (longer > 0)
    cut = longer * length
    color = lambda j: jnp.where(j < cut, j % length, (j - cut) % short)
    return color, length


def band_of(
    operator: Operator, lower: int, upper: int, periodic: bool
) -> tuple[Num[Array, "w+1 n"], Int[Array, "w+1 n"]]:
    """bₖᵢ = A[i, i − lower + k], and those columns.

    Columns that are more than lower + upper apart have no row in common, so one product with their sum
    gives them all (Curtis, Powell & Reid 1974). Columns outside of the array (or around its corner, if
    it is not periodic) count as zero.
    """
    n, width = operator.size, lower + upper + 1
    color, count = _colors(n, width) if periodic else (lambda j: jax.lax.rem(j, jnp.int32(width)), width)
    rows = jnp.arange(n, dtype=jnp.int32)
    probes = color(rows) == jnp.arange(count, dtype=jnp.int32)[:, None]
    found = products(operator, probes.astype(dtype_of(operator)))
    columns = rows - lower + jnp.arange(width, dtype=jnp.int32)[:, None]
    inside = (columns >= 0) & (columns < n)
    columns = jnp.where(columns < 0, columns + n, jnp.where(columns < n, columns, columns - n))
    columns = jnp.clip(columns, 0, n - 1)
    colors = color(columns)
    if count <= SELECTED:
        band = jnp.zeros((width, n), found.dtype)
        for k in range(count):
            band = jnp.where(colors == k, found[k], band)
    else:
        band = jnp.take_along_axis(found, colors, axis=0)
    return (band if periodic else jnp.where(inside, band, 0)), columns


class Banded(AbstractLinearSolver):
    """Gaussian elimination in a band, aᵢⱼ = 0 unless −lower ≤ j − i ≤ upper, with partial pivoting.

    The entries come from lower + upper + 1 products with A; no n×n array is made. Memory and work are
    proportional to n. Aᵀ x = b is solved with the same factors.

    **Arguments:**

    - `lower`, `upper`: the numbers of diagonals below and above the main one.
    - `periodic`: whether the band goes on around the corners: j − i counts modulo n.
    - `chunks`: eliminate in this many chunks of rows at once, rounded down to a power of two, and join
      them in pairs, log₂ `chunks` times. None: a choice for CPUs (for a band of lower + upper ≤ 8, or a
      periodic one, about √n chunks; else blocks of rows one after the other; a tridiagonal matrix
      goes to `jax.lax.linalg.tridiagonal_solve`). On an accelerator take as many as there are,
      n // (2 (lower + upper)): then n hardly matters for the time.
    - `refinements`: steps of iterative refinement, one product and one application of the factors each.
    - `check`: see `jaxsci.linear.LU`.

    **Raises:** `ValueError` for a number that is no int, or a periodic band that meets itself.

    **Limits:** an entry outside of the band goes into the wrong place without a sound; the check of the
    residual then refuses the solution. `jaxsci.linear.verify` names the entry. The tridiagonal solver of
    TPUs does not pivot; `chunks` does.

    **Reference:** Wright, SIAM J. Sci. Comput. 15 (1994) 742 (the same on a chain of blocks).
    """

    lower: int = eqx.field(static=True)
    upper: int = eqx.field(static=True)
    periodic: bool = eqx.field(static=True, default=False)
    chunks: int | None = eqx.field(static=True, default=None)
    refinements: int = eqx.field(static=True, default=0)
    check: float | None = None

    def __check_init__(self):
        whole("lower", self.lower)
        whole("upper", self.upper)
        whole("refinements", self.refinements)
        if self.chunks is not None:
            whole("chunks", self.chunks, 1)

    @property
    def _width(self) -> int:
        return self.lower + self.upper

    def _parallel(self) -> bool:
        return self._width > 0 and (self.periodic or self.chunks is not None or self._width <= NARROW)

    def _tridiagonal(self) -> bool:
        return (self.lower, self.upper) == (1, 1) and not self.periodic and self.chunks is None

    def _cut(self, n: int) -> tuple[int, int, int]:
        """p chunks of m rows; the last ones, `short` in number, have m − 1."""
        if self.chunks is None:
            wanted = int(1.3 * n**0.5)
        else:
            wanted = self.chunks
        most = max(1, min(wanted, n // (self._width + 1)))
        p = 1 << (most.bit_length() - 1)
        m = -(-n // p)
        return p, m, p * m - n

    def prepare(self, operator: Operator):
        n = operator.size
        if self.periodic and n <= self._width:
            raise ValueError(
                f"`lower` + `upper` is {self._width} and A has {n} rows: a periodic band that meets itself. "
                "Use jaxsci.linear.LU()."
            )
        band, _ = band_of(operator, self.lower, self.upper, self.periodic)
        rows = _reciprocal(jnp.max(jnp.abs(band), axis=0))
        band = band * rows
        extra = max(self._width - n, 0)
        if extra:  # rows that say x = 0
            unit = jnp.zeros((len(band), extra), band.dtype).at[self.lower].set(1)
            band = jnp.concatenate([band, unit], axis=1)
        if self._tridiagonal():
            # There are no pivots to be seen: as in LINPACK, a solution with a generic right-hand side of
            # size one tells the condition. Rounding in n steps adds up like a random walk, about.
            probe = jnp.cos(jnp.arange(band.shape[1]) ** 2 % 7).astype(band.dtype)
            size = jnp.max(jnp.abs(self._solve((jnp.ones_like(rows), band), probe[:n])))
            singular = ~(size * (16 + n**0.5) * jnp.finfo(size.dtype).eps < 1)
            return jnp.where(singular, jnp.nan, rows), band
        factors, pivots, depth = self._chunked(band) if self._parallel() else self._swept(band)
        singular = tiny(pivots, depth)
        return jnp.where(singular, jnp.nan, rows), factors

    def _chunked(self, band):
        w = self._width
        p, m, short = self._cut(band.shape[1])
        cells = _split(band, p, m, short)
        start = jnp.moveaxis(cells[:, :w], 0, 1)
        # Row i of the first w begins at column i: rows of length 2w + 1, read as rows of length 2w.
        start = jnp.pad(start, ((0, 0), (0, w), (0, 0)))
        start = jnp.reshape(start, (w * (2 * w + 1), p))[: 2 * w * w].reshape(w, 2 * w, p)
        rest = jnp.moveaxis(cells[:, w:], 0, 1)
        chain, inside, first = _elimination.factor_chunks(start, rest, short)
        levels, last, sizes = _elimination.factor_pairs(chain)
        last = lu_factor(last)
        sizes = [jnp.ravel(s) for s in (first, sizes, jnp.abs(diagonal(last[0])))]
        return (inside, levels, last), jnp.concatenate(sizes), m + w * (p.bit_length() - 1)

    def _swept(self, band):
        k = max(8, self._width)
        width, n = band.shape
        steps = -(-n // k)
        unit = jnp.zeros((width, steps * k - n), band.dtype).at[self.lower].set(1)
        rows = jnp.concatenate([band, unit], axis=1).T.reshape(steps, k, width)
        # Row i of a block begins at column i.
        slabs = jnp.pad(rows, ((0, 0), (0, 0), (0, k))).reshape(steps, k * (k + width))
        slabs = slabs[:, : k * (k + width - 1)].reshape(steps, k, k + width - 1)
        factors, sizes = _sweep.factor(slabs, self.lower)
        return factors, jnp.concatenate([jnp.ravel(s) for s in sizes]), n

    def _solve(self, prepared, b: Num[Array, " n"]) -> Num[Array, " n"]:
        rows, factors = prepared
        n = len(b)
        b = jnp.pad(rows * b, (0, max(self._width - n, 0)))
        if self._tridiagonal():
            return jax.lax.linalg.tridiagonal_solve(*factors, b[:, None])[:n, 0]
        if not self._parallel():
            k = factors.backward.shape[1]
            b = jnp.pad(b, (0, -len(b) % k)).reshape(-1, k)
            return _sweep.solve(factors, b)[:n]
        p, m, short = self._cut(len(b))
        inside, levels, last = factors
        end = lambda r: lu_solve(*last, r, False)
        rest = lambda r: _elimination.solve_pairs(levels, end, r)
        x = _elimination.solve_chunks(inside, short, rest, _split(b, p, m, short), self._width)
        # A chunk's unknowns begin `lower` before its rows.
        return jnp.roll(_joined(x, short), -self.lower)[:n]

    def faults(self, operator, seed):
        band, columns = band_of(operator, self.lower, self.upper, self.periodic)
        n = operator.size

        def allowed(row, column):
            offset = (column - row + self.lower) % n if self.periodic else column - row + self.lower
            return (offset >= 0) & (offset <= self._width)

        ring = ", periodic" if self.periodic else ""
        pattern = f"the band of lower = {self.lower}, upper = {self.upper}{ring}"
        declared = lambda v: jnp.sum(band * v[columns], axis=0)
        return pattern_faults(operator, seed, declared, allowed, pattern)

    def apply(self, operator, prepared, b, transpose):
        v = _tree.vary_like(_tree.ravel(b), prepared)
        solve = lambda r: self._solve(prepared, r)
        # The elimination is a product of maps of b, and its transpose the product of their transposes.
        back = (lambda r: jax.vjp(solve, jnp.zeros_like(r))[1](r)[0]) if transpose else solve
        x = refined(back, raveled(operator, transpose), v, self.refinements)
        return _tree.unravel(x, b), jnp.array(0)


def _split(a: Num[Array, "... n"], p: int, m: int, short: int) -> Num[Array, "... m p"]:
    """Chunks of rows as the last axis; the last `short` have one row less, and a zero there."""
    cut = (p - short) * m
    longer = jnp.reshape(a[..., :cut], (*a.shape[:-1], p - short, m))
    if short:
        shorter = jnp.reshape(a[..., cut:], (*a.shape[:-1], short, m - 1))
        shorter = jnp.pad(shorter, [(0, 0)] * a.ndim + [(0, 1)])
        longer = jnp.concatenate([longer, shorter], axis=-2)
    return jnp.swapaxes(longer, -1, -2)


def _joined(cells: Num[Array, "m p"], short: int) -> Num[Array, " n"]:
    """The inverse of `_split`."""
    m, p = cells.shape
    cells = cells.T
    return jnp.concatenate([jnp.ravel(cells[: p - short]), jnp.ravel(cells[p - short :, : m - 1])])
