"""The linear solvers against NumPy: forward, transposed, preconditioned, on pytrees; singular is loud."""

import functools

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


@pytest.mark.parametrize("name", SOLVERS)
def test_against_numpy(name):
    """Forward and transposed: large and small right-hand sides, each lane on its own, NaN where A is
    singular, zero for zero, and a Krylov space of dimension one."""
    solver, matrix, tags = SOLVERS[name]
    b, ones = jnp.arange(1.0, N + 1), jnp.ones(N)
    lanes = (
        (matrix, b),
        (3 * matrix, 1e-30 * b),
        (matrix, 1e30 * b),
        (0 * matrix, ones),
        (matrix.at[0].set(0).at[:, 0].set(0), ones),
        (0 * matrix, 0 * b),
        (3 * jnp.eye(N), ones),
    )

    @jax.jit
    @jax.vmap
    def found(matrix, b):
        return [solve(solver, operator(matrix, tags), b, transpose) for transpose in (False, True)]

    both = found(*map(jnp.stack, zip(*lanes, strict=True)))
    for (x, ok, iterations), a in zip(both, (matrix, matrix.T), strict=True):
        assert ok.tolist() == [True, True, True, False, False, True, True]
        assert (iterations[0] > 0) == isinstance(solver, CG | GMRES | BiCGStab)
        assert np.isnan(x[3:5]).all()
        expected = np.linalg.solve(a, b)
        np.testing.assert_allclose(x[0], expected, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(3e30 * x[1], expected, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(1e-30 * x[2], expected, rtol=1e-10, atol=1e-12)
        np.testing.assert_array_equal(x[5], 0)
        np.testing.assert_allclose(x[6], 1 / 3, rtol=1e-14)


def test_pytrees():
    matrix = positive(5)
    flat = lambda t: jnp.concatenate([t["a"].ravel(), t["b"].ravel()])
    tree = lambda v: {"a": v[:4].reshape(2, 2), "b": v[4:]}
    a = Operator(lambda t: tree(matrix @ flat(t)), tree(jnp.zeros(5)), None, SPD)
    every = lambda b: [solve(solver, a, tree(b)) for solver in (LU(), GMRES(), Cholesky(), CG())]
    for x, ok, _ in jax.jit(every)(jnp.arange(5.0)):
        assert ok
        np.testing.assert_allclose(flat(x), np.linalg.solve(matrix, np.arange(5.0)), rtol=1e-10)


def test_preconditioner_saves_iterations():
    # Rows of very different size, as equations in different units have.
    matrix = jnp.diag(10.0 ** jnp.linspace(0, 4, 40)) @ general(40)

    @jax.jit
    def found(inverse):
        solver = GMRES(1e-12, restart=10, preconditioner=lambda r: inverse @ r, check=jnp.inf)
        sides = (matrix @ jnp.ones(40), matrix.T @ jnp.ones(40))
        return [solve(solver, operator(matrix), b, t) for b, t in zip(sides, (False, True), strict=True)]

    plain, better = found(jnp.eye(40)), found(jnp.linalg.inv(matrix + 0.01 * jnp.eye(40)))
    for (_, _, many), (x, ok, fewer) in zip(plain, better, strict=True):
        assert ok
        assert 2 * fewer < many
        np.testing.assert_allclose(x, 1, rtol=1e-8)


def test_preconditioned_conjugate_gradients():
    d = 10.0 ** jnp.linspace(0, 5, 60)
    matrix = jnp.diag(d) + 0.1 * positive(60)
    a, b = operator(matrix, SPD), matrix @ jnp.ones(60)
    found = jax.jit(lambda d: solve(CG(preconditioner=lambda r: r / d, check=jnp.inf), a, b))
    _, _, plain = found(jnp.ones(60))
    x, _, fewer = found(jnp.diag(matrix))
    assert 2 * fewer < plain
    np.testing.assert_allclose(x, 1, rtol=1e-10)


def test_unconverged_is_nan():
    matrix = jnp.diag(10.0 ** jnp.linspace(0, 8, 60))
    run = lambda solver, a, b: jax.jit(lambda b: solve(solver, a, b))(b)
    x, ok, iterations = run(CG(max_steps=5), operator(matrix, SPD), jnp.ones(60))
    assert not ok and int(iterations) == 5 and np.isnan(x).all()
    shift = jnp.roll(jnp.eye(40), 1, axis=0)  # where restarted GMRES stagnates
    x, ok, _ = run(GMRES(restart=5), operator(shift), jnp.eye(40)[0])
    assert not ok and np.isnan(x).all()


def test_a_wrong_array_is_no_witness_for_itself():
    matrix = general()
    a = Operator(lambda x: matrix @ x, jnp.zeros(N), matrix.at[0, 0].add(0.5))
    x, ok, _ = jax.jit(lambda b: solve(LU(), a, b))(jnp.ones(N))
    assert not ok and np.isnan(x).all()


def test_float32():
    """With the default tolerance; and a loose one is accepted."""
    cases = [SOLVERS[name] for name in SOLVERS if name != "GMRES, symmetric"]
    loose = [(solver, positive(), SPD) for solver in (GMRES(1e-3), BiCGStab(1e-3), CG(1e-3))]

    @jax.jit
    def found(b):
        one = lambda solver, matrix, tags: solve(solver, operator(matrix.astype(b.dtype), tags), b)[:2]
        return [one(*case) for case in cases], [one(*case) for case in loose]

    tight, near = found(jnp.ones(N, jnp.float32))
    for (x, ok), (_, matrix, _) in zip(tight, cases, strict=True):
        assert ok and x.dtype == jnp.float32
        np.testing.assert_allclose(x, np.linalg.solve(matrix, np.ones(N)), rtol=1e-4, atol=1e-5)
    for (x, ok), (_, matrix, _) in zip(near, loose, strict=True):
        assert ok
        np.testing.assert_allclose(matrix @ x, 1, atol=1e-2)


def test_complex():
    rng = np.random.default_rng(1)
    shift = 1j * rng.normal(size=(N, N)) / N**0.5
    matrix = general() + shift
    hermitian = matrix @ matrix.conj().T + jnp.eye(N)
    b = jnp.arange(N) + 1j
    cases = (
        (LU(), matrix, frozenset()),
        (GMRES(), matrix, frozenset()),
        (BiCGStab(), matrix, frozenset()),
        (CG(), hermitian, SPD),
        (Cholesky(), hermitian, SPD),
    )
    both = lambda b: [[solve(s, operator(a, tags), b, t)[:2] for t in (False, True)] for s, a, tags in cases]
    for found, (_, a, _) in zip(jax.jit(both)(b), cases, strict=True):
        for (x, ok), side in zip(found, (a, a.T), strict=True):
            assert ok
            np.testing.assert_allclose(x, np.linalg.solve(side, b), rtol=1e-9)


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


def symmetric_equations(y, a):
    return 0.1 * y**3 + 2.5 * y - jnp.roll(y, 1) - jnp.roll(y, -1) - a


ADJOINTS = {
    "GMRES": (equations, lambda a: GMRES()),
    "CG": (symmetric_equations, lambda a: CG()),
    # They close over what is differentiated, and see the structure of the unknown.
    "GMRES, preconditioned": (
        symmetric_equations,
        lambda a: GMRES(preconditioner=lambda r: r / (2.5 + 0.01 * a)),
    ),
    "CG, preconditioned": (symmetric_equations, lambda a: CG(preconditioner=lambda r: r / (2.5 + 0.01 * a))),
}


@functools.cache
def derivatives(fn, make=None):
    """Of a solution of Newton's method, by the rule with the solver that is made from the parameters."""
    a, w = jnp.linspace(0.5, 1.5, 16), jnp.cos(jnp.arange(16.0))
    root = jsci.Root(fn, tags=SPD if make is not None and isinstance(make(a), CG) else frozenset())
    newton = jsci.solvers.Newton(rtol=1e-13, atol=1e-13)

    @jax.jit
    def found(a):
        y = jsci.solve(jsci.Root(fn), newton, jnp.zeros(16), jax.lax.stop_gradient(a), throw=False).value
        rule = lambda a: jsci.ImplicitAdjoint() if make is None else jsci.ImplicitAdjoint(make(a))
        f = lambda a: jsci.attach(root, y, a, adjoint=rule(a))
        tangent = lambda a: jax.jvp(f, (a,), (w,))[1]
        second = jax.vjp(tangent, a)
        return second[0], jax.vjp(f, a)[1](w)[0], second[1](w)[0]

    return found(a)


@pytest.mark.parametrize("name", ADJOINTS)
def test_adjoint(name):
    for found, oracle in zip(derivatives(*ADJOINTS[name]), derivatives(ADJOINTS[name][0]), strict=True):
        np.testing.assert_allclose(found, oracle, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("linear_solver", [LU(), GMRES()], ids=["LU", "GMRES"])
def test_newton_with(linear_solver):
    a = jnp.linspace(0.5, 1.5, 16)
    solver = jsci.solvers.Newton(rtol=1e-13, atol=1e-13, linear_solver=linear_solver)
    y = jsci.solve(jsci.Root(equations), solver, jnp.zeros(16), a).value
    np.testing.assert_allclose(equations(y, a), 0, atol=1e-12)
