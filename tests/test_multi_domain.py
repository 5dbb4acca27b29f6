"""Several networks for one solution: windows, boxes joined by conditions, and training as a pure function."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec as P

from jaxsci import nn, pde, pinn
from jaxsci.pinn import Interface
from jaxsci.pinn._interface import NormalFlux
from jaxsci.solvers import GaussNewton

KEY = jax.random.key(0)
NINE = len(Interface)


def mlp(inputs, outputs=1, width=4):
    return lambda key: nn.MLP(inputs, outputs, width=width, depth=1, key=key)


# --- windows --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("counts", "overlap"), [((3, 2), 1.3), ((4, 1), 2.5)])
def test_windows_are_a_partition_of_unity(counts, overlap):
    """They sum to one, so that the derivatives of the sum vanish, and each is zero away from its box."""
    network = pinn.Windowed(mlp(len(counts)), counts, overlap=overlap, key=KEY)
    points = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (60, len(counts))))

    one = lambda x: jnp.sum(network.windows(x))
    every = lambda x: (network.windows(x), network.local(x), one(x), jax.grad(one)(x), jax.hessian(one)(x))
    at = jax.jit(lambda points: jax.vmap(every)(points))
    windows, local, total, slope, curvature = at(points)
    np.testing.assert_allclose(total, 1, atol=1e-14)
    np.testing.assert_allclose(slope, 0, atol=1e-11)
    np.testing.assert_allclose(curvature, 0, atol=1e-9)
    cut = np.array(counts) > 1
    assert np.all(windows >= 0)
    assert np.all((np.abs(local[..., cut]) >= 1).any(-1) == (windows == 0))
    # Centers and half widths, from the definition: boxes of the width 2/n.
    for axis, n in enumerate(counts):
        if n > 1:
            centers = -1 + (2 * np.arange(n) + 1) / n
            expected = np.sort((float(points[0, axis]) - centers) / (overlap / n))
            np.testing.assert_allclose(np.unique(np.round(local[0, :, axis], 10)), expected, atol=1e-9)
        else:
            np.testing.assert_array_equal(local[0, :, axis], points[0, axis])


def test_windows_have_three_derivatives_and_no_more():
    """Where a window begins, one-sided third derivatives agree, and fourth ones do not."""
    network = pinn.Windowed(mlp(1), (2,), overlap=1.5, key=KEY)
    edge = 0.5 - 1.5 / 2  # of the window on the right

    def derivative(n):
        f = lambda x: network.windows(x[None])[1]
        for _ in range(n):
            f = jax.grad(f)
        return jax.jit(jax.vmap(f))

    sides = jnp.array([edge - 1e-7, edge + 1e-7])
    below, above = derivative(3)(sides)
    assert below == 0 and abs(above) < 1e-2
    below, above = derivative(4)(sides)
    assert below == 0 and abs(above) > 100


def test_windowed_networks_are_a_network():
    """u = Σ wₖ Nₖ by hand, in float32 as well; and conditions of a PINN hold."""
    network = pinn.Windowed(mlp(2), (3, 2), key=KEY)
    x = jnp.array([0.3, -0.4])
    parts = [jax.tree.map(lambda a, k=k: a[k], network.networks) for k in range(6)]
    by_hand = sum(w * n(z) for w, n, z in zip(network.windows(x), parts, network.local(x), strict=True))
    np.testing.assert_allclose(network(x), by_hand, rtol=1e-12)
    single = jax.tree.map(lambda a: a.astype(jnp.float32), network)(x.astype(jnp.float32))
    assert single.dtype == jnp.float32
    np.testing.assert_allclose(single, by_hand, rtol=1e-5)
    domain = pde.Box({"x": (0.0, 3.0), "t": (0.0, 1.0)})
    model = pinn.PINN(pde.Heat(0.1), domain, [pde.Initial("u", lambda p: jnp.cos(p.x))], network)
    np.testing.assert_allclose(model(jnp.array([2.1, 0.0])), jnp.cos(2.1)[None], atol=1e-14)


# --- boxes ----------------------------------------------------------------------------------------

BOX = pde.Box({"x": (0.0, 2.0), "t": (0.0, 1.0)})
EDGE = pde.Dirichlet("u", pde.low("x"), lambda p: -jnp.sin(p.t))
CONDITIONS = [pde.Initial("u", lambda p: jnp.sin(p.x)), EDGE]


def boxes(equation=None, cuts=None, key=KEY, **options):
    equation = pde.Convection(1.0) if equation is None else equation
    cuts = {"t": (0.5,)} if cuts is None else cuts
    return pinn.MultiDomainPINN(equation, BOX, CONDITIONS, mlp(2), cuts, key=key, **options)


def test_each_box_has_its_network_and_the_conditions():
    model = boxes(cuts={"x": (0.5, 1.25), "t": (0.5,)})
    assert model.counts == (3, 2) and len(model.hard) == 2 and model.soft == ()
    at = jax.jit(lambda p: (model.index(p), model(p)))
    pieces = lambda p: jnp.stack([model.piece(k, p) for k in range(6)])
    held = jax.jit(lambda p: (pieces(p.at[1].set(0.0)), pieces(p.at[0].set(0.0))))
    for point, place in (((0.1, 0.1), 0), ((0.1, 0.9), 1), ((0.5, 0.5), 3), ((1.9, 0.2), 4), ((2.0, 1.0), 5)):
        point = jnp.array(point)
        index, u = at(point)
        assert index == place
        # Box k of (x, t): its middle and half widths.
        (a, b), (c, d) = (
            [(0.0, 0.5), (0.5, 1.25), (1.25, 2.0)][place // 2],
            [(0.0, 0.5), (0.5, 1.0)][place % 2],
        )
        network = jax.tree.map(lambda w, k=place: w[k], model.network)
        local = (point - jnp.array([a + b, c + d]) / 2) / (jnp.array([b - a, d - c]) / 2)
        # Both conditions: a Boolean sum of lifts, and the factor x t of those that vanish where they hold.
        lift = jnp.sin(point[0]) - jnp.sin(point[1])
        factor = point[0] / 2 * point[1]
        np.testing.assert_allclose(u, lift + factor * network(local), rtol=1e-12)
        starts, edges = held(point)
        np.testing.assert_allclose(starts, jnp.full((6, 1), jnp.sin(point[0])), atol=1e-14)
        np.testing.assert_allclose(edges, jnp.full((6, 1), -jnp.sin(point[1])), atol=1e-14)
    # A model can be differentiated like any function of a point, too.
    p, of_box = jnp.array([0.7, 0.6]), lambda p: model.piece(3, p)
    by_hand = lambda f, p: (lambda d: d.u_t + d.u_x)(pde.derivatives(f, model.equation, p))
    both = jax.jit(lambda p: (model.residual(p)[0], by_hand(of_box, p), by_hand(model, p)))(p)
    np.testing.assert_allclose(both[1:], both[0], rtol=1e-12)


class Side(eqx.Module):
    """A known function in place of a network: exp(a z₁) sin(b z₂ + c)."""

    a: jax.Array
    b: jax.Array
    c: jax.Array

    def __init__(self, key):
        self.a, self.b, self.c = jax.random.uniform(key, (3,), minval=0.5, maxval=1.5)

    def __call__(self, z):
        return jnp.exp(self.a * z[0]) * jnp.sin(self.b * z[1] + self.c)


@pytest.mark.parametrize("axis", [0, 1], ids=["across x", "across t"])
def test_rows_of_the_nine_conditions(axis):
    """Against derivatives by hand of two known functions: Burgers' equation, of the second order."""
    nu, name = 0.3, "xt"[axis]
    model = pinn.MultiDomainPINN(pde.Burgers(nu), BOX, [], Side, {name: (0.8,)}, key=KEY)
    point = jnp.array([0.7, 0.3]).at[axis].set(0.8)
    edges = np.array([[0.0, 2.0], [0.0, 1.0]])
    low, high = edges.copy(), edges.copy()
    low[axis, 1] = high[axis, 0] = 0.8

    def jet(k, box):
        side = jax.tree.map(lambda w: float(w[k]), model.network)
        (m, l), (h, j) = box.mean(1), (box[:, 1] - box[:, 0]) / 2
        p, q = side.a / h, side.b / j  # the logarithmic slope in x, and the frequency in t
        e, s = np.exp(p * (point[0] - m)), q * (point[1] - l) + side.c
        u, u_t = e * np.sin(s), q * e * np.cos(s)
        values = {"": u, "x": p * u, "t": u_t, "xx": p**2 * u, "tt": -(q**2) * u, "xxx": p**3 * u}
        values |= {"xt": p * u_t, "xxt": p**2 * u_t}
        r = values["t"] + u * values["x"] - nu * values["xx"]
        r_x = values["xt"] + values["x"] ** 2 + u * values["xx"] - nu * values["xxx"]
        r_t = values["tt"] + u_t * values["x"] + u * values["xt"] - nu * values["xxt"]
        flux = u**2 / 2 - nu * values["x"] if axis == 0 else u_t
        return values, r, (r_x, r_t), flux

    (one, r1, g1, f1), (two, r2, g2, f2) = jet(0, low), jet(1, high)
    n, along = name, "tx"[axis]
    gap = lambda d: one[d] - two[d]
    expected = (
        [gap("")],
        [gap("") / 2, -gap("") / 2],
        [r1, r2],
        [r1 - r2],
        [f1 - f2],
        [gap(2 * n)],
        [*g1, *g2],
        [gap(along)],
        [gap(2 * along)],
    )
    weighed = model.with_selection(jnp.arange(9.0))
    term = weighed.terms()[-1]
    found, rows = jax.jit(lambda p: (model.interface(p, axis), term.rows(weighed, p)))(point)
    for condition, row, by_hand in zip(Interface, found, expected, strict=True):
        np.testing.assert_allclose(row, by_hand, rtol=1e-9, err_msg=condition.name)
    # The rows of the loss are these times the selection, at points of the interface.
    by_hand = np.concatenate([k * np.array(e) for k, e in enumerate(expected)])
    np.testing.assert_allclose(rows, by_hand, rtol=1e-9)
    np.testing.assert_array_equal(term.draw(weighed, 3, pde.Sobol(), KEY)[0][:, axis], 0.8)


