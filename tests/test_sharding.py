"""Implicit solves over several devices: an unknown that is spread over them, and lanes in shard_map."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec as P

import jaxsci as jsci
from jaxsci.linear import CG, GMRES

N = 64


def reaction_diffusion(u, a):
    """−Δu + u + κ u³ = f on an N×N grid of the torus, with unit spacing."""
    load, stiffness = a
    laplace = -4 * u
    for axis in (0, 1):
        laplace += jnp.roll(u, 1, axis) + jnp.roll(u, -1, axis)
    return u - laplace + stiffness * u**3 - load


def solved(a, y0, linear_solver):
    solver = jsci.solvers.Newton(rtol=1e-12, atol=1e-12, linear_solver=linear_solver)
    adjoint = jsci.ImplicitAdjoint(linear_solver)
    return jsci.solve(jsci.Root(reaction_diffusion), solver, y0, a, adjoint=adjoint, throw=False).value


def problem():
    x, y = np.meshgrid(*(2 * [np.arange(N) * 2 * np.pi / N]))
    return jnp.asarray(np.sin(x) * np.cos(2 * y) + 0.3), jnp.asarray(0.5 + 0.1 * np.cos(x + y))


OVER_GRID = {"CG": CG(), "GMRES": GMRES(restart=20)}


def values_and_derivatives(name):
    def both(a, y0, weight):
        y, pull = jax.vjp(lambda a: solved(a, y0, OVER_GRID[name]), a)
        _, dy = jax.jvp(lambda a: solved(a, y0, OVER_GRID[name]), (a,), (a,))
        return y, pull(weight)[0], dy

    weight = jnp.asarray(np.random.default_rng(0).normal(size=(N, N)))
    return jax.jit(both), (problem(), jnp.zeros((N, N)), weight)


@functools.cache
def unsharded(name):
    both, operands = values_and_derivatives(name)
    return jax.tree.leaves(both(*operands))


@pytest.mark.parametrize("name", OVER_GRID)
@pytest.mark.parametrize("spec", [P("rows", None), P("rows", "columns")], ids=["rows", "blocks"])
def test_a_sharded_unknown_stays_where_it_is(spec, name, devices):
    mesh = devices(*((4,) if spec[1] is None else (2, 2)), names=[n for n in spec if n])
    placed = NamedSharding(mesh, spec)
    both, operands = values_and_derivatives(name)
    operands = jax.device_put(operands, placed)
    program = both.lower(*operands).compile()
    text = program.as_text()
    assert "all-gather" not in text and "all-to-all" not in text and "callback" not in text
    for x, expected in zip(jax.tree.leaves(program(*operands)), unsharded(name), strict=True):
        assert x.sharding.is_equivalent_to(placed, x.ndim), x.sharding
        np.testing.assert_allclose(x, expected, rtol=1e-12, atol=1e-12)


LOADS, SHARED = jnp.linspace(-1.0, 2.0, 16).reshape(8, 2), jnp.array(0.7)
SOLVERS = {"dense": None, "CG": CG(), "GMRES": GMRES()}


def lanes(name):
    """A batch of solves as a function of the loads and of what all of them share."""
    newton = jsci.solvers.Newton(rtol=1e-13, atol=1e-13, linear_solver=SOLVERS[name])
    adjoint = jsci.ImplicitAdjoint(SOLVERS[name])

    def solved(load, shared):
        matrix = jnp.array([[2.0, -0.5], [-0.5, 1.0]])
        root = jsci.Root(lambda y, load: matrix @ y + shared * y**3 - load)
        return jsci.solve(root, newton, jnp.zeros(2), load, adjoint=adjoint, throw=False).value

    return jax.vmap(solved, in_axes=(0, None))


def derivatives(f):
    """The solutions, the gradient with respect to both arguments, and the Hessian of the shared one."""

    def total(loads, shared):
        y = f(loads, shared)
        return jnp.sum(jnp.sin(y)), y

    def both():
        gradient, y = jax.grad(total, argnums=(0, 1), has_aux=True)(LOADS, SHARED)
        return y, gradient, jax.hessian(lambda s: total(LOADS, s)[0])(SHARED)

    return jax.tree.leaves(jax.jit(both)())


@functools.cache
def on_one_device(name):
    return derivatives(lanes(name))


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize("name", SOLVERS)
def test_lanes_in_shard_map(name, check, devices):
    """Each device solves its own problems; a parameter that all share gets the sum of gradients."""
    spread = jax.shard_map(
        lanes(name),
        mesh=devices(4),
        in_specs=(P("devices"), P()),
        out_specs=P("devices"),
        check_vma=check,
    )
    for x, oracle in zip(derivatives(spread), on_one_device(name), strict=True):
        np.testing.assert_allclose(x, oracle, rtol=1e-12, atol=1e-13)


def test_no_collective_inside_the_solve(devices):
    """Lanes stop on their own: no device waits for another inside a solve."""
    newton = jsci.solvers.Newton(rtol=1e-12, atol=1e-12)
    solved = lambda a: jsci.solve(jsci.Root(lambda y, a: y**3 - a), newton, jnp.ones(2), a, throw=False).value

    def loss(a):
        lanes = jax.shard_map(
            lambda a: jax.vmap(solved)(a), mesh=devices(4), in_specs=P("devices"), out_specs=P("devices")
        )(a)
        return jnp.sum(lanes**2), lanes

    text = jax.jit(jax.grad(loss, has_aux=True)).lower(jnp.ones((8, 2))).compile().as_text()
    for name in ("all-reduce", "all-gather", "collective-permute", "all-to-all", "callback"):
        assert name not in text
