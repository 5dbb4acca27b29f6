"""Data sets made on first use by our own reference solver, and cached with checksums."""

import abc
import functools
import importlib.metadata
import os
import time
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from tqdm.auto import tqdm

from ._axes import Cells, Levels, graded
from ._cache import cached
from ._grid import Grid
from .equations import DiffusionSorption
from .reference import method_of_lines

Profile = Callable[[Float[np.ndarray, " cells"]], Float[np.ndarray, "n cells"]]

_FINE = 576  # reference cells: an error below 1e-4 of the solutions here, measured for each set
_RTOL = 1e-6
_LIMIT = 1e-4
_CHECKED = 4


class AbstractPreset(eqx.Module):
    """A law that samples are drawn from. Its attributes are numbers: they name the cached data."""

    @abc.abstractmethod
    def draw(self, generator: np.random.Generator, n: int) -> tuple[Profile, np.ndarray, np.ndarray]:
        """`n` samples: initial values as a function of x, D [m²/s] and k, each (n,)."""


class Paper(AbstractPreset):
    """u₀(x) = const ~ U(low, high), one diffusivity and one sorption coefficient for all samples.

    A family with one parameter: a few modes represent all of its solutions.

    **Arguments:**

    - `low`, `high`: range of the initial concentration (dimensionless).
    - `diffusivity`: D [m²/s].
    - `freundlich`: k.

    **Reference:** N. Chalapathi, Y. Du, A. Krishnapriyan, Scaling physics-informed hard constraints
    with mixture-of-experts, ICLR 2024; there u₀ ~ U(0, 0.2).
    """

    low: float = 0.005
    high: float = 0.2
    diffusivity: float = 5e-4
    freundlich: float = 3.5e-4

    def draw(self, generator, n):
        """See [`AbstractPreset`][]."""
        constants = generator.uniform(self.low, self.high, n)
        return (
            lambda x: np.repeat(constants[:, None], x.size, axis=1),
            np.full(n, self.diffusivity),
            np.full(n, self.freundlich),
        )


class Rich(AbstractPreset):
    """u₀(x) = low + (high − low) σ(g(x)), g a Gaussian random field; D and k log-uniform.

    g(x) = amplitude Σₘ √((2 − δₘ₀) λₘ) ξₘ cos(mπx) over m < 32 with ξₘ ~ N(0, 1) and
    λₘ ∝ exp(−(mπ ℓ)²/2) summing to one: zero mean, variance amplitude² on average, length scale ℓ.

    **Arguments:**

    - `low`, `high`: bounds of the initial concentration (dimensionless).
    - `length`: ℓ [m].
    - `amplitude`: standard deviation of g (dimensionless).
    - `diffusivity`, `freundlich`: medians of D [m²/s] and k.
    - `factor`: D and k are within this factor of their medians.
    """

    low: float = 0.02
    high: float = 0.2
    length: float = 0.2
    amplitude: float = 1.5
    diffusivity: float = 5e-4
    freundlich: float = 3.5e-4
    factor: float = 2.0

    def draw(self, generator, n):
        """See [`AbstractPreset`][]."""
        modes = np.arange(32)
        spectrum = np.exp(-((modes * np.pi * self.length) ** 2) / 2)
        scale = self.amplitude * np.sqrt(np.where(modes, 2, 1) * spectrum / spectrum.sum())
        coefficients = generator.normal(size=(n, modes.size)) * scale

        def profile(x):
            field = coefficients @ np.cos(np.pi * modes[:, None] * x)
            return self.low + (self.high - self.low) / (1 + np.exp(-field))

        def around(median):
            return median * self.factor ** generator.uniform(-1, 1, n)

        return profile, around(self.diffusivity), around(self.freundlich)


class Samples(NamedTuple):
    """Samples of a data set, float64.

    - `initial`: u at t = 0 at the cell centers (dimensionless); (n, cells).
    - `diffusivity`: D [m²/s]; (n,).
    - `freundlich`: k; (n,).
    - `solution`: u at the cell centers and all levels; (n, levels, cells); None if not asked for.
    """

    initial: Float[np.ndarray, "n cells"]
    diffusivity: Float[np.ndarray, " n"]
    freundlich: Float[np.ndarray, " n"]
    solution: Float[np.ndarray, "n levels cells"] | None


