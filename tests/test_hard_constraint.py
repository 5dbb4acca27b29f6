"""The layer: its derivative, its failures, its discretizations and row scalings."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxsci import layers, pde

import jaxsci as jsci

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


THETA = {
    "basis": BASIS,
    "lift": LIFT,
    "D": jnp.asarray(5e-4),
    "k": jnp.asarray(3.5e-4),
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


def _unrolled(omega, theta, basis, weight=1.0, steps=2):
    """Newton steps from the solution, differentiated as a program."""
    omega = jax.lax.stop_gradient(omega)
    f = lambda omega: _objective(omega, theta, basis, weight)
    for _ in range(steps):
        omega = omega - jnp.linalg.solve(jax.hessian(f)(omega), jax.grad(f)(omega))
    return omega


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
    inside = jnp.asarray(BOXES.indicators(GRID, at_rows=True))
    boxes = BOXES.indicators(GRID, at_rows=False)
    values = 0.0
    for k in range(2):
        weight = inside[k] + BOXES.outside * (1 - inside[k])
        found = _unrolled(omega[k], theta, theta["basis"], weight)
        values = values + boxes[k] * SCHEME.combine(found, theta["basis"], theta["lift"])
    return values


@pytest.mark.parametrize("name", list(LAYERS))
def test_gradient_is_exact(name):
    """Against differences, and against a solver that is differentiated step by step."""
    layer = LAYERS[name]
    value = jax.jit(lambda theta: _loss(_apply(layer, theta).values))
    found = jax.jit(lambda theta: _apply(layer, theta))(THETA)
    assert np.all(found.converged), found.result
    gradient = jax.jit(jax.grad(lambda theta: _loss(_apply(layer, theta).values)))(THETA)
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
        np.testing.assert_allclose(
            jnp.vdot(gradient[which], direction), difference, rtol=1e-6, err_msg=which
        )
        scale = np.max(np.abs(unrolled[which]))
        np.testing.assert_allclose(
            gradient[which], unrolled[which], rtol=0, atol=1e-8 * scale, err_msg=which
        )


def test_forward_mode_and_second_derivatives():
    layer = LAYERS["plain"]

    def loss(s):
        theta = THETA | {"D": s * THETA["D"]}
        return _loss(_apply(layer, theta).values)

    forward = jax.jit(jax.jvp, static_argnums=0)(loss, (1.0,), (1.0,))[1]
    np.testing.assert_allclose(forward, jax.jit(jax.grad(loss))(1.0), rtol=1e-9)
    second = jax.jit(jax.grad(jax.grad(loss)))(1.0)
    slope = jax.jit(jax.grad(loss))
    h = 1e-4
    np.testing.assert_allclose(second, (slope(1 + h) - slope(1 - h)) / (2 * h), rtol=1e-5)


def test_the_default_solver_gives_the_same_gradient():
    precise = jax.jit(jax.grad(lambda theta: _loss(_apply(LAYERS["plain"], theta).values)))(THETA)
    layer = _layer(solver=jsci.solvers.BFGS(rtol=1e-9))
    gradient = jax.jit(jax.grad(lambda theta: _loss(_apply(layer, theta).values)))(THETA)
    for which in THETA:
        scale = np.max(np.abs(precise[which]))
        np.testing.assert_allclose(gradient[which], precise[which], rtol=0, atol=1e-5 * scale)


def test_gauss_newton_is_right_where_the_residual_vanishes_and_wrong_where_it_does_not():
    """Linear coefficients k and D make r = 0 unreachable for a few cosines; a manufactured lift makes
    it reachable: the discrete solution itself."""
    exact, rough = _layer(ridge=0.0), _layer(ridge=0.0, gauss_newton=True)

    def gradient(layer, lift, source):
        def loss(scale):
            theta = THETA | {"lift": lift, "D": scale * THETA["D"]}
            equation = _equation(theta)
            (block,) = SCHEME.blocks(equation, BASIS, lift, equation.conditions())
            # The law minus its value at one field, so that this field solves it for every D.
            law = lambda f, law=block.law: law(f) - law({n: v + source[n] for n, v in block.lift.items()})
            moved = layers._hard_constraint.Block(block.basis, block.lift, law, block.rows)
            omega, *_ = layer.coefficients((moved,))
            return jnp.sum(jnp.sin(3 * SCHEME.combine(omega, BASIS, lift)))

        return jax.jit(jax.grad(loss))(1.0)

    del gradient

    def pair(sources):
        out = []
        for layer in (exact, rough):
            loss = lambda theta, layer=layer: _loss(_with_source(layer, theta, sources))
            out.append(jax.jit(jax.grad(loss))(THETA)["basis"])
        return out

    right, wrong = pair(0.0)
    assert np.max(np.abs(right - wrong)) > 1e-3 * np.max(np.abs(right))
    right, also = pair(1.0)
    np.testing.assert_allclose(also, right, rtol=0, atol=1e-7 * np.max(np.abs(right)))
