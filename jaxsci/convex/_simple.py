"""Sets whose projection is a closed form once the active piece is known."""

from typing import Any

import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jax.nn import softmax
from jaxtyping import Array, Bool, Float, PyTree

from .. import _tree
from ._base import (
    AbstractSet,
    check_size,
    floating,
    held,
    known,
    norm,
    only,
    scalar,
    size_of,
    spread,
)


def clip(v: Array, lower: Array, upper: Array) -> Array:
    """The point of [lower, upper] next to v, the identity on the closed interval; NaN if it is empty."""
    inside = jnp.where(v < lower, lower, jnp.where(v > upper, upper, v))
    pinned = jnp.where((lower == upper) & ~jnp.isnan(v), lower, jnp.nan)
    return jnp.where(lower < upper, inside, pinned)


class Box(AbstractSet):
    """{x : lower ≤ x ≤ upper}: P(v) = min(max(v, lower), upper).

    **Arguments:**

    - `lower`, `upper`: numbers, arrays that broadcast to v, or pytrees like v (unit of v); −∞ and ∞ are
      allowed; None: no bound.

    **Limits:** where lower = upper, the derivative is that of x = lower.
    """

    lower: PyTree[Any] = None
    upper: PyTree[Any] = None

    def __check_init__(self):
        lower, upper = known(self.lower), known(self.upper)
        if lower is not None and upper is not None and np.any(lower > upper):
            raise ValueError(
                f"`lower` of Box is {self.lower}, above `upper` {self.upper}, so the box is empty. Exchange "
                "them."
            )

    def __call__(self, v: PyTree[Array], args: PyTree[Any] = None) -> PyTree[Array]:
        v = floating(v)
        return jtu.tree_map(clip, v, *bounds(self.lower, self.upper, v))


def bounds(lower: PyTree[Any], upper: PyTree[Any], v: PyTree[Array]) -> tuple[PyTree[Array], PyTree[Array]]:
    """Both bounds like v."""
    lower = spread(-jnp.inf if lower is None else lower, "lower", v)
    return lower, spread(jnp.inf if upper is None else upper, "upper", v)


class NonNegative(AbstractSet):
    """{x : x ≥ 0}: P(v) = max(v, 0). The identity at v = 0, so the derivative there is 1."""

    def __call__(self, v: PyTree[Array], args: PyTree[Any] = None) -> PyTree[Array]:
        return jtu.tree_map(lambda x: jnp.where(x < 0, 0, x), floating(v))


class LInfBall(AbstractSet):
    """{x : max|xᵢ| ≤ radius}, over all scalars of v.

    **Arguments:**

    - `radius`: a scalar ≥ 0 (unit of v).
    """

    radius: Any = 1.0

    def __check_init__(self):
        check_size(self.radius, "radius", "LInfBall")

    def __call__(self, v: PyTree[Array], args: PyTree[Any] = None) -> PyTree[Array]:
        size = lambda x: size_of(self.radius, "radius", x.dtype)
        return jtu.tree_map(lambda x: clip(x, -size(x), size(x)), floating(v))


class L2Ball(AbstractSet):
    """{x : ‖x‖₂ ≤ radius}, over all scalars of v: P(v) = v · min(1, radius/‖v‖₂).

    **Arguments:**

    - `radius`: a scalar ≥ 0 (unit of v).
    """

    radius: Any = 1.0

    def __check_init__(self):
        check_size(self.radius, "radius", "L2Ball")

    def __call__(self, v: PyTree[Array], args: PyTree[Any] = None) -> PyTree[Array]:
        v = floating(v)
        x = _tree.ravel(v)
        radius = size_of(self.radius, "radius", x.dtype)
        length = norm(x)
        inside = (length <= radius) & (radius > 0)
        ratio = jnp.where(inside, 1, radius / jnp.where(inside | (length == 0), 1, length))
        return _tree.unravel(x * ratio, v)


