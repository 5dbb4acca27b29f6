"""The coefficients of an operator that couples each point of a grid to its neighbors."""

import functools
import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array

from .. import _tree
from ._operator import Operator


def offsets(dimensions: int) -> list[tuple[int, ...]]:
    """The neighbors of a point and itself: {−1, 0, 1}ᵈ."""
    return list(itertools.product((-1, 0, 1), repeat=dimensions))


def grid_of(operator: Operator, who: str) -> jax.ShapeDtypeStruct:
    """The one array that is the unknown."""
    leaves = jtu.tree_leaves(operator.like)
    if len(leaves) != 1 or leaves[0].ndim not in (1, 2, 3):
        shapes = [tuple(x.shape) for x in leaves]
        raise ValueError(
            f"{who} works on one array with one, two or three axes of a grid; got arrays of shapes {shapes}."
        )
    return leaves[0]


def on_grid(operator: Operator) -> Callable:
    """x ↦ A x from the array to the array."""
    structure = jtu.tree_structure(operator.like)
    return lambda x: jtu.tree_leaves(operator.mv(jtu.tree_unflatten(structure, [x])))[0]


def coefficients(mv: Callable, shape: tuple[int, ...], dtype, *like: Array) -> Array:
    """s with (A x)ᵢ = Σₒ sₒ,ᵢ xᵢ₊ₒ over the offsets o, of 3ᵈ products: (3ᵈ, *shape).

    Points whose indices are equal modulo 3 share a product. A row touches one point of each color.
    """
    dimensions = len(shape)
    count = 3**dimensions
    # Made as the program runs: constants of many times the size of the unknown would be in the program, and
    # XLA would compute with them as it compiles.
    indices = [jax.lax.broadcasted_iota(jnp.int32, shape, axis) for axis in range(dimensions)]
    indices = jax.lax.optimization_barrier(indices)

    def number(offset):
        """The color of the point i + offset."""
        places = (
            (i + o + 3) % 3 * 3 ** (dimensions - 1 - k)
            for k, (i, o) in enumerate(zip(indices, offset, strict=True))
        )
        return functools.reduce(jnp.add, places)

    colors = jnp.arange(count, dtype=jnp.int32).reshape(-1, *[1] * dimensions)
    combs = (number((0,) * dimensions) == colors).astype(dtype)
    images = jax.vmap(mv)(_tree.vary_like(combs, *like))
    picked = jnp.stack([number(offset) for offset in offsets(dimensions)])
    return jnp.take_along_axis(images, picked, axis=0)


def shifted(x: Array, offset: tuple[int, ...]) -> Array:
    """xᵢ₊ₒ at i; zero where that is outside of the grid."""
    padded = jnp.pad(x, 1)
    return padded[tuple(slice(1 + o, 1 + o + n) for o, n in zip(offset, x.shape, strict=True))]


def multiply(s: Array, x: Array) -> Array:
    """A x."""
    padded = jnp.pad(x, 1)
    out = jnp.zeros_like(x)
    for row, offset in zip(s, offsets(x.ndim), strict=True):
        window = tuple(slice(1 + o, 1 + o + n) for o, n in zip(offset, x.shape, strict=True))
        out = out + row * padded[window]
    return out


def transpose(s: Array) -> Array:
    """The coefficients of Aᵀ: those of A at i + o, for −o."""
    # The offsets are in order: that of −o is as far from the end as that of o from the beginning.
    return jnp.stack([shifted(s[-1 - k], offset) for k, offset in enumerate(offsets(s.ndim - 1))])


def center(s: Array) -> Array:
    """The diagonal of A."""
    return s[len(s) // 2]
