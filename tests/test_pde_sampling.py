"""Points of the unit cube against integrals and discrepancies; resampling against its distribution."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxsci.pde import (
    R3,
    RAD,
    Box,
    Halton,
    LatinHypercube,
    Lattice,
    Sobol,
    Uniform,
    candidates_in_box,
)

SAMPLERS = [Uniform(), LatinHypercube(), Sobol(), Halton(), Lattice()]
named = lambda things: [type(thing).__name__ for thing in things]


@pytest.mark.parametrize("sampler", SAMPLERS, ids=named(SAMPLERS))
def test_points_fill_the_cube(sampler, key):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for n, d in ((1, 1), (100, 3), (1000, 2)):
            points = sampler(n, d, key)
            assert points.shape == (n, d) and points.min() >= 0 and points.max() <= 1
            assert np.array_equal(points, sampler(n, d, key))
    # ∫ (x² + y³ + xy) = 1/3 + 1/4 + 1/4; six standard deviations of the mean of 1000 uniform points.
    x, y = points.T
    assert abs(np.mean(x**2 + y**3 + x * y) - 5 / 6) < 6 * 0.73 / np.sqrt(1000)
    if not isinstance(sampler, Lattice):
        assert not np.array_equal(points, sampler(1000, 2, jax.random.key(1)))
    assert sampler(5, 0, key).shape == (5, 0)


def test_order_of_accuracy(key):
    # The error of Σ over 2ᵏ points falls like n^(−1/2), n^(−3/2) for a smooth function (up to logarithms).
    exact = (np.e - 1) ** 2
    keys = jax.random.split(key, 8)

    def order(sampler):
        error = lambda n: np.sqrt(
            np.mean([(np.mean(np.exp(sampler(n, 2, k).sum(1))) - exact) ** 2 for k in keys])
        )
        return np.log2(error(64) / error(2048)) / 5

    assert 0.25 < order(Uniform()) < 0.8
    assert order(Sobol()) > 1.2 and order(Halton()) > 0.8


def test_discrepancy(key):
    star = lambda sampler: stats.qmc.discrepancy(sampler(256, 2, key), method="L2-star")
    assert star(Sobol()) < star(Uniform()) / 4 and star(Halton()) < star(Uniform()) / 4


def test_latin_hypercube_has_one_point_a_slice(key):
    slices = np.sort(np.floor(LatinHypercube()(50, 3, key) * 50), 0)
    assert np.array_equal(slices, np.repeat(np.arange(50.0)[:, None], 3, 1))


def test_lattices(key):
    assert np.allclose(Lattice()(4, 2, key), [[0.25, 0.25], [0.25, 0.75], [0.75, 0.25], [0.75, 0.75]])
    ends = Lattice(endpoints=True, shape=(2, 3))(6, 2, key)
    assert np.allclose(ends, [[0, 0], [0, 0.5], [0, 1], [1, 0], [1, 0.5], [1, 1]])
    assert len(np.unique(Lattice()(7, 2, key), axis=0)) == 7
    assert np.allclose(np.diff(Lattice()(17, 1, key), axis=0), 1 / 17)


@pytest.mark.parametrize(("power", "offset"), [(1.0, 1.0), (2.0, 0.0)])
def test_rad_draws_its_distribution(power, offset):
    # Few of many candidates: without replacement is nearly with it. Density of x: (xᵏ(k+1) + c)/(1 + c).
    rule = RAD(power, offset, candidates=50)
    score = lambda points: 3.0 * points[:, 0]

    @jax.jit
    def draw(key):
        a, b = jax.random.split(key)
        candidates = candidates_in_box([(0.0, 1.0), (2.0, 3.0)], rule.pool(40), a)
        return rule(jnp.zeros((40, 2)), score, candidates, b)

    points = np.asarray(jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(3), 100)))
    assert points.shape == (100, 40, 2) and points[..., 1].min() >= 2
    assert len(np.unique(points[0], axis=0)) == 40
    x = np.sort(points[..., 0].ravel())
    expected = (x ** (power + 1) + offset * x) / (1 + offset)
    assert np.max(np.abs(expected - (np.arange(len(x)) + 0.5) / len(x))) < 2.2 / np.sqrt(len(x))


def test_rad_with_no_residual_is_uniform(key):
    candidates = candidates_in_box([(0.0, 1.0)], 100, key)
    points = RAD(offset=0.0)(candidates[:50], lambda p: 0 * p[:, 0], candidates, jax.random.key(9))
    assert len(np.unique(points)) == 50 and abs(float(points.mean()) - 0.5) < 0.2


def test_r3_retains_and_gathers(key):
    points = jnp.linspace(0.0, 1.0, 11)[:, None]
    score = lambda p: -(p[:, 0] ** 2)
    candidates = candidates_in_box([(0.0, 1.0)], 11, key)
    new = jax.jit(lambda p: R3()(p, score, candidates, key))(points)
    high = points[:, 0] ** 2 > 0.35
    assert jnp.all(jnp.where(high, new[:, 0] == points[:, 0], new[:, 0] == candidates[:, 0]))

    peak = lambda p: jnp.exp(-200 * (p[:, 0] - 0.3) ** 2)

    def step(p, key):
        return R3()(p, peak, candidates_in_box([(0.0, 1.0)], R3().pool(200), key), key), None

    start = candidates_in_box([(0.0, 1.0)], 200, key)
    end, _ = jax.jit(lambda p: jax.lax.scan(step, p, jax.random.split(key, 30)))(start)
    near = lambda p: float(jnp.mean(jnp.abs(p[:, 0] - 0.3) < 0.1))
    assert near(start) < 0.35 and near(end) > 0.6


def test_precision_follows_the_candidates(key):
    points = jnp.ones((3, 2), jnp.float32)
    candidates = candidates_in_box(np.array([[0, 1], [0, 2]], np.float32), 30, key)
    for rule in (RAD(), R3()):
        assert rule(points, lambda p: p[:, 0], candidates, key).dtype == jnp.float32


K = jax.random.key(0)
WRONG = {
    "n": (lambda: Sobol()(0, 2, K), "`n` is 0; expected how many"),
    "d": (lambda: Sobol()(3, -1, K), "`d` is -1"),
    "lattice levels": (lambda: Lattice(shape=(0, 2)), "`shape` is (0, 2)"),
    "lattice shape": (lambda: Lattice(shape=(2, 3))(5, 2, K), "asked for were 5 of 2"),
    "lattice in a box": (
        lambda: Box({"x": (0, 1)}).interior(6, Lattice(shape=(2, 3)), K), "asked for were 6 of 1"
    ),
    "power": (lambda: RAD(power=-1.0), "`power` of RAD is -1.0"),
    "offset": (lambda: RAD(offset=-1), "`offset` of RAD is -1"),
    "pool": (lambda: RAD(candidates=0), "`candidates` of RAD is 0"),
    "few candidates": (lambda: R3()(jnp.ones((3, 2)), None, jnp.ones((2, 2)), K), "are 2 for 3 points"),
    "dimensions": (lambda: RAD()(jnp.ones((3, 2)), None, jnp.ones((9, 3)), K), "expected (n, d) and (m, d)"),
    "bounds": (lambda: candidates_in_box([0.0, 1.0], 3, K), "`bounds` has the shape (2,)"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments(name):
    call, message = WRONG[name]
    with pytest.raises(ValueError) as error:
        call()
    assert message in str(error.value)
