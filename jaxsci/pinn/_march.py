"""One network after the other in time."""

import dataclasses
import itertools
import os
import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from .. import pde
from ..train import Status
from ._fit import fit
from ._model import AbstractPINN
from ._pinn import PINN
from ._result import Trained


class Slabs(eqx.Module):
    """A solution in slabs of time, each a [`jaxsci.pinn.AbstractPINN`][] that starts where the one before
    ends.

    **Arguments:**

    - `models`: in the order of time.
    - `edges`: of the slabs, one more than models, in units of time.
    - `time`: the name of the coordinate.
    """

    models: tuple[AbstractPINN, ...]
    edges: tuple[float, ...] = eqx.field(static=True)
    time: str = eqx.field(static=True, default="t")

    def __call__(self, point: Float[Array, " d"]) -> Float[Array, " fields"]:
        """The fields at one point, by the model of its slab."""
        at = point[self.models[0].equation.coordinates.index(self.time)]
        inner = jnp.asarray(self.edges[1:-1], at.dtype)
        calls = [lambda p, m=model: m(p) for model in self.models]
        return jax.lax.switch(jnp.searchsorted(inner, at), calls, point)


class _Continued(eqx.Module):
    """The last values (or rates) of the slab before, as a function of the point."""

    model: PINN
    field: int = eqx.field(static=True)
    axis: int = eqx.field(static=True)
    rate: bool = eqx.field(static=True)

    def __call__(self, point: pde.Point) -> Array:
        p = jnp.stack([point[name] for name in self.model.equation.coordinates])
        value = lambda p: self.model(p)[self.field]
        if not self.rate:
            return value(p)
        return jax.jvp(value, (p,), (jnp.zeros_like(p).at[self.axis].set(1),))[1]


@dataclasses.dataclass(frozen=True)
class Marched:
    """What [`jaxsci.pinn.march`][] returns: the solution as one `model`, and how each of the `slabs` was
    trained."""

    model: Slabs = dataclasses.field(repr=False)
    slabs: tuple[Trained, ...] = dataclasses.field(repr=False)

    def __str__(self) -> str:
        return "\n".join(map(str, self.slabs))

    @property
    def seconds(self) -> float:
        """Of steps in all slabs [s]."""
        return sum(slab.seconds for slab in self.slabs)

    @property
    def compile_seconds(self) -> float:
        """Of tracing and compiling in all slabs [s]."""
        return sum(slab.compile_seconds for slab in self.slabs)


def march(
    make: Callable[[pde.AbstractDomain, Sequence, PRNGKeyArray], PINN],
    domain: pde.AbstractDomain,
    conditions: Iterable,
    edges: Sequence[float],
    stages: Any = None,
    *,
    key: PRNGKeyArray,
    time: str = "t",
    warm: bool = True,
    directory: str | os.PathLike[str] | None = None,
    **options: Any,
) -> Marched:
    """Solves in slabs of time: the end of one network is the initial value of the next. ::

        make = lambda domain, conditions, key: pinn.PINN(
            equation, domain, conditions, nn.MLP(3, 1, width=20, depth=3, key=key)
        )
        pinn.march(make, domain, conditions, (0.0, 0.5, 1.0), key=key)

    **Arguments:**

    - `make`: (domain, conditions, key) ↦ the model of a slab, with those conditions (hard or soft).
    - `domain`: the whole; `conditions`: with the initial ones of the first slab.
    - `edges`: of the slabs, from the first time to the last, increasing.
    - `stages` and `options`: of [`jaxsci.pinn.fit`][], for each slab; of `reference` and of `Data`, a slab
      takes the times in it.
    - `key`: of networks and points.
    - `time`: the name of the time coordinate.
    - `warm`: start a network from the one before.
    - `directory`: for checkpoints, in a folder for each slab.

    **Returns:** a [`jaxsci.pinn.Marched`][]; after Ctrl-C or a loss that is not finite, with fewer slabs.

    **Raises:** `ValueError` for edges that are not those of the domain.

    **Limits:** errors add up. A slab's initial value is the chain of the networks before it, so that a step
    of slab k evaluates k networks.

    **Reference:** Krishnapriyan et al., Characterizing possible failure modes in physics-informed neural
    networks, NeurIPS 2021 (sequence-to-sequence learning).
    """
    edges, conditions = tuple(map(float, edges)), tuple(conditions)
    if time not in domain.coordinates:
        raise ValueError(f"`time` is {time!r}; the domain has the coordinates {domain.coordinates}.")
    axis = domain.coordinates.index(time)
    span = tuple(map(float, domain.bounds[axis]))
    if len(edges) < 2 or (edges[0], edges[-1]) != span or any(a >= b for a, b in itertools.pairwise(edges)):
        raise ValueError(f"`edges` is {edges}; expected increasing times from {span[0]} to {span[1]}.")
    models: list[PINN] = []
    found: list[Trained] = []
    reference = options.pop("reference", None)
    for k, (a, b) in enumerate(itertools.pairwise(edges)):
        slab_key, fit_key = jax.random.split(jax.random.fold_in(key, k))
        inside = [c for c in (_measured(c, axis, a, b) for c in conditions) if c is not None]
        model = make(_slab(domain, time, a, b), inside, slab_key)
        if warm and models:
            model = eqx.tree_at(lambda m: m.network, model, models[-1].network)
        folder = None if directory is None else pathlib.Path(directory) / f"slab_{k}"
        known = None if reference is None else _between(*reference, axis, a, b)
        found.append(fit(model, stages, key=fit_key, directory=folder, reference=known, **options))
        models.append(found[-1].model)
        if found[-1].status not in (Status.finished, Status.stopped):
            edges = edges[: k + 2]
            break
        fields = models[-1].equation.fields
        continued = lambda c, f=fields, m=models[-1]: _Continued(m, f.index(c.field), axis, c.rate)
        conditions = tuple(
            pde.Initial(c.field, continued(c), c.rate, c.time) if isinstance(c, pde.Initial) else c
            for c in conditions
        )
    return Marched(Slabs(tuple(models), edges, time), tuple(found))


def _between(points, values, axis: int, a: float, b: float):
    """The points of a slab, with their values; None if there are none."""
    times = np.asarray(points)[:, axis]
    here = (times >= a) & (times <= b)
    return (points[here], values[here]) if here.any() else None


def _measured(condition, axis: int, a: float, b: float):
    """A condition in a slab; None for data at other times."""
    if not isinstance(condition, pde.Data):
        return condition
    found = _between(condition.points, condition.values, axis, a, b)
    return None if found is None else pde.Data(condition.field, *found, condition.name)


def _slab(domain: pde.AbstractDomain, time: str, a: float, b: float) -> pde.AbstractDomain:
    """The part of a domain between two times."""
    if isinstance(domain, pde.Product):
        parts = (domain.first, domain.second)
        return pde.Product(*(_slab(p, time, a, b) if time in p.coordinates else p for p in parts))
    if isinstance(domain, pde.Box):
        ends = zip(domain.coordinates, map(tuple, domain.bounds.tolist()), strict=True)
        return pde.Box({name: (a, b) if name == time else end for name, end in ends})
    raise ValueError(
        f"`domain` is a {type(domain).__name__}; slabs need a Box, or a Product with one for time."
    )
