"""A line search for the strong Wolfe conditions."""

from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from .. import _tree


class Point(eqx.Module):
    """A point of the line: y + length · p, with f there and its gradient."""

    length: Float[Array, ""]
    value: Float[Array, ""]
    slope: Float[Array, ""]  # ∇fᵀp
    gradient: Float[Array, " n"]


class _Search(eqx.Module):
    low: Point  # the best so far: where the interval begins, with a slope into it
    high: tuple[Array, Array, Array]  # length, value and slope at the other end
    trial: Float[Array, ""]
    bracketed: Bool[Array, ""]
    done: Bool[Array, ""]
    evaluations: Int[Array, ""]


class StrongWolfe(eqx.Module):
    """A step length a > 0 along a direction p of descent that meets the strong Wolfe conditions

        φ(a) ≤ φ(0) + c₁ a φ′(0),   |φ′(a)| ≤ c₂ |φ′(0)|,   φ(a) = f(y + a p),

    by a bracket and cubic interpolation, one value and gradient of f a trial. Where the decrease is lost
    in rounding (|φ(a) − φ(0)| ≤ 100 ε |φ(0)|) slopes decide: φ′(a) ≤ (2c₁ − 1) φ′(0) takes the place of the
    first condition (it is the same for a parabola), and secants that of the cubics. A value that is not
    finite is an upper end of the bracket.

    **Arguments:**

    - `decrease`: c₁, 0 < c₁ < c₂ (dimensionless).
    - `curvature`: c₂ < 1 (dimensionless); a small one searches longer for a better step.
    - `max_evaluations`: trials at most. After them the best point with enough decrease is taken, if any.

    **Reference:** Nocedal & Wright, Numerical Optimization, 2nd ed., §3.5; Hager & Zhang, SIAM J. Optim. 16,
    2005 (the approximate conditions).
    """

    decrease: float
    curvature: float
    max_evaluations: int

    def __init__(self, decrease: float = 1e-4, curvature: float = 0.9, max_evaluations: int = 25):
        if not 0 < decrease < curvature < 1:
            raise ValueError(
                f"`decrease` is {decrease!r} and `curvature` {curvature!r}; expected "
                "0 < decrease < curvature < 1, such as 1e-4 and 0.9."
            )
        if isinstance(max_evaluations, bool) or not isinstance(max_evaluations, int) or max_evaluations < 2:
            raise ValueError(
                f"`max_evaluations` is {max_evaluations!r}; expected an integer ≥ 2, such as 25."
            )
        self.decrease = decrease
        self.curvature = curvature
        self.max_evaluations = max_evaluations

    def __call__(
        self, evaluate: Callable[[Array], Point], start: Point, first: Array, least: Array, skip: Array
    ) -> tuple[Point, Int[Array, ""]]:
        """The point that was found (of length 0 if none), and how often f was evaluated.

        **Arguments:**

        - `evaluate`: the point of a given length.
        - `start`: that of length 0, with a negative slope.
        - `first`: the length of the first trial.
        - `least`: the interval at which y does not change any more, where the search ends.
        - `skip`: whether to return at once with `start`.
        """
        nothing = (start.length, start.value, start.slope)
        search = _Search(start, nothing, first, jnp.array(False), skip, jnp.array(0))
        active = lambda s: ~s.done & (s.evaluations < self.max_evaluations)
        search = _tree.while_loop(active, lambda s: self._advance(evaluate, start, least, s), search)
        return search.low, search.evaluations

    def _advance(self, evaluate, start: Point, least: Array, search: _Search) -> _Search:
        point, low = evaluate(search.trial), search.low
        noise = 100 * jnp.finfo(point.value.dtype).eps * jnp.abs(start.value)
        gain = self.decrease * point.length * start.slope
        flat = jnp.abs(point.value - start.value) <= noise
        flat = flat & (point.slope <= (2 * self.decrease - 1) * start.slope)
        enough = (point.value <= start.value + gain) | flat
        better = enough & (point.value <= low.value + noise) & jnp.isfinite(point.slope)
        wolfe = better & (jnp.abs(point.slope) <= -self.curvature * start.slope)
        # The interval lies on the side to which f falls: beyond the new point, or between it and the old.
        ahead = jnp.where(search.bracketed, search.high[0] - low.length, 1)
        turned = better & (point.slope * ahead >= 0)
        ends = lambda p: (p.length, p.value, p.slope)
        high = _tree.where(better, _tree.where(turned, ends(low), search.high), ends(point))
        bracketed = search.bracketed | ~better | turned
        # Beyond: where the secant of the slopes vanishes, at two to ten times the last stride.
        stride = point.length - low.length
        further = jnp.clip(point.slope / (low.slope - point.slope), 1, 9)
        further = point.length + stride * jnp.where(point.slope > low.slope, further, 9)
        low = _tree.where(better, point, low)
        trial = jnp.where(bracketed, _between(low, high, noise), further)
        closed = bracketed & (jnp.abs(high[0] - low.length) <= least)
        return _Search(low, high, trial, bracketed, wolfe | closed, search.evaluations + 1)


def _between(low: Point, high: tuple[Array, Array, Array], noise: Array) -> Array:
    """Where the cubic through both values and slopes has its minimum; the secant, where values are noise."""
    length, value, slope = high
    width = length - low.length
    rise, before, after = value - low.value, low.slope * width, slope * width
    middle = before + after - 3 * rise
    root = jnp.sqrt(jnp.maximum(middle**2 - before * after, 0))
    cubic = 1 - (after + root - middle) / (after - before + 2 * root)
    secant = before / (before - after)
    share = jnp.where(jnp.abs(rise) <= noise, secant, cubic)
    share = jnp.where(jnp.isfinite(share), jnp.clip(share, 0.1, 0.9), 0.1)
    return low.length + share * width
