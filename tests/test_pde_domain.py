"""Domains against closed-form measures, distances against the boundary, meshes against their files."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsci.pde import (
    Ball,
    Box,
    Difference,
    Disk,
    Halton,
    Interval,
    Lattice,
    Mesh,
    Part,
    PointCloud,
    Polygon,
    Product,
    Sobol,
    Uniform,
    high,
    low,
)

XY = ("x", "y")
RECTANGLE = Box({"x": (0, 2), "y": (0, 1)})
SQUARE = Box({"x": (0, 1), "y": (0, 1)})
CORNER = Polygon(XY, [(0, 0), (2, 0), (2, 1), (1, 1), (1, 2), (0, 2)], ["floor", *["wall"] * 4, "left"])
CLOCKWISE = Polygon(XY, [(0, 0), (0, 1), (2, 0)])
HOLE = RECTANGLE - Disk(XY, (0.5, 0.5), 0.25, "hole")
CUBE = Box({"x": (0, 1), "y": (0, 1), "z": (0, 1)})
# A quarter of a disk of radius ½, cut from, joined to and common with the square at its corner (1, 1).
QUARTER = Disk(XY, (1, 1), 0.5)
PI = math.pi

# domain, its measure, that of each part, the tolerance
MEASURES = {
    "interval": (Interval("x", -1, 2), 3, {low("x"): 1, high("x"): 1}, 1e-12),
    "box": (CUBE, 1, {low("x"): 1, high("z"): 1}, 1e-12),
    "disk": (Disk(XY, (1, -1), 0.5), PI / 4, {Part("disk"): PI}, 1e-12),
    "ball": (Ball(("x", "y", "z"), (1, 2, 3), 2), 32 * PI / 3, {Part("ball"): 16 * PI}, 1e-12),
    "ball in 5": (Ball(tuple("abcde"), [0] * 5, 1), 8 * PI**2 / 15, {Part("ball"): 8 * PI**2 / 3}, 1e-12),
    "polygon": (CORNER, 3, {Part("floor"): 2, Part("wall"): 4, Part("left"): 2}, 1e-12),
    "clockwise": (CLOCKWISE, 1, {Part("edge1"): math.sqrt(5)}, 1e-12),
    "hole": (HOLE, 2 - PI / 16, {Part("hole"): PI / 2, low("x"): 1}, 1e-12),
    "cut": (SQUARE - QUARTER, 1 - PI / 16, {Part("disk"): PI / 4, high("x"): 0.5, low("x"): 1}, 1e-3),
    "joined": (SQUARE | QUARTER, 1 + 3 * PI / 16, {Part("disk"): 3 * PI / 4, high("y"): 0.5}, 1e-3),
    "common": (SQUARE & QUARTER, PI / 16, {Part("disk"): PI / 4, high("x"): 0.5}, 1e-3),
    "shared side": (
        SQUARE | Box({"x": (1, 2), "y": (0, 1)}), 2, {low("y"): 2, low("x"): 1, high("x"): 1}, 1e-12
    ),
    "ball from cube": (
        CUBE - Ball(("x", "y", "z"), (0, 0, 0), 0.5), 1 - PI / 48,
        {Part("ball"): PI / 8, low("x"): 1 - PI / 16}, 2e-3,
    ),
    "line": (Interval("x", 0, 1) - Ball(("x",), (0.5,), 0.1, "gap"), 0.8, {Part("gap"): 2}, 1e-12),
    "two holes of one name": (
        HOLE - Disk(XY, (1.5, 0.5), 0.125, "hole"), 2 - 5 * PI / 64, {Part("hole"): 3 * PI / 4}, 1e-12
    ),
    "in time": (
        Product(HOLE, Box({"t": (0, 3)})), 6 - 3 * PI / 16,
        {Part("hole"): 3 * PI / 2, low("t"): 2 - PI / 16}, 1e-3
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MEASURES)
def test_measures_points_and_normals(name, key):
    domain, measure, parts, tolerance = MEASURES[name]
    d = len(domain.coordinates)
    assert abs(domain.measure - measure) < tolerance * measure
    low_end, high_end = domain.bounds.T
    for n, sampler in ((300, Sobol()), (7, Lattice())):
        points = np.asarray(domain.interior(n, sampler, key))
        assert points.shape == (n, d) and domain.contains(points).all()
        assert np.all((points >= low_end) & (points <= high_end))
    # Monte Carlo on the box around it, with five standard deviations.
    u = np.random.default_rng(0).random((4000, d))
    share, box = domain.contains(low_end + u * (high_end - low_end)).mean(), np.prod(high_end - low_end)
    assert abs(share - measure / box) < 5 * np.sqrt(0.25 / 4000)

    # ∮ n dS = 0 and ∮ x·n dS = d |Ω|, from the points of every part.
    flux, volume = np.zeros(d), 0.0
    for part in domain.parts:
        size = domain.boundary_measure(part)
        if part in parts:
            assert abs(size - parts[part]) < tolerance * measure
        x, n = map(np.asarray, domain.boundary(part, 128, Sobol(), key))
        assert x.shape == n.shape == (128, d) and np.allclose(np.linalg.norm(n, axis=1), 1)
        assert domain.contains(x).all()
        assert domain.contains(x - 1e-6 * n).all() and not domain.contains(x + 1e-6 * n).any()
        flux += size * n.mean(0)
        volume += size * np.mean(np.sum((x - domain.bounds.mean(1)) * n, 1)) / d
    scale = sum(domain.boundary_measure(part) for part in domain.parts)
    assert set(parts) <= set(domain.parts)
    assert np.max(np.abs(flux)) < 0.03 * scale and abs(volume - measure) < 0.03 * scale


def test_interior_points_are_spread_evenly(key):
    # ∫ x² over the disk of radius 1 is π/4: quasi-random points of it do better than n^(−1/2) = 0.02.
    disk = Disk(XY, (0, 0), 1)
    for sampler, tolerance in ((Uniform(), 0.04), (Sobol(), 4e-3), (Halton(), 4e-3), (Lattice(), 8e-3)):
        x = np.asarray(disk.interior(2500, sampler, key))[:, 0]
        assert abs(np.mean(x**2) - 0.25) < tolerance


def test_parts_that_are_cut_away_are_gone():
    assert (SQUARE & QUARTER).parts == (high("x"), high("y"), Part("disk"))
    assert (SQUARE | QUARTER).parts == (low("x"), high("x"), low("y"), high("y"), Part("disk"))


@functools.cache
def gradients(domain, parts):
    f = domain.distance(parts)
    return jax.jit(jax.vmap(jax.value_and_grad(f)))


ZEROS = {
    "one face": (SQUARE, (low("x"),)),
    "two faces": (SQUARE, (low("x"), high("x"))),
    "cut": (SQUARE - QUARTER, (Part("disk"),)),
    "joined": (SQUARE | QUARTER, None),
    "hole": (HOLE, (low("x"), Part("hole"))),
    "polygon": (CORNER, (Part("floor"), Part("wall"))),
    "clockwise": (CLOCKWISE, None),
    "square hole": (Disk(XY, (0.5, 0.5), 2) - SQUARE, None),
    "hole of two": (RECTANGLE - (Disk(XY, (0.7, 0.5), 0.2) & Disk(XY, (0.9, 0.5), 0.2, "b")), None),
    "triangle joined": (CLOCKWISE | Disk(XY, (0, 0), 0.5), None),
    "gap": (Interval("x", 0, 1) - Interval("x", 0.4, 0.5), (low("x"), high("x"))),
    "in time": (Product(HOLE, Box({"t": (0, 1)})), (Part("hole"),)),
}


@pytest.mark.parametrize("name", ZEROS)
def test_distance(name, key):
    domain, wanted = ZEROS[name]
    wanted = domain.parts if wanted is None else wanted
    call = gradients(domain, wanted)
    # One compiled shape for every set of points.
    values, slopes = call(domain.interior(96, Sobol(), key))
    assert jnp.all(values > 0) and jnp.all(jnp.isfinite(slopes))
    for part in domain.parts:
        points, normals = domain.boundary(part, 96, Sobol(), key)
        values, slopes = call(points)
        if part not in wanted:
            assert jnp.all(values > 0), part
            continue
        assert jnp.max(jnp.abs(values)) < 1e-14, part
        along = jnp.sum(slopes * normals, 1)
        # The product of a box is of slope one on one axis; all others are on every part.
        axes = {part.axis for part in wanted if not isinstance(part, Part)}
        if len(axes) < 2 or not isinstance(domain, Box | Difference) or isinstance(part, Part):
            assert jnp.max(jnp.abs(along + 1)) < 1e-8, part


def test_distance_of_a_box_is_a_polynomial(key):
    domain = Box({"x": (-1, 1), "t": (0, 2)})
    x, t = points = domain.interior(5, Sobol(), key).T
    phi = jax.vmap(domain.distance((low("x"), high("x"), low("t"))))(points.T)
    assert jnp.allclose(phi, (x + 1) * (1 - x) / 2 * t, rtol=1e-14)
    assert domain.distance(())(points[:, 0]) == 1
    assert jnp.allclose(domain.distance(high("t"))(points[:, 0]), 2 - t[0])


def test_third_derivatives_against_differences():
    f = CORNER.distance((Part("floor"), Part("left")))
    third = lambda p, v: jax.jvp(
        lambda q: jax.jvp(lambda r: jax.jvp(f, (r,), (v,))[1], (q,), (v,))[1], (p,), (v,)
    )[1]
    p, v, h = jnp.array([0.4, 0.7]), jnp.array([0.6, -0.8]), 1e-2
    g = jax.jit(f)
    steps = [float(g(p + k * h * v)) for k in (-3, -2, -1, 1, 2, 3)]
    expected = np.dot([1, -8, 13, -13, 8, -1], steps) / (8 * h**3)
    assert abs(float(jax.jit(third)(p, v)) - expected) < 1e-3 * abs(expected) + 1e-5


def test_corners_and_single_precision(key):
    domain = SQUARE | QUARTER
    f = gradients(domain, domain.parts)
    points = jnp.array([[0, 0], [1, 0.5], [0, 1], [0.5, 1], [1, 1], [0.5, 0.5], [0.25, 0]], jnp.float32)
    values, slopes = f(points)
    assert values.dtype == jnp.float32 and bool(jnp.all(jnp.isfinite(slopes)))
    zero = [True, True, True, True, False, False, True]
    assert np.array_equal(np.abs(np.asarray(values)) < 1e-6, zero)


@pytest.mark.parametrize("domain", [CORNER, SQUARE | QUARTER, CUBE], ids=["polygon", "union", "cube"])
def test_signed_distance(domain, key):
    d = len(domain.coordinates)
    part = domain.parts[-1]
    points, normals = domain.boundary(part, 50, Sobol(), key)
    values, slopes = jax.jit(jax.vmap(jax.value_and_grad(domain.signed_distance)))(points - 1e-4 * normals)
    assert jnp.all((values < 0) & (values > -1.01e-4))
    good = jnp.abs(values + 1e-4) < 1e-12  # not where another part is nearer
    assert good.sum() > 45 and jnp.max(jnp.abs((slopes - normals)[good])) < 1e-6
    outside = domain.signed_distance(jnp.full((d,), 5.0))
    nearest = max(points.max() for points in [domain.interior(50, Sobol(), key)])
    assert float(outside) > 5 - 2 * float(nearest)


def disk_mesh(n=6, rings=4):
    """A polygon with 6 rings·n sides in the unit disk, its vertices and triangles."""
    from scipy.spatial import Delaunay

    points = [(0.0, 0.0)]
    for r in range(1, rings + 1):
        angles = 2 * np.pi * np.arange(n * r) / (n * r)
        points += [(r / rings * np.cos(a), r / rings * np.sin(a)) for a in angles]
    points = np.array(points)
    return points, Delaunay(points).simplices


def test_mesh_of_triangles(key):
    points, cells = disk_mesh()
    m = 24
    rim = np.arange(len(points) - m, len(points))
    sides = np.stack([rim, np.roll(rim, -1)], 1)
    right = sides[points[sides].mean(1)[:, 0] > 0]
    mesh = Mesh(XY, points, cells, {"right": right})
    assert mesh.parts == (Part("right"), Part("boundary"))
    assert abs(mesh.measure - m / 2 * math.sin(2 * PI / m)) < 1e-12
    length = 2 * math.sin(PI / m)
    assert abs(mesh.boundary_measure(Part("right")) - len(right) * length) < 1e-12
    inside = np.asarray(mesh.interior(500, Sobol(), key))
    assert mesh.contains(inside).all() and np.max(np.abs(inside.mean(0))) < 0.02
    assert not mesh.contains(1.5 * np.asarray(mesh.boundary(Part("right"), 9, Sobol(), key)[0])).any()
    x, n = map(np.asarray, mesh.boundary(Part("right"), 100, Sobol(), key))
    assert x[:, 0].min() > -0.14 and np.allclose(np.sum(x * n, 1), math.cos(PI / m))
    moving = Product(mesh, Box({"t": (0, 2)}))
    assert abs(moving.measure - 2 * mesh.measure) < 1e-12
    assert moving.distance(low("t"))(jnp.array([0.0, 0.0, 0.5])) == 0.5
    assert moving.boundary(Part("right"), 5, Sobol(), key)[0].shape == (5, 3)


def test_mesh_of_tetrahedra(key):
    corners = np.array([[i, j, k] for i in (0, 1) for j in (0, 1) for k in (0, 1)], float)
    # Six tetrahedra around the diagonal from vertex 0 to vertex 7.
    cells = np.array([[0, a, a | b, 7] for a in (1, 2, 4) for b in (1, 2, 4) if a != b])
    mesh = Mesh(("x", "y", "z"), corners, cells)
    assert abs(mesh.measure - 1) < 1e-12 and abs(mesh.boundary_measure(Part("boundary")) - 6) < 1e-12
    x, n = map(np.asarray, mesh.boundary(Part("boundary"), 200, Sobol(), key))
    assert not mesh.contains(x + 1e-6 * n).any() and mesh.contains(x - 1e-6 * n).all()
    points = np.asarray(mesh.interior(1000, Sobol(), key))
    assert np.allclose(np.mean(points**2, 0), 1 / 3, atol=0.02)


@pytest.mark.parametrize("suffix", ["sets.vtu", "gmsh22.msh", "abaqus.inp"])
def test_mesh_from_a_file(suffix, tmp_path, key):
    meshio = pytest.importorskip("meshio", reason="reading meshes needs the extra `mesh`")
    points, cells = disk_mesh()
    rim = np.arange(len(points) - 24, len(points))
    sides = np.stack([rim, np.roll(rim, -1)], 1)
    right = points[sides].mean(1)[:, 0] > 0
    blocks = [("line", sides[right]), ("line", sides[~right]), ("triangle", cells)]
    flat = np.pad(points, ((0, 0), (0, 1)))
    path = tmp_path / suffix
    tags = [np.full(len(block), tag) for tag, (_, block) in zip((1, 2, 3), blocks, strict=True)]
    if suffix.endswith(".vtu"):  # keeps no names
        meshio.write(path, meshio.Mesh(flat, blocks))
        names = {"boundary"}
    elif suffix.endswith(".inp"):
        sets = {"right": [np.arange(right.sum()), [], []], "all": [[], [], np.arange(len(cells))]}
        meshio.write(path, meshio.Mesh(flat, blocks, cell_sets=sets))
        names = {"right", "boundary"}
    else:
        data = {"gmsh:physical": tags, "gmsh:geometrical": tags}
        fields = {"right": np.array([1, 1]), "all": np.array([3, 2])}
        mesh = meshio.Mesh(flat, blocks, cell_data=data, field_data=fields)
        meshio.write(path, mesh, file_format="gmsh22", binary=False)
        names = {"right", "2"}
    mesh = Mesh.read(path, XY)
    assert {part.name for part in mesh.parts} == names
    assert abs(mesh.measure - 12 * math.sin(PI / 12)) < 1e-9
    total = sum(mesh.boundary_measure(part) for part in mesh.parts)
    assert abs(total - 48 * math.sin(PI / 24)) < 1e-9
    with pytest.raises(ValueError, match="expected tetrahedra"):
        Mesh.read(path, ("x", "y", "z"))


def test_point_cloud(key):
    points = np.random.default_rng(0).random((50, 2))
    wall = np.stack([np.zeros(9), np.linspace(0, 1, 9)], 1)
    cloud = PointCloud(XY, points, {"wall": (wall, np.tile([-2.0, 0.0], (9, 1)))})
    drawn = np.asarray(cloud.interior(50, Sobol(), key))
    assert np.array_equal(np.sort(drawn, 0), np.sort(points, 0)) and not np.array_equal(drawn, points)
    x, n = cloud.boundary(Part("wall"), 4, Uniform(), key)
    assert len(np.unique(x[:, 1])) == 4 and np.array_equal(n, np.tile([-1.0, 0.0], (4, 1)))
    assert cloud.parts == (Part("wall"),) and cloud.bounds[0, 0] == 0
    assert Product(cloud, Box({"t": (0, 1)})).interior(80, Sobol(), key).shape == (80, 3)
    assert cloud.distance(())(jnp.ones(2)) == 1
    same = PointCloud(XY, points, {"wall": (wall, np.tile([-2.0, 0.0], (9, 1)))})
    assert jax.tree.structure(same) == jax.tree.structure(cloud) and not jax.tree.leaves(cloud)


K = jax.random.key(0)
CLOUD = PointCloud(XY, np.ones((3, 2)))
TRIANGLE = (np.array([[0, 0], [1, 0], [0, 1.0]]), np.array([[0, 1, 2]]))
FLAT = (np.array([[0, 0], [1, 0], [2, 0.0]]), np.array([[0, 1, 2]]))
WRONG = {
    "reversed": (lambda: Box({"x": (1, 0)}), '`intervals["x"]` is (1, 0); expected (low, high)'),
    "empty interval": (lambda: Interval("x", 1, 1), "expected (low, high) with low < high"),
    "infinite": (lambda: Interval("x", 0, math.inf), "expected finite numbers"),
    "no dictionary": (lambda: Box([(0, 1)]), "expected a dictionary"),
    "no coordinates": (lambda: Box({}), "`coordinates` is ()"),
    "names": (lambda: Disk("xy", (0, 0), 1), "`coordinates` is 'xy'"),
    "radius": (lambda: Disk(XY, (0, 0), 0), "`radius` is 0; expected a positive length"),
    "center": (lambda: Ball(XY, (0, 0, 0), 1), "expected finite numbers of shape (2,)"),
    "disk": (lambda: Disk(("x",), (0,), 1), "expected two"),
    "crossing": (lambda: Polygon(XY, [(0, 0), (1, 1), (1, 0), (0, 1)]), "intersects itself: edges 0 and 2"),
    "spike": (lambda: Polygon(XY, [(0, 0), (1, 0), (2, 0), (1, 0), (1, 1)]), "intersects itself"),
    "line": (lambda: Polygon(XY, [(0, 0), (1, 0), (2, 0)]), "intersects itself"),
    "repeated": (lambda: Polygon(XY, [(0, 0), (1, 0), (1, 0), (0, 1)]), "`vertices` 1 and 2 are the same"),
    "two vertices": (lambda: Polygon(XY, [(0, 0), (1, 0)]), "with m at least 3"),
    "edges": (lambda: Polygon(XY, [(0, 0), (1, 0), (0, 1)], ["a", "b"]), "a name for each of the 3 edges"),
    "no shape": (lambda: SQUARE - CLOUD, "`second` is PointCloud; expected a shape"),
    "coordinates": (lambda: SQUARE | Disk(("y", "x"), (0, 0), 1), "expected the same in the same order"),
    "disjoint": (lambda: SQUARE & Disk(XY, (3, 3), 1), "The domain is empty"),
    "empty": (lambda: (SQUARE - Disk(XY, (0.5, 0.5), 2)).interior(3, Sobol(), K), "it is empty"),
    "unknown part": (lambda: HOLE.distance(Part("hle")), 'Part("hole").'),
    "nearest": (lambda: HOLE.boundary(Part("hle"), 3, Sobol(), K), 'Did you mean Part("hole")?'),
    "string": (lambda: HOLE.boundary_measure("hole"), 'expected `Part("hole")`'),
    "n": (lambda: HOLE.interior(0, Sobol(), K), "`n` is 0"),
    "points": (lambda: SQUARE.contains(np.ones((3, 3))), "expected (n, 2)"),
    "same coordinates": (lambda: Product(SQUARE, Interval("x", 0, 1)), "both have the coordinates ['x']"),
    "same parts": (lambda: Product(Disk(XY, (0, 0), 1), Ball(("z",), (0,), 1, "disk")), "have the parts"),
    "few points": (lambda: CLOUD.interior(4, Sobol(), K), "there are 3 points in the cloud"),
    "cloud measure": (lambda: CLOUD.measure, "no measure"),
    "cloud contains": (lambda: CLOUD.contains(np.ones((1, 2))), "does not know"),
    "cloud normals": (lambda: PointCloud(XY, [[0, 0]], {"a": ([[0, 1]], [[0, 0]])}), "a nonzero normal"),
    "cloud pair": (lambda: PointCloud(XY, [[0, 0]], {"a": np.ones(2)}), "expected (points, normals)"),
    "no points": (lambda: PointCloud(XY, np.ones((0, 2))), "with n at least 1"),
    "mesh distance": (lambda: Mesh(XY, *TRIANGLE).distance(Part("boundary")), "Make the condition soft"),
    "mesh part": (lambda: Mesh(XY, *TRIANGLE).boundary(Part("b"), 3, Sobol(), K), 'it has Part("boundary")'),
    "mesh flat": (lambda: Mesh(XY, *FLAT), "has no volume"),
    "mesh index": (lambda: Mesh(XY, TRIANGLE[0], [[0, 1, 3]]), "expected 0 … 2"),
    "mesh cells": (lambda: Mesh(XY, TRIANGLE[0], [[0.0, 1, 2]]), "expected integers (k, 3)"),
    "mesh line": (lambda: Mesh(("x",), [[0.0]], [[0, 0]]), "expected two or three"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments(name):
    call, message = WRONG[name]
    with pytest.raises((ValueError, TypeError)) as error:
        call()
    assert message in str(error.value)
