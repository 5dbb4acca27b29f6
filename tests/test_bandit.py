"""Contextual bandits: their Gaussian process against a dense one by hand, their choices, and their regret."""

import itertools
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsci import pinn

pytest.importorskip("tinygp", reason="bandits need tinygp: pip install 'jaxsci[bandit]'")

KEY = jax.random.key(0)
ARMS = np.array([*itertools.product((0.0, 1.0), repeat=4)])
# Context, arm, reward.
SEEN = [(0.3, 5, 1.0), (-0.7, 12, -0.4), (0.9, 5, 2.0), (0.1, 0, 0.5), (1.5, 9, -1.2)]


def bandit(**options):
    return pinn.ContextualBandit(ARMS, **{"capacity": 8, "steps": 0} | options)


@eqx.filter_jit
def told(model, plays, context, arm, reward):
    return model.update(plays, context, arm, reward)


def taught(model, seen=SEEN):
    plays = model.init()
    for play in seen:
        plays = told(model, plays, *map(jnp.asarray, play))
    return plays


def covariance(s, a, s2, a2, hyper, blocks):
    """By loops: v exp(−½ |s − s′|²/ℓ²) Π exp(−c share)."""
    v, lengths, rates = hyper
    found = np.zeros((len(s), len(s2)))
    for i, j in np.ndindex(found.shape):
        exponent = -0.5 * np.sum(((s[i] - s2[j]) / lengths) ** 2)
        first = 0
        for c, size in zip(rates, blocks, strict=True):
            block = slice(first, first + size)
            exponent -= c * np.mean(a[i, block] != a2[j, block])
            first += size
        found[i, j] = v * np.exp(exponent)
    return found


def by_hand(seen, hyper, noise, context, blocks=(4,), arms=ARMS):
    """Posterior mean and covariance of the standardised rewards, and the log marginal likelihood."""
    s = np.array([np.atleast_1d(c) for c, _, _ in seen])
    a, y = arms[[arm for _, arm, _ in seen]], np.array([r for *_, r in seen])
    here = np.broadcast_to((np.atleast_1d(context) - s.mean(0)) / s.std(0), (len(arms), s.shape[1]))
    s, y = (s - s.mean(0)) / s.std(0), (y - y.mean()) / y.std()
    k = covariance(s, a, s, a, hyper, blocks) + noise * np.eye(len(y))
    cross = covariance(here, arms, s, a, hyper, blocks)
    mean = cross @ np.linalg.solve(k, y)
    cov = covariance(here, arms, here, arms, hyper, blocks) - cross @ np.linalg.solve(k, cross.T)
    likelihood = -0.5 * (y @ np.linalg.solve(k, y) + np.linalg.slogdet(k)[1] + len(y) * np.log(2 * np.pi))
    return mean, cov, likelihood


START = (1.0, np.ones(1), np.array([2.0]))


@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float32])
def test_posterior_is_that_of_a_dense_process(dtype):
    model = bandit()
    if dtype == jnp.float32:
        model = pinn.ContextualBandit(ARMS.astype(np.float32), capacity=8, steps=0)
    mean, cov, _ = by_hand(SEEN, START, 1e-2, 0.4)
    at = jax.jit(lambda plays: (lambda p: (p.mean, p.covariance))(model.posterior(plays, 0.4)))
    found = at(taught(model))
    assert found[0].dtype == found[1].dtype == dtype
    tolerance = 1e-9 if dtype == jnp.float64 else 2e-3
    np.testing.assert_allclose(found[0], mean, atol=tolerance)
    np.testing.assert_allclose(found[1], cov, atol=tolerance)
    # Before any play: the prior, in every context.
    prior = covariance(np.zeros((16, 1)), ARMS, np.zeros((16, 1)), ARMS, START, (4,))
    found = at(model.init())
    np.testing.assert_array_equal(found[0], 0)
    np.testing.assert_allclose(found[1], prior, atol=tolerance)


def test_old_plays_make_room_and_broken_ones_are_left_out():
    model = bandit(capacity=3)
    short = jax.jit(lambda plays: model.posterior(plays, 0.4).mean)
    mean, *_ = by_hand(SEEN[2:], START, 1e-2, 0.4)
    np.testing.assert_allclose(short(taught(model)), mean, atol=1e-9)
    broken = taught(model, [*SEEN, (0.0, 3, float("nan")), (0.2, 1, float("inf"))])
    assert broken.count == 5
    np.testing.assert_allclose(short(broken), mean, atol=1e-9)


def test_hyperparameters_climb_the_marginal_likelihood():
    """The first step of Adam is 0.1 times the sign of the gradient; more of them raise the posterior."""

    def objective(logs):
        v, noise, length, rate = np.exp(logs)
        prior = 0.5 * np.sum((logs - np.log([1.0, 1e-2, 1.0, 2.0])) ** 2)
        return by_hand(SEEN, (v, np.array([length]), np.array([rate])), noise, 0.0)[2] - prior

    before = np.log([1.0, 1e-2, 1.0, 2.0])
    slope = [(objective(before + h) - objective(before - h)) / 2e-6 for h in 1e-6 * np.eye(4)]
    plays = taught(bandit(), SEEN[:-1])
    after = told(bandit(steps=1), plays, *map(jnp.asarray, SEEN[-1])).logs
    np.testing.assert_allclose(after, before + 0.1 * np.sign(slope), atol=1e-4)
    later = np.asarray(told(bandit(steps=30), plays, *map(jnp.asarray, SEEN[-1])).logs)
    assert objective(later) > objective(np.asarray(after)) > objective(before)


