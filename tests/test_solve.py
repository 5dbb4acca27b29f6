"""What `solve` and `attach` promise beside the derivatives of test_derivatives.py."""

import re
import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import optimistix as optx
import pytest
import scipy.optimize
from jax.sharding import PartitionSpec as P

import jaxsci as jsci

NEWTON = jsci.solvers.Newton(rtol=1e-12, atol=1e-12)


def cube(y, a):
    """y³ = a, entry by entry: y = ∛a and dy/da = 1 / (3 y²)."""
    return y**3 - a


ROOT = jsci.Root(cube)


def cube_root(a, **options):
    return jsci.solve(ROOT, NEWTON, jnp.ones_like(a), a, **options).value


# --- what θ may be ------------------------------------------------------------------------------


class Physics(eqx.Module):
    rate: jax.Array
    power: int
    name: str
    activation: object
    nothing: None = None
    network: eqx.nn.MLP | None = None


def test_theta_holds_anything(key):
    network = eqx.nn.MLP(1, "scalar", 3, 1, jax.nn.softplus, key=key)
    physics = Physics(jnp.array(2.0), 3, "cubic", jax.nn.tanh, None, network)

    def equation(y, args):
        physics, shift, options = args
        assert options["mode"] == "exact" and physics.name == "cubic" and physics.nothing is None
        drive = options["scale"] * physics.rate + shift + 0.1 * physics.network(y[None])
        return y**physics.power + physics.activation(y) - drive

    def solved(physics):
        args = (physics, 1.5, {"mode": "exact", "scale": 2, "hook": print})
        return jsci.solve(jsci.Root(equation), NEWTON, jnp.array(1.0), args, throw=False).value

    gradient = eqx.filter_jit(eqx.filter_grad(solved))(physics)
    assert gradient.power is None and gradient.name is None

    def moved(h):
        physics_h = eqx.tree_at(
            lambda p: (p.rate, p.network.layers[0].bias),
            physics,
            (physics.rate + h, network.layers[0].bias + h),
        )
        return solved(physics_h)

    found = gradient.rate + gradient.network.layers[0].bias.sum()
    moved = jax.jit(moved)
    np.testing.assert_allclose(found, (moved(1e-5) - moved(-1e-5)) / 2e-5, rtol=1e-8)


class Spring(jsci.AbstractResidual):
    """A residual of one's own, with arrays as fields."""

    stiffness: jax.Array
    load: jax.Array

    def __call__(self, y, args):
        return self.stiffness @ y + y**3 - self.load


def test_fields_of_a_residual_are_differentiated():
    spring = Spring(jnp.array([[2.0, 0.3], [-0.1, 1.5]]), jnp.array([1.0, -0.5]))
    solved = lambda r: jsci.solve(r, NEWTON, jnp.zeros(2), throw=False).value
    y = solved(spring)
    found = jax.jit(jax.jacrev(solved))(spring)
    inverse = np.linalg.inv(spring.stiffness + np.diag(3 * y**2))
    np.testing.assert_allclose(found.load, inverse, rtol=1e-12)
    np.testing.assert_allclose(found.stiffness, -np.einsum("ij,k->ijk", inverse, y), rtol=1e-12)


def test_closures_are_differentiated():
    def solved(a):
        root = jsci.Root(lambda y, _: y**3 - jnp.sin(a))
        return jsci.solve(root, NEWTON, jnp.array(1.0), throw=False).value

    f = lambda a: jnp.cbrt(jnp.sin(a))
    a = jnp.array(0.7)
    lanes = jnp.array([0.4, 0.7, 1.1])
    np.testing.assert_allclose(jax.grad(solved)(a), jax.grad(f)(a), rtol=1e-10)
    every = lambda f: jax.jit(lambda a: (jax.grad(f)(a), jax.vmap(jax.hessian(f))(lanes * a)))
    for found, oracle in zip(every(solved)(a), every(f)(a), strict=True):
        np.testing.assert_allclose(found, oracle, rtol=1e-10)


