"""Spine 3: any solver makes F vanish, one rule differentiates the vanishing."""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import optax
import optimistix as optx
from jaxtyping import Array, PyTree

from . import _tree
from ._adjoint import AbstractAdjoint, ImplicitAdjoint, check_adjoint
from ._residual import AbstractResidual, check_residual, check_square, hoist
from ._solution import RESULTS, Solution, Stats
from .solvers._external import External, run_external
from .solvers._plain import AbstractPlainSolver
from .solvers._run import (
    UNROLLABLE,
    JaxoptSolver,
    Outcome,
    iterate,
    optax_minimiser,
    run_jaxopt,
    run_optimistix,
)


def solve(
    residual: AbstractResidual,
    solver: Any,
    y0: PyTree[Array],
    args: PyTree[Any] = None,
    *,
    adjoint: AbstractAdjoint = ImplicitAdjoint(),
    has_aux: bool = False,
    throw: bool = True,
    max_steps: int = 256,
    options: dict[str, Any] | None = None,
) -> Solution:
    """Find y with F(y, θ) = 0 and give it its derivatives with respect to θ.

    The solver runs on stopped inputs; the derivative comes from `adjoint` alone and does not depend on
    how y was found. dy/dy0 is exactly zero.

    **Arguments:**

    - `residual`: F, a `jaxsci` residual.
    - `solver`: what finds y. A solver of `jaxsci.solvers`; any optimistix root finder (drives
      `root`, by default the optimality condition, to zero), fixed-point solver (iterates
      `fixed_point`, by default y − F), least-squares solver (reduces ‖F‖²) or minimiser
      (reduces the objective); an `optax.GradientTransformation`; or a jaxopt solver object,
      which works on the function it was built with and is called as `solver.run(y0, args)`.
    - `y0`: first guess, a pytree of floating arrays; fixes structure, shapes and precision.
    - `args`: passed to the residual; a pytree with leaves of any type (arrays, numbers, strings,
      None, callables, modules).
    - `adjoint`: `jaxsci.ImplicitAdjoint()` by default.
    - `has_aux`: the residual's function returns (value, aux); aux at the solution is returned.
    - `throw`: raise an error when the solve fails. Where no error can be raised (inside
      `jax.shard_map`) the value of a failed lane is NaN instead. With False, look at
      `solution.result`; use it for `jax.export` too.
    - `max_steps`: iterations at most (jaxopt solvers use their own `maxiter`).
    - `options`: passed to optimistix.

    **Returns:** a `jaxsci.Solution` (value, aux, result, stats).

    **Raises:** `TypeError` or `ValueError` at once for wrong arguments; `RuntimeError` with the
    remedy when the solve fails and `throw` is True.
    """
    y0 = _checked_guess(y0)
    _check_problem(residual, solver, adjoint, max_steps)
    y0 = _tree.vary_like(y0, residual, args)
    function = residual
    if has_aux:
        residual = _without_aux(residual)
    unrolled = adjoint.loop is not None
    outcome = _find(residual, solver, y0, args, max_steps, options, adjoint)
    result = outcome.result
    value = jtu.tree_map(lambda x, like: jnp.asarray(x, like.dtype), outcome.value, y0)
    if not unrolled:
        value = _tree.stop_gradient(value)
    equations = residual.optimality(*_tree.stop_gradient((value, args)))
    size = _tree.norm(jax.lax.stop_gradient(equations)) / max(_tree.size(value), 1) ** 0.5
    result = RESULTS.where((result == RESULTS.successful) & ~jnp.isfinite(size), RESULTS.nonfinite, result)
    if throw:
        # Before the derivative is attached: a check is no part of what is differentiated.
        failed = result != RESULTS.successful
        if _tree.in_manual_region():
            value = _tree.where(failed, jtu.tree_map(lambda x: jnp.full_like(x, jnp.nan), value), value)
        else:
            value = result.error_if(value, failed)
    if not unrolled:
        known = residual if outcome.hessian is None else residual.with_hessian(outcome.hessian)
        if outcome.factorised is not None:
            adjoint = adjoint.reusing(_tree.stop_gradient(outcome.factorised))
        value = adjoint.attach(known, value, args)
    aux = function.fn(value, args)[1] if has_aux else None
    return Solution(value, aux, result, Stats(outcome.steps, size, outcome.linear_iterations))


