"""Patterns, colors, the sparse direct solver and incomplete factors, against SciPy."""

import importlib.util

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
import scipy.sparse as sp
from jax.experimental.sparse import BCOO
from jax.sharding import Mesh, PartitionSpec as P
from scipy.sparse.linalg import splu

import jaxsci as jsci
from jaxsci.linear import CG, GMRES, IncompleteLU, Operator, Pattern, Sparse, detect_pattern

SPD = frozenset({lx.positive_semidefinite_tag})


def square(n):
    """−∇² on n×n points, times h²."""
    line = sp.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(n, n))
    return sp.csr_array(sp.kron(line, sp.eye_array(n)) + sp.kron(sp.eye_array(n), line))


def scattered(n, seed):
    rng = np.random.default_rng(seed)
    places = rng.choice(n * n, 3 * n, replace=False)
    a = sp.coo_array((rng.normal(size=3 * n), np.divmod(places, n)), (n, n))
    return sp.csr_array(
        a + sp.diags_array(rng.uniform(-0.3, 0.3, n)) + sp.csr_array(sp.eye_array(n))[rng.permutation(n)]
    )


MATRICES = {
    "tridiagonal": sp.csr_array(sp.diags_array([1.0, -0.1, 1.2], offsets=[-1, 0, 1], shape=(50, 50))),
    "square": square(9),
    "scattered": scattered(60, 0),  # zeros on the diagonal: it cannot do without pivots
    "arrow": sp.csr_array(sp.vstack([np.ones((1, 40)), 3 * sp.eye_array(40, format="csr")[1:]])),
    "one": sp.csr_array([[3.0]]),
}  # fmt: skip


def operator(a, tags=frozenset()):
    held = BCOO.from_scipy_sparse(a)
    return Operator(lambda x: held @ x, jnp.zeros(a.shape[0], held.dtype), None, tags)


def run(solver, a, b):
    return solver.solve(a, solver.prepare(a), b)[:2]


def solve(solver, a, b, transpose=False):
    """In one program, and that is quicker than operation by operation."""
    return jax.jit(lambda b: solver.solve(a, solver.prepare(a), b, transpose=transpose))(b)


# --- patterns ---------------------------------------------------------------------------------------


def test_forms_of_a_pattern():
    a = MATRICES["square"]
    first = Pattern(a)
    rows, columns = a.nonzero()
    for other in (
        BCOO.from_scipy_sparse(a), a.toarray() != 0, (rows, columns), (jnp.array(rows), jnp.array(columns)),
    ):  # fmt: skip
        assert Pattern(other) == first and hash(Pattern(other)) == hash(first)
    assert first.size == 81 and first.nnz == a.nnz and first.symmetric and first.bandwidth == (9, 9)
    assert Pattern((rows, columns), 90) != first
    assert repr(first) == "Pattern(81×81, 369 entries)"


@pytest.mark.parametrize("name", MATRICES)
def test_colors_and_values(name):
    a = MATRICES[name]
    pattern = Pattern(a)
    for c in range(pattern.colors.max() + 1):
        ones = a[:, np.nonzero(pattern.colors == c)[0]]
        assert (np.diff(sp.csr_array(ones).indptr) <= 1).all()
    at_most = np.diff(a.indptr).max()
    assert pattern.colors.max() + 1 >= at_most
    values = jax.jit(lambda: pattern.values(operator(a)))()
    np.testing.assert_allclose(values, sp.csr_array(a)[pattern.rows, pattern.columns], rtol=1e-15)
    assert sorted(pattern.order) == list(range(pattern.size))


def test_few_colors_and_narrow_order():
    pattern = Pattern(square(30))
    assert pattern.colors.max() + 1 <= 8  # 5 are needed
    mixed = np.random.default_rng(0).permutation(900)
    shuffled = Pattern(square(30)[mixed][:, mixed])
    assert Sparse(shuffled).width < 40 < 600 < max(shuffled.bandwidth)