def simplex(v: Float[Array, " n"], total: Array) -> Float[Array, " n"]:
    """The projection on {x ≥ 0, Σx = total}: max(v − τ, 0), by sorting, with derivatives on the support.

    A common shift of v changes nothing, so the largest entry is moved to 0; then τ ≥ −total, and sums
    are of numbers of the size of `total`, whatever the size of v.
    """
    top = held(jnp.max(v))
    w = v - top
    fixed, mass = held((w, total))
    u = jnp.maximum(-jnp.sort(-fixed), -mass)
    taus = (jnp.cumsum(u) - mass) / jnp.arange(1, v.size + 1, dtype=v.dtype)
    tau = taus[jnp.maximum(jnp.sum(u > taus), 1) - 1]
    support = (fixed > tau) | (jnp.arange(v.size) == jnp.argmax(fixed))
    count = jnp.sum(support).astype(v.dtype)
    x = w - (jnp.sum(jnp.where(support, w, 0)) - total) / count
    x = jnp.where(support & (x > 0), x, 0)
    return only((mass >= 0) & jnp.isfinite(mass) & jnp.isfinite(top), x)


def _entries(v: PyTree[Array], owner: str) -> Float[Array, " n"]:
    x = _tree.ravel(v)
    if x.size == 0:
        raise ValueError(
            f"`v` has no entries, and {owner} has no point of size 0; expected one entry at least."
        )
    return x


class Simplex(AbstractSet):
    """{x : x ≥ 0, Σᵢ xᵢ = total}, over all scalars of v: P(v) = max(v − τ, 0). O(n log n), by sorting.

    Entries −∞ of v are allowed and give 0.

    **Arguments:**

    - `total`: a scalar ≥ 0 (unit of v).

    **Limits:** a kink where an entry of v is exactly τ; it counts as zero there.

    **Reference:** Duchi et al., Efficient Projections onto the ℓ1-Ball, ICML 2008.
    """

    total: Any = 1.0

    def __check_init__(self):
        check_size(self.total, "total", "Simplex")

    def __call__(self, v: PyTree[Array], args: PyTree[Any] = None) -> PyTree[Array]:
        v = floating(v)
        x = _entries(v, "Simplex")
        return _tree.unravel(simplex(x, scalar(self.total, "total", x.dtype)), v)


class KLSimplex(AbstractSet):
    """{x : x ≥ 0, Σᵢ xᵢ = total} in the geometry of the entropy: total · softmax(v).

    x = argmin over the simplex of Σᵢ xᵢ (log xᵢ − vᵢ): the Bregman projection of exp(v), for mirror
    descent, where v = log x − step · gradient. Not the Euclidean one: P(P(v)) ≠ P(v).

    **Arguments:**

    - `total`: a scalar ≥ 0 (unit of x); v is dimensionless.
    """

    total: Any = 1.0

    def __check_init__(self):
        check_size(self.total, "total", "KLSimplex")

    def __call__(self, v: PyTree[Array], args: PyTree[Any] = None) -> PyTree[Array]:
        v = floating(v)
        x = _entries(v, "KLSimplex")
        return _tree.unravel(size_of(self.total, "total", x.dtype) * softmax(x), v)

    def contains(self, v: PyTree[Array], tol: Any = None) -> Bool[Array, ""]:
        return Simplex(self.total).contains(v, tol)


class L1Ball(AbstractSet):
    """{x : Σᵢ|xᵢ| ≤ radius}, over all scalars of v: a soft threshold, by projecting |v| on a simplex.

    O(n log n).

    **Arguments:**

    - `radius`: a scalar ≥ 0 (unit of v).

    **Limits:** see `Simplex`.
    """

    radius: Any = 1.0

    def __check_init__(self):
        check_size(self.radius, "radius", "L1Ball")

    def __call__(self, v: PyTree[Array], args: PyTree[Any] = None) -> PyTree[Array]:
        v = floating(v)
        x = _tree.ravel(v)
        return v if x.size == 0 else _tree.unravel(l1_ball(x, scalar(self.radius, "radius", x.dtype)), v)


def l1_ball(x: Float[Array, " n"], radius: Array) -> Float[Array, " n"]:
    """The projection on {Σ|xᵢ| ≤ radius}."""
    fixed, limit = held((x, radius))
    inside = (jnp.sum(jnp.abs(fixed)) <= limit) & (limit > 0)
    sign = jnp.sign(fixed)
    # An infinite radius is inside; its simplex is not looked at, and must not be infinite.
    outer = sign * simplex(sign * x, jnp.where(jnp.isinf(limit), 1, radius))
    return jnp.where(inside, x, outer)


