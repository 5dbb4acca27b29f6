"""The layer: its derivative, its failures, its discretizations and row scalings."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsci as jsci
from jaxsci import layers, pde

TIMES = pde.graded(500.0, 8)
GRID = pde.Grid({"t": pde.Levels(TIMES), "x": pde.Cells(np.linspace(0, 1, 17))})
TYPICAL = pde.DiffusionSorption()
SCHEME = layers.Scheme(
    GRID, layers.SpaceTimeInverse(GRID, TYPICAL, TYPICAL.conditions(), reference={"u": 0.1})
)
RIDGE = 1e-6


def _basis():
    """Six products of cosines: far from dependent."""
    x = (np.arange(16) + 0.5) / 16
    tau = np.linspace(0.1, 1, 9)[:, None]
    return jnp.asarray(
        np.stack([np.cos(i * np.pi * x) * np.cos(j * np.pi * tau) for i in (0, 1, 2) for j in (0, 1)])
    )


BASIS, LIFT = _basis(), jnp.full(GRID.shape, 0.3)
SOLVER = jsci.solvers.LevenbergMarquardt(rtol=1e-12)


def _layer(**kwargs):
    arguments = {"solver": SOLVER, "ridge": RIDGE} | kwargs
    return layers.HardConstraint(SCHEME, **arguments)


def _equation(coefficients):
    return pde.DiffusionSorption(coefficients["D"], coefficients["k"])


# Of a fixed dtype, as what is computed from them: a Python number would be another program.
THETA = {
    "basis": BASIS,
    "lift": LIFT,
    "D": jnp.asarray(5e-4, BASIS.dtype),
    "k": jnp.asarray(3.5e-4, BASIS.dtype),
}


def _apply(layer, theta):
    equation = _equation(theta)
    return layer(equation, theta["basis"], theta["lift"], equation.conditions())


def _loss(values):
    return jnp.sum(jnp.sin(3 * values))


def _objective(omega, theta, basis, weight=1.0):
    """Half the sum of squares, from the scheme alone: nothing of the layer's closed forms."""
    equation = _equation(theta)
    values = SCHEME.combine(omega, basis, theta["lift"])
    rows = weight * SCHEME.residual(equation, values, equation.conditions())
    return 0.5 * jnp.sum(rows**2) + 0.5 * RIDGE * omega @ omega


def _unrolled(omega, theta, basis, weight=1.0):
    """Two Newton steps from the solution, differentiated as a program."""
    f = lambda omega: _objective(omega, theta, basis, weight)

    def newton(omega, _):
        return omega - jnp.linalg.solve(jax.hessian(f)(omega), jax.grad(f)(omega)), None

    return jax.lax.scan(newton, jax.lax.stop_gradient(omega), None, length=2)[0]


WINDOWS = layers.Windows({"x": 2}, shared=True)
BOXES = layers.Boxes({"x": 2}, outside=0.3)
LAYERS = {
    "plain": _layer(),
    "windows": layers.MixtureOfExperts(_layer(), WINDOWS),
    "boxes": layers.MixtureOfExperts(_layer(), BOXES),
}


def _unrolled_values(name, layer, omega, theta):
    if name == "plain":
        return SCHEME.combine(_unrolled(omega, theta, theta["basis"]), theta["basis"], theta["lift"])
    if name == "windows":
        basis = layer.windowed(theta["basis"])
        return SCHEME.combine(_unrolled(omega, theta, basis), basis, theta["lift"])
    weights = jnp.asarray(BOXES.weights(GRID, TYPICAL.conditions()))
    boxes = jnp.asarray(BOXES.indicators(GRID, at_rows=False))

    def expert(omega, weight, box):
        found = _unrolled(omega, theta, theta["basis"], weight)
        return box * SCHEME.combine(found, theta["basis"], theta["lift"])

    return jnp.sum(jax.vmap(expert)(omega, weights, boxes), axis=0)


@functools.cache
def _value_and_gradient(name):
    """One program for the tests of a layer: θ ↦ ((loss, what the layer gives), gradient)."""

    def loss(theta):
        found = _apply(LAYERS[name], theta)
        return _loss(found.values), found

    return jax.jit(jax.value_and_grad(loss, has_aux=True))


