"""Successive over-relaxation, alone and as a preconditioner of conjugate gradients."""

import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array

from .. import _tree
from . import _stopping
from ._krylov import CG
from ._operator import Operator
from ._orders import AbstractOrder, NaturalOrder
from ._preconditioner import AbstractPreconditioner


def _check_omega(omega: float | Array, who: str) -> None:
    if isinstance(omega, float | int) and not 0 < omega < 2:
        raise ValueError(
            f"`omega` of {who} is {omega}; expected a number between 0 and 2, outside of which relaxation "
            "cannot converge."
        )


class SOR(_stopping.AbstractIterativeSolver):
    """x ← x + (D/ω + L)⁻¹ (b − A x) with A = L + D + U: successive over-relaxation.

    Converges for a symmetric positive definite A and 0 < ω < 2 (Ostrowski–Reich). It changes the number of
    iterations and not the solution, whose derivative in ω is zero.

    **Arguments:**

    - `omega`: ω (dimensionless); a float or a traced array, such as what a learner has chosen.
    - `order`: the order of the unknowns, which knows the kind of matrix: `NaturalOrder()` (dense),
      `BandedOrder(width)`, `Wavefront()` or `RedBlack()` (five points on an array).
    - `rtol`: stop at ‖b − A x‖₂ ≤ rtol ‖b‖₂ (dimensionless). None: 30 times the precision.
    - `max_steps`: iterations at most.
    - `check`: see `jaxsci.linear.LU`. None: that, or ten times `rtol` if it is more.

    **Raises:** `ValueError` for a number ω that is not between 0 and 2.

    **Reference:** Young, Iterative Solution of Large Linear Systems, 1971.
    """

    omega: float | Array = 1.0
    order: AbstractOrder = NaturalOrder()
    rtol: float | Array | None = None
    max_steps: int = 10_000
    check: float | None = None

    def __check_init__(self):
        _check_omega(self.omega, "SOR")

    def prepare(self, operator: Operator):
        return self.order.prepare(operator)

    def apply(self, operator, prepared, b, transpose):
        mv = (operator.transpose() if transpose else operator).mv
        parts = self.order.transpose(prepared) if transpose else prepared
        target = _stopping.target(self.rtol, b)

        def unfinished(carry):
            k, _, r = carry
            size = _tree.norm(r)
            return (k < self.max_steps) & (size > target) & jnp.isfinite(size)

        def sweep(carry):
            k, x, r = carry
            x = jtu.tree_map(
                lambda x, d: (x + d).astype(x.dtype), x, self.order.forward(parts, self.omega, r)
            )
            return k + 1, x, _tree.axpy(-1.0, mv(x), b)

        first = (jnp.array(0), jtu.tree_map(jnp.zeros_like, b), b)
        k, x, _ = _tree.while_loop(unfinished, sweep, first)
        return x, k


class SSOR(AbstractPreconditioner):
    """M = (D/ω + U)⁻¹ ((2 − ω)/ω) D (D/ω + L)⁻¹: one symmetric sweep of over-relaxation.

    Symmetric positive definite where A is.

    **Arguments:**

    - `omega`, `order`: see `SOR`. With `RedBlack()`, ω has almost no effect.

    **Raises:** `ValueError` for a number ω that is not between 0 and 2.
    """

    omega: float | Array = 1.0
    order: AbstractOrder = NaturalOrder()

    def __check_init__(self):
        _check_omega(self.omega, "SSOR")

    def prepare(self, operator):
        return self.order.prepare(operator)

    def apply(self, operator, prepared, r):
        half = self.order.scale(prepared, self.order.forward(prepared, self.omega, r))
        x = self.order.backward(prepared, self.omega, half)
        return jtu.tree_map(lambda x, r: ((2 - self.omega) / self.omega * x).astype(r.dtype), x, r)


class SSORCG(_stopping.AbstractIterativeSolver):
    """Conjugate gradients with the preconditioner `SSOR(omega, order)`, for a symmetric positive definite A.

    **Arguments:**

    - `omega`, `order`: see `SOR`. The order matters: row by row (`NaturalOrder`, `BandedOrder`,
      `Wavefront`), a good ω halves the iterations; with `RedBlack` it does not help.
    - `rtol`, `max_steps`, `check`: see `CG`.
    """

    omega: float | Array = 1.0
    order: AbstractOrder = NaturalOrder()
    rtol: float | Array | None = None
    max_steps: int | None = None
    check: float | None = None

    def _solver(self):
        return CG(self.rtol, self.max_steps, SSOR(self.omega, self.order), self.check)

    def prepare(self, operator: Operator):
        return self._solver().prepare(operator)

    def apply(self, operator, prepared, b, transpose):
        return self._solver().apply(operator, prepared, b, transpose)


def optimal_omega(beta: float | Array) -> Array:
    """ω* = 1 + (β/(1 + √(1 − β²)))², the best ω of SOR for a consistently ordered A (Young 1950).

    **Arguments:**

    - `beta`: β = ρ(1 − D⁻¹A), the spectral radius of Jacobi's iteration (dimensionless), below 1.

    **Returns:** ω* (dimensionless).
    """
    return 1 + (beta / (1 + jnp.sqrt(1 - beta**2))) ** 2


def sor_spectral_radius(omega: float | Array, beta: float | Array) -> Array:
    """ρ(1 − (D/ω + L)⁻¹A) of SOR for a consistently ordered A (Young 1950):
    ¼ (ω β + √(ω² β² − 4 (ω − 1)))² for ω < ω*, and ω − 1 from ω* on.

    **Arguments:**

    - `omega`: ω (dimensionless), in (0, 2).
    - `beta`: see `optimal_omega`.

    **Returns:** ρ (dimensionless): iterations for a reduction by ε are about log ε / log ρ.
    """
    root = jnp.sqrt(jnp.maximum((omega * beta) ** 2 - 4 * (omega - 1), 0))
    return jnp.where(omega < optimal_omega(beta), 0.25 * (omega * beta + root) ** 2, omega - 1)
