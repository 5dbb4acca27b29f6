"""Sums of Kronecker products, by the eigenvectors of their factors (fast diagonalisation)."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from .. import _tree
from ._banded import raveled, refined, whole
from ._operator import Operator
from ._solver import AbstractLinearSolver
from ._verify import listed, product_faults


def _along(matrix: Array, x: Array, axis: int) -> Array:
    """matrix times x along one axis."""
    product = jnp.tensordot(matrix, x, (1, axis), precision=jax.lax.Precision.HIGHEST)
    return jnp.moveaxis(product, 0, axis)


class Kronecker(AbstractLinearSolver):
    """A = Σₖ 1 ⊗ … ⊗ Aₖ ⊗ … ⊗ 1 + shift, by Aₖ = Vₖ Λₖ Vₖ⁻¹: the tensor product method.

    On an unknown of shape (n₁, …, n_d), Aₖ acts along axis k. In the basis of the eigenvectors A is
    diagonal, so a solve is 2 d products with small dense matrices: O(n Σ nₖ). It is a linear map too,
    `kronecker(r)` = A⁻¹ r (zero, and not NaN, along null vectors): a preconditioner for an operator that
    is nearly A.

    **Arguments:**

    - `matrices`: A₁ … A_d, square arrays.
    - `shift`: a number that is added to the diagonal, in the units of A.
    - `symmetric`: with False, the Aₖ are diagonalisable but not symmetric. Their eigenvectors come from
      NumPy when the solver is made, so their values have to be known then (no tracers).
    - `refinements`, `check`: see `jaxsci.linear.LU`.

    **Raises:** `ValueError` for a matrix that is not square, and for a traced one that is not symmetric.

    **Limits:** of a symmetric matrix the lower triangle is read. Eigenvectors of a matrix that is far from
    normal lose accuracy with the condition of Vₖ; the residual is checked.

    **Reference:** Lynch, Rice & Thomas, Numer. Math. 6 (1964) 185.
    """

    bases: tuple[Array, ...]
    inverses: tuple[Array, ...]
    eigenvalues: Array
    refinements: int = eqx.field(static=True)
    check: float | None

    def __init__(
        self,
        matrices: tuple[Array, ...],
        shift: float | Array = 0.0,
        *,
        symmetric: bool = True,
        refinements: int = 1,
        check: float | None = None,
    ):
        whole("refinements", refinements)
        bases, inverses, total = [], [], jnp.asarray(jax.lax.stop_gradient(shift))
        for k, a in enumerate(matrices):
            a = jax.lax.stop_gradient(jnp.asarray(a))
            if a.ndim != 2 or a.shape[0] != a.shape[1]:
                raise ValueError(f"`matrices[{k}]` has shape {a.shape}; expected a square array.")
            values, v, inverse = _symmetric(a) if symmetric else _general(a, k)
            bases.append(v)
            inverses.append(inverse)
            total = total[..., None] + values
        self.bases, self.inverses, self.eigenvalues = tuple(bases), tuple(inverses), total
        self.refinements, self.check = refinements, check

    def _diagonal(self, r: Array, factor: Array, transpose: bool) -> Array:
        """V diag(factor) V⁻¹ r, or its transpose."""
        x = r.reshape(self.eigenvalues.shape)
        first, then = (self.bases, self.inverses) if transpose else (self.inverses, self.bases)
        turn = lambda a: a.T if transpose else a
        for axis, a in enumerate(first):
            x = _along(turn(a), x, axis)
        x = factor * x
        for axis, a in enumerate(then):
            x = _along(turn(a), x, axis)
        x = jnp.ravel(x)
        return x if jnp.iscomplexobj(r) else x.real

    def _inverse(self, null: float) -> Array:
        """1/λ; `null` where λ is nothing but rounding."""
        size = jnp.abs(self.eigenvalues)
        regular = size > 10 * max(size.shape) * jnp.finfo(size.dtype).eps * jnp.max(size, initial=0)
        return jnp.where(regular, 1 / jnp.where(regular, self.eigenvalues, 1), null)

    def __call__(self, r: PyTree[Array]) -> PyTree[Array]:
        """A⁻¹ r for a pytree of n₁ ⋯ n_d scalars; a component along a null vector gives zero."""
        return _tree.unravel(self._diagonal(_tree.ravel(r), self._inverse(0.0), False), r)

    def prepare(self, operator: Operator):
        if operator.size != self.eigenvalues.size:
            raise ValueError(
                f"`matrices` are for an unknown of shape {self.eigenvalues.shape}, and the operator has "
                f"{operator.size} unknowns; expected {self.eigenvalues.size}."
            )
        return self._inverse(jnp.nan)

    def apply(self, operator, prepared, b, transpose):
        back = lambda r: self._diagonal(r, prepared, transpose)
        x = refined(back, raveled(operator, transpose), _tree.ravel(b), self.refinements)
        return _tree.unravel(x, b), jnp.array(0)

    def faults(self, operator, seed):
        declared = lambda v: self._diagonal(v, self.eigenvalues, False)
        found = product_faults(operator, seed, declared, "the Kronecker sum of `matrices` and `shift`")
        null = np.argwhere(np.isnan(self.prepare(operator)))
        if len(null) > 0:
            found += (f"A is singular: its eigenvalues number {listed(null.tolist())} are zero.",)
        return found


def _symmetric(a: Array) -> tuple[Array, Array, Array]:
    values, v = jnp.linalg.eigh(a)
    return values, v, v.conj().T


def _general(a: Array, k: int) -> tuple[Array, Array, Array]:
    if isinstance(a, jax.core.Tracer):
        raise ValueError(
            f"`matrices[{k}]` is traced, and `symmetric` is False: its eigenvectors are found by NumPy. Make "
            "the solver outside of jit, or use symmetric matrices."
        )
    host = np.asarray(a)
    values, v = np.linalg.eig(host)
    return jnp.asarray(values), jnp.asarray(v), jnp.asarray(np.linalg.inv(v))
