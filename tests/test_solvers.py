"""Levenberg–Marquardt and BFGS on textbook problems, against SciPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optimistix as optx
import pytest
import scipy.optimize
from jax.sharding import PartitionSpec

import jaxsci as jsci

TIMES = np.linspace(0.0, 2.0, 12)
DATA = 1.7 * np.exp(-1.3 * TIMES) + 0.2 * np.cos(7 * TIMES)  # no curve of the model: residuals remain


def valley(y, weight):
    """Rosenbrock's function as least squares; its minimum is (1, 1)."""
    return jnp.stack([jnp.sqrt(weight) * (y[1] - y[0] ** 2), 1 - y[0]])


def curve(y, data):
    """y₀ exp(−y₁ t) − data."""
    return y[0] * jnp.exp(-y[1] * TIMES.astype(data.dtype)) - data


PROBLEMS = {
    "valley": (valley, np.array([-1.2, 1.0]), np.array(100.0)),
    "curve": (curve, np.array([1.0, 0.2]), DATA),
}
SOLVERS = {
    "lm": (jsci.LeastSquares, jsci.solvers.LevenbergMarquardt),
    "bfgs": (lambda fn: jsci.Stationary(half(fn)), jsci.solvers.BFGS),
}


def half(fn):
    return lambda y, args: 0.5 * jnp.sum(fn(y, args) ** 2)


def scipys(problem):
    fn, y0, args = PROBLEMS[problem]
    residual = lambda y: np.asarray(fn(jnp.asarray(y), jnp.asarray(args)))
    found = scipy.optimize.least_squares(residual, y0, xtol=1e-15, ftol=1e-15, gtol=1e-15)
    return found.x


@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("solver", list(SOLVERS))
@pytest.mark.parametrize("problem", list(PROBLEMS))
def test_minimum_is_scipys(problem, solver, dtype):
    fn, y0, args = PROBLEMS[problem]
    wrap, make = SOLVERS[solver]
    wide = dtype == jnp.float64
    solve = jax.jit(
        lambda y0, args: jsci.solve(wrap(fn), make(rtol=1e-10 if wide else 1e-5), y0, args, throw=False)
    )
    found = solve(jnp.asarray(y0, dtype), jnp.asarray(args, dtype))
    assert found.result == jsci.RESULTS.successful
    assert found.value.dtype == dtype and int(found.stats.steps) < 100
    tolerance = 1e-8 if wide else 2e-3
    np.testing.assert_allclose(found.value, scipys(problem), rtol=tolerance)


@pytest.mark.parametrize("solver", list(SOLVERS))
def test_lanes_stop_on_their_own(solver):
    """Under vmap each lane has the value and the count that it has alone."""
    wrap, make = SOLVERS[solver]
    starts = jnp.asarray([[-1.2, 1.0], [1.0, 1.0], [0.9, 0.8], [2.0, -1.0]])
    solve = lambda y0: jsci.solve(
        wrap(valley), make(rtol=1e-9, atol=1e-12), y0, jnp.asarray(100.0), throw=False
    )
    many = jax.jit(jax.vmap(solve))(starts)
    assert np.all(many.result == jsci.RESULTS.successful)
    counts = np.asarray(many.stats.steps)
    assert counts[1] == 0 and len(set(counts.tolist())) >= 3
    alone = jax.jit(solve)
    for i, start in enumerate(starts):
        one = alone(start)
        assert int(one.stats.steps) == counts[i]
        np.testing.assert_allclose(many.value[i], one.value, rtol=0, atol=1e-11)
    np.testing.assert_allclose(many.value, 1.0, atol=1e-8)


