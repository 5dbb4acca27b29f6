"""Steady states that a diffrax solve finds."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, PyTree

from .. import _tree
from .._adjoint import AbstractAdjoint, ImplicitAdjoint
from .._residual import hoist
from .._solution import RESULTS, Solution, Stats
from .._solve import solve
from ..residuals import Root
from ..solvers import Newton


def steady_state(
    vector_field: Callable,
    y0: PyTree[Array],
    args: PyTree[Any] = None,
    *,
    solver: Any = None,
    t1: float = 1e4,
    dt0: float | None = None,
    rtol: float = 1e-5,
    atol: float = 1e-7,
    steady_rtol: float = 1e-4,
    steady_atol: float = 1e-6,
    root_finder: Any = None,
    adjoint: AbstractAdjoint = ImplicitAdjoint(),
    throw: bool = True,
    max_steps: int = 4096,
) -> Solution:
    """The state y* with f(t, y*, θ) = 0 to which dy/dt = f(t, y, θ) goes from y0, and its derivatives.

    diffrax integrates until ‖f‖ is within the tolerance, which chooses the steady state; a root finder
    makes it exact; the derivative is that of f(y*, θ) = 0 and costs one linear solve, whatever the
    length of the trajectory. In place of `diffrax.ImplicitAdjoint`, whose derivative is as inexact as the
    state at which the integration stopped.

    **Arguments:**

    - `vector_field`: f, (t, y, args) ↦ dy/dt of the structure of y; it must not depend on t at the end.
    - `y0`: initial state; it chooses the steady state, and its derivative is zero.
    - `args`: θ, passed to f; any pytree.
    - `solver`: a diffrax solver; None: `diffrax.Kvaerno5()`, for stiff equations.
    - `t1`: latest time (unit of t); `dt0`: first time step, None for a choice by diffrax.
    - `rtol`, `atol`: of the time stepping (dimensionless; unit of y).
    - `steady_rtol`, `steady_atol`: integration ends where ‖f‖ ≤ steady_atol + steady_rtol ‖y‖ (units 1/t
      and y/t). Wider than the stepping's, whose errors keep f from vanishing; smaller for slow dynamics.
    - `root_finder`: what makes f vanish from there; None: `jaxsci.solvers.Newton(1e-10, 1e-10)` (1e-5 in
      float32).
    - `adjoint`: how to differentiate.
    - `throw`: raise an error when the state is not steady at `t1`, or the root finder fails.
    - `max_steps`: time steps at most.

    **Returns:** a `jaxsci.Solution`; `stats.steps` counts time steps.

    **Raises:** `RuntimeError` when the solve fails and `throw` is True.

    **Limits:** not inside `jax.shard_map` (diffrax). Where f has a family of steady states (a conserved
    quantity), ∂f/∂y is singular: `adjoint=jaxsci.ImplicitAdjoint(well_posed=False)`, with a
    `root_finder` that takes singular systems.
    """
    import diffrax

    y0 = jtu.tree_map(jnp.asarray, y0)
    dtype = jnp.result_type(*jtu.tree_leaves(y0))
    time = jnp.zeros((), jnp.finfo(dtype).dtype)
    pure, consts = hoist(lambda t, y: vector_field(t, y, args), time, y0)
    field = lambda t, y, consts: _tree.shaped_like(y, pure.flat(consts, t, *jtu.tree_leaves(y)))
    found = diffrax.diffeqsolve(
        diffrax.ODETerm(field),
        diffrax.Kvaerno5() if solver is None else solver,
        t0=0.0,
        t1=t1,
        dt0=dt0,
        y0=_tree.stop_gradient(y0),
        args=_tree.stop_gradient(consts),
        stepsize_controller=diffrax.PIDController(rtol=rtol, atol=atol),
        event=diffrax.Event(diffrax.steady_state_event(rtol=steady_rtol, atol=steady_atol)),
        max_steps=max_steps,
        throw=False,
    )
    steady = found.result == diffrax.RESULTS.event_occurred
    last = jtu.tree_map(lambda y: y[-1], found.ys)
    if root_finder is None:
        tolerance = 1e-10 if jnp.finfo(dtype).eps < 1e-10 else 1e-5
        root_finder = Newton(rtol=tolerance, atol=tolerance)
    condition = Root(lambda y, args: vector_field(jnp.asarray(t1, time.dtype), y, args))
    if throw:
        last = RESULTS.foreign_failure.error_if(last, ~steady)
    solution = solve(condition, root_finder, last, args, adjoint=adjoint, throw=throw)
    result = RESULTS.where(steady, solution.result, RESULTS.foreign_failure)
    steps = jnp.asarray(found.stats["num_steps"])
    stats = Stats(steps, solution.stats.residual_norm, solution.stats.linear_iterations)
    return Solution(solution.value, None, result, stats)
