"""Fourier neural operator."""

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray


def cosine_modes(n: int, modes: int) -> Float[np.ndarray, "n modes"]:
    """Orthonormal cosines cos(π m (j + ½)/n), m < modes: for axes that are not periodic."""
    j = np.arange(n) + 0.5
    matrix = np.cos(np.pi * np.outer(j, np.arange(modes)) / n) * np.sqrt(2 / n)
    matrix[:, 0] /= np.sqrt(2)
    return matrix


def fourier_modes(n: int, modes: int) -> Float[np.ndarray, "n modes"]:
    """Orthonormal 1, cos(2π m j/n), sin(2π m j/n) in turn: for periodic axes."""
    angles = 2 * np.pi * np.outer(np.arange(n), (np.arange(modes) + 1) // 2) / n
    matrix = np.where(np.arange(modes) % 2 == 0, np.sin(angles), np.cos(angles)) * np.sqrt(2 / n)
    matrix[:, 0] = 1 / np.sqrt(n)
    return matrix


class SpectralLayer(eqx.Module):
    """v ↦ Σ over kept modes m of Φ_m W_m ⟨Φ_m, v⟩ + A v + b, pointwise in the modes.

    The truncated transform is a product with a small real matrix along each axis: cheaper than a full
    FFT where few modes are kept, and without complex numbers. The modes are normalized as functions
    (not as vectors), so the layer acts alike at every resolution.

    **Arguments:** see `FNO`.
    """

    spectral: Float[Array, "*modes out in"]
    skip: Float[Array, "out in"]
    bias: Float[Array, " out"]

    def __init__(self, channels: int, modes: Sequence[int], *, key: PRNGKeyArray, dtype: Any):
        spectral, skip = jax.random.split(key)
        scale = channels**-0.5
        self.spectral = scale * jax.random.normal(spectral, (*modes, channels, channels), dtype)
        self.skip = scale * jax.random.normal(skip, (channels, channels), dtype)
        self.bias = jnp.zeros(channels, dtype)

    def __call__(self, v: Array, matrices: Sequence[Array]) -> Array:
        z = v
        for matrix in matrices:
            z = jnp.tensordot(z, matrix, ((1,), (0,)))  # the axis moves to the end, as a mode
        z = jnp.einsum("...oc,c...->...o", self.spectral, z)
        for matrix in matrices:
            z = jnp.tensordot(z, matrix, ((0,), (1,)))  # the mode moves to the end, as an axis
        bias = self.bias.reshape(-1, *(1,) * len(matrices))
        return z + jnp.tensordot(self.skip, v, 1) + bias


class FNO(eqx.Module):
    """A map between fields on a grid: lift, spectral layers, projection.

    One sample: (in_channels, *grid) ↦ (out_channels, *grid), any grid with at least as many points as
    modes along each axis; batch with `jax.vmap`.

    **Arguments:**

    - `in_channels`, `out_channels`: fields in and out.
    - `modes`: modes kept along each axis of the grid.
    - `width`, `depth`: channels and number of spectral layers.
    - `hidden`: channels of the projection; `width` times two if None.
    - `basis`: for each axis `cosine_modes` (default; not periodic) or `fourier_modes`.
    - `activation`: pointwise; `jax.nn.gelu` by default.
    - `key`: a random key. - `dtype`: precision of the parameters.

    **Reference:** Li et al., Fourier Neural Operator for Parametric Partial Differential Equations,
    ICLR 2021.
    """

    lift: Float[Array, "width in"]
    lift_bias: Float[Array, " width"]
    layers: tuple[SpectralLayer, ...]
    hidden: Float[Array, "hidden width"]
    hidden_bias: Float[Array, " hidden"]
    out: Float[Array, "out hidden"]
    modes: tuple[int, ...] = eqx.field(static=True)
    basis: tuple[Callable, ...] = eqx.field(static=True)
    activation: Callable = eqx.field(static=True)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        modes: Sequence[int],
        *,
        width: int = 16,
        depth: int = 3,
        hidden: int | None = None,
        basis: Sequence[Callable] | None = None,
        activation: Callable = jax.nn.gelu,
        key: PRNGKeyArray,
        dtype: Any = jnp.float32,
    ):
        self.modes = tuple(modes)
        self.basis = (cosine_modes,) * len(self.modes) if basis is None else tuple(basis)
        if len(self.basis) != len(self.modes):
            raise ValueError(
                f"`basis` has {len(self.basis)} entries and `modes` {len(self.modes)}; expected one "
                "of each for every axis of the grid."
            )
        self.activation = activation
        hidden = 2 * width if hidden is None else hidden
        keys = jax.random.split(key, depth + 4)
        normal = lambda k, *shape: jax.random.normal(k, shape, dtype)
        self.lift = 1.5 * in_channels**-0.5 * normal(keys[0], width, in_channels)
        self.lift_bias = 0.5 * normal(keys[1], width)
        self.layers = tuple(SpectralLayer(width, self.modes, key=k, dtype=dtype) for k in keys[4:])
        self.hidden = width**-0.5 * normal(keys[2], hidden, width)
        self.hidden_bias = jnp.zeros(hidden, dtype)
        self.out = hidden**-0.5 * normal(keys[3], out_channels, hidden)

    def __call__(self, x: Float[Array, "in *grid"]) -> Float[Array, "out *grid"]:
        grid = x.shape[1:]
        if len(grid) != len(self.modes) or any(n < m for n, m in zip(grid, self.modes, strict=True)):
            raise ValueError(
                f"`x` has shape {x.shape}; expected (channels, *grid) with at least {self.modes} points "
                "along the axes."
            )
        axes = zip(self.basis, grid, self.modes, strict=True)
        matrices = [jnp.asarray(make(n, m), x.dtype) for make, n, m in axes]
        column = lambda b: b.reshape(-1, *(1,) * len(grid))
        v = jnp.tensordot(self.lift, x, 1) + column(self.lift_bias)
        for layer in self.layers:
            v = self.activation(layer(v, matrices))
        v = self.activation(jnp.tensordot(self.hidden, v, 1) + column(self.hidden_bias))
        return jnp.tensordot(self.out, v, 1)