@pytest.mark.parametrize("name", list(LAYERS))
def test_gradient_is_exact(name):
    """Against differences, and against a solver that is differentiated step by step."""
    layer, both = LAYERS[name], _value_and_gradient(name)
    (_, found), gradient = both(THETA)
    assert np.all(found.converged), found.result
    value = lambda theta: both(theta)[0][0]
    unrolled = jax.jit(
        jax.grad(lambda theta: _loss(_unrolled_values(name, layer, found.coefficients, theta)))
    )(THETA)
    random = np.random.default_rng(0)
    for which in THETA:
        direction = jnp.asarray(random.normal(size=THETA[which].shape))
        step = 1e-4 * (1.0 if THETA[which].ndim else THETA[which])
        moved = lambda s, which=which, by=step * direction: THETA | {which: THETA[which] + s * by}
        # Fourth order, so that truncation is not what is measured.
        values = [float(value(moved(s))) for s in (-2, -1, 1, 2)]
        difference = (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * step)
        np.testing.assert_allclose(jnp.vdot(gradient[which], direction), difference, rtol=1e-6, err_msg=which)
        scale = np.max(np.abs(unrolled[which]))
        np.testing.assert_allclose(gradient[which], unrolled[which], rtol=0, atol=1e-8 * scale, err_msg=which)


def test_forward_mode_and_second_derivatives():
    loss = lambda s: _loss(_apply(LAYERS["plain"], THETA | {"D": s * THETA["D"]}).values)

    forward = jax.jit(lambda s: jax.jvp(loss, (s,), (1.0,))[1])(1.0)
    slope = lambda s: _value_and_gradient("plain")(THETA | {"D": s * THETA["D"]})[1]["D"] * THETA["D"]
    np.testing.assert_allclose(forward, slope(1.0), rtol=1e-9)
    second = jax.jit(jax.grad(jax.grad(loss)))(1.0)
    h = 1e-4
    np.testing.assert_allclose(second, (slope(1 + h) - slope(1 - h)) / (2 * h), rtol=1e-5)


def test_the_default_solver_gives_the_same_gradient():
    _, precise = _value_and_gradient("plain")(THETA)
    layer = _layer(solver=jsci.solvers.BFGS(rtol=1e-9))
    gradient = jax.jit(jax.grad(lambda theta: _loss(_apply(layer, theta).values)))(THETA)
    for which in THETA:
        scale = np.max(np.abs(precise[which]))
        np.testing.assert_allclose(gradient[which], precise[which], rtol=0, atol=1e-5 * scale)


def test_gauss_newton_is_right_where_the_residual_vanishes_and_wrong_where_it_does_not():
    """Twelve functions on 4 × 3 unknowns reach the discrete solution for all θ; three do not."""
    grid = pde.Grid({"t": pde.Levels((0.0, 100.0, 200.0, 500.0)), "x": pde.Cells(np.linspace(0, 1, 5))})
    rows = layers.SpaceTimeInverse(grid, TYPICAL, TYPICAL.conditions(), reference={"u": 0.1})
    complete = jnp.asarray(np.random.default_rng(0).normal(size=(12, *grid.shape)))
    lift = jnp.full(grid.shape, 0.5)

    def gradient(basis, gauss_newton):
        solver = jsci.solvers.LevenbergMarquardt(rtol=1e-12)
        scheme = layers.Scheme(grid, rows)
        layer = layers.HardConstraint(scheme, solver, max_steps=500, ridge=0.0, gauss_newton=gauss_newton)

        def loss(basis, D):
            equation = pde.DiffusionSorption(D)
            found = layer(equation, basis, lift, equation.conditions())
            return _loss(found.values), found

        slopes, found = jax.jit(jax.grad(loss, (0, 1), has_aux=True))(basis, jnp.asarray(5e-4))
        assert found.converged
        return slopes, found.residual_norm

    (basis_right, right), size = gradient(complete, False)
    (basis_rough, rough), _ = gradient(complete, True)
    assert size < 1e-11
    np.testing.assert_allclose(rough, right, rtol=1e-7)
    np.testing.assert_allclose(basis_rough, 0.0, atol=1e-6)
    np.testing.assert_allclose(basis_right, 0.0, atol=1e-6)
    (basis_right, right), size = gradient(complete[:3], False)
    (basis_rough, rough), _ = gradient(complete[:3], True)
    assert size > 0.05
    assert abs(rough / right - 1) > 1e-2
    assert np.max(np.abs(basis_rough - basis_right)) > 1e-2 * np.max(np.abs(basis_right))


# --- failure policies ---------------------------------------------------------------------------


