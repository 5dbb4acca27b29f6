"""MINRES, LSMR, flexible and left-preconditioned GMRES, deflated CG: against NumPy and SciPy."""

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest

from jaxsci.linear import (
    CG,
    FGMRES,
    GMRES,
    LSMR,
    MINRES,
    BiCGStab,
    DeflatedCG,
    Jacobi,
    LeastSquaresSolution,
    Operator,
    lsmr,
)

N = 12
SPD = frozenset({lx.positive_semidefinite_tag})
SYMMETRIC = frozenset({lx.symmetric_tag})
RNG = np.random.default_rng(3)
DIRECTIONS = jnp.asarray(RNG.normal(size=(3, N)))
GENERAL = RNG.normal(size=(N, N)) / N**0.5 + 2 * np.eye(N)
INDEFINITE = GENERAL + GENERAL.T - 4 * np.eye(N) + np.diag(np.where(np.arange(N) % 2, 3.0, -3.0))
POSITIVE = GENERAL @ GENERAL.T + np.eye(N)
SKEW = 1j * RNG.normal(size=(N, N)) / N**0.5

CASES = {
    "MINRES": (MINRES(), INDEFINITE, SYMMETRIC),
    "MINRES, preconditioned": (
        MINRES(preconditioner=Jacobi(jnp.linspace(1.0, 3.0, N))),
        INDEFINITE,
        SYMMETRIC,
    ),
    "LSMR": (LSMR(), GENERAL, frozenset()),
    "GMRES, left": (GMRES(left=Jacobi(), restart=6), GENERAL, frozenset()),
    "GMRES, restart of a learner": (GMRES(restart=jnp.array(5), max_restart=9), GENERAL, frozenset()),
    "FGMRES, inner GMRES": (FGMRES(preconditioner=GMRES(restart=3, max_cycles=1)), GENERAL, frozenset()),
    "DeflatedCG": (DeflatedCG(DIRECTIONS), POSITIVE, SPD),
}


def operator(matrix, tags=frozenset()):
    matrix = jnp.asarray(matrix)
    return Operator(lambda x: matrix @ x, jnp.zeros(len(matrix), matrix.dtype), None, tags)


def solve(solver, a, b, transpose=False):
    return solver.solve(a, solver.prepare(a), b, transpose=transpose)


