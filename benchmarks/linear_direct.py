"""Structured direct solvers beside SciPy's banded solver and NumPy's batched one, in processor time.

A figure is the processor time of factors, solve and check together, over that of the peer on the same
numbers. The error beside it is the largest difference from the peer's solution in float64, relative to the
largest entry.
"""

from collections.abc import Callable, Iterator

import jax.numpy as jnp
import numpy as np
import scipy.linalg

from jaxsci.linear import Banded, BlockDiagonal, BlockTridiagonal, Operator

from ._harness import Row, measure, measure_host

X64 = True
TARGET = 2.0


def _row(name: str, solver, mv: Callable, entries, b, peer: Callable, exact: np.ndarray) -> Row:
    def ours(entries, b):
        operator = Operator(lambda x: mv(entries, x), b)
        return solver.solve(operator, solver.prepare(operator), b)[:2]

    ours, theirs = measure(ours, jnp.asarray(entries), jnp.asarray(b)), measure_host(peer)
    x, accepted = ours.result
    error = lambda x: float(np.max(np.abs(np.ravel(x) - exact)) / np.max(np.abs(exact)))
    detail = {"accepted": bool(accepted), "error": error(x), "error of the peer": error(theirs.result)}
    detail |= {"ours": ours.as_detail(), "peer": theirs.as_detail()}
    # A solution that is refused or wrong is no time.
    bound = 1e-8 if b.dtype == np.float64 else 1e-3
    figure = ours.cpu_s / theirs.cpu_s if detail["error"] < bound else float("nan")
    return Row(name, figure, "x", TARGET, detail=detail)


def _band(lower: int, upper: int, n: int):
    """Diagonals, one a row, the lowest first: entry i of row k is A[i, i − lower + k]."""
    rng = np.random.default_rng(0)
    band = rng.normal(size=(lower + upper + 1, n))
    band[lower] += lower + upper + 2
    columns = np.arange(n) - lower + np.arange(lower + upper + 1)[:, None]
    return np.where((columns >= 0) & (columns < n), band, 0), rng.normal(size=n)


def _lapack(band: np.ndarray, lower: int) -> np.ndarray:
    """The same in LAPACK's order: row `upper` + i − j, column j."""
    shifted = [np.roll(row, k - lower) for k, row in enumerate(band)]
    return np.stack(shifted[::-1])


def _multiply_band(lower: int) -> Callable:
    def mv(band, x):
        width, n = band.shape
        padded = jnp.pad(x, (lower, width - 1 - lower))
        return sum(band[k] * padded[k : k + n] for k in range(width))

    return mv


def _multiply_chain(slabs, x):
    y = jnp.pad(x.reshape(len(slabs), -1), ((1, 1), (0, 0)))
    return jnp.einsum("ijk,ik->ij", slabs, jnp.concatenate([y[:-2], y[1:-1], y[2:]], axis=1)).ravel()


def _multiply_blocks(blocks, x):
    return jnp.einsum("ijk,ik->ij", blocks, x.reshape(len(blocks), -1)).ravel()


def _chain(block: int, count: int):
    rng = np.random.default_rng(1)
    slabs = rng.normal(size=(count, block, 3 * block))
    slabs[:, :, block : 2 * block] += 4 * block * np.eye(block)
    slabs[0, :, :block] = slabs[-1, :, 2 * block :] = 0
    return slabs, rng.normal(size=count * block)


def _chain_as_band(slabs: np.ndarray) -> np.ndarray:
    count, block, _ = slabs.shape
    band = np.zeros((4 * block - 1, count, block))
    for i in range(block):
        band[block - 1 - i : 4 * block - 1 - i, :, i] = slabs[:, i].T
    return band.reshape(4 * block - 1, count * block)


def run(quick: bool) -> Iterator[Row]:
    for dtype in (np.float64, np.float32):
        precision = np.dtype(dtype).name
        for n in (1000,) if quick else (10_000, 100_000):
            for half in (1, 2) if quick else (1, 2, 4, 8):
                band, b = _band(half, half, n)
                full = _lapack(band, half)
                solve = lambda a, b, half=half: scipy.linalg.solve_banded((half, half), a, b)
                exact, a, v = solve(full, b), full.astype(dtype), b.astype(dtype)
                name = f"Banded({half}, {half}), n = {n}, {precision}"
                peer = lambda solve=solve, a=a, v=v: solve(a, v)
                yield _row(name, Banded(half, half), _multiply_band(half), band.astype(dtype), v, peer, exact)
            for block in (4,) if quick else (4, 16):
                slabs, b = _chain(block, n // block)
                reach = 2 * block - 1
                full = _lapack(_chain_as_band(slabs), reach)
                solve = lambda a, b, reach=reach: scipy.linalg.solve_banded((reach, reach), a, b)
                exact, a, v = solve(full, b), full.astype(dtype), b.astype(dtype)
                peer = lambda solve=solve, a=a, v=v: solve(a, v)
                name = f"BlockTridiagonal({block}), n = {n}, {precision}"
                yield _row(
                    name, BlockTridiagonal(block), _multiply_chain, slabs.astype(dtype), v, peer, exact
                )

                blocks = slabs[:, :, block : 2 * block]
                shape = (n // block, block, 1)
                exact = np.linalg.solve(blocks, b.reshape(shape)).ravel()
                a, v = blocks.astype(dtype), b.astype(dtype)
                peer = lambda a=a, v=v, shape=shape: np.linalg.solve(a, v.reshape(shape))
                name = f"BlockDiagonal({block}), n = {n}, {precision}"
                yield _row(name, BlockDiagonal(block), _multiply_blocks, a, v, peer, exact)
