"""Every kind of solver on every kind of residual finds the solution, with exact derivatives.

The oracle is Newton's method in NumPy on the optimality condition, and −A⁻¹B at its result.
"""

import functools

import jax
import jax.numpy as jnp
import jaxopt
import numpy as np
import optax
import optimistix as optx
import pytest

import jaxsci as jsci

MIX = jnp.array([[0.2, -0.1], [0.15, 0.1]])
START = jnp.array([0.3, 0.2])
POINT = jnp.array([0.8, 0.35])


# Near the identity, so that also y ← y − F contracts.
def equations(y, a):
    return y + MIX @ jnp.sin(y) - a


def contraction(y, a):
    return jnp.tanh(2 * MIX @ y + a)


def curved(y, a):
    return jnp.append(y + MIX @ jnp.sin(y) - a, 0.2 * y[0] * y[1] - 0.1 * a[0])


def consistent(y, a):
    return jnp.append(y + MIX @ jnp.sin(y) - a, 0.0 * y[0])


def bowl(y, a):
    return 0.5 * jnp.sum((y - a) ** 2) + 0.1 * jnp.sum(jnp.cos(MIX @ y))


def line(x, a):
    return x[0] + a[1] * x[1] ** 2 - 0.2


KKT = jsci.KKT(bowl, line)

RESIDUALS = {
    "root": (jsci.Root(equations), START),
    "fixed point": (jsci.FixedPoint(contraction), START),
    "least squares": (jsci.LeastSquares(curved), START),
    "least squares, Gauss-Newton": (jsci.LeastSquares(consistent, gauss_newton=True), START),
    "minimum": (jsci.Stationary(bowl), START),
    "KKT": (KKT, KKT.start(START, POINT)),
}

TIGHT = {"rtol": 1e-11, "atol": 1e-11}


def of_jaxopt(residual):
    """The jaxopt solver that a user would build for this problem."""
    if isinstance(residual, jsci.FixedPoint):
        return jaxopt.AndersonAcceleration(contraction, tol=1e-11, maxiter=200)
    if isinstance(residual, jsci.LeastSquares):
        return jaxopt.LevenbergMarquardt(residual.fn, tol=1e-11, maxiter=100)
    if isinstance(residual, jsci.Stationary):
        return jaxopt.BFGS(bowl, tol=1e-11, linesearch="zoom")
    # Its Broyden method takes arrays only.
    flat = lambda v, a: jnp.append(*residual((v[:2], v[2]), a))
    fun = flat if isinstance(residual, jsci.KKT) else equations
    return jaxopt.Broyden(fun, tol=1e-11, maxiter=200)


SOLVERS = {
    "ours, root": lambda _: jsci.solvers.Newton(**TIGHT),
    "ours, least squares": lambda _: jsci.solvers.LevenbergMarquardt(rtol=1e-11, atol=1e-11),
    "optimistix, root": lambda _: optx.Newton(**TIGHT),
    "optimistix, fixed point": lambda _: optx.FixedPointIteration(**TIGHT),
    "optimistix, least squares": lambda _: optx.LevenbergMarquardt(**TIGHT),
    "optimistix, minimiser": lambda _: optx.BFGS(**TIGHT),
    "optimistix, best so far": lambda _: optx.BestSoFarRootFinder(optx.Dogleg(**TIGHT)),
    "optax": lambda _: optax.sgd(0.3),
    "jaxopt": of_jaxopt,
}


@functools.cache
def expected(name):
    residual, y0 = RESIDUALS[name]
    flat0, unravel = jax.flatten_util.ravel_pytree(y0)
    f = lambda v, a: jax.flatten_util.ravel_pytree(residual.optimality(unravel(v), a))[0]
    f, by_y, by_a = (jax.jit(g) for g in (f, jax.jacfwd(f), jax.jacfwd(f, argnums=1)))
    v = np.asarray(flat0)
    for _ in range(30):
        v = v - np.linalg.solve(by_y(v, POINT), f(v, POINT))
    return v, -np.linalg.solve(by_y(v, POINT), by_a(v, POINT))


# y − F is no contraction on a saddle point, and ½‖F‖² of one is badly conditioned for plain descent.
UNFIT = {("optimistix, fixed point", "KKT")}
# These stop at a step or an error of √precision or so, and the derivative is as inexact as y.
COARSE = {"optax": 1e-6, "optimistix, minimiser": 1e-8, "jaxopt": 1e-8}


@pytest.mark.parametrize("residual_name", RESIDUALS)
@pytest.mark.parametrize("solver_name", SOLVERS)
def test_every_solver_on_every_residual(solver_name, residual_name):
    residual, y0 = RESIDUALS[residual_name]
    solver = SOLVERS[solver_name](residual)
    packed = isinstance(residual, jsci.KKT) and isinstance(solver, jaxopt.Broyden)

    # Each solver is differentiated on two residuals, each residual under three solvers.
    differentiated = (list(SOLVERS).index(solver_name) + list(RESIDUALS).index(residual_name)) % 3 == 0

    def solved(a):
        if packed:
            # A value from a solver with another layout of the unknown: `attach` is all that it needs.
            v = solver.run(jnp.append(*y0), jax.lax.stop_gradient(a)).params
            y, result = jsci.attach(residual, (v[:2], v[2]), a), jsci.RESULTS.successful
        else:
            solution = jsci.solve(residual, solver, y0, a, throw=False, max_steps=2000)
            y, result = solution.value, solution.result
        return jax.flatten_util.ravel_pytree(y)[0], result == jsci.RESULTS.successful

    @jax.jit
    def both(a):
        if not differentiated:
            y, ok = solved(a)
            return y, None, ok
        y, pull, ok = jax.vjp(solved, a, has_aux=True)
        return y, jax.vmap(pull)(jnp.eye(y.size))[0], ok

    y, jacobian, ok = both(POINT)
    if (solver_name, residual_name) in UNFIT:
        # A solver that cannot solve the problem says so.
        assert not ok
        return
    assert ok
    value, derivative = expected(residual_name)
    tolerance = COARSE.get(solver_name, 1e-9)
    np.testing.assert_allclose(y, value, atol=tolerance, rtol=0)
    if differentiated:
        np.testing.assert_allclose(jacobian, derivative, atol=10 * tolerance, rtol=0)