def test_flux():
    """A system without a conserved form, a velocity that is no polynomial, and a flux of one's own."""
    d = pde.Derivatives({"u": 0.7, "u_x": 2.0, "u_t": 5.0}, ("u",), ("x", "t"))
    point = pde.Point({"x": 0.1, "t": 0.2})
    np.testing.assert_allclose(NormalFlux(pde.Burgers(0.1))(d, point, "x"), [0.7**2 / 2 - 0.2])
    assert NormalFlux(pde.Burgers(0.1))(d, point, "t") == (5.0,)
    assert NormalFlux(pde.Fisher(1.0, 0.1))(d, point, "x") == (2.0,)

    class Bent(pde.AbstractTransport):
        coordinates, fields = ("x", "t"), ("u",)

        def velocity(self, u, point):
            return (jnp.exp(u.u),)

    # ∫₀ᵘ exp = exp(u) − 1 is the flux of u_t + exp(u) u_x = 0.
    np.testing.assert_allclose(NormalFlux(Bent())(d, point, "x"), [np.exp(0.7) - 1], rtol=1e-10)
    model = pinn.MultiDomainPINN(
        pde.Fisher(1.0, 0.1), BOX, [], Side, {"x": (1.0,)}, flux=lambda d, p, n: p.t * d[f"u_{n}"], key=KEY
    )
    p, sides = jnp.array([1.0, 0.4]), jnp.arange(2)
    value_and_slope = lambda k: jax.jvp(lambda p: model.piece(k, p), (p,), (jnp.array([1.0, 0.0]),))
    rows, (u, u_x) = jax.jit(lambda p: (model.interface(p, 0), jax.vmap(value_and_slope)(sides)))(p)
    np.testing.assert_allclose(rows[Interface.VALUE], u[0] - u[1], rtol=1e-12)
    np.testing.assert_allclose(rows[Interface.FLUX], 0.4 * (u_x[0] - u_x[1]), rtol=1e-10)


