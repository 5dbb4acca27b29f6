"""Networks on one point: closed forms, variances, what is trained and what is not."""

import functools
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsci import nn

SIZE = {"width": 8, "depth": 2}


@functools.cache
def networks(dtype):
    key = jax.random.key(0)
    size = SIZE | {"key": key, "dtype": dtype}
    fourier = nn.RandomFourier(2, 3, key=key, dtype=dtype)
    return {
        "MLP": nn.MLP(2, 3, **size),
        "RWF": nn.MLP(2, 3, linear=nn.RWF, **size),
        "ModifiedMLP": nn.ModifiedMLP(2, 3, **size),
        "SIREN": nn.SIREN(2, 3, omega=5.0, **size),
        "PirateNet": nn.PirateNet(2, 3, linear=nn.RWF, **size),
        "Separable": nn.Separable(2, 3, rank=4, **size),
        "RandomFourier": nn.Embedded(fourier, nn.MLP(6, 3, **size)),
        "Periodic": nn.Embedded(nn.PeriodicEmbedding({1: 2.0}, dtype=dtype), nn.MLP(3, 3, **size)),
        "Scaled": nn.Scaled((-1, 0), (1, 3), nn.MLP(2, 3, **size)),
    }


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64], ids=["float32", "float64"])
def test_one_point_in_its_precision(dtype):
    found = networks(dtype)
    x = jnp.asarray([0.3, 0.8], dtype)
    for name, network in found.items():
        leaves = jax.tree.leaves(eqx.filter(network, eqx.is_inexact_array))
        assert leaves and {leaf.dtype for leaf in leaves} == {jnp.dtype(dtype)}, name
    out = eqx.filter_eval_shape(lambda networks, x: {k: f(x) for k, f in networks.items()}, found, x)
    for name, value in out.items():
        assert value.shape == (3,) and value.dtype == dtype, name


def test_parameters_are_in_the_default_precision(key):
    assert nn.MLP(2, 1, **SIZE, key=key).last.weight.dtype == jnp.float64


def test_gradients_against_differences():
    found, x = networks(jnp.float64), jnp.asarray([0.3, 0.8])
    dynamic, static = eqx.partition(found, eqx.is_inexact_array)
    loss = jax.jit(lambda dynamic: sum(jnp.sum(jnp.sin(f(x))) for f in eqx.combine(dynamic, static).values()))
    gradient = jax.jit(jax.grad(loss))(dynamic)
    direction = jax.tree.map(lambda leaf: np.cos(np.arange(leaf.size)).reshape(leaf.shape), dynamic)
    moved = lambda h: jax.tree.map(lambda a, b: np.asarray(a) + h * b, dynamic, direction)
    difference = (loss(moved(1e-5)) - loss(moved(-1e-5))) / 2e-5
    products = jax.tree.map(lambda a, b: np.vdot(a, b), gradient, direction)
    np.testing.assert_allclose(sum(jax.tree.leaves(products)), difference, rtol=1e-7)


def test_factorized_weights_start_as_plain_ones(key):
    plain, other = nn.Linear(5, 7, key=key), nn.RWF(5, 7, mean=0.5, deviation=0.3, key=key)
    x = jnp.asarray(np.sin(np.arange(5.0)))
    np.testing.assert_allclose(other(x), plain(x), rtol=1e-13)
    assert abs(float(jnp.mean(other.log_scale)) - 0.5) < 0.4 and float(jnp.std(other.log_scale)) > 0.1
    make = partial(nn.RWF, mean=0.5)
    for kind in (nn.MLP, nn.ModifiedMLP):
        a, b = (eqx.filter_jit(kind(5, 2, **SIZE, linear=l, key=key))(x) for l in (nn.Linear, make))
        np.testing.assert_allclose(a, b, rtol=1e-12)


def test_glorot(key):
    weight = nn.Linear(300, 500, key=key).weight
    # The variance of n normal numbers is known to √(2/n): here 0.4 %.
    np.testing.assert_allclose(jnp.var(weight), 2 / 800, rtol=0.02)


def test_gates_by_hand(key):
    network = nn.ModifiedMLP(2, 3, **SIZE, activation=jnp.sin, key=key)
    x = np.array([0.3, 0.8])
    layer = lambda l, h: np.asarray(l.weight) @ h + np.asarray(l.bias)
    u, v = (np.sin(layer(gate, x)) for gate in network.gates)
    h = x
    for hidden in network.hidden:
        z = np.sin(layer(hidden, h))
        h = z * u + (1 - z) * v
    np.testing.assert_allclose(network(jnp.asarray(x)), layer(network.last, h), rtol=1e-12)


