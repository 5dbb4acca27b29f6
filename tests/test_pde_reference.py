"""The reference solver against closed forms, another solver and refinement."""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
import scipy.integrate

from jaxsci import pde
from jaxsci.pde.reference import Tridiagonal, method_of_lines

low, high = pde.low, pde.high


@eqx.filter_jit
def run(equation, space, conditions, initial, times, rtol=1e-8):
    return method_of_lines(equation, space, conditions, initial, times, rtol=rtol, atol=rtol / 100)


def cells(n, end=1.0, start=0.0):
    return pde.Cells(np.linspace(start, end, n + 1))


@pytest.mark.parametrize("structure", ["array", "tree"])
def test_tridiagonal_solver(structure, getkey):
    lower, middle, upper, b = jax.random.normal(getkey(), (4, 7))
    matrix = jnp.diag(3 * middle) + jnp.diag(lower[1:], -1) + jnp.diag(upper[:-1], 1)
    pack = {
        "array": lambda v: v,
        "tree": lambda v: {"a": v[:3].reshape(1, 3), "b": (v[3:],)},
    }[structure]
    flatten = lambda tree: jax.flatten_util.ravel_pytree(tree)[0]
    operator = lx.FunctionLinearOperator(lambda tree: pack(matrix @ flatten(tree)), jax.eval_shape(pack, b))
    solution = lx.linear_solve(operator, pack(b), Tridiagonal()).value
    assert np.allclose(flatten(solution), np.linalg.solve(matrix, b), rtol=1e-11)
    solver = Tridiagonal()
    state, _ = solver.transpose(solver.init(operator, {}), {})
    solution = solver.compute(state, pack(b), {})[0]
    assert np.allclose(flatten(solution), np.linalg.solve(matrix.T, b), rtol=1e-11)


def test_tridiagonal_solver_reports_a_singular_operator():
    operator = lx.MatrixLinearOperator(jnp.zeros((3, 3)))
    solution = lx.linear_solve(operator, jnp.ones(3), Tridiagonal(), throw=False)
    assert solution.result == lx.RESULTS.singular


def cole_hopf(x, t, viscosity):
    """Burgers' equation from −sin(πx) on (−1, 1), by Gauss–Hermite quadrature of Cole–Hopf."""
    nodes, weights = np.polynomial.hermite.hermgauss(100)
    y = x[:, None] - np.sqrt(4 * viscosity * t) * nodes
    phi = weights * np.exp(-np.cos(np.pi * y) / (2 * np.pi * viscosity))
    return -np.sum(np.sin(np.pi * y) * phi, axis=1) / np.sum(phi, axis=1)


def test_burgers_against_cole_hopf():
    viscosity, t = 0.1, np.array([0.0, 0.3, 0.8])
    conditions = [pde.Dirichlet("u", low("x"), 0.0), pde.Dirichlet("u", high("x"), 0.0)]
    axis = cells(120, start=-1.0)
    x = axis.rows()
    initial = {"u": jnp.asarray(-np.sin(np.pi * x))}
    u = run(pde.Burgers(viscosity), {"x": axis}, conditions, initial, t, 1e-6).values["u"]
    for i in (1, 2):
        assert np.max(np.abs(u[i] - cole_hopf(x, t[i], viscosity))) < 2e-3


def test_diffusion_sorption_against_scipy():
    n, times = 96, pde.graded(500.0, 6)
    equation, axis = pde.DiffusionSorption(), cells(n)
    initial = np.full(n, 0.05)
    result = run(equation, {"x": axis}, equation.conditions(), {"u": jnp.asarray(initial)}, times)
    grid = pde.Grid({"x": axis})
    second, offset = eqx.filter_jit(pde.Grid.operator)(
        grid, pde.Derivative("u", ("x", "x")), "x", equation.conditions()
    )
    second, offset = np.asarray(second), np.asarray(offset)

    def rates(_, u):
        r = 1 + (1 - 0.29) / 0.29 * 2880 * 3.5e-4 * 0.874 * u ** (0.874 - 1)
        return 5e-4 * (second @ u + offset) / r

    other = scipy.integrate.solve_ivp(
        rates, (0, 500), initial, method="LSODA", t_eval=times, rtol=1e-9, atol=1e-11,
        lband=1, uband=1,
    )  # fmt: skip
    assert np.max(np.abs(result.values["u"] - other.y.T)) < 1e-6
    assert np.all(result.values["u"] > 0) and np.all(result.values["u"] < 1)
    assert int(result.steps) < 400