def test_the_first_guess_has_no_derivative():
    f = lambda y0, a: jsci.solve(ROOT, NEWTON, y0, a, throw=False).value
    assert jax.grad(f)(jnp.array(1.3), 2.0) == 0
    assert jax.jvp(lambda y0: f(y0, 2.0), (1.3,), (1.0,))[1] == 0


def test_attach_to_a_value_of_scipy():
    a = np.array([0.8, 0.35])

    def equations(y, a):
        return jnp.array([y[0] ** 3 + a[0] * y[1] - 1.0, y[1] ** 3 + jnp.sin(a[1]) * y[0] - 0.5])

    found = scipy.optimize.root(lambda y: np.asarray(equations(y, a)), [0.9, 0.6], tol=1e-13)
    assert found.success
    y = found.x
    by_y, by_a = jax.jit(jax.jacfwd(equations, argnums=(0, 1)))(y, a)
    oracle = -np.linalg.solve(by_y, by_a)
    for mode in (jax.jacfwd, jax.jacrev):
        jacobian = jax.jit(mode(lambda a: jsci.attach(jsci.Root(equations), y, a)))(a)
        np.testing.assert_allclose(jacobian, oracle, rtol=1e-12)


def test_structures_of_unknown_and_equations_may_differ():
    def equations(y, a):
        return {"a": y["u"] * y["v"][0] - a, "b": y["v"] - jnp.array([1.0, 2.0]) * y["u"]}

    y0 = {"u": jnp.array(1.0), "v": jnp.ones(2)}
    solved = lambda a: jsci.solve(jsci.Root(equations), NEWTON, y0, a, throw=False).value
    a = jnp.array(2.0)
    y, jacobian = jax.jit(lambda a: (solved(a), jax.jacrev(solved)(a)))(a)
    np.testing.assert_allclose(y["v"], np.sqrt(2.0) * np.array([1, 2]), rtol=1e-12)
    np.testing.assert_allclose(jacobian["v"], 0.5 / np.sqrt(2.0) * np.array([1, 2]), rtol=1e-12)


def test_complex_unknown():
    solved = lambda a: jsci.solve(jsci.Root(cube), NEWTON, 1.0 + 1.0j, a, throw=False).value
    a = jnp.array(1.0 + 2.0j)
    y, derivative = jax.jit(jax.value_and_grad(solved, holomorphic=True))(a)
    np.testing.assert_allclose(y**3, a, rtol=1e-12)
    np.testing.assert_allclose(derivative, 1 / (3 * y**2), rtol=1e-12)


def test_aux_is_that_of_the_solution():
    root = jsci.Root(lambda y, a: (y**3 - a, {"square": y**2}))

    def aux(a):
        return jsci.solve(root, NEWTON, jnp.array(1.0), a, has_aux=True, throw=False).aux["square"]

    np.testing.assert_allclose(aux(8.0), 4.0, rtol=1e-12)
    np.testing.assert_allclose(jax.grad(aux)(8.0), 2 * 2 / (3 * 4), rtol=1e-12)


def test_stats():
    solution = jsci.solve(ROOT, NEWTON, jnp.array(1.0), 8.0)
    assert solution.result == jsci.RESULTS.successful
    assert 3 <= int(solution.stats.steps) <= 12
    assert float(solution.stats.residual_norm) < 1e-12
    solver = jsci.solvers.Newton(rtol=1e-10, atol=1e-10, linear_solver=jsci.linear.GMRES())
    solution = jsci.solve(ROOT, solver, jnp.ones(3), jnp.array([1.0, 2.0, 3.0]))
    assert int(solution.stats.linear_iterations) >= int(solution.stats.steps)


# --- failures are loud --------------------------------------------------------------------------

NO_ROOT = jsci.Root(lambda y, a: y**2 + a)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(
    ("a", "steps", "remedy"),
    [(1.0, 256, "Loosen|remove redundant"), (-2.0, 1, "max_steps|maximum number of steps")],
)
def test_failure_raises_with_the_remedy(a, steps, remedy, compiled):
    def solved(a):
        return jsci.solve(NO_ROOT, NEWTON, jnp.array(3.0), a, max_steps=steps).value

    solved = jax.jit(solved) if compiled else solved
    with pytest.raises(RuntimeError, match=remedy):
        jax.block_until_ready(solved(jnp.array(a)))