# The second lane starts at its solution (zero basis coefficients solve it): it needs no step.
@functools.cache
def _lanes():
    solved = jax.jit(lambda theta: _apply(_layer(ridge=0.0), theta))(THETA)
    return jnp.stack([LIFT, solved.values])


def _slopes_of_lanes(layer):
    """The derivatives of every lane by every lift and by the D that all lanes share."""

    def one(lift, D):
        equation = pde.DiffusionSorption(D)
        found = layer(equation, BASIS, lift, equation.conditions())
        return _loss(found.values), found

    run = lambda lifts, D: jax.vmap(one, (0, None))(lifts, D)
    return jax.jit(jax.jacrev(run, (0, 1), has_aux=True))(_lanes(), jnp.asarray(5e-4))


# Rounding of the first lane's solution is below this tolerance; one step is not enough from far.
ROUGH = jsci.solvers.LevenbergMarquardt(rtol=1e-6)


@functools.cache
def _free():
    return _slopes_of_lanes(_layer(solver=ROUGH, ridge=0.0))


@pytest.mark.parametrize("policy", [layers.hold, layers.poison])
def test_failure_policies(policy):
    lifts = _lanes()
    strict = _layer(solver=ROUGH, ridge=0.0, max_steps=1, on_failure=policy)
    (gradient, slopes), found = _slopes_of_lanes(strict)
    (reference, wanted), _ = _free()
    np.testing.assert_array_equal(found.converged, [False, True])
    np.testing.assert_array_equal(found.result == jsci.RESULTS.nonlinear_max_steps_reached, [True, False])
    assert abs(wanted[1]) > 1.0
    np.testing.assert_allclose(slopes[1], wanted[1], rtol=1e-10)
    np.testing.assert_allclose(gradient[1, 1], reference[1, 1], rtol=1e-10, atol=1e-12)
    if policy is layers.poison:
        assert np.all(np.isnan(found.coefficients[0])) and np.all(np.isnan(found.values[0, 1:]))
        assert np.all(np.isfinite(found.coefficients[1])) and np.all(np.isfinite(found.values[1]))
    else:
        assert np.all(np.isfinite(found.values))
        # D reaches the values only through the coefficients.
        assert slopes[0] == 0.0
        # The lift reaches them directly as well: that part stays, and only that.
        direct = jax.grad(lambda lift: _loss(SCHEME.combine(found.coefficients[0], BASIS, lift)))
        np.testing.assert_allclose(gradient[0, 0], direct(lifts[0]), rtol=1e-12)
        np.testing.assert_array_equal(gradient[1, 0], 0.0)


def test_jit_vmap_and_precision():
    layer = _layer(solver=jsci.solvers.BFGS(rtol=1e-4))
    lifts = jnp.linspace(0.1, 0.6, 3)[:, None, None] * jnp.ones(GRID.shape)
    many = jax.jit(jax.vmap(lambda lift: _apply(layer, THETA | {"lift": lift})))(lifts)
    assert many.values.shape == (3, *GRID.shape) and np.all(many.converged)
    assert len(set(np.asarray(many.steps).tolist())) > 1
    one = jax.jit(lambda lift: _apply(layer, THETA | {"lift": lift}))
    for i in range(3):
        single = one(lifts[i])
        np.testing.assert_allclose(many.values[i], single.values, rtol=0, atol=1e-10)
        assert int(many.steps[i]) == int(single.steps)
    narrow = jax.tree.map(lambda x: x.astype(jnp.float32), THETA)
    found = jax.jit(lambda theta: _apply(layer, theta))(narrow)
    wide = one(THETA["lift"])
    assert found.values.dtype == jnp.float32 and found.converged
    np.testing.assert_allclose(found.values, wide.values, atol=2e-4)
    np.testing.assert_array_equal(found.values[0], narrow["lift"][0])


# --- discretizations ----------------------------------------------------------------------------


