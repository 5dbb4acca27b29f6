"""Learning a parameter of a solver over a sequence of solves, from their numbers of iterations alone."""

import abc
import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from .. import _tree
from ._chebyshev_regression import Regression, features


class Choice(eqx.Module):
    """What a learner has chosen for one solve.

    **Fields:**

    - `arm`: the number of the parameter in the grid.
    - `value`: the parameter, such as ω of `jaxsci.linear.SOR`.
    - `probability`: with which it was drawn (dimensionless).
    - `context`: what was known of the solve.
    """

    arm: Int[Array, ""]
    value: Array
    probability: Float[Array, ""]
    context: Float[Array, ""]


class AbstractLearner(eqx.Module):
    """Chooses a parameter for each solve of a sequence, to make the sum of their costs small.

    The state is a pytree, carried by the caller (through `jax.lax.scan`):

        choice = learner.choose(state, key, context)
        x, _, iterations = SOR(choice.value, …).solve(…)
        state = learner.update(state, choice, iterations)

    The parameter may be anything that does not change the solution: ω, the damping of a smoother, the
    length of a GMRES cycle. A forward solve and its backward solve are two members of one sequence: update
    with each of them, or with their sum. Nothing of a learner is differentiated.
    """

    grid: eqx.AbstractVar[Float[Array, " d"]]

    @abc.abstractmethod
    def init(self) -> PyTree[Array]:
        """The state before the first solve."""

    @abc.abstractmethod
    def probabilities(self, state: PyTree[Array], context: float | Array = 0.0) -> Float[Array, " d"]:
        """With which each parameter of the grid would be drawn now."""

    @abc.abstractmethod
    def update(self, state: PyTree[Array], choice: Choice, cost: float | Array) -> PyTree[Array]:
        """The state after a solve that has cost `cost` ≥ 1: its iterations, or another count of work."""

    def choose(self, state: PyTree[Array], key: PRNGKeyArray, context: float | Array = 0.0) -> Choice:
        """Draw a parameter for a solve of which `context` is known (ignored by some learners)."""
        state, context = jax.lax.stop_gradient((state, jnp.asarray(context, self.grid.dtype)))
        p = self.probabilities(state, context)
        arm = jax.random.categorical(key, jnp.log(p))
        return jax.lax.stop_gradient(Choice(arm, self.grid[arm], p[arm], context))


class TsallisINF(AbstractLearner):
    """The best fixed parameter of a grid, by Tsallis-INF: follow the regularised leader with the weights

        p = 4 (η (k/s − x))⁻², Σ p = 1, η = 2/√t,

    where k sums the costs, each divided by the probability of its choice, and s is their mean less one.
    The regret against the best of d parameters after T solves is O(√(d T)), whatever the sequence is.

    **Arguments:**

    - `grid`: the parameters, (d,).

    **Limits:** it tries every parameter some √(t/d) times; with 20 of them it does not pay before some
    thousand solves.

    **Reference:** Zimmert and Seldin, JMLR 22, 2021; Khodak, Chow, Balcan and Talwalkar, ICLR 2024.
    """

    grid: Float[Array, " d"]

    def init(self):
        zero = jnp.zeros((), self.grid.dtype)
        return jnp.zeros_like(self.grid), zero, zero

    def probabilities(self, state, context=0.0):
        sums, total, count = state
        mean = total / jnp.maximum(count, 1) - 1
        scale = jnp.where(mean > 0, mean, 1)
        losses = sums / scale
        return _tsallis(losses - jnp.min(losses), 2 / jnp.sqrt(count + 1))

    def update(self, state, choice, cost):
        choice, cost = jax.lax.stop_gradient((choice, jnp.asarray(cost, self.grid.dtype)))
        sums, total, count = jax.lax.stop_gradient(state)
        sums = sums.at[choice.arm].add((cost - 1) / choice.probability)
        return sums, total + cost, count + 1


def _tsallis(losses: Array, eta: Array) -> Array:
    """p = 4 (η (ℓ − x))⁻² with the x < min ℓ for which they add up to one, by Newton's method.

    Σ p is convex and increasing in x. With min ℓ = 0 and x = −2/η the smallest loss alone has p = 1, so
    that x starts where Σ p ≥ 1, and goes down monotonically.
    """

    def step(_, x):
        p = 4 / (eta * (losses - x)) ** 2
        return x - (jnp.sum(p) - 1) / (eta * jnp.sum(p**1.5))

    x = _tree.fori_loop(20, step, -2 / eta)
    p = 4 / (eta * (losses - x)) ** 2
    return p / jnp.sum(p)


