"""Non-smooth, projected, conic, least-norm and time-step residuals against differences and oracles."""

import jax
import jax.numpy as jnp
import numpy as np
import optimistix as optx
import pytest
import scipy.optimize
from jax.flatten_util import ravel_pytree
from test_residuals import NEWTON, agrees, same

import jaxsci as jsci
from jaxsci.residuals import (
    BDF2,
    NonnegativeCone,
    OneStage,
    SecondOrderCone,
    SemidefiniteCone,
    Theta,
    ZeroCone,
)

ITERATION = optx.FixedPointIteration(rtol=1e-14, atol=1e-14)
MATRIX = jnp.array([[3.0, 1.0, 0.0], [-0.5, 2.0, 0.3], [0.2, -0.4, 2.5]])
LOAD = jnp.array([-1.0, 2.0, -0.5])
DESIGN = jnp.array(
    [[1.0, 0.3, -0.5, 0.2], [0.1, -1.2, 0.4, 0.3], [0.6, 0.2, 0.9, -0.7], [-0.3, 0.5, 0.1, 1.1]]
)


def soft(v, step, a):
    return jnp.sign(v) * jnp.maximum(jnp.abs(v) - step * a["weight"], 0)


def simplex(v, a):
    """Nearest point of {y ≥ 0, Σ y = radius}."""
    u = jnp.sort(v)[::-1]
    excess = jnp.cumsum(u) - a["radius"]
    k = jnp.arange(1, v.size + 1)
    last = jnp.sum(u * k > excess) - 1
    return jnp.maximum(v - excess[last] / k[last], 0)


def near(y, a):
    return 0.5 * jnp.sum((y - a["aim"]) ** 2) + 0.1 * jnp.sum(y**4)


NEAR = {"aim": jnp.array([0.5, 0.4, -0.3, 0.2]), "radius": jnp.array(0.9)}

# --- complementarity --------------------------------------------------------------------------------


def test_complementarity_in_a_box_of_a_tree():
    def force(y, a):
        first = MATRIX @ y["a"] + a["cubic"] * y["a"] ** 3 + a["load"] + y["b"]
        return {"a": first, "b": y["b"] - 0.3}

    box = jsci.Complementarity(
        force,
        lower={"a": jnp.array([-jnp.inf, -0.2, -1.0]), "b": -jnp.inf},
        upper={"a": jnp.array([0.25, 1.0, 2.0]), "b": jnp.inf},
    )
    args = {"cubic": jnp.array(0.1), "load": LOAD}
    y = agrees(box, {"a": jnp.zeros(3), "b": jnp.array(0.0)}, args)
    same(y["a"][:2], [0.25, -0.2])
    f = force(y, args)["a"]
    assert f[0] < -0.1 and f[1] > 0.1 and abs(f[2]) < 1e-10 and 0 < y["a"][2] < 1
    same(box.fixed_point(y, args)["a"], y["a"])


# --- proximal maps and projections ------------------------------------------------------------------


def test_blocks_have_their_own_proximal_maps():
    def fit(y, a):
        r = DESIGN @ jnp.concatenate([y["u"], y["v"][0]]) - a["data"]
        return 0.5 * r @ r

    clip = lambda v, step, a: (jnp.clip(v[0], -a["bound"], a["bound"]),)
    blocks = jsci.BlockProximal(fit, {"u": soft, "v": clip}, {"u": 0.1, "v": 0.05})
    args = {"data": jnp.array([1.0, -0.6, 0.4, 0.8]), "weight": jnp.array(0.1), "bound": jnp.array(0.2)}
    y = agrees(blocks, {"u": jnp.zeros(2), "v": (jnp.zeros(2),)}, args)
    assert jnp.sum(jnp.abs(y["v"][0]) == 0.2) == 1 and jnp.all(y["u"] != 0)
    # One map for all of y is the same problem.
    both = lambda v, step, a: {"u": soft(v["u"], step, a), "v": clip(v["v"], step, a)}
    single = jsci.ProximalGradient(fit, both, step=0.3)
    same(jnp.concatenate(jax.tree.leaves(single(y, args))), 0.0, 1e-12)