def test_in_optimistix():
    """The same classes under Optimistix's own entry points."""
    fn, y0, args = PROBLEMS["curve"]
    y0, args = jnp.asarray(y0), jnp.asarray(args)
    first = optx.least_squares(fn, jsci.solvers.LevenbergMarquardt(rtol=1e-8), y0, args)
    np.testing.assert_allclose(first.value, scipys("curve"), rtol=1e-7)
    second = optx.minimise(half(fn), jsci.solvers.BFGS(rtol=1e-8), y0, args)
    np.testing.assert_allclose(second.value, scipys("curve"), rtol=1e-7)


@pytest.mark.parametrize("solver", list(SOLVERS))
def test_inside_shard_map(solver, devices):
    """With the check of what varies over the mesh, and each device's own count."""
    wrap, make = SOLVERS[solver]
    mesh = devices(4)
    starts = jnp.asarray([[-1.2, 1.0], [1.0, 1.0], [0.9, 0.8], [2.0, -1.0]])

    def solve(y0, weight):
        residual = wrap(valley)
        found = jsci.solve(residual, make(rtol=1e-9, atol=1e-12), y0, weight, throw=False)
        return found.value, found.stats.steps

    many = jax.vmap(solve, (0, None))
    spread, everywhere = PartitionSpec("devices"), PartitionSpec()
    placed = jax.jit(
        jax.shard_map(many, mesh=mesh, in_specs=(spread, everywhere), out_specs=spread, check_vma=True)
    )
    weight = jnp.asarray(100.0)
    value, steps = placed(starts, weight)
    wanted, counts = jax.jit(many)(starts, weight)
    np.testing.assert_allclose(value, wanted, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(steps, counts)


@pytest.mark.parametrize("solver", list(SOLVERS))
def test_derivative_of_the_minimum(solver):
    fn, y0, args = PROBLEMS["curve"]
    wrap, make = SOLVERS[solver]
    solve = jax.jit(
        lambda data: jsci.solve(wrap(fn), make(rtol=1e-12), jnp.asarray(y0), data, throw=False).value
    )
    data = jnp.asarray(args)
    direction = jnp.sin(jnp.arange(12.0))
    step = 1e-4
    difference = (solve(data + step * direction) - solve(data - step * direction)) / (2 * step)
    _, slope = jax.jvp(solve, (data,), (direction,))
    np.testing.assert_allclose(slope, difference, rtol=1e-6)


@pytest.mark.parametrize("solver", list(SOLVERS))
def test_unknowns_may_be_any_tree(solver):
    wrap, make = SOLVERS[solver]
    fn = lambda y, args: jnp.concatenate([y["a"] - 2.0, (y["b"] * y["a"][0] - 3.0).reshape(-1)])
    y0 = {"a": jnp.ones(2), "b": jnp.ones((1, 2))}
    found = jsci.solve(wrap(fn), make(rtol=1e-10), y0, throw=False)
    np.testing.assert_allclose(found.value["a"], 2.0, rtol=1e-8)
    np.testing.assert_allclose(found.value["b"], 1.5 * np.ones((1, 2)), rtol=1e-8)


@pytest.mark.parametrize("solver", list(SOLVERS))
def test_failures_are_reported(solver):
    wrap, make = SOLVERS[solver]
    run = lambda fn, y0, **kw: jsci.solve(wrap(fn), make(rtol=1e-9), y0, None, throw=False, **kw)
    few = run(lambda y, _: valley(y, 100.0), jnp.asarray([-1.2, 1.0]), max_steps=2)
    assert few.result == jsci.RESULTS.nonlinear_max_steps_reached
    bad = run(lambda y, _: jnp.sqrt(y - 2.0), jnp.ones(2))
    assert bad.result == jsci.RESULTS.nonfinite


@pytest.mark.parametrize("make", [make for _, make in SOLVERS.values()])
@pytest.mark.parametrize("kwargs", [{"rtol": -1.0}, {"rtol": 0.0, "atol": 0.0}, {"atol": float("nan")}])
def test_mistakes_are_named(make, kwargs):
    with pytest.raises(ValueError, match="`rtol`|`atol`"):
        make(**kwargs)
