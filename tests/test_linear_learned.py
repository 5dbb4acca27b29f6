"""Learners of a solver's parameter: against closed forms, and on costs whose best parameter is known."""

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
import scipy.optimize

from jaxsci.linear import (
    SOR,
    ChebCB,
    Choice,
    ContextualTsallisINF,
    Operator,
    TsallisINF,
    Wavefront,
    optimal_omega,
    sor_spectral_radius,
)

GRID = jnp.linspace(1.0, 1.9, 5)


def cost(context, omega):
    """1 at the least, at an ω that moves with the context."""
    return 1 + 400 * (omega - 1.2 - 0.5 * context) ** 2


def run(learner, contexts, key):
    """Mean cost and last state of a sequence."""

    def one(state, step):
        context, key = step
        choice = learner.choose(state, key, context)
        assert isinstance(choice, Choice)
        spent = cost(context, choice.value)
        return learner.update(state, choice, spent), spent

    steps = contexts, jax.random.split(key, len(contexts))
    return jax.lax.scan(one, learner.init(), steps)


def test_probabilities_of_tsallis():
    """The weights of the regularised leader: p minimises ⟨p, ℓ⟩ − (4/η) Σ √p on the simplex."""
    learner = TsallisINF(GRID)
    losses, count = jnp.array([3.0, 1.0, 4.0, 1.5, 9.0]), 10
    state = (losses * 7.0, jnp.array(8.0 * count), jnp.array(float(count)))
    p = np.asarray(learner.probabilities(state))
    eta = 2 / np.sqrt(count + 1)
    np.testing.assert_allclose(p.sum(), 1, rtol=1e-14)
    slope = losses - 2 / (eta * np.sqrt(p))
    np.testing.assert_allclose(slope, slope[0], rtol=1e-10)
    np.testing.assert_allclose(learner.probabilities(learner.init()), 0.2, rtol=1e-12)


def test_fit_of_chebcb():
    """The coefficients against SciPy's bounded least squares, on every parameter's own data."""
    learner = ChebCB(GRID, 0.0, 1.0, degree=6)
    contexts = jax.random.uniform(jax.random.key(2), (120,))
    arms = jnp.arange(120) % 5
    # The first is T₆, which is steeper than its bound, and then flatter ones.
    costs = 5 + 20 * (1 + jnp.cos((6 - arms) * jnp.arccos(2 * contexts - 1)))

    def one(state, step):
        context, arm, cost = step
        return learner.update(state, Choice(arm, GRID[arm], jnp.array(0.2), context), cost), None

    state, _ = jax.jit(lambda: jax.lax.scan(one, learner.init(), (contexts, arms, costs)))()
    k, spread = costs.max(), costs.max() - costs.min()
    scale = 2 * k + 4 * spread * (1 + np.log(6))
    np.testing.assert_allclose(state.scale, scale, rtol=1e-12)
    bound = np.append(k / scale, 2 * spread / scale / np.arange(1, 7))
    broken = 0
    for arm in range(5):
        mine = arms == arm
        rows = np.cos(np.arange(7) * np.arccos(2 * contexts[mine] - 1)[:, None])
        right = (costs[mine] - 1) / scale
        free = np.linalg.lstsq(rows, right, rcond=None)[0]
        broken += np.any(np.abs(free) > bound)
        expected = scipy.optimize.lsq_linear(rows, right, (-bound, bound), tol=1e-14).x
        loss = lambda theta, rows=rows, right=right: np.sum((rows @ theta - right) ** 2)
        assert np.all(np.abs(state.theta[arm]) <= bound * (1 + 1e-12)) or not np.any(np.abs(free) > bound)
        # Of a problem that is nearly degenerate: the least value, and not the coefficients.
        np.testing.assert_allclose(loss(state.theta[arm]), loss(expected), rtol=1e-5, atol=1e-14)
    assert broken >= 1  # the bounds have had a part in it


