"""One direction from the gradients of several losses."""

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

_MOST = 10


class AbstractDirection(eqx.Module):
    """How the gradients g₁ … g_m of m losses become one direction d = Σ cᵢ gᵢ, to be descended along.

    All that is looked at is the Gram matrix Kᵢⱼ = gᵢ·gⱼ, m×m: O(m² n) operations for n parameters. An
    optimizer takes d in place of a gradient.
    """

    @abc.abstractmethod
    def coefficients(
        self, gram: Float[Array, "m m"], losses: Float[Array, " m"], key: PRNGKeyArray | None
    ) -> Float[Array, " m"]:
        """c of d = Σ cᵢ gᵢ, from K, the losses and a random key."""

    def __call__(
        self, gradients: PyTree[Array], losses: Float[Array, " m"], key: PRNGKeyArray | None = None
    ) -> PyTree[Array]:
        """d, of the structure of one gradient.

        **Arguments:**

        - `gradients`: those of all losses, stacked along a leading axis of length m in every leaf.
        - `losses`: their values (m,).
        - `key`: for methods with chance in them; None: none.
        """
        leaves, m = jax.tree.leaves(gradients), losses.shape[0]
        for leaf in leaves:
            if leaf.ndim == 0 or leaf.shape[0] != m:
                raise ValueError(
                    f"`gradients` has a leaf of shape {leaf.shape} for {m} losses; expected a leading axis "
                    f"of length {m} in every leaf, as `jax.jacrev` of the losses gives it."
                )
        rows = [leaf.reshape(m, -1) for leaf in leaves]
        precise = jax.lax.Precision.HIGHEST
        gram = sum((jnp.matmul(r, r.T, precision=precise) for r in rows), jnp.zeros((m, m), losses.dtype))
        c = self.coefficients(gram, losses, key)
        contract = lambda g: jnp.tensordot(c.astype(g.dtype), g, 1, precision=precise)
        return jax.tree.map(contract, gradients)


class Sum(AbstractDirection):
    """d = Σ gᵢ: the gradient of the sum of the losses, whatever their conflicts. The baseline."""

    def coefficients(self, gram, losses, key):
        return jnp.ones_like(losses)


class MGDA(AbstractDirection):
    """d along the shortest vector in the convex hull of the gradients: steepest descent for the loss that
    falls least.

        min over α ≥ 0, Σ αᵢ = 1 of ‖Σ αᵢ ĝᵢ‖²,   ĝᵢ = gᵢ/‖gᵢ‖

    The solution u has ĝᵢ·u ≥ ‖u‖² for all i: no loss rises, and the worst of the angles between d and the
    gradients is as small as it can be. u = 0 only where some convex combination of the gradients vanishes
    (Pareto stationary). d = (Σ gᵢ·û) û with û = u/‖u‖, as long as in `ConFIG`; with `normalize=False`,
    ĝᵢ = gᵢ and d = u, as in the first papers, where small gradients decide.

    Exact: all supports of α are tried (2ᵐ − 1 systems of m + 1 equations).

    **Arguments:**

    - `normalize`: whether gradients are divided by their norms. Gradients that are zero are left out.

    **Limits:** at most 10 losses.

    **Reference:** Désidéri, Multiple-gradient descent algorithm, C. R. Acad. Sci. Paris 350, 2012.
    """

    normalize: bool

    def __init__(self, normalize: bool = True):
        if not isinstance(normalize, bool):
            raise TypeError(f"`normalize` is {normalize!r}; expected True or False.")
        self.normalize = normalize

    def coefficients(self, gram, losses, key):
        if not self.normalize:
            return _shortest(gram, jnp.ones(gram.shape[0], bool))
        unit, scale, present = _normalized(gram)
        return _lengthened(gram, scale * _shortest(unit, present))


class ConFIG(AbstractDirection):
    """d with the same angle to every gradient, whose length is the sum of their projections on it:

        d = (Σ gᵢ·û) û,   û along Σ (K̂⁻¹ 1)ᵢ ĝᵢ,   K̂ᵢⱼ = ĝᵢ·ĝⱼ,   ĝᵢ = gᵢ/‖gᵢ‖

    Every loss falls at the same relative rate. Where that rate is poor for all, `MGDA` is better for all; for
    two losses both are the bisector. K̂ is inverted by its eigenvalues, so that parallel gradients count
    once; gradients that are zero are left out.

    **Reference:** Liu, Chu & Thuerey, ConFIG: Towards conflict-free training of physics informed neural
    networks, ICLR 2025.
    """

    def coefficients(self, gram, losses, key):
        unit, scale, present = _normalized(gram)
        ones = present.astype(gram.dtype)
        tolerance = 10 * gram.shape[0] * jnp.finfo(gram.dtype).eps
        inverse = jnp.linalg.pinv(unit, rtol=tolerance, hermitian=True)
        return _lengthened(gram, scale * (inverse @ ones))