def test_siren_keeps_its_variance(key):
    # Behind the first layer E sin² = 1/2, and a phase of n terms has the variance 2 E sin². A normal phase
    # of variance v has E sin² = (1 − exp(−2v))/2.
    network = nn.SIREN(2, 1, width=256, depth=5, key=key)
    x = jax.random.uniform(jax.random.key(1), (400, 2), minval=-1.0)
    step = jax.jit(lambda layer, x: network.omega * (x @ layer.weight.T + layer.bias))
    variance = 1.0
    for i, layer in enumerate(network.layers[:-1]):
        phase = np.asarray(step(layer, x))
        if i > 0:
            np.testing.assert_allclose(np.var(phase), variance, atol=0.1)
            variance = 1 - np.exp(-2 * variance)
        x = np.sin(phase)
    assert variance > 0.79


def test_piratenet_starts_linear_in_its_features(key):
    network = nn.PirateNet(2, 2, width=16, depth=2, scale=2.0, key=key)
    points = jax.random.uniform(jax.random.key(1), (40, 2))
    phase = points @ jnp.asarray(network.features.fixed).T
    features = jnp.concatenate([jnp.cos(phase), jnp.sin(phase)], 1)
    run = eqx.filter_jit(lambda network: (jax.vmap(network)(points), jax.vmap(network.embed)(points)))
    values, _ = run(network)
    np.testing.assert_allclose(values, features @ network.last.T, rtol=1e-12, atol=1e-13)
    wanted = jnp.stack([jnp.sin(points[:, 0]), points[:, 1] ** 2], 1)
    fitted = network.fitted(points, wanted)
    best = np.linalg.lstsq(np.asarray(features), np.asarray(wanted), rcond=None)[0]
    np.testing.assert_allclose(run(fitted)[0], features @ best, atol=1e-9)
    # Blocks matter as soon as α does, and fitting sees what they give.
    alphas = lambda network: [block.alpha for block in network.blocks]
    deep = eqx.tree_at(alphas, network, [jnp.asarray(0.7)] * 2)
    assert float(jnp.max(jnp.abs(run(deep)[0] - values))) > 1e-2
    found, h = run(deep.fitted(points, wanted))
    np.testing.assert_allclose(h.T @ (found - wanted), 0, atol=1e-9)


def test_separable_is_a_sum_of_outer_products(key):
    network = nn.Separable(3, 2, rank=4, **SIZE, key=key)
    axes = [jnp.asarray(np.linspace(0.0, 1.0, n)) for n in (3, 4, 5)]
    factors, run = [], eqx.filter_jit(lambda small, points: jax.vmap(small)(points))
    for i, axis in enumerate(axes):
        small = jax.tree.map(lambda leaf, i=i: leaf[i] if eqx.is_array(leaf) else leaf, network.networks)
        factors.append(np.asarray(run(small, axis[:, None])).reshape(-1, 2, 4))
    wanted = np.einsum("afr,bfr,cfr->fabc", *factors)
    np.testing.assert_allclose(eqx.filter_jit(network.on_grid)(axes), wanted, rtol=1e-12, atol=1e-14)
    point = jnp.asarray([axes[0][1], axes[1][2], axes[2][4]])
    np.testing.assert_allclose(eqx.filter_jit(network)(point), wanted[:, 1, 2, 4], rtol=1e-12)
    one = nn.Separable(1, 2, rank=4, **SIZE, key=key)
    line = jax.jit(lambda axis: one.on_grid([axis])[:, 2] - one(axis[2:3]))
    np.testing.assert_allclose(line(axes[0]), 0, atol=1e-13)


def test_periodic_embedding(key):
    embedding = nn.PeriodicEmbedding({2: 3.0, 0: 0.5}, harmonics=2, trainable=(0,))
    x = jnp.asarray([0.1, 7.0, 0.4])
    a, b = 2 * np.pi * 0.1 / 0.5, 2 * np.pi * 0.4 / 3.0
    waves = lambda p: [np.cos(p), np.sin(p), np.cos(2 * p), np.sin(2 * p)]
    np.testing.assert_allclose(embedding(x), [*waves(a), 7.0, *waves(b)], rtol=1e-12)
    assert embedding.out_size(3) == embedding(x).size == 9
    network = nn.Embedded(embedding, nn.MLP(9, 1, **SIZE, key=key))
    f = jax.jit(jax.value_and_grad(lambda x: network(x)[0]))
    for value, other in zip(f(x), f(x + np.asarray([0.5, 0.0, 3.0])), strict=True):
        np.testing.assert_allclose(value, other, rtol=1e-10, atol=1e-12)


