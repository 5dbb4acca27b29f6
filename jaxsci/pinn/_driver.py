"""One interface for Gauss–Newton, quasi-Newton and gradient methods: start, refresh, step."""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
import optimistix as optx
from jaxtyping import Array, Bool

from .._solution import RESULTS
from ..train._directions import Sum
from ._stage import Stage
from ._terms import Objective

NO_TAGS: frozenset = frozenset()


class AbstractDriver(eqx.Module):
    """How a stage makes a step. Everything but the driver itself is traced."""

    objective: eqx.AbstractVar[Objective]

    @property
    @abc.abstractmethod
    def weighs_each_step(self) -> bool:
        """Whether weights may change from step to step."""

    @abc.abstractmethod
    def batch(self, inputs, key) -> Any:
        """The points of one step."""

    @abc.abstractmethod
    def start(self, unknown, inputs, weights) -> Any:
        """The state before the first step."""

    @abc.abstractmethod
    def refresh(self, unknown, state, inputs, weights) -> Any:
        """The state after points or weights have changed."""

    @abc.abstractmethod
    def step(
        self, unknown, state, inputs, weights, key
    ) -> tuple[Any, Any, dict[str, Array], Bool[Array, ""]]:
        """Unknowns and state after a step, figures, and whether there is nothing left to do."""

    @abc.abstractmethod
    def ending(self, state) -> RESULTS | None:
        """How the method says that it ended, if it does."""


class Plain(AbstractDriver):
    """A least-squares solver or a minimiser of this package."""

    solver: Any
    objective: Objective

    @property
    def weighs_each_step(self):
        """A method that remembers is not to be given another problem in each step."""
        return False

    def batch(self, inputs, key):
        return inputs

    def _problem(self):
        rows = self.objective.rows
        if isinstance(self.solver, optx.AbstractLeastSquaresSolver):
            if self.objective.chunk is None:
                options = {"linearized": lambda y, args: self.objective.linearized(y, *args)}
            else:
                options = {"normal": lambda y, args: self.objective.normal(y, *args)}
            return (lambda y, args: (rows(y, *args), None)), options
        half = lambda r: 0.5 * r @ r
        return (lambda y, args: (half(rows(y, *args)), None)), {}

    def start(self, unknown, inputs, weights):
        fn, options = self._problem()
        return self.solver.init(fn, unknown, (inputs, weights), options, None, None, NO_TAGS)

    def refresh(self, unknown, state, inputs, weights):
        fn, options = self._problem()
        return self.solver.refresh(fn, unknown, (inputs, weights), options, state)

    def step(self, unknown, state, inputs, weights, key):
        fn, options = self._problem()
        unknown, state, _ = self.solver.step(fn, unknown, (inputs, weights), options, state, NO_TAGS)
        figures = self.solver.figures(state)
        if "loss" not in figures:
            r = self.objective.rows(unknown, inputs, weights)
            figures = {"loss": 0.5 * r @ r} | figures
        return unknown, state, figures, self.solver.status(state)[0]

    def ending(self, state):
        return self.solver.status(state)[1]


class Gradient(AbstractDriver):
    """An optax optimizer, on all points or on batches of them."""

    optimizer: optax.GradientTransformationExtraArgs = eqx.field(static=True)
    stage: Stage
    objective: Objective

    @property
    def weighs_each_step(self):
        """Each step is made of the gradient then."""
        return True

    def batch(self, inputs, key):
        """Points of the equation drawn with repetition; all of the other terms."""
        if self.stage.batch is None:
            return inputs
        chosen = jax.random.randint(key, (self.stage.batch,), 0, len(inputs["equation"][0]))
        return inputs | {"equation": tuple(x[chosen] for x in inputs["equation"])}

    def start(self, unknown, inputs, weights):
        pseudo = self.stage.pseudo_time
        return self.optimizer.init(unknown), pseudo and pseudo.init(self.objective, unknown)

    def refresh(self, unknown, state, inputs, weights):
        return state

    def step(self, unknown, state, inputs, weights, key):
        state, before = state
        pseudo = self.stage.pseudo_time

        def losses(unknown):
            found = self.objective.residuals(unknown, inputs)
            if pseudo:
                more = pseudo.difference(self.objective, unknown, inputs, before)
                found |= {name: found[name] + move for name, move in more.items()}
            return jnp.stack([0.5 * jnp.mean(weights[name] * r**2) for name, r in found.items()])

        if self.stage.direction is None or isinstance(self.stage.direction, Sum):
            loss, gradient = jax.value_and_grad(lambda u: jnp.sum(losses(u)))(unknown)
        else:
            each, pull = jax.vjp(losses, unknown)
            gradients = jax.vmap(lambda e: pull(e)[0])(jnp.eye(len(each), dtype=each.dtype))
            loss, gradient = jnp.sum(each), self.stage.direction(gradients, each, key)
        updates, new_state = self.optimizer.update(
            gradient,
            state,
            unknown,
            value=loss,
            grad=gradient,
            value_fn=lambda u: jnp.sum(losses(u)),
        )
        new = optax.apply_updates(unknown, updates)
        finite = jnp.isfinite(loss) & jnp.all(
            jnp.stack([jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves((gradient, new))])
        )
        keep = lambda a, b: jax.tree.map(lambda x, y: jnp.where(finite, x, y), a, b)
        unknown, state = keep(new, unknown), keep(new_state, state)
        after = pseudo and pseudo.next(self.objective, unknown, inputs, before)
        # NaN, and the end, where the loss is finite and its gradient is not, too.
        return unknown, (state, after), {"loss": jnp.where(finite, loss, jnp.nan)}, ~finite

    def ending(self, state):
        return None


def make_driver(stage: Stage, objective: Objective) -> AbstractDriver:
    """The driver for a stage's method."""
    if stage.optax:
        return Gradient(optax.with_extra_args_support(stage.method), stage, objective)
    return Plain(stage.method, objective)
