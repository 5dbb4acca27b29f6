"""Multilayer perceptrons on one point."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from ._linear import Linear


def check_layers(width: int, depth: int) -> None:
    """Raises `ValueError` for a network without hidden layers."""
    if width < 1 or depth < 1:
        raise ValueError(
            f"`width` and `depth` are {width} and {depth}; expected positive numbers of neurons and of "
            "hidden layers."
        )


class MLP(eqx.Module):
    """h₁ = φ(W₁x + b₁), …, h_depth = φ(W h + b), and W h + b at the end.

    **Arguments:**

    - `in_size`, `out_size`: coordinates of a point, and fields.
    - `width`, `depth`: neurons of a hidden layer, and how many of these.
    - `activation`: φ, element by element. Smooth, if derivatives of the network are wanted.
    - `linear`: how an affine map is made: `Linear`, `RWF`, or anything called as
        `linear(in_size, out_size, key=key, dtype=dtype)`.
    - `key`: a random key. - `dtype`: precision of the parameters; JAX's default float if None.

    **Raises:** `ValueError` for sizes below 1.
    """

    hidden: tuple[Callable, ...]
    last: Callable
    activation: Callable = eqx.field(static=True)

    def __init__(
        self,
        in_size: int,
        out_size: int,
        *,
        width: int,
        depth: int,
        activation: Callable[[Array], Array] = jnp.tanh,
        linear: Callable[..., Callable] = Linear,
        key: PRNGKeyArray,
        dtype: Any = None,
    ):
        check_layers(width, depth)
        *keys, end = jax.random.split(key, depth + 1)
        sizes = (in_size, *(width,) * (depth - 1))
        self.hidden = tuple(linear(n, width, key=k, dtype=dtype) for n, k in zip(sizes, keys, strict=True))
        self.last = linear(width, out_size, key=end, dtype=dtype)
        self.activation = activation

    def __call__(self, x: Float[Array, " in"]) -> Float[Array, " out"]:
        for layer in self.hidden:
            x = self.activation(layer(x))
        return self.last(x)


class ModifiedMLP(eqx.Module):
    """An MLP whose every hidden layer mixes two gates: h ← z ⊙ U + (1 − z) ⊙ V, z = φ(W h + b).

    U = φ(W_U x + b_U) and V = φ(W_V x + b_V) bring the point to every layer.

    **Arguments:** as in [`MLP`][].

    **Raises:** `ValueError` for sizes below 1.

    **Reference:** Wang, Teng & Perdikaris, Understanding and mitigating gradient flow pathologies in
    physics-informed neural networks, SIAM J. Sci. Comput. 43, 2021.
    """

    gates: tuple[Callable, Callable]
    hidden: tuple[Callable, ...]
    last: Callable
    activation: Callable = eqx.field(static=True)

    def __init__(
        self,
        in_size: int,
        out_size: int,
        *,
        width: int,
        depth: int,
        activation: Callable[[Array], Array] = jnp.tanh,
        linear: Callable[..., Callable] = Linear,
        key: PRNGKeyArray,
        dtype: Any = None,
    ):
        check_layers(width, depth)
        first, second, end, *keys = jax.random.split(key, depth + 3)
        make = lambda n, k: linear(n, width, key=k, dtype=dtype)
        self.gates = (make(in_size, first), make(in_size, second))
        sizes = (in_size, *(width,) * (depth - 1))
        self.hidden = tuple(make(n, k) for n, k in zip(sizes, keys, strict=True))
        self.last = linear(width, out_size, key=end, dtype=dtype)
        self.activation = activation

    def __call__(self, x: Float[Array, " in"]) -> Float[Array, " out"]:
        u, v = (self.activation(gate(x)) for gate in self.gates)
        for layer in self.hidden:
            x = mix(self.activation(layer(x)), u, v)
        return self.last(x)


def mix(z: Array, u: Array, v: Array) -> Array:
    """z ⊙ u + (1 − z) ⊙ v."""
    return v + z * (u - v)


class SIREN(eqx.Module):
    """An MLP of sines: h ← sin(ω (W h + b)).

    First weights are uniform in ±1/in and first phases ωb in ±π; later weights are uniform in
    ±√(6/width)/ω, so that at the start every ω(W h + b) behind the first has a variance between 0.79 and
    1, whatever the depth.

    **Arguments:**

    - `in_size`, `out_size`, `width`, `depth`, `key`, `dtype`: as in [`MLP`][].
    - `omega`: ω [1/unit of a coordinate]; points in [-1, 1]. Smooth solutions want far less than 30.

    **Raises:** `ValueError` for sizes below 1.

    **Reference:** Sitzmann et al., Implicit neural representations with periodic activation functions,
    NeurIPS 2020.
    """

    layers: tuple[Linear, ...]
    omega: float = eqx.field(static=True)

    def __init__(
        self,
        in_size: int,
        out_size: int,
        *,
        width: int,
        depth: int,
        omega: float = 30.0,
        key: PRNGKeyArray,
        dtype: Any = None,
    ):
        check_layers(width, depth)
        sizes = (in_size, *(width,) * depth, out_size)
        layers = []
        for i, k in enumerate(jax.random.split(key, depth + 1)):
            layer = Linear(sizes[i], sizes[i + 1], key=k, dtype=dtype)
            weight, bias = layer.weight, layer.bias
            bound = 1 / in_size if i == 0 else (6 / width) ** 0.5 / omega
            weight = jax.random.uniform(k, weight.shape, weight.dtype, -bound, bound)
            if i == 0:
                phase = jnp.pi / omega
                bias = jax.random.uniform(jax.random.fold_in(k, 1), bias.shape, bias.dtype, -phase, phase)
            layers.append(eqx.tree_at(lambda l: (l.weight, l.bias), layer, (weight, bias)))
        self.layers = tuple(layers)
        self.omega = omega

    def __call__(self, x: Float[Array, " in"]) -> Float[Array, " out"]:
        *hidden, last = self.layers
        for layer in hidden:
            x = jnp.sin(self.omega * layer(x))
        return last(x)
