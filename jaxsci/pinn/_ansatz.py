"""Conditions that hold by construction: u = L(x) + D(x) N(e(x)).

Dirichlet conditions and initial values determine the lift L, which has them, and the factor D, which vanishes
where they are given; a periodic coordinate determines e, in which it goes around a circle, and one about
whose ends the fields are even, in which it turns back. N is the network.

On a box, each coordinate with conditions has a projector P onto functions of it that interpolate what is
given at its ends, and L is their Boolean sum, 1 − Π(1 − Pₖ): added one by one, each interpolates what is
left of its conditions by those before. (Gordon, SIAM J. Numer. Anal. 8 (1971) 158.) On other parts of a
boundary, L = Σ gₚ wₚ with wₚ ∝ Π_{q≠p} φ_q, φ the smooth distances (Rvachev et al., J. Comput. Appl. Math.
130 (2001) 239).
"""

import abc
from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .. import pde
from ..pde._conditions import value_at

Lift = Callable[[Float[Array, " d"]], Float[Array, ""]]


def value_of(condition: pde.Dirichlet | pde.Neumann | pde.Initial, point: pde.Point) -> Array:
    """What a condition prescribes at a point."""
    return jnp.asarray(value_at(condition.value, point), point[next(iter(point))].dtype)


class _AbstractProjector(eqx.Module):
    """One coordinate (or all curved parts) with conditions for one field."""

    @abc.abstractmethod
    def correction(self, before: Lift, coordinates: tuple[str, ...], p: Array) -> Array:
        """What is to be added to a lift so that it meets these conditions too."""

    @abc.abstractmethod
    def factor(self, p: Array) -> Array:
        """What vanishes where the conditions are given; of order one inside."""


def named(p: Array, coordinates: tuple[str, ...]) -> pde.Point:
    """The entries of a point by their names."""
    return pde.Point(dict(zip(coordinates, p, strict=True)))


class _Ends(_AbstractProjector):
    """Values at one end or both ends of a coordinate of a box."""

    conditions: dict[int, pde.Dirichlet]  # by the sign of the normal
    axis: int = eqx.field(static=True)
    ends: tuple[float, float] = eqx.field(static=True)

    def correction(self, before, coordinates, p):
        s = (p[self.axis] - self.ends[0]) / (self.ends[1] - self.ends[0])

        def missing(outward):
            at = p.at[self.axis].set(self.ends[outward > 0])
            value = value_of(self.conditions[outward], named(at, coordinates))
            return value - before(at)

        if len(self.conditions) == 2:
            return (1 - s) * missing(-1) + s * missing(1)
        (outward,) = self.conditions
        return missing(outward)

    def factor(self, p):
        s = (p[self.axis] - self.ends[0]) / (self.ends[1] - self.ends[0])
        if len(self.conditions) == 2:
            return 4 * s * (1 - s)
        return s if -1 in self.conditions else 1 - s


class _Curved(_AbstractProjector):
    """Values on parts of a boundary with a smooth distance to each."""

    conditions: tuple[pde.Dirichlet, ...]
    domain: pde.AbstractDomain

    def correction(self, before, coordinates, p):
        distances = [self.domain.distance(c.face)(p) for c in self.conditions]
        values = [value_of(c, named(p, coordinates)) for c in self.conditions]
        weights = [_product(distances[:i] + distances[i + 1 :]) for i in range(len(distances))]
        # All vanish where two parts meet; there the values have to agree, and a mean of the two will do.
        nearest = jnp.min(jnp.stack(distances))
        tiny = jnp.finfo(p.dtype).tiny
        weights = [w + jnp.where(d <= nearest, tiny, 0) for w, d in zip(weights, distances, strict=True)]
        return sum(w * (v - before(p)) for w, v in zip(weights, values, strict=True)) / sum(weights)

    def factor(self, p):
        return self.domain.distance(tuple(c.face for c in self.conditions))(p)


class _Start(_AbstractProjector):
    """The initial value, and with it perhaps the initial rate."""

    value: pde.Initial
    rate: pde.Initial | None
    axis: int = eqx.field(static=True)
    ends: tuple[float, float] = eqx.field(static=True)

    def correction(self, before, coordinates, p):
        first = p.at[self.axis].set(self.ends[0])
        given = lambda p: value_of(self.value, named(p.at[self.axis].set(self.ends[0]), coordinates))
        if self.value.extension is not None:
            given = lambda p: jnp.asarray(self.value.extension(named(p, coordinates)), p.dtype)
        if self.rate is None:
            return given(p) - before(first)
        along = jnp.zeros_like(p).at[self.axis].set(1)
        lifted, moving = jax.jvp(before, (first,), (along,))
        _, extended = jax.jvp(given, (first,), (along,))
        elapsed = p[self.axis] - self.ends[0]
        missing = value_of(self.rate, named(first, coordinates)) - moving - extended
        return given(p) - lifted + elapsed * missing

    def factor(self, p):
        tau = (p[self.axis] - self.ends[0]) / (self.ends[1] - self.ends[0])
        return tau if self.rate is None else tau**2