def test_they_learn():
    contexts = jax.random.uniform(jax.random.key(0), (900,))
    every = np.asarray(cost(contexts[-300:, None], GRID))
    fixed, ideal = every.mean(0), every.min(1).mean()
    last, probabilities = {}, {}
    for learner in (TsallisINF(GRID), ContextualTsallisINF(GRID, 0.0, 1.0, bins=4), ChebCB(GRID, 0.0, 1.0)):
        state, spent = jax.jit(lambda key, learner=learner: run(learner, contexts, key))(jax.random.key(1))
        name = type(learner).__name__
        last[name] = float(spent[-300:].mean())
        probabilities[name] = np.asarray([learner.probabilities(state, c) for c in (0.0, 1.0)])
    assert last["TsallisINF"] < 0.4 * fixed.mean()
    assert last["ContextualTsallisINF"] < last["TsallisINF"]
    assert ideal <= last["ChebCB"] < 0.7 * fixed.min()
    for p in probabilities.values():
        np.testing.assert_allclose(p.sum(1), 1, rtol=1e-12)
    # Where the context is 0 the best ω is 1.2, and where it is 1, 1.7.
    assert probabilities["ChebCB"].argmax(1).tolist() == [1, 3]


def test_a_sequence_of_solves():
    """ω is chosen for each solve and its transpose; the solutions do not depend on it."""
    n = 6
    learner = ChebCB(GRID, 0.0, 1.0)

    def operator(c):
        pad = lambda x: jnp.pad(x, 1)
        around = lambda p: p[:-2, 1:-1] + p[2:, 1:-1] + p[1:-1, :-2] + p[1:-1, 2:]
        mv = lambda x: (4 + c) * x - around(pad(x))
        return Operator(mv, jnp.zeros((n, n)), None, frozenset({lx.positive_semidefinite_tag}))

    def total(omega_of):
        def one(state, step):
            key, c = step
            choice = learner.choose(state, key, c)
            a = operator(c)
            solver = SOR(omega_of(choice), Wavefront(), rtol=1e-12)
            b = jnp.ones((n, n))
            x, ok, k = solver.solve(a, solver.prepare(a), b)
            y, _, back = solver.solve(a, solver.prepare(a), x, transpose=True)
            return learner.update(state, choice, k + back), (jnp.sum(x) + jnp.sum(y), ok)

        keys = jax.random.split(jax.random.key(0), 8)
        _, (values, ok) = jax.lax.scan(one, learner.init(), (keys, jnp.linspace(0.0, 1.0, 8)))
        return jnp.sum(values), ok

    plain, _ = jax.jit(lambda: total(lambda choice: 1.0))()
    learned, ok = jax.jit(lambda: total(lambda choice: choice.value))()
    assert ok.all()
    np.testing.assert_allclose(learned, plain, rtol=1e-10)
    # Through what a learner reads and returns there is no derivative.
    read = lambda t: learner.choose(learner.init(), jax.random.key(0), t).context
    assert jax.grad(read)(0.3) == 0


@pytest.mark.parametrize("omega", [1.0, 1.3, 1.7, 1.9])
def test_spectral_radius(omega):
    """Young's formula against the eigenvalues of the iteration matrix on 6×6 points."""
    n = 6
    line = 2 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1)
    a = np.kron(line, np.eye(n)) + np.kron(np.eye(n), line)
    step = np.diag(np.diag(a)) / omega + np.tril(a, -1)
    rho = np.abs(np.linalg.eigvals(np.eye(n * n) - np.linalg.solve(step, a))).max()
    beta = np.cos(np.pi / (n + 1))
    np.testing.assert_allclose(sor_spectral_radius(omega, beta), rho, rtol=1e-12)
    best = optimal_omega(beta)
    np.testing.assert_allclose(sor_spectral_radius(best, beta), best - 1, rtol=1e-7)


def test_mistakes_are_named():
    for wrong in (
        lambda: ChebCB(GRID, 1.0, 0.0),
        lambda: ChebCB(GRID, 0.0, 1.0, degree=0),
        lambda: ContextualTsallisINF(GRID, 1.0, 1.0),
        lambda: ContextualTsallisINF(GRID, 0.0, 1.0, bins=0),
    ):
        with pytest.raises(ValueError, match="expected"):
            wrong()
