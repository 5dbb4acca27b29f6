"""(JᵀJ + λ)⁻¹ Jᵀ v in the space of the unknowns, in that of the rows, or without a matrix."""

import abc
import itertools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.scipy.linalg as jsl
import lineax as lx
from jaxtyping import Array, Float

from .. import _tree
from ..linear import CG, Nystrom, Operator

_PRECISE = jax.lax.Precision.HIGHEST


def _times(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, precision=_PRECISE)


def lower_gram(a: Float[Array, "N n"]) -> Float[Array, "n n"]:
    """The lower triangle of AᵀA, which is what a Cholesky factorisation reads, in strips: above the diagonal
    blocks there is nothing to compute."""
    n = a.shape[1]
    strips = 1 if n < 1024 else 6
    edges = [n * i // strips for i in range(strips + 1)]
    rows = [_times(a[:, s:e].T, a[:, :e]) for s, e in itertools.pairwise(edges)]
    return jnp.concatenate([jnp.pad(row, ((0, 0), (0, n - row.shape[1]))) for row in rows])


def _factor(gram: Float[Array, "n n"], lam: Array) -> Float[Array, "n n"]:
    shifted = gram + lam * jnp.eye(len(gram), dtype=lam.dtype)
    return jax.lax.linalg.cholesky(shifted, symmetrize_input=False)


class AbstractSystem(eqx.Module):
    """What is known of the Jacobian J of the rows at a point."""

    @abc.abstractmethod
    def gradient(self, fn, y, args, r: Array) -> Float[Array, " n"]:
        """Jᵀ r."""

    @abc.abstractmethod
    def size(self, fn, y, args) -> Float[Array, ""]:
        """The largest norm of a column of J, or what is like it."""

    @abc.abstractmethod
    def solver(self, fn, y, args, lam: Array) -> Callable[[Array], Float[Array, " n"]]:
        """v ↦ (JᵀJ + λ)⁻¹ Jᵀ v."""


class ByUnknowns(AbstractSystem):
    """n×n."""

    jacobian: Float[Array, "N n"] | None  # None: by products with it
    gram: Float[Array, "n n"]  # the lower triangle of JᵀJ, or of a sketch of it

    def gradient(self, fn, y, args, r):
        return _pull(fn, y, args)(r) if self.jacobian is None else _times(r, self.jacobian)

    def size(self, fn, y, args):
        return jnp.sqrt(jnp.max(jnp.diagonal(self.gram)))

    def solver(self, fn, y, args, lam):
        if self.jacobian is None:
            push, pull = jax.linearize(_flat(fn, y, args), _tree.ravel(y))[1], _pull(fn, y, args)
        else:
            push, pull = lambda x: _times(self.jacobian, x), lambda v: _times(v, self.jacobian)
        factor = _factor(self.gram, lam)
        back = lambda b: jsl.cho_solve((factor, True), b)

        def solve(v):
            x = back(pull(v))
            # b − (JᵀJ + λ)x = Jᵀ(v − J x) − λ x, without the error of the product JᵀJ.
            return x + back(pull(v - push(x)) - lam * x)

        return solve


class BySamples(AbstractSystem):
    """N×N."""

    jacobian: Float[Array, "N n"]
    gram: Float[Array, "N N"]  # the lower triangle of JJᵀ

    def gradient(self, fn, y, args, r):
        return _times(r, self.jacobian)

    def size(self, fn, y, args):
        return jnp.sqrt(jnp.max(jnp.sum(self.jacobian**2, axis=0)))

    def solver(self, fn, y, args, lam):
        j = self.jacobian
        factor = _factor(self.gram, lam)
        back = lambda v: jsl.cho_solve((factor, True), v)

        def solve(v):
            z = back(v)
            x = _times(z, j)
            return x + _times(back(v - _times(j, x) - lam * z), j)

        return solve


class MatrixFree(AbstractSystem):
    """Products with J and Jᵀ."""

    columns: Float[Array, ""]
    linear_solver: Any

    def gradient(self, fn, y, args, r):
        return _pull(fn, y, args)(r)

    def size(self, fn, y, args):
        return self.columns

    def solver(self, fn, y, args, lam):
        flat = _flat(fn, y, args)
        push, pull = jax.linearize(flat, _tree.ravel(y))[1], _pull(fn, y, args)
        tags = frozenset({lx.positive_semidefinite_tag})
        operator = Operator(lambda x: pull(push(x)) + lam * x, _tree.ravel(y), None, tags)
        linear = self.linear_solver
        if linear is None:
            n = operator.size
            linear = CG(rtol=1e-3, max_steps=200, preconditioner=Nystrom(min(200, n), lam))
        prepared = linear.prepare(operator)

        def solve(v):
            # Not checked: the decrease of the residual tells more than whether one step is exact.
            return linear.apply(operator, prepared, pull(v), False)[0]

        return solve


def _flat(fn, y, args) -> Callable:
    return lambda v: _tree.ravel(fn(_tree.unravel(v, y), args)[0])


def _pull(fn, y, args) -> Callable:
    pull = jax.vjp(_flat(fn, y, args), _tree.ravel(y))[1]
    return lambda r: pull(r)[0]


def make_system(solver, fn, y, args, options, count) -> tuple[Array, AbstractSystem]:
    """r and the system at y, by the numbers of rows and unknowns."""
    n, rows = _tree.size(y), _tree.size(jax.eval_shape(fn, y, args)[0])
    if solver.linear_solver is not None or min(n, rows) > solver.dense:
        r = _tree.ravel(fn(y, args)[0])
        # E‖Jᵀz‖² = ‖J‖² for signs z; n columns share it. Never below that of r's own direction.
        signs = jax.random.rademacher(jax.random.fold_in(jax.random.key(0), count), r.shape, r.dtype)
        spread = jnp.linalg.norm(_pull(fn, y, args)(signs)) / n**0.5
        return r, MatrixFree(spread, solver.linear_solver)
    if "normal" in options:
        r, gram = options["normal"](y, args)
        return r, ByUnknowns(None, gram)
    r, j = _linearized(fn, y, args, options)
    if rows < n:
        return r, BySamples(j, lower_gram(j.T))
    if solver.sketch is not None and solver.sketch < rows:
        rows_of = _sketched(j, solver.sketch, count)
    else:
        rows_of = j
    return r, ByUnknowns(j, lower_gram(rows_of))


def _linearized(fn, y, args, options) -> tuple[Array, Array]:
    if "linearized" in options:
        return options["linearized"](y, args)
    flat, v = _flat(fn, y, args), _tree.ravel(y)
    derivative = jax.jacfwd if v.size <= jax.eval_shape(flat, v).size else jax.jacrev
    return flat(v), derivative(flat)(v)


def _sketched(j: Array, rows: int, count: Array) -> Array:
    """Each row of J, with a random sign, is added to one of the rows of the sketch."""
    key_sign, key_row = jax.random.split(jax.random.fold_in(jax.random.key(1), count))
    signs = jax.random.rademacher(key_sign, (len(j), 1), j.dtype)
    places = jax.random.randint(key_row, (len(j),), 0, rows)
    return jax.ops.segment_sum(signs * j, places, rows)