# --- training -------------------------------------------------------------------------------------

TRACES = []
GRID = jnp.stack(jnp.meshgrid(jnp.linspace(0, 2, 9), jnp.linspace(0, 1, 9)), -1).reshape(-1, 2)


@jax.jit
@jax.vmap
def trained(speed, selection, key):
    """The network, its losses, error and jump, for an equation, a set of conditions, and a seed."""
    TRACES.append(None)
    start = pde.Dirichlet("u", pde.low("x"), lambda p: -jnp.sin(speed * p.t))
    model = pinn.MultiDomainPINN(
        pde.Convection(speed),
        BOX,
        [CONDITIONS[0], start],
        mlp(2),
        {"x": (0.5,)},
        selection=selection,
        key=key,
    )
    method = GaussNewton(acceleration=0.0)
    found, losses = pinn.minimize(model, method, 15, key=POINTS, points=40, boundary_points=10)
    u = jax.vmap(found)(GRID)[:, 0]
    exact = jnp.sin(GRID[:, 0] - speed * GRID[:, 1])
    jump = jax.vmap(lambda t: found.interface(jnp.stack([0.5, t]), 0)[Interface.VALUE])(GRID[::9, 1])
    return found.network, losses, jnp.linalg.norm(u - exact) / jnp.linalg.norm(exact), jnp.linalg.norm(jump)


