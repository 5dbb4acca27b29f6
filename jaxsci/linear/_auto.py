"""What the Jacobian of a problem looks like, and the solver that this speaks for."""

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jaxtyping import PyTree

from .. import _tree
from ._banded import NARROW, Banded
from ._dense import LU, Cholesky
from ._gmres import GMRES
from ._incomplete import IncompleteLU
from ._krylov import CG
from ._operator import Operator
from ._pattern import Pattern, detect_pattern
from ._preconditioner import eigenvalue_bounds
from ._solver import AbstractLinearSolver
from ._sparse import Sparse

_SMALL = 64
_DENSE = 2048
_FACTORS = 3e7
"""Scalars that direct factors may have: 240 MB in float64."""
_QUICK = 1e5
"""n w up to which direct factors are preferred to a preconditioner that the residual has."""
_HALF_WIDTHS = (0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32)


@runtime_checkable
class _Residual(Protocol):
    @property
    def tags(self) -> frozenset: ...
    def optimality(self, y: Any, args: Any) -> Any: ...
    def preconditioner(self, y: Any, args: Any) -> Any: ...


@dataclasses.dataclass(frozen=True)
class StructureReport:
    """What `auto` has found at one y, and how. `str` of it is a table for people.

    **Fields:**

    - `size`: n, the number of unknowns.
    - `pattern`: the entries that may be nonzero, or None if they were not found; `pattern.exact` tells
      whether they hold for every y.
    - `blocks`: number of parts of the unknown that do not touch each other; None without a pattern.
    - `symmetric`, `positive`: whether the matrix is symmetric (if complex, Hermitian), and positive definite;
      None if it was not decided.
    - `solver`: the linear solver that was picked.
    - `reason`: one line that says why.
    - `checks`: field ↦ how it was found.
    """

    size: int
    pattern: Pattern | None
    blocks: int | None
    symmetric: bool | None
    positive: bool | None
    solver: AbstractLinearSolver
    reason: str
    checks: dict[str, str]

    @property
    def nnz(self) -> int | None:
        """Entries that may be nonzero."""
        return None if self.pattern is None else self.pattern.nnz

    @property
    def bandwidth(self) -> tuple[int, int] | None:
        """(lower, upper) in the order of the raveled unknown."""
        return None if self.pattern is None else self.pattern.bandwidth

    def __str__(self) -> str:
        figures = {
            "size": self.size,
            "pattern": "unknown"
            if self.pattern is None
            else f"{self.nnz} entries, bandwidth {self.bandwidth}",
            "blocks": "unknown" if self.blocks is None else self.blocks,
            "symmetric": "not decided" if self.symmetric is None else self.symmetric,
            "positive": "not decided" if self.positive is None else self.positive,
        }
        lines = [f"{k:<10} {v!s:<42} {self.checks.get(k, '')}".rstrip() for k, v in figures.items()]
        return "\n".join([*lines, f"{'solver':<10} {type(self.solver).__name__}: {self.reason}"])


def auto(residual: Any, y: PyTree, args: PyTree = None) -> StructureReport:
    """Look at A = ∂F/∂y at y, and pick a linear solver for Newton's method and the implicit rule.

    Runs on the host, on concrete arrays, once; costs some dozens of products, or n of them for n ≤ 2048.
    The pattern is read from the operations of F by asdex, if it is installed, and then holds for every y.
    Otherwise bands and stencils on the shape of y are tried, and each is verified by a product of A with a
    random vector: this, symmetry and definiteness are properties *at this y*, as the report says. Where they
    do not hold elsewhere, the check inside the solver gives NaN, never a wrong number.

    **Arguments:**

    - `residual`: a `jaxsci` residual; what it promises in its `tags` is believed, and reported as promised.
    - `y`: where to look: a point as general as those of the solve, not a symmetric special one.
    - `args`: passed to the residual.

    **Returns:** a `StructureReport`; its `solver` goes into `Newton(linear_solver=…)` and
    `ImplicitAdjoint(…)`.

    **Raises:** `TypeError` if `residual` is none.
    """
    if not isinstance(residual, _Residual):
        raise TypeError(
            f"`residual` is {residual!r} of type {type(residual).__name__}; expected a jaxsci residual, such "
            "as jaxsci.Root(fn)."
        )
    y = jtu.tree_map(jnp.asarray, y)
    fn = lambda y: _tree.shaped_like(y, residual.optimality(y, args))
    product = jax.jit(lambda v: jax.jvp(fn, (y,), (v,))[1])
    operator = Operator(product, y, None, residual.tags)
    checks: dict[str, str] = {}
    pattern, values = _pattern(fn, operator, checks)
    blocks = None if pattern is None else _components(pattern)
    symmetric = _symmetric(operator, pattern, values, checks)
    positive = _positive(operator, pattern, values, symmetric, checks)
    near = residual.preconditioner(y, args) is not None
    solver, reason = _choice(operator.size, pattern, bool(positive), near)
    return StructureReport(operator.size, pattern, blocks, symmetric, positive, solver, reason, checks)


