"""Domains: where an equation holds, its boundary by named parts, and points of both."""

import abc
import difflib
import functools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, PRNGKeyArray

from ._conditions import Face, Part
from ._sampling import AbstractSampler, Lattice, Sobol, first, generator, require_count

BoundaryPart = Face | Part
Distance = Callable[[Float[Array, " d"]], Float[Array, ""]]

# More candidates than this in one draw: the domain fills too little of what it is cut from.
MOST_CANDIDATES = 2**26


class Patch(NamedTuple):
    """A set of points parametrized by the unit cube: the inside of a domain or a piece of its boundary.

    - `part`: what boundary part the piece belongs to; None for the inside.
    - `dims`: the dimension of the cube.
    - `measure`: of the image of the cube, before `keep`.
    - `draw`: maps u (m, dims) uniformly to points (m, d) and outward unit normals (m, d). The normals of
        an inside are not used.
    - `keep`: tests of (points, normals), all of which must be true of a point of the patch.
    - `finite`: the number of points, for a set of points: u = (j + ½)/finite is point j.
    """

    part: BoundaryPart | None
    dims: int
    measure: float
    draw: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
    keep: tuple[Callable[[np.ndarray, np.ndarray], np.ndarray], ...] = ()
    finite: int | None = None

    def kept(self, u: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Points, normals, and which of them belong to the patch."""
        points, normals = self.draw(u)
        mask = np.ones(len(points), bool)
        for test in self.keep:
            mask[mask] = test(points[mask], normals[mask])
        return points, normals, mask

    def quadrature(self) -> np.ndarray:
        """Many evenly spread nodes of the cube: midpoints, or in more dimensions Sobol' points."""
        if self.dims > 3:
            return Sobol().draw(2**14, self.dims, np.random.default_rng(0))
        n = {0: 1, 1: 2**12, 2: 128**2, 3: 32**3}[self.dims]
        return Lattice().draw(n, self.dims, np.random.default_rng(0)) if self.dims else np.zeros((1, 0))

    def size(self) -> float:
        """The measure of what is kept; exact if nothing is cut away."""
        if not self.keep:
            return self.measure
        return self.measure * float(np.mean(self.kept(self.quadrature())[2]))


class AbstractDomain(eqx.Module):
    """A region of named coordinates with a boundary of named parts.

    A domain has no arrays (everything in it is static): it is fixed when a program is traced. Points
    are drawn on the host in float64 and given in JAX's default floating type.
    """

    coordinates: eqx.AbstractVar[tuple[str, ...]]

    @property
    @abc.abstractmethod
    def bounds(self) -> Float[np.ndarray, "d 2"]:
        """A box that holds the domain: low and high ends, in the units of the coordinates."""

    @property
    @abc.abstractmethod
    def measure(self) -> float:
        """Length, area or volume, in the product of the coordinates' units."""

    @abc.abstractmethod
    def inside(self) -> Patch:
        """How points of the inside are drawn."""

    @abc.abstractmethod
    def pieces(self) -> tuple[Patch, ...]:
        """How points of the boundary are drawn; a part may have several pieces."""

    @abc.abstractmethod
    def contains(self, points: Float[ArrayLike, "n d"]) -> Bool[np.ndarray, " n"]:
        """Which of some points lie in the domain or on its boundary; on the host."""

    @abc.abstractmethod
    def distance(self, parts: Iterable[BoundaryPart] | BoundaryPart) -> Distance:
        """A smooth stand-in for the distance to some parts of the boundary, for hard conditions.

        **Arguments:**

        - `parts`: one part or several; the empty tuple gives the constant one.

        **Returns:** a function of one point that JAX can trace: exactly zero on the given parts and
        positive elsewhere inside. Its limits are those of each kind of domain.

        **Raises:** `ValueError` for an unknown part.
        """

    @property
    def parts(self) -> tuple[BoundaryPart, ...]:
        """Every part of the boundary of which something is left."""
        found: list[BoundaryPart] = []
        for piece, size in zip(self.pieces(), _sizes(self)[1:], strict=True):
            if piece.part is not None and piece.part not in found and size > 0:
                found.append(piece.part)
        return tuple(found)

    def boundary_measure(self, part: BoundaryPart) -> float:
        """Length or area of a part (the number of points, in one dimension).

        Exact for parts that are whole, else to about 1e-4 of the whole (1e-3 in three dimensions).
        """
        require_parts(self, part)
        pieces = [
            (p, size) for p, size in zip(self.pieces(), _sizes(self)[1:], strict=True) if p.part == part
        ]
        if any(piece.finite for piece, _ in pieces):
            raise ValueError("A part that is known by points has no measure. A Mesh has one.")
        return sum(size for _, size in pieces)

    def interior(self, n: int, sampler: AbstractSampler, key: PRNGKeyArray) -> Float[Array, "n d"]:
        """Points of the inside, uniformly distributed.

        **Arguments:**

        - `n`: how many: exactly so many are given.
        - `sampler`: [`Sobol`][] and the like.
        - `key`: a JAX key.

        **Returns:** points, in the order of `coordinates` and in their units.

        **Raises:** `ValueError` if n < 1 or the domain is empty.
        """
        return floats(_draw(self, None, n, sampler, key)[0])

    def boundary(
        self, part: BoundaryPart, n: int, sampler: AbstractSampler, key: PRNGKeyArray
    ) -> tuple[Float[Array, "n d"], Float[Array, "n d"]]:
        """Points of a part of the boundary, uniformly distributed, and the outward unit normals there.

        **Arguments:**

        - `part`: one of `parts`.
        - `n`, `sampler`, `key`: as for `interior`.

        **Returns:** points and normals.

        **Raises:** `ValueError` for an unknown part, if n < 1, or if nothing is left of the part.
        """
        require_parts(self, part)
        points, normals = _draw(self, part, n, sampler, key)
        return floats(points), floats(normals)


@functools.lru_cache(maxsize=64)
def _sizes(domain):
    """The sizes of the inside and of every piece of the boundary."""
    return tuple(patch.size() for patch in (domain.inside(), *domain.pieces()))


def _draw(domain, part, n, sampler, key):
    """Exactly n points of the patches that belong to a part, shared out by their size."""
    require_count(n)
    every = zip((domain.inside(), *domain.pieces()), _sizes(domain), strict=True)
    patches, sizes = zip(*((patch, size) for patch, size in every if patch.part == part), strict=True)
    sizes = np.array(sizes)
    if not sizes.sum() > 0:
        raise ValueError(f"No points can be drawn from {domain}: it is empty or too thin to be found.")
    wanted = n * sizes / sizes.sum()
    counts = np.floor(wanted).astype(int)
    counts[np.argsort(counts - wanted, kind="stable")[: n - counts.sum()]] += 1
    drawn = [
        _fill(patch, int(count), size / patch.measure, sampler, jax.random.fold_in(key, i) if i else key)
        for i, (patch, count, size) in enumerate(zip(patches, counts, sizes, strict=True))
        if count
    ]
    return tuple(np.concatenate(arrays) for arrays in zip(*drawn, strict=True))


def _fill(patch, n, share, sampler, key):
    if patch.finite is not None:
        if n > patch.finite:
            raise ValueError(f"`n` is {n}, but there are {patch.finite} points in the cloud. Ask for fewer.")
        return patch.draw((generator(key).permutation(patch.finite)[:n, None] + 0.5) / patch.finite)
    if not patch.keep:
        return patch.draw(sampler(n, patch.dims, key))
    m = math.ceil(n / share)
    while m <= MOST_CANDIDATES:
        points, normals, mask = patch.kept(sampler(m, patch.dims, key))
        if mask.sum() >= n:
            rows = first(sampler, np.flatnonzero(mask), n)
            return points[rows], normals[rows]
        m = math.ceil(1.05 * m) + 8
    raise ValueError(
        f"{n} points need more than {MOST_CANDIDATES} candidates: the domain fills about {share:.1e} of what "
        "it is cut from. Cut it from something smaller, or ask for fewer points."
    )


class Product(AbstractDomain):
    """{(a, b) : a ∈ first, b ∈ second}: a shape in space times an interval of time.

    Its parts are those of both: ∂(A × B) = ∂A × B ∪ A × ∂B. `distance` is the product of those of both,
    as on boxes.

    **Arguments:**

    - `first`, `second`: domains that have no coordinate in common. The coordinates are those of the
        first, then those of the second.

    **Raises:** `ValueError` for a coordinate or a part that both have.
    """

    first: AbstractDomain
    second: AbstractDomain

    def __check_init__(self):
        for name, one, other in (
            ("coordinates", self.first.coordinates, self.second.coordinates),
            ("parts", self.first.parts, self.second.parts),
        ):
            both = [x if isinstance(x, str) else show(x) for x in one if x in other]
            if both:
                raise ValueError(f"`first` and `second` both have the {name} {both}; rename one of them.")

    @property
    def coordinates(self):
        """Those of the first, then those of the second."""
        return self.first.coordinates + self.second.coordinates

    @property
    def bounds(self):
        """See [`AbstractDomain`][]."""
        return np.concatenate([self.first.bounds, self.second.bounds])

    @property
    def measure(self):
        """The product of both."""
        return self.first.measure * self.second.measure

    def inside(self):
        """See [`AbstractDomain`][]."""
        return self._joined(self.first.inside(), self.second.inside())

    def pieces(self):
        """See [`AbstractDomain`][]."""
        sides = [self._joined(piece, self.second.inside()) for piece in self.first.pieces()]
        ends = [self._joined(self.first.inside(), piece) for piece in self.second.pieces()]
        return (*sides, *ends)

    def _joined(self, a: Patch, b: Patch) -> Patch:
        d = len(self.first.coordinates)

        def draw(u):
            points, normals = zip(a.draw(u[:, : a.dims]), b.draw(u[:, a.dims :]), strict=True)
            if a.part is None:
                normals = (0 * normals[0], normals[1])
            if b.part is None:
                normals = (normals[0], 0 * normals[1])
            return np.concatenate(points, 1), np.concatenate(normals, 1)

        keep_a = tuple(lambda x, n, test=test: test(x[:, :d], n[:, :d]) for test in a.keep)
        keep_b = tuple(lambda x, n, test=test: test(x[:, d:], n[:, d:]) for test in b.keep)
        part = b.part if a.part is None else a.part
        return Patch(part, a.dims + b.dims, a.measure * b.measure, draw, keep_a + keep_b)

    def contains(self, points):
        """See [`AbstractDomain`][]."""
        points = require_points(points, self.coordinates)
        d = len(self.first.coordinates)
        return self.first.contains(points[:, :d]) & self.second.contains(points[:, d:])

    def distance(self, parts):
        """See [`AbstractDomain`][]."""
        parts = require_parts(self, parts)
        d = len(self.first.coordinates)
        ours = tuple(part for part in parts if part in self.first.parts)
        theirs = tuple(part for part in parts if part not in ours)
        if not theirs:
            one = self.first.distance(ours)
            return lambda point: one(point[:d])
        other = self.second.distance(theirs)
        if not ours:
            return lambda point: other(point[d:])
        both = self.first.distance(ours)
        return lambda point: both(point[:d]) * other(point[d:])


def floats(array: np.ndarray) -> Array:
    """In JAX's default floating type."""
    return jnp.asarray(array, jax.dtypes.canonicalize_dtype(float))


def show(part: BoundaryPart) -> str:
    """A part as one writes it."""
    if isinstance(part, Face):
        return f'{"low" if part.outward < 0 else "high"}("{part.axis}")'
    return f'Part("{part.name}")'


def require_parts(domain: AbstractDomain, parts: Iterable[BoundaryPart] | BoundaryPart):
    """The parts, without repetition; raises `ValueError` unless the domain has each."""
    wanted = (parts,) if isinstance(parts, Face | Part | str) else tuple(parts)
    known = {show(part): part for part in domain.parts}
    found: list[BoundaryPart] = []
    for part in wanted:
        if isinstance(part, str):
            raise TypeError(
                f'A part is {part!r}; expected `Part("{part}")`, or `low`, `high` of a coordinate.'
            )
        if show(part) not in known:
            near = difflib.get_close_matches(show(part), known, 1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise ValueError(
                f"The domain has no part {show(part)}; it has {', '.join(known) or 'none'}.{hint}"
            )
        if part not in found:
            found.append(part)
    return tuple(found)


def require_points(points: ArrayLike, coordinates: Sequence[str]) -> np.ndarray:
    """Points (n, d) on the host, in their own precision."""
    points = np.asarray(points)
    if points.ndim != 2 or points.shape[1] != len(coordinates):
        raise ValueError(
            f"`points` has the shape {points.shape}; expected (n, {len(coordinates)}), the coordinates "
            f"{tuple(coordinates)} of each."
        )
    return points if points.dtype.kind == "f" else points.astype(float)


def names(coordinates: Sequence[str]) -> tuple[str, ...]:
    """The coordinates' names as a tuple; raises `ValueError` unless they are names, once each."""
    good = not isinstance(coordinates, str) and all(isinstance(name, str) for name in coordinates)
    if not good or not coordinates or len(set(coordinates)) < len(coordinates):
        raise ValueError(f'`coordinates` is {coordinates!r}; expected distinct names, as ("x", "y").')
    return tuple(coordinates)
