"""Newton's method for roots."""

import dataclasses
import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optimistix as optx
from jaxtyping import Array, Bool

from .. import _tree
from .._solution import RESULTS
from ..linear import AbstractLinearSolver, Operator, Reuse, default_solver
from ..linear._operator import linearized
from ..linear._solver import check_linear_solver
from ._globalization import Progress, backtrack, relative_length, start
from ._plain import AbstractPlainSolver, check_tolerances


class _State(eqx.Module):
    progress: Progress
    factors: Any  # of the Jacobian that made the last step; None if they are not kept


class Newton(AbstractPlainSolver, optx.AbstractRootFinder):
    """y ← y − t (∂F/∂y)⁻¹ F(y, θ), with t = 1, ½, ¼, … until ‖F‖ falls.

    Stops when a full step is shorter than `atol + rtol ‖y‖` (root-mean-square norms), which in the
    quadratic phase bounds the error by the square of that; with a direct linear solver, when the next step
    with the same factors is, and takes it. Plain JAX: runs inside `jax.shard_map`,
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
        check_linear_solver(linear_solver)
        self.rtol = rtol
        self.atol = atol
        self.linear_solver = linear_solver
        self.halvings = halvings
        self.norm = optx.rms_norm

    def init(self, fn, y, args, options, f_struct, aux_struct, tags):
        progress = start(lambda y: fn(y, args)[0], y)
        factors = None
        if "factors" in options and self._linear(Operator(lambda v: v, y, None, tags)).direct:
            residual = lambda y: fn(y, args)[0]
            shapes = jax.eval_shape(lambda: self._factorised(residual, y, tags)[2])
            factors = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        return _State(progress, factors)

    def step(self, fn, y, args, options, state, tags):
        rule = options.get("linear_rule")
        if rule is None:
            y, state, _, _ = self._advance(fn, y, args, state, tags, options.get("preconditioner"), True)
            return y, state, None
        # An estimator differentiates this step and says how a linear solve is differentiated. Solve and
        # search, which are loops, run on stopped values; step lengths are constants.
        _, found, step, t = self._advance(*_tree.stop_gradient((fn, y, args, state)), tags)
        residual = lambda y: fn(y, args)[0]
        step = rule(lambda v: jax.jvp(residual, (y,), (v,))[1], step, state.progress.f)
        y = _tree.axpy(-t, step, y)
        return y, eqx.tree_at(lambda s: s.progress.f, found, residual(y)), None

    def _advance(self, fn, y, args, state, tags, near=None, chord=False):
        """The next point and state, the full Newton step and the fraction of it that was taken."""
        residual = lambda y: fn(y, args)[0]
        solver, operator, factors = self._factorised(residual, y, tags, near)
        before = state.progress
        step, ok, iterations = _solved(solver, operator, factors, before.f)
        direction = jax.tree.map(jnp.negative, step)
        short = relative_length(direction, y, self.rtol, self.atol)
        t, f, size, gained = backtrack(residual, y, direction, before.size, 1.0, short <= 1, self.halvings)
        y = _tree.axpy(t, direction, y)
        relative = jnp.where(t == 1, short, jnp.inf)
        if chord and solver.direct:
            # The factors tell what one more step would be, but for a part of the size of this step. If
            # that is inside the tolerance, and a tenth of this step at most, it is taken as the last one.
            last, solved, _ = _solved(solver, operator, factors, f)
            length = relative_length(last, y, self.rtol, self.atol)
            final = (t == 1) & solved & (length <= 1) & (length <= 0.1 * short)
            y = _tree.where(final, _tree.axpy(-1.0, last, y), y)
            relative = jnp.where(final, length, relative)
        count = before.linear_iterations + iterations
        kept = None if state.factors is None else factors
        return y, _State(Progress(f, size, relative, ~gained, ~ok, count), kept), step, t

    def _factorised(self, residual, y, tags, near=None):
        """The linear solver, the Jacobian, and what the solver prepares for it."""
        near = None if near is None else functools.partial(near, y)
        operator = Operator(lambda v: jax.jvp(residual, (y,), (v,))[1], y, None, tags, near)
        solver = self._linear(operator)
        if not solver.direct:
            operator = dataclasses.replace(operator, mv=linearized(residual, y))
        return solver, operator, solver.prepare(operator)

    def _linear(self, operator):
        # Unrefined: the next step corrects what this one leaves.
        return default_solver(operator, refinements=0) if self.linear_solver is None else self.linear_solver

    def status(self, state) -> tuple[Bool[Array, ""], RESULTS]:
        """Whether to stop, and with which result."""
        return state.progress.status

    def postprocess(self, fn, y, aux, args, options, state, tags, result):
        stats = {"linear_iterations": state.progress.linear_iterations}
        if len(jax.tree.leaves(state.factors)) > 0:
            solver = self._linear(Operator(lambda v: v, y, None, tags))
            stats["factorised"] = Reuse(solver, state.factors)
        return y, aux, stats


def _solved(solver, operator, factors, b):
    """A⁻¹b, whether it can be used, iterations. The equations themselves check what factors gave: only
    NaN, of a singular matrix, is looked for."""
    if not solver.direct:
        return solver.solve(operator, factors, b)
    x, iterations = solver.apply(operator, factors, b, False)
    return x, jnp.isfinite(_tree.norm(x)), iterations
