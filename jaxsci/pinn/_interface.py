"""What can be asked of two solutions where their sub-domains meet."""

import enum
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .. import pde
from ..pde._equation import TIME, space


class Interface(enum.IntEnum):
    """The nine conditions between the two sides of an interface, by their place in `selection`.

    With u₁, u₂ on the two sides, r the residual of the equation, n the coordinate across the interface and τ
    each of those along it, the rows of a [`jaxsci.pinn.MultiDomainPINN`][] are

    - `VALUE`: u₁ − u₂. `AVERAGE`: both less (u₁ + u₂)/2, as in XPINN (half of `VALUE`).
    - `RESIDUAL`: r₁ and r₂. `RESIDUAL_JUMP`: r₁ − r₂ (XPINN).
    - `FLUX`: the jump of the normal flux (cPINN). `NORMAL_CURVATURE`: of u_nn.
    - `RESIDUAL_GRADIENT`: ∇r₁ and ∇r₂ (gPINN).
    - `TANGENT`: the jump of each u_τ. `TANGENT_CURVATURE`: of each u_ττ.

    `Interface.select(Interface.VALUE, Interface.FLUX)` is a `selection` of two.

    **Reference:** Li et al., Meta learning of interface conditions for multi-domain physics-informed neural
    networks, ICML 2023 (arXiv:2210.12669), with n = y and τ = x there.
    """

    VALUE = 0
    AVERAGE = 1
    RESIDUAL = 2
    RESIDUAL_JUMP = 3
    FLUX = 4
    NORMAL_CURVATURE = 5
    RESIDUAL_GRADIENT = 6
    TANGENT = 7
    TANGENT_CURVATURE = 8

    @staticmethod
    def select(*conditions: "Interface") -> Float[Array, "9"]:
        """1 for each of some conditions, 0 for the others."""
        return jnp.zeros(len(Interface)).at[np.array(conditions, int)].set(1.0)


class Jet(eqx.Module):
    """One side at a point of an interface: derivatives, the equation's residuals (E,) and their gradients
    (E, d)."""

    d: pde.Derivatives
    residual: Float[Array, " E"]
    gradient: Float[Array, "E d"]


Flux = Callable[[pde.Derivatives, pde.Point, str], Any]
"""(derivatives, point, n) ↦ the flux along coordinate n, a scalar or a tuple of them."""


class NormalFlux(eqx.Module):
    """The flux across n = const of a transport equation, and ∂ₙu of any other, or where n is time.

    uᵢ_t + v·∇uᵢ = g Δuᵢ has the flux uᵢ ∫₀¹ vₙ(θu) dθ − g ∂ₙuᵢ: v u where the velocity is given, the
    conserved one (u²/2 − ν uₓ for Burgers) for one field. The integral is by five Gauss–Legendre nodes,
    exact for velocities of degree nine in u.
    """

    equation: pde.AbstractEquation

    def __call__(self, d: pde.Derivatives, point: pde.Point, normal: str) -> tuple[Array, ...]:
        names = self.equation.fields
        slopes = [d[f"{name}_{normal}"] for name in names]
        if not isinstance(self.equation, pde.AbstractTransport) or normal == TIME:
            return tuple(slopes)
        axis = space(self.equation.coordinates).index(normal)
        u = pde.Point({name: d[name] for name in names})
        nodes, weights = np.polynomial.legendre.leggauss(5)
        speed = 0.0
        for node, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
            scaled = pde.Point({name: float(node) * d[name] for name in names})
            speed = speed + float(weight) * self.equation.velocity(scaled, point)[axis]
        g = self.equation.diffusion(u, point)
        g = 0.0 if g is None else g
        return tuple(speed * d[name] - g * slope for name, slope in zip(names, slopes, strict=True))


def jumps(
    one: Jet, other: Jet, point: pde.Point, normal: str, fields: tuple[str, ...], flux: Flux
) -> tuple[Float[Array, " k"], ...]:
    """The rows of each of the nine conditions, in the order of [`Interface`][]."""
    along = [name for name in point if name != normal]
    across = lambda names: jnp.stack([one.d[name] - other.d[name] for name in names])
    values = across(fields)
    flows = [jnp.ravel(jnp.asarray(flux(side.d, point, normal))) for side in (one, other)]
    none = values[:0]
    return (
        values,
        jnp.concatenate([values, -values]) / 2,
        jnp.concatenate([one.residual, other.residual]),
        one.residual - other.residual,
        flows[0] - flows[1],
        across([f"{f}_{normal}{normal}" for f in fields]),
        jnp.concatenate([jnp.ravel(one.gradient), jnp.ravel(other.gradient)]),
        across([f"{f}_{x}" for f in fields for x in along]) if along else none,
        across([f"{f}_{x}{x}" for f in fields for x in along]) if along else none,
    )
