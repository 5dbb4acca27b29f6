"""Anderson acceleration of fixed-point iterations."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import optimistix as optx
from jaxtyping import Array, Bool, Float, Int, PyTree

from .. import _tree
from .._solution import RESULTS
from ._picard import fixed_point_residual, fixed_point_status
from ._plain import AbstractPlainSolver, check_tolerances


class _State(eqx.Module):
    f: PyTree[Array]  # T(y) − y
    size: Float[Array, ""]  # ‖f‖₂
    relative: Float[Array, ""]  # ‖f‖ / (atol + rtol ‖y‖)
    moves: PyTree[Array]  # differences of y, newest last in order of `count`; axis 0 has `history` slots
    changes: PyTree[Array]  # the differences of f that go with them
    count: Int[Array, ""]  # pairs since the history was cleared
    best: Float[Array, ""]
    stale: Int[Array, ""]  # accelerated steps since `best` last fell
    plain: Int[Array, ""]  # plain steps still to make
    patience: Int[Array, ""]  # length of the next phase of plain steps


class Anderson(AbstractPlainSolver, optx.AbstractFixedPointSolver):
    """y = T(y, θ) by Anderson acceleration. With f = T(y) − y and the last differences Δyᵢ, Δfᵢ,

        y ← y + β f − Σᵢ γᵢ (Δyᵢ + β Δfᵢ),   γ = argmin ‖f − Σᵢ γᵢ Δfᵢ‖².

    One evaluation of T a step. For a linear T this is GMRES on y − T(y) = 0, and for contractions it
    needs a fraction of the steps of y ← T(y); it often converges where that does not.

    Safeguard: an accelerated step is kept while ‖f‖ is at most twice its smallest value so far, and
    that value must fall by one part in a hundred within `history + 2` steps. Otherwise the history is
    cleared and plain steps follow: one, then two, four, … until acceleration gains again. So where plain
    steps converge from everywhere, this does.

    Stops when ‖f‖ is at most `atol + rtol ‖y‖` (root-mean-square norms). Plain JAX on pytrees, without
    callbacks, also inside `jax.shard_map`; only inner products are reduced. Under `vmap` every lane
    stops on its own. Also an `optimistix.AbstractFixedPointSolver`.

    It serves `FixedPoint` as well as the fixed-point faces of `ProjectedGradient` and `ProximalGradient`.
    An accelerated gradient method (FISTA with restart) would serve the last two only, needs a step below
    1/L and no more memory than `history=1`; for what it solves this takes fewer evaluations.

    **Arguments:**

    - `rtol`, `atol`: relative (dimensionless) and absolute (unit of y) tolerance of T(y) − y.
    - `history`: pairs that are kept. Memory: 2 `history` copies of y.
    - `mixing`: β in (0, 1] (dimensionless); plain steps are y + β f.
    - `regularization`: ridge of the small least-squares problem, whose columns have length one
      (dimensionless). None: ten times the precision.

    **Limits:** f bounds the error by ‖f‖/(1 − c) only where T contracts by c < 1.

    **Reference:** Walker & Ni, Anderson acceleration for fixed-point iterations, SIAM J. Numer. Anal.
    49, 2011; Zhang, O'Donoghue & Boyd, Globally convergent type-I Anderson acceleration, SIAM J. Optim.
    30, 2020 (safeguards).
    """

    rtol: float
    atol: float
    history: int
    mixing: float
    regularization: float | None
    norm: Any

    def __init__(
        self,
        rtol: float,
        atol: float,
        *,
        history: int = 5,
        mixing: float = 1.0,
        regularization: float | None = None,
    ):
        check_tolerances(rtol, atol)
        if isinstance(history, bool) or not isinstance(history, int) or history < 1:
            raise ValueError(f"`history` is {history!r}; expected an int ≥ 1, such as 5.")
        if not 0 < mixing <= 1:
            raise ValueError(f"`mixing` is {mixing!r}; expected a number in (0, 1]; 1 mixes nothing in.")
        if regularization is not None and not 0 <= regularization < float("inf"):
            raise ValueError(
                f"`regularization` is {regularization!r}; expected a number ≥ 0, or None for a choice by "
                "precision."
            )
        self.rtol = rtol
        self.atol = atol
        self.history = history
        self.mixing = mixing
        self.regularization = regularization
        self.norm = optx.rms_norm

    def init(self, fn, y, args, options, f_struct, aux_struct, tags):
        f, size, relative = self._evaluate(fn, y, args)
        empty = jtu.tree_map(lambda x: jnp.zeros((self.history, *x.shape), x.dtype), y)
        zero, one = jnp.array(0), jnp.array(1)
        return _State(f, size, relative, empty, empty, zero, size, zero, zero, one)

    def _evaluate(self, fn, y, args):
        """T(y) − y, its norm, and its norm in units of the tolerance."""
        f = fixed_point_residual(fn, y, args)
        size, count = _tree.norm(f), max(_tree.size(y), 1) ** 0.5
        return f, size, size / count / (self.atol + self.rtol * _tree.norm(y) / count)

    def step(self, fn, y, args, options, state, tags):
        accelerated = (state.plain == 0) & (state.count > 0)
        gamma = jnp.where(accelerated, self._weights(state), 0)
        usable = jnp.all(jnp.isfinite(gamma))
        accelerated, gamma = accelerated & usable, jnp.where(usable, gamma, 0)
        combine = lambda x, f, dx, df: (
            x + self.mixing * f - contract(gamma, dx + self.mixing * df, 1)
        ).astype(x.dtype)
        candidate = jtu.tree_map(combine, y, state.f, state.moves, state.changes)
        f, size, relative = self._evaluate(fn, candidate, args)

        # A plain step that is not finite has nothing to fall back on: it is kept, and ends the solve.
        accepted = ~accelerated | (size <= 2 * state.best)
        gained = accepted & (size < 0.99 * state.best)
        stale = jnp.where(gained, 0, state.stale + accelerated)
        failed = ~accepted | (stale > self.history + 2)
        patience = jnp.where(gained & accelerated, 1, state.patience)
        keep = lambda a, b: _tree.where(accepted, a, b)
        slot = state.count % self.history
        push = lambda h, a, b: h.at[slot].set(jnp.where(accepted, a - b, h[slot]))
        state = _State(
            keep(f, state.f),
            keep(size, state.size),
            keep(relative, state.relative),
            jtu.tree_map(push, state.moves, candidate, y),
            jtu.tree_map(push, state.changes, f, state.f),
            jnp.where(failed, 0, state.count + 1),
            jnp.where(gained, size, state.best),
            jnp.where(failed, 0, stale),
            jnp.where(failed, patience, jnp.maximum(state.plain - 1, 0)),
            jnp.where(failed, jnp.minimum(2 * patience, 2**20), patience),
        )
        return keep(candidate, y), state, None

    def _weights(self, state) -> Array:
        """γ from the normal equations of the columns scaled to length one; 0 for empty slots."""
        pairs = lambda f: sum(jtu.tree_leaves(jtu.tree_map(f, state.changes, state.f)))
        gram = pairs(lambda d, _: jnp.tensordot(d.conj(), d, (_rest(d), _rest(d)), precision=_PRECISE))
        right = pairs(lambda d, f: jnp.tensordot(d.conj(), f, f.ndim, precision=_PRECISE))
        lengths = jnp.sqrt(jnp.diagonal(gram).real)
        filled = (jnp.arange(self.history) < state.count) & (lengths > 0)
        scale = jnp.where(filled, 1 / jnp.where(filled, lengths, 1), 0)
        ridge = self.regularization
        ridge = 10 * jnp.finfo(lengths.dtype).eps if ridge is None else ridge
        matrix = scale[:, None] * gram * scale + jnp.diag(jnp.where(filled, ridge, 1))
        factor = jnp.linalg.cholesky(matrix)
        return scale * jax.scipy.linalg.cho_solve((factor, True), scale * right)

    def status(self, state) -> tuple[Bool[Array, ""], RESULTS]:
        """Whether to stop, and with which result."""
        return fixed_point_status(state)

    def postprocess(self, fn, y, aux, args, options, state, tags, result):
        return y, aux, {"linear_iterations": jnp.array(0)}


_PRECISE = jax.lax.Precision.HIGHEST


def _rest(x: Array) -> tuple[int, ...]:
    return tuple(range(1, x.ndim))


def contract(weights: Array, x: Array, axes: int) -> Array:
    """Σ over the last `axes` axes of the weights and the first of x."""
    return jnp.tensordot(weights, x, axes, precision=_PRECISE)
