"""An equation as a layer: the coefficients of a basis that satisfy it best."""

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, Bool, Float, Int

from .. import pde
from .._adjoint import AbstractAdjoint, ImplicitAdjoint
from .._solution import RESULTS
from .._solve import solve
from ..linear import LU
from ..residuals import Block, StructuredLeastSquares
from ..solvers import BFGS
from ._discretization import AbstractDiscretization


def hold(coefficients: Array, converged: Bool[Array, ""]) -> Array:
    """Failure policy: keep the value of an unconverged solve and pass no derivative through it."""
    return jnp.where(converged, coefficients, jax.lax.stop_gradient(coefficients))


def poison(coefficients: Array, converged: Bool[Array, ""]) -> Array:
    """Failure policy: the value of an unconverged solve is NaN, and so is what is made of it."""
    return jnp.where(converged, coefficients, jnp.nan)


class Constrained(eqx.Module):
    """What a `HardConstraint` or a `MixtureOfExperts` gives back.

    **Fields:** (a leading axis of experts where these are solved one by one)

    - `values`: u = lift + Σₙ ωₙ basisₙ, of the kind of the lift; differentiable.
    - `coefficients`: ω; differentiable.
    - `residual_norm`: ‖rows‖ at the solution, in the unit of the row scaling.
    - `result`: how each solve ended (`jaxsci.RESULTS`).
    - `steps`: iterations of each solve.
    """

    values: Any
    coefficients: Float[Array, "..."]
    residual_norm: Float[Array, "..."]
    result: RESULTS
    steps: Int[Array, "..."]

    @property
    def converged(self) -> Bool[Array, "..."]:
        """Whether each solve converged."""
        return self.result == RESULTS.successful


class HardConstraint(eqx.Module):
    """u = lift + Σₙ ωₙ basisₙ with ω = argmin ½‖rows(u)‖² + ½ ρ ‖ω‖², as a differentiable layer.

    The equation is an argument, with its coefficients, so one layer serves every equation and every
    sample. No network is evaluated inside the iteration, which is a contraction, a stencil, a pointwise
    function and closed-form derivatives. The derivative of ω with respect to
    basis, lift and coefficients comes from the implicit rule with the exact Hessian of the objective.

    **Arguments:**

    - `discretization`: `Scheme(grid, rows)` or `Collocation(points)`.
    - `solver`: `jaxsci.solvers.BFGS(rtol=1e-6)` (default: the cheapest), `LevenbergMarquardt` (fewest steps),
      or any least-squares solver or minimiser that `jaxsci.solve` takes.
    - `max_steps`: iterations at most.
    - `ridge`: ρ, in squared units of a row per coefficient.
    - `adjoint`: the implicit rule by default.
    - `gauss_newton`: iterate and differentiate with JᵀJ only: a *wrong* derivative while residuals are
      large. The default is exact.
    - `on_failure`: (coefficients, converged) ↦ coefficients, for solves that did not converge: `hold`
      (default: keep the value, no derivative through it) or `poison` (NaN). Either way
      `Constrained.result` tells.

    **Limits:** dense in the number of basis functions: up to about a thousand.

    **Reference:** Négiar, Mahoney, Krishnapriyan, Learning differentiable solvers for systems with
    hard constraints, ICLR 2023; Chalapathi, Du, Krishnapriyan, Scaling physics-informed hard
    constraints with mixture-of-experts, ICLR 2024.
    """

    discretization: AbstractDiscretization
    solver: Any = BFGS(rtol=1e-6)
    max_steps: int = eqx.field(static=True, default=200)
    ridge: float = eqx.field(static=True, default=1e-8)
    # Dependent basis functions make the Hessian ill-conditioned, in directions that do not reach u: a
    # looser check than for systems whose every direction counts.
    adjoint: AbstractAdjoint = ImplicitAdjoint(LU(check=1e-4))
    gauss_newton: bool = eqx.field(static=True, default=False)
    on_failure: Callable = eqx.field(static=True, default=hold)

    def __check_init__(self):
        if not 0 <= self.ridge < 1:
            raise ValueError(f"`ridge` is {self.ridge}; expected a number in [0, 1), such as 1e-8.")

    def __call__(
        self,
        equation: pde.AbstractEquation,
        basis: Any,
        lift: Any,
        conditions: Sequence = (),
    ) -> Constrained:
        """Solve for one sample; batch with `jax.vmap`.

        **Arguments:**

        - `equation`: with its coefficients.
        - `basis`, `lift`: of the kind that the discretization takes; for `Scheme` arrays
          (N, *grid.shape) and (*grid.shape), or mappings of field names to them.
        - `conditions`: of the faces, for `Scheme`.
        """
        blocks = self.discretization.blocks(equation, basis, lift, tuple(conditions))
        omega, norm, result, steps = self.coefficients(blocks)
        values = self.discretization.combine(omega, basis, lift)
        return Constrained(values, omega, norm, result, steps)

    def coefficients(self, blocks: tuple[Block, ...]):
        """ω for given rows, with ‖rows‖, result and steps."""
        problem = StructuredLeastSquares(blocks, self.ridge, self.gauss_newton)
        found = solve(
            problem,
            self.solver,
            problem.start,
            adjoint=self.adjoint,
            throw=False,
            max_steps=self.max_steps,
        )
        converged = found.result == RESULTS.successful
        omega = self.on_failure(found.value, converged)
        rows = tuple(block(omega) for block in blocks)
        norm = jnp.sqrt(sum(jnp.vdot(e, e) for e in jtu.tree_leaves(rows)))
        return omega, norm, found.result, found.stats.steps
