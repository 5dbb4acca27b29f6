"""One weight for each term."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array

from .. import _tree
from ._weights import AbstractWeights, Terms, check_count, check_decay, check_positive


def _ones(residuals) -> dict[str, Array]:
    return {name: jnp.ones((), r.dtype) for name, r in residuals.items()}


def _balanced(state, sizes: Callable, decay: float, every: int, step: Array):
    """decay · w + (1 − decay) Σⱼ sⱼ/sᵢ, every so many steps; a term of size 0 keeps its weight."""

    def renewed(state):
        found = sizes()
        total = sum(found.values())
        new = lambda w, s: jnp.where(s > 0, decay * w + (1 - decay) * total / jnp.where(s > 0, s, 1), w)
        return {name: new(w, found[name]).astype(w.dtype) for name, w in state.items()}

    return jax.lax.cond(step % every == 0, renewed, lambda state: state, state)


def _terms(method: str, terms: Terms | None) -> Terms:
    if not isinstance(terms, Terms):
        raise TypeError(
            f"`terms` is {type(terms).__name__}; expected `Terms(function, params)`, which `{method}` needs."
        )
    return terms


class GradientNorm(AbstractWeights):
    """One weight a term, so that the gradients of all weighted terms are equally long:

        w_i ← α w_i + (1 − α) Σ_j ‖g_j‖ / ‖g_i‖,   g_i = ∂/∂params ½ mean(r_i²)

    from w = 1, every `every` steps.

    **Arguments:**

    - `decay`: α (dimensionless, in [0, 1)).
    - `every`: steps between renewals, each about as dear as a gradient of the loss.

    **Limits:** needs `terms` in `update`. Weights grow without bound for a term that is fitted; conflicts of
    direction stay (see `jaxsci.train.MGDA`).

    **Reference:** Wang, Teng & Perdikaris, SIAM J. Sci. Comput. 43, 2021; Wang et al., An expert's guide to
    training physics-informed neural networks, 2023, Algorithm 1.
    """

    decay: float
    every: int

    def __init__(self, decay: float = 0.9, every: int = 1000):
        check_decay("decay", decay)
        check_count("every", every)
        self.decay = decay
        self.every = every

    def init(self, residuals):
        return _ones(residuals)

    def _next(self, state, residuals, terms, step, key):
        terms = _terms("GradientNorm", terms)
        state = _balanced(state, lambda: terms.gradient_norms(list(state)), self.decay, self.every, step)
        return state, state


class NeuralTangent(AbstractWeights):
    """One weight a term, so that all weighted terms converge at the same mean rate, that of the traces of
    their neural tangent kernels:

        w_i ← α w_i + (1 − α) Σ_j t_j / t_i,   t_i = tr(J_i J_iᵀ)/n_i,   J_i = ∂r_i/∂params

    from w = 1, every `every` steps, with Hutchinson's estimate of the traces.

    **Arguments:**

    - `decay`: α (dimensionless, in [0, 1)).
    - `every`: steps between renewals.
    - `probes`: random vectors for a trace, each as dear as a gradient of its term.

    **Limits:** needs `terms` in `update`. Does not see how far a term is from zero.

    **Reference:** Wang, Yu & Perdikaris, When and why PINNs fail to train, J. Comput. Phys. 449, 2022.
    """

    decay: float
    every: int
    probes: int

    def __init__(self, decay: float = 0.9, every: int = 1000, probes: int = 8):
        check_decay("decay", decay)
        check_count("every", every)
        check_count("probes", probes)
        self.decay = decay
        self.every = every
        self.probes = probes

    def init(self, residuals):
        return _ones(residuals)

    def _next(self, state, residuals, terms, step, key):
        terms = _terms("NeuralTangent", terms)
        sizes = lambda: terms.tangent_traces(list(state), key, self.probes)
        state = _balanced(state, sizes, self.decay, self.every, step)
        return state, state


class ReLoBRaLo(AbstractWeights):
    """One weight a term, larger for terms that fell less than others, since the last step or the first:

        w_i ← α (ρ w_i + (1 − ρ) ŵ_i(0)) + (1 − α) ŵ_i(last),   ŵ(s) = m softmax_i(L_i / (τ L_i(s)))

    for m terms with L_i = mean(r_i²) and a random ρ, which is 1 with probability `saved` and 0 otherwise: now
    and then the past is forgotten and progress is judged from the beginning. Costs nothing: no gradients.

    **Arguments:**

    - `decay`: α (dimensionless, in [0, 1)).
    - `saved`: the mean of ρ (dimensionless, in [0, 1]).
    - `temperature`: τ; small values favor the worst term, large ones make all weights 1 (dimensionless).

    **Reference:** Bischof & Kraus, Multi-objective loss balancing for physics-informed deep learning, Comput.
    Methods Appl. Mech. Eng. 439, 2025.
    """

    decay: float
    saved: float
    temperature: float

    def __init__(self, decay: float = 0.999, saved: float = 0.999, temperature: float = 0.1):
        check_decay("decay", decay)
        if not 0 <= saved <= 1:
            raise ValueError(f"`saved` is {saved!r}; expected a probability, such as 0.999.")
        check_positive("temperature", temperature)
        self.decay = decay
        self.saved = saved
        self.temperature = temperature

    def init(self, residuals):
        losses = {name: jnp.mean(r**2) for name, r in residuals.items()}
        return _ones(residuals), losses, losses

    def _next(self, state, residuals, terms, step, key):
        weights, first, last = state
        losses = {name: jnp.mean(r**2) for name, r in residuals.items()}
        names = list(losses)

        def balanced(since):
            ratios = [losses[k] / jnp.maximum(since[k], jnp.finfo(since[k].dtype).tiny) for k in names]
            shares = len(names) * jax.nn.softmax(jnp.stack(ratios) / self.temperature)
            return dict(zip(names, shares, strict=True))

        from_first, from_last = balanced(first), balanced(last)
        past = _tree.where(jax.random.bernoulli(key, self.saved), weights, from_first)
        new = {k: self.decay * past[k] + (1 - self.decay) * from_last[k] for k in names}
        return new, (new, first, losses)
