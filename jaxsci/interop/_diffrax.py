"""Implicit time steps of diffrax with the linear solvers of this package."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optimistix as optx
from jaxtyping import Array, Bool, Int

from .. import _tree
from ..linear import AbstractLinearSolver, Operator, default_solver
from ..linear._solver import check_linear_solver


class _State(eqx.Module):
    factors: Any  # of the Jacobian of a stage
    size: Array  # the last correction, in units of the tolerance
    previous: Array
    failed: Bool[Array, ""]
    count: Int[Array, ""]


class _StageChord(optx.AbstractRootFinder):
    """y ← y − B⁻¹ F(y) for the stages of a step, B the Jacobian of the one at which diffrax makes it."""

    linear_solver: AbstractLinearSolver | None
    kappa: float
    rtol: Any
    atol: Any
    norm: Callable

    def init(self, fn, y, args, options, f_struct, aux_struct, tags):
        if "init_state" in options:
            return options["init_state"]
        operator = self._operator(fn, y, args, tags)
        factors = jax.lax.stop_gradient(self._linear(operator).prepare(operator))
        dtype = jnp.finfo(jnp.result_type(*jax.tree.leaves(y))).dtype
        unknown = jnp.array(jnp.inf, dtype)
        return _State(factors, unknown, unknown, jnp.array(False), jnp.array(0))

    def _operator(self, fn, y, args, tags) -> Operator:
        return Operator(lambda v: jax.jvp(lambda y: fn(y, args)[0], (y,), (v,))[1], y, None, tags)

    def _linear(self, operator: Operator) -> AbstractLinearSolver:
        return default_solver(operator, refinements=0) if self.linear_solver is None else self.linear_solver

    def step(self, fn, y, args, options, state, tags):
        f, aux = fn(y, args)
        operator = self._operator(fn, y, args, tags)
        # Not checked here: whether the corrections shrink tells more than whether one of them is exact.
        correction, _ = self._linear(operator).apply(operator, state.factors, f, False)
        y = _tree.axpy(-1.0, correction, y)
        scale = jax.tree.map(lambda x: self.atol + self.rtol * jnp.abs(x), y)
        size = self.norm(jax.tree.map(jnp.divide, correction, scale)).astype(state.size.dtype)
        return y, _State(state.factors, size, state.size, ~jnp.isfinite(size), state.count + 1), aux

    def terminate(self, fn, y, args, options, state, tags):
        # Corrections that shrink by the rate c leave an error of c/(1 − c) times the last one. The first
        # has no rate: it is the last one if it is smaller than what the error may be.
        again = state.count >= 2
        rate = jnp.where(again, state.size / state.previous, 0.5)
        left = jnp.where(rate < 1, state.size * rate / jnp.where(rate < 1, 1 - rate, 1), jnp.inf)
        rounding = 100 * jnp.finfo(state.size.dtype).eps
        converged = (state.count >= 1) & ((left <= self.kappa) | (state.size <= rounding))
        failed = state.failed | (again & (rate > 2) & ~converged)
        result = optx.RESULTS.where(
            failed, optx.RESULTS.nonlinear_divergence, optx.RESULTS.successful
        )  # fmt: skip
        return converged | failed, result

    def postprocess(self, fn, y, aux, args, options, state, tags, result):
        return y, aux, {}


def diffrax_root_finder(
    linear_solver: AbstractLinearSolver | None = None,
    *,
    rtol: float | None = None,
    atol: float | None = None,
    kappa: float = 1e-2,
) -> optx.AbstractRootFinder:
    """A root finder for the implicit solvers of diffrax that knows the structure of ∂f/∂y:

        diffrax.Kvaerno5(root_finder=jaxsci.interop.diffrax_root_finder(jaxsci.linear.Banded(1, 1)))

    In place of `diffrax.VeryChord`, whose linear solver makes the n×n Jacobian by default: O(n³) a step
    for what takes O(n) with a band. The Jacobian of a stage, k − h f(y + γ k), has the band and the
    pattern of ∂f/∂y (with the diagonal); it is factorised when diffrax says so, once a step for
    `Kvaerno5`, and serves all stages. A matrix-free solver sees the Jacobian of each stage.

    **Arguments:**

    - `linear_solver`: a `jaxsci.linear` solver, such as `Banded`, `Sparse`, `GMRES`; None:
      `jaxsci.linear.default_solver`.
    - `rtol`, `atol`: of the stage equations (dimensionless; unit of y). None: those of the step size
      controller.
    - `kappa`: error of the stage equations in units of the tolerance (dimensionless), in (0, 1].

    **Returns:** an `optimistix.AbstractRootFinder`, for `root_finder=` of a diffrax solver.

    **Raises:** `TypeError` if `linear_solver` is none; `ValueError` if one of `rtol`, `atol` is missing.

    **Limits:** a Jacobian that does not have the structure of the solver makes the iteration diverge, and
    diffrax shorten its steps: right or loud, not wrong. Not inside `jax.shard_map` (diffrax). The derivative
    of a `diffeqsolve` in reverse or forward mode is diffrax's own, with an n×n matrix for each stage: for
    large n use `diffrax.BacksolveAdjoint`, or `jaxsci.residuals.ImplicitStep` in a `scan`.

    **Reference:** Hairer & Wanner, Solving Ordinary Differential Equations II, §IV.8 (stopping).
    """
    import diffrax

    check_linear_solver(linear_solver)
    if (rtol is None) != (atol is None):
        raise ValueError(
            f"`rtol` is {rtol!r} and `atol` is {atol!r}; expected both, or neither for those of the step "
            "size controller."
        )
    if not 0 < kappa <= 1:
        raise ValueError(f"`kappa` is {kappa!r}; expected a number in (0, 1], such as 1e-2.")
    if rtol is None:
        return diffrax.with_stepsize_controller_tols(_StageChord)(linear_solver, kappa)
    return _StageChord(linear_solver, kappa, rtol, atol, optx.max_norm)
