"""Directions from several gradients: closed forms, SciPy's minimum, and the promises each makes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from jaxsci.train import MGDA, ConFIG, PCGrad, Sum, combine

DIRECTIONS = {
    "mgda": MGDA(),
    "raw": MGDA(normalize=False),
    "config": ConFIG(),
    "pcgrad": PCGrad(),
    "sum": Sum(),
}
CALLS = {name: jax.jit(d.__call__) for name, d in DIRECTIONS.items()}
LOSSES = jnp.ones(3)


def unit(v):
    return v / np.linalg.norm(v)


def drawn(seed, m=3, n=6):
    """Gradients of very different lengths, in conflict but not Pareto stationary."""
    rng = np.random.default_rng(seed)
    ahead = unit(rng.normal(size=n))
    rows = [unit(r - (r @ ahead) * ahead) for r in rng.normal(size=(m, n))]
    rows = np.array([10.0 ** (i - 1) * (0.3 * ahead + r) for i, r in enumerate(rows)])
    return jnp.asarray(rows)


def test_two_gradients_have_closed_forms():
    g1, g2 = np.array([2.0, 0.0, 0.0]), np.array([-1.0, 1.0, 0.0])
    both, losses = jnp.asarray([g1, g2]), jnp.ones(2)
    # The shortest point of the segment.
    alpha = np.clip(-g2 @ (g1 - g2) / np.sum((g1 - g2) ** 2), 0, 1)
    raw = CALLS["raw"](both, losses)
    np.testing.assert_allclose(raw, alpha * g1 + (1 - alpha) * g2, atol=1e-12)
    # The bisector, as long as both projections on it.
    middle = unit(unit(g1) + unit(g2))
    for name in ("mgda", "config"):
        np.testing.assert_allclose(CALLS[name](both, losses), (middle @ (g1 + g2)) * middle, atol=1e-12)
    # Both projected on each other's normal plane.
    surgery = g1 - (g1 @ g2) / (g2 @ g2) * g2 + g2 - (g1 @ g2) / (g1 @ g1) * g1
    np.testing.assert_allclose(CALLS["pcgrad"](both, losses), surgery, atol=1e-12)
    np.testing.assert_allclose(CALLS["sum"](both, losses), g1 + g2)


@pytest.mark.parametrize("normalize", [True, False])
def test_shortest_point_is_slsqps(normalize):
    call = CALLS["mgda" if normalize else "raw"]
    for seed in range(6):
        rows = np.random.default_rng(seed).normal(size=(3, 3 + seed % 3))
        points = rows / np.linalg.norm(rows, axis=1, keepdims=True) if normalize else rows
        sums = {"type": "eq", "fun": lambda a: np.sum(a) - 1}
        best = scipy.optimize.minimize(
            lambda a: np.sum((a @ points) ** 2), np.full(3, 1 / 3), method="SLSQP",  # noqa: B023
            bounds=[(0, 1)] * 3, constraints=sums, options={"ftol": 1e-15},
        )  # fmt: skip
        shortest = best.x @ points
        if normalize:
            shortest = unit(shortest) * np.sum(rows @ unit(shortest))
        np.testing.assert_allclose(call(jnp.asarray(rows), LOSSES), shortest, rtol=1e-5, atol=1e-6)


def test_every_loss_falls():
    for seed in range(5):
        rows = drawn(seed)
        for name in ("mgda", "raw", "config"):
            assert np.all(rows @ CALLS[name](rows, LOSSES) > 0), name
    # Which a sum does not promise.
    assert any(np.any(drawn(s) @ CALLS["sum"](drawn(s), LOSSES) < 0) for s in range(5))


def test_config_has_equal_angles_and_mgda_the_best_worst_one():
    for seed in range(5):
        rows = drawn(seed)
        cosines = lambda d, rows=rows: np.array([unit(np.asarray(r)) @ unit(np.asarray(d)) for r in rows])
        config, mgda = (cosines(CALLS[name](rows, LOSSES)) for name in ("config", "mgda"))
        np.testing.assert_allclose(config, config[0], rtol=1e-9)
        assert mgda.min() >= config.min() - 1e-12


def test_pcgrad_without_conflict_is_the_sum_and_order_may_be_random(key):
    rows = jnp.abs(drawn(0))
    np.testing.assert_allclose(CALLS["pcgrad"](rows, LOSSES, key), CALLS["sum"](rows, LOSSES), rtol=1e-12)
    rows = jnp.asarray([[1.0, 0.0, 0.0], [-0.5, 1.0, 0.0], [-0.7, -2.0, 0.1]])
    found = [CALLS["pcgrad"](rows, LOSSES, k) for k in jax.random.split(key, 8)]
    assert len({np.round(np.asarray(d), 9).tobytes() for d in found}) > 1
    np.testing.assert_array_equal(found[0], CALLS["pcgrad"](rows, LOSSES, jax.random.split(key, 8)[0]))


def test_stationary_points_and_zeros():
    opposed = jnp.asarray([[1.0, 0.0], [-3.0, 0.0], [1.0, 0.0]])
    for name in ("mgda", "raw"):
        np.testing.assert_allclose(CALLS[name](opposed, LOSSES), 0.0, atol=1e-12)
    idle = jnp.asarray([[1.0, 2.0], [0.0, 0.0], [-1.0, 1.0]])
    for name in ("mgda", "config"):
        two = DIRECTIONS[name](idle[jnp.array([0, 2])], jnp.ones(2))
        np.testing.assert_allclose(CALLS[name](idle, LOSSES), two, rtol=1e-9)
    for call in CALLS.values():
        np.testing.assert_allclose(call(jnp.zeros((3, 2)), LOSSES), 0.0)


def test_combine_descends_on_trees():
    """Two distances in a tree of parameters; the minimum of neither, but a point between them."""
    centers = jnp.asarray([[2.0, 0.0, 0.0], [0.0, 0.0, 100.0]])
    losses = lambda p: jnp.stack([jnp.sum((p["a"] - c[:2]) ** 2) + (p["b"] - c[2]) ** 2 for c in centers])
    p = {"a": jnp.ones(2), "b": jnp.array(1.0)}
    d, values = jax.jit(lambda p: combine(MGDA(), losses, p))(p)
    np.testing.assert_allclose(values, losses(p))
    after = losses(jax.tree.map(lambda p, d: p - 1e-4 * d, p, d))
    assert d["b"].shape == () and np.all(after < values)


MISTAKES = [
    (lambda: MGDA(normalize=1), TypeError, "`normalize`"),
    (lambda: MGDA()(jnp.ones((3, 2)), jnp.ones(2)), ValueError, "`gradients`"),
    (lambda: MGDA()(jnp.ones((11, 2)), jnp.ones(11)), ValueError, "at most 10"),
    (lambda: combine("mgda", lambda p: p, jnp.ones(2)), TypeError, "`direction`"),
    (lambda: combine(Sum(), jnp.sum, jnp.ones(2)), ValueError, "`losses`"),
]


@pytest.mark.parametrize(("call", "error", "match"), MISTAKES)
def test_mistakes_are_named(call, error, match):
    with pytest.raises(error, match=match):
        call()
