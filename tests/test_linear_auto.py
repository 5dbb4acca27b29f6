"""What `auto` finds, against NumPy; it says what was checked where, and its choice solves the system."""

import importlib.util

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest

import jaxsci as jsci
from jaxsci.linear import CG, GMRES, LU, Banded, Cholesky, Sparse, auto

ASDEX = importlib.util.find_spec("asdex") is not None
WHERE = "for every y" if ASDEX else "at this y only"


def heat(u, a):
    v = jnp.pad(u, 1)
    return 2 * v[1:-1] - v[2:] - v[:-2] + a * u**3


def wind(u, a):
    v = jnp.pad(u, 1)
    return heat(u, a) + 0.5 * (v[2:] - v[:-2])


def square(u, a):
    v = jnp.pad(u, 1)
    return 4 * u - v[2:, 1:-1] - v[:-2, 1:-1] - v[1:-1, 2:] - v[1:-1, :-2] + a * u**3


def box(n):
    return jnp.cos(jnp.arange(1.0, n * n + 1)).reshape(n, n)


line = jnp.cos(jnp.arange(1.0, 201.0))
full = jnp.asarray(np.random.default_rng(0).normal(size=(100, 100)))

CASES = {
    # fn, y, a, bandwidth, entries, blocks, symmetric, positive, kind of solver
    "heat": (heat, line, 1.0, (1, 1), 598, 1, True, True, Banded),
    "wind": (wind, line, 1.0, (1, 1), 598, 1, False, False, Banded),
    "indefinite": (heat, line, -5.0, (1, 1), 598, 1, True, False, Banded),
    "square": (square, box(20), 1.0, (20, 20), 1920, 1, True, True, Sparse),
    "pointwise": (lambda u, a: u**3 - a, line, 1.0, (0, 0), 200, 200, True, True, Banded),
    "dense": (lambda u, a: full @ u + a, line[:100], 1.0, (99, 99), 10000, 1, False, False, LU),
    "small": (heat, line[:8], 1.0, (1, 1), 22, 1, True, True, Cholesky),
}


def solved(solver, fn, y, a):
    """x with A x = 1, and whether it was accepted."""

    def run(y):
        operator = jsci.linear.Operator(lambda v: jax.jvp(lambda y: fn(y, a), (y,), (v,))[1], y)
        return solver.solve(operator, solver.prepare(operator), jnp.ones_like(y))[:2]

    return jax.jit(run)(y)


@pytest.mark.parametrize("name", CASES)
def test_structure(name):
    fn, y, a, bandwidth, nnz, blocks, symmetric, positive, kind = CASES[name]
    report = auto(jsci.Root(fn), y, a)
    assert (report.size, report.bandwidth, report.nnz, report.blocks) == (y.size, bandwidth, nnz, blocks)
    assert (report.symmetric, report.positive) == (symmetric, positive)
    assert type(report.solver) is kind
    assert report.pattern.exact == ASDEX and WHERE in report.checks["pattern"]
    assert "at this y only" in report.checks["symmetric"]
    text = str(report)
    assert f"{kind.__name__}: " in text and len(text.splitlines()) == 6
    matrix = np.asarray(jax.jacfwd(lambda v: fn(v.reshape(y.shape), a).ravel())(y.ravel()))
    assert report.positive == bool(symmetric and np.linalg.eigvalsh(matrix)[0] > 0)
    x, ok = solved(report.solver, fn, y, a)
    assert ok
    np.testing.assert_allclose(x.ravel(), np.linalg.solve(matrix, np.ones(y.size)), rtol=1e-8)


def test_large_and_promised():
    y = jnp.cos(jnp.arange(3000.0))
    smooth = 1 / (1 + jnp.arange(1501.0) ** 2)
    matrix_free = lambda u, a: u + jnp.fft.irfft(jnp.fft.rfft(u) * smooth, 3000) + a * u[::-1]
    report = auto(jsci.Root(matrix_free), y, 0.0)
    assert report.symmetric and report.positive is None and isinstance(report.solver, GMRES)
    assert "no proof" in report.checks["positive"]
    promised = jsci.Root(matrix_free, tags=frozenset({lx.positive_semidefinite_tag}))
    report = auto(promised, y, 0.0)
    assert isinstance(report.solver, CG) and report.checks["positive"] == "promised by the residual"
    large = auto(jsci.Root(heat), y, 1.0)
    assert large.positive and "pivots" in large.checks["positive"] and isinstance(large.solver, Banded)
    assert not auto(jsci.Root(heat), y, -5.0).positive


def test_a_preconditioner_is_preferred_to_large_factors():
    class Square(jsci.AbstractResidual):
        def __call__(self, u, a):
            return square(u, a)

        def preconditioner(self, u, a):
            return lambda r: r / 4

    report = auto(Square(), box(50), 1.0)
    assert isinstance(report.solver, CG) and "has a preconditioner" in report.reason


def test_a_pattern_that_changes_is_loud():
    """At 0 the terms that couple the ends vanish; the solver that was picked there gives NaN elsewhere."""
    fn = lambda y, a: heat(y, 1.0) + 0.3 * y * jnp.roll(y, 80) - a
    report = auto(jsci.Root(fn), jnp.zeros(200), 1.0)
    y = line
    x, ok = solved(report.solver, fn, y, 1.0)
    if ASDEX:
        assert ok  # it knew of them
    else:
        assert not ok and np.isnan(x).all() and "elsewhere, NaN" in report.reason


def test_a_function_is_refused():
    with pytest.raises(TypeError, match="such as jaxsci.Root"):
        auto(heat, line, 1.0)
