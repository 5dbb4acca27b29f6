"""Burgers' equation by jaxsci, alone in a process: see `benchmarks.pinn_peers`."""

import json
import sys
import time

import jax
import numpy as np

SETTINGS = json.loads(sys.argv[1])
jax.config.update("jax_enable_x64", SETTINGS["dtype"] == "float64")

import jax.numpy as jnp  # noqa: E402
import optax  # noqa: E402

from jaxsci import nn, pde, pinn  # noqa: E402
from jaxsci.solvers import GaussNewton  # noqa: E402


def make(key) -> pinn.PINN:
    conditions = [
        pde.Initial("u", lambda p: -jnp.sin(jnp.pi * p.x)),
        pde.Dirichlet("u", pde.low("x")),
        pde.Dirichlet("u", pde.high("x")),
    ]
    return pinn.PINN(
        pde.Burgers(0.01 / jnp.pi),
        pde.Box({"x": (-1.0, 1.0), "t": (0.0, 1.0)}),
        conditions if SETTINGS["hard"] else [],
        nn.MLP(2, 1, width=20, depth=3, key=key),
        soft=[] if SETTINGS["hard"] else conditions,
    )


def save(network: nn.MLP, points: dict, path: str) -> None:
    """Points, and the network's weights for a network of (x, t), which is not scaled to [−1, 1] first."""
    layers = (*network.hidden, network.last)
    weights, biases = [np.asarray(l.weight) for l in layers], [np.asarray(l.bias) for l in layers]
    biases[0] = biases[0] - weights[0][:, 1]
    weights[0] = weights[0] * np.array([1.0, 2.0])
    names = {"equation": "interior", "Initial u": "initial"}
    names |= {"Dirichlet u low x": "low", "Dirichlet u high x": "high"}
    arrays = {names[term]: np.asarray(found[0]) for term, found in points.items()}
    arrays |= {f"weight{i}": w for i, w in enumerate(weights)}
    arrays |= {f"bias{i}": b for i, b in enumerate(biases)}
    np.savez(path, **arrays)


def steps() -> dict:
    """Marks (steps, wall, processor) after each compiled call."""
    model, marks = make(jax.random.key(0)), []

    def mark(progressed):
        marks.append((progressed.step, time.perf_counter(), time.process_time()))
        return len(marks) > 4 and marks[-1][1] - marks[0][1] > SETTINGS["seconds"]

    method = GaussNewton() if SETTINGS["method"] == "second" else optax.adam(1e-3)
    found = pinn.fit(
        model, [pinn.Stage(method, 100_000)], key=jax.random.key(1), points=SETTINGS["points"],
        evaluate_every=100_000, progress=False, callbacks=[mark],
    )  # fmt: skip
    save(model.network, found.points, SETTINGS["file"])
    return {
        "marks": marks,
        "compile_s": found.compile_seconds,
        "loss": 2 * float(found.history["loss"][0]),  # without its ½; before the first step of Adam
    }


def recipe() -> dict:
    """`pinn.fit` as it is, until an error of `enough`."""
    held = np.load(SETTINGS["file"])
    keys = jax.random.split(jax.random.key(SETTINGS["seed"]))
    found = pinn.fit(
        make(keys[0]), key=keys[1], progress=False, evaluate_every=5,
        reference=(held["grid"], held["exact"]), seconds=SETTINGS["seconds"],
        callbacks=[lambda progressed: progressed.error <= SETTINGS["enough"]],
    )  # fmt: skip
    columns = (found.evaluations[name].tolist() for name in ("step", "seconds", "error"))
    return {"path": list(zip(*columns, strict=True)), "compile_s": found.compile_seconds}


print(json.dumps({"steps": steps, "recipe": recipe}[SETTINGS["task"]]()))
