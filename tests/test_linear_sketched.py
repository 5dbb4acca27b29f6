"""Randomised solvers against NumPy; the size of what they are better at."""

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest

from jaxsci.linear import CG, Kaczmarz, Nystrom, Operator, SketchAndProject, lsmr, sketched_least_squares

N = 12
RNG = np.random.default_rng(5)
MATRIX = RNG.normal(size=(N, N)) / N**0.5 + 2 * np.eye(N)


def operator(matrix):
    matrix = jnp.asarray(matrix)
    return Operator(lambda x: matrix @ x, jnp.zeros(len(matrix), matrix.dtype))


SOLVERS = {
    "Kaczmarz": Kaczmarz(rtol=1e-11),
    "block Kaczmarz": Kaczmarz(block=4, rtol=1e-11),
    "sketch and project": SketchAndProject(size=5, rtol=1e-11),
}


@pytest.mark.parametrize("name", SOLVERS)
def test_against_numpy(name):
    solver = SOLVERS[name]
    complex_ = MATRIX + 0.2j * RNG.normal(size=(N, N))

    @jax.jit
    def found(matrix, complex_, b):
        def one(matrix, b, transpose):
            a = operator(matrix)
            return solver.solve(a, solver.prepare(a), b, transpose=transpose)[:2]

        singular = one(matrix.at[0].set(0), b, False)[1]
        return one(matrix, b, False), one(matrix, b, True), one(complex_, b + 1j, False), singular

    b = jnp.arange(1.0, N + 1)
    plain, transposed, of_complex, singular = found(jnp.asarray(MATRIX), jnp.asarray(complex_), b)
    assert plain[1] and transposed[1] and of_complex[1] and not singular
    np.testing.assert_allclose(plain[0], np.linalg.solve(MATRIX, b), rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(transposed[0], np.linalg.solve(MATRIX.T, b), rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(of_complex[0], np.linalg.solve(complex_, b + 1j), rtol=1e-8, atol=1e-9)


def test_sketch_and_precondition():
    """Few steps whatever the condition number, where LSMR alone is not there after as many as it likes."""
    matrix = jnp.asarray(RNG.normal(size=(300, 20)) * 10.0 ** np.linspace(0, 6, 20))
    b = jnp.asarray(RNG.normal(size=300))
    sol = jax.jit(lambda b: sketched_least_squares(matrix, b, jax.random.key(0)))(b)
    expected = np.linalg.lstsq(matrix, b, rcond=None)[0]
    scale = np.linalg.norm(matrix, axis=0)
    np.testing.assert_allclose(sol.value * scale, expected * scale, rtol=1e-10, atol=1e-12)
    assert sol.iterations < 60
    plain = jax.jit(lambda b: lsmr(lambda x: matrix @ x, b, jnp.zeros(20), max_steps=100))(b)
    assert np.abs((plain.value - expected) * scale).max() > 1e-8


def test_nystrom():
    """A kernel matrix with a fast spectrum: iterations fall to a handful."""
    x = np.linspace(0, 1, 80)
    kernel = np.exp(-((x[:, None] - x) ** 2) / 0.02)
    shift = 1e-4
    matrix = jnp.asarray(kernel + shift * np.eye(80))
    a = Operator(lambda v: matrix @ v, jnp.zeros(80), None, frozenset({lx.positive_semidefinite_tag}))
    b = jnp.asarray(RNG.normal(size=80))
    counts = []
    for preconditioner in (None, Nystrom(30, shift)):
        solver = CG(rtol=1e-10, preconditioner=preconditioner)
        x_, ok, k = jax.jit(lambda b, s=solver: s.solve(a, s.prepare(a), b))(b)
        assert ok
        np.testing.assert_allclose(x_, np.linalg.solve(matrix, b), rtol=1e-5, atol=1e-5 * np.abs(x_).max())
        counts.append(int(k))
    assert counts[1] < 12 and 4 * counts[1] < counts[0]


def test_mistakes_are_named():
    a = operator(MATRIX)
    with pytest.raises(ValueError, match="divisor of the 12"):
        Kaczmarz(block=5).prepare(a)
    with pytest.raises(ValueError, match="`size` of SketchAndProject"):
        SketchAndProject(size=13).prepare(a)
    with pytest.raises(ValueError, match="`rank` of Nystrom"):
        Nystrom(0, 1.0).prepare(a)
    with pytest.raises(ValueError, match="jaxsci.linear.lsmr"):
        sketched_least_squares(jnp.ones((2, 3)), jnp.ones(2), jax.random.key(0))
