"""Gauss–Newton with a damping for each step, for residuals of many unknowns: networks."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optimistix as optx
from jaxtyping import Array, Bool, Float, Int

from .. import _tree
from .._solution import RESULTS
from ..linear import AbstractLinearSolver
from ..linear._solver import check_linear_solver
from ._gauss_newton_system import make_system
from ._plain import AbstractPlainSolver, check_tolerances

_RTOL = 1e-10


class _State(eqx.Module):
    r: Float[Array, " rows"]
    system: Any  # what is known of J
    gradient: Float[Array, " n"]  # Jᵀ r
    damping: Float[Array, ""]  # λ of the next step
    growth: Float[Array, ""]  # of λ after the next rejection
    gain: Float[Array, ""]  # actual over predicted decrease of the last step
    scale: Float[Array, ""]  # ‖r‖ at the first guess
    size: Float[Array, ""]  # of J: √ of its largest column's square
    stuck: Bool[Array, ""]
    trials: Int[Array, ""]
    count: Int[Array, ""]

    @property
    def value(self) -> Float[Array, ""]:
        """½‖r‖²."""
        return 0.5 * self.r @ self.r


class _Trial(eqx.Module):
    y: Any
    r: Array
    damping: Array
    growth: Array
    gain: Array
    count: Array
    accepted: Array


class GaussNewton(AbstractPlainSolver, optx.AbstractLeastSquaresSolver):
    """min over y of ½‖r(y)‖² by steps (JᵀJ + λ) δ = −Jᵀr, λ chosen anew for each, with second-order
    correction.

    One Jacobian a step. λ grows until the decrease is at least `gain` of what the linear model predicts; a
    rejected λ costs a factorisation and one residual. δ is then bent along the curvature of r,
    δ₂ = −½ (JᵀJ + λ)⁻¹ Jᵀ r″(δ, δ) (geodesic acceleration), which a network's narrow curved valleys reward
    with less than half of the steps.

    With N scalars in r and n in y, the system is n×n (N ≥ n), or N×N by (JᵀJ + λ)⁻¹Jᵀ = Jᵀ(JJᵀ + λ)⁻¹
    (N < n), both followed by a step of refinement with J itself, which makes up for the squared condition
    number; or it is not formed at all, if both are above `dense`, or with a `linear_solver`.

    Stops when ‖Jᵀr‖/‖J‖ is at most `atol + rtol ‖r(y₀)‖`, ‖J‖ the largest norm of a column. Plain JAX, no
    callback. Also an `optimistix.AbstractLeastSquaresSolver`.

    **Arguments:**

    - `rtol`, `atol`: relative (dimensionless) and absolute (unit of r) tolerance. `rtol` None: 1e-10, which
      float32 only reaches where r nearly vanishes.
    - `damping`: first λ, relative to ‖J‖² (dimensionless).
    - `gain`: least ratio of actual to predicted decrease, in (0, 1). Small: long steps.
    - `acceleration`: the largest 2‖δ₂‖/‖δ‖ with which δ₂ is added; 0 never.
    - `sketch`: None, or form JᵀJ from this many random combinations of the rows (a count sketch), for
      N ≫ n; at least twice n. Gradient and acceptance stay exact.
    - `linear_solver`: of `jaxsci.linear`, for JᵀJ + λ without its matrix. None: by size; CG with a
      randomised Nyström preconditioner above `dense`.
    - `dense`: up to this many of N or n the system is formed.

    **Raises:** `ValueError` for numbers out of their range.

    **Limits:** memory for J, N×n, unless the system is not formed. Local convergence.

    **Reference:** Transtrum & Sethna, arXiv:1201.5885 (2012), for the acceleration; Nielsen, Damping
    parameter in Marquardt's method, IMM-REP-1999-05, for λ.
    """

    rtol: float | None
    atol: float
    damping: float
    gain: float
    acceleration: float
    sketch: int | None = eqx.field(static=True)
    linear_solver: AbstractLinearSolver | None
    dense: int = eqx.field(static=True)
    norm: Callable

    def __init__(
        self,
        rtol: float | None = None,
        atol: float = 0.0,
        *,
        damping: float = 1e-2,
        gain: float = 1e-2,
        acceleration: float = 1.5,
        sketch: int | None = None,
        linear_solver: AbstractLinearSolver | None = None,
        dense: int = 5000,
    ):
        check_tolerances(_RTOL if rtol is None else rtol, atol)
        check_linear_solver(linear_solver)
        if not damping > 0:
            raise ValueError(f"`damping` is {damping!r}; expected a positive number, such as 1e-2.")
        if not 0 < gain < 1:
            raise ValueError(f"`gain` is {gain!r}; expected a number between 0 and 1, such as 1e-2.")
        if not acceleration >= 0:
            raise ValueError(f"`acceleration` is {acceleration!r}; expected a number ≥ 0, such as 1.5.")
        if sketch is not None and sketch < 1:
            raise ValueError(f"`sketch` is {sketch!r}; expected a number of rows, or None.")
        self.rtol = rtol
        self.atol = atol
        self.damping = damping
        self.gain = gain
        self.acceleration = acceleration
        self.sketch = sketch
        self.linear_solver = linear_solver
        self.dense = dense
        self.norm = optx.rms_norm

    @property
    def uses_closed_forms(self):
        """It looks at rows."""
        return False

    def init(self, fn, y, args, options, f_struct, aux_struct, tags):
        count = jnp.array(0)
        r, system, gradient, size = self._linearized(fn, y, args, options, count)
        one = jnp.ones_like(size)
        return _State(
            r,
            system,
            gradient,
            self.damping * size**2,
            2 * one,
            one,
            jnp.linalg.norm(r),
            size,
            jnp.array(False),
            count,
            count,
        )

    def refresh(self, fn, y, args, options, state):
        """The state at the same y after the rows have changed (other points, other weights)."""
        r, system, gradient, size = self._linearized(fn, y, args, options, state.count)
        names = lambda s: (s.r, s.system, s.gradient, s.size, s.stuck)
        return eqx.tree_at(names, state, (r, system, gradient, size, jnp.array(False)))

    def _linearized(self, fn, y, args, options, count):
        r, system = make_system(self, fn, y, args, options, count)
        gradient = system.gradient(fn, y, args, r)
        return r, system, gradient, system.size(fn, y, args)

    def step(self, fn, y, args, options, state, tags):
        flat = lambda y: _tree.ravel(fn(y, args)[0])
        value = state.value
        tiny, eps = jnp.finfo(value.dtype).tiny, jnp.finfo(value.dtype).eps

        def attempt(last: _Trial) -> _Trial:
            lam = last.damping
            solve = state.system.solver(fn, y, args, lam)
            delta = -solve(state.r)
            move = _tree.unravel(delta, y)
            second = jnp.zeros_like(delta)
            if self.acceleration > 0:
                slope = lambda y: jax.jvp(flat, (y,), (move,))[1]
                second = -0.5 * solve(jax.jvp(slope, (y,), (move,))[1])
            bent = 2 * jnp.linalg.norm(second) <= self.acceleration * jnp.linalg.norm(delta)
            move = _tree.unravel(delta + jnp.where(bent, second, 0), y)
            candidate = jax.tree.map(jnp.add, y, move)
            r = flat(candidate)
            # The model decreases by ½ δᵀ(JᵀJ + 2λ)δ, and g = −(JᵀJ + λ)δ.
            predicted = 0.5 * (lam * delta @ delta - state.gradient @ delta)
            gain = (value - 0.5 * r @ r) / jnp.maximum(predicted, tiny)
            accepted = (gain > self.gain) & jnp.all(jnp.isfinite(r))
            floor = eps * state.size**2
            longer = jnp.maximum(1 / 5, 1 - (2 * jnp.clip(gain, 0, 1) - 1) ** 3)
            return _Trial(
                candidate,
                r,
                jnp.where(accepted, jnp.maximum(lam * longer, floor), lam * last.growth),
                jnp.where(accepted, 2.0, 2 * last.growth).astype(lam.dtype),
                gain,
                last.count + 1,
                accepted,
            )

        zero = jnp.zeros_like(value)
        first = _Trial(y, state.r, state.damping, state.growth, zero, jnp.array(0), jnp.array(False))
        first = _tree.vary_like(first, state)
        tried = _tree.while_loop(lambda t: ~t.accepted & (t.count < 16), attempt, first)
        y = _tree.where(tried.accepted, tried.y, y)
        count = state.count + 1
        r, system, gradient, size = self._linearized(fn, y, args, options, count)
        state = _State(
            r,
            system,
            gradient,
            tried.damping,
            jnp.full_like(tried.growth, 2.0),
            jnp.where(tried.accepted, tried.gain, 0),
            state.scale,
            size,
            ~tried.accepted,
            state.trials + tried.count,
            count,
        )
        return y, state, None

    def figures(self, state):
        relative = state.damping / jnp.maximum(state.size**2, jnp.finfo(state.size.dtype).tiny)
        return {"loss": state.value, "damping": relative, "gain": state.gain}

    def status(self, state) -> tuple[Bool[Array, ""], RESULTS]:
        """Whether to stop, and with which result."""
        slope = jnp.linalg.norm(state.gradient)
        rtol = _RTOL if self.rtol is None else self.rtol
        converged = slope <= state.size * (self.atol + rtol * state.scale)
        finite = jnp.isfinite(slope)
        reason = RESULTS.where(finite, RESULTS.stagnated, RESULTS.nonfinite)
        return converged | ~finite | state.stuck, RESULTS.where(converged, RESULTS.successful, reason)

    def postprocess(self, fn, y, aux, args, options, state, tags, result):
        return y, aux, {"linear_iterations": state.trials}
