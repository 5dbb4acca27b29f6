"""Implicit steps of diffrax with our linear solvers, and the method of lines, against SciPy."""

import functools

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp

from jaxsci import pde
from jaxsci.interop import diffrax_root_finder
from jaxsci.linear import GMRES


class Waves(pde.Equation):
    """u_t = v_x, v_t = u_x + κ v_xx: two fields, coupled by their neighbors."""

    damping: float = 0.3
    coordinates = ("x", "t")
    fields = ("u", "v")

    def residual(self, d, point):
        return d.u_t - d.v_x, d.v_t - d.u_x - self.damping * d.v_xx


class Dispersion(pde.Equation):
    """u_t = −u_xxx + ν u_xx."""

    coordinates = ("x", "t")
    fields = ("u",)

    def residual(self, d, point):
        return d.u_t + 0.01 * d.u_xxx - 0.1 * d.u_xx


def walls(*fields):
    return [pde.Dirichlet(f, face("x"), 0.0) for f in fields for face in (pde.low, pde.high)]


def cells(n):
    return {"x": pde.Cells(np.linspace(0, 1, n + 1))}


def center(n):
    return (np.arange(n) + 0.5) / n


PROBLEMS = {
    "Burgers": (pde.Burgers(0.02), walls("u"), 1, False),
    "diffusion–sorption": (pde.DiffusionSorption(), pde.DiffusionSorption().conditions(), 1, False),
    "waves": (Waves(), walls("u", "v"), 3, False),
    "dispersion": (Dispersion(), [pde.Periodic("u", "x")], 2, True),
}


def start(equation, n):
    x = jnp.asarray(center(n))
    return {field: 0.2 + 0.1 * jnp.sin((i + 2) * jnp.pi * x) for i, field in enumerate(equation.fields)}


@functools.partial(jax.jit, static_argnames="solver")
def _integrate(lines, solver, y0, t1):
    return diffrax.diffeqsolve(
        diffrax.ODETerm(lines), solver, 0.0, t1, None, y0, max_steps=1000, throw=False,
        stepsize_controller=diffrax.PIDController(rtol=1e-7, atol=1e-9),
    )  # fmt: skip


def integrate(lines, linear_solver, y0, t1):
    solver = diffrax.Kvaerno5(root_finder=diffrax_root_finder(linear_solver))
    found = _integrate(lines, solver, y0, t1)
    assert found.result == diffrax.RESULTS.successful
    return found.ys[-1]


def by_scipy(lines, y0, t1):
    flat = jax.jit(lambda t, v: lines(t, v.reshape(y0.shape), None).ravel())
    found = solve_ivp(flat, (0.0, t1), np.asarray(y0).ravel(), "Radau", rtol=1e-9, atol=1e-11)
    return found.y[:, -1].reshape(y0.shape)


@pytest.mark.parametrize("name", PROBLEMS)
def test_band(name):
    equation, conditions, bandwidth, periodic = PROBLEMS[name]
    n = 20
    lines = pde.MethodOfLines(equation, cells(n), conditions)
    y0 = lines.state(start(equation, n))
    assert (lines.bandwidth, lines.periodic) == (bandwidth, periodic)
    jacobian = np.asarray(jax.jacfwd(lambda v: lines(0.0, v.reshape(y0.shape), None).ravel())(y0.ravel()))
    i, j = np.nonzero(jacobian)
    distance = np.abs(i - j)
    if periodic:
        distance = np.minimum(distance, y0.size - distance)
    assert distance.max() == bandwidth


def test_two_fields_in_a_band():
    lines = pde.MethodOfLines(Waves(), cells(20), walls("u", "v"))
    y0 = lines.state(start(lines.rates.equation, 20))
    y = integrate(lines, lines.linear_solver, y0, 0.1)
    np.testing.assert_allclose(y, by_scipy(lines, y0, 0.1), rtol=1e-6, atol=1e-7)
    fields = lines.fields(y)
    assert list(fields) == ["u", "v"] and fields["u"].shape == (20,)


def test_matrix_free():
    lines = pde.MethodOfLines(pde.DiffusionSorption(), cells(12), pde.DiffusionSorption().conditions())
    y0 = lines.state(start(lines.rates.equation, 12))
    y = integrate(lines, GMRES(rtol=1e-6), y0, 100.0)
    np.testing.assert_allclose(y, by_scipy(lines, y0, 100.0), rtol=1e-6, atol=1e-7)


def test_lanes_and_derivative():
    """diffrax differentiates its stages itself; the root finder does not stand in its way."""
    n = 8

    def solved(viscosity):
        lines = pde.MethodOfLines(pde.Burgers(viscosity), cells(n), walls("u"))
        finder = diffrax_root_finder(lines.linear_solver, rtol=1e-10, atol=1e-10)
        y0 = lines.state(start(lines.rates.equation, n))
        solver, adjoint = diffrax.Kvaerno3(root_finder=finder), diffrax.ForwardMode()
        found = diffrax.diffeqsolve(lines.term, solver, 0.0, 0.1, 0.005, y0, max_steps=25, adjoint=adjoint)
        return found.ys[-1]

    nu, step = 0.05, 1e-4
    both = jax.jit(jax.vmap(lambda v: jax.jvp(solved, (v,), (1.0,))))
    y, slope = both(jnp.array([nu - step, nu, nu + step]))
    np.testing.assert_allclose(slope[1], (y[2] - y[0]) / (2 * step), rtol=1e-5, atol=1e-7)
    lines = pde.MethodOfLines(pde.Burgers(nu), cells(n), walls("u"))
    expected = by_scipy(lines, lines.state(start(lines.rates.equation, n)), 0.1)
    np.testing.assert_allclose(y[1], expected, rtol=1e-4)


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="expected both, or neither"):
        diffrax_root_finder(rtol=1e-3)
    with pytest.raises(ValueError, match="`kappa` is 0"):
        diffrax_root_finder(kappa=0)
    with pytest.raises(TypeError, match="`linear_solver`"):
        diffrax_root_finder("banded")
    with pytest.raises(ValueError, match="expected one"):
        pde.MethodOfLines(pde.Burgers(0.1), {**cells(4), "y": pde.Cells([0.0, 1.0, 2.0])}, walls("u"))
    lines = pde.MethodOfLines(Waves(), cells(4), walls("u", "v"))
    with pytest.raises(ValueError, match="no field 'v'"):
        lines.state({"u": jnp.ones(4)})
