"""Preconditioners that are made from the operator: the protocol, and those by diagonal, block, polynomial."""

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.scipy.linalg as jsl
import jax.tree_util as jtu
from jaxtyping import Array, Float, PyTree

from .. import _tree
from ._dense import _reciprocal
from ._operator import Operator, transposed
from ._small import diagonal


class AbstractPreconditioner(eqx.Module):
    """r ↦ M r with M ≈ A⁻¹, made from the operator A by the solver that uses it.

    A solver takes one (`CG(preconditioner=Jacobi())`) where it takes a function r ↦ M r. `of(operator)`
    is that function, for `Operator.preconditioner` and `AbstractResidual.preconditioner`. It may depend on
    the leaves of the unknown, but not on the pytree that holds them.
    """

    @abc.abstractmethod
    def prepare(self, operator: Operator) -> Any:
        """A pytree of arrays: what is computed once for an operator."""

    @abc.abstractmethod
    def apply(self, operator: Operator, prepared: Any, r: PyTree[Array]) -> PyTree[Array]:
        """M r. Linear in r, and of operations that JAX can transpose."""

    def of(self, operator: Operator) -> Callable:
        """The function r ↦ M r for this operator."""
        prepared = self.prepare(operator)
        return lambda r: self.apply(operator, prepared, r)


def prepare(own: Callable | AbstractPreconditioner | None, operator: Operator) -> Any:
    """What a preconditioner of a solver, if it is made from the operator, computes once."""
    return own.prepare(operator) if isinstance(own, AbstractPreconditioner) else None


def preconditioner(
    own: Callable | AbstractPreconditioner | None, operator: Operator, prepared: Any, transpose: bool
) -> Callable:
    """r ↦ M r (or Mᵀ r): the solver's own, else the operator's, else the identity."""
    if isinstance(own, AbstractPreconditioner):
        chosen = lambda r: own.apply(operator, prepared, r)
    elif own is not None:
        chosen = own
    elif operator.preconditioner is not None:
        chosen = operator.preconditioner
    else:
        return lambda r: r
    return transposed(chosen) if transpose else chosen


class Jacobi(AbstractPreconditioner):
    """M = D⁻¹, D the diagonal of A. A zero on the diagonal counts as one.

    **Arguments:**

    - `diagonal`: D, with as many scalars as the unknown (units of A). None: taken from the array of A if
      there is one, else by n products with unit vectors (in O(n) memory), each time A changes.
    - `damping`: M is this times D⁻¹ (dimensionless).
    """

    diagonal: PyTree[Array] | None = None
    damping: float | Array = 1.0

    def prepare(self, operator: Operator):
        if self.diagonal is not None:
            given = _tree.ravel(self.diagonal)
            if given.size != operator.size:
                raise ValueError(
                    f"`diagonal` of Jacobi has {given.size} scalars; expected {operator.size}, one for each "
                    "unknown."
                )
        elif operator.dense is not None:
            given = diagonal(operator.matrix())
        else:
            given = _probed(operator)
        return self.damping / jnp.where(given == 0, 1, given)

    def apply(self, operator, prepared, r):
        return _tree.unravel(prepared * _tree.ravel(r), r)


def _probed(operator: Operator) -> Array:
    """The diagonal, by a product with every unit vector, 32 at a time."""
    dtype = jnp.result_type(*jtu.tree_leaves(operator.like))
    places = jnp.arange(operator.size)

    def entry(i):
        unit = _tree.vary_like((places == i).astype(dtype), operator.like)
        return _tree.ravel(operator.mv(_tree.unravel(unit, operator.like)))[i]

    return jax.lax.map(entry, places, batch_size=min(32, operator.size))


class BlockJacobi(AbstractPreconditioner):
    """M = blockdiag(A₁₁, …, A_kk)⁻¹, for k blocks of equal size of consecutive unknowns.

    **Arguments:**

    - `size`: unknowns in a block; it divides n.
    - `blocks`: the blocks, (k, size, size) (units of A). None: taken from the n×n array of A, which is made
      of n products if there is none.

    **Raises:** `ValueError` if n is no multiple of `size`, or `blocks` has another shape.

    **Limits:** a singular block gives NaN.
    """

    size: int = eqx.field(static=True)
    blocks: Float[Array, "k size size"] | None = None

    def prepare(self, operator: Operator):
        count, rest = divmod(operator.size, self.size)
        if rest:
            raise ValueError(
                f"`size` of BlockJacobi is {self.size}; expected a divisor of the {operator.size} unknowns."
            )
        shape = (count, self.size, self.size)
        if self.blocks is None:
            grid = operator.matrix().reshape(count, self.size, count, self.size)
            blocks = grid[jnp.arange(count), :, jnp.arange(count)]
        elif self.blocks.shape == shape:
            blocks = self.blocks
        else:
            raise ValueError(f"`blocks` of BlockJacobi has shape {self.blocks.shape}; expected {shape}.")
        # Rows and columns of one size first: units of the unknowns do not matter to the pivots.
        scale = jax.vmap(lambda a: _reciprocal(jnp.max(jnp.abs(a), axis=1)))(blocks)
        return jax.vmap(jsl.lu_factor)(scale[:, :, None] * blocks), scale

    def apply(self, operator, prepared, r):
        factors, scale = prepared
        parts = scale * _tree.ravel(r).reshape(scale.shape)
        return _tree.unravel(jax.vmap(jsl.lu_solve)(factors, parts).ravel(), r)


