"""Matrix-free solvers. Stopping is norm-wise and relative to the right-hand side."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import jax.scipy.linalg as jsl
import jax.tree_util as jtu

from .. import _tree
from ._operator import Operator, transposed
from ._solver import AbstractLinearSolver


def _tolerance(rtol: float | None, b) -> float:
    dtype = jnp.result_type(*jtu.tree_leaves(b))
    return 30 * float(jnp.finfo(dtype).eps) if rtol is None else rtol


def _limit(rtol: float | None, precision: float):
    """A tolerance that was asked for is accepted, with room for what recurrences lose."""
    return precision**0.5 if rtol is None else jnp.maximum(precision**0.5, 10 * rtol)


def _preconditioner(own: Callable | None, operator: Operator, transpose: bool) -> Callable:
    """The solver's own, else the operator's, else none."""
    chosen = operator.preconditioner if own is None else own
    if chosen is None:
        return lambda r: r
    return transposed(chosen) if transpose else chosen


class CG(AbstractLinearSolver):
    """Preconditioned conjugate gradients (Hestenes & Stiefel 1952) for a symmetric positive
    definite A. Keeps the sharding of the unknown: only inner products are reduced.

    **Arguments:**

    - `rtol`: stop at ‖b − A x‖₂ ≤ rtol ‖b‖₂ (dimensionless). None: 30 times the precision.
    - `max_steps`: iterations at most. None: 10 n + 100.
    - `preconditioner`: r ↦ M r with M ≈ A⁻¹ symmetric positive definite. None: that of the operator,
      if it has one.
    - `check`: see `jaxsci.linear.LU`. None: that, or ten times `rtol` if it is more.
    """

    rtol: float | None = None
    max_steps: int | None = None
    preconditioner: Callable | None = None
    check: float | None = None

    def limit(self, precision):
        return _limit(self.rtol, precision)

    def prepare(self, operator: Operator):
        return None

    def apply(self, operator, prepared, b, transpose):
        if transpose:
            b = _tree.conj(b)  # Aᵀ x = b is A x̄ = b̄ for a Hermitian A
        precondition = _preconditioner(self.preconditioner, operator, False)
        target = _tolerance(self.rtol, b) * _tree.norm(b)
        limit = 10 * operator.size + 100 if self.max_steps is None else self.max_steps
        x = jtu.tree_map(jnp.zeros_like, b)
        z = precondition(b)

        def unfinished(carry):
            k, _, r, _, rho = carry
            return (k < limit) & (_tree.norm(r) > target) & (rho > 0) & jnp.isfinite(rho)

        def iterate(carry):
            k, x, r, p, rho = carry
            ap = operator.mv(p)
            alpha = rho / _tree.dot(p, ap).real
            x, r = _tree.axpy(alpha, p, x), _tree.axpy(-alpha, ap, r)
            z = precondition(r)
            new = _tree.dot(r, z).real
            return k + 1, x, r, _tree.axpy(new / rho, p, z), new

        k, x, *_ = _tree.while_loop(unfinished, iterate, (0, x, b, z, _tree.dot(b, z).real))
        return _tree.conj(x) if transpose else x, k


class BiCGStab(AbstractLinearSolver):
    """Stabilised biconjugate gradients (van der Vorst 1992) for a general square A, with right
    preconditioning. Memory: seven copies of the unknown. Two products an iteration.

    Cheaper than GMRES where A is near the identity (I − ∂T/∂y of a contraction) and the unknown is large;
    it may break down where GMRES does not, and then the check says so.

    **Arguments:**

    - `rtol`, `preconditioner`: see `GMRES`.
    - `max_steps`: iterations at most. None: 10 n + 100.
    - `check`: see `jaxsci.linear.LU`. None: that, or ten times `rtol` if it is more.
    """

    rtol: float | None = None
    max_steps: int | None = None
    preconditioner: Callable | None = None
    check: float | None = None

    def limit(self, precision):
        return _limit(self.rtol, precision)

    def prepare(self, operator: Operator):
        return None

    def apply(self, operator, prepared, b, transpose):
        mv = operator.transpose().mv if transpose else operator.mv
        precondition = _preconditioner(self.preconditioner, operator, transpose)
        target = _tolerance(self.rtol, b) * _tree.norm(b)
        limit = 10 * operator.size + 100 if self.max_steps is None else self.max_steps

        def unfinished(carry):
            k, _, r, _, rho, _ = carry
            return (k < limit) & (_tree.norm(r) > target) & (rho != 0) & jnp.isfinite(rho)

        def iterate(carry):
            k, x, r, p, rho, _ = carry
            ahead = precondition(p)
            v = mv(ahead)
            alpha = rho / _tree.dot(b, v)
            x, s = _tree.axpy(alpha, ahead, x), _tree.axpy(-alpha, v, r)
            ahead = precondition(s)
            t = mv(ahead)
            size = _tree.dot(t, t).real
            # t = 0 only where s is: the half step has solved the system.
            omega = jnp.where(size == 0, 0, _tree.dot(t, s) / jnp.where(size == 0, 1, size))
            x, r = _tree.axpy(omega, ahead, x), _tree.axpy(-omega, t, s)
            new = _tree.dot(b, r)
            beta = new / rho * alpha / jnp.where(omega == 0, 1, omega)
            p = _tree.axpy(beta, _tree.axpy(-omega, v, p), r)
            return k + 1, x, r, p, new, omega

        zero = jtu.tree_map(jnp.zeros_like, b)
        rho = _tree.dot(b, b)
        k, x, *_ = _tree.while_loop(unfinished, iterate, (jnp.array(0), zero, b, b, rho, jnp.zeros_like(rho)))
        return x, k


class GMRES(AbstractLinearSolver):
    """Restarted GMRES (Saad & Schultz 1986) for a general square A, with right preconditioning.

    Arnoldi with twice-repeated Gram–Schmidt, and rotations that tell the residual in each step. Memory:
    `restart` copies of the unknown.

    **Arguments:**

    - `rtol`: stop at ‖b − A x‖₂ ≤ rtol ‖b‖₂ (dimensionless). None: 30 times the precision.
    - `restart`: length of a cycle.
    - `max_cycles`: cycles at most.
    - `preconditioner`: r ↦ M r with M ≈ A⁻¹; transposed automatically for Aᵀ. None: that of the
      operator, if it has one.
    - `check`: see `jaxsci.linear.LU`. None: that, or ten times `rtol` if it is more.
    """

    rtol: float | None = None
    restart: int = 32
    max_cycles: int = 100
    preconditioner: Callable | None = None
    check: float | None = None

    def limit(self, precision):
        return _limit(self.rtol, precision)

    def prepare(self, operator: Operator):
        return None

    def apply(self, operator, prepared, b, transpose):
        mv = operator.transpose().mv if transpose else operator.mv
        precondition = _preconditioner(self.preconditioner, operator, transpose)
        target = _tolerance(self.rtol, b) * _tree.norm(b)
        m = min(self.restart, operator.size)

        def unfinished(carry):
            k, _, _, r, previous = carry
            size = _tree.norm(r)
            # A cycle that gains less than 1 % will not converge: stop, and let the check speak.
            return (k < self.max_cycles) & (size > target) & (size < 0.99 * previous)

        def iterate(carry):
            k, count, x, r, _ = carry
            d, steps = _cycle(lambda v: mv(precondition(v)), r, m, target)
            x = jtu.tree_map(jnp.add, x, precondition(d))
            return k + 1, count + steps, x, _tree.axpy(-1.0, mv(x), b), _tree.norm(r)

        x = jtu.tree_map(jnp.zeros_like, b)
        zero = jnp.array(0)
        first = (zero, zero, x, b, jnp.full_like(_tree.norm(b), jnp.inf))
        _, count, x, *_ = _tree.while_loop(unfinished, iterate, first)
        return x, count


def _cycle(mv: Callable, r, m: int, target):
    """argmin over the Krylov space of dimension at most m of ‖r − A d‖₂, and its dimension: the first in
    which the minimum is at most `target`.

    With the Hessenberg matrix H of the basis, Q H = R is triangular. One rotation a step extends it, and
    the minimum is |β Q e₁| in the row below R.
    """
    beta = _tree.norm(r)
    first = jtu.tree_map(lambda x: jnp.zeros((m + 1, *x.shape), x.dtype).at[0].set(x / beta), r)
    dtype = jnp.result_type(*jtu.tree_leaves(r))
    small = jnp.finfo(beta.dtype).eps

    def unfinished(carry):
        j, _, _, _, rest = carry
        return (j < m) & (rest > target)

    def extend(carry):
        j, basis, q, triangle, _ = carry
        w = mv(jtu.tree_map(lambda v: v[j], basis))
        before = _tree.norm(w)

        def orthogonalised(carry):
            column, w, _, after = carry
            parts = jtu.tree_map(lambda v, x: _contract(v.conj(), x, x.ndim), basis, w)
            h = sum(jtu.tree_leaves(parts))
            w = jtu.tree_map(lambda x, v: x - _contract(h, v, 1).astype(x.dtype), w, basis)
            return column + h, w, after, _tree.norm(w)

        # Once, and again if that took away most of w: twice is enough (Parlett 1998, §6.9). Not below
        # rounding, where nothing is left to orthogonalise.
        again = lambda carry: (carry[3] < 0.7 * carry[2]) & (carry[3] > 10 * small * before)
        once = orthogonalised((jnp.zeros(m + 1, dtype), w, before, before))
        column, w, _, after = _tree.while_loop(again, orthogonalised, once)
        # An invariant subspace (happy breakdown): later directions are zero and get no weight.
        ended = after <= 10 * small * before
        column = column.at[j + 1].set(jnp.where(ended, 0, after))
        direction = _tree.scaled(jnp.where(ended, 0, 1 / jnp.where(ended, 1, after)), w)
        basis = jtu.tree_map(lambda v, d: v.at[j + 1].set(d), basis, direction)
        column = _contract(q, column, 1)
        a, b = column[j], column[j + 1]
        length = jnp.sqrt(jnp.abs(a) ** 2 + jnp.abs(b) ** 2)
        c, s = (jnp.where(length == 0, z, x / jnp.where(length == 0, 1, length)) for x, z in ((a, 1), (b, 0)))
        q = q.at[j].set(c.conj() * q[j] + s.conj() * q[j + 1]).at[j + 1].set(c * q[j + 1] - s * q[j])
        column = column.at[j].set(length.astype(dtype)).at[j + 1].set(0)
        rest = jnp.where(ended, 0, beta * jnp.abs(q[j + 1, 0]))
        return j + 1, basis, q, triangle.at[:, j].set(column), rest

    start = (jnp.array(0), first, jnp.eye(m + 1, dtype=dtype), jnp.zeros((m + 1, m), dtype), beta)
    j, basis, q, triangle, _ = _tree.while_loop(unfinished, extend, start)
    # Directions that were not reached, or to which A gave nothing, get no weight.
    pivots = jnp.abs(jnp.diagonal(triangle))
    used = (jnp.arange(m) < j) & (pivots > small * jnp.max(pivots, initial=0))
    triangle = triangle[:m] + jnp.diag(jnp.where(used, 0, 1).astype(dtype))
    triangle = jnp.where(used[:, None] | jnp.eye(m, dtype=bool), triangle, 0)
    right = jnp.where(used, beta * q[:m, 0], 0)
    weights = jsl.solve_triangular(triangle, right)
    return jtu.tree_map(lambda v: _contract(weights, v[:m], 1).astype(v.dtype), basis), j


def _contract(a, b, axes: int):
    """Σ over the last `axes` axes of a and the first `axes` of b."""
    return jnp.tensordot(a, b, axes, precision=jax.lax.Precision.HIGHEST)
