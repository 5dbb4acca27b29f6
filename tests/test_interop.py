"""For code that comes from other libraries: the same call, and derivatives of every order.

Every solver of jaxopt runs on a problem of its kind. The oracle is a closed form on the known active set,
or Newton's method, unrolled from a near start and differentiated as a program.
"""

import functools
import inspect
import warnings
from collections.abc import Callable
from typing import NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import optimistix as optx
import pytest
from jax.flatten_util import ravel_pytree

with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
    import jaxopt

import jaxsci as jsci
from jaxsci import convex, interop

MIX = jnp.array([[0.2, -0.1], [0.15, 0.1]])
START = jnp.array([0.3, 0.2])
POINT = jnp.array([0.8, 0.35])
TIGHT = {"tol": 1e-11, "maxiter": 3000}
LINE_SEARCH = {"tol": 1e-9, "maxiter": 3000}  # near rounding it makes no more progress


def equations(y, a):
    return y + MIX @ jnp.sin(y) - a


def contraction(y, a):
    return jnp.tanh(2 * MIX @ y + a)


def curved(y, a):
    return jnp.append(y + MIX @ jnp.sin(y) - a, 0.2 * y[0] * y[1] - 0.1 * a[0])


def bowl(y, a):
    return 0.5 * jnp.sum((y - a) ** 2) + 0.1 * jnp.sum(jnp.cos(MIX @ y))


def newton(fn, start=START):
    """The root of fn(y, a). Two of the steps are unrolled: they carry exact first and second derivatives."""

    def step(y, a):
        slope = jnp.atleast_2d(jax.jacfwd(fn)(y, a))
        return y - jnp.linalg.solve(slope, jnp.atleast_1d(fn(y, a))).reshape(y.shape)

    def oracle(a):
        known = jax.lax.stop_gradient(a)
        y = jax.lax.fori_loop(0, 8, lambda _, y: step(y, known), start)
        return step(step(y, a), a)

    return oracle


minimum = newton(jax.grad(bowl))
fitted = newton(jax.grad(lambda y, a: 0.5 * jnp.sum(curved(y, a) ** 2)))

# min ½ yᵀP y − qᵀy over sets of which the active part is known.
P = jnp.array([[2.0, 0.3, 0.1], [0.3, 1.5, -0.2], [0.1, -0.2, 1.0]])
QP = {"P": P, "q": jnp.array([1.0, 0.8, -0.7])}
WIDE = jnp.array([0.2, 0.1, 0.3])


def symmetric(theta):
    return 0.5 * (theta["P"] + theta["P"].T)


def quadratic(y, theta):
    return 0.5 * y @ symmetric(theta) @ y - theta["q"] @ y


def free(theta, shift=0.0, fixed=(2,), at=0.0):
    """The minimum with the unknowns `fixed` held at `at`, and the gradient shifted."""
    kept = jnp.array([i for i in range(3) if i not in fixed])
    held = jnp.array(fixed)
    matrix, at = symmetric(theta), at * jnp.ones(len(fixed))
    right = (theta["q"] - shift)[kept] - matrix[kept][:, held] @ at
    return jnp.zeros(3).at[kept].set(jnp.linalg.solve(matrix[kept][:, kept], right)).at[held].set(at)


def with_rows(theta, rows, values):
    """(y, ν) of the minimum subject to rows @ y = values."""
    m = rows.shape[0]
    matrix = jnp.block([[symmetric(theta), rows.T], [rows, jnp.zeros((m, m))]])
    found = jnp.linalg.solve(matrix, jnp.concatenate([theta["q"], values]))
    return found[:3], found[3:]


SIMPLEX = {"P": P, "q": jnp.array([1.2, 0.9, 0.6])}


def on_simplex(theta):
    return with_rows(theta, jnp.ones((1, 3)), jnp.ones(1))[0]


LASSO = {
    "X": jnp.array([[1.0, 0.2, 0.1], [0.3, 1.1, 0.2], [0.1, -0.3, 0.9]]),
    "y": jnp.array([1.0, 0.9, 0.1]),
}
LASSO["weight"] = jnp.array(0.3)


