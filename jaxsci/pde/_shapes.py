"""Boxes and balls."""

import math
from collections.abc import Mapping, Sequence

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike, Float

from ._conditions import Face, Part
from ._domain import Patch, names
from ._geometry import AbstractGeometry, boxed
from ._rfunctions import Zeros, conjunction, fold


def numbers(name: str, values: ArrayLike, shape: tuple[int, ...]) -> np.ndarray:
    """Finite float64 numbers of the given shape (None: any length); raises `ValueError` for others."""
    array = np.asarray(values, np.float64)
    if array.shape != shape or not np.all(np.isfinite(array)):
        raise ValueError(f"`{name}` is {values!r}; expected finite numbers of shape {shape}.")
    return array


class Box(AbstractGeometry):
    """An interval, a rectangle, a cuboid, …: low ≤ x ≤ high for each coordinate; space, time or both.

    Its parts are `low(name)` and `high(name)` of each coordinate. ::

        Box({"x": (-1.0, 1.0), "t": (0.0, 1.0)})

    `distance` has, for each coordinate, the factor x − a, b − x or (x − a)(b − x)/(b − a): a polynomial, of
    slope one if the parts are on one coordinate.

    **Arguments:**

    - `intervals`: coordinate → (low, high), in the units of the coordinate. The order is that of the
        point's entries.

    **Raises:** `ValueError` unless low < high, finite, everywhere.
    """

    coordinates: tuple[str, ...] = eqx.field(static=True)
    low: tuple[float, ...] = eqx.field(static=True)
    high: tuple[float, ...] = eqx.field(static=True)

    def __init__(self, intervals: Mapping[str, tuple[float, float]]):
        if not isinstance(intervals, Mapping):
            raise TypeError(
                f'`intervals` is {intervals!r}; expected a dictionary: {{"x": (0.0, 1.0), "t": (0.0, 2.0)}}.'
            )
        self.coordinates = names(tuple(intervals))
        for name, ends in intervals.items():
            a, b = numbers(f'intervals["{name}"]', ends, (2,))
            if not a < b:
                raise ValueError(f'`intervals["{name}"]` is {ends!r}; expected (low, high) with low < high.')
        self.low = tuple(float(ends[0]) for ends in intervals.values())
        self.high = tuple(float(ends[1]) for ends in intervals.values())

    @property
    def bounds(self):
        """The box itself."""
        return np.stack([self.low, self.high], 1)

    @property
    def measure(self):
        """The product of the lengths."""
        return math.prod(b - a for a, b in zip(self.low, self.high, strict=True))

    def inside(self):
        """See [`AbstractDomain`][]."""
        low, high = self.bounds.T
        draw = lambda u: (low + u * (high - low), np.zeros_like(u))
        return Patch(None, len(low), self.measure, draw)

    def pieces(self):
        """See [`AbstractDomain`][]."""
        return tuple(
            self._face(axis, outward) for axis in range(len(self.coordinates)) for outward in (-1, 1)
        )

    def _face(self, axis, outward):
        low, high = self.bounds.T
        others = np.delete(np.arange(len(low)), axis)

        def draw(u):
            points, normals = np.zeros((2, len(u), len(low)))
            points[:, others] = low[others] + u * (high - low)[others]
            points[:, axis] = low[axis] if outward < 0 else high[axis]
            normals[:, axis] = outward
            return points, normals

        area = math.prod((high - low)[others].tolist())
        return Patch(Face(self.coordinates[axis], outward), len(others), area, draw)

    def signed(self, points, xp):
        """See [`AbstractGeometry`][]."""
        low, high = (xp.asarray(ends, points.dtype) for ends in self.bounds.T)
        beyond = xp.maximum(low - points, points - high)
        square = xp.sum(xp.maximum(beyond, 0) ** 2, -1)
        return xp.minimum(xp.max(beyond, -1), 0) + _root(square, xp)

    def level(self, point):
        """See [`AbstractGeometry`][]."""
        result, *others = [_between(x, a, b) for x, a, b in zip(point, self.low, self.high, strict=True)]
        for other in others:
            result = conjunction(result, other)
        return result

    def vanishing(self, parts, sense, everywhere):
        """See [`AbstractGeometry`][]."""
        if not parts:
            return []
        if sense > 0 and not everywhere:
            return [lambda point: whole(math.prod(self._factors(parts, point)))]
        return [lambda point: self._faces(parts, sense, point)]

    def _factors(self, parts, point):
        factors = []
        for i, name in enumerate(self.coordinates):
            ends = {part.outward for part in parts if part.axis == name}
            if ends == {-1, 1}:
                factors.append(_between(point[i], self.low[i], self.high[i]))
            elif ends:
                factors.append(point[i] - self.low[i] if ends == {-1} else self.high[i] - point[i])
        return factors

    def _faces(self, parts, sense, point):
        """Each face, cut where the others begin."""
        f = sense * jnp.stack([math.prod(self._factors([part], point)) for part in parts])
        lengths = self.bounds[:, 1] - self.bounds[:, 0]
        if len(lengths) == 1:
            return Zeros(fold(f, lengths[0]), jnp.zeros((len(f), 0), f.dtype), jnp.ones_like(f))
        between = jnp.stack(
            [_between(x, a, b) / (b - a) for x, a, b in zip(point, self.low, self.high, strict=True)]
        )
        axes = [self.coordinates.index(part.axis) for part in parts]
        others = np.array([[i for i in range(len(lengths)) if i != axis] for axis in axes])
        scale = np.min(lengths[others], 1)
        return Zeros(f, between[others], jnp.asarray(scale, f.dtype))


