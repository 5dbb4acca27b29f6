"""Equilibrium propagation by nudges, and the asymmetry that it suffers from."""

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from . import _tree
from ._estimators import check_pre_activation
from ._solution import RESULTS
from ._solve import solve
from .residuals import PreActivation


def equilibrium_propagation(
    residual: PreActivation,
    loss: Callable,
    solver: Any,
    y0: PyTree[Array],
    args: PyTree[Any] = None,
    *,
    beta: float = 0.05,
    points: int = 2,
    throw: bool = True,
    max_steps: int = 256,
) -> tuple[Float[Array, ""], PyTree[Any]]:
    """The loss at the equilibrium a* = σ(F(a*, θ)), and an estimate of its gradient by nudging.

    With a(β) = σ(F(a(β), θ) − β ∂L/∂a(a(β), θ)), the same solver finds the free equilibrium a* = a(0) and
    `points` nudged ones, βₖ = β exp(2πik/N), and

        ∂a/∂β ≈ 1/(Nβ) Σₖ a(βₖ) exp(−2πik/N),   g = ∂L/∂θ − (∂F/∂θ)ᵀ ∂a/∂β,

    N = 1: (a(β) − a*)/β, N = 2: the central difference. No linear system, no transpose, no differentiation
    of the solver. Real nudges are relaxed in real arithmetic, and of the complex ones, which come in
    conjugate pairs, one of each: N = 4 takes two real and one complex.

    **Arguments:**

    - `residual`: a `jaxsci.PreActivation`.
    - `loss`: L, (a, args) ↦ a real scalar. For N > 2, F, σ and L must be complex differentiable in a: no
      `abs`, `conj`, `max`, comparisons.
    - `solver`, `y0`, `throw`, `max_steps`: as of `jaxsci.solve`. The nudged solves start at a*.
    - `args`: θ: a pytree whose floating arrays get a gradient.
    - `beta`: |β| (activation² per unit of the loss).
    - `points`: N ≥ 1.

    **Returns:** L(a*, θ), and g in the structure of `args`, None for leaves that are not floating. g is
    NaN where a nudged solve has failed and `throw` is False.

    **Raises:** `TypeError` if the residual is no `PreActivation`; `ValueError` for `beta` or `points` out
    of range or a loss that is no scalar; `RuntimeError` as `jaxsci.solve`.

    **Limits:** the error is O(β) for N = 1 and O(β^N) above, if |β| is inside the disc in which a(β) is
    analytic; outside it more points do not help. What stays is the bias by asymmetry, that of
    `jaxsci.EquilibriumPropagation` (see `jaxsci.jacobian_asymmetry`). Rounding enters as precision/β.

    **Reference:** Laborieux & Zenke, Holomorphic equilibrium propagation computes exact gradients through
    finite size oscillations, NeurIPS 2022; and ICLR 2024 (asymmetric weights).
    """
    check_pre_activation(residual, "equilibrium_propagation")
    _check_nudges(beta, points)
    free = solve(residual, solver, y0, args, throw=throw, max_steps=max_steps)
    y, residual, fixed = _tree.stop_gradient((free.value, residual, args))
    shape = jax.eval_shape(loss, y, fixed)
    if shape.shape != ():
        raise ValueError(f"`loss` returned an array of shape {shape.shape}; expected a scalar. Average it.")

    def equilibrium(nudge, start):
        def pushed(y, args):
            kind = jnp.result_type(*jtu.tree_leaves(y))
            holomorphic = jnp.issubdtype(kind, jnp.complexfloating)
            force = jax.grad(loss, holomorphic=holomorphic)(y, args)
            return _tree.axpy(-nudge, force, _tree.shaped_like(y, residual.fn(y, args)))

        nudged = PreActivation(pushed, residual.activation)
        found = solve(nudged, solver, start, fixed, throw=throw, max_steps=max_steps)
        failed = found.result != RESULTS.successful
        nan = jtu.tree_map(lambda x: jnp.full_like(x, jnp.nan), start)
        return _tree.stop_gradient(_tree.where(failed, nan, found.value))

    response = _response(equilibrium, y, beta, points)
    theta, rest = eqx.partition(args, eqx.is_inexact_array)
    value, direct = jax.value_and_grad(lambda theta: loss(y, eqx.combine(theta, rest)))(theta)
    fn = lambda theta: _tree.shaped_like(y, residual.fn(y, eqx.combine(theta, rest)))
    (through,) = jax.vjp(fn, theta)[1](response)
    return value, jtu.tree_map(jnp.subtract, direct, through)


