"""Preconditioners and relaxation: the matrices they stand for, and the iterations they save."""

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest

import jaxsci as jsci
from jaxsci.linear import (
    CG,
    GMRES,
    SOR,
    SSOR,
    SSORCG,
    AdditiveSchwarz,
    BandedOrder,
    BlockJacobi,
    Chebyshev,
    Jacobi,
    Multigrid,
    NaturalOrder,
    Operator,
    RedBlack,
    Wavefront,
    eigenvalue_bounds,
)

SPD = frozenset({lx.positive_semidefinite_tag})


def diffusion(shape, reaction=0.0):
    """−∇·(κ∇u) + c u, u = 0 on the boundary, κ smooth and of size 0.1 to 1.9; (h = 1/(n + 1) on the axes)."""

    def kappa(*x):
        return 1 + 0.9 * np.sin(7 * x[0] + sum(np.cos((5 + i) * v) for i, v in enumerate(x)))

    faces = []
    for axis in range(len(shape)):
        inner = [np.arange(1, n + 1) / (n + 1) for n in shape]
        inner[axis] = (np.arange(shape[axis] + 1) + 0.5) / (shape[axis] + 1)
        faces.append(jnp.asarray(kappa(*np.meshgrid(*inner, indexing="ij"))))

    def mv(u):
        out = reaction * u
        for axis, k in enumerate(faces):
            widths = [(1, 1) if i == axis else (0, 0) for i in range(u.ndim)]
            flux = k * jnp.diff(jnp.pad(u, widths), axis=axis)
            out = out - jnp.diff(flux, axis=axis) * (shape[axis] + 1) ** 2
        return out

    return Operator(mv, jnp.zeros(shape), None, SPD)


def as_matrix(fn, shape):
    unit = jnp.eye(int(np.prod(shape)))
    return np.asarray(jax.jit(jax.vmap(lambda e: fn(e.reshape(shape)).ravel(), out_axes=1))(unit))


SHAPE = (5, 4)
GRID = diffusion(SHAPE, 3.0)
A = np.asarray(GRID.matrix())
D, L, U = np.diag(np.diag(A)), np.tril(A, -1), np.triu(A, 1)


def ssor(omega):
    return np.linalg.inv(D / omega + U) @ D @ np.linalg.inv(D / omega + L) * (2 - omega) / omega


def chebyshev(low, high, degree):
    """p(A) by the eigenvalues: (1 − T_k((c − λ)/d)/T_k(c/d))/λ."""
    values, vectors = np.linalg.eigh(A)
    t = np.polynomial.chebyshev.Chebyshev.basis(degree)
    center, half = (low + high) / 2, (high - low) / 2
    return vectors @ np.diag((1 - t((center - values) / half) / t(center / half)) / values) @ vectors.T


