"""The decorators of `jaxopt.implicit_diff`, with the rule of this package behind them."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, PyTree

from .. import _tree
from .._adjoint import ImplicitAdjoint, attach
from .._residual import AbstractResidual
from ..linear import AbstractLinearSolver, Operator
from ..residuals import FixedPoint, Root


class LinearFunction(AbstractLinearSolver):
    """A function (matvec, b) ↦ x with A x = b as a linear solver, such as those of `jaxopt.linear_solve`.

    `matvec` and b have the shape of the unknown if that is one array, else both are tuples of its arrays.

    **Arguments:**

    - `function`: the function; options by `functools.partial(function, tol=1e-8)`.
    - `check`: the largest accepted relative residual ‖b − A x‖/‖b‖ (dimensionless); above it the
      derivative is NaN. The default suits the tolerances of such functions. A function that solves
      another system on purpose (`ridge=…`) needs a larger one, or `float("inf")`.

    **Limits:** the function must be traceable, and must not close over arrays that are traced.
    """

    function: Callable = eqx.field(static=True)
    check: float | None = 1e-3

    def __check_init__(self):
        if not callable(self.function):
            raise TypeError(f"`function` is {self.function!r}; expected a function (matvec, b) ↦ x.")

    def prepare(self, operator: Operator):
        return None

    def apply(self, operator, prepared, b, transpose):
        mv = (operator.transpose() if transpose else operator).mv
        leaves, structure = jtu.tree_flatten(b)
        if len(leaves) > 1:
            return self.function(mv, b), jnp.array(0)
        pack = lambda x: jtu.tree_unflatten(structure, [x])
        x = self.function(lambda v: jtu.tree_leaves(mv(pack(v)))[0], leaves[0])
        return pack(x), jnp.array(0)


def _adjoint(solve: Any) -> ImplicitAdjoint:
    if solve is None or isinstance(solve, AbstractLinearSolver):
        return ImplicitAdjoint(solve)
    if not callable(solve):
        raise TypeError(
            f"`solve` is {solve!r}; expected a solver of jaxsci.linear, a function (matvec, b) ↦ x, or None."
        )
    return ImplicitAdjoint(LinearFunction(solve))


def _decorator(make: Callable, condition: Callable, has_aux: bool, solve: Any, reference: Any) -> Callable:
    """Gives a solver the derivative of make(y ↦ condition(y, *arguments))."""
    adjoint = _adjoint(solve)
    if not isinstance(reference, inspect.Signature):
        reference = inspect.signature(condition if reference is None else reference)

    def decorate(solver_fun: Callable) -> Callable:
        signature = inspect.signature(solver_fun)

        @functools.wraps(solver_fun)
        def solved(*args, **kwargs):
            given = signature.bind(*args, **kwargs)
            given.apply_defaults()
            if len(given.args) == 0:
                raise TypeError(
                    f"{solver_fun!r} was called without a positional argument; its first one is the initial "
                    "guess, which the condition has the solution in place of."
                )
            matched = reference.bind(*given.args, **given.kwargs)
            residual = make(lambda y, _: condition(y, *matched.args[1:], **matched.kwargs))
            stopped = _tree.stop_gradient((solver_fun, given.args, given.kwargs))
            found = stopped[0](*stopped[1], **stopped[2])
            if not has_aux:
                return attach(residual, found, adjoint=adjoint)
            if not isinstance(found, tuple) or len(found) != 2:
                raise TypeError(
                    f"`has_aux` is True, but {solver_fun!r} returned a {type(found).__name__}; expected the "
                    "pair (solution, aux)."
                )
            pair = (attach(residual, found[0], adjoint=adjoint), _tree.stop_gradient(found[1]))
            return pair if type(found) is tuple else type(found)(*pair)

        return solved

    return decorate


def custom_root(
    optimality_fun: Callable,
    has_aux: bool = False,
    solve: AbstractLinearSolver | Callable | None = None,
    reference_signature: Callable | inspect.Signature | None = None,
) -> Callable:
    """Decorator: the solver's result y satisfies F(y, *args) = 0, and that is what is differentiated.

        @jsci.custom_root(F)
        def solver(init, *args): ...        # anything that returns y

    It is called as `jaxopt.implicit_diff.custom_root` is, and adds forward mode, Hessians, closures over
    differentiated arrays (in F and in the solver) and arguments of any type. The derivative with respect
    to `init` is zero.

    **Arguments:**

    - `optimality_fun`: F(y, *args, **kwargs), with as many scalars as y. It gets the solver's arguments
      with y in place of the first one; keywords are matched by the signatures.
    - `has_aux`: the solver returns the pair (y, aux). aux is not differentiated.
    - `solve`: the linear solver of the derivative: one of `jaxsci.linear`, or a function (matvec, b) ↦ x
      such as `jaxopt.linear_solve.solve_cg`, which becomes a `LinearFunction`. None: a choice by size.
    - `reference_signature`: a function, or a signature, by which the arguments are matched instead of
      that of `optimality_fun`.

    **Returns:** a decorator of functions solver(init, *args, **kwargs).

    **Raises:** at the call, `TypeError` if the arguments do not fit the signature; `ValueError` if F and y
    differ in size.

    **Limits:** the decorated function runs as it is: it must be traceable to be used under `jit`. A method
    is decorated as a bound one, custom_root(self.F)(self.solver), since its first argument is `self`.

    **Reference:** Blondel et al., Efficient and Modular Implicit Differentiation, NeurIPS 2022.
    """
    return _decorator(Root, optimality_fun, has_aux, solve, reference_signature)


def custom_fixed_point(
    fixed_point_fun: Callable,
    has_aux: bool = False,
    solve: AbstractLinearSolver | Callable | None = None,
    reference_signature: Callable | inspect.Signature | None = None,
) -> Callable:
    """Decorator: the solver's result y satisfies y = T(y, *args), and that is what is differentiated.

    As `custom_root`, with F(y, *args) = y − T(y, *args).

    **Arguments:** `fixed_point_fun`: T, of the structure of y. The others are those of `custom_root`.

    **Returns:** a decorator of functions solver(init, *args, **kwargs).
    """
    return _decorator(FixedPoint, fixed_point_fun, has_aux, solve, reference_signature)


def _at(optimality_fun: Callable, args: tuple) -> AbstractResidual:
    return Root(lambda y, _: optimality_fun(y, *args))


def root_vjp(
    optimality_fun: Callable,
    sol: PyTree[Array],
    args: tuple,
    cotangent: PyTree[Array],
    solve: AbstractLinearSolver | Callable | None = None,
) -> tuple:
    """ȳᵀ ∂y/∂θ for the root y of F(y, *θ) = 0: one linear solve with (∂F/∂y)ᵀ.

    **Arguments:** `optimality_fun`: F. `sol`: y. `args`: the tuple θ. `cotangent`: ȳ, of the structure of
    y. `solve`: see `custom_root`.

    **Returns:** a tuple with one entry for each of `args`; None where nothing in it is floating.
    """
    run = lambda args: attach(_at(optimality_fun, args), sol, adjoint=_adjoint(solve))
    return eqx.filter_vjp(run, tuple(args))[1](cotangent)[0]


def root_jvp(
    optimality_fun: Callable,
    sol: PyTree[Array],
    args: tuple,
    tangents: tuple,
    solve: AbstractLinearSolver | Callable | None = None,
) -> PyTree[Array]:
    """∂y/∂θ · θ̇ for the root y of F(y, *θ) = 0: one linear solve with ∂F/∂y.

    **Arguments:** `optimality_fun`: F. `sol`: y. `args`: the tuple θ. `tangents`: θ̇, of the structure of
    `args`. `solve`: see `custom_root`.

    **Returns:** ẏ, of the structure of y.

    **Raises:** `ValueError` if `args` and `tangents` differ in length.
    """
    if len(args) != len(tangents):
        raise ValueError(
            f"`tangents` has {len(tangents)} entries and `args` has {len(args)}; expected one for each."
        )
    run = lambda *args: attach(_at(optimality_fun, args), sol, adjoint=_adjoint(solve))
    args, tangents = (jtu.tree_map(jnp.asarray, tuple(t)) for t in (args, tangents))
    return jax.jvp(run, args, tangents)[1]
