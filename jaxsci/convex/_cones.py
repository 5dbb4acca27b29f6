"""Cones, and functions of eigenvalues."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from .. import _tree
from .._adjoint import ImplicitAdjoint, attach
from ..linear import AbstractLinearSolver
from ..residuals import Root
from ._base import AbstractSet, floating, held, matrix, norm


class SecondOrderCone(AbstractSet):
    """{(t, x) : ‖x‖₂ ≤ t}, the quadratic (Lorentz) cone; t is the first scalar of v, x the others.

    P(v) = v if ‖x‖ ≤ t, 0 if ‖x‖ ≤ −t, else ½(1 + t/‖x‖)(‖x‖, x).
    """

    def __call__(self, v: PyTree[Array], args: PyTree[Any] = None) -> PyTree[Array]:
        v = floating(v)
        whole = _tree.ravel(v)
        if whole.size == 0:
            raise ValueError("`v` has no entries; expected (t, x), so one entry at least.")
        t, x = whole[0], whole[1:]
        length = norm(x)
        between = jnp.abs(t) < length
        half = 0.5 * (1 + t / jnp.where(between, length, 1))
        side = half * jnp.concatenate([length[None], x])
        # NaN is neither inside nor below.
        ends = jnp.where(length <= t, whole, jnp.where(length <= -t, 0, jnp.full_like(whole, jnp.nan)))
        return _tree.unravel(jnp.where(between, side, ends), v)


class PSDCone(AbstractSet):
    """The symmetric positive semidefinite matrices: P(V) = Σ max(λᵢ, 0) qᵢqᵢᵀ of ½(V + Vᵀ). O(n³).

    The derivative needs a gap between negative and other eigenvalues, and none among them: repeated
    eigenvalues do no harm, and 0 counts as positive.
    """

    def __call__(self, v: Float[Array, "n n"], args: PyTree[Any] = None) -> Float[Array, "n n"]:
        v = matrix(v)
        if v.shape[0] != v.shape[1]:
            raise ValueError(f"`v` has shape {v.shape}; expected a square matrix.")
        return v if v.size == 0 else positive_part(0.5 * (v + v.T))


class _Diagonal(AbstractLinearSolver):
    """A known diagonal A."""

    entries: Array
    check: float | None = None

    def prepare(self, operator):
        return None

    def apply(self, operator, prepared, b, transpose):
        return _tree.unravel(_tree.ravel(b) / self.entries, b), jnp.array(0)


def _riccati(y: Array, args: PyTree[Array]) -> Array:
    """0 if the columns of (1, y) span an invariant subspace of e; outside of the block, y = 0."""
    e, block = args
    inner = jnp.where(block, y, 0)
    return jnp.where(block, e + e @ inner - inner @ e - inner @ e @ inner, -y)


def positive_part(v: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """Σ max(λᵢ, 0) qᵢqᵢᵀ of a symmetric V, without the derivative of an eigenvector.

    In the eigenvectors of the given V, e = QᵀVQ is diagonal. As V moves, its subspace of eigenvalues
    ≥ 0 becomes the span of (1, y)ᵀ, where y is 0 now and solves a Riccati equation whose derivative is
    division by λ₋ − λ₊; with Π the projector on that subspace, the positive part is ΠeΠ. This is the
    formula of Daleckii and Krein, of any order, and pairs of the same sign are in no denominator.
    """
    values, q = jnp.linalg.eigh(held(v))
    e = jnp.diag(values) + q.T @ (v - held(v)) @ q
    up = values >= 0
    block = ~up[:, None] & up
    gap = jnp.where(block, values[:, None] - values, -1)
    adjoint = ImplicitAdjoint(_Diagonal(jnp.ravel(gap)))
    y = attach(Root(_riccati), jnp.zeros_like(v), (e, block), adjoint=adjoint)
    span = jnp.where(block, y, 0) + jnp.diag(up.astype(v.dtype))
    gram = span.T @ span + jnp.diag((~up).astype(v.dtype))
    projector = span @ jnp.linalg.solve(gram, span.T)
    x = q @ (projector @ e @ projector) @ q.T
    return 0.5 * (x + x.T)


def shrink(v: Float[Array, "m n"], threshold: Array) -> Float[Array, "m n"]:
    """Singular values reduced by `threshold`, to 0 at least: U max(s − t, 0) Wᵀ of V = U s Wᵀ.

    ±s are the eigenvalues of J = ((0, V), (Vᵀ, 0)); half of the result is in a block of the positive
    part of J − t, whose derivative minds no repeated singular value.
    """
    m, n = v.shape
    j = jnp.block([[jnp.zeros((m, m), v.dtype), v], [v.T, jnp.zeros((n, n), v.dtype)]])
    return 2 * positive_part(j - threshold * jnp.eye(m + n, dtype=v.dtype))[:m, m:]
