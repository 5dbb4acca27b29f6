"""GMRES that carries what it has learned of the operator from one system to the next."""

import functools
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.scipy.linalg as jsl
import jax.tree_util as jtu
from jaxtyping import Array, PyTree

from .. import _tree
from . import _stopping
from ._gmres import Arnoldi, arnoldi, restarted
from ._operator import Operator
from ._preconditioner import AbstractPreconditioner, preconditioner, prepare

_times = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


class RecycledGMRES(_stopping.AbstractIterativeSolver):
    """Restarted GMRES with k directions U that stay from cycle to cycle and from system to system, for a
    general square A (GCRO-DR: Parks, de Sturler, Mackey, Johnson, Maiti 2006).

    With B = L A M and C = B U orthonormal, a cycle minimises ‖L b − B v‖₂, x = M v, over U and a Krylov space
    of (I − C Cᴴ) B. After each cycle U is what B⁻¹ makes longest, among C and the images of the cycle's
    basis: the approximate singular vectors of the smallest singular values, so that only `eigh` and `qr` are
    needed, and U stays real where A is. `recycle` solves and returns a solver with that U, for the next of
    a sequence of systems. It is a pytree that is carried through `jax.lax.scan`; U changes the number of
    iterations and not the solution, and has no derivative. Aᵀ x = b is solved with C̄ in the place of U,
    and with L and M in each other's.

    **Arguments:**

    - `basis`: U, a pytree as the unknown with an additional first axis of k vectors. Zero vectors have no
      effect, so that `RecycledGMRES.empty(like, k)` starts a sequence.
    - `rtol`, `max_cycles`, `preconditioner` (M), `check`, `left` (L): see `GMRES`.
    - `restart`: Krylov directions of a cycle, beside the k.

    **Raises:** `ValueError` if there are not fewer vectors than unknowns.

    **Limits:** each system costs k products more than its iterations say, which make C; a transposed one
    2 k. Little is gained, and a transposed solve may take more iterations than without U, where A is far from
    normal (strong convection). Memory of `restart` + 2 k copies of the unknown, which is raveled.

    **Reference:** Parks et al., SIAM J. Sci. Comput. 28 (2006) 1651. Soodhalter, de Sturler, Kilmer, GAMM
    Mitteilungen 43 (2020), on the choice of U.
    """

    basis: PyTree[Array]
    rtol: float | None = None
    restart: int = eqx.field(static=True, default=32)
    max_cycles: int = 100
    preconditioner: Callable | AbstractPreconditioner | None = None
    check: float | None = None
    left: Callable | AbstractPreconditioner | None = None

    def prepare(self, operator: Operator):
        prepared = prepare(self.preconditioner, operator), prepare(self.left, operator)
        rows = jax.lax.stop_gradient(jax.vmap(_tree.ravel)(self.basis))
        if len(rows) >= operator.size or rows.shape[1] != operator.size:
            raise ValueError(
                f"`basis` of RecycledGMRES is {len(rows)} vectors of {rows.shape[1]} scalars, and the "
                f"operator has {operator.size} unknowns; expected fewer vectors than unknowns, of their size."
            )
        rows = rows.astype(jnp.result_type(*jtu.tree_leaves(operator.like)))
        left, mv, right = self._maps(operator, prepared, False)
        return prepared, _space(lambda v: left(mv(right(v))), rows)

    def _maps(self, operator: Operator, prepared, transpose: bool):
        """L, A, M on vectors; with `transpose` Mᵀ, Aᵀ, Lᵀ, whose product is the transpose."""
        outer = lambda r: r
        if self.left is not None:
            outer = preconditioner(self.left, operator, prepared[1], transpose)
        inner = preconditioner(self.preconditioner, operator, prepared[0], transpose)
        mv = operator.transpose().mv if transpose else operator.mv
        flat = lambda fn: lambda v: _tree.ravel(fn(_tree.unravel(v, operator.like)))
        return (flat(inner), flat(mv), flat(outer)) if transpose else (flat(outer), flat(mv), flat(inner))

    def apply(self, operator, prepared, b, transpose):
        x, k, _ = self._iterate(operator, prepared, b, transpose)
        return x, k

    def _iterate(self, operator, prepared, b, transpose):
        prepared, space = prepared
        left, mv, right = self._maps(operator, prepared, transpose)
        product = lambda v: left(mv(right(v)))
        if transpose:
            space = _space(product, space[1].conj())
        m = min(self.restart, operator.size - len(space[0]))

        def correct(r, target, space):
            u, c = space
            reduced = left(r)
            aim = _tree.norm(reduced) * target / _tree.norm(r)
            moments = _times(c.conj(), reduced)
            rest = reduced - _times(moments, c)
            found = arnoldi(product, rest, m, aim, ahead=c)
            moments = moments - _times(found.within, found.weights)
            v = _times(found.weights, found.basis[:m]) + _times(moments, u)
            return right(v), found.steps, _renewed(u, c, found)

        flat = _tree.ravel(b)
        target = _stopping.target(self.rtol, b)
        x, k, space = restarted(mv, flat, target, self.max_cycles, correct, space)
        return _tree.unravel(x, b), k, space[0]

    @staticmethod
    def empty(like: PyTree, count: int, **options) -> "RecycledGMRES":
        """A solver without directions yet: `count` zero vectors; `options` are the other arguments."""
        zeros = jtu.tree_map(lambda x: jnp.zeros((count, *x.shape), x.dtype), like)
        return RecycledGMRES(zeros, **options)

    def recycle(
        self, operator: Operator, b: PyTree[Array]
    ) -> tuple[PyTree[Array], Array, Array, "RecycledGMRES"]:
        """Solve A x = b, and learn.

        **Returns:** x (NaN unless it is accepted), whether it is, iterations, and the solver for the next.
        """
        operator, b = _tree.stop_gradient((operator, b))
        prepared = self.prepare(operator)
        iterate = lambda unit: self._iterate(operator, prepared, unit, False)
        x, ok, k, new = _stopping.learned(self, operator, b, iterate)
        length = jnp.sqrt(jnp.sum(jnp.abs(new) ** 2, axis=1, keepdims=True))
        new = (new / jnp.where(length > 0, length, 1)).astype(new.dtype)
        # Without one finite direction, what there was.
        basis = jax.vmap(lambda v: _tree.unravel(v, b))(new)
        basis = _tree.where(jnp.all(jnp.isfinite(new)), basis, self.basis)
        options = self.rtol, self.restart, self.max_cycles, self.preconditioner, self.check, self.left
        return x, ok, k, RecycledGMRES(basis, *options)


