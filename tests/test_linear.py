"""The linear solvers against NumPy: forward, transposed, preconditioned, on pytrees; singular is loud."""

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest

import jaxsci as jsci
from jaxsci.linear import CG, GMRES, LU, BiCGStab, Cholesky, Operator, default_solver

N = 12
SPD = frozenset({lx.positive_semidefinite_tag})


def general(n=N):
    rng = np.random.default_rng(0)
    return jnp.asarray(rng.normal(size=(n, n)) / n**0.5 + 2 * np.eye(n))


def positive(n=N):
    a = general(n)
    return a @ a.T + jnp.eye(n)


def operator(matrix, tags=frozenset()):
    return Operator(lambda x: matrix @ x, jnp.zeros(len(matrix), matrix.dtype), None, tags)


def solve(solver, a, b, transpose=False):
    return solver.solve(a, solver.prepare(a), b, transpose=transpose)


SOLVERS = {
    "LU": (LU(), general(), frozenset()),
    "GMRES": (GMRES(), general(), frozenset()),
    "GMRES, restarted": (GMRES(restart=4), general(), frozenset()),
    "BiCGStab": (BiCGStab(), general(), frozenset()),
    "Cholesky": (Cholesky(), positive(), SPD),
    "CG": (CG(), positive(), SPD),
    "GMRES, symmetric": (GMRES(), positive(), SPD),
}


@pytest.mark.parametrize("transpose", [False, True])
@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e30])
@pytest.mark.parametrize("name", SOLVERS)
def test_against_numpy(name, scale, transpose):
    solver, matrix, tags = SOLVERS[name]
    b = scale * jnp.arange(1.0, N + 1)
    x, ok, iterations = jax.jit(lambda b: solve(solver, operator(matrix, tags), b, transpose=transpose))(b)
    assert ok
    assert (iterations > 0) == isinstance(solver, CG | GMRES | BiCGStab)
    expected = np.linalg.solve(matrix.T if transpose else matrix, b)
    np.testing.assert_allclose(x, expected, rtol=1e-10, atol=1e-12 * scale)


@pytest.mark.parametrize("name", SOLVERS)
def test_zero_gives_zero(name):
    solver, matrix, tags = SOLVERS[name]
    x, ok, _ = solve(solver, operator(0 * matrix, tags), jnp.zeros(N))
    assert ok
    np.testing.assert_array_equal(x, 0)


@pytest.mark.parametrize("name", SOLVERS)
def test_singular_is_nan(name):
    solver, matrix, tags = SOLVERS[name]
    singular = matrix.at[0].set(0).at[:, 0].set(0)
    x, ok, _ = jax.jit(lambda b: solve(solver, operator(singular, tags), b))(jnp.ones(N))
    assert not ok
    assert np.isnan(x).all()


@pytest.mark.parametrize("name", SOLVERS)
def test_lanes_are_independent(name):
    solver, matrix, tags = SOLVERS[name]
    factors = jnp.array([1.0, 0.0, 3.0])
    lane = lambda c: solve(solver, operator(c * matrix, tags), jnp.ones(N))[:2]
    x, ok = jax.jit(jax.vmap(lane))(factors)
    assert ok.tolist() == [True, False, True]
    assert np.isnan(x[1]).all()
    expected = np.linalg.solve(matrix, np.ones(N))
    np.testing.assert_allclose(x[0], expected, rtol=1e-10)
    np.testing.assert_allclose(x[2], expected / 3, rtol=1e-10)


@pytest.mark.parametrize("solver", [LU(), GMRES(), Cholesky(), CG()], ids=lambda s: type(s).__name__)
def test_pytrees(solver):
    matrix = positive(5)
    flat = lambda t: jnp.concatenate([t["a"].ravel(), t["b"].ravel()])
    tree = lambda v: {"a": v[:4].reshape(2, 2), "b": v[4:]}
    a = Operator(lambda t: tree(matrix @ flat(t)), tree(jnp.zeros(5)), None, SPD)
    x, ok, _ = solve(solver, a, tree(jnp.arange(5.0)))
    assert ok
    np.testing.assert_allclose(flat(x), np.linalg.solve(matrix, np.arange(5.0)), rtol=1e-10)


