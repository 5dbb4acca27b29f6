"""Closed forms of benchmark problems. All quantities are dimensionless."""

from collections.abc import Callable, Sequence

import numpy as np

from ._reference import ROUNDING, Reference


def _closed(function: Callable, coordinates: Sequence[str], fields: Sequence[str] = ("u",)) -> Reference:
    """A reference from a function of the coordinates; it returns one field, or a tuple of them."""

    def columns(points):
        values = function(*points.T)
        return np.stack(values if isinstance(values, tuple) else (values,), axis=1)

    return Reference(columns, ROUNDING, tuple(coordinates), tuple(fields))


def convection_diffusion(speed: float = 30.0, diffusivity: float = 0.0) -> Reference:
    """u_t + c u_x = ν u_xx, 2π-periodic, u(x, 0) = sin x: u = e^(−ν t) sin(x − c t).

    **Arguments:**

    - `speed`: c.
    - `diffusivity`: ν; 0 for convection alone.

    **Returns:** a [`Reference`][] of (x, t) ↦ u.

    **Reference:** Krishnapriyan et al., Characterizing possible failure modes in physics-informed neural
    networks, 2021.
    """
    return _closed(lambda x, t: np.exp(-diffusivity * t) * np.sin(x - speed * t), ("x", "t"))


def reaction(rate: float = 5.0) -> Reference:
    """u_t = ρ u (1 − u), u(x, 0) = u₀ = exp(−(x − π)²/2σ²), σ = π/4: u = u₀/(u₀ + (1 − u₀) e^(−ρ t)).

    **Arguments:**

    - `rate`: ρ.

    **Returns:** a [`Reference`][] of (x, t) ↦ u, 2π-periodic in x.

    **Reference:** as for [`convection_diffusion`][].
    """

    def u(x, t):
        start = np.exp(-8 * (x % (2 * np.pi) - np.pi) ** 2 / np.pi**2)
        return start / (start + (1 - start) * np.exp(-rate * t))

    return _closed(u, ("x", "t"))


def heat(diffusivity: float = 1.0, modes: tuple[tuple[float, int], ...] = ((1.0, 1),)) -> Reference:
    """u_t = κ u_xx on [0, 1], u = 0 at the ends: u = Σ a sin(nπx) e^(−κ n²π² t).

    **Arguments:**

    - `diffusivity`: κ.
    - `modes`: pairs (a, n).

    **Returns:** a [`Reference`][] of (x, t) ↦ u.
    """
    return _closed(
        lambda x, t: sum(
            a * np.sin(n * np.pi * x) * np.exp(-diffusivity * (n * np.pi) ** 2 * t) for a, n in modes
        ),
        ("x", "t"),
    )


def wave(speed: float = 2.0, modes: tuple[tuple[float, int], ...] = ((1.0, 1), (0.5, 4))) -> Reference:
    """u_tt = c² u_xx on [0, 1], u = 0 at the ends, at rest at first: u = Σ a sin(nπx) cos(c nπ t).

    **Arguments:**

    - `speed`: c.
    - `modes`: pairs (a, n).

    **Returns:** a [`Reference`][] of (x, t) ↦ u.

    **Reference:** Wang, Yu and Perdikaris, When and why PINNs fail to train, 2022.
    """
    return _closed(
        lambda x, t: sum(a * np.sin(n * np.pi * x) * np.cos(speed * n * np.pi * t) for a, n in modes),
        ("x", "t"),
    )


def multiscale_poisson(waves: tuple[int, ...] = (4, 8, 12, 16)) -> Reference:
    """−∇²u = f on [0, 1]², u = 0 on the boundary: u is the mean over w of sin(wπx) sin(wπy).

    f is the mean of 2 w²π² sin(wπx) sin(wπy).

    **Arguments:**

    - `waves`: the whole numbers w.

    **Returns:** a [`Reference`][] of (x, y) ↦ u.
    """
    return _closed(
        lambda x, y: sum(np.sin(w * np.pi * x) * np.sin(w * np.pi * y) for w in waves) / len(waves),
        ("x", "y"),
    )


def poisson_cosines(dimensions: int = 5) -> Reference:
    """−∇²u = π² Σᵢ cos πxᵢ on [0, 1]ᵈ, u given on the boundary: u = Σᵢ cos πxᵢ.

    **Arguments:**

    - `dimensions`: d.

    **Returns:** a [`Reference`][] of (x1, …, xd) ↦ u.

    **Reference:** Müller and Zeinhofer, Achieving high accuracy with PINNs via energy natural gradient
    descent, 2023.
    """
    return _closed(lambda *x: sum(np.cos(np.pi * xi) for xi in x), _names(dimensions))


