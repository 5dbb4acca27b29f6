"""A solution of an equation as an Equinox module."""

from collections.abc import Callable, Iterable

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from .. import pde
from ._ansatz import Ansatz, build
from ._check import check_agreement, check_network, check_problem
from ._model import AbstractPINN, check_point, same_equation
from ._terms import terms_of


class PINN(AbstractPINN):
    """u(x) ≈ the solution of an equation on a domain with conditions: a physics-informed network.

    u = L(x) + D(x) N(e(x)): initial values, Dirichlet conditions and periodicity hold exactly, by a lift
    L, a factor D that vanishes where they are given, and features e that go around; so the loss has no
    weights to balance for them. Neumann and Robin conditions, data, and what is listed under `soft` are
    rows of the loss. ::

        model = pinn.PINN(
            pde.Burgers(0.01 / jnp.pi),
            pde.Box({"x": (-1.0, 1.0), "t": (0.0, 1.0)}),
            [
                pde.Initial("u", lambda p: -jnp.sin(jnp.pi * p.x)),
                pde.Dirichlet("u", pde.low("x")),
                pde.Dirichlet("u", pde.high("x")),
            ],
            nn.MLP(2, 1, width=20, depth=3, key=key),
        )
        solution = pinn.fit(model, key=key)
        solution.model(jnp.array([0.3, 0.5]))

    Before training it is a function that meets the conditions. It is a module: differentiate, vmap and
    save it like any.

    **Arguments:**

    - `equation`: its coefficients are leaves, which can be unknowns too (`fit(unknown=…)`).
    - `domain`: with the coordinates of the equation, in its order.
    - `conditions`: met exactly wherever possible (`hard`), else rows of the loss (`soft`).
    - `network`: N, from one number for each coordinate (a periodic coordinate gives two, cos and sin; others
      are scaled to [−1, 1]) to one number for each field. Any callable module.
    - `soft`: conditions to be rows of the loss whatever they are.
    - `even`: coordinates of a box about both ends of which all fields are even: their zero `Neumann`
      conditions hold exactly. It is so where x ↦ −x changes neither the equation nor the other conditions
      (heat and waves between insulated walls; not u uₓ, nor a source that is not even).

    **Raises:** `ValueError` for conditions on unknown fields or parts, two on one part, conditions that
    contradict each other where they meet, or a network of the wrong size.

    **Limits:** a Dirichlet value on a curved part is a function of the whole point, evaluated near the
    part too. Hard conditions need a `Box`, a geometry with a smooth distance, or a product of both.

    **Reference:** Lagaris, Likas, Fotiadis, IEEE Trans. Neural Netw. 9 (1998) 987; Sukumar & Srivastava,
    CMAME 389 (2022) 114333, for curved boundaries.
    """

    equation: pde.AbstractEquation
    domain: pde.AbstractDomain
    network: Callable
    ansatz: Ansatz

    def __init__(
        self,
        equation: pde.AbstractEquation,
        domain: pde.AbstractDomain,
        conditions: Iterable,
        network: Callable,
        *,
        soft: Iterable = (),
        even: Iterable[str] = (),
    ):
        conditions, soft, even = tuple(conditions), tuple(soft), tuple(even)
        check_problem(equation, domain, conditions, soft)
        self.equation = equation
        self.domain = domain
        self.network = network
        self.ansatz = build(equation, domain, conditions, soft, even)
        check_network(network, self.ansatz, equation.fields)
        check_agreement(self.ansatz, domain, equation.fields)

    def __call__(self, point: Float[Array, " d"]) -> Float[Array, " fields"]:
        return self.ansatz(self.network, check_point(self, point))

    def derivatives(self, point: Float[Array, " d"]) -> pde.Derivatives:
        """The derivatives that the equation needs, at one point."""
        return pde.derivatives(self, self.equation, point)

    def residual(self, point: Float[Array, " d"]) -> Float[Array, " equations"]:
        """The residuals of the equation at one point, one for each equation of the system."""
        named = pde.Point(dict(zip(self.equation.coordinates, point, strict=True)))
        found = self.equation.residual(self.derivatives(point), named)
        return jnp.stack(found) if isinstance(found, tuple | list) else jnp.atleast_1d(found)

    def with_equation(self, equation: pde.AbstractEquation) -> "PINN":
        """The same network for another equation of the same fields and coordinates."""
        return eqx.tree_at(lambda m: m.equation, self, same_equation(equation, self.equation))

    def terms(self):
        """The equation inside, and each soft condition."""
        return terms_of(self.soft)

    @property
    def hard(self) -> tuple:
        """The conditions that hold by construction."""
        return self.ansatz.hard

    @property
    def soft(self) -> tuple:
        """The conditions that are rows of the loss."""
        return self.ansatz.soft
