"""Polygons."""

from collections.abc import Sequence

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike, Float

from ._conditions import Part
from ._domain import Patch, names
from ._geometry import AbstractGeometry, boxed
from ._rfunctions import Zeros, equivalence, trim


class Polygon(AbstractGeometry):
    """A simple polygon, convex or not, without holes (subtract those).

    `distance` joins the functions of its edges by R-equivalence, 1/φ = Σ 1/φᵢ, with φᵢ = √(fᵢ² +
    ¼(√(tᵢ² + fᵢ⁴) − tᵢ)²), fᵢ the distance to the line of edge i and tᵢ positive in the circle about it: of
    slope one on the edges, singular second derivatives at the vertices only.

    **Arguments:**

    - `coordinates`: two names, of one unit.
    - `vertices`: (m, 2) in that unit, m ≥ 3, around the polygon in either sense; the last is joined to
        the first.
    - `parts`: a name for each edge, the one from vertex i to vertex i + 1 being edge i; edges may share
        one. "edge0", "edge1", … by default.

    **Raises:** `ValueError` for repeated vertices, edges that cross or touch, or wrong shapes.

    **Reference:** N. Sukumar, A. Srivastava, CMAME 389 (2022) 114333.
    """

    coordinates: tuple[str, ...] = eqx.field(static=True)
    vertices: tuple[tuple[float, float], ...] = eqx.field(static=True)
    edges: tuple[str, ...] = eqx.field(static=True)

    def __init__(
        self,
        coordinates: Sequence[str],
        vertices: Float[ArrayLike, "m 2"],
        parts: Sequence[str] | None = None,
    ):
        self.coordinates = names(coordinates)
        if len(self.coordinates) != 2:
            raise ValueError(f"`coordinates` of Polygon is {coordinates!r}; expected two.")
        array = np.asarray(vertices, np.float64)
        if array.ndim != 2 or array.shape[1] != 2 or len(array) < 3 or not np.all(np.isfinite(array)):
            raise ValueError(
                f"`vertices` has the shape {array.shape}; expected (m, 2), finite, with m at least 3."
            )
        _require_simple(array)
        self.vertices = tuple((float(x), float(y)) for x, y in array)
        m = len(array)
        self.edges = tuple(f"edge{i}" for i in range(m)) if parts is None else tuple(parts)
        if isinstance(parts, str) or len(self.edges) != m:
            raise ValueError(f"`parts` is {parts!r}; expected a name for each of the {m} edges.")

    @property
    def bounds(self):
        """See [`AbstractDomain`][]."""
        array = np.asarray(self.vertices)
        return np.stack([array.min(0), array.max(0)], 1)

    @property
    def measure(self):
        """The area, by the shoelace formula."""
        return abs(_area(np.asarray(self.vertices)))

    @property
    def _turn(self) -> float:
        # Counterclockwise (1), the inside is to the left.
        return float(np.sign(_area(np.asarray(self.vertices))))

    def _ends(self, parts: Sequence[Part] | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Both ends of the edges (m, 2), those of some parts or all."""
        start = np.asarray(self.vertices)
        end = np.roll(start, -1, 0)
        if parts is None:
            return start, end
        wanted = {part.name for part in parts}
        mask = np.array([name in wanted for name in self.edges])
        return start[mask], end[mask]

    def inside(self):
        """See [`AbstractDomain`][]."""
        return boxed(self)

    def pieces(self):
        """See [`AbstractDomain`][]."""
        return tuple(self._piece(Part(name)) for name in dict.fromkeys(self.edges))

    def _piece(self, part):
        start, end = self._ends([part])
        along = end - start
        lengths = np.linalg.norm(along, axis=1)
        outward = self._turn * np.stack([along[:, 1], -along[:, 0]], 1) / lengths[:, None]

        def draw(u):
            edge, s = choose(lengths, u[:, 0])
            return start[edge] + s[:, None] * along[edge], outward[edge]

        return Patch(part, 1, float(lengths.sum()), draw)

    def signed(self, points, xp):
        """See [`AbstractGeometry`][]."""
        start, end = (xp.asarray(ends, points.dtype) for ends in self._ends())
        along, to = end - start, points[..., None, :] - start
        s = xp.clip(xp.sum(to * along, -1) / xp.sum(along**2, -1), 0, 1)
        square = xp.min(xp.sum((to - s[..., None] * along) ** 2, -1), -1)
        distance = xp.where(square > 0, xp.sqrt(xp.where(square > 0, square, 1)), 0)
        return xp.where(_encloses(start, end, points, xp), -distance, distance)

    def level(self, point):
        """See [`AbstractGeometry`][]."""
        start, end = (jnp.asarray(ends, point.dtype) for ends in self._ends())
        # Order two, even in each φᵢ, is as smooth across an edge as on its two sides.
        size = equivalence(trim(_segments(start, end, self._turn, point)), 2)
        return jnp.where(_encloses(start, end, point, jnp), size, -size)

    def vanishing(self, parts, sense, everywhere):
        """See [`AbstractGeometry`][]."""
        if not parts:
            return []
        start, end = self._ends(parts)
        turn = sense * self._turn
        return [lambda p: _segments(jnp.asarray(start, p.dtype), jnp.asarray(end, p.dtype), turn, p)]


def choose(sizes: np.ndarray, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Items in proportion to their sizes by u in [0, 1], and what remains of u, uniform in [0, 1]."""
    total = np.concatenate([[0.0], np.cumsum(sizes)])
    item = np.clip(np.searchsorted(total, u * total[-1], side="right") - 1, 0, len(sizes) - 1)
    return item, np.clip((u * total[-1] - total[item]) / sizes[item], 0, 1)


def _segments(start, end, turn, point):
    """Each edge as a piece of its line, seen from its left if `turn` is 1, from its right if -1."""
    along, to = end - start, point - start
    length = jnp.sqrt(jnp.sum(along**2, -1))
    f = turn * (along[:, 0] * to[:, 1] - along[:, 1] * to[:, 0]) / length
    t = (length**2 / 4 - jnp.sum((point - (start + end) / 2) ** 2, -1)) / length
    return Zeros(f, (t / length)[:, None], length)


def _encloses(start, end, points, xp):
    """Whether a ray from the point crosses the edges an odd number of times."""
    x, y = points[..., None, 0], points[..., None, 1]
    (x0, y0), (x1, y1) = start.T, end.T
    spans = (y0 > y) != (y1 > y)
    slope = (x1 - x0) / xp.where(y1 == y0, 1, y1 - y0)
    return xp.sum(spans & (x < x0 + (y - y0) * slope), -1) % 2 == 1


def _area(vertices):
    # About the first vertex, so that a far origin costs no digits.
    x, y = (vertices - vertices[0]).T
    return float(np.sum(x * np.roll(y, -1) - y * np.roll(x, -1)) / 2)


def _require_simple(vertices):
    m = len(vertices)
    start, end = vertices, np.roll(vertices, -1, 0)
    along = end - start
    repeated = np.flatnonzero(np.all(along == 0, 1))
    if len(repeated):
        i = int(repeated[0])
        raise ValueError(f"`vertices` {i} and {(i + 1) % m} are the same point. Leave one of them out.")

    def side(i, point):  # of the line of edge i
        to = point - start[i]
        return np.sign(along[i][:, 0] * to[:, 1] - along[i][:, 1] * to[:, 0])

    def between(i, point):
        to = point - start[i]
        s = np.sum(to * along[i], 1)
        return (side(i, point) == 0) & (s >= 0) & (s <= np.sum(along[i] ** 2, 1))

    i, j = np.triu_indices(m, 1)
    following, closing = j == i + 1, (i == 0) & (j == m - 1)
    # Neighbors have a vertex in common, and may only not turn back on each other.
    cross = (side(i, start[j]) * side(i, end[j]) < 0) & (side(j, start[i]) * side(j, end[i]) < 0)
    touch = between(i, start[j]) | between(i, end[j]) | between(j, start[i]) | between(j, end[i])
    back = np.where(
        following,
        between(i, end[j]) | between(j, start[i]),
        between(i, start[j]) | between(j, end[i]),
    )
    bad = np.where(following | closing, back, cross | touch)
    if np.any(bad):
        k = int(np.flatnonzero(bad)[0])
        raise ValueError(
            f"The polygon intersects itself: edges {i[k]} and {j[k]} cross or touch. Order `vertices` around "
            "it, and subtract holes."
        )
