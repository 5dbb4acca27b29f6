"""Laplace's equation on a square with round holes, by harmonic functions with their poles outside."""

import numpy as np
from jaxtyping import ArrayLike, Float

from ._reference import Reference


def square_with_holes(
    centers: Float[ArrayLike, "holes 2"] = ((-0.3, -0.3), (-0.3, 0.3), (0.3, -0.3), (0.3, 0.3)),
    radius: float = 0.1,
    *,
    half_width: float = 0.5,
    outer: float = 1.0,
    inner: float = 0.0,
    order: int = 14,
) -> Reference:
    """∇²u = 0 between a square and round holes in it, u = `outer` on the square, `inner` on the holes.

    With the complex z = x + i y and the centers c of the holes and of their images behind the four sides
    and corners,

    u = Re Σ_k p_k zᵏ + Σ_c (a_c log|z − c| + Re Σ_k b_ck (radius/(z − c))ᵏ),

    fitted by least squares to the boundary values. The images take up the singularities near the sides, so
    that the polynomial converges quickly. By the maximum principle the error is largest on the boundary,
    where it can be seen.

    **Arguments:**

    - `centers`, `radius`: of the holes [length]; they touch neither each other nor the square.
    - `half_width`: the square is |x|, |y| ≤ `half_width` [length].
    - `outer`, `inner`: the boundary values.
    - `order`: of the Laurent terms; the polynomial has twice that degree.

    **Returns:** a [`Reference`][] of (x, y) ↦ u (`inner` inside a hole). Its error is of
    max|u − exact|/max|u|: the misfit at boundary points between the fitted ones.

    **Raises:** `ValueError` for holes that touch.

    **Reference:** Trefethen, Series solution of Laplace problems, 2018.
    """
    centers = np.asarray(centers, np.float64).reshape(-1, 2)
    holes = centers[:, 0] + 1j * centers[:, 1]
    gaps = np.abs(holes[:, None] - holes) + np.diag(np.full(len(holes), np.inf))
    if np.max(np.abs(centers)) + radius >= half_width or np.min(gaps, initial=np.inf) <= 2 * radius:
        raise ValueError(
            f"`centers` {centers.tolist()} with `radius` {radius} touch each other or the sides at "
            f"±{half_width}; the series needs holes apart."
        )
    flip = lambda v, side: v if side == 0 else 2 * side * half_width - v
    places = np.array([(flip(x, i), flip(y, j)) for x, y in centers for i in (-1, 0, 1) for j in (-1, 0, 1)])
    sources = places[:, 0] + 1j * places[:, 1]

    def basis(z):
        powers = (z[:, None] / (np.sqrt(2) * half_width)) ** np.arange(2 * order + 1)
        away = z[:, None] - sources
        poles = (radius / away[:, :, None]) ** np.arange(1, order + 1)
        both = np.concatenate([powers, poles.reshape(len(z), -1)], axis=1)
        return np.concatenate([both.real, both.imag[:, 1:], np.log(np.abs(away))], axis=1)

    def boundary(count, shift):
        s = (np.arange(count) + shift) / count
        side = half_width * np.cos(np.pi * s) - 1j * half_width
        around = radius * np.exp(2j * np.pi * s)
        z = np.concatenate([*(side * 1j**q for q in range(4)), *(hole + around for hole in holes)])
        return z, np.where(np.arange(len(z)) < 4 * count, outer, inner)

    z, value = boundary(8 * order, 0.5)
    matrix = basis(z)
    scale = np.linalg.norm(matrix, axis=0)
    weights = np.linalg.lstsq(matrix / scale, value, rcond=1e-13)[0] / scale
    z, value = boundary(19 * order, 0.25)
    error = np.max(np.abs(basis(z) @ weights - value)) / max(abs(outer), abs(inner))

    def function(points):
        z = points[:, 0] + 1j * points[:, 1]
        outside = np.nonzero(np.all(np.abs(z[:, None] - holes) >= radius * (1 - 1e-12), axis=1))[0]
        values = np.full(len(z), inner, np.float64)
        for part in np.array_split(outside, len(outside) // 4096 + 1):
            values[part] = basis(z[part]) @ weights
        return values[:, None]

    return Reference(function, error, ("x", "y"), ("u",))
