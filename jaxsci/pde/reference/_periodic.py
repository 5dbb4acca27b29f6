"""References for periodic equations, at any points and times."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float

from ._etdrk4 import Fourier, etdrk4
from ._reference import Reference

OVERSAMPLING = 16


def periodic(
    linear: Callable[..., Array],
    nonlinear: Callable[[Complex[Array, "..."], Fourier], Complex[Array, "..."]],
    initial: Callable[..., Float[np.ndarray, "..."]],
    fourier: Fourier,
    *,
    end: float,
    steps: int,
    saves: int = 100,
    coordinates: tuple[str, ...] = ("x", "t"),
    field: str = "u",
) -> Reference:
    """u_t = L u + N(u) on a periodic box, by [`etdrk4`][] in float64.

    The initial field is sampled on a grid 16 times finer and its modes are then cut: so those of a function
    with a kink are not spoiled by aliasing. Points between the grid's are reached by the Fourier sum itself;
    times between the saved ones by as many shorter steps from the last saved one, which cost `steps/saves`
    steps each; the first time by `initial`: nothing is interpolated.

    **Arguments:**

    - `linear`: the symbol of L, a function of the wavenumbers k₁, …, of each axis: −ν k² for ν u_xx.
    - `nonlinear`: N in modes, a function of the modes and the [`Fourier`][]:
        `lambda v, f: -0.5j * f.wavenumbers[0] * f.modes(f.values(v) ** 2)` for −u u_x.
    - `initial`: u(x₁, …, 0), a function of arrays.
    - `fourier`: the box, its points and dealiasing.
    - `end`: the last time.
    - `steps`: time steps up to `end`; an even multiple of `saves`.
    - `saves`: states kept, at equal times.
    - `coordinates`, `field`: names, the time last.

    **Returns:** a [`Reference`][]; its error comes from half the steps with half the points on each axis, and
    is that of the coarse solution: the largest over the saved times of the relative L2 error.

    **Raises:** `ValueError` if JAX computes in float32, for an odd number of steps between saves, and for
    points at times outside [0, `end`].
    """
    if jnp.zeros(()).dtype != jnp.float64:
        raise ValueError(
            "JAX computes in float32, in which this reference would be wrong by 1e-4 or more: call "
            'jax.config.update("jax_enable_x64", True) before, or set JAX_ENABLE_X64=1.'
        )
    if steps % (2 * saves):
        raise ValueError(
            f"`steps` is {steps} and `saves` {saves}; steps must be a multiple of 2·saves, since the error "
            "is estimated with half as many."
        )

    symbol = lambda fourier: jnp.asarray(linear(*fourier.wavenumbers))

    @eqx.filter_jit
    def solve(fourier, symbol, start, duration, steps, saves):
        return etdrk4(symbol, lambda v: nonlinear(v, fourier), start, duration, steps, saves=saves)

    def states(fourier, steps):
        start = _start(initial, fourier)
        return np.concatenate([start[None], solve(fourier, symbol(fourier), start, end, steps, saves)])

    fine = states(fourier, steps)
    half = Fourier(fourier.low, fourier.high, tuple(n // 4 * 2 for n in fourier.shape), fourier.dealias)
    error = _mode_error(half, states(half, steps // 2), fourier, fine)
    spacing, between = end / saves, steps // saves

    @jax.jit
    def advance(symbol, starts, durations):
        one = lambda pair: solve(fourier, symbol, *pair, between, 1)[0]
        return jax.lax.map(one, (starts, durations))

    def modes_at(times):
        index = np.minimum(np.floor(times / spacing + 1e-9), saves).astype(int)
        rest = times - index * spacing
        result = fine[index]
        late = np.nonzero(rest > 1e-9 * spacing)[0]
        for chunk in np.array_split(late, -(-len(late) // 64)) if len(late) else []:
            # One size of chunk, one program.
            filled = np.resize(chunk, 64)
            result[chunk] = advance(symbol(fourier), fine[index[filled]], rest[filled])[: len(chunk)]
        return result

    def function(points):
        *x, t = points.T
        if np.any(t < 0) or np.any(t > end * (1 + 1e-9)):
            raise ValueError(
                f"`points` has times from {t.min()} to {t.max()}; this reference has [0, {end}]."
            )
        times, group = np.unique(t, return_inverse=True)
        result = np.empty(len(points))
        for first in range(0, len(times), 512):
            states = modes_at(times[first : first + 512])
            for i, modes in enumerate(states, first):
                here = np.nonzero(group == i)[0]
                place = [axis[here] for axis in x]
                result[here] = initial(*place) if times[i] == 0 else fourier_sum(fourier, modes, *place)
        return result[:, None]

    return Reference(function, error, coordinates, (field,))


def fourier_sum(
    fourier: Fourier, modes: Complex[np.ndarray, "..."], *x: Float[np.ndarray, " n"]
) -> Float[np.ndarray, " n"]:
    """Σ v_k exp(i k·(x − low)) at points that need not be on the grid; (n,).

    **Arguments:**

    - `fourier`: the box.
    - `modes`: as [`Fourier`][] makes them.
    - `x`: one array (n,) for each axis.
    """
    modes = np.array(modes)
    modes[..., 1:] *= 2  # the other half of the last axis is their conjugate
    loud = np.nonzero(np.abs(modes) > 1e-18 * np.max(np.abs(modes)))
    modes = modes[..., : np.max(loud[-1], initial=0) + 1]
    result = []
    for first in range(0, len(x[0]), 4096):
        sums = modes[None]
        for low, axis, k in zip(fourier.low, x, fourier.wavenumbers, strict=True):
            phase = np.exp(1j * np.outer(axis[first : first + 4096] - low, k.ravel()[: sums.shape[1]]))
            sums = np.einsum("nk,nk...->n...", phase, np.broadcast_to(sums, (len(phase), *sums.shape[1:])))
        result.append(sums.real)
    return np.concatenate(result) if result else np.empty(0)


def _start(initial, fourier: Fourier) -> Complex[np.ndarray, "..."]:
    """The modes of the initial field, from a finer grid."""
    finer = Fourier(fourier.low, fourier.high, tuple(OVERSAMPLING * n for n in fourier.shape))
    values = np.broadcast_to(initial(*finer.points()), finer.shape)
    modes = np.fft.rfftn(values, norm="forward")
    picked = [c.ravel().astype(int) for c in fourier.counts]
    return np.where(fourier.kept, modes[np.ix_(*picked)], 0)


def _mode_error(half: Fourier, coarse, fourier: Fourier, fine) -> float:
    """The largest over the times of ‖coarse − fine‖/‖fine‖, by Parseval's equation."""
    padded = np.zeros_like(fine)
    picked = [c.ravel().astype(int) for c in half.counts]
    padded[(slice(None), *np.ix_(*picked))] = coarse
    weight = np.full(fine.shape[-1], 2.0)
    weight[0] = 1.0
    norm = lambda v: np.sqrt(np.sum(weight * np.abs(v) ** 2, axis=tuple(range(1, v.ndim))))
    return float(np.max(norm(padded - fine)[1:] / norm(fine)[1:]))
