"""Burgers' equation by DeepXDE, alone in a process: see `benchmarks.pinn_peers`."""

import contextlib
import json
import os
import sys
import time

SETTINGS = json.loads(sys.argv[1])
os.environ["DDE_BACKEND"] = SETTINGS["backend"]
JAX = SETTINGS["backend"] == "jax"
if JAX:
    import jax

    jax.config.update("jax_enable_x64", SETTINGS["dtype"] == "float64")
    import jax.numpy as xp
else:
    import torch as xp

    # More wait for each other where other programs run, and each product here is small.
    xp.set_num_threads(1)

import numpy as np  # noqa: E402

with contextlib.redirect_stdout(sys.stderr):
    import deepxde as dde

dde.config.set_default_float(SETTINGS["dtype"])
HELD = np.load(SETTINGS["file"])
NU = 0.01 / np.pi


def residual(x, y):
    u_x, u_t = (dde.grad.jacobian(y, x, i=0, j=j) for j in (0, 1))
    u_xx = dde.grad.hessian(y, x, i=0, j=0)
    if JAX:  # Each comes with the function that it is the value of.
        y, u_x, u_t, u_xx = (pair[0] for pair in (y, u_x, u_t, u_xx))
    return u_t + y * u_x - NU * u_xx


def start(x):
    return -np.sin(np.pi * x[:, :1])


def domain():
    return dde.geometry.GeometryXTime(dde.geometry.Interval(-1, 1), dde.geometry.TimeDomain(0, 1))


def network():
    net = dde.nn.FNN([2, 20, 20, 20, 1], "tanh", "Glorot normal")
    if SETTINGS["hard"]:

        def transform(x, y):
            first, t = x[..., 0:1], x[..., 1:2]
            return -xp.sin(np.pi * first) + (1 - first**2) * t * y

        net.apply_output_transform(transform)
    return net


def set_weights(model):
    """The same weights as in the other libraries."""
    dtype = SETTINGS["dtype"]
    weights = [HELD[f"weight{i}"].astype(dtype) for i in range(4)]
    biases = [HELD[f"bias{i}"].astype(dtype) for i in range(4)]
    if JAX:
        layers = sorted(model.params[0]["params"])
        given = {
            name: {"kernel": xp.asarray(w.T), "bias": xp.asarray(b)}
            for name, w, b in zip(layers, weights, biases, strict=True)
        }
        model.params = [{"params": given}, model.params[1]]
        model.net.params = model.params[0]
        return
    with xp.no_grad():
        for layer, w, b in zip(model.net.linears, weights, biases, strict=True):
            layer.weight.copy_(xp.as_tensor(w))
            layer.bias.copy_(xp.as_tensor(b))


class Marks(dde.callbacks.Callback):
    """The time after each `every` steps."""

    def __init__(self, every, seconds):
        super().__init__()
        self.every, self.seconds, self.count, self.marks = every, seconds, 0, []

    def on_epoch_end(self):
        self.count += 1
        if self.count % self.every == 0:
            if JAX:
                jax.block_until_ready(self.model.params)
            self.marks.append((self.count, time.perf_counter(), time.process_time()))
            enough = len(self.marks) > 4 and self.marks[-1][1] - self.marks[0][1] > self.seconds
            self.model.stop_training = enough


class Path(dde.callbacks.Callback):
    """The error now and then, on a clock that stands still meanwhile."""

    def __init__(self):
        super().__init__()
        self.path, self.paused, self.begun, self.next = [], 0.0, time.perf_counter(), 0

    def on_epoch_end(self):
        step = self.model.train_state.step
        if step < self.next:
            return
        self.next = step + 50
        now = time.perf_counter()
        found = self.model.predict(HELD["grid"].astype(SETTINGS["dtype"]))
        error = float(np.linalg.norm(found - HELD["exact"]) / np.linalg.norm(HELD["exact"]))
        self.path.append((step, now - self.begun - self.paused, error))
        self.paused += time.perf_counter() - now
        over = error <= SETTINGS["enough"] or self.path[-1][1] > SETTINGS["seconds"]
        self.model.stop_training = over or self.model.stop_training


def steps() -> dict:
    conditions = []
    if not SETTINGS["hard"]:
        values = {"initial": start(HELD["initial"]), "low": 0.0, "high": 0.0}
        conditions = [
            dde.icbc.PointSetBC(HELD[name], value * np.ones((len(HELD[name]), 1)))
            for name, value in values.items()
        ]
    data = dde.data.TimePDE(domain(), residual, conditions, num_domain=0, anchors=HELD["interior"])
    model = dde.Model(data, network())
    began = time.perf_counter()
    model.compile("adam", lr=1e-3, verbose=0)
    set_weights(model)
    marks = Marks(10, SETTINGS["seconds"])
    history, _ = model.train(iterations=100_000, display_every=10**9, callbacks=[marks], verbose=0)
    first = marks.marks.pop(0)  # what is compiled or set up is in the first ten steps
    return {
        "marks": marks.marks,
        "compile_s": first[1] - began,
        "loss": float(np.sum(history.loss_train[0])),
    }


def recipe() -> dict:
    """examples/pinn_forward/Burgers.py: 15000 steps of Adam, then L-BFGS."""
    dde.config.set_random_seed(SETTINGS["seed"])
    geometry = domain()
    data = dde.data.TimePDE(
        geometry,
        residual,
        [
            dde.icbc.DirichletBC(geometry, lambda x: 0, lambda _, on: on),
            dde.icbc.IC(geometry, start, lambda _, on: on),
        ],
        num_domain=2540, num_boundary=80, num_initial=160,
    )  # fmt: skip
    model = dde.Model(data, network())
    path = Path()
    model.compile("adam", lr=1e-3, verbose=0)
    model.train(iterations=SETTINGS["count"], callbacks=[path], verbose=0)
    if not model.stop_training:
        # Its state lives on from call to call: this only lets us look at the error more often.
        from deepxde.optimizers.config import LBFGS_options

        LBFGS_options["iter_per_step"] = 50
        LBFGS_options["fun_per_step"] = 63
        model.compile("L-BFGS", verbose=0)
        model.train(callbacks=[path], verbose=0)
    return {"path": path.path, "compile_s": 0.0}


with contextlib.redirect_stdout(sys.stderr):
    found = {"steps": steps, "recipe": recipe}[SETTINGS["task"]]()
versions = {"deepxde": dde.__version__, **({"jax": jax.__version__} if JAX else {"torch": xp.__version__})}
print(json.dumps(found | {"versions": versions}))