def test_scheme_of_a_plane_equation_with_two_fields():
    """A complete basis reaches the discrete solution of the FitzHugh–Nagumo system."""
    grid = pde.Grid(
        {
            "t": pde.Levels((0.0, 0.1, 0.3)),
            "x": pde.Cells(np.linspace(0, 1, 4)),
            "y": pde.Cells(np.linspace(0, 1, 3)),
        }
    )
    equation = pde.ReactionDiffusion()
    conditions = tuple(pde.Periodic(f, a) for f in "uv" for a in "xy")
    random = np.random.default_rng(0)
    count = 2 * 2 * 3 * 2
    basis = {f: jnp.asarray(random.normal(size=(count, *grid.shape))) for f in "uv"}
    lift = {f: jnp.broadcast_to(jnp.asarray(random.uniform(size=(3, 2))), grid.shape) for f in "uv"}
    scheme = layers.Scheme(
        grid,
        layers.SpaceTimeInverse(grid, equation, conditions, reference={"u": 0.3, "v": 0.2}),
    )
    layer = layers.HardConstraint(scheme, SOLVER, ridge=0.0)
    found = jax.jit(lambda basis, lift: layer(equation, basis, lift, conditions))(basis, lift)
    assert found.converged and found.residual_norm < 1e-11
    assert set(found.values) == {"u", "v"}
    # By the definition of the schemes, level by level.
    weights = grid.axes["t"].weights()
    laplace = lambda w: sum(
        (np.roll(w, 1, i) - 2 * w + np.roll(w, -1, i)) / h**2 for i, h in ((0, 1 / 3), (1, 1 / 2))
    )
    u, v = (np.asarray(found.values[f]) for f in "uv")
    for level in (1, 2):
        rate = lambda w, level=level: sum(weights[s, level - 1] * w[level - s] for s in range(level + 1))
        a, b = u[level], v[level]
        np.testing.assert_allclose(rate(u), 1e-3 * laplace(a) + a - a**3 - 5e-3 - b, rtol=0, atol=1e-10)
        np.testing.assert_allclose(rate(v), 5e-3 * laplace(b) + a - b, rtol=0, atol=1e-10)
    for f in "uv":
        np.testing.assert_array_equal(found.values[f][0], lift[f][0])


def test_faces_hold_exactly_whatever_the_coefficients():
    """The stencils eliminate the conditions: the flux balance of the last cell has the outflow in it."""
    omega = jnp.arange(1.0, 7.0)
    values = SCHEME.combine(omega, BASIS, LIFT)
    np.testing.assert_array_equal(values[0], LIFT[0])
    (block,) = SCHEME.blocks(TYPICAL, BASIS, LIFT, TYPICAL.conditions())
    d = GRID.fields({"u": values}, pde.required(TYPICAL), TYPICAL.conditions())
    for name, array in block.fields(omega).items():
        np.testing.assert_allclose(array, d[name], rtol=1e-10, atol=1e-9, err_msg=name)


KAPPA = 0.1


def _exact(p):
    """A solution of u_t = κ u_xx, and the second basis function; p is (x, t)."""
    return jnp.exp(-KAPPA * jnp.pi**2 * p[1]) * jnp.sin(jnp.pi * p[0])


class Value(pde.Equation):
    """u = g(x)."""

    coordinates = ("x", "t")
    fields = ("u",)

    def residual(self, d, point):
        return d.u - jnp.sin(jnp.pi * point.x)


def _functions(p):
    """None of the first is a solution."""
    s = jnp.sin(jnp.pi * p[0])
    return jnp.stack([s, s * p[1], _exact(p), p[0] * (1 - p[0]) * p[1], s * p[1] ** 2])


@pytest.mark.parametrize("solver", [SOLVER, jsci.solvers.BFGS(rtol=1e-11)])
def test_collocation_recovers_an_exact_solution(solver):
    points = jax.random.uniform(jax.random.key(0), (60, 2))
    initial = jnp.stack([jnp.linspace(0.05, 0.95, 9), jnp.zeros(9)], axis=1)
    collocation = layers.Collocation(points, 1.0, ((Value(), initial, 1.0),))
    layer = layers.HardConstraint(collocation, solver, ridge=0.0)

    def solve(kappa):
        return layer(pde.Heat(kappa), _functions, lambda p: 0.0 * p[0])

    found = eqx.filter_jit(lambda kappa: solve(kappa).coefficients)(KAPPA)
    np.testing.assert_allclose(found, [0, 0, 1, 0, 0], atol=1e-8)
    values = jax.vmap(lambda p: solve(KAPPA).values(p))(points[:3])
    np.testing.assert_allclose(values, jax.vmap(_exact)(points[:3]), atol=1e-8)


