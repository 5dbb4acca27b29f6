"""Equations from text and symbols against written ones, and manufactured solutions against sympy."""

import builtins

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsci import pde
from jaxsci.pde import symbolic

XT = {"fields": ("u",), "coordinates": ("x", "t")}


@pytest.fixture
def sympy():
    return pytest.importorskip("sympy", reason="symbols need sympy: pip install 'jaxsci[symbolic]'")


def values(equation, seed=0.3):
    """The residual for some numbers, the same for the same names."""
    number = lambda name: jnp.asarray(seed + 0.1 * sum(map(ord, name)) % 1.7)
    arrays = {d.name: number(d.name) for d in pde.required(equation)}
    d = pde.Derivatives(arrays, equation.fields, equation.coordinates)
    return equation.residual(d, pde.Point({name: number(name) for name in equation.coordinates}))


@pytest.mark.parametrize(
    "text", ["u_t + u*u_x = nu*u_xx", "u_t - (-u*u_x) + -1*nu*u_xx", "u_t + u*u_x - nu*u_lap"]
)
def test_burgers_from_text(text):
    equation = symbolic.equation(text, parameters={"nu": 0.1}, **XT)
    if "lap" not in text:
        assert pde.required(equation) == pde.required(pde.Burgers(0.1))
        np.testing.assert_allclose(values(equation), values(pde.Burgers(0.1)), rtol=1e-14)
    (leaf,) = jax.tree.leaves(equation)
    assert leaf == 0.1
    gradient = jax.grad(values, allow_int=True)(equation)
    name = "u_lap" if "lap" in text else "u_xx"
    expected = -(0.3 + 0.1 * sum(map(ord, name)) % 1.7)
    np.testing.assert_allclose(gradient.parameters["nu"], expected, rtol=1e-14)


def test_one_class_for_one_set_of_names():
    a, b = (symbolic.equation("u_t = nu*u_xx", parameters={"nu": nu}, **XT) for nu in (1.0, 2.0))
    assert jax.tree.structure(a) == jax.tree.structure(b)


def test_functions_and_constants():
    text = "sin(pi*x) + atan2(x, t) - max(x, t, 0.2)*exp(-t)/sqrt(1 + x**2) + abs(-u) + heaviside(x) + erf(t)"
    x, t, u = 0.3, 0.7, -0.4
    d = pde.Derivatives({"u": jnp.asarray(u)}, *XT.values())
    found = symbolic.equation(text, **XT).residual(d, pde.Point({"x": jnp.asarray(x), "t": jnp.asarray(t)}))
    wanted = np.sin(np.pi * x) + np.arctan2(x, t) - t * np.exp(-t) / np.sqrt(1 + x**2) + 0.4 + 1
    np.testing.assert_allclose(found, wanted + 0.67780119383741847298, rtol=1e-14)


def test_a_system_from_symbols(sympy):
    x, y, t, k = sympy.symbols("x y t k")
    u, v = sympy.Function("u")(x, y, t), sympy.Function("v")(x, y, t)
    reaction = u - u**3 - k - v
    expressions = [
        sympy.Eq(u.diff(t), sympy.Rational(1, 1000) * (u.diff(x, 2) + u.diff(y, 2)) + reaction),
        v.diff(t) - 0.005 * (v.diff(x, x) + v.diff(y, y)) - (u - v),
    ]
    equation = symbolic.equation(
        expressions, fields=("u", "v"), coordinates=("x", "y", "t"), parameters={"k": 0.005}
    )
    written = pde.ReactionDiffusion()
    assert pde.required(equation) == pde.required(written)
    np.testing.assert_allclose(values(equation), values(written), rtol=1e-13)


def test_derivatives_of_products_are_carried_out(sympy):
    x, t = sympy.symbols("x t")
    u = sympy.Function("u")(x, t)
    conservative = symbolic.equation(sympy.Derivative(u**2 / 2, x) + sympy.Abs(u.diff(t, x)), **XT)
    text = symbolic.equation("u*u_x + abs(u_tx)", **XT)
    assert pde.required(conservative) == pde.required(text)
    np.testing.assert_allclose(values(conservative), values(text), rtol=1e-14)


