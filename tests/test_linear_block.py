"""Block, bordered, Kronecker and spectral solvers against NumPy; float32, complex, singular blocks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsci.linear import (
    CG,
    Banded,
    BlockDiagonal,
    BlockTridiagonal,
    Bordered,
    Cosine,
    Fourier,
    Kronecker,
    Operator,
    Sine,
    Spectral,
    laplacian_symbol,
)


def normal(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def blocks(b, count, around):
    """A dense array of count × count blocks, zero but near the diagonal."""
    a = normal((count, b, count, b))
    far = np.abs(np.arange(count)[:, None] - np.arange(count)) > around
    return np.where(far[:, None, :, None], 0, a).reshape(count * b, count * b)


def bordered(a, k):
    n = len(a)
    full = normal((n + k, n + k), 3)
    full[:n, :n] = a
    return full


def kronecker(*matrices, shift=0.0):
    total = shift * np.eye(np.prod([len(a) for a in matrices]))
    for k, a in enumerate(matrices):
        parts = [np.eye(len(m)) for m in matrices]
        parts[k] = a
        product = parts[0]
        for p in parts[1:]:
            product = np.kron(product, p)
        total += product
    return total


def second(n, first, last, corner=0.0):
    """2u − u₋ − u₊ with the entries `first` and `last` at the ends."""
    a = 2 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1)
    a[0, 0], a[-1, -1] = first, last
    a[0, -1] += corner
    a[-1, 0] += corner
    return a


SYMMETRIC = [a + a.T for a in (normal((3, 3), 1), normal((4, 4), 2))]
GENERAL = [normal((3, 3), 4), normal((4, 4), 5)]
MIXED = (Sine(), Cosine(), Fourier())
GRID = kronecker(second(4, 2, 2) / 0.25, second(3, 1, 1), second(5, 2, 2, -1) / 4, shift=0.7)

CASES = {
    "block diagonal, 3": (BlockDiagonal(3), blocks(3, 5, 0)),
    "block diagonal, 6": (BlockDiagonal(6, refinements=1), blocks(6, 3, 0)),
    "block tridiagonal": (BlockTridiagonal(3), blocks(3, 5, 1)),
    "block tridiagonal, parallel": (BlockTridiagonal(2, parallel=True), blocks(2, 5, 1)),
    "bordered": (Bordered(Banded(1, 1), 2), bordered(second(9, 2.5, 2.5), 2)),
    "ring": (Bordered(BlockTridiagonal(1), 1), second(9, 2.5, 2.5, -1)),
    "Kronecker": (Kronecker(SYMMETRIC, 0.3), kronecker(*SYMMETRIC, shift=0.3)),
    "Kronecker, general": (Kronecker(GENERAL, 0.3, symmetric=False), kronecker(*GENERAL, shift=0.3)),
    "spectral": (Spectral(MIXED, laplacian_symbol(MIXED, (4, 3, 5), (0.5, 1.0, 2.0), 0.7)), GRID),
}


def both(solver, matrix, b):
    a = Operator(lambda x: matrix @ x, b)
    prepared = solver.prepare(a)
    return solver.solve(a, prepared, b), solver.solve(a, prepared, b, transpose=True)


def run(solver, a, b):
    return jax.jit(lambda a, b: both(solver, a, b))(jnp.asarray(a), jnp.asarray(b))


@pytest.mark.parametrize("name", CASES)
def test_against_numpy(name):
    solver, a = CASES[name]
    b = normal(len(a), 7)
    for (x, ok, iterations), matrix in zip(run(solver, a, b), (a, a.T), strict=True):
        assert ok and iterations == 0
        np.testing.assert_allclose(x, np.linalg.solve(matrix, b), rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("name", CASES)
def test_complex(name):
    solver, a = CASES[name]
    if name not in {"Kronecker", "Kronecker, general", "spectral"}:
        a = a + 0.5j * np.where(a != 0, normal(a.shape, 8), 0)
    b = normal(len(a), 7) + 1j
    for (x, ok, _), matrix in zip(run(solver, a.astype(complex), b), (a, a.T), strict=True):
        assert ok
        np.testing.assert_allclose(x, np.linalg.solve(matrix, b), rtol=1e-9, atol=1e-10)


def test_singular_blocks_leave_the_others():
    a = blocks(3, 4, 0)
    a[3:6, 3:6] = 1
    op = Operator(lambda x: jnp.asarray(a) @ x, jnp.ones(12))
    solver = BlockDiagonal(3)
    x, _, ok, _ = jax.jit(lambda b: solver.attempt(op, solver.prepare(op), b))(jnp.ones(12))
    assert not ok and np.isnan(x[3:6]).all()
    for i in (0, 6, 9):
        expected = np.linalg.solve(a[i : i + 3, i : i + 3], np.ones(3))
        np.testing.assert_allclose(x[i : i + 3], expected, rtol=1e-10)


@pytest.mark.parametrize("transform", [Sine(), Cosine()], ids=["sine", "cosine"])
def test_long_transforms_agree_with_their_matrices(transform):
    n = 131  # longer than what is multiplied out
    j, theta = np.arange(n), np.asarray(transform.angles(n))
    at = j + 1 if isinstance(transform, Sine) else j + 0.5
    matrix = (np.sin if isinstance(transform, Sine) else np.cos)(theta[:, None] * at)
    matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
    x = normal(n)
    both = jax.jit(lambda x: (transform.forward(x, 0), transform.backward(x, 0)))
    for found, expected in zip(both(x), (matrix @ x, matrix.T @ x), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)


def test_a_nearby_operator_is_a_preconditioner():
    def iterations(n):
        near = Spectral((Sine(), Sine()), laplacian_symbol((Sine(),) * 2, (n, n), (1 / (n + 1),) * 2))
        a = kronecker(*(second(n, 2, 2) * (n + 1) ** 2,) * 2) + np.diag(50 + 50 * np.cos(np.arange(n * n)))
        op = Operator(lambda x: jnp.asarray(a) @ x, jnp.ones(n * n))
        _, ok, count = jax.jit(lambda b: CG(preconditioner=near).solve(op, None, b))(jnp.ones(n * n))
        assert ok
        return int(count)

    assert abs(iterations(6) - iterations(18)) <= 2


def test_null_vectors():
    ends = (Fourier(), Cosine())
    spectral = Spectral(ends, laplacian_symbol(ends, (4, 5), (1.0, 1.0)))
    op = Operator(lambda x: 2 * x, jnp.ones((4, 5)))
    x, ok, _ = jax.jit(lambda b: spectral.solve(op, spectral.prepare(op), b))(jnp.ones((4, 5)))
    assert not ok and np.isnan(x).all()
    neumann = second(3, 1, 1)
    for solver in (spectral, Kronecker((neumann, neumann))):
        n = 20 if solver is spectral else 9
        near = jax.jit(lambda r: solver(r))  # noqa: B023
        np.testing.assert_allclose(near(jnp.ones(n)), 0, atol=1e-12)
        assert np.abs(near(jnp.cos(jnp.arange(n)))).max() > 0.1


def test_arguments_are_checked():
    with pytest.raises(ValueError, match=r"`matrices\[1\]` has shape \(2, 3\)"):
        Kronecker((jnp.eye(2), jnp.ones((2, 3))))
    with pytest.raises(ValueError, match=r"`matrices\[0\]` is traced"):
        jax.jit(lambda a: Kronecker((a,), symmetric=False)(jnp.ones(2)))(jnp.eye(2))
    with pytest.raises(ValueError, match="`transforms` 1 entries"):
        Spectral((Sine(),), jnp.ones((2, 2)))
    with pytest.raises(ValueError, match="expected one for each axis"):
        laplacian_symbol((Sine(),), (2, 2), (0.5,))
    with pytest.raises(ValueError, match="the operator has 4 unknowns; expected 9"):
        Kronecker((jnp.eye(3),) * 2).prepare(Operator(lambda x: x, jnp.ones(4)))
