"""Lagrangian PINNs where characteristics come together: shocks, fans, new labels."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsci import nn, pde, pinn
from jaxsci.pde import reference
from jaxsci.pinn._table import tabulate
from jaxsci.solvers import GaussNewton

TAU = 2 * np.pi
AROUND = pde.Periodic("u", "x")
silent = lambda features: jnp.zeros(1)


class Traffic(pde.AbstractTransport):
    """A concave flux u (1 − u)."""

    coordinates = ("x", "t")
    fields = ("u",)

    def velocity(self, u, point):
        return (1 - 2 * u.u,)


class Buckley(pde.AbstractTransport):
    """A flux that is neither: f′ = u (1 − u)."""

    coordinates = ("x", "t")
    fields = ("u",)

    def velocity(self, u, point):
        return (u.u * (1 - u.u),)


def exact_characteristics(equation, value, end, *, space=(0.0, TAU), conditions=(AROUND,), entropy=True):
    """Without networks: X = ξ + t v(u₀) is exact where nothing changes along characteristics."""
    domain = pde.Box({"x": space, "t": (0.0, end)})
    return pinn.LPINN(
        equation, domain, [pde.Initial("u", value), *conditions], silent, silent, entropy=entropy
    )


@pytest.fixture(scope="module", autouse=True)
def x64_module():
    before = jax.config.read("jax_enable_x64")
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", before)


@pytest.fixture(scope="module")
def wave(x64_module):
    return exact_characteristics(pde.Burgers(None), lambda p: 0.5 + jnp.sin(p.x), 2.0)


def test_after_a_shock(wave):
    points = np.random.default_rng(0).uniform(size=(400, 2)) * [TAU, 2.0]
    points[:3, 1] = 0.0, 0.0, 2.0
    exact = reference.inviscid_burgers(0.5, end=2.0)(points)[:, 0]
    found = jax.jit(jax.vmap(wave))(jnp.asarray(points))[:, 0]
    np.testing.assert_allclose(found, exact, atol=1e-9)


def test_position_of_a_shock(wave):
    at = lambda t: wave.shock(t, np.pi + 0.5 * t - 0.5, np.pi + 0.5 * t + 0.4)
    place, speed = jax.jit(jax.vmap(jax.value_and_grad(at)))(jnp.array([1.7, 0.8]))
    np.testing.assert_allclose(place[0], np.pi + 0.85, atol=1e-10)
    # Rankine–Hugoniot: the mean of u on the two sides, which is ½ by symmetry.
    np.testing.assert_allclose(speed[0], 0.5, atol=1e-8)
    assert bool(jnp.isnan(place[1]))


def test_derivatives_beside_a_shock(wave):
    query = jax.jit(lambda p: wave(p)[0])
    slope = jax.jit(jax.grad(query))(jnp.array([3.0, 1.5]))
    h = 1e-6
    for i, e in enumerate(h * np.eye(2)):
        difference = (query(jnp.array([3.0, 1.5]) + e) - query(jnp.array([3.0, 1.5]) - e)) / (2 * h)
        np.testing.assert_allclose(slope[i], difference, rtol=1e-6)
    np.testing.assert_allclose(slope[1] + query(jnp.array([3.0, 1.5])) * slope[0], 0, atol=1e-9)


def test_a_step_up_makes_a_fan():
    model = exact_characteristics(
        pde.Burgers(None), lambda p: jnp.where((p.x > 2) & (p.x < 4), 1.0, 0.0), 1.9
    )
    x = jnp.linspace(0.013, 6.2, 61)
    at = lambda x: model(jnp.stack([x, jnp.array(1.5)]))[0]
    exact = jnp.where(x < 2, 0, jnp.where(x < 3.5, (x - 2) / 1.5, jnp.where(x < 4.75, 1.0, 0.0)))
    found, slope = jax.jit(jax.vmap(jax.value_and_grad(at)))(x)
    np.testing.assert_allclose(found, exact, atol=1e-10)
    np.testing.assert_allclose(slope, jnp.where((x > 2) & (x < 3.5), 1 / 1.5, 0), atol=1e-9)


@pytest.mark.parametrize(("left", "right"), [(0.2, 0.8), (0.8, 0.2)])
def test_concave_flux(left, right):
    model = exact_characteristics(
        Traffic(), lambda p: jnp.where(p.x < 0, left, right), 1.0, space=(-4.0, 4.0), conditions=()
    )
    x = jnp.array([-1.0, -0.3, -0.05, 0.2, 0.7])
    found = jax.jit(jax.vmap(lambda x: model(jnp.stack([x, jnp.array(0.7)]))[0]))(x)
    if left > right:  # cars that set off
        exact = jnp.clip((1 - x / 0.7) / 2, right, left)
    else:  # the queue stands: as many cars go as come
        exact = jnp.where(x < 0, left, right)
    np.testing.assert_allclose(found, exact, atol=1e-10)


def test_refusals():
    with pytest.raises(ValueError, match=r"cross by t = 1"):
        exact_characteristics(pde.Burgers(None), lambda p: jnp.sin(p.x), 1.5, entropy=False)
    exact_characteristics(pde.Burgers(None), lambda p: jnp.sin(p.x), 0.9, entropy=False)
    with pytest.raises(ValueError, match="not convex"):
        exact_characteristics(Buckley(), lambda p: jnp.sin(p.x), 1.0)
    with pytest.raises(ValueError, match="with diffusion or a source"):
        exact_characteristics(pde.Burgers(0.1), lambda p: jnp.sin(p.x), 1.0)
    with pytest.raises(ValueError, match="`order`"):
        pinn.LPINN(
            pde.Burgers(0.1), pde.Box({"x": (0.0, TAU), "t": (0.0, 1.0)}),
            [pde.Initial("u", lambda p: jnp.sin(p.x)), AROUND], silent, silent, order=3,
        )  # fmt: skip
    smooth = exact_characteristics(pde.Burgers(None), lambda p: jnp.sin(p.x), 0.9, entropy=False)
    with pytest.raises(ValueError, match="entropy=True"):
        smooth.shock(0.5, 2.0, 4.0)


def test_second_order_start():
    """X_tt and U_t at the start are those of the equation, whatever the networks are."""
    net = lambda seed: nn.MLP(3, 1, width=6, depth=1, key=jax.random.key(seed))
    value = lambda x: 1.5 + jnp.sin(x)
    model = pinn.LPINN(
        pde.Burgers(0.3), pde.Box({"x": (0.0, TAU), "t": (0.0, 1.0)}),
        [pde.Initial("u", lambda p: value(p.x)), AROUND], net(0), net(1), order=2,
    )  # fmt: skip
    label, rate = jnp.array([1.1]), lambda f: jax.jacfwd(f)
    x, u = (lambda t, i=i: model.flow(label, t)[i][0] for i in (0, 1))
    zero = jnp.array(0.0)
    change = 0.3 * -jnp.sin(1.1)
    np.testing.assert_allclose(rate(u)(zero), change, rtol=1e-12)
    np.testing.assert_allclose(rate(x)(zero), value(1.1), rtol=1e-12)
    np.testing.assert_allclose(rate(rate(x))(zero), change, rtol=1e-12)
    rows = jax.jit(lambda p: model.residual(p))(jnp.array([1.1, 0.0]))
    np.testing.assert_allclose(rows, 0, atol=1e-12)


def test_tables_are_of_sixth_order():
    wave = lambda p: jnp.stack([jnp.sin(2 * p[0]) * jnp.cos(p[1]) + p[2]])
    names = ("x", "y", "t")
    places = jnp.stack([jnp.linspace(0.5, 1.5, 50), jnp.linspace(2.3, 1.1, 50)], axis=1)
    exact = jax.vmap(lambda p: wave(jnp.append(p, 0.3))[0])(places)
    gaps = []
    for nodes in (9, 17):
        table = tabulate(wave, ("u",), names, 0.3, ((0.0, 2.0), (1.0, 3.0)), nodes)["u"]
        at = lambda p, table=table: table(pde.Point({"x": p[0], "y": p[1]}))
        gaps.append(float(jnp.max(jnp.abs(jax.vmap(at)(places) - exact))))
    assert gaps[1] < gaps[0] / 30 and gaps[1] < 1e-8
    x, y = places[0]
    curvature = jax.hessian(at)(places[0])
    np.testing.assert_allclose(curvature[0, 1], -2 * jnp.cos(2 * x) * jnp.sin(y), atol=1e-5)


def test_relabelling():
    """Burgers to t = 0.9, where J would fall to 0.15: windows keep it in bounds, and go on where they end."""

    def make(domain, conditions, key):
        one, two = jax.random.split(key)
        net = lambda key: nn.MLP(3, 1, width=8, depth=1, key=key)
        return pinn.LPINN(pde.Burgers(0.05), domain, conditions, net(one), net(two))

    domain = pde.Box({"x": (0.0, TAU), "t": (0.0, 0.9)})
    conditions = [pde.Initial("u", lambda p: 3 + jnp.sin(p.x)), AROUND]
    found = pinn.relabel(
        make, domain, conditions, [pinn.Stage(GaussNewton(), 40)],
        key=jax.random.key(0), points=200, nodes=257, progress=False,
    )  # fmt: skip
    edges = found.model.edges
    assert edges[0] == 0 and edges[-1] == 0.9 and len(edges) > 2
    for model, end in zip(found.model.models, edges[1:], strict=True):
        j = jax.vmap(lambda x, m=model, t=end: m.jacobian(x[None], jnp.array(t)))(jnp.linspace(0, TAU, 100))
        assert float(jnp.min(j)) > 0.29 and float(jnp.max(j)) < 3.01
    x = np.linspace(0.1, TAU, 64)
    for t in (0.5, 0.9):
        points = np.stack([x, np.full_like(x, t)], axis=1)
        exact = reference.moving_burgers(0.05, 3.0)(points)[:, 0]
        u = jax.jit(jax.vmap(found.model))(jnp.asarray(points))[:, 0]
        assert float(jnp.max(jnp.abs(u - exact))) < 5e-3
    with pytest.raises(ValueError, match="`jacobian`"):
        pinn.relabel(make, domain, conditions, key=jax.random.key(0), jacobian=(1.5, 3.0))
    with pytest.raises(ValueError, match="enters nowhere"):
        pinn.relabel(
            lambda d, c, k: pinn.LPINN(pde.Burgers(0.05), d, c, lambda z: z[:1], lambda z: z[:1]),
            domain, conditions[:1], key=jax.random.key(0),
        )  # fmt: skip


def test_comoving_features():
    """A function of x − c t is one of the turned pair alone."""
    c = 30.0
    frame = nn.Comoving(c / 2)
    x, t = 1.3, 0.4
    features = jnp.array([jnp.cos(x), jnp.sin(x), 2 * t - 1])
    turned = frame(features)
    angle = x - c * (t - 0.5)
    np.testing.assert_allclose(turned[:2], [np.cos(angle), np.sin(angle)], rtol=1e-12)
    assert turned[2] == features[2] and eqx.tree_equal(frame.rate, jnp.asarray(15.0))
    with pytest.raises(ValueError, match="`pair` and `time`"):
        nn.Comoving(1.0, pair=0, time=1)
    with pytest.raises(ValueError, match="2 features"):
        frame(features[:2])
