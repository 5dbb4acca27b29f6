"""Fast convection: where an Eulerian network fails and a Lagrangian one does not.

    u_t + c u_x = 0 on 0 < x < 2π, periodic, 0 < t < 1,   u(x, 0) = sin x,   c = 50

Both have the same optimiser, steps and points, and about as many parameters. The Eulerian network must bend
along 50 radians of phase; the Lagrangian one, of characteristics X(ξ, t) and state U(ξ, t), has nothing left
to bend.

`python examples/convection_lagrangian.py` writes a picture and metrics.json to out/convection_lagrangian.
"""

import argparse
import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np

from jaxsci import nn, pde, pinn
from jaxsci.pde import reference
from jaxsci.solvers import GaussNewton

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def main(smoke: bool = False, out: Path = Path("out/convection_lagrangian")) -> dict:
    jax.config.update("jax_enable_x64", True)
    speed, steps, points = (50.0, 30, 150) if smoke else (50.0, 250, 500)
    one, two, draw = jax.random.split(jax.random.key(0), 3)
    equation = pde.Convection(speed)
    domain = pde.Box({"x": (0.0, 2 * np.pi), "t": (0.0, 1.0)})
    conditions = [pde.Initial("u", lambda p: jnp.sin(p.x)), pde.Periodic("u", "x")]
    network = lambda width, key: nn.MLP(3, 1, width=width, depth=2, key=key)
    models = {
        "Eulerian": pinn.PINN(equation, domain, conditions, network(15, one)),
        "Lagrangian": pinn.LPINN(equation, domain, conditions, network(10, one), network(10, two)),
    }

    x, t = np.linspace(0, 2 * np.pi, 257), np.linspace(0, 1, 101)
    grid = np.stack(np.meshgrid(x, t, indexing="ij"), -1).reshape(-1, 2)
    exact = reference.convection_diffusion(speed)(grid)
    metrics, fields = {}, {"exact": exact}
    for name, model in models.items():
        stages = [pinn.Stage(GaussNewton(rtol=1e-14), steps)]
        solution = pinn.fit(model, stages, key=draw, points=points)
        fields[name] = np.asarray(jax.jit(jax.vmap(solution.model))(jnp.asarray(grid)))
        error = float(np.linalg.norm(fields[name] - exact) / np.linalg.norm(exact))
        metrics[name] = {"error": error, "loss": solution.loss, "seconds": solution.seconds}
        print(f"{name}: error {error:.1e} in {solution.seconds:.0f} s")

    out.mkdir(parents=True, exist_ok=True)
    (out / "metrics.json").write_text(json.dumps(metrics, indent=2))
    figure, axes = plt.subplots(1, 3, figsize=(14, 4), layout="constrained", sharey=True)
    for ax, (name, u) in zip(axes, fields.items(), strict=True):
        image = ax.imshow(
            u.reshape(257, 101), origin="lower", extent=(0, 1, 0, 2 * np.pi), aspect="auto",
            cmap="RdBu", vmin=-1, vmax=1,
        )  # fmt: skip
        ax.set(title=name, xlabel="t")
        if name in metrics:
            ax.set_title(f"{name}: relative error {metrics[name]['error']:.1e}")
    axes[0].set(ylabel="x")
    figure.colorbar(image, ax=axes)
    figure.savefig(out / "convection.png", dpi=120)
    return metrics


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="few steps")
    parser.add_argument("--out", type=Path, default=Path("out/convection_lagrangian"))
    options = parser.parse_args()
    main(options.smoke, options.out)
    sys.exit(0)