BLOCKS = np.where(np.arange(20)[:, None] // 4 == np.arange(20) // 4, A, 0)
MATRICES = {
    "Jacobi": (Jacobi(), np.linalg.inv(D)),
    "Jacobi, given": (Jacobi(jnp.diag(A).reshape(SHAPE), damping=0.7), 0.7 * np.linalg.inv(D)),
    "BlockJacobi": (BlockJacobi(4), np.linalg.inv(BLOCKS)),
    "SSOR, dense": (SSOR(1.3), ssor(1.3)),
    "SSOR, banded": (SSOR(1.3, BandedOrder(4)), ssor(1.3)),
    "SSOR, wavefront": (SSOR(1.3, Wavefront()), ssor(1.3)),
    "Chebyshev": (Chebyshev(4, (100.0, 900.0)), chebyshev(100.0, 900.0, 4)),
    "Chebyshev, traced degree": (Chebyshev(jnp.array(4), (100.0, 900.0)), chebyshev(100.0, 900.0, 4)),
    "Multigrid, one level": (Multigrid(), np.linalg.inv(A)),
    "AdditiveSchwarz, one box": (AdditiveSchwarz(SHAPE, coarse=False), np.linalg.inv(A)),
}


@pytest.mark.parametrize("name", MATRICES)
def test_matrices(name):
    made, expected = MATRICES[name]
    found = as_matrix(lambda e: made.of(GRID)(e), SHAPE)
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize(
    "made", [Multigrid(coarsest=3), AdditiveSchwarz((2, 3))], ids=lambda p: type(p).__name__
)
def test_symmetric_positive_definite(made):
    """So that CG may use it; and JAX transposes it."""
    x = jnp.linspace(-1, 1, 20).reshape(SHAPE)

    @jax.jit
    def both():
        m = made.of(GRID)
        columns = jax.vmap(lambda e: m(e.reshape(SHAPE)).ravel(), out_axes=1)(jnp.eye(20))
        return columns, jax.linear_transpose(m, x)(x)[0]

    found, back = map(np.asarray, both())
    np.testing.assert_allclose(found, found.T, atol=1e-14)
    assert np.linalg.eigvalsh(found).min() > 0
    np.testing.assert_allclose(back.ravel(), found.T @ x.ravel(), rtol=1e-10)


def test_bounds_of_eigenvalues():
    (low, high), (_, rough) = jax.jit(lambda: [eigenvalue_bounds(GRID, steps) for steps in (20, 4)])()
    values = np.linalg.eigvalsh(A)
    np.testing.assert_allclose([low, high], values[[0, -1]], rtol=1e-6)
    assert values[-1] <= rough < 1.5 * values[-1]


def iterations(solver, a):
    x, ok, k = jax.jit(lambda b: solver.solve(a, solver.prepare(a), b))(jnp.ones(a.like.shape))
    assert ok
    np.testing.assert_allclose(a.mv(x), 1, atol=1e-5)
    return int(k)


@pytest.mark.parametrize(("dimensions", "sizes"), [(1, (16, 130)), (2, (10, 33)), (3, (9,))])
def test_multigrid_does_not_care_how_fine_the_grid_is(dimensions, sizes):
    solver = CG(rtol=1e-9, preconditioner=Multigrid())
    counts = [iterations(solver, diffusion((n,) * dimensions)) for n in sizes]
    assert max(counts) <= 12 and max(counts) - min(counts) <= 2


def test_iterations_saved():
    a = diffusion((24, 24))
    solve = lambda preconditioner: iterations(CG(rtol=1e-9, preconditioner=preconditioner), a)
    plain = solve(None)
    assert solve(Chebyshev(5)) < 0.4 * plain
    assert solve(SSOR(1.7, Wavefront())) < 0.4 * plain
    assert solve(AdditiveSchwarz((8, 8), 2)) < 0.35 * plain


HALF = 1 + 0.3 * jnp.sin(jnp.arange(20.0)).reshape(SHAPE)
LOPSIDED = Operator(
    lambda x: HALF * GRID.mv(x) + 50.0 * jnp.pad(x, ((0, 0), (1, 0)))[:, :-1], jnp.zeros(SHAPE)
)


@pytest.mark.parametrize(
    "order", [NaturalOrder(), BandedOrder(4), Wavefront(), RedBlack()], ids=lambda o: type(o).__name__
)
def test_relaxation_of_an_asymmetric_matrix(order):
    matrix = np.asarray(LOPSIDED.matrix())

    @jax.jit
    def found(omega, b):
        solver = SOR(omega, order)
        parts = solver.prepare(LOPSIDED)
        gap = jax.tree.map(jnp.subtract, order.transpose(parts), solver.prepare(LOPSIDED.transpose()))
        solve = lambda t: solver.solve(LOPSIDED, parts, b, transpose=t)
        return solve(False), solve(True), gap

    b = jnp.cos(jnp.arange(20.0)).reshape(SHAPE)
    (x, ok, _), (y, good, _), gap = found(1.2, b)
    assert ok and good
    np.testing.assert_allclose(x.ravel(), np.linalg.solve(matrix, b.ravel()), rtol=1e-10, atol=1e-14)
    np.testing.assert_allclose(y.ravel(), np.linalg.solve(matrix.T, b.ravel()), rtol=1e-10, atol=1e-14)
    for part in jax.tree.leaves(gap):
        np.testing.assert_allclose(part, 0, atol=1e-10)


def test_where_the_order_matters():
    """SOR: as many sweeps in red–black order as in the natural one. SSOR-CG: there ω loses its effect."""
    n = 10
    a = Operator(lambda x: diffusion((n, n)).mv(x), jnp.zeros((n, n)), None, SPD)
    b = jax.random.normal(jax.random.key(1), (n, n))
    omegas = jnp.array([1.0, 1.5, 1.8])

    def counts(kind, order, lanes=omegas):
        one = lambda omega: (lambda s: s.attempt(a, s.prepare(a), b)[3])(kind(omega, order, rtol=1e-8))
        return np.asarray(jax.jit(jax.vmap(one))(lanes))

    natural = counts(SOR, NaturalOrder())
    np.testing.assert_array_equal(natural, counts(SOR, Wavefront()))
    np.testing.assert_allclose(natural, counts(SOR, RedBlack()), rtol=0.15)
    fronts, colors = counts(SSORCG, Wavefront()), counts(SSORCG, RedBlack())
    assert fronts[1] < fronts[0] and colors[1] > colors[0]


def test_in_the_implicit_rule():
    """The gradient of a nonlinear diffusion problem, through the preconditioner of its own Jacobian."""
    residual = jsci.Root(lambda u, a: GRID.mv(u) + 50 * u**3 - a, tags=SPD)
    newton = jsci.solvers.Newton(rtol=1e-12, atol=1e-12)
    a = 100 * jnp.linspace(0.5, 1.5, 20).reshape(SHAPE)
    solvers = (
        None,
        CG(preconditioner=Multigrid(coarsest=3)),
        GMRES(preconditioner=AdditiveSchwarz((2, 3))),
        SOR(1.3, RedBlack()),
    )

    @jax.jit
    def gradients(a):
        y = jsci.solve(residual, newton, jnp.zeros(SHAPE), a, throw=False).value
        rules = [jsci.ImplicitAdjoint(linear_solver=solver) for solver in solvers]
        value = lambda a, rule: jnp.sum(jnp.sin(jsci.attach(residual, y, a, adjoint=rule)))
        return [jax.grad(value)(a, rule) for rule in rules]

    oracle, *found = gradients(a)
    for gradient in found:
        np.testing.assert_allclose(gradient, oracle, rtol=1e-9)


def test_one_preconditioner_for_the_operator():
    m = BlockJacobi(4).of(GRID)
    a = Operator(GRID.mv, GRID.like, None, SPD, m)
    assert iterations(CG(rtol=1e-9), a) == iterations(CG(rtol=1e-9, preconditioner=m), GRID)


def test_inside_shard_map(devices):
    mesh = devices(4, names=("x",))
    solvers = (
        CG(preconditioner=Multigrid(coarsest=3)),
        CG(preconditioner=Chebyshev(3)),
        SSORCG(1.3, Wavefront()),
        SSORCG(1.3, BandedOrder(4)),
    )

    def local(b):
        solve = lambda s: s.solve(GRID, s.prepare(GRID), b[0])[0]
        return jnp.stack([solve(s) for s in solvers])[None]

    spec = jax.sharding.PartitionSpec("x")
    b = jax.random.normal(jax.random.key(0), (4, *SHAPE))
    x = jax.jit(jax.shard_map(local, mesh=mesh, in_specs=spec, out_specs=spec))(b)
    expected = np.linalg.solve(A, b.reshape(4, 20).T).T.reshape(4, 1, *SHAPE)
    np.testing.assert_allclose(x, np.broadcast_to(expected, x.shape), rtol=1e-9, atol=1e-13)


def test_mistakes_are_named():
    a = Operator(lambda x: x, {"a": jnp.zeros(3), "b": jnp.zeros(2)})
    with pytest.raises(ValueError, match="divisor of the 5"):
        BlockJacobi(2).of(a)
    with pytest.raises(ValueError, match="`diagonal` of Jacobi has 3"):
        Jacobi(jnp.ones(3)).of(a)
    for made in (Multigrid(), AdditiveSchwarz((2,)), SSOR(1.0, Wavefront()), SSOR(1.0, RedBlack())):
        with pytest.raises(ValueError, match="one array"):
            made.of(a)
    for wrong in (lambda: SOR(2.5), lambda: SSOR(0), lambda: Chebyshev(0), lambda: BandedOrder(0)):
        with pytest.raises(ValueError, match="expected"):
            wrong()
