"""Quadratic programs, against the enumeration of their active sets and SciPy."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from jax.sharding import PartitionSpec

import jaxsci as jsci
from jaxsci.layers import QPLayer

NAMES = ("P", "q", "A", "b", "G", "h")
OK = jsci.RESULTS.successful


def feasible(seed, n, m, k):
    """A random strictly convex program with a point inside."""
    r = np.random.default_rng(seed)
    root, x = r.normal(size=(n, n)), r.normal(size=n)
    a, g = r.normal(size=(m, n)), r.normal(size=(k, n))
    return root.T @ root + 0.1 * np.eye(n), r.normal(size=n), a, a @ x, g, g @ x + r.uniform(0.05, 1, k)


def enumerated(p, q, a, b, g, h):
    """(x, ν, λ) by trying every set of active constraints: for strictly convex programs one fits."""
    n, m, k = q.size, b.size, h.size
    p = 0.5 * (p + p.T)
    for active in itertools.chain.from_iterable(itertools.combinations(range(k), i) for i in range(k + 1)):
        rows = np.concatenate([a, g[list(active)]])
        size = len(rows)
        if size > n:
            continue
        matrix = np.block([[p, rows.T], [rows, np.zeros((size, size))]])
        found = np.linalg.solve(matrix, np.concatenate([-q, b, h[list(active)]]))
        x, lam = found[:n], np.zeros(k)
        lam[list(active)] = found[n + m :]
        if np.all(lam >= 0) and np.all(g @ x <= h + 1e-10):
            return x, found[n : n + m], lam
    raise AssertionError("no active set fits")


def solve(layer, *program):
    return layer.solve(**dict(zip(NAMES, program, strict=True)))


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((4, 1, 5), jnp.float32), ((3, 2, 0), jnp.float64), ((1, 0, 1), jnp.float64)],
    ids=str,
)
def test_solution_is_the_enumerated_one(shape, dtype):
    programs = [feasible(seed, *shape) for seed in range(6)]
    batch = [jnp.stack([jnp.asarray(x) for x in parts]) for parts in zip(*programs, strict=True)]
    many = jax.jit(jax.vmap(lambda *program: solve(QPLayer(throw=False), *program)))
    found = many(*(x.astype(dtype) for x in batch))
    assert np.all(found.result == OK)
    tolerance = 1e-10 if dtype == jnp.float64 else 2e-5
    for i, program in enumerate(programs):
        for got, wanted in zip(found.value, enumerated(*program), strict=True):
            assert got.dtype == dtype
            np.testing.assert_allclose(got[i], wanted, rtol=tolerance, atol=tolerance)


def test_linear_program_is_scipys():
    """P = 0, with rows of size 100 and a minimum at a vertex."""
    r = np.random.default_rng(0)
    g, q = np.concatenate([np.eye(4), -np.eye(4), 100 * r.normal(size=(3, 4))]), r.normal(size=4)
    h = np.concatenate([np.ones(8), 100 * r.uniform(0.2, 1, size=3)])
    layer = QPLayer(G=jnp.asarray(g), h=jnp.asarray(h))
    wanted = scipy.optimize.linprog(q, g, h, bounds=(None, None))
    np.testing.assert_allclose(jax.jit(lambda q: layer(q=q))(jnp.asarray(q)), wanted.x, atol=1e-9)


def test_derivatives_in_all_six():
    """Forward, reverse and second, against differences of the enumerated solution."""
    program = feasible(3, 4, 1, 5)
    _, _, lam = enumerated(*program)
    assert 0 < np.sum(lam > 0) < 5
    r = np.random.default_rng(1)
    direction = [r.normal(size=x.shape) for x in program]
    weights = r.normal(size=4)

    def moved(t):
        return [x + t * d for x, d in zip(program, direction, strict=True)]

    def scalar(program):
        x = QPLayer(throw=False)(**dict(zip(NAMES, program, strict=True)))
        return jnp.sum(jnp.asarray(weights) * x + x**3)

    @jax.jit
    def derivatives(program, direction):
        slope = lambda program: jax.jvp(scalar, (program,), (direction,))[1]
        return jax.grad(scalar)(program), jax.value_and_grad(slope)(program)

    oracle = lambda program: np.sum(weights * enumerated(*program)[0] + enumerated(*program)[0] ** 3)
    as_jax = lambda arrays: [jnp.asarray(x) for x in arrays]
    gradient, (slope, second) = derivatives(as_jax(program), as_jax(direction))
    step = 1e-5
    for i in range(6):  # each of the six on its own
        apart = lambda t, i=i: [
            x + t * d * (i == j) for j, (x, d) in enumerate(zip(program, direction, strict=True))
        ]
        difference = (oracle(apart(step)) - oracle(apart(-step))) / (2 * step)
        np.testing.assert_allclose(np.vdot(gradient[i], direction[i]), difference, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(slope, sum(map(np.vdot, gradient, direction)), rtol=1e-10)
    plus, minus = (derivatives(as_jax(moved(t)), as_jax(direction))[0] for t in (step, -step))
    for got, a, b in zip(second, plus, minus, strict=True):
        np.testing.assert_allclose(got, (a - b) / (2 * step), rtol=2e-6, atol=1e-5)


def test_lanes_fail_on_their_own():
    """Infeasible, unbounded and not convex lanes are NaN, with their derivatives, and say so."""
    p = jnp.stack([jnp.eye(2), jnp.eye(2), jnp.zeros((2, 2)), jnp.diag(jnp.array([1.0, -1.0]))])
    h = jnp.array([[0.5, 1.0], [-1.0, -1.0], [0.5, 1.0], [0.5, 1.0]])
    g, q = jnp.array([[1.0, 0.0], [-1.0, 0.0]]), jnp.array([-1.0, 1.0])
    layer = QPLayer(q=q, G=g, throw=False)
    many = jax.vmap(lambda p, h: layer.solve(P=p, h=h))

    def total(h):
        x = jax.vmap(lambda p, h: layer(P=p, h=h))(p, h)
        return jnp.where(jnp.isnan(x), 0, x).sum(), x

    found, ((_, x), slope) = jax.jit(lambda h: (many(p, h), jax.value_and_grad(total, has_aux=True)(h)))(h)
    wanted = (OK, jsci.RESULTS.infeasible, jsci.RESULTS.unbounded, jsci.RESULTS.not_convex)
    for i, result in enumerate(wanted):
        assert (found.result == result)[i]
    np.testing.assert_allclose(x[0], [0.5, -1.0], atol=1e-12)
    np.testing.assert_allclose(slope[0], [1.0, 0.0], atol=1e-12)
    # Their NaNs were masked out of the loss, and still their gradient is no number.
    assert np.all(np.isnan(x[1:])) and np.all(np.isnan(slope[1:]))


def test_active_without_force_has_no_derivative():
    given = lambda *_: (jnp.ones(1), jnp.zeros(0), jnp.zeros(1))
    layer = lambda side: QPLayer(jnp.eye(1), G=jnp.eye(1), solver=given, throw=False, one_sided=side)
    slope = lambda one_sided: jax.jacfwd(lambda t: layer(one_sided)(q=-t[None], h=jnp.ones(1))[0])
    undecided, inactive = jax.jit(lambda t: (slope(False)(t), slope(True)(t)))(jnp.asarray(1.0))
    assert np.isnan(undecided)
    np.testing.assert_allclose(inactive, 1.0, atol=1e-12)


def test_other_solvers_and_errors():
    program = dict(zip(NAMES, (jnp.asarray(x) for x in feasible(3, 4, 1, 5)), strict=True))
    wanted = enumerated(*(np.asarray(x) for x in program.values()))
    newton = QPLayer(solver=jsci.solvers.Newton(1e-12, 1e-12), throw=False)
    given = QPLayer(solver=lambda *_: tuple(jnp.asarray(x) for x in wanted))
    wrong = QPLayer(solver=lambda *_: tuple(jnp.asarray(x) + 1e-3 for x in wanted), throw=False)

    def all_three(q):
        return jnp.stack([layer(**program | {"q": q}) for layer in (newton, given, wrong)])

    along = lambda q: jax.jvp(all_three, (q,), (jnp.arange(4.0),))
    values, slopes = jax.jit(along)(program["q"])
    np.testing.assert_allclose(values[:2], np.stack([wanted[0]] * 2), atol=1e-10)
    np.testing.assert_allclose(slopes[0], slopes[1], atol=1e-9)
    assert np.all(np.isnan(values[2])) and np.all(np.isnan(slopes[2]))
    with pytest.raises(RuntimeError, match="contradict"):
        jax.jit(lambda b: QPLayer(jnp.eye(1), A=jnp.ones((2, 1)))(b=b))(jnp.arange(2.0)).block_until_ready()


def test_inside_shard_map(devices):
    programs = [feasible(seed, 3, 1, 3) for seed in range(4)]
    batch = [jnp.stack([jnp.asarray(x) for x in parts]) for parts in zip(*programs, strict=True)]
    value = lambda *program: QPLayer()(**dict(zip(NAMES, program, strict=True)))
    spread = PartitionSpec("devices")
    placed = jax.shard_map(jax.vmap(value), mesh=devices(4), in_specs=spread, out_specs=spread)
    found = jax.jit(placed)(*batch)
    for i, program in enumerate(programs):
        np.testing.assert_allclose(found[i], enumerated(*program)[0], atol=1e-10)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "`P` and `q` are both None"),
        ({"q": jnp.ones(2), "A": jnp.ones((1, 2))}, "`A` and `b`"),
        ({"q": jnp.ones(2), "P": jnp.ones((3, 3))}, "`P` has shape (3, 3); expected (2, 2)"),
        ({"P": jnp.eye(2), "G": jnp.ones((1, 3)), "h": jnp.ones(1)}, "`G` has shape"),
    ],
)
def test_mistakes_are_named(given, message):
    with pytest.raises(ValueError) as raised:
        QPLayer()(**given)
    assert message in str(raised.value)
    with pytest.raises(TypeError, match="`Q` is no part"):
        QPLayer()(Q=jnp.eye(2))
    with pytest.raises(ValueError, match="`rtol`"):
        jsci.solvers.InteriorPoint(rtol=-1.0)
    with pytest.raises(ValueError, match="no `quadratic_program`"):
        jsci.solve(jsci.Root(lambda y, _: y), jsci.solvers.InteriorPoint(), jnp.ones(2))
