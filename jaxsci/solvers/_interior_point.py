"""A primal–dual interior-point method for convex quadratic programs."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.scipy.linalg as jsl
import optimistix as optx
from jaxtyping import Array, Bool, Float, Int

from .. import _tree
from .._solution import RESULTS
from ._plain import AbstractPlainSolver


class _Program(eqx.Module):
    """min ½ xᵀP x + qᵀx, A x = b, G x ≤ h, with rows and objective scaled to order one."""

    p: Float[Array, "n n"]
    q: Float[Array, " n"]
    a: Float[Array, "m n"]
    b: Float[Array, " m"]
    g: Float[Array, "k n"]
    h: Float[Array, " k"]
    of_objective: Float[Array, ""]
    of_a: Float[Array, " m"]
    of_g: Float[Array, " k"]

    def original(self, x, nu, lam):
        """The multipliers of the program that was given."""
        return x, self.of_objective * nu / self.of_a, self.of_objective * lam / self.of_g

    def errors(self, x, nu, lam):
        """Gradient of the Lagrangian, A x − b, and the slack h − G x."""
        gradient = _mv(self.p, x) + self.q + _mv(self.a.T, nu) + _mv(self.g.T, lam)
        return gradient, _mv(self.a, x) - self.b, self.h - _mv(self.g, x)


class _State(eqx.Module):
    x: Float[Array, " n"]
    nu: Float[Array, " m"]
    lam: Float[Array, " k"]
    slack: Float[Array, " k"]
    merit: Float[Array, ""]  # largest error over its tolerance
    best: Float[Array, ""]
    stale: Int[Array, ""]
    convex: Bool[Array, ""]
    infeasible: Bool[Array, ""]
    unbounded: Bool[Array, ""]


class InteriorPoint(AbstractPlainSolver, optx.AbstractRootFinder):
    """min ½ xᵀP x + qᵀx subject to A x = b, G x ≤ h with P positive semidefinite, by Mehrotra's
    predictor–corrector method on x, ν, λ ≥ 0 and the slack s = h − G x ≥ 0.

    Solves a `jaxsci.residuals.QuadraticProgram` and ends with (x, ν, λ). One LU factorization of n + m
    unknowns a step (n variables, m equalities), regularized and refined; about 5 to 20 steps. At the
    end the equations of the active constraints are solved once, which gives full precision where the
    active set is clear, in float32 as well. There may be no equalities or no inequalities.

    Infeasible and unbounded programs are told from their certificates (`RESULTS.infeasible`,
    `RESULTS.unbounded`), a P with a negative eigenvalue by a Cholesky factorization
    (`RESULTS.not_convex`): they are results, never values that look like solutions.

    Plain JAX on dense arrays, without callbacks, also inside `jax.shard_map`; under `vmap` every lane
    stops on its own. The first guess is not used.

    Why not another: operator splitting (OSQP) stops at low accuracy, and its derivative is as
    inaccurate; qpax is an interior-point method too, with its own derivative rule, which has neither
    forward mode nor second derivatives and smooths the active set. Here the derivative is the one of
    every solver of this package.

    **Arguments:**

    - `rtol`: largest error of each condition relative to the size of its terms (dimensionless), before
      the last solve. None: precision^0.6, which is 4e-10 in float64 and 7e-5 in float32.

    **Limits:** dense, O((n + m)³ + n² k) a step with k inequalities; entries of G and h are finite;
    unknowns and constraints should be of order one. Where the solution is no single point the one
    that is returned is one of them, and it has no derivative.

    **Reference:** Mehrotra, On the implementation of a primal–dual interior point method, SIAM J.
    Optim. 2, 1992; Nocedal & Wright, Numerical Optimization, 2nd ed., §16.6.
    """

    rtol: float | None
    atol: float
    norm: Any

    def __init__(self, rtol: float | None = None):
        if rtol is not None and not 0 < rtol < 1:
            raise ValueError(f"`rtol` is {rtol!r}; expected a number in (0, 1), such as 1e-9, or None.")
        self.rtol = rtol
        self.atol = 0.0
        self.norm = optx.rms_norm

    def init(self, fn, y, args, options, f_struct, aux_struct, tags):
        program = _scaled(y, args, options)
        precision = jnp.finfo(program.q.dtype).eps
        n = program.q.size
        shift = 100 * n * precision * jnp.max(jnp.abs(program.p), initial=0) + jnp.finfo(program.q.dtype).tiny
        convex = jnp.all(
            jnp.isfinite(jnp.linalg.cholesky(program.p + shift * jnp.eye(n, dtype=program.q.dtype)))
        )
        # The minimum with ½‖G x − h‖² in place of the inequalities.
        solve = _newton(program, jnp.ones_like(program.h))
        x, nu = solve(_mv(program.g.T, program.h) - program.q, program.b)
        slack = program.h - _mv(program.g, x)
        low, high = jnp.min(slack, initial=jnp.inf), jnp.max(slack, initial=-jnp.inf)
        lam = jnp.where(high < 0, -slack, -slack + 1 + high)
        slack = jnp.where(low > 0, slack, slack + 1 - low)
        no = jnp.array(False)
        zero = jnp.zeros((), program.q.dtype)
        state = _State(x, nu, lam, slack, zero, zero + jnp.inf, jnp.array(0), convex, no, no)
        return self._judged(program, state)

    def step(self, fn, y, args, options, state, tags):
        program = _scaled(y, args, options)
        x, nu, lam, slack = state.x, state.nu, state.lam, state.slack
        gradient, equality, exact = program.errors(x, nu, lam)
        gap = slack - exact
        solve = _newton(program, lam / slack)

        def direction(product):
            """The Newton step to λ s = λ s − product, with the linear conditions met."""
            dx, dnu = solve(-gradient - _mv(program.g.T, (lam * gap - product) / slack), -equality)
            ds = -gap - _mv(program.g, dx)
            return dx, dnu, -(product + lam * ds) / slack, ds

        count = max(slack.size, 1)
        mu = jnp.vdot(slack, lam) / count
        _, _, dlam, ds = direction(lam * slack)
        t = jnp.minimum(_longest(lam, dlam), _longest(slack, ds))
        ahead = jnp.vdot(slack + t * ds, lam + t * dlam) / count
        centering = (ahead / jnp.where(mu > 0, mu, 1)) ** 3 * mu
        dx, dnu, dlam, ds = direction(lam * slack + dlam * ds - centering)
        t = jnp.minimum(1, 0.99 * jnp.minimum(_longest(lam, dlam), _longest(slack, ds)))
        t = jnp.where(slack.size == 0, 1, t)
        tiny = jnp.finfo(x.dtype).tiny
        state = _State(
            x + t * dx,
            nu + t * dnu,
            jnp.maximum(lam + t * dlam, tiny),
            jnp.maximum(slack + t * ds, tiny),
            state.merit,
            state.best,
            state.stale,
            state.convex,
            state.infeasible,
            state.unbounded,
        )
        state = self._judged(program, state)
        return _tree.shaped_like(y, program.original(state.x, state.nu, state.lam)), state, None

    def _judged(self, program: _Program, state: _State) -> _State:
        """How far a point is from a solution, and whether it proves that there is none."""
        p, q, a, b, g, h = program.p, program.q, program.a, program.b, program.g, program.h
        x, nu, lam = state.x, state.nu, state.lam
        px, ax, gx, forces = _mv(p, x), _mv(a, x), _mv(g, x), _mv(a.T, nu) + _mv(g.T, lam)
        gradient, equality, exact = program.errors(x, nu, lam)
        size = lambda *vectors: jnp.max(jnp.stack([jnp.max(jnp.abs(v), initial=0) for v in vectors]))
        value = 0.5 * jnp.vdot(x, px) + jnp.vdot(q, x)
        rtol = jnp.finfo(q.dtype).eps ** 0.6 if self.rtol is None else self.rtol
        errors = jnp.stack(
            [
                size(gradient) / (1 + size(px, q, forces)),
                size(equality, state.slack - exact) / (1 + size(b, h, ax, gx)),
                jnp.vdot(state.slack, lam) / (1 + jnp.abs(value)),
            ]
        )
        merit = jnp.max(errors) / rtol
        gained = merit < 0.9 * state.best
        # Farkas: Aᵀν + Gᵀλ = 0, λ ≥ 0 and bᵀν + hᵀλ < 0 exclude any feasible x; and along x with P x = 0,
        # A x = 0, G x ≤ 0 and qᵀx < 0 the objective has no bound.
        small = jnp.finfo(q.dtype).eps ** 0.6
        proof = -(jnp.vdot(b, nu) + jnp.vdot(h, lam))
        descent = -jnp.vdot(q, x)
        infeasible = (proof > 0) & (size(forces) <= small * proof)
        unbounded = (descent > 0) & (size(px, ax, jnp.maximum(gx, 0)) <= small * descent)
        return _State(
            x,
            nu,
            lam,
            state.slack,
            merit,
            jnp.where(gained, merit, state.best),
            jnp.where(gained, 0, state.stale + 1),
            state.convex,
            infeasible & (merit > 1),
            unbounded & (merit > 1),
        )

    def status(self, state) -> tuple[Bool[Array, ""], RESULTS]:
        """Whether to stop, and with which result."""
        finite = jnp.isfinite(state.merit)
        stuck = state.stale >= 30
        reason = RESULTS.where(finite, RESULTS.stagnated, RESULTS.nonfinite)
        reason = RESULTS.where(state.unbounded, RESULTS.unbounded, reason)
        reason = RESULTS.where(state.infeasible, RESULTS.infeasible, reason)
        reason = RESULTS.where(state.convex | ~finite, reason, RESULTS.not_convex)
        converged = (state.merit <= 1) & state.convex
        done = converged | ~finite | stuck | state.infeasible | state.unbounded | ~state.convex
        return done, RESULTS.where(converged, RESULTS.successful, reason)

    def postprocess(self, fn, y, aux, args, options, state, tags, result):
        program = _scaled(y, args, options)
        found = _polished(program, state)
        return _tree.shaped_like(y, program.original(*found)), aux, {"linear_iterations": jnp.array(0)}


_PRECISE = jax.lax.Precision.HIGHEST


def _mv(matrix: Array, vector: Array) -> Array:
    return jnp.matmul(matrix, vector, precision=_PRECISE)


def _scaled(y, args, options) -> _Program:
    if "quadratic_program" not in options:
        raise ValueError(
            "`solver` is InteriorPoint, but the residual has no `quadratic_program`; expected "
            "jaxsci.residuals.QuadraticProgram(P, q, A, b, G, h). For other constrained problems use "
            "jaxsci.KKT with jaxsci.solvers.Newton."
        )
    p, q, a, b, g, h = options["quadratic_program"](y, args)
    objective = _or_one(jnp.max(jnp.abs(jnp.concatenate([p, q[None]])), initial=0))
    of_a, of_g = (_or_one(jnp.max(jnp.abs(m), axis=1, initial=0)) for m in (a, g))
    rows = (a / of_a[:, None], b / of_a, g / of_g[:, None], h / of_g)
    return _Program(0.5 * (p + p.T) / objective, q / objective, *rows, objective, of_a, of_g)


def _or_one(size: Array) -> Array:
    return jnp.where(size > 0, size, 1)


def _longest(v: Array, dv: Array) -> Array:
    """The largest t ≤ 1 with v + t dv ≥ 0."""
    falling = dv < 0
    return jnp.min(jnp.where(falling, -v / jnp.where(falling, dv, 1), 1), initial=1)


def _refined_lu(matrix: Array, ridge: Array):
    """b ↦ x with matrix x = b, by factors of matrix + diag(ridge) and two refinements."""
    factors = jsl.lu_factor(matrix + jnp.diag(ridge))

    def solve(b):
        x = jsl.lu_solve(factors, b)
        for _ in range(2):
            x = x + jsl.lu_solve(factors, b - _mv(matrix, x))
        return x

    return solve


def _newton(program: _Program, weights: Array):
    """(r, e) ↦ (x, ν) with (P + Gᵀ diag(w) G) x + Aᵀν = r, A x = e."""
    n, m = program.q.size, program.b.size
    curved = jnp.matmul(program.g.T * weights, program.g, precision=_PRECISE)
    corner = jnp.zeros((m, m), program.q.dtype)
    matrix = jnp.block([[program.p + curved, program.a.T], [program.a, corner]])
    solve = _refined_lu(matrix, _ridge(program, n, m))

    def both(r, e):
        found = solve(jnp.concatenate([r, e]))
        return found[:n], found[n:]

    return both


def _ridge(program: _Program, positive: int, negative: int) -> Array:
    small = jnp.finfo(program.q.dtype).eps ** 0.75
    one = jnp.ones(positive + negative, program.q.dtype)
    return small * one.at[positive:].set(-1)


def _polished(program: _Program, state: _State):
    """The solution of the equations of the active constraints, if it meets all conditions better.

    Which these are, a step with λ ≈ s leaves open: up to five times, the set is the one that the last
    solution claims (the primal–dual active set method).
    """
    first = (state.x, state.nu, state.lam)
    small = 100 * jnp.finfo(program.q.dtype).eps

    def unfinished(carry):
        k, found, _, violation = carry
        return (k == 0) | ((k < 5) & (violation > small * (1 + _tree.max_abs(found))))

    def polish(carry):
        k, found, active, violation = carry
        new = _of_active(program, active)
        error = _violation(program, *new)
        better = error < violation
        claimed = new[2] > program.errors(*new)[2]
        return k + 1, _tree.where(better, new, found), claimed, jnp.where(better, error, violation)

    active = state.lam > state.slack
    carry = (jnp.array(0), first, active, _violation(program, *first))
    return _tree.while_loop(unfinished, polish, carry)[1]


def _of_active(program: _Program, active: Bool[Array, " k"]):
    """(x, ν, λ) with P x + q + Aᵀν + Gᵀλ = 0, A x = b, G x = h where active and λ = 0 elsewhere."""
    p, a = program.p, program.a
    n, m, k = program.q.size, program.b.size, program.h.size
    rows = jnp.where(active[:, None], program.g, 0)
    corner = jnp.diag(jnp.where(active, 0, 1).astype(p.dtype))
    zeros = lambda i, j: jnp.zeros((i, j), p.dtype)
    matrix = jnp.block([[p, a.T, rows.T], [a, zeros(m, m), zeros(m, k)], [rows, zeros(k, m), corner]])
    # A negative ridge belongs to active rows only: the others have 1 in the corner.
    ridge = _ridge(program, n, m + k) * jnp.concatenate([jnp.ones(n + m, p.dtype), active.astype(p.dtype)])
    found = _refined_lu(matrix, ridge)(
        jnp.concatenate([-program.q, program.b, jnp.where(active, program.h, 0)])
    )
    return found[:n], found[n : n + m], found[n + m :]


def _violation(program: _Program, x, nu, lam) -> Array:
    gradient, equality, slack = program.errors(x, nu, lam)
    return _tree.max_abs((gradient, equality, jnp.minimum(lam, slack)))
