"""Broyden's method with limited memory."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import optimistix as optx
from jaxtyping import Array, Bool, Float, Int, PyTree

from .. import _tree
from .._solution import RESULTS
from ._anderson import contract
from ._plain import AbstractPlainSolver, check_tolerances


class _State(eqx.Module):
    f: PyTree[Array]
    size: Float[Array, ""]  # ‖F‖₂
    scale: Array  # H = scale I + Σᵢ uᵢ vᵢᴴ approximates (∂F/∂y)⁻¹
    u: PyTree[Array]
    v: PyTree[Array]
    count: Int[Array, ""]
    gain: Float[Array, ""]  # ‖∂F/∂y d‖/‖d‖ for the last direction that tells it: F per y
    radius: Float[Array, ""]  # longest next step
    accepted: Int[Array, ""]
    rejected: Int[Array, ""]  # in a row
    converged: Bool[Array, ""]


class Broyden(AbstractPlainSolver, optx.AbstractRootFinder):
    """F(y, θ) = 0 by y ← y − H F with the good Broyden update of H ≈ (∂F/∂y)⁻¹: after a move s
    that changed F by d,

        H ← H + (s − H d) (Hᵀs)ᵀ / (sᵀ H d).

    One evaluation of F a step and no Jacobian: H is a multiple of the identity, from one
    Jacobian–vector product at the first guess, plus at most `memory` outer products; when these are full
    it begins again from the last pair. Superlinear convergence.

    Safeguard: a step is kept if ‖F‖ grows by no more than a summable sequence (Li & Fukushima). A
    refused step updates H too unless ‖F‖ grew fourfold, so that H learns the Jacobian there; then, and
    after five refusals, the next step is at most a quarter as long.

    Stops when a full step is shorter than `atol + rtol ‖y‖` (root-mean-square norms) *and* has halved
    ‖F‖, or ‖F‖ is rounding: H alone is no witness. Plain JAX on pytrees, without callbacks, also inside
    `jax.shard_map`; under `vmap` every lane stops on its own. Also an `optimistix.AbstractRootFinder`.

    **Arguments:**

    - `rtol`, `atol`: relative (dimensionless) and absolute (unit of y) tolerance of the step.
    - `memory`: updates that are kept. Memory: 2 `memory` copies of y.

    **Limits:** local convergence; 30 refused steps in a row end the solve as stagnated. Where the
    Jacobian is at hand and small, `Newton` is quicker.

    **Reference:** Broyden, Math. Comp. 19, 1965; Kelley, Solving Nonlinear Equations with Newton's
    Method, SIAM 2003, ch. 4; Li & Fukushima, Optim. Methods Softw. 13, 2000.
    """

    rtol: float
    atol: float
    memory: int
    norm: Any

    def __init__(self, rtol: float, atol: float, *, memory: int = 30):
        check_tolerances(rtol, atol)
        if isinstance(memory, bool) or not isinstance(memory, int) or memory < 1:
            raise ValueError(f"`memory` is {memory!r}; expected an int ≥ 1, such as 30.")
        self.rtol = rtol
        self.atol = atol
        self.memory = memory
        self.norm = optx.rms_norm

    def init(self, fn, y, args, options, f_struct, aux_struct, tags):
        residual = lambda y: _tree.shaped_like(y, fn(y, args)[0])
        f = residual(y)
        size = _tree.norm(f)
        zero = size == 0
        direction = _tree.scaled(1 / jnp.where(zero, 1, size), f)
        image = jax.jvp(residual, (y,), (direction,))[1]
        square = _tree.dot(image, image).real
        usable = (square > 0) & jnp.isfinite(square)
        # The multiple of the direction that comes nearest to undoing F.
        scale = _tree.dot(image, direction) / jnp.where(usable, square, 1)
        length = jnp.abs(scale) * jnp.sqrt(square)  # cosine of the angle between F and ∂F/∂y F
        scale = jnp.where(length > 1e-3, scale, 1 / jnp.sqrt(jnp.where(usable, square, 1)))
        empty = jtu.tree_map(lambda x: jnp.zeros((self.memory, *x.shape), x.dtype), y)
        no, nothing = jnp.array(False), jnp.array(0)
        far = jnp.full_like(size, jnp.inf)
        return _State(f, size, scale, empty, empty, nothing, jnp.sqrt(square), far, nothing, nothing, no)

    def step(self, fn, y, args, options, state, tags):
        full = _tree.scaled(-1.0, _apply(state.scale, state.u, state.v, state.f))
        length = _tree.norm(full)
        t = jnp.where(length > state.radius, state.radius / jnp.where(length > 0, length, 1), 1.0)
        s = _tree.scaled(t, full)
        candidate = jtu.tree_map(jnp.add, y, s)
        f = _tree.shaped_like(y, fn(candidate, args)[0])
        size = _tree.norm(f)
        finite = jnp.isfinite(size)
        slack = 1 / (1.0 + state.accepted) ** 2
        accepted = finite & (size <= (1 + slack - 1e-4 * t) * state.size)

        count = _tree.size(y) ** 0.5
        short = length / count <= self.atol + self.rtol * _tree.norm(y) / count
        rounding = 100 * jnp.finfo(size.dtype).eps * state.gain * _tree.norm(y)
        converged = short & (t == 1) & ((size <= 0.5 * state.size) | (size <= rounding))
        accepted = accepted | converged

        change = jtu.tree_map(jnp.subtract, f, state.f)
        travelled = t * length
        # A pair from where F is far larger tells nothing about the Jacobian here.
        telling = size <= 4 * state.size
        scale, u, v, used = self._updated(state, s, change, telling)
        # Steps near rounding measure the noise of F and not its slope.
        small = jnp.finfo(size.dtype).eps ** 0.5 * _tree.norm(y)
        gain = jnp.where(telling & (travelled > small), _tree.norm(change) / travelled, state.gain)
        shorter = jnp.where(telling & (state.rejected < 5), state.radius, 0.25 * travelled)
        keep = lambda a, b: _tree.where(accepted, a, b)
        state = _State(
            keep(f, state.f),
            keep(size, state.size),
            scale,
            u,
            v,
            used,
            gain,
            jnp.where(accepted, jnp.maximum(2 * travelled, state.radius), shorter),
            state.accepted + accepted,
            jnp.where(accepted, 0, state.rejected + 1),
            converged | (keep(size, state.size) == 0),
        )
        return keep(candidate, y), state, None

    def _updated(self, state, s, change, telling):
        """H after one more pair; from the pair alone where the memory was full."""
        ss = _tree.dot(s, s).real
        sd, dd = _tree.dot(change, s), _tree.dot(change, change).real
        fresh = state.count >= self.memory
        # sᴴd/dᴴd loses sign and size where the pair is nearly orthogonal: the old multiple stays.
        aligned = jnp.abs(sd) > 1e-3 * jnp.sqrt(ss * dd)
        scale = jnp.where(fresh & telling & aligned, sd / jnp.where(dd > 0, dd, 1), state.scale)
        clear = lambda h: jnp.where(fresh & telling, jnp.zeros_like(h), h)
        u, v = jtu.tree_map(clear, state.u), jtu.tree_map(clear, state.v)
        used = jnp.where(fresh & telling, 0, state.count)
        hd = _apply(scale, u, v, change)
        hs = _apply(jnp.conj(scale), v, u, s)
        denominator = _tree.dot(s, hd)
        # sᵀHd = 0 would make H singular; then the pair is left out.
        usable = telling & (jnp.abs(denominator) > 1e-4 * ss)
        safe = jnp.where(usable, denominator, 1)
        put = lambda h, x: h.at[used].set(jnp.where(usable, x, h[used]))
        u = jtu.tree_map(lambda h, a, b: put(h, ((a - b) / safe).astype(h.dtype)), u, s, hd)
        v = jtu.tree_map(put, v, hs)
        return scale, u, v, used + usable

    def status(self, state) -> tuple[Bool[Array, ""], RESULTS]:
        """Whether to stop, and with which result."""
        converged = state.converged | (state.size == 0)
        finite = jnp.isfinite(state.size)
        stuck = state.rejected >= 30
        reason = RESULTS.where(finite, RESULTS.stagnated, RESULTS.nonfinite)
        return converged | ~finite | stuck, RESULTS.where(converged, RESULTS.successful, reason)

    def postprocess(self, fn, y, aux, args, options, state, tags, result):
        return y, aux, {"linear_iterations": jnp.array(0)}


def _apply(scale: Array, u: PyTree[Array], v: PyTree[Array], x: PyTree[Array]) -> PyTree[Array]:
    """(scale I + Σᵢ uᵢ vᵢᴴ) x."""
    weights = sum(jtu.tree_leaves(jtu.tree_map(lambda v, x: contract(v.conj(), x, x.ndim), v, x)))
    return jtu.tree_map(lambda x, u: (scale * x + contract(weights, u, 1)).astype(x.dtype), x, u)
