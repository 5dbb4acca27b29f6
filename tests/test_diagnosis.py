"""Right or loud: what the rule does at singular, nearly singular and inexact solutions, and its reports."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsci as jsci
from jaxsci.linear import CG, GMRES, LU, Cholesky, Operator, PseudoInverse

# Eliminating by hand leaves a zero pivot; in floating point a tiny one, with a plausible solution.
HIDDEN = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]])
THETA = jnp.array([0.7, 0.4])


def gauge_invariant(y, a):
    return jnp.stack([y[0] + y[1] - jnp.sin(a[0]) * y[2], y[0] - y[1] * a[1]])


def energy(y, a):
    """A function of two combinations of three unknowns: its minima form a line."""
    u, v = gauge_invariant(y, a)
    return 0.5 * (u - a[0]) ** 2 + 0.025 * (u - a[1]) ** 4 + 0.5 * (v - a[0] * a[1]) ** 2


def minimum(a):
    """(u, v) at the minimum, by Newton's method on u."""
    step = lambda u: u - ((u - a[0]) + 0.1 * (u - a[1]) ** 3) / (1 + 0.3 * (u - a[1]) ** 2)
    u = jax.lax.stop_gradient(jax.lax.fori_loop(0, 20, lambda _, u: step(u), a[0]))
    return jnp.stack([step(step(u)), a[0] * a[1]])  # two steps carry the first two derivatives


def on_the_line(a):
    u, v = minimum(jax.lax.stop_gradient(a))
    rows = jax.jacfwd(gauge_invariant)(jnp.zeros(3), jax.lax.stop_gradient(a))
    return jnp.linalg.pinv(rows) @ jnp.stack([u, v]) + jnp.linalg.svd(rows)[2][2] * 0.3


def test_family_of_solutions_gives_the_derivative_of_what_is_determined():
    adjoint = jsci.ImplicitAdjoint(well_posed=False)

    def implicit(a):
        return gauge_invariant(jsci.attach(jsci.Stationary(energy), on_the_line(a), a, adjoint=adjoint), a)

    def derivatives(f):
        first = jax.jacrev(f), jax.jacfwd(f)
        second = [outer(inner(f)) for outer in (jax.jacfwd, jax.jacrev) for inner in (jax.jacfwd, jax.jacrev)]
        return lambda a: [f(a), *(d(a) for d in (*first, *second))]

    found, expected = jax.jit(lambda a: (derivatives(implicit)(a), derivatives(minimum)(a)))(THETA)
    for x, y in zip(found, expected, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-10, atol=1e-12)


def test_derivative_of_the_pseudo_inverse():
    def matrix(t):  # of rank 2
        left = jnp.array([[1.0, t], [2 * t, 1.0], [jnp.sin(t), 1 - t]])
        return left @ jnp.array([[1.0, t**2, 2.0], [t, 1.0, jnp.cos(t)]])

    b = jnp.array([1.0, -2.0, 0.5])
    adjoint = jsci.ImplicitAdjoint(well_posed=False)

    def solution(t):
        y = lambda c: jsci.attach(
            jsci.Root(lambda y, c: matrix(t) @ y - c * b), jnp.zeros(3), c, adjoint=adjoint
        )
        return jax.jacfwd(y)(1.0)

    oracle = lambda t: np.linalg.pinv(matrix(t), rcond=1e-10) @ b
    h = 1e-3
    expected = (oracle(0.3 - 2 * h) - 8 * oracle(0.3 - h) + 8 * oracle(0.3 + h) - oracle(0.3 + 2 * h)) / (
        12 * h
    )
    value, forward, reverse = jax.jit(
        lambda t: (solution(t), jax.jacfwd(solution)(t), jax.jacrev(solution)(t))
    )(0.3)
    np.testing.assert_allclose(value, oracle(0.3), rtol=1e-10)
    np.testing.assert_allclose(forward, expected, rtol=1e-8)
    np.testing.assert_allclose(reverse, expected, rtol=1e-8)


