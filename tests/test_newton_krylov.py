"""Newton's family: inexact, with kept factors, and in pseudo-time; against exact solutions and Newton."""

import functools
import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import optimistix as optx
import pytest
from jax.sharding import Mesh, PartitionSpec as P

import jaxsci as jsci
from jaxsci.linear import CG, GMRES, LU, Cholesky
from jaxsci.solvers import Chord, Newton, NewtonKrylov, PseudoTransient

SPD = frozenset({lx.positive_semidefinite_tag})
TIGHT = (1e-12, 1e-12)
SOLVERS = {
    "NewtonKrylov": NewtonKrylov(*TIGHT),
    "Chord": Chord(*TIGHT),
    "PseudoTransient": PseudoTransient(*TIGHT, first_step=0.1),
}
each_solver = pytest.mark.parametrize("name", SOLVERS)


def bratu(u, lam):
    """−u″ = λ eᵘ on (0, 1), u = 0 at its ends."""
    v = jnp.pad(u, 1)
    h2 = (u.size + 1) ** 2
    return h2 * (2 * v[1:-1] - v[2:] - v[:-2]) - lam * jnp.exp(u)


def sines(n):
    k = np.arange(1, n + 1)
    q = np.sqrt(2 / (n + 1)) * np.sin(np.pi * np.outer(k, k) / (n + 1))
    return jnp.asarray(q), jnp.asarray(4 * (n + 1) ** 2 * np.sin(np.pi * k / (2 * (n + 1))) ** 2)


class Bratu(jsci.AbstractResidual):
    preconditioned: bool = True

    @property
    def tags(self):
        return SPD

    def __call__(self, u, lam):
        return bratu(u, lam)

    def preconditioner(self, u, lam):
        if not self.preconditioned:
            return None
        q, eigenvalues = sines(u.size)
        return lambda r: q @ ((q @ r) / eigenvalues)


@functools.cache
def exact(n, lam):
    y, root = np.zeros(n), jax.jit(bratu)
    for _ in range(8):
        y = y - np.linalg.solve(jax.jacfwd(bratu)(jnp.asarray(y), lam), root(jnp.asarray(y), lam))
    return y


@functools.cache
def program(name):
    """λ ↦ the solution, its derivative in λ by the rule, how it ended, steps."""

    def run(lam):
        def one(lam):
            solution = jsci.solve(Bratu(), SOLVERS[name], jnp.zeros(40), lam, throw=False)
            return solution.value, (solution.result == jsci.RESULTS.successful, solution.stats)

        value, slope, (ok, stats) = jax.jvp(one, (lam,), (1.0,), has_aux=True)
        return value, slope, ok, stats

    return jax.jit(jax.vmap(run))


@each_solver
def test_solution_derivative_and_lanes(name):
    # At λ = 3.4 the branch is near its end (3.51); at λ = 4 there is no solution, and that lane says so.
    value, slope, ok, stats = program(name)(jnp.array([1.0, 3.4, 4.0]))
    assert ok.tolist() == [True, True, False]
    for i, lam in enumerate((1.0, 3.4)):
        np.testing.assert_allclose(value[i], exact(40, lam), rtol=1e-10)
        step = 1e-4
        difference = (exact(40, lam + step) - exact(40, lam - step)) / (2 * step)
        np.testing.assert_allclose(slope[i], difference, rtol=1e-6 if lam == 1.0 else 1e-5)
    assert (np.asarray(stats.residual_norm[:2]) < 1e-7).all()
    assert (stats.linear_iterations[0] > 0) == (name == "NewtonKrylov")


def test_few_krylov_iterations():
    """Rough systems at first: fewer iterations than with all of them solved to 1e-10."""

    def iterations(solver, residual):
        stats = jsci.solve(residual, solver, jnp.zeros(60), 3.0).stats
        return int(stats.linear_iterations), int(stats.steps)

    inexact, steps = iterations(NewtonKrylov(1e-9, 1e-9), Bratu(False))
    full, fewest = iterations(Newton(1e-9, 1e-9, linear_solver=CG(rtol=1e-10)), Bratu(False))
    assert inexact < full and steps <= fewest + 4
    near, _ = iterations(NewtonKrylov(1e-9, 1e-9), Bratu())
    assert 3 * near < inexact


def test_chord_factorises_less():
    def solved(rate):
        solver = Chord(1e-12, 1e-12, rate=rate, linear_solver=Cholesky(refinements=0))
        fn = lambda y, lam: bratu(y, lam)
        return optx.root_find(fn, solver, jnp.zeros(30), 1.0, tags=SPD, throw=False)

    patient, strict = solved(0.5), solved(1e-30)
    np.testing.assert_allclose(patient.value, exact(30, 1.0), rtol=1e-10)
    np.testing.assert_allclose(strict.value, exact(30, 1.0), rtol=1e-10)
    assert patient.stats["factorizations"] < strict.stats["factorizations"]


