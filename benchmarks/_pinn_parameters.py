"""Burgers' viscosity, found from data, and the derivative of a trained network by it: for `pinn`."""

import math
import statistics
import time
from collections.abc import Iterator

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxsci import nn, pde, pinn
from jaxsci.pde import reference
from jaxsci.solvers import GaussNewton

from ._harness import Row

VISCOSITY = 0.01 / math.pi
BOX = pde.Box({"x": (-1.0, 1.0), "t": (0.0, 1.0)})
CONDITIONS = [
    pde.Initial("u", lambda p: -jnp.sin(jnp.pi * p.x)),
    pde.Dirichlet("u", pde.low("x")),
    pde.Dirichlet("u", pde.high("x")),
]


def _model(viscosity: float, key: jax.Array, width: int, *data: pde.Data) -> pinn.PINN:
    network = nn.MLP(2, 1, width=width, depth=3, key=key)
    return pinn.PINN(pde.Burgers(viscosity), BOX, [*CONDITIONS, *data], network)


def inverse(quick: bool, seeds: int) -> Iterator[Row]:
    """ν of Burgers' equation from u at 200 points, with noise 0 and 1 %; the first guess is 0.05."""
    for noise, target in ((0.0, 1e-5), (0.01, 1e-2)):
        errors, seconds = [], []
        for seed in range(1 if quick else seeds):
            keys = jax.random.split(jax.random.key(seed), 4)
            where = BOX.interior(200, pde.Uniform(), keys[0])
            values = jnp.asarray(reference.burgers(VISCOSITY)(np.asarray(where)))[:, 0]
            values = values + noise * jax.random.normal(keys[1], values.shape)
            model = _model(0.05, keys[2], 8 if quick else 20, pde.Data("u", where, values))
            stages = [pinn.Stage(GaussNewton(), 10 if quick else 300, resample=pde.RAD(), every=50)]
            found = pinn.fit(
                model, stages, key=keys[3], points=100 if quick else 2000, progress=False,
                unknown=lambda m: (m.network, m.equation.viscosity),
            )  # fmt: skip
            errors.append(abs(float(found.model.equation.viscosity) / VISCOSITY - 1))
            seconds.append(found.seconds)
        name = f"inverse, noise {noise:g}"
        detail = {"errors": errors, "seconds": seconds}
        goal, limit = (None, None) if quick else (target, 180.0)
        yield Row(f"{name}: relative error of ν, median", statistics.median(errors), "", goal, detail=detail)
        yield Row(f"{name}: seconds", statistics.median(seconds), "s", limit)


def sensitivity(quick: bool) -> Iterator[Row]:
    """du/dν of a trained network at ν = 0.01 by the implicit function theorem, against central differences of
    the exact solution (relative L²). No network is trained again."""
    viscosity, h = 0.01, 1e-4
    key, draw = jax.random.split(jax.random.key(0))
    stages = [pinn.Stage(GaussNewton(), 10 if quick else 300, resample=pde.RAD(), every=50)]
    model = _model(viscosity, key, 8 if quick else 20)
    found = pinn.fit(model, stages, key=draw, points=100 if quick else 3000, progress=False)
    axes = np.linspace(-0.9, 0.9, 37), np.linspace(0.1, 0.9, 9)
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
    exact = reference.burgers(viscosity + h)(grid) - reference.burgers(viscosity - h)(grid)
    exact = exact[:, 0] / (2 * h)

    def fields(viscosity, model, points):
        changed = model.with_equation(pde.Burgers(viscosity))
        return jax.vmap(pinn.attach(changed, points))(jnp.asarray(grid))[:, 0]

    @eqx.filter_jit
    def slope(viscosity, model, points):
        # The derivative along ν of all points at once is one solve.
        return jax.jvp(lambda v: fields(v, model, points), (viscosity,), (jnp.ones_like(viscosity),))[1]

    arguments = (jnp.array(viscosity), found.model, found.points)
    slope(*arguments).block_until_ready()
    start = time.perf_counter()
    by_rule = np.asarray(slope(*arguments))
    seconds = time.perf_counter() - start
    gap = float(np.linalg.norm(by_rule - exact) / np.linalg.norm(exact))
    yield Row("du/dν: relative L² gap to differences of the exact solution", gap, "", None if quick else 1e-3)
    yield Row("du/dν: seconds at all points", seconds, "s", None if quick else 10.0)