def _find(residual, solver, y0, args, max_steps, options, adjoint) -> Outcome:
    """Run the solver on the face of the residual that its kind works on; on stopped inputs, unless its
    iterations are to be differentiated."""
    loop = adjoint.loop
    stopped = _tree.stop_gradient if loop is None else lambda tree: tree
    y0 = stopped(y0)
    if isinstance(solver, optax.GradientTransformation):
        solver = optax_minimiser(solver, y0)
    if isinstance(solver, JaxoptSolver):
        return run_jaxopt(solver, y0, stopped(args), loop is not None)
    if isinstance(solver, External):
        return run_external(solver, residual, y0, args)
    if isinstance(solver, optx.AbstractRootFinder):
        face, entry = residual.root, optx.root_find
    elif isinstance(solver, optx.AbstractFixedPointSolver):
        face, entry = residual.fixed_point, optx.fixed_point
    elif isinstance(solver, optx.AbstractLeastSquaresSolver):
        face, entry = residual, optx.least_squares
    else:
        face, entry = residual.objective, optx.minimise
    closed = {}
    if isinstance(solver, AbstractPlainSolver) and solver.uses_closed_forms and loop is None:
        closed, held = _closed_forms(residual, solver, y0, args)
        y0 = _tree.vary_like(y0, held)
        if "normal_equations" in closed or "value_and_gradient" in closed:
            # The solver needs nothing else of the residual.
            return iterate(None, solver, y0, (), max_steps, residual.tags, closed)
    pure, consts = hoist(lambda y: face(y, args), y0)
    consts = stopped(consts)
    fn = lambda y, consts: (pure(y, consts), None)
    if entry is optx.root_find:
        check_square(residual, pure, y0)
        fn = lambda y, consts: (_tree.shaped_like(y, pure(y, consts)), None)
    if isinstance(solver, AbstractPlainSolver):
        y0 = _tree.vary_like(y0, consts)
        if loop is not None:
            loop = functools.partial(loop, max_steps=max_steps)
            return iterate(fn, solver, y0, consts, max_steps, residual.tags, adjoint.options, loop)
        if adjoint.reuses(y0) and residual.jacobian(y0, args) is None:
            closed["factors"] = True
        if residual.preconditioner(y0, args) is not None:
            near, of_near = hoist(lambda y, r: residual.preconditioner(y, args)(r), y0, y0)
            of_near = _tree.stop_gradient(of_near)
            leaves = jtu.tree_leaves
            closed["preconditioner"] = lambda y, r: _tree.shaped_like(
                y, near.flat(of_near, *leaves(y), *leaves(r))
            )
        return iterate(fn, solver, y0, consts, max_steps, residual.tags, closed)
    tags = residual.tags if entry is optx.root_find else frozenset()
    adjoint = optx.ImplicitAdjoint() if loop is None else adjoint
    return run_optimistix(entry, fn, solver, y0, consts, max_steps, tags, options, adjoint)


def _closed_forms(residual: AbstractResidual, solver, y0, args) -> tuple[dict[str, Any], list]:
    """What a residual knows besides its value, as functions of (y, unused), on stopped constants; and
    these constants."""
    if isinstance(solver, optx.AbstractRootFinder):
        forms = {"quadratic_program": residual.quadratic_program}
    elif isinstance(solver, optx.AbstractFixedPointSolver):
        forms = {}
    elif isinstance(solver, optx.AbstractLeastSquaresSolver):
        forms = {"normal_equations": residual.normal_equations, "metric": residual.metric}
    else:
        forms = {"value_and_gradient": residual.value_and_gradient, "metric": residual.metric}
    known, held = {}, []
    for name, form in forms.items():
        pure, consts = hoist(lambda y, form=form: form(y, args), y0)
        if len(pure.shapes) > 0:
            consts = _tree.stop_gradient(consts)
            held.append(consts)
            known[name] = lambda y, _, pure=pure, consts=consts: pure(y, consts)
    return known, held


_KINDS = (
    optx.AbstractRootFinder,
    optx.AbstractFixedPointSolver,
    optx.AbstractLeastSquaresSolver,
    optx.AbstractMinimiser,
    optax.GradientTransformation,
    JaxoptSolver,
    External,
)


def _check_problem(residual: Any, solver: Any, adjoint: Any, max_steps: Any) -> None:
    check_residual(residual)
    check_adjoint(adjoint)
    if not isinstance(solver, _KINDS):
        raise TypeError(
            f"`solver` is {solver!r} of type {type(solver).__name__}; expected a solver of "
            "jaxsci.solvers, an optimistix solver, an optax optimizer or a jaxopt solver object, such as "
            "jaxsci.solvers.Newton(rtol=1e-8, atol=1e-8)."
        )
    if (
        adjoint.loop is not None
        and isinstance(solver, AbstractPlainSolver | External)
        and not isinstance(solver, UNROLLABLE)
    ):
        raise TypeError(
            f"`adjoint` is a {type(adjoint).__name__}, and {type(solver).__name__} makes steps that are not "
            "to be differentiated. Unroll jaxsci.solvers.Newton or Picard or a solver of optimistix, or use "
            "jaxsci.ImplicitAdjoint()."
        )
    if isinstance(max_steps, bool) or not isinstance(max_steps, int) or max_steps < 1:
        raise ValueError(f"`max_steps` is {max_steps!r}; expected an int ≥ 1.")


def _checked_guess(y0: PyTree) -> PyTree[Array]:
    for path, leaf in jtu.tree_leaves_with_path(y0):
        if not eqx.is_array_like(leaf) or not jnp.issubdtype(jnp.result_type(leaf), jnp.inexact):
            kind = jnp.result_type(leaf) if eqx.is_array_like(leaf) else type(leaf).__name__
            raise TypeError(
                f"`y0`{jtu.keystr(path)} is of type {kind}; the first guess must be a pytree of floating "
                "or complex arrays, since it fixes the precision of the solve. Write 1.0 instead of 1, and "
                "put what is not unknown into `args`."
            )
    if not jtu.tree_leaves(y0):
        raise ValueError("`y0` holds no arrays; expected a pytree of floating arrays, the first guess.")
    return jtu.tree_map(jnp.asarray, y0)


class _First(eqx.Module):
    """The value of a function that returns (value, aux)."""

    fn: Any

    def __call__(self, y, args):
        return self.fn(y, args)[0]


def _without_aux(residual: AbstractResidual) -> AbstractResidual:
    names = set(vars(residual))
    if "fn" not in names:
        raise TypeError(
            f"`has_aux` is True, but {type(residual).__name__} has no single function `fn` that could "
            "return (value, aux). Compute the auxiliary output from `solution.value` instead."
        )
    return eqx.tree_at(lambda r: r.fn, residual, _First(residual.fn))