def test_projection_and_mirror_find_the_same_minimum():
    projected = jsci.ProjectedGradient(near, simplex, step=0.5)
    mirror = jsci.MirrorDescent(near, lambda v, a: a["radius"] * jax.nn.softmax(v), step=1.5)
    y = agrees(projected, jnp.full(4, 0.2), NEAR)
    assert y[2] == 0 and jnp.all(y[jnp.array([0, 1, 3])] > 0.1)
    same(agrees(mirror, jnp.full(4, 0.2), NEAR, solver=ITERATION), y)
    slsqp = scipy.optimize.minimize(
        lambda y: float(0.5 * np.sum((y - NEAR["aim"]) ** 2) + 0.1 * np.sum(y**4)),
        np.full(4, 0.2),
        bounds=[(0, None)] * 4,
        constraints={"type": "eq", "fun": lambda y: y.sum() - 0.9},
        tol=1e-12,
    )
    same(y, slsqp.x, 1e-5)


def test_a_kink_has_no_derivative():
    """Lanes before, at and behind a threshold, of a sparse, a box, a cone and a complementarity problem."""
    half = lambda y, a: 0.5 * jnp.sum((y - a) ** 2)
    shrink = lambda v, step, a: jnp.sign(v) * jnp.maximum(jnp.abs(v) - step, 0)
    positive = lambda v, a: jnp.maximum(v, 0)
    sparse = lambda **o: jsci.ProximalGradient(half, shrink, step=0.4, **o)
    bounded = lambda **o: jsci.ProjectedGradient(half, positive, step=0.4, **o)
    reach = jsci.Complementarity(lambda y, a: y - a)
    cone = jsci.ConicProgram(NonnegativeCone(2))
    shift = jnp.array([0.0, 0.3])

    @jax.jit
    def every(a):
        thresholded = lambda a: shrink(a + shift, 1.0, None)
        clipped = lambda a: positive(a + shift, None)

        def conic(a):
            # min a x₀ + x₁ with x ≥ (0, a): the cost of x₀ vanishes in the lane in the middle.
            data = (-jnp.eye(2), -jnp.stack([0.0 * a, a]), jnp.stack([a, 1.0 + 0.0 * a]))
            z = cone.from_solution(jnp.stack([0.0, a]), data[2], jnp.zeros(2))
            return jsci.attach(cone, z, data)[0]

        fs = {
            "sparse": lambda a: jsci.attach(sparse(), thresholded(a), a + shift),
            "sparse, allowed": lambda a: jsci.attach(sparse(allow_kinks=True), thresholded(a), a + shift),
            "box": lambda a: jsci.attach(bounded(), clipped(a), a + shift),
            "complementarity": lambda a: jsci.attach(reach, clipped(a), a + shift),
            "cone": conic,
        }
        return {name: jax.vmap(jax.jacfwd(f))(a) for name, f in fs.items()}

    a = jnp.array([0.5, 1.0, 1.4])
    found = every(a)
    same(found["sparse"][0], [0, 0])
    assert np.isnan(found["sparse"][1]).all()
    same(found["sparse"][2], [1, 1])
    assert np.isfinite(found["sparse, allowed"]).all()
    found = every(jnp.array([-0.5, 0.0, 0.4]))
    for name in ("box", "complementarity"):
        same(found[name][0], [0, 0])
        assert np.isnan(found[name][1]).all()
        same(found[name][2], [1, 1])
    assert np.isnan(found["cone"][1]).all()
    same(found["cone"][2], [0, 1])


def test_what_is_smooth_has_no_kink():
    """No false alarm: smooth maps, rough solutions, both precisions."""
    ridge = jsci.ProximalGradient(near, lambda v, step, a: v / (1 + step * a["radius"]), step=0.5)
    mirror = jsci.MirrorDescent(near)

    @jax.jit
    def gradient(args):
        dtype = args["aim"].dtype
        y, p = jnp.array([0.2, 0.2, -0.15, 0.1], dtype), jnp.array([0.47, 0.37, 1e-4, 0.16], dtype)
        f = lambda a: jnp.sum(jsci.attach(ridge, y, a) ** 2) + jnp.sum(jsci.attach(mirror, p, a) ** 2)
        return jax.grad(f)(args)

    for dtype in (jnp.float32, jnp.float64):
        for x in jax.tree.leaves(gradient({name: x.astype(dtype) for name, x in NEAR.items()})):
            assert np.isfinite(x).all() and x.dtype == dtype


# --- eliminated -------------------------------------------------------------------------------------


def test_fixed_point_of_newton():
    residual = jsci.NewtonFixedPoint(lambda y, a: a["m"] @ y + 0.1 * y**3 + a["q"], 0.7)
    args = {"m": MATRIX, "q": LOAD}
    y = agrees(residual, jnp.zeros(3), args, solver=ITERATION)
    same(MATRIX @ y + 0.1 * y**3 + LOAD, 0.0)
    # At a root, A is what the residual says that it is.
    same(jax.jacfwd(lambda y: residual(y, args))(y), 0.7 * np.eye(3))


