"""Which entries of a matrix may be nonzero, and what follows from that before any value is known."""

import functools
import hashlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jaxtyping import Array, Int, PyTree, Shaped

from .. import _tree
from ._operator import Operator


class Pattern:
    """The entries (i, j) of an n×n matrix that may be nonzero. Made on the host, once; hashable, so that
    it is a static part of whatever holds it, and its orders and colors are computed once.

    **Arguments:**

    - `entries`: a SciPy sparse matrix or a `BCOO` (its stored entries), a boolean n×n array, or a pair of
      integer arrays (rows, columns).
    - `size`: n; None: the size of the matrix, or one more than the largest index of a pair.
    - `exact`: whether the pattern holds wherever the matrix is evaluated; False for one that was found from
      numbers at one point.

    **Raises:** `TypeError` or `ValueError` for entries of another kind, outside the matrix, or traced.
    """

    size: int
    exact: bool
    rows: Int[np.ndarray, " nnz"]
    columns: Int[np.ndarray, " nnz"]

    def __init__(self, entries: Any, size: int | None = None, *, exact: bool = True):
        rows, columns, shape = _coordinates(entries, size)
        inside = (rows >= 0) & (columns >= 0) & (rows < shape[0]) & (columns < shape[1])
        if shape[0] != shape[1] or shape[0] < 1 or not inside.all():
            raise ValueError(
                f"`entries` describe a matrix of shape {shape}, with {int((~inside).sum())} entries outside "
                "of it; expected a square matrix with all indices in 0 … n − 1. Give `size`, if it is larger."
            )
        self.size, self.exact = int(shape[0]), exact
        keys = np.unique(rows.astype(np.int64) * self.size + columns)
        self.rows, self.columns = keys // self.size, keys % self.size
        self._digest = hashlib.sha256(keys.tobytes() + bytes(str((self.size, exact)), "ascii")).digest()

    def __hash__(self) -> int:
        return hash(self._digest)

    def __eq__(self, other: Any) -> bool:
        return isinstance(other, Pattern) and self._digest == other._digest

    def __repr__(self) -> str:
        kind = "" if self.exact else ", seen at one point"
        return f"Pattern({self.size}×{self.size}, {self.nnz} entries{kind})"

    def require_exact(self) -> None:
        """Raise `ValueError` if it was found from numbers at one point."""
        if not self.exact:
            raise ValueError(
                f"`pattern` is {self}, found from numbers at one point: elsewhere other entries may "
                "be nonzero. If you know that it holds, say so: Pattern((rows, columns), size); or use "
                "jaxsci.linear.detect_pattern."
            )

    @property
    def nnz(self) -> int:
        """The number of entries."""
        return self.rows.size

    @functools.cached_property
    def matrix(self) -> Any:
        """Ones at the entries."""
        import scipy.sparse as sp

        return sp.csr_array((np.ones(self.nnz, np.int8), (self.rows, self.columns)), (self.size,) * 2)

    @property
    def bandwidth(self) -> tuple[int, int]:
        """(lower, upper): the largest i − j and j − i of an entry, at least 0."""
        offset = self.rows - self.columns
        return int(max(offset.max(initial=0), 0)), int(max(-offset.min(initial=0), 0))

    @property
    def symmetric(self) -> bool:
        """Whether (j, i) is an entry for each entry (i, j)."""
        return (self.matrix - self.matrix.T).count_nonzero() == 0

    @functools.cached_property
    def order(self) -> Int[np.ndarray, " n"]:
        """Reverse Cuthill–McKee: an order of the unknowns in which the entries stay near the diagonal; the
        given one if that is no worse."""
        import scipy.sparse as sp
        from scipy.sparse.csgraph import reverse_cuthill_mckee

        symmetric = sp.csr_matrix(self.matrix + self.matrix.T)
        order = np.asarray(reverse_cuthill_mckee(symmetric, symmetric_mode=True), np.int64)
        place = np.argsort(order)
        ordered = np.abs(place[self.rows] - place[self.columns]).max(initial=0)
        return order if ordered < max(self.bandwidth) else np.arange(self.size)

    @functools.cached_property
    def colors(self) -> Int[np.ndarray, " n"]:
        """A color for each column; columns of one color have no entry in a common row, so that one product
        with their sum gives all of them (Curtis, Powell & Reid 1974). Greedy, in the given order."""
        import scipy.sparse as sp

        columns = sp.csc_array(self.matrix)
        starts, rows = columns.indptr.tolist(), columns.indices.tolist()
        used = [0] * self.size  # per row, the bits of the colors that are taken
        colors = np.zeros(self.size, np.int64)
        for j in range(self.size):
            here = rows[starts[j] : starts[j + 1]]
            taken = 0
            for i in here:
                taken |= used[i]
            bit = ~taken & (taken + 1)
            colors[j] = bit.bit_length() - 1
            for i in here:
                used[i] |= bit
        return colors

    def values(self, operator: Operator) -> Shaped[Array, " nnz"]:
        """The entries of the operator, by one product for each color (or from its array)."""
        if operator.size != self.size:
            raise ValueError(
                f"The pattern is of a matrix of size {self.size}, and the operator has {operator.size} "
                "unknowns; expected as many."
            )
        if operator.dense is not None:
            return operator.matrix()[self.rows, self.columns]
        dtype = jnp.result_type(*jtu.tree_leaves(operator.like))
        count = int(self.colors.max()) + 1
        probes = jnp.asarray(self.colors == np.arange(count)[:, None], dtype)
        probes = _tree.vary_like(probes, operator.like)
        product = lambda v: _tree.ravel(operator.mv(_tree.unravel(v, operator.like)))
        products = jax.vmap(product)(probes)
        return products.ravel()[jnp.asarray(self.colors[self.columns] * self.size + self.rows)]


