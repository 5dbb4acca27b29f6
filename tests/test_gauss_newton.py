"""Gauss–Newton: the same minima as SciPy, the same steps in three spaces, quadratic convergence, refusals."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optimistix as optx
import pytest
import scipy.optimize

import jaxsci as jsci
from jaxsci.linear import CG
from jaxsci.solvers import GaussNewton

T = np.linspace(0, 2, 12)
DATA = 1.3 * np.exp(-0.7 * T) + 0.4 + 0.02 * np.cos(9 * T)


def decay(y, t):
    """Residuals of a curve a·exp(−b t) + c that does not fit the data exactly."""
    return y["a"] * jnp.exp(-y["b"] * t) + y["c"] - jnp.asarray(DATA)


START = {"a": jnp.array(1.0), "b": jnp.array(0.1), "c": jnp.array(0.0)}


def rosenbrock(y, args):
    return jnp.concatenate([10 * (y[1:] - y[:-1] ** 2), 1 - y[:-1]])


@pytest.fixture(scope="module")
def fitted():
    fn = lambda v: np.asarray(v[0] * np.exp(-v[1] * T) + v[2] - DATA)
    return scipy.optimize.least_squares(fn, [1.0, 0.1, 0.0], xtol=1e-15, ftol=1e-15, gtol=1e-15).x


@pytest.mark.parametrize("acceleration", [0.0, 1.5])
def test_minimum_of_scipy(fitted, acceleration):
    found = jsci.solve(
        jsci.LeastSquares(decay), GaussNewton(1e-10, acceleration=acceleration), START, jnp.asarray(T)
    )
    np.testing.assert_allclose([found.value[k] for k in "abc"], fitted, rtol=1e-8)
    assert found.result == jsci.RESULTS.successful


def test_derivative_of_the_minimum(fitted):
    def slope(shift):
        found = jsci.solve(jsci.LeastSquares(decay), GaussNewton(1e-10), START, (1 + shift) * jnp.asarray(T))
        return found.value["b"]

    h = 1e-4
    difference = (slope(h) - slope(-h)) / (2 * h)
    np.testing.assert_allclose(jax.grad(slope)(0.0), difference, rtol=1e-6)


def test_curved_valley_to_rounding():
    found = jsci.solve(jsci.LeastSquares(rosenbrock), GaussNewton(1e-12), jnp.full(6, -0.5), max_steps=200)
    np.testing.assert_allclose(found.value, 1, atol=1e-12)


def test_acceleration_saves_steps_in_a_curved_valley():
    def steps(acceleration):
        solver = GaussNewton(1e-10, acceleration=acceleration)
        return int(jsci.solve(jsci.LeastSquares(rosenbrock), solver, jnp.array([-1.2, 1.0])).stats.steps)

    assert steps(1.5) < steps(0.0)


def wide(y, args):
    """20 rows of 60 unknowns."""
    a = jnp.asarray(np.random.default_rng(0).normal(size=(20, 60)))
    return jnp.tanh(a @ y) - 0.3 * jnp.sin(jnp.arange(20.0))


def one_step(solver, fn, y):
    state = solver.init(lambda y, args: (fn(y, args), None), y, None, {}, None, None, frozenset())
    y, state, _ = solver.step(lambda y, args: (fn(y, args), None), y, None, {}, state, frozenset())
    return y, state


@pytest.mark.parametrize(
    ("fn", "n"), [(wide, 60), (rosenbrock, 5)], ids=["rows < unknowns", "rows > unknowns"]
)
def test_one_step_in_three_spaces(fn, n):
    """(JᵀJ + λ)δ = −Jᵀr by the definition, by the chosen space, and without a matrix."""
    y = 0.1 * jnp.cos(jnp.arange(float(n)))
    j, r = jax.jacfwd(fn)(y, None), fn(y, None)
    lam = 1.0 * jnp.max(jnp.sum(j**2, axis=0))
    delta = -jnp.linalg.solve(j.T @ j + lam * jnp.eye(n), j.T @ r)
    found, _ = one_step(GaussNewton(acceleration=0.0, damping=1.0, gain=1e-6), fn, y)
    np.testing.assert_allclose(found - y, delta, rtol=1e-9, atol=1e-12)
    free = GaussNewton(acceleration=0.0, damping=1.0, gain=1e-6, linear_solver=CG(rtol=1e-12))
    _, state = one_step(free, fn, y)
    direction = state.system.solver(lambda y, args: (fn(y, args), None), y, None, lam)(r)
    np.testing.assert_allclose(-direction, delta, rtol=1e-8, atol=1e-10)


def test_second_order_correction():
    """r(y + δ + δ₂) agrees with r + Jδ up to third order where J is regular."""
    fn = lambda y, args: jnp.stack([y[0] + y[1] ** 2, y[1] + 0.5 * y[0] * y[1]])
    y = jnp.array([0.3, -0.2])
    r = fn(y, None)
    errors = []
    for scale in (1e-1, 5e-2):
        shifted = lambda y, args, s=scale: fn(y, args) - r + s * jnp.array([1.0, 0.5])
        found, _ = one_step(GaussNewton(damping=1e-12, gain=1e-9), shifted, y)
        errors.append(float(jnp.linalg.norm(shifted(found, None))))
    assert errors[0] / errors[1] > 6  # third order: 8; without the correction 4


def test_sketch_of_many_rows():
    """The sketched Gram matrix is exact on average; the minimum is that of all rows."""
    a = np.random.default_rng(1).normal(size=(400, 5))
    b = a @ np.arange(1.0, 6.0) + 0.1 * np.random.default_rng(2).normal(size=400)
    fn = lambda y, args: jnp.asarray(a) @ y - jnp.asarray(b)
    found = jsci.solve(jsci.LeastSquares(fn), GaussNewton(1e-10, sketch=60), jnp.zeros(5), max_steps=100)
    np.testing.assert_allclose(found.value, np.linalg.lstsq(a, b, rcond=None)[0], rtol=1e-8)


def test_lanes_stop_alone():
    solve = lambda y0: jsci.solve(jsci.LeastSquares(rosenbrock), GaussNewton(1e-10), y0, throw=False)
    y0 = jnp.array([[-1.2, 1.0], [1.0, 1.0], [0.5, 2.0]])
    together = jax.jit(jax.vmap(solve))(y0)
    alone = [solve(y) for y in y0]
    np.testing.assert_allclose(together.value, 1, atol=1e-9)
    assert together.stats.steps.tolist() == [int(s.stats.steps) for s in alone]


def test_refresh_keeps_the_damping():
    solver = GaussNewton()
    fn = lambda y, args: (rosenbrock(y, None), None)
    y, state = one_step(solver, rosenbrock, jnp.array([-1.2, 1.0]))
    other = lambda y, args: (2 * rosenbrock(y, None), None)
    new = solver.refresh(other, y, None, {}, state)
    assert new.damping == state.damping
    np.testing.assert_allclose(new.value, 4 * 0.5 * jnp.sum(fn(y, None)[0] ** 2), rtol=1e-12)


def test_float32_and_optimistix():
    found = optx.least_squares(
        rosenbrock, GaussNewton(1e-6), jnp.array([-1.2, 1.0], jnp.float32), max_steps=100
    )
    assert found.value.dtype == jnp.float32
    np.testing.assert_allclose(found.value, 1, atol=1e-3)  # the valley is flat: 1e-7 of r


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: GaussNewton(damping=0.0), ValueError, "damping"),
        (lambda: GaussNewton(gain=1.0), ValueError, "gain"),
        (lambda: GaussNewton(acceleration=-1.0), ValueError, "acceleration"),
        (lambda: GaussNewton(sketch=0), ValueError, "sketch"),
        (lambda: GaussNewton(rtol=-1.0), ValueError, "rtol"),
        (lambda: GaussNewton(linear_solver=optx.Newton), TypeError, "linear_solver"),
        (functools.partial(GaussNewton, 0.0, 0.0), ValueError, "both 0"),
    ],
)
def test_wrong_arguments(make, error, words):
    with pytest.raises(error, match=words):
        make()


def test_nan_is_loud():
    found = jsci.solve(
        jsci.LeastSquares(lambda y, args: jnp.log(y)), GaussNewton(), jnp.array([-1.0]), throw=False
    )
    assert found.result == jsci.RESULTS.nonfinite
