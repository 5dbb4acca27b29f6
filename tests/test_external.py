"""Solvers on the host: found by SciPy or by a Python loop, differentiated by the residual's rule."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsci as jsci
from jaxsci.solvers import External

MIX = jnp.array([[0.2, -0.1], [0.15, 0.1]])
START = {"u": jnp.array(0.3), "v": jnp.array([0.2])}
POINT = jnp.array([0.8, 0.35])


def vector(y):
    return jnp.append(y["v"], y["u"])


def equations(y, a):
    f = vector(y) + MIX @ jnp.sin(vector(y)) - a
    return {"v": f[:1], "u": f[1]}


def curved(y, a):
    v = vector(y)
    return jnp.append(v + MIX @ jnp.sin(v) - a, 0.2 * v[0] * v[1] - 0.1 * a[0])


def bowl(y, a):
    return 0.5 * jnp.sum((vector(y) - a) ** 2) + 0.1 * jnp.sum(jnp.cos(MIX @ vector(y)))


ROOT = jsci.Root(equations)


def relaxation(problem, y):
    for steps in range(200):
        r = problem.residual(y)
        y = y - r
        if np.abs(r).max() < 1e-13:
            return y, True, steps
    return y, False, steps


def newton_of_host(problem, y):
    """Uses every function of the problem, and checks them against each other."""
    for _ in range(8):
        r, j = problem.root(y), problem.root_jacobian(y)
        v = np.array([0.3, -0.7])
        np.testing.assert_allclose(problem.residual(y), r)
        np.testing.assert_allclose(problem.jacobian(y), j)
        np.testing.assert_allclose(problem.jvp(y, v), j @ v, atol=1e-14)
        np.testing.assert_allclose(problem.vjp(y, v), v @ j, atol=1e-14)
        np.testing.assert_allclose(problem.objective(y), 0.5 * r @ r, atol=1e-14)
        np.testing.assert_allclose(problem.gradient(y), r @ j, atol=1e-14)
        assert y.dtype == r.dtype == np.float64
        y = y - np.linalg.solve(j, r)
    np.testing.assert_allclose(problem.args, POINT)
    return y


CASES = {
    "scipy_root": (ROOT, External.scipy_root(), 1e-10),
    "scipy_root by Krylov": (ROOT, External.scipy_root("krylov", tol=1e-11), 1e-9),
    "scipy_minimize": (jsci.Stationary(bowl), External.scipy_minimize(), 1e-7),
    "scipy_least_squares": (jsci.LeastSquares(curved), External.scipy_least_squares(), 1e-9),
    "a function": (ROOT, External(newton_of_host, atol=1e-12), 1e-10),
    "a function with a report": (ROOT, External(relaxation, faces=["residual"]), 1e-10),
}
SLOW = ("scipy_root by Krylov", "scipy_least_squares", "a function with a report")


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in CASES])
def test_solution_and_derivatives(name):
    """Under jit, as a conversation, against Newton's method of our own."""
    residual, solver, tolerance = CASES[name]

    def derivatives(solver):
        def both(a):
            solved = lambda a: vector(jsci.solve(residual, solver, START, a).value)
            value, pull = jax.vjp(solved, a)
            return value, pull(jnp.array([1.0, -0.4]))[0]

        return lambda a: jax.jvp(both, (a,), (jnp.array([0.3, 1.0]),))

    found = jax.tree.leaves(jax.jit(derivatives(solver))(POINT))
    oracle = jsci.solvers.Newton(1e-13, 1e-13)
    for a, b in zip(found, jax.tree.leaves(jax.jit(derivatives(oracle))(POINT)), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance)


def test_eagerly_the_host_is_called_directly():
    here = []

    def run(problem, y):
        here.append(threading.current_thread() is threading.main_thread())
        return relaxation(problem, y)

    solver = External(run, faces=["residual"])
    solved = lambda a: vector(jsci.solve(ROOT, solver, START, a).value)
    closed_over = lambda a: vector(jsci.solve(jsci.Root(lambda y, _: equations(y, a)), solver, START).value)
    newton = lambda a: vector(jsci.solve(ROOT, jsci.solvers.Newton(1e-13, 1e-13), START, a).value)
    push = jnp.array([1.0, -0.5])
    _, wanted = jax.jit(lambda a: jax.jvp(newton, (a,), (push,)))(POINT)
    for f in (solved, closed_over):
        np.testing.assert_allclose(jax.jvp(f, (POINT,), (push,))[1], wanted, atol=1e-10)
    assert here and all(here[:1])


