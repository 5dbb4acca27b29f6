"""Domains given by a mesh of triangles or tetrahedra."""

import math
import os
from collections.abc import Mapping, Sequence

import equinox as eqx
import numpy as np
from jaxtyping import ArrayLike, Float, Int

from ._cloud import Frozen, no_distance, rows
from ._conditions import Part
from ._domain import AbstractDomain, Patch, names, require_points
from ._polygon import choose

# meshio's names of cells whose first vertices are the corners of a simplex, by dimension.
SIMPLICES = {
    1: ("line", "line3"),
    2: ("triangle", "triangle6", "triangle7"),
    3: ("tetra", "tetra10"),
}
DIMENSION = {
    "quad": 2, "quad8": 2, "quad9": 2, "polygon": 2,
    "hexahedron": 3, "hexahedron20": 3, "hexahedron27": 3, "wedge": 3, "wedge15": 3,
    "pyramid": 3, "pyramid13": 3,
} | {name: d for d, kinds in SIMPLICES.items() for name in kinds}  # fmt: skip


class Mesh(AbstractDomain):
    """A region divided into triangles or tetrahedra.

    Points are drawn uniformly from the cells; the boundary is the sides that belong to one cell only, its
    normals point away from that cell. Sides that no part names are `Part("boundary")`. A mesh has no smooth
    distance to its boundary: conditions on it are soft.

    **Arguments:**

    - `coordinates`: two or three names, of one unit.
    - `points`: vertices (m, d), in that unit.
    - `cells`: the corners of each cell, (k, d + 1), as rows of `points`.
    - `parts`: name → sides (j, d), as rows of `points` in any order. Those inside the region are left out.

    **Raises:** `ValueError` for other shapes, cells of no volume, sides of more than two cells, and parts
    without a side on the boundary.
    """

    coordinates: tuple[str, ...] = eqx.field(static=True)
    _points: Frozen = eqx.field(static=True)
    _cells: Frozen = eqx.field(static=True)
    _parts: tuple[tuple[str, Frozen, Frozen], ...] = eqx.field(static=True)

    def __init__(
        self,
        coordinates: Sequence[str],
        points: Float[ArrayLike, "m d"],
        cells: Int[ArrayLike, "k d+1"],
        parts: Mapping[str, Int[ArrayLike, "j d"]] | None = None,
    ):
        self.coordinates = names(coordinates)
        d = len(self.coordinates)
        if d not in (2, 3):
            raise ValueError(f"`coordinates` of Mesh is {coordinates!r}; expected two or three.")
        vertices = rows("points", points, d)
        corners = _indices("cells", cells, d + 1, len(vertices))
        if not np.all(_volumes(vertices[corners]) > 0):
            i = int(np.argmin(_volumes(vertices[corners])))
            raise ValueError(f"Cell {i} of `cells`, with the vertices {corners[i]}, has no volume.")
        sides, opposite = _boundary(corners)
        self._points, self._cells = Frozen(vertices), Frozen(corners)

        normals = _normals(vertices[sides], vertices[opposite])
        row = {tuple(side): i for i, side in enumerate(np.sort(sides, 1).tolist())}
        named, found = set(), []
        for name, given in (parts or {}).items():
            given = np.sort(_indices(f'parts["{name}"]', given, d, len(vertices)), 1)
            mine = sorted({row[tuple(side)] for side in given.tolist() if tuple(side) in row})
            if not mine:
                raise ValueError(f'`parts["{name}"]` has no side on the boundary of the mesh.')
            named.update(mine)
            found.append((name, Frozen(sides[mine]), Frozen(normals[mine])))
        rest = sorted(set(range(len(sides))) - named)
        if rest:
            found.append(("boundary", Frozen(sides[rest]), Frozen(normals[rest])))
        self._parts = tuple(found)

    @classmethod
    def read(cls, path: str | os.PathLike[str], coordinates: Sequence[str]) -> "Mesh":
        """A mesh from a file, in any format of meshio (Gmsh, VTK, Abaqus, Exodus, XDMF, …).

        Named sets of sides (cell sets, Gmsh's physical groups) become the parts.

        **Arguments:**

        - `path`: the file.
        - `coordinates`: names of its first d coordinates: two for triangles, three for tetrahedra.

        **Raises:** `ImportError` if meshio is not installed, `ValueError` for a mesh without triangles
        (tetrahedra) or with other cells of that dimension.
        """
        try:
            import meshio
        except ImportError as error:
            raise ImportError(
                'Reading a mesh needs meshio: pip install "jaxsci[mesh]". A Mesh can also be made of arrays.'
            ) from error
        mesh = meshio.read(path)
        d = len(names(coordinates))
        blocks = [(block.type, np.asarray(block.data)) for block in mesh.cells]
        other = sorted({kind for kind, _ in blocks if DIMENSION.get(kind) == d and kind not in SIMPLICES[d]})
        cells = [data[:, : d + 1] for kind, data in blocks if kind in SIMPLICES.get(d, ())]
        if other or not cells:
            raise ValueError(
                f"The mesh {path} has cells {sorted({kind for kind, _ in blocks})}; expected "
                f"{'triangles' if d == 2 else 'tetrahedra'} for the coordinates {tuple(coordinates)}. Divide "
                "other cells into these, or give other coordinates."
            )
        used, flat = np.unique(np.concatenate(cells), return_inverse=True)
        place = np.full(len(mesh.points), -1)
        place[used] = np.arange(len(used))
        parts = {name: place[sides] for name, sides in _named_sides(mesh, blocks, d).items()}
        parts = {name: sides[np.all(sides >= 0, 1)] for name, sides in parts.items()}
        return cls(coordinates, mesh.points[used, :d], flat.reshape(-1, d + 1), parts)

    @property
    def bounds(self):
        """See [`AbstractDomain`][]."""
        return np.stack([self._points.array.min(0), self._points.array.max(0)], 1)

    @property
    def measure(self):
        """The sum over the cells."""
        return float(_volumes(self._points.array[self._cells.array]).sum())

    def inside(self):
        """See [`AbstractDomain`][]."""
        corners = self._points.array[self._cells.array]
        return _simplices(None, corners, np.zeros_like(corners[:, 0]))

    def pieces(self):
        """See [`AbstractDomain`][]."""
        points = self._points.array
        return tuple(_simplices(Part(name), points[s.array], n.array) for name, s, n in self._parts)

    def contains(self, points):
        """See [`AbstractDomain`][]; by barycentric coordinates."""
        points = require_points(points, self.coordinates)
        slack = 64 * np.finfo(points.dtype).eps
        corners = self._points.array[self._cells.array]
        inverse = np.linalg.inv(np.swapaxes(corners[:, 1:] - corners[:, :1], 1, 2))
        result = np.zeros(len(points), bool)
        stride = max(1, 2_000_000 // len(corners))
        for i in range(0, len(points), stride):
            to = points[i : i + stride, None].astype(float) - corners[None, :, 0]
            weights = np.einsum("cij,ncj->nci", inverse, to)
            inside = (weights.min(-1) >= -slack) & (weights.sum(-1) <= 1 + slack)
            result[i : i + stride] = inside.any(1)
        return result

    def distance(self, parts):
        """Of no part of a mesh: `ValueError`; the constant one for none."""
        return no_distance(self, parts)


def _simplices(part, corners, normals):
    """Uniform points of segments, triangles or tetrahedra: corners (k, j + 1, d), normals (k, d)."""
    sizes = _volumes(corners)
    k = corners.shape[1] - 1

    def draw(u):
        cell, rest = choose(sizes, u[:, 0])
        # Gaps between sorted uniform numbers are uniform barycentric coordinates.
        levels = np.sort(np.concatenate([rest[:, None], u[:, 1:]], 1), 1)
        edges = np.pad(levels, ((0, 0), (1, 1)), constant_values=((0, 0), (0, 1)))
        return np.einsum("nj,njd->nd", np.diff(edges, axis=1), corners[cell]), normals[cell]

    return Patch(part, k, float(sizes.sum()), draw)


def _volumes(corners):
    """Length, area or volume of simplices (…, j + 1, d): √det(EᵀE)/j!."""
    edges = corners[..., 1:, :] - corners[..., :1, :]
    gram = np.linalg.det(edges @ np.swapaxes(edges, -1, -2))
    return np.sqrt(np.maximum(gram, 0)) / math.factorial(edges.shape[-2])


def _boundary(cells):
    """The sides of one cell only, and the corner of that cell opposite to each."""
    d = cells.shape[1] - 1
    sides = np.concatenate([np.delete(cells, i, 1) for i in range(d + 1)])
    opposite = np.concatenate([cells[:, i] for i in range(d + 1)])
    _, index, count = np.unique(np.sort(sides, 1), axis=0, return_index=True, return_counts=True)
    if np.any(count > 2):
        raise ValueError(
            f"The side {sides[index[count > 2][0]]} belongs to more than two cells of `cells`; expected two "
            "inside and one on the boundary."
        )
    return sides[index[count == 1]], opposite[index[count == 1]]


def _normals(sides, opposite):
    """Unit normals of segments (k, 2, 2) or triangles (k, 3, 3), away from the opposite corners."""
    edges = sides[:, 1:] - sides[:, :1]
    if edges.shape[1] == 1:
        normals = np.stack([edges[:, 0, 1], -edges[:, 0, 0]], 1)
    else:
        normals = np.cross(edges[:, 0], edges[:, 1])
    normals = normals / np.linalg.norm(normals, axis=1, keepdims=True)
    return normals * np.sign(np.sum(normals * (sides[:, 0] - opposite), 1, keepdims=True))


def _named_sides(mesh, blocks, d):
    """Cell sets and Gmsh's physical groups of dimension d − 1: name → corners of the sides."""
    found: dict[str, list[np.ndarray]] = {}
    lower = [kind in SIMPLICES[d - 1] for kind, _ in blocks]
    for name, sets in mesh.cell_sets.items():
        for (_, data), chosen, is_side in zip(blocks, sets, lower, strict=True):
            if is_side and chosen is not None and len(chosen) and not name.startswith("gmsh:"):
                found.setdefault(name, []).append(data[np.asarray(chosen, int), :d])
    # Gmsh's older format has numbers, and names for some of them.
    called = {int(number): name for name, (number, dim) in mesh.field_data.items() if dim == d - 1}
    for (_, data), tags, is_side in zip(blocks, mesh.cell_data.get("gmsh:physical", []), lower, strict=False):
        for tag in np.unique(tags) if is_side else ():
            name = called.get(int(tag), str(int(tag)))
            found.setdefault(name, []).append(data[np.asarray(tags) == tag, :d])
    return {name: np.concatenate(sides) for name, sides in found.items()}


def _indices(name, values, width, count):
    array = np.asarray(values)
    if array.ndim != 2 or array.shape[1] != width or len(array) == 0 or array.dtype.kind not in "iu":
        raise ValueError(
            f"`{name}` has the shape {array.shape} and dtype {array.dtype}; expected integers (k, {width})."
        )
    if array.min() < 0 or array.max() >= count:
        raise ValueError(f"`{name}` has entries {array.min()} … {array.max()}; expected 0 … {count - 1}.")
    return array.astype(int)