class DataSet(NamedTuple):
    """What [`diffusion_sorption`][] returns.

    - `x`: cell centers [m]; (cells,).
    - `t`: levels [s], from 0; (levels,).
    - `faces`: cell faces [m]; (cells+1,).
    - `train`, `test`: [`Samples`][].
    - `meta`: `refinement_error` (relative L2 over x and t: `cells`, `tolerance`, `limit`),
        `seconds_per_sample` of the stiff solver (after compilation), `steps_per_sample`,
        `reference` (its settings), `versions`, `configuration`.
    """

    x: Float[np.ndarray, " cells"]
    t: Float[np.ndarray, " levels"]
    faces: Float[np.ndarray, " faces"]
    train: Samples
    test: Samples
    meta: dict[str, Any]

    def grid(self, order: int = 2) -> Grid:
        """The grid of levels and cells, time differentiated backwards with `order`."""
        return Grid({"t": Levels(self.t, order), "x": Cells(self.faces)})


def diffusion_sorption(
    preset: AbstractPreset,
    *,
    train: int,
    test: int,
    cells: int = 64,
    times: Float[np.ndarray, " levels"] | None = None,
    seed: int = 0,
    train_solutions: bool = False,
    cache: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> DataSet:
    """Diffusion–sorption on x ∈ (0, 1) with the conditions of [`DiffusionSorption`][].

    Solutions are computed by [`method_of_lines`][] in float64 on at least 576 cells, an odd number
    in each of the `cells`, so that values at the cell centers are taken without interpolation. The
    same seed gives the same test set whatever `train` is.

    **Arguments:**

    - `preset`: `Paper()` or `Rich()`, or another [`AbstractPreset`][].
    - `train`, `test`: numbers of samples. Training samples have no solutions unless
        `train_solutions`.
    - `cells`: uniform cells.
    - `times`: levels [s], increasing from 0; `graded(500.0, 32)` by default.
    - `seed`: of the draw.
    - `cache`: a folder; by default `$JAXSCI_CACHE`, else `jaxsci` in the user's cache folder.
    - `progress`: whether to show a bar while generating, and the refinement error after.

    **Returns:** a [`DataSet`][].

    **Raises:** `ValueError` for sizes or times that make no sense, `RuntimeError` if the reference
    solver fails. Warns if the refinement error exceeds 1e-4, or about a damaged cache.
    """
    levels = graded(500.0, 32) if times is None else np.asarray(times, np.float64)
    if levels.ndim != 1 or levels.size < 2 or levels[0] != 0 or np.any(np.diff(levels) <= 0):
        raise ValueError(
            f"`times` is {levels}; expected at least 2 levels, increasing from 0, for example "
            "`graded(500.0, 32)`."
        )
    for name, number, least in (("train", train, 0), ("test", test, 1), ("cells", cells, 2)):
        if number < least:
            raise ValueError(f"`{name}` is {number}; expected {least} or more.")
    configuration = {
        "cells": cells,
        "format": 1,
        "preset": {"name": type(preset).__qualname__, **vars(preset)},
        "reference": {"cells": cells * _subdivision(cells), "rtol": _RTOL, "atol": _RTOL / 100},
        "seed": seed,
        "test": test,
        "times": levels.tolist(),
        "train": train,
        "train_solutions": train_solutions,
    }
    generate = functools.partial(
        _generate, preset, train, test, cells, levels, seed, train_solutions, progress
    )
    arrays, meta = cached("diffusion_sorption", configuration, generate, cache)
    parts = [
        Samples(
            arrays[f"{part}_initial"],
            arrays[f"{part}_diffusivity"],
            arrays[f"{part}_freundlich"],
            arrays.get(f"{part}_solution"),
        )
        for part in ("train", "test")
    ]
    return DataSet(arrays["x"], arrays["t"], arrays["faces"], parts[0], parts[1], meta)


def _generate(preset, train, test, cells, levels, seed, train_solutions, progress):
    faces = np.linspace(0.0, 1.0, cells + 1)
    x = (faces[1:] + faces[:-1]) / 2
    arrays = {"x": x, "t": levels, "faces": faces}
    fine = _subdivision(cells)
    total = test + (train if train_solutions else 0)
    with tqdm(total=total + 2 * _checked(test), desc="reference", disable=not progress) as bar:
        seconds, steps, errors = [], [], {}
        for stream, (part, n) in enumerate((("test", test), ("train", train))):
            profile, diffusivity, freundlich = preset.draw(np.random.default_rng([seed, stream]), n)
            arrays[f"{part}_initial"] = profile(x)
            arrays[f"{part}_diffusivity"] = diffusivity
            arrays[f"{part}_freundlich"] = freundlich
            if n and (part == "test" or train_solutions):
                solve = functools.partial(_solve, profile, diffusivity, freundlich, cells, levels)
                solution, taken, steps_taken = solve(range(n), fine, _RTOL, bar)
                arrays[f"{part}_solution"] = solution
                seconds.extend(taken)
                steps.extend(steps_taken)
            if part == "test":
                checked = np.linspace(0, n - 1, _checked(n)).round().astype(int)
                for what, settings in (
                    ("cells", (2 * fine + 1, _RTOL)),
                    ("tolerance", (fine, _RTOL / 10)),
                ):
                    better, _, _ = solve(checked, *settings, bar)
                    errors[what] = float(np.max(_relative_l2(solution[checked], better, levels)))
    if progress:
        tqdm.write(
            f"reference refinement error: {errors['cells']:.1e} (cells), "
            f"{errors['tolerance']:.1e} (tolerance); {np.median(seconds):.3f} s per sample"
        )
    if max(errors.values()) > _LIMIT:
        warnings.warn(
            f"The refinement error of the reference is {errors}, above {_LIMIT}: the solutions are "
            "less accurate than promised. Initial values may be too rough, or too close to zero.",
            stacklevel=4,
        )
    meta = {
        "refinement_error": {**errors, "limit": _LIMIT, "samples": _checked(test)},
        "seconds_per_sample": float(np.median(seconds)),
        "steps_per_sample": float(np.mean(steps)),
        "versions": {package: importlib.metadata.version(package) for package in ("jax", "diffrax", "numpy")},
    }
    return arrays, meta


def _solve(profile, diffusivity, freundlich, cells, levels, indices, fine, rtol, bar):
    """Solutions of the samples `indices` at the cell centers, seconds and steps of each."""
    faces = np.linspace(0.0, 1.0, cells * fine + 1)
    initial = profile((faces[1:] + faces[:-1]) / 2)
    solutions, seconds, steps = [], [], []
    # Tight tolerances need float64 whatever the precision of the caller; this ends with the block.
    with jax.enable_x64(True):
        axis = Cells(faces)
        for i in indices:
            inputs = initial[i], diffusivity[i], freundlich[i], levels, rtol
            if not solutions:
                jax.block_until_ready(_trajectory(axis, *map(jnp.asarray, inputs)))
            start = time.perf_counter()
            trajectory = jax.block_until_ready(_trajectory(axis, *map(jnp.asarray, inputs)))
            seconds.append(time.perf_counter() - start)
            if not trajectory.success:
                raise RuntimeError(
                    f"The reference solver failed on sample {i} (D = {diffusivity[i]}, "
                    f"k = {freundlich[i]}) after {int(trajectory.steps)} steps. Change the preset "
                    "or the seed; initial values close to zero are the hardest."
                )
            steps.append(int(trajectory.steps))
            solutions.append(np.asarray(trajectory.values["u"])[:, fine // 2 :: fine])
            bar.update()
    return np.stack(solutions), seconds, steps


@eqx.filter_jit
def _trajectory(axis, initial, diffusivity, freundlich, levels, rtol):
    equation = DiffusionSorption(diffusivity, freundlich)
    return method_of_lines(
        equation,
        {"x": axis},
        equation.conditions(),
        {"u": initial},
        levels,
        rtol=rtol,
        atol=rtol / 100,
    )


def _subdivision(cells):
    """Reference cells in each cell: odd, 3 or more, at least `_FINE` in all."""
    return max(3, 2 * (-(-_FINE // cells) // 2) + 1)


def _checked(n):
    return min(n, _CHECKED)


def _relative_l2(u, v, levels):
    # Relative to the finer solution; by the step in time, uniform in space.
    weights = np.diff(levels)[:, None]
    difference, size = ((weights * w[:, 1:] ** 2).sum((1, 2)) for w in (u - v, v))
    return np.sqrt(difference / size)