def lasso(theta):
    """Its support is {0, 1}, with positive signs."""
    x = theta["X"][:, :2]
    found = jnp.linalg.solve(x.T @ x, x.T @ theta["y"] - theta["weight"])
    return jnp.append(found, 0.0)


ROWS = {
    "P": P, "q": QP["q"], "A": jnp.array([[1.0, 1.0, 0.5]]), "b": jnp.array([0.7]),
    "G": jnp.array([[-1.0, 0.2, 0.1], [0.3, 1.0, -0.2]]), "h": jnp.array([-0.6, 2.0]),
}  # fmt: skip


def program(theta):
    """A y = b and G y ≤ h, of which the first row is active: (y, ν, λ)."""
    rows, values = jnp.vstack([theta["A"], theta["G"][:1]]), jnp.append(theta["b"], theta["h"][0])
    y, multipliers = with_rows(theta, rows, values)
    return y, multipliers[:1], jnp.append(multipliers[1:], 0.0)


def boxed(theta):
    """The same rows between bounds: ((y, A y), ν, (ν⁺, ν⁻))."""
    y, equality, inequality = program(theta)
    dual = jnp.append(equality, inequality)
    stacked = jnp.vstack([theta["A"], theta["G"]])
    positive = dual > 0
    return (y, stacked @ y), dual, (jnp.where(positive, dual, 0), jnp.where(positive, 0, -dual))


def of_qp(theta):
    return symmetric(theta), -theta["q"]


class Case(NamedTuple):
    solver: Callable  # () ↦ a jaxopt solver
    call: Callable  # θ ↦ the arguments of run
    theta: object
    oracle: Callable  # θ ↦ jaxopt's params
    tolerance: float = 1e-8
    host: bool = False


def plain(make, oracle=minimum, fun=bowl, start=START, **options):
    return Case(lambda: make(fun, **(TIGHT | options)), lambda a: (start, a), POINT, oracle)


def hosted(make, **options):
    """A SciPy wrapper."""
    return Case(make, lambda a: (START, a), POINT, options.pop("oracle", minimum), 1e-6, True)


def bounded(theta):
    """Bounds 0 ≤ y ≤ 0.4 of which y₀ meets the upper and y₂ the lower."""
    return free(theta, fixed=(0, 2), at=jnp.array([0.4, 0.0]))


