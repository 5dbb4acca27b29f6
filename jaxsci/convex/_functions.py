"""Convex functions with a proximal operator in closed form."""

from typing import Any

import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, Float, PyTree

from .. import _tree
from ._base import AbstractFunction, check_size, floating, held, matrix, norm, size_of, spread
from ._cones import shrink
from ._simple import l1_ball


def _soft(x: Array, threshold: Array) -> Array:
    """x moved towards 0 by `threshold`."""
    return jnp.where(jnp.abs(x) <= threshold, 0, x - threshold * jnp.sign(x))


def _step(step: Any, dtype: Any) -> Array:
    check_size(step, "step", "the proximal operator")
    return size_of(step, "step", dtype)


def _weights(weight: PyTree[Any], v: PyTree[Array]) -> PyTree[Array]:
    """The weight of each entry; NaN where it is negative."""
    return jtu.tree_map(lambda w: jnp.where(w >= 0, w, jnp.nan), spread(weight, "weight", v))


def _sum(parts: PyTree[Array]) -> Array:
    return jnp.sum(jnp.stack([jnp.sum(x) for x in jtu.tree_leaves(parts)]))


class L1(AbstractFunction):
    """g(x) = Σᵢ wᵢ |xᵢ| (lasso): prox(v, t) = sign(v) max(|v| − t w, 0), the soft threshold.

    **Arguments:**

    - `weight`: w ≥ 0: a number, an array that broadcasts to v, or a pytree like v.
    """

    weight: PyTree[Any] = 1.0

    def __check_init__(self):
        check_size(self.weight, "weight", "L1")

    def __call__(self, v: PyTree[Array], step: Any = 1.0, args: PyTree[Any] = None) -> PyTree[Array]:
        v = floating(v)
        return jtu.tree_map(lambda x, w: _soft(x, _step(step, x.dtype) * w), v, _weights(self.weight, v))

    def value(self, v: PyTree[Array]) -> Array:
        v = floating(v)
        return _sum(jtu.tree_map(lambda x, w: w * jnp.abs(x), v, _weights(self.weight, v)))


class NonNegativeL1(AbstractFunction):
    """g(x) = Σᵢ wᵢ xᵢ for x ≥ 0, ∞ elsewhere: prox(v, t) = max(v − t w, 0).

    **Arguments:**

    - `weight`: as in `L1`.
    """

    weight: PyTree[Any] = 1.0

    def __check_init__(self):
        check_size(self.weight, "weight", "NonNegativeL1")

    def __call__(self, v: PyTree[Array], step: Any = 1.0, args: PyTree[Any] = None) -> PyTree[Array]:
        v = floating(v)
        one = lambda x, w: jnp.where(x <= _step(step, x.dtype) * w, 0, x - _step(step, x.dtype) * w)
        return jtu.tree_map(one, v, _weights(self.weight, v))

    def value(self, v: PyTree[Array]) -> Array:
        v = floating(v)
        one = lambda x, w: jnp.where(x < 0, jnp.inf, w * x)
        return _sum(jtu.tree_map(one, v, _weights(self.weight, v)))


class SquaredL2(AbstractFunction):
    """g(x) = ½ Σᵢ wᵢ xᵢ² (ridge): prox(v, t) = v/(1 + t w).

    **Arguments:**

    - `weight`: as in `L1`.
    """

    weight: PyTree[Any] = 1.0

    def __check_init__(self):
        check_size(self.weight, "weight", "SquaredL2")

    def __call__(self, v: PyTree[Array], step: Any = 1.0, args: PyTree[Any] = None) -> PyTree[Array]:
        v = floating(v)
        return jtu.tree_map(lambda x, w: x / (1 + _step(step, x.dtype) * w), v, _weights(self.weight, v))

    def value(self, v: PyTree[Array]) -> Array:
        v = floating(v)
        return _sum(jtu.tree_map(lambda x, w: 0.5 * w * x * x, v, _weights(self.weight, v)))


