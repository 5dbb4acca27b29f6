"""Least squares on Chebyshev polynomials with bounded coefficients, kept as sums."""

import math

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from .. import _tree


def features(x: Float[Array, ""], count: int) -> Float[Array, " m"]:
    """T₀(x), …, T_{count−1}(x) for x in [−1, 1]."""
    return jnp.cos(jnp.arange(count) * jnp.arccos(x))


class Regression(eqx.Module):
    """For each of d arms the fit of (cost − 1)/scale on m features.

    The scale is N times the largest cost K, with N = 2 + 4 (b − a)L/K (1 + log m) and (b − a)L the spread of
    the costs: then the coefficients of a cost as steep as that are at most 1/N and 2 (b − a)L/(scale · j).

    **Fields:** Σ f fᵀ and Σ f (cost − 1) of each arm, coefficients, the largest and the smallest
    cost, and Σ ŷ², Σ ŷ (cost − 1) of the predictions ŷ as they were made.
    """

    gram: Float[Array, "d m m"]
    moment: Float[Array, "d m"]
    theta: Float[Array, "d m"]
    largest: Float[Array, ""]
    smallest: Float[Array, ""]
    predicted: Float[Array, ""]
    crossed: Float[Array, ""]
    count: Float[Array, ""]

    @staticmethod
    def empty(arms: int, m: int, dtype) -> "Regression":
        zero = jnp.zeros((), dtype)
        return Regression(
            gram=jnp.zeros((arms, m, m), dtype),
            moment=jnp.zeros((arms, m), dtype),
            theta=jnp.zeros((arms, m), dtype),
            largest=zero,
            smallest=jnp.full_like(zero, jnp.inf),
            predicted=zero,
            crossed=zero,
            count=zero,
        )

    @property
    def spread(self) -> Array:
        return jnp.where(self.count > 0, self.largest - jnp.minimum(self.smallest, self.largest), 0)

    @property
    def scale(self) -> Array:
        m = self.theta.shape[1]
        return 2 * self.largest + 4 * self.spread * (1 + math.log(m - 1))

    def excess(self) -> Array:
        """Σ (ŷ − y)² of the predictions less Σ (θf − y)² of the fit, with y = (cost − 1)/scale."""
        scale = jnp.maximum(self.scale, 1e-30)
        made = self.predicted - 2 * self.crossed / scale
        fit = jnp.einsum("am,amk,ak->", self.theta, self.gram, self.theta)
        return made - (fit - 2 * jnp.sum(self.theta * self.moment) / scale)

    def updated(self, arm: Int[Array, ""], f: Float[Array, " m"], cost: Float[Array, ""]) -> "Regression":
        y = self.theta[arm] @ f
        new = Regression(
            gram=self.gram.at[arm].add(jnp.outer(f, f)),
            moment=self.moment.at[arm].add((cost - 1) * f),
            theta=self.theta,
            largest=jnp.maximum(self.largest, cost),
            smallest=jnp.minimum(self.smallest, cost),
            predicted=self.predicted + y**2,
            crossed=self.crossed + y * (cost - 1),
            count=self.count + 1,
        )
        return eqx.tree_at(lambda r: r.theta, new, new._fit())

    def _fit(self) -> Array:
        """The least-norm least-squares fit; where it breaks the bounds, the best within them."""
        m = self.theta.shape[1]
        right = self.moment / self.scale
        values, vectors = jnp.linalg.eigh(self.gram)
        rtol = 30 * m * jnp.finfo(values.dtype).eps
        kept = values > rtol * jnp.max(values, axis=1, keepdims=True)
        inverse = jnp.where(kept, 1 / jnp.where(kept, values, 1), 0)
        free = jnp.einsum("ajk,ak,aik,ai->aj", vectors, inverse, vectors, right)
        bound = jnp.append(self.largest / self.scale, 2 * self.spread / self.scale / jnp.arange(1, m))
        inside = jnp.all(jnp.abs(free) <= bound, axis=1, keepdims=True)
        return jnp.where(inside, free, self._bounded(right, bound))

    def _bounded(self, right: Array, bound: Array) -> Array:
        """min ½ θᵀG θ − hᵀθ for |θ| ≤ bound, by 30 sweeps over the coefficients from those of the round
        before, whose problem has one term less."""
        m = len(bound)

        def sweep(_, theta):
            for j in range(m):
                pivot = self.gram[:, j, j]
                slope = jnp.einsum("ak,ak->a", self.gram[:, j], theta) - right[:, j]
                moved = jnp.clip(theta[:, j] - slope / jnp.where(pivot == 0, 1, pivot), -bound[j], bound[j])
                theta = theta.at[:, j].set(jnp.where(pivot == 0, theta[:, j], moved))
            return theta

        return _tree.fori_loop(30, sweep, jnp.clip(self.theta, -bound, bound))