class ContextualTsallisINF(AbstractLearner):
    """A `TsallisINF` for each of `bins` equal parts of an interval of contexts.

    **Arguments:**

    - `grid`: the parameters, (d,).
    - `low`, `high`: ends of the interval of contexts (units of the context).
    - `bins`: number of parts.

    **Raises:** `ValueError` if `bins` is below 1, or `low` is not below `high`.

    **Limits:** each part learns on its own; for a cost that is smooth in the context see `ChebCB`.
    """

    grid: Float[Array, " d"]
    low: float
    high: float
    bins: int = eqx.field(static=True, default=5)

    def __check_init__(self):
        _check_interval(self.low, self.high, "ContextualTsallisINF")
        if self.bins < 1:
            raise ValueError(f"`bins` of ContextualTsallisINF is {self.bins!r}; expected an int ≥ 1.")

    def init(self):
        return jax.tree.map(
            lambda x: jnp.broadcast_to(x, (self.bins, *x.shape)), TsallisINF(self.grid).init()
        )

    def _bin(self, context):
        part = (context - self.low) / (self.high - self.low) * self.bins
        return jnp.clip(part.astype(int), 0, self.bins - 1)

    def probabilities(self, state, context=0.0):
        one = jax.tree.map(lambda x: x[self._bin(jnp.asarray(context, self.grid.dtype))], state)
        return TsallisINF(self.grid).probabilities(one)

    def update(self, state, choice, cost):
        i = self._bin(choice.context)
        new = TsallisINF(self.grid).update(jax.tree.map(lambda x: x[i], state), choice, cost)
        return jax.tree.map(lambda x, n: x.at[i].set(n), state, new)


class ChebCB(AbstractLearner):
    """The best parameter for each context: the cost of each parameter is regressed on Chebyshev polynomials
    of the context, and the parameters are drawn by their gap to the smallest prediction,

        pᵢ = 1/(d + η (ŷᵢ − min ŷ)) for all but the smallest, which has the rest.

    The coefficients are bounded as those of a Lipschitz function are. The fit is made of sums, so that the
    state does not grow.

    **Arguments:**

    - `grid`: the parameters, (d,).
    - `low`, `high`: ends of the interval of contexts (units of the context).
    - `degree`: of the largest polynomial.

    **Raises:** `ValueError` if `degree` is below 1, or `low` is not below `high`.

    **Limits:** a context outside of the interval counts as its nearer end.

    **Reference:** Khodak, Chow, Balcan and Talwalkar, Learning to Relax, ICLR 2024, with the inverse gap
    weighting of Foster and Rakhlin, ICML 2020.
    """

    grid: Float[Array, " d"]
    low: float
    high: float
    degree: int = eqx.field(static=True, default=5)

    def __check_init__(self):
        _check_interval(self.low, self.high, "ChebCB")
        if self.degree < 1:
            raise ValueError(f"`degree` of ChebCB is {self.degree!r}; expected an int ≥ 1.")

    def init(self):
        return Regression.empty(len(self.grid), self.degree + 1, self.grid.dtype)

    def _features(self, context):
        scaled = 2 * (context - self.low) / (self.high - self.low) - 1
        return features(jnp.clip(scaled, -1, 1), self.degree + 1)

    def probabilities(self, state, context=0.0):
        context = jnp.asarray(context, self.grid.dtype)
        d = len(self.grid)
        predicted = state.theta @ self._features(context)
        best = jnp.argmin(predicted)
        p = 1 / (d + self._rate(state) * (predicted - predicted[best]))
        return p.at[best].set(0).at[best].set(1 - jnp.sum(p.at[best].set(0)))

    def _rate(self, state: Regression):
        """η = 2t √(d t/(R + 2 α² t)), with R the excess of the predictions' squared errors over those of
        the fit, and α the error of the polynomials for a function as steep as was seen."""
        d, m, t = len(self.grid), self.degree, state.count
        slope = state.spread / jnp.maximum(state.scale, 1e-30)  # (b − a) L/scale
        alpha = (math.pi + 2 / math.pi * math.log(2 * m + 1)) / (2 * (m + 1)) * slope
        regret = jnp.maximum(state.excess(), 0) + 2 * alpha**2 * t
        return jnp.where(regret > 0, 2 * t * jnp.sqrt(d * t / jnp.where(regret > 0, regret, 1)), 0)

    def update(self, state, choice, cost):
        state, choice, cost = jax.lax.stop_gradient((state, choice, jnp.asarray(cost, self.grid.dtype)))
        return state.updated(choice.arm, self._features(choice.context), cost)


def _check_interval(low: float, high: float, who: str) -> None:
    if isinstance(low, float | int) and isinstance(high, float | int) and not low < high:
        raise ValueError(f"`low` and `high` of {who} are {low} and {high}; expected low < high.")