BOUNDS = (jnp.zeros(3), jnp.array([0.4, 2.0, 2.0]))
CASES = {
    "GradientDescent": plain(jaxopt.GradientDescent, tol=1e-9),
    "LBFGS": plain(jaxopt.LBFGS),
    "BFGS": plain(jaxopt.BFGS, linesearch="zoom"),
    "NonlinearCG": plain(jaxopt.NonlinearCG, tol=1e-9),
    "ArmijoSGD": plain(jaxopt.ArmijoSGD),
    "PolyakSGD": plain(jaxopt.PolyakSGD, max_stepsize=0.5, fun_min=-10.0),
    "OptaxSolver": plain(functools.partial(jaxopt.OptaxSolver, opt=optax.sgd(0.5))),
    "GaussNewton": plain(jaxopt.GaussNewton, fitted, curved, tol=1e-10),
    "LevenbergMarquardt": plain(jaxopt.LevenbergMarquardt, fitted, curved, tol=1e-10),
    "Broyden": plain(jaxopt.Broyden, newton(equations), equations),
    "FixedPointIteration": plain(
        jaxopt.FixedPointIteration, newton(lambda y, a: y - contraction(y, a)), contraction
    ),
    "AndersonAcceleration": plain(
        jaxopt.AndersonAcceleration, newton(lambda y, a: y - contraction(y, a)), contraction
    ),
    "AndersonWrapper": Case(
        lambda: jaxopt.AndersonWrapper(jaxopt.GradientDescent(bowl, **TIGHT)),
        lambda a: (START, a), POINT, minimum,
    ),
    "Bisection": Case(
        lambda: jaxopt.Bisection(lambda y, a: y**3 + y - a, 0.0, 2.0, tol=1e-13, maxiter=60),
        lambda a: (None, a), jnp.array(1.3), newton(lambda y, a: y**3 + y - a, jnp.array(0.8)),
    ),
    "ProximalGradient": Case(
        lambda: jaxopt.ProximalGradient(
            lambda y, t: 0.5 * jnp.sum((t["X"] @ y - t["y"]) ** 2), jaxopt.prox.prox_lasso, **LINE_SEARCH
        ),
        lambda t: (jnp.zeros(3), t["weight"], t), LASSO, lasso,
    ),
    "BlockCoordinateDescent": Case(
        lambda: jaxopt.BlockCoordinateDescent(
            jaxopt.objective.least_squares, jaxopt.prox.prox_lasso, **TIGHT
        ),
        # Its objective is a mean of halved squares.
        lambda t: (jnp.zeros(3), t["weight"] / 3, (t["X"], t["y"])), LASSO, lasso,
    ),
    "ProjectedGradient": Case(
        lambda: jaxopt.ProjectedGradient(quadratic, jaxopt.projection.projection_non_negative, **LINE_SEARCH),
        lambda t: (WIDE, None, t), QP, free,
    ),
    "ProjectedGradient on the simplex": Case(
        lambda: jaxopt.ProjectedGradient(quadratic, jaxopt.projection.projection_simplex, **LINE_SEARCH),
        lambda t: (WIDE, 1.0, t), SIMPLEX, on_simplex,
    ),
    "MirrorDescent": Case(
        lambda: jaxopt.MirrorDescent(
            quadratic,
            jaxopt.MirrorDescent.make_projection_grad(lambda v, s: s * jax.nn.softmax(v), jnp.log),
            stepsize=0.5, **TIGHT,
        ),
        lambda t: (jnp.ones(3) / 3, 1.0, t), SIMPLEX, on_simplex,
    ),
    "LBFGSB": Case(lambda: jaxopt.LBFGSB(quadratic, **TIGHT), lambda t: (WIDE, BOUNDS, t), QP, bounded),
    "BoxCDQP": Case(lambda: jaxopt.BoxCDQP(**TIGHT), lambda t: (WIDE, of_qp(t), BOUNDS), QP, bounded),
    "EqualityConstrainedQP": Case(
        lambda: jaxopt.EqualityConstrainedQP(tol=1e-12),
        lambda t: (None, of_qp(t), (t["A"], t["b"])), {k: ROWS[k] for k in "PqAb"},
        lambda t: with_rows(t, t["A"], t["b"]),
    ),
    "OSQP": Case(
        lambda: jaxopt.OSQP(tol=1e-11, maxiter=20000),
        lambda t: (None, of_qp(t), (t["A"], t["b"]), (t["G"], t["h"])), ROWS, program,
    ),
    "BoxOSQP": Case(
        lambda: jaxopt.BoxOSQP(tol=1e-11, maxiter=20000),
        lambda t: (
            None, of_qp(t), jnp.vstack([t["A"], t["G"]]),
            (jnp.append(t["b"], -jnp.inf * jnp.ones(2)), jnp.append(t["b"], t["h"])),
        ), ROWS, boxed,
    ),
    "IterativeRefinement": Case(
        lambda: jaxopt.IterativeRefinement(tol=1e-12, maxiter=50),
        lambda t: (None, t["P"], t["q"]), QP, lambda t: jnp.linalg.solve(t["P"], t["q"]),
    ),
    "CvxpyQP": Case(
        lambda: jaxopt.CvxpyQP(),
        lambda t: (None, of_qp(t), (t["A"], t["b"]), (t["G"], t["h"])), ROWS, program, 1e-4, True,
    ),
    "ScipyMinimize": hosted(lambda: jaxopt.ScipyMinimize(fun=bowl, method="BFGS", tol=1e-10)),
    "ScipyRootFinding": hosted(
        lambda: jaxopt.ScipyRootFinding(optimality_fun=equations, method="hybr", tol=1e-12),
        oracle=newton(equations),
    ),
    "ScipyLeastSquares": hosted(
        lambda: jaxopt.ScipyLeastSquares(fun=curved, method="trf", options={"gtol": 1e-12}), oracle=fitted
    ),
    "ScipyBoundedMinimize": Case(
        lambda: jaxopt.ScipyBoundedMinimize(fun=quadratic, method="L-BFGS-B", tol=1e-15),
        lambda t: (WIDE, BOUNDS, t), QP, bounded, 1e-6, True,
    ),
    "ScipyBoundedLeastSquares": Case(
        lambda: jaxopt.ScipyBoundedLeastSquares(
            fun=lambda y, t: t["X"] @ y - t["y"], method="trf",
            options={"gtol": 1e-15, "xtol": 1e-15, "ftol": 1e-15},
        ),
        lambda t: (WIDE, (jnp.zeros(3), jnp.array([0.4, 2.0, 2.0])), t),
        {"X": jnp.linalg.cholesky(P).T, "y": jnp.linalg.solve(jnp.linalg.cholesky(P), QP["q"])},
        lambda t: bounded({"P": t["X"].T @ t["X"], "q": t["X"].T @ t["y"]}), 1e-6, True,
    ),
}  # fmt: skip