def test_least_norm():
    def short(y, a):
        return {"r": a["m"] @ jnp.append(y["u"], y["v"]) + a["bend"] * y["v"] ** 2 - a["b"]}

    center = {"u": jnp.array([0.1, 0.2, 0.3]), "v": jnp.array(-0.1)}
    args = {"m": DESIGN[:2], "b": jnp.array([1.0, 0.5]), "bend": jnp.array(0.2)}
    residual = jsci.MinNorm(short, center)
    y = agrees(residual, {"u": jnp.zeros(3), "v": jnp.array(0.0)}, args)
    slsqp = scipy.optimize.minimize(
        lambda y: 0.5 * np.sum((y - np.array([0.1, 0.2, 0.3, -0.1])) ** 2),
        np.zeros(4),
        constraints={"type": "eq", "fun": lambda y: DESIGN[:2] @ y + 0.2 * y[3] ** 2 - args["b"]},
        tol=1e-13,
    )
    same(jnp.append(y["u"], y["v"]), slsqp.x, 1e-5)
    # Linear equations: the pseudo-inverse.
    linear = jsci.MinNorm(lambda y, a: DESIGN[:2] @ y - args["b"])
    best = np.linalg.pinv(DESIGN[:2]) @ args["b"]
    same(linear(best, None), 0.0, 1e-12)
    same(jax.jacfwd(lambda y: linear(y, None))(best), np.eye(4), 1e-12)


# --- time steps -------------------------------------------------------------------------------------


def test_schemes_are_what_they_say():
    """dy/dt = r y + t: each step written out."""
    r, t, h, y0, before = -3.0, 0.2, 0.1, 0.7, 0.9
    exact = {
        Theta(): (y0 + h * (t + h)) / (1 - h * r),
        Theta(0.5): (y0 + 0.5 * h * (r * y0 + t + t + h)) / (1 - 0.5 * h * r),
        OneStage(): (y0 * (1 + 0.5 * h * r) + h * (t + 0.5 * h)) / (1 - 0.5 * h * r),
        OneStage(1.0): (y0 + h * (t + h)) / (1 - h * r),
        BDF2(): ((4 * y0 - before) / 3 + 2 / 3 * h * (t + h)) / (1 - 2 / 3 * h * r),
    }
    for scheme, y in exact.items():
        residual = jsci.ImplicitStep(lambda t, y, a: a * y + t, scheme)
        start = jsci.TimeStep(jnp.array(y0), t, h, r, jnp.array(before))
        same(residual(jnp.array(y), start), 0.0, 1e-13)


def test_second_derivatives_through_a_scan_of_steps():
    """A damped pendulum by BDF2, against Newton's method differentiated."""

    def pendulum(t, y, a):
        return {"x": y["v"], "v": -a[0] * jnp.sin(y["x"]) - a[1] * y["v"] + jnp.cos(t)}

    residual = jsci.ImplicitStep(pendulum, BDF2())

    def implicit(step):
        return jsci.solve(residual, NEWTON, step.y, step, throw=False).value

    def unrolled(step):
        flat, unravel = ravel_pytree(step.y)
        f = lambda v: ravel_pytree(residual(unravel(v), step))[0]
        for _ in range(4):
            flat = flat - jnp.linalg.solve(jax.jacfwd(f)(flat), f(flat))
        return unravel(flat)

    def end(advance):
        def run(a):
            def body(carry, t):
                before, y = carry
                return (y, advance(jsci.TimeStep(y, t, a[2], a, before))), None

            before, start = {"x": a[0] - 1.72, "v": a[1] - 0.1}, {"x": a[0] - 1.7, "v": a[1] - 0.1}
            (_, y), _ = jax.lax.scan(body, (before, start), a[2] * jnp.arange(1.0, 4.0))
            return y["x"] + y["v"] ** 2

        return run

    a = jnp.array([2.0, 0.3, 0.2])
    found, oracle = (jax.jit(jax.hessian(end(advance)))(a) for advance in (implicit, unrolled))
    same(found, oracle)


# --- conic programs ---------------------------------------------------------------------------------


