"""Other estimators of dy*/dθ against the implicit rule, which is exact, and against their own theory."""

import itertools

import jax
import jax.numpy as jnp
import jaxopt
import numpy as np
import optax
import optimistix as optx
import pytest

import jaxsci as jsci
from jaxsci import testing

NEWTON = jsci.solvers.Newton(rtol=1e-12, atol=1e-12)
EXACT = jsci.ImplicitAdjoint()
N = 4
WEIGHTS = 0.4 * jax.random.normal(jax.random.key(0), (N, N)) / N**0.5
THETA = (WEIGHTS, jnp.linspace(-0.5, 1.0, N))
ALONG = jax.tree.map(lambda x: jnp.cos(7.0 * jnp.arange(x.size)).reshape(x.shape), THETA)


def contraction(y, a):
    return jnp.tanh(a[0] @ y + a[1])


FIXED = jsci.FixedPoint(contraction)


def loss(adjoint, solver=NEWTON, residual=FIXED, **options):
    def value(a):
        found = jsci.solve(residual, solver, jnp.zeros(N), a, adjoint=adjoint, throw=False, **options)
        return jnp.dot(jnp.arange(1.0, N + 1), jnp.sin(found.value))

    return value


def derivatives(f, a=THETA):
    """Gradient, directional derivative in forward mode, and Hessian times the direction."""
    gradient = jax.grad(f)
    first = jax.jvp(f, (a,), (ALONG,))[1]
    return gradient(a), first, jax.jvp(gradient, (a,), (ALONG,))[1]


def flat(tree):
    return jnp.concatenate([jnp.ravel(x) for x in jax.tree.leaves(tree)])


def error(found, exact):
    return jnp.linalg.norm(flat(found) - flat(exact)) / jnp.linalg.norm(flat(exact))


@pytest.fixture(scope="module")
def exact():
    return jax.jit(lambda: derivatives(loss(EXACT)))()


def test_neumann_error_falls_with_the_contraction(exact):
    terms = (1, 2, 4, 8, 40)

    def program():
        y = jsci.solve(FIXED, NEWTON, jnp.zeros(N), THETA, throw=False).value
        slope = jax.jacfwd(contraction)(y, THETA)
        many = [derivatives(loss(jsci.NeumannAdjoint(k))) for k in terms]
        return slope, derivatives(loss(jsci.OneStepAdjoint())), many

    slope, one, many = jax.jit(program)()
    c = np.linalg.norm(slope, 2)
    assert c < 0.8
    for k, found in zip(terms, many, strict=True):
        # Both modes are of one linear map, and its error is bounded by theory.
        np.testing.assert_allclose(jnp.vdot(flat(found[0]), flat(ALONG)), found[1], rtol=1e-12)
        assert error(found[0], exact[0]) <= 10 * c**k / (1 - c) + 1e-12
    errors = [float(error(f[0], exact[0])) for f in many]
    assert all(b < 0.6 * a for a, b in itertools.pairwise(errors)), errors
    assert error(many[-1][2], exact[2]) < 1e-11
    for a, b in zip(one, many[0], strict=True):
        np.testing.assert_allclose(flat(a), flat(b), rtol=1e-13)


def test_one_step_is_exact_for_newtons_map():
    """T(y) = y − F/F′ has ∂T/∂y = 0 at a root: also the second derivative is exact."""
    residual = jsci.FixedPoint(lambda y, a: y - (y**3 + a * y - 2.0) / (3 * y**2 + a))
    root = jsci.Root(lambda y, a: y**3 + a * y - 2.0)
    y = jnp.array(1.0)  # at a = 1

    def both(a):
        one = lambda a: jsci.attach(residual, y, a, adjoint=jsci.OneStepAdjoint())
        true = lambda a: jsci.attach(root, y, a)
        return [(jax.grad(f)(a), jax.grad(jax.grad(f))(a)) for f in (one, true)]

    found, expected = jax.jit(both)(jnp.array(1.0))
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    np.testing.assert_allclose(found[0], -1 / 4, rtol=1e-12)


