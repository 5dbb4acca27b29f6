"""SOAP against a NumPy transcript of its algorithm, and against Adam."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsci.train import soap

# The second gradient is the first, and noise beyond its rank, which a smaller ε would amplify.
ETA, B1, B2, EPS, EVERY = 0.02, 0.9, 0.95, 1e-3, 3


def transcript(w, gradient, steps):
    """Algorithm 3 of Vyas et al. for one matrix: the first gradient only starts L and R."""
    g = gradient(w)
    left, right = (1 - B2) * g @ g.T, (1 - B2) * g.T @ g
    ql, qr = (np.linalg.eigh(c)[1][:, ::-1] for c in (left, right))
    m, v = np.zeros_like(w), np.zeros_like(w)
    for t in range(1, steps):
        g = gradient(w)
        m = B1 * m + (1 - B1) * g
        v = B2 * v + (1 - B2) * (ql.T @ g @ qr) ** 2
        normal = (ql.T @ m @ qr) / (1 - B1**t) / (np.sqrt(v / (1 - B2**t)) + EPS)
        w = w - ETA * ql @ normal @ qr.T
        left, right = B2 * left + (1 - B2) * g @ g.T, B2 * right + (1 - B2) * g.T @ g
        if t % EVERY == 0:
            rows = np.argsort(-np.diag(ql.T @ left @ ql))
            columns = np.argsort(-np.diag(qr.T @ right @ qr))
            v = v[rows][:, columns]
            ql, qr = np.linalg.qr(left @ ql[:, rows])[0], np.linalg.qr(right @ qr[:, columns])[0]
    return w


def regression(rng):
    """½‖A w B − C‖² with condition numbers of about 10 on both sides, and its gradient."""
    a = rng.normal(size=(6, 4)) * np.logspace(0, -1, 4)
    b = rng.normal(size=(3, 5)) * np.logspace(0, -1, 3)[:, None]
    c = rng.normal(size=(6, 5))
    loss = lambda w: 0.5 * jnp.sum((a @ w @ b - c) ** 2)
    return loss, lambda w: a.T @ (a @ w @ b - c) @ b.T


def train(loss, optimizer, w, steps):
    @jax.jit
    def run(w):
        def step(carry, _):
            w, state = carry
            updates, state = optimizer.update(jax.grad(loss)(w), state, w)
            return (optax.apply_updates(w, updates), state), loss(w)

        return jax.lax.scan(step, (w, optimizer.init(w)), None, steps)

    (w, _), losses = run(w)
    return w, losses


def test_is_the_algorithm():
    rng = np.random.default_rng(0)
    loss, gradient = regression(rng)
    w0 = rng.normal(size=(4, 3))
    optimizer = soap(ETA, B1, B2, EPS, precondition_frequency=EVERY)
    found, _ = train(loss, optimizer, jnp.asarray(w0), 40)
    np.testing.assert_allclose(found, transcript(w0, gradient, 40), rtol=1e-7)


def test_without_bases_it_is_adam():
    """Vectors, scalars, and axes that are too long."""
    target = {"m": jnp.arange(12.0).reshape(4, 3), "v": jnp.arange(3.0), "s": jnp.array(2.0)}
    loss = lambda p: sum(jnp.sum(jnp.cosh(p[k] - target[k])) for k in p)
    p0 = jax.tree.map(jnp.zeros_like, target)
    ours, _ = train(loss, soap(1e-2, B1, B2, EPS, max_precond_dim=2), p0, 30)
    adams, _ = train(loss, optax.adam(1e-2, B1, B2, EPS), p0, 30)
    for k in target:
        np.testing.assert_allclose(ours[k], adams[k], rtol=1e-12, atol=1e-13)


def test_decay_is_decoupled_and_dtypes_stay():
    p0 = {
        "w": jnp.ones((2, 3), jnp.float32),
        "b": jnp.ones(2, jnp.float32),
        "t": jnp.ones((2, 3, 2), jnp.float32),
    }
    none = jax.tree.map(jnp.zeros_like, p0)
    optimizer = soap(lambda step: 0.1 / (1 + step), weight_decay=0.5)
    update = jax.jit(optimizer.update)
    updates, state = update(none, optimizer.init(p0), p0)
    updates, _ = update(none, state, p0)
    for leaf in jax.tree.leaves(updates):
        assert leaf.dtype == jnp.float32
        np.testing.assert_allclose(leaf, -0.05 * 0.5, rtol=1e-6)


def test_beats_adam_where_a_basis_helps():
    """A matrix factor that is ill conditioned and turned: Adam's coordinates are the wrong ones."""
    rng = np.random.default_rng(1)
    turn = np.linalg.qr(rng.normal(size=(8, 8)))[0]
    a = jnp.asarray((turn * np.logspace(0, -2, 8)) @ turn.T)
    loss = lambda w: 0.5 * jnp.sum((a @ (w - 1)) ** 2)
    w0 = jnp.asarray(rng.normal(size=(8, 8)))
    schedule = optax.cosine_decay_schedule(0.1, 300)
    _, ours = train(loss, soap(schedule), w0, 300)
    _, adams = train(loss, optax.adam(schedule, 0.95, 0.95), w0, 300)
    assert float(ours[-1]) < 0.1 * float(adams[-1])


MISTAKES = [
    ({"b1": 1.0}, "`b1`"),
    ({"b2": -0.1}, "`b2`"),
    ({"eps": 0.0}, "`eps`"),
    ({"weight_decay": -1.0}, "`weight_decay`"),
    ({"precondition_frequency": 0}, "`precondition_frequency`"),
    ({"max_precond_dim": 1.5}, "`max_precond_dim`"),
]


@pytest.mark.parametrize(("kwargs", "match"), MISTAKES)
def test_mistakes_are_named(kwargs, match):
    with pytest.raises(ValueError, match=match):
        soap(1e-3, **kwargs)
