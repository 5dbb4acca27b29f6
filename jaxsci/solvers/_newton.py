"""Newton's method for roots."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optimistix as optx
from jaxtyping import Array, Bool, PyTree

from .. import _tree
from ..linear import AbstractLinearSolver, Operator, default_solver


class _NewtonState(eqx.Module):
    f: PyTree[Array]
    size: Array  # ‖F‖₂ at the current point
    relative_step: Array  # ‖step‖ / (atol + rtol ‖y‖), as root-mean-squares
    stalled: Bool[Array, ""]
    singular: Bool[Array, ""]
    linear_iterations: Array


class Newton(optx.AbstractRootFinder):
    """y ← y − t (∂F/∂y)⁻¹ F(y, θ), with t = 1, ½, ¼, … until ‖F‖ falls.

    Stops when a full step is shorter than `atol + rtol ‖y‖` (root-mean-square norms), which in the
    quadratic phase bounds the error by the square of that. Plain JAX: runs inside `jax.shard_map`,
    without callbacks, and keeps the sharding of the unknown with a matrix-free `linear_solver`. Also an
    `optimistix.AbstractRootFinder`.

    **Arguments:**

    - `rtol`, `atol`: relative (dimensionless) and absolute (unit of y) tolerance of the step.
    - `linear_solver`: a `jaxsci.linear` solver; None: `jaxsci.linear.default_solver`.
    - `halvings`: step halvings tried before the step is called stalled.

    **Limits:** local convergence; a stalled or singular step is reported, never returned as success.
    """

    rtol: float
    atol: float
    linear_solver: AbstractLinearSolver | None
    halvings: int
    norm: Any

    def __init__(self, rtol: float, atol: float, *, linear_solver=None, halvings: int = 20):
        check_tolerances(rtol, atol)
        self.rtol = rtol
        self.atol = atol
        self.linear_solver = linear_solver
        self.halvings = halvings
        self.norm = optx.rms_norm

    def init(self, fn, y, args, options, f_struct, aux_struct, tags):
        f, _ = fn(y, args)
        size = _tree.norm(f)
        no = jnp.array(False)
        return _NewtonState(f, size, jnp.full_like(size, jnp.inf), no, no, jnp.array(0))

    def step(self, fn, y, args, options, state, tags):
        residual = lambda y: fn(y, args)[0]
        f, push, aux = _linearize(residual, fn, y, args)
        operator = Operator(push, y, None, tags)
        solver = default_solver(operator) if self.linear_solver is None else self.linear_solver
        step, ok, iterations = solver.solve(operator, solver.prepare(operator), f)
        direction = jax.tree.map(jnp.negative, step)

        def too_long(carry):
            k, _, new_size = carry
            # Descent of ½‖F‖² along the Newton direction is −‖F‖² t: Armijo with constant 1e-4. Close
            # to the solution rounding hides descent: a step inside the tolerance is always taken.
            t = 0.5**k
            enough = new_size <= (1 - 1e-4 * t) * state.size
            return (k < self.halvings) & ~enough & ~(short <= 1)

        def halve(carry):
            k, _, _ = carry
            new = residual(_tree.axpy(0.5 ** (k + 1.0), direction, y))
            return k + 1, new, _tree.norm(new)

        short = self._relative(direction, y)
        new = residual(_tree.axpy(1.0, direction, y))
        k, new, size = _tree.while_loop(too_long, halve, (0, new, _tree.norm(new)))
        stalled = (k >= self.halvings) & ~(size < state.size)
        y = _tree.axpy(0.5**k, direction, y)
        relative = jnp.where(k == 0, short, jnp.inf)
        count = state.linear_iterations + iterations
        return y, _NewtonState(new, size, relative, stalled, ~ok, count), aux

    def _relative(self, step, y):
        count = _tree.size(y) ** 0.5
        return _tree.norm(step) / count / (self.atol + self.rtol * _tree.norm(y) / count)

    def terminate(self, fn, y, args, options, state, tags):
        exact = state.size == 0
        # NaN compares false everywhere: neither converged nor still running.
        finite = jnp.isfinite(state.size) & ~state.singular
        converged = (state.relative_step <= 1) | exact
        done = converged | ~finite | state.stalled
        diverged = optx.RESULTS.where(
            finite, optx.RESULTS.nonlinear_divergence, optx.RESULTS.nonfinite
        )
        failed = state.stalled | ~finite
        return done, optx.RESULTS.where(failed & ~converged, diverged, optx.RESULTS.successful)

    def postprocess(self, fn, y, aux, args, options, state, tags, result):
        return y, aux, {"linear_iterations": state.linear_iterations}


def _linearize(residual, fn, y, args):
    """F(y), the linear map v ↦ ∂F/∂y v, and the auxiliary output."""
    f, aux = fn(y, args)
    return f, lambda v: jax.jvp(residual, (y,), (v,))[1], aux


def check_tolerances(rtol: float, atol: float) -> None:
    """Refuse tolerances with which no solver can stop properly."""
    for name, value in (("rtol", rtol), ("atol", atol)):
        if not (isinstance(value, jax.Array | float | int)) or (
            not isinstance(value, jax.core.Tracer) and not (0 <= value < float("inf"))
        ):
            raise ValueError(f"`{name}` is {value!r}; expected a finite number ≥ 0, such as 1e-8.")
    if not isinstance(rtol, jax.core.Tracer) and not isinstance(atol, jax.core.Tracer):
        if rtol == 0 and atol == 0:
            raise ValueError("`rtol` and `atol` are both 0; expected one of them positive, such as 1e-8.")
