"""Taylor mode and Laplacians: against closed forms, Hessians and nested reverse mode."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsci import nn, pde

C2, C3 = ("x", "y"), ("x", "y", "t")


def find(f, names, point, coordinates, fields=("u",)):
    wanted = [pde.parse(name, fields, coordinates) for name in names]
    run = jax.jit(lambda p: pde.differentiate(f, wanted, p, fields=fields, coordinates=coordinates))
    return run(jnp.asarray(point))


def test_closed_forms_to_sixth_order():
    # All derivatives of exp(ax) sin(by) are products of powers.
    a, b, (x, y) = 1.3, 0.7, (0.4, -0.6)
    f = lambda p: jnp.exp(a * p[0]) * jnp.sin(b * p[1])
    names = ["u", "u_x", "u_yy", "u_xxx", "u_xxyy", "u_yyyyyy", "u_xxxxxy", "u_lap", "u_laplap", "u_xlap"]
    d = find(f, names, (x, y), C2)
    s, c = np.exp(a * x) * np.sin(b * y), np.exp(a * x) * np.cos(b * y)
    wanted = [
        s, a * s, -(b**2) * s, a**3 * s, -(a**2) * b**2 * s, -(b**6) * s, a**5 * b * c,
        (a**2 - b**2) * s, (a**2 - b**2) ** 2 * s, a * (a**2 - b**2) * s,
    ]  # fmt: skip
    assert set(d) == set(names)
    np.testing.assert_allclose([d[name] for name in names], wanted, rtol=1e-12)


def test_the_laplacian_leaves_time_out():
    f = lambda p: p[0] ** 2 * p[2] ** 3 + p[1] ** 4 + jnp.cos(p[2])
    d = find(f, ["u_lap", "u_ttlap", "u_tt"], (0.5, 2.0, 3.0), C3)
    np.testing.assert_allclose(d["u_lap"], 2 * 27 + 12 * 4, rtol=1e-13)
    np.testing.assert_allclose(d["u_ttlap"], 2 * 6 * 3, rtol=1e-13)
    np.testing.assert_allclose(d["u_tt"], 0.25 * 18 - np.cos(3.0), rtol=1e-13)


def test_what_vanishes_identically_is_zero():
    d = find(lambda p: 3 * p[0] - p[1], ["u_x", "u_xy", "u_lap", "u_laplap"], (0.5, 2.0), C2)
    assert {k: float(v) for k, v in d.items()} == {"u_x": 3.0, "u_xy": 0.0, "u_lap": 0.0, "u_laplap": 0.0}
    d = find(lambda p: jnp.ones(1), ["u", "u_x"], (0.5, 2.0), C2)
    assert {k: float(v[0]) if v.ndim else float(v) for k, v in d.items()} == {"u": 1.0, "u_x": 0.0}


# One function for every kind of rule: products, quotients, activations with and without a rule of their own,
# integers on the way, conditions, custom derivatives, loops, reductions, calls.
def _scan(p):
    step = lambda carry, w: (jnp.tanh(carry * w + p[1]), carry)
    end, passed = jax.lax.scan(step, p[0], jnp.asarray([0.3, 0.9, -0.4]))
    return end + jnp.sum(passed)


FUNCTIONS = {
    "tanh": lambda p: jnp.tanh(p[0] * p[1]) * jnp.tanh(p[0] + 2 * p[1]),
    "sin, cos": lambda p: jnp.sin(p[0] + p[1] ** 2) * jnp.cos(p[0] * p[1]),
    "exp, log": lambda p: jnp.exp(-p[0]) * jnp.log(2 + p[1] * p[0]),
    "quotient": lambda p: p[0] * p[1] / (1 + p[0] ** 2 + p[1] ** 4) + 3 / (2 + p[1]),
    "powers": lambda p: jnp.sqrt(1 + p[0] ** 2) * (2 + p[1]) ** 2.5,
    "activations": lambda p: jax.nn.gelu(p[0]) * jax.nn.softplus(p[1]) + jax.nn.silu(p[0] * p[1]),
    "erf, atan": lambda p: jax.scipy.special.erf(p[0]) * jnp.arctan(p[1] + p[0]),
    "condition": lambda p: jnp.where(p[0] > p[1], p[0] ** 3 * p[1], jnp.sinh(p[0] * p[1])),
    "index": lambda p: jnp.sort(jnp.stack([p[1] ** 3, p[0] ** 2 * p[1]]))[jnp.argmax(p)] + jnp.round(p[0]),
    "norms": lambda p: jnp.linalg.norm(jnp.append(p**2, p[0] * p[1])) * jnp.prod(1 + p),
    "bilinear": lambda p: (jnp.outer(jnp.sin(p), p) @ jnp.cos(p)) @ p,
    "solve": lambda p: jnp.linalg.solve(jnp.diag(2 + p) + jnp.outer(p, p), jnp.sin(p))[0],
    "loop": _scan,
    "checkpoint": jax.checkpoint(lambda p: jnp.tanh(p[0] * p[1]) * p[0]),
    "vmap": lambda p: jnp.sum(jax.vmap(lambda a: jnp.tanh(a * p[0]) * p[1] ** 2)(jnp.asarray([0.5, 2.0]))),
}


NAMES = {"u": (), "u_x": (0,), "u_xy": (0, 1), "u_yy": (1, 1), "u_xxy": (0, 0, 1)}


def _forward(f, i):
    return lambda p: jax.jvp(f, (p,), (jnp.eye(2)[i],))[1]


def _both_ways(f, p):
    wanted = [pde.parse(name, ("u",), C2) for name in [*NAMES, "u_lap"]]
    ours = pde.differentiate(f, wanted, p, fields=("u",), coordinates=C2)
    nested = {name: functools.reduce(_forward, along, f)(p) for name, along in NAMES.items()}
    nested["u_lap"] = sum(_forward(_forward(f, i), i)(p) for i in range(2))
    return ours, nested


@functools.cache
def _all_functions():
    p = jnp.asarray([0.7, 0.4])
    return jax.jit(lambda p: {name: _both_ways(f, p) for name, f in FUNCTIONS.items()})(p)


@pytest.mark.parametrize("name", list(FUNCTIONS))
def test_every_kind_of_operation(name):
    found, wanted = _all_functions()[name]
    for key, value in wanted.items():
        np.testing.assert_allclose(found[key], value, rtol=1e-10, atol=1e-12)


def test_ten_dimensions(key):
    coordinates = tuple(f"x{i}" for i in range(10))

    class Poisson(pde.Equation):
        coordinates = tuple(f"x{i}" for i in range(10))
        fields = ("u",)

        def residual(self, d, point):
            return d.u_lap + d.u_x3 + d.u

    network = nn.MLP(10, 1, width=8, depth=2, key=key)
    p = jnp.asarray(np.cos(np.arange(10.0)))
    d = eqx.filter_jit(lambda network, p: dict(pde.derivatives(network, Poisson(), p)))(network, p)
    assert set(d) == {"u", "u_x3", "u_lap"}
    u = lambda p: network(p)[0]
    hessian = jax.jit(jax.hessian(u))(p)
    np.testing.assert_allclose(d["u_lap"], jnp.trace(hessian), rtol=1e-11)
    assert pde.parse("u_lap", ("u",), coordinates).order("x3") == 2
    # Products with the first hidden layer's matrix: value, ten slopes, and one for the Laplacian.
    jaxpr = str(jax.make_jaxpr(lambda p: dict(pde.derivatives(network, Poisson(), p)))(p))
    assert jaxpr.count("dot_general") <= 3 * (10 + 2)


def test_the_jacobian_in_parameters(key):
    """vmap of a gradient in the weights of second and third derivatives, against differences."""

    class KdV(pde.Equation):
        coordinates, fields = ("x", "t"), ("u",)

        def residual(self, d, point):
            return d.u_t + d.u * d.u_x + 0.5 * d.u_xxx + 0.1 * d.u_lap

    network = nn.MLP(2, 1, width=6, depth=2, key=key)
    dynamic, static = eqx.partition(network, eqx.is_inexact_array)
    points = jnp.asarray([[0.1, 0.2], [-0.5, 0.9], [0.7, 0.4]])

    def residual(dynamic, p):
        d = pde.derivatives(eqx.combine(dynamic, static), KdV(), p)
        return KdV().residual(d, pde.Point({"x": p[0], "t": p[1]}))

    many = jax.jit(jax.vmap(residual, (None, 0)))
    jacobian = jax.jit(jax.vmap(jax.grad(residual), (None, 0)))(dynamic, points)
    direction = jax.tree.map(lambda a: np.cos(np.arange(a.size)).reshape(a.shape), dynamic)
    moved = lambda h: jax.tree.map(lambda a, b: np.asarray(a) + h * b, dynamic, direction)
    difference = (many(moved(1e-5), points) - many(moved(-1e-5), points)) / 2e-5
    product = sum(
        np.sum(np.asarray(j) * d, axis=tuple(range(1, j.ndim)))
        for j, d in zip(jax.tree.leaves(jacobian), jax.tree.leaves(direction), strict=True)
    )
    np.testing.assert_allclose(product, difference, rtol=1e-6, atol=1e-8)


def test_inside_shard_map(devices):
    equation = pde.Burgers(0.1)
    weight = jnp.asarray([[0.3, -0.8]])
    network = lambda p: jax.nn.softplus(weight @ p) * jnp.tanh(p[:1]) / (1 + p[1] ** 2)
    run = lambda x: jax.vmap(lambda p: dict(pde.derivatives(network, equation, p)))(x)
    spec = jax.sharding.PartitionSpec("devices")
    x = jnp.asarray(np.cos(np.arange(16.0)).reshape(8, 2))
    shared = jax.jit(jax.shard_map(run, mesh=devices(4), in_specs=spec, out_specs=spec))(x)
    for name, value in jax.jit(run)(x).items():
        np.testing.assert_allclose(shared[name], value, rtol=1e-12, atol=1e-13)


def test_names_of_laplacians():
    parse = lambda name, coordinates=C3: pde.parse(name, ("u",), coordinates)
    assert parse("u_lap").along == ("lap",) and parse("u_lap").name == "u_lap"
    assert parse("u_lapxt") == parse("u_txlap") and parse("u_xtlap").along == ("x", "t", "lap")
    assert [parse("u_lap").order(c) for c in C3] == [2, 2, 0]
    # Coordinates come first.
    assert parse("u_lap", ("l", "a", "p")).along == ("l", "a", "p")
    with pytest.raises(ValueError, match="no derivative 'u_lap'"):
        parse("u_lap", ("t",))

    class Reserved(pde.Equation):
        coordinates, fields = ("lap",), ("u",)

        def residual(self, d, point):
            return d.u

    with pytest.raises(ValueError, match="reserved name 'lap'"):
        pde.required(Reserved())
    terms = [term.name for term in pde.written_out(parse("u_laplap"), C3)]
    assert sorted(terms) == ["u_xxxx", "u_xxyy", "u_xxyy", "u_yyyy"]


def test_on_a_grid_it_is_the_sum_of_its_parts():
    class Whole(pde.Equation):
        coordinates, fields = C3, ("u",)

        def residual(self, d, point):
            return d.u_t - d.u_lap

    class Parts(pde.Equation):
        coordinates, fields = C3, ("u",)

        def residual(self, d, point):
            return d.u_t - d.u_xx - d.u_yy

    grid = pde.Grid(
        {"t": pde.Levels((0.0, 0.1, 0.3)), "x": pde.Cells((0, 0.2, 0.5, 1)), "y": pde.Cells((0, 1, 2, 3))}
    )
    conditions = [pde.Dirichlet("u", face("x"), 1.0) for face in (pde.low, pde.high)]
    conditions.append(pde.Periodic("u", "y"))
    values = {"u": jnp.asarray(np.cos(np.arange(27.0)).reshape(3, 3, 3))}

    @jax.jit
    def both(values):
        fields = [grid.fields(values, pde.required(e), conditions) for e in (Whole(), Parts())]
        return [pde.pointwise(e, d, grid.point())[0] for e, d in zip((Whole(), Parts()), fields, strict=True)]

    whole, parts = both(values)
    np.testing.assert_allclose(whole, parts, rtol=1e-12)
    with pytest.raises(ValueError, match="needs a condition"):
        grid.fields(values, pde.required(Whole()), conditions[:1])


def test_integers_are_refused():
    wanted = [pde.parse("u_x", ("u",), C2)]
    with pytest.raises(TypeError, match="`point` has dtype int"):
        pde.differentiate(jnp.sum, wanted, jnp.ones(2, int), fields=("u",), coordinates=C2)
