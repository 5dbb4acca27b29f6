"""A deep equilibrium classifier on two spirals, trained by three derivatives of the equilibrium.

z = tanh(W z + U x + b) with ‖W‖ < 1, and the class from a linear map of z. Anderson's method finds z;
the derivative is exact (implicit), from one step of the iteration, or from five terms of the Neumann
series. The table compares accuracy, time and steps with those of plain iteration.

`python examples/deq_classifier.py` writes a picture and metrics.json to out/deq_classifier.
"""

import argparse
import json
import sys
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib
import optax
import optimistix as optx

import jaxsci as jsci
from jaxsci.layers import FixedPointLayer

matplotlib.use("Agg")
import matplotlib.pyplot as plt

ADJOINTS = {"implicit": jsci.ImplicitAdjoint(), "neumann": jsci.NeumannAdjoint(5)}
ADJOINTS["one_step"] = jsci.OneStepAdjoint()


class Cell(eqx.Module):
    """(z, x) ↦ tanh(W z + U x + b), a contraction by 0.95 at most."""

    w: jax.Array
    inside: eqx.nn.Linear

    def __init__(self, width, key):
        keys = jax.random.split(key)
        self.w = jax.random.normal(keys[0], (width, width)) / width**0.5
        self.inside = eqx.nn.Linear(2, width, key=keys[1])

    def __call__(self, z, x):
        size = jnp.abs(self.w)  # ‖W‖₂² ≤ ‖W‖₁ ‖W‖_∞
        bound = jnp.sqrt(jnp.max(size.sum(0)) * jnp.max(size.sum(1)))
        return jnp.tanh(self.w @ z * jnp.minimum(1, 0.95 / bound) + self.inside(3 * x))


class Classifier(eqx.Module):
    """The logit of a point."""

    layer: FixedPointLayer
    readout: jax.Array

    def __init__(self, width, adjoint, key):
        keys = jax.random.split(key)
        start = lambda x: jnp.zeros(width, x.dtype)
        cell = Cell(width, keys[0])
        self.layer = FixedPointLayer(cell, start=start, adjoint=adjoint, max_steps=300, throw=False)
        self.readout = jax.random.normal(keys[1], (width,)) / width**0.5

    def __call__(self, x):
        found = self.layer.solve(x)
        return self.readout @ found.value, found


def spirals(samples, key):
    """Points of two spirals with noise, and their classes ±1."""
    keys = jax.random.split(key, 3)
    label = jnp.where(jax.random.bernoulli(keys[0], shape=(samples,)), 1.0, -1.0)
    turn = 3 * jnp.pi * jnp.sqrt(jax.random.uniform(keys[1], (samples,), minval=0.02))
    x = label * turn / 10 * jnp.stack([jnp.cos(turn), jnp.sin(turn)])
    return x.T + 0.02 * jax.random.normal(keys[2], (samples, 2)), label


def loss(model, batch, key):
    x, label = batch
    logit, found = jax.vmap(model)(x)
    return jnp.mean(jax.nn.softplus(-label * logit)), {"steps": jnp.mean(found.stats.steps * 1.0)}


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="a few steps of a tiny model")
    parser.add_argument("--out", type=Path, default=Path("out/deq_classifier"))
    options = parser.parse_args(argv)
    width, samples, steps, batch = (4, 16, 4, 8) if options.smoke else (48, 1000, 1500, 64)
    key = jax.random.key(0)
    data, test = spirals(samples, key), spirals(samples, jax.random.fold_in(key, 1))
    figure, axes = plt.subplots(1, 3, figsize=(12, 4), layout="constrained")
    side = jnp.linspace(-1.1, 1.1, 20 if options.smoke else 120)
    grid = jnp.stack(jnp.meshgrid(side, side), axis=-1).reshape(-1, 2)
    metrics = {}
    for (name, adjoint), axis in zip(ADJOINTS.items(), axes, strict=True):
        optimizer = optax.adam(optax.cosine_decay_schedule(1e-2, steps, 0.01))
        model = Classifier(width, adjoint, key)
        fitted = jsci.train.fit(model, loss, optimizer, data, steps=steps, key=key, batch_size=batch)
        run = eqx.filter_jit(lambda model, x: jax.vmap(model)(x))
        plain = eqx.tree_at(lambda m: m.layer.solver, fitted.model, optx.FixedPointIteration(1e-6, 1e-6))
        logit, found = run(fitted.model, test[0])
        metrics[name] = {
            "test_accuracy": float(jnp.mean(jnp.sign(logit) == test[1])),
            "final_loss": float(fitted.history["loss"][-50:].mean()),
            "converged_share": float(jnp.mean(found.result == jsci.RESULTS.successful)),
            "anderson_steps": float(found.stats.steps.mean()),
            "plain_steps": float(run(plain, test[0])[1].stats.steps.mean()),
            "seconds_per_step": fitted.seconds_per_step,
        }
        axis.contourf(side, side, run(fitted.model, grid)[0].reshape(len(side), -1) > 0, alpha=0.3)
        axis.scatter(*test[0].T, c=test[1], s=3)
        axis.set_title(f"{name}: {100 * metrics[name]['test_accuracy']:.1f} %")
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "metrics.json").write_text(json.dumps(metrics, indent=2))
    print(json.dumps(metrics, indent=2))
    figure.savefig(options.out / "spirals.png", dpi=120)
    return 0


if __name__ == "__main__":
    sys.exit(main())
