"""dy*/dθ in every derivative mode under every transformation, against the same solve unrolled.

The oracle is Newton's method written out and differentiated step by step by JAX: started at the
solution, k steps carry exact derivatives up to order 2ᵏ − 1.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

import jaxsci as jsci

# Full steps only: a smaller program, and these starts are close enough.
NEWTON = jsci.solvers.Newton(rtol=1e-12, atol=1e-12, halvings=0)
START = jnp.array([0.8, 0.6])
# ½‖curved‖² has several stationary points; this is near the same minimum for all parameters below.
NEAR = jnp.array([0.7, 0.9])


def newton_unrolled(equations, y, a):
    step = lambda y, a: y - jnp.linalg.solve(jax.jacfwd(equations)(y, a), equations(y, a))
    y, held = jax.lax.stop_gradient((y, a))
    y = jax.lax.fori_loop(0, 20, lambda _, y: step(y, held), y)
    return step(step(y, a), a)


# Each is written with few operations on whole vectors: it is traced some hundred times in all.
A = np.array([[0.3, -0.8], [0.5, 0.2]])
TALL = np.array([[1.0, 0.4], [-0.3, 1.2], [0.7, -0.5]])


def cubic(y, a):
    return y**3 + jnp.sin(a) * y[::-1] - np.array([1.0, 0.5])


def contraction(y, a):
    return 0.4 * jnp.tanh(A @ y + a)


def curved(y, a):
    return 0.5 * (TALL @ y) ** 2 + TALL[::-1] @ (a * y) - np.array([0.9, 0.4, 0.1])


def consistent(y, a):
    return (abs(TALL) @ y) * (TALL @ (y**3 - a))


def bowl(y, a):
    return jnp.sum(jnp.exp(a * y)) + 0.5 * jnp.sum((TALL @ y - 1) ** 2)


def well(x, a):
    return jnp.sum(jnp.cosh(x - a))


def circle(x, a):
    return x @ x - (1 + a[1] ** 2)


def turning(y, a):
    return A @ y - a * jnp.sin(y)


def kkt_equations(y, a):
    lagrangian = lambda x: well(x, a) + y[2] * circle(x, a)
    return jnp.append(jax.grad(lagrangian)(y[:2]), circle(y[:2], a))


def implicit_euler(step, a):
    return jax.lax.scan(lambda y, _: (step(y, a), None), START + 0.1 * a, None, length=3)[0]


def euler_equations(y, known):
    before, a = known
    return y - before - 0.2 * turning(y, a)


def solved(residual, a, start=START):
    return jsci.solve(residual, NEWTON, start, a, throw=False).value


def kkt(a):
    problem = jsci.KKT(well, circle)
    x, multiplier = jsci.solve(problem, NEWTON, problem.start(START, a), a, throw=False).value
    return jnp.append(x, multiplier)


PROBLEMS = {
    "root": (
        lambda a: solved(jsci.Root(cubic), a),
        lambda a: newton_unrolled(cubic, START, a),
    ),
    "fixed point": (
        lambda a: solved(jsci.FixedPoint(contraction), a),
        lambda a: newton_unrolled(lambda y, a: y - contraction(y, a), START, a),
    ),
    "least squares": (
        lambda a: solved(jsci.LeastSquares(curved), a, NEAR),
        lambda a: newton_unrolled(jax.grad(lambda y, a: 0.5 * jnp.sum(curved(y, a) ** 2)), NEAR, a),
    ),
    "least squares, Gauss-Newton": (
        lambda a: solved(jsci.LeastSquares(consistent, gauss_newton=True), a, jnp.array([0.9, 0.7])),
        jnp.cbrt,
    ),
    "minimum": (
        lambda a: solved(jsci.Stationary(bowl), a),
        lambda a: newton_unrolled(jax.grad(bowl), START, a),
    ),
    "equality KKT": (
        kkt,
        lambda a: newton_unrolled(kkt_equations, jnp.append(START, 0.0), a),
    ),
    "implicit Euler": (
        # The parameters are held by the closure of the residual.
        lambda a: implicit_euler(
            lambda y0, a: solved(jsci.Root(lambda y, y0: euler_equations(y, (y0, a))), y0, y0), a
        ),
        lambda a: implicit_euler(lambda y0, a: newton_unrolled(euler_equations, y0, (y0, a)), a),
    ),
}

MODES = {
    "grad": lambda f: jax.grad(lambda a: jnp.sum(jnp.sin(f(a)))),
    "jvp": lambda f: lambda a: jax.jvp(f, (a,), (jnp.array([0.3, -1.0]),))[1],
    "jacfwd of jacfwd": lambda f: jax.jacfwd(jax.jacfwd(f)),
    "jacrev of jacrev": lambda f: jax.jacrev(jax.jacrev(f)),
    "jacfwd of jacrev": lambda f: jax.jacfwd(jax.jacrev(f)),
    "jacrev of jacfwd": lambda f: jax.jacrev(jax.jacfwd(f)),
}

SHIFTS = jnp.array([[0.0, 0.0], [0.05, -0.02], [-0.1, 0.04], [0.02, 0.03]])


def over_mesh(f, zero, check):
    mesh = jax.make_mesh((4,), ("lanes",), axis_types=(jax.sharding.AxisType.Auto,))

    def apply(a):
        lanes = jax.shard_map(
            lambda shifts: jax.vmap(lambda s: f(a + s))(shifts),
            mesh=mesh,
            in_specs=P("lanes"),
            out_specs=P("lanes"),
            check_vma=check,
        )(SHIFTS)
        return lanes.sum(0)

    return apply


# (f, zeros like f(a)) ↦ a function of a
TRANSFORMS = {
    "plain": lambda f, zero: f,
    "jit": lambda f, zero: f,
    "vmap": lambda f, zero: lambda a: jax.vmap(lambda s: f(a + s))(SHIFTS).sum(0),
    "scan": lambda f, zero: lambda a: jax.lax.scan(lambda c, s: (c + f(a + s), None), zero, SHIFTS)[0],
    "fori_loop": lambda f, zero: lambda a: jax.lax.fori_loop(0, 4, lambda i, c: c + f(a + SHIFTS[i]), zero),
    "cond": lambda f, zero: lambda a: jax.lax.cond(a[0] > 0, f, lambda a: zero + a[0], a),
    "checkpoint": lambda f, zero: jax.checkpoint(f),
    "shard_map": functools.partial(over_mesh, check=True),
    "shard_map, unchecked": functools.partial(over_mesh, check=False),
}


def every_mode(f):
    return lambda a: {name: mode(f)(a) for name, mode in MODES.items()}


@functools.cache
def oracle(problem):
    """y, ∂y/∂a and ∂²y/∂a² of the unrolled solve, at POINT and at each of POINT + SHIFTS."""
    f = PROBLEMS[problem][1]
    first = jax.jacfwd(f)
    lanes = jax.vmap(lambda a: (f(a), first(a), jax.jacfwd(first)(a)))
    return [np.asarray(x) for x in jax.jit(lanes)(jnp.concatenate([POINT[None], POINT + SHIFTS]))]


def expected(problem, summed):
    """What each mode gives for f, or for Σ over shifts of f(a + shift)."""
    y, first, second = (x[1:].sum(0) if summed else x[0] for x in oracle(problem))
    modes = dict.fromkeys(MODES, second)
    return modes | {"grad": np.cos(y) @ first, "jvp": first @ np.array([0.3, -1.0])}


POINT = jnp.array([0.8, 0.35])
SUMMED = ("vmap", "scan", "fori_loop", "shard_map", "shard_map, unchecked")


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("problem", PROBLEMS)
def test_derivative(problem, transform):
    f, zero = PROBLEMS[problem][0], np.zeros(3 if problem == "equality KKT" else 2)
    derivatives = every_mode(TRANSFORMS[transform](f, zero))
    found = derivatives(POINT) if transform == "plain" else jax.jit(derivatives)(POINT)
    for mode, value in expected(problem, transform in SUMMED).items():
        np.testing.assert_allclose(found[mode], value, rtol=1e-8, atol=1e-8, err_msg=mode)
