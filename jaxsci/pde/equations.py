"""Named equations: nothing elsewhere knows them."""

from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from ._conditions import AbstractFaceCondition, Dirichlet, Robin, high, low
from ._equation import AbstractEquation, AbstractTransport, Point


def _array_or_none(value):
    return None if value is None else jnp.asarray(value)


class Heat(AbstractEquation):
    """u_t = κ u_xx.

    **Arguments:**

    - `diffusivity`: κ [length²/time].
    """

    diffusivity: Float[Array, ""] = eqx.field(converter=jnp.asarray)
    coordinates = ("x", "t")
    fields = ("u",)

    def residual(self, d, point):
        """u_t − κ u_xx."""
        return d.u_t - self.diffusivity * d.u_xx


class Burgers(AbstractTransport):
    """u_t + u u_x = ν u_xx.

    **Arguments:**

    - `viscosity`: ν [length²/time]; None: inviscid.
    """

    viscosity: Float[Array, ""] | None = eqx.field(converter=_array_or_none)
    coordinates = ("x", "t")
    fields = ("u",)

    def velocity(self, u, point):
        """u."""
        return (u.u,)

    def diffusion(self, u, point):
        """ν."""
        return self.viscosity


class Convection(AbstractTransport):
    """u_t + c u_x = ν u_xx.

    **Arguments:**

    - `speed`: c [length/time].
    - `diffusivity`: ν [length²/time]; None: nothing diffuses.
    """

    speed: Float[Array, ""] = eqx.field(converter=jnp.asarray)
    diffusivity: Float[Array, ""] | None = eqx.field(converter=_array_or_none, default=None)
    coordinates = ("x", "t")
    fields = ("u",)

    def velocity(self, u, point):
        """c."""
        return (self.speed,)

    def diffusion(self, u, point):
        """ν."""
        return self.diffusivity


class Advection(AbstractTransport):
    """u_t + v·∇u = ν Δu in the plane, carried by a given flow.

    **Arguments:**

    - `velocity_field`: v, a function of a [`Point`][] with t ↦ its two entries [length/time].
    - `diffusivity`: ν [length²/time]; None: nothing diffuses.
    """

    velocity_field: Callable[[Point], tuple[Array, Array]]
    diffusivity: Float[Array, ""] | None = eqx.field(converter=_array_or_none, default=None)
    coordinates = ("x", "y", "t")
    fields = ("u",)

    def velocity(self, u, point):
        """v."""
        return self.velocity_field(point)

    def diffusion(self, u, point):
        """ν."""
        return self.diffusivity


class Fisher(AbstractEquation):
    """u_t = ν u_xx + ρ u (1 − u): logistic growth that spreads (Fisher–KPP); with ν = 0, growth alone.

    **Arguments:**

    - `rate`: ρ [1/time].
    - `diffusivity`: ν [length²/time]; zero by default.
    """

    rate: Float[Array, ""] = eqx.field(converter=jnp.asarray)
    diffusivity: Float[Array, ""] = eqx.field(converter=jnp.asarray, default=0.0)
    coordinates = ("x", "t")
    fields = ("u",)

    def residual(self, d, point):
        """u_t − ν u_xx − ρ u (1 − u)."""
        return d.u_t - self.diffusivity * d.u_xx - self.rate * d.u * (1 - d.u)


class AllenCahn(AbstractEquation):
    """u_t = ν u_xx + ρ (u − u³): two phases, ±1, and the walls between them.

    **Arguments:**

    - `diffusivity`: ν [length²/time].
    - `rate`: ρ [1/time].
    """

    diffusivity: Float[Array, ""] = eqx.field(converter=jnp.asarray, default=1e-4)
    rate: Float[Array, ""] = eqx.field(converter=jnp.asarray, default=5.0)
    coordinates = ("x", "t")
    fields = ("u",)

    def residual(self, d, point):
        """u_t − ν u_xx − ρ (u − u³)."""
        return d.u_t - self.diffusivity * d.u_xx - self.rate * (d.u - d.u**3)


class KortewegDeVries(AbstractEquation):
    """u_t + u u_x + δ² u_xxx = 0.

    **Arguments:**

    - `dispersion`: δ [length^(3/2)/time^(1/2)].
    """

    dispersion: Float[Array, ""] = eqx.field(converter=jnp.asarray, default=0.022)
    coordinates = ("x", "t")
    fields = ("u",)

    def residual(self, d, point):
        """u_t + u u_x + δ² u_xxx."""
        return d.u_t + d.u * d.u_x + self.dispersion**2 * d.u_xxx


class Wave(AbstractEquation):
    """u_tt = c² u_xx.

    **Arguments:**

    - `speed`: c [length/time].
    """

    speed: Float[Array, ""] = eqx.field(converter=jnp.asarray)
    coordinates = ("x", "t")
    fields = ("u",)

    def residual(self, d, point):
        """u_tt − c² u_xx."""
        return d.u_tt - self.speed**2 * d.u_xx


class NavierStokes(AbstractEquation):
    """Steady incompressible flow in the plane: (u·∇)u + ∇p = Δu/Re, ∇·u = 0.

    **Arguments:**

    - `reynolds`: Re (dimensionless), with lengths and velocities of order one.
    """

    reynolds: Float[Array, ""] = eqx.field(converter=jnp.asarray)
    coordinates = ("x", "y")
    fields = ("u", "v", "p")

    def residual(self, d, point):
        """Momentum along x and y, and the divergence."""
        return (
            d.u * d.u_x + d.v * d.u_y + d.p_x - (d.u_xx + d.u_yy) / self.reynolds,
            d.u * d.v_x + d.v * d.v_y + d.p_y - (d.v_xx + d.v_yy) / self.reynolds,
            d.u_x + d.v_y,
        )