def solve(solver, matrix, b, transpose=False):
    a = Operator(lambda x: matrix @ x, jnp.zeros(len(matrix), matrix.dtype))
    return jax.jit(lambda b: solver.solve(a, solver.prepare(a), b, transpose=transpose))(b)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_singular_but_for_rounding_is_nan(dtype):
    matrix = jnp.asarray(HIDDEN, dtype)
    consistent = matrix @ jnp.ones(3, dtype)
    for solver, a in ((LU(), matrix), (Cholesky(), matrix.T @ matrix)):
        x, ok, _ = solve(solver, a, a.T @ consistent)
        assert not ok
        assert np.isnan(x).all()
    x, ok, _ = solve(PseudoInverse(), matrix, consistent)
    assert ok
    np.testing.assert_allclose(x, 1, rtol=100 * jnp.finfo(dtype).eps)


@pytest.mark.parametrize("transpose", [False, True])
def test_units_do_not_make_a_matrix_singular(transpose):
    scales = 10.0 ** jnp.array([-12.0, 0.0, 9.0])
    regular = jnp.asarray(HIDDEN) + jnp.diag(jnp.array([0.0, 2.0, 1.0]))
    for solver, matrix in (
        (LU(), scales[:, None] * regular / scales),
        (Cholesky(), scales[:, None] * (regular.T @ regular) * scales),
    ):
        a = matrix.T if transpose else matrix
        size = scales if isinstance(solver, LU) and not transpose else 1 / scales
        x, ok, _ = solve(solver, matrix, a @ size, transpose)
        assert ok
        np.testing.assert_allclose(x / size, 1, rtol=1e-9)


def test_failed_backward_solve_raises_on_request():
    def loss(m, adjoint):
        return jnp.sum(
            jsci.attach(jsci.Root(lambda y, m: m @ y - m @ jnp.ones(3)), jnp.ones(3), m, adjoint=adjoint)
        )

    m = jnp.asarray(HIDDEN)
    assert np.isnan(jax.grad(loss)(m, jsci.ImplicitAdjoint())).all()
    with pytest.raises(Exception, match="well_posed=False"):
        jax.block_until_ready(jax.grad(loss)(m, jsci.ImplicitAdjoint(throw=True)))
    regular = m + jnp.eye(3)
    found = jax.grad(loss)(regular, jsci.ImplicitAdjoint(throw=True))
    np.testing.assert_allclose(found, 0, atol=1e-12)
    with pytest.raises(ValueError, match="PseudoInverse"):
        jsci.ImplicitAdjoint(LU(), well_posed=False)


def cubic(y, a):
    return jnp.array([y[0] ** 3 + a[0] * y[1] - 1.0, y[1] ** 3 + jnp.sin(a[1]) * y[0] - 0.5])


def root(a):
    return jsci.solve(jsci.Root(cubic), jsci.solvers.Newton(1e-13, 1e-13), jnp.array([0.8, 0.6]), a).value


def test_adjoint_info_is_the_backward_pass():
    y, ybar = root(THETA), jnp.array([1.0, -2.0])
    expected = jax.vjp(root, THETA)[1](ybar)[0]
    for adjoint in (jsci.ImplicitAdjoint(), jsci.ImplicitAdjoint(GMRES())):
        info = jax.jit(
            lambda s, adjoint=adjoint: jsci.adjoint_info(
                jsci.Root(cubic), y, THETA, s * ybar, adjoint=adjoint
            )
        )(1e-30)
        assert info.converged
        assert info.residual < 1e-12
        assert (info.iterations > 0) == (adjoint.linear_solver is not None)
        np.testing.assert_allclose(1e30 * info.cotangent[1], expected, rtol=1e-12)
    few = jsci.ImplicitAdjoint(CG(max_steps=1))
    info = jsci.adjoint_info(
        jsci.Root(lambda y, a: jnp.diag(jnp.array([1.0, 9.0])) @ y - a),
        THETA / jnp.array([1.0, 9.0]),
        THETA,
        ybar,
        adjoint=few,
    )
    assert not info.converged
    assert info.residual > 1e-2
    assert np.isnan(info.cotangent[1]).all()
    with pytest.raises(ValueError, match="`ybar` has shapes"):
        jsci.adjoint_info(jsci.Root(cubic), y, THETA, jnp.ones(3))


