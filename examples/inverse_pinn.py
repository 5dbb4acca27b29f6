"""The viscosity of Burgers' equation from 200 noisy values of u.

    u_t + u u_x = ν u_xx on −1 < x < 1, 0 < t < 1,   u(x, 0) = −sin πx,   u(±1, t) = 0

ν is one more unknown of the same least squares. How far a change of the measurements would move it follows
from the implicit rule, without training again; and from that, the standard error of ν.

`python examples/inverse_pinn.py` writes a picture and metrics.json to out/inverse_pinn.
"""

import argparse
import json
import sys
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib
import numpy as np

from jaxsci import nn, pde, pinn
from jaxsci.pde import reference
from jaxsci.solvers import GaussNewton

matplotlib.use("Agg")
import matplotlib.pyplot as plt

NOISE = 0.01


def unknown(model):
    return model.network, model.equation.viscosity


def main(smoke: bool = False, out: Path = Path("out/inverse_pinn")) -> dict:
    jax.config.update("jax_enable_x64", True)
    exact = (0.3 if smoke else 0.01) / np.pi
    width, depth, points, steps = (10, 2, 200, 100) if smoke else (20, 3, 2000, 200)
    keys = jax.random.split(jax.random.key(0), 4)

    domain = pde.Box({"x": (-1.0, 1.0), "t": (0.0, 1.0)})
    where = domain.interior(200, pde.Uniform(), keys[0])
    values = jnp.asarray(reference.burgers(exact)(np.asarray(where)))[:, 0]
    values = values + NOISE * jax.random.normal(keys[1], values.shape)
    model = pinn.PINN(
        pde.Burgers(0.05),
        domain,
        [
            pde.Initial("u", lambda p: -jnp.sin(jnp.pi * p.x)),
            pde.Dirichlet("u", pde.low("x")),
            pde.Dirichlet("u", pde.high("x")),
            pde.Data("u", where, values),
        ],
        nn.MLP(2, 1, width=width, depth=depth, key=keys[2]),
    )
    found: list[tuple[int, float]] = []
    solution = pinn.fit(
        model,
        [pinn.Stage(GaussNewton(), steps)],
        key=keys[3],
        points=points,
        unknown=unknown,
        callbacks=[lambda p: found.append((p.step, float(p.model.equation.viscosity)))],
    )
    viscosity = float(solution.model.equation.viscosity)

    def of_data(values):
        changed = eqx.tree_at(lambda m: m.soft[0].values, solution.model, values)
        attached = pinn.attach(changed, solution.points, unknown=unknown, damping=1e-8)
        return attached.equation.viscosity

    influence = jax.jit(jax.grad(of_data))(values)
    metrics = {
        "viscosity": viscosity,
        "relative_error": abs(viscosity / exact - 1),
        "relative_standard_error": float(NOISE * jnp.linalg.norm(influence)) / viscosity,
        "seconds": solution.seconds,
    }
    print(solution, json.dumps(metrics, indent=2), sep="\n")
    out.mkdir(parents=True, exist_ok=True)
    (out / "metrics.json").write_text(json.dumps(metrics, indent=2))
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(14, 4), layout="constrained")
    dots = left.scatter(where[:, 1], where[:, 0], c=values, cmap="RdBu")
    figure.colorbar(dots, ax=left)
    left.set(title="measurements", xlabel="t", ylabel="x")
    bound = float(jnp.max(jnp.abs(influence)))
    dots = middle.scatter(where[:, 1], where[:, 0], c=influence, cmap="RdBu", vmin=-bound, vmax=bound)
    figure.colorbar(dots, ax=middle)
    middle.set(title="dν/d(measurement)", xlabel="t", ylabel="x")
    right.plot(*zip(*found, strict=True), "o-", label="ν")
    right.axhline(exact, color="C1", label="exact")
    right.set(xlabel="step", title=f"ν off by {metrics['relative_error']:.1e}", yscale="log")
    right.legend()
    figure.savefig(out / "inverse_pinn.png", dpi=120)
    return metrics


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="a small network and an easy viscosity")
    parser.add_argument("--out", type=Path, default=Path("out/inverse_pinn"))
    options = parser.parse_args()
    main(options.smoke, options.out)
    sys.exit(0)
