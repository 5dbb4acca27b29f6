"""Layers with a solve inside, and the solvers behind them: Anderson and Broyden."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optimistix as optx
import pytest
import scipy.optimize
from jax.sharding import PartitionSpec

import jaxsci as jsci
from jaxsci.layers import ArgminLayer, FixedPointLayer, ImplicitLayer
from jaxsci.solvers import Anderson, Broyden, Picard

OK = jsci.RESULTS.successful


class Cell(eqx.Module):
    """z ↦ tanh(W z + U x), a contraction by `rate`."""

    w: jax.Array
    u: jax.Array

    def __init__(self, n, rate, seed=0):
        r = np.random.default_rng(seed)
        w = r.normal(size=(n, n))
        self.w = jnp.asarray(rate * w / np.linalg.norm(w, 2))
        self.u = jnp.asarray(r.normal(size=(n, n))) / n**0.5

    def __call__(self, z, x):
        return jnp.tanh(self.w @ z + self.u @ x)


def test_equilibrium_against_unrolled_and_differences():
    """Value, gradient in parameters and input, and the second derivative along a direction."""
    cell, x = Cell(6, 0.5), jnp.linspace(-1, 1, 6)
    layer = FixedPointLayer(cell, solver=Anderson(1e-13, 1e-13), throw=False)
    loss = lambda z: jnp.sum(z**3 + z)
    implicit = lambda inputs: loss(eqx.tree_at(lambda l: l.fn, layer, inputs[0])(inputs[1]))
    body = lambda cell, x: lambda z, _: (cell(z, x), None)
    unrolled = lambda inputs: loss(jax.lax.scan(body(*inputs), jnp.zeros(6), None, 60)[0])
    direction = jax.tree.map(lambda a: jnp.cos(jnp.arange(a.size)).reshape(a.shape), (cell, x))

    def measured(f, inputs):
        gradient = jax.grad(f)
        value = f(inputs)
        first, second = jax.jvp(gradient, (inputs,), (direction,))
        return value, first, second

    @jax.jit
    def everything(inputs):
        step = 1e-5
        at = lambda t: implicit(jax.tree.map(lambda a, d: a + t * d, inputs, direction))
        slope = (jax.vmap(at)(jnp.array([step, -step])) * jnp.array([1, -1])).sum() / (2 * step)
        return measured(implicit, inputs), measured(unrolled, inputs), slope

    found, wanted, slope = everything((cell, x))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-10)
    along = sum(jax.tree.leaves(jax.tree.map(lambda a, b: jnp.sum(a * b), found[1], direction)))
    np.testing.assert_allclose(along, slope, rtol=1e-6)


def test_anderson_needs_fewer_steps():
    """Lanes of different rates: each stops on its own, with the values of plain iteration."""
    cells = [Cell(12, rate, seed) for seed, rate in enumerate((0.3, 0.9, 0.99, 1.6))]
    w, u = (jnp.stack([vars(c)[name] for c in cells]) for name in "wu")
    w = w.at[:3].set(jax.vmap(lambda a: 0.5 * (a + a.T))(w[:3]))
    residual = jsci.FixedPoint(lambda z, p: p[0] @ z + 0.1 * jnp.tanh(p[1] @ z) + 1.0)
    small = 0.02 * u

    def steps(solver):
        run = lambda w, u: jsci.solve(residual, solver, jnp.zeros(12), (w, u), throw=False, max_steps=5000)
        return jax.jit(jax.vmap(run))(w, small)

    fast, slow = steps(Anderson(1e-11, 1e-11)), steps(optx.FixedPointIteration(1e-12, 1e-12))
    assert np.all(fast.result == OK) and np.all((slow.result == OK)[:3])
    counts, plain = np.asarray(fast.stats.steps), np.asarray(slow.stats.steps)
    assert len(set(counts.tolist())) > 1
    assert np.all(counts[:3] < plain[:3]) and counts[2] < plain[2] / 3
    np.testing.assert_allclose(fast.value[:3], slow.value[:3], rtol=1e-7)
    assert not (slow.result == OK)[3]  # the last is no contraction


def test_picard():
    """y = c − 1.4 y repels y ← T(y), and the damped iteration contracts by 0.2; lanes stop on their own."""
    residual = jsci.FixedPoint(lambda y, c: c - 1.4 * y)
    starts = jnp.stack([jnp.ones(2), jnp.full(2, 1e6)])

    def run(solver, c, adjoint=jsci.ImplicitAdjoint()):
        one = lambda y: jsci.solve(residual, solver, y, c, adjoint=adjoint, throw=False, max_steps=60)
        return jax.vmap(one)(starts)

    c = jnp.array([1.0, -3.0])
    damped = Picard(1e-12, 1e-12, damping=0.5)
    found = jax.jit(lambda c: run(damped, c))(c)
    assert np.all(found.result == OK) and found.stats.steps[0] < found.stats.steps[1] < 60
    np.testing.assert_allclose(found.value, jnp.stack([c, c]) / 2.4, rtol=1e-11)
    lost = jax.jit(lambda c: run(Picard(1e-12, 1e-12), c))(c)
    assert not np.any(lost.result == OK)
    unrolled = jax.jacobian(lambda c: run(damped, c, jsci.UnrolledAdjoint()).value[0])(c)
    np.testing.assert_allclose(unrolled, np.eye(2) / 2.4, atol=1e-11)


def test_anderson_goes_on_where_acceleration_misleads():
    """T jumps between two contractions, which no history explains; plain iteration converges."""
    turn = 0.95 * jnp.array([[jnp.cos(1.0), -jnp.sin(1.0)], [jnp.sin(1.0), jnp.cos(1.0)]])

    def rough(z, _):
        far = jnp.where(jnp.floor(20 * jnp.sum(z**2)) % 2 == 0, 1.0, 0.6)
        return turn @ z * far

    run = lambda solver: jsci.solve(
        jsci.FixedPoint(rough), solver, jnp.array([2.0, 1.0]), throw=False, max_steps=2000
    )
    found = jax.jit(lambda: run(Anderson(0.0, 1e-10, history=3)))()
    assert found.result == OK
    np.testing.assert_allclose(found.value, 0, atol=1e-8)


def tridiagonal(y, a):
    """Broyden's tridiagonal function."""
    left, right = jnp.pad(y[:-1], (1, 0)), jnp.pad(y[1:], (0, 1))
    return (3 - 2 * y) * y - left - 2 * right + a


