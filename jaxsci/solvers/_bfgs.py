"""BFGS in the metric of the problem."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optimistix as optx
from jaxtyping import Array, Bool, Float, Int

from .. import _tree
from .._solution import RESULTS
from ._plain import AbstractPlainSolver, check_tolerances


class _State(eqx.Module):
    factor: Float[Array, "n n"]  # lower Cholesky factor L of the metric; z = Lᵀ y
    value: Float[Array, ""]
    gradient: Float[Array, " n"]  # with respect to z
    inverse: Float[Array, "n n"]  # of the Hessian with respect to z, approximately
    length: Float[Array, ""]  # of the next step; 1 after an accepted one
    scale: Float[Array, ""]
    rejected: Int[Array, ""]


class BFGS(AbstractPlainSolver, optx.AbstractMinimiser):
    """min over y of f(y) by BFGS from the inverse of the problem's metric, with backtracking.

    In the coordinates z = Lᵀy of the metric M = L Lᵀ (`AbstractResidual.metric`, the Hessian of the
    linearised problem for `StructuredLeastSquares`; the identity if there is none) the first step is
    that of the linearised problem, and updates learn what is nonlinear. An iteration needs one value
    and gradient, and no Jacobian: many times cheaper than a Levenberg–Marquardt step, for two or three
    times as many steps.

    Stops when ‖∇f‖ in the norm of M⁻¹ is at most `atol + rtol` times its first scale: √(2f(y₀)) where
    f = ½‖F‖² has a metric, else ‖∇f(y₀)‖. Plain JAX on dense n×n arrays, without callbacks, also inside
    `jax.shard_map`; under `vmap` every lane stops on its own and keeps its value. Also an
    `optimistix.AbstractMinimiser`.

    **Arguments:**

    - `rtol`, `atol`: relative (dimensionless) and absolute tolerance.

    **Limits:** O(n²) a step; needs f once differentiable. A step that decreases f neither at full
    length nor after 30 halvings ends the solve as stagnated.

    **Reference:** Nocedal & Wright, Numerical Optimization, 2nd ed., §6.1.
    """

    rtol: float
    atol: float
    norm: Any

    def __init__(self, rtol: float = 1e-6, atol: float = 0.0):
        check_tolerances(rtol, atol)
        self.rtol = rtol
        self.atol = atol
        self.norm = optx.rms_norm

    def init(self, fn, y, args, options, f_struct, aux_struct, tags):
        value, gradient = _value_and_gradient(fn, y, args, options)
        n = gradient.size
        if "metric" in options:
            factor = jnp.linalg.cholesky(options["metric"](y, args))
        else:
            factor = jnp.eye(n, dtype=gradient.dtype)
        gradient = _down(factor, gradient)
        slope = jnp.linalg.norm(gradient)
        scale = jnp.sqrt(2 * value) if "metric" in options else slope
        return _State(
            factor,
            value,
            gradient,
            jnp.eye(n, dtype=gradient.dtype),
            # Without a metric the first step has length one at most.
            jnp.ones_like(value) if "metric" in options else 1 / jnp.maximum(slope, 1),
            scale,
            jnp.array(0),
        )

    def step(self, fn, y, args, options, state, tags):
        precise = jax.lax.Precision.HIGHEST
        direction = -jnp.matmul(state.inverse, state.gradient, precision=precise)
        slope = jnp.vdot(state.gradient, direction)
        move = state.length * _up(state.factor, direction)
        candidate = jax.tree.map(jnp.add, y, _tree.unravel(move, y))
        value, gradient = _value_and_gradient(fn, candidate, args, options)
        gradient = _down(state.factor, gradient)
        small, tiny = jnp.finfo(value.dtype).eps, jnp.finfo(value.dtype).tiny
        # Where the decrease is lost in rounding, a smaller gradient decides.
        flat = -slope <= 100 * small * jnp.abs(state.value)
        shorter = jnp.linalg.norm(gradient) < jnp.linalg.norm(state.gradient)
        descent = value <= state.value + 1e-4 * state.length * slope
        accepted = (descent | (flat & shorter)) & jnp.isfinite(value)
        s, change = state.length * direction, gradient - state.gradient
        curvature = jnp.vdot(s, change)
        bound = 1e-12 * jnp.linalg.norm(s) * jnp.linalg.norm(change)
        curved = accepted & (curvature > bound)
        rho = 1 / jnp.where(curved, curvature, 1)
        hy = jnp.matmul(state.inverse, change, precision=precise)
        cross = jnp.outer(hy, s)
        updated = state.inverse - rho * (cross + cross.T)
        updated = updated + rho * (1 + rho * jnp.vdot(change, hy)) * jnp.outer(s, s)
        # The minimum of the parabola through both values and the slope, within [0.1, 0.5] of the step.
        excess = value - state.value - state.length * slope
        shrunk = jnp.clip(-slope * state.length / (2 * jnp.maximum(excess, tiny)), 0.1, 0.5)
        shrunk = jnp.where(jnp.isfinite(shrunk), shrunk, 0.1)
        keep = lambda a, b: jax.tree.map(lambda u, v: jnp.where(accepted, u, v), a, b)
        state = _State(
            state.factor,
            keep(value, state.value),
            keep(gradient, state.gradient),
            jnp.where(curved, updated, state.inverse),
            jnp.where(accepted, 1.0, state.length * shrunk),
            state.scale,
            jnp.where(accepted, 0, state.rejected + 1),
        )
        return keep(candidate, y), state, None

    def status(self, state) -> tuple[Bool[Array, ""], RESULTS]:
        """Whether to stop, and with which result."""
        slope = jnp.linalg.norm(state.gradient)
        converged = slope <= self.atol + self.rtol * state.scale
        finite = jnp.isfinite(slope) & jnp.isfinite(state.value)
        stuck = state.rejected >= 30
        reason = RESULTS.where(finite, RESULTS.stagnated, RESULTS.nonfinite)
        return converged | ~finite | stuck, RESULTS.where(converged, RESULTS.successful, reason)

    def postprocess(self, fn, y, aux, args, options, state, tags, result):
        return y, aux, {"linear_iterations": jnp.array(0)}


def _value_and_gradient(fn, y, args, options) -> tuple[Array, Array]:
    if "value_and_gradient" in options:
        return options["value_and_gradient"](y, args)
    value, gradient = jax.value_and_grad(lambda y: fn(y, args)[0])(y)
    return value, _tree.ravel(gradient)


def _down(factor: Array, gradient: Array) -> Array:
    """L⁻¹ g: a gradient with respect to y as one with respect to z."""
    return jax.scipy.linalg.solve_triangular(factor, gradient, lower=True)


def _up(factor: Array, z: Array) -> Array:
    """L⁻ᵀ z: y from z."""
    return jax.scipy.linalg.solve_triangular(factor, z, lower=True, trans=1)
