"""Self-scaled quasi-Newton methods on textbook problems and a small network, against BFGS and SciPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optimistix as optx
import pytest
import scipy.optimize
from jax.flatten_util import ravel_pytree
from jax.sharding import PartitionSpec

import jaxsci as jsci
from jaxsci.solvers import BFGS, SelfScaledBFGS, SelfScaledBroyden, StrongWolfe
from jaxsci.solvers._wolfe import Point

SOLVERS = [SelfScaledBFGS, SelfScaledBroyden]
NONE = frozenset()


def rosenbrock(y, args):
    return jnp.sum(100 * (y[1:] - y[:-1] ** 2) ** 2 + (1 - y[:-1]) ** 2)


@functools.partial(jax.jit, static_argnums=(0, 1, 4))
def drive(fn, solver, y0, args, max_steps):
    """Steps until the solver says that it is done: count, value, state, whether it converged."""
    function = lambda y, args: (fn(y, args), None)

    def step(carry):
        k, y, state = carry
        y, state, _ = solver.step(function, y, args, {}, state, NONE)
        return k + 1, y, state

    going = lambda carry: ~solver.status(carry[2])[0] & (carry[0] < max_steps)
    first = (0, y0, solver.init(function, y0, args, {}, None, None, NONE))
    k, y, state = jax.lax.while_loop(going, step, first)
    return k, y, state, solver.status(state)[1] == jsci.RESULTS.successful


@pytest.mark.parametrize("make", SOLVERS)
@pytest.mark.parametrize("n", [2, 20])
def test_rosenbrock_to_rounding(make, n):
    y0 = jnp.asarray([-1.2, 1.0]) if n == 2 else jnp.zeros(n)
    k, y, state, _ = drive(rosenbrock, make(rtol=1e-30), y0, None, 1000)
    np.testing.assert_allclose(y, 1.0, rtol=0, atol=1e-12)
    assert float(state.value) < 1e-26
    # The search mostly takes its first trial.
    assert int(k) < 60 * n / 2 and int(state.evaluations) < 1.5 * int(k) + 30


def test_in_float32():
    y0 = jnp.asarray([-1.2, 1.0], jnp.float32)
    _, y, state, converged = drive(rosenbrock, SelfScaledBroyden(rtol=1e-5), y0, None, 200)
    assert converged and y.dtype == jnp.float32 and state.inverse.dtype == jnp.float32
    np.testing.assert_allclose(y, 1.0, atol=1e-4)


@pytest.mark.parametrize("make", SOLVERS)
@pytest.mark.parametrize("condition", [1e4, 1e6])
def test_fewer_steps_than_bfgs_where_the_hessian_is_far_below_its_guess(make, condition):
    """Eigenvalues from 1/condition to 1, guessed as 1: BFGS is slow to make its eigenvalues smaller."""
    n, rng = 40, np.random.default_rng(0)
    basis, _ = np.linalg.qr(rng.normal(size=(n, n)))
    matrix = (basis * np.logspace(-np.log10(condition), 0, n)) @ basis.T
    y0 = jnp.asarray(rng.normal(size=n))
    quadratic = lambda y, a: 0.5 * y @ (a @ y)
    ours, _, state, converged = drive(quadratic, make(rtol=1e-9), y0, jnp.asarray(matrix), 2000)
    theirs, _, _, _ = drive(quadratic, BFGS(rtol=1e-9), y0, jnp.asarray(matrix), 2000)
    assert converged and int(ours) < int(theirs)
    scipys = scipy.optimize.minimize(
        lambda y: (0.5 * y @ matrix @ y, matrix @ y), y0, jac=True, method="BFGS",
        options={"gtol": 1e-9 * np.linalg.norm(matrix @ y0), "norm": 2, "maxiter": 2000},
    )  # fmt: skip
    assert int(ours) < scipys.nit
    # H is the inverse Hessian where it was seen, and symmetric to the last bit.
    assert np.array_equal(state.inverse, state.inverse.T)
    assert np.all(np.linalg.eigvalsh(state.inverse) > 0)


def network(p, x):
    hidden = jnp.tanh(x * p["a"] + p["b"])
    return jnp.tanh(hidden @ p["w"] + p["c"]) @ p["v"]


def poisson(p, x):
    """Mean square of u″ + f for u = x(1 − x) network(x), whose solution has the frequencies π and 5π."""
    u = lambda x: x * (1 - x) * network(p, x)
    force = np.pi**2 * (jnp.sin(np.pi * x) + 7.5 * jnp.sin(5 * np.pi * x))
    return jnp.mean((jax.vmap(jax.grad(jax.grad(u)))(x) + force) ** 2)


def test_lower_loss_of_a_network_at_equal_evaluations():
    keys, m = jax.random.split(jax.random.key(0), 4), 8
    draw = lambda i, *shape: jax.random.normal(keys[i], shape)
    p0 = {
        "a": 3 * draw(0, m),
        "b": draw(1, m),
        "w": draw(2, m, m) / m**0.5,
        "c": jnp.zeros(m),
        "v": draw(3, m),
    }
    x, budget = jnp.linspace(0.0, 1.0, 30), 500
    flat, unravel = ravel_pytree(p0)
    compiled = jax.jit(jax.value_and_grad(lambda v: poisson(unravel(v), x)))
    seen = []

    def host(v):
        value, gradient = compiled(jnp.asarray(v))
        seen.append(float(value))
        return float(value), np.asarray(gradient)

    options = {"gtol": 1e-14, "maxiter": budget}
    scipy.optimize.minimize(host, np.asarray(flat), jac=True, method="BFGS", options=options)
    theirs = min(seen[:budget])
    for make in SOLVERS:
        # An evaluation more than steps at least, 1.25 a step at most.
        _, _, state, _ = drive(poisson, make(rtol=1e-14), p0, x, int(0.8 * budget))
        assert int(state.evaluations) <= budget
        assert float(state.value) < 0.5 * theirs


@pytest.mark.parametrize("make", SOLVERS)
def test_an_update_meets_the_secant_condition_and_keeps_its_direction(make):
    """H⁺y = s, and the direction kept beside H⁺ is −H⁺g⁺; also where the function changed in between."""
    solver, fn = make(rtol=1e-9), lambda y, a: (rosenbrock(a * y, None), None)
    y = jnp.linspace(-1.0, 1.0, 6)
    init = lambda y, a: solver.init(fn, y, a, {}, None, None, NONE)
    step = jax.jit(lambda y, a, s: solver.step(fn, y, a, {}, s, NONE)[:2])
    state = init(y, 1.0)
    for k in range(6):
        if k == 3:
            state = solver.refresh(fn, y, 1.1, {}, state)
            np.testing.assert_allclose(state.direction, -state.inverse @ state.gradient, rtol=1e-12)
        before, start = state.gradient, y
        y, state = step(y, 1.0 if k < 3 else 1.1, state)
        s, change = y - start, state.gradient - before
        np.testing.assert_allclose(state.inverse @ change, s, rtol=1e-8, atol=1e-10)
        np.testing.assert_allclose(state.direction, -state.inverse @ state.gradient, rtol=1e-7, atol=1e-9)
    assert solver.figures(state)["loss"] == state.value
    assert set(solver.figures(state)) == {"loss", "gradient", "evaluations"}


def test_the_search_meets_strong_wolfe():
    """On φ(a) = −a/(a² + 2) (Moré & Thuente's first) from first trials of all sizes."""
    phi = lambda a: -a / (a**2 + 2)
    slope = jax.grad(phi)
    point = lambda a: Point(a, phi(a), slope(a), slope(a)[None])
    zero = jnp.array(0.0)
    for curvature in (0.9, 0.1, 1e-3):
        search = lambda a, s=StrongWolfe(curvature=curvature): s(
            point, point(zero), a, zero, jnp.array(False)
        )
        found, count = jax.jit(jax.vmap(search))(jnp.array([1e-3, 1e-1, 1.0, 10.0, 1e3]))
        assert np.all(np.abs(found.slope) <= curvature * 0.5) and np.all(count <= 20)
        assert np.all(found.value <= 1e-4 * found.length * -0.5)


def test_a_step_out_of_the_domain_is_cut():
    """log's domain ends at 0, which a unit step leaves."""
    found = jsci.solve(
        jsci.Stationary(lambda y, _: jnp.sum(y - jnp.log(y))),
        SelfScaledBroyden(1e-10),
        jnp.array([30.0, 1e-3]),
    )
    np.testing.assert_allclose(found.value, 1.0, rtol=1e-6)


@pytest.mark.parametrize("make", SOLVERS)
def test_lanes_and_devices_stop_alone(make, devices):
    starts = jnp.asarray([[-1.2, 1.0], [1.0, 1.0], [0.9, 0.8], [2.0, -1.0]])

    def solve(y0):
        found = jsci.solve(jsci.Stationary(rosenbrock), make(rtol=1e-9, atol=1e-12), y0, throw=False)
        return found.value, found.stats.steps, found.result == jsci.RESULTS.successful

    values, steps, good = jax.jit(jax.vmap(solve))(starts)
    assert np.all(good) and int(steps[1]) == 0 and len(set(steps.tolist())) >= 3
    alone = jax.jit(solve)
    for i, start in enumerate(starts):
        value, count, _ = alone(start)
        # A product of a batch rounds otherwise than a single one, and forty steps amplify it.
        assert abs(int(count) - int(steps[i])) <= 3
        np.testing.assert_allclose(values[i], value, rtol=0, atol=1e-6)
    spread = PartitionSpec("devices")
    placed = jax.jit(
        jax.shard_map(jax.vmap(solve), mesh=devices(4), in_specs=spread, out_specs=spread, check_vma=True)
    )
    there, counts, _ = placed(starts)
    np.testing.assert_allclose(there, values, rtol=0, atol=1e-6)
    assert np.all(np.abs(counts - steps) <= 3)


def test_in_optimistix():
    found = optx.minimise(rosenbrock, SelfScaledBFGS(rtol=1e-9), jnp.asarray([-1.2, 1.0]))
    np.testing.assert_allclose(found.value, 1.0, rtol=1e-8)


def test_failures_are_reported():
    solve = lambda fn, y0: jsci.solve(jsci.Stationary(fn), SelfScaledBroyden(1e-12), y0, throw=False)
    assert solve(lambda y, _: jnp.sum(jnp.sqrt(y - 2)), jnp.ones(2)).result == jsci.RESULTS.nonfinite
    kink = solve(lambda y, _: jnp.sum(jnp.abs(y)) + jnp.sum(y**2), jnp.array([0.7, -0.3]))
    assert kink.result == jsci.RESULTS.stagnated
    assert np.max(np.abs(kink.value)) < 0.1


MISTAKES = [
    (SelfScaledBFGS, {"rtol": -1.0}, ValueError, "`rtol`"),
    (SelfScaledBroyden, {"rtol": 0.0, "atol": 0.0}, ValueError, "`rtol` and `atol`"),
    (SelfScaledBFGS, {"scale": 1}, TypeError, "`scale`"),
    (SelfScaledBroyden, {"line_search": 0.9}, TypeError, "`line_search`"),
    (StrongWolfe, {"decrease": 0.9, "curvature": 0.1}, ValueError, "`decrease`"),
    (StrongWolfe, {"curvature": 1.0}, ValueError, "`curvature`"),
    (StrongWolfe, {"max_evaluations": 1}, ValueError, "`max_evaluations`"),
]


@pytest.mark.parametrize(("make", "kwargs", "error", "match"), MISTAKES)
def test_mistakes_are_named(make, kwargs, error, match):
    with pytest.raises(error, match=match):
        make(**kwargs)
