"""Running any solver, ours or another library's, on a function of (y, consts)."""

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import equinox as eqx
import jax.numpy as jnp
import jax.tree_util as jtu
import optax
import optimistix as optx
from jaxtyping import Array, PyTree

from .. import _tree
from .._solution import RESULTS
from ..linear import AbstractLinearSolver
from ._newton import Newton
from ._picard import Picard

UNROLLABLE = (Newton, Picard)
"""The solvers of this package whose steps can be differentiated; the others search in loops."""


class Outcome(eqx.Module):
    """What a solver found: the value, how it ended, its counts, and the Hessian or the factors of the
    Jacobian if it holds them."""

    value: PyTree[Array]
    result: RESULTS
    steps: Array
    linear_iterations: Array
    hessian: Array | None = None
    factorised: AbstractLinearSolver | None = None


@runtime_checkable
class JaxoptSolver(Protocol):
    """The shape of a jaxopt solver; recognised without importing jaxopt."""

    def run(self, init_params: Any, *args: Any) -> Any: ...
    def init_state(self, init_params: Any, *args: Any) -> Any: ...
    def update(self, params: Any, state: Any, *args: Any) -> Any: ...


def iterate(
    fn: Callable,
    solver: Any,
    y0: PyTree[Array],
    consts: PyTree,
    max_steps: int,
    tags: frozenset,
    options: dict[str, Any],
    loop: Callable = _tree.while_loop,
) -> Outcome:
    """Drive one of our solvers: init, then step until it says it is done or `max_steps` are spent."""
    state = solver.init(fn, y0, consts, options, None, None, tags)

    def unfinished(carry):
        k, _, _, done, _ = carry
        return ~done & (k < max_steps)

    def advance(carry):
        k, y, state, _, _ = carry
        y, state, _ = solver.step(fn, y, consts, options, state, tags)
        return k + 1, y, state, *solver.status(state)

    first = (jnp.array(0), y0, state, *solver.status(state))
    k, y, state, done, result = loop(unfinished, advance, first)
    result = RESULTS.where(done, result, RESULTS.nonlinear_max_steps_reached)
    y, _, stats = solver.postprocess(fn, y, None, consts, options, state, tags, result)
    return Outcome(y, result, k, stats["linear_iterations"], stats.get("hessian"), stats.get("factorised"))


def run_optimistix(entry: Callable, fn, solver, y0, consts, max_steps, tags, options, adjoint) -> Outcome:
    """`optimistix.root_find`, `.fixed_point`, `.least_squares` or `.minimise`."""
    solution = entry(
        fn, solver, y0, consts, options=options, max_steps=max_steps, throw=False, has_aux=True, tags=tags,
        adjoint=adjoint,
    )  # fmt: skip
    steps = jnp.asarray(solution.stats["num_steps"])
    return Outcome(solution.value, RESULTS.promote(solution.result), steps, jnp.array(0))


def run_jaxopt(solver: JaxoptSolver, y0: PyTree[Array], args: PyTree, unroll: bool = False) -> Outcome:
    """`solver.run(y0, args)` on the solver's own function, without jaxopt's implicit differentiation."""
    if dataclasses.is_dataclass(solver):
        # Its custom derivative refuses closures over differentiated values, and is not used here.
        names = {f.name for f in dataclasses.fields(solver)}
        plain = {n: on for n, on in (("implicit_diff", False), ("unroll", unroll)) if n in names}
        solver = dataclasses.replace(solver, **plain)
    found = solver.run(y0) if args is None else solver.run(y0, args)
    error = jnp.asarray(found.state.error)
    result = RESULTS.where(
        error <= solver.tol,
        RESULTS.successful,
        RESULTS.where(jnp.isfinite(error), RESULTS.foreign_failure, RESULTS.nonfinite),
    )
    return Outcome(found.params, result, jnp.asarray(found.state.iter_num), jnp.array(0))


def optax_minimiser(optimizer: optax.GradientTransformation, y0: PyTree[Array]) -> optx.OptaxMinimiser:
    """An optax optimizer as a minimiser that stops when step and decrease fall below √precision."""
    dtype = jnp.result_type(*jtu.tree_leaves(y0))
    tolerance = float(jnp.finfo(dtype).eps) ** 0.5
    return optx.OptaxMinimiser(optimizer, rtol=tolerance, atol=tolerance)
