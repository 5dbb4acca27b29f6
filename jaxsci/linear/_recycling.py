"""Conjugate gradients that carry what they have learned of the spectrum from one system to the next."""

import functools
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.scipy.linalg as jsl
import jax.tree_util as jtu
from jaxtyping import Array, PyTree

from .. import _tree
from . import _stopping
from ._operator import Operator
from ._preconditioner import AbstractPreconditioner, preconditioner, prepare

_times = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


class DeflatedCG(_stopping.AbstractIterativeSolver):
    """Conjugate gradients in which k given directions W are solved for exactly (Saad, Yeung, Erhel,
    Guyomarc'h 2000), for a symmetric positive definite A; Hermitian if complex.

    With W near eigenvectors of the smallest eigenvalues, iterations are those of the rest of the spectrum.
    `recycle` solves and returns a solver with a better W, for the next of a sequence of systems: harmonic
    Ritz vectors of A in the span of W and of the first search directions. It is a pytree that is carried
    through `jax.lax.scan`; W changes the number of iterations and not the solution, and has no derivative.

    **Arguments:**

    - `basis`: W, a pytree as the unknown with an additional first axis of k vectors. Zero vectors have no
      effect, so that `DeflatedCG.empty(like, k)` starts a sequence.
    - `rtol`, `max_steps`, `preconditioner`, `check`: see `CG`.
    - `window`: search directions that `recycle` looks at.

    **Limits:** memory of 2 k copies of the unknown, and of 2 · `window` more in `recycle`.
    """

    basis: PyTree[Array]
    rtol: float | None = None
    max_steps: int | None = None
    preconditioner: Callable | AbstractPreconditioner | None = None
    check: float | None = None
    window: int = eqx.field(static=True, default=20)

    def prepare(self, operator: Operator):
        return self._images(operator), prepare(self.preconditioner, operator)

    def _images(self, operator: Operator):
        """W with rows of length one, A W, and the Cholesky factor of Wᴴ A W."""
        rows = jax.lax.stop_gradient(jax.vmap(_tree.ravel)(self.basis))
        rows = rows.astype(jnp.result_type(*jtu.tree_leaves(operator.like)))
        image = jax.vmap(lambda w: _tree.ravel(operator.mv(_tree.unravel(w, operator.like))))(rows)
        energy = _times(rows.conj(), image.T)
        # A zero row, and directions that depend on others but for rounding, get a unit pivot.
        size = jnp.sqrt(jnp.abs(jnp.diagonal(energy)))
        scale = jnp.where(size > 0, 1 / jnp.where(size > 0, size, 1), 0)
        scaled = scale[:, None] * energy * scale
        guard = 10 * len(rows) * jnp.finfo(size.dtype).eps
        scaled = scaled + jnp.diag(jnp.where(scale > 0, guard, 1).astype(scaled.dtype))
        return rows, image, jnp.linalg.cholesky(scaled), scale

    def apply(self, operator, prepared, b, transpose):
        x, k, _ = self._iterate(operator, prepared, b, transpose, 0)
        return x, k

    def _iterate(self, operator, prepared, b, transpose, window: int):
        (rows, image, factor, scale), prepared = prepared
        if transpose:
            b = _tree.conj(b)  # Aᵀ x = b is A x̄ = b̄ for a Hermitian A
        precondition = preconditioner(self.preconditioner, operator, prepared, False)
        target, limit = _stopping.target(self.rtol, b), _stopping.steps(self.max_steps, operator)

        def coarse(moments):
            """(Wᴴ A W)⁻¹."""
            return scale * jsl.cho_solve((factor, True), scale * moments)

        def within(v):
            """W (Wᴴ A W)⁻¹ v."""
            return _tree.unravel(_times(rows.T, coarse(v)), b)

        def corrected(r):
            """z − W (Wᴴ A W)⁻¹ (A W)ᴴ z for z = M r, which is conjugate to W; and W (Wᴴ A W)⁻¹ Wᴴ r, which
            is nothing but the rounding that the other part cannot see."""
            z = precondition(r)
            z = jtu.tree_map(jnp.subtract, z, within(_times(image.conj(), _tree.ravel(z))))
            return jtu.tree_map(jnp.add, z, within(_times(rows.conj(), _tree.ravel(r))))

        x = within(_times(rows.conj(), _tree.ravel(b)))
        r = _tree.axpy(-1.0, operator.mv(x), b)
        z = corrected(r)
        flat = _tree.ravel(b)
        empty = jnp.zeros((window, flat.size), flat.dtype)

        def unfinished(carry):
            k, _, r, _, rho, _ = carry
            return (k < limit) & (_tree.norm(r) > target) & (rho > 0) & jnp.isfinite(rho)

        def iterate(carry):
            k, x, r, p, rho, seen = carry
            ap = operator.mv(p)
            energy = _tree.dot(p, ap).real
            alpha = rho / energy
            if window:
                unit = 1 / jnp.sqrt(energy)
                seen = jtu.tree_map(
                    lambda s, v: s.at[k].set(unit * _tree.ravel(v), mode="drop"), seen, (p, ap)
                )
            x, r = _tree.axpy(alpha, p, x), _tree.axpy(-alpha, ap, r)
            z = corrected(r)
            new = _tree.dot(r, z).real
            return k + 1, x, r, _tree.axpy(new / rho, p, z), new, seen

        first = (jnp.array(0), x, r, z, _tree.dot(r, z).real, (empty, empty))
        k, x, _, _, _, seen = _tree.while_loop(unfinished, iterate, first)
        return _tree.conj(x) if transpose else x, k, seen

    @staticmethod
    def empty(like: PyTree, count: int, **options) -> "DeflatedCG":
        """A solver without directions yet: `count` zero vectors; `options` are the other arguments."""
        zeros = jtu.tree_map(lambda x: jnp.zeros((count, *x.shape), x.dtype), like)
        return DeflatedCG(zeros, **options)

    def recycle(
        self, operator: Operator, b: PyTree[Array]
    ) -> tuple[PyTree[Array], Array, Array, "DeflatedCG"]:
        """Solve A x = b, and learn.

        **Returns:** x (NaN unless it is accepted), whether it is, iterations, and the solver for the next.
        """
        operator, b = _tree.stop_gradient((operator, b))
        prepared = self.prepare(operator)
        iterate = lambda unit: self._iterate(operator, prepared, unit, False, self.window)
        x, ok, k, seen = _stopping.learned(self, operator, b, iterate)
        rows, image = prepared[0][0], prepared[0][1]
        scale = prepared[0][3][:, None]
        every, images = (
            jnp.concatenate([scale * rows, seen[0]]),
            jnp.concatenate([scale * image, seen[1]]),
        )
        new = _harmonic(every, images, len(rows))
        # Without one finite direction, what there was.
        new = jnp.where(jnp.all(jnp.isfinite(new)), new, rows)
        basis = jax.vmap(lambda w: _tree.unravel(w, b))(new)
        return (
            x,
            ok,
            k,
            DeflatedCG(basis, self.rtol, self.max_steps, self.preconditioner, self.check, self.window),
        )