def test_failure_raises_in_gradients():
    solved = lambda a: jsci.solve(NO_ROOT, NEWTON, jnp.array(3.0), a).value
    np.testing.assert_allclose(jax.grad(solved)(-2.0), -0.5 / np.sqrt(2), rtol=1e-12)
    with pytest.raises(RuntimeError, match="converge|reduce|singular"):
        jax.block_until_ready(jax.jit(jax.grad(solved))(1.0))


def test_a_failed_lane_leaves_the_others_exact():
    def solved(a):
        solution = jsci.solve(NO_ROOT, NEWTON, jnp.array(1.0), a, throw=False)
        return solution.value, solution.result == jsci.RESULTS.successful

    a = jnp.array([-2.0, -3.0, 1.0])
    y, ok = jax.jit(jax.vmap(solved))(a)
    assert ok.tolist() == [True, True, False]
    np.testing.assert_allclose(y[:2], np.sqrt([2.0, 3.0]), rtol=1e-12)
    gradient = jax.jit(jax.vmap(jax.grad(lambda a: solved(a)[0])))(a)
    np.testing.assert_allclose(gradient[:2], -0.5 / np.sqrt([2.0, 3.0]), rtol=1e-12)


def test_a_singular_lane_is_nan_and_leaves_the_others_exact():
    # y² = a at y = 0 is a root without a derivative.
    square = jsci.Root(lambda y, a: y**2 - a)
    y, a = jnp.array([1.0, 2.0, 0.0]), jnp.array([1.0, 4.0, 0.0])
    for mode in (jax.grad, jax.jacfwd):
        found = jax.vmap(mode(lambda a, y: jsci.attach(square, y, a)))(a, y)
        assert np.isnan(found[2])
        np.testing.assert_allclose(found[:2], [0.5, 0.25], rtol=1e-14)


@pytest.mark.parametrize("check", [True, False])
def test_a_failed_lane_is_nan_inside_shard_map(check, devices):
    solved = lambda a: jsci.solve(NO_ROOT, NEWTON, jnp.array(1.0), a).value
    lanes = jax.shard_map(
        lambda a: jax.vmap(solved)(a),
        mesh=devices(4),
        in_specs=P("devices"),
        out_specs=P("devices"),
        check_vma=check,
    )
    y = jax.jit(lanes)(jnp.array([-1.0, -4.0, 1.0, -9.0]))
    assert np.isnan(y[2])
    np.testing.assert_allclose(y[np.array([0, 1, 3])], [1, 2, 3], rtol=1e-12)


def test_nonfinite_residual_is_a_failure():
    log = jsci.Root(lambda y, a: jnp.log(y) + a)
    solution = jsci.solve(log, NEWTON, jnp.array(-1.0), 1.0, throw=False)
    assert solution.result == jsci.RESULTS.nonfinite
    solution = jsci.solve(ROOT, NEWTON, jnp.array(0.0), 1.0, throw=False)
    assert solution.result == jsci.RESULTS.singular_system


# --- precision ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "tiny", "rtol"), [(jnp.float64, 1e-30, 1e-12), (jnp.float32, 1e-20, 1e-5)])
@pytest.mark.parametrize(
    "linear_solver", [None, jsci.linear.CG(), jsci.linear.GMRES()], ids=["default", "CG", "GMRES"]
)
def test_tiny_cotangents_are_exact(dtype, tiny, rtol, linear_solver):
    a = jnp.array([[2.0, 0.5], [0.5, 1.0]], dtype)
    b = jnp.array([1.0, -2.0], dtype)
    linear = jsci.Root(lambda y, b: a @ y - b, tags=frozenset({lx.positive_semidefinite_tag}))
    y = jnp.linalg.solve(a, b)
    adjoint = jsci.ImplicitAdjoint(linear_solver)
    _, pull = jax.vjp(lambda b: jsci.attach(linear, y, b, adjoint=adjoint), b)
    cotangent = jnp.array([1.0, 3.0], dtype) * tiny
    (found,) = pull(cotangent)
    assert found.dtype == dtype
    expected = np.linalg.solve(np.asarray(a, float), np.array([1.0, 3.0])) * tiny
    np.testing.assert_allclose(np.asarray(found, float), expected, rtol=rtol, atol=0)