def test_lanes_and_failures():
    """Each lane is its own conversation; one that fails says so and leaves the others alone."""

    def run(problem, y):
        if problem.args[0] < 0:
            return y, False
        return relaxation(problem, y)

    @jax.jit
    @jax.vmap
    def lanes(a):
        def solved(a):
            found = jsci.solve(ROOT, External(run, faces=["residual"]), START, a, throw=False)
            return jnp.sum(vector(found.value) ** 2), found

        (_, found), gradient = jax.value_and_grad(solved, has_aux=True)(a)
        return found.result == jsci.RESULTS.successful, found.stats.steps, gradient

    batch = jnp.stack([POINT, -POINT, 0.1 * POINT])
    ok, steps, gradients = lanes(batch)
    assert ok.tolist() == [True, False, True]
    assert steps[1] == 0 and steps[0] > 3
    newton = lambda a: jsci.solve(ROOT, jsci.solvers.Newton(1e-13, 1e-13), START, a).value
    wanted = jax.jit(jax.vmap(jax.grad(lambda a: jnp.sum(vector(newton(a)) ** 2))))(batch)
    np.testing.assert_allclose(gradients[::2], wanted[::2], atol=1e-10)


def test_many_unknowns_under_scan():
    """Large vectors go to the host and back without waiting for ever; a loop of solves makes a new
    conversation each time, also where nothing in it depends on the loop."""
    n = 150_000
    residual = jsci.Root(lambda y, a: y + 0.1 * jnp.sin(jnp.roll(y, 1)) - a)
    solver = External(relaxation, faces=["residual", "jacobian"])

    @jax.jit
    def steps(a):
        def one(total, scale):
            moving = jsci.solve(residual, solver, jnp.zeros(n), scale * a).value
            still = jsci.solve(residual, solver, jnp.zeros(n), a).value
            return total + jnp.sum(moving) + jnp.sum(still), jnp.max(jnp.abs(residual(moving, scale * a)))

        return jax.lax.scan(one, 0.0, jnp.array([0.5, 1.0]))

    total, errors = steps(jnp.linspace(0.0, 1.0, n))
    assert jnp.isfinite(total)
    assert jnp.all(errors < 1e-12)


def test_what_the_host_raises_is_heard():
    def broken(problem, y):
        problem.residual(y)
        raise OSError("the licence server does not answer")

    def solved(solver):
        return lambda a: jsci.solve(ROOT, solver, START, a).value

    with pytest.raises(OSError, match="licence server"):
        solved(External(broken))(POINT)
    with pytest.raises(Exception, match="licence server"):
        jax.block_until_ready(jax.jit(solved(External(broken, faces=["residual"])))(POINT))
    silent = External(lambda problem, y: y, faces=[])
    for run in (solved(silent), jax.jit(solved(silent))):
        with pytest.raises(Exception, match="returned y alone"):
            jax.block_until_ready(run(POINT))


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (lambda problem, y: (y[:1], True), "expected the solution y as an array of 2 numbers"),
        (lambda problem, y: problem.jacobian(y), "asked for `problem.jacobian`"),
        (lambda problem, y: problem.residual(y[:1]), "`y` of a function of HostProblem has shape"),
    ],
)
def test_wrong_functions(run, message):
    with pytest.raises(ValueError, match=message):
        jsci.solve(ROOT, External(run, faces=["residual"]), START, POINT)


def test_refusals():
    with pytest.raises(TypeError, match="`run` is 3"):
        External(3)
    with pytest.raises(ValueError, match="`faces` is 'residual'"):
        External(relaxation, faces="residual")
    with pytest.raises(ValueError, match="`faces` is \\['slope'\\]"):
        External(relaxation, faces=["slope"])
    with pytest.raises(TypeError, match="takes real unknowns"):
        jsci.solve(jsci.Root(lambda y, a: y - a), External(relaxation), jnp.array([1j]), 1.0)
    with pytest.raises(RuntimeError, match="stopped before it met its own tolerance"):
        jsci.solve(ROOT, External(lambda problem, y: y, faces=[], atol=1e-9), START, POINT)


def test_not_where_no_callback_may_be(devices):
    mesh = devices(4)
    solved = lambda a: jsci.solve(ROOT, External(relaxation), START, a[0]).value
    spec = jax.sharding.PartitionSpec("devices")
    mapped = jax.shard_map(solved, mesh=mesh, in_specs=spec, out_specs=spec)
    with pytest.raises(ValueError, match="inside jax.shard_map"):
        jax.eval_shape(mapped, jnp.zeros((4, 2)))


def test_single_precision():
    start, point = (jax.tree.map(lambda x: x.astype(jnp.float32), x) for x in (START, POINT))
    found = jsci.solve(ROOT, External.scipy_root(tol=1e-6), start, point)
    assert found.value["u"].dtype == jnp.float32
    assert found.stats.residual_norm < 1e-6
