"""A solver that is not JAX at all: SciPy, PETSc, a C++ code, any Python function."""

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jaxtyping import Array, PyTree

from .. import _tree
from .._residual import AbstractResidual, hoist
from .._solution import RESULTS
from ._host import FAILED, SUCCEEDED, HostProblem, answer, converse
from ._run import Outcome

DENSE_ENTRIES = 2**24
"""The largest dense Jacobian that a program makes room for (128 MiB in float64)."""


def _flat_residual(residual, args, y):
    return lambda flat: _tree.ravel(residual(_tree.unravel(flat, y), args))


def _flat_root(residual, args, y):
    return lambda flat: _tree.ravel(residual.root(_tree.unravel(flat, y), args))


def _flat_objective(residual, args, y):
    return lambda flat: residual.objective(_tree.unravel(flat, y), args)


def _value_and_gradient(residual, args, like, y, v):
    return _tree.ravel(jax.value_and_grad(_flat_objective(residual, args, like))(y))


# The functions of HostProblem, as functions of (residual, args, a pytree like the unknown, y, v).
FACES: dict[str, Callable] = {
    "residual": lambda r, a, like, y, v: _flat_residual(r, a, like)(y),
    "jacobian": lambda r, a, like, y, v: jax.jacfwd(_flat_residual(r, a, like))(y).ravel(),
    "jvp": lambda r, a, like, y, v: jax.jvp(_flat_residual(r, a, like), (y,), (v,))[1],
    "vjp": lambda r, a, like, y, v: jax.vjp(_flat_residual(r, a, like), y)[1](v)[0],
    "root": lambda r, a, like, y, v: _flat_root(r, a, like)(y),
    "root_jacobian": lambda r, a, like, y, v: jax.jacfwd(_flat_root(r, a, like))(y).ravel(),
    "objective": lambda r, a, like, y, v: _flat_objective(r, a, like)(y)[None],
    "value_and_gradient": _value_and_gradient,
}


@eqx.filter_jit
def _compiled(name, residual, args, like, y, v):
    return FACES[name](residual, args, like, y, v)


_DENSE = {"jacobian": "residual", "root_jacobian": "root"}
_SAME = {"gradient": "value_and_gradient"}


class External(eqx.Module):
    """A solver on the host: `run(problem, y0)` is any Python function, and may call SciPy, PETSc or C++.

    `jaxsci.solve(residual, External(run), y0, args)` calls it with a `HostProblem`, whose functions (F, its
    Jacobian, the objective, its gradient, …) take and give flat float64 NumPy vectors, and with y0 as such
    a vector. The derivative comes from the residual's rule and does not depend on `run`, so what it returns
    has gradients, forward mode and Hessians. Runs eagerly, under `jit` and under `vmap` (one lane after the
    other). On an accelerator the residual is evaluated there.

    **Arguments:**

    - `run`: (problem, y0) ↦ (y, success), (y, success, steps), or SciPy's result object; with `atol`
      also y alone.
    - `faces`: the functions of `problem` that `run` uses, by name. None: all of them, each of which is
      compiled when the solve is traced.
    - `atol`: the largest root-mean-square of the optimality condition (unit of F) at which the result is
      accepted, whatever `run` has reported. None: `run` is believed.

    **Raises:** what `run` raises (under `jit` inside JAX's runtime error, with its message).

    **Limits:** not inside `jax.shard_map` and not in an exported program. In a compiled program `run` works
    in a thread of its own and must not call JAX itself. Real unknowns.
    """

    run: Callable = eqx.field(static=True)
    faces: tuple[str, ...] | None = eqx.field(static=True)
    atol: float | None

    def __init__(self, run: Callable, *, faces: Sequence[str] | None = None, atol: float | None = None):
        if not callable(run):
            raise TypeError(f"`run` is {run!r}; expected a function (problem, y0) ↦ (y, success).")
        known = [*FACES, *_SAME]
        unknown = [name for name in faces or () if name not in known]
        if isinstance(faces, str) or unknown:
            raise ValueError(f"`faces` is {faces!r}; expected names out of {known}, in a list or tuple.")
        self.run = run
        self.faces = None if faces is None else tuple(dict.fromkeys(_SAME.get(f, f) for f in faces))
        self.atol = atol

    @staticmethod
    def scipy_root(
        method: str = "hybr", *, tol: float | None = 1e-10, jacobian: bool = True, options: dict | None = None
    ) -> "External":
        """`scipy.optimize.root` on the equations.

        **Arguments:** `method`, `tol`, `options`: SciPy's. `jacobian`: give it the exact Jacobian; of its
        methods only "hybr" and "lm" use one.
        """
        used = jacobian and method in ("hybr", "lm")

        def run(problem: HostProblem, y0: np.ndarray):
            from scipy import optimize

            derivative = problem.root_jacobian if used else None
            return optimize.root(problem.root, y0, jac=derivative, method=method, tol=tol, options=options)

        return External(run, faces=("root", "root_jacobian") if used else ("root",))

    @staticmethod
    def scipy_minimize(
        method: str = "L-BFGS-B",
        *,
        tol: float | None = 1e-9,
        gradient: bool = True,
        options: dict | None = None,
    ) -> "External":
        """`scipy.optimize.minimize` on the objective, without constraints.

        **Arguments:** `method`, `tol`, `options`: SciPy's. The derivative of the result is as inexact as
        the result, so "L-BFGS-B" gets `ftol` of the precision instead of SciPy's 2e-9. `gradient`: give
        it the exact gradient; say False for methods without one ("Nelder-Mead", "Powell", "COBYLA").
        """
        tight = {"ftol": float(np.finfo(np.float64).eps)} if method == "L-BFGS-B" else {}
        options = tight | (options or {})

        def run(problem: HostProblem, y0: np.ndarray):
            from scipy import optimize

            fn = problem.value_and_gradient if gradient else problem.objective
            return optimize.minimize(fn, y0, jac=gradient or None, method=method, tol=tol, options=options)

        return External(run, faces=("value_and_gradient",) if gradient else ("objective",))

    @staticmethod
    def scipy_least_squares(method: str = "trf", *, tol: float = 1e-12, **options: Any) -> "External":
        """`scipy.optimize.least_squares` on the residuals, with the exact Jacobian.

        **Arguments:** `method`: SciPy's. `tol`: for its `ftol`, `xtol` and `gtol`. `options`: its others.
        """
        options = {"ftol": tol, "xtol": tol, "gtol": tol} | options

        def run(problem: HostProblem, y0: np.ndarray):
            from scipy import optimize

            return optimize.least_squares(problem.residual, y0, problem.jacobian, method=method, **options)

        return External(run, faces=("residual", "jacobian"))