@pytest.mark.parametrize(
    "solver",
    [
        jsci.solvers.Newton(rtol=1e-5, atol=1e-5),
        jsci.solvers.Newton(rtol=1e-5, atol=1e-5, linear_solver=jsci.linear.GMRES()),
        jsci.solvers.LevenbergMarquardt(rtol=1e-5),
        optx.Newton(1e-5, 1e-5),
    ],
    ids=["Newton", "Newton with GMRES", "LevenbergMarquardt", "optimistix"],
)
def test_float32_stays_float32(solver):
    assert jax.config.jax_enable_x64
    a = jnp.array([1.0, 8.0], jnp.float32)
    solution = jsci.solve(ROOT, solver, jnp.ones(2, jnp.float32), a)
    assert solution.value.dtype == jnp.float32
    assert solution.stats.residual_norm.dtype == jnp.float32
    f = lambda a: jsci.solve(ROOT, solver, jnp.ones(2, jnp.float32), a, throw=False).value.sum()
    assert jax.grad(f)(a).dtype == jnp.float32
    # Inside the loops as well: Python's numbers are float64 constants, but nothing is computed with.
    text = jax.jit(jax.grad(f)).lower(a).as_text()
    double = re.findall(r"stablehlo\.(\w+).*f64>", text)
    if not isinstance(solver, optx.Newton):
        assert set(double) <= {"constant", "convert", "broadcast_in_dim"}


@pytest.mark.parametrize("linear_solver", [None, jsci.linear.GMRES()], ids=["dense", "GMRES"])
def test_no_host_callback(linear_solver):
    solver = jsci.solvers.Newton(rtol=1e-9, atol=1e-9, linear_solver=linear_solver)
    f = lambda a: jsci.solve(ROOT, solver, jnp.ones(3), a, throw=False).value.sum()
    for g in (f, jax.grad(f), jax.hessian(f)):
        assert "callback" not in jax.jit(g).lower(jnp.ones(3)).as_text()


# --- as the adjoint of optimistix ---------------------------------------------------------------


def quadratic(y, a):
    return jnp.sum((y - jnp.sin(a)) ** 2) + 0.1 * jnp.sum(y**4)


@pytest.mark.parametrize(
    ("entry", "fn", "solver"),
    [
        (optx.root_find, cube, optx.Newton(1e-12, 1e-12)),
        (optx.fixed_point, lambda y, a: jnp.cos(0.5 * y * a), optx.FixedPointIteration(1e-13, 1e-13)),
        (
            optx.least_squares,
            lambda y, a: jnp.append(y**3 - a, 0.3 * y[0]),
            optx.LevenbergMarquardt(1e-12, 1e-12),
        ),
        (optx.minimise, quadratic, optx.BFGS(1e-12, 1e-12)),
    ],
    ids=["root_find", "fixed_point", "least_squares", "minimise"],
)
def test_adjoint_of_optimistix(entry, fn, solver):
    a = jnp.array([0.8, 1.1])

    def ours(a):
        adjoint = jsci.ImplicitAdjoint()
        return entry(fn, solver, jnp.ones(2), a, adjoint=adjoint, max_steps=1000).value

    theirs = lambda a: entry(fn, solver, jnp.ones(2), a, max_steps=1000).value
    weight = jnp.array([1.0, -2.0])
    found, expected = jax.jit(lambda a: (jax.jacrev(ours)(a), jax.jacrev(theirs)(a)))(a)
    np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-9)
    hessian = jax.jit(jax.hessian(lambda a: weight @ ours(a)))(a)
    slope = jax.jit(jax.grad(lambda a: weight @ ours(a)))
    h = 1e-4
    differences = [(slope(a + h * e) - slope(a - h * e)) / (2 * h) for e in np.eye(2)]
    np.testing.assert_allclose(hessian, np.stack(differences), rtol=1e-5, atol=2e-6)


# --- wrong arguments ----------------------------------------------------------------------------


