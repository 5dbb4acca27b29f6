"""Domains known by points or by a mesh."""

from collections.abc import Mapping, Sequence

import equinox as eqx
import numpy as np
from jaxtyping import ArrayLike, Float

from ._conditions import Part
from ._domain import AbstractDomain, Patch, names, require_parts


class Frozen:
    """A NumPy array that can be hashed and compared, for a static field."""

    def __init__(self, array: np.ndarray):
        self.array = np.array(array)
        self.array.setflags(write=False)
        self._hash = hash((self.array.shape, self.array.tobytes()))

    def __hash__(self):
        return self._hash

    def __eq__(self, other):
        if self is other:
            return True
        return isinstance(other, Frozen) and np.array_equal(self.array, other.array)

    def __repr__(self):
        return f"array{self.array.shape}"


class PointCloud(AbstractDomain):
    """A domain of which only points are known: measured, or made by another program.

    `interior` and `boundary` give n of the points, without repetition, chosen by the key; what the sampler
    says is not used. What a cloud does not tell (its measure, what it contains, a distance) is an error.

    **Arguments:**

    - `coordinates`: names of the coordinates.
    - `interior`: points of the inside, (n, d), in their units.
    - `boundary`: part's name → (points, outward normals), both (m, d); normals are scaled to length one.

    **Raises:** `ValueError` for no points, other shapes, or normals of length zero.
    """

    coordinates: tuple[str, ...] = eqx.field(static=True)
    _interior: Frozen = eqx.field(static=True)
    _boundary: tuple[tuple[str, Frozen, Frozen], ...] = eqx.field(static=True)

    def __init__(
        self,
        coordinates: Sequence[str],
        interior: Float[ArrayLike, "n d"],
        boundary: Mapping[str, tuple[Float[ArrayLike, "m d"], Float[ArrayLike, "m d"]]] | None = None,
    ):
        self.coordinates = names(coordinates)
        d = len(self.coordinates)
        self._interior = Frozen(rows("interior", interior, d))
        parts = []
        for name, pair in (boundary or {}).items():
            if not isinstance(pair, tuple | list) or len(pair) != 2:
                raise ValueError(
                    f'`boundary["{name}"]` is {type(pair).__name__}; expected (points, normals).'
                )
            points = rows(f'boundary["{name}"][0]', pair[0], d)
            normals = rows(f'boundary["{name}"][1]', pair[1], d)
            lengths = np.linalg.norm(normals, axis=1, keepdims=True)
            if normals.shape != points.shape or not np.all(lengths > 0):
                raise ValueError(
                    f'`boundary["{name}"]` has {len(points)} points and {len(normals)} normals, the shortest '
                    f"of length {lengths.min():.1e}; expected a nonzero normal for each point."
                )
            parts.append((name, Frozen(points), Frozen(normals / lengths)))
        self._boundary = tuple(parts)

    @property
    def bounds(self):
        """The box around all points."""
        every = np.concatenate([self._interior.array, *(points.array for _, points, _ in self._boundary)])
        return np.stack([every.min(0), every.max(0)], 1)

    @property
    def measure(self):
        """Not known of a cloud: `ValueError`."""
        raise ValueError("A point cloud has no measure. A Mesh has one.")

    def inside(self):
        """See [`AbstractDomain`][]."""
        points = self._interior.array
        return _cloud(None, points, np.zeros_like(points))

    def pieces(self):
        """See [`AbstractDomain`][]."""
        return tuple(_cloud(Part(name), x.array, n.array) for name, x, n in self._boundary)

    def contains(self, points):
        """Not known of a cloud: `ValueError`."""
        raise ValueError("A point cloud does not know what lies in it. A Mesh does.")

    def distance(self, parts):
        """Of no part of a cloud: `ValueError`; the constant one for none."""
        return no_distance(self, parts)


def _cloud(part, points, normals):
    def draw(u):
        index = np.minimum((u[:, 0] * len(points)).astype(int), len(points) - 1)
        return points[index], normals[index]

    return Patch(part, 1, float(len(points)), draw, finite=len(points))


def no_distance(domain: AbstractDomain, parts):
    """The constant one for no parts; else `ValueError`."""
    if require_parts(domain, parts):
        raise ValueError(
            f"{type(domain).__name__} has no smooth distance to its boundary, which a hard condition needs. "
            "Make the condition soft, or describe the domain by Box, Disk, Polygon and what is cut of them."
        )
    return lambda point: 1 + 0 * point[0]


def rows(name: str, values: ArrayLike, d: int) -> np.ndarray:
    """Finite points (n, d), n ≥ 1, in float64; raises `ValueError` for others."""
    array = np.asarray(values, np.float64)
    if array.ndim != 2 or array.shape[1] != d or len(array) == 0 or not np.all(np.isfinite(array)):
        raise ValueError(
            f"`{name}` has the shape {array.shape}; expected (n, {d}), finite, with n at least 1."
        )
    return array
