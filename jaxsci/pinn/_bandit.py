"""Contextual bandits with a Gaussian process as the model of rewards (METALIC)."""

import abc
import itertools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, ArrayLike, Float, Int, PRNGKeyArray

_PRIOR = 1.0  # standard deviation of the logarithms of hyperparameters, about their starts


class AbstractAcquisition(eqx.Module):
    """How an arm is chosen by the posterior of all rewards: subclass it with `scores`."""

    @abc.abstractmethod
    def scores(self, posterior: Any, key: PRNGKeyArray) -> Float[Array, " arms"]:
        """The arm with the largest is played; `posterior` is a `tinygp.GaussianProcess` over the arms."""


class UCB(AbstractAcquisition):
    """Upper confidence bound: the arm with the largest μ + `scale` σ, posterior mean and deviation."""

    scale: float = 1.0

    def scores(self, posterior, key):
        return posterior.mean + self.scale * jnp.sqrt(jnp.maximum(posterior.variance, 0))


class Thompson(AbstractAcquisition):
    """Thompson sampling: the best arm of one joint sample of all rewards from the posterior."""

    def scores(self, posterior, key):
        return posterior.sample(key)


class Plays(eqx.Module):
    """What a bandit knows: contexts, flags of the arms played, rewards, how many; and the logarithms of the
    hyperparameters."""

    contexts: Float[Array, "capacity c"]
    flags: Float[Array, "capacity flags"]
    rewards: Float[Array, " capacity"]
    count: Int[Array, ""]
    logs: Float[Array, " h"]


