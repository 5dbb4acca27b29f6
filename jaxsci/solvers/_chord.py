"""Newton's method that keeps its factors while they are good."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optimistix as optx
from jaxtyping import Array, Bool

from .. import _tree
from .._solution import RESULTS
from ..linear import LU, AbstractLinearSolver, Cholesky, Operator, Reuse
from ..linear._solver import check_linear_solver
from ._globalization import Progress, backtrack, relative_length, start
from ._plain import AbstractPlainSolver, check_tolerances


class _State(eqx.Module):
    progress: Progress
    factors: Any  # of ∂F/∂y at an earlier point, or at this one
    fresh: Bool[Array, ""]  # whether they are of this point
    current: Bool[Array, ""]  # whether they are to be used again
    length: Array  # ‖step‖ of the last step with these factors; infinite if there is none
    factorizations: Array


class Chord(AbstractPlainSolver, optx.AbstractRootFinder):
    """y ← y − B⁻¹ F(y, θ), with B = ∂F/∂y of an earlier point while

        ‖F(y − B⁻¹F)‖ ≤ `rate` · ‖F(y)‖;

    otherwise that step is not made, and ∂F/∂y is factorised at y (a Newton step with t = 1, ½, ¼, …). For
    direct solvers, whose factors cost much more than a step with them.

    With the rate c = ‖sₖ‖/‖sₖ₋₁‖ of the steps of one B, the error after sₖ is at most c/(1 − c) ‖sₖ‖: stops
    when this, or a whole full step, is shorter than `atol + rtol ‖y‖` (root-mean-square norms). The last
    factors serve the implicit rule. Plain JAX without callbacks, also inside `jax.shard_map`; under `vmap`
    every lane keeps its own factors. Also an `optimistix.AbstractRootFinder`.

    **Arguments:**

    - `rtol`, `atol`: relative (dimensionless) and absolute (unit of y) tolerance of the error.
    - `linear_solver`: a direct solver of `jaxsci.linear`; None: Cholesky where ∂F/∂y was promised positive
      definite, LU otherwise, whatever the size.
    - `rate`: accepted contraction of ‖F‖ a step, in (0, 1).
    - `halvings`: step halvings tried before a Newton step is called stalled.

    **Limits:** local convergence, as Newton's. Under `vmap` the batch factorises while any lane does.

    **Reference:** Kelley, Solving Nonlinear Equations with Newton's Method, SIAM 2003, §1.4 and ch. 2.
    """

    rtol: float
    atol: float
    linear_solver: AbstractLinearSolver | None
    rate: float
    halvings: int
    norm: Any

    def __init__(
        self,
        rtol: float,
        atol: float,
        *,
        linear_solver: AbstractLinearSolver | None = None,
        rate: float = 0.3,
        halvings: int = 20,
    ):
        check_tolerances(rtol, atol)
        check_linear_solver(linear_solver)
        if not 0 < rate < 1:
            raise ValueError(f"`rate` is {rate!r}; expected a number between 0 and 1, such as 0.3.")
        self.rtol = rtol
        self.atol = atol
        self.linear_solver = linear_solver
        self.rate = rate
        self.halvings = halvings
        self.norm = optx.rms_norm

    def _linear(self, operator: Operator) -> AbstractLinearSolver:
        if self.linear_solver is None:
            return (Cholesky if operator.positive else LU)(refinements=0)
        return self.linear_solver

    def init(self, fn, y, args, options, f_struct, aux_struct, tags):
        progress = start(lambda y: fn(y, args)[0], y)
        operator = self._operator(fn, y, args, tags)
        solver = self._linear(operator)
        if not solver.direct:
            raise ValueError(
                f"`linear_solver` is {type(solver).__name__}, which has no factors to keep. Use a direct "
                "solver, such as jaxsci.linear.LU(), or jaxsci.solvers.NewtonKrylov."
            )
        yes, factors = jnp.array(True), solver.prepare(operator)
        return _State(progress, factors, yes, yes, jnp.full_like(progress.size, jnp.inf), jnp.array(1))

    def _operator(self, fn, y, args, tags) -> Operator:
        return Operator(lambda v: jax.jvp(lambda y: fn(y, args)[0], (y,), (v,))[1], y, None, tags)

    def step(self, fn, y, args, options, state, tags):
        residual = lambda y: fn(y, args)[0]
        before = state.progress
        operator = self._operator(fn, y, args, tags)
        solver = self._linear(operator)
        # A loop and not a `cond`, of which `vmap` would execute both branches.
        factors, _ = _tree.while_loop(
            lambda carry: ~carry[1],
            lambda carry: (solver.prepare(operator), carry[1] | True),
            (state.factors, state.current),
        )
        fresh = state.fresh | ~state.current
        step, iterations = solver.apply(operator, factors, before.f, False)
        usable = jnp.isfinite(_tree.norm(step))
        direction = jax.tree.map(jnp.negative, step)
        length = _tree.norm(step)
        short = relative_length(direction, y, self.rtol, self.atol)
        # With old factors one trial, whose result decides about them.
        kept = ~fresh
        t, f, size, gained = backtrack(
            residual, y, direction, before.size, 1.0, kept | (short <= 1), self.halvings
        )
        good = size <= self.rate * before.size
        tiny = (short <= 1) & (size <= before.size)
        accepted = usable & jnp.where(kept, good | tiny, True)
        contraction = jnp.where(kept, length / state.length, 1.0)
        bound = jnp.where(contraction < 0.5, contraction / (1 - contraction), 1.0)
        told = accepted & (t == 1)
        progress = Progress(
            _tree.where(accepted, f, before.f),
            jnp.where(accepted, size, before.size),
            jnp.where(told, bound * short, jnp.inf),
            ~kept & usable & ~gained & ~(short <= 1),
            ~kept & ~usable & (before.size > 0),
            before.linear_iterations + iterations,
        )
        y = _tree.where(accepted, _tree.axpy(t, direction, y), y)
        # A damped or poorly contracting Newton step left the neighborhood of its factors.
        again = accepted & good & (t == 1)
        state = _State(
            progress,
            factors,
            jnp.array(False),
            again | tiny & accepted,
            jnp.where(accepted & (t == 1), length, jnp.inf),
            state.factorizations + ~state.current,
        )
        return y, state, None

    def status(self, state) -> tuple[Bool[Array, ""], RESULTS]:
        """Whether to stop, and with which result."""
        return state.progress.status

    def postprocess(self, fn, y, aux, args, options, state, tags, result):
        stats = {
            "linear_iterations": state.progress.linear_iterations,
            "factorizations": state.factorizations,
        }
        if "factors" in options:
            stats["factorised"] = Reuse(self._linear(Operator(lambda v: v, y, None, tags)), state.factors)
        return y, aux, stats
