"""jaxopt's solver objects, with the derivatives of this package."""

import copy
import functools
import inspect
import types
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, PyTree

from .. import _tree
from .._adjoint import AbstractAdjoint, ImplicitAdjoint, attach, check_adjoint
from .._solution import RESULTS, Solution, Stats
from ..residuals import Root


class _Found(NamedTuple):
    """What a jaxopt solver has found."""

    value: PyTree[Array]  # the unknown of `condition`
    condition: Callable  # (value, args, kwargs) ↦ the equations that hold there
    ok: Any  # whether it met its tolerance; None: to be judged by the equations
    state: Any
    finish: Callable = lambda value, args, kwargs: value  # to what jaxopt returns


def run(
    solver: Any,
    init_params: PyTree[Array] = None,
    *args: Any,
    adjoint: AbstractAdjoint = ImplicitAdjoint(),
    throw: bool = True,
    **kwargs: Any,
) -> Solution:
    """`solver.run(init_params, *args, **kwargs)` of a jaxopt solver, with derivatives of every order.

    The solver runs as it was built, without jaxopt's differentiation and on stopped inputs. Then the
    condition that it solves (its own `optimality_fun`; for `OSQP` and `BoxOSQP` an equivalent one that is
    regular also at equality rows and infinite bounds) gives the derivative: forward mode, reverse mode
    and Hessians, also with respect to what the solver's functions close over.

    **Arguments:**

    - `solver`: any solver object of jaxopt, except its line searches.
    - `init_params`, `args`, `kwargs`: what its `run` takes.
    - `adjoint`: how to differentiate.
    - `throw`: raise an error when the solver has not met its own tolerance `tol`. jaxopt does not tell:
      there `maxiter` steps end in silence.

    **Returns:** a `jaxsci.Solution`. `value` is jaxopt's `params` (a `KKTSolution` for quadratic
    programs), `aux` its `state`, not differentiated.

    **Raises:** `TypeError` if `solver` is none of jaxopt's, or if one of its SciPy or CVXPY wrappers is
    called with traced values; `RuntimeError` with the remedy when the solve fails and `throw` is True.

    **Limits:** jaxopt's defaults (`tol=1e-3`) leave errors of that size in value and derivative. Not
    differentiable where the solution is not (a constraint at the edge of being active).
    """
    check_adjoint(adjoint)
    handler = _handler(solver)
    call = inspect.signature(types.MethodType(type(solver).run, solver)).bind(init_params, *args, **kwargs)
    call.apply_defaults()
    first, args, kwargs = call.args[0], call.args[1:], call.kwargs
    found = handler(solver, *_tree.stop_gradient((first, args, kwargs)))
    residual = Root(lambda y, given: found.condition(y, *given))
    value = _tree.stop_gradient(jtu.tree_map(jnp.asarray, found.value))
    at = lambda y: residual(y, _tree.stop_gradient((args, kwargs)))
    size = jax.lax.stop_gradient(_tree.norm(at(value)))
    ok = found.ok
    if ok is None:
        ok = size <= 1e-4 * _tree.norm(at(jtu.tree_map(jnp.zeros_like, value)))
    result = RESULTS.where(jnp.asarray(ok), RESULTS.successful, RESULTS.foreign_failure)
    result = RESULTS.where(jnp.isfinite(size), result, RESULTS.nonfinite)
    failed = result != RESULTS.successful
    if throw and _tree.in_manual_region():
        value = _tree.where(failed, jtu.tree_map(lambda x: jnp.full_like(x, jnp.nan), value), value)
    elif throw:
        value = result.error_if(value, failed)
    value = attach(residual, value, (args, kwargs), adjoint=adjoint)
    # Not by `eqx.partition`: one of jaxopt's states cannot hold anything but arrays.
    state = jtu.tree_map(lambda x: jax.lax.stop_gradient(x) if eqx.is_array(x) else x, found.state)
    fields = {} if state is None else state._asdict()
    steps = fields.get("iter_num")
    steps = jnp.asarray(fields.get("num_fun_eval", 0) if steps is None else steps)
    stats = Stats(steps, size / max(_tree.size(value), 1) ** 0.5, jnp.array(0))
    return Solution(found.finish(value, args, kwargs), state, result, stats)


def _plain(solver: Any) -> Any:
    """A copy that neither differentiates nor unrolls. (Not `dataclasses.replace`: `__post_init__` has
    changed the fields, and does not accept them again.)"""
    plain = copy.copy(solver)
    plain.implicit_diff = False
    plain.unroll = False
    return plain


def _own(solver: Any, *call: Any) -> Any:
    """The `run` of the class, which the instances of some classes replace by a differentiated one."""
    init, args, kwargs = call
    return type(solver).run(solver, init, *args, **kwargs)


def _iterative(solver, init, args, kwargs) -> _Found:
    params, state = _own(_plain(solver), init, args, kwargs)
    condition = lambda y, args, kwargs: solver.optimality_fun(y, *args, **kwargs)
    return _Found(params, condition, state.error <= solver.tol, state)