@pytest.mark.parametrize("transpose", [False, True])
def test_preconditioner_saves_iterations(transpose):
    # Rows of very different size, as equations in different units have.
    matrix = jnp.diag(10.0 ** jnp.linspace(0, 4, 40)) @ general(40)
    inverse = jnp.linalg.inv(matrix + 0.01 * jnp.eye(40))
    b = matrix.T @ jnp.ones(40) if transpose else matrix @ jnp.ones(40)
    a = operator(matrix)
    loose = {"rtol": 1e-12, "restart": 10, "check": jnp.inf}
    _, _, plain = solve(GMRES(**loose), a, b, transpose)
    x, ok, fewer = solve(GMRES(**loose, preconditioner=lambda r: inverse @ r), a, b, transpose)
    assert ok
    assert 2 * fewer < plain
    np.testing.assert_allclose(x, 1, rtol=1e-8)


def test_preconditioned_conjugate_gradients():
    d = 10.0 ** jnp.linspace(0, 5, 60)
    matrix = jnp.diag(d) + 0.1 * positive(60)
    a, b = operator(matrix, SPD), matrix @ jnp.ones(60)
    _, _, plain = solve(CG(check=jnp.inf), a, b)
    x, ok, fewer = solve(CG(preconditioner=lambda r: r / jnp.diag(matrix)), a, b)
    assert ok
    assert 2 * fewer < plain
    np.testing.assert_allclose(x, 1, rtol=1e-10)


def test_unconverged_is_nan():
    matrix = jnp.diag(10.0 ** jnp.linspace(0, 8, 60))
    x, ok, iterations = solve(CG(max_steps=5), operator(matrix, SPD), jnp.ones(60))
    assert not ok and int(iterations) == 5 and np.isnan(x).all()
    shift = jnp.roll(jnp.eye(40), 1, axis=0)  # where restarted GMRES stagnates
    x, ok, _ = solve(GMRES(restart=5), operator(shift), jnp.eye(40)[0])
    assert not ok and np.isnan(x).all()


def test_a_wrong_array_is_no_witness_for_itself():
    matrix = general()
    a = Operator(lambda x: matrix @ x, jnp.zeros(N), matrix.at[0, 0].add(0.5))
    x, ok, _ = solve(LU(), a, jnp.ones(N))
    assert not ok and np.isnan(x).all()


def test_an_empty_step_of_arnoldi():
    # b is an eigenvector: the Krylov space has dimension one.
    x, ok, _ = solve(GMRES(), operator(3 * jnp.eye(N)), jnp.ones(N))
    assert ok
    np.testing.assert_allclose(x, 1 / 3, rtol=1e-14)


def test_float32():
    for solver, matrix, tags in SOLVERS.values():
        a = operator(matrix.astype(jnp.float32), tags)
        x, ok, _ = solve(solver, a, jnp.ones(N, jnp.float32))
        assert ok and x.dtype == jnp.float32
        np.testing.assert_allclose(x, np.linalg.solve(matrix, np.ones(N)), rtol=1e-4, atol=1e-5)


def test_complex():
    rng = np.random.default_rng(1)
    shift = 1j * rng.normal(size=(N, N)) / N**0.5
    matrix = general() + shift
    hermitian = matrix @ matrix.conj().T + jnp.eye(N)
    b = jnp.arange(N) + 1j
    for solver, a, tags in (
        (LU(), matrix, frozenset()),
        (GMRES(), matrix, frozenset()),
        (BiCGStab(), matrix, frozenset()),
        (CG(), hermitian, SPD),
        (Cholesky(), hermitian, SPD),
    ):
        for transpose in (False, True):
            x, ok, _ = jax.jit(lambda b: solve(solver, operator(a, tags), b, transpose))(b)  # noqa: B023
            assert ok
            np.testing.assert_allclose(x, np.linalg.solve(a.T if transpose else a, b), rtol=1e-9)


