"""Burgers' equation by jinns, alone in a process: see `benchmarks.pinn_peers`."""

import importlib.metadata
import json
import sys
import time

import jax
import numpy as np

SETTINGS = json.loads(sys.argv[1])
jax.config.update("jax_enable_x64", SETTINGS["dtype"] == "float64")
jax.config.update("jax_compilation_cache_dir", SETTINGS["cache"])

import equinox as eqx  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import jinns  # noqa: E402
import optax  # noqa: E402
from jinns.optimizers import vanilla_ngd  # noqa: E402

HELD = np.load(SETTINGS["file"])


class Clock:
    """What `jinns.solve` asks for the time: before and after its compilation, and its steps."""

    def __init__(self):
        self.marks = []

    def time(self):
        self.marks.append((time.perf_counter(), time.process_time()))
        return self.marks[-1][0]


def problem(width: int, counts: tuple[int, int, int], key):
    """Network, parameters, points and loss; `counts` of points inside, on both walls, and at the start."""
    layers = [(eqx.nn.Linear, 2, width), (jnp.tanh,)]
    layers += [(eqx.nn.Linear, width, width), (jnp.tanh,)] * 2
    hard = SETTINGS["hard"]
    transform = lambda tx, out, _: -jnp.sin(jnp.pi * tx[1]) + (1 - tx[1] ** 2) * tx[0] * out
    net, weights = jinns.nn.PINN_MLP.create(
        key=key,
        eqx_list=(*layers, (eqx.nn.Linear, width, 1)),
        eq_type="PDENonStatio",
        **({"output_transform": transform} if hard else {}),
    )
    params = jinns.parameters.Params(nn_params=weights, eq_params={"nu": jnp.array(0.01 / jnp.pi)})
    interior, walls, start = counts
    data = jinns.data.CubicMeshPDENonStatio(
        key=key, n=interior, nb=None if hard else walls, ni=start, dim=1,
        min_pts=(-1,), max_pts=(1,), tmin=0, tmax=1, method="uniform",
    )  # fmt: skip
    weighed = {} if hard else {"initial_condition": 1, "boundary_loss": 1}
    soft = {
        "boundary_condition": jinns.loss.Dirichlet(),
        "initial_condition_fun": lambda x: -jnp.sin(jnp.pi * x),
    }
    loss = jinns.loss.LossPDENonStatio(
        u=net, dynamic_loss=jinns.loss.BurgersEquation(Tmax=1), params=params,
        loss_weights=jinns.loss.LossWeightsPDENonStatio(dyn_loss=1, **weighed),
        **({} if hard else soft),
    )  # fmt: skip
    return net, params, data, loss


def solve(params, data, loss, optimizer, n, **options):
    clock = jinns.solver._solve.time = Clock()
    found = jinns.solve(
        n_iter=n, init_params=params, data=data, loss=loss, optimizer=optimizer, verbose=False, **options
    )
    return found, clock.marks[-4:]


def steps() -> dict:
    n, m = len(HELD["interior"]), 1 if SETTINGS["hard"] else len(HELD["initial"])
    _, params, data, loss = problem(20, (n, 2 * m, m), jax.random.key(0))
    # The same weights and points; jinns has (t, x).
    given = []
    for i in range(4):
        weight = HELD[f"weight{i}"]
        given += [weight[:, ::-1] if i == 0 else weight, HELD[f"bias{i}"]]
    flat, tree = jax.tree.flatten(params.nn_params)
    given = [jnp.asarray(a, b.dtype).reshape(b.shape) for a, b in zip(given, flat, strict=True)]
    params = eqx.tree_at(lambda p: p.nn_params, params, jax.tree.unflatten(tree, given))
    dtype = flat[0].dtype
    data = eqx.tree_at(lambda d: d.domain, data, jnp.asarray(HELD["interior"][:, ::-1], dtype))
    if not SETTINGS["hard"]:
        border = np.stack([HELD["low"][:, ::-1], HELD["high"][:, ::-1]], axis=-1)
        where = lambda d: (d.border, d.initial)
        points = jnp.asarray(border, dtype), jnp.asarray(HELD["initial"][:, :1], dtype)
        data = eqx.tree_at(where, data, points)
    optimizer = vanilla_ngd() if SETTINGS["method"] == "second" else optax.adam(1e-3)
    # Each call compiles; of the same number of steps, from the cache.
    found, marks = solve(params, data, loss, optimizer, 3)
    initial, compiling = float(found[1][0]), marks[1][0] - marks[0][0]
    if SETTINGS["method"] == "adam":
        _, marks = solve(params, data, loss, optimizer, 30)
    each = (marks[-1][0] - marks[-2][0]) / (30 if SETTINGS["method"] == "adam" else 3)
    count = int(np.clip(SETTINGS["seconds"] / 3 / each, 3, 3000))
    blocks = []
    for _ in range(3):
        _, marks = solve(params, data, loss, optimizer, count)
        wall, cpu = (b - a for a, b in zip(*marks[-2:], strict=True))
        blocks.append((count, wall, cpu))
    return {"blocks": blocks, "compile_s": compiling, "loss": initial}


def recipe() -> dict:
    """The notebook Notebooks/PDE/1D_non_stationary_Burgers.ipynb of 1.10: natural gradient, 300 steps."""
    n = SETTINGS["count"]
    net, params, data, loss = problem(16, (900, 2000, 2000), jax.random.key(SETTINGS["seed"]))
    tracked = jinns.parameters.Params(
        nn_params=jax.tree.map(lambda _: True, params.nn_params), eq_params={"nu": None}
    )
    found, marks = solve(params, data, loss, vanilla_ngd(), n, tracked_params=tracked)
    points, exact = jnp.asarray(HELD["grid"][:, ::-1]), HELD["exact"][:, 0]

    @jax.jit
    def value(weights):
        held = eqx.tree_at(lambda p: p.nn_params, params, weights)
        return jax.vmap(lambda tx: net(tx, held)[0])(points)

    each = (marks[-1][0] - marks[-2][0]) / n
    path = []
    for i in range(n):
        weights = jax.tree.map(lambda x, i=i: x[i], found[6].nn_params)
        error = np.linalg.norm(value(weights) - exact) / np.linalg.norm(exact)
        path.append((i + 1, (i + 1) * each, float(error)))
    return {"path": path, "compile_s": marks[1][0] - marks[0][0]}


found = {"steps": steps, "recipe": recipe}[SETTINGS["task"]]()
versions = {name: importlib.metadata.version(name) for name in ("jinns", "jax")}
print(json.dumps(found | {"versions": versions}))