def test_condition_rows_and_their_scale():
    """Rows are scale · r / √m, for the equation and for each condition."""
    points = jax.random.uniform(jax.random.key(0), (7, 2))
    initial = jnp.stack([jnp.linspace(0.05, 0.95, 4), jnp.zeros(4)], axis=1)
    collocation = layers.Collocation(points, 3.0, ((Value(), initial, 5.0),))
    lift = lambda p: p[0] ** 2 * p[1]
    law, start = collocation.blocks(pde.Heat(KAPPA), _functions, lift)
    omega = jnp.arange(1.0, 6.0)
    u = collocation.combine(omega, _functions, lift)
    r = jax.vmap(lambda p: jax.grad(u)(p)[1] - KAPPA * jax.hessian(u)(p)[0, 0])(points)
    np.testing.assert_allclose(law(omega)[0], 3 * r / 7**0.5, rtol=1e-10, atol=1e-12)
    r = jax.vmap(lambda p: u(p) - jnp.sin(jnp.pi * p[0]))(initial)
    np.testing.assert_allclose(start(omega)[0], 5 * r / 4**0.5, rtol=1e-10, atol=1e-12)


# --- row scalings -------------------------------------------------------------------------------


class Heat2(pde.Equation):
    """u_t = 0.3 (u_xx + u_yy) + 0.2 u_x in the plane."""

    coordinates = ("x", "y", "t")
    fields = ("u",)

    def residual(self, d, point):
        return d.u_t - 0.3 * (d.u_xx + d.u_yy) - 0.2 * d.u_x


def _line(order):
    axes = {
        "t": pde.Levels((0.0, 0.1, 0.15, 0.4, 0.7), order),
        "x": pde.Cells(np.array([0, 0.2, 0.3, 0.6, 1.0])),
    }
    conditions = (pde.Dirichlet("u", pde.low("x"), 0.7), pde.Robin("u", pde.high("x"), 1.0, 0.5, 0.2))
    return pde.Grid(axes), pde.Heat(0.3), conditions


def _plane(order):
    axes = {
        "t": pde.Levels((0.0, 0.1, 0.25, 0.4), order),
        "x": pde.Cells(np.linspace(0, 1, 5)),
        "y": pde.Cells(np.linspace(0, 2, 4)),
    }
    conditions = (
        pde.Dirichlet("u", pde.low("x"), 0.7),
        pde.Neumann("u", pde.high("x"), 0.1),
        pde.Periodic("u", "y"),
    )
    return pde.Grid(axes), Heat2(), conditions


def _march(grid, equation, conditions, initial):
    """The discrete solution, by one dense solve for all levels at once."""
    shape = grid.shape

    def rows(rest):
        values = jnp.concatenate([initial[None], rest.reshape(shape[0] - 1, *shape[1:])])
        d = grid.fields({"u": values}, pde.required(equation), conditions)
        return pde.pointwise(equation, d, grid.point())[0].reshape(-1)

    zero = jnp.zeros((shape[0] - 1) * initial.size)
    matrix, offset = jax.jit(jax.jacfwd(rows))(zero), rows(zero)
    rest = np.linalg.solve(matrix, -offset)
    return jnp.concatenate([initial[None], rest.reshape(shape[0] - 1, *shape[1:])])


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("make", [_line, _plane], ids=["line", "plane"])
def test_space_time_inverse_turns_residuals_into_errors(make, order):
    """For a linear equation rows(u) = √(w/Σw) (u − u*), whatever u."""
    grid, equation, conditions = make(order)
    random = np.random.default_rng(0)
    initial = jnp.asarray(random.normal(size=grid.shape[1:]))
    star = _march(grid, equation, conditions, initial)
    rows = layers.SpaceTimeInverse(grid, equation, conditions, reference={"u": 0.0})
    scheme = layers.Scheme(grid, rows)
    residual = jax.jit(lambda values: scheme.residual(equation, values, conditions))
    assert np.max(np.abs(residual(star))) < 1e-12
    other = star + jnp.asarray(random.normal(size=grid.shape)).at[0].set(0.0)
    measure = grid.weights() / jnp.sum(grid.weights())
    wanted = jnp.sqrt(measure) * (other - star)[1:]
    np.testing.assert_allclose(residual(other)[0], wanted, rtol=0, atol=1e-10)