def test_manufactured_source_against_sympy(sympy):
    x, t = sympy.symbols("x t")
    solution = sympy.exp(-t) * sympy.sin(2 * x) / (1 + x**2)
    source = solution.diff(t) + solution * solution.diff(x) - sympy.Rational(1, 10) * solution.diff(x, 2)
    wanted = sympy.lambdify((x, t), source)
    problem = symbolic.manufactured(pde.Burgers(0.1), solution)
    xs, ts = np.linspace(-1, 1, 4)[:, None], np.linspace(0, 1, 3)
    found = jax.jit(lambda x, t: problem.source(pde.Point({"x": x, "t": t})))(xs, ts)
    np.testing.assert_allclose(found, wanted(xs, ts), rtol=1e-11, atol=1e-13)
    exact = jax.jit(lambda p: problem.exact(p))(jnp.asarray([0.4, 0.2]))
    np.testing.assert_allclose(exact, [np.exp(-0.2) * np.sin(0.8) / 1.16], rtol=1e-13)


def test_manufactured_system_vanishes_and_is_differentiable():
    equation = pde.NavierStokesVorticity(0.1)
    solution = ["a*exp(-t)*sin(x)*cos(y)", "sin(x)*sin(y)"]

    @jax.jit
    def residual(a, p):
        problem = symbolic.manufactured(equation, solution, {"a": a})
        d = pde.derivatives(problem.exact, problem.equation, p)
        point = pde.Point(dict(zip(equation.coordinates, p, strict=True)))
        return jnp.stack(problem.equation.residual(d, point)), jnp.stack(problem.source(point))

    p = jnp.asarray([0.3, 0.5, 0.2])
    zero, source = residual(1.5, p)
    np.testing.assert_allclose(zero, 0, atol=1e-14)
    # Δψ + w = a e^{-t} sin x cos y − 2 sin x sin y.
    slope = np.exp(-0.2) * np.sin(0.3) * np.cos(0.5)
    np.testing.assert_allclose(source[1], 1.5 * slope - 2 * np.sin(0.3) * np.sin(0.5), rtol=1e-13)
    derivative = jax.jit(jax.jacfwd(lambda a: residual(a, p)[1]))(1.5)
    np.testing.assert_allclose(derivative[1], slope, rtol=1e-13)


def test_constant_solutions_have_the_precision_of_the_point():
    exact = symbolic.manufactured(pde.Heat(1.0), 2).exact
    assert exact(jnp.ones(2, jnp.float32)).dtype == jnp.float32


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("u_t = nu*u_xx", "'nu' is none of the coordinates"),
        ("u_t = u_xz", "'u_xz' is none of"),
        ("u_t = bessel(x)", "function 'bessel' is not known"),
        ("u_t = u^2", r"A power is written \*\*"),
        ("u_t = x[0]", "is not understood"),
        ("u_t = __import__('os')", "function '__import__' is not known|is not understood"),
        ("u_t = (lambda: 1)()", "is not understood"),
        ("u_t = 'a'", "is not understood"),
        ("u_t = u = x", "2 signs of equality"),
        ("u_t + ", "is no expression"),
    ],
)
def test_text_that_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        symbolic.equation(text, **XT)


def test_symbols_that_are_refused(sympy):
    x, t, c = sympy.symbols("x t c")
    u = sympy.Function("u")
    for expression, message in (
        (u(x, t).diff(t) + c * u(x, t), "'c' is none of"),
        (u(0, t).diff(t), r"u\(0, t\) is no field at the point"),
        (sympy.Function("w")(x, t), "is no field"),
        (sympy.besselj(0, x), "function 'besselj' is not known"),
        (sympy.I * x, "ImaginaryUnit"),
    ):
        with pytest.raises(ValueError, match=message):
            symbolic.equation(expression, **XT)
    with pytest.raises(TypeError, match="of type object"):
        symbolic.equation(object(), **XT)


def test_other_mistakes(monkeypatch):
    with pytest.raises(ValueError, match="has 2 expressions; expected 1"):
        symbolic.manufactured(pde.Heat(1.0), ["x", "t"])
    with pytest.raises(ValueError, match="'u' is none of"):
        symbolic.manufactured(pde.Heat(1.0), "u")
    ordinary = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "sympy":
            raise ImportError("no sympy")
        return ordinary(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"pip install 'jaxsci\[symbolic\]'"):
        symbolic.equation(object(), **XT)