def _coordinates(entries: Any, size: int | None) -> tuple[np.ndarray, np.ndarray, tuple[int, ...]]:
    """Rows, columns and shape of what a user gives."""
    import scipy.sparse as sp
    from jax.experimental.sparse import BCOO

    if sp.issparse(entries):
        found = entries.tocoo()
        return found.row, found.col, found.shape
    if isinstance(entries, BCOO):
        rows, columns = np.asarray(entries.indices).T
        padding = (rows >= entries.shape[0]) | (columns >= entries.shape[1])
        return rows[~padding], columns[~padding], entries.shape
    if isinstance(entries, tuple | list) and len(entries) == 2:
        rows, columns = (np.asarray(x) for x in entries)
        if rows.ndim == columns.ndim == 1 and rows.shape == columns.shape and rows.dtype.kind in "iu":
            n = max(rows.max(initial=-1), columns.max(initial=-1)) + 1 if size is None else size
            return rows, columns, (int(n), int(n))
    if isinstance(entries, np.ndarray | jax.Array) and entries.ndim == 2 and entries.dtype == bool:
        return *np.nonzero(np.asarray(entries)), entries.shape
    raise TypeError(
        f"`entries` is of type {type(entries).__name__}; expected a SciPy sparse matrix, a BCOO, a boolean "
        "n×n array, or a pair of integer arrays (rows, columns) of one length."
    )


def detect_pattern(fn: Callable, y: PyTree[Array]) -> Pattern:
    """The pattern of ∂fn/∂y, read from the operations of fn by asdex: it holds for every y.

    **Arguments:**

    - `fn`: y ↦ F(y), with as many scalars as y.
    - `y`: any pytree of arrays of the right shapes; its values do not matter.

    **Returns:** a `Pattern`. Entries that are there but always zero may be among them.

    **Raises:** `ImportError` where asdex cannot be imported: give the pattern yourself then, to
    `Pattern`. One that is found from numbers at one y may miss entries that are zero there.

    **Limits:** what asdex knows; a Fourier transform, say, makes everything depend on everything.
    """
    try:
        import asdex
    except ImportError as error:
        raise ImportError(
            f"The pattern of a Jacobian is detected by asdex, which cannot be imported ({error}). Install it "
            "(`pip install asdex`; it supports jax 0.9 and 0.10), or give the pattern: "
            "jaxsci.linear.Pattern((rows, columns))."
        ) from error
    flat = lambda v: _tree.ravel(fn(_tree.unravel(v, y)))
    vector = jnp.zeros(_tree.size(y), jnp.result_type(*jtu.tree_leaves(y)))
    found = asdex.jacobian_sparsity(flat, vector)
    rows, columns = np.asarray(found.rows), np.asarray(found.cols)
    import scipy.sparse as sp

    return Pattern(sp.coo_array((np.ones(rows.size, bool), (rows, columns)), found.shape))