def _components(pattern: Pattern) -> int:
    """How many systems the unknowns fall into that have nothing in common."""
    from scipy.sparse.csgraph import connected_components

    return int(connected_components(pattern.matrix, directed=False)[0])


def _pattern(fn, operator: Operator, checks) -> tuple[Pattern | None, np.ndarray | None]:
    """The pattern and the entries."""
    n, y = operator.size, operator.like
    try:
        pattern = detect_pattern(fn, y)
        checks["pattern"] = "for every y, from the operations of F (asdex)"
        return pattern, _entries(pattern, operator)
    except (ImportError, NotImplementedError) as error:
        why = "asdex is not installed" if isinstance(error, ImportError) else "asdex does not know F"
    vector = _random(operator, 0)
    product = _image(operator, vector)
    for candidate in _candidates(n, y):
        values = _entries(candidate, operator)
        import scipy.sparse as sp

        image = sp.csr_array((values, (candidate.rows, candidate.columns)), (n, n))
        if np.linalg.norm(image @ vector - product) <= _noise(n, vector) * np.linalg.norm(product):
            break
    else:
        if n > _DENSE:
            checks["pattern"] = f"no band or stencil ({why})"
            return None, None
        matrix = np.stack([_image(operator, e) for e in np.eye(n, dtype=vector.dtype)], 1)
        candidate = Pattern(np.nonzero(matrix), n)
        values = matrix[candidate.rows, candidate.columns]
    found = values != 0
    checks["pattern"] = f"at this y only ({why})"
    return Pattern((candidate.rows[found], candidate.columns[found]), n, exact=False), values[found]


def _candidates(n: int, y: PyTree) -> Iterator[Pattern]:
    """Bands, and boxes of neighbors on the shape of an unknown that is one array."""
    rows = np.arange(n)
    for w in _HALF_WIDTHS:
        if 4 * w < n:
            columns = rows + np.arange(-w, w + 1)[:, None]
            inside = (columns >= 0) & (columns < n)
            yield Pattern((np.broadcast_to(rows, columns.shape)[inside], columns[inside]), n)
    leaves = jtu.tree_leaves(y)
    if len(leaves) == 1 and leaves[0].ndim > 1:
        shape = leaves[0].shape
        places = np.stack(np.unravel_index(rows, shape))
        for radius in (1, 2):
            steps = itertools.product(range(-radius, radius + 1), repeat=len(shape))
            others = [places + np.asarray(s)[:, None] for s in steps]
            lengths = np.asarray(shape)[:, None]
            # Around the edges too, as of a periodic problem.
            yield Pattern(
                (
                    np.tile(rows, len(others)),
                    np.concatenate([np.ravel_multi_index(o % lengths, shape) for o in others]),
                ),
                n,
            )


def _image(operator: Operator, v: np.ndarray) -> np.ndarray:
    return np.asarray(_tree.ravel(operator.mv(_tree.unravel(jnp.asarray(v), operator.like))))


def _entries(pattern: Pattern, operator: Operator) -> np.ndarray:
    """As `Pattern.values`; product by product, for which the program is there already."""
    dtype = jnp.result_type(*jtu.tree_leaves(operator.like))
    count = int(pattern.colors.max()) + 1
    products = np.stack([_image(operator, (pattern.colors == c).astype(dtype)) for c in range(count)])
    return products[pattern.colors[pattern.columns], pattern.rows]


def _random(operator: Operator, seed: int) -> np.ndarray:
    dtype = jnp.result_type(*jtu.tree_leaves(operator.like))
    v = np.random.default_rng(seed).standard_normal((2, operator.size))
    return (v[0] + 1j * v[1] if jnp.issubdtype(dtype, jnp.complexfloating) else v[0]).astype(dtype)