def wrong(residual=ROOT, solver=NEWTON, y0=1.0, args=1.0, **options):
    return lambda: jsci.solve(residual, solver, y0, args, **options)


KKT = jsci.KKT(lambda x, a: jnp.sum((x - a) ** 2), lambda x, a: x[0] - a)

MISTAKES = {
    "a function for a residual": (wrong(cube), TypeError, "`residual`.*function.*jaxsci.Root"),
    "a name for a solver": (wrong(solver="newton"), TypeError, "`solver`.*'newton'.*Newton"),
    "an integer guess": (wrong(y0=1), TypeError, "`y0`.*int.*Write 1.0"),
    "an integer array": (wrong(y0={"u": jnp.arange(2)}), TypeError, r"`y0`\['u'\].*int.*Write 1.0"),
    "a text in the guess": (wrong(y0=[1.0, "b"]), TypeError, r"`y0`\[1\].*str"),
    "an empty guess": (wrong(y0=()), ValueError, "`y0`.*no arrays"),
    "no steps": (wrong(max_steps=0), ValueError, "`max_steps` is 0.*≥ 1"),
    "half a step": (wrong(max_steps=2.5), ValueError, "`max_steps` is 2.5"),
    "more equations than unknowns": (
        wrong(jsci.Root(lambda y, a: jnp.stack([y - a, y + a]))),
        ValueError,
        "as many equations as unknowns.*LeastSquares",
    ),
    "fewer equations than unknowns": (
        wrong(jsci.Root(lambda y, a: y[0] - a), y0=jnp.ones(2)),
        ValueError,
        r"shapes \[\(\)\].*shapes \[\(2,\)\].*add the missing",
    ),
    "multipliers of another structure": (
        wrong(KKT, y0=(jnp.ones(2), [jnp.ones(())])),
        ValueError,
        "`y` is the pair.*start",
    ),
    "multipliers of another shape": (
        wrong(KKT, y0=(jnp.ones(2), jnp.ones(3))),
        ValueError,
        "`y` is the pair.*start",
    ),
    "no pair for KKT": (wrong(KKT, y0=jnp.ones(3)), ValueError, "`y` is .*the pair.*start"),
    "a vector for a scalar": (
        wrong(jsci.Stationary(cube), y0=jnp.ones(2)),
        ValueError,
        r"`fn` of Stationary.*\(2,\).*scalar",
    ),
    "aux without a function": (
        wrong(Spring(jnp.eye(1), jnp.ones(1)), y0=jnp.ones(1), has_aux=True),
        TypeError,
        "`has_aux`.*Spring",
    ),
    "attach to integers": (lambda: jsci.attach(ROOT, 1, 1.0), TypeError, "`y`.*int"),
    "attach to no residual": (lambda: jsci.attach(cube, 1.0, 1.0), TypeError, "`residual`.*Root"),
    "rtol zero": (lambda: jsci.solvers.Newton(0.0, 0.0), ValueError, "`rtol` and `atol` are both 0"),
    "rtol NaN": (lambda: jsci.solvers.Newton(float("nan"), 1e-8), ValueError, "`rtol` is nan.*1e-8"),
    "atol negative": (lambda: jsci.solvers.Newton(1e-8, -1.0), ValueError, "`atol` is -1.0"),
    "rtol a text": (lambda: jsci.solvers.Newton("small", 1e-8), (ValueError, TypeError), "`rtol`"),
    "linear solver": (
        lambda: jsci.solvers.Newton(1e-8, 1e-8, linear_solver=lx.LU()),
        TypeError,
        "`linear_solver`.*jaxsci.linear",
    ),
    "linear solver of the adjoint": (
        lambda: jsci.ImplicitAdjoint(lx.LU()),
        TypeError,
        "`linear_solver`.*jaxsci.linear",
    ),
    "adjoint": (
        wrong(adjoint=optx.ImplicitAdjoint()),
        TypeError,
        "`adjoint`.*jaxsci.ImplicitAdjoint",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_named_with_their_remedy(mistake):
    act, kind, message = MISTAKES[mistake]
    with pytest.raises(kind, match=f"(?s){message}"):
        act()


def test_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cube_root(jnp.array(8.0))
