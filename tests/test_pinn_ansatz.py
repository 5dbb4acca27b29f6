"""Conditions that hold by construction, for networks that have never been trained."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsci import nn, pde, pinn
from jaxsci.pde import Box, Dirichlet, Initial, Neumann, Part, Periodic, high, low

EXACT = 1e-12


class Still(pde.Equation):
    """u = 0: only its names matter here."""

    coordinates = ("x",)
    fields = ("u",)

    def residual(self, d, point):
        return d.u


class Plane(pde.Equation):
    coordinates = ("x", "y")
    fields = ("u",)

    def residual(self, d, point):
        return d.u


class Flow(pde.Equation):
    coordinates = ("x", "y", "t")
    fields = ("u", "v")

    def residual(self, d, point):
        return d.u, d.v


class Fall(pde.Equation):
    coordinates = ("t",)
    fields = ("u",)

    def residual(self, d, point):
        return d.u_tt + d.u


def network(inputs, outputs=1, seed=3):
    # With biases that are not zero.
    made = nn.MLP(inputs, outputs, width=8, depth=1, key=jax.random.key(seed))
    return jax.tree.map(lambda x: x + 0.3 if eqx.is_inexact_array(x) else x, made)


def values(model, points):
    return np.asarray(eqx.filter_jit(jax.vmap(model))(jnp.asarray(points)))


def slopes(model, points, axis):
    """∂/∂(coordinate `axis`) of the fields."""
    along = jnp.zeros(len(model.equation.coordinates)).at[axis].set(1.0)
    slope = lambda p: jax.jvp(model, (p,), (along,))[1]
    return np.asarray(eqx.filter_jit(jax.vmap(slope))(jnp.asarray(points)))


def on_face(domain, face, n=20):
    """Points of a face, random ones and its corners."""
    axis = domain.coordinates.index(face.axis)
    end = domain.bounds[axis][int(face.outward > 0)]
    corners = np.array(list(itertools.product(*domain.bounds)))
    corners = corners[corners[:, axis] == end]
    points, _ = domain.boundary(face, n, pde.Uniform(), jax.random.key(1))
    return np.concatenate([corners, np.asarray(points)])


def g(p):
    """Something with values and slopes at all ends."""
    total = sum((i + 1) * x for i, x in enumerate(p))
    return np.sin(total) * np.exp(-0.3 * p[-1]) + np.prod(p)


def g_at(point):
    p = tuple(point[name] for name in ("x", "y", "z", "t") if name in point)
    total = sum((i + 1) * x for i, x in enumerate(p))
    product = 1.0
    for x in p:
        product = product * x
    return jnp.sin(total) * jnp.exp(-0.3 * p[-1]) + product


SPANS = {"x": (-1.0, 2.0), "y": (0.5, 1.0), "t": (0.2, 0.7)}
BOXES = {
    "an interval": (Still, ("x",), [low("x"), high("x")]),
    "one end": (Still, ("x",), [high("x")]),
    "a rectangle": (Plane, ("x", "y"), [f(n) for n in ("x", "y") for f in (low, high)]),
    "three sides": (Plane, ("x", "y"), [low("x"), high("x"), low("y")]),
    "a corner": (Plane, ("x", "y"), [low("x"), high("y")]),
}


@pytest.mark.parametrize("name", BOXES)
def test_values_at_the_ends_of_a_box(name):
    equation, coordinates, faces = BOXES[name]
    domain = Box({n: SPANS[n] for n in coordinates})
    conditions = [Dirichlet("u", face, g_at) for face in faces]
    model = pinn.PINN(equation(), domain, conditions, network(len(coordinates)))
    assert set(model.hard) == set(conditions) and model.soft == ()
    points = np.concatenate([on_face(domain, face) for face in faces])
    np.testing.assert_allclose(values(model, points)[:, 0], [g(p) for p in points], atol=EXACT)
    # Inside it is the network that speaks.
    other = eqx.tree_at(lambda m: m.network, model, network(len(coordinates), seed=4))
    inside = np.array([[np.mean(SPANS[n]) for n in coordinates]])
    assert abs(values(model, inside) - values(other, inside)).max() > 1e-2


def test_a_system_in_space_and_time():
    """Field u: all sides and the start. Field v: one side, start and initial rate."""
    domain = Box(SPANS)
    sides = [f(n) for n in ("x", "y") for f in (low, high)]

    def rate(point):
        p = (point.x, point.y, point.t)
        return jax.jvp(lambda t: g_at(pde.Point({"x": p[0], "y": p[1], "t": t})), (p[2],), (1.0,))[1]

    conditions = [
        *(Dirichlet("u", side, g_at) for side in sides),
        Initial("u", g_at),
        Dirichlet("v", low("y"), g_at),
        Initial("v", g_at),
        Initial("v", rate, rate=True),
    ]
    model = pinn.PINN(Flow(), domain, conditions, network(3, 2))
    assert len(model.hard) == len(conditions) and model.soft == ()
    for field, faces in ((0, [*sides, low("t")]), (1, [low("y"), low("t")])):
        points = np.concatenate([on_face(domain, face) for face in faces])
        np.testing.assert_allclose(values(model, points)[:, field], [g(p) for p in points], atol=EXACT)
    start = on_face(domain, low("t"))
    expected = [float(rate(pde.Point(dict(zip("xyt", p, strict=True))))) for p in start]
    np.testing.assert_allclose(slopes(model, start, 2)[:, 1], expected, atol=EXACT)


def test_initial_value_and_rate_of_an_ordinary_equation():
    conditions = [Initial("u", 0.7), Initial("u", -1.3, rate=True)]
    model = pinn.PINN(Fall(), Box({"t": (2.0, 5.0)}), conditions, network(1))
    start = jnp.array([[2.0]])
    assert abs(values(model, start)[0, 0] - 0.7) < EXACT
    assert abs(slopes(model, start, 0)[0, 0] + 1.3) < EXACT


def test_periodic_across_the_seam():
    """Value and derivatives to the second order, in two periodic coordinates."""
    domain = Box({"x": (-1.0, 1.0), "y": (0.0, 3.0), "t": (0.0, 1.0)})
    conditions = [Periodic(f, a) for f in ("u", "v") for a in ("x", "y")]
    conditions += [Initial("u", lambda p: jnp.cos(jnp.pi * p.x))]
    model = pinn.PINN(Flow(), domain, conditions, network(5, 2))
    assert model.ansatz.periodic == ("x", "y")
    everything = eqx.filter_jit(jax.vmap(lambda p: jnp.concatenate([x.ravel() for x in _jet(model, p)])))
    points = domain.interior(10, pde.Uniform(), jax.random.key(0))
    for axis in (0, 1):
        a, b = domain.bounds[axis]
        seam = everything(points.at[:, axis].set(a)), everything(points.at[:, axis].set(b))
        np.testing.assert_allclose(*seam, atol=1e-11)  # rounding of second derivatives
        assert abs(seam[0] - everything(points.at[:, axis].set((a + b) / 2))).max() > 1e-2
    start = points.at[:, 2].set(0.0)
    np.testing.assert_allclose(values(model, start)[:, 0], np.cos(np.pi * start[:, 0]), atol=EXACT)


def _jet(f, p):
    return f(p), jax.jacfwd(f)(p), jax.jacfwd(jax.jacfwd(f))(p)


def test_periodic_for_one_field_of_two_is_soft():
    """The network has one input, which goes around for all fields or for none."""
    domain = Box({"x": (-1.0, 1.0), "y": (0.0, 3.0), "t": (0.0, 1.0)})
    model = pinn.PINN(Flow(), domain, [Periodic("u", "x")], network(3, 2))
    assert model.ansatz.periodic == () and model.soft == (Periodic("u", "x"),)


def _circle(center, radius, n=40):
    angles = 2 * np.pi * np.arange(n) / n
    return np.asarray(center) + radius * np.stack([np.cos(angles), np.sin(angles)], 1)


SQUARE = {"x": (-1.0, 1.0), "y": (-1.0, 1.0)}


def test_values_on_a_circle():
    disk = pde.Disk(("x", "y"), (0.5, -1.0), 2.0)
    model = pinn.PINN(Plane(), disk, [Dirichlet("u", Part("disk"), g_at)], network(2))
    assert model.soft == ()
    points = _circle((0.5, -1.0), 2.0)
    np.testing.assert_allclose(values(model, points)[:, 0], [g(p) for p in points], atol=EXACT)


def test_values_on_a_square_and_around_its_hole():
    domain = Box(SQUARE) - pde.Disk(("x", "y"), (0.2, 0.1), 0.4, part="hole")
    sides = [f(n) for n in ("x", "y") for f in (low, high)]
    walls = [Dirichlet("u", side, lambda p: p.x * p.y) for side in sides]
    model = pinn.PINN(Plane(), domain, [*walls, Dirichlet("u", Part("hole"), 3.0)], network(2))
    assert model.soft == () and len(model.hard) == 5
    around = _circle((0.2, 0.1), 0.4)
    np.testing.assert_allclose(values(model, around)[:, 0], 3.0, atol=EXACT)
    # Where two sides meet too.
    border = np.concatenate([on_face(Box(SQUARE), side) for side in sides])
    np.testing.assert_allclose(values(model, border)[:, 0], np.prod(border, axis=1), atol=EXACT)
    assert np.isfinite(jax.vmap(jax.jacfwd(model))(jnp.asarray(around))).all()


def test_values_on_a_circle_times_an_interval_of_time():
    disk = pde.Disk(("x", "y"), (0.0, 0.0), 1.0)
    domain = pde.Product(disk, Box({"t": (0.0, 2.0)}))
    conditions = [
        Dirichlet("u", Part("disk"), lambda p: p.x * jnp.cos(p.t)),
        Initial("u", lambda p: p.x),
        Initial("u", lambda p: p.y * (1 - p.x**2 - p.y**2), rate=True),
    ]
    model = pinn.PINN(Flow(), domain, conditions, network(3, 2))
    rim = np.concatenate([_circle((0, 0), 1.0), np.linspace(0, 2, 40)[:, None]], 1)
    np.testing.assert_allclose(values(model, rim)[:, 0], rim[:, 0] * np.cos(rim[:, 2]), atol=EXACT)
    start = np.asarray(domain.boundary(low("t"), 20, pde.Uniform(), jax.random.key(0))[0])
    np.testing.assert_allclose(values(model, start)[:, 0], start[:, 0], atol=EXACT)
    x, y, _ = start.T
    np.testing.assert_allclose(slopes(model, start, 2)[:, 0], y * (1 - x**2 - y**2), atol=EXACT)


def test_even_coordinates():
    """∂u/∂x = 0 at both ends, and the conditions on it are hard."""
    domain = Box({"x": (-1.0, 2.0), "t": (0.0, 1.0)})
    conditions = [Neumann("u", low("x")), Neumann("u", high("x"), 0.0)]
    conditions += [Initial("u", lambda p: jnp.cos(jnp.pi * (p.x + 1) / 3))]
    model = pinn.PINN(pde.Heat(1.0), domain, conditions, network(2), even=("x",))
    assert model.soft == () and len(model.hard) == 3
    ends = np.concatenate([on_face(domain, face(name)) for face, name in ((low, "x"), (high, "x"))])
    np.testing.assert_allclose(slopes(model, ends, 0), 0, atol=EXACT)
    start = on_face(domain, low("t"))
    np.testing.assert_allclose(values(model, start)[:, 0], np.cos(np.pi * (start[:, 0] + 1) / 3), atol=EXACT)
    # Without `even` they are rows of the loss.
    assert len(pinn.PINN(pde.Heat(1.0), domain, conditions, network(2)).soft) == 2


def test_single_precision_holds_to_its_rounding():
    domain = Box({"x": (-1.0, 1.0), "t": (0.0, 1.0)})
    conditions = [Initial("u", lambda p: -jnp.sin(jnp.pi * p.x)), Dirichlet("u", low("x"))]
    model = pinn.PINN(pde.Heat(1.0), domain, [*conditions, Dirichlet("u", high("x"))], network(2))
    model = jax.tree.map(lambda x: x.astype(jnp.float32) if eqx.is_inexact_array(x) else x, model)
    start = jnp.asarray(on_face(domain, low("t")), jnp.float32)
    found = values(model, start)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[:, 0], -np.sin(np.pi * start[:, 0]), atol=1e-6)


def test_a_soft_condition_stays_soft():
    """What is listed under `soft` is no part of the lift."""
    domain = Box({"x": (0.0, 1.0), "t": (0.0, 1.0)})
    hard, soft = Dirichlet("u", low("x"), 1.0), Dirichlet("u", high("x"), 2.0)
    model = pinn.PINN(pde.Heat(1.0), domain, [hard], network(2), soft=[soft])
    assert model.hard == (hard,) and model.soft == (soft,)
    np.testing.assert_allclose(values(model, on_face(domain, low("x"))), 1.0, atol=EXACT)
    assert abs(values(model, on_face(domain, high("x"))) - 2).max() > 1e-2