class ContextualBandit(eqx.Module):
    """Chooses a set of flags for a context so that the reward is large, and learns from each reward. ::

        bandit = pinn.ContextualBandit(arms, contexts=1, capacity=120)
        plays = bandit.init()
        arm = bandit.choose(plays, key, context)
        plays = bandit.update(plays, context, arm, reward)
        bandit.best(plays, context)

    The reward of arm a in context s is a Gaussian process with the covariance

        v exp(−½ Σᵢ (sᵢ − sᵢ′)²/ℓᵢ²) Π_b exp(−c_b · share of the flags in block b that differ),

    contexts and rewards standardised by those seen; its 2 + contexts + blocks hyperparameters (v, ℓ, c, the
    noise) follow the marginal likelihood with a log-normal prior by some steps of Adam after each reward.
    All functions are pure: jit, scan and vmap them over seeds.

    **Arguments:**

    - `arms`: the sets to choose from, flags 0 or 1 (arms, flags).
    - `contexts`: the number of entries of a context (dimensionless or not: they are standardised).
    - `acquisition`: [`jaxsci.pinn.UCB`][] or [`jaxsci.pinn.Thompson`][].
    - `capacity`: at most so many plays; later ones overwrite the oldest.
    - `warmup`: arms of the first plays are random.
    - `blocks`: sizes of the parts of the flags, each with its own c; None: one part. (1, 1, …): as many as
      flags, to learn which of them matter.
    - `steps`: of Adam after each reward, at the rate 0.1.

    **Raises:** `ImportError` without tinygp (`pip install jaxsci[bandit]`); `ValueError` for wrong shapes or
    numbers.

    **Limits:** O(capacity³) for each step and arms³ for Thompson. Rewards are to be comparable over contexts.

    **Reference:** Li et al., Meta learning of interface conditions for multi-domain physics-informed neural
    networks, ICML 2023 (arXiv:2210.12669). There the categorical factor is not normalised to one at equal
    sets, and a sample is not joint; here it is.
    """

    arms: Float[Array, "arms flags"]
    contexts: int = eqx.field(static=True)
    acquisition: AbstractAcquisition
    capacity: int = eqx.field(static=True)
    warmup: int = eqx.field(static=True)
    blocks: tuple[int, ...] = eqx.field(static=True)
    steps: int = eqx.field(static=True)

    def __init__(
        self,
        arms: ArrayLike,
        *,
        contexts: int = 1,
        acquisition: AbstractAcquisition | None = None,
        capacity: int = 200,
        warmup: int = 5,
        blocks: tuple[int, ...] | None = None,
        steps: int = 10,
    ):
        _tinygp()
        self.arms = jnp.asarray(arms, jnp.result_type(float, arms))
        if self.arms.ndim != 2:
            raise ValueError(f"`arms` has shape {self.arms.shape}; expected (arms, flags), each flag 0 or 1.")
        for name, value, least in (
            ("contexts", contexts, 1),
            ("capacity", capacity, 1),
            ("warmup", warmup, 1),
            ("steps", steps, 0),
        ):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"`{name}` is {value!r}; expected an int ≥ {least}.")
        self.blocks = (self.arms.shape[1],) if blocks is None else tuple(blocks)
        if sum(self.blocks) != self.arms.shape[1]:
            raise ValueError(f"`blocks` is {self.blocks}; expected parts of the {self.arms.shape[1]} flags.")
        if not isinstance(acquisition, AbstractAcquisition | None):
            raise TypeError(f"`acquisition` is {acquisition!r}; expected pinn.UCB() or pinn.Thompson().")
        self.contexts, self.capacity, self.warmup, self.steps = contexts, capacity, warmup, steps
        self.acquisition = UCB() if acquisition is None else acquisition

    def _start(self) -> Array:
        # log of: v, noise variance, ℓ, c. However the flags are parted, the same process at first.
        rates = [2.0 * size / sum(self.blocks) for size in self.blocks]
        start = [1.0, 1e-2, *[1.0] * self.contexts, *rates]
        return jnp.log(jnp.array(start, self.arms.dtype))

    def init(self) -> Plays:
        """Nothing is known."""
        zeros = jnp.zeros((self.capacity, self.contexts + self.arms.shape[1] + 1), self.arms.dtype)
        c = self.contexts
        return Plays(zeros[:, :c], zeros[:, c:-1], zeros[:, -1], jnp.array(0), self._start())

    def choose(self, plays: Plays, key: PRNGKeyArray, context: ArrayLike) -> Int[Array, ""]:
        """The index of the arm to play in a context (c,) or a number."""
        first, second = jax.random.split(key)
        scores = self.acquisition.scores(self.posterior(plays, context), first)
        return jnp.where(
            plays.count < self.warmup, jax.random.randint(second, (), 0, len(self.arms)), jnp.argmax(scores)
        )

    def best(self, plays: Plays, context: ArrayLike) -> Int[Array, ""]:
        """The index of the arm with the largest posterior mean."""
        return jnp.argmax(self.posterior(plays, context).mean)

    def update(self, plays: Plays, context: ArrayLike, arm: int | Int[Array, ""], reward: ArrayLike) -> Plays:
        """What is known after a play. A reward that is not finite is not recorded."""
        at, reward = plays.count % self.capacity, jnp.asarray(reward, plays.rewards.dtype)
        new = Plays(
            plays.contexts.at[at].set(self._context(context)),
            plays.flags.at[at].set(self.arms[arm]),
            plays.rewards.at[at].set(reward),
            plays.count + 1,
            plays.logs,
        )
        optimizer = optax.adam(0.1)
        gradient = jax.grad(lambda logs: self._negative_log_posterior(logs, new))

        def step(carry, _):
            logs, state = carry
            updates, state = optimizer.update(gradient(logs), state)
            return (optax.apply_updates(logs, updates), state), None

        (logs, _), _ = jax.lax.scan(step, (new.logs, optimizer.init(new.logs)), None, length=self.steps)
        new = eqx.tree_at(lambda p: p.logs, new, jnp.where(jnp.isfinite(logs), logs, new.logs))
        return jax.tree.map(lambda a, b: jnp.where(jnp.isfinite(reward), a, b), new, plays)

    def posterior(self, plays: Plays, context: ArrayLike) -> Any:
        """A `tinygp.GaussianProcess` over the standardised rewards of all arms in a context."""
        process, standard, y = self._prior(plays.logs, plays)
        n = len(self.arms)
        here = jnp.broadcast_to(standard(self._context(context)), (n, self.contexts))
        given = (here, self.arms, jnp.ones(n, y.dtype))
        return process.condition(y, given, diag=jnp.full(n, _jitter(y.dtype))).gp

    def _context(self, context: ArrayLike) -> Array:
        given = jnp.atleast_1d(jnp.asarray(context, self.arms.dtype))
        if given.shape != (self.contexts,):
            raise ValueError(f"`context` has shape {given.shape}; expected ({self.contexts},).")
        return given

    def _prior(self, logs, plays):
        seen = jnp.arange(self.capacity) < plays.count
        n = jnp.maximum(jnp.sum(seen), 1)

        def moments(x):
            mask = jnp.reshape(seen, (-1, *[1] * (x.ndim - 1)))
            mean = jnp.sum(jnp.where(mask, x, 0), 0) / n
            variance = jnp.sum(jnp.where(mask, (x - mean) ** 2, 0), 0) / n
            return mean, jnp.where(variance > 0, jnp.sqrt(jnp.where(variance > 0, variance, 1)), 1)

        (center, width), (mean, deviation) = moments(plays.contexts), moments(plays.rewards)
        standard = lambda s: (s - center) / width
        v, noise, *rest = jnp.exp(logs)
        kernel = _kernel(v, jnp.stack(rest[: self.contexts]), jnp.stack(rest[self.contexts :]), self.blocks)
        there = seen.astype(logs.dtype)
        diag = jnp.where(seen, noise + _jitter(logs.dtype), 1)
        given = (standard(plays.contexts), plays.flags, there)
        process = _tinygp().GaussianProcess(kernel, given, diag=diag, mean=jnp.zeros((), logs.dtype))
        return process, standard, jnp.where(seen, (plays.rewards - mean) / deviation, 0)

    def _negative_log_posterior(self, logs, plays):
        process, _, y = self._prior(logs, plays)
        return 0.5 * jnp.sum(((logs - self._start()) / _PRIOR) ** 2) - process.log_probability(y)


