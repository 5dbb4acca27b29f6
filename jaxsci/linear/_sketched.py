"""Randomised methods: Kaczmarz, sketch-and-project, sketch-and-precondition, Nyström."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.scipy.linalg as jsl
import jax.tree_util as jtu
from jaxtyping import Array, Float, PRNGKeyArray

from .. import _tree
from . import _stopping
from ._lsmr import LeastSquaresSolution, lsmr
from ._operator import Operator
from ._preconditioner import AbstractPreconditioner

_times = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


def _projected(rows: Array, error: Array) -> Array:
    """Sᴴ (S Sᴴ)⁺ e for rows S: the shortest d with S d = e, if S is scaled to rows of length one.

    By eigenvalues of the small Gram matrix: rows that depend on others take no part.
    """
    size = jnp.sqrt(jnp.sum(jnp.abs(rows) ** 2, axis=-1))
    scale = jnp.where(size > 0, 1 / jnp.where(size > 0, size, 1), 0)
    rows, error = scale[:, None] * rows, scale * error
    values, vectors = jnp.linalg.eigh(_times(rows, rows.conj().T))
    kept = values > 10 * len(values) * jnp.finfo(values.dtype).eps * jnp.max(values)
    inverse = jnp.where(kept, 1 / jnp.where(kept, values, 1), 0)
    return _times(rows.conj().T, _times(vectors, inverse * _times(vectors.conj().T, error)))


def _swept(matrix: Array, b: Array, target: Array, sweeps: int, steps: int, step) -> tuple[Array, Array]:
    """x after as many sweeps of `steps` random steps as the residual needs, and the number of steps."""

    def unfinished(carry):
        k, _, r = carry
        size = jnp.sqrt(jnp.sum(jnp.abs(r) ** 2))
        return (k < sweeps) & (size > target) & jnp.isfinite(size)

    def sweep(carry):
        k, x, _ = carry
        x = _tree.fori_loop(steps, lambda i, x: step(k * steps + i, x), x)
        return k + 1, x, b - _times(matrix, x)

    k, x, _ = _tree.while_loop(unfinished, sweep, (jnp.array(0), jnp.zeros_like(b), b))
    return x, k * steps


class Kaczmarz(_stopping.AbstractIterativeSolver):
    """x ← x + Sᴴ (S Sᴴ)⁺ (S x* − S x) for random blocks S of the rows of A (Strohmer & Vershynin 2009;
    Needell & Tropp 2014): one row or one block is looked at in a step.

    Blocks of consecutive rows are drawn with a probability in proportion to their sum of squares. The rate
    is 1 − σ²/‖A‖²_F a row, σ the smallest singular value: it pays where a product with all of A is too
    much, and not otherwise; a dense system of some thousand unknowns is sooner solved by `LU`.

    **Arguments:**

    - `block`: rows in a block; it divides n.
    - `seed`: of the random numbers.
    - `rtol`: stop at ‖b − A x‖₂ ≤ rtol ‖b‖₂ (dimensionless), looked at once in n rows. None: 30 times the
      precision.
    - `max_sweeps`: steps at most, in units of n rows.
    - `check`: see `jaxsci.linear.LU`. None: that, or ten times `rtol` if it is more.

    **Raises:** `ValueError` if n is no multiple of `block`.
    """

    block: int = eqx.field(static=True, default=1)
    seed: int = 0
    rtol: float | None = None
    max_sweeps: int = 1000
    check: float | None = None

    def prepare(self, operator: Operator):
        if self.block < 1 or operator.size % self.block:
            raise ValueError(
                f"`block` of Kaczmarz is {self.block!r}; expected a divisor of the {operator.size} unknowns."
            )
        return operator.matrix()

    def apply(self, operator, prepared, b, transpose):
        matrix = prepared.T if transpose else prepared
        right = _tree.ravel(b)
        count = len(right) // self.block
        rows, parts = matrix.reshape(count, self.block, -1), right.reshape(count, self.block)
        weights = jnp.log(jnp.sum(jnp.abs(rows) ** 2, axis=(1, 2)))
        key = jax.random.key(self.seed)

        def step(k, x):
            i = jax.random.categorical(jax.random.fold_in(key, k), weights)
            error = parts[i] - _times(rows[i], x)
            if self.block > 1:
                return x + _projected(rows[i], error)
            size = jnp.sum(jnp.abs(rows[i]) ** 2)
            return x + rows[i, 0].conj() * error[0] / jnp.where(size == 0, 1, size)

        target = _stopping.target(self.rtol, b)
        x, k = _swept(matrix, right, target, self.max_sweeps, count, step)
        return _tree.unravel(x, b), k


class SketchAndProject(_stopping.AbstractIterativeSolver):
    """x ← x + (S A)ᴴ (S A (S A)ᴴ)⁺ S (b − A x) with a new Gaussian S of `size` rows in each step (Gower &
    Richtárik 2015): the nearest point to x at which the sketched equations hold.

    A step costs `size` products with Aᵀ; its rate does not depend on how the rows are scaled to each other
    in the way that of `Kaczmarz` does. Like that, it pays only where A can be touched in sketches alone.

    **Arguments:**

    - `size`: rows of S, at most n.
    - `seed`, `rtol`, `max_sweeps`, `check`: see `Kaczmarz`; a sweep is n/size steps.

    **Raises:** `ValueError` if `size` is not between 1 and n.
    """

    size: int = eqx.field(static=True, default=8)
    seed: int = 0
    rtol: float | None = None
    max_sweeps: int = 1000
    check: float | None = None

    def prepare(self, operator: Operator):
        if not 1 <= self.size <= operator.size:
            raise ValueError(
                f"`size` of SketchAndProject is {self.size!r}; expected 1 … {operator.size}, the number of "
                "unknowns."
            )
        return operator.matrix()

    def apply(self, operator, prepared, b, transpose):
        matrix = prepared.T if transpose else prepared
        right = _tree.ravel(b)
        key = jax.random.key(self.seed)
        real = jnp.finfo(right.dtype).dtype

        def step(k, x):
            sketch = jax.random.normal(jax.random.fold_in(key, k), (self.size, len(right)), real)
            rows = _times(sketch.astype(right.dtype), jnp.column_stack([matrix, right]))
            return x + _projected(rows[:, :-1], rows[:, -1] - _times(rows[:, :-1], x))

        target = _stopping.target(self.rtol, b)
        count = -(-len(right) // self.size)
        x, k = _swept(matrix, right, target, self.max_sweeps, count, step)
        return _tree.unravel(x, b), k


def sketched_least_squares(
    matrix: Float[Array, "m n"],
    b: Float[Array, " m"],
    key: PRNGKeyArray,
    *,
    oversampling: float = 4.0,
    rtol: float | None = None,
    max_steps: int = 200,
) -> LeastSquaresSolution:
    """min ‖b − A x‖₂ for a tall A, by sketch-and-precondition (Blendenpik, LSRN).

    R of the QR factors of S A, with a Gaussian S of γ n rows, makes A R⁻¹ well conditioned whatever A is:
    its condition number is about (√γ + 1)/(√γ − 1). LSMR then solves for y = R x from the sketched solution,
    in a number of steps that depends on γ alone. Forward only.

    **Arguments:**

    - `matrix`: A, (m, n) with m ≥ n and independent columns.
    - `b`: right-hand side, (m,).
    - `key`: of the sketch.
    - `oversampling`: γ (dimensionless), above 1.
    - `rtol`, `max_steps`: see `lsmr`.

    **Returns:** a `LeastSquaresSolution`; its `normal_residual` is relative and of A itself.

    **Raises:** `ValueError` if A is wider than tall, or `oversampling` is not above 1.

    **Reference:** Avron, Maymounkov, Toledo, SIAM J. Sci. Comput. 32, 2010; Meng, Saunders, Mahoney, SIAM J.
    Sci. Comput. 36, 2014.
    """
    m, n = matrix.shape
    if m < n or not oversampling > 1:
        raise ValueError(
            f"`matrix` has shape {matrix.shape} and `oversampling` is {oversampling}; expected at least as "
            "many rows as columns, and a number above 1. For a wide matrix use jaxsci.linear.lsmr."
        )
    count = min(m, int(oversampling * n) + 1)
    real = jnp.finfo(matrix.dtype).dtype
    sketch = jax.random.normal(key, (count, m), real).astype(matrix.dtype) / count**0.5
    q, r = jnp.linalg.qr(_times(sketch, matrix))
    back = lambda y: jsl.solve_triangular(r, y)
    start = _times(q.conj().T, _times(sketch, b))
    product = lambda y: _times(matrix, back(y))
    found = lsmr(product, b, r[0], rtol=rtol, max_steps=max_steps, initial=start)
    x = back(found.value)
    error = b - _times(matrix, x)
    normal = _tree.norm(_times(matrix.conj().T, error)) / _tree.norm(_times(matrix.conj().T, b))
    return LeastSquaresSolution(x, found.iterations, _tree.norm(error) / _tree.norm(b), normal)


class Nystrom(AbstractPreconditioner):
    """M = (λ_k + μ) U (Λ + μ)⁻¹ Uᴴ + 1 − U Uᴴ for an operator B + μ with B positive semidefinite: U Λ Uᴴ is
    the randomised Nyström approximation of B of rank k, from k products.

    CG then needs a number of iterations that does not depend on B if k is twice the effective dimension
    Σ λᵢ/(λᵢ + μ): for kernels and damped normal equations whose spectrum falls quickly.

    **Arguments:**

    - `rank`: k.
    - `shift`: μ > 0 (units of the operator), which the operator includes.
    - `seed`: of the random numbers.

    **Raises:** `ValueError` if `rank` is not between 1 and n.

    **Reference:** Frangella, Tropp, Udell, SIAM J. Matrix Anal. Appl. 44, 2023.
    """

    rank: int = eqx.field(static=True)
    shift: float | Array
    seed: int = 0

    def prepare(self, operator):
        if not 1 <= self.rank <= operator.size:
            raise ValueError(
                f"`rank` of Nystrom is {self.rank!r}; expected 1 … {operator.size}, the number of unknowns."
            )
        dtype = jnp.result_type(*jtu.tree_leaves(operator.like))
        real = jnp.finfo(dtype).dtype
        gauss = jax.random.normal(jax.random.key(self.seed), (operator.size, self.rank), real)
        test = _tree.vary_like(jnp.linalg.qr(gauss)[0].astype(dtype), operator.like)
        product = lambda v: _tree.ravel(operator.mv(_tree.unravel(v, operator.like)))
        image = jax.vmap(product, 1, 1)(test) - self.shift * test
        # B + ν for the factorisation, which B alone may not have; ν is taken off the eigenvalues.
        nu = jnp.sqrt(1.0 * operator.size) * jnp.finfo(real).eps * jnp.linalg.norm(image)
        image = image + nu * test
        small = _times(test.conj().T, image)
        factor = jnp.linalg.cholesky((small + small.conj().T) / 2)
        half = jsl.solve_triangular(factor, image.conj().T, lower=True).conj().T
        vectors, values, _ = jnp.linalg.svd(half, full_matrices=False)
        values = jnp.maximum(values**2 - nu, 0)
        return vectors, (values[-1] + self.shift) / (values + self.shift) - 1

    def apply(self, operator, prepared, r):
        vectors, weights = prepared
        flat = _tree.ravel(r)
        part = weights * _times(vectors.conj().T, flat)
        return _tree.unravel(flat + _times(vectors, part), r)
