"""Periodic benchmark problems, by Fourier modes and ETDRK4."""

import numpy as np

from ._etdrk4 import Fourier
from ._periodic import periodic
from ._reference import Reference


def allen_cahn(
    diffusivity: float = 1e-4, *, smooth: bool = False, points: int = 4096, steps: int = 1000
) -> Reference:
    """u_t = ε u_xx + 5 (u − u³) on [−1, 1], periodic, u(x, 0) = x² cos πx, t ≤ 1.

    Continued periodically the initial function has a kink at x = ±1.

    **Arguments:**

    - `diffusivity`: ε (dimensionless).
    - `smooth`: start from ½ cos πx − ¼ cos 2πx instead, which has no kink.
    - `points`, `steps`: in space, and in time up to t = 1.

    **Returns:** a [`Reference`][] of (x, t) ↦ u.
    """
    kinked = lambda x: x**2 * np.cos(np.pi * x)
    mild = lambda x: 0.5 * np.cos(np.pi * x) - 0.25 * np.cos(2 * np.pi * x)
    return periodic(
        lambda k: 5 - diffusivity * k**2,
        lambda v, f: -5 * f.modes(f.values(v) ** 3),
        mild if smooth else (lambda x: kinked((x + 1) % 2 - 1)),
        Fourier((-1.0,), (1.0,), (points,)),
        end=1.0,
        steps=steps,
    )


def kdv(dispersion: float = 0.022, *, points: int = 1024, steps: int = 10000) -> Reference:
    """u_t + u u_x + δ² u_xxx = 0 on [−1, 1], periodic, u(x, 0) = cos πx, t ≤ 1: a train of solitons.

    **Arguments:**

    - `dispersion`: δ (dimensionless).
    - `points`, `steps`: in space, and in time up to t = 1.

    **Returns:** a [`Reference`][] of (x, t) ↦ u.

    **Reference:** Zabusky and Kruskal, Interaction of "solitons" in a collisionless plasma, 1965.
    """
    return periodic(
        lambda k: 1j * dispersion**2 * k**3,
        lambda v, f: -0.5j * f.wavenumbers[0] * f.modes(f.values(v) ** 2),
        lambda x: np.cos(np.pi * x),
        Fourier((-1.0,), (1.0,), (points,), 2 / 3),
        end=1.0,
        steps=steps,
    )


def reaction_diffusion(
    rate: float = 5.0, diffusivity: float = 3.0, *, points: int = 512, steps: int = 2000
) -> Reference:
    """u_t = ν u_xx + ρ u (1 − u) on [0, 2π], periodic, u(x, 0) = exp(−(x − π)²/2σ²), σ = π/4, t ≤ 1.

    Continued periodically the initial function has a small kink at x = 0.

    **Arguments:**

    - `rate`: ρ (dimensionless).
    - `diffusivity`: ν (dimensionless); for 0 use [`reaction`][].
    - `points`, `steps`: in space, and in time up to t = 1.

    **Returns:** a [`Reference`][] of (x, t) ↦ u.

    **Reference:** Krishnapriyan et al., Characterizing possible failure modes in physics-informed neural
    networks, 2021.
    """
    return periodic(
        lambda k: rate - diffusivity * k**2,
        lambda v, f: -rate * f.modes(f.values(v) ** 2),
        lambda x: np.exp(-8 * (x % (2 * np.pi) - np.pi) ** 2 / np.pi**2),
        Fourier((0.0,), (2 * np.pi,), (points,)),
        end=1.0,
        steps=steps,
    )


def kuramoto_sivashinsky(*, end: float = 1.0, points: int = 512, steps: int = 20000) -> Reference:
    """u_t + α u u_x + β u_xx + γ u_xxxx = 0 on [0, 2π], periodic, u(x, 0) = cos x (1 + sin x): chaotic.

    α = 100/16, β = 100/16², γ = 100/16⁴.

    **Arguments:**

    - `end`: the last time (dimensionless).
    - `points`, `steps`: in space, and in time up to `end`.

    **Returns:** a [`Reference`][] of (x, t) ↦ u.

    **Reference:** Wang, Sankaran and Perdikaris, Respecting causality for training physics-informed neural
    networks, 2024.
    """
    alpha, beta, gamma = 100 / 16, 100 / 16**2, 100 / 16**4
    return periodic(
        lambda k: beta * k**2 - gamma * k**4,
        lambda v, f: -0.5j * alpha * f.wavenumbers[0] * f.modes(f.values(v) ** 2),
        lambda x: np.cos(x) * (1 + np.sin(x)),
        Fourier((0.0,), (2 * np.pi,), (points,), 2 / 3),
        end=end,
        steps=steps,
    )
