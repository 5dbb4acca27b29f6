"""Points in the unit cube, drawn on the host before a program is compiled."""

import abc
import math
from typing import ClassVar

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Float, PRNGKeyArray


class AbstractSampler(eqx.Module):
    """n points in the unit cube of d dimensions: `sampler(n, d, key)`.

    The points are made by NumPy and SciPy in float64, so a sampler is called outside `jax.jit`.
    """

    # Whether the first points of many are themselves spread evenly (else the rows have an order).
    sequence: eqx.AbstractClassVar[bool]

    def __call__(self, n: int, d: int, key: PRNGKeyArray) -> Float[np.ndarray, "n d"]:
        """Draws.

        **Arguments:**

        - `n`: how many points, at least 1.
        - `d`: of how many coordinates; with d = 0 the points are empty.
        - `key`: a JAX key, which seeds NumPy's generator.

        **Returns:** points in [0, 1]ᵈ, dimensionless.

        **Raises:** `ValueError` if n < 1 or d < 0.
        """
        require_count(n)
        if d < 0:
            raise ValueError(f"`d` is {d}; expected a number of coordinates, 0 or more.")
        return self.draw(n, d, generator(key)) if d else np.zeros((n, 0))

    @abc.abstractmethod
    def draw(self, n: int, d: int, rng: np.random.Generator) -> Float[np.ndarray, "n d"]:
        """n ≥ 1 points of d ≥ 1 coordinates."""


def require_count(n: int) -> None:
    """Raises `ValueError` unless n points can be drawn."""
    if n < 1:
        raise ValueError(f"`n` is {n}; expected how many points to draw, at least 1.")


def generator(key: PRNGKeyArray) -> np.random.Generator:
    """NumPy's generator seeded by 128 bits of a JAX key."""
    return np.random.default_rng(np.asarray(jax.random.bits(key, (4,), "uint32")))


def first(sampler: AbstractSampler, points: np.ndarray, n: int) -> np.ndarray:
    """n of at least n points drawn by `sampler`, spread as they are."""
    if sampler.sequence:
        return points[:n]
    return points[np.arange(n) * len(points) // n]


class Uniform(AbstractSampler):
    """Independent, uniformly distributed points. An integral by n of them errs by O(n^(−1/2))."""

    sequence: ClassVar[bool] = True

    def draw(self, n, d, rng):
        """See [`AbstractSampler`][]."""
        return rng.random((n, d))


class LatinHypercube(AbstractSampler):
    """One point in each of n equal slices along every coordinate.

    **Reference:** M.D. McKay, R.J. Beckman, W.J. Conover, Technometrics 21 (1979).
    """

    sequence: ClassVar[bool] = True

    def draw(self, n, d, rng):
        """See [`AbstractSampler`][]."""
        from scipy.stats import qmc

        return qmc.LatinHypercube(d, seed=rng).random(n)


class Sobol(AbstractSampler):
    """Scrambled Sobol' points: an integral of a smooth function errs by about O(n^(−3/2)), for n = 2ᵏ.

    Any n is allowed; the first n points of the sequence are taken. Up to 21201 dimensions.

    **Reference:** A.B. Owen, Scrambled net variance for integrals of smooth functions, Annals of
    Statistics 25 (1997).
    """

    sequence: ClassVar[bool] = True

    def draw(self, n, d, rng):
        """See [`AbstractSampler`][]."""
        from scipy.stats import qmc

        # A power of two first, since SciPy warns of any other number.
        return qmc.Sobol(d, seed=rng).random_base2((n - 1).bit_length())[:n]


class Halton(AbstractSampler):
    """Scrambled Halton points: van der Corput sequences of the first d primes.

    **Reference:** A.B. Owen, A randomized Halton algorithm in R, arXiv:1706.02808.
    """

    sequence: ClassVar[bool] = True

    def draw(self, n, d, rng):
        """See [`AbstractSampler`][]."""
        from scipy.stats import qmc

        return qmc.Halton(d, seed=rng).random(n)


class Lattice(AbstractSampler):
    """A regular grid, in row-major order (the last coordinate varies fastest); the key is not used.

    Without `shape`, every coordinate has the same number of levels, the fewest that give n points;
    if that is more than n, n of them are taken at equal strides.

    **Arguments:**

    - `endpoints`: levels from 0 to 1 with both ends, else midpoints (j + ½)/k of k equal cells.
    - `shape`: the number of levels along each coordinate. Their product must be the n asked for, so
        it fits boxes, whose points are not filtered.
    """

    endpoints: bool = eqx.field(default=False, static=True)
    shape: tuple[int, ...] | None = eqx.field(default=None, static=True)
    sequence: ClassVar[bool] = False

    def __check_init__(self):
        if self.shape is not None and (len(self.shape) == 0 or min(self.shape) < 1):
            raise ValueError(f"`shape` is {self.shape}; expected at least one level for each coordinate.")

    def draw(self, n, d, rng):
        """See [`AbstractSampler`][]."""
        shape = self.shape
        if shape is None:
            k = max(1, round(n ** (1 / d)) - 1)
            while k**d < n:
                k += 1
            shape = (k,) * d
        elif len(shape) != d or math.prod(shape) != n:
            raise ValueError(
                f"`shape` of Lattice is {shape}: {math.prod(shape)} points of {len(shape)} coordinates; "
                f"asked for were {n} of {d}. Ask for that many, or leave `shape` out."
            )
        levels = [
            np.linspace(0, 1, k) if self.endpoints and k > 1 else (np.arange(k) + 0.5) / k for k in shape
        ]
        points = np.stack(np.meshgrid(*levels, indexing="ij"), -1).reshape(-1, d)
        return first(self, points, n)
