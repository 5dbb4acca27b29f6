"""One weight for each point."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import optax

from ._weights import AbstractWeights, Terms, check_count, check_decay, check_names, check_positive


def _chosen(names: Sequence[str] | None, residuals) -> list[str]:
    if names is None:
        return list(residuals)
    check_names("names", names, residuals)
    return list(names)


def _names(names: Any) -> tuple[str, ...] | None:
    if isinstance(names, str):
        raise TypeError(f"`names` is {names!r}; expected a tuple of names, such as ({names!r},).")
    return None if names is None else tuple(names)


def _squares(state, residuals) -> dict:
    return {
        name: state[name] ** 2 if name in state else jnp.ones((), r.dtype) for name, r in residuals.items()
    }


class ResidualAttention(AbstractWeights):
    """One weight a point, from the moving sum of its share of the largest residual of the term:

        λ ← γ λ + η |r|/max|r|,   w = λ²

    from λ = 0: bounded by η/(1 − γ), without gradients and at no cost.

    **Arguments:**

    - `decay`: γ (dimensionless, in [0, 1)).
    - `rate`: η (dimensionless).
    - `names`: the terms with such weights, the others have w = 1; None: all.

    **Limits:** points must stay where they are. Weights are small in the first 1/(1 − γ) steps, which Adam
    does not mind.

    **Reference:** Anagnostopoulos, Toscano, Stergiopulos & Karniadakis, Residual-based attention in
    physics-informed neural networks, Comput. Methods Appl. Mech. Eng. 421, 2024.
    """

    decay: float
    rate: float
    names: tuple[str, ...] | None

    def __init__(self, decay: float = 0.999, rate: float = 0.01, names: Sequence[str] | None = None):
        check_decay("decay", decay)
        check_positive("rate", rate)
        self.decay = decay
        self.rate = rate
        self.names = _names(names)

    def init(self, residuals):
        return {name: jnp.zeros_like(residuals[name]) for name in _chosen(self.names, residuals)}

    def _next(self, state, residuals, terms, step, key):
        new = {}
        for name, old in state.items():
            size = jnp.abs(residuals[name])
            largest = jnp.max(size)
            share = size / jnp.where(largest > 0, largest, 1)
            new[name] = self.decay * old + self.rate * share
        return _squares(new, residuals), new


class SelfAdaptive(AbstractWeights):
    """One weight a point, w = λ², by gradient ascent of the loss ½ mean(λ² r²) in λ, whose gradient is
    λ r²/n: the weights grow where residuals stay, a saddle point between network and weights.

    **Arguments:**

    - `optimizer`: an Optax transformation for the ascent; None: `optax.adam(5e-3)`.
    - `initial`: the first λ (dimensionless).
    - `names`: the terms with such weights, the others have w = 1; None: all.

    **Limits:** points must stay where they are. Weights only grow.

    **Reference:** McClenny & Braga-Neto, Self-adaptive physics-informed neural networks, J. Comput. Phys.
    474, 2023.
    """

    optimizer: optax.GradientTransformation
    initial: float
    names: tuple[str, ...] | None

    def __init__(
        self,
        optimizer: optax.GradientTransformation | None = None,
        initial: float = 1.0,
        names: Sequence[str] | None = None,
    ):
        if not (optimizer is None or isinstance(optimizer, optax.GradientTransformation)):
            raise TypeError(
                f"`optimizer` is {type(optimizer).__name__}; expected an Optax transformation, such as "
                "`optax.adam(5e-3)`."
            )
        check_positive("initial", initial)
        self.optimizer = optax.adam(5e-3) if optimizer is None else optimizer
        self.initial = initial
        self.names = _names(names)

    def init(self, residuals):
        start = {
            name: jnp.full_like(residuals[name], self.initial) for name in _chosen(self.names, residuals)
        }
        return start, self.optimizer.init(start)

    def _next(self, state, residuals, terms, step, key):
        weights, inner = state
        descent = {name: -w * residuals[name] ** 2 / w.size for name, w in weights.items()}
        updates, inner = self.optimizer.update(descent, inner, weights)
        weights = optax.apply_updates(weights, updates)
        return _squares(weights, residuals), (weights, inner)


class Causal(AbstractWeights):
    """One weight for each chunk of time, so that a chunk counts once those before it are solved:

        w_k = exp(−ε Σ_{j<k} L_j),   L_j = the mean of r² over the points of chunk j

    With several terms in time (a system, boundaries), L_j is the sum of theirs. Terms without times have
    w = 1.

    **Arguments:**

    - `eps`: ε (unit of r⁻²), a number or a rising sequence of them: once the smallest weight exceeds `until`
        at one ε, the next is used.
    - `chunks`: how many, of equal length in time.
    - `span`: first and last time; None: those of the points of the term.
    - `until`: see `eps` (dimensionless).

    **Limits:** needs `terms` with `times` in `update`, at the points of that step, which may move. A chunk
    without points has L = 0.

    **Reference:** Wang, Sankaran & Perdikaris, Respecting causality for training physics-informed neural
    networks, Comput. Methods Appl. Mech. Eng. 421, 2024.
    """

    eps: tuple[float, ...]
    chunks: int
    span: tuple[float, float] | None
    until: float

    def __init__(
        self,
        eps: float | Sequence[float] = 1.0,
        chunks: int = 32,
        *,
        span: tuple[float, float] | None = None,
        until: float = 0.99,
    ):
        values = tuple(eps) if isinstance(eps, Sequence) else (eps,)
        if len(values) == 0:
            raise ValueError(
                "`eps` is empty; expected a positive number or several, such as (1e-2, 1e-1, 1.0)."
            )
        for value in values:
            check_positive("eps", value)
        check_count("chunks", chunks)
        if span is not None and not span[0] < span[1]:
            raise ValueError(
                f"`span` is {span!r}; expected (first, last) with first < last, such as (0.0, 1.0)."
            )
        check_decay("until", until)
        self.eps = values
        self.chunks = chunks
        self.span = span
        self.until = until

    def init(self, residuals):
        return jnp.array(0)

    def _next(self, state, residuals, terms, step, key):
        if not isinstance(terms, Terms) or len(terms.times) == 0:
            raise TypeError("`terms` has no `times`; expected `Terms(function, params, times)` for `Causal`.")
        check_names("times", terms.times, residuals)
        places, losses = {}, jnp.zeros(self.chunks)
        for name, times in terms.times.items():
            r = residuals[name]
            if times.shape != r.shape:
                raise ValueError(
                    f"`times` of {name!r} has shape {times.shape}; expected that of its residuals, {r.shape}."
                )
            low, high = (jnp.min(times), jnp.max(times)) if self.span is None else self.span
            share = (times - low) / jnp.where(high > low, high - low, 1)
            places[name] = jnp.clip((share * self.chunks).astype(int), 0, self.chunks - 1)
            total = jnp.zeros(self.chunks, r.dtype).at[places[name]].add(r**2)
            count = jnp.zeros(self.chunks, r.dtype).at[places[name]].add(1)
            losses = losses.astype(r.dtype) + total / jnp.maximum(count, 1)
        eps = jnp.asarray(self.eps, losses.dtype)[state]
        weights = jnp.exp(-eps * jnp.concatenate([jnp.zeros_like(losses[:1]), jnp.cumsum(losses)[:-1]]))
        state = jnp.where(weights[-1] > self.until, jnp.minimum(state + 1, len(self.eps) - 1), state)
        one = lambda r: jnp.ones((), r.dtype)
        return {k: weights[places[k]] if k in places else one(r) for k, r in residuals.items()}, state
