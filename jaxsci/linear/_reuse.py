"""Factors of a nearby operator, used again."""

from typing import Any, ClassVar

import jax.numpy as jnp

from .. import _tree
from ._operator import Operator
from ._solver import AbstractLinearSolver

STEPS = 8
"""Refinement steps before the factors are given up."""


class Reuse(AbstractLinearSolver):
    """Solves with A by the factors of a nearby B: x ← x + B⁻¹(b − A x), O(n²) and one product a step.

    Newton's method ends with the factors of the Jacobian one step before the solution: they differ from
    those at the solution by about the tolerance, and two or three steps reach rounding. If they do not
    (the residual does not fall below 30 times the precision in 8 steps), A is factorised after all.

    **Arguments:**

    - `solver`: the direct solver that made the factors.
    - `factors`: what its `prepare` returned for B.
    """

    # From this number of unknowns on it is quicker than to factorise again.
    SMALLEST: ClassVar[int] = 32

    solver: AbstractLinearSolver
    factors: Any

    @property
    def check(self):
        return self.solver.check

    @property
    def direct(self):
        return False

    def prepare(self, operator: Operator):
        return None

    def apply(self, operator, prepared, b, transpose):
        mv = (operator.transpose() if transpose else operator).mv
        size = _tree.norm(b)
        target = 30 * jnp.finfo(size.dtype).eps * size

        def refine(carry):
            k, x, r, _ = carry
            correction, _ = self.solver.apply(operator, self.factors, r, transpose)
            x = _tree.axpy(1.0, correction, x)
            return k + 1, x, _tree.axpy(-1.0, mv(x), b), _tree.norm(r)

        def unfinished(carry):
            k, _, r, before = carry
            # Factors that do not reduce the residual tenfold are no neighbors.
            return (k < STEPS) & (_tree.norm(r) > target) & ~(_tree.norm(r) > 0.1 * before)

        zero = _tree.scaled(0.0, b)
        first = (jnp.array(0), zero, b, jnp.full_like(size, jnp.inf))
        k, x, r, _ = _tree.while_loop(unfinished, refine, first)

        def factorise(_):
            factors = self.solver.prepare(operator)
            return self.solver.apply(operator, factors, b, transpose)[0], jnp.array(True)

        # A loop and not a `cond`, of which `vmap` would execute both branches.
        good = _tree.norm(r) <= target
        x, _ = _tree.while_loop(lambda carry: ~carry[1], factorise, (x, good))
        return x, k