def test_a_series_that_grows_is_nan_in_its_lane_only():
    """y = a y + 1: ∂T/∂y = a, dy/da = 1/(1 − a)², and no series for |a| > 1."""
    residual = jsci.FixedPoint(lambda y, a: a * y + 1.0)
    a = jnp.array([0.5, -1.5, -0.5, 2.0])

    def slope(adjoint):
        return jax.vmap(jax.grad(lambda a: jsci.attach(residual, 1 / (1 - a), a, adjoint=adjoint)))

    @jax.jit
    def program(a):
        adjoints = (jsci.NeumannAdjoint(60), jsci.NeumannAdjoint(3, jnp.inf))
        return [slope(adjoint)(a) for adjoint in adjoints]

    checked, unchecked = program(a)
    np.testing.assert_array_equal(jnp.isnan(checked), [False, True, False, True])
    np.testing.assert_allclose(checked[::2], 1 / (1 - a[::2]) ** 2, rtol=1e-12)
    np.testing.assert_allclose(unchecked, (1 + a + a**2) / (1 - a), rtol=1e-12)


@pytest.mark.parametrize(
    ("solver", "adjoint", "tolerance"),
    [
        (NEWTON, jsci.UnrolledAdjoint(), 1e-12),
        (optx.Newton(rtol=1e-12, atol=1e-12), jsci.UnrolledAdjoint(checkpoints=3), 1e-12),
        (optx.FixedPointIteration(rtol=1e-13, atol=1e-13), jsci.UnrolledAdjoint(), 1e-9),
    ],
    ids=["Newton", "optimistix.Newton", "optimistix.FixedPointIteration"],
)
def test_unrolled_equals_implicit_where_converged(exact, solver, adjoint, tolerance):
    f = loss(adjoint, solver, max_steps=64)

    @jax.jit
    def program():
        batch = jax.tree.map(lambda x: jnp.stack([x, 0.1 * x]), THETA)
        return derivatives(f), jax.vmap(jax.grad(f))(batch)

    if isinstance(solver, optx.Newton):  # the same loop as below: once through is enough
        assert error(jax.jit(jax.grad(f))(THETA), exact[0]) < tolerance
        return
    found, batched = program()
    for a, b in zip(found, exact, strict=True):
        assert error(a, b) < tolerance
    # The lane that is done early waits without harm.
    assert jnp.all(jnp.isfinite(flat(batched)))
    assert error(jax.tree.map(lambda x: x[0], batched), exact[0]) < tolerance


def test_unrolled_newton_with_halvings_and_a_dependence_on_the_start():
    """One step of Newton from y0 on y² = a: y = (y0 + a/y0)/2, with derivatives in a and y0."""
    residual = jsci.Root(lambda y, a: y**2 - a)

    def one(y0, a):
        adjoint = jsci.UnrolledAdjoint()
        return jsci.solve(residual, NEWTON, y0, a, adjoint=adjoint, throw=False, max_steps=1).value

    y0, a = jnp.array(1.3), jnp.array(2.0)
    found = jax.jit(jax.grad(one, (0, 1)))(y0, a)
    np.testing.assert_allclose(found, ((1 - a / y0**2) / 2, 1 / (2 * y0)), rtol=1e-12)
    # atan from 3 overshoots: the step is halved, and the root is where it is.
    bent = jsci.Root(lambda y, a: jnp.arctan(a * y - 1.0))
    root = lambda a: jsci.solve(bent, NEWTON, jnp.array(3.0), a, adjoint=jsci.UnrolledAdjoint()).value
    np.testing.assert_allclose(jax.jit(jax.grad(root))(a), -1 / a**2, rtol=1e-10)


def test_unrolled_solvers_of_other_libraries():
    """min ½‖y − a‖² + ¼‖y‖⁴: (1 + ‖y‖²) y = a."""

    def objective(y, a):
        return 0.5 * jnp.sum((y - a) ** 2) + 0.25 * jnp.sum(y**2) ** 2

    a = jnp.array([0.3, -0.2])
    residual = jsci.Stationary(objective)
    solvers = {
        "optax": (optax.sgd(0.5), 1e-4),
        "jaxopt": (
            jaxopt.GradientDescent(objective, stepsize=0.5, acceleration=False, maxiter=50, tol=1e-8),
            1e-6,
        ),
    }

    def gradient(solver, adjoint):
        def f(a):
            found = jsci.solve(residual, solver, jnp.zeros(2), a, adjoint=adjoint, throw=False, max_steps=64)
            return found.value[0]

        return jax.jit(jax.grad(f))(a)

    expected = gradient(NEWTON, EXACT)
    for name, (solver, tolerance) in solvers.items():
        found = gradient(solver, jsci.UnrolledAdjoint())
        np.testing.assert_allclose(found, expected, atol=tolerance, err_msg=name)
        assert jnp.max(jnp.abs(found - expected)) > 1e-13, f"{name} has not been unrolled"