def test_conic_program_of_four_cones(key):
    """Three independent programs in one, each with its oracle: a linear one, a ball, eigenvalues."""
    keys = jax.random.split(key, 5)
    rows, y = jax.random.normal(keys[0], (5, 2)), jax.random.uniform(keys[1], (5,))
    limits = rows @ jax.random.normal(keys[2], (2,)) + jax.random.uniform(keys[3], (5,))
    costs, radius, cost = -rows.T @ y, 0.7, jnp.array([1.0, -2.0])
    semidefinite = SemidefiniteCone(3)
    # Its solution has a double zero eigenvalue.
    energy = jnp.array([[1.0, 0.2, -0.1], [0.2, 0.5, 0.3], [-0.1, 0.3, 2.0]])
    a = jnp.zeros((15, 10)).at[0, 4:].set(semidefinite.vector(jnp.eye(3)))
    a = a.at[1:6, :2].set(rows).at[7:9, 2:4].set(-jnp.eye(2)).at[9:, 4:].set(-jnp.eye(6))
    b = jnp.concatenate([jnp.ones(1), limits, jnp.array([radius, 0.0, 0.0]), jnp.zeros(6)])
    c = jnp.concatenate([costs, cost, semidefinite.vector(energy)])
    program = jsci.ConicProgram((ZeroCone(1), NonnegativeCone(5), SecondOrderCone(3), semidefinite))
    args = (a, b, c)
    start = program.start(args)
    z = agrees(program, start, args)
    x, dual, slack = program.split(z)
    same(x[:2], scipy.optimize.linprog(costs, rows, limits, bounds=(None, None)).x)
    same(x[2:4], -radius * cost / np.linalg.norm(cost))
    _, vectors = np.linalg.eigh(energy)
    same(semidefinite.matrix(x[4:]), np.outer(vectors[:, 0], vectors[:, 0]))
    same(semidefinite.vector(semidefinite.matrix(x[4:])), x[4:])
    same([c @ x + b @ dual, dual @ slack], [0, 0])
    same(program.from_solution(x, dual, slack)[1], z[1])
    # The splitting, a fixed-point iteration, has the same solution.
    for moved, at in zip(program.fixed_point(z, args), z, strict=True):
        same(moved, at)


def test_an_infeasible_program_fails():
    program = jsci.ConicProgram(NonnegativeCone(2))
    args = (jnp.array([[1.0], [-1.0]]), jnp.array([-1.0, -1.0]), jnp.ones(1))
    solution = jsci.solve(program, NEWTON, program.start(args), args, throw=False)
    assert solution.result != jsci.RESULTS.successful


# --- mistakes ---------------------------------------------------------------------------------------

MISTAKES = {
    "force of another shape": (
        lambda: jsci.Complementarity(lambda y, a: y[:1])(jnp.ones(2), None),
        r"`fn` of Complementarity.*\(1,\).*\(2,\)",
    ),
    "blocks of another structure": (
        lambda: jsci.BlockProximal(lambda y, a: y["u"].sum(), {"v": soft})({"u": jnp.ones(2)}, None),
        "`y` of BlockProximal.*`proxes`",
    ),
    "a vector for a scalar": (
        lambda: jsci.ProjectedGradient(lambda y, a: y, simplex)(jnp.ones(2), NEAR),
        r"`fn` of ProjectedGradient.*\(2,\).*scalar",
    ),
    "equations of Newton": (
        lambda: jsci.NewtonFixedPoint(lambda y, a: y[:1])(jnp.ones(2), None),
        "1 equations for 2 unknowns.*MinNorm",
    ),
    "too many equations": (
        lambda: jsci.MinNorm(lambda y, a: jnp.append(y, 1.0))(jnp.ones(2), None),
        "3 equations for 2 unknowns.*LeastSquares",
    ),
    "a rate of another shape": (
        lambda: jsci.ImplicitStep(lambda t, y, a: y[0])(jnp.ones(2), jsci.TimeStep(jnp.ones(2), 0, 1)),
        r"`vector_field` returned shapes \(\)",
    ),
    "no step": (
        lambda: jsci.ImplicitStep(lambda t, y, a: y)(jnp.ones(2), 0.1),
        "`args` of ImplicitStep.*TimeStep",
    ),
    "no state before": (
        lambda: jsci.ImplicitStep(lambda t, y, a: y, BDF2())(jnp.ones(2), jsci.TimeStep(jnp.ones(2), 0, 1)),
        "`before`.*BDF2.*first step",
    ),
    "cones of other sizes": (
        lambda: jsci.ConicProgram(ZeroCone(2)).start((jnp.ones((3, 2)), jnp.ones(3), jnp.ones(2))),
        r"`args` of ConicProgram.*m = 2",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_named(mistake):
    wrong, message = MISTAKES[mistake]
    with pytest.raises((TypeError, ValueError), match=message):
        wrong()
