"""Derivatives in space from derivatives in labels."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def spread(along, x, u) -> Float[Array, " m"]:
    """J Δu from derivatives in labels. With A = J F⁻¹ and D the second derivatives contracted with AAᵀ,

        J Δu = D[U]/J − ∇_ξU A D[X]/J²,

    since u(X(ξ)) = U(ξ) gives ∂²U = ∂²u[F, F] + ∇u ∂²X.
    """
    n, j, a = len(along), determinant(along), adjugate(along)
    g = a @ a.T
    second = lambda table: sum(g[i, k] * table[tuple(sorted((i, k)))] for i in range(n) for k in range(n))
    gradient = jnp.stack([u[(i,)] for i in range(n)], axis=1)
    return second(u) / j - gradient @ (a @ second(x)) / j**2


def determinant(f: Float[Array, "n n"]) -> Float[Array, ""]:
    """Of one or two rows."""
    return f[0, 0] if len(f) == 1 else f[0, 0] * f[1, 1] - f[0, 1] * f[1, 0]


def adjugate(f: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """det(F) F⁻¹, which has no division."""
    if len(f) == 1:
        return jnp.ones_like(f)
    return jnp.stack([jnp.stack([f[1, 1], -f[0, 1]]), jnp.stack([-f[1, 0], f[0, 0]])])