class NonNegativeSquaredL2(AbstractFunction):
    """g(x) = ½ Σᵢ wᵢ xᵢ² for x ≥ 0, ∞ elsewhere: prox(v, t) = max(v, 0)/(1 + t w).

    **Arguments:**

    - `weight`: as in `L1`.
    """

    weight: PyTree[Any] = 1.0

    def __check_init__(self):
        check_size(self.weight, "weight", "NonNegativeSquaredL2")

    def __call__(self, v: PyTree[Array], step: Any = 1.0, args: PyTree[Any] = None) -> PyTree[Array]:
        positive = jtu.tree_map(lambda x: jnp.where(x <= 0, 0, x), floating(v))
        return SquaredL2(self.weight)(positive, step)

    def value(self, v: PyTree[Array]) -> Array:
        v = floating(v)
        one = lambda x, w: jnp.where(x < 0, jnp.inf, 0.5 * w * x * x)
        return _sum(jtu.tree_map(one, v, _weights(self.weight, v)))


class ElasticNet(AbstractFunction):
    """g(x) = l1 Σ|xᵢ| + ½ l2 Σxᵢ²: prox(v, t) = sign(v) max(|v| − t l1, 0)/(1 + t l2).

    **Arguments:**

    - `l1`, `l2`: weights ≥ 0: numbers, arrays that broadcast to v, or pytrees like v.
    """

    l1: PyTree[Any] = 1.0
    l2: PyTree[Any] = 1.0

    def __check_init__(self):
        check_size(self.l1, "l1", "ElasticNet")
        check_size(self.l2, "l2", "ElasticNet")

    def __call__(self, v: PyTree[Array], step: Any = 1.0, args: PyTree[Any] = None) -> PyTree[Array]:
        return SquaredL2(self.l2)(L1(self.l1)(v, step), step)

    def value(self, v: PyTree[Array]) -> Array:
        return L1(self.l1).value(v) + SquaredL2(self.l2).value(v)


class GroupLasso(AbstractFunction):
    """g(x) = weight · ‖x‖₂ over all scalars of v, one group: prox(v, t) = v max(1 − t weight/‖v‖₂, 0).

    Several groups of one shape: `jax.vmap`.

    **Arguments:**

    - `weight`: a scalar ≥ 0.
    """

    weight: Any = 1.0

    def __check_init__(self):
        check_size(self.weight, "weight", "GroupLasso")

    def __call__(self, v: PyTree[Array], step: Any = 1.0, args: PyTree[Any] = None) -> PyTree[Array]:
        v = floating(v)
        x = _tree.ravel(v)
        threshold = _step(step, x.dtype) * size_of(self.weight, "weight", x.dtype)
        length = norm(x)
        gone = length <= threshold
        ratio = 1 - threshold / jnp.where(gone | (length == 0), 1, length)
        return _tree.unravel(jnp.where(gone, 0, x * ratio), v)

    def value(self, v: PyTree[Array]) -> Array:
        x = _tree.ravel(floating(v))
        return size_of(self.weight, "weight", x.dtype) * norm(x)


class LInf(AbstractFunction):
    """g(x) = weight · max|xᵢ| over all scalars of v: prox(v, t) = v − P(v), P onto {Σ|xᵢ| ≤ t weight}.

    **Arguments:**

    - `weight`: a scalar ≥ 0.
    """

    weight: Any = 1.0

    def __check_init__(self):
        check_size(self.weight, "weight", "LInf")

    def __call__(self, v: PyTree[Array], step: Any = 1.0, args: PyTree[Any] = None) -> PyTree[Array]:
        v = floating(v)
        x = _tree.ravel(v)
        if x.size == 0:
            return v
        threshold = _step(step, x.dtype) * size_of(self.weight, "weight", x.dtype)
        return _tree.unravel(x - l1_ball(x, threshold), v)

    def value(self, v: PyTree[Array]) -> Array:
        x = _tree.ravel(floating(v))
        return size_of(self.weight, "weight", x.dtype) * jnp.max(jnp.abs(x), initial=0)


