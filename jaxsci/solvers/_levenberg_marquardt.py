"""Levenberg–Marquardt on the normal equations, with the exact Hessian where it is known."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optimistix as optx
from jaxtyping import Array, Bool, Float, Int

from .. import _tree
from .._residual import NormalEquations
from .._solution import RESULTS
from ._plain import AbstractPlainSolver, check_tolerances


class _State(eqx.Module):
    normal: NormalEquations
    metric: Float[Array, "n n"]
    factor: Float[Array, "n n"]  # lower Cholesky factor of the metric
    slope: Float[Array, ""]  # ‖gradient‖ in the dual norm of the metric: the unit of F
    scale: Float[Array, ""]  # ‖F‖ at the first guess
    damping: Float[Array, ""]
    rejected: Int[Array, ""]


class LevenbergMarquardt(AbstractPlainSolver, optx.AbstractLeastSquaresSolver):
    """min over y of ½‖F(y)‖² by (H + λ M) δ = −JᵀF with H = JᵀJ + Σᵢ Fᵢ ∂²Fᵢ or H = JᵀJ.

    M is the metric of the residual (`AbstractResidual.metric`), or diag(JᵀJ) at the first guess. With
    `StructuredLeastSquares` the exact H is at hand and used wherever H + λ M is positive definite,
    so that convergence is quadratic also where the residual does not vanish; otherwise H = JᵀJ.
    λ follows the ratio of actual to predicted decrease.

    Stops when ‖JᵀF‖ in the norm of M⁻¹, which has the unit of F, is at most `atol + rtol ‖F(y₀)‖`. No
    scaling of the unknowns changes that. Plain JAX on dense n×n matrices, no callback, runs inside
    `jax.shard_map`; under `vmap` every lane stops on its own and keeps its value. Also an
    `optimistix.AbstractLeastSquaresSolver`.

    **Arguments:**

    - `rtol`, `atol`: relative (dimensionless) and absolute (unit of F) tolerance of the gradient.
    - `damping`: first λ (dimensionless).

    **Limits:** O(n³) a step: for up to about a thousand unknowns. Local convergence.

    **Reference:** Nocedal & Wright, Numerical Optimization, 2nd ed., §10.3.
    """

    rtol: float
    atol: float
    damping: float
    norm: Any

    def __init__(self, rtol: float = 1e-6, atol: float = 0.0, *, damping: float = 1e-2):
        check_tolerances(rtol, atol)
        self.rtol = rtol
        self.atol = atol
        self.damping = damping
        self.norm = optx.rms_norm

    def init(self, fn, y, args, options, f_struct, aux_struct, tags):
        normal = _normal(fn, y, args, options)
        if "metric" in options:
            metric = options["metric"](y, args)
        else:
            scales = jnp.diagonal(normal.gram)
            metric = jnp.diag(jnp.where(scales > 0, scales, 1))
        factor = jnp.linalg.cholesky(metric)
        return _State(
            normal,
            metric,
            factor,
            _dual_norm(factor, normal.gradient),
            jnp.sqrt(2 * normal.value),
            jnp.full_like(normal.value, self.damping),
            jnp.array(0),
        )

    def step(self, fn, y, args, options, state, tags):
        old = state.normal
        lam = state.damping
        small = jnp.finfo(lam.dtype).eps
        # One batched factorisation of both candidates, never two beside each other: on the CPU, batched
        # LAPACK calls of one program that run at the same time can wait for each other for ever.
        floor = jnp.maximum(lam, 10 * small)
        candidates = jnp.stack([old.hessian + lam * state.metric, old.gram + floor * state.metric])
        factors = jnp.linalg.cholesky(candidates)
        convex = jnp.all(jnp.isfinite(factors[0]))
        factor = jnp.where(convex, factors[0], factors[1])
        model = jnp.where(convex, old.hessian, old.gram)
        step = -_solve(factor, old.gradient)
        predicted = -(old.gradient @ step + 0.5 * step @ (model @ step))
        candidate = jax.tree.map(jnp.add, y, _tree.unravel(step, y))
        new = _normal(fn, candidate, args, options)
        slope = _dual_norm(state.factor, new.gradient)
        tiny = jnp.finfo(lam.dtype).tiny
        ratio = (old.value - new.value) / jnp.maximum(predicted, tiny)
        # Where the predicted decrease is lost in rounding, a smaller gradient decides.
        flat = predicted <= 100 * small * old.value
        accepted = (ratio > 1e-3) | (flat & (slope <= state.slope))
        eased = jnp.where(ratio > 0.75, 0.1 * lam, jnp.where(ratio < 0.25, 2 * lam, lam))
        lam = jnp.where(accepted, eased, jnp.maximum(8 * lam, 1e-3))
        lam = jnp.where(lam < 1e-8, 0.0, lam)
        keep = lambda a, b: jax.tree.map(lambda u, v: jnp.where(accepted, u, v), a, b)
        state = _State(
            keep(new, old),
            state.metric,
            state.factor,
            keep(slope, state.slope),
            state.scale,
            lam,
            jnp.where(accepted, 0, state.rejected + 1),
        )
        return keep(candidate, y), state, None

    def status(self, state) -> tuple[Bool[Array, ""], RESULTS]:
        """Whether to stop, and with which result."""
        converged = state.slope <= self.atol + self.rtol * state.scale
        finite = jnp.isfinite(state.slope)
        stuck = state.rejected >= 12
        reason = RESULTS.where(finite, RESULTS.stagnated, RESULTS.nonfinite)
        return converged | ~finite | stuck, RESULTS.where(converged, RESULTS.successful, reason)

    def postprocess(self, fn, y, aux, args, options, state, tags, result):
        return y, aux, {"linear_iterations": jnp.array(0), "hessian": _known(state.normal)}


def _known(normal: NormalEquations) -> Array | None:
    return None if normal.curvature is None else normal.hessian


def _normal(fn, y, args, options) -> NormalEquations:
    """The closed form of the residual if it has one, else from the dense Jacobian."""
    if "normal_equations" in options:
        return options["normal_equations"](y, args)
    flat = lambda v: _tree.ravel(fn(_tree.unravel(v, y), args)[0])
    v = _tree.ravel(y)
    r, j = flat(v), jax.jacfwd(flat)(v)
    precise = jax.lax.Precision.HIGHEST
    gram = jnp.matmul(j.T, j, precision=precise)
    return NormalEquations(0.5 * r @ r, jnp.matmul(r, j, precision=precise), gram, None)


def _dual_norm(factor: Array, gradient: Array) -> Array:
    return jnp.linalg.norm(jax.scipy.linalg.solve_triangular(factor, gradient, lower=True))


def _solve(factor: Array, b: Array) -> Array:
    return jax.scipy.linalg.cho_solve((factor, True), b)