class PCGrad(AbstractDirection):
    """d = Σ gᵢ′, where gᵢ′ is gᵢ less its component along each gradient with which it conflicts in turn:

        gᵢ′ ← gᵢ′ − (gᵢ′·gⱼ/‖gⱼ‖²) gⱼ   where gᵢ′·gⱼ < 0, for all j ≠ i

    Without conflicts it is `Sum`. The j come in the order of the losses, or in a random one if a key is
    given. Of more than two losses some may rise.

    **Reference:** Yu et al., Gradient surgery for multi-task learning, NeurIPS 2020.
    """

    def coefficients(self, gram, losses, key):
        m = gram.shape[0]
        norms = jnp.diag(gram)
        order = jnp.arange(m) if key is None else jax.random.permutation(key, m)
        rows = jnp.eye(m, dtype=gram.dtype)
        for k in range(m):
            j = order[k]
            along = rows @ gram[j]
            conflict = (along < 0) & (jnp.arange(m) != j) & (norms[j] > 0)
            rows = rows.at[:, j].add(-jnp.where(conflict, along / jnp.where(norms[j] > 0, norms[j], 1), 0))
        return jnp.sum(rows, axis=0)


def combine(
    direction: AbstractDirection,
    losses: Callable[[Any], Float[Array, " m"]],
    params: PyTree[Array],
    key: PRNGKeyArray | None = None,
) -> tuple[PyTree[Array], Float[Array, " m"]]:
    """The direction from the gradients of losses(params), and the losses: one evaluation, m backward passes.

    **Arguments:**

    - `direction`: an `AbstractDirection`, such as `MGDA()`.
    - `losses`: from the parameters to the values of all losses, as one vector (m,). A pass goes through all
        of them; the derivatives of solves inside are those of the implicit rule.
    - `params`: a pytree of inexact arrays.
    - `key`: for `PCGrad` in random order.

    **Returns:** d, of the structure of `params`, and the losses (m,).

    **Raises:** `TypeError` if `direction` is none; `ValueError` if `losses` gives no vector.
    """
    if not isinstance(direction, AbstractDirection):
        raise TypeError(f"`direction` is {type(direction).__name__}; expected one such as `MGDA()`.")
    values, pull = jax.vjp(losses, params)
    if not eqx.is_array(values) or values.ndim != 1:
        raise ValueError(f"`losses` gives {values!r}; expected one vector, as `jnp.stack` makes it.")
    (gradients,) = jax.vmap(pull)(jnp.eye(values.shape[0], dtype=values.dtype))
    return direction(gradients, values, key), values


def _normalized(gram: Array) -> tuple[Array, Array, Array]:
    """K̂, 1/‖gᵢ‖, and which gradients are not zero."""
    norms = jnp.sqrt(jnp.diag(gram))
    present = norms > 0
    scale = jnp.where(present, 1 / jnp.where(present, norms, 1), 0)
    return scale[:, None] * gram * scale, scale, present


def _lengthened(gram: Array, c: Array) -> Array:
    """The coefficients of (Σ gᵢ·û) û for û along Σ cᵢ gᵢ."""
    square = c @ gram @ c
    known = square > 0
    return jnp.where(known, jnp.sum(gram @ c) / jnp.where(known, square, 1), 0) * c


def _shortest(gram: Array, present: Array) -> Array:
    """argmin αᵀKα over the simplex of the gradients that are present.

    On its support S the minimum solves K_S α + μ 1 = 0, 1ᵀα = 1, regular if the gᵢ of S are affinely
    independent, and there always is such a support: all are tried, and the best feasible one is taken.
    """
    m = gram.shape[0]
    if m > _MOST:
        raise ValueError(
            f"`MGDA` was given {m} losses; expected at most {_MOST}. Add some up, or use `ConFIG`."
        )
    supports = jnp.asarray((np.arange(1, 2**m)[:, None] >> np.arange(m)) & 1, bool)

    def candidate(support):
        inside = support.astype(gram.dtype)
        block = gram * jnp.outer(inside, inside) + jnp.diag(1 - inside)
        system = jnp.block([[block, inside[:, None]], [inside[None], jnp.zeros((1, 1), gram.dtype)]])
        alpha = jnp.linalg.solve(system, jnp.zeros(m + 1, gram.dtype).at[-1].set(1))[:-1]
        slack = 1e2 * jnp.finfo(gram.dtype).eps
        good = jnp.all(jnp.isfinite(alpha)) & jnp.all(alpha >= -slack) & ~jnp.any(support & ~present)
        alpha = jnp.maximum(jnp.where(good, alpha, 0), 0)
        alpha = alpha / jnp.where(good, jnp.sum(alpha), 1)
        return alpha, jnp.where(good, alpha @ gram @ alpha, jnp.inf)

    alphas, squares = jax.vmap(candidate)(supports)
    return alphas[jnp.argmin(squares)]