def _noise(n: int, like: np.ndarray) -> float:
    return 100 * float(np.finfo(like.dtype).eps) * n**0.25


def _symmetric(operator: Operator, pattern, values, checks) -> bool | None:
    if operator.symmetric:
        checks["symmetric"] = "promised by the residual"
        return True
    if pattern is not None:
        import scipy.sparse as sp

        matrix = sp.csr_array((values, (pattern.rows, pattern.columns)), (operator.size,) * 2)
        gap = abs(matrix - matrix.conj().T).max() if pattern.nnz else 0
        checks["symmetric"] = "entries compared, at this y only"
        return bool(gap <= _noise(1, values) * np.abs(values).max(initial=0))
    u, v = _random(operator, 1), _random(operator, 2)
    au, av = _image(operator, u), _image(operator, v)
    gap = abs(np.vdot(u, av) - np.vdot(au, v))
    checks["symmetric"] = "⟨u, A v⟩ = ⟨A u, v⟩ for random u, v, at this y only"
    return bool(gap <= _noise(operator.size, u) * np.linalg.norm(u) * np.linalg.norm(av))


def _positive(operator: Operator, pattern, values, symmetric, checks) -> bool | None:
    if operator.positive:
        checks["positive"] = "promised by the residual"
        return True
    if not symmetric:
        checks["positive"] = "not symmetric"
        return False
    import scipy.sparse as sp
    from scipy.sparse.linalg import splu

    n = operator.size
    if n <= _DENSE:
        checks["positive"] = "Cholesky, at this y only"
        matrix = sp.csr_array((values, (pattern.rows, pattern.columns)), (n, n)).toarray()
        try:
            np.linalg.cholesky(matrix)
        except np.linalg.LinAlgError:
            return False
        return True
    if pattern is not None and _scalars(pattern) <= _FACTORS:
        checks["positive"] = "signs of the pivots of L D Lᵀ, at this y only"
        matrix = sp.csc_matrix((values, (pattern.rows, pattern.columns)), (n, n))
        try:
            factors = splu(matrix, "MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True})
        except RuntimeError:  # exactly singular
            return False
        if (factors.perm_r != factors.perm_c).any():
            return False  # a zero on the diagonal made it exchange rows
        return bool((factors.U.diagonal().real > 0).all())
    low, _ = eigenvalue_bounds(operator, 60)
    # A Ritz value below zero is a proof; one above zero is not.
    checks["positive"] = (
        "Lanczos, at this y only" if low <= 0 else "Lanczos found no eigenvalue ≤ 0: no proof"
    )
    return False if low <= 0 else None


def _scalars(pattern: Pattern) -> float:
    return 5.0 * pattern.size * Sparse(_given(pattern)).width


def _given(pattern: Pattern) -> Pattern:
    """The same, taken as it is: the check of the solver finds where it does not hold."""
    return pattern if pattern.exact else Pattern((pattern.rows, pattern.columns), pattern.size)


def _choice(n: int, pattern: Pattern | None, positive: bool, near: bool) -> tuple[AbstractLinearSolver, str]:
    dense = Cholesky() if positive else LU()
    kind = "positive definite" if positive else "not known to be positive definite"
    if n <= _SMALL:
        return dense, f"{n} unknowns, {kind}: a dense factorisation is quickest."
    krylov = CG if positive else GMRES
    if pattern is not None:
        caution = "" if pattern.exact else " (seen at this y; elsewhere, NaN if it does not hold)"
        lower, upper = pattern.bandwidth
        if lower + upper <= NARROW:
            return Banded(lower, upper), f"a band of {lower} below and {upper} above{caution}: direct."
        sparse = Sparse(_given(pattern))
        w = sparse.width
        if 4 * w <= n and n * w <= (_QUICK if near else _FACTORS / 5):
            return sparse, f"{pattern.nnz} entries in a band of half-width {w} when ordered{caution}: direct."
    if near:
        return krylov(), f"{n} unknowns, {kind}, and the residual has a preconditioner: matrix-free."
    if n <= _DENSE:
        return dense, f"{n} unknowns, {kind}, no narrow band: a dense factorisation."
    if pattern is not None:
        reason = f"{n} unknowns, {kind}, factors too large: incomplete ones, which multigrid may well beat."
        return krylov(preconditioner=IncompleteLU(_given(pattern))), reason
    return krylov(), f"{n} unknowns, {kind}, no structure found: matrix-free; give it a preconditioner."
