"""A square linear map on a pytree, as the solvers of this package see it."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import lineax as lx
from jaxtyping import Array, Float, PyTree

from .. import _tree


class Operator(eqx.Module):
    """A: a square linear map between pytrees of one structure.

    **Fields:**

    - `mv`: x ↦ A x, linear; x has the structure of `like`.
    - `like`: a pytree of arrays or `jax.ShapeDtypeStruct`s with the structure of x.
    - `dense`: A as an n×n array on the raveled unknown, or a function () ↦ that array, if it is at hand;
      else None.
    - `tags`: lineax tags (`lineax.symmetric_tag`, `lineax.positive_semidefinite_tag`, …).
    - `preconditioner`: r ↦ M r, linear, with M ≈ A⁻¹, for the matrix-free solvers; or None.
    """

    mv: Callable
    like: PyTree
    dense: Float[Array, "n n"] | Callable | None = None
    tags: frozenset = eqx.field(static=True, default=frozenset())
    preconditioner: Callable | None = None

    @property
    def size(self) -> int:
        """n, the number of scalar unknowns."""
        return _tree.size(self.like)

    @property
    def symmetric(self) -> bool:
        """Whether A = Aᵀ (if complex, possibly A = Aᴴ) was promised."""
        return lx.symmetric_tag in self.tags or self.positive

    @property
    def positive(self) -> bool:
        """Whether A was promised to be symmetric (if complex, Hermitian) positive definite."""
        return lx.positive_semidefinite_tag in self.tags

    def matrix(self) -> Float[Array, "n n"]:
        """A as an n×n array on the raveled unknown (n products with unit vectors if none is held)."""
        if self.dense is not None:
            return self.dense() if callable(self.dense) else self.dense
        dtype = jnp.result_type(*jtu.tree_leaves(self.like))
        unit = _tree.vary_like(jnp.eye(self.size, dtype=dtype), self.like)
        column = lambda e: _tree.ravel(self.mv(_tree.unravel(e, self.like)))
        return jax.vmap(column, out_axes=1)(unit)

    def transpose(self) -> "Operator":
        """Aᵀ (not conjugated)."""
        real = not any(jnp.issubdtype(x.dtype, jnp.complexfloating) for x in jtu.tree_leaves(self.like))
        if lx.symmetric_tag in self.tags or (self.positive and real):
            return self

        def mv_t(x):
            (out,) = jax.linear_transpose(self.mv, self.like)(x)
            return out

        dense = None if self.dense is None else lambda: self.matrix().T
        m_t = None if self.preconditioner is None else transposed(self.preconditioner)
        return Operator(mv_t, self.like, dense, self.tags, m_t)


def linearized(fn: Callable, *y: PyTree) -> Callable:
    """v ↦ (∂fn/∂y) v at y, for products in a loop: what does not depend on v is computed here, once.

    `jax.jvp` inside of the loop would leave that to the compiler, which does not look into inner loops.
    """
    push = jax.linearize(fn, *y)[1]

    def product(*v):
        return push(*jtu.tree_map(lambda t, x: _tree.vary_like(jnp.asarray(t, x.dtype), x), v, y))

    return product


def transposed(fn: Callable) -> Callable:
    """v ↦ Mᵀ v for a linear v ↦ M v from one structure to itself."""
    return lambda v: jax.linear_transpose(fn, v)(v)[0]
