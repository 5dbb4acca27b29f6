"""A residual and its solver as a layer; a minimum as a layer."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, PyTree

from .._adjoint import AbstractAdjoint, ImplicitAdjoint
from .._residual import AbstractResidual, check_residual
from .._solution import RESULTS, Solution
from .._solve import solve
from ..residuals import ProjectedGradient, ProximalGradient, Stationary
from ..solvers import BFGS, Anderson


def value_of(solution: Solution) -> PyTree[Array]:
    """The value; NaN where the solve failed, and NaN in what is derived from it."""
    factor = lambda x: jnp.where(solution.result == RESULTS.successful, 1, jnp.nan).astype(x.dtype)
    # A product and no `where`, through which a cotangent of zero would pass.
    return jtu.tree_map(lambda x: factor(x) * x, solution.value)


def started(start: Any, args: PyTree[Any], y0: PyTree[Array] | None) -> PyTree[Array]:
    """The first guess: the one of the call, or that of the layer."""
    if y0 is not None:
        return y0
    return start(args) if callable(start) else start


class AbstractSolvedLayer(eqx.Module):
    """A layer whose value is the solution of its `residual` by its `solver`."""

    residual: eqx.AbstractVar[AbstractResidual]
    solver: eqx.AbstractVar[Any]
    start: eqx.AbstractVar[Any]
    adjoint: eqx.AbstractVar[AbstractAdjoint]
    max_steps: eqx.AbstractVar[int]
    throw: eqx.AbstractVar[bool]

    def __call__(self, args: PyTree[Any] = None, y0: PyTree[Array] | None = None) -> PyTree[Array]:
        """y, for one sample; `y0` replaces the layer's first guess."""
        return value_of(self.solve(args, y0))

    def solve(self, args: PyTree[Any] = None, y0: PyTree[Array] | None = None) -> Solution:
        """The whole `jaxsci.Solution`: the value where the solver stopped, result and figures."""
        return solve(
            self.residual,
            self.solver,
            started(self.start, args, y0),
            args,
            adjoint=self.adjoint,
            throw=self.throw,
            max_steps=self.max_steps,
        )


class ImplicitLayer(AbstractSolvedLayer):
    """args ↦ y with F(y, args; parameters) = 0: a residual and a solver as an Equinox module.

    The arrays in the fields of the residual (networks, coefficients) are the layer's parameters. Batch
    with `jax.vmap`; every lane has its own result.

    **Arguments:**

    - `residual`: F, any residual of jaxsci.
    - `solver`: anything that `jaxsci.solve` takes.
    - `start`: the first guess: args ↦ a pytree of floating arrays, or the pytree. Its derivative is zero.
    - `adjoint`: how y is differentiated; `jaxsci.ImplicitAdjoint()` by default.
    - `max_steps`: iterations at most.
    - `throw`: raise an error if the solve fails. With False, or inside `jax.shard_map`, the failed lane
      of a batch is NaN instead, and so is every derivative through it.

    **Limits:** those of the residual and of the solver.
    """

    residual: AbstractResidual
    solver: Any
    start: Any
    adjoint: AbstractAdjoint = eqx.field(default=ImplicitAdjoint(), kw_only=True)
    max_steps: int = eqx.field(static=True, default=256, kw_only=True)
    throw: bool = eqx.field(static=True, default=True, kw_only=True)

    def __check_init__(self):
        check_residual(self.residual)


class ArgminLayer(AbstractSolvedLayer):
    """args ↦ argmin over y of f(y, args), free, over a set C(args), or with a non-smooth term g.

    The arrays in the fields of the objective (and of projection or prox) are the layer's parameters.

    **Arguments:**

    - `objective`: f, (y, args) ↦ a scalar.
    - `start`: the first guess: args ↦ a pytree of floating arrays, or the pytree. Its derivative is zero.
    - `projection`: (v, args) ↦ the point of C nearest to v: the problem is a
      `jaxsci.residuals.ProjectedGradient`.
    - `prox`: (v, η, args) ↦ the proximal map of η g: a `jaxsci.residuals.ProximalGradient`.
    - `step`: η of these two (see there): at most the inverse of the largest eigenvalue of the Hessian of f.
    - `convex`: promise that the Hessian of f is positive definite at the minimum, for a free one; the
      linear solves of the derivative are then cheaper.
    - `solver`: anything that `jaxsci.solve` takes. None: `BFGS` for a free minimum, else `Anderson` on the
      fixed point.
    - `adjoint`, `max_steps`, `throw`: as in `ImplicitLayer`.

    **Raises:** `ValueError` if both a projection and a prox are given.

    **Limits:** a local minimum; it has a derivative where the Hessian is regular and no kink of the
    projection or prox is met (NaN otherwise). Iterates of `Anderson` may leave C by a little.
    """

    objective: Callable
    start: Any
    projection: Callable | None
    prox: Callable | None
    step: Array | float
    convex: bool = eqx.field(static=True)
    solver: Any
    adjoint: AbstractAdjoint
    max_steps: int = eqx.field(static=True)
    throw: bool = eqx.field(static=True)

    def __init__(
        self,
        objective: Callable,
        start: Any,
        *,
        projection: Callable | None = None,
        prox: Callable | None = None,
        step: Array | float = 1.0,
        convex: bool = False,
        solver: Any = None,
        adjoint: AbstractAdjoint = ImplicitAdjoint(),
        max_steps: int = 1000,
        throw: bool = True,
    ):
        if projection is not None and prox is not None:
            raise ValueError(
                "`projection` and `prox` are both given; expected one. A projection is the prox of the "
                "indicator of its set: pass `prox` alone, of the sum of both terms."
            )
        if solver is None:
            free = projection is None and prox is None
            solver = BFGS(rtol=1e-6, atol=1e-7) if free else Anderson(1e-6, 1e-7)
        self.objective = objective
        self.start = start
        self.projection = projection
        self.prox = prox
        self.step = step
        self.convex = convex
        self.solver = solver
        self.adjoint = adjoint
        self.max_steps = max_steps
        self.throw = throw

    @property
    def residual(self) -> AbstractResidual:
        """The optimality condition that is solved and differentiated."""
        if self.projection is not None:
            return ProjectedGradient(self.objective, self.projection, self.step)
        if self.prox is not None:
            return ProximalGradient(self.objective, self.prox, self.step)
        return Stationary(self.objective, convex=self.convex)
