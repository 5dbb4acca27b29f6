"""A structured matrix with a few dense rows and columns."""

import equinox as eqx
import jax
import jax.numpy as jnp

from .. import _tree
from ._banded import dtype_of, products, raveled, refined, tiny, whole
from ._operator import Operator
from ._small import diagonal, lu_factor, lu_solve
from ._solver import AbstractLinearSolver


class Bordered(AbstractLinearSolver):
    """[[A, B], [C, D]] (y, z) = (f, g) with a structured A, by the Schur complement S = D − C A⁻¹ B.

    S z = g − C A⁻¹ f, then A y = f − B z. For global unknowns (a period, a mean, a multiplier), an
    integral condition, or a ring: `Bordered(Banded(1, 1), border=1)`.

    **Arguments:**

    - `inner`: the solver of A, all but the last unknowns of the raveled one.
    - `border`: how many unknowns are last, at least 1. They cost as many solves with A, once.
    - `refinements`, `check`: see `jaxsci.linear.LU`.

    **Raises:** `ValueError` if `border` is not between 1 and n − 1.

    **Limits:** A itself has to be regular; for a singular one x is NaN. For one that is nearly singular
    take more `refinements`.
    """

    inner: AbstractLinearSolver
    border: int = eqx.field(static=True)
    refinements: int = eqx.field(static=True, default=1)
    check: float | None = None

    def __check_init__(self):
        whole("border", self.border, 1)
        whole("refinements", self.refinements)

    @property
    def direct(self):
        return self.inner.direct

    def leading(self, operator: Operator) -> Operator:
        """A, on the unknowns before the border."""
        n = operator.size - self.border
        if n < 1:
            raise ValueError(
                f"`border` is {self.border} and the operator has {operator.size} unknowns; expected fewer. "
                "Use jaxsci.linear.LU() where all of them are border."
            )
        mv = raveled(operator, False)
        like = _tree.vary_like(jnp.zeros(n, dtype_of(operator)), operator.like)
        return Operator(lambda y: mv(jnp.pad(y, (0, self.border)))[:n], like, None, operator.tags)

    def prepare(self, operator: Operator):
        leading, dtype, k = self.leading(operator), dtype_of(operator), self.border
        n = leading.size
        last = jnp.eye(k, n + k, n, dtype=dtype)
        columns, rows = products(operator, last), products(operator.transpose(), last)
        b, c, d = columns[:, :n], rows[:, :n], columns[:, n:].T
        factors = self.inner.prepare(leading)
        solve = lambda f: self.inner.apply(leading, factors, f, False)[0]
        schur = d - jnp.matmul(c, jax.vmap(solve)(b).T, precision=jax.lax.Precision.HIGHEST)
        scale = jnp.max(jnp.abs(schur), axis=1, keepdims=True)
        scale = 1 / jnp.where(scale == 0, 1, scale)
        lu, order = lu_factor(scale * schur)
        bad = tiny(jnp.abs(diagonal(lu)), k)
        return factors, b, c, (jnp.where(bad, jnp.nan, scale[:, 0]), lu, order)

    def apply(self, operator, prepared, b, transpose):
        factors, columns, rows, (scale, lu, order) = prepared
        leading = self.leading(operator)
        n = leading.size
        multiply = lambda a, x: jnp.matmul(a, x, precision=jax.lax.Precision.HIGHEST)
        inner = lambda f: self.inner.apply(leading, factors, f, transpose)[0]
        right, below = (rows, columns) if transpose else (columns, rows)

        def back(r):
            f, g = r[:n], r[n:]
            y = inner(f)
            g = g - multiply(below, y)
            z = scale * lu_solve(lu, order, g, True) if transpose else lu_solve(lu, order, scale * g, False)
            return jnp.concatenate([y - inner(multiply(right.T, z)), z])

        v = _tree.vary_like(_tree.ravel(b), prepared)
        x = refined(back, raveled(operator, transpose), v, self.refinements)
        return _tree.unravel(x, b), jnp.array(0)

    def faults(self, operator, seed):
        return self.inner.faults(self.leading(operator), seed)
