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
NEAR = jnp.array([-0.9, -0.4])


def newton_unrolled(equations, y):
    step = lambda y: y - jnp.linalg.solve(jax.jacfwd(equations)(y), equations(y))
    y = jax.lax.stop_gradient(jax.lax.fori_loop(0, 20, lambda _, y: step(y), y))
    return step(step(y))


def cubic(y, a):
    return jnp.array([y[0] ** 3 + a[0] * y[1] - 1.0, y[1] ** 3 + jnp.sin(a[1]) * y[0] - 0.5])


def contraction(y, a):
    return 0.4 * jnp.tanh(jnp.array([[0.3, -0.8], [0.5, 0.2]]) @ y + a)


def vector(*entries):
    # jnp.stack, which jax 0.8 cannot differentiate twice in reverse mode inside shard_map.
    return sum(x * e for x, e in zip(entries, np.eye(len(entries)), strict=True))


def curved(y, a):
    return vector(y[0] ** 2 - a[0], y[1] + jnp.exp(0.3 * y[0]) - a[1], a[0] * y[0] * y[1] - 0.3)


def consistent(y, a):
    return vector(y[0] ** 3 - a[0], (y[1] - a[1]) * (1 + y[0] ** 2), y[0] * (y[1] - a[1]))


def bowl(y, a):
    return 0.25 * jnp.sum(y**4) + 0.5 * jnp.sum((y - a) ** 2) + a[0] * y[0] * y[1] ** 2


def circle(x, a):
    return x[0] ** 2 + x[1] ** 2 - (1 + a[1] ** 2)


def pendulum(y, a):
    return vector(y[1], -a[0] * jnp.sin(y[0]) - a[1] * y[1])


def kkt_equations(y, a):
    lagrangian = lambda x: jnp.sum((x - a) ** 4) + 0.5 * jnp.sum((x - a) ** 2) + y[2] * circle(x, a)
    return jnp.append(jax.grad(lagrangian)(y[:2]), circle(y[:2], a))


def implicit_euler(step, a):
    return jax.lax.scan(lambda y, _: (step(y), None), START + 0.1 * a, None, length=3)[0]


def solved(residual, a, start=START):
    return jsci.solve(residual, NEWTON, start, a, throw=False).value


def kkt(a):
    problem = jsci.KKT(
        lambda x, a: jnp.sum((x - a) ** 4) + 0.5 * jnp.sum((x - a) ** 2), lambda x, a: circle(x, a)
    )
    x, multiplier = jsci.solve(problem, NEWTON, problem.start(START, a), a, throw=False).value
    return jnp.append(x, multiplier)


def euler_equations(y, before, a):
    return y - before - 0.2 * pendulum(y, a)


PROBLEMS = {
    "root": (
        lambda a: solved(jsci.Root(cubic), a),
        lambda a: newton_unrolled(lambda y: cubic(y, a), START),
    ),
    "fixed point": (
        lambda a: solved(jsci.FixedPoint(contraction), a),
        lambda a: newton_unrolled(lambda y: y - contraction(y, a), START),
    ),
    "least squares": (
        lambda a: solved(jsci.LeastSquares(curved), a, NEAR),
        lambda a: newton_unrolled(jax.grad(lambda y: 0.5 * jnp.sum(curved(y, a) ** 2)), NEAR),
    ),
    "least squares, Gauss-Newton": (
        lambda a: solved(jsci.LeastSquares(consistent, gauss_newton=True), a, jnp.array([0.9, 0.5])),
        lambda a: jnp.array([jnp.cbrt(a[0]), a[1]]),
    ),
    "minimum": (
        lambda a: solved(jsci.Stationary(bowl), a),
        lambda a: newton_unrolled(jax.grad(lambda y: bowl(y, a)), START),
    ),
    "equality KKT": (
        kkt,
        lambda a: newton_unrolled(lambda y: kkt_equations(y, a), jnp.append(START, 0.0)),
    ),
    "implicit Euler": (
        lambda a: implicit_euler(
            lambda y0: (
                jsci.solve(
                    jsci.Root(lambda y, y0: euler_equations(y, y0, a)), NEWTON, y0, y0, throw=False
                ).value
            ),
            a,
        ),
        lambda a: implicit_euler(lambda y0: newton_unrolled(lambda y: euler_equations(y, y0, a), y0), a),
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