# One of each kind in every run; the others with `make test-slow`.
QUICK = (
    "FixedPointIteration", "Bisection", "ProximalGradient", "ProjectedGradient on the simplex",
    "MirrorDescent", "OSQP",
)  # fmt: skip


def flat(tree):
    return ravel_pytree(tree)[0]


def agrees(solved, oracle, theta, tolerance, host=False):
    """Value, forward mode, reverse mode and a product with the Hessian."""
    keys = iter(jax.random.split(jax.random.key(3), 8))
    push = jax.tree.map(lambda x: jax.random.normal(next(keys), jnp.shape(x)), theta)

    def derivatives(solved):
        def program(theta, push):
            def both(theta):
                value, pull = jax.vjp(lambda theta: flat(solved(theta)), theta)
                return value, flat(pull(jnp.cos(jnp.arange(1.0, value.size + 1)))[0])

            (value, reverse), (forward, second) = jax.jvp(both, (theta,), (push,))
            return value, forward, reverse, second

        return program

    found = derivatives(solved) if host else jax.jit(derivatives(solved))
    wanted = jax.jit(derivatives(oracle))(theta, push)
    for one, other, scale in zip(found(theta, push), wanted, (1, 10, 10, 100), strict=True):
        np.testing.assert_allclose(one, other, rtol=scale * tolerance, atol=scale * tolerance)


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in CASES]
)
def test_solver_of_jaxopt(name):
    if name == "CvxpyQP":
        pytest.importorskip("cvxpy", reason="jaxopt's CvxpyQP needs cvxpy")
    solver, call, theta, oracle, tolerance, host = CASES[name]
    solver = solver()
    agrees(lambda theta: interop.run(solver, *call(theta)).value, oracle, theta, tolerance, host)


# --- failures are loud ------------------------------------------------------------------------------


def test_what_jaxopt_ends_in_silence():
    short = jaxopt.GradientDescent(bowl, maxiter=2, tol=1e-11)
    with pytest.raises(RuntimeError, match="stopped before it met its own tolerance"):
        interop.run(short, START, POINT)
    found = interop.run(short, START, POINT, throw=False)
    assert found.result == jsci.RESULTS.foreign_failure
    assert found.stats.steps == 2 and found.aux.error > 1e-3

    outside = jaxopt.Bisection(lambda y, a: y - a, 0.0, 1.0)
    found = jax.jit(lambda a: interop.run(outside, None, a, throw=False))
    assert found(2.0).result == jsci.RESULTS.foreign_failure
    assert found(0.7).result == jsci.RESULTS.successful


@pytest.mark.parametrize(
    ("solver", "message"),
    [
        (jsci.solvers.Newton(1e-8, 1e-8), "expected a solver object of jaxopt"),
        (jaxopt.BacktrackingLineSearch(bowl), "a line search"),
        (jaxopt.ScipyMinimize(fun=bowl), "External.scipy_minimize"),
    ],
    ids=lambda x: type(x).__name__ if not isinstance(x, str) else "",
)
def test_what_cannot_be_run(solver, message):
    with pytest.raises(TypeError, match=message):
        jax.jit(lambda a: interop.run(solver, START, a).value)(POINT)