def test_what_is_trained():
    leaves = lambda embedding: jax.tree.leaves(eqx.filter(embedding, eqx.is_array_like))
    key = jax.random.key(0)
    assert leaves(nn.PeriodicEmbedding({0: 2.0, 1: 3.0})) == []
    assert [float(x) for x in leaves(nn.PeriodicEmbedding({0: 2.0, 1: 3.0}, trainable=[1]))] == [3.0]
    assert len(leaves(nn.PeriodicEmbedding({0: 2.0, 1: 3.0}, trainable=True))) == 2
    fixed, free = nn.RandomFourier(2, 3, 1.5, key=key), nn.RandomFourier(2, 3, 1.5, trainable=True, key=key)
    assert leaves(fixed) == [] and leaves(free)[0].shape == (3, 2)
    x = jnp.asarray([0.3, 0.8])
    np.testing.assert_allclose(fixed(x), free(x), rtol=1e-14)
    assert fixed.out_size == free.out_size == fixed(x).size == 6
    assert leaves(nn.Scaled((0.0,), (1.0,), jnp.sin)) == []
    gradient = jax.grad(lambda e: jnp.sum(e(x)))(nn.PeriodicEmbedding({0: 2.0}, trainable=True))
    a = np.pi * 0.3
    np.testing.assert_allclose(gradient.periods[0], (np.sin(a) - np.cos(a)) * a / 2.0, rtol=1e-12)


def test_scaled_corners():
    scaled = nn.Scaled((-1.0, 2.0), (3.0, 2.5), lambda x: x)
    for point, corner in (((-1, 2), (-1, -1)), ((3, 2.5), (1, 1)), ((1, 2.25), (0, 0))):
        np.testing.assert_allclose(scaled(jnp.asarray(point, float)), corner, atol=1e-15)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda key: nn.MLP(2, 1, width=0, depth=2, key=key), "`width` and `depth` are 0 and 2"),
        (lambda key: nn.MLP(2, 0, **SIZE, key=key), "`out_size` is 0"),
        (lambda key: nn.ModifiedMLP(2, 1, width=4, depth=0, key=key), "4 and 0"),
        (lambda key: nn.SIREN(0, 1, **SIZE, key=key), "`in_size` is 0"),
        (lambda key: nn.PirateNet(2, 1, width=5, depth=1, key=key), "`width` is 5; expected an even"),
        (lambda key: nn.PirateNet(2, 1, **SIZE, key=key).fitted(jnp.ones((3, 2)), jnp.ones(3)), r"\(3, 1\)"),
        (lambda key: nn.Separable(2, 1, rank=0, **SIZE, key=key), "2 and 0"),
        (lambda key: nn.Separable(2, 1, rank=1, **SIZE, key=key).on_grid([jnp.ones(2)]), "has 1 entries"),
        (lambda key: nn.RandomFourier(2, 0, key=key), "`in_size` and `features` are 2, 0"),
        (lambda key: nn.PeriodicEmbedding({}), "at least one index"),
        (lambda key: nn.PeriodicEmbedding({0: -1.0}), "positive"),
        (lambda key: nn.PeriodicEmbedding({0: 1.0}, harmonics=0), "`harmonics` is 0"),
        (lambda key: nn.PeriodicEmbedding({0: 1.0}, trainable=[1]), "`trainable` is"),
        (lambda key: nn.PeriodicEmbedding({2: 1.0})(jnp.ones(2)), "the index 2"),
        (lambda key: nn.Scaled((0.0, 1.0), (1.0, 1.0), jnp.sin), "the lower one first"),
        (lambda key: nn.Scaled((0.0,), (1.0, 1.0), jnp.sin), "one number each"),
        (lambda key: nn.Scaled((0.0,), (1.0,), jnp.sin)(jnp.ones(2)), r"expected \(1,\)"),
    ],
)
def test_mistakes_are_named(make, message, key):
    with pytest.raises(ValueError, match=message):
        make(key)
