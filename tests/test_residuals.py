"""The catalogue of residuals: constrained and non-smooth problems against differences and oracles."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from jax.flatten_util import ravel_pytree

import jaxsci as jsci

NEWTON = jsci.solvers.Newton(rtol=1e-12, atol=1e-12)


def same(found, wanted, tolerance=1e-9):
    np.testing.assert_allclose(found, wanted, rtol=tolerance, atol=tolerance)


def agrees(residual, y0, args, solver=NEWTON, tolerance=1e-6):
    """Solve; check first and second derivatives in one direction of θ, forward and reverse, against
    fourth-order differences of the solution and of the gradient. Returns y*."""
    theta, rest = eqx.partition((residual, args), eqx.is_inexact_array)
    theta = jax.tree.map(np.asarray, theta)
    y0 = jax.tree.map(np.asarray, y0)
    random = np.random.default_rng(7)
    push = jax.tree.map(lambda x: random.normal(size=x.shape), theta)

    @jax.jit
    def program(theta, push):
        residual, args = eqx.combine(theta, rest)
        solution = jsci.solve(residual, solver, y0, args, throw=False, max_steps=500)
        y = jax.lax.stop_gradient(solution.value)

        def attached(theta):
            residual, args = eqx.combine(theta, rest)
            return ravel_pytree(jsci.attach(residual, y, args))[0]

        def both(theta):
            value, pull = jax.vjp(attached, theta)
            return value, ravel_pytree(pull(weights(value.size))[0])[0]

        ok = (solution.result == jsci.RESULTS.successful) & (solution.stats.residual_norm < 1e-10)
        return *jax.jvp(both, (theta,), (push,)), ok, y

    weights = lambda n: np.cos(np.arange(1.0, n + 1))
    h = 2e-4
    at = lambda k: program(jax.tree.map(lambda x, p: x + k * h * p, theta, push), push)
    ends = [at(k) for k in (-2, -1, 1, 2)]
    (value, reverse), (forward, second), ok, y = at(0)
    assert ok and all(end[2] for end in ends), "a solve did not converge"
    assert np.any(forward != 0)
    found = zip(*(map(np.asarray, end[0]) for end in ends), strict=True)
    slope = [(a - 8 * b + 8 * c - d) / (12 * h) for a, b, c, d in found]
    same(forward, slope[0], tolerance)
    same(second, slope[1], tolerance)
    same(reverse @ np.concatenate([p.ravel() for p in jax.tree.leaves(push)]), forward @ weights(value.size))
    return y


# --- minima under equality and inequality constraints -----------------------------------------------


def quadratic(x, a):
    return 0.5 * x @ a["P"] @ x + a["q"] @ x


PROGRAM = jsci.KKT(quadratic, lambda x, a: a["A"] @ x - a["b"], lambda x, a: a["G"] @ x - a["h"])


def program(key, n=4, m=5, p=1):
    """A strictly convex quadratic program with a feasible point."""
    keys = jax.random.split(key, 6)
    normal = lambda i, *shape: jax.random.normal(keys[i], shape)
    root, x, a, g = normal(0, n, n), normal(1, n), normal(2, p, n), normal(3, m, n)
    h = g @ x + jax.random.uniform(keys[5], (m,))
    return {"P": root @ root.T + jnp.eye(n), "q": 3 * normal(4, n), "A": a, "b": a @ x, "G": g, "h": h}


def test_quadratic_programs_against_their_active_sets(key):
    """Solutions against SLSQP; derivatives against the linear system of the constraints that hold."""

    def solved(a):
        start = PROGRAM.start(jnp.zeros(4), a)
        return jsci.solve(PROGRAM, NEWTON, start, a, throw=False)

    weights = jnp.arange(1.0, 5.0)

    def loss(a):
        solution = solved(a)
        return weights @ solution.value[0] + 0.1 * jnp.sum(solution.value[2]), solution

    a = jax.vmap(program)(jax.random.split(key, 6))
    both = jax.jit(jax.vmap(jax.value_and_grad(loss, has_aux=True)))
    (_, solution), gradient = both(a)
    assert jnp.all(solution.result == jsci.RESULTS.successful)
    numbers = set()
    for i in range(6):
        P, q, A, b, G, h = (np.asarray(a[name][i]) for name in ("P", "q", "A", "b", "G", "h"))
        x, _, lam = (np.asarray(v[i]) for v in solution.value)
        constraints = [
            {"type": "eq", "fun": lambda x, A=A, b=b: A @ x - b},
            {"type": "ineq", "fun": lambda x, G=G, h=h: h - G @ x},
        ]
        slsqp = scipy.optimize.minimize(
            lambda x, P=P, q=q: 0.5 * x @ P @ x + q @ x, np.zeros(4), constraints=constraints, tol=1e-13
        )
        same(x, slsqp.x, 1e-5)
        active = lam > 1e-8
        numbers.add(int(active.sum()))
        rows = np.concatenate([A, G[active]])
        k = len(rows)
        matrix = np.block([[P, rows.T], [rows, np.zeros((k, k))]])
        u = np.linalg.solve(matrix, np.concatenate([weights, [0.0], 0.1 * np.ones(k - 1)]))
        found = jax.tree.map(lambda g, i=i: g[i], gradient)
        same(found["q"], -u[:4])
        same(found["P"], -0.5 * (np.outer(u[:4], x) + np.outer(x, u[:4])))
        same(found["b"], u[4:5])
        of_h = np.zeros(5)
        of_h[active] = u[5:]
        same(found["h"], of_h)
        of_g = -np.outer(lam, u[:4])
        of_g[active] -= np.outer(u[5:], x)
        same(found["G"], of_g)
    assert len(numbers) > 1, "the programs should differ in how many constraints are active"


CURVED = jsci.KKT(
    lambda x, a: jnp.sum((x["u"] - a["aim"]) ** 4) + jnp.sum((x["u"] - a["aim"]) ** 2) + (x["v"] - 1) ** 2,
    lambda x, a: x["u"][0] + x["v"] - 0.3,
    lambda x, a: {"ball": x["u"] @ x["u"] - a["radius"], "low": -0.1 - x["u"]},
)
CURVED_ARGS = {"aim": jnp.array([1.2, 0.9]), "radius": jnp.array(0.5)}


def test_nonlinear_program_of_dictionaries():
    start = CURVED.start({"u": jnp.ones(2), "v": jnp.array(0.0)}, CURVED_ARGS)
    assert set(start[2]) == {"ball", "low"}
    _, _, lam = agrees(CURVED, start, CURVED_ARGS)
    assert lam["ball"] > 0.1 and jnp.all(lam["low"] < 1e-12)


def bound(**options):
    """min ½(x − a)² with x ≤ 0: x = min(a, 0) and λ = max(a, 0), without a derivative at a = 0."""
    problem = jsci.KKT(lambda x, a: 0.5 * (x - a) ** 2, None, lambda x, a: x, **options)

    return lambda a: jnp.stack(
        jax.tree.leaves(jsci.attach(problem, (jnp.minimum(a, 0), (), jnp.maximum(a, 0)), a))
    )


def test_biactive_constraints_have_no_derivative():
    a = jnp.array([-1.0, 0.0, 2.0, 1e-12])

    @jax.jit
    def every(a):
        f = bound()
        modes = (jax.jacfwd(f), jax.jacrev(f), jax.jacfwd(jax.jacrev(f)))
        one_sided, wide = jax.jacrev(bound(one_sided=True)), jax.jacrev(bound(biactive_tol=0.1))
        return [jax.vmap(mode)(a) for mode in modes], jax.vmap(one_sided)(a), jax.vmap(wide)(a / 20)

    derivatives, one_sided, wide = every(a)
    for derivative, wanted in zip(derivatives, ([[1, 0], [0, 1]],) * 2 + ([[0, 0], [0, 0]],), strict=True):
        assert np.isnan(derivative[1]).all() and np.isnan(derivative[3]).all()
        same(derivative[np.array([0, 2])], wanted)
    # Held inactive: the derivative of the free minimum.
    same(one_sided, [[1, 0], [1, 0], [0, 1], [1, 0]])
    assert np.isnan(wide[0]).all() and np.isnan(wide[2]).any() == (2.0 / 20 <= 0.1)


def test_a_solution_that_cannot_tell_has_no_derivative():
    """The residual of a rough solution is as large as multiplier and slack: NaN instead of a guess."""
    problem = jsci.KKT(lambda x, a: 0.5 * (x - a) ** 2, None, lambda x, a: x)
    rough = lambda a: jsci.attach(problem, (jnp.array(-1e-5), (), jnp.array(2e-5)), a)[0]
    assert np.isnan(jax.jit(jax.grad(rough))(jnp.array(0.0)))


def test_a_program_needs_a_constraint():
    with pytest.raises(ValueError, match="`equality` and `inequality` are both None.*Stationary"):
        jsci.KKT(quadratic)
    with pytest.raises(ValueError, match="`biactive_tol` is -1"):
        jsci.KKT(quadratic, None, lambda x, a: x, biactive_tol=-1)
    with pytest.raises(ValueError, match=r"λ has shapes \(3,\).*`inequality` returns shapes \(2,\)"):
        residual = jsci.KKT(lambda x, a: x @ x, None, lambda x, a: x)
        residual((jnp.ones(2), (), jnp.ones(3)), None)
