"""The weights of the terms, as training goes on."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from ..train._weights import AbstractWeights, Terms
from ._model import Inputs
from ._terms import Objective


class Weighing(eqx.Module):
    """A rule of `jaxsci.train` on the terms of an objective; None: all weights are one.

    What the rule remembers is handed back, and taken again.
    """

    rule: AbstractWeights | None
    objective: Objective
    time: int | None = eqx.field(static=True)  # the index of the time coordinate

    def start(self, unknown: Any, inputs: dict[str, Inputs]) -> Any:
        """What the rule remembers at first."""
        return () if self.rule is None else self.rule.init(self.objective.residuals(unknown, inputs))

    def __call__(self, unknown, inputs: dict[str, Inputs], memory, step: Array, key) -> tuple[dict, Any]:
        """The weights by name, and what the rule remembers then."""
        if self.rule is None:
            dtype = jnp.result_type(*jax.tree.leaves(unknown))
            return {name: jnp.ones((), dtype) for name in self.objective.names}, memory
        residuals = self.objective.residuals(unknown, inputs)
        times = {}
        if self.time is not None:
            for name, term in self.objective.owners:
                times[name] = inputs[term][0][:, self.time]
        terms = Terms(lambda u: self.objective.residuals(u, inputs), unknown, times)
        return self.rule.update(memory, residuals, terms, step, key)
