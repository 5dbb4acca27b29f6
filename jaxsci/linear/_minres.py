"""MINRES, for symmetric systems that are indefinite."""

from collections.abc import Callable

import jax.numpy as jnp
import jax.tree_util as jtu

from .. import _tree
from . import _stopping
from ._operator import Operator
from ._preconditioner import AbstractPreconditioner, preconditioner, prepare
from ._verify import symmetry_faults


class MINRES(_stopping.AbstractIterativeSolver):
    """Minimal residuals (Paige & Saunders 1975) for a symmetric A, definite or not; Hermitian if complex.

    One product an iteration and nine copies of the unknown, whatever the number of iterations: for saddle
    points and other indefinite systems, where CG does not apply and GMRES keeps a basis. With a
    preconditioner, the norm that a step makes smallest is √(rᴴ M r); what stops it is still ‖r‖₂.

    **Arguments:**

    - `rtol`, `max_steps`: see `CG`.
    - `preconditioner`: r ↦ M r, symmetric positive definite, near the inverse of |A|; or a preconditioner of
      this package. None: that of the operator, if it has one.
    - `check`: see `jaxsci.linear.LU`. None: that, or ten times `rtol` if it is more.

    **Limits:** an A that is not symmetric gives NaN through the check, as does one without a solution.
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
        zeros = jtu.tree_map(jnp.zeros_like, b)
        z = precondition(b)
        beta = jnp.sqrt(jnp.maximum(_tree.dot(b, z).real, 0))
        one, nothing = jnp.ones_like(beta), jnp.zeros_like(beta)
        small = jnp.finfo(beta.dtype).eps

        def unfinished(carry):
            k, _, r, _, _, _, _, beta, *_ = carry
            return (k < limit) & (_tree.norm(r) > target) & (beta > 0) & jnp.isfinite(beta)

        # Lanczos: A M vₖ = βₖ vₖ₋₁ + αₖ vₖ + βₖ₊₁ vₖ₊₁ with vᵢᴴ M vⱼ = δᵢⱼ. Two rotations make R of the
        # tridiagonal matrix, a third its next row zero; d are the columns of M V R⁻¹.
        def iterate(carry):
            k, x, r, before, v, z, d, beta, (c0, s0), (c1, s1), phi = carry
            inverse = 1 / beta
            v, z = _tree.scaled(inverse, v), _tree.scaled(inverse, z)
            w = operator.mv(z)
            alpha = _tree.dot(z, w).real
            size = _tree.norm(w)
            w = _tree.axpy(-alpha, v, _tree.axpy(-jnp.where(k == 0, 0, beta), before, w))
            ahead = precondition(w)
            new = jnp.sqrt(jnp.maximum(_tree.dot(w, ahead).real, 0))
            new = jnp.where(_tree.norm(w) <= 10 * small * size, 0, new)
            far = s0 * beta
            near = c1 * (c0 * beta) + s1 * alpha
            pivot = -s1 * (c0 * beta) + c1 * alpha
            length = jnp.sqrt(pivot**2 + new**2)
            safe = jnp.where(length == 0, 1, length)
            c, s = jnp.where(length == 0, 1, pivot / safe), new / safe
            far, near = jnp.where(k == 0, 0, far), jnp.where(k == 0, 0, near)
            step = _tree.axpy(-near, d[1], _tree.axpy(-far, d[0], z))
            step = _tree.scaled(1 / safe, step)
            x = _tree.axpy(c * phi, step, x)
            # rₖ = sₖ² rₖ₋₁ − φₖ cₖ vₖ₊₁ with φₖ = sₖ φₖ₋₁ up to sign.
            unit = _tree.scaled(1 / jnp.where(new == 0, 1, new), w)
            r = _tree.axpy(-s * phi * c, unit, _tree.scaled(s**2, r))
            return k + 1, x, r, v, w, ahead, (d[1], step), new, (c1, s1), (c, s), -s * phi

        trivial = (one, nothing)
        first = (0, zeros, b, zeros, b, z, (zeros, zeros), beta, trivial, trivial, beta)
        k, x, *_ = _tree.while_loop(unfinished, iterate, first)
        return _tree.conj(x) if transpose else x, k

    def faults(self, operator, seed):
        return symmetry_faults(operator, seed, False)
