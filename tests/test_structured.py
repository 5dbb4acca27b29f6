"""Structured least squares: the closed forms against automatic differentiation."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsci as jsci
from jaxsci import layers, pde
from jaxsci.linear import LU
from jaxsci.residuals import Block, StructuredLeastSquares


def _waves(shape, count, seed=0):
    """`count` smooth functions on a grid: products of cosines with random phases."""
    random = np.random.default_rng(seed)
    out = []
    for i in range(count):
        factors = [
            np.cos((1 + (i + 2 * k) % 3) * np.pi * np.linspace(0, 1, n) + random.uniform(0, 3))
            for k, n in enumerate(shape)
        ]
        product = factors[0]
        for factor in factors[1:]:
            product = product[..., None] * factor
        out.append(product)
    return jnp.asarray(np.stack(out))


def _sorption(ridge=1e-6, gauss_newton=False):
    grid = pde.Grid({"t": pde.Levels(pde.graded(500.0, 5)), "x": pde.Cells(np.linspace(0, 1, 9))})
    equation = pde.DiffusionSorption()
    rows = layers.SpaceTimeInverse(grid, equation, equation.conditions(), reference={"u": 0.1})
    scheme = layers.Scheme(grid, rows)
    basis, lift = _waves(grid.shape, 5), jnp.full(grid.shape, 0.4)
    blocks = scheme.blocks(equation, basis, lift, equation.conditions())
    return StructuredLeastSquares(blocks, ridge, gauss_newton)


def _reaction(ridge=1e-6, gauss_newton=False):
    """Two fields, two equations, each nonlinear in one field and coupled."""
    grid = pde.Grid(
        {
            "t": pde.Levels((0.0, 0.1, 0.2, 0.4)),
            "x": pde.Cells(np.linspace(0, 1, 5)),
            "y": pde.Cells(np.linspace(0, 1, 4)),
        }
    )
    equation = pde.ReactionDiffusion()
    conditions = tuple(pde.Periodic(f, a) for f in "uv" for a in "xy")
    scheme = layers.Scheme(grid, layers.MeanSquare(grid))
    basis = {f: _waves(grid.shape, 6, seed) for seed, f in enumerate("uv")}
    lift = {f: jnp.full(grid.shape, 0.3) for f in "uv"}
    return StructuredLeastSquares(scheme.blocks(equation, basis, lift, conditions), ridge, gauss_newton)


def _burgers(ridge=1e-6, gauss_newton=False):
    """A pair of different fields that multiply each other (u u_x), and a second block."""
    points = jax.random.uniform(jax.random.key(0), (20, 2))
    frequencies = jnp.arange(1.0, 6.0)
    basis = lambda p: jnp.sin(frequencies * p[0]) * jnp.cos((6 - frequencies) * p[1])
    lift = lambda p: jnp.sin(3 * p[0]) * jnp.exp(-p[1])
    start = (pde.Heat(0.3), points[:5], 2.0)
    rows = layers.Collocation(points, 0.5, (start,))
    return StructuredLeastSquares(rows.blocks(pde.Burgers(0.1), basis, lift), ridge, gauss_newton)


PROBLEMS = {"one field": _sorption, "two fields": _reaction, "cross term, two blocks": _burgers}


@pytest.fixture(params=list(PROBLEMS), ids=lambda name: name.replace(" ", "-"))
def make(request):
    return PROBLEMS[request.param]


def _omega(problem, size=0.2):
    return size * jax.random.normal(jax.random.key(1), problem.start.shape)


def test_closed_forms_are_the_derivatives_of_the_objective(make):
    problem = make()
    omega = _omega(problem)

    def rows(omega):
        every = [jnp.ravel(block(omega)) for block in problem.blocks]
        return jnp.concatenate([*every, problem.ridge**0.5 * omega])

    @jax.jit
    def expected(omega):
        e, j = rows(omega), jax.jacfwd(rows)(omega)
        objective = lambda omega: 0.5 * jnp.vdot(rows(omega), rows(omega))
        return 0.5 * e @ e, e @ j, j.T @ j, jax.hessian(objective)(omega)

    value, gradient, gram, hessian = expected(omega)
    normal = eqx.filter_jit(problem.normal_equations)(omega)
    for name, found, wanted in (
        ("value", normal.value, value),
        ("gradient", normal.gradient, gradient),
        ("JᵀJ", normal.gram, gram),
        ("curvature", normal.curvature, hessian - gram),
        ("Hessian", normal.hessian, hessian),
        ("objective", problem.objective(omega), value),
    ):
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-10 * np.max(np.abs(wanted)), err_msg=name)
    # Not by chance: there is curvature to be right about.
    assert np.max(np.abs(hessian - gram)) > 1e-4 * np.max(np.abs(gram))


def test_value_and_gradient_is_the_gradient(make):
    problem = make()
    omega = _omega(problem)
    value, gradient = eqx.filter_jit(problem.value_and_gradient)(omega)
    wanted = jax.jit(jax.value_and_grad(lambda omega: problem.objective(omega)))(omega)
    np.testing.assert_allclose(value, wanted[0], rtol=1e-12)
    np.testing.assert_allclose(gradient, wanted[1], rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(problem.optimality(omega, None), gradient, rtol=1e-10, atol=1e-12)


def test_jacobian_is_that_of_the_optimality(make):
    """The matrix and the product, which the linear solver checks against each other."""
    problem = make()
    omega = _omega(problem)
    operator = problem.jacobian(omega, None)
    wanted = jax.jit(jax.hessian(lambda omega: problem.objective(omega)))(omega)
    scale = np.max(np.abs(wanted))
    product = jax.jit(jax.vmap(operator.mv))(jnp.eye(omega.size))
    np.testing.assert_allclose(product, wanted, rtol=0, atol=1e-10 * scale)
    np.testing.assert_allclose(operator.matrix(), wanted, rtol=0, atol=1e-10 * scale)


def test_gauss_newton_form_drops_the_curvature(make):
    exact, rough = make(), make(gauss_newton=True)
    omega = _omega(exact)
    gram = exact.normal_equations(omega).gram
    normal = rough.normal_equations(omega)
    assert normal.curvature is None
    np.testing.assert_allclose(normal.hessian, gram, rtol=1e-12)
    operator = rough.jacobian(omega, None)
    product = jax.vmap(operator.mv)(jnp.eye(omega.size))
    np.testing.assert_allclose(product, gram, rtol=0, atol=1e-10 * np.max(np.abs(gram)))


def test_linear_laws_have_no_curvature():
    """Found by tracing: nothing is computed for an equation that is linear in its fields."""
    points = jax.random.uniform(jax.random.key(0), (9, 2))
    basis = lambda p: jnp.stack([p[0], p[0] * p[1], jnp.sin(p[0])])
    lift = lambda p: p[1] * p[0] ** 2
    (block,) = layers.Collocation(points).blocks(pde.Heat(0.1), basis, lift)
    normal = block.normal(jnp.ones(3), exact=True)
    np.testing.assert_array_equal(normal.curvature, np.zeros((3, 3)))
    (block,) = layers.Collocation(points).blocks(pde.Burgers(0.1), basis, lift)
    assert np.any(np.asarray(block.normal(jnp.ones(3), exact=True).curvature))


def test_metric_is_positive_definite_with_dependent_basis_functions():
    law = lambda f: (f["u"] - 1)[None]
    basis = {"u": jnp.stack([jnp.arange(4.0)] * 3)}
    block = Block(basis, {"u": jnp.zeros(4)}, law, lambda r: r)
    problem = StructuredLeastSquares((block,))
    assert np.linalg.eigvalsh(problem.metric(problem.start)).min() > 0


def test_a_known_hessian_changes_no_derivative():
    """Handing over the solver's last Hessian spares one evaluation and nothing else."""
    points = jax.random.uniform(jax.random.key(0), (20, 2))
    frequencies = jnp.arange(1.0, 6.0)
    basis = lambda p: jnp.sin(frequencies * p[0]) * jnp.cos((6 - frequencies) * p[1])
    rows = layers.Collocation(points, 0.5)
    solver = jsci.solvers.LevenbergMarquardt(rtol=1e-12)

    def problem(viscosity, hessian=None):
        lift = lambda p: jnp.sin(3 * p[0]) * jnp.exp(-p[1])
        blocks = rows.blocks(pde.Burgers(viscosity), basis, lift)
        return StructuredLeastSquares(blocks, 1e-6, hessian=hessian)

    found = jsci.solve(problem(0.1), solver, jnp.zeros(5), throw=False)
    star = jax.lax.stop_gradient(found.value)
    hessian = problem(0.1).normal_equations(star).hessian
    adjoint = jsci.ImplicitAdjoint(LU())
    attach = lambda viscosity, hessian: jsci.attach(problem(viscosity, hessian), star, adjoint=adjoint)
    slope = lambda hessian: jax.jit(jax.jacrev(attach))(0.1, hessian)
    np.testing.assert_allclose(slope(hessian), slope(None), rtol=1e-10)


def test_bfgs_and_levenberg_marquardt_find_the_same_minimum(make):
    problem = make(ridge=1e-3)
    solve = lambda solver: jax.jit(
        lambda: jsci.solve(problem, solver, problem.start, throw=False, max_steps=500)
    )()
    first = solve(jsci.solvers.LevenbergMarquardt(rtol=1e-10))
    second = solve(jsci.solvers.BFGS(rtol=1e-9))
    assert first.result == jsci.RESULTS.successful
    assert second.result == jsci.RESULTS.successful
    np.testing.assert_allclose(first.value, second.value, rtol=1e-6, atol=1e-7)
    assert int(first.stats.steps) <= int(second.stats.steps)
