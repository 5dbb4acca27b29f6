"""What a network sees of a point: periodic and random features, and boxes scaled to [-1, 1]."""

from collections.abc import Callable, Collection, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from ._linear import precision


def _floats(numbers: ArrayLike) -> tuple[float, ...]:
    return tuple(float(x) for x in np.asarray(numbers, np.float64))


class RandomFourier(eqx.Module):
    """x ↦ (cos Bx, sin Bx), B normal: functions of many scales from the start.

    **Arguments:**

    - `in_size`: entries of x.
    - `features`: rows of B; the result has twice as many entries (`out_size`).
    - `scale`: the standard deviation of B [1/unit of a coordinate].
    - `trainable`: whether B is a leaf; else it is constant, and no part of the pytree.
    - `key`: a random key. - `dtype`: precision of B; JAX's default float if None.

    **Reference:** Tancik et al., Fourier features let networks learn high frequency functions in low
    dimensional domains, NeurIPS 2020.
    """

    frequencies: Float[Array, "features in"] | None
    fixed: tuple[tuple[float, ...], ...] = eqx.field(static=True)

    def __init__(
        self,
        in_size: int,
        features: int,
        scale: float = 1.0,
        *,
        trainable: bool = False,
        key: PRNGKeyArray,
        dtype: Any = None,
    ):
        if in_size < 1 or features < 1:
            raise ValueError(f"`in_size` and `features` are {in_size}, {features}; expected at least 1.")
        matrix = scale * jax.random.normal(key, (features, in_size), precision(dtype))
        self.frequencies = matrix if trainable else None
        self.fixed = () if trainable else tuple(_floats(row) for row in matrix)

    @property
    def out_size(self) -> int:
        """Entries of the result: twice the number of features."""
        return 2 * len(self.fixed if self.frequencies is None else self.frequencies)

    def __call__(self, x: Float[Array, " in"]) -> Float[Array, " out"]:
        matrix = jnp.asarray(self.fixed, x.dtype) if self.frequencies is None else self.frequencies
        phase = matrix @ x
        return jnp.concatenate([jnp.cos(phase), jnp.sin(phase)])


class PeriodicEmbedding(eqx.Module):
    """x_i ↦ cos(2πk x_i/L), sin(2πk x_i/L), k = 1 … harmonics, for chosen i; other entries pass.

    A network of these is exactly periodic with all its derivatives: no condition is left to learn.
    The features stand in the place of x_i: k = 1's cosine and sine, then k = 2's.

    **Arguments:**

    - `periods`: index of an entry → its period L, in the units of that entry.
    - `harmonics`: how many k.
    - `trainable`: True, or the indices whose period is a leaf (in `periods`); the others are constants
        and no part of the pytree. A trainable period suits time, where none is known: start above the
        length of the interval.
    - `dtype`: precision of trainable periods; JAX's default float if None.

    **Reference:** Dong & Ni, A method for representing periodic functions and enforcing exactly periodic
    boundary conditions with deep neural networks, J. Comput. Phys. 435, 2021.
    """

    periods: dict[int, Float[Array, ""]]
    fixed: tuple[tuple[int, float], ...] = eqx.field(static=True)
    harmonics: int = eqx.field(static=True)

    def __init__(
        self,
        periods: Mapping[int, float],
        *,
        harmonics: int = 1,
        trainable: bool | Collection[int] = False,
        dtype: Any = None,
    ):
        if not periods or any(index < 0 or not period > 0 for index, period in periods.items()):
            raise ValueError(
                f"`periods` is {dict(periods)}; expected at least one index (from 0) with its positive "
                "period, as {0: 2.0}."
            )
        if harmonics < 1:
            raise ValueError(f"`harmonics` is {harmonics}; expected at least 1.")
        if isinstance(trainable, bool):
            trainable = tuple(periods) if trainable else ()
        if not set(trainable) <= set(periods):
            raise ValueError(f"`trainable` is {trainable}; expected indices out of {tuple(periods)}.")
        self.periods = {i: jnp.asarray(periods[i], precision(dtype)) for i in trainable}
        self.fixed = tuple((i, float(period)) for i, period in periods.items() if i not in trainable)
        self.harmonics = harmonics

    def out_size(self, in_size: int) -> int:
        """Entries of the result for `in_size` entries of x."""
        return in_size + (2 * self.harmonics - 1) * (len(self.periods) + len(self.fixed))

    def __call__(self, x: Float[Array, " in"]) -> Float[Array, " out"]:
        periods = {**dict(self.fixed), **self.periods}
        if max(periods) >= x.shape[0]:
            raise ValueError(
                f"`x` has {x.shape[0]} entries and `periods` the index {max(periods)}; expected indices "
                "from 0, smaller than the number of entries."
            )
        parts = []
        for i in range(x.shape[0]):
            if i in periods:
                phase = (2 * jnp.pi / periods[i]) * x[i]
                waves = [wave(k * phase) for k in range(1, self.harmonics + 1) for wave in (jnp.cos, jnp.sin)]
                parts.append(jnp.stack(waves))
            else:
                parts.append(x[i : i + 1])
        return jnp.concatenate(parts)


