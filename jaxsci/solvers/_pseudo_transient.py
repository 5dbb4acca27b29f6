"""Steady states by implicit steps in a pseudo-time that grow into Newton's method."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optimistix as optx
from jaxtyping import Array, Bool, Int

from .. import _tree
from .._solution import RESULTS
from ..linear import AbstractLinearSolver, Operator, Reuse, default_solver
from ..linear._solver import check_linear_solver
from ._globalization import Progress, relative_length, start
from ._plain import AbstractPlainSolver, check_tolerances

_REJECTIONS = 30


class _State(eqx.Module):
    progress: Progress
    shift: Array  # 1/δ
    rejected: Int[Array, ""]
    factors: Any  # of the last shifted Jacobian; None if they are not kept


class PseudoTransient(AbstractPlainSolver, optx.AbstractRootFinder):
    """F(y, θ) = 0 as the steady state of dy/dτ = −F(y, θ), by linearly implicit Euler steps

        (1/δ + ∂F/∂y) s = −F(y),   y ← y + s,   δ ← δ ‖F(y)‖ / ‖F(y + s)‖

    (switched evolution relaxation): small steps follow the transient from a poor guess, to a stable steady
    state, and as ‖F‖ falls they become Newton steps. A step after which F is not finite, or more than
    ten times as large, is taken back and δ divided by 8.

    s is a Newton step with the linear residual ν = ‖s‖ / (δ ‖F‖). Stops when ‖s‖ is at most `atol + rtol ‖y‖`
    (root-mean-square norms) and ν ≤ 0.1. With a direct linear solver the last factors serve the
    implicit rule. Plain JAX without callbacks, also inside `jax.shard_map`; under `vmap` every lane stops on
    its own. Also an `optimistix.AbstractRootFinder`.

    **Arguments:**

    - `rtol`, `atol`: relative (dimensionless) and absolute (unit of y) tolerance of the step.
    - `first_step`: the first δ (unit of y over unit of F).
    - `linear_solver`: a `jaxsci.linear` solver for the shifted systems; None:
      `jaxsci.linear.default_solver`. The `preconditioner` of the residual, which is for δ = ∞, is not used.

    **Limits:** F has the sign with which dy/dτ = −F decays (−∇²u − f, not ∇²u + f); it finds no unstable
    steady state, except by chance. A promise that ∂F/∂y is positive definite holds for the shifted
    systems too.

    **Reference:** Kelley & Keyes, Convergence analysis of pseudo-transient continuation, SIAM J. Numer.
    Anal. 35, 1998.
    """

    rtol: float
    atol: float
    first_step: float
    linear_solver: AbstractLinearSolver | None
    norm: Any

    def __init__(
        self,
        rtol: float,
        atol: float,
        *,
        first_step: float = 1.0,
        linear_solver: AbstractLinearSolver | None = None,
    ):
        check_tolerances(rtol, atol)
        check_linear_solver(linear_solver)
        if not isinstance(first_step, jax.core.Tracer) and not 0 < first_step < float("inf"):
            raise ValueError(
                f"`first_step` is {first_step!r}; expected a positive pseudo-time step, such as 1.0."
            )
        self.rtol = rtol
        self.atol = atol
        self.first_step = first_step
        self.linear_solver = linear_solver
        self.norm = optx.rms_norm

    def init(self, fn, y, args, options, f_struct, aux_struct, tags):
        progress = start(lambda y: fn(y, args)[0], y)
        shift = jnp.ones_like(progress.size) / self.first_step
        factors = None
        if "factors" in options and self._linear(Operator(lambda v: v, y, None, tags)).direct:
            residual = lambda y: fn(y, args)[0]
            shapes = jax.eval_shape(lambda: self._factorised(residual, y, shift, tags)[2])
            factors = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        return _State(progress, shift, jnp.array(0), factors)

    def _factorised(self, residual, y, shift, tags):
        """The linear solver, 1/δ + ∂F/∂y, and what the solver prepares for it."""
        product = lambda v: _tree.axpy(shift, v, jax.jvp(residual, (y,), (v,))[1])
        operator = Operator(product, y, None, tags)
        solver = self._linear(operator)
        return solver, operator, solver.prepare(operator)

    def _linear(self, operator: Operator) -> AbstractLinearSolver:
        return default_solver(operator, refinements=0) if self.linear_solver is None else self.linear_solver

    def step(self, fn, y, args, options, state, tags):
        residual = lambda y: fn(y, args)[0]
        before, shift = state.progress, state.shift
        solver, operator, factors = self._factorised(residual, y, shift, tags)
        step, _, solved, iterations = solver.attempt(operator, factors, before.f)
        candidate = _tree.axpy(-1.0, step, y)
        f = residual(candidate)
        size = _tree.norm(f)
        accepted = solved & jnp.isfinite(size) & (size <= 10 * before.size)
        rest = shift * _tree.norm(step) / jnp.where(before.size == 0, 1, before.size)
        short = relative_length(step, y, self.rtol, self.atol)
        relaxed = shift * size / jnp.where(before.size == 0, 1, before.size)
        rejected = jnp.where(accepted, 0, state.rejected + 1)
        # δ may not grow in a step by more than ‖F‖ may fall from one to rounding.
        least = jnp.finfo(size.dtype).tiny
        state = _State(
            Progress(
                _tree.where(accepted, f, before.f),
                jnp.where(accepted, size, before.size),
                jnp.where(accepted & (rest <= 0.1), short, jnp.inf),
                (rejected >= _REJECTIONS) & solved,
                (rejected >= _REJECTIONS) & ~solved,
                before.linear_iterations + iterations,
            ),
            jnp.where(accepted, jnp.maximum(relaxed, least), 8 * shift).astype(shift.dtype),
            rejected,
            None if state.factors is None else factors,
        )
        return _tree.where(accepted, candidate, y), state, None

    def status(self, state) -> tuple[Bool[Array, ""], RESULTS]:
        """Whether to stop, and with which result."""
        return state.progress.status

    def postprocess(self, fn, y, aux, args, options, state, tags, result):
        stats = {"linear_iterations": state.progress.linear_iterations}
        if len(jax.tree.leaves(state.factors)) > 0:
            solver = self._linear(Operator(lambda v: v, y, None, tags))
            stats["factorised"] = Reuse(solver, state.factors)
        return y, aux, stats
