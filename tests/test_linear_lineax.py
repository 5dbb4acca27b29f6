"""`as_lineax`: the solvers under Lineax's own transforms and operators, in Optimistix and Diffrax."""

import functools

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import optimistix as optx
import pytest
import scipy.linalg

from jaxsci.linear import CG, GMRES, LU, Banded, BlockDiagonal, as_lineax

N = 6
DIAGONALS = 4 + jnp.arange(N) / 5, jnp.linspace(0.3, 1.0, N - 1), jnp.linspace(-1.0, 0.5, N - 1)
TRIDIAGONAL = jnp.diag(DIAGONALS[0]) + jnp.diag(DIAGONALS[1], -1) + jnp.diag(DIAGONALS[2], 1)
SYMMETRIC = TRIDIAGONAL @ TRIDIAGONAL.T
BLOCKS = jnp.where(jnp.kron(jnp.eye(3), jnp.ones((2, 2))) > 0, SYMMETRIC, 0)
POSITIVE = lx.positive_semidefinite_tag
SHAPE = jax.ShapeDtypeStruct((N,), jnp.float64)

SOLVERS = {
    "LU": (LU(), TRIDIAGONAL, ()),
    "Banded": (Banded(1, 1), TRIDIAGONAL, ()),
    "BlockDiagonal": (BlockDiagonal(2), BLOCKS, ()),
    "CG": (CG(), SYMMETRIC, POSITIVE),
    "GMRES": (GMRES(), TRIDIAGONAL, ()),
}
OPERATORS = {
    "matrix": lambda a, tags: lx.MatrixLinearOperator(a, tags),
    "function": lambda a, tags: lx.FunctionLinearOperator(lambda x: a @ x, SHAPE, tags),
    "Jacobian": lambda a, tags: lx.JacobianLinearOperator(lambda x, _: a @ x, jnp.zeros(N), None, tags),
}


def solved(solver, make, tags, a, b):
    return lx.linear_solve(make(a, tags), b, as_lineax(solver)).value


@functools.partial(jax.jit, static_argnums=0)
def everything(solve, a, b, da, db):
    loss = lambda a, b: jnp.sum(jnp.sin(solve(a, b)))
    tangent = jax.jvp(solve, (a, b), (da, db))[1]
    batch = jax.vmap(solve)(jnp.stack([a, 2 * a]), jnp.stack([b, b]))
    return solve(a, b), tangent, jax.grad(loss, (0, 1))(a, b), batch


