"""Blocks on the diagonal, and on the two beside it."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Num

from .. import _tree
from . import _elimination, _sweep
from ._banded import dtype_of, products, raveled, refined, tiny, whole
from ._dense import _reciprocal
from ._operator import Operator
from ._small import diagonal, lu_factor, lu_solve
from ._solver import AbstractLinearSolver
from ._verify import listed, pattern_faults


def blocks_of(operator: Operator, block: int, around: int) -> Num[Array, "N b (2*around+1)*b"]:
    """The block rows A[i, i − around … i + around], by (2 around + 1) b products; zeros outside."""
    n = operator.size
    if n % block:
        raise ValueError(
            f"`block` is {block} and A has {n} rows, no multiple of it. Order the unknowns by blocks, or "
            "use jaxsci.linear.Banded."
        )
    count, width = n // block, 2 * around + 1
    color, place = jnp.arange(n) // block % width, jnp.arange(n) % block
    chosen = (color == jnp.arange(width)[:, None, None]) & (place == jnp.arange(block)[:, None])
    found = products(operator, chosen.reshape(width * block, n).astype(dtype_of(operator)))
    # color, column in the block, block row, row in the block
    found = found.reshape(width, block, count, block)
    offsets = jnp.arange(count)[:, None] + jnp.arange(-around, around + 1)
    picked = found[offsets % width, :, jnp.arange(count)[:, None]]
    inside = (offsets >= 0) & (offsets < count)
    picked = jnp.where(inside[..., None, None], picked, 0)
    return jnp.moveaxis(picked, 3, 1).reshape(count, block, width * block)


def block_faults(operator: Operator, seed: int, block: int, around: int) -> tuple[str, ...]:
    """The entries outside of the blocks i − around … i + around."""
    slabs = blocks_of(operator, block, around)

    def declared(v):
        v = jnp.pad(v.reshape(-1, block), ((around, around), (0, 0)))
        parts = [v[o : o + len(slabs)] for o in range(2 * around + 1)]
        return jnp.ravel(jnp.einsum("ijk,ik->ij", slabs, jnp.concatenate(parts, axis=1)))

    allowed = lambda row, column: abs(column // block - row // block) <= around
    pattern = f"the blocks of {block} rows {'on' if around == 0 else 'next to'} the diagonal"
    return pattern_faults(operator, seed, declared, allowed, pattern)


class BlockDiagonal(AbstractLinearSolver):
    """Independent dense systems Aᵢ xᵢ = bᵢ of one size, factorised side by side.

    The entries come from `block` products with A. O(n block²) once, O(n block) a solve.

    **Arguments:**

    - `block`: unknowns in a block; the raveled unknown is ordered by blocks.
    - `refinements`, `check`: see `jaxsci.linear.LU`.

    **Raises:** `ValueError` if n is no multiple of `block`.

    **Limits:** one singular block makes the whole solution of `solve` NaN. `attempt` leaves the other
    blocks as they are, and `jaxsci.linear.verify` lists the singular ones.
    """

    block: int = eqx.field(static=True)
    refinements: int = eqx.field(static=True, default=0)
    check: float | None = None

    def __check_init__(self):
        whole("block", self.block, 1)
        whole("refinements", self.refinements)

    def prepare(self, operator: Operator):
        blocks = blocks_of(operator, self.block, 0)
        rows = _reciprocal(jnp.max(jnp.abs(blocks), axis=2))
        lu, order = jax.vmap(lu_factor)(rows[:, :, None] * blocks)
        singular = jax.vmap(lambda a: tiny(jnp.abs(diagonal(a)), self.block))(lu)
        return jnp.where(singular[:, None], jnp.nan, rows), lu, order

    def apply(self, operator, prepared, b, transpose):
        rows, lu, order = prepared

        def back(r):
            r = r.reshape(rows.shape)
            solve = lambda lu, order, r: lu_solve(lu, order, r, transpose)
            x = jax.vmap(solve)(lu, order, r if transpose else rows * r)
            return jnp.ravel(rows * x if transpose else x)

        x = refined(back, raveled(operator, transpose), _tree.ravel(b), self.refinements)
        return _tree.unravel(x, b), jnp.array(0)

    def faults(self, operator, seed):
        found = block_faults(operator, seed, self.block, 0)
        rows, _, _ = self.prepare(operator)
        singular = np.flatnonzero(np.isnan(rows[:, 0]))
        if len(singular) > 0:
            found += (f"Singular blocks: {listed(singular)}.",)
        return found


class BlockTridiagonal(AbstractLinearSolver):
    """Block Gaussian elimination where block row i of A touches only the blocks i − 1, i, i + 1.

    The entries come from 3 `block` products with A. Rows are exchanged within two neighboring block rows,
    so the diagonal blocks may be singular if A is not. O(n block²) once, O(n block) a solve.

    **Arguments:**

    - `block`: unknowns in a block; the raveled unknown is ordered by blocks.
    - `parallel`: False: one block after the other, quick on a CPU. True: block cyclic reduction, log₂ of
      the number of blocks steps with some ten times the work, for accelerators.
    - `refinements`, `check`: see `jaxsci.linear.LU`.

    **Raises:** `ValueError` if n is no multiple of `block`.

    **Limits:** a ring of blocks is `Bordered(BlockTridiagonal(block), border=block)`.
    """

    block: int = eqx.field(static=True)
    parallel: bool = eqx.field(static=True, default=False)
    refinements: int = eqx.field(static=True, default=0)
    check: float | None = None

    def __check_init__(self):
        whole("block", self.block, 1)
        whole("refinements", self.refinements)

    def _pairs(self, count: int) -> int:
        """Pairs of block rows: a power of two."""
        return 1 << max(0, -(-count // 2) - 1).bit_length()

    def prepare(self, operator: Operator):
        block = self.block
        slabs = blocks_of(operator, block, 1)
        rows = _reciprocal(jnp.max(jnp.abs(slabs), axis=2))
        slabs = rows[:, :, None] * slabs
        if self.parallel:
            p = self._pairs(len(slabs))
            # Rows that say x = 0 make the number of pairs a power of two.
            unit = jnp.eye(block, 3 * block, block, dtype=slabs.dtype)
            extra = jnp.broadcast_to(unit, (2 * p - len(slabs), *unit.shape))
            pairs = jnp.concatenate([slabs, extra]).reshape(p, 2, block, 3 * block)
            first = jnp.pad(pairs[:, 0], ((0, 0), (0, 0), (0, block)))
            second = jnp.pad(pairs[:, 1], ((0, 0), (0, 0), (block, 0)))
            chain = jnp.moveaxis(jnp.concatenate([first, second], axis=1), 0, -1)
            levels, last, sizes = _elimination.factor_pairs(chain)
            last = lu_factor(last)
            factors, sizes = (levels, last), [sizes, jnp.abs(diagonal(last[0]))]
            depth = 2 * block * p.bit_length()
        else:
            factors, sizes = _sweep.factor(slabs, block)
            depth = operator.size
        singular = tiny(jnp.concatenate([jnp.ravel(s) for s in sizes]), depth)
        return jnp.where(singular, jnp.nan, rows), factors

    def _solve(self, prepared, b: Num[Array, " n"]) -> Num[Array, " n"]:
        rows, factors = prepared
        n, r = len(b), rows * b.reshape(rows.shape)
        if not self.parallel:
            return _sweep.solve(factors, r)[:n]
        levels, last = factors
        r = jnp.pad(jnp.ravel(r), (0, 2 * self._pairs(len(rows)) * self.block - n))
        end = lambda r: lu_solve(*last, r, False)
        x = _elimination.solve_pairs(levels, end, r.reshape(-1, 2 * self.block).T)
        # The unknowns behind a pair are those of its second block row and of the next one's first.
        return jnp.roll(jnp.ravel(x.T), self.block)[:n]

    def apply(self, operator, prepared, b, transpose):
        v = _tree.vary_like(_tree.ravel(b), prepared)
        solve = lambda r: self._solve(prepared, r)
        # Not `linear_transpose`: jax 0.8 transposes a scan only where it has linearised it itself.
        back = (lambda r: jax.vjp(solve, jnp.zeros_like(r))[1](r)[0]) if transpose else solve
        x = refined(back, raveled(operator, transpose), v, self.refinements)
        return _tree.unravel(x, b), jnp.array(0)

    def faults(self, operator, seed):
        return block_faults(operator, seed, self.block, 1)