POINTS = jax.random.key(3)
SETS = jnp.stack(
    [
        Interface.select(),
        Interface.select(Interface.VALUE),
        Interface.select(Interface.VALUE),
        Interface.select(Interface.VALUE, Interface.FLUX),
    ]
)
SPEEDS = jnp.array([1.0, 1.0, 0.5, 1.0])
SEEDS = jax.random.split(KEY, 2)[jnp.array([0, 0, 0, 1])]


def test_one_program_for_all_sets_equations_and_seeds():
    network, losses, error, jump = trained(SPEEDS, SETS, SEEDS)
    count = len(TRACES)
    assert losses.shape == (4, 15) and np.all(losses[:, -1] < 1e-2 * losses[:, 0])
    # Without a condition, two solutions do not meet.
    assert np.all(error < 0.02) and np.all(jump[1:] < 0.3 * jump[0])
    # Lanes differ by what they were given and by nothing else.
    again = trained(SPEEDS[jnp.array([1, 1, 1, 1])], SETS[jnp.array([1, 0, 1, 1])], SEEDS[jnp.zeros(4, int)])
    for x, y in zip(jax.tree.leaves(network), jax.tree.leaves(again[0]), strict=True):
        np.testing.assert_allclose(y[0], x[1], rtol=1e-6)
        np.testing.assert_allclose(y[1], x[0], rtol=1e-6)
    every = jnp.asarray(np.stack(np.meshgrid(*NINE * [[0.0, 1.0]], indexing="ij"), -1).reshape(-1, NINE))
    for sets in (every[40:44], every[-4:]):
        assert np.all(np.isfinite(trained(SPEEDS, sets, SEEDS)[2]))
    assert len(TRACES) == count


@eqx.filter_jit
def steps(model):
    """As `trained`, of one model."""
    method = GaussNewton(acceleration=0.0)
    return pinn.minimize(model, method, 4, key=POINTS, points=40, boundary_points=10)


def spread(model, devices):
    """The same model with its sub-domains over four devices."""
    over = NamedSharding(devices(4), P("devices"))
    network = jax.tree.map(lambda x: jax.device_put(x, over), model.network)
    return eqx.tree_at(lambda m: m.network, model, network)


def test_training_over_devices(devices):
    """Networks with their leading axis over devices: the same steps."""
    windowed = pinn.Windowed(mlp(2), (4, 1), key=KEY)
    model = pinn.PINN(pde.Convection(1.0), BOX, CONDITIONS, windowed)
    (one, losses), (other, spread_losses) = steps(model), steps(spread(model, devices))
    np.testing.assert_allclose(losses, spread_losses, rtol=1e-8)
    assert losses[-1] < losses[0]
    for x, y in zip(jax.tree.leaves(one.network), jax.tree.leaves(other.network), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-6, atol=1e-9)


def test_boxes_over_devices(devices):
    """Residuals, the rows of an interface, and their gradient stay on the devices of the boxes."""
    model = boxes(cuts={"x": (0.5, 1.0, 1.5)})

    @eqx.filter_jit
    @eqx.filter_value_and_grad
    def loss(network, model):
        model = eqx.tree_at(lambda m: m.network, model, network)
        jump = model.interface(jnp.array([1.0, 0.3]), 0, 1)[Interface.VALUE]
        return jnp.sum(jax.vmap(model.residual)(GRID) ** 2) + jnp.sum(jump**2)

    placed = spread(model, devices)
    value, gradient = loss(model.network, model)
    other, spread_gradient = loss(placed.network, placed)
    np.testing.assert_allclose(value, other, rtol=1e-12)
    leaves = [*map(jax.tree.leaves, (gradient, spread_gradient, placed.network))]
    for x, y, weight in zip(*leaves, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-10, atol=1e-12)
        assert y.sharding.is_equivalent_to(weight.sharding, y.ndim)


def test_minimize_is_fit():
    """The same points, the same steps."""
    model = pinn.PINN(pde.Convection(1.0), BOX, CONDITIONS[:1], mlp(2)(KEY), soft=CONDITIONS[1:])
    options, method = {"points": 40, "boundary_points": 10}, optax.adam(1e-2)
    solution = pinn.fit(model, [pinn.Stage(method, 6)], key=KEY, progress=False, **options)
    key = jax.random.fold_in(jax.random.fold_in(KEY, 0), 0)  # of the points of the first stage
    run = eqx.filter_jit(lambda m: pinn.minimize(m, method, 6, key=key, **options))
    np.testing.assert_allclose(run(model)[1], solution.history["loss"], rtol=1e-6)


