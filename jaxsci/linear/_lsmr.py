"""LSMR: least squares by products with A and Aᴴ."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, Float, Int, PyTree

from .. import _tree
from . import _stopping
from ._operator import Operator


class LeastSquaresSolution(eqx.Module):
    """What a linear least-squares solver has found.

    **Fields:**

    - `value`: x.
    - `iterations`: their number.
    - `residual`: ‖b − A x‖₂/‖b‖₂, of the x returned.
    - `normal_residual`: ‖Aᴴ(b − A x) − λ² x‖₂/‖Aᴴ b‖₂, of the x returned; it vanishes at the solution.
    """

    value: PyTree[Array]
    iterations: Int[Array, ""]
    residual: Float[Array, ""]
    normal_residual: Float[Array, ""]


def lsmr(
    mv: Callable,
    b: PyTree[Array],
    like: PyTree,
    *,
    damping: float | Array = 0.0,
    rtol: float | None = None,
    max_steps: int | None = None,
    initial: PyTree[Array] | None = None,
) -> LeastSquaresSolution:
    """min over x of ‖b − A x‖² + λ² ‖x‖² for an A of any shape (Fong & Saunders 2011).

    With λ = 0 and dependent columns, from x = 0: the shortest of the solutions. Forward only: of a
    least-squares problem, `jaxsci.LeastSquares` has the derivative.

    **Arguments:**

    - `mv`: x ↦ A x, linear; Aᴴ is made from it.
    - `b`: the right-hand side, a pytree.
    - `like`: a pytree of arrays or `jax.ShapeDtypeStruct`s with the structure of x.
    - `damping`: λ (units of A).
    - `rtol`: stop at ‖Aᴴ r‖₂ ≤ rtol ‖Aᴴ b‖₂, or at ‖r‖₂ ≤ rtol ‖b‖₂. None: 30 times the precision.
    - `max_steps`: iterations at most. None: 10 n + 100, n scalars in x.
    - `initial`: x to start from. None: 0.

    **Returns:** a `LeastSquaresSolution`, with residuals measured by products at the end.
    """
    adjoint = _adjoint(mv, like)
    start = jtu.tree_map(lambda x: jnp.zeros(x.shape, x.dtype), like) if initial is None else initial
    right = b if initial is None else _tree.axpy(-1.0, mv(initial), b)
    scale = _tree.max_abs(right)
    inverse = 1 / jnp.where(scale == 0, 1, scale)
    whole, steepest = _tree.norm(_tree.scaled(inverse, b)), _tree.norm(adjoint(_tree.scaled(inverse, b)))
    dtype = jnp.result_type(*jtu.tree_leaves(b))
    tolerance = 30 * float(jnp.finfo(dtype).eps) if rtol is None else rtol
    limit = 10 * _tree.size(like) + 100 if max_steps is None else max_steps
    aims = tolerance * whole, tolerance * steepest
    x, k = _bidiagonalised(mv, adjoint, _tree.scaled(inverse, right), damping, limit, aims)
    x = jtu.tree_map(jnp.add, start, _tree.scaled(scale, x))
    error = _tree.axpy(-1.0, mv(x), b)
    normal = _tree.axpy(-(damping**2), x, adjoint(error))
    ratio = lambda a, b: a / jnp.where(b == 0, 1, b)
    return LeastSquaresSolution(
        x, k, ratio(_tree.norm(error), _tree.norm(b)), ratio(_tree.norm(normal), _tree.norm(adjoint(b)))
    )


def _adjoint(mv: Callable, like: PyTree) -> Callable:
    shapes = jtu.tree_map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), like)

    def mv_h(u):
        (out,) = jax.linear_transpose(mv, shapes)(_tree.conj(u))
        return _tree.conj(out)

    return mv_h


def _bidiagonalised(mv: Callable, adjoint: Callable, b, damping, limit, aims):
    """x and the number of steps of LSMR from x = 0.

    Golub–Kahan: A Vₖ = Uₖ₊₁ Bₖ with a lower bidiagonal B. One rotation a step takes the damping
    in, a second makes R of the bidiagonal matrix, a third R̄ of Rᵀ: |ζ̄| is then ‖Aᴴ r‖.
    """

    def unit(x):
        size = _tree.norm(x)
        return size, _tree.scaled(jnp.where(size == 0, 0, 1 / jnp.where(size == 0, 1, size)), x)

    def rotation(a, b):
        length = jnp.sqrt(a**2 + b**2)
        safe = jnp.where(length == 0, 1, length)
        return jnp.where(length == 0, 1, a / safe), jnp.where(length == 0, 0, b / safe), length

    beta, u = unit(b)
    alpha, v = unit(adjoint(u))
    one, zero = jnp.ones_like(beta), jnp.zeros_like(beta)
    divided = lambda a, b: a / jnp.where(b == 0, 1, b)

    def unfinished(carry):
        k, *_, estimates = carry
        residual, normal = estimates
        return (k < limit) & (residual > aims[0]) & (normal > aims[1]) & jnp.isfinite(normal)

    def iterate(carry):
        k, x, h, far, u, v, alpha, bars, rest, _ = carry
        alpha_bar, zeta_bar, c_bar, s_bar, rho, rho_bar = bars
        beta, u = unit(_tree.axpy(-alpha, u, mv(v)))
        alpha, v = unit(_tree.axpy(-beta, v, adjoint(u)))
        c_hat, s_hat, alpha_hat = rotation(alpha_bar, damping * one)
        rho_old, rho_bar_old = rho, rho_bar
        c, s, rho = rotation(alpha_hat, beta)
        theta, alpha_bar = s * alpha, c * alpha
        theta_bar, before = s_bar * rho, c_bar * rho
        c_bar, s_bar, rho_bar = rotation(before, theta)
        zeta, zeta_bar = c_bar * zeta_bar, -s_bar * zeta_bar
        far = _tree.axpy(-divided(theta_bar * rho, rho_old * rho_bar_old), far, h)
        x = _tree.axpy(divided(zeta, rho * rho_bar), far, x)
        h = _tree.axpy(-divided(theta, rho), h, v)
        # ‖r‖: the right-hand side under the same rotations.
        beta_dd, beta_d, rho_d, tau, theta_old, zeta_old, d = rest
        beta_acute, beta_check = c_hat * beta_dd, -s_hat * beta_dd
        beta_hat, beta_dd = c * beta_acute, -s * beta_acute
        c_t, s_t, rho_t = rotation(rho_d, theta_bar)
        theta_t, rho_d = s_t * rho_bar, c_t * rho_bar
        beta_d = -s_t * beta_d + c_t * beta_hat
        tau_new = divided(zeta_old - theta_old * tau, rho_t)
        tau_d = divided(zeta - theta_t * tau_new, rho_d)
        d = d + beta_check**2
        residual = jnp.sqrt(d + (beta_d - tau_d) ** 2 + beta_dd**2)
        bars = alpha_bar, zeta_bar, c_bar, s_bar, rho, rho_bar
        rest = beta_dd, beta_d, rho_d, tau_new, theta_t, zeta, d
        return k + 1, x, h, far, u, v, alpha, bars, rest, (residual, jnp.abs(zeta_bar))

    zeros = jtu.tree_map(jnp.zeros_like, v)
    bars = alpha, alpha * beta, one, zero, one, one
    rest = beta, zero, one, zero, zero, zero, zero
    first = (jnp.array(0), zeros, v, zeros, u, v, alpha, bars, rest, (beta, alpha * beta))
    k, x, *_ = _tree.while_loop(unfinished, iterate, first)
    return x, k


class LSMR(_stopping.AbstractIterativeSolver):
    """LSMR (Fong & Saunders 2011) for a square A: least squares by products with A and Aᴴ, without a basis.

    For an A that is ill-suited to GMRES, such as a rotation; iterations grow with the condition number, as
    those of CG with AᴴA do, and rounding less than there. `lsmr` is the function for other shapes.

    **Arguments:**

    - `rtol`: stop at ‖Aᴴ r‖₂ ≤ rtol ‖Aᴴ b‖₂, or at ‖r‖₂ ≤ rtol ‖b‖₂ (dimensionless). None: 30 times the
      precision.
    - `max_steps`: iterations at most. None: 10 n + 100.
    - `check`: see `jaxsci.linear.LU`. None: that, or ten times `rtol` if it is more.
    """

    rtol: float | None = None
    max_steps: int | None = None
    check: float | None = None

    def prepare(self, operator: Operator):
        return None

    def apply(self, operator, prepared, b, transpose):
        mv = (operator.transpose() if transpose else operator).mv
        found = lsmr(mv, b, operator.like, rtol=self.rtol, max_steps=self.max_steps)
        return found.value, found.iterations