@pytest.mark.parametrize("name", SOLVERS)
def test_transforms(name):
    """Values, jvp, gradient and vmap against those of `jnp.linalg.solve`."""
    solver, a, tags = SOLVERS[name]
    given = a, jnp.cos(jnp.arange(N)), a.T / 7 + a / 9, jnp.sin(jnp.arange(N))
    found = everything(lambda a, b: solved(solver, OPERATORS["function"], tags, a, b), *given)
    for x, y in zip(
        jax.tree.leaves(found), jax.tree.leaves(everything(jnp.linalg.solve, *given)), strict=True
    ):
        np.testing.assert_allclose(x, y, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", ["LU", "Banded"])
def test_operators(name):
    solver, a, tags = SOLVERS[name]
    for x in jax.jit(lambda a: [solved(solver, make, tags, a, jnp.ones(N)) for make in OPERATORS.values()])(
        a
    ):
        np.testing.assert_allclose(x, np.linalg.solve(a, np.ones(N)), rtol=1e-10)


def test_operators_with_structure_and_pytrees():
    x = lx.linear_solve(lx.TridiagonalLinearOperator(*DIAGONALS), jnp.ones(N), as_lineax(Banded(1, 1))).value
    np.testing.assert_allclose(x, np.linalg.solve(TRIDIAGONAL, np.ones(N)), rtol=1e-10)
    like = {"u": jax.ShapeDtypeStruct((2, 2), jnp.float64), "v": jax.ShapeDtypeStruct((2,), jnp.float64)}
    flat = lambda t: jnp.concatenate([t["u"].ravel(), t["v"]])
    other = lambda v: (v[:2], v[2:])  # the equations have another structure than the unknown
    op = lx.FunctionLinearOperator(lambda t: other(TRIDIAGONAL @ flat(t)), like)
    solve = lambda b: flat(lx.linear_solve(op, other(b), as_lineax(LU())).value)
    np.testing.assert_allclose(solve(jnp.ones(N)), np.linalg.solve(TRIDIAGONAL, np.ones(N)), rtol=1e-10)
    gradient = jax.grad(lambda b: solve(b)[2])(jnp.ones(N))
    np.testing.assert_allclose(gradient, np.linalg.inv(TRIDIAGONAL)[2], rtol=1e-10)


def test_conjugate_and_transpose_of_the_state():
    a = TRIDIAGONAL + 1j * TRIDIAGONAL.T / 3
    b = jnp.arange(N) + 1j
    for solver in (LU(), Banded(1, 1)):
        wrapped = as_lineax(solver)
        state = wrapped.init(lx.MatrixLinearOperator(a), {})
        transposed, _ = wrapped.transpose(state, {})
        hermitian, _ = wrapped.conj(transposed, {})
        both, _ = wrapped.transpose(hermitian, {})
        for s, matrix in ((state, a), (transposed, a.T), (hermitian, a.T.conj()), (both, a.conj())):
            x, result, _ = eqx.filter_jit(wrapped.compute)(s, b, {})
            assert result == lx.RESULTS.successful
            np.testing.assert_allclose(x, np.linalg.solve(matrix, b), rtol=1e-10)
    assert wrapped.assume_full_rank()


def test_results_and_stats():
    singular = lx.MatrixLinearOperator(jnp.diag(jnp.arange(float(N))))
    found = lx.linear_solve(singular, jnp.ones(N), as_lineax(LU()), throw=False)
    assert found.result == lx.RESULTS.singular and np.isnan(found.value).all()
    rotation = lx.MatrixLinearOperator(jnp.roll(jnp.eye(N), 1, axis=0))
    found = lx.linear_solve(rotation, jnp.eye(N)[0], as_lineax(GMRES(restart=2)), throw=False)
    assert found.result == lx.RESULTS.breakdown and np.isnan(found.value).all()
    options = {"preconditioner": lx.MatrixLinearOperator(jnp.linalg.inv(TRIDIAGONAL))}
    operator = lx.MatrixLinearOperator(TRIDIAGONAL)
    found = lx.linear_solve(operator, jnp.ones(N), as_lineax(GMRES()), options=options)
    assert int(found.stats["num_steps"]) == 1 and found.stats["residual"] < 1e-14
    with pytest.raises(eqx.EquinoxRuntimeError):
        lx.linear_solve(singular, jnp.ones(N), as_lineax(LU()))
    with pytest.raises(ValueError, match="maps 6 scalars to 3"):
        lx.linear_solve(lx.MatrixLinearOperator(jnp.ones((3, N))), jnp.ones(3), as_lineax(LU()))
    with pytest.raises(TypeError, match="linear_solver"):
        as_lineax(lx.LU())


def test_newton_of_optimistix():
    fn = lambda y, a: y**3 + TRIDIAGONAL @ y - a

    def root(a, solver):
        newton = optx.Newton(1e-12, 1e-12, linear_solver=solver)
        adjoint = optx.ImplicitAdjoint(linear_solver=solver)
        return jnp.sum(optx.root_find(fn, newton, jnp.zeros(N), a, adjoint=adjoint).value)

    a = jnp.linspace(0.5, 1.5, N)
    solvers = as_lineax(Banded(1, 1)), lx.LU()
    found, oracle = (jax.jit(jax.value_and_grad(lambda a, s=s: root(a, s)))(a) for s in solvers)
    for x, y in zip(found, oracle, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-10)


def test_root_finder_of_diffrax():
    def final(solver):
        finder = optx.Newton(1e-9, 1e-9, linear_solver=solver)
        sol = diffrax.diffeqsolve(
            diffrax.ODETerm(lambda t, y, _: -TRIDIAGONAL @ y),
            diffrax.Kvaerno5(root_finder=finder),
            0.0, 1.0, 0.1, jnp.ones(N),
            stepsize_controller=diffrax.PIDController(1e-8, 1e-8),
        )  # fmt: skip
        return sol.ys[-1]

    expected = scipy.linalg.expm(-np.asarray(TRIDIAGONAL)) @ np.ones(N)
    np.testing.assert_allclose(final(as_lineax(Banded(1, 1))), expected, atol=1e-7)