def test_pseudo_time_goes_where_newton_does_not():
    # Newton from 3 runs to infinity along arctan; −F pulls back to the root.
    fn = lambda y, a: jnp.arctan(y - a)
    for guess in (3.0, -40.0):
        full = Newton(1e-12, 1e-12, halvings=0)
        lost = jsci.solve(jsci.Root(fn), full, jnp.array([guess]), 0.5, throw=False, max_steps=60)
        assert lost.result != jsci.RESULTS.successful
        found = jsci.solve(jsci.Root(fn), PseudoTransient(*TIGHT), jnp.array([guess]), 0.5)
        np.testing.assert_allclose(found.value, 0.5, rtol=1e-10)


def test_pseudo_time_finds_the_stable_root():
    # y' = y − y³ leaves 0 for ±1.
    fn = lambda y, _: y**3 - y
    found = jsci.solve(jsci.Root(fn), PseudoTransient(*TIGHT, first_step=0.2), jnp.array([0.05, -0.1]))
    np.testing.assert_allclose(found.value, [1, -1], rtol=1e-10)


@pytest.mark.parametrize(
    "solver", [NewtonKrylov(1e-8, 1e-8), Chord(1e-8, 1e-8), PseudoTransient(1e-8, 1e-8)],
    ids=lambda s: type(s).__name__,
)  # fmt: skip
def test_failures_have_names(solver):
    no_root = lambda y, _: y**2 + 1.0
    found = jsci.solve(jsci.Root(no_root), solver, jnp.array([2.0]), throw=False)
    assert found.result != jsci.RESULTS.successful
    nan = jsci.solve(jsci.Root(lambda y, _: jnp.log(y)), solver, jnp.array([-1.0]), throw=False)
    assert nan.result == jsci.RESULTS.nonfinite
    flat = jsci.solve(jsci.Root(lambda y, _: 0 * y + 1.0), solver, jnp.array([1.0]), throw=False)
    singular = flat.result == jsci.RESULTS.singular_system
    # Steps in pseudo-time exist where ∂F/∂y is singular: F = 1 everywhere lets them go on for ever.
    assert singular or isinstance(solver, PseudoTransient)
    assert flat.result != jsci.RESULTS.successful


def test_float32_pytrees_and_optimistix():
    fn = lambda y, a: {"u": y["u"] ** 3 + y["u"] - a, "v": y["v"] + y["u"][:2]}
    y0 = {"u": jnp.zeros(3, jnp.float32), "v": jnp.zeros(2, jnp.float32)}
    a = jnp.arange(1.0, 4.0, dtype=jnp.float32)
    roots = [np.roots([1, 0, 1, -k]) for k in (1, 2, 3)]
    expected = np.array([r[abs(r.imag) < 1e-12].real[0] for r in roots])
    for solver in (NewtonKrylov(1e-5, 1e-5), Chord(1e-5, 1e-5), PseudoTransient(1e-5, 1e-5)):
        found = optx.root_find(fn, solver, y0, a, adjoint=jsci.ImplicitAdjoint()).value
        assert found["u"].dtype == jnp.float32
        np.testing.assert_allclose(found["u"], expected, rtol=1e-5)
        np.testing.assert_allclose(found["v"], -expected[:2], rtol=1e-5)


@pytest.mark.parametrize("name", ["NewtonKrylov", "Chord"])
def test_inside_shard_map(name):
    mesh = Mesh(np.array(jax.devices()[:1]), ("d",))
    residual = jsci.Root(lambda y, a: y**3 + y - jnp.roll(y, 1) * 0.2 - a)

    def local(a):
        return jsci.solve(residual, SOLVERS[name], jnp.zeros(5), a, throw=False).value

    a = jnp.linspace(1.0, 2.0, 5)
    inside = jax.jit(jax.shard_map(local, mesh=mesh, in_specs=P("d"), out_specs=P("d")))(a)
    np.testing.assert_allclose(residual(inside, a), 0, atol=1e-10)


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="no `rtol` for the forcing"):
        NewtonKrylov(1e-8, 1e-8, linear_solver=LU())
    with pytest.raises(ValueError, match="`largest_forcing` is 1.5"):
        NewtonKrylov(1e-8, 1e-8, largest_forcing=1.5)
    with pytest.raises(ValueError, match="`rate` is 1"):
        Chord(1e-8, 1e-8, rate=1)
    with pytest.raises(ValueError, match="has no factors to keep"):
        jsci.solve(jsci.Root(lambda y, _: y), Chord(1e-8, 1e-8, linear_solver=GMRES()), jnp.ones(2))
    with pytest.raises(ValueError, match="`first_step` is 0"):
        PseudoTransient(1e-8, 1e-8, first_step=0)


def test_the_example():
    example = Path(__file__).resolve().parent.parent / "examples" / "bratu_newton_krylov.py"
    metrics = runpy.run_path(str(example))["main"](smoke=True)
    first, second, last = metrics["rows"]
    assert metrics["fold is respected"] and not last["converged"]
    # The difference quotient of a convex branch lies between its slopes.
    quotient = (second["largest u"] - first["largest u"]) / (second["lambda"] - first["lambda"])
    assert first["its derivative"] < quotient < second["its derivative"]
