"""The solvers of this package as solvers of Lineax."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx

from .. import _tree
from ._operator import Operator
from ._solver import AbstractLinearSolver, check_linear_solver


def _as_operator(operator: lx.AbstractLinearOperator, preconditioner) -> Operator:
    like = operator.in_structure()
    promised = {lx.symmetric_tag: lx.is_symmetric, lx.positive_semidefinite_tag: lx.is_positive_semidefinite}
    tags = frozenset(tag for tag, holds in promised.items() if holds(operator))
    dense = operator.as_matrix() if isinstance(operator, lx.MatrixLinearOperator) else None
    mv = lambda x: _tree.unravel(_tree.ravel(operator.mv(x)), like)
    m = None if preconditioner is None else lambda r: _tree.unravel(_tree.ravel(preconditioner.mv(r)), like)
    return Operator(mv, like, dense, tags, m)


class _State(eqx.Module):
    """An operator and what the solver has prepared for it; A, Aᵀ, Ā or Aᴴ is solved with."""

    operator: lx.AbstractLinearOperator
    preconditioner: lx.AbstractLinearOperator | None
    prepared: Any
    transposed: bool = eqx.field(static=True)
    conjugated: bool = eqx.field(static=True)

    def turned(self, transposed: bool, conjugated: bool) -> "_State":
        turned = self.transposed != transposed, self.conjugated != conjugated
        return _State(self.operator, self.preconditioner, self.prepared, *turned)


class _LineaxSolver(lx.AbstractLinearSolver):
    solver: AbstractLinearSolver

    def init(self, operator, options):
        if operator.in_size() != operator.out_size():
            raise ValueError(
                f"`operator` maps {operator.in_size()} scalars to {operator.out_size()}; expected as many. "
                "Use lineax.SVD() for least squares."
            )
        operator, preconditioner = lx.linearise(operator), options.get("preconditioner")
        prepared = self.solver.prepare(_as_operator(operator, preconditioner))
        return _State(operator, preconditioner, prepared, False, False)

    def compute(self, state, vector, options):
        operator = _as_operator(state.operator, state.preconditioner)
        b = _tree.unravel(_tree.ravel(vector), operator.like)
        # Ā x = b is A x̄ = b̄.
        b = _tree.conj(b) if state.conjugated else b
        x, residual, ok, steps = self.solver.attempt(operator, state.prepared, b, transpose=state.transposed)
        x = _tree.conj(x) if state.conjugated else x
        x = _tree.where(ok, x, jax.tree.map(lambda u: jnp.full_like(u, jnp.nan), x))
        original = state.operator
        wanted = original.out_structure() if state.transposed else original.in_structure()
        results = lx.RESULTS
        failed = results.where(steps > 0, results.breakdown, results.singular)
        result = results.where(ok, results.successful, failed)
        stats = {"num_steps": steps, "max_steps": None, "residual": residual}
        return _tree.unravel(_tree.ravel(x), wanted), result, stats

    def transpose(self, state, options):
        return state.turned(True, False), {}

    def conj(self, state, options):
        return state.turned(False, True), {}

    def assume_full_rank(self):
        return self.solver.exact


def as_lineax(solver: AbstractLinearSolver) -> lx.AbstractLinearSolver:
    """The same solver for `lineax.linear_solve`, and so for Optimistix and Diffrax.

    `optimistix.Newton(rtol, atol, linear_solver=as_lineax(Banded(1, 1)))`, which is also a root finder for
    the implicit solvers of Diffrax; `jaxsci.interop.diffrax_root_finder` factorises less often.

    Structured solvers take products with the operator, so a `lineax.JacobianLinearOperator` never becomes
    an array. Factors serve A, Aᵀ and their conjugates, so a gradient factorises nothing again. The option
    `preconditioner` of `lineax.linear_solve` is a linear operator M ≈ A⁻¹, for the matrix-free solvers.

    **Arguments:**

    - `solver`: a solver of `jaxsci.linear`.

    **Returns:** a `lineax.AbstractLinearSolver`. Its stats: `num_steps` (0 for a direct solver) and
    `residual` = ‖b − A x‖₂/‖b‖₂. A solution that fails the check is NaN, with `lineax.RESULTS.singular` from
    a direct solver and `lineax.RESULTS.breakdown` from an iterative one.

    **Raises:** `TypeError` if `solver` is none; `ValueError` for an operator that is not square.

    **Limits:** `diffrax.VeryChord` wants a state of arrays only and refuses this one with a `TypeError`: it
    holds A, to check the residual. Lineax does not run inside `jax.shard_map`; the solvers do.
    """
    check_linear_solver(solver)
    if solver is None:
        raise TypeError("`solver` is None; expected a solver of jaxsci.linear, such as jaxsci.linear.LU().")
    return _LineaxSolver(solver)
