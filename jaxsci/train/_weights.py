"""Weights of a loss that is a sum of named terms."""

import abc
import difflib
from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree, Scalar

from .. import _tree

Residuals = Mapping[str, Float[Array, " n"]]
Weights = dict[str, Float[Array, "..."]]


def weighted_loss(weights: Mapping[str, Array], residuals: Residuals) -> Scalar:
    """½ Σ_terms mean(w r²): the loss that all weights of this package are for.

    **Arguments:**

    - `weights`: for each term a scalar, or a number for each of its points (n,). No gradient flows into them.
    - `residuals`: for each term its residuals r (n,), in the order of its points.

    **Raises:** `ValueError` if the names differ.
    """
    if set(weights) != set(residuals):
        raise ValueError(
            f"`weights` has {sorted(weights)} and `residuals` {sorted(residuals)}; expected the same."
        )
    w = _tree.stop_gradient(dict(weights))
    return 0.5 * jnp.sum(jnp.stack([jnp.mean(w[name] * r**2) for name, r in residuals.items()]))


class Terms(eqx.Module):
    """What else than residuals weights may ask of the terms: computed only if they do.

    **Arguments:**

    - `function`: from the parameters to the residuals of all terms, by name.
    - `params`: the parameters, a pytree of inexact arrays.
    - `times`: for terms that have them, the times of their points (n,), for `Causal`.
    """

    function: Callable[[Any], Residuals]
    params: PyTree[Array]
    times: Mapping[str, Float[Array, " n"]]

    def __init__(
        self,
        function: Callable[[Any], Residuals],
        params: PyTree[Array],
        times: Mapping[str, Float[Array, " n"]] | None = None,
    ):
        self.function = function
        self.params = params
        self.times = {} if times is None else dict(times)

    def gradient_norms(self, names: list[str]) -> dict[str, Scalar]:
        """‖∂/∂params ½ mean(r²)‖ of each term: a pass through each, about as dear as one gradient in all."""
        half = lambda params, name: 0.5 * jnp.mean(self.function(params)[name] ** 2)
        return {name: _tree.norm(jax.grad(half)(self.params, name)) for name in names}

    def tangent_traces(self, names: list[str], key: PRNGKeyArray, probes: int) -> dict[str, Scalar]:
        """mean over points of ‖∂r/∂params‖², the trace of J Jᵀ over n, for each term.

        Hutchinson's estimate, mean ‖Jᵀz‖²/n over vectors z of random signs: a pass for each of them.
        """

        def one(name, key):
            r, pull = jax.vjp(lambda params: self.function(params)[name], self.params)
            square = lambda z: _tree.dot(*(pull(z)[0],) * 2) / r.size
            return jnp.mean(jax.lax.map(square, jax.random.rademacher(key, (probes, r.size), r.dtype)))

        return {name: one(name, jax.random.fold_in(key, i)) for i, name in enumerate(names)}


class AbstractWeights(eqx.Module):
    """Weights w of the terms of the loss ½ Σ mean(w r²) (`weighted_loss`), made anew as training goes on.

    ```python
    state = weights.init(residuals)                                      # before training
    w, state = weights.update(state, residuals, terms, step, key)        # in each step, compiled or not
    loss = weighted_loss(w, residuals)
    ```
    """

    @abc.abstractmethod
    def init(self, residuals: Residuals) -> PyTree[Array]:
        """The state before the first step, for residuals of these names, shapes and dtypes."""

    @abc.abstractmethod
    def _next(
        self, state: PyTree[Array], residuals: Residuals, terms: Terms | None, step: Array, key: PRNGKeyArray
    ) -> tuple[Weights, PyTree[Array]]:
        """`update`, without derivatives to cut."""

    def update(
        self,
        state: PyTree[Array],
        residuals: Residuals,
        terms: Terms | None,
        step: Int[Array, ""],
        key: PRNGKeyArray,
    ) -> tuple[Weights, PyTree[Array]]:
        """The weights of this step, and the next state; no derivative flows through either.

        **Arguments:**

        - `state`: from `init` or the last `update`.
        - `residuals`: r of each term (n,), at the points of this step.
        - `terms`: `Terms`, for methods that need gradients or times; None for others.
        - `step`: the number of the step, from 0.
        - `key`: a random key of this step.
        """
        state, residuals, terms = _tree.stop_gradient((state, dict(residuals), terms))
        return _tree.stop_gradient(self._next(state, residuals, terms, jnp.asarray(step), key))


class Fixed(AbstractWeights):
    """Weights that stay: w of each term as given, 1 where none is given.

    **Arguments:**

    - `weights`: numbers ≥ 0 by name (unit of r⁻², so that terms can be added).
    """

    weights: dict[str, Any]

    def __init__(self, weights: Mapping[str, float] | None = None):
        self.weights = {} if weights is None else dict(weights)
        for name, w in self.weights.items():
            if not eqx.is_array(w) and not 0 <= w < float("inf"):
                raise ValueError(
                    f"`weights` has {name!r}: {w!r}; expected a finite number ≥ 0, such as 10.0."
                )

    def init(self, residuals):
        check_names("weights", self.weights, residuals)
        return None

    def _next(self, state, residuals, terms, step, key):
        return {name: jnp.asarray(self.weights.get(name, 1), r.dtype) for name, r in residuals.items()}, state


class Product(AbstractWeights):
    """The product of the weights of several methods, each on its own: one per term with one per point.

    **Arguments:**

    - `factors`: two or more methods, such as `GradientNorm()` and `Causal(1.0)`.
    """

    factors: tuple[AbstractWeights, ...]

    def __init__(self, *factors: AbstractWeights):
        if len(factors) == 0 or not all(isinstance(f, AbstractWeights) for f in factors):
            raise TypeError(
                f"`factors` is {factors!r}; expected methods such as `GradientNorm(), Causal(1.0)`."
            )
        self.factors = factors

    def init(self, residuals):
        return tuple(f.init(residuals) for f in self.factors)

    def _next(self, state, residuals, terms, step, key):
        out, states = {name: jnp.ones((), r.dtype) for name, r in residuals.items()}, []
        for i, (factor, s) in enumerate(zip(self.factors, state, strict=True)):
            w, s = factor.update(s, residuals, terms, step, jax.random.fold_in(key, i))
            out = {name: out[name] * w[name] for name in out}
            states.append(s)
        return out, tuple(states)


def check_names(argument: str, names: Any, residuals: Residuals) -> None:
    """Refuse names that are no terms."""
    unknown = sorted(set(names) - set(residuals))
    if unknown:
        near = [m for name in unknown for m in difflib.get_close_matches(name, list(residuals), n=1)]
        hint = f" Did you mean {', '.join(map(repr, near))}?" if near else ""
        raise ValueError(
            f"`{argument}` names {unknown}; expected some of the terms {sorted(residuals)}.{hint}"
        )


def check_decay(argument: str, value: float) -> None:
    """Refuse what is no share of the past to keep."""
    if not 0 <= value < 1:
        raise ValueError(f"`{argument}` is {value!r}; expected a number in [0, 1), such as 0.9.")


def check_positive(argument: str, value: float) -> None:
    """Refuse what is no positive number."""
    if isinstance(value, bool) or not 0 < value < float("inf"):
        raise ValueError(f"`{argument}` is {value!r}; expected a positive number.")


def check_count(argument: str, value: int) -> None:
    """Refuse what is no positive integer."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"`{argument}` is {value!r}; expected an integer ≥ 1.")