def test_a_periodic_system_in_the_plane():
    # Without diffusion gradients (uniform values), the system is an ordinary differential equation.
    equation = pde.ReactionDiffusion()
    space = {"x": cells(4), "y": cells(3)}
    conditions = [pde.Periodic(f, axis) for f in ("u", "v") for axis in ("x", "y")]
    initial = {"u": jnp.full((4, 3), 0.5), "v": jnp.full((4, 3), -0.2)}
    times = np.array([0.0, 1.0, 3.0])
    result = run(equation, space, conditions, initial, times)

    def rates(_, y):
        u, v = y
        return [u - u**3 - 5e-3 - v, u - v]

    other = scipy.integrate.solve_ivp(rates, (0, 3), [0.5, -0.2], t_eval=times, rtol=1e-10, atol=1e-12)
    for i, field in enumerate(equation.fields):
        assert np.allclose(result.values[field], other.y[i][:, None, None], rtol=0, atol=1e-7)


def test_sensitivity_and_batch():
    # A cosine mode between insulated ends is an eigenvector of the scheme itself, with eigenvalue
    # −(4κ/h²) sin²(πh/2): what is left is the error of the time integration.
    axis, times = cells(8), jnp.array([0.0, 0.5])
    conditions = [pde.Neumann("u", low("x")), pde.Neumann("u", high("x"))]
    mode = jnp.cos(jnp.pi * axis.rows())

    @jax.jit
    @jax.vmap
    @jax.value_and_grad
    def last(kappa):
        result = method_of_lines(
            pde.Heat(kappa), {"x": axis}, conditions, {"u": mode}, times, rtol=1e-8, atol=1e-10,
            solver=diffrax.Tsit5(), max_steps=256,
        )  # fmt: skip
        return result.values["u"][-1, 0]

    kappa = np.array([0.05, 0.5])
    value, slope = last(jnp.asarray(kappa))
    rate = 4 * 8**2 * np.sin(np.pi / 16) ** 2
    exact = mode[0] * np.exp(-rate * kappa * 0.5)
    assert np.allclose(value, exact, rtol=1e-6)
    assert np.allclose(slope, -rate * 0.5 * exact, rtol=1e-5)


class Squared(pde.Equation):
    coordinates = ("x", "t")
    fields = ("u",)

    def residual(self, d, point):
        return d.u_t + d.u_t**2 - 1 - d.u_xx


@pytest.mark.parametrize(
    ("equation", "max_steps"), [(pde.Heat(1.0), 3), (Squared(), 64)], ids=["steps", "not affine"]
)
def test_failure_is_reported(equation, max_steps):
    conditions = [pde.Dirichlet("u", low("x"), 1.0), pde.Neumann("u", high("x"))]
    result = jax.jit(
        lambda u: method_of_lines(
            equation, {"x": cells(8)}, conditions, {"u": u}, [0.0, 50.0],
            solver=diffrax.Tsit5(), max_steps=max_steps,
        )
    )(jnp.full(8, 0.1))  # fmt: skip
    assert not bool(result.success)


def test_what_is_no_evolution_equation_is_refused():
    class Wave(pde.Equation):
        coordinates = ("x", "t")
        fields = ("u",)

        def residual(self, d, point):
            return d.u_tt - d.u_xx

    class Underdetermined(pde.Equation):
        coordinates = ("x", "t")
        fields = ("u", "v")

        def residual(self, d, point):
            return d.u_t - d.v_t

    def start(equation):
        values = dict.fromkeys(equation.fields, jnp.ones(4))
        method_of_lines(equation, {"x": cells(4)}, [], values, [0.0, 1.0])

    with pytest.raises(ValueError, match="Wave is not of first order in 't'"):
        start(Wave())
    with pytest.raises(ValueError, match="not of first order in 't' for its field 'psi'"):
        start(pde.NavierStokesVorticity(0.1))
    with pytest.raises(ValueError, match="1 equations for 2 fields"):
        start(Underdetermined())