def test_fit_of_boxes():
    """Each interface is a term by its name."""
    model = boxes(selection=Interface.select(Interface.VALUE))
    options = {"points": 40, "boundary_points": 10, "progress": False}
    solution = pinn.fit(model, [pinn.Stage(optax.adam(1e-2), 6)], key=KEY, **options)
    assert solution.history["loss"][-1] < solution.history["loss"][0]
    assert "Interface t 0[0]" in solution.evaluations
    assert isinstance(solution.model, pinn.MultiDomainPINN)


# --- mistakes -------------------------------------------------------------------------------------


def one_dimensional(cuts):
    domain = pde.Box({"x": (0.0, 2.0), "t": (0.0, 1.0)})
    around = [pde.Periodic("u", "x")]
    return pinn.MultiDomainPINN(pde.Heat(1.0), domain, around, mlp(3), cuts, key=KEY)


def disk():
    domain = pde.Product(pde.Disk(("x", "y"), (0.0, 0.0), 1.0), pde.Box({"t": (0.0, 1.0)}))
    return pinn.MultiDomainPINN(
        pde.Advection(lambda p: (1.0, 0.0)), domain, [], mlp(3), {"t": (0.5,)}, key=KEY
    )


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (lambda: pinn.Windowed(mlp(1), (), key=KEY), ValueError, r"`counts` is \(\); expected a number"),
        (lambda: pinn.Windowed(mlp(1), (0,), key=KEY), ValueError, r"`counts` is \(0,\)"),
        (lambda: pinn.Windowed(mlp(1), 3, key=KEY), ValueError, "`counts` is 3"),
        (lambda: pinn.Windowed(mlp(1), (3,), overlap=1.0, key=KEY), ValueError, "`overlap` is 1.0; expected"),
        (lambda: pinn.Windowed("mlp", (3,), key=KEY), TypeError, "`make` is 'mlp'; expected a function of a"),
        (
            lambda: pinn.Windowed(mlp(1), (3,), key=KEY)(jnp.ones(2)),
            ValueError,
            r"expected \(1,\), one number",
        ),
        (lambda: boxes("heat"), TypeError, "`equation` is 'heat'"),
        (disk, TypeError, "`domain` is a Product; sub-domains are cut from a pde.Box"),
        (lambda: boxes(cuts={}), TypeError, r"`cuts` is \{\}; expected a dictionary of coordinates"),
        (lambda: boxes(cuts=(0.5,)), TypeError, r"`cuts` is \(0.5,\)"),
        (lambda: boxes(cuts={"y": (0.5,)}), ValueError, r"`cuts` names 'y'; expected .*\('x', 't'\)"),
        (lambda: one_dimensional({"x": (1.0,)}), ValueError, r"neither periodic nor even: \('t',\)"),
        (lambda: boxes(cuts={"t": ()}), ValueError, "expected increasing numbers between 0.0 and 1.0"),
        (
            lambda: boxes(cuts={"t": (0.6, 0.5)}),
            ValueError,
            "expected increasing numbers between 0.0 and 1.0",
        ),
        (lambda: boxes(cuts={"t": (1.0,)}), ValueError, "expected increasing numbers"),
        (lambda: boxes(selection=jnp.ones(8)), ValueError, r"`selection` has shape \(8,\); expected \(9,\)"),
        (lambda: boxes().with_selection(jnp.ones((2, 9))), ValueError, "Batch with `jax.vmap`"),
        (lambda: boxes().with_equation(pde.Poisson(jnp.ones)), ValueError, "`equation` has the coordinates"),
        (lambda: boxes(flux=3), TypeError, "`flux` is 3; expected a function"),
        (lambda: boxes()(jnp.ones(3)), ValueError, r"`point` has shape \(3,\)"),
        (lambda: pinn.minimize(3, GaussNewton(), 1, key=KEY), TypeError, "`model` is 3; expected"),
        (lambda: pinn.minimize(boxes(), "adam", 1, key=KEY), TypeError, "`method` is 'adam'"),
        (lambda: pinn.minimize(boxes(), GaussNewton(), 0, key=KEY), ValueError, "`steps` of a Stage is 0"),
        (
            lambda: jax.jit(lambda k: pinn.minimize(boxes(), GaussNewton(), 1, key=k)[1])(KEY),
            TypeError,
            "`key` is traced",
        ),
    ],
)
def test_mistakes_are_named(make, kind, message):
    with pytest.raises(kind, match=message):
        make()
