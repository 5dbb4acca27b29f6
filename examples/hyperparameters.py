"""One ridge for each feature, found by the gradient of the validation loss.

    w(λ) = argmin over w of the mean logistic loss on the training set + ½ Σⱼ exp(λⱼ) wⱼ²
    min over λ of the mean logistic loss of w(λ) on a validation set

Only a few features matter. A grid can search one common ridge; a gradient finds one for every feature.

`python examples/hyperparameters.py` writes a picture and metrics.json to out/hyperparameters.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib
import optax
from tqdm import tqdm

import jaxsci as jsci

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def loss(w, data):
    """Mean logistic loss of the linear classifier w."""
    x, label = data
    return jnp.mean(jax.nn.softplus(-label * (x @ w)))


def inner(w, args):
    penalties, data = args
    return loss(w, data) + 0.5 * jnp.sum(jnp.exp(penalties) * w**2)


LAYER = jsci.layers.ArgminLayer(
    inner,
    lambda args: jnp.zeros_like(args[0]),
    convex=True,
    solver=jsci.solvers.BFGS(rtol=1e-8, atol=1e-9),
)


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="a few steps on few samples")
    parser.add_argument("--out", type=Path, default=Path("out/hyperparameters"))
    options = parser.parse_args(argv)
    jax.config.update("jax_enable_x64", True)
    features, relevant, samples, steps, levels = (6, 2, 40, 4, 3) if options.smoke else (60, 6, 150, 200, 25)

    keys = jax.random.split(jax.random.key(1), 3)
    truth = jnp.zeros(features).at[:relevant].set(2 * jax.random.normal(keys[0], (relevant,)))
    x = jax.random.normal(keys[1], (12, samples, features))
    label = jnp.where(jax.random.uniform(keys[2], x.shape[:2]) < jax.nn.sigmoid(x @ truth), 1.0, -1.0)
    training, validation = (x[0], label[0]), (x[1], label[1])
    test = x[2:].reshape(-1, features), label[2:].ravel()

    @jax.jit
    def outer(penalties):
        return jax.value_and_grad(lambda p: loss(LAYER((p, training)), validation))(penalties)

    @jax.jit
    def report(penalties):
        w = LAYER((penalties, training))
        return loss(w, validation), loss(w, test), jnp.mean(jnp.sign(test[0] @ w) == test[1])

    penalties = jnp.full(features, -3.0)
    direction = jnp.cos(jnp.arange(features))
    outer(penalties), report(penalties)  # compiled
    difference = (outer(penalties + 1e-4 * direction)[0] - outer(penalties - 1e-4 * direction)[0]) / 2e-4
    gradient_error = float(abs(outer(penalties)[1] @ direction - difference) / abs(difference))
    print(f"gradient against differences: relative error {gradient_error:.1e}")

    begun = time.perf_counter()
    grid = jnp.linspace(-8.0, 2.0, levels)
    tried = [float(outer(jnp.full(features, level))[0]) for level in grid]
    common = jnp.full(features, grid[tried.index(min(tried))])
    grid_seconds = time.perf_counter() - begun

    optimizer, begun, history = optax.adam(0.1), time.perf_counter(), []
    penalties = common
    state = optimizer.init(penalties)
    for _ in tqdm(range(steps), desc="hyperparameters", disable=options.smoke):
        value, slope = outer(penalties)
        history.append(float(value))
        change, state = optimizer.update(slope, state)
        penalties = optax.apply_updates(penalties, change)
    names = ("validation", "test", "accuracy")
    metrics = {
        "gradient_error": gradient_error,
        "grid": dict(zip(names, map(float, report(common)), strict=True)) | {"seconds": grid_seconds},
        "gradient": dict(zip(names, map(float, report(penalties)), strict=True))
        | {"seconds": time.perf_counter() - begun},
        "true_model_test": float(loss(truth, test)),
        "ridge_of_relevant_features": float(jnp.exp(penalties[:relevant]).mean()),
        "ridge_of_the_others": float(jnp.exp(penalties[relevant:]).mean()),
    }
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "metrics.json").write_text(json.dumps(metrics, indent=2))
    print(json.dumps(metrics, indent=2))
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
    left.plot(history, label="a ridge for each feature")
    left.axhline(min(tried), color="gray", label=f"best of {levels} common ridges")
    left.set(xlabel="step", ylabel="validation loss")
    left.legend()
    right.semilogy(jnp.exp(penalties), ".")
    right.axvline(relevant - 0.5, color="gray")
    right.set(xlabel="feature (those on the left matter)", ylabel="ridge")
    figure.savefig(options.out / "hyperparameters.png", dpi=120)
    return 0


if __name__ == "__main__":
    sys.exit(main())
