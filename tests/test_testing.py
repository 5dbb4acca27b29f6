"""`check_implicit` passes what is right and names what is wrong."""

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import pytest

import jaxsci as jsci
from jaxsci.testing import check_implicit

A = {"matrix": jnp.array([[3.0, 0.5], [-0.2, 2.0]]), "load": jnp.array([1.0, -0.4]), "power": 3, "name": "x"}


def equations(y, a):
    return a["matrix"] @ y + 0.2 * y ** a["power"] - a["load"]


def test_passes_what_is_right():
    report = check_implicit(jsci.Root(equations), jnp.zeros(2), A)
    for name, value in vars(report).items():
        assert value < (1e-9 if name != "jvp_differences" else 1e-6), name
    convex = jsci.Stationary(lambda y, a: jnp.sum(jnp.cosh(y - a)) + 0.5 * y @ y, convex=True)
    check_implicit(convex, jnp.zeros(3), jnp.array([0.3, -1.0, 0.5]))
    problem = jsci.KKT(lambda x, a: jnp.sum((x - a) ** 4 + x**2), lambda x, a: x @ x - a[0])
    a = jnp.array([0.7, 0.2])
    check_implicit(problem, problem.start(jnp.array([0.6, 0.5]), a), a)


def test_fields_of_the_residual_are_parameters():
    class Own(jsci.AbstractResidual):
        rate: jax.Array

        def __call__(self, y, args):
            return {"f": self.rate * y["u"] ** 3 + y["u"] - 1.0}

    check_implicit(Own(jnp.array([2.0, 3.0])), {"u": jnp.array([0.5, 0.5])})


def test_float32():
    a = jax.tree.map(lambda x: x.astype(jnp.float32) if eqx.is_array(x) else x, A)
    check_implicit(jsci.Root(equations), jnp.zeros(2, jnp.float32), a)


def test_names_what_is_wrong():
    # A Gauss–Newton derivative at a large residual is another function's derivative.
    curved = lambda y, a: jnp.array([y[0] ** 2 - a, y[0] - 3.0, y[0] * a])
    check_implicit(jsci.LeastSquares(curved), jnp.ones(1), jnp.array(0.5))
    with pytest.raises(AssertionError, match="jvp_differences .*vjp_unrolled"):
        check_implicit(jsci.LeastSquares(curved, gauss_newton=True), jnp.ones(1), jnp.array(0.5))
    # A promise that does not hold.
    symmetric = jsci.Root(equations, tags=frozenset({lx.positive_semidefinite_tag}))
    with pytest.raises(AssertionError, match="LeastSquares|Root"):
        check_implicit(symmetric, jnp.zeros(2), A)


def test_refuses_what_it_cannot_check():
    with pytest.raises(ValueError, match="did not converge"):
        check_implicit(jsci.Root(lambda y, a: y**2 + a), jnp.array(0.3), jnp.array(1.0))
    with pytest.raises(ValueError, match="nothing to differentiate"):
        check_implicit(jsci.Root(lambda y, a: y - a), jnp.array(0.3), 1.0)
    with pytest.raises(ValueError, match="unknowns"):
        check_implicit(jsci.Root(lambda y, a: y - a), jnp.zeros(1000), jnp.ones(1000))
    with pytest.raises(TypeError, match="`residual`"):
        check_implicit(equations, jnp.zeros(2), A)