class BoxSection(AbstractSet):
    """{x : lower ≤ x ≤ upper, ⟨a, x⟩ = b}: P(v) = min(max(v − τ a, lower), upper).

    ⟨a, x(τ)⟩ falls piecewise linearly with τ: its piece through b is found exactly, by bisection among
    the 2n sorted kinks, so there is no tolerance. O(n log n). NaN if the set is empty.

    **Arguments:**

    - `lower`, `upper`: as in `Box` (unit of v).
    - `a`: weights: a number, an array that broadcasts to v, or a pytree like v.
    - `b`: a scalar (unit of a · v).

    **Limits:** kinks where an entry of v − τ a is exactly at a bound.
    """

    lower: PyTree[Any]
    upper: PyTree[Any]
    a: PyTree[Any] = 1.0
    b: Any = 1.0

    def __check_init__(self):
        Box(self.lower, self.upper)

    def __call__(self, v: PyTree[Array], args: PyTree[Any] = None) -> PyTree[Array]:
        v = floating(v)
        x = _entries(v, "BoxSection")
        lower, upper = map(_tree.ravel, bounds(self.lower, self.upper, v))
        a = _tree.ravel(spread(self.a, "a", v))
        return _tree.unravel(box_section(x, lower, upper, a, scalar(self.b, "b", x.dtype)), v)


def box_section(v: Array, lower: Array, upper: Array, a: Array, b: Array) -> Array:
    """The projection on {lower ≤ x ≤ upper, ⟨a, x⟩ = b}."""
    size = held(jnp.max(jnp.abs(a)))
    size = jnp.where((size > 0) & jnp.isfinite(size), size, 1)
    a, b = a / size, b / size
    point, low, high, slope, level = held((v, lower, upper, a, b))
    moving = slope != 0
    slope = jnp.where(moving, slope, 1)
    ends = jnp.stack([(point - low) / slope, (point - high) / slope])
    # xᵢ(τ) moves for τ between `first` and `last`.
    first = jnp.where(moving, jnp.min(ends, 0), -jnp.inf)
    last = jnp.where(moving, jnp.max(ends, 0), jnp.inf)
    knots = jnp.sort(jnp.concatenate([first, last]))
    limit = jnp.full_like(knots[:1], jnp.inf)
    knots = jnp.concatenate([-limit, knots, limit])

    def halve(_, interval):
        i, j = interval
        middle = (i + j) // 2
        x = jnp.clip(point - knots[middle] * slope, low, high)
        above = (jnp.sum(jnp.where(moving, slope * x, 0)) >= level) & (middle > i)
        return jnp.where(above, middle, i), jnp.where(above | (middle == i), j, middle)

    steps = int(np.ceil(np.log2(knots.size))) + 1
    i, j = _tree.fori_loop(steps, halve, (jnp.array(0), jnp.array(knots.size - 1)))
    free = moving & (first <= knots[i]) & (last >= knots[j])
    early = (first >= knots[j]) == (slope > 0)
    fixed = jnp.where(moving & ~free, jnp.where(early, upper, lower), 0)
    square = jnp.sum(jnp.where(free, a * a, 0))
    need = jnp.sum(jnp.where(free, a * v, a * fixed)) - b
    tau = jnp.where(jnp.any(free), need / jnp.where(jnp.any(free), square, 1), 0)
    x = jnp.where(free, v - tau * a, jnp.where(moving, fixed, clip(v, lower, upper)))
    x = jnp.where(free & (x < low), lower, jnp.where(free & (x > high), upper, x))
    parts = held(jnp.where(moving, a * jnp.where(moving, x, 0), 0))
    error = jnp.abs(jnp.sum(parts) - level)
    noise = 32 * v.size * jnp.finfo(v.dtype).eps
    # What τ a adds to v is rounded at the size of v.
    scale = jnp.sum(jnp.abs(parts)) + jnp.abs(level) + jnp.max(jnp.where(free, jnp.abs(point), 0))
    return only((error <= noise * scale) & jnp.all(low <= high), x)