def test_wrong_patterns_are_refused():
    with pytest.raises(TypeError, match="`entries` is of type ndarray"):
        Pattern(np.ones((3, 3)))
    with pytest.raises(ValueError, match="shape \\(3, 4\\)"):
        Pattern(np.ones((3, 4), bool))
    with pytest.raises(ValueError, match="1 entries outside"):
        Pattern(([0, 5], [0, 0]), 3)
    with pytest.raises(ValueError, match="found from numbers at one point"):
        Sparse(Pattern(([0], [0]), exact=False))
    with pytest.raises(ValueError, match="matrix of size 81, and the operator has 50"):
        solve(Sparse(MATRICES["square"]), operator(MATRICES["tridiagonal"]), jnp.ones(50))
    with pytest.raises(ValueError, match="`sweeps` is -1"):
        IncompleteLU(MATRICES["square"], sweeps=-1)


def test_detected():
    fn = lambda y: {"u": y["u"][::-1] ** 2 + y["v"][0], "v": jnp.sin(y["v"])}
    y = {"u": jnp.ones(3), "v": jnp.ones(2)}
    if importlib.util.find_spec("asdex") is None:
        with pytest.raises(ImportError, match="give the pattern"):
            detect_pattern(fn, y)
        return
    found = detect_pattern(fn, y)
    flat = lambda v: jnp.concatenate(list(fn({"u": v[:3], "v": v[3:]}).values()))
    assert found == Pattern(np.asarray(jax.jacfwd(flat)(jnp.ones(5))) != 0)


# --- the direct solver ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["square", "scattered", "arrow"])
def test_against_scipy(name):
    a = MATRICES[name]
    n = a.shape[0]
    solver, o, b = Sparse(a), operator(a), np.cos(np.arange(n))

    @jax.jit
    def both(b):
        prepared = solver.prepare(o)
        return [solver.solve(o, prepared, b, transpose=t) for t in (False, True)]

    for (x, ok, iterations), side in zip(both(b), "NT", strict=True):
        assert ok and iterations == 0
        np.testing.assert_allclose(x, splu(sp.csc_matrix(a)).solve(b, side), rtol=1e-10, atol=1e-12)


def test_lanes_kinds_and_scales():
    a = MATRICES["scattered"]
    held = BCOO.from_scipy_sparse(a)
    solver, b = Sparse(a), jnp.cos(jnp.arange(60.0))
    expected = splu(sp.csc_matrix(a)).solve(np.asarray(b))
    full = Sparse(np.asarray((a.toarray() != 0) | np.eye(60, dtype=bool)))
    single = Operator(lambda x: held.astype(jnp.float32) @ x, b.astype(jnp.float32))
    shift = Operator(lambda x: held @ x + 1j * x, b.astype(complex))

    def lane(c):
        return run(solver, Operator(lambda x: c * (held @ x), b), 1e-30 * b)

    def both(b):
        prepared = full.prepare(shift)
        return [full.solve(shift, prepared, b, transpose=t)[:2] for t in (False, True)]

    x, ok = jax.jit(jax.vmap(lane))(jnp.array([1.0, 0.0, 1e20]))
    assert ok.tolist() == [True, False, True] and np.isnan(x[1]).all()
    np.testing.assert_allclose(x[0], 1e-30 * expected, rtol=1e-9)
    np.testing.assert_allclose(x[2], 1e-50 * expected, rtol=1e-9)

    dense = a.toarray() + 1j * np.eye(60)
    for (x, ok), matrix in zip(jax.jit(both)(b + 2j), (dense, dense.T), strict=True):
        assert ok
        np.testing.assert_allclose(x, np.linalg.solve(matrix, b + 2j), rtol=1e-9)

    x, ok = jax.jit(lambda b: run(solver, single, b))(b.astype(jnp.float32))
    assert ok and x.dtype == jnp.float32
    np.testing.assert_allclose(x, expected, rtol=2e-3, atol=2e-3)


def test_an_entry_outside_of_the_pattern_is_loud():
    a = MATRICES["square"]
    wrong = sp.csr_array(a + sp.coo_array(([0.5], ([3], [70])), a.shape))
    x, ok, _ = solve(Sparse(a), operator(wrong), jnp.ones(81))
    assert not ok and np.isnan(x).all()


