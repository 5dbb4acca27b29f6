"""R-functions: functions whose sign is a Boolean function of the signs of their arguments.

They join smooth functions that vanish on pieces of a boundary into one for all of it. Every function
here is normalized if its arguments are: zero on the boundary with slope one along the normal.

References: V.L. Rvachev, T.I. Sheiko, R-functions in boundary value problems in mechanics, Applied
Mechanics Reviews 48 (1995); N. Sukumar, A. Srivastava, Exact imposition of boundary conditions with
distance functions in physics-informed deep neural networks, CMAME 389 (2022) 114333.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array


def _hypotenuse(a: Array, b: Array) -> Array:
    # √(a² + b²) with the derivative zero, not NaN, where both are zero: at corners.
    square = a**2 + b**2
    return jnp.where(square == 0, 0, jnp.sqrt(jnp.where(square == 0, 1, square)))


def conjunction(a: Array, b: Array) -> Array:
    """a ∧ b = a + b − √(a² + b²): positive where both are, zero on the boundary of that set."""
    return a + b - _hypotenuse(a, b)


def disjunction(a: Array, b: Array) -> Array:
    """a ∨ b = a + b + √(a² + b²), positive where one is; of slope one where the other is negative."""
    return a + b + _hypotenuse(a, b)


def fold(f: Array, scale: Array | float) -> Array:
    """|f|, but f at points of {f = 0} that rounding puts behind it, where its slope would be turned."""
    return jnp.where(f >= -64 * jnp.finfo(f.dtype).eps * scale, f, -f)


class Zeros(NamedTuple):
    """k pieces {fᵢ = 0, tᵢⱼ ≥ 0 for each j} of surfaces, seen from one point.

    - `f`: (k,), the distance to the surfaces to first order; positive on the side of the domain.
    - `t`: (k, m), dimensionless; without columns the whole surface is meant.
    - `scale`: (k,), a length of each piece.
    """

    f: Array
    t: Array
    scale: Array

    def trimmed(self, t: Array) -> "Zeros":
        """Of every piece, what lies where one more t is positive."""
        column = jnp.broadcast_to(t, (len(self.f), 1))
        return self._replace(t=jnp.concatenate([self.t, column], 1))


def trim(zeros: Zeros) -> Array:
    """Of each piece a function that is zero on it and only there, (k,).

    φ = √(f² + Σⱼ ¼ (√(tⱼ² + f⁴) − tⱼ)²), with f in units of the scale; f to high order in front of the
    piece. Smooth except on the piece (seen from one side, f ≥ 0, it is smooth there too) and on its
    edge, where f and the least of t are zero.
    """
    f = (fold(zeros.f, zeros.scale) / zeros.scale)[:, None]
    t = zeros.t
    # On the edge, or so near to it that the square root has no derivative, any t ≥ 0 will do.
    t = jnp.where(t**2 + f**4 == 0, 1, t)
    s = jnp.sqrt(t**2 + f**4)
    # In front (t ≥ 0), s − t = f⁴/(s + t), so that φ = f √(1 + Σ (½ f³/(s + t))²) has derivatives at f = 0,
    # which the square root of a sum of squares has not.
    q = f**3 / (2 * jnp.where(t >= 0, s + t, 1))
    g = jnp.where(t >= 0, f * q, (s - t) / 2)
    front = jnp.all(t >= 0, 1)
    f = f[:, 0]
    square = jnp.where(front, 1, f**2 + jnp.sum(g**2, 1))
    return zeros.scale * jnp.where(front, f * jnp.sqrt(1 + jnp.sum(q**2, 1)), jnp.sqrt(square))


def join(pieces: list[Zeros]) -> Array:
    """One function that is zero on all the pieces and only there."""
    whole = [zeros.f for zeros in pieces if zeros.t.shape[1] == 0]
    cut = [zeros for zeros in pieces if zeros.t.shape[1] > 0]
    if cut:
        # One call for all, since compilation takes time: columns t = 1 do not cut.
        m = max(zeros.t.shape[1] for zeros in cut)
        t = [jnp.pad(z.t, ((0, 0), (0, m - z.t.shape[1])), constant_values=1) for z in cut]
        f, scale = (jnp.concatenate([z[i] for z in cut]) for i in (0, 2))
        whole.append(trim(Zeros(f, jnp.concatenate(t), scale)))
    return equivalence(jnp.concatenate(whole))


def equivalence(phis: Array, order: int = 1) -> Array:
    """One function that is zero where one of φᵢ ≥ 0 (the last axis) is: 1/φᵐ = Σ 1/φᵢᵐ, m = `order`."""
    if phis.shape[-1] == 1:
        return phis[..., 0]
    # Divided by the smallest, so that no term exceeds one: φₖ/(1 + Σ (φₖ/φⱼ)ᵐ)^(1/m), exact at φₖ = 0.
    k = jnp.argmin(phis, -1, keepdims=True)
    least = jnp.take_along_axis(phis, k, -1)
    others = jnp.where(jnp.arange(phis.shape[-1]) == k, jnp.inf, phis)
    ratios = least / jnp.where(others == 0, 1, others)
    return jnp.squeeze(least, -1) / (1 + jnp.sum(ratios**order, -1)) ** (1 / order)