class Comoving(eqx.Module):
    """(cos θ, sin θ, s, …) ↦ (cos(θ − ω s), sin(θ − ω s), s, …): a periodic axis seen by one who moves along.

    What is carried with a constant velocity c along an axis of length L stands still in this frame, if
    ω = 2π c/L for s in units of time; for time scaled from an interval of length T to [−1, 1], as a
    [`jaxsci.pinn.PINN`][] does it, ω = π c T/L. ::

        network = nn.Embedded(nn.Comoving(jnp.pi * c * T / L), nn.MLP(3, 1, width=20, depth=2, key=key))

    **Arguments:**

    - `rate`: ω [rad per unit of s]; a leaf, which is trained: where c is not known, start near it.
    - `pair`: the index of cos θ; sin θ is the next. - `time`: the index of s.

    **Raises:** `ValueError` for a negative index, and for one beyond the features.
    """

    rate: Float[Array, ""] = eqx.field(converter=jnp.asarray)
    pair: int = eqx.field(static=True, default=0)
    time: int = eqx.field(static=True, default=2)

    def __check_init__(self):
        if self.pair < 0 or self.time < 0 or self.time - self.pair in (0, 1):
            raise ValueError(
                f"`pair` and `time` are {self.pair} and {self.time}; expected the index of the cosine, which "
                "the sine follows, and that of time."
            )

    def __call__(self, x: Float[Array, " d"]) -> Float[Array, " d"]:
        if x.shape[0] <= max(self.pair + 1, self.time):
            raise ValueError(
                f"A point has {x.shape[0]} features; expected cosine and sine at {self.pair} and "
                f"{self.pair + 1}, and time at {self.time}."
            )
        angle = jnp.asarray(self.rate, x.dtype) * x[self.time]
        c, s = x[self.pair], x[self.pair + 1]
        turned = jnp.stack([c * jnp.cos(angle) + s * jnp.sin(angle), s * jnp.cos(angle) - c * jnp.sin(angle)])
        return jnp.concatenate([x[: self.pair], turned, x[self.pair + 2 :]])


class Embedded(eqx.Module):
    """x ↦ network(embedding(x)): a network of features of a point.

    **Arguments:**

    - `embedding`: `RandomFourier`, `PeriodicEmbedding`, or any function of one point.
    - `network`: takes as many entries as the embedding gives.
    """

    embedding: Callable[[Array], Array]
    network: Callable[[Array], Array]

    def __call__(self, x: Float[Array, " d"]) -> Float[Array, " n_fields"]:
        return self.network(self.embedding(x))


class Scaled(eqx.Module):
    """x ↦ network(2(x − lower)/(upper − lower) − 1): a network that sees a box as [-1, 1]ᵈ.

    **Arguments:**

    - `lower`, `upper`: corners of the box, in the units of x; constants.
    - `network`: any function of one point. An embedding inside sees the scaled point: a period that is
        the width of the box is 2 there.

    **Raises:** `ValueError` unless lower < upper in every entry.
    """

    lower: tuple[float, ...] = eqx.field(converter=_floats, static=True)
    upper: tuple[float, ...] = eqx.field(converter=_floats, static=True)
    network: Callable[[Array], Array]

    def __check_init__(self):
        if len(self.lower) != len(self.upper) or not all(np.less(self.lower, self.upper)):
            raise ValueError(
                f"`lower` and `upper` are {self.lower} and {self.upper}; expected one number each for "
                "every entry of a point, the lower one first."
            )

    def __call__(self, x: Float[Array, " d"]) -> Float[Array, " n_fields"]:
        lower, upper = np.asarray(self.lower), np.asarray(self.upper)
        if x.shape != lower.shape:
            raise ValueError(f"`x` has shape {x.shape}; expected {lower.shape}. Batch with `jax.vmap`.")
        factor, offset = 2 / (upper - lower), -(upper + lower) / (upper - lower)
        return self.network(jnp.asarray(factor, x.dtype) * x + jnp.asarray(offset, x.dtype))