def test_check_estimates_the_error_of_the_derivative():
    y = root(THETA)
    exact = jax.jacfwd(root)(THETA)
    report = jax.jit(jax.vmap(lambda d: jsci.check(jsci.Root(cubic), y + d * jnp.array([1.0, -0.5]), THETA)))
    distances = jnp.array([0.0, 1e-6, 1e-3])
    found = report(distances)
    a = jax.jacfwd(cubic)(y, THETA)
    np.testing.assert_allclose(found.condition[0], np.linalg.cond(a), rtol=1e-10)
    np.testing.assert_allclose(found.smallest[0], np.linalg.svd(a, compute_uv=False)[-1], rtol=1e-10)
    np.testing.assert_array_equal(found.rank, 2)
    np.testing.assert_allclose(found.derivative_norm[0], np.linalg.norm(exact), rtol=1e-10)
    np.testing.assert_allclose(found.error[1:], distances[1:] * np.sqrt(1.25), rtol=1e-2)
    inexact = lambda d: jax.jacfwd(
        lambda a: jsci.attach(jsci.Root(cubic), y + d * jnp.array([1.0, -0.5]), a)
    )(THETA)
    errors = np.array([np.linalg.norm(inexact(d) - exact) for d in distances])
    np.testing.assert_allclose(found.derivative_error[1:], errors[1:], rtol=1e-2)
    assert (found.derivative_bound[1:] >= errors[1:]).all()
    assert (found.derivative_error[0] < 1e-11) and (errors[0] < 1e-11)


def test_check_sees_a_singular_jacobian():
    report = jsci.check(jsci.Root(lambda y, m: m @ y - m @ jnp.ones(3)), jnp.ones(3), jnp.asarray(HIDDEN))
    assert report.rank == 2
    assert report.condition > 1e15
    assert np.isinf(report.derivative_error)
    with pytest.raises(ValueError, match="1024"):
        jsci.check(jsci.Root(lambda y, a: y - a), jnp.ones(2000), jnp.ones(2000))


class Stiff(jsci.AbstractResidual):
    """Equations in units that differ by 1e5."""

    helped: bool = eqx.field(static=True)

    def __call__(self, y, a):
        d = 10.0 ** jnp.linspace(0, 5, 60)
        return d * (y + 0.1 * y**3 - a) + jnp.sqrt(d) * (0.1 * jnp.roll(y, 1) - 0.03 * jnp.roll(y, -1))

    def preconditioner(self, y, args):
        d = 10.0 ** jnp.linspace(0, 5, 60)
        return (lambda r: r / (d * (1 + 0.3 * y**2))) if self.helped else None


def test_preconditioner_of_the_residual_serves_the_solver_and_the_rule():
    a = jnp.sin(jnp.arange(60.0))
    gmres = GMRES(restart=10, check=jnp.inf)

    @jax.jit
    def both(a):
        out = []
        for helped in (False, True):
            newton = jsci.solvers.Newton(1e-12, 1e-12, linear_solver=gmres)
            solve = lambda a, r=Stiff(helped), s=newton: jsci.solve(
                r, s, a, a, throw=False, adjoint=jsci.ImplicitAdjoint(gmres)
            )
            found = solve(a)
            info = jsci.adjoint_info(Stiff(helped), found.value, a, a, adjoint=jsci.ImplicitAdjoint(gmres))
            gradient = jax.grad(lambda a, solve=solve: jnp.sum(jnp.sin(solve(a).value)))(a)
            out.append((found.stats.linear_iterations, info.iterations, gradient))
        exact = jsci.solve(Stiff(True), jsci.solvers.Newton(1e-12, 1e-12), a, a, throw=False).value
        jacobian, mixed = jax.jacfwd(Stiff(True).__call__, (0, 1))(exact, a)
        return out, -mixed.T @ jnp.linalg.solve(jacobian.T, jnp.cos(exact))

    (plain, helped), expected = both(a)
    assert 2 * helped[0] < plain[0]
    assert 2 * helped[1] < plain[1]
    np.testing.assert_allclose(helped[2], expected, rtol=1e-10, atol=1e-12)
