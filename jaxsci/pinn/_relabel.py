"""Lagrangian windows of time: labels are given anew before the flow deforms them too much."""

import os
import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from .. import pde
from ..train import Status
from ._fit import fit
from ._labels import FromInlet
from ._lpinn import LPINN
from ._march import Marched, Slabs
from ._result import Trained
from ._table import tabulate

_TIMES = 128  # at which J is looked at in a window


def relabel(
    make: Callable[[pde.Box, Sequence, PRNGKeyArray], LPINN],
    domain: pde.Box,
    conditions: Iterable,
    stages: Any = None,
    *,
    key: PRNGKeyArray,
    jacobian: tuple[float, float] = (0.3, 3.0),
    nodes: int = 2049,
    windows: int = 100,
    directory: str | os.PathLike[str] | None = None,
    **options: Any,
) -> Marched:
    """Solves along characteristics in windows of time, with new labels in each: where the fluid is when a
    window begins. ::

        make = lambda domain, conditions, key: pinn.LPINN(equation, domain, conditions, *networks(key))
        pinn.relabel(make, domain, conditions, key=key)

    A window ends where J = det ∂X/∂ξ would leave the interval `jacobian` if the velocities stayed those of
    its beginning; after training, where J does leave it. Its last fields, found by queries, go on as a table
    of quintic Hermite polynomials: no network is evaluated inside of another.

    **Arguments:**

    - `make`: (domain, conditions, key) ↦ the [`jaxsci.pinn.LPINN`][] of a window.
    - `domain`: the whole; `conditions`: with the initial ones of the first window.
    - `stages` and `options`: of [`jaxsci.pinn.fit`][], for each window.
    - `key`: of networks and points.
    - `jacobian`: least and largest J (dimensionless), about one.
    - `nodes`: of a table, along each coordinate; as many as resolve the fields.
    - `windows`: at most so many.
    - `directory`: for checkpoints, in a folder for each window.

    **Returns:** a [`jaxsci.pinn.Marched`][], whose `model.edges` are the times at which windows begin and
    end. After Ctrl-C, a loss that is not finite, or too many windows, with an earlier end.

    **Raises:** `ValueError` for bounds of J that do not enclose one, and for a flow that is neither periodic
    nor enters at a boundary: of what flows in, nothing would be known. `RuntimeError` if a query fails where
    a window ends.

    **Limits:** errors of the windows add up. Each window compiles its own training. A front of width δ where
    the velocity jumps by Δv needs windows of about 0.7 δ/Δv.
    """
    low, high = jacobian
    if not 0 < low < 1 < high:
        raise ValueError(f"`jacobian` is {jacobian!r}; expected bounds about one, such as (0.3, 3.0).")
    if nodes < 3 or windows < 1:
        raise ValueError(f"`nodes` and `windows` are {nodes} and {windows}; expected at least 3 and 1.")
    conditions, edges = tuple(conditions), [float(domain.bounds[-1][0])]
    end = float(domain.bounds[-1][1])
    models: list[LPINN] = []
    found: list[Trained] = []
    while edges[-1] < end and len(models) < windows:
        start = edges[-1]
        model_key, fit_key = jax.random.split(jax.random.fold_in(key, len(models)))
        trial = make(_between(domain, start, end), conditions, model_key)
        _check(trial)
        straight = eqx.tree_at(lambda m: m.network, trial, _zeros(trial.network))
        stop = _leaves(straight, low, high, start, end)
        model = make(_between(domain, start, stop), conditions, model_key)
        if models:
            model = eqx.tree_at(lambda m: m.network, model, models[-1].network)
        folder = None if directory is None else pathlib.Path(directory) / f"window_{len(models)}"
        found.append(fit(model, stages, key=fit_key, directory=folder, **options))
        model = found[-1].model
        edges.append(_leaves(model, low, high, start, stop))
        models.append(model)
        if found[-1].status not in (Status.finished, Status.stopped) or edges[-1] >= end:
            break
        names, fields = model.equation.coordinates, model.equation.fields
        bounds = domain.bounds[:-1].tolist()
        tables = tabulate(model, fields, names, edges[-1], bounds, nodes)
        if not all(bool(jnp.all(jnp.isfinite(table.terms))) for table in tables.values()):
            raise RuntimeError(
                f"The fields at t = {edges[-1]:.3g}, where window {len(models)} ends, are not known "
                "everywhere: its labels do not reach the whole domain. Train longer, or narrow `jacobian`."
            )
        conditions = tuple(
            pde.Initial(c.field, tables[c.field], c.rate, c.time) if isinstance(c, pde.Initial) else c
            for c in conditions
        )
    return Marched(Slabs(tuple(models), tuple(edges), domain.coordinates[-1]), tuple(found))


def _check(model: Any) -> None:
    if not isinstance(model, LPINN):
        raise TypeError(f"`make` gives {type(model).__name__}; expected a pinn.LPINN.")
    names = model.equation.coordinates[:-1]
    if not isinstance(model.labels, FromInlet) and set(model.labels.periodic) != set(names):
        raise ValueError(
            f"The flow is periodic along {model.labels.periodic} of {names} and enters nowhere: at the end "
            "of a window nothing is known of what comes from outside. Add pde.Periodic, or pde.Dirichlet "
            "where the flow enters."
        )


def _zeros(network):
    return jax.tree.map(lambda x: jnp.zeros_like(x) if eqx.is_inexact_array(x) else x, network)


def _leaves(model: LPINN, low: float, high: float, start: float, stop: float) -> float:
    """The last time before J leaves its bounds, at least an eighth of the way to `stop`."""
    box = model.labels.box.bounds[:-1].tolist()
    axes = [jnp.linspace(a, b, 513 if len(box) == 1 else 33) for a, b in box]
    labels = jnp.stack(jnp.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(box))
    times = jnp.linspace(start, stop, _TIMES + 1)

    @jax.jit
    def extremes(t):
        j = jax.vmap(lambda label: model.jacobian(label, t))(labels)
        return jnp.min(j), jnp.max(j)

    least, largest = (np.asarray(x) for x in jax.lax.map(extremes, times))
    outside = ~((least >= low) & (largest <= high))
    if not outside.any():
        return stop
    return float(times[max(int(np.argmax(outside)) - 1, _TIMES // 8)])


def _between(domain: pde.Box, start: float, stop: float) -> pde.Box:
    ends = dict(zip(domain.coordinates, map(tuple, domain.bounds.tolist()), strict=True))
    return pde.Box(ends | {domain.coordinates[-1]: (start, stop)})