def _harmonic(z: Array, az: Array, count: int) -> Array:
    """The `count` harmonic Ritz vectors of the smallest values in the span of the rows of z, of length one.

    (A Z)ᴴ(A Z) y = θ Zᴴ A Z y. With A Z made orthonormal, the largest eigenvalues 1/θ of Zᴴ A Z are wanted.
    """
    gram = _times(az.conj(), az.T)
    size = jnp.sqrt(jnp.abs(jnp.diagonal(gram)))
    scale = jnp.where(size > 0, 1 / jnp.where(size > 0, size, 1), 0)
    values, vectors = jnp.linalg.eigh(scale[:, None] * gram * scale)
    # Zero rows, and rows that depend on others but for rounding, are left out.
    kept = values > len(z) * 100 * jnp.finfo(values.dtype).eps * jnp.max(values)
    whiten = scale[:, None] * vectors * jnp.where(kept, 1 / jnp.sqrt(jnp.where(kept, values, 1)), 0)
    energy = _times(z.conj(), az.T)
    inverse, y = jnp.linalg.eigh(_times(whiten.conj().T, _times(energy, whiten)))
    chosen = _times(_times(whiten, y)[:, -count:].T, z)
    length = jnp.sqrt(jnp.sum(jnp.abs(chosen) ** 2, axis=1, keepdims=True))
    good = (inverse[-count:, None] > 0) & (length > 0)
    return jnp.where(good, chosen / jnp.where(good, length, 1), 0).astype(z.dtype)
