"""Convex cones as factors of a conic program: projections onto their duals, and where those have kinks."""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


class AbstractCone(eqx.Module):
    """A closed convex cone K in Rⁿ, known by the projection onto its dual K*."""

    @property
    @abc.abstractmethod
    def size(self) -> int:
        """n."""

    @abc.abstractmethod
    def dual_projection(self, v: Float[Array, " n"]) -> Float[Array, " n"]:
        """The point of K* = {y: yᵀs ≥ 0 for all s in K} nearest to v."""

    @abc.abstractmethod
    def to_kink(self, v: Float[Array, " n"]) -> Float[Array, " n"]:
        """How far, for each entry, v is from where the projection has no derivative (unit of v)."""


class ZeroCone(AbstractCone):
    """K = {0} in Rⁿ: rows of A x = b. K* = Rⁿ.

    **Arguments:**

    - `n`: number of rows.
    """

    n: int

    @property
    def size(self) -> int:
        return self.n

    def dual_projection(self, v: Float[Array, " n"]) -> Float[Array, " n"]:
        return v

    def to_kink(self, v: Float[Array, " n"]) -> Float[Array, " n"]:
        return jnp.full_like(v, jnp.inf)


class NonnegativeCone(AbstractCone):
    """K = {s: s ≥ 0} in Rⁿ: rows of A x ≤ b. K* = K.

    **Arguments:**

    - `n`: number of rows.
    """

    n: int

    @property
    def size(self) -> int:
        return self.n

    def dual_projection(self, v: Float[Array, " n"]) -> Float[Array, " n"]:
        return jnp.maximum(v, 0)

    def to_kink(self, v: Float[Array, " n"]) -> Float[Array, " n"]:
        return jnp.abs(v)


class SecondOrderCone(AbstractCone):
    """K = {(t, x): ‖x‖₂ ≤ t} in Rⁿ, t first. K* = K.

    **Arguments:**

    - `n`: number of rows, 1 + the length of x.
    """

    n: int

    @property
    def size(self) -> int:
        return self.n

    def _parts(self, v):
        t, x = v[0], v[1:]
        square = jnp.sum(x * x)
        away = square > 0
        return t, x, jnp.where(away, jnp.sqrt(jnp.where(away, square, 1)), 0)

    def dual_projection(self, v: Float[Array, " n"]) -> Float[Array, " n"]:
        t, x, length = self._parts(v)
        outside = length > jnp.abs(t)
        half = 0.5 * (1 + t / jnp.where(outside, length, 1))
        between = half * jnp.concatenate([length[None], x])
        return jnp.where(outside, between, jnp.where(t >= length, v, 0))

    def to_kink(self, v: Float[Array, " n"]) -> Float[Array, " n"]:
        t, _, length = self._parts(v)
        return jnp.broadcast_to(jnp.abs(length - jnp.abs(t)), v.shape)


class SemidefiniteCone(AbstractCone):
    """K = {S ⪰ 0} of symmetric k × k matrices, as vectors of n = k (k + 1)/2 entries: the lower triangle
    row by row, with the entries off the diagonal times √2, so that ⟨S, T⟩ = sᵀt. K* = K.

    **Arguments:**

    - `k`: number of rows of the matrices.

    **Limits:** derivatives of the projection are exact up to the third order, so those of a solution are
    too. Repeated eigenvalues do no harm.
    """

    k: int

    @property
    def size(self) -> int:
        return self.k * (self.k + 1) // 2

    def vector(self, matrix: Float[Array, "k k"]) -> Float[Array, " n"]:
        """The entries of a symmetric matrix."""
        i, j = np.tril_indices(self.k)
        return matrix[i, j] * jnp.asarray(np.where(i == j, 1, 2**0.5), matrix.dtype)

    def matrix(self, vector: Float[Array, " n"]) -> Float[Array, "k k"]:
        """The symmetric matrix of a vector of entries."""
        i, j = np.tril_indices(self.k)
        half = jnp.zeros((self.k, self.k), vector.dtype)
        half = half.at[i, j].set(vector * jnp.asarray(np.where(i == j, 0.5, 0.5**0.5), vector.dtype))
        return half + half.T

    def dual_projection(self, v: Float[Array, " n"]) -> Float[Array, " n"]:
        """(V + |V|)/2, where X = |V| is the positive root of X² = V².

        Derivatives of eigenvectors are infinite at repeated eigenvalues, those of |V| are not: with
        L E = |V| E + E |V| held, X ← X + L⁻¹(V² − X²) keeps the value |V| and gains one order of
        derivatives a step. L⁻¹ divides by |λᵢ| + |λⱼ| in the eigenvectors.
        """
        matrix = self.matrix(v)
        values, vectors = jnp.linalg.eigh(jax.lax.stop_gradient(matrix))
        size = jnp.abs(values)
        weights = size[:, None] + size[None]
        weights = jnp.where(weights > 0, weights, 1)
        product = lambda *factors: jnp.linalg.multi_dot(factors, precision=jax.lax.Precision.HIGHEST)
        x = product(vectors * size, vectors.T)
        square = product(matrix, matrix)
        for _ in range(3):
            error = square - product(x, x)
            x = x + product(vectors, product(vectors.T, error, vectors) / weights, vectors.T)
        return self.vector(0.5 * (matrix + x))

    def to_kink(self, v: Float[Array, " n"]) -> Float[Array, " n"]:
        values = jnp.linalg.eigvalsh(jax.lax.stop_gradient(self.matrix(v)))
        return jnp.broadcast_to(jnp.min(jnp.abs(values)), v.shape)
