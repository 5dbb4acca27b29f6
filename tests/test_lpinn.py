"""Lagrangian PINNs: equations in labels, Eulerian queries, their derivatives, errors."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsci as jsci
from jaxsci import nn, pde, pinn
from jaxsci.solvers import BracketedNewton, GaussNewton

LINE = pde.Box({"x": (0.0, 2 * np.pi), "t": (0.0, 1.0)})
START = pde.Initial("u", lambda p: jnp.sin(p.x))
AROUND = pde.Periodic("u", "x")


def net(size, out, seed, width=8, depth=1):
    return nn.MLP(size, out, width=width, depth=depth, key=jax.random.key(seed))


def circle(equation, **sizes):
    return pinn.LPINN(equation, LINE, [START, AROUND], net(3, 1, 0, **sizes), net(3, 1, 1, **sizes))


def relative(model, exact, points):
    found = jax.jit(jax.vmap(model))(points)[:, 0]
    return float(jnp.linalg.norm(found - exact) / jnp.linalg.norm(exact))


@pytest.fixture(scope="module")
def trained(x64_module):
    model = circle(pde.Convection(50.0, 0.01), width=10)
    stage = pinn.Stage(GaussNewton(), 80)
    return pinn.fit(model, [stage], key=jax.random.key(2), points=300, progress=False)


@pytest.fixture(scope="module")
def x64_module():
    before = jax.config.read("jax_enable_x64")
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", before)


def test_fast_convection_with_diffusion(trained):
    points = jnp.asarray(np.random.default_rng(0).uniform(size=(300, 2)) * [2 * np.pi, 1.0])
    exact = jnp.exp(-0.01 * points[:, 1]) * jnp.sin(points[:, 0] - 50 * points[:, 1])
    assert relative(trained.model, exact, points) < 1e-6


def test_the_residual_in_labels_is_the_equation(x64_module):
    """Any map X and any U: the rows are those of the Eulerian equation at X, times J."""
    model = circle(pde.Burgers(0.3))
    p = jnp.array([1.1, 0.7])
    equation = pde.Burgers(0.3)
    at = jnp.append(model.flow(p[:1], p[1])[0], p[1])
    d = jax.jit(lambda at: pde.derivatives(model, equation, at))(at)
    eulerian = equation.residual(d, pde.Point({"x": at[0], "t": at[1]}))
    x_t = jax.jvp(lambda t: model.flow(p[:1], t)[0], (p[1],), (1.0,))[1]
    # The material derivative of the network is along its own X_t.
    eulerian = eulerian + (x_t[0] - d.u) * d.u_x
    rows = jax.jit(lambda p: model.residual(p))(p)
    np.testing.assert_allclose(rows[0], x_t[0] - d.u, rtol=1e-10)
    np.testing.assert_allclose(rows[1], model.jacobian(p[:1], p[1]) * eulerian, rtol=1e-8)


def test_in_the_plane_the_rows_are_the_equation(x64_module):
    plane = pde.Box({"x": (-1.0, 1.0), "y": (-1.0, 1.0), "t": (0.0, 1.0)})
    equation = pde.Advection(lambda p: (-p.y, p.x + p.t), 0.2)
    start = pde.Initial("u", lambda p: jnp.sin(p.x) * p.y)
    model = pinn.LPINN(equation, plane, [start], net(3, 2, 2), net(3, 1, 3), incompressible=True)
    label, t = jnp.array([0.2, -0.3]), jnp.array(0.4)
    at = jnp.append(model.flow(label, t)[0], t)
    np.testing.assert_allclose(jax.jit(lambda p: model.label(p))(at), label, atol=1e-10)
    d = jax.jit(lambda at: pde.derivatives(model, equation, at))(at)
    x_t = jax.jvp(lambda t: model.flow(label, t)[0], (t,), (1.0,))[1]
    change = d.u_t + x_t[0] * d.u_x + x_t[1] * d.u_y - 0.2 * d.u_lap
    j = model.jacobian(label, t)
    rows = jax.jit(lambda p: model.residual(p))(jnp.append(label, t))
    np.testing.assert_allclose(rows[2], j * change, rtol=1e-7)
    np.testing.assert_allclose(rows[3], j - 1, rtol=1e-8)


class Tracer(pde.AbstractTransport):
    """A velocity that carries itself and a tracer, which decays."""

    coordinates = ("x", "t")
    fields = ("u", "c")

    def velocity(self, u, point):
        return (u.u,)

    def diffusion(self, u, point):
        return 0.1

    def source(self, u, point):
        return 0.0 * u.u, -u.c * point.x


def test_two_fields_on_one_characteristic(x64_module):
    start = [START, pde.Initial("c", lambda p: jnp.cos(p.x)), AROUND, pde.Periodic("c", "x")]
    model = pinn.LPINN(Tracer(), LINE, start, net(3, 1, 0), net(3, 2, 1))
    label, t = jnp.array([1.1]), jnp.array(0.7)
    at = jnp.append(model.flow(label, t)[0], t)
    d = jax.jit(lambda at: pde.derivatives(model, Tracer(), at))(at)
    eulerian = jnp.stack(Tracer().residual(d, pde.Point({"x": at[0], "t": t})))
    x_t = jax.jvp(lambda t: model.flow(label, t)[0], (t,), (1.0,))[1]
    eulerian = eulerian + (x_t - d.u) * jnp.stack([d.u_x, d.c_x])
    rows = jax.jit(lambda p: model.residual(p))(jnp.append(label, t))
    np.testing.assert_allclose(rows[1:], model.jacobian(label, t) * eulerian, rtol=1e-7)


def test_derivatives_of_a_query(x64_module):
    model = circle(pde.Burgers(0.1))
    unknown, rest = eqx.partition(model, eqx.is_inexact_array)
    p = jnp.array([1.3, 0.6])
    query = jax.jit(lambda w, p: eqx.combine(w, rest)(p)[0])
    by_w, by_p = jax.grad(query, argnums=(0, 1))(unknown, p)
    h = 1e-5
    for i in range(2):
        e = jnp.zeros(2).at[i].set(h)
        difference = (query(unknown, p + e) - query(unknown, p - e)) / (2 * h)
        np.testing.assert_allclose(by_p[i], difference, rtol=1e-6, atol=1e-8)
    leaves = jax.tree.leaves(unknown)
    keys = jax.random.split(jax.random.key(5), len(leaves))
    v = jax.tree.unflatten(
        jax.tree.structure(unknown),
        [jax.random.normal(k, x.shape, x.dtype) for k, x in zip(keys, leaves, strict=True)],
    )
    moved = lambda s: jax.tree.map(lambda x, d: x + s * d, unknown, v)
    difference = (query(moved(h), p) - query(moved(-h), p)) / (2 * h)
    found = sum(jnp.vdot(a, b) for a, b in zip(jax.tree.leaves(by_w), jax.tree.leaves(v), strict=True))
    np.testing.assert_allclose(found, difference, rtol=1e-6)
    hessian = jax.jit(jax.hessian(lambda p: query(unknown, p)))(p)
    slope = jax.jit(jax.grad(lambda p: query(unknown, p)))
    e = jnp.array([h, 0.0])
    np.testing.assert_allclose(hessian[0], (slope(p + e) - slope(p - e)) / (2 * h), rtol=1e-5, atol=1e-7)


def test_a_front_that_enters(x64_module):
    """Pure convection from the left: the start is exact, whatever the networks are, once they are silent."""
    front = lambda s: jnp.tanh(5 * (s - 0.3))
    box = pde.Box({"x": (0.0, 1.0), "t": (0.0, 2.0)})
    conditions = [
        pde.Initial("u", lambda p: front(p.x + 0.5)),
        pde.Dirichlet("u", pde.low("x"), lambda p: front(0.5 - 0.8 * p.t)),
    ]
    silent = lambda features: jnp.zeros(1)
    model = pinn.LPINN(pde.Convection(0.8), box, conditions, silent, silent)
    points = jnp.array([[0.1, 0.05], [0.4, 1.0], [0.9, 1.9], [0.0, 1.0]])
    exact = front(points[:, 0] - 0.8 * points[:, 1] + 0.5)
    np.testing.assert_allclose(jax.jit(jax.vmap(model))(points)[:, 0], exact, atol=1e-10)
    assert float(jnp.max(jnp.abs(jax.jit(jax.vmap(model.residual))(points)))) < 1e-10
    assert bool(jnp.isnan(model(jnp.array([1.9, 0.1]))[0]))  # nothing was followed that is there


def test_bracketed_newton(x64_module):
    root = jsci.Root(lambda y, a: jnp.arctan(50 * y) - a)
    at = lambda a: jsci.solve(root, BracketedNewton(-5.0, 9.0), jnp.array(8.0), a).value
    a = jnp.array([-1.5, 0.2, 1.5])
    np.testing.assert_allclose(jax.vmap(at)(a), jnp.tan(a) / 50, rtol=1e-9)
    np.testing.assert_allclose(jax.vmap(jax.grad(at))(a), 1 / jnp.cos(a) ** 2 / 50, rtol=1e-8)
    lost = jsci.solve(root, BracketedNewton(1.0, 2.0), jnp.array(1.5), 0.0, throw=False)
    assert lost.result == jsci.RESULTS.stagnated
    with pytest.raises(ValueError, match="one scalar"):
        jsci.solve(root, BracketedNewton(-1.0, 1.0), jnp.zeros(2), 0.0)


SHARED = net(3, 1, 0)


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"equation": pde.Heat(0.1)}, TypeError, "transport form"),
        ({"domain": pde.Box({"t": (0.0, 1.0), "x": (0.0, 1.0)})}, ValueError, "in this order"),
        ({"conditions": [AROUND]}, ValueError, "no initial value"),
        ({"conditions": [START, pde.Neumann("u", pde.low("x"))]}, ValueError, "no place"),
        ({"characteristics": SHARED, "state": SHARED}, ValueError, "in common"),
        ({"state": net(2, 1, 1)}, ValueError, "`state` fails"),
        ({"characteristics": net(3, 2, 1)}, ValueError, "`characteristics` gives shape"),
        ({"least_jacobian": -1.0}, ValueError, "least_jacobian"),
        (
            {"conditions": [START, pde.Dirichlet("u", pde.high("x"), lambda p: jnp.sin(p.t))]},
            ValueError,
            "nothing enters there",
        ),
    ],
)  # fmt: skip
def test_wrong_arguments(arguments, error, match):
    given = {
        "equation": pde.Convection(1.0), "domain": LINE, "conditions": [START, AROUND],
        "characteristics": net(3, 1, 0), "state": net(3, 1, 1),
    }  # fmt: skip
    with pytest.raises(error, match=match):
        pinn.LPINN(**(given | arguments))