def test_acquisitions():
    model = bandit()
    plays = taught(model)
    mean, cov, _ = by_hand(SEEN, START, 1e-2, 0.4)
    posterior = model.posterior(plays, 0.4)
    scores = pinn.UCB(2.5).scores(posterior, KEY)
    np.testing.assert_allclose(scores, mean + 2.5 * np.sqrt(np.diag(cov)), atol=1e-6)
    samples = jax.jit(jax.vmap(lambda key: pinn.Thompson().scores(posterior, key)))(
        jax.random.split(KEY, 20000)
    )
    np.testing.assert_allclose(samples.mean(0), mean, atol=0.03)
    np.testing.assert_allclose(np.cov(samples.T), cov, atol=0.04)  # jointly: one sample of all arms
    assert model.best(plays, 0.4) == np.argmax(mean)
    choose = jax.jit(jax.vmap(model.choose, (None, 0, None)))
    keys = jax.random.split(KEY, 2000)
    assert np.all(choose(plays, keys, 0.4) == np.argmax(mean + np.sqrt(np.diag(cov))))
    # Random at first: each of 16 arms as often as the others.
    counts = np.bincount(choose(model.init(), keys, 0.4), minlength=16)
    assert np.all(np.abs(counts - 125) < 5 * np.sqrt(125))


@pytest.mark.parametrize("acquisition", [pinn.UCB(), pinn.Thompson()], ids=lambda a: type(a).__name__)
def test_regret_of_rewards_that_depend_on_the_context(acquisition):
    rounds = 60
    model = bandit(acquisition=acquisition, capacity=rounds, steps=5)

    def rewards(matrix, s):
        return jnp.einsum("ai,ij,aj->a", ARMS, matrix[0] + s * matrix[1], ARMS)

    @jax.jit
    @jax.vmap
    def regret(key):
        problem, draw = jax.random.split(key)
        matrix = jax.random.normal(problem, (2, 4, 4))

        def play(plays, key):
            where, choice = jax.random.split(key)
            s = jax.random.uniform(where, minval=-1.0)
            r = rewards(matrix, s)
            arm = model.choose(plays, choice, s)
            return model.update(plays, s, arm, r[arm]), (jnp.max(r) - r[arm], jnp.max(r) - jnp.mean(r))

        return jax.lax.scan(play, model.init(), jax.random.split(draw, rounds))[1]

    lost, random = regret(jax.random.split(KEY, 4))
    assert lost.sum() < 0.35 * random.sum()
    assert lost[:, rounds // 2 :].sum() < 0.2 * random[:, rounds // 2 :].sum()


def test_two_phases():
    """The first model learns the discounted mean, the second r₂ from the context, r₁ and both sets."""
    model = pinn.SequentialBandit(ARMS, discount=0.8, capacity=8, steps=0, warmup=1)
    seen = [(0.3, (5, 1), (1.0, 2.0)), (-0.7, (12, 3), (0.2, 0.1)), (0.9, (4, 4), (-1.0, 0.7))]
    plays = model.init()
    for play in seen:
        plays = told(model, plays, *jax.tree.map(jnp.asarray, play))
    first = [(s, a[0], (r[0] + 0.8 * r[1]) / 2) for s, a, r in seen]
    mean, *_ = by_hand(first, START, 1e-2, 0.4)
    assert model.best_first(plays, 0.4) == np.argmax(mean)
    np.testing.assert_allclose(model.models[0].posterior(plays[0], 0.4).mean, mean, atol=1e-9)
    # By hand with 256 pairs of sets for arms.
    pairs = np.array([np.concatenate(p) for p in itertools.product(ARMS, ARMS)])
    second = [((s, r[0]), 16 * a[0] + a[1], r[1]) for s, a, r in seen]
    hyper = (1.0, np.ones(2), np.array([1.0, 1.0]))
    mean, cov, _ = by_hand(second, hyper, 1e-2, (0.4, 0.6), (4, 4), pairs)
    mine = slice(16 * 5, 16 * 6)  # after the set 5
    assert model.best_second(plays, 0.4, 5, 0.6) == np.argmax(mean[mine])
    score = (mean + np.sqrt(np.maximum(np.diag(cov), 0)))[mine]
    assert model.second(plays, KEY, 0.4, 5, 0.6) == np.argmax(score)
    assert 0 <= model.first(model.init(), KEY, 0.4) < 16


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (lambda: pinn.ContextualBandit(jnp.ones(3)), ValueError, r"`arms` has shape \(3,\); expected"),
        (lambda: bandit(contexts=0), ValueError, "`contexts` is 0; expected an int ≥ 1"),
        (lambda: bandit(capacity=2.5), ValueError, "`capacity` is 2.5"),
        (lambda: bandit(warmup=True), ValueError, "`warmup` is True"),
        (lambda: bandit(steps=-1), ValueError, "`steps` is -1; expected an int ≥ 0"),
        (lambda: bandit(blocks=(3,)), ValueError, r"`blocks` is \(3,\); expected parts of the 4 flags"),
        (lambda: bandit(acquisition="ucb"), TypeError, r"`acquisition` is 'ucb'; expected pinn.UCB\(\)"),
        (
            lambda: bandit().choose(bandit().init(), KEY, jnp.ones(2)),
            ValueError,
            r"`context` has shape \(2,\)",
        ),
        (lambda: pinn.SequentialBandit(ARMS, discount=1.5), ValueError, "`discount` is 1.5; expected"),
    ],
)
def test_mistakes_are_named(make, kind, message):
    with pytest.raises(kind, match=message):
        make()


def test_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "tinygp", None)
    with pytest.raises(ImportError, match=r"pip install 'jaxsci\[bandit\]'"):
        bandit()


def test_a_state_is_a_pytree():
    plays = taught(bandit(), SEEN[:1])
    assert all(eqx.is_array(x) for x in jax.tree.leaves(plays))
    assert jax.tree.structure(plays) == jax.tree.structure(bandit().init())
