"""The banded solver against NumPy, in chunks and in a row; and what `verify` says of a wrong structure."""

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest

import jaxsci as jsci
from jaxsci.linear import (
    CG,
    LU,
    MINRES,
    Banded,
    BlockDiagonal,
    BlockTridiagonal,
    Bordered,
    Cholesky,
    Kronecker,
    Operator,
    Sine,
    Spectral,
    laplacian_symbol,
    verify,
)


def band(n, lower, upper, periodic=False, seed=0):
    """Random entries, with nothing on the diagonal that would make pivoting needless."""
    rng = np.random.default_rng(seed)
    offset = np.arange(n) - np.arange(n)[:, None]
    near = (offset >= -lower) & (offset <= upper)
    if periodic:
        near |= ((offset + lower) % n <= lower + upper) & (offset != 0)
    return np.where(near, rng.normal(size=(n, n)), 0)


def operator(a, tags=frozenset()):
    return Operator(lambda x: a @ x, jnp.zeros(len(a), a.dtype), None, tags)


def run(solver, a, b):
    def both(matrix, b):
        a = operator(matrix)
        prepared = solver.prepare(a)
        return solver.solve(a, prepared, b)[:2], solver.solve(a, prepared, b, transpose=True)[:2]

    return jax.jit(both)(jnp.asarray(a), jnp.asarray(b))


CASES = {
    "tridiagonal": (40, Banded(1, 1)),
    "in chunks, not all of one length": (37, Banded(1, 1, chunks=4)),
    "one chunk": (20, Banded(2, 1, chunks=1)),
    "periodic": (23, Banded(1, 2, periodic=True)),
    "wide, in a row": (45, Banded(5, 4)),
    "smaller than its band": (3, Banded(2, 2)),
    "diagonal": (9, Banded(0, 0)),
}


@pytest.mark.parametrize("name", CASES)
def test_against_numpy(name):
    n, solver = CASES[name]
    a = band(n, solver.lower, solver.upper, solver.periodic)
    b = np.arange(1.0, n + 1)
    for (x, ok), matrix in zip(run(solver, a, b), (a, a.T), strict=True):
        assert ok
        expected = np.linalg.solve(matrix, b)
        np.testing.assert_allclose(x, expected, rtol=1e-10, atol=1e-11 * np.abs(expected).max())


@pytest.mark.parametrize("solver", [Banded(1, 1), Banded(1, 1, chunks=4)], ids=["row", "chunks"])
def test_complex(solver):
    a = band(19, 1, 1) + 1j * band(19, 1, 1, seed=1)
    b = np.arange(19) + 1j
    for (x, ok), matrix in zip(run(solver, a, b), (a, a.T), strict=True):
        assert ok
        np.testing.assert_allclose(x, np.linalg.solve(matrix, b), rtol=1e-10)