def test_inside_shard_map():
    a = MATRICES["square"]
    held = jnp.asarray(a.toarray())  # BCOO does not transpose there
    solver = Sparse(a)

    def local(b):
        o = Operator(lambda x: (1 + b[0]) * (held @ x), b)
        prepared = solver.prepare(o)
        return [solver.solve(o, prepared, b, transpose=t)[0] for t in (False, True)]

    b = jnp.cos(jnp.arange(81.0))
    mesh = Mesh(np.array(jax.devices()[:1]), ("d",))
    inside = jax.jit(jax.shard_map(local, mesh=mesh, in_specs=P("d"), out_specs=P("d")))(b)
    for x in inside:
        np.testing.assert_allclose(x, splu(sp.csc_matrix(2 * a)).solve(np.asarray(b)), rtol=1e-10)


def test_newton_and_the_rule():
    n = 8
    a = square(n)
    held = BCOO.from_scipy_sparse(a)
    fn = lambda u, lam: held @ u - lam / (n + 1) ** 2 * jnp.exp(u)

    def loss(lam, linear):
        newton = jsci.solvers.Newton(1e-12, 1e-12, linear_solver=linear)
        adjoint = jsci.ImplicitAdjoint(linear)
        return jnp.sum(jsci.solve(jsci.Root(fn), newton, jnp.zeros(n * n), lam, adjoint=adjoint).value)

    both = jax.jit(
        lambda lam: [jax.value_and_grad(loss)(lam, linear) for linear in (Sparse(a), jsci.linear.LU())]
    )
    found, expected = both(3.0)
    np.testing.assert_allclose(found, expected, rtol=1e-10)


# --- incomplete factors -----------------------------------------------------------------------------


def test_incomplete_factors_of_a_band_are_complete():
    """A tridiagonal matrix has no fill: after n sweeps LU = A, and M is A⁻¹."""
    a = MATRICES["tridiagonal"][:20, :20] + 4 * sp.eye_array(20)
    near = jax.jit(lambda b: IncompleteLU(a, sweeps=20, solves=20).of(operator(a))(b))
    b = np.cos(np.arange(20))
    np.testing.assert_allclose(near(jnp.asarray(b)), splu(sp.csc_matrix(a)).solve(b), rtol=1e-10)


def test_incomplete_factors_agree_with_elimination():
    """Sweeps end at ILU(0), here by elimination row by row."""
    a = square(4)
    w = a.toarray()
    for i in range(16):
        for k in range(i):
            if w[i, k] != 0:
                w[i, k] /= w[k, k]
                for j in range(k + 1, 16):
                    if w[i, j] != 0:
                        w[i, j] -= w[i, k] * w[k, j]
    l, u = np.tril(w, -1) + np.eye(16), np.triu(w)
    b = np.cos(np.arange(16))
    expected = np.linalg.solve(u, np.linalg.solve(l, b))
    for tags in (frozenset(), SPD):
        near = jax.jit(lambda b: IncompleteLU(a, sweeps=20, solves=20).of(operator(a, tags))(b))  # noqa: B023
        np.testing.assert_allclose(near(jnp.asarray(b)), expected, rtol=1e-10)


@pytest.mark.parametrize("kind", [CG, GMRES])
def test_incomplete_factors_save_iterations(kind):
    n = 24
    rng = np.random.default_rng(0)
    d = sp.diags_array(10.0 ** rng.uniform(-1, 1, n * n))
    a = sp.csr_array(d @ (square(n) + 0.01 * sp.eye_array(n * n)) @ d)
    o, b = operator(a, SPD if kind is CG else frozenset()), jnp.asarray(a @ np.ones(n * n))
    better = kind(rtol=1e-10, preconditioner=IncompleteLU(a))
    plain = kind(rtol=1e-10, preconditioner=lambda r: r / a.diagonal(), check=jnp.inf)

    @jax.jit
    def found(b):
        prepared = better.prepare(o)
        transposed = better.solve(o, prepared, b, transpose=True)[1] if kind is GMRES else True
        return better.solve(o, prepared, b), plain.solve(o, plain.prepare(o), b)[2], transposed

    (x, ok, fewer), many, transposed = found(b)
    assert ok and transposed
    np.testing.assert_allclose(x, 1, rtol=1e-6)
    assert 1.8 * fewer < many