def _response(equilibrium: Callable, y: PyTree[Array], beta: float, points: int) -> PyTree[Array]:
    """∂a/∂β at β = 0 by the trapezoidal rule on the circle |β| = `beta`."""
    real = jnp.array([1.0] if points % 2 else [1.0, -1.0])
    at = jax.vmap(lambda sign: equilibrium(sign * beta, y))(real)
    weighted = lambda a: jnp.tensordot(real.astype(a.dtype), a, 1)
    if points == 1:
        return jtu.tree_map(lambda a, y: (a[0] - y) / beta, at, y)
    total = jtu.tree_map(weighted, at)
    pairs = (points - len(real)) // 2
    if pairs > 0:
        kinds = jtu.tree_map(lambda x: jnp.result_type(x, jnp.complex64), y)
        start = jtu.tree_map(lambda x, kind: x.astype(kind), y, kinds)
        turns = jnp.exp(2j * math.pi * jnp.arange(1, pairs + 1) / points)
        turns = turns.astype(jnp.result_type(*jtu.tree_leaves(kinds)))
        at = jax.vmap(lambda turn: equilibrium(turn * beta, start))(turns)
        # a(β̄) is the conjugate of a(β): twice the real part.
        both = lambda a, t: t + 2 * jnp.tensordot(turns.conj().astype(a.dtype), a, 1).real
        total = jtu.tree_map(both, at, total)
    return jtu.tree_map(lambda t: t / (points * beta), total)


def _check_nudges(beta: Any, points: Any) -> None:
    if isinstance(points, bool) or not isinstance(points, int) or points < 1:
        raise ValueError(f"`points` is {points!r}; expected an int ≥ 1, the number of nudges.")
    if not isinstance(beta, jax.core.Tracer) and not 0 < beta < math.inf:
        raise ValueError(f"`beta` is {beta!r}; expected a finite number > 0, such as 0.05.")


def jacobian_asymmetry(
    residual: PreActivation,
    y: PyTree[Array],
    args: PyTree[Any] = None,
    *,
    key: PRNGKeyArray,
    probes: int = 5,
) -> Float[Array, ""]:
    """‖J − Jᵀ‖²_F/(2n) with J = ∂F/∂a of a = σ(F(a, θ)), estimated by `probes` random vectors.

    E ‖(J − Jᵀ)ε‖²/(2n) over ε ~ N(0, 1): never negative, and zero if and only if J is symmetric on the
    probes. As a regularizer (Jacobian homeostasis) its gradient with respect to θ is taken at fixed y:
    add a multiple of it to the loss, and equilibrium propagation points where the gradient does.

    **Arguments:**

    - `residual`: a `jaxsci.PreActivation` of n scalars.
    - `y`: the equilibrium a*. Its derivative is cut.
    - `args`: θ.
    - `key`: for the probes.
    - `probes`: number of vectors; each takes one product with J and one with Jᵀ.

    **Returns:** a scalar (pre-activation² per activation²), differentiable in θ.

    **Raises:** `TypeError` if the residual is no `PreActivation`; `ValueError` if `probes` is no int ≥ 1.

    **Limits:** the relative standard deviation is about √(2/(probes · rank)).

    **Reference:** Laborieux & Zenke, ICLR 2024, who use the equal expectation of ‖Jε‖² − εᵀJ²ε.
    """
    check_pre_activation(residual, "jacobian_asymmetry")
    if isinstance(probes, bool) or not isinstance(probes, int) or probes < 1:
        raise ValueError(f"`probes` is {probes!r}; expected an int ≥ 1, the number of random vectors.")
    y = _tree.stop_gradient(y)
    fn = lambda y: _tree.shaped_like(y, residual.fn(y, args))
    _, pull = jax.vjp(fn, y)

    def one(key):
        leaves, structure = jtu.tree_flatten(y)
        keys = jax.random.split(key, len(leaves))
        draw = [jax.random.normal(k, x.shape, x.dtype) for k, x in zip(keys, leaves, strict=True)]
        probe = jtu.tree_unflatten(structure, draw)
        difference = jtu.tree_map(jnp.subtract, jax.jvp(fn, (y,), (probe,))[1], pull(probe)[0])
        return _tree.dot(difference, difference).real

    return jnp.mean(jax.vmap(one)(jax.random.split(key, probes))) / (2 * _tree.size(y))


def symmetric_share(residual: PreActivation, y: PyTree[Array], args: PyTree[Any] = None) -> Float[Array, ""]:
    """‖S‖/(‖S‖ + ‖A‖) with S and A the symmetric and antisymmetric parts of J = ∂F/∂a: 1 for a symmetric J.

    The exact figure that goes with `jacobian_asymmetry`: n products with J and an n × n array.

    **Arguments:**

    - `residual`: a `jaxsci.PreActivation` of n scalars.
    - `y`: the equilibrium a*.
    - `args`: θ.

    **Returns:** a scalar in [0, 1] (dimensionless; Frobenius norms). NaN if J is zero.

    **Raises:** `TypeError` if the residual is no `PreActivation`.
    """
    check_pre_activation(residual, "symmetric_share")
    flat = lambda v: _tree.ravel(residual.fn(_tree.unravel(v, y), args))
    jacobian = jax.jacfwd(flat)(_tree.ravel(y))
    even, odd = (jnp.linalg.norm(jacobian + sign * jacobian.T) for sign in (1, -1))
    return even / (even + odd)