class DiffusionSorption(AbstractEquation):
    """R(u) u_t = D u_xx, with the Freundlich retardation R(u) = 1 + (1−φ)/φ ρₛ k n u^(n−1).

    R is singular at u = 0 (n < 1), and a solver's trial fields may be negative. Below `smallest`
    = s it is evaluated at s·(1 − a tanh((1 − u/s)/a)), a = 1 − `floor`, in place of u: R stays positive,
    finite and monotone for every u, is exact for u ≥ s, and is twice continuously differentiable
    (tanh has no second derivative at 0). Far below s it is the constant R(floor·s).

    **Arguments:** (PDEBench's values by default)

    - `diffusivity`: D [m²/s].
    - `freundlich`: k, the sorption coefficient.
    - `porosity`: φ (dimensionless).
    - `density`: ρₛ, of the solid [kg/m³].
    - `exponent`: n (dimensionless), below 1.
    - `smallest`: s, the smallest concentration at which R is exact (dimensionless).
    - `floor`: in (0, 1); R far below s is R(floor·s). Larger values bend R less.

    **Reference:** M. Takamoto et al., PDEBench, NeurIPS 2022, appendix D.5.
    """

    diffusivity: Float[Array, ""] = eqx.field(converter=jnp.asarray, default=5e-4)
    freundlich: Float[Array, ""] = eqx.field(converter=jnp.asarray, default=3.5e-4)
    porosity: Float[Array, ""] = eqx.field(converter=jnp.asarray, default=0.29)
    density: Float[Array, ""] = eqx.field(converter=jnp.asarray, default=2880.0)
    exponent: Float[Array, ""] = eqx.field(converter=jnp.asarray, default=0.874)
    smallest: float = eqx.field(default=1e-4, static=True)
    floor: float = eqx.field(default=0.1, static=True)
    coordinates = ("x", "t")
    fields = ("u",)

    def retardation(self, u: Array) -> Array:
        """R(u), dimensionless, ≥ 1."""
        s, a = self.smallest, 1 - self.floor
        u = jnp.where(u < s, s * (1 - a * jnp.tanh((1 - u / s) / a)), u)
        sorbed = (1 - self.porosity) / self.porosity * self.density * self.freundlich
        return 1 + sorbed * self.exponent * u ** (self.exponent - 1)

    def residual(self, d, point):
        """R(u) u_t − D u_xx."""
        return self.retardation(d.u) * d.u_t - self.diffusivity * d.u_xx

    def conditions(self) -> tuple[AbstractFaceCondition, ...]:
        """u = 1 at the lower end of x, and outflow u + D ∂ₓu = 0 at the upper end.

        PDEBench's text has u = D ∂ₓu at the upper end, which feeds energy in at the boundary (its
        boundary term is +u²); its generator computes the sign used here, which is well-posed.
        """
        return (
            Dirichlet("u", low("x"), 1.0),
            Robin("u", high("x"), a=1.0, b=self.diffusivity),
        )


class ReactionDiffusion(AbstractEquation):
    """The FitzHugh–Nagumo system in the plane: u_t = Dᵤ Δu + u − u³ − k − v, v_t = Dᵥ Δv + u − v.

    **Arguments:**

    - `diffusivity_u`, `diffusivity_v`: Dᵤ, Dᵥ [length²/time].
    - `threshold`: k (dimensionless).
    """

    diffusivity_u: Float[Array, ""] = eqx.field(converter=jnp.asarray, default=1e-3)
    diffusivity_v: Float[Array, ""] = eqx.field(converter=jnp.asarray, default=5e-3)
    threshold: Float[Array, ""] = eqx.field(converter=jnp.asarray, default=5e-3)
    coordinates = ("x", "y", "t")
    fields = ("u", "v")

    def residual(self, d, point):
        """The residuals of u and of v."""
        reaction = d.u - d.u**3 - self.threshold - d.v
        return (
            d.u_t - self.diffusivity_u * (d.u_xx + d.u_yy) - reaction,
            d.v_t - self.diffusivity_v * (d.v_xx + d.v_yy) - (d.u - d.v),
        )


class NavierStokesVorticity(AbstractEquation):
    """w_t + ψ_y w_x − ψ_x w_y = ν Δw, Δψ = −w: incompressible flow in the plane.

    **Arguments:**

    - `viscosity`: ν [length²/time].
    """

    viscosity: Float[Array, ""] = eqx.field(converter=jnp.asarray)
    coordinates = ("x", "y", "t")
    fields = ("w", "psi")

    def residual(self, d, point):
        """The vorticity equation, and Δψ + w."""
        advection = d.psi_y * d.w_x - d.psi_x * d.w_y
        return (
            d.w_t + advection - self.viscosity * (d.w_xx + d.w_yy),
            d.psi_xx + d.psi_yy + d.w,
        )


class Poisson(AbstractEquation):
    """−Δu = f in the plane.

    **Arguments:**

    - `source`: f, a function of a [`Point`][] [units of u/length²].
    """

    source: Callable[[Point], Array]
    coordinates = ("x", "y")
    fields = ("u",)

    def residual(self, d, point):
        """−Δu − f."""
        return -d.u_xx - d.u_yy - self.source(point)
