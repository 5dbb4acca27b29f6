"""What a solve gives back."""

from typing import Any

import equinox as eqx
import optimistix as optx
from jaxtyping import Array, PyTree


class RESULTS(optx.RESULTS):  # pyright: ignore
    """How a solve ended; every message carries the remedy. Extends `optimistix.RESULTS`."""

    successful = ""
    stagnated = (
        "The solver could not reduce the residual any further, and the residual is not small enough. "
        "Loosen `rtol`/`atol` to what the precision of the inputs allows, scale the unknowns and the "
        "equations to order one, or start closer to the solution."
    )
    singular_system = (
        "The linear system of a Newton step is singular. The unknowns are not determined by the "
        "equations near this point: remove redundant unknowns, add the missing equation, or use a "
        "least-squares residual with a ridge."
    )
    derivative_failed = (
        "The linear system of a derivative could not be solved: the Jacobian of the optimality condition is "
        "singular at the solution, or the linear solver did not converge. `jaxsci.check(residual, y, args)` "
        "tells which. Remove redundant unknowns or add an equation; ask for the shortest derivative with "
        "`ImplicitAdjoint(well_posed=False)`; or give the linear solver a preconditioner."
    )
    infeasible = (
        "No point meets all constraints: multipliers prove that they contradict each other. Loosen the "
        "bounds, remove a constraint, or add slack variables with a penalty."
    )
    unbounded = (
        "The objective falls without bound along a direction that the constraints allow. Add the missing "
        "constraint, or a positive definite term to the objective."
    )
    not_convex = (
        "The matrix of the quadratic objective has a negative eigenvalue, so that a point that meets the "
        "optimality conditions need not be a minimum. Make it positive semidefinite, as LᵀL for instance."
    )
    foreign_failure = (
        "The wrapped solver stopped before it met its own tolerance. Raise its iteration limit, "
        "loosen its tolerance, or start closer to the solution."
    )


class Stats(eqx.Module):
    """Figures about one solve.

    **Fields:**

    - `steps`: iterations of the solver (int; dimensionless).
    - `residual_norm`: root-mean-square of the optimality condition F(y*, θ) at the value that is
      returned (the unit of F). This is what the implicit function theorem asks to vanish.
    - `linear_iterations`: iterations of the linear solver over all steps; 0 for direct solvers and
      for solvers that do not count them.
    """

    steps: Array
    residual_norm: Array
    linear_iterations: Array


class Solution(eqx.Module):
    """The result of `jaxsci.solve`.

    **Fields:**

    - `value`: y*, of the structure of `y0`; carries the derivatives of the chosen adjoint.
    - `aux`: what the residual's function returned besides its value, at y* (None without `has_aux`).
    - `result`: a `jaxsci.RESULTS` item, one per lane under `vmap`; compare with
      `jaxsci.RESULTS.successful`.
    - `stats`: a `jaxsci.Stats`.
    """

    value: PyTree[Array]
    aux: PyTree[Any]
    result: RESULTS
    stats: Stats
