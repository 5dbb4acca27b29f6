"""One network for each of several boxes, joined by conditions where these meet."""

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int, PRNGKeyArray

from .. import pde
from ._ansatz import Ansatz, build, named
from ._check import check_agreement, check_network, check_problem
from ._interface import Flux, Interface, Jet, NormalFlux, jumps
from ._model import AbstractPINN, AbstractTerm, check_point, same_equation
from ._terms import terms_of
from ._windows import evaluate, stack


class InterfaceTerm(AbstractTerm):
    """The selected conditions on one interface."""

    name: str = eqx.field(static=True)
    axis: int = eqx.field(static=True)
    index: int = eqx.field(static=True)

    def draw(self, model, n, sampler, key):
        d = len(model.equation.coordinates)
        face = pde.low(model.equation.coordinates[self.axis])
        points = model.domain.boundary(face, n if d > 1 else 1, sampler, key)[0]
        return (points.at[:, self.axis].set(model.cuts[self.axis][self.index]),)

    def rows(self, model, p):
        found = model.interface(p, self.axis, self.index)
        chosen = zip(model.selection.astype(p.dtype), found, strict=True)
        return jnp.concatenate([s * r for s, r in chosen])


class MultiDomainPINN(AbstractPINN):
    """A network for each of several boxes that do not overlap, joined by conditions on the interfaces.

    u = uₖ in box k, uₖ(x) = L(x) + D(x) Nₖ((x − cₖ)/sₖ) with L and D of a [`jaxsci.pinn.PINN`][], so that
    conditions on the boundary hold exactly in each box. What is to hold between boxes is selected out of nine
    conditions ([`jaxsci.pinn.Interface`][]), whose rows are multiplied by the entries of `selection`: ::

        model = pinn.MultiDomainPINN(
            pde.Convection(1.0),
            pde.Box({"x": (0.0, 1.0), "t": (0.0, 1.0)}),
            conditions,
            lambda key: nn.MLP(2, 1, width=10, depth=2, key=key),
            {"t": (0.5,)},
            selection=pinn.Interface.select(pinn.Interface.VALUE, pinn.Interface.RESIDUAL_JUMP),
            key=key,
        )
        pinn.fit(model, key=key)

    `selection` is an array of the module: one compiled program serves all 2⁹ sets, and
    [`jaxsci.pinn.minimize`][] can be vmapped over them. For sub-domains that overlap, and need no such
    conditions, see [`jaxsci.pinn.Windowed`][].

    **Arguments:**

    - `equation`, `conditions`, `soft`, `even`: as for a `PINN`.
    - `domain`: a `pde.Box`.
    - `make`: key ↦ the network Nₖ of one box, from the features of a `PINN`, of which those that are cut are
      scaled to [−1, 1] in the box.
    - `cuts`: coordinate ↦ where it is cut, increasing, inside of the box (units of the coordinate).
    - `selection`: a factor for each of the nine conditions; `VALUE`, `RESIDUAL_JUMP` and `FLUX` by default.
      An entry s weighs the squares by s².
    - `flux`: (derivatives, point, n) ↦ the flux along the coordinate of the name n, a scalar or a tuple.
      The derivatives known are those of the equation, and the first and second along each coordinate. None:
      of an equation in transport form uᵢ ∫₀¹ vₙ(θu) dθ − g ∂ₙuᵢ; of others, and in time, ∂ₙu.
    - `key`: of the networks.

    `network` has the boxes on the leading axis of its arrays (the last coordinate fastest): place this axis
    over devices with `jax.device_put`. The loss has a term for each interface, with `boundary_points` points.

    **Raises:** `TypeError` or `ValueError` as a `PINN`, and for a domain that is no box or cuts outside of
    it, or along a periodic or even coordinate.

    **Limits:** soft conditions give no more than a small jump between boxes. Each point evaluates every
    network; all nine conditions are evaluated whatever is selected, third derivatives among them. A point on
    an interface belongs to the box above it.

    **Reference:** Jagtap & Karniadakis, Commun. Comput. Phys. 28 (2020) 2002 (XPINN); Li et al., ICML 2023.
    """

    equation: pde.AbstractEquation
    domain: pde.Box
    network: Any
    ansatz: Ansatz
    selection: Float[Array, "9"]
    flux: Flux | None
    cuts: tuple[tuple[float, ...], ...] = eqx.field(static=True)

    def __init__(
        self,
        equation: pde.AbstractEquation,
        domain: pde.Box,
        conditions: Iterable,
        make: Callable[[PRNGKeyArray], Callable],
        cuts: Mapping[str, Sequence[float]],
        *,
        selection: ArrayLike | None = None,
        flux: Flux | None = None,
        soft: Iterable = (),
        even: Iterable[str] = (),
        key: PRNGKeyArray,
    ):
        conditions, soft, even = tuple(conditions), tuple(soft), tuple(even)
        check_problem(equation, domain, conditions, soft)
        if not isinstance(domain, pde.Box):
            raise TypeError(f"`domain` is a {type(domain).__name__}; sub-domains are cut from a pde.Box.")
        if flux is not None and not callable(flux):
            raise TypeError(f"`flux` is {flux!r}; expected a function (derivatives, point, n), or None.")
        self.equation = equation
        self.domain = domain
        self.ansatz = build(equation, domain, conditions, soft, even)
        self.cuts = _checked_cuts(cuts, domain, (*self.ansatz.periodic, *even))
        if selection is None:
            selection = Interface.select(Interface.VALUE, Interface.RESIDUAL_JUMP, Interface.FLUX)
        self.selection = _checked_selection(selection)
        self.flux = flux
        self.network = stack(make, math.prod(len(c) + 1 for c in self.cuts), key)
        check_network(lambda x: self._networks(x)[0], self.ansatz, equation.fields)
        check_agreement(self.ansatz, domain, equation.fields)

    @property
    def counts(self) -> tuple[int, ...]:
        """Boxes along each coordinate."""
        return tuple(len(c) + 1 for c in self.cuts)

    def _networks(self, features: Float[Array, " features"]) -> Float[Array, "K fields"]:
        """Every network at one point, which each sees in its own scale."""
        middles, halves = [], []
        for name, cut, (a, b) in zip(self.equation.coordinates, self.cuts, self.ansatz.bounds, strict=True):
            edges = 2 * (np.array([a, *cut, b]) - a) / (b - a) - 1
            middles.append((edges[1:] + edges[:-1]) / 2)
            halves.append((edges[1:] - edges[:-1]) / 2)
            if name in self.ansatz.periodic:  # cos and sin
                middles.append(np.zeros(1))
                halves.append(np.ones(1))
        middle, half = (
            jnp.asarray([*itertools.product(*x)], features.dtype).reshape(-1, len(features))
            for x in (middles, halves)
        )
        return evaluate(self.network, (features - middle) / half)

    def index(self, point: Float[Array, " d"], fixed: Mapping[int, int] | None = None) -> Int[Array, ""]:
        """The box of a point, counted along the leading axis of `network`; `fixed` sets the place along some
        axes."""
        places = [
            jnp.searchsorted(jnp.asarray(cut, x.dtype), jax.lax.stop_gradient(x), side="right")
            for x, cut in zip(point, self.cuts, strict=True)
        ]
        for axis, place in (fixed or {}).items():
            places[axis] = jnp.asarray(place, places[axis].dtype)
        return jnp.ravel_multi_index(tuple(places), self.counts, mode="clip")

    def piece(self, k: int | Int[Array, ""], point: Float[Array, " d"]) -> Float[Array, " fields"]:
        """uₖ at a point of any box."""
        chosen = jnp.arange(math.prod(self.counts)) == k
        pick = lambda x: jnp.sum(jnp.where(chosen[:, None], self._networks(x), 0), axis=0)
        return self.ansatz(pick, point)

    def __call__(self, point: Float[Array, " d"]) -> Float[Array, " fields"]:
        point = check_point(self, point)
        return self.piece(self.index(point), point)

    def residual(self, point: Float[Array, " d"]) -> Float[Array, " equations"]:
        """The residuals of the equation at one point, in its box."""
        return self._jet(self.index(point), point, gradient=False).residual

    def _jet(self, k, point, *, gradient: bool = True) -> Jet:
        names, fields = self.equation.coordinates, self.equation.fields
        orders = [f"{f}{x}" for f in fields for x in ("", *(f"_{c * n}" for c in names for n in (1, 2)))]
        more = [pde.parse(name, fields, names) for name in orders] if gradient else []
        wanted = tuple(dict.fromkeys((*pde.required(self.equation), *more)))

        def residual(p):
            found = pde.differentiate(lambda p: self.piece(k, p), wanted, p, fields=fields, coordinates=names)
            d = pde.Derivatives(found, fields, names)
            r = self.equation.residual(d, named(p, names))
            r = jnp.stack(r) if isinstance(r, tuple | list) else jnp.atleast_1d(r)
            return r, (r, d)

        if not gradient:
            r, (_, d) = residual(point)
            return Jet(d, r, jnp.zeros((len(r), len(names)), r.dtype))
        slope, (r, d) = jax.jacfwd(residual, has_aux=True)(point)
        return Jet(d, r, slope)

    def interface(
        self, point: Float[Array, " d"], axis: int, index: int = 0
    ) -> tuple[Float[Array, " k"], ...]:
        """The rows of the nine conditions at a point of an interface, in the order of
        [`jaxsci.pinn.Interface`][], without the factors of `selection`.

        `axis` is the coordinate that is cut, `index` counts its cuts.
        """
        names = self.equation.coordinates
        sides = jnp.stack([self.index(point, {axis: index + i}) for i in (0, 1)])
        both = jax.vmap(self._jet, in_axes=(0, None))(sides, point)
        one, other = (jax.tree.map(lambda x, i=i: x[i], both) for i in (0, 1))
        flux = NormalFlux(self.equation) if self.flux is None else self.flux
        return jumps(one, other, named(point, names), names[axis], self.equation.fields, flux)

    def with_equation(self, equation: pde.AbstractEquation) -> "MultiDomainPINN":
        """The same networks for another equation of the same fields and coordinates."""
        return eqx.tree_at(lambda m: m.equation, self, same_equation(equation, self.equation))

    def with_selection(self, selection: Float[Array, "9"]) -> "MultiDomainPINN":
        """The same networks with other conditions on the interfaces."""
        return eqx.tree_at(lambda m: m.selection, self, _checked_selection(selection))

    def terms(self):
        """The equation inside, each soft condition, and each interface."""
        between = [
            InterfaceTerm(f"Interface {name} {i}", axis, i)
            for axis, (name, cut) in enumerate(zip(self.equation.coordinates, self.cuts, strict=True))
            for i in range(len(cut))
        ]
        return (*terms_of(self.soft), *between)

    @property
    def hard(self) -> tuple:
        """The conditions that hold by construction, in each box."""
        return self.ansatz.hard

    @property
    def soft(self) -> tuple:
        """The conditions that are rows of the loss."""
        return self.ansatz.soft


