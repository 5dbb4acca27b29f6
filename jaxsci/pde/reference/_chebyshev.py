"""Chebyshev collocation on [0, 1]: nodes, derivatives, integrals, evaluation between the nodes."""

import numpy as np
from jaxtyping import Float


class Chebyshev:
    """The N + 1 points x = (1 + cos(πj/N))/2, from 1 down to 0, and matrices on values there.

    - `nodes`: (N + 1,).
    - `derivative`: (N + 1, N + 1).
    - `clamped`: the derivatives of order 0 to 4 at the interior points, each (N − 1, N − 1), of the
        polynomial that has given values there and vanishes with its slope at both ends.
    - `integral`: (N + 1, N + 1), values → the integral from 0 to each point.
    - `weights`: (N + 1,), for the integral over [0, 1].

    **Reference:** Trefethen, Spectral methods in Matlab, 2000, chapters 6, 12 and 14.
    """

    def __init__(self, n: int):
        j = np.arange(n + 1)
        x = np.cos(np.pi * j / n)
        self.sign = (-1.0) ** j
        self.sign[[0, -1]] *= 0.5
        # xᵢ − xⱼ without cancellation.
        gap = 2 * np.sin(np.pi * (j[:, None] + j) / (2 * n)) * np.sin(np.pi * (j - j[:, None]) / (2 * n))
        d = (self.sign / self.sign[:, None]) / (gap + np.eye(n + 1))
        d -= np.diag(np.sum(d, axis=1))
        self.nodes, self.derivative = (1 + x) / 2, 2 * d
        # With v = (1 − x²) q: the derivatives of v from those of q = v/(1 − x²), which vanishes at ±1.
        y, inner = x[1:-1, None], slice(1, -1)
        d1, d2, d3, d4 = (np.linalg.matrix_power(d, k)[inner, inner] for k in (1, 2, 3, 4))
        bump, one = 1 - y**2, np.eye(n - 1)
        orders = (
            bump * one,
            bump * d1 - 2 * y * one,
            bump * d2 - 4 * y * d1 - 2 * one,
            bump * d3 - 6 * y * d2 - 6 * d1,
            bump * d4 - 8 * y * d3 - 12 * d2,
        )
        self.clamped = tuple(2**k * order / bump.T for k, order in enumerate(orders))
        self.integral = np.zeros((n + 1, n + 1))
        self.integral[:-1, :-1] = np.linalg.inv(self.derivative[:-1, :-1])
        # The row of the derivative at x = 0 is a combination of the others: its value does not count.
        self.weights = self._weights(n)

    @staticmethod
    def _weights(n):
        """Clenshaw and Curtis's, as integrals of the cosine series."""
        k = np.arange(0, n + 1, 2)
        cosine = np.cos(np.pi * np.outer(np.arange(n + 1), k) / n) * 2 / n
        cosine[:, k == 0] *= 0.5
        cosine[:, k == n] *= 0.5
        cosine[[0, -1]] *= 0.5
        return cosine @ (1 / (1 - k**2))

    def at(self, x: Float[np.ndarray, " n"]) -> Float[np.ndarray, "n m"]:
        """The barycentric interpolation matrix: values at the nodes → values at x."""
        gap = np.asarray(x)[:, None] - self.nodes
        hit = gap == 0
        weight = self.sign / np.where(hit, 1.0, gap)
        weight = np.where(hit.any(axis=1, keepdims=True), hit, weight)
        return weight / weight.sum(axis=1, keepdims=True)
