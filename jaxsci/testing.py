"""Checks of a user's residual: is its implicit derivative the derivative of its solution?"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from . import _tree
from ._adjoint import AbstractAdjoint, ImplicitAdjoint, attach
from ._residual import AbstractResidual, check_residual
from ._solution import RESULTS
from ._solve import solve
from .residuals import Root, Stationary
from .solvers import Newton

DENSE_LIMIT = 512
"""The largest number of unknowns: the oracle factorises dense Jacobians."""


class ImplicitReport(eqx.Module):
    """What `check_implicit` measured. Errors are relative to the size of what they are errors of.

    **Fields:** (dimensionless, except `residual_norm`)

    - `residual_norm`: root-mean-square of the optimality condition at the solution (unit of F).
    - `jvp_differences`: forward mode against central differences of the solution itself.
    - `jvp_unrolled`: forward mode against Newton's method differentiated step by step.
    - `vjp_unrolled`: reverse mode against the same.
    - `transpose`: ⟨ȳ, J θ̇⟩ against ⟨Jᵀȳ, θ̇⟩.
    - `second_unrolled`: forward over reverse mode, twice in the same direction, against unrolled.
    """

    residual_norm: Float[Array, ""]
    jvp_differences: Float[Array, ""]
    jvp_unrolled: Float[Array, ""]
    vjp_unrolled: Float[Array, ""]
    transpose: Float[Array, ""]
    second_unrolled: Float[Array, ""]


def check_implicit(
    residual: AbstractResidual,
    y0: PyTree[Array],
    args: PyTree[Any] = None,
    *,
    adjoint: AbstractAdjoint = ImplicitAdjoint(),
    key: PRNGKeyArray | None = None,
    rtol: float | None = None,
    step: float | None = None,
) -> ImplicitReport:
    """Check the derivatives of the solution y*(θ) of F(y, θ) = 0 along random directions.

    y* is found by Newton's method from `y0`. θ is every floating array in the fields of `residual` and
    in `args` (not what functions close over). The oracles are the fourth-order central difference of
    y*(θ ± h θ̇), solved anew, and two Newton steps from y* differentiated as a program, which carry
    exact first and second derivatives. A preconditioner, a Jacobian operator or tags that are wrong, or
    an approximate derivative such as Gauss–Newton's, show here.

    **Arguments:**

    - `residual`: a jaxsci residual.
    - `y0`: a first guess from which Newton's method converges (unit of y).
    - `args`: passed to the residual.
    - `adjoint`: the rule to check.
    - `key`: for the directions; `jax.random.key(0)` if None.
    - `rtol`: the largest accepted relative error. None: 1e-6 in float64, 2e-2 in float32.
    - `step`: h of the differences, relative to the size of each array of θ. None: precision^(1/5).

    **Returns:** an `ImplicitReport`.

    **Raises:** `AssertionError` naming the figures that exceed `rtol`; `ValueError` if Newton's method
    does not converge from `y0`, if nothing in θ is floating, or above 512 unknowns.

    **Limits:** one direction of θ and one of y for each call; vary `key` for more. Where the derivative
    along them vanishes, errors are measured against the size of y instead.
    """
    check_residual(residual)
    y0 = jtu.tree_map(jnp.asarray, y0)
    if _tree.size(y0) > DENSE_LIMIT:
        raise ValueError(
            f"`y0` has {_tree.size(y0)} unknowns; the oracle is dense and takes {DENSE_LIMIT} at most. "
            "Check a smaller instance of the problem."
        )
    theta, rest = eqx.partition((residual, args), eqx.is_inexact_array)
    if len(jtu.tree_leaves(theta)) == 0:
        raise ValueError(
            "Neither `residual` nor `args` holds a floating array, so there is nothing to differentiate "
            "with respect to. Pass the parameters in `args` rather than through a closure, as arrays "
            "rather than Python numbers."
        )
    precision = float(jnp.finfo(jnp.result_type(*jtu.tree_leaves(y0))).eps)
    double = precision < 1e-10
    rtol = (1e-6 if double else 2e-2) if rtol is None else rtol
    h = precision**0.2 if step is None else step

    keys = jax.random.split(jax.random.key(0) if key is None else key)
    push = _direction(theta, keys[0])

    def both(y0, theta):
        y, first = _newton(y0, theta, rest, precision)
        pull = _direction(y, keys[1])
        report, others = _measure(adjoint, y, theta, rest, push, pull, h, precision)
        return report, first & others

    report, ok = eqx.filter_jit(both)(y0, theta)
    if not bool(ok):
        raise ValueError(
            "Newton's method did not converge from `y0` to a root of the optimality condition, or not "
            f"again after θ was moved by {2 * h:.1e} of its size (residual norm "
            f"{float(report.residual_norm):.1e}). Pass a guess near the solution, and scale unknowns and "
            "equations to order one."
        )
    names = ("jvp_differences", "jvp_unrolled", "vjp_unrolled", "transpose", "second_unrolled")
    figures = {name: float(vars(report)[name]) for name in names}
    wrong = {name: value for name, value in figures.items() if not value <= rtol}
    if wrong:
        listed = ", ".join(f"{name} {value:.1e}" for name, value in wrong.items())
        raise AssertionError(
            f"The implicit derivative of {type(residual).__name__} is wrong: relative errors {listed}; "
            f"expected at most {rtol:.1e}. Of the others the largest is "
            f"{max([v for n, v in figures.items() if n not in wrong], default=float('nan')):.1e}. Look at "
            "its `optimality`, `jacobian` and `tags`, and at the preconditioner of the linear solver."
        )
    return report


def _optimality(theta, rest) -> Root:
    residual, args = eqx.combine(theta, rest)
    return Root(lambda y, _: _tree.shaped_like(y, residual.optimality(y, args)))


def _newton(y, theta, rest, precision):
    """The root, to rounding, and whether it was found."""
    residual, args = eqx.combine(theta, rest)
    root = Root(lambda y, _: _tree.shaped_like(y, residual.root(y, args)))
    tight = Newton(rtol=100 * precision, atol=100 * precision)
    found = solve(root, tight, y, throw=False, max_steps=100)
    return _tree.stop_gradient(found.value), found.result == RESULTS.successful


def _unrolled(y, theta, rest):
    """y* after two Newton steps: the second derivative of the step at y* is known after one."""
    f = _optimality(theta, rest)
    flat = lambda v: _tree.ravel(f(_tree.unravel(v, y), None))
    v = _tree.ravel(_tree.stop_gradient(y))
    for _ in range(2):
        v = v - jnp.linalg.solve(jax.jacfwd(flat)(v), flat(v))
    return _tree.unravel(v, y)


def _measure(adjoint, y, theta, rest, push, pull, step, precision):
    def implicit(theta):
        residual, args = eqx.combine(theta, rest)
        return attach(residual, y, args, adjoint=adjoint)

    unrolled = lambda theta: _unrolled(y, theta, rest)
    forward, forward_oracle = (jax.jvp(f, (theta,), (push,))[1] for f in (implicit, unrolled))
    reverse, reverse_oracle = (jax.vjp(f, theta)[1](pull)[0] for f in (implicit, unrolled))
    second, second_oracle = (_second(f, theta, push, pull) for f in (implicit, unrolled))

    at = lambda k: _newton(y, _tree.axpy(k * step, push, theta), rest, precision)
    moved, found = jax.vmap(at)(jnp.array([-2.0, -1.0, 1.0, 2.0]))
    difference = jtu.tree_map(lambda v: (v[0] - 8 * v[1] + 8 * v[2] - v[3]) / (12 * step), moved)

    size = _tree.norm(y)
    along = _tree.dot(pull, forward).real
    report = ImplicitReport(
        _tree.norm(_optimality(theta, rest)(y, None)) / _tree.size(y) ** 0.5,
        _error(forward, difference, size),
        _error(forward, forward_oracle, size),
        _error(reverse, reverse_oracle, _tree.norm(reverse_oracle)),
        _error(along, _tree.dot(reverse, push).real, _tree.norm(pull) * _tree.norm(forward)),
        _error(second, second_oracle, _tree.norm(reverse_oracle)),
    )
    return report, jnp.all(found)


def _second(f: Callable, theta, push, pull):
    """∂/∂θ of ⟨ȳ, y(θ)⟩, moved along θ̇."""
    return jax.jvp(lambda theta: jax.vjp(f, theta)[1](pull)[0], (theta,), (push,))[1]


def _error(found, oracle, size) -> Float[Array, ""]:
    """‖found − oracle‖ over ‖oracle‖, or over a thousandth of `size` where that is larger."""
    scale = jnp.maximum(_tree.norm(oracle), 1e-3 * size)
    difference = _tree.norm(jtu.tree_map(jnp.subtract, found, oracle))
    return jnp.where(difference == 0, 0.0, difference / jnp.where(scale == 0, 1, scale))


def _direction(tree: PyTree[Array], key: PRNGKeyArray) -> PyTree[Array]:
    """Random, of the size of each array (of size one where that vanishes)."""
    leaves, structure = jtu.tree_flatten(tree)
    keys = jax.random.split(key, len(leaves))

    def one(x, key):
        size = jnp.max(jnp.abs(x), initial=0)
        return jnp.where(size == 0, 1, size) * jax.random.normal(key, x.shape, x.dtype)

    return jtu.tree_unflatten(structure, [one(x, k) for x, k in zip(leaves, keys, strict=True)])


def penalty_hypergradient(
    upper: Callable,
    lower: Callable,
    theta: PyTree[Any],
    y0: PyTree[Array],
    *,
    sigma: float = 1e-3,
    richardson: bool = False,
    solver: Any = None,
    max_steps: int = 256,
) -> PyTree[Any]:
    """dψ/dθ of ψ(θ) = f(y*(θ), θ), y*(θ) = argmin g(·, θ), without an implicit derivative.

    With y_σ = argmin σf + g and z = argmin g, both minimized in y (Danskin's theorem),

        ∇ψ_σ = ∂f/∂θ (y_σ) + [∂g/∂θ (y_σ) − ∂g/∂θ (z)]/σ = ∇ψ + O(σ).

    It uses first derivatives and minima only, so it is an independent check of
    `jax.grad(lambda θ: f(attach(Stationary(g), z, θ), θ))`: halve σ, and the difference should halve.

    **Arguments:**

    - `upper`, `lower`: f and g, (y, θ) ↦ a scalar.
    - `theta`: a pytree whose floating arrays get a gradient.
    - `y0`: a first guess of both minima (unit of y).
    - `sigma`: σ (unit of g per unit of f).
    - `richardson`: return 2∇ψ_{σ/2} − ∇ψ_σ, which has an error O(σ²).
    - `solver`, `max_steps`: as of `jaxsci.solve` for a `Stationary`. None: Newton's method, to rounding.

    **Returns:** ∇ψ_σ in the structure of `theta`, None for leaves that are not floating.

    **Raises:** `ValueError` if σ is not positive; `RuntimeError` if a minimum is not found.

    **Limits:** unconstrained, with a minimum of g that is locally unique. An error of the minima enters
    divided by σ: rounding limits σ from below. Newton's method also finds saddle points.

    **Reference:** Kwon, Kwon, Wright & Nowak, On penalty methods for nonconvex bilevel optimization and
    first-order stochastic approximation, ICLR 2024.
    """
    if not isinstance(sigma, jax.core.Tracer) and not 0 < sigma < float("inf"):
        raise ValueError(f"`sigma` is {sigma!r}; expected a finite number > 0, such as 1e-3.")
    y0 = jtu.tree_map(jnp.asarray, y0)
    precision = float(jnp.finfo(jnp.result_type(*jtu.tree_leaves(y0))).eps)
    solver = Newton(rtol=100 * precision, atol=100 * precision) if solver is None else solver
    theta, rest = eqx.partition(theta, eqx.is_inexact_array)
    slope = lambda fn, y: jax.grad(lambda theta: fn(y, eqx.combine(theta, rest)))(theta)
    fixed = _tree.stop_gradient(eqx.combine(theta, rest))

    def minimum(sigma, start):
        weighed = lambda y, args: sigma * upper(y, args) + lower(y, args)
        found = solve(Stationary(weighed), solver, start, fixed, max_steps=max_steps)
        return _tree.stop_gradient(found.value)

    z = minimum(0.0, y0)

    def at(sigma):
        y = minimum(sigma, z)
        push = jtu.tree_map(lambda a, b: (a - b) / sigma, slope(lower, y), slope(lower, z))
        return jtu.tree_map(jnp.add, slope(upper, y), push)

    if not richardson:
        return at(sigma)
    return jtu.tree_map(lambda half, whole: 2 * half - whole, at(sigma / 2), at(sigma))