def harmonic_products(dimensions: int = 10) -> Reference:
    """∇²u = 0 on [0, 1]ᵈ, u given on the boundary: u = x₁x₂ + x₃x₄ + ….

    **Arguments:**

    - `dimensions`: d, even.

    **Returns:** a [`Reference`][] of (x1, …, xd) ↦ u.

    **Raises:** `ValueError` for an odd number of dimensions.

    **Reference:** Yu and E, The deep Ritz method, 2018.
    """
    if dimensions < 2 or dimensions % 2:
        raise ValueError(f"`dimensions` is {dimensions}; the pairs x₁x₂ + x₃x₄ + … need an even number.")
    return _closed(lambda *x: sum(a * b for a, b in zip(x[::2], x[1::2], strict=True)), _names(dimensions))


def _names(dimensions: int) -> tuple[str, ...]:
    return tuple(f"x{i}" for i in range(1, dimensions + 1))


def inverse_diffusivity() -> Reference:
    """∇·(a ∇u) + f = 0 on [0, 1]², with u = sin πx sin πy and the a to be found.

    a = 1/(1 + x² + y² + (x − 1)² + (y − 1)²); f is what makes the equation hold.

    **Returns:** a [`Reference`][] of (x, y) ↦ u, a, f.

    **Reference:** Hao et al., PINNacle: a comprehensive benchmark of physics-informed neural networks, 2024.
    """

    def fields(x, y):
        s, c = (lambda v: np.sin(np.pi * v)), (lambda v: np.cos(np.pi * v))
        u = s(x) * s(y)
        a = 1 / (1 + x**2 + y**2 + (x - 1) ** 2 + (y - 1) ** 2)
        a_x, a_y = -(4 * x - 2) * a**2, -(4 * y - 2) * a**2
        f = 2 * np.pi**2 * a * u - np.pi * (a_x * c(x) * s(y) + a_y * s(x) * c(y))
        return u, a, f

    return _closed(fields, ("x", "y"), ("u", "a", "f"))


def kovasznay(reynolds: float = 40.0) -> Reference:
    """Steady Navier–Stokes behind a grid: (u·∇)u = −∇p + ∇²u/Re, ∇·u = 0.

    u = 1 − e^(λx) cos 2πy, v = λ/2π e^(λx) sin 2πy, p = (1 − e^(2λx))/2, with λ = Re/2 − √(Re²/4 + 4π²).

    **Arguments:**

    - `reynolds`: Re.

    **Returns:** a [`Reference`][] of (x, y) ↦ u, v, p.

    **Reference:** Kovasznay, Laminar flow behind a two-dimensional grid, 1948.
    """
    # Not Re/2 − √(…), a difference of close numbers for a large Re.
    rate = -4 * np.pi**2 / (reynolds / 2 + np.sqrt(reynolds**2 / 4 + 4 * np.pi**2))

    def fields(x, y):
        e = np.exp(rate * x)
        u = 1 - e * np.cos(2 * np.pi * y)
        v = rate / (2 * np.pi) * e * np.sin(2 * np.pi * y)
        return u, v, 0.5 * (1 - e**2)

    return _closed(fields, ("x", "y"), ("u", "v", "p"))


def rotating_pulse(
    diffusivity: float = 1e-3, *, width: float = 0.1, center: tuple[float, float] = (0.5, 0.0)
) -> Reference:
    """u_t + (−y, x)·∇u = ν ∇²u on the plane, u(x, y, 0) = exp(−r²/2σ²): the pulse turns and spreads.

    u = σ²/s exp(−|(x, y) − R(t) c|²/2s), s = σ² + 2 ν t, with the rotation R(t) by the angle t.

    **Arguments:**

    - `diffusivity`: ν.
    - `width`: σ.
    - `center`: c, around which r is measured.

    **Returns:** a [`Reference`][] of (x, y, t) ↦ u.
    """

    def u(x, y, t):
        spread = width**2 + 2 * diffusivity * t
        cx, cy = (
            center[0] * np.cos(t) - center[1] * np.sin(t),
            center[0] * np.sin(t) + center[1] * np.cos(t),
        )
        return width**2 / spread * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * spread))

    return _closed(u, ("x", "y", "t"))