class Chebyshev(AbstractPreconditioner):
    """M = p(A), with I − A p(A) = T_k((c − A)/d)/T_k(c/d): the polynomial of degree k − 1 that is best on
    an interval [low, high] with the center c and the half-width d. For a symmetric positive definite A.

    Only products: no inner product, so nothing is reduced over devices. M is positive definite if no
    eigenvalue is above `high`, wherever `low` > 0 lies.

    **Arguments:**

    - `degree`: k, the number of factors; k − 1 products. A traced integer, such as what a learner has
      chosen, makes a loop that JAX cannot transpose: enough for CG and MINRES, which do not ask for Mᵀ.
    - `bounds`: (low, high), in units of A. None: from `steps` steps of Lanczos; high is the largest Ritz
      value and the norm of its residual, low the smallest Ritz value.
    - `steps`: of Lanczos.

    **Raises:** `ValueError` if `degree` is below 1.

    **Reference:** Saad, Iterative Methods for Sparse Linear Systems, 2003, section 12.3.
    """

    degree: int | Array
    bounds: tuple | None = None
    steps: int = eqx.field(static=True, default=12)

    def __check_init__(self):
        if not isinstance(self.degree, jax.Array) and not self.degree >= 1:
            raise ValueError(f"`degree` of Chebyshev is {self.degree!r}; expected an int ≥ 1.")

    def prepare(self, operator: Operator):
        low, high = eigenvalue_bounds(operator, self.steps) if self.bounds is None else self.bounds
        return jnp.asarray(low), jnp.asarray(high)

    def apply(self, operator, prepared, r):
        low, high = prepared
        center = (high + low) / 2
        # An interval of no length: p(A) = 1/c in the limit.
        width = jnp.maximum((high - low) / 2, 16 * jnp.finfo(center.dtype).eps * center)
        # T_{j+1}(s) = 2 s T_j(s) − T_{j−1}(s) at s = c/d gives ρ_j = T_{j−1}/T_j; x_k is p(A) r.
        x = _tree.scaled(1 / center, r)

        def advance(carry):
            k, x, step, rest, rho = carry
            rest = _tree.axpy(-1.0, operator.mv(step), rest)
            new = 1 / (2 * center / width - rho)
            both = lambda s, r: (new * rho * s + 2 * new / width * r).astype(s.dtype)
            step = jtu.tree_map(both, step, rest)
            return k + 1, _tree.axpy(1.0, step, x), step, rest, new

        carry = (1, x, x, r, width / center)
        if isinstance(self.degree, jax.Array):
            return _tree.while_loop(lambda carry: carry[0] < self.degree, advance, carry)[1]
        for _ in range(self.degree - 1):
            carry = advance(carry)
        return carry[1]


def eigenvalue_bounds(operator: Operator, steps: int = 12) -> tuple[Array, Array]:
    """About the smallest and the largest eigenvalue of a symmetric (if complex, Hermitian) A, by Lanczos.

    **Arguments:**

    - `operator`: A.
    - `steps`: of Lanczos, without reorthogonalisation; at most n are made.

    **Returns:** (low, high) in units of A: the smallest Ritz value, which is above the smallest eigenvalue;
    the largest and the norm of its residual, which are above the largest eigenvalue except where the start
    has almost no part in its eigenvector.
    """
    steps = min(steps, operator.size)
    dtype = jnp.result_type(*jtu.tree_leaves(operator.like))
    start = jax.random.normal(jax.random.key(0), (operator.size,), jnp.finfo(dtype).dtype).astype(dtype)
    v = _tree.vary_like(_tree.unravel(start, operator.like), operator.like)
    v = _tree.scaled(1 / _tree.norm(v), v)
    zero = jnp.zeros_like(_tree.norm(v))
    small = jnp.finfo(zero.dtype).eps

    def advance(j, carry):
        before, v, beta, alphas, betas = carry
        w = operator.mv(v)
        size = _tree.norm(w)
        alpha = _tree.dot(v, w).real
        w = _tree.axpy(-beta, before, _tree.axpy(-alpha, v, w))
        new = _tree.norm(w)
        # An invariant subspace: the other Ritz values repeat the first, which is harmless.
        ended = new <= 10 * small * size
        w = _tree.scaled(jnp.where(ended, 0, 1 / jnp.where(ended, 1, new)), w)
        alpha = jnp.where((size == 0) & (j > 0), alphas[0], alpha)
        return v, w, jnp.where(ended, 0, new), alphas.at[j].set(alpha), betas.at[j].set(new * ~ended)

    rows = jnp.zeros(steps, zero.dtype)
    first = (jtu.tree_map(jnp.zeros_like, v), v, zero, rows, rows)
    *_, alphas, betas = _tree.fori_loop(steps, advance, first)
    ritz, vectors = jnp.linalg.eigh(jnp.diag(alphas) + jnp.diag(betas[:-1], 1) + jnp.diag(betas[:-1], -1))
    return ritz[0], ritz[-1] + betas[-1] * jnp.abs(vectors[-1, -1])
