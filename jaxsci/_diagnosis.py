"""Can this derivative be trusted? What the implicit rule does, looked at from outside."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, Bool, Float, Int, PyTree

from . import _tree
from ._adjoint import ImplicitAdjoint
from ._linearization import linearize
from ._residual import AbstractResidual, check_residual

DENSE_LIMIT = 1024
"""The largest number of unknowns for what needs the n×n array of the Jacobian."""


class AdjointInfo(eqx.Module):
    """What one backward solve Aᵀ u = ȳ did, with A = ∂F/∂y at the solution.

    **Fields:** (dimensionless, except the first)

    - `cotangent`: θ̄ = −Bᵀ u with B = ∂F/∂θ: the cotangents of the pair (residual, args), None at leaves
      that are not floating. NaN where the solve was not accepted, as in the gradient itself.
    - `residual`: ‖ȳ − Aᵀ u‖ / ‖ȳ‖ of u as it was found.
    - `converged`: whether the rule accepts u.
    - `iterations`: of the linear solver; 0 for a direct one.
    """

    cotangent: PyTree[Array]
    residual: Float[Array, ""]
    converged: Bool[Array, ""]
    iterations: Int[Array, ""]


def adjoint_info(
    residual: AbstractResidual,
    y: PyTree[Array],
    args: PyTree[Any],
    ybar: PyTree[Array],
    *,
    adjoint: ImplicitAdjoint = ImplicitAdjoint(),
) -> AdjointInfo:
    """The backward pass of `attach` for one cotangent, with its figures: for health checks in training.

    **Arguments:**

    - `residual`, `y`, `args`: as for `jaxsci.attach`.
    - `ybar`: ȳ, the derivative of the loss with respect to y; of the structure of y.
    - `adjoint`: the rule to look at.

    **Returns:** an `AdjointInfo`. Runs under `jit`, `vmap` and inside `shard_map`.

    **Raises:** `TypeError` or `ValueError` for wrong arguments.
    """
    y = _checked(residual, y, adjoint)
    given, expected = (jtu.tree_map(jnp.shape, tree) for tree in (ybar, y))
    if given != expected:
        raise ValueError(
            f"`ybar` has shapes {given}; expected those of `y`, {expected}: the derivative of the loss with "
            "respect to each entry of y."
        )
    ys = tuple(jtu.tree_leaves(y))
    rule, consts = linearize(residual, y, args, adjoint.solver, False)
    array, prepared = rule.prepared(ys, consts)
    operator = rule.operator(ys, consts, array)
    solver = rule.solver(operator, consts)
    b = tuple(jnp.asarray(v, x.dtype) for v, x in zip(jtu.tree_leaves(ybar), ys, strict=True))
    u, relative, ok, iterations = solver.attempt(operator, prepared, b, transpose=True)
    u = jtu.tree_map(
        lambda x: jnp.where(ok, -x, jnp.nan).astype(x.dtype), jtu.tree_unflatten(jtu.tree_structure(y), u)
    )

    theta, rest = eqx.partition((residual, args), eqx.is_inexact_array)

    def equations(theta):
        residual, args = eqx.combine(theta, rest)
        return _tree.shaped_like(y, residual.optimality(y, args))

    (cotangent,) = jax.vjp(equations, theta)[1](u)
    return AdjointInfo(cotangent, relative, ok, iterations)


class Conditioning(eqx.Module):
    """How far a solution and its derivative can be trusted. A = ∂F/∂y and B = ∂F/∂θ at the given y.

    **Fields:**

    - `residual_norm`: root-mean-square of F(y, θ) (unit of F).
    - `condition`: largest over smallest singular value of A (dimensionless), in the given units of
      unknowns and equations. 1/precision or more: A is singular for all that can be known.
    - `smallest`: α, the smallest singular value of A (unit of F over unit of y).
    - `rank`: number of singular values above 10 n times the precision, relative to the largest.
    - `size`: n, the number of unknowns.
    - `error`: ‖A⁻¹F‖₂ ≈ ‖y − y*‖₂, what one Newton step would change (unit of y).
    - `derivative_error`: ‖J(y) − J(y*)‖_F ≈ ‖J(y) − J(y − A⁻¹F)‖_F, with J = −A⁻¹B: the error of
      dy/dθ that comes from y not being the solution (unit of y over unit of θ).
    - `derivative_bound`: (β/α + γ ‖B‖/α²) ‖y − y*‖ with the Lipschitz constants β of B and γ of A
      measured along the Newton step: the bound of the reference's Theorem 1, in the Frobenius norm.
    - `derivative_norm`: ‖J(y)‖_F (unit of y over unit of θ).
    """

    residual_norm: Float[Array, ""]
    condition: Float[Array, ""]
    smallest: Float[Array, ""]
    rank: Int[Array, ""]
    error: Float[Array, ""]
    derivative_error: Float[Array, ""]
    derivative_bound: Float[Array, ""]
    derivative_norm: Float[Array, ""]
    size: int = eqx.field(static=True)


def check(residual: AbstractResidual, y: PyTree[Array], args: PyTree[Any] = None) -> Conditioning:
    """Examine a solution: is F(y, θ) = 0, is ∂F/∂y regular, and how wrong can dy/dθ be?

    θ is every floating array in the fields of `residual` and in `args` (not what functions close over).
    Cost: singular values of the n×n Jacobian and n products for ∂F/∂θ; meant for debugging.

    **Arguments:**

    - `residual`, `y`, `args`: as for `jaxsci.attach`.

    **Returns:** a `Conditioning`. Runs under `jit` and `vmap`. Where A is singular, `error` and the three
    figures of the derivative are infinite.

    **Raises:** `ValueError` above 1024 unknowns; `TypeError` for wrong arguments.

    **Limits:** the errors are to first order in y − y*: true when y is in the region where Newton's
    method converges.

    **Reference:** Blondel et al., Efficient and Modular Implicit Differentiation, NeurIPS 2022.
    """
    y = _checked(residual, y, ImplicitAdjoint())
    n = _tree.size(y)
    if n > DENSE_LIMIT:
        raise ValueError(
            f"`y` has {n} unknowns; singular values are computed for {DENSE_LIMIT} at most. Check a smaller "
            "instance, or use `jaxsci.adjoint_info` for the figures of one backward solve."
        )
    theta, rest = eqx.partition((residual, args), eqx.is_inexact_array)

    def equations(v, theta):
        residual, args = eqx.combine(theta, rest)
        return _tree.ravel(_tree.shaped_like(y, residual.optimality(_tree.unravel(v, y), args)))

    def linearized(v):
        """F, A and the rows of B."""
        f, pull = jax.vjp(equations, v, theta)
        a, b = jax.vmap(pull)(jnp.eye(n, dtype=f.dtype))
        b = [x.reshape(n, -1) for x in jtu.tree_leaves(b)]
        return f, a, jnp.concatenate([*b, jnp.zeros((n, 0), f.dtype)], axis=1)

    v = _tree.ravel(y)
    f, a, b = linearized(v)
    singular_values = jnp.linalg.svd(a, compute_uv=False)
    largest, smallest = singular_values[0], singular_values[-1]
    noise = 10 * n * jnp.finfo(singular_values.dtype).eps * largest
    rank = jnp.sum(singular_values > noise)
    regular = rank == n
    at = lambda x: jnp.where(regular, x, jnp.inf)
    step = jnp.linalg.solve(jnp.where(regular, a, jnp.eye(n, dtype=a.dtype)), f)
    error = jnp.linalg.norm(step)
    _, moved_a, moved_b = linearized(v - step)
    solved = lambda a, b: jnp.linalg.solve(jnp.where(regular, a, jnp.eye(n, dtype=a.dtype)), b)
    jacobian = solved(a, b)
    norm = lambda x: jnp.sqrt(jnp.sum(jnp.abs(x) ** 2))
    bound = norm(moved_b - b) / smallest + norm(moved_a - a) * norm(b) / smallest**2
    return Conditioning(
        residual_norm=jnp.linalg.norm(f) / max(n, 1) ** 0.5,
        condition=jnp.where(smallest == 0, jnp.inf, largest / jnp.where(smallest == 0, 1, smallest)),
        smallest=smallest,
        rank=rank,
        error=at(error),
        derivative_error=at(norm(solved(moved_a, moved_b) - jacobian)),
        derivative_bound=at(bound),
        derivative_norm=at(norm(jacobian)),
        size=n,
    )


def _checked(residual: Any, y: PyTree, adjoint: Any) -> PyTree[Array]:
    check_residual(residual)
    if not isinstance(adjoint, ImplicitAdjoint):
        raise TypeError(
            f"`adjoint` is {adjoint!r} of type {type(adjoint).__name__}; only the implicit rule solves a "
            "linear system. Expected a jaxsci.ImplicitAdjoint."
        )
    if _tree.size(y) == 0:
        raise ValueError("`y` holds no numbers; expected the solution, a pytree of floating arrays.")
    return jtu.tree_map(lambda x: jax.lax.stop_gradient(jnp.asarray(x)), y)