class NuclearNorm(AbstractFunction):
    """g(X) = weight · Σ sᵢ, the singular values of a matrix: prox(V, t) = U max(s − t weight, 0) Wᵀ.

    Singular values may repeat or vanish; a kink is only where one is exactly t · weight. O((m + n)³).

    **Arguments:**

    - `weight`: a scalar ≥ 0.
    """

    weight: Any = 1.0

    def __check_init__(self):
        check_size(self.weight, "weight", "NuclearNorm")

    def __call__(
        self, v: Float[Array, "m n"], step: Any = 1.0, args: PyTree[Any] = None
    ) -> Float[Array, "m n"]:
        v = matrix(v)
        threshold = _step(step, v.dtype) * size_of(self.weight, "weight", v.dtype)
        return v if v.size == 0 else shrink(v, threshold)

    def value(self, v: Float[Array, "m n"]) -> Array:
        v = matrix(v)
        return size_of(self.weight, "weight", v.dtype) * jnp.sum(jnp.linalg.svd(v, compute_uv=False))


class LogBarrier(AbstractFunction):
    """g(x) = −Σᵢ wᵢ log xᵢ: prox(v, t) = ½(v + √(v² + 4 t w)), positive and smooth for t w > 0.

    **Arguments:**

    - `weight`: as in `L1` (unit of v²).
    """

    weight: PyTree[Any] = 1.0

    def __check_init__(self):
        check_size(self.weight, "weight", "LogBarrier")

    def __call__(self, v: PyTree[Array], step: Any = 1.0, args: PyTree[Any] = None) -> PyTree[Array]:
        v = floating(v)
        one = lambda x, w: _barrier(x, _step(step, x.dtype) * w)
        return jtu.tree_map(one, v, _weights(self.weight, v))

    def value(self, v: PyTree[Array]) -> Array:
        v = floating(v)
        one = lambda x, w: jnp.where(x > 0, -w * jnp.log(jnp.where(x > 0, x, 1)), jnp.inf)
        return _sum(jtu.tree_map(one, v, _weights(self.weight, v)))


def _barrier(x: Array, c: Array) -> Array:
    """The positive root of y² − x y = c, without cancellation."""
    size = held(jnp.maximum(jnp.abs(x), jnp.sqrt(c)))
    size = jnp.where(size > 0, size, 1)
    u, d = x / size, c / size / size
    root = jnp.sqrt(u * u + 4 * d)
    positive = held(u) > 0
    down = jnp.where(positive, 1, root - u)
    down = jnp.where(held(down) > 0, down, 1)
    return size * jnp.where(positive, 0.5 * (u + root), 2 * d / down)


class Huber(AbstractFunction):
    """g(x) = Σᵢ wᵢ h(xᵢ), with h(x) = ½ x² for |x| ≤ delta and delta |x| − ½ delta² beyond.

    prox(v, t) = v/(1 + t w) for |v| ≤ delta (1 + t w), else v − t w delta sign(v).

    **Arguments:**

    - `delta`: a scalar ≥ 0 (unit of v).
    - `weight`: as in `L1`.
    """

    delta: Any = 1.0
    weight: PyTree[Any] = 1.0

    def __check_init__(self):
        check_size(self.delta, "delta", "Huber")
        check_size(self.weight, "weight", "Huber")

    def __call__(self, v: PyTree[Array], step: Any = 1.0, args: PyTree[Any] = None) -> PyTree[Array]:
        v = floating(v)

        def one(x, w):
            delta = size_of(self.delta, "delta", x.dtype)
            c = _step(step, x.dtype) * w
            return jnp.where(jnp.abs(x) <= delta * (1 + c), x / (1 + c), x - c * delta * jnp.sign(x))

        return jtu.tree_map(one, v, _weights(self.weight, v))

    def value(self, v: PyTree[Array]) -> Array:
        v = floating(v)

        def one(x, w):
            delta = size_of(self.delta, "delta", x.dtype)
            size = jnp.abs(x)
            return w * jnp.where(size <= delta, 0.5 * x * x, delta * size - 0.5 * delta**2)

        return _sum(jtu.tree_map(one, v, _weights(self.weight, v)))
