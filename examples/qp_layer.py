"""Learn what somebody optimizes, and under which limit, from the decisions alone.

An investor with returns r = M f, seen features f and a known risk P buys

    x = argmin ½ xᵀP x − rᵀx   subject to Σ x = 1, 0 ≤ x ≤ u.

M and u are hidden. They are found by gradient descent through the quadratic program, on the squared
error of the decisions, most of which lie on bounds.

`python examples/qp_layer.py` writes a picture and metrics.json to out/qp_layer.
"""

import argparse
import json
import time
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib
import optax
from tqdm import tqdm

import jaxsci as jsci

matplotlib.use("Agg")
import matplotlib.pyplot as plt


class Investor(eqx.Module):
    """f ↦ x."""

    returns: jax.Array  # M
    limit: jax.Array  # u
    layer: jsci.layers.QPLayer

    def __init__(self, returns, limit):
        n = len(returns)
        self.returns, self.limit = returns, limit
        self.layer = jsci.layers.QPLayer(
            A=jnp.ones((1, n)), b=jnp.ones(1), G=jnp.concatenate([jnp.eye(n), -jnp.eye(n)]), throw=False
        )

    def program(self, risk, features):
        h = jnp.repeat(jnp.stack([self.limit, jnp.zeros(())]), len(self.returns))
        return {"P": risk, "q": -self.returns @ features, "h": h}


def error(theta, risk, features, decisions):
    """Mean squared error of the decisions of the investor with (M, u) = theta."""
    model = Investor(*theta)
    decide = jax.vmap(lambda f: model.layer(**model.program(risk, f)))
    return jnp.mean((decide(features) - decisions) ** 2)


value_and_slope = jax.jit(jax.value_and_grad(error))


def against_differences(theta, *data) -> float:
    """The relative error of the gradient along itself."""
    slope = value_and_slope(theta, *data)[1]
    norm = jnp.sqrt(sum(jnp.sum(s**2) for s in jax.tree.leaves(slope)))
    at = lambda t: value_and_slope(jax.tree.map(lambda a, s: a + t * s / norm, theta, slope), *data)[0]
    return float(abs((at(1e-6) - at(-1e-6)) / 2e-6 - norm) / norm)


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="a few steps on few decisions")
    parser.add_argument("--out", type=Path, default=Path("out/qp_layer"))
    options = parser.parse_args(argv)
    jax.config.update("jax_enable_x64", True)
    assets, features, samples, steps = (4, 2, 8, 3) if options.smoke else (8, 4, 128, 400)

    keys = jax.random.split(jax.random.key(0), 5)
    root = jax.random.normal(keys[0], (assets, assets))
    risk = root @ root.T / assets + 0.1 * jnp.eye(assets)
    truth = jax.random.normal(keys[1], (assets, features)), jnp.asarray(0.4)
    seen, unseen = jax.random.normal(keys[2], (2, samples, features))
    investor = Investor(*truth)
    decide = jax.jit(jax.vmap(lambda f: investor.layer.solve(**investor.program(risk, f))))
    found = decide(seen)
    x = found.value[0]
    data, test = (risk, seen, x), (risk, unseen, decide(unseen).value[0])
    start = 0.3 * jax.random.normal(keys[3], truth[0].shape), jnp.asarray(0.7)
    checked = against_differences(start, *data)
    print(f"gradient against differences: relative error {checked:.1e}")

    optimizer = optax.adam(optax.cosine_decay_schedule(0.05, steps, 0.01))
    theta, state, history, begun = start, optimizer.init(start), [], time.perf_counter()

    for _ in tqdm(range(steps), desc="learn", disable=options.smoke):
        value, slope = value_and_slope(theta, *data)
        change, state = optimizer.update(slope, state)
        theta = optax.apply_updates(theta, change)
        history.append(float(value))
    metrics = {
        "converged_share": float(jnp.mean(found.result == jsci.RESULTS.successful)),
        "on_bounds_share": float(jnp.mean((x < 1e-8) | (x > truth[1] - 1e-8))),
        "gradient_error": checked,
        "mean_decision_error": float(jnp.mean((test[2] - x.mean(0)) ** 2)) ** 0.5,
        "test_error": float(value_and_slope(theta, *test)[0]) ** 0.5,
        "limit": float(theta[1]),
        "seconds": time.perf_counter() - begun,
    }
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "metrics.json").write_text(json.dumps(metrics, indent=2))
    print(json.dumps(metrics, indent=2))
    figure, (left, right) = plt.subplots(1, 2, layout="constrained")
    left.semilogy(jnp.sqrt(jnp.asarray(history)))
    left.set(xlabel="step", ylabel="root-mean-square error of decisions")
    right.plot(*((m - m.mean(0)).ravel() for m in (truth[0], theta[0])), ".")
    right.set(xlabel="hidden returns M, up to a common one", ylabel="learned")
    figure.savefig(options.out / "decisions.png", dpi=120)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
