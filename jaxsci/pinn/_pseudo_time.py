"""Pseudo-time stepping: small moves from where the network was."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from .. import _tree
from ._model import Inputs
from ._terms import Objective


class _State(eqx.Module):
    previous: Any  # the unknowns of u_prev
    weight: Float[Array, " fields"]
    count: Int[Array, ""]


class PseudoTime(eqx.Module):
    """The rows r + w (u − u_prev) in place of r: an implicit step of ∂u/∂τ = −r from u_prev, w = 1/Δτ.

    u_prev is the network as it was, renewed every `every` steps; then, too, for each field,

        w = ‖r − r_prev‖/‖u − u_prev‖,   within [smallest, largest],

    by the points of that step. Keeps training from states where r is small at the points, and u is wrong.

    **Arguments:**

    - `every`: steps between renewals.
    - `smallest`, `largest`: bounds of w [unit of r by that of u].

    **Limits:** as many equations as fields, equation i for field i, with the sign of u_t + … or −Δu − f:
    ∂u/∂τ = −r has to be dissipative. For optax methods.

    **Reference:** When PINNs go wrong: pseudo-time stepping, arXiv:2604.23528 (2026).
    """

    every: int = eqx.field(static=True, default=50)
    smallest: float = 1e-2
    largest: float = 1e2

    def __check_init__(self):
        if isinstance(self.every, bool) or not isinstance(self.every, int) or self.every < 1:
            raise ValueError(f"`every` of PseudoTime is {self.every!r}; expected an int ≥ 1.")
        if not 0 < self.smallest <= self.largest:
            raise ValueError(
                f"`smallest` is {self.smallest!r} and `largest` {self.largest!r}; expected two positive "
                "numbers in this order."
            )

    def init(self, objective: Objective, unknown: Any) -> _State:
        """Before the first step: w = 1."""
        fields = len(objective.model(unknown).equation.fields)
        one = jnp.ones(fields, jnp.result_type(*jax.tree.leaves(unknown)))
        return _State(unknown, jnp.clip(one, self.smallest, self.largest), jnp.array(0))

    def difference(self, objective: Objective, unknown, inputs: dict[str, Inputs], state: _State) -> Any:
        """w (u − u_prev), by the name of the row of the equation."""
        moves = state.weight * self._moves(objective, unknown, inputs, state)
        return dict(zip(objective.owned("equation"), moves.T, strict=True))

    def next(self, objective: Objective, unknown, inputs: dict[str, Inputs], state: _State) -> _State:
        """The state after a step that led to `unknown`."""
        count = state.count + 1

        def renewed():
            now, then = (objective.residuals(u, inputs) for u in (unknown, state.previous))
            change = jnp.stack([jnp.linalg.norm(now[n] - then[n]) for n in objective.owned("equation")])
            size = jnp.linalg.norm(self._moves(objective, unknown, inputs, state), axis=0)
            # Nothing has moved: as it was.
            ratio = jnp.where(size > 0, change / jnp.where(size > 0, size, 1), state.weight)
            return _State(unknown, jnp.clip(ratio, self.smallest, self.largest), count)

        same = _State(state.previous, state.weight, count)
        return jax.lax.cond(count % self.every == 0, renewed, lambda: same)

    def _moves(self, objective, unknown, inputs, state) -> Float[Array, "n fields"]:
        points = inputs["equation"][0]
        now, then = (
            jax.vmap(objective.model(u))(points) for u in (unknown, _tree.stop_gradient(state.previous))
        )
        return now - then
