"""Quadratic programs as layers."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .. import _tree
from .._adjoint import AbstractAdjoint, ImplicitAdjoint, attach
from .._solution import RESULTS, Solution, Stats
from .._solve import solve
from ..residuals import QuadraticProgram
from ..solvers import InteriorPoint
from ._implicit import value_of


class QPLayer(eqx.Module):
    """argmin over x of ½ xᵀP x + qᵀx subject to A x = b, G x ≤ h, as a layer.

    Each of the six may be a field (a parameter, if it is trained) or an argument of the call, which goes
    first; x is differentiable in all of them, in forward and reverse mode and to any order. Batch with
    `jax.vmap`; every lane has its own result.

    **Arguments:**

    - `P`, `q`, `A`, `b`, `G`, `h`: see `jaxsci.residuals.QuadraticProgram`; None for those that are absent or
      given to the call.
    - `solver`: `jaxsci.solvers.InteriorPoint()` by default; any solver with which `jaxsci.solve` solves the
      program, such as `Newton`; or a callable (P, q, A, b, G, h) ↦ (x, ν, λ) with arrays of zero rows for
      absent constraints, whose result is checked against the conditions to the root of the precision.
    - `adjoint`, `max_steps`: as in `ImplicitLayer`.
    - `throw`: raise an error if a program is infeasible, unbounded or not solved. With False, or inside
      `jax.shard_map`, the failed lane of a batch is NaN instead, and so is every derivative through it.
    - `biactive_tol`, `one_sided`: where a constraint is active without a force (λ = 0 = h − G x) there are
      two derivatives. By default the derivative is NaN there; with `one_sided` that with the constraint
      held inactive. See `jaxsci.KKT`.

    **Limits:** dense; P positive semidefinite (checked in each solve by `InteriorPoint`). The derivative
    exists where x is unique and active rows are independent. For a linear program (P = 0) x is a vertex
    and does not move with q: add a small multiple of ‖x‖² to learn costs.

    **Reference:** Amos & Kolter, OptNet: differentiable optimization as a layer in neural networks,
    ICML 2017.
    """

    P: Float[Array, "n n"] | None = None
    q: Float[Array, " n"] | None = None
    A: Float[Array, "m n"] | None = None
    b: Float[Array, " m"] | None = None
    G: Float[Array, "k n"] | None = None
    h: Float[Array, " k"] | None = None
    solver: Any = eqx.field(default=InteriorPoint(), kw_only=True)
    adjoint: AbstractAdjoint = eqx.field(default=ImplicitAdjoint(), kw_only=True)
    max_steps: int = eqx.field(static=True, default=100, kw_only=True)
    throw: bool = eqx.field(static=True, default=True, kw_only=True)
    biactive_tol: float | None = eqx.field(static=True, default=None, kw_only=True)
    one_sided: bool = eqx.field(static=True, default=False, kw_only=True)

    def __call__(self, **given: Array) -> Float[Array, " n"]:
        """x, for one sample. The arguments P, q, A, b, G, h replace the layer's."""
        solution = self.solve(**given)
        # A failed lane reads everything: else what is behind an inactive row would have a derivative, 0.
        failed = jnp.where(solution.result == RESULTS.successful, 0, jnp.nan).astype(solution.value[0].dtype)
        arrays = self.program(**given).quadratic_program(None, None)
        return value_of(solution)[0] + failed * sum(jnp.sum(x) for x in arrays)

    def solve(self, **given: Array) -> Solution:
        """The whole `jaxsci.Solution`; its value is (x, ν, λ): ν belongs to A x = b and λ to G x ≤ h."""
        program = self.program(**given)
        if callable(self.solver):
            return self._called(program)
        return solve(
            program,
            self.solver,
            program.start,
            adjoint=self.adjoint,
            throw=self.throw,
            max_steps=self.max_steps,
        )

    def program(self, **given: Array) -> QuadraticProgram:
        """The residual that is solved and differentiated."""
        names = ("P", "q", "A", "b", "G", "h")
        unknown = sorted(set(given) - set(names))
        if unknown:
            raise TypeError(f"`{unknown[0]}` is no part of the program; expected some of {', '.join(names)}.")
        arrays = (self.P, self.q, self.A, self.b, self.G, self.h)
        parts = dict(zip(names, arrays, strict=True)) | given
        return QuadraticProgram(**parts, biactive_tol=self.biactive_tol, one_sided=self.one_sided)

    def _called(self, program: QuadraticProgram) -> Solution:
        """What a callable returned, checked and with its derivatives."""
        fixed = _tree.stop_gradient(program)
        y = self.solver(fixed.P, fixed.q, fixed.A, fixed.b, fixed.G, fixed.h)
        shapes = [jnp.shape(x) for x in y] if isinstance(y, tuple | list) else y
        if shapes != [x.shape for x in program.start]:
            raise ValueError(
                f"`solver` returned {shapes}; expected (x, ν, λ) of shapes "
                f"{[x.shape for x in program.start]}."
            )
        y = tuple(jnp.asarray(x, program.q.dtype) for x in y)
        y = jax.lax.stop_gradient(y)
        errors = fixed.optimality(y, None)
        small = jnp.finfo(program.q.dtype).eps ** 0.5
        solved = _tree.max_abs(errors) <= small * (1 + _tree.max_abs((fixed.q, fixed.b, fixed.h, y)))
        result = RESULTS.where(solved, RESULTS.successful, RESULTS.foreign_failure)
        if self.throw and not _tree.in_manual_region():
            y = result.error_if(y, ~solved)
        elif self.throw:
            y = jax.tree.map(lambda x: jnp.where(solved, x, jnp.nan), y)
        size = _tree.norm(errors) / max(_tree.size(y), 1) ** 0.5
        y = attach(program, y, adjoint=self.adjoint)
        return Solution(y, None, result, Stats(jnp.array(0), size, jnp.array(0)))