class Ansatz(eqx.Module):
    """(network, point) ↦ the fields.

    - `projectors`: of each field, in the order of the fields.
    - `periodic`, `even`: which coordinates are.
    - `bounds`: of the domain.
    - `hard`: the conditions that hold by construction; `soft`: the others.
    """

    projectors: tuple[tuple[_AbstractProjector, ...], ...]
    coordinates: tuple[str, ...] = eqx.field(static=True)
    periodic: tuple[str, ...] = eqx.field(static=True)
    even: tuple[str, ...] = eqx.field(static=True)
    bounds: tuple[tuple[float, float], ...] = eqx.field(static=True)
    hard: tuple
    soft: tuple

    def __call__(self, network: Callable, p: Float[Array, " d"]) -> Float[Array, " fields"]:
        raw = jnp.atleast_1d(network(self.features(p)))
        pairs = zip(self.projectors, raw, strict=True)
        return jnp.stack([self.lift(ps, p) + _product([f.factor(p) for f in ps]) * n for ps, n in pairs])

    def features(self, p: Float[Array, " d"]) -> Float[Array, " features"]:
        """What the network sees: cos and sin of a periodic coordinate, cos of an even one, others scaled to
        [−1, 1]."""
        found = []
        for x, name, (a, b) in zip(p, self.coordinates, self.bounds, strict=True):
            if name in self.periodic:
                angle = 2 * jnp.pi * (x - a) / (b - a)
                found += [jnp.cos(angle), jnp.sin(angle)]
            elif name in self.even:
                found.append(jnp.cos(jnp.pi * (x - a) / (b - a)))
            else:
                found.append((2 * x - a - b) / (b - a))
        return jnp.stack(found)

    def lift(self, projectors: Sequence[_AbstractProjector], p: Float[Array, " d"]) -> Float[Array, ""]:
        """L of one field: its conditions, and nothing of the network."""
        lift: Lift = lambda p: jnp.zeros((), p.dtype)
        for projector in projectors:
            lift = lambda p, f=projector, g=lift: g(p) + f.correction(g, self.coordinates, p)
        return lift(p)


def _product(factors):
    out = 1.0
    for factor in factors:
        out = out * factor
    return out


def build(
    equation: pde.AbstractEquation,
    domain: pde.AbstractDomain,
    conditions: Sequence,
    soft: Sequence,
    even: tuple[str, ...],
) -> Ansatz:
    """Sorts the conditions into those that hold by construction and those that become rows of the loss."""
    straight = _straight(domain)
    coordinates = domain.coordinates
    bounds = {name: tuple(map(float, ends)) for name, ends in zip(coordinates, domain.bounds, strict=True)}
    around = {(c.field, c.axis) for c in conditions if isinstance(c, pde.Periodic)}
    periodic = tuple(
        name
        for name in coordinates
        if name in straight and all((field, name) in around for field in equation.fields)
    )
    for name in even:
        if name not in straight or name in periodic:
            raise ValueError(
                f"`even` names {name!r}; expected a coordinate of a box that is not periodic, out of "
                f"{tuple(n for n in straight if n not in periodic)}."
            )
    hard: list = []
    rest: list = []
    projectors = []
    for field in equation.fields:
        mine = [c for c in conditions if c.field == field]
        ends: dict[str, dict[int, pde.Dirichlet]] = {}
        curved: list[pde.Dirichlet] = []
        starts: dict[bool, pde.Initial] = {}
        for c in mine:
            if isinstance(c, pde.Periodic):
                (hard if c.axis in periodic else rest).append(c)
            elif isinstance(c, pde.Initial):
                starts[c.rate] = c
            elif _flat(c, even):
                hard.append(c)
            elif isinstance(c, pde.Dirichlet) and isinstance(c.face, pde.Face) and c.face.axis in straight:
                ends.setdefault(c.face.axis, {})[c.face.outward] = c
            elif isinstance(c, pde.Dirichlet) and _smooth(domain):
                curved.append(c)
            else:
                rest.append(c)
        if True in starts and False not in starts:
            raise ValueError(
                f"`conditions` give the initial rate of {field!r} and not its initial value. Add "
                f'pde.Initial("{field}", …), or move the rate to `soft`.'
            )
        found: list[_AbstractProjector] = []
        if curved:
            found.append(_Curved(tuple(curved), domain))
        for name, by_end in ends.items():
            found.append(_Ends(by_end, coordinates.index(name), bounds[name]))
        if False in starts:
            name = starts[False].time
            found.append(_Start(starts[False], starts.get(True), coordinates.index(name), bounds[name]))
        hard += [*curved, *(c for by_end in ends.values() for c in by_end.values()), *starts.values()]
        projectors.append(tuple(found))
    return Ansatz(
        tuple(projectors),
        coordinates,
        periodic,
        even,
        tuple(bounds.values()),
        tuple(hard),
        (*rest, *soft),
    )


def _flat(condition, even: tuple[str, ...]) -> bool:
    """Whether an even coordinate meets a condition: ∂ₙu = 0 at one of its ends."""
    if not (isinstance(condition, pde.AbstractFaceCondition) and isinstance(condition.face, pde.Face)):
        return False
    if condition.face.axis not in even:
        return False
    zero = isinstance(condition, pde.Neumann) and isinstance(condition.value, int | float)
    if zero and condition.value == 0:
        return True
    raise ValueError(
        f"{condition!r} is at an end of {condition.face.axis!r}, about which `even` makes every field even: "
        "only ∂ₙu = 0 holds there. Leave one of them out."
    )


def _straight(domain: pde.AbstractDomain) -> tuple[str, ...]:
    """The coordinates whose ends are faces."""
    if isinstance(domain, pde.Box):
        return domain.coordinates
    if isinstance(domain, pde.Product):
        return _straight(domain.first) + _straight(domain.second)
    return ()


def _smooth(domain: pde.AbstractDomain) -> bool:
    """Whether the distance to its parts is a smooth function."""
    if isinstance(domain, pde.Product):
        return _smooth(domain.first) and _smooth(domain.second)
    return not isinstance(domain, pde.PointCloud | pde.Mesh)
