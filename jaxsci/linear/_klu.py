"""SuiteSparse's direct solver for circuits and networks, on the CPU."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from .. import _tree
from ._operator import Operator
from ._pattern import Pattern
from ._solver import AbstractLinearSolver


class KLU(AbstractLinearSolver):
    """P A Q = L U for a sparse A of a known pattern by SuiteSparse's KLU, through the package sparsax.

    The entries come from one product for each color of the pattern. A compiled call and no Python callback:
    it runs inside `jax.jit` and `lax.scan`, and under `jax.vmap` one call does the batch. The order of
    elimination is found once for each pattern, and what has been factorised is kept while the entries
    do not change, so that Aᵀ, refinement and a second b cost a solve. Fewer operations than `Sparse` where no
    order gives a narrow band.

    **Arguments:**

    - `pattern`: see `jaxsci.linear.Sparse`.
    - `check`, `refinements`: see `jaxsci.linear.LU`.

    **Raises:** `ImportError` without sparsax (`pip install "jaxsci[sparse]"`); `ValueError` for a pattern
    that is not exact, or without 64-bit precision (`jax.config.update("jax_enable_x64", True)`);
    `TypeError` for complex unknowns.

    **Limits:** real numbers, computed in float64; on the CPU only, and not inside `jax.shard_map`. A singular
    A stops the whole program with an error, and not with NaN in its lane.

    **Reference:** Davis & Palamadai Natarajan, ACM Trans. Math. Softw. 37 (2010) 36.
    """

    pattern: Pattern = eqx.field(static=True)
    check: float | None
    refinements: int

    def __init__(self, pattern: Any, *, check: float | None = None, refinements: int = 1):
        _sparsax()
        self.pattern = pattern if isinstance(pattern, Pattern) else Pattern(pattern)
        self.pattern.require_exact()
        self.check = check
        self.refinements = refinements

    def prepare(self, operator: Operator):
        values = self.pattern.values(operator)
        if jnp.iscomplexobj(values):
            raise TypeError(
                "The unknown is complex, and `KLU` is for real systems. Use jaxsci.linear.Sparse, or solve "
                "for real and imaginary parts."
            )
        if not jax.config.read("jax_enable_x64"):
            raise ValueError(
                "`KLU` computes in float64, which is off. Call "
                'jax.config.update("jax_enable_x64", True), or use jaxsci.linear.Sparse.'
            )
        return values

    def apply(self, operator, prepared, b, transpose):
        ends = (self.pattern.rows, self.pattern.columns)
        out, into = ends[::-1] if transpose else ends
        v = _tree.ravel(b)
        back = lambda r: _sparsax().lu_solve(out, into, prepared, r).astype(r.dtype)
        x = back(v)
        for _ in range(self.refinements):
            x = x + back(v - jnp.zeros_like(v).at[out].add(prepared * x[into]))
        return _tree.unravel(x, b), jnp.array(0)


def _sparsax() -> Any:
    try:
        import sparsax
    except ImportError as error:
        raise ImportError(
            f"jaxsci.linear.KLU needs sparsax, which cannot be imported ({error}). Install it (`pip install "
            'sparsax`, or "jaxsci[sparse]"), or use jaxsci.linear.Sparse, which needs nothing.'
        ) from error
    return sparsax