def _space(product: Callable, rows: Array) -> tuple[Array, Array]:
    """U with the span of the rows, and C = B U with orthonormal rows; zero where rows depend on others."""
    image = jax.vmap(product)(rows)
    size = jnp.sqrt(jnp.sum(jnp.abs(image) ** 2, axis=1))
    scale = jnp.where(size > 0, 1 / jnp.where(size > 0, size, 1), 0)[:, None]
    q, triangle = jnp.linalg.qr((scale * image).T)
    w, s, vh = jnp.linalg.svd(triangle)
    good = s > 100 * len(rows) * jnp.finfo(s.dtype).eps * jnp.max(s)
    inverse = jnp.where(good, 1 / jnp.where(good, s, 1), 0)[:, None]
    u = _times(inverse * vh.conj(), scale * rows)
    return u.astype(rows.dtype), jnp.where(good[:, None], _times(q, w).T, 0).astype(rows.dtype)


def _renewed(u: Array, c: Array, found: Arnoldi) -> tuple[Array, Array]:
    """The k directions that B⁻¹ makes longest among C and the images of the basis; and what it makes of them.

    B [U, V] = [C, V⁺ Qᴴ] [I, B̂; 0, R] with B̂ = Cᴴ B V. So [U, V] S, S = [I, −B̂ R⁻¹; 0, R⁻¹], is B⁻¹ of
    orthonormal vectors, and its k largest singular values are wanted.
    """
    k, m = found.within.shape
    inverse = jsl.solve_triangular(found.triangle, jnp.diag(found.used).astype(u.dtype))
    s = jnp.block(
        [
            [jnp.eye(k, dtype=u.dtype), -_times(found.within, inverse)],
            [jnp.zeros_like(found.within.T), inverse],
        ]
    )
    before = jnp.concatenate([u, found.basis[:m]])
    after = jnp.concatenate([c, _times(found.rotation[:m].conj(), found.basis)])
    gram = _times(s.conj().T, _times(_times(before.conj(), before.T), s))
    values, vectors = jnp.linalg.eigh(gram)
    chosen = jnp.where(values[-k:] > 0, vectors[:, -k:], 0)
    return _times(_times(s, chosen).T, before).astype(u.dtype), _times(chosen.T, after).astype(u.dtype)