def _tinygp() -> Any:
    try:
        import tinygp
    except ImportError as error:
        raise ImportError("Bandits need tinygp: pip install 'jaxsci[bandit]'.") from error
    return tinygp


def _jitter(dtype):
    return 1e3 * jnp.finfo(dtype).eps


def _kernel(v, lengths, rates, blocks):
    """The covariance of two plays; a place without a play is independent of all others."""
    tinygp = _tinygp()
    edges = np.cumsum([0, *blocks])

    def covariance(one, other):
        (s, a, there), (s2, a2, there2) = one, other
        differ = jnp.stack([jnp.mean(jnp.abs(a - a2)[i:j]) for i, j in itertools.pairwise(edges)])
        return there * there2 * v * jnp.exp(-0.5 * jnp.sum(((s - s2) / lengths) ** 2) - rates @ differ)

    return tinygp.kernels.Custom(covariance)


class SequentialBandit(eqx.Module):
    """Chooses flags twice: a₁ before the first phase of training, a₂ when its reward r₁ is known.

    The first model is of the mean of r₁ and γ r₂ in (s, a₁); the second of r₂ in (s, r₁, a₁, a₂). ::

        first = bandit.first(plays, key, context)
        second = bandit.second(plays, key, context, first, r1)
        plays = bandit.update(plays, context, (first, second), (r1, r2))

    **Arguments:** of [`jaxsci.pinn.ContextualBandit`][]; `discount`: γ in (0, 1].

    **Raises:** as there.

    **Reference:** as there.
    """

    models: tuple[ContextualBandit, ContextualBandit]
    discount: float

    def __init__(self, arms: ArrayLike, *, contexts: int = 1, discount: float = 0.9, **options: Any):
        if not 0 < discount <= 1:
            raise ValueError(f"`discount` is {discount!r}; expected a number in (0, 1].")
        one = ContextualBandit(arms, contexts=contexts, **options)
        twice = jnp.concatenate([jnp.zeros_like(one.arms), one.arms], axis=1)
        blocks = (*one.blocks, *one.blocks)
        self.models = (one, ContextualBandit(twice, contexts=contexts + 1, **options | {"blocks": blocks}))
        self.discount = discount

    def init(self) -> tuple[Plays, Plays]:
        """Nothing is known."""
        return self.models[0].init(), self.models[1].init()

    def _now(self, context, first, reward):
        """The second bandit's arms after `first`, and its context."""
        one, two = self.models
        arms = jnp.concatenate([jnp.broadcast_to(one.arms[first], one.arms.shape), one.arms], axis=1)
        context = jnp.append(jnp.atleast_1d(jnp.asarray(context, arms.dtype)), reward)
        return eqx.tree_at(lambda m: m.arms, two, arms), context

    def first(self, plays, key: PRNGKeyArray, context: ArrayLike) -> Int[Array, ""]:
        """The arm of the first phase."""
        return self.models[0].choose(plays[0], key, context)

    def second(self, plays, key: PRNGKeyArray, context: ArrayLike, first, reward) -> Int[Array, ""]:
        """The arm of the second phase, after the first one's reward."""
        bandit, context = self._now(context, first, reward)
        return bandit.choose(plays[1], key, context)

    def best_first(self, plays, context: ArrayLike) -> Int[Array, ""]:
        """The first arm with the largest posterior mean."""
        return self.models[0].best(plays[0], context)

    def best_second(self, plays, context: ArrayLike, first, reward) -> Int[Array, ""]:
        """The second arm with the largest posterior mean."""
        bandit, context = self._now(context, first, reward)
        return bandit.best(plays[1], context)

    def update(self, plays, context: ArrayLike, arms, rewards) -> tuple[Plays, Plays]:
        """What is known after both phases."""
        r1, r2 = rewards
        one = self.models[0].update(plays[0], context, arms[0], (r1 + self.discount * r2) / 2)
        bandit, later = self._now(context, arms[0], r1)
        return one, bandit.update(plays[1], later, arms[1], r2)