def _checked_selection(selection: ArrayLike) -> Array:
    array = jnp.asarray(selection, jnp.result_type(float, selection))
    if array.shape != (len(Interface),):
        raise ValueError(
            f"`selection` has shape {array.shape}; expected (9,), a factor for each condition, such as "
            "pinn.Interface.select(pinn.Interface.VALUE). Batch with `jax.vmap`."
        )
    return array


def _checked_cuts(cuts: Any, domain: pde.Box, closed: tuple[str, ...]) -> tuple[tuple[float, ...], ...]:
    """The cuts of each coordinate, in the order of the coordinates."""
    if not isinstance(cuts, Mapping) or not cuts:
        raise TypeError(f'`cuts` is {cuts!r}; expected a dictionary of coordinates, such as {{"t": (0.5,)}}.')
    bounds = dict(zip(domain.coordinates, domain.bounds.tolist(), strict=True))
    for name, at in cuts.items():
        if name not in bounds or name in closed:
            free = tuple(n for n in bounds if n not in closed)
            raise ValueError(
                f"`cuts` names {name!r}; expected a coordinate that is neither periodic nor even: {free}."
            )
        edges = [bounds[name][0], *map(float, at), bounds[name][1]]
        if len(edges) < 3 or any(a >= b for a, b in itertools.pairwise(edges)):
            raise ValueError(
                f"`cuts` along {name!r} are {tuple(at)}; expected increasing numbers between {edges[0]} and "
                f"{edges[-1]}."
            )
    return tuple(tuple(map(float, cuts.get(name, ()))) for name in domain.coordinates)