def test_in_optimistix():
    solver = optx.FixedPointIteration(rtol=1e-12, atol=1e-12)

    def f(adjoint, a):
        found = optx.fixed_point(contraction, solver, jnp.zeros(N), a, adjoint=adjoint, max_steps=64)
        return jnp.sum(found.value)

    def root(a):
        adjoint = jsci.UnrolledAdjoint()
        fn = lambda y, a: y - contraction(y, a)
        found = optx.root_find(fn, NEWTON, jnp.zeros(N), a, adjoint=adjoint, max_steps=20, throw=False)
        return jnp.sum(found.value)

    adjoints = (EXACT, jsci.NeumannAdjoint(50), jsci.OneStepAdjoint(), jsci.UnrolledAdjoint())
    program = lambda a: ([jax.grad(lambda a, d=d: f(d, a))(a) for d in adjoints], jax.grad(root)(a))
    (exact, series, one, unrolled), newton = jax.jit(program)(THETA)
    assert error(series, exact) < 1e-10
    assert 1e-3 < error(one, exact) < 0.5
    assert error(unrolled, exact) < 1e-9
    assert error(newton, exact) < 1e-10
    with pytest.raises(TypeError, match="fixed-point solver"):
        optx.fixed_point(contraction, optx.Newton(1e-6, 1e-6), jnp.zeros(N), THETA, adjoint=adjoints[2])
    with pytest.raises(TypeError, match="PreActivation"):
        f(jsci.EquilibriumPropagation(), THETA)


# --- equilibrium propagation ------------------------------------------------------------------------


def pre_activations(a, theta):
    weights, bias = theta
    return {"u": weights @ a["u"] + bias}


def energy(a, args):
    return jnp.sum((a["u"] - 0.3) ** 2 * jnp.arange(1.0, N + 1)) + jnp.sum(a["u"] ** 3)


SIGMOID = jsci.PreActivation(pre_activations, lambda u: jax.tree.map(jax.nn.sigmoid, u))
SOFTMAX = jsci.PreActivation(pre_activations, lambda u: jax.tree.map(jax.nn.softmax, u))
START = {"u": jnp.full(N, 0.5)}
STRONG = (3 * WEIGHTS, THETA[1])
SYMMETRIC = (STRONG[0] + STRONG[0].T, THETA[1])


def equilibrium_loss(adjoint, residual):
    def value(theta):
        y = jsci.solve(residual, NEWTON, START, theta, adjoint=adjoint, throw=False).value
        return energy(y, None)

    return value


def test_propagation_equals_the_implicit_rule_for_a_symmetric_jacobian():
    ep = jsci.EquilibriumPropagation()

    @jax.jit
    def program():
        symmetric = [derivatives(equilibrium_loss(d, SIGMOID), SYMMETRIC)[:2] for d in (ep, EXACT)]
        coupled = [jax.grad(equilibrium_loss(d, SOFTMAX))(SYMMETRIC) for d in (ep, EXACT)]
        biased = [jax.grad(equilibrium_loss(d, SIGMOID))(STRONG) for d in (ep, EXACT)]
        y = jsci.solve(SIGMOID, NEWTON, START, STRONG, throw=False).value
        # What the estimate is, written out: −(∂F/∂θ)ᵀ da/dβ with da/dβ = −D (I − J D)⁻¹ ∂L/∂a.
        d = y["u"] * (1 - y["u"])
        push = jax.grad(energy)(y, None)["u"]
        delta = d * jnp.linalg.solve(jnp.eye(N) - STRONG[0] * d, push)
        return symmetric, coupled, biased, (jnp.outer(delta, y["u"]), delta)

    (found, expected), (coupled, coupled_exact), (biased, exact), by_hand = program()
    assert error(found[0], expected[0]) < 1e-12
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-12)
    assert error(coupled, coupled_exact) < 1e-12
    assert error(biased, by_hand) < 1e-12
    assert error(biased, exact) > 1e-2


def test_nudges_converge_with_their_number():
    limit = jax.jit(jax.grad(equilibrium_loss(jsci.EquilibriumPropagation(), SIGMOID)))(STRONG)
    for points in (1, 2, 3):

        @jax.jit
        def nudged(beta, points=points):
            return jsci.equilibrium_propagation(
                SIGMOID, energy, NEWTON, START, STRONG, beta=beta, points=points, throw=False
            )

        found = [nudged(beta) for beta in (0.04, 0.02)]
        errors = [float(error(gradient, limit)) for _, gradient in found]
        assert abs(np.log2(errors[0] / errors[1]) - points) < 0.35, (points, errors)
    y = jsci.solve(SIGMOID, NEWTON, START, STRONG, throw=False).value
    np.testing.assert_allclose(found[0][0], energy(y, None), rtol=1e-12)


