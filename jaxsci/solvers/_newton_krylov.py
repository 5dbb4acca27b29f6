"""Newton's method with linear systems that are solved no better than the step is worth."""

import dataclasses
import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optimistix as optx
from jaxtyping import Array, Bool

from .. import _tree
from .._solution import RESULTS
from ..linear import CG, GMRES, AbstractLinearSolver, AbstractPreconditioner, Operator
from ..linear._operator import linearized
from ..linear._solver import check_linear_solver
from ._globalization import Progress, backtrack, relative_length, start
from ._plain import AbstractPlainSolver, check_tolerances


class _State(eqx.Module):
    progress: Progress
    forcing: Array  # η of the next system
    near: Array  # ‖M F‖₂ at the current point; ‖F‖₂ without a preconditioner


class NewtonKrylov(AbstractPlainSolver, optx.AbstractRootFinder):
    """y ← y + t s with ‖F + (∂F/∂y) s‖ ≤ η ‖F‖: inexact Newton with the forcing terms of Eisenstat and
    Walker,

        ηₖ = γ (‖Fₖ‖ / ‖Fₖ₋₁‖)²,   but not below γ ηₖ₋₁² where that is over 0.1,

    so that early systems are solved roughly and late ones well: convergence is of second order, and few
    Krylov iterations are spent. Never needs ∂F/∂y as an array. t = 1, ½, ¼, … until ‖F‖ falls.

    The `preconditioner` of the residual, if it has one, is used by a linear solver that has none of its
    own: on the right in GMRES, so that η is of the true residual. The implicit rule uses it transposed.

    Stops when a full step, of a system that was solved to η = 0.1 or better, is shorter than
    `atol + rtol ‖y‖` (root-mean-square norms), or when the next one will be: with the condition κ of M ∂F/∂y
    that the Krylov solver's convergence shows, it is at most κ ‖s‖ ‖M F(y + s)‖ / ‖M F(y)‖.

    Plain JAX without callbacks, also inside `jax.shard_map`; keeps the sharding of the unknown; under
    `vmap` every lane stops on its own. Also an `optimistix.AbstractRootFinder`.

    **Arguments:**

    - `rtol`, `atol`: relative (dimensionless) and absolute (unit of y) tolerance of the step.
    - `linear_solver`: a Krylov solver of `jaxsci.linear`, whose `rtol` is replaced by η; None: CG where
      ∂F/∂y was promised positive definite, GMRES otherwise.
    - `first_forcing`: η of the first system (dimensionless).
    - `largest_forcing`: bound on η, in (0, 1).
    - `gamma`: γ, in (0, 1].
    - `halvings`: step halvings tried before the step is called stalled.

    **Limits:** local convergence, as Newton's; a Krylov solver that does not reduce the residual at all
    ends the solve with `RESULTS.singular_system`.

    **Reference:** Eisenstat & Walker, Choosing the forcing terms in an inexact Newton method, SIAM J. Sci.
    Comput. 17, 1996; Knoll & Keyes, Jacobian-free Newton–Krylov methods, J. Comput. Phys. 193, 2004.
    """

    rtol: float
    atol: float
    linear_solver: AbstractLinearSolver | None
    first_forcing: float
    largest_forcing: float
    gamma: float
    halvings: int
    norm: Any

    def __init__(
        self,
        rtol: float,
        atol: float,
        *,
        linear_solver: AbstractLinearSolver | None = None,
        first_forcing: float = 0.1,
        largest_forcing: float = 0.5,
        gamma: float = 0.9,
        halvings: int = 20,
    ):
        check_tolerances(rtol, atol)
        check_linear_solver(linear_solver)
        if linear_solver is not None and "rtol" not in {f.name for f in dataclasses.fields(linear_solver)}:
            raise ValueError(
                f"`linear_solver` is {type(linear_solver).__name__}, which has no `rtol` for the forcing "
                "term to set. Use a Krylov solver, such as jaxsci.linear.GMRES(), or jaxsci.solvers.Newton."
            )
        for name, value, upper in (
            ("first_forcing", first_forcing, 1),
            ("largest_forcing", largest_forcing, 1),
            ("gamma", gamma, 1 + 1e-15),
        ):
            if not 0 < value < upper:
                raise ValueError(f"`{name}` is {value!r}; expected a number between 0 and 1, such as 0.1.")
        self.rtol = rtol
        self.atol = atol
        self.linear_solver = linear_solver
        self.first_forcing = first_forcing
        self.largest_forcing = largest_forcing
        self.gamma = gamma
        self.halvings = halvings
        self.norm = optx.rms_norm

    def init(self, fn, y, args, options, f_struct, aux_struct, tags):
        progress = start(lambda y: fn(y, args)[0], y)
        near = _tree.norm(self._near(options, y)(progress.f))
        return _State(progress, jnp.full_like(progress.size, self.first_forcing), near)

    def _near(self, options, y):
        """M at y, if it is a function that does not have to be made first."""
        own = None if self.linear_solver is None else vars(self.linear_solver).get("preconditioner")
        if own is not None:
            return (lambda r: r) if isinstance(own, AbstractPreconditioner) else own
        near = options.get("preconditioner")
        return (lambda r: r) if near is None else functools.partial(near, y)

    def step(self, fn, y, args, options, state, tags):
        residual = lambda y: fn(y, args)[0]
        before, forcing = state.progress, state.forcing
        near = options.get("preconditioner")
        near = None if near is None else functools.partial(near, y)
        operator = Operator(linearized(residual, y), y, None, tags, near)
        solver = self.linear_solver
        if solver is None:
            solver = CG() if operator.positive else GMRES()
        solver = dataclasses.replace(solver, rtol=forcing)
        # As far as it came: any s with ‖F + J s‖ < ‖F‖ is a direction of descent of ‖F‖.
        step, rest, _, iterations = solver.attempt(operator, solver.prepare(operator), before.f)
        usable = (rest < 1) & jnp.isfinite(_tree.norm(step))
        direction = jax.tree.map(jnp.negative, step)
        short = relative_length(direction, y, self.rtol, self.atol)
        t, f, size, gained = backtrack(
            residual, y, direction, before.size, 1 - jnp.minimum(rest, 1), short <= 1, self.halvings
        )
        close = _tree.norm(self._near(options, y)(f))
        y = _tree.where(usable, _tree.axpy(t, direction, y), y)

        ratio = size / jnp.where(before.size == 0, 1, before.size)
        floor = self.gamma * forcing**2
        new = self.gamma * ratio**2
        new = jnp.where(floor > 0.1, jnp.maximum(new, floor), new)
        # Not below what the last digits of F allow, nor zero.
        least = 30 * jnp.finfo(size.dtype).eps
        # CG reduces the residual by q = (√κ − 1)/(√κ + 1) an iteration, about. In the norm that goes with it
        # ‖A⁻¹r‖ lies between ‖M r‖ and κ ‖M r‖, times a constant that s = A⁻¹F(y) shows.
        q = jnp.clip(rest, least, 1) ** (1 / jnp.maximum(iterations, 1))
        condition = ((1 + q) / jnp.maximum(1 - q, least)) ** 2
        if not operator.positive:
            condition = 10 * condition  # what the rate of GMRES tells of κ is less sure
        ahead = short * condition * close / jnp.where(state.near == 0, 1, state.near)
        new = jnp.clip(new, least, self.largest_forcing).astype(size.dtype)
        # A short step of a system that was hardly solved tells nothing: solve the next one better.
        told = (t == 1) & (rest <= 0.1)
        new = jnp.where((short <= 1) & ~told, jnp.minimum(new, 0.1), new)
        progress = Progress(
            _tree.where(usable, f, before.f),
            jnp.where(usable, size, before.size),
            jnp.where(told & usable, jnp.minimum(short, ahead), jnp.inf),
            usable & ~gained,
            ~usable & (before.size > 0),
            before.linear_iterations + iterations,
        )
        return y, _State(progress, new, jnp.where(usable, close, state.near)), None

    def status(self, state) -> tuple[Bool[Array, ""], RESULTS]:
        """Whether to stop, and with which result."""
        return state.progress.status

    def postprocess(self, fn, y, aux, args, options, state, tags, result):
        return y, aux, {"linear_iterations": state.progress.linear_iterations}
