"""Shapes with a signed distance, and what is cut and joined from them."""

import abc
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ._domain import AbstractDomain, BoundaryPart, Patch, require_parts, require_points, show
from ._rfunctions import Zeros, conjunction, disjunction, join


class AbstractGeometry(AbstractDomain):
    """A shape: `a | b` (union), `a & b` (intersection) and `a - b` (difference) are shapes again.

    Parts keep their names, and normals point out of the result: those of a hole turn round.
    """

    @abc.abstractmethod
    def signed(self, points: Any, xp: ModuleType) -> Any:
        """The signed distance of points (…, d) → (…), computed by the module `xp`: NumPy or jax.numpy."""

    @abc.abstractmethod
    def level(self, point: Float[Array, " d"]) -> Float[Array, ""]:
        """Smooth, positive inside, negative outside, zero on the boundary with slope one along −n."""

    @abc.abstractmethod
    def vanishing(
        self, parts: Sequence[BoundaryPart], sense: int, everywhere: bool
    ) -> list[Callable[[Float[Array, " d"]], Zeros]]:
        """Pieces of surfaces that together are the parts, as functions of a point.

        **Arguments:**

        - `parts`: some of the shape's.
        - `sense`: on which side of them the domain lies: 1 for inside of the shape, -1 for outside.
        - `everywhere`: whether the pieces must be the parts exactly. Else they may go on where the domain is
            not: outside (sense 1) or inside (-1) of the shape.
        """

    def signed_distance(self, points: Float[Array, "*n d"]) -> Float[Array, "*n"]:
        """The distance to the boundary, negative inside.

        Exact for a single shape. Of what is joined or cut, the sign is exact and the size a lower bound.
        JAX can trace it.
        """
        return self.signed(points, jnp)

    def contains(self, points):
        """See [`AbstractDomain`][]; rounding counts as inside."""
        points = require_points(points, self.coordinates)
        slack = 16 * np.finfo(points.dtype).eps * np.max(np.abs(self.bounds))
        return self.signed(points.astype(float), np) <= slack

    def distance(self, parts):
        """See [`AbstractDomain`][].

        Of slope one along the inward normal (boxes with parts on several axes excepted: there it is the
        product of one factor for each). Where parts meet at a corner, its second derivatives grow like one
        over the distance to the corner (boxes again excepted); they are bounded elsewhere.
        """
        functions = self.vanishing(require_parts(self, parts), 1, False)
        if not functions:
            return lambda point: jnp.ones((), jnp.result_type(float, point))
        return lambda point: join([f(point) for f in functions])

    def __or__(self, other: "AbstractGeometry") -> "Union":
        return Union(self, other)

    def __and__(self, other: "AbstractGeometry") -> "Intersection":
        return Intersection(self, other)

    def __sub__(self, other: "AbstractGeometry") -> "Difference":
        return Difference(self, other)


def boxed(geometry: AbstractGeometry) -> Patch:
    """The inside of a shape, as what is kept of its bounding box."""
    low, high = geometry.bounds.T
    draw = lambda u: (low + u * (high - low), np.zeros_like(u))
    keep = lambda points, normals: geometry.signed(points, np) < 0
    return Patch(None, len(low), float(np.prod(high - low)), draw, (keep,))


class _AbstractBoolean(AbstractGeometry):
    first: eqx.AbstractVar[AbstractGeometry]
    second: eqx.AbstractVar[AbstractGeometry]
    # The outward normal of the second shape, in terms of its own.
    orientation: eqx.AbstractClassVar[int]

    def __check_init__(self):
        for name, shape in (("first", self.first), ("second", self.second)):
            if not isinstance(shape, AbstractGeometry):
                raise TypeError(
                    f"`{name}` is {type(shape).__name__}; expected a shape: Box, Ball, Disk, Polygon, or "
                    "what is joined and cut of them. Take the Product with time afterwards."
                )
        if self.first.coordinates != self.second.coordinates:
            raise ValueError(
                f"The shapes have the coordinates {self.first.coordinates} and {self.second.coordinates}; "
                "expected the same in the same order."
            )
        low, high = self.bounds.T
        if not np.all(low < high):
            raise ValueError(f"The domain is empty: {self.first} and {self.second} have no point in common.")

    @property
    def coordinates(self):
        """Those of both."""
        return self.first.coordinates

    @property
    def measure(self):
        """Length, area or volume, from ∫ dV = (1/d) ∮ (x − c)·n dS.

        Exact if no boundary is cut (holes that lie inside), else to about 1e-4 (1e-3 in three dimensions).
        """
        center = self.bounds.mean(1)
        total = 0.0
        for piece in self.pieces():
            points, normals, mask = piece.kept(piece.quadrature())
            total += piece.measure * float(np.mean(mask * np.sum((points - center) * normals, 1)))
        return total / len(center)

    def inside(self):
        """See [`AbstractDomain`][]."""
        return boxed(self)

    def pieces(self):
        """See [`AbstractDomain`][]."""
        # A point of a shape's boundary is one of ours if a step along its normal leaves the domain. A
        # boundary that both shapes have counts once, as the first shape's.
        step = 1e-7 * float(np.max(self.first.bounds[:, 1] - self.first.bounds[:, 0]))
        leaves = lambda x, n: (self.signed(x - step * n, np) < 0) & (self.signed(x + step * n, np) > 0)
        apart = lambda x, n: np.abs(self.first.signed(x, np)) > step
        ours = [piece._replace(keep=(*piece.keep, leaves)) for piece in self.first.pieces()]
        theirs = [_turned(piece, self.orientation) for piece in self.second.pieces()]
        return (*ours, *(piece._replace(keep=(*piece.keep, leaves, apart)) for piece in theirs))

    def _split(self, parts):
        theirs = [{show(piece.part) for piece in shape.pieces()} for shape in (self.first, self.second)]
        return [[part for part in parts if show(part) in known] for known in theirs]

    def _vanishing(self, parts, sense, everywhere):
        ours, theirs = self._split(parts)
        first = self.first.vanishing(ours, sense, everywhere)
        return first + self.second.vanishing(theirs, sense * self.orientation, everywhere)

    def _trimmed(self, parts, sense, first, second):
        """Of both boundaries what lies where a level, of the other shape, is positive."""
        ours, theirs = self._split(parts)
        scale = float(np.max(self.bounds[:, 1] - self.bounds[:, 0]))
        result = []
        for shape, mine, turned, level in (
            (self.first, ours, sense, second),
            (self.second, theirs, sense * self.orientation, first),
        ):
            for f in shape.vanishing(mine, turned, True):
                result.append(lambda p, f=f, level=level: f(p).trimmed(level(p) / scale))
        return result


