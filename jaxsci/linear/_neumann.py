"""The Neumann series."""

import equinox as eqx
import jax.numpy as jnp
import jax.tree_util as jtu

from .. import _tree
from ._operator import Operator
from ._solver import AbstractLinearSolver


class Neumann(AbstractLinearSolver):
    """x = Σₖ (I − A)ᵏ b over k < `terms`: an approximation of A⁻¹b for an A near the identity.

    b − A x = (I − A)^terms b, so the relative residual, which is checked, is the part of b that the sum
    has left; the error of x is A⁻¹ times it. `terms` − 1 products, and one for the check. Matrix-free;
    keeps the sharding of the unknown.

    **Arguments:**

    - `terms`: number of terms, at least 1.
    - `check`: largest accepted ‖(I − A)^terms b‖/‖b‖ (dimensionless); above it x is NaN. The default 1
      refuses a series whose terms have grown; `inf` refuses none.

    **Raises:** `ValueError` if `terms` is no int ≥ 1.

    **Limits:** the series converges only if every eigenvalue of I − A is below one in size. An A of
    another scale needs other methods.
    """

    terms: int = eqx.field(static=True)
    check: float | None = 1.0

    def __check_init__(self):
        if isinstance(self.terms, bool) or not isinstance(self.terms, int) or self.terms < 1:
            raise ValueError(f"`terms` is {self.terms!r}; expected an int ≥ 1.")

    @property
    def direct(self):
        return False

    def prepare(self, operator: Operator):
        return None

    def apply(self, operator, prepared, b, transpose):
        mv = (operator.transpose() if transpose else operator).mv

        def add(_, x):
            return jtu.tree_map(lambda b, x, ax: b + (x - ax), b, x, mv(x))

        # Horner's rule: x ← b + (I − A) x.
        return _tree.fori_loop(self.terms - 1, add, b), jnp.array(self.terms - 1)
