"""Points in chunks: the same steps, and a memory that does not grow with the points."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsci import nn, pde, pinn
from jaxsci.pinn._driver import make_driver
from jaxsci.pinn._terms import Objective
from jaxsci.solvers import GaussNewton


def model():
    box = pde.Box({"x": (0.0, 1.0), "t": (0.0, 1.0)})
    conditions = [pde.Initial("u", lambda p: jnp.sin(jnp.pi * p.x)), pde.Neumann("u", pde.low("x"))]
    network = nn.MLP(2, 1, width=8, depth=1, key=jax.random.key(0))
    return pinn.PINN(pde.Heat(0.1), box, conditions, network)


def test_same_steps():
    losses = []
    for chunk in (None, 30):
        stage = pinn.Stage(GaussNewton(), 5, chunk=chunk)
        found = pinn.fit(
            model(), [stage], key=jax.random.key(1), points=100, boundary_points=30, progress=False
        )
        losses.append(found.history["loss"])
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-9)


def bytes_of_a_step(points: int, chunk: int | None) -> int:
    """XLA's temporary memory of one Gauss–Newton step."""
    made = model()
    wanted = eqx.tree_at(lambda m: m.network, jax.tree.map(lambda _: False, made), replace=True)
    wanted = eqx.tree_at(
        lambda m: m.network, wanted, replace=jax.tree.map(eqx.is_inexact_array, made.network)
    )
    unknown, rest = eqx.partition(made, wanted)
    shapes = {"equation": (points, 2), "Neumann u low x": (points, 2)}
    inputs = {
        name: (jnp.zeros(s), jnp.ones(s))[: 1 if name == "equation" else 2] for name, s in shapes.items()
    }
    objective = Objective(made.terms(), made, inputs, rest, chunk)
    driver = make_driver(pinn.Stage(GaussNewton(), 1, chunk=chunk), objective)
    weights = dict.fromkeys(objective.names, jnp.ones(()))
    state = jax.eval_shape(driver.start, unknown, inputs, weights)
    step = jax.jit(lambda u, s, i: driver.step(u, s, i, weights, None)[:2])
    return step.lower(unknown, state, inputs).compile().memory_analysis().temp_size_in_bytes


def test_memory_does_not_grow_beyond_a_chunk():
    few, many, whole = bytes_of_a_step(2000, 500), bytes_of_a_step(8000, 500), bytes_of_a_step(8000, None)
    # Rows and points themselves, some numbers for each, are all that may grow.
    assert many - few < 6000 * 2 * 8 * 30
    assert whole > 4 * many


def test_wrong_chunk():
    with pytest.raises(ValueError, match="chunk"):
        pinn.Stage(GaussNewton(), 1, chunk=0)