@pytest.mark.parametrize("name", CASES)
def test_against_numpy(name):
    """Forward and transposed, small right-hand sides, each lane on its own, NaN where A is singular."""
    solver, matrix, tags = CASES[name]
    b = jnp.arange(1.0, N + 1)

    @jax.jit
    def found(factors, scales):
        a = lambda factor: operator(factor * matrix, tags)
        one = lambda factor, scale: solve(solver, a(factor), scale * b, False)
        x, ok, k = jax.vmap(one)(factors, scales)
        return x, ok, k, solve(solver, a(1.0), b, True)[0]

    scales = jnp.array([1.0, 1e-30, 1.0])
    x, ok, k, transposed = found(jnp.array([1.0, 2.0, 0.0]), scales)
    assert ok.tolist() == [True, True, False] and np.isnan(x[2]).all() and (k[:2] > 0).all()
    expected = np.linalg.solve(matrix, b)
    np.testing.assert_allclose(x[0], expected, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(x[1] * 2e30, expected, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(transposed, np.linalg.solve(matrix.T, b), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ["MINRES", "LSMR", "DeflatedCG"])
def test_complex(name):
    solver, matrix, _ = CASES[name]
    if name in ("MINRES", "DeflatedCG"):
        matrix = matrix + SKEW + SKEW.conj().T
    else:
        matrix = matrix + SKEW
    if name == "DeflatedCG":
        matrix = matrix @ matrix.conj().T + np.eye(N)
        solver = DeflatedCG(DIRECTIONS + 1j * DIRECTIONS[::-1])
    b = jnp.arange(N) + 1j
    both = lambda b: [solve(solver, operator(matrix), b, t)[0] for t in (False, True)]
    for x, a in zip(jax.jit(both)(b), (matrix, matrix.T), strict=True):
        np.testing.assert_allclose(x, np.linalg.solve(a, b), rtol=1e-9)


def test_float32():
    for name in ("MINRES", "LSMR", "DeflatedCG"):
        solver, matrix, tags = CASES[name]
        if name == "DeflatedCG":
            solver = DeflatedCG(DIRECTIONS.astype(jnp.float32))
        a, b = operator(matrix.astype(np.float32), tags), jnp.ones(N, jnp.float32)
        x, ok, _ = jax.jit(lambda b, s=solver, a=a: solve(s, a, b))(b)
        assert ok and x.dtype == jnp.float32
        np.testing.assert_allclose(x, np.linalg.solve(matrix, np.ones(N)), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("shape", [(20, 8), (8, 20)], ids=["tall", "wide"])
def test_least_squares_of_any_shape(shape):
    """Against SciPy's direct solver, damped and not; the shortest solution where there are many."""
    matrix = RNG.normal(size=shape) + 1j * RNG.normal(size=shape)
    b = RNG.normal(size=shape[0]) + 0j

    @jax.jit
    def found(damping):
        return lsmr(lambda x: matrix @ x, jnp.asarray(b), jnp.zeros(shape[1], complex), damping=damping)

    for damping in (0.0, 0.7):
        sol = found(damping)
        assert isinstance(sol, LeastSquaresSolution)
        rows = np.vstack([matrix, damping * np.eye(shape[1])])
        expected = np.linalg.lstsq(rows, np.append(b, np.zeros(shape[1])), rcond=None)[0]
        np.testing.assert_allclose(sol.value, expected, rtol=1e-10, atol=1e-12)
        residual = np.linalg.norm(b - matrix @ expected) / np.linalg.norm(b)
        np.testing.assert_allclose(sol.residual, residual, atol=1e-12)
        assert sol.normal_residual < 1e-12


def test_a_preconditioner_that_iterates_saves_steps():
    rows = np.diag(10.0 ** np.linspace(0, 3, 40))
    matrix = rows @ (RNG.normal(size=(40, 40)) / 40**0.5 + 2 * np.eye(40))
    a, b = operator(matrix), jnp.asarray(matrix @ np.ones(40))
    counts = []
    for solver in (FGMRES(restart=10), FGMRES(restart=10, preconditioner=BiCGStab(rtol=1e-2))):
        x, ok, k = jax.jit(lambda b, s=solver: solve(s, a, b))(b)
        counts.append(int(k))
    assert ok and 5 * counts[1] < counts[0]
    np.testing.assert_allclose(x, 1, rtol=1e-9)


def test_recycling_along_a_sequence():
    """Six small eigenvalues are learned from one system and deflated in the next."""
    n = 120
    q = np.linalg.qr(RNG.normal(size=(n, n)))[0]
    spectrum = np.r_[10.0 ** np.linspace(-3, -2, 6), np.linspace(1, 10, n - 6)]
    matrix = jnp.asarray(q * spectrum @ q.T)
    right = jnp.asarray(RNG.normal(size=(5, n)))

    def step(solver, system):
        shift, b = system
        a = Operator(lambda x: matrix @ x + shift * x, b, None, SPD)
        x, ok, k, solver = solver.recycle(a, b)
        plain = CG(rtol=1e-9).attempt(a, None, b)[3]
        return solver, (x, ok, k, plain)

    start = DeflatedCG.empty(right[0], 8, rtol=1e-9, window=60)
    shifts = jnp.linspace(0, 1e-3, 5)
    _, (x, ok, k, plain) = jax.jit(lambda: jax.lax.scan(step, start, (shifts, right)))()
    assert ok.all()
    for shift, b, found in zip(shifts, right, x, strict=True):
        np.testing.assert_allclose(
            found, np.linalg.solve(matrix + shift * np.eye(n), b), rtol=1e-5, atol=1e-5
        )
    assert k[0] == plain[0] and (k[2:] < 0.7 * plain[2:]).all()


def test_mistakes_are_named():
    a = operator(GENERAL)
    with pytest.raises(ValueError, match="max_restart"):
        solve(GMRES(restart=jnp.array(3)), a, jnp.ones(N))