def whole(f):
    """A whole surface {f = 0}."""
    return Zeros(f[None], jnp.zeros((1, 0), f.dtype), jnp.ones((1,), f.dtype))


def _between(x, a, b):
    return (x - a) * (b - x) / (b - a)


def _root(square, xp):
    """√ with the derivative zero, not NaN, at zero."""
    return xp.where(square > 0, xp.sqrt(xp.where(square > 0, square, 1)), 0)


def Interval(name: str, low: float, high: float) -> Box:
    """The box of one coordinate, low ≤ x ≤ high; its parts are `low(name)` and `high(name)`.

    **Arguments:**

    - `name`: of the coordinate.
    - `low`, `high`: its ends, in its units.
    """
    return Box({name: (low, high)})


class Ball(AbstractGeometry):
    """{x : |x − center| ≤ radius}, in any number of dimensions; [`Disk`][] is that of two.

    `distance` is |R² − r²|/(2R), of slope one on the sphere.

    **Arguments:**

    - `coordinates`: names of the coordinates, of one unit.
    - `center`: (d,), in that unit.
    - `radius`: in that unit.
    - `part`: what its boundary is called: `Part("ball")`.

    **Raises:** `ValueError` unless radius > 0 and `center` has an entry for each coordinate.
    """

    coordinates: tuple[str, ...] = eqx.field(static=True)
    center: tuple[float, ...] = eqx.field(static=True)
    radius: float = eqx.field(static=True)
    part: str = eqx.field(static=True)

    def __init__(
        self,
        coordinates: Sequence[str],
        center: Float[ArrayLike, " d"],
        radius: float,
        part: str = "ball",
    ):
        self.coordinates = names(coordinates)
        self.center = tuple(numbers("center", center, (len(self.coordinates),)).tolist())
        self.radius = float(numbers("radius", radius, ()))
        self.part = part
        if not self.radius > 0:
            raise ValueError(f"`radius` is {radius}; expected a positive length.")

    @property
    def bounds(self):
        """See [`AbstractDomain`][]."""
        center = np.asarray(self.center)
        return np.stack([center - self.radius, center + self.radius], 1)

    @property
    def measure(self):
        """π^(d/2) Rᵈ / Γ(d/2 + 1)."""
        d = len(self.center)
        return math.pi ** (d / 2) * self.radius**d / math.gamma(d / 2 + 1)

    def inside(self):
        """See [`AbstractDomain`][]."""
        d = len(self.center)
        if d <= 3:
            return boxed(self)
        # A ball fills little of its box in many dimensions.
        draw = lambda u: (
            np.asarray(self.center) + self.radius * u[:, -1:] ** (1 / d) * _direction(u[:, :-1], d),
            np.zeros((len(u), d)),
        )
        return Patch(None, d + 1, self.measure, draw)

    def pieces(self):
        """See [`AbstractDomain`][]."""
        d = len(self.center)

        def draw(u):
            normals = _direction(u, d)
            return np.asarray(self.center) + self.radius * normals, normals

        area = d * self.measure / self.radius
        return (Patch(Part(self.part), d - 1 if d in (2, 3) else d, area, draw),)

    def signed(self, points, xp):
        """See [`AbstractGeometry`][]."""
        square = xp.sum((points - xp.asarray(self.center, points.dtype)) ** 2, -1)
        return _root(square, xp) - self.radius

    def level(self, point):
        """See [`AbstractGeometry`][]."""
        square = jnp.sum((point - jnp.asarray(self.center, point.dtype)) ** 2)
        return (self.radius**2 - square) / (2 * self.radius)

    def vanishing(self, parts, sense, everywhere):
        """See [`AbstractGeometry`][]."""
        return [lambda point: whole(sense * self.level(point))] if parts else []


def _direction(u, d):
    """Unit vectors, uniformly distributed on the sphere, of points of a unit cube."""
    if d == 2:
        angle = 2 * np.pi * u[:, 0]
        return np.stack([np.cos(angle), np.sin(angle)], 1)
    if d == 3:
        # Archimedes: a zone of the sphere has the area of its projection on the cylinder.
        z, angle = 2 * u[:, 0] - 1, 2 * np.pi * u[:, 1]
        r = np.sqrt(1 - z**2)
        return np.stack([r * np.cos(angle), r * np.sin(angle), z], 1)
    from scipy.special import ndtri

    normal = ndtri(np.clip(u, 1e-16, 1 - 1e-16))
    size = np.linalg.norm(normal, axis=1, keepdims=True)
    return normal / np.where(size == 0, 1, size)


def Disk(
    coordinates: Sequence[str], center: Float[ArrayLike, "2"], radius: float, part: str = "disk"
) -> Ball:
    """The disk |x − center| ≤ radius: the [`Ball`][] of two coordinates.

    **Arguments:**

    - `coordinates`: two names.
    - `center`: (2,), in the units of the coordinates.
    - `radius`: in the same unit.
    - `part`: what its boundary is called: `Part("disk")`.
    """
    if len(names(coordinates)) != 2:
        raise ValueError(f"`coordinates` of Disk is {coordinates!r}; expected two. `Ball` has any number.")
    return Ball(coordinates, center, radius, part)
