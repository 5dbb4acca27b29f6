"""Affine maps of one vector, plain and factorized."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray


def precision(dtype: Any) -> Any:
    """`dtype`, or JAX's default float if None."""
    return jnp.result_type(float) if dtype is None else dtype


def _glorot(in_size: int, out_size: int, key: PRNGKeyArray, dtype: Any) -> Float[Array, "out in"]:
    for name, size in (("in_size", in_size), ("out_size", out_size)):
        if size < 1:
            raise ValueError(f"`{name}` is {size}; expected a positive number of entries.")
    scale = (2 / (in_size + out_size)) ** 0.5
    return scale * jax.random.normal(key, (out_size, in_size), precision(dtype))


class Linear(eqx.Module):
    """x ↦ W x + b, W of Glorot's variance 2/(in + out), b = 0.

    **Arguments:**

    - `in_size`, `out_size`: entries of x and of the result.
    - `key`: a random key. - `dtype`: precision of the parameters; JAX's default float if None.

    **Reference:** Glorot & Bengio, Understanding the difficulty of training deep feedforward neural
    networks, AISTATS 2010.
    """

    weight: Float[Array, "out in"]
    bias: Float[Array, " out"]

    def __init__(self, in_size: int, out_size: int, *, key: PRNGKeyArray, dtype: Any = None):
        self.weight = _glorot(in_size, out_size, key, dtype)
        self.bias = jnp.zeros(out_size, self.weight.dtype)

    def __call__(self, x: Float[Array, " in"]) -> Float[Array, " out"]:
        return self.weight @ x + self.bias


class RWF(eqx.Module):
    """x ↦ diag(eˢ) V x + b: random weight factorization, a [`Linear`][] with other coordinates.

    At the start diag(eˢ) V is the W of `Linear` with the same key, and s is normal: every neuron has a
    learning rate of its own. For the `linear` argument of the networks, `functools.partial` sets other
    moments: `MLP(2, 1, width=32, depth=3, linear=partial(RWF, mean=0.5), key=key)`.

    **Arguments:**

    - `in_size`, `out_size`, `key`, `dtype`: as in `Linear`.
    - `mean`, `deviation`: moments of s (dimensionless).

    **Limits:** one more parameter for every neuron, which no function value depends on alone: a
    Gauss–Newton matrix is singular in it, and needs damping.

    **Reference:** Wang, Wang, Seidman & Perdikaris, Random weight factorization improves the training of
    continuous neural representations, 2022.
    """

    log_scale: Float[Array, " out"]
    direction: Float[Array, "out in"]
    bias: Float[Array, " out"]

    def __init__(
        self,
        in_size: int,
        out_size: int,
        *,
        mean: float = 1.0,
        deviation: float = 0.1,
        key: PRNGKeyArray,
        dtype: Any = None,
    ):
        weight = _glorot(in_size, out_size, key, dtype)
        noise = jax.random.normal(jax.random.fold_in(key, 1), (out_size,), weight.dtype)
        self.log_scale = mean + deviation * noise
        self.direction = weight / jnp.exp(self.log_scale)[:, None]
        self.bias = jnp.zeros(out_size, weight.dtype)

    def __call__(self, x: Float[Array, " in"]) -> Float[Array, " out"]:
        return jnp.exp(self.log_scale) * (self.direction @ x) + self.bias