def test_a_solver_whose_function_closes_over_what_is_differentiated():
    def solved(a):
        solver = jaxopt.FixedPointIteration(lambda y: contraction(y, a), **TIGHT)
        return interop.run(solver, START).value

    wanted = jax.jacfwd(newton(lambda y, a: y - contraction(y, a)))(POINT)
    np.testing.assert_allclose(jax.jit(jax.jacrev(solved))(POINT), wanted, atol=1e-9)


# --- jaxopt's decorators ----------------------------------------------------------------------------

DATA = jnp.array([[1.0, 0.5], [0.2, 1.0], [0.3, -0.4]])
TARGETS = jnp.array([1.0, 0.5, -0.2])


def ridge_condition(w, X, y, weight):
    return X.T @ (X @ w - y) + weight * w


def ridge(init, X, y, weight):
    return jnp.linalg.solve(X.T @ X + weight * jnp.eye(2), X.T @ y)


def test_custom_root_is_called_as_jaxopts():
    """Positions, keywords in any order, a linear solver of jaxopt's: one import is changed."""

    @jax.jit
    def both(X, y, weight):
        out = []
        for module in (jaxopt.implicit_diff, jsci):
            solve = functools.partial(jaxopt.linear_solve.solve_cg, tol=1e-12)
            decorated = module.custom_root(ridge_condition, solve=solve)(ridge)
            loss = lambda X, y, weight, f=decorated: jnp.sum(f(None, X, weight=weight, y=y) ** 3)
            out.append(jax.grad(loss, argnums=(0, 1, 2))(X, y, weight))
        # What jaxopt does not have.
        ours = jsci.custom_root(ridge_condition)(ridge)
        exact = functools.partial(ridge, None)
        for f in (functools.partial(ours, None), exact):
            forward = jax.jvp(lambda w, f=f: f(X, y, w), (weight,), (1.0,))[1]
            out.append((forward, jax.hessian(lambda w, f=f: jnp.sum(f(X, y, w) ** 3))(weight)))
        return out

    theirs, ours, forward, exact = both(DATA, TARGETS, 0.3)
    for a, b in (*zip(theirs, ours, strict=True), *zip(forward, exact, strict=True)):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-10)


class Layer(eqx.Module):
    matrix: jax.Array
    activation: Callable
    note: str = "of any type"

    def map(self, z, x, *, scale=1.0):
        return {"z": self.activation(scale * self.matrix @ z["z"] + x["input"])}

    def iterate(self, z, x, *, scale=1.0):
        step = lambda _, z: self.map(z, x, scale=scale)
        return jax.lax.fori_loop(0, 80, step, z), {"steps": 80, "size": jnp.sum(z["z"] ** 2)}


def test_custom_fixed_point_of_a_module_with_aux():
    """Pytrees, leaves of any type, keyword-only arguments, bound methods, zero derivative of the guess."""

    def through_rule(layer, x, z0):
        solve = jsci.custom_fixed_point(layer.map, has_aux=True)(layer.iterate)
        z, aux = solve(z0, x, scale=0.9)
        assert aux["steps"] == 80
        return jnp.sum(z["z"] ** 2)

    def unrolled(layer, x, z0):
        z = z0
        for _ in range(40):
            z = layer.map(z, x, scale=0.9)
        return jnp.sum(z["z"] ** 2)

    @eqx.filter_jit
    def gradients(layer, x, z0):
        g = lambda f: eqx.filter_grad(lambda every: f(*every))((layer, x, z0))
        return g(through_rule), g(unrolled)

    x = {"input": POINT, "name": "x", "none": None, "count": 3}
    found, wanted = gradients(Layer(2 * MIX, jnp.tanh), x, {"z": START})
    np.testing.assert_allclose(found[0].matrix, wanted[0].matrix, atol=1e-9)
    np.testing.assert_allclose(found[1]["input"], wanted[1]["input"], atol=1e-9)
    assert jnp.all(found[2]["z"] == 0)


def test_decorators_close_over_what_is_differentiated():
    def solved(a):
        condition = lambda y: equations(y, a)

        @jsci.custom_root(condition)
        def solver(init):
            def step(carry):
                k, y = carry
                return k + 1, y - condition(y)

            return jax.lax.while_loop(lambda c: c[0] < 60, step, (0, init))[1]

        return solver(START)

    wanted = jax.jacfwd(newton(equations))(POINT)
    np.testing.assert_allclose(jax.jit(jax.jacrev(solved))(POINT), wanted, atol=1e-10)


