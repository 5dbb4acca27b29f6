"""Periodic equations u_t = L u + N(u): Fourier modes in space, ETDRK4 in time."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float, Inexact


class Fourier(eqx.Module):
    """Real fields on a periodic box, as Fourier modes.

    Modes are those of `jnp.fft.rfftn` over the last axes, divided by the number of points, so that they do
    not depend on it. Axes before them (fields) are carried along.

    **Arguments:**

    - `low`, `high`: corners of the box, one entry for each axis.
    - `shape`: points on each axis; even.
    - `dealias`: the share of the wavenumbers that are kept: 2/3 makes squares free of aliasing, 1/2 cubes.
    """

    low: tuple[float, ...] = eqx.field(static=True)
    high: tuple[float, ...] = eqx.field(static=True)
    shape: tuple[int, ...] = eqx.field(static=True)
    dealias: float = eqx.field(static=True, default=1.0)

    def __check_init__(self):
        if not len(self.low) == len(self.high) == len(self.shape):
            raise ValueError(
                f"`low`, `high` and `shape` have {len(self.low)}, {len(self.high)} and {len(self.shape)} "
                "entries; each needs one for every axis."
            )
        if any(n < 4 or n % 2 for n in self.shape):
            raise ValueError(
                f"`shape` is {self.shape}; every axis needs an even number of points, at least 4."
            )
        if not 0 < self.dealias <= 1:
            raise ValueError(f"`dealias` is {self.dealias}; it is a share of the wavenumbers, in (0, 1].")

    @property
    def axes(self) -> tuple[int, ...]:
        """The axes of the box in an array of values."""
        return tuple(range(-len(self.shape), 0))

    @property
    def counts(self) -> tuple[Float[np.ndarray, "..."], ...]:
        """The whole waves along each axis that every mode has, shaped to broadcast."""
        frequencies = [np.fft.fftfreq(n, 1 / n) for n in self.shape[:-1]]
        frequencies.append(np.fft.rfftfreq(self.shape[-1], 1 / self.shape[-1]))
        return tuple(np.meshgrid(*frequencies, indexing="ij", sparse=True))

    @property
    def wavenumbers(self) -> tuple[Float[np.ndarray, "..."], ...]:
        """The wavenumbers kⱼ [rad/length] of every mode; ∂/∂xⱼ is i kⱼ."""
        lengths = [high - low for low, high in zip(self.low, self.high, strict=True)]
        return tuple(2 * np.pi * c / length for c, length in zip(self.counts, lengths, strict=True))

    @property
    def kept(self) -> np.ndarray:
        """Which modes are kept: not that of alternating sign, whose derivative is not a real field."""
        bounds = [min(self.dealias * n / 2, n / 2 - 1) for n in self.shape]
        inside = [np.abs(c) <= bound for c, bound in zip(self.counts, bounds, strict=True)]
        return np.prod(np.broadcast_arrays(*inside), axis=0).astype(bool)

    def points(self) -> tuple[Float[np.ndarray, "..."], ...]:
        """The coordinates of the grid, shaped to broadcast."""
        grids = [
            low + (high - low) * np.arange(n) / n
            for low, high, n in zip(self.low, self.high, self.shape, strict=True)
        ]
        return tuple(np.meshgrid(*grids, indexing="ij", sparse=True))

    def modes(self, values: Float[Array, "..."]) -> Complex[Array, "..."]:
        """Values at the points → modes, those not kept being 0."""
        return jnp.where(self.kept, jnp.fft.rfftn(values, axes=self.axes, norm="forward"), 0)

    def values(self, modes: Complex[Array, "..."]) -> Float[Array, "..."]:
        """Modes → values at the points."""
        return jnp.fft.irfftn(modes, self.shape, axes=self.axes, norm="forward")


class ETDRK4(eqx.Module):
    """Exponential time differencing with a Runge–Kutta scheme of order 4, for v′ = L v + N(v), L diagonal.

    The linear part is exact; the coefficients are entire functions of z = h L, found as means over a circle
    around z, which avoids their cancellation near z = 0.

    **Arguments:**

    - `symbol`: L, of the shape of v or one that broadcasts [1/time].
    - `step`: h [time]; may be traced.
    - `nodes`: on the circle.

    **Reference:** Cox and Matthews, Exponential time differencing for stiff systems, 2002; Kassam and
    Trefethen, Fourth-order time-stepping for stiff PDEs, 2005.
    """

    whole: Inexact[Array, "..."]
    half: Inexact[Array, "..."]
    stage: Inexact[Array, "..."]
    weights: tuple[Inexact[Array, "..."], Inexact[Array, "..."], Inexact[Array, "..."]]

    def __init__(self, symbol: Inexact[Array, "..."], step: float | Float[Array, ""], *, nodes: int = 16):
        symbol = jnp.asarray(symbol)
        z = symbol * step
        circle = np.exp(2j * np.pi * (np.arange(nodes) + 0.5) / nodes)
        around = z[..., None] + jnp.asarray(circle, jnp.result_type(symbol, jnp.complex64))
        e, e2 = jnp.exp(around), jnp.exp(around / 2)
        # On the real axis the functions are real; their means are so but for rounding.
        part = (lambda f: f) if jnp.iscomplexobj(symbol) else jnp.real
        mean = lambda f: step * part(jnp.mean(f, axis=-1))
        self.whole, self.half = jnp.exp(z), jnp.exp(z / 2)
        self.stage = mean((e2 - 1) / around)
        self.weights = (
            mean((-4 - around + e * (4 - 3 * around + around**2)) / around**3),
            mean((2 + around + e * (around - 2)) / around**3),
            mean((-4 - 3 * around - around**2 + e * (4 - around)) / around**3),
        )

    def __call__(self, v: Inexact[Array, "..."], nonlinear: Callable) -> Inexact[Array, "..."]:
        """v one step later."""
        first, middle, last = self.weights

        def rate(v):
            # Wavenumbers of NumPy are float64, and would raise the precision of v.
            n = jnp.asarray(nonlinear(v))
            return n.astype(v.dtype) if jnp.iscomplexobj(n) == jnp.iscomplexobj(v) else n

        n = rate(v)
        a = self.half * v + self.stage * n
        n_a = rate(a)
        b = self.half * v + self.stage * n_a
        n_b = rate(b)
        c = self.half * a + self.stage * (2 * n_b - n)
        n_c = rate(c)
        return self.whole * v + first * n + 2 * middle * (n_a + n_b) + last * n_c


def etdrk4(
    symbol: Inexact[Array, "..."],
    nonlinear: Callable[[Inexact[Array, "..."]], Inexact[Array, "..."]],
    start: Inexact[Array, "..."],
    duration: float | Float[Array, ""],
    steps: int,
    *,
    saves: int = 1,
) -> Inexact[Array, "saves ..."]:
    """v′ = L v + N(v) with a diagonal L, by `steps` equal steps of [`ETDRK4`][].

    Can be jitted, vmapped and differentiated; precision is that of `start`.

    **Arguments:**

    - `symbol`: L, of the shape of v or one that broadcasts [1/time].
    - `nonlinear`: N, v → an array like v.
    - `start`: v at the beginning, for example Fourier modes.
    - `duration`: the time that passes.
    - `steps`: how many steps; a multiple of `saves`.
    - `saves`: how many states are returned, at equal times, the last at the end.

    **Returns:** the states, without the first.

    **Raises:** `ValueError` for steps that are not a multiple of saves.
    """
    if steps < 1 or saves < 1 or steps % saves:
        raise ValueError(
            f"`steps` is {steps} and `saves` {saves}; steps must be a multiple of saves, both ≥ 1."
        )
    real = jnp.finfo(start.dtype).dtype
    kind = jnp.result_type(real, jnp.complex64) if jnp.iscomplexobj(symbol) else real
    scheme = ETDRK4(jnp.asarray(symbol, kind), jnp.asarray(duration / steps, real))
    step = lambda v, _: (scheme(v, nonlinear), None)

    def save(v, _):
        v, _ = jax.lax.scan(step, v, None, steps // saves)
        return v, v

    return jax.lax.scan(save, start, None, saves)[1]