def _turned(piece: Patch, orientation: int) -> Patch:
    if orientation > 0:
        return piece

    def draw(u):
        points, normals = piece.draw(u)
        return points, -normals

    keep = tuple(lambda x, n, test=test: test(x, -n) for test in piece.keep)
    return piece._replace(draw=draw, keep=keep)


class Union(_AbstractBoolean):
    """{x : x ∈ first or x ∈ second}, also written `first | second`.

    **Arguments:**

    - `first`, `second`: shapes with the same coordinates. Where both have the same boundary, points there
        belong to the first.

    **Raises:** `ValueError` for other coordinates, `TypeError` for what is no shape.
    """

    first: AbstractGeometry
    second: AbstractGeometry
    orientation = 1

    @property
    def bounds(self):
        """See [`AbstractDomain`][]."""
        one, other = self.first.bounds, self.second.bounds
        return np.stack([np.minimum(one, other)[:, 0], np.maximum(one, other)[:, 1]], 1)

    def signed(self, points, xp):
        """See [`AbstractGeometry`][]."""
        return xp.minimum(self.first.signed(points, xp), self.second.signed(points, xp))

    def level(self, point):
        """See [`AbstractGeometry`][]."""
        return disjunction(self.first.level(point), self.second.level(point))

    def vanishing(self, parts, sense, everywhere):
        """See [`AbstractGeometry`][]."""
        if sense < 0 and not everywhere:
            return self._vanishing(parts, sense, everywhere)
        outside = [lambda p, shape=shape: -shape.level(p) for shape in (self.first, self.second)]
        return self._trimmed(parts, sense, *outside)


class Intersection(_AbstractBoolean):
    """{x : x ∈ first and x ∈ second}, also written `first & second`.

    **Arguments:**

    - `first`, `second`: shapes with the same coordinates.

    **Raises:** `ValueError` for other coordinates or if the boxes around the shapes have no point in
    common, `TypeError` for what is no shape.
    """

    first: AbstractGeometry
    second: AbstractGeometry
    orientation = 1

    @property
    def bounds(self):
        """See [`AbstractDomain`][]."""
        one, other = self.first.bounds, self.second.bounds
        return np.stack([np.maximum(one, other)[:, 0], np.minimum(one, other)[:, 1]], 1)

    def signed(self, points, xp):
        """See [`AbstractGeometry`][]."""
        return xp.maximum(self.first.signed(points, xp), self.second.signed(points, xp))

    def level(self, point):
        """See [`AbstractGeometry`][]."""
        return conjunction(self.first.level(point), self.second.level(point))

    def vanishing(self, parts, sense, everywhere):
        """See [`AbstractGeometry`][]."""
        if sense > 0 and not everywhere:
            return self._vanishing(parts, sense, everywhere)
        return self._trimmed(parts, sense, self.first.level, self.second.level)


class Difference(_AbstractBoolean):
    """{x : x ∈ first and x ∉ second}, also written `first - second`.

    **Arguments:**

    - `first`, `second`: shapes with the same coordinates. The normals of the second's boundary point into
        it, out of the difference.

    **Raises:** `ValueError` for other coordinates, `TypeError` for what is no shape.
    """

    first: AbstractGeometry
    second: AbstractGeometry
    orientation = -1

    @property
    def bounds(self):
        """That of the first."""
        return self.first.bounds

    def signed(self, points, xp):
        """See [`AbstractGeometry`][]."""
        return xp.maximum(self.first.signed(points, xp), -self.second.signed(points, xp))

    def level(self, point):
        """See [`AbstractGeometry`][]."""
        return conjunction(self.first.level(point), -self.second.level(point))

    def vanishing(self, parts, sense, everywhere):
        """See [`AbstractGeometry`][]."""
        if sense > 0 and not everywhere:
            return self._vanishing(parts, sense, everywhere)
        return self._trimmed(parts, sense, self.first.level, lambda point: -self.second.level(point))