def test_default():
    assert isinstance(default_solver(operator(general())), LU)
    assert isinstance(default_solver(operator(positive(), SPD)), Cholesky)
    large = lambda tags: Operator(lambda x: x, jax.ShapeDtypeStruct((5000,), jnp.float64), None, tags)
    assert isinstance(default_solver(large(frozenset())), GMRES)
    assert isinstance(default_solver(large(frozenset({lx.symmetric_tag}))), GMRES)
    assert isinstance(default_solver(large(SPD)), CG)


# --- as the solver of the implicit rule and of Newton's method -----------------------------------


def equations(y, a):
    stretched = jnp.roll(y, 1) - 2.5 * y + 0.8 * jnp.roll(y, -1)
    return 0.1 * y**3 - stretched - a


def gradient_matches(adjoint, tags=frozenset(), fn=equations):
    a = jnp.linspace(0.5, 1.5, 16)
    newton = jsci.solvers.Newton(rtol=1e-13, atol=1e-13)
    y = jsci.solve(jsci.Root(fn), newton, jnp.zeros(16), a, throw=False).value
    root = jsci.Root(fn, tags=tags)

    def both(adjoint):
        f = lambda a: jsci.attach(root, y, a, adjoint=adjoint(a))
        w = jnp.cos(jnp.arange(16.0))
        return jax.jit(
            lambda a: (
                jax.jvp(f, (a,), (w,))[1],
                jax.vjp(f, a)[1](w)[0],
                jax.grad(lambda a: w @ jax.jvp(f, (a,), (w,))[1])(a),
            )
        )(a)

    for found, oracle in zip(both(adjoint), both(lambda a: jsci.ImplicitAdjoint()), strict=True):
        np.testing.assert_allclose(found, oracle, rtol=1e-10, atol=1e-12)


def test_adjoint_with_gmres():
    gradient_matches(lambda a: jsci.ImplicitAdjoint(GMRES()))


def symmetric_equations(y, a):
    return 0.1 * y**3 + 2.5 * y - jnp.roll(y, 1) - jnp.roll(y, -1) - a


def test_adjoint_with_cg():
    gradient_matches(lambda a: jsci.ImplicitAdjoint(CG()), SPD, symmetric_equations)


@pytest.mark.parametrize("kind", [GMRES, CG])
def test_adjoint_with_a_preconditioner_that_reads_parameters(kind):
    # It closes over what is differentiated, and sees the structure of the unknown.
    adjoint = lambda a: jsci.ImplicitAdjoint(kind(preconditioner=lambda r: r / (2.5 + 0.01 * a)))
    gradient_matches(adjoint, SPD if kind is CG else frozenset(), symmetric_equations)


@pytest.mark.parametrize("linear_solver", [LU(), GMRES()], ids=["LU", "GMRES"])
def test_newton_with(linear_solver):
    a = jnp.linspace(0.5, 1.5, 16)
    solver = jsci.solvers.Newton(rtol=1e-13, atol=1e-13, linear_solver=linear_solver)
    y = jsci.solve(jsci.Root(equations), solver, jnp.zeros(16), a).value
    np.testing.assert_allclose(equations(y, a), 0, atol=1e-12)


def test_a_loose_tolerance_is_accepted():
    for solver in (GMRES(rtol=1e-3), BiCGStab(rtol=1e-3), CG(rtol=1e-3)):
        x, ok, _ = solve(solver, operator(positive(), SPD), jnp.ones(N))
        assert ok
        np.testing.assert_allclose(positive() @ x, 1, atol=1e-2)
