"""Physics-informed residual adaptive networks."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from ._embeddings import RandomFourier
from ._linear import Linear
from ._mlp import check_layers, mix


class _Block(eqx.Module):
    """h ↦ α c + (1 − α) h, where c is three layers of h, the first two mixed with the gates."""

    layers: tuple[Callable, Callable, Callable]
    alpha: Float[Array, ""]

    def __call__(self, h: Array, u: Array, v: Array, activation: Callable) -> Array:
        first, second, third = self.layers
        c = mix(activation(first(h)), u, v)
        c = mix(activation(second(c)), u, v)
        return mix(self.alpha, activation(third(c)), h)


class PirateNet(eqx.Module):
    """A deep gated network that starts as a shallow one: every block is the identity while its α = 0.

    With Φ(x) = (cos Bx, sin Bx) and gates U, V = φ(W Φ + b): h₁ = Φ(x); in a block f = φ(W₁h + b₁)⊙U +
    (1 − ·)⊙V, g = φ(W₂f + b₂)⊙U + (1 − ·)⊙V, h ← α φ(W₃g + b₃) + (1 − α) h; and W h at the end. At the
    start it is a linear combination of random features, which [`PirateNet.fitted`][] makes the best one.

    **Arguments:**

    - `in_size`, `out_size`, `activation`, `linear`, `key`, `dtype`: as in [`MLP`][].
    - `width`: neurons of a layer and entries of Φ; even.
    - `depth`: blocks, of three layers each.
    - `scale`: of the random features, see [`RandomFourier`][]; B is constant.

    **Raises:** `ValueError` for an odd width and sizes below 1.

    **Reference:** Wang, Li, Chen & Perdikaris, PirateNets: physics-informed deep learning with residual
    adaptive networks, JMLR 25, 2024.
    """

    features: RandomFourier
    gates: tuple[Callable, Callable]
    blocks: tuple[_Block, ...]
    last: Float[Array, "out width"]
    activation: Callable = eqx.field(static=True)

    def __init__(
        self,
        in_size: int,
        out_size: int,
        *,
        width: int,
        depth: int,
        scale: float = 1.0,
        activation: Callable[[Array], Array] = jnp.tanh,
        linear: Callable[..., Callable] = Linear,
        key: PRNGKeyArray,
        dtype: Any = None,
    ):
        check_layers(width, depth)
        if width % 2:
            raise ValueError(f"`width` is {width}; expected an even number: pairs of cosine and sine.")
        first, second, end, random, *keys = jax.random.split(key, 3 * depth + 4)
        make = lambda k: linear(width, width, key=k, dtype=dtype)
        self.features = RandomFourier(in_size, width // 2, scale, key=random, dtype=dtype)
        self.gates = (make(first), make(second))
        self.last = Linear(width, out_size, key=end, dtype=dtype).weight
        zero = jnp.zeros((), self.last.dtype)
        triples = zip(keys[::3], keys[1::3], keys[2::3], strict=True)
        self.blocks = tuple(_Block((make(a), make(b), make(c)), zero) for a, b, c in triples)
        self.activation = activation

    def embed(self, x: Float[Array, " in"]) -> Float[Array, " width"]:
        """What the last layer takes: h after the blocks."""
        h = self.features(x)
        u, v = (self.activation(gate(h)) for gate in self.gates)
        for block in self.blocks:
            h = block(h, u, v, self.activation)
        return h

    def __call__(self, x: Float[Array, " in"]) -> Float[Array, " out"]:
        return self.last @ self.embed(x)

    def fitted(self, points: Float[Array, "n in"], values: Float[Array, "n out"]) -> "PirateNet":
        """The network with the last layer W that has the least Σ |W h(xᵢ) − yᵢ|² (and is smallest).

        **Arguments:**

        - `points`: where something is known before training: the initial time, or data.
        - `values`: of all fields there, in their units.

        **Raises:** `ValueError` for shapes that do not match.
        """
        if values.shape != (points.shape[0], self.last.shape[0]):
            raise ValueError(
                f"`values` has shape {values.shape}; expected {(points.shape[0], self.last.shape[0])}, "
                "the fields at each of the `points`."
            )
        last = jnp.linalg.lstsq(jax.vmap(self.embed)(points), values)[0].T
        return eqx.tree_at(lambda network: network.last, self, last.astype(self.last.dtype))
