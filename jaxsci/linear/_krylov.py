"""Matrix-free solvers by short recurrences. Stopping is norm-wise and relative to the right-hand side."""

from collections.abc import Callable

import jax.numpy as jnp
import jax.tree_util as jtu

from .. import _tree
from . import _stopping
from ._operator import Operator
from ._preconditioner import AbstractPreconditioner, preconditioner, prepare
from ._verify import symmetry_faults


class CG(_stopping.AbstractIterativeSolver):
    """Preconditioned conjugate gradients (Hestenes & Stiefel 1952) for a symmetric positive
    definite A. Keeps the sharding of the unknown: only inner products are reduced.

    **Arguments:**

    - `rtol`: stop at ‖b − A x‖₂ ≤ rtol ‖b‖₂ (dimensionless). None: 30 times the precision.
    - `max_steps`: iterations at most. None: 10 n + 100.
    - `preconditioner`: r ↦ M r with M ≈ A⁻¹ symmetric positive definite, or a preconditioner of this
      package. None: that of the operator, if it has one.
    - `check`: see `jaxsci.linear.LU`. None: that, or ten times `rtol` if it is more.
    """

    rtol: float | None = None
    max_steps: int | None = None
    preconditioner: Callable | AbstractPreconditioner | None = None
    check: float | None = None

    def prepare(self, operator: Operator):
        return prepare(self.preconditioner, operator)

    def apply(self, operator, prepared, b, transpose):
        if transpose:
            b = _tree.conj(b)  # Aᵀ x = b is A x̄ = b̄ for a Hermitian A
        precondition = preconditioner(self.preconditioner, operator, prepared, False)
        target, limit = _stopping.target(self.rtol, b), _stopping.steps(self.max_steps, operator)
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

    def faults(self, operator, seed):
        return symmetry_faults(operator, seed, True)


class BiCGStab(_stopping.AbstractIterativeSolver):
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
    preconditioner: Callable | AbstractPreconditioner | None = None
    check: float | None = None

    def prepare(self, operator: Operator):
        return prepare(self.preconditioner, operator)

    def apply(self, operator, prepared, b, transpose):
        mv = operator.transpose().mv if transpose else operator.mv
        precondition = preconditioner(self.preconditioner, operator, prepared, transpose)
        target, limit = _stopping.target(self.rtol, b), _stopping.steps(self.max_steps, operator)

        zero = jtu.tree_map(jnp.zeros_like, b)

        def unfinished(carry):
            k, _, r, _, rho, _ = carry
            return (k < limit) & (_tree.norm(r) > target) & (rho != 0) & jnp.isfinite(rho)

        def iterate(carry):
            k, x, r, p, rho, _ = carry
            ahead = precondition(p)
            v = mv(ahead)
            alpha = rho / _tree.dot(b, v)
            x, s = _tree.axpy(alpha, ahead, x), _tree.axpy(-alpha, v, r)

            def second(carry):
                ahead = precondition(s)
                return ahead, mv(ahead), carry[2] | True

            # Not if the half step has solved the system: a loop and not a `cond`, of which `vmap` would
            # execute both branches. t = 0 otherwise only where s is.
            solved = _tree.norm(s) <= target
            ahead, t, _ = _tree.while_loop(lambda carry: ~carry[2], second, (zero, zero, solved))
            size = _tree.dot(t, t).real
            omega = jnp.where(size == 0, 0, _tree.dot(t, s) / jnp.where(size == 0, 1, size))
            x, r = _tree.axpy(omega, ahead, x), _tree.axpy(-omega, t, s)
            new = _tree.dot(b, r)
            beta = new / rho * alpha / jnp.where(omega == 0, 1, omega)
            p = _tree.axpy(beta, _tree.axpy(-omega, v, p), r)
            return k + 1, x, r, p, new, omega

        rho = _tree.dot(b, b)
        k, x, *_ = _tree.while_loop(unfinished, iterate, (jnp.array(0), zero, b, b, rho, jnp.zeros_like(rho)))
        return x, k