def test_custom_root_on_a_host_solver():
    """Eagerly, the decorated solver sees known numbers also while it is differentiated."""
    from scipy import optimize

    @jsci.custom_root(equations)
    def solver(init, a):
        return optimize.root(lambda y: np.asarray(equations(y, a)), np.asarray(init), tol=1e-12).x

    gradient = jax.grad(lambda a: jnp.sum(solver(START, a) ** 2))(POINT)
    wanted = jax.grad(lambda a: jnp.sum(newton(equations)(a) ** 2))(POINT)
    np.testing.assert_allclose(gradient, wanted, atol=1e-9)


def test_root_vjp_and_root_jvp():
    args = (DATA, TARGETS, jnp.array(0.3))
    sol = ridge(None, *args)
    solve = functools.partial(jaxopt.linear_solve.solve_cg, tol=1e-13)
    theirs = jaxopt.implicit_diff.root_vjp(ridge_condition, sol, args, jnp.ones(2), solve=solve)
    for a, b in zip(theirs, interop.root_vjp(ridge_condition, sol, args, jnp.ones(2)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-10)
    theirs = jaxopt.implicit_diff.root_jvp(ridge_condition, sol, args, args, solve=solve)
    ours = interop.root_jvp(ridge_condition, sol, args, args, solve=jsci.linear.CG())
    np.testing.assert_allclose(theirs, ours, atol=1e-10)


def test_decorators_refuse():
    with pytest.raises(TypeError, match="`solve` is 'cg'"):
        jsci.custom_root(ridge_condition, solve="cg")
    with pytest.raises(TypeError, match="missing a required argument"):
        jsci.custom_root(ridge_condition)(lambda init, X: init)(START, DATA)
    with pytest.raises(TypeError, match="expected the pair"):
        jsci.custom_root(equations, has_aux=True)(lambda init, a: init)(START, POINT)
    with pytest.raises(ValueError, match="as many equations as unknowns"):
        jsci.custom_root(curved)(lambda init, a: init)(START, POINT)
    with pytest.raises(ValueError, match="`tangents` has 1"):
        interop.root_jvp(ridge_condition, START, (DATA, TARGETS), (DATA,))


def test_a_linear_function_that_fails_gives_nan():
    unfinished = functools.partial(jaxopt.linear_solve.solve_normal_cg, maxiter=1)
    solver = lambda init, a: newton(equations)(a)
    derivative = lambda solve: jax.jacrev(
        lambda a: jsci.custom_root(equations, solve=solve)(solver)(START, a)
    )(POINT)
    assert jnp.all(jnp.isnan(derivative(unfinished)))
    believed = interop.LinearFunction(unfinished, check=float("inf"))
    assert jnp.all(jnp.isfinite(derivative(believed)))


def test_signatures_are_jaxopts():
    for ours, theirs in (
        (jsci.custom_root, jaxopt.implicit_diff.custom_root),
        (jsci.custom_fixed_point, jaxopt.implicit_diff.custom_fixed_point),
        (interop.root_vjp, jaxopt.implicit_diff.root_vjp),
        (interop.root_jvp, jaxopt.implicit_diff.root_jvp),
    ):
        assert list(inspect.signature(ours).parameters) == list(inspect.signature(theirs).parameters)


# --- optimistix and diffrax -------------------------------------------------------------------------


CLOSE = {"rtol": 1e-11, "atol": 1e-11}
ENTRIES = {
    "root_find": (optx.root_find, equations, optx.Newton(**CLOSE), newton(equations)),
    "fixed_point": (
        optx.fixed_point,
        contraction,
        optx.FixedPointIteration(**CLOSE),
        newton(lambda y, a: y - contraction(y, a)),
    ),
    "least_squares": (optx.least_squares, curved, optx.LevenbergMarquardt(**CLOSE), fitted),
    "minimise": (optx.minimise, bowl, optx.BFGS(**CLOSE), minimum),
}


@pytest.mark.parametrize(
    "name",
    ["root_find", "fixed_point", *(pytest.param(n, marks=pytest.mark.slow) for n in list(ENTRIES)[2:])],
)
def test_as_the_adjoint_of_optimistix(name):
    """An entry point of it under our rule, for a batch."""
    entry, fn, solver, oracle = ENTRIES[name]
    options = {"adjoint": jsci.ImplicitAdjoint(), "max_steps": 500, "throw": False}
    solved = lambda a: entry(fn, solver, START, a, **options).value
    agrees(jax.vmap(solved), jax.vmap(oracle), jnp.stack([POINT, 0.5 * POINT]), 1e-8)


def relaxation(t, y, a):
    """Two steady states beside the unstable one at 0: y₀ = ±√a."""
    return {"u": a[0] * y["u"] - y["u"] ** 3, "v": a[1] * y["u"] - y["v"]}


def test_steady_state():
    def found(a):
        y0 = {"u": jnp.array(-0.3), "v": jnp.array(0.0)}
        return interop.steady_state(relaxation, y0, a, solver=diffrax.Tsit5()).value

    exact = lambda a: {"u": -jnp.sqrt(a[0]), "v": -a[1] * jnp.sqrt(a[0])}
    agrees(found, exact, jnp.array([1.7, 0.6]), 1e-9)
    growing = lambda t, y, a: a * jnp.ones(())
    with pytest.raises(RuntimeError, match="stopped before it met its own tolerance"):
        interop.steady_state(growing, jnp.array(0.0), 1.0, t1=10.0, solver=diffrax.Tsit5())


# --- the same problems in our own terms -------------------------------------------------------------

NEWTON = jsci.solvers.Newton(1e-11, 1e-11)
OURS = {
    "ProximalGradient": lambda t: jsci.solve(
        jsci.residuals.ProximalGradient(
            lambda y, t: 0.5 * jnp.sum((t["X"] @ y - t["y"]) ** 2),
            lambda v, step, t: jnp.sign(v) * jnp.maximum(jnp.abs(v) - step * t["weight"], 0),
        ),
        NEWTON, jnp.array([0.5, 0.5, 0.0]), t,
    ).value,
    "ProjectedGradient": lambda t: jsci.solve(
        jsci.residuals.ProjectedGradient(quadratic, convex.NonNegative()), NEWTON, WIDE, t
    ).value,
    "ProjectedGradient on the simplex": lambda t: jsci.solve(
        jsci.residuals.ProjectedGradient(quadratic, convex.Simplex()), NEWTON, WIDE, t
    ).value,
    "MirrorDescent": lambda t: jsci.solve(
        jsci.residuals.MirrorDescent(quadratic), NEWTON, jnp.ones(3) / 3, t
    ).value,
    "BoxCDQP": lambda t: jsci.solve(
        jsci.residuals.ProjectedGradient(quadratic, lambda v, t: jnp.clip(v, *BOUNDS)), NEWTON, WIDE, t
    ).value,
    "OSQP": lambda t: inside(
        jsci.residuals.QuadraticProgram(*of_qp(t), t["A"], t["b"], t["G"], t["h"])
    ),
    "LBFGS": lambda a: jsci.solve(jsci.Stationary(bowl), optx.BFGS(1e-11, 1e-11), START, a).value,
    "LevenbergMarquardt": lambda a: jsci.solve(
        jsci.LeastSquares(curved), jsci.solvers.LevenbergMarquardt(1e-11, 1e-11), START, a
    ).value,
    "AndersonAcceleration": lambda a: jsci.solve(
        jsci.FixedPoint(contraction), optx.FixedPointIteration(1e-12, 1e-12), START, a
    ).value,
    "Broyden": lambda a: jsci.solve(jsci.Root(equations), NEWTON, START, a).value,
}  # fmt: skip
OURS_QUICK = ("ProximalGradient",)


def inside(residual):
    return jsci.solve(residual, jsci.solvers.InteriorPoint(), residual.start).value


@pytest.mark.parametrize(
    "name", [n if n in OURS_QUICK else pytest.param(n, marks=pytest.mark.slow) for n in OURS]
)
def test_the_same_problem_by_our_own_solver(name):
    case = CASES[name]
    agrees(OURS[name], case.oracle, case.theta, 1e-8)