def run_external(solver: External, residual: AbstractResidual, y0: PyTree[Array], args: PyTree) -> Outcome:
    """Run it: directly where all values are known, by a conversation with the program where not."""
    if _tree.in_manual_region():
        raise ValueError(
            "`solver` is jaxsci.solvers.External, which calls the host, and this is inside jax.shard_map, "
            "where no call to the host may be. Use a solver of JAX, such as jaxsci.solvers.Newton."
        )
    start = _tree.ravel(y0)
    if not jnp.issubdtype(start.dtype, jnp.floating):
        raise TypeError(
            f"`y0` is of type {start.dtype}; jaxsci.solvers.External takes real unknowns. Pass real and "
            "imaginary part as two arrays."
        )
    residual, args = _tree.stop_gradient((residual, args))
    rows = lambda face: jax.eval_shape(lambda y: face(residual, args, y0)(y), start).size
    sizes = {"residual": rows(_flat_residual), "root": rows(_flat_root)}
    names = [
        name
        for name in (FACES if solver.faces is None else solver.faces)
        if name not in _DENSE or sizes[_DENSE[name]] * start.size <= DENSE_ENTRIES
    ]
    widths = {name: {"jvp": start.size, "vjp": sizes["residual"]}.get(name, 0) for name in names}
    hoisted = {}
    for name in names:
        fn = lambda y, v, face=FACES[name]: face(residual, args, y0, y, v)
        hoisted[name] = hoist(fn, start, jnp.zeros(widths[name], start.dtype))
    consts = _tree.stop_gradient(tuple(consts for _, consts in hoisted.values()))
    arrays, rest = eqx.partition(args, eqx.is_array)
    args_of = lambda arrays: eqx.combine(arrays, rest)

    def run(problem, y0):
        return answer(solver.run(problem, y0), start.size, solver.atol is not None)

    if any(isinstance(x, jax.core.Tracer) for x in jtu.tree_leaves((start, consts, arrays))):
        pures = [pure for pure, _ in hoisted.values()]

        # One lane of a batch after the other: each is a conversation with another length.
        @jax.custom_batching.sequential_vmap
        def conversation(start, consts, arrays):
            bound = {
                name: lambda y, v, pure=pure, c=c, n=widths[name]: pure.flat(c, y, v[:n])[0]
                for name, pure, c in zip(names, pures, consts, strict=True)
            }
            return converse(run, bound, widths, start, arrays, args_of)

        flat, ended, steps = conversation(start, consts, arrays)
    else:
        known = dict(zip(names, consts, strict=True))

        def ask(name, y, v):
            y, v = (jnp.asarray(x, start.dtype) for x in (y, v))
            found = _compiled(name, residual, args, y0, y, v)
            if isinstance(found, jax.core.Tracer):  # the residual closes over what is differentiated
                found = jax.jit(hoisted[name][0].flat)(known[name], y, v)[0]
            return np.array(found, np.float64)

        host_args = args_of(jtu.tree_map(np.asarray, arrays))
        problem = HostProblem(ask, start.size, host_args, widths)
        flat, success, steps = run(problem, np.array(start, np.float64))
        flat, steps = jnp.asarray(flat, start.dtype), jnp.asarray(steps)
        ended = jnp.array(SUCCEEDED if success else FAILED)
    value = _tree.unravel(flat, y0)
    good = ended == SUCCEEDED
    if solver.atol is not None:
        error = _tree.norm(residual.optimality(value, args)) / start.size**0.5
        good = error <= solver.atol
    result = RESULTS.where(good, RESULTS.successful, RESULTS.foreign_failure)
    return Outcome(value, result, steps, jnp.array(0))