def test_space_time_inverse_of_a_stationary_equation():
    grid = pde.Grid({"x": pde.Cells(np.linspace(0, 1, 5)), "y": pde.Cells(np.linspace(0, 1, 4))})
    equation = pde.Poisson(lambda point: jnp.sin(point.x) * point.y)
    conditions = (
        pde.Dirichlet("u", pde.low("x"), 0.3),
        pde.Neumann("u", pde.high("x"), 0.1),
        pde.Periodic("u", "y"),
    )
    rows = layers.SpaceTimeInverse(grid, equation, conditions, reference={"u": 0.0})
    scheme = layers.Scheme(grid, rows)
    residual = lambda u: scheme.residual(equation, u.reshape(grid.shape), conditions).reshape(-1)
    zero = jnp.zeros(12)
    # √(1/12) times the identity, since rows are errors.
    np.testing.assert_allclose(jax.jacfwd(residual)(zero), np.eye(12) / 12**0.5, atol=1e-10)


def test_space_time_inverse_of_cells_counts_what_lies_outside_as_zero():
    grid, equation, conditions = _line(2)
    rows = layers.SpaceTimeInverse(grid, equation, conditions, reference={"u": 0.0}, cells=(slice(1, 3),))
    random = np.random.default_rng(0)
    error = jnp.zeros(grid.shape).at[1:, 1:3].set(random.normal(size=(4, 2)))
    linear = grid.fields({"u": error}, pde.required(equation), conditions, homogeneous=True)
    r = jnp.stack(pde.pointwise(equation, linear, grid.point()))[:, :, 1:3]
    measure = (grid.weights() / jnp.sum(grid.weights()))[:, 1:3]
    np.testing.assert_allclose(rows(r)[0], jnp.sqrt(measure) * error[1:, 1:3], atol=1e-12)


def test_mean_square_is_the_mean_over_the_domain():
    grid, equation, conditions = _line(2)
    rows = layers.MeanSquare(grid, scale=3.0)
    ones = jnp.ones((1, *grid.row_shape))
    np.testing.assert_allclose(jnp.sum(rows(2 * ones) ** 2), 36.0, rtol=1e-12)
    values = jnp.asarray(np.random.default_rng(0).normal(size=grid.shape))
    r = layers.Scheme(grid, rows).residual(equation, values, conditions)
    d = grid.fields({"u": values}, pde.required(equation), conditions)
    squares = pde.pointwise(equation, d, grid.point())[0] ** 2
    widths = grid.weights()
    mean = jnp.sum(widths * squares) / jnp.sum(widths)
    np.testing.assert_allclose(jnp.sum(r**2), 9 * mean, rtol=1e-12)


# --- mistakes -----------------------------------------------------------------------------------


class Mixed(pde.Equation):
    coordinates = ("x", "t")
    fields = ("u",)

    def residual(self, d, point):
        return d.u_t - d.u_xt


class Over(pde.Equation):
    coordinates = ("x", "t")
    fields = ("u",)

    def residual(self, d, point):
        return d.u_t, d.u_x


class Singular(pde.Equation):
    coordinates = ("x", "t")
    fields = ("u",)

    def residual(self, d, point):
        return 0.0 * d.u


def _inverse(equation=TYPICAL, reference=None, axes=None):
    reference = {"u": 0.1} if reference is None else reference
    grid = GRID if axes is None else pde.Grid({name: GRID.axes[name] for name in axes})
    return layers.SpaceTimeInverse(grid, equation, TYPICAL.conditions(), reference=reference)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: _layer(ridge=-1.0), "`ridge` is -1"),
        (lambda: _layer()(TYPICAL, BASIS[:, :3], LIFT, TYPICAL.conditions()), "`basis` has shape"),
        (lambda: _layer()(TYPICAL, BASIS, LIFT[1:], TYPICAL.conditions()), "`lift` has shape"),
        (lambda: _layer()(TYPICAL, {"v": BASIS}, LIFT), "`basis` has shape None for the field 'u'"),
        (lambda: _layer()(TYPICAL, BASIS, LIFT), "needs a condition"),
        (lambda: _layer()(pde.ReactionDiffusion(), BASIS, LIFT), "`basis` is one array"),
        (
            lambda: layers.Collocation(jnp.ones((2, 2))).blocks(
                TYPICAL, _functions, _exact, TYPICAL.conditions()
            ),
            "`conditions` of faces are for `Scheme`",
        ),
        (lambda: _inverse(reference={}), "`reference` has the fields"),
        (lambda: _inverse(Mixed()), "mixes time and space"),
        (lambda: _inverse(Over()), "2 equations for 1 fields"),
        (lambda: _inverse(Singular()), "singular time level"),
        (lambda: _inverse(axes=("x", "t")), "expected the time axis 't' first"),
    ],
)
def test_mistakes_are_named(call, match):
    with pytest.raises(ValueError, match=match):
        call()
