"""KLU against SciPy: values, transposes, batches, derivatives, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse as sp
import scipy.sparse.linalg as spl
from jax.experimental.sparse import BCOO

import jaxsci as jsci
from jaxsci.linear import KLU, Operator, Pattern

pytest.importorskip("sparsax", reason='needs sparsax: pip install "jaxsci[sparse]"')

N = 12
LINE = sp.diags([-1.0, 2.2, -1.1], [-1, 0, 1], shape=(N, N))
MATRIX = sp.csc_array(sp.kron(LINE, sp.eye(N)) + sp.kron(sp.eye(N), LINE))
ARRAY = BCOO.from_scipy_sparse(MATRIX)
RIGHT = np.random.default_rng(0).normal(size=N * N)


def operator(scale):
    return Operator(lambda v: scale * (ARRAY @ v), jnp.zeros(N * N))


@pytest.mark.parametrize("transpose", [False, True])
def test_against_scipy(transpose):
    def solve(scale):
        solver, a = KLU(MATRIX), operator(scale)
        return solver.solve(a, solver.prepare(a), jnp.asarray(RIGHT), transpose=transpose)

    exact = spl.spsolve(sp.csc_array(MATRIX.T) if transpose else MATRIX, RIGHT)
    scales = jnp.array([1.0, -2.0, 5.0])
    x, ok, _ = jax.jit(jax.vmap(solve))(scales)
    assert np.all(ok)
    np.testing.assert_allclose(x, exact / scales[:, None], rtol=1e-12)


def test_newton_and_its_derivative():
    residual = jsci.Root(lambda y, a: ARRAY @ y + a * y**3 - RIGHT)
    solver = KLU(MATRIX)
    newton = jsci.solvers.Newton(1e-11, 1e-11, linear_solver=solver)
    adjoint = jsci.ImplicitAdjoint(solver)

    def total(a):
        return jnp.sum(jsci.solve(residual, newton, jnp.zeros(N * N), a, adjoint=adjoint).value)

    value, slope = jax.jit(jax.value_and_grad(total))(0.3)
    assert np.isfinite(value)
    difference = (total(0.3 + 1e-5) - total(0.3 - 1e-5)) / 2e-5
    np.testing.assert_allclose(slope, difference, rtol=1e-8)


def test_what_it_refuses():
    outside = Operator(lambda v: ARRAY @ v + 0.1 * v[::-1], jnp.zeros(N * N))
    solver = KLU(MATRIX)
    x, ok, _ = solver.solve(outside, solver.prepare(outside), jnp.asarray(RIGHT))
    assert not ok and np.all(np.isnan(x))
    with pytest.raises(ValueError, match="`pattern` is .* found from numbers at one point"):
        KLU(Pattern(([0, 1], [0, 1]), exact=False))
    with pytest.raises(TypeError, match="complex"):
        solver.prepare(Operator(lambda v: ARRAY @ v, jnp.zeros(N * N, complex)))
    singular = Operator(lambda v: 0 * v, jnp.zeros(2))
    with pytest.raises(Exception, match="singular"):
        one = KLU(([0, 1], [0, 1]))
        jax.block_until_ready(one.solve(singular, one.prepare(singular), jnp.ones(2))[0])
