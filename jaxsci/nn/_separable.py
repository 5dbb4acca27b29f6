"""Separable networks: one small network for each coordinate."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from ._linear import Linear
from ._mlp import MLP


class Separable(eqx.Module):
    """u_f(x) = Σ_r Π_i φ_{i,f,r}(x_i), r < rank: one small MLP for each coordinate i.

    On a tensor grid of n points along each of d axes it costs d·n evaluations of small networks, not nᵈ
    ([`Separable.on_grid`][]). In many dimensions its rank is what limits it.

    **Arguments:**

    - `in_size`, `out_size`: coordinates of a point, and fields.
    - `rank`: terms of the sum.
    - `width`, `depth`, `activation`, `linear`, `key`, `dtype`: of each small network, as in [`MLP`][].

    **Raises:** `ValueError` for sizes below 1.

    **Reference:** Cho et al., Separable physics-informed neural networks, NeurIPS 2023.
    """

    networks: MLP  # all of them: every array has the coordinate as its first axis
    out_size: int = eqx.field(static=True)

    def __init__(
        self,
        in_size: int,
        out_size: int,
        *,
        rank: int,
        width: int,
        depth: int,
        activation: Callable[[Array], Array] = jnp.tanh,
        linear: Callable[..., Callable] = Linear,
        key: PRNGKeyArray,
        dtype: Any = None,
    ):
        if in_size < 1 or rank < 1:
            raise ValueError(f"`in_size` and `rank` are {in_size} and {rank}; expected at least 1.")
        small = {"width": width, "depth": depth, "activation": activation, "linear": linear, "dtype": dtype}
        make = lambda key: MLP(1, out_size * rank, key=key, **small)
        self.networks = eqx.filter_vmap(make)(jax.random.split(key, in_size))
        self.out_size = out_size

    def __call__(self, x: Float[Array, " d"]) -> Float[Array, " out"]:
        factors = eqx.filter_vmap(lambda network, x: network(x[None]))(self.networks, x)
        return jnp.sum(functools.reduce(jnp.multiply, list(factors)).reshape(self.out_size, -1), 1)

    def on_grid(self, axes: Sequence[Float[Array, " _"]]) -> Float[Array, "out *grid"]:
        """The fields on a tensor grid.

        **Arguments:**

        - `axes`: the values of each coordinate, in the units of that coordinate.

        **Raises:** `ValueError` unless there is one axis for each coordinate.
        """
        dynamic, static = eqx.partition(self.networks, eqx.is_array)
        d = jax.tree.leaves(dynamic)[0].shape[0]
        if len(axes) != d:
            raise ValueError(f"`axes` has {len(axes)} entries; expected {d}, one for each coordinate.")
        total = None
        for i, axis in enumerate(axes):
            network = eqx.combine(jax.tree.map(lambda leaf, i=i: leaf[i], dynamic), static)
            factor = jax.vmap(lambda x, network=network: network(x[None]))(axis)
            factor = factor.reshape(len(axis), self.out_size, -1).transpose(1, 0, 2)
            if total is None:
                total = factor
            elif i + 1 < d:
                total = jnp.einsum("f...r,fnr->f...nr", total, factor)
            else:
                # The last product and the sum over the rank are one matrix product.
                return jnp.einsum("f...r,fnr->f...n", total, factor)
        assert total is not None
        return jnp.sum(total, -1)