def _bisection(solver, init, args, kwargs) -> _Found:
    plain = _plain(solver)
    plain.check_bracket = False  # it needs known values; here the sign says the same
    params, state = _own(plain, init, args, kwargs)
    condition = lambda y, args, kwargs: solver._fun_with_aux(y, *args, **kwargs)[0]
    return _Found(params, condition, (state.error <= solver.tol) & (state.sign != 0), state)


def _direct(solver, init, args, kwargs) -> _Found:
    params, state = _own(solver, init, args, kwargs)
    condition = lambda y, args, kwargs: solver.optimality_fun(y, *args, **kwargs)
    return _Found(params, condition, None, state)


def _on_the_host(solver, init, args, kwargs) -> _Found:
    if any(isinstance(x, jax.core.Tracer) for x in jtu.tree_leaves((init, args, kwargs))):
        raise TypeError(
            f"`solver` is jaxopt's {type(solver).__name__}, which runs on the host and needs known values, "
            "but the arguments are traced (by `jit` or `vmap`). Use jaxsci.solvers.External, for example "
            "External.scipy_minimize(), in jaxsci.solve."
        )
    found = _direct(solver, init, args, kwargs)
    return found if found.state is None else found._replace(ok=found.state.success)


def _line_search(solver, init, args, kwargs) -> _Found:
    raise TypeError(
        f"`solver` is {type(solver).__name__}, a line search: its result solves no equation that could be "
        "differentiated. Pass a solver, such as jaxopt.LBFGS(fun)."
    )


def _box_osqp(solver, init, args, kwargs) -> _Found:
    """min ½ xᵀQx + cᵀx subject to l ≤ A x ≤ u, whose conditions in x and the multiplier y of A x are

        Qx + c + Aᵀy = 0,   A x = clip(A x + y, l, u).

    jaxopt's have one multiplier for each of the two bounds, and λ∘g = 0; they are singular where l = u or
    where a bound is infinite."""
    params, state = _own(_plain(solver), init, args, kwargs)
    kkt = type(params)

    def parts(pair, objective, matrix):
        x, y = pair
        zero = jtu.tree_map(jnp.zeros_like, y)
        rows = solver.optimality_fun(kkt((x, zero), y, (zero, zero)), objective, matrix, (zero, zero))
        return rows.primal[0], rows.dual_eq  # Qx + c + Aᵀy and A x

    def condition(pair, args, kwargs):
        objective, matrix, (lower, upper) = args
        gradient, product = parts(pair, objective, matrix)

        def row(z, y, low, high):
            return jnp.where(low == high, z - (low + high) / 2, z - jnp.clip(z + y, low, high))

        return gradient, jtu.tree_map(row, product, pair[1], lower, upper)

    def finish(pair, args, kwargs):
        _, product = parts(pair, *args[:2])
        above = jtu.tree_map(lambda y: jnp.maximum(y, 0), pair[1])
        below = jtu.tree_map(lambda y: jnp.maximum(-y, 0), pair[1])
        return kkt((pair[0], product), pair[1], (above, below))

    solvable = (state.status != solver.PRIMAL_INFEASIBLE) & (state.status != solver.DUAL_INFEASIBLE)
    ok = (state.error <= solver.tol) & solvable
    return _Found((params.primal[0], params.dual_eq), condition, ok, state, finish)


def _osqp(solver, init, args, kwargs) -> _Found:
    """A x = b and G x ≤ h as the rows of a `BoxOSQP`."""
    forms, form = _forms(), solver.matvec_A_box
    boxed = lambda init, args: forms.transform(form, init, *args)
    if init is None:
        init = solver.init_params(None, *args)
    start, problem, sizes = boxed(init, args)
    order = ("params_obj", "params_eq", "params_ineq")
    rows = lambda args: tuple(boxed(None, args)[1][name] for name in order)
    box = _box_osqp(solver._box_osqp, start, tuple(problem[name] for name in order), {})

    def finish(pair, args, kwargs):
        return forms.inverse_transform(form, sizes, box.finish(pair, rows(args), {}))

    condition = lambda pair, args, kwargs: box.condition(pair, rows(args), {})
    return box._replace(condition=condition, finish=finish)


def _forms() -> Any:
    from jaxopt._src.osqp import OSQP_to_BoxOSQP

    return OSQP_to_BoxOSQP


@functools.cache
def _handlers() -> dict[type, Callable]:
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        import jaxopt
        from jaxopt._src import base, scipy_wrappers
    return {
        base.IterativeSolver: _iterative,
        base.IterativeLineSearch: _line_search,
        scipy_wrappers.ScipyWrapper: _on_the_host,
        jaxopt.Bisection: _bisection,
        jaxopt.BoxOSQP: _box_osqp,
        jaxopt.OSQP: _osqp,
        jaxopt.EqualityConstrainedQP: _direct,
        jaxopt.CvxpyQP: _on_the_host,
    }


def _handler(solver: Any) -> Callable:
    handlers = _handlers()
    known = [handlers[kind] for kind in type(solver).__mro__ if kind in handlers]
    if len(known) == 0:
        raise TypeError(
            f"`solver` is {solver!r} of type {type(solver).__name__}; expected a solver object of jaxopt, "
            "such as jaxopt.LBFGS(fun). Solvers of other libraries go into jaxsci.solve."
        )
    return known[0]
