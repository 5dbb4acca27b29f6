"""After characteristics cross: of all labels at a point, the one of the entropy solution."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .. import pde
from .._solve import solve
from ..residuals import Root
from ..solvers import BracketedNewton
from ._ansatz import named
from ._labels import AbstractLabels, FromStart

_CANDIDATES = 257  # labels tried for one point
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(4)
_FLUX_NODES, _FLUX_WEIGHTS = np.polynomial.legendre.leggauss(10)


class Entropy(eqx.Module):
    """Hopf–Lax for u_t + f(u)_x = 0 with convex f, v = f′: of the labels with X(ξ, t) = x the right one has
    the least

        Φ(ξ) = ∫^ξ u₀ + τ L((x − ξ)/τ),   L(q) = q u − f(u) where v(u) = q,

    τ the time since the start; for concave f, the largest. Where u₀ jumps up it is the label of the jump, for
    a fan of x, in which v(u) = (x − ξ)/τ.
    """

    labels: FromStart
    equation: pde.AbstractTransport
    concave: bool = eqx.field(static=True)

    def state(self, label: Float[Array, ""]) -> Float[Array, ""]:
        """u₀ at any label, copies of the period included."""
        if self.labels.periodic:
            (low, high), *_ = self.labels.box.bounds.tolist()
            label = label - (high - low) * jnp.floor((label - low) / (high - low))
        return self.labels.launch(label[None]).state[0]

    def speed(self, u: Float[Array, ""]) -> Float[Array, ""]:
        """v(u) = f′(u)."""
        return speed_of(self.equation, u)

    def extremes(self, dtype: Any) -> tuple[Array, Array]:
        """The least and the largest u₀."""
        (low, high), *_ = self.labels.box.bounds.tolist()
        seen = jax.vmap(self.state)(jnp.linspace(low, high, 1025, dtype=dtype))
        return jnp.min(seen), jnp.max(seen)

    def fan(self, q: Float[Array, ""]) -> Float[Array, ""]:
        """The u with v(u) = q, of those between the extremes of u₀."""
        low, high = self.extremes(q.dtype)
        least, largest = self.speed(low), self.speed(high)
        least, largest = jnp.minimum(least, largest), jnp.maximum(least, largest)
        margin = 1e-9 * (1 + high - low)
        root = Root(lambda u, q: self.speed(u) - q)
        method = BracketedNewton(low - margin, high + margin)
        return solve(root, method, 0.5 * (low + high), jnp.clip(q, least, largest), throw=False).value

    def integral(self, a: Float[Array, ""], b: Float[Array, ""], cells: int) -> Float[Array, " cells"]:
        """∫ u₀ over each of some equal cells from a to b."""
        width = (b - a) / cells
        middles = a + width * (jnp.arange(cells, dtype=a.dtype) + 0.5)
        at = middles[:, None] + 0.5 * width * jnp.asarray(_NODES, a.dtype)
        return 0.5 * width * jax.vmap(jax.vmap(self.state))(at) @ jnp.asarray(_WEIGHTS, a.dtype)

    def cost(self, label: Float[Array, ""], x: Float[Array, ""], tau: Float[Array, ""]) -> Float[Array, ""]:
        """τ L((x − ξ)/τ), with f(0) = 0."""
        q = (x - label) / tau
        u = self.fan(q)
        nodes, weights = (jnp.asarray(w, u.dtype) for w in (_FLUX_NODES, _FLUX_WEIGHTS))
        flux = 0.5 * u * jnp.sum(weights * jax.vmap(self.speed)(0.5 * u * (nodes + 1)))
        return tau * (q * u - flux)

    def brackets(self, x: Float[Array, ""], tau: Float[Array, ""]):
        """Of the two best minima of Φ on a lattice of labels: the label below and above, and ∫u₀ up to the
        lower one. Both may be the same."""
        low, high = self.extremes(x.dtype)
        speeds = jnp.stack([self.speed(low), self.speed(high)])
        (a, b), *_ = self.labels.box.bounds.tolist()
        slack = 1e-6 * (b - a) + 1e-3 * tau * (jnp.max(speeds) - jnp.min(speeds))
        first = x - tau * jnp.max(speeds) - slack
        last = x - tau * jnp.min(speeds) + slack
        if not self.labels.periodic:
            first, last = jnp.clip(first, a, b), jnp.clip(last, a, b)
        first, last = jax.lax.stop_gradient((first, last))
        grid = jnp.linspace(first, last, _CANDIDATES)
        area = jnp.append(0.0, jnp.cumsum(self.integral(first, last, _CANDIDATES - 1)))
        phi = area + jax.vmap(self.cost, in_axes=(0, None, None))(grid, x, tau)
        phi = -phi if self.concave else phi
        padded = jnp.pad(phi, 1, constant_values=jnp.inf)
        lowest = (phi <= padded[:-2]) & (phi <= padded[2:])
        _, best = jax.lax.top_k(jnp.where(lowest, -phi, -jnp.inf), 2)
        best = jnp.where(lowest[best], best, best[0])
        below = jnp.maximum(best - 1, 0)
        return grid[below], grid[jnp.minimum(best + 1, _CANDIDATES - 1)], area[below]


def speed_of(equation: pde.AbstractTransport, u: Float[Array, ""], point: Array | None = None) -> Array:
    """The velocity of one field in one dimension, at the origin by default."""
    at = jnp.zeros(2, u.dtype) if point is None else point
    (v,) = equation.velocity(pde.Point({equation.fields[0]: u}), named(at, equation.coordinates))
    return jnp.asarray(v, u.dtype)


def make_entropy(equation: pde.AbstractTransport, labels: AbstractLabels) -> Entropy:
    """Checks that Hopf–Lax applies; raise otherwise."""
    problem = None
    zeros = jnp.zeros(len(equation.coordinates))
    point = named(zeros, equation.coordinates)
    u = pde.Point(dict.fromkeys(equation.fields, jnp.zeros(())))
    if len(equation.fields) > 1 or len(equation.coordinates) > 2:
        problem = f"{len(equation.fields)} fields in {len(equation.coordinates) - 1} dimensions"
    elif equation.diffusion(u, point) is not None or equation.source(u, point) is not None:
        problem = "diffusion or a source"
    elif not isinstance(labels, FromStart):
        problem = "a boundary where the flow enters"
    if problem is not None:
        raise ValueError(
            f"`entropy` is True for {type(equation).__name__} with {problem}; the formula of Hopf and Lax is "
            "for one field in one dimension, u_t + f(u)_x = 0, on a line or a circle. Use "
            "`pde.reference.method_of_lines`, or give the equation some diffusion."
        )
    assert isinstance(labels, FromStart)
    made = Entropy(labels, equation, False)
    low, high = made.extremes(zeros.dtype)
    states = jnp.linspace(low, high, 201)
    places = jax.random.uniform(jax.random.key(0), (8, 2), minval=-1.0, maxval=1.0)
    at = jax.vmap(lambda p: jax.vmap(lambda u: speed_of(equation, u, p))(states))(places)
    if isinstance(at, jax.core.Tracer):
        return made  # what coefficients are is not known yet
    if not bool(jnp.allclose(at, at[0], rtol=1e-5)):
        raise ValueError(
            "`entropy` is True for a velocity that depends on x or t; the formula of Hopf and Lax is for "
            "v(u) alone. Give the equation some diffusion, and use entropy=False."
        )
    rising = jnp.diff(at[0])
    if bool(jnp.all(rising >= 0)) or bool(jnp.all(rising <= 0)):
        return Entropy(labels, equation, bool(rising.sum() < 0))
    raise ValueError(
        f"The flux of {type(equation).__name__} is not convex: its velocity rises and falls for u between "
        f"{float(low):.3g} and {float(high):.3g}, so that a shock may have a fan beside it, which the "
        "formula of Hopf and Lax does not give. Use a finite-volume method, or add diffusion."
    )