def test_broyden_is_scipys(devices):
    """Lanes on their own, inside shard_map too, and in float32."""
    levels = jnp.array([0.5, 1.0, 1.5, 2.0])
    find = lambda y0, a: jsci.solve(jsci.Root(tridiagonal), Broyden(1e-12, 1e-12), y0, a, throw=False)
    spread = PartitionSpec("devices")
    many = jax.vmap(lambda a: find(-jnp.ones(8), a).value)
    both = jax.jit(
        lambda a: (
            jax.shard_map(many, mesh=devices(4), in_specs=spread, out_specs=spread)(a),
            jax.vmap(lambda a: find(-jnp.ones(8), a))(a),
        )
    )
    placed, found = both(levels)
    assert np.all(found.result == OK) and np.all(np.asarray(found.stats.steps) < 40)
    np.testing.assert_allclose(placed, found.value, atol=1e-11)
    for i, a in enumerate(levels):
        wanted = scipy.optimize.root(lambda y, a=a: np.asarray(tridiagonal(y, a)), -np.ones(8), tol=1e-13).x
        np.testing.assert_allclose(found.value[i], wanted, atol=1e-10)

    # Exponentials: far too long a first step; the first guess is the root; no root at all.
    fn = lambda y, a: jnp.exp(y) - a
    hard = jax.jit(
        jax.vmap(
            lambda y, a: jsci.solve(jsci.Root(fn), Broyden(1e-6, 1e-6), y, a, throw=False, max_steps=100)
        )
    )
    found = hard(jnp.zeros((3, 2), jnp.float32), jnp.array([1e3, 1.0, -1.0], jnp.float32))
    assert (found.result == OK).tolist() == [True, True, False]
    np.testing.assert_allclose(found.value[:2], np.log([[1e3] * 2, [1.0] * 2]), rtol=1e-5, atol=1e-6)
    assert found.stats.steps[1] == 0


