"""Self-scaled quasi-Newton methods of Broyden's family, with a strong-Wolfe line search."""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optimistix as optx
from jaxtyping import Array, Bool, Float, Int

from .. import _tree
from .._solution import RESULTS
from ._bfgs import _value_and_gradient
from ._plain import AbstractPlainSolver, check_tolerances
from ._wolfe import Point, StrongWolfe

_IDLE = 10


class _State(eqx.Module):
    inverse: Float[Array, "n n"]  # H, of the Hessian, approximately
    value: Float[Array, ""]
    gradient: Float[Array, " n"]
    direction: Float[Array, " n"]  # −H g
    drop: Float[Array, ""]  # of f in the last step
    fresh: Bool[Array, ""]  # whether H is to be read as the identity
    scale: Float[Array, ""]
    lowest: tuple[Array, Array]  # the least value and norm of the gradient so far
    idle: Int[Array, ""]  # steps since either fell
    evaluations: Int[Array, ""]


class AbstractSelfScaled(AbstractPlainSolver, optx.AbstractMinimiser):
    """A quasi-Newton method whose inverse Hessian H is scaled at every step."""

    rtol: float
    atol: float
    scale: bool
    line_search: StrongWolfe
    norm: Any

    def __init__(
        self,
        rtol: float = 1e-6,
        atol: float = 0.0,
        *,
        scale: bool = False,
        line_search: StrongWolfe | None = None,
    ):
        check_tolerances(rtol, atol)
        if not isinstance(scale, bool):
            raise TypeError(f"`scale` is {scale!r}; expected True or False.")
        if not (line_search is None or isinstance(line_search, StrongWolfe)):
            raise TypeError(
                f"`line_search` is {type(line_search).__name__}; expected a "
                "`jaxsci.solvers.StrongWolfe`, such as `StrongWolfe(curvature=0.5)`."
            )
        self.rtol = rtol
        self.atol = atol
        self.scale = scale
        self.line_search = StrongWolfe() if line_search is None else line_search
        self.norm = optx.rms_norm

    @abc.abstractmethod
    def parameters(self, b: Array, h: Array, n: int) -> tuple[Array, Array]:
        """θ and τ of the update, from b = sᵀBs/sᵀy and h = yᵀHy/sᵀy for n unknowns."""

    def init(self, fn, y, args, options, f_struct, aux_struct, tags):
        value, gradient = _value_and_gradient(fn, y, args, options)
        slope = jnp.linalg.norm(gradient)
        return _State(
            jnp.eye(gradient.size, dtype=gradient.dtype),
            value,
            gradient,
            -gradient,
            jnp.zeros_like(value),
            jnp.array(True),
            slope,
            (value, slope),
            jnp.array(0),
            jnp.array(1),
        )

    def refresh(self, fn, y, args, options, state):
        """The state at the same y after the problem has changed (new points, new weights): H is kept."""
        value, gradient = _value_and_gradient(fn, y, args, options)
        return _State(
            state.inverse,
            value,
            gradient,
            -jnp.where(state.fresh, gradient, _product(state.inverse, gradient)),
            jnp.zeros_like(value),
            state.fresh,
            state.scale,
            (value, jnp.linalg.norm(gradient)),
            jnp.array(0),
            state.evaluations + 1,
        )

    def figures(self, state) -> dict[str, Array]:
        size = jnp.linalg.norm(state.gradient)
        return {"loss": state.value, "gradient": size, "evaluations": state.evaluations}

    def step(self, fn, y, args, options, state, tags):
        before = state.gradient
        slope = jnp.vdot(before, state.direction)
        # Not a direction of descent: H is lost in rounding, and starts again.
        fresh = state.fresh | ~(slope < 0)
        p = jnp.where(fresh, -before, state.direction)
        size = jnp.linalg.norm(before)
        slope = jnp.where(fresh, -(size**2), slope)
        at = lambda length: jax.tree.map(jnp.add, y, _tree.unravel(length * p, y))

        def evaluate(length) -> Point:
            value, gradient = _value_and_gradient(fn, at(length), args, options)
            return Point(length, value, jnp.vdot(gradient, p), gradient)

        one = jnp.ones_like(state.value)
        # Without a Hessian the first step has length one at most.
        # Then the length at which a parabola of the last step's decrease has its minimum.
        again = jnp.where(state.drop > 0, -2.02 * state.drop / slope, 1)
        first = jnp.where(fresh, one / jnp.maximum(size, 1), jnp.minimum(again, one))
        start = Point(jnp.zeros_like(state.value), state.value, slope, before)
        least = jnp.finfo(p.dtype).eps * _tree.max_abs(y) / jnp.max(jnp.abs(p))
        found, evaluations = self.line_search(evaluate, start, first, least, self.status(state)[0])
        moved = found.length > 0
        inverse, direction, updated = self._update(state.inverse, fresh, p, before, found)

        size = jnp.linalg.norm(found.gradient)
        least, smallest = state.lowest
        progress = moved & ((found.value < least) | (size < 0.9 * smallest))
        # No step along −H g: once more along −g, and if there is none either, this is the end.
        stuck = jnp.where(moved, state.idle + 1, jnp.where(fresh, _IDLE, state.idle + _IDLE // 2))
        state = _State(
            inverse,
            found.value,
            found.gradient,
            direction,
            state.value - found.value,
            ~moved | (fresh & ~updated),
            state.scale,
            (jnp.minimum(least, found.value), jnp.minimum(smallest, size)),
            jnp.where(progress, 0, stuck),
            state.evaluations + evaluations,
        )
        return at(found.length), state, None

    def _update(self, inverse, fresh, p, before, found: Point):
        """H⁺ and −H⁺g⁺, from one product with H and one pass that writes it: with q = Hy,

            H⁺ = (H − q qᵀ/yᵀq + φ yᵀq v vᵀ)/τ + s sᵀ/sᵀy,   v = s/sᵀy − q/yᵀq,   φ = (1 − θ)/(1 + aθ).

        The product is Hg⁺, and q = Hg⁺ + p, as p = −Hg; H⁺g⁺ follows from the formula. Each outer product is
        of a vector with itself, so that H stays symmetric to the last bit.
        """
        after, n = found.gradient, before.size
        s, y = found.length * p, after - before
        seen = jnp.where(fresh, after, _product(inverse, after))
        q = seen + p
        sy, yq = jnp.vdot(s, y), jnp.vdot(y, q)
        bound = 1e-12 * jnp.linalg.norm(s) * jnp.linalg.norm(y)
        good = (found.length > 0) & (sy > bound) & (yq > 0)
        sy, yq = jnp.where(good, sy, 1), jnp.where(good, yq, 1)
        b, h = -found.length * jnp.vdot(s, before) / sy, yq / sy  # Bs = −length · g
        theta, tau = self.parameters(b, h, n)
        a = jnp.maximum(b * h - 1, 0)
        # The first H is the identity times what makes it fit: h/(1 + aθ) is the τ for which.
        tau = jnp.where(fresh, h / (1 + a * theta) if self.scale else 1.0, tau)
        phi = (1 - theta) / (1 + a * theta)
        good = good & jnp.isfinite(phi) & (tau > 0) & jnp.isfinite(1 / tau)
        v = s / sy - q / yq
        old = jnp.where(fresh, jnp.eye(n, dtype=inverse.dtype), inverse)
        new = (old - (1 / yq) * jnp.outer(q, q) + (phi * yq) * jnp.outer(v, v)) * (1 / tau)
        new = new + (1 / sy) * jnp.outer(s, s)
        ahead = (seen - q * (jnp.vdot(q, after) / yq) + v * (phi * yq * jnp.vdot(v, after))) / tau
        ahead = ahead + s * (jnp.vdot(s, after) / sy)
        return jnp.where(good, new, inverse), -jnp.where(good, ahead, seen), good

    def status(self, state) -> tuple[Bool[Array, ""], RESULTS]:
        """Whether to stop, and with which result."""
        slope = jnp.linalg.norm(state.gradient)
        converged = slope <= self.atol + self.rtol * state.scale
        finite = jnp.isfinite(slope) & jnp.isfinite(state.value)
        stuck = state.idle >= _IDLE
        reason = RESULTS.where(finite, RESULTS.stagnated, RESULTS.nonfinite)
        return converged | ~finite | stuck, RESULTS.where(converged, RESULTS.successful, reason)

    def postprocess(self, fn, y, aux, args, options, state, tags, result):
        return y, aux, {"linear_iterations": jnp.array(0)}


class SelfScaledBFGS(AbstractSelfScaled):
    """min over y of f(y) by BFGS whose inverse Hessian is divided by τ = min(1, sᵀy/sᵀBs) at every step.

    BFGS corrects eigenvalues of its Hessian B = H⁻¹ that are too large slowly, and the scaling makes them
    smaller at once (s: the step, y: the change of the gradient). In physics-informed networks, whose Hessians
    have condition numbers of 10⁸ and more, this is worth orders of magnitude of the loss.

    An iteration is a search for the strong Wolfe conditions, mostly one value and gradient of f, and one
    update of H: H is read twice and written once. Stops when ‖∇f‖ is at most `atol + rtol ‖∇f(y₀)‖`, or
    as stagnated when neither f nor ‖∇f‖ falls any more, which is at the rounding of f's gradient. Where
    p = −H∇f is no direction of descent or has no acceptable step, H starts again from the identity.

    Plain JAX on dense n×n arrays, without callbacks, also inside `jax.shard_map`; under `vmap` every lane
    stops on its own and keeps its value. Also an `optimistix.AbstractMinimiser`. `refresh` keeps H where
    the function has changed, as when its points have been drawn anew; `figures` tells the value, the norm of
    the gradient and how often they were evaluated.

    **Arguments:**

    - `rtol`, `atol`: relative (dimensionless) and absolute (unit of f over that of y) tolerance of ‖∇f‖.
    - `scale`: whether the first H is the identity times about sᵀy/yᵀy, instead of the identity.
    - `line_search`: a `jaxsci.solvers.StrongWolfe`; None: one with c₁ = 10⁻⁴, c₂ = 0.9.

    **Limits:** O(n²) memory and operations a step; f once differentiable, and the same function at each
    evaluation (no mini-batches). Float64 for small losses.

    **Reference:** Al-Baali, Numerical experience with a class of self-scaling quasi-Newton algorithms, J.
    Optim. Theory Appl. 96, 1998; Urbán, Stefanou & Pons, J. Comput. Phys. 523, 113656, 2025.
    """

    def parameters(self, b, h, n):
        return jnp.zeros_like(b), jnp.minimum(1, 1 / b)


class SelfScaledBroyden(AbstractSelfScaled):
    """min over y of f(y) by a self-scaled method of Broyden's family, whose member θ and scale τ change from
    step to step (θ = 0: BFGS, θ = 1: DFP).

    With b = sᵀBs/sᵀy, h = yᵀHy/sᵀy, a = bh − 1 and n unknowns:

        ρ⁻ = min(1, h(1 − √(a/(1 + a)))),   θ = max((ρ⁻ − 1)/a, min(1/ρ⁻, (1 − b)/b)),
        ρ = min(1, 1/b),   σ = 1 + aθ,   τ = ρ min(σ^(1/(1−n)), 1/θ) for θ > 0, min(ρ σ^(1/(1−n)), σ) else

    (s: the step, y: the change of the gradient, H = B⁻¹). Everything else, the arguments and the limits
    are as in `jaxsci.solvers.SelfScaledBFGS`.

    **Reference:** Al-Baali, Numerical experience with a class of self-scaling quasi-Newton algorithms, J.
    Optim. Theory Appl. 96, 1998; Urbán, Stefanou & Pons, J. Comput. Phys. 523, 113656, 2025.
    """

    def parameters(self, b, h, n):
        tiny = jnp.finfo(b.dtype).eps
        a = jnp.maximum(b * h - 1, tiny)
        lower = jnp.minimum(1, h * (1 - jnp.sqrt(a / (1 + a))))
        theta = jnp.maximum((lower - 1) / a, jnp.minimum(1 / lower, (1 - b) / b))
        rho, sigma = jnp.minimum(1, 1 / b), 1 + theta * a
        root = jnp.abs(sigma) ** (1 / (1 - max(n, 2)))
        positive = rho * jnp.minimum(root, 1 / jnp.where(theta > 0, theta, 1))
        return theta, jnp.where(theta > 0, positive, jnp.minimum(rho * root, sigma))


def _product(matrix: Array, vector: Array) -> Array:
    return jnp.matmul(matrix, vector, precision=jax.lax.Precision.HIGHEST)
