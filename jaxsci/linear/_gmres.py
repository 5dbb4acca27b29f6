"""GMRES, with a preconditioner on either side, and with one that may change."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.scipy.linalg as jsl
import jax.tree_util as jtu

from .. import _tree
from . import _stopping
from ._operator import Operator
from ._preconditioner import AbstractPreconditioner, preconditioner, prepare
from ._solver import AbstractLinearSolver


class GMRES(_stopping.AbstractIterativeSolver):
    """Restarted GMRES (Saad & Schultz 1986) for a general square A, with right preconditioning.

    Arnoldi with twice-repeated Gram–Schmidt, and rotations that tell the residual in each step. Memory:
    `restart` copies of the unknown.

    **Arguments:**

    - `rtol`: stop at ‖b − A x‖₂ ≤ rtol ‖b‖₂ (dimensionless). None: 30 times the precision.
    - `restart`: length of a cycle. It may be a traced integer of at most `max_restart`.
    - `max_cycles`: cycles at most.
    - `preconditioner`: r ↦ M r with M ≈ A⁻¹; transposed automatically for Aᵀ. Or a preconditioner of this
      package, which is made from the operator. None: that of the operator, if it has one.
    - `check`: see `jaxsci.linear.LU`. None: that, or ten times `rtol` if it is more.
    - `left`: as `preconditioner`, for the other side: ‖L (b − A x)‖₂ is what a cycle reduces. Whether x is
      good enough is still asked of b − A x.
    - `max_restart`: the memory kept, in copies of the unknown, where `restart` is traced.
    """

    rtol: float | None = None
    restart: int | jax.Array = 32
    max_cycles: int = 100
    preconditioner: Callable | AbstractPreconditioner | None = None
    check: float | None = None
    left: Callable | AbstractPreconditioner | None = None
    max_restart: int | None = None

    def prepare(self, operator: Operator):
        return prepare(self.preconditioner, operator), prepare(self.left, operator)

    def apply(self, operator, prepared, b, transpose):
        mv = operator.transpose().mv if transpose else operator.mv
        first, second = self.preconditioner, self.left
        right = preconditioner(first, operator, prepared[0], transpose)
        if second is None:
            left = lambda r: r
        else:
            left = preconditioner(second, operator, prepared[1], transpose)
        kept = self.restart if self.max_restart is None else self.max_restart
        if isinstance(kept, jax.Array):
            raise ValueError(
                "`restart` of GMRES is an array; expected an int, or an int `max_restart` beside it."
            )

        def correct(r, target, _):
            reduced = left(r)
            aim = target if second is None else _tree.norm(reduced) * target / _tree.norm(r)
            product = lambda v: left(mv(right(v)))
            d, _, steps = _cycle(product, reduced, min(kept, operator.size), aim, length=self.restart)
            return right(d), steps, None

        return restarted(mv, b, _stopping.target(self.rtol, b), self.max_cycles, correct)[:2]


class FGMRES(_stopping.AbstractIterativeSolver):
    """Flexible GMRES (Saad 1993): the preconditioner may be another function in each step.

    That can be a solver that iterates, stopped early: `FGMRES(preconditioner=CG(rtol=1e-1))`. It keeps the
    preconditioned directions too: memory of 2 · `restart` copies of the unknown.

    **Arguments:**

    - `rtol`, `restart`, `max_cycles`, `check`: see `GMRES`.
    - `preconditioner`: a linear solver of this package, applied to the same A (or Aᵀ) without its check; or
      as in `GMRES`, where r ↦ M r need not be linear unless Aᵀ x = b is to be solved. None: that of the
      operator, if it has one.
    """

    rtol: float | None = None
    restart: int = 32
    max_cycles: int = 100
    preconditioner: Callable | AbstractPreconditioner | AbstractLinearSolver | None = None
    check: float | None = None

    def prepare(self, operator: Operator):
        own = self.preconditioner
        return own.prepare(operator) if isinstance(own, AbstractLinearSolver) else prepare(own, operator)

    def apply(self, operator, prepared, b, transpose):
        mv = operator.transpose().mv if transpose else operator.mv
        own = self.preconditioner
        if isinstance(own, AbstractLinearSolver):
            inner = lambda r: own.apply(operator, prepared, r, transpose)[0]
        else:
            inner = preconditioner(own, operator, prepared, transpose)
        m = min(self.restart, operator.size)

        def correct(r, target, _):
            _, d, steps = _cycle(mv, r, m, target, inner)
            return d, steps, None

        return restarted(mv, b, _stopping.target(self.rtol, b), self.max_cycles, correct)[:2]


def restarted(mv: Callable, b, target, max_cycles: int, correct: Callable, state: Any = None):
    """x ← x + d with (d, steps, state) = correct(b − A x, target, state) until the residual is at most
    `target`; and the number of steps, and the last state."""

    def unfinished(carry):
        k, _, _, r, previous, _ = carry
        size = _tree.norm(r)
        # A cycle that gains less than 1 % will not converge: stop, and let the check speak.
        return (k < max_cycles) & (size > target) & (size < 0.99 * previous)

    def iterate(carry):
        k, count, x, r, _, state = carry
        d, steps, state = correct(r, target, state)
        x = jtu.tree_map(jnp.add, x, d)
        return k + 1, count + steps, x, _tree.axpy(-1.0, mv(x), b), _tree.norm(r), state

    x = jtu.tree_map(jnp.zeros_like, b)
    zero = jnp.array(0)
    first = (zero, zero, x, b, jnp.full_like(_tree.norm(b), jnp.inf), state)
    _, count, x, _, _, state = _tree.while_loop(unfinished, iterate, first)
    return x, count, state


def _cycle(mv: Callable, r, m: int, target, inner: Callable | None = None, length: Any = None):
    """d and M d, where r − A M d is the least over the Krylov space of dimension at most m (and `length`),
    and the dimension: the first in which the minimum is at most `target`.

    Without `inner`, M is the identity. With it, M v is kept for every v of the basis: it need not be
    linear, and M d stands for Σ wⱼ M(vⱼ).
    """
    found = arnoldi(mv, r, m, target, inner, length)
    combined = lambda tree: jtu.tree_map(lambda v: contract(found.weights, v[:m], 1).astype(v.dtype), tree)
    d = combined(found.basis)
    return d, (d if inner is None else combined(found.images)), found.steps


class Arnoldi(NamedTuple):
    """What m steps leave: A M V = C B + V⁺ H with orthonormal C and V⁺, V being V⁺ without its last vector.

    The rows of `basis` are V⁺, those of `images` M V; Q H is the triangle R, without its last row, which is
    zero. `weights` make ‖r − A M V w‖ the least that the complement of C allows. Where a direction was not
    reached, or A gave nothing to it, its weight is zero, and R there is the identity.
    """

    basis: Any
    images: Any
    within: jax.Array  # B: k × m
    rotation: jax.Array  # Q: (m + 1) × (m + 1)
    triangle: jax.Array  # R: m × m
    used: jax.Array
    weights: jax.Array
    steps: jax.Array


def arnoldi(
    mv: Callable, r, m: int, target, inner: Callable | None = None, length: Any = None, ahead: Any = None
) -> Arnoldi:
    """The basis of a cycle, which is orthogonal to the k vectors C `ahead` of it, as r has to be.

    With the Hessenberg matrix H of the basis, Q H = R is triangular. One rotation a step extends it, and
    the minimum is |β Q e₁| in the row below R.
    """
    beta = _tree.norm(r)
    unit = _tree.scaled(1 / jnp.where(beta == 0, 1, beta), r)
    k = 0 if ahead is None else len(jtu.tree_leaves(ahead)[0])
    first = jtu.tree_map(lambda x: jnp.zeros((k + m + 1, *x.shape), x.dtype).at[k].set(x), unit)
    if ahead is not None:
        first = jtu.tree_map(lambda v, c: v.at[:k].set(c), first, ahead)
    dtype = jnp.result_type(*jtu.tree_leaves(r))
    small = jnp.finfo(beta.dtype).eps

    def unfinished(carry):
        j, *_, rest = carry
        return (j < (m if length is None else jnp.minimum(m, length))) & (rest > target)

    def extend(carry):
        j, basis, images, within, q, triangle, _ = carry
        v = jtu.tree_map(lambda v: v[k + j], basis)
        if inner is not None:
            v = inner(v)
            images = jtu.tree_map(lambda z, v: z.at[j].set(v), images, v)
        w = mv(v)
        before = _tree.norm(w)

        def orthogonalised(carry):
            column, w, _, after = carry
            parts = jtu.tree_map(lambda v, x: contract(v.conj(), x, x.ndim), basis, w)
            h = sum(jtu.tree_leaves(parts))
            w = jtu.tree_map(lambda x, v: x - contract(h, v, 1).astype(x.dtype), w, basis)
            return column + h, w, after, _tree.norm(w)

        # Once, and again if that took away most of w: twice is enough (Parlett 1998, §6.9). Not below
        # rounding, where nothing is left to orthogonalise.
        again = lambda carry: (carry[3] < 0.7 * carry[2]) & (carry[3] > 10 * small * before)
        once = orthogonalised((jnp.zeros(k + m + 1, dtype), w, before, before))
        column, w, _, after = _tree.while_loop(again, orthogonalised, once)
        # An invariant subspace (happy breakdown): later directions are zero and get no weight.
        ended = after <= 10 * small * before
        column = column.at[k + j + 1].set(jnp.where(ended, 0, after))
        direction = _tree.scaled(jnp.where(ended, 0, 1 / jnp.where(ended, 1, after)), w)
        basis = jtu.tree_map(lambda v, d: v.at[k + j + 1].set(d), basis, direction)
        if k > 0:
            within, column = within.at[:, j].set(column[:k]), column[k:]
        column = contract(q, column, 1)
        a, b = column[j], column[j + 1]
        size = jnp.sqrt(jnp.abs(a) ** 2 + jnp.abs(b) ** 2)
        c, s = (jnp.where(size == 0, z, x / jnp.where(size == 0, 1, size)) for x, z in ((a, 1), (b, 0)))
        q = q.at[j].set(c.conj() * q[j] + s.conj() * q[j + 1]).at[j + 1].set(c * q[j + 1] - s * q[j])
        column = column.at[j].set(size.astype(dtype)).at[j + 1].set(0)
        rest = jnp.where(ended, 0, beta * jnp.abs(q[j + 1, 0]))
        return j + 1, basis, images, within, q, triangle.at[:, j].set(column), rest

    images = None if inner is None else jtu.tree_map(lambda v: jnp.zeros_like(v[:m]), first)
    triangle = jnp.zeros((m + 1, m), dtype)
    start = (
        jnp.array(0), first, images, jnp.zeros((k, m), dtype), jnp.eye(m + 1, dtype=dtype), triangle, beta,
    )  # fmt: skip
    j, basis, images, within, q, triangle, _ = _tree.while_loop(unfinished, extend, start)
    # Directions that were not reached, or to which A gave nothing, get no weight.
    pivots = jnp.abs(jnp.diagonal(triangle))
    used = (jnp.arange(m) < j) & (pivots > small * jnp.max(pivots, initial=0))
    triangle = triangle[:m] + jnp.diag(jnp.where(used, 0, 1).astype(dtype))
    triangle = jnp.where(used[:, None] | jnp.eye(m, dtype=bool), triangle, 0)
    right = jnp.where(used, beta * q[:m, 0], 0)
    weights = jsl.solve_triangular(triangle, right)
    basis = jtu.tree_map(lambda v: v[k:], basis)
    return Arnoldi(basis, images, within, q, triangle, used, weights, j)


def contract(a, b, axes: int):
    """Σ over the last `axes` axes of a and the first `axes` of b."""
    return jnp.tensordot(a, b, axes, precision=jax.lax.Precision.HIGHEST)
