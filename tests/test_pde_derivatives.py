"""Derivatives of networks against nested reverse mode."""

import re

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest

from jaxsci import pde


class Space1(pde.Equation):
    coordinates = ("x", "t")
    fields = ("u", "v")

    def residual(self, d, point):
        return d.u_t + d.u * d.u_x - d.u_xx + d.u_xt, d.v_xxx + d.v_tt + d.v


class Space2(pde.Equation):
    coordinates = ("x", "y", "t")
    fields = ("u", "v")

    def residual(self, d, point):
        return d.u_t + d.u_xx + d.u_yy + d.v_xy + d.u_xxy + d.u_xyt, d.v_yxxx + d.v_t + d.v_xx


def by_grad(network, derivative, equation, point):
    index = equation.fields.index(derivative.field)

    def along(f, axis):
        return lambda p: jax.grad(f)(p)[axis]

    f = lambda p: network(p)[index]
    for coordinate in derivative.along:
        f = along(f, equation.coordinates.index(coordinate))
    return f(point)


@pytest.mark.parametrize("equation", [Space1(), Space2()], ids=["1d", "2d"])
def test_against_nested_grad(equation, key):
    n = len(equation.coordinates)
    network = eqx.nn.MLP(n, 2, 16, 2, activation=jnp.tanh, key=key)
    points = jax.random.normal(key, (4, n))
    d = jax.jit(jax.vmap(lambda p: pde.derivatives(network, equation, p)))(points)
    wanted = pde.required(equation)
    assert set(d) == {derivative.name for derivative in wanted}
    for derivative in wanted:
        expected = jax.vmap(lambda p, w=derivative: by_grad(network, w, equation, p))
        assert jnp.max(jnp.abs(d[derivative.name] - jax.jit(expected)(points))) < 1e-10


def test_basis_functions_keep_their_axes(key):
    network = eqx.nn.MLP(2, 30, 16, 2, activation=jnp.tanh, key=key)
    point = jnp.array([0.3, 0.7])
    basis = lambda p: network(p).reshape(2, 3, 5)
    d = jax.jit(lambda p: pde.derivatives(basis, Space1(), p))(point)
    for name, array in dict(d).items():
        assert array.shape == (3, 5), name
    one = jax.jit(lambda p: pde.derivatives(lambda p: basis(p)[:, 2, 1], Space1(), p))(point)
    for name, array in dict(one).items():
        assert jnp.allclose(d[name][2, 1], array, rtol=1e-12, atol=1e-14)


def test_scalar_network_of_one_field():
    d = pde.derivatives(lambda p: jnp.sin(p[0]) * p[1], pde.Heat(1.0), jnp.array([0.5, 2.0]))
    assert jnp.allclose(d.u_xx, -2 * jnp.sin(0.5)) and jnp.allclose(d.u_t, jnp.sin(0.5))


def test_one_product_per_layer_and_derivative(key):
    # u, u_t, u_x, u_xx: four products with each weight matrix, none repeated.
    width, points = 64, 128
    network = eqx.nn.MLP(2, 1, width, 3, activation=jnp.tanh, key=key)
    batch = jax.random.normal(key, (points, 2))
    equation = pde.Burgers(0.1)
    compiled = jax.jit(jax.vmap(lambda p: dict(pde.derivatives(network, equation, p))))
    text = compiled.lower(batch).compile().as_text()
    products = re.findall(r"= \w+\[[^\]]*\]\S* dot\(", text)
    assert products, "the compiled program has no products to count"
    # Three hidden layers and the output layer.
    assert len(products) <= 4 * 4


def test_differentiable_in_weights_and_precision(key):
    network = eqx.nn.MLP(2, 2, 8, 1, activation=jnp.tanh, key=key, dtype=jnp.float32)
    point = jnp.array([0.3, 0.7], jnp.float32)

    @eqx.filter_jit
    @eqx.filter_grad
    def loss(network):
        d = pde.derivatives(network, Space1(), point)
        assert all(array.dtype == jnp.float32 for array in dict(d).values())
        r = Space1().residual(d, pde.Point({"x": point[0], "t": point[1]}))
        return r[0] ** 2 + r[1] ** 2

    for leaf in jax.tree.leaves(loss(network)):
        assert leaf.dtype == jnp.float32 and jnp.all(jnp.isfinite(leaf))


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match=r"`point` has shape \(3,\); expected \(2,\)"):
        pde.derivatives(lambda p: p[:1], pde.Heat(1.0), jnp.ones(3))
    with pytest.raises(ValueError, match=r"returned shape \(2,\); expected \(1, …\)"):
        pde.derivatives(lambda p: p, pde.Heat(1.0), jnp.ones(2))
    with pytest.raises(ValueError, match=r"returned shape \(\)"):
        pde.derivatives(lambda p: p[0], Space1(), jnp.ones(2))