def test_asymmetry():
    skew = STRONG[0] - STRONG[0].T

    @jax.jit
    def program(theta):
        probe = lambda theta, y: jsci.jacobian_asymmetry(
            SIGMOID, {"u": y}, theta, key=jax.random.key(1), probes=4000
        )
        value, slopes = jax.value_and_grad(probe, (0, 1))(theta, START["u"])
        symmetric = jsci.jacobian_asymmetry(SIGMOID, START, SYMMETRIC, key=jax.random.key(2))
        shares = [jsci.symmetric_share(SIGMOID, START, t) for t in (theta, SYMMETRIC)]
        return value, slopes, symmetric, shares

    value, (slopes, along_y), symmetric, shares = program(STRONG)
    exact = jnp.sum(skew**2) / (2 * N)
    np.testing.assert_allclose(value, exact, rtol=0.05)
    np.testing.assert_allclose(slopes[0], 2 * skew / N, atol=0.1 * jnp.max(jnp.abs(skew)))
    np.testing.assert_array_equal(along_y, 0)  # at fixed y
    assert symmetric < 1e-28
    even = jnp.linalg.norm(STRONG[0] + STRONG[0].T)
    np.testing.assert_allclose(shares, [even / (even + jnp.linalg.norm(skew)), 1.0], rtol=1e-12)


# --- the penalty oracle -----------------------------------------------------------------------------


def test_penalty_hypergradient_tends_to_the_implicit_one():
    lower = lambda y, a: 0.5 * jnp.sum(y**2 * jnp.array([1.0, 3.0])) - y @ jnp.tanh(a["x"]) + jnp.sum(y**4)
    upper = lambda y, a: jnp.sum(jnp.cos(y + a["x"]))
    theta = {"x": jnp.array([0.4, -0.7]), "name": "not differentiated"}

    def psi(x):
        theta = {"x": x}
        y = jsci.solve(jsci.Stationary(lower), NEWTON, jnp.zeros(2), theta, throw=False).value
        return upper(y, theta)

    exact = jax.jit(jax.grad(psi))(theta["x"])

    @jax.jit
    def off(sigma):
        def one(richardson):
            found = testing.penalty_hypergradient(
                upper, lower, theta, jnp.zeros(2), sigma=sigma, richardson=richardson
            )
            assert found["name"] is None
            return jnp.linalg.norm(found["x"] - exact)

        return jnp.stack([one(False), one(True)])

    order = np.log10(off(1e-2) / off(1e-3))
    np.testing.assert_allclose(order, [1, 2], atol=0.1)


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (lambda: jsci.NeumannAdjoint(0), ValueError, "`terms` is 0"),
        (lambda: jsci.UnrolledAdjoint(checkpoints=0), ValueError, "`checkpoints` is 0"),
        (lambda: jsci.attach(FIXED, jnp.zeros(N), THETA, adjoint=jsci.UnrolledAdjoint()), TypeError,
         "cannot attach"),
        (lambda: loss(jsci.UnrolledAdjoint(), jsci.solvers.BFGS(1e-6, 1e-6))(THETA), TypeError, "BFGS"),
        (lambda: jsci.attach(FIXED, jnp.zeros(N), THETA, adjoint=jsci.EquilibriumPropagation()), TypeError,
         "jaxsci.PreActivation"),
        (lambda: jsci.jacobian_asymmetry(FIXED, jnp.zeros(N), THETA, key=jax.random.key(0)), TypeError,
         "jaxsci.PreActivation"),
        (lambda: jsci.equilibrium_propagation(FIXED, energy, NEWTON, START, THETA), TypeError,
         "jaxsci.PreActivation"),
        (lambda: jsci.equilibrium_propagation(SIGMOID, energy, NEWTON, START, THETA, points=0), ValueError,
         "`points` is 0"),
        (lambda: jsci.equilibrium_propagation(SIGMOID, energy, NEWTON, START, THETA, beta=-1.0), ValueError,
         "`beta` is -1.0"),
        (lambda: testing.penalty_hypergradient(energy, energy, THETA, START, sigma=0.0), ValueError,
         "`sigma` is 0.0"),
    ],
)  # fmt: skip
def test_mistakes(make, kind, message):
    with pytest.raises(kind, match=message):
        make()
