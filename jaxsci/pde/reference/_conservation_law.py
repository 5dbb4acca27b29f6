"""Scalar conservation laws u_t + f(u)_x = 0 with convex f: characteristics, and Hopf–Lax after a shock."""

import dataclasses
from collections.abc import Callable

import equinox as eqx
import numpy as np
from jaxtyping import Float

from ._reference import Reference, mesh, relative_errors

Profile = Callable[[Float[np.ndarray, "..."]], Float[np.ndarray, "..."]]

_identity = lambda u: u
_half_square = lambda u: 0.5 * u**2


class ConservationLaw(eqx.Module):
    """u_t + f(u)_x = 0 on the line (or periodic) with convex f, u(x, 0) = u₀(x).

    u is constant along the characteristics x = ξ + t f′(u₀(ξ)). Of several through one point the right one
    has the least Φ(ξ) = U(ξ) + t L((x − ξ)/t), U′ = u₀, with the Legendre transform L of f (Hopf, Lax,
    Oleinik). Φ is stationary at each of them, and there L(f′(u)) = u f′(u) − f(u).

    **Arguments:**

    - `initial`, `potential`: u₀ and U, functions of arrays.
    - `bounds`: the least and the largest speed f′(u₀).
    - `flux`, `speed`: f and f′; u²/2 and u by default (Burgers).
    - `candidates`: labels ξ tried between the fastest and the slowest characteristic to a point. Every pair
        of neighbors with a root between them is bisected to rounding; two roots in one gap are missed.

    **Reference:** Hopf, The partial differential equation u_t + u u_x = μ u_xx, 1950; Lax, Hyperbolic
    systems of conservation laws II, 1957.
    """

    initial: Profile = eqx.field(static=True)
    potential: Profile = eqx.field(static=True)
    bounds: tuple[float, float] = eqx.field(static=True)
    flux: Profile = eqx.field(static=True, default=_half_square)
    speed: Profile = eqx.field(static=True, default=_identity)
    candidates: int = eqx.field(static=True, default=257)

    def labels(self, x: Float[np.ndarray, " n"], t: Float[np.ndarray, " n"]):
        """The characteristics through each point that are minima of Φ.

        **Returns:** for each of them the index of its point, increasing, and its label ξ.
        """
        x, t = np.broadcast_arrays(np.asarray(x, np.float64), np.asarray(t, np.float64))
        if np.any(t < 0):
            raise ValueError(f"`t` goes down to {t.min()}; the characteristics start at t = 0.")
        speed = lambda label: self.speed(self.initial(label))
        margin = 1e-3 * (self.bounds[1] - self.bounds[0]) + 1e-9
        first = x - t * (self.bounds[1] + margin) - 1e-9
        last = x - t * (self.bounds[0] - margin) + 1e-9
        grid = first[:, None] + (last - first)[:, None] * np.linspace(0, 1, self.candidates)
        gap = grid + t[:, None] * speed(grid) - x[:, None]
        point, left = np.nonzero((gap[:, :-1] <= 0) & (gap[:, 1:] > 0))
        a, b = grid[point, left], grid[point, left + 1]
        for _ in range(60):
            middle = 0.5 * (a + b)
            below = middle + t[point] * speed(middle) <= x[point]
            a, b = np.where(below, middle, a), np.where(below, b, middle)
        return point, 0.5 * (a + b)

    def smooth(self, points: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 1"]:
        """u at (x, t) before characteristics cross; `ValueError` for a point where they have."""
        point, label = self.labels(*points.T)
        number = np.bincount(point, minlength=len(points))
        if np.any(number != 1):
            x, t = points[np.argmax(number != 1)]
            raise ValueError(
                f"`points` has x = {x}, t = {t}, which {number[number != 1][0]} characteristics reach: "
                "after they cross, use `hopf_lax`; if none does, check `bounds`."
            )
        return self.initial(label)[:, None]

    def entropic(self, points: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 1"]:
        """u at (x, t), by the least Φ; `ValueError` where no characteristic is found."""
        return self.initial(self.chosen(*points.T))[:, None]

    def chosen(self, x: Float[np.ndarray, " n"], t: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """The label ξ(x, t) of least Φ: where what is seen at x came from."""
        point, label = self.labels(x, t)
        time = np.broadcast_to(t, np.shape(x))[point]
        u = self.initial(label)
        value = self.potential(label) + time * (u * self.speed(u) - self.flux(u))
        order = np.lexsort((value, point))
        first, place = np.unique(point[order], return_index=True)
        if len(first) != np.size(x):
            raise ValueError("no characteristic reaches some of the points: check `bounds`.")
        return label[order][place]

    def shock(self, t: float, low: float, high: float) -> float:
        """The position of the shock that lies between `low` and `high` at time t.

        The label ξ(x, t) grows with x and jumps at a shock: the x is bisected at which it passes the middle
        of the labels of the two ends. So let no other shock lie between them, and let them be near.
        """
        ends = self.chosen(np.array([low, high]), t)
        for _ in range(60):
            x = 0.5 * (low + high)
            if self.chosen(np.array([x]), t)[0] <= 0.5 * (ends[0] + ends[1]):
                low = x
            else:
                high = x
        return 0.5 * (low + high)


def characteristics(law: ConservationLaw, *, domain: tuple[float, float], end: float) -> Reference:
    """u_t + f(u)_x = 0 while characteristics do not cross: u(x, t) = u₀(ξ), ξ + t f′(u₀(ξ)) = x.

    **Arguments:**

    - `law`: the [`ConservationLaw`][].
    - `domain`, `end`: where x lies in, and the last time; for the estimate of the error.

    **Returns:** a [`Reference`][] of (x, t) ↦ u; its error comes from half as many candidates.

    **Raises:** `ValueError` for a point that several characteristics reach.
    """
    return _reference(law, ConservationLaw.smooth, domain, end)


def hopf_lax(law: ConservationLaw, *, domain: tuple[float, float], end: float) -> Reference:
    """The entropy solution of u_t + f(u)_x = 0, with its shocks: [`ConservationLaw`][] has the formula.

    **Arguments:**

    - `law`: the [`ConservationLaw`][].
    - `domain`, `end`: where x lies in, and the last time; for the estimate of the error.

    **Returns:** a [`Reference`][] of (x, t) ↦ u; its error comes from half as many candidates.
    """
    return _reference(law, ConservationLaw.entropic, domain, end)


def sine_law(mean: float = 0.5) -> ConservationLaw:
    """u_t + u u_x = 0, u(x, 0) = C + sin x, 2π-periodic: a shock at x = π + C t from t = 1 on.

    **Arguments:**

    - `mean`: C (dimensionless).

    **Returns:** a [`ConservationLaw`][], for [`characteristics`][] (t < 1) and [`hopf_lax`][].
    """
    return ConservationLaw(
        lambda x: mean + np.sin(x), lambda x: mean * x - np.cos(x), bounds=(mean - 1.0, mean + 1.0)
    )


def inviscid_burgers(mean: float = 0.5, *, end: float = 2.0) -> Reference:
    """[`sine_law`][] by [`hopf_lax`][], on [0, 2π] up to `end`.

    **Arguments:**

    - `mean`: C (dimensionless).
    - `end`: the last time of the estimate of the error.

    **Returns:** a [`Reference`][] of (x, t) ↦ u.
    """
    return hopf_lax(sine_law(mean), domain=(0.0, 2 * np.pi), end=end)


def _reference(law: ConservationLaw, method: Callable, domain, end: float) -> Reference:
    coarse = dataclasses.replace(law, candidates=law.candidates // 2 + 1)
    sample = mesh(np.linspace(*domain, 127), np.linspace(0, end, 5))
    error = relative_errors(method(coarse, sample), method(law, sample))
    return Reference(lambda points: method(law, points), error, ("x", "t"), ("u",))
