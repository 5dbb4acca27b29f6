"""Where, when and with which state each characteristic starts."""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .. import pde
from ._ansatz import named, value_of


class Launch(eqx.Module):
    """The start of one characteristic: position (n,), time, fields (m,)."""

    position: Float[Array, " n"]
    time: Float[Array, ""]
    state: Float[Array, " m"]


class AbstractLabels(eqx.Module):
    """The labels ξ of all characteristics, and how they start.

    - `box`: of labels and time; `periodic`: the coordinates that go around.
    """

    box: eqx.AbstractVar[pde.Box]
    periodic: eqx.AbstractVar[tuple[str, ...]]

    @abc.abstractmethod
    def launch(self, label: Float[Array, " n"]) -> Launch:
        """How a characteristic starts."""

    @abc.abstractmethod
    def bracket(self, x: Array, t: Array) -> tuple[Array, Array]:
        """In one dimension, the labels between which that of (x, t) lies."""

    @abc.abstractmethod
    def features(self, label: Float[Array, " n"]) -> list[Array]:
        """What a network sees of a label."""


def _initial(conditions: dict[str, pde.Initial], coordinates, label, start) -> Array:
    """The initial state at the position of a label."""
    point = named(jnp.concatenate([label, jnp.reshape(start, 1)]), coordinates)
    return jnp.stack([value_of(c, point) for c in conditions.values()])


class FromStart(AbstractLabels):
    """All start at the first time; a label is a position then. Coordinates in `periodic` go around."""

    box: pde.Box
    initial: dict[str, pde.Initial]
    periodic: tuple[str, ...] = eqx.field(static=True)

    def launch(self, label):
        start = jnp.asarray(float(self.box.bounds[-1][0]), label.dtype)
        return Launch(label, start, _initial(self.initial, self.box.coordinates, label, start))

    def bracket(self, x, t):
        lower, upper = (jnp.asarray(b, x.dtype) for b in self.box.bounds[0])
        return lower, upper

    def features(self, label):
        found = []
        for x, name, (a, b) in zip(label, self.box.coordinates, self.box.bounds.tolist(), strict=False):
            if name in self.periodic:
                angle = 2 * jnp.pi * (x - a) / (b - a)
                found += [jnp.cos(angle), jnp.sin(angle)]
            else:
                found.append((2 * x - a - b) / (b - a))
        return found


class FromInlet(AbstractLabels):
    """In one dimension: labels inside start there at the first time; those outside of the end `inlet` enter
    there later, label s at the time t₀ + |s − inlet|/speed. With `speed` the velocity at the inlet at first,
    the map from labels to positions is smooth across it."""

    box: pde.Box
    initial: dict[str, pde.Initial]
    entering: dict[str, pde.Dirichlet]
    speed: Float[Array, ""]  # > 0
    inlet: float = eqx.field(static=True)
    outward: int = eqx.field(static=True)  # of the inlet: −1 at the low end
    periodic: tuple[str, ...] = eqx.field(static=True, default=())

    def launch(self, label):
        (s,) = label
        start = jnp.asarray(float(self.box.bounds[-1][0]), s.dtype)
        outside = jnp.maximum(self.outward * (s - self.inlet), 0)
        time = start + outside / self.speed.astype(s.dtype)
        at = jnp.where(outside > 0, self.inlet, s)
        names = self.box.coordinates
        later = named(jnp.stack([jnp.full_like(s, self.inlet), time]), names)
        entering = jnp.stack([value_of(c, later) for c in self.entering.values()])
        state = jnp.where(outside > 0, entering, _initial(self.initial, names, at[None], start))
        return Launch(at[None], time, state)

    def bracket(self, x, t):
        launched = (
            self.outward * self.speed.astype(x.dtype) * (t - float(self.box.bounds[-1][0])) + self.inlet
        )
        lower, upper = (jnp.asarray(b, x.dtype) for b in self.box.bounds[0])
        return (launched, upper) if self.outward < 0 else (lower, launched)

    def features(self, label):
        a, b = self.box.bounds[0].tolist()
        return [(2 * label[0] - a - b) / (b - a)]


def make_labels(
    equation: pde.AbstractTransport,
    domain: pde.AbstractDomain,
    conditions: tuple,
    labels: pde.Box | None,
) -> AbstractLabels:
    """Sorts the conditions; raise for what a Lagrangian frame cannot meet."""
    if not isinstance(domain, pde.Box):
        raise ValueError(f"`domain` is a {type(domain).__name__}; an LPINN needs a pde.Box.")
    time = domain.coordinates[-1]
    initial: dict[str, pde.Initial] = {}
    around: dict[str, set[str]] = {}
    entering: dict[Any, dict[str, pde.Dirichlet]] = {}
    for c in conditions:
        if isinstance(c, pde.Initial) and not c.rate and c.time == time:
            initial[c.field] = c
        elif isinstance(c, pde.Periodic):
            around.setdefault(c.axis, set()).add(c.field)
        elif isinstance(c, pde.Dirichlet) and isinstance(c.face, pde.Face) and c.face.axis != time:
            entering.setdefault(c.face, {})[c.field] = c
        else:
            raise ValueError(
                f"{c!r} has no place in a Lagrangian frame; expected pde.Initial, pde.Periodic, or "
                "pde.Dirichlet at the end where the flow enters. Use pinn.PINN."
            )
    fields = equation.fields
    if missing := [f for f in fields if f not in initial]:
        raise ValueError(f"`conditions` give no initial value of {missing}: add pde.Initial for each field.")
    initial = {f: initial[f] for f in fields}
    for axis, have in around.items():
        if have != set(fields):
            raise ValueError(
                f"Only {sorted(have)} are periodic along {axis!r}; expected all of {fields}: one "
                "characteristic carries them all."
            )
    if entering:
        return _from_inlet(equation, domain, initial, entering, around, labels)
    if labels is None:
        labels = domain
    if not isinstance(labels, pde.Box) or labels.coordinates != domain.coordinates:
        raise ValueError(
            f"`labels` is {labels!r}; expected a pde.Box with the coordinates {domain.coordinates}: the "
            "positions at the first time of all that is to be followed."
        )
    ends = dict(zip(domain.coordinates, domain.bounds.tolist(), strict=True))
    for name, (a, b) in zip(labels.coordinates, labels.bounds.tolist(), strict=True):
        if (name in around or name == time) and [a, b] != ends[name]:
            raise ValueError(f"`labels` has {name!r} in [{a}, {b}]; expected that of `domain`, {ends[name]}.")
    return FromStart(labels, initial, tuple(around))


