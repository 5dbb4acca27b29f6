"""GMRES with a space that is kept from system to system: against NumPy, and the iterations it saves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsci.linear import GMRES, Jacobi, Operator, RecycledGMRES

N = 12
RNG = np.random.default_rng(3)
ROWS = RNG.normal(size=(3, N))
MATRIX = RNG.normal(size=(N, N)) / N**0.5 + 2 * np.eye(N)
COMPLEX = MATRIX + 1j * RNG.normal(size=(N, N)) / N**0.5

CASES = {
    "plain": (RecycledGMRES(jnp.asarray(ROWS), restart=5), MATRIX),
    "both sides, dependent directions": (
        RecycledGMRES(
            jnp.asarray(np.vstack([ROWS, ROWS[0] - ROWS[1], 0 * ROWS[0]])),
            preconditioner=Jacobi(),
            left=lambda r: r / jnp.linspace(1.0, 3.0, N),
        ),
        MATRIX,
    ),
    "complex": (RecycledGMRES(jnp.asarray(ROWS + 1j * ROWS[::-1]), restart=4, left=Jacobi()), COMPLEX),
}


def operator(matrix):
    return Operator(lambda x: matrix @ x, jnp.zeros(len(matrix), matrix.dtype))


@pytest.mark.parametrize("name", CASES)
def test_against_numpy(name):
    """Forward and transposed, small right-hand sides, each lane on its own, NaN where A is singular."""
    solver, matrix = CASES[name]
    b = jnp.arange(1.0, N + 1).astype(matrix.dtype)

    @jax.jit
    def found(factors, scales):
        def one(factor, scale):
            a = operator(factor * jnp.asarray(matrix))
            prepared = solver.prepare(a)
            return [solver.solve(a, prepared, scale * b, transpose=t) for t in (False, True)]

        return jax.vmap(one)(factors, scales)

    both = found(jnp.array([1.0, 2.0, 0.0]), jnp.array([1.0, 1e-30, 1.0]))
    for (x, ok, k), a in zip(both, (matrix, matrix.T), strict=True):
        assert ok.tolist() == [True, True, False] and np.isnan(x[2]).all() and (k[:2] > 0).all()
        expected = np.linalg.solve(a, b)
        np.testing.assert_allclose(x[0], expected, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(x[1] * 2e30, expected, rtol=1e-10, atol=1e-12)


def test_an_invariant_subspace_leaves_the_steps_of_its_complement():
    """Four eigenvectors, and three other eigenvalues: three steps. Where they are not known, seven (and
    one for rounding), and then they are learned, if A is normal. In float32 too."""
    values = np.r_[0.1, 0.2, 0.3, 0.5, np.repeat([1.0, 2.0, 4.0], [9, 9, 8])]
    vectors = RNG.normal(size=(30, 30)) / 30**0.5 + 2 * np.eye(30)
    matrix = vectors * values @ np.linalg.inv(vectors)
    b = RNG.normal(size=30)
    mixed = RNG.normal(size=(4, 4)) @ vectors[:, :4].T

    @jax.jit
    def found(matrix, rows, b, rtol):
        a, solver = operator(matrix), RecycledGMRES(rows, rtol)
        x, ok, k = solver.solve(a, solver.prepare(a), b)
        _, _, again, later = solver.recycle(a, b)
        # What is learned from one system, with another right-hand side.
        return x, ok, k, again, later.recycle(a, b[::-1])[2]

    x, ok, k, again, _ = found(matrix, mixed, b, 1e-11)
    assert ok and k == 3 and again == 3
    np.testing.assert_allclose(x, np.linalg.solve(matrix, b), rtol=1e-8)
    orthogonal = np.linalg.qr(vectors)[0]
    _, ok, k, _, later = found(orthogonal * values @ orthogonal.T, 0 * mixed, b, 1e-9)
    assert ok and 7 <= k <= 8 and later == 3
    x, ok, k, *_ = found(*map(np.float32, (matrix, mixed, b)), 1e-4)
    assert ok and k == 3 and x.dtype == jnp.float32
    np.testing.assert_allclose(x, np.linalg.solve(matrix, b), atol=1e-2 * np.abs(x).max())


def test_a_sequence_of_convections():
    """−Δu + c(1 + s/50)·∇u on 16² points: against dense matrices, and half of the iterations of a GMRES that
    has the same memory. Two sequences side by side, on a pytree."""
    n, k, m = 16, 8, 16
    line = jnp.arange(1, n + 1) / (n + 1)
    along, across = 5 * jnp.sin(jnp.pi * line), 5 * jnp.cos(jnp.pi * line[:, None])

    def convection(speed, u):
        p = jnp.pad(u, 1)
        (e, w), (f, g) = (p[2:, 1:-1], p[:-2, 1:-1]), (p[1:-1, 2:], p[1:-1, :-2])
        return 4 * u - e - w - f - g + speed / (2 * n + 2) * (along * (e - w) + across * (f - g))

    speeds = 1 + 0.02 * jnp.arange(4)
    right = jnp.asarray(RNG.normal(size=(2, 4, n, n)))

    def step(solver, system):
        speed, b = system
        a = Operator(lambda u: {"u": convection(speed, u["u"])}, {"u": b})
        x, ok, count, solver = solver.recycle(a, {"u": b})
        plain = GMRES(rtol=1e-12, restart=m + 2 * k)
        return solver, (x["u"], ok, count, plain.attempt(a, plain.prepare(a), {"u": b})[3])

    def sequence(right):
        start = RecycledGMRES.empty({"u": right[0]}, k, rtol=1e-12, restart=m)
        return jax.lax.scan(step, start, (speeds, right))[1]

    x, ok, count, plain = jax.jit(jax.vmap(sequence))(right)
    assert ok.all()
    assert (count[:, 0] < 0.8 * plain[:, 0]).all() and (2 * count[:, 1:] < plain[:, 1:]).all()
    columns = jax.jit(jax.vmap(jax.vmap(convection, (None, 0)), (0, None)))
    for s, a in enumerate(columns(speeds, jnp.eye(n * n).reshape(-1, n, n))):
        for lane in (0, 1):
            expected = np.linalg.solve(a.reshape(n * n, n * n).T, right[lane, s].ravel())
            np.testing.assert_allclose(x[lane, s].ravel(), expected, atol=1e-10 * np.abs(expected).max())


def test_mistakes_are_named():
    for rows, message in (
        (jnp.ones((N, N)), f"is {N} vectors of {N} scalars, and the operator has {N} unknowns"),
        (jnp.ones((2, N + 1)), f"2 vectors of {N + 1} scalars"),
    ):
        with pytest.raises(ValueError, match=message):
            RecycledGMRES(rows).prepare(operator(MATRIX))
