"""Steady flow in a lid-driven cavity, by Chebyshev collocation of its streamfunction and Newton's method."""

import numpy as np

from ._chebyshev import Chebyshev
from ._reference import Reference, mesh, relative_errors


def cavity(reynolds: float = 100.0, *, points: int = 40, tolerance: float = 1e-10) -> Reference:
    """(u·∇)u = −∇p + ∇²u/Re, ∇·u = 0 in [0, 1]²; u = 4x(1 − x) on the lid y = 1, no motion elsewhere.

    With u = ψ_y, v = −ψ_x: ψ_y ∇²ψ_x − ψ_x ∇²ψ_y = ∇⁴ψ/Re. Where the lid meets a wall, ∂u/∂x ≠ 0 on the one
    and ∂v/∂y = 0 on the other: the gradient of u jumps and p grows like log r. That part is known, for at the
    corner the flow is Stokes' (polar coordinates about it, θ from the lid to the wall):

    ψ_s = r² (π/2 (1 − cos 2θ) − 2θ − sin 2θ),   p_s = ±8/Re log r.

    Only ψ − ψ_s is a polynomial, which so converges quickly.

    **Arguments:**

    - `reynolds`: Re (dimensionless), up to a few hundred: Newton's method starts from rest.
    - `points`: N, the degree of the polynomials in x and y; the work grows like N⁶.
    - `tolerance`: of Newton's steps, relative to ψ.

    **Returns:** a [`Reference`][] of (x, y) ↦ u, v, p, p of mean 0; its error comes from 3/4 as many points.

    **Raises:** `ValueError` if Newton's method does not converge.

    **Reference:** Botella and Peyret, Benchmark spectral results on the lid-driven cavity flow, 1998.
    """
    coarse, fine = (_solve(reynolds, n, tolerance) for n in (3 * points // 4, points))
    middle = (np.arange(50) + 0.5) / 50
    sample = mesh(middle, middle)
    error = relative_errors(coarse(sample), fine(sample))
    return Reference(fine, error, ("x", "y"), ("u", "v", "p"))


def _corners(x, y):
    """Derivatives of ψ_s, summed over both corners, and Re p_s: a dictionary of arrays."""
    total: dict[str, np.ndarray] = {}
    for a, side in ((x, 1.0), (1 - x, -1.0)):  # ∂/∂x = side ∂/∂a
        b = 1 - y  # ∂/∂y = −∂/∂b
        square = np.maximum(a**2 + b**2, 1e-300)
        angle = np.arctan2(b, a)
        part = {
            "s": np.pi * b**2 - 2 * angle * (a**2 + b**2) - 2 * a * b,
            "x": -4 * a * angle * side,
            "y": -(2 * np.pi * b - 4 * b * angle - 4 * a),
            "xx": -4 * angle + 4 * a * b / square,
            "xy": 4 * a**2 / square * side,
            "yy": 2 * np.pi - 4 * angle - 4 * a * b / square,
            "lx": 8 * b / square * side,  # of the Laplacian
            "ly": 8 * a / square,
            "p": 4 * np.log(square) * side,
        }
        total = {name: value + total.get(name, 0.0) for name, value in part.items()}
    return total


def _lift(grid: Chebyshev, corner):
    """A polynomial with the boundary values and slopes of ψ − ψ_s; (N + 1, N + 1)."""
    s = grid.nodes
    # Cubics of value 1 at s = 1, value 1 at 0, slope 1 at 1, slope 1 at 0.
    cubics = np.stack([s**2 * (3 - 2 * s), (1 - s) ** 2 * (1 + 2 * s), s**2 * (s - 1), s * (1 - s) ** 2])
    ends = [0, -1]
    over_x = cubics.T @ np.concatenate([-corner["s"][ends], -corner["x"][ends]])
    slope = -corner["y"][:, ends]
    slope[:, 0] += 4 * s * (1 - s)
    rest = slope - (over_x @ grid.derivative.T)[:, ends]
    return over_x + np.concatenate([-corner["s"][:, ends] - over_x[:, ends], rest], axis=1) @ cubics


def _solve(reynolds, n, tolerance):
    grid = Chebyshev(n)
    x, y = np.meshgrid(grid.nodes, grid.nodes, indexing="ij")
    corner = _corners(x, y)
    lift = _lift(grid, corner)
    inner = (slice(1, -1), slice(1, -1))
    powers = [np.linalg.matrix_power(grid.derivative, k) for k in range(5)]
    of_lift = lambda i, j: (powers[i] @ lift @ powers[j].T)[inner]
    operator = lambda i, j: np.kron(grid.clamped[i], grid.clamped[j])
    known = {
        "x": corner["x"][inner] + of_lift(1, 0),
        "y": corner["y"][inner] + of_lift(0, 1),
        "lx": corner["lx"][inner] + of_lift(3, 0) + of_lift(1, 2),
        "ly": corner["ly"][inner] + of_lift(2, 1) + of_lift(0, 3),
        "bi": of_lift(4, 0) + 2 * of_lift(2, 2) + of_lift(0, 4),
    }
    on_v = {
        "x": operator(1, 0),
        "y": operator(0, 1),
        "lx": operator(3, 0) + operator(1, 2),
        "ly": operator(2, 1) + operator(0, 3),
        "bi": operator(4, 0) + 2 * operator(2, 2) + operator(0, 4),
    }
    v = np.zeros((n - 1) ** 2)
    for _ in range(30):
        now = {name: known[name].ravel() + on_v[name] @ v for name in known}
        residual = now["bi"] / reynolds - now["y"] * now["lx"] + now["x"] * now["ly"]
        jacobian = on_v["bi"] / reynolds
        jacobian += now["x"][:, None] * on_v["ly"] + now["ly"][:, None] * on_v["x"]
        jacobian -= now["y"][:, None] * on_v["lx"] + now["lx"][:, None] * on_v["y"]
        step = np.linalg.solve(jacobian, residual)
        v = v - step
        if np.max(np.abs(step)) <= tolerance * np.max(np.abs(v)):
            break
    else:
        raise ValueError(
            f"`reynolds` is {reynolds}: Newton's method does not converge from rest with {n} points; this "
            "reference is meant for a few hundred at most."
        )
    smooth = lift.copy()
    smooth[inner] += v.reshape(n - 1, n - 1)
    of = lambda i, j: powers[i] @ smooth @ powers[j].T
    px, py = of(1, 0), of(0, 1)
    u, w = py + corner["y"], px + corner["x"]  # v = −w
    xx, xy, yy = (
        of(*order) + corner[name] for order, name in (((2, 0), "xx"), ((1, 1), "xy"), ((0, 2), "yy"))
    )
    # The part of ∇p that ∇p_s does not have.
    p_x = (of(2, 1) + of(0, 3)) / reynolds - u * xy + w * yy
    p_y = -(of(3, 0) + of(1, 2)) / reynolds + u * xx - w * xy
    pressure = grid.integral @ p_x[:, -1:] + p_y @ grid.integral.T
    pressure = pressure - grid.weights @ pressure @ grid.weights

    def function(points):
        singular = _corners(*points.T)
        row, column = (grid.at(axis) for axis in points.T)
        value = lambda field: np.sum((row @ field) * column, axis=1)
        fields = (
            value(py) + singular["y"],
            -value(px) - singular["x"],
            value(pressure) + singular["p"] / reynolds,
        )
        return np.stack(fields, axis=1)

    return function