def test_float32():
    a = band(37, 1, 1) + 4 * np.eye(37)
    for solver in (Banded(1, 1), Banded(1, 1, chunks=4)):
        for (x, ok), matrix in zip(
            run(solver, np.float32(a), np.ones(37, np.float32)), (a, a.T), strict=True
        ):
            assert ok and x.dtype == jnp.float32
            np.testing.assert_allclose(x, np.linalg.solve(matrix, np.ones(37)), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("solver", [Banded(1, 1), Banded(1, 1, chunks=4)], ids=["row", "chunks"])
def test_singular_lanes_are_nan(solver):
    # Zero slope at both ends: constants are in the kernel, and a sum of zero is in the range.
    neumann = 2 * np.eye(24) - np.eye(24, k=1) - np.eye(24, k=-1)
    neumann[0, 0] = neumann[-1, -1] = 1

    def lane(shift):
        a = operator(jnp.asarray(neumann) + shift * jnp.eye(24))
        return solver.solve(a, solver.prepare(a), jnp.cos(jnp.pi * (jnp.arange(24) + 0.5) / 24))[:2]

    x, ok = jax.jit(jax.vmap(lane))(jnp.array([1.0, 0.0]))
    assert ok.tolist() == [True, False] and np.isnan(x[1]).all()
    expected = np.linalg.solve(neumann + np.eye(24), np.cos(np.pi * (np.arange(24) + 0.5) / 24))
    np.testing.assert_allclose(x[0], expected, rtol=1e-10)


def test_entries_outside_of_the_band_are_loud():
    a = band(20, 1, 1) + 4 * np.eye(20)
    a[3, 11] = 1.0
    (_, ok), (_, transposed_ok) = run(Banded(1, 1), a, np.ones(20))
    assert not ok and not transposed_ok


def test_inside_shard_map(devices):
    mesh = devices(4)
    a = band(24, 1, 1) + 4 * np.eye(24)

    def one(shift):
        found = []
        for solver in (Banded(1, 1, chunks=4), Banded(5, 4)):
            matrix = jnp.asarray(a) + shift[0] * jnp.eye(24)
            op = Operator(lambda x, matrix=matrix: matrix @ x, jnp.zeros_like(matrix[0]))
            prepared = solver.prepare(op)
            found += [solver.solve(op, prepared, jnp.ones(24), transpose=t)[0] for t in (False, True)]
        return jnp.stack(found)[None]

    spec = jax.sharding.PartitionSpec("devices")
    x = jax.jit(jax.shard_map(one, mesh=mesh, in_specs=spec, out_specs=spec))(jnp.arange(4.0))
    for shift in range(4):
        for i, matrix in enumerate((a, a.T) * 2):
            expected = np.linalg.solve(matrix + shift * np.eye(24), np.ones(24))
            np.testing.assert_allclose(x[shift, i], expected, rtol=1e-10)


def test_as_the_solver_of_the_implicit_rule():
    fn = lambda y, a: y**3 + (2 + a) * y - jnp.pad(y, (1, 0))[:-1] - 0.5 * jnp.pad(y, (0, 1))[1:] - 1.0
    a = jnp.linspace(0.5, 1.5, 16)
    y = jsci.solve(jsci.Root(fn), jsci.solvers.Newton(1e-13, 1e-13), jnp.zeros(16), a).value
    loss = lambda linear: (
        lambda a: jnp.sum(jnp.sin(jsci.attach(jsci.Root(fn), y, a, adjoint=jsci.ImplicitAdjoint(linear))))
    )
    found, oracle = (jax.jit(jax.grad(loss(s)))(a) for s in (Banded(1, 1), LU()))
    np.testing.assert_allclose(found, oracle, rtol=1e-10)


def test_numbers_are_checked():
    with pytest.raises(ValueError, match="`lower` is -1"):
        Banded(-1, 1)
    with pytest.raises(ValueError, match="meets itself"):
        Banded(2, 2, periodic=True).prepare(operator(jnp.eye(4)))
    with pytest.raises(ValueError, match="no multiple"):
        BlockDiagonal(3).prepare(operator(jnp.eye(4)))
    with pytest.raises(ValueError, match="`border` is 4"):
        Bordered(LU(), 4).prepare(operator(jnp.eye(4)))


DIRICHLET = Spectral((Sine(),), laplacian_symbol((Sine(),), (12,), (0.5,)))
SPD = frozenset({lx.positive_semidefinite_tag})
FAR = band(12, 1, 1).copy()
FAR[3, 11] = 2.5
SECOND = 2 * np.eye(12) - np.eye(12, k=1) - np.eye(12, k=-1)
HALVES = np.kron(np.diag([1.0, 1, 0, 1]), np.ones((3, 3)) + np.eye(3))
FAULTS = {
    "outside of the band": (Banded(1, 1), FAR, r"A\[3, 11\] = 2.5 is outside of the band of lower = 1"),
    "a ring is no chain": (Banded(1, 1), SECOND - np.eye(12, k=11), r"A\[0, 11\] = -1 is outside"),
    "a ring of longer reach": (Banded(0, 1, periodic=True), SECOND, r"\] = -1 is outside of .* periodic"),
    "coupled blocks": (BlockDiagonal(3), SECOND, r"A\[3, 2\] = -1 is outside of the blocks of 3 rows on"),
    "blocks of longer reach": (BlockTridiagonal(3), FAR, r"A\[3, 11\] = 2.5 is outside of the blocks"),
    "singular blocks": (BlockDiagonal(3), HALVES, "Singular blocks: 2"),
    "in the middle of an arrow": (Bordered(Banded(1, 1), 1), np.pad(FAR, (0, 1)), r"A\[3, 11\] = 2.5"),
    "no Kronecker sum": (Kronecker((np.eye(3), np.eye(4))), SECOND, "A is not the Kronecker sum"),
    "other ends": (DIRICHLET, SECOND, "A is not the operator"),
    "not symmetric, CG": (CG(), FAR, "A is not symmetric"),
    "not symmetric, MINRES": (MINRES(), FAR, "A is not symmetric"),
    "not positive": (Cholesky(), SECOND - np.eye(12), "A is not positive definite"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_verify_names_the_fault(name):
    solver, a, message = FAULTS[name]
    with pytest.raises(ValueError, match=message):
        verify(solver, operator(jnp.asarray(a), SPD))


@pytest.mark.parametrize(
    "solver", [Banded(1, 1), BlockTridiagonal(3), Bordered(Banded(1, 1), 1), CG(), LU(), Kronecker((SECOND,))]
)
def test_verify_is_silent_where_all_is_well(solver):
    verify(solver, operator(jnp.asarray(SECOND), SPD))
