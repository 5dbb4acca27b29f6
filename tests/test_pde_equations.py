"""The named equations, on solutions in closed form and at singular values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsci import pde


def residual(equation, solution, point):
    d = pde.derivatives(solution, equation, point)
    named = pde.Point(dict(zip(equation.coordinates, point, strict=True)))
    return jnp.stack(jax.tree.leaves(equation.residual(d, named)))


def shock(p):
    # The traveling wave of Burgers' equation, ν = 0.1, speed 1.
    return 1 - jnp.tanh((p[0] - p[1]) / (2 * 0.1))


def taylor_green(p):
    x, y, t = p
    psi = jnp.exp(-2 * 0.3 * t) * jnp.sin(x) * jnp.sin(y)
    return jnp.stack([2 * psi, psi])


def invasion(p):
    # The front of Fisher's equation with ν = 0.1, ρ = 2 at speed 5 √(ρν/6) (Ablowitz & Zeppetella 1979).
    z = (p[0] - 5 * jnp.sqrt(2 * 0.1 / 6) * p[1]) * jnp.sqrt(2 / (6 * 0.1))
    return (1 + jnp.exp(z)) ** -2


def soliton(p):
    # u_t + u u_x + δ² u_xxx = 0 with δ = 0.5, at speed c = 0.8.
    return 3 * 0.8 / jnp.cosh(jnp.sqrt(0.8) / (2 * 0.5) * (p[0] - 0.8 * p[1])) ** 2


def kovasznay(p):
    x, y = p
    rate = 20 - jnp.sqrt(20**2 + 4 * jnp.pi**2)
    e = jnp.exp(rate * x)
    v = rate / (2 * jnp.pi) * e * jnp.sin(2 * jnp.pi * y)
    return jnp.stack([1 - e * jnp.cos(2 * jnp.pi * y), v, (1 - e**2) / 2])


@pytest.mark.parametrize(
    ("equation", "solution"),
    [
        (pde.Convection(3.0, 0.2), lambda p: jnp.exp(-0.2 * p[1]) * jnp.sin(p[0] - 3 * p[1])),
        (pde.Fisher(2.0, 0.1), invasion),
        (pde.AllenCahn(0.1, 2.0), lambda p: jnp.tanh(p[0] * jnp.sqrt(2 / 0.2)) + 0 * p[1]),
        (pde.KortewegDeVries(0.5), soliton),
        (pde.Wave(2.0), lambda p: jnp.sin(3 * p[0]) * jnp.cos(6 * p[1])),
        (pde.NavierStokes(40.0), kovasznay),
        (pde.Heat(0.2), lambda p: jnp.exp(-0.2 * 9 * p[1]) * jnp.sin(3 * p[0])),
        (pde.Burgers(0.1), shock),
        (pde.NavierStokesVorticity(0.3), taylor_green),
        (
            pde.Poisson(lambda p: 5 * jnp.sin(p.x) * jnp.cos(2 * p.y)),
            lambda p: jnp.sin(p[0]) * jnp.cos(2 * p[1]),
        ),
    ],
    ids=[
        "convection",
        "fisher",
        "allen-cahn",
        "kdv",
        "wave",
        "steady navier-stokes",
        "heat",
        "burgers",
        "navier-stokes",
        "poisson",
    ],
)
def test_closed_forms(equation, solution, getkey):
    points = jax.random.uniform(getkey(), (20, len(equation.coordinates)))
    r = jax.vmap(lambda p: residual(equation, solution, p))(points)
    assert jnp.max(jnp.abs(r)) < 1e-12


def test_reaction_diffusion_rest_state():
    # Without space and time, u − u³ − k − v = 0 and v = u, so that u = −k^(1/3).
    rest = -jnp.cbrt(5e-3)
    r = residual(pde.ReactionDiffusion(), lambda p: rest + 0 * p[:2], jnp.ones(3))
    assert r.shape == (2,) and jnp.max(jnp.abs(r)) < 1e-15


def test_retardation_is_exact_where_promised():
    u = np.logspace(-4, 0, 200)
    expected = 1 + (1 - 0.29) / 0.29 * 2880 * 3.5e-4 * 0.874 * u ** (0.874 - 1)
    assert np.allclose(pde.DiffusionSorption().retardation(u), expected, rtol=1e-14)


def test_retardation_is_positive_monotone_and_twice_differentiable():
    equation = pde.DiffusionSorption()
    u = jnp.sort(jnp.concatenate([jnp.linspace(-2e-3, 2e-3, 4001), jnp.array([-1e6, -1.0, 1e6])]))
    r = equation.retardation(u)
    assert jnp.all(r > 1) and jnp.all(jnp.diff(r) <= 1e-14 * r[0])
    first = jax.grad(equation.retardation)
    second = jax.grad(first)
    s, step = equation.smallest, 1e-9
    below, above = s * (1 - step), s * (1 + step)
    for f in (equation.retardation, first, second):
        assert jnp.allclose(f(below), f(above), rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_retardation_has_finite_derivatives_everywhere(dtype):
    equation = pde.DiffusionSorption()
    equation = jax.tree.map(lambda leaf: leaf.astype(dtype), equation)
    u = jnp.array([-1e30, -10, -1e-4, -1e-30, 0, 1e-30, 5e-5, 1e-4, 0.1, 1, 1e6], dtype)

    def f(u, equation):
        return equation.retardation(u)

    for g in (f, jax.grad(f), jax.grad(jax.grad(f)), jax.grad(f, argnums=1)):
        for leaf in jax.tree.leaves(jax.vmap(g, (0, None))(u, equation)):
            assert leaf.dtype == dtype and jnp.all(jnp.isfinite(leaf))


def test_the_outflow_condition_dissipates():
    # d/dt ½‖u‖² of u_t = D u_xx has the boundary term u D u_x at the upper end: −u² for outflow.
    equation = pde.DiffusionSorption(diffusivity=0.7)
    inlet, outflow = equation.conditions()
    assert [float(c) for c in inlet.coefficients()] == [1, 0, 1]
    a, b, c = (float(c) for c in outflow.coefficients())
    u = 0.3
    slope = outflow.face.outward * (c - a * u) / b
    assert np.isclose(u * 0.7 * slope, -(u**2))


def test_precision_comes_from_the_inputs():
    equation = pde.DiffusionSorption()
    one = jnp.ones((), jnp.float32)
    d = pde.Derivatives({"u": one, "u_t": one, "u_xx": one}, ("u",), ("x", "t"))
    assert equation.residual(d, pde.Point({"x": one, "t": one})).dtype == jnp.float32