def _from_inlet(equation, domain, initial, entering, around, labels) -> FromInlet:
    (name, *others), fields = domain.coordinates[:-1], equation.fields
    if others or around or labels is not None:
        raise ValueError(
            "Conditions where the flow enters need one coordinate of space, not periodic, and no `labels`."
        )
    if len(entering) > 1:
        raise ValueError(
            f"Dirichlet conditions at both ends of {name!r}: the flow enters at one of them. Leave out the "
            "other: the fields there are what the characteristics bring."
        )
    ((face, given),) = entering.items()
    if missing := [f for f in fields if f not in given]:
        raise ValueError(
            f"{missing} have no value where the flow enters, {face}: add pde.Dirichlet for each."
        )
    given = {f: given[f] for f in fields}
    (a, b), (start, end) = domain.bounds.tolist()
    inlet = a if face.outward < 0 else b
    times = jnp.linspace(start, end, 65)

    def inward(t):
        point = named(jnp.stack([jnp.full_like(t, inlet), t]), domain.coordinates)
        u = pde.Point({f: value_of(c, point) for f, c in given.items()})
        return -face.outward * equation.velocity(u, point)[0]

    speeds = jnp.stack([jnp.asarray(inward(t)) for t in times])
    if not bool(jnp.min(speeds) > 0):
        raise ValueError(
            f"The velocity at {face} is {float(-face.outward * jnp.min(speeds)):.3g} at t = "
            f"{float(times[jnp.argmin(speeds)]):.3g}: nothing enters there. Move the condition to the other "
            "end, or use pinn.PINN."
        )
    gap = jnp.abs(
        _initial(given, domain.coordinates, jnp.array([inlet]), jnp.array(start))
        - _initial(initial, domain.coordinates, jnp.array([inlet]), jnp.array(start))
    )
    if not bool(jnp.all(gap <= 1e-3 * (1 + jnp.abs(speeds[0])))):
        raise ValueError(
            f"The initial values and those where the flow enters differ by {float(jnp.max(gap)):.2g} where "
            "they meet: the solution has a jump there, which a network cannot follow. Make them agree."
        )
    far = inlet + face.outward * float(speeds[0]) * (end - start)
    box = pde.Box({name: (min(a, far), max(b, far)), domain.coordinates[1]: (start, end)})
    return FromInlet(box, initial, given, speeds[0], inlet, face.outward)


def check_crossing(equation: pde.AbstractTransport, labels: AbstractLabels, count: int = 257) -> None:
    """Raise if characteristics cross, in one dimension and without diffusion."""
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((equation, labels))):
        return  # what coefficients are is not known yet
    import diffrax

    (low, high), (first, last) = labels.box.bounds.tolist()
    starts = jax.vmap(labels.launch)(jnp.linspace(low, high, count)[:, None])
    names, fields = labels.box.coordinates, equation.fields

    def change(t, y, args):
        def one(x, u, start):
            at = named(jnp.stack([x[0], jnp.asarray(t, x.dtype)]), names)
            state = pde.Point(dict(zip(fields, u, strict=True)))
            (v,), s = equation.velocity(state, at), equation.source(state, at)
            s = jnp.zeros_like(u) if s is None else jnp.stack([jnp.asarray(r, u.dtype) for r in s])
            started = t >= start
            return jnp.where(started, jnp.full_like(x, v), 0), jnp.where(started, s, 0)

        return jax.vmap(one)(*y, starts.time)

    times = jnp.linspace(first, last, 101)
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(change),
        diffrax.Tsit5(),
        first,
        last,
        None,
        (starts.position, starts.state),
        stepsize_controller=diffrax.StepTo(jnp.linspace(first, last, 401)),
        saveat=diffrax.SaveAt(ts=times),
        throw=False,
    )
    assert solution.ys is not None
    x = np.asarray(solution.ys[0])[:, :, 0]
    gaps = np.diff(x, axis=1) * (1 if x[0, -1] >= x[0, 0] else -1)
    waiting = np.asarray(starts.time)[None, :] >= np.asarray(times)[:, None]
    crossed = (gaps < 0) & ~(waiting[:, 1:] | waiting[:, :-1])
    if crossed.any():
        at = float(times[np.argmax(crossed.any(axis=1))])
        raise ValueError(
            f"Characteristics of {type(equation).__name__} cross by t = {at:.3g}: without diffusion the "
            "solution has a shock from then on. Give entropy=True for a conservation law u_t + f(u)_x = 0, "
            "end the domain before, or give the equation some diffusion."
        )