def test_minimum_free_projected_and_proximal():
    """Each with a closed form, also of the derivative."""
    a, w = jnp.array([2.0, -0.2, 0.5]), jnp.asarray(0.3)
    scale = jnp.array([1.0, 2.0, 4.0])
    objective = lambda y, args: 0.5 * jnp.sum(scale * (y - args[0]) ** 2)
    start = lambda args: jnp.zeros_like(args[0])
    free = ArgminLayer(objective, start, convex=True, throw=False)
    box = ArgminLayer(
        objective, start, projection=lambda v, args: jnp.clip(v, -1, 1 + args[1]), step=0.25, throw=False
    )
    threshold = lambda v, t, args: jnp.sign(v) * jnp.maximum(jnp.abs(v) - t * args[1], 0)
    sparse = ArgminLayer(objective, start, prox=threshold, step=0.25, throw=False)
    layers = (free, box, sparse)
    values, (slopes_a, slopes_w) = jax.jit(
        lambda args: (
            [l(args) for l in layers],
            jax.jacfwd(lambda args: jnp.stack([l(args) for l in layers]))(args),
        )
    )((a, w))
    np.testing.assert_allclose(values[0], a, atol=1e-6)
    np.testing.assert_allclose(values[1], [1.3, -0.2, 0.5], atol=1e-6)
    np.testing.assert_allclose(values[2], [1.7, -0.05, 0.425], atol=1e-6)
    wanted = np.stack([np.eye(3), np.diag([0.0, 1, 1]), np.eye(3)])
    np.testing.assert_allclose(slopes_a, wanted, atol=1e-6)
    np.testing.assert_allclose(slopes_w, [[0, 0, 0], [1, 0, 0], [-1, 0.5, -0.25]], atol=1e-6)


def test_residual_as_a_layer():
    """Parameters of the residual are trained; a failed lane is NaN alone; a guess can be given."""

    class Quadratic(jsci.AbstractResidual):
        c: jax.Array

        def __call__(self, y, args):
            return y**2 + self.c * args

    layer = ImplicitLayer(
        Quadratic(jnp.asarray(-2.0)), jsci.solvers.Newton(1e-12, 1e-12), jnp.asarray(1.0), throw=False
    )
    x = jnp.array([2.0, -1.0])
    values, gradient = eqx.filter_jit(lambda l: (jax.vmap(l)(x), eqx.filter_grad(lambda l: l(x[0]))(l)))(
        layer
    )
    np.testing.assert_allclose(values[0], 2.0, atol=1e-12)
    assert np.isnan(values[1])
    np.testing.assert_allclose(gradient.residual.c, -0.5, atol=1e-12)
    assert gradient.start == 0
    other = eqx.filter_jit(lambda l: l.solve(x[0], jnp.asarray(-3.0)))(layer)
    np.testing.assert_allclose(other.value, -2.0, atol=1e-12)


def test_mistakes_are_named():
    for make in (
        lambda: Anderson(1e-6, 1e-6, history=0),
        lambda: Anderson(1e-6, 1e-6, mixing=0.0),
        lambda: Anderson(1e-6, 1e-6, regularization=-1.0),
        lambda: Anderson(0.0, 0.0),
        lambda: Picard(1e-6, 1e-6, damping=0.0),
        lambda: Broyden(1e-6, 1e-6, memory=0),
        lambda: ArgminLayer(jnp.sum, 1.0, projection=jnp.sum, prox=jnp.sum),
        lambda: FixedPointLayer(lambda z, x: z[:2])(jnp.ones(3)),
        lambda: jsci.solve(jsci.FixedPoint(lambda z, x: z[:2]), Anderson(1e-6, 1e-6), jnp.ones(3)),
    ):
        with pytest.raises(ValueError, match="expected"):
            make()
    with pytest.raises(TypeError, match="`residual`"):
        ImplicitLayer(lambda y: y, Anderson(1e-6, 1e-6), 1.0)
