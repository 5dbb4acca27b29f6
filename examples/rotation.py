"""A pulse that turns with the plane and spreads, along characteristics in two dimensions.

    u_t − y u_x + x u_y = ν Δu,   u(x, y, 0) = exp(−|(x, y) − (0.4, 0)|²/2σ²),   σ = 0.3, ν = 1e-3, 0 < t < 1

The plane goes on beyond the picture: what is followed started in a larger square. Conditions hold by
construction, and nothing of the pulse's way is left to learn but the rotation of the labels.

`python examples/rotation.py` writes a picture and metrics.json to out/rotation.
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


def square(half: float) -> pde.Box:
    return pde.Box({"x": (-half, half), "y": (-half, half), "t": (0.0, 1.0)})


def main(smoke: bool = False, out: Path = Path("out/rotation")) -> dict:
    jax.config.update("jax_enable_x64", True)
    width, features, points, steps, side = (5, 6, 150, 20, 15) if smoke else (12, 24, 1200, 200, 61)
    one, two, three, draw = jax.random.split(jax.random.key(0), 4)
    waves = nn.RandomFourier(3, features, 1.5, key=three)
    model = pinn.LPINN(
        pde.Advection(lambda p: (-p.y, p.x), 1e-3),
        square(1.0),
        [pde.Initial("u", lambda p: jnp.exp(-((p.x - 0.4) ** 2 + p.y**2) / (2 * 0.3**2)))],
        characteristics=nn.MLP(3, 2, width=width, depth=2, key=one),
        state=nn.Embedded(waves, nn.MLP(2 * features, 1, width=width, depth=1, key=two)),
        labels=square(1.5),
        order=2,
    )
    stages = [pinn.Stage(GaussNewton(rtol=1e-14), steps, resample=pde.RAD(), every=20)]
    solution = pinn.fit(model, stages, key=draw, points=points)

    axis = np.linspace(-1, 1, side)
    x, y = np.meshgrid(axis, axis, indexing="ij")
    source = reference.rotating_pulse(1e-3, width=0.3, center=(0.4, 0.0))
    query = eqx.filter_jit(lambda m, p: jax.lax.map(m, p, batch_size=1024))
    figure, axes = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
    errors = []
    for ax, t in zip(axes, (0.0, 0.5, 1.0), strict=True):
        grid = np.stack([x, y, np.full_like(x, t)], -1).reshape(-1, 3)
        u, exact = np.asarray(query(solution.model, jnp.asarray(grid))), source(grid)
        errors.append(float(np.linalg.norm(u - exact) / np.linalg.norm(exact)))
        ax.pcolormesh(x, y, u.reshape(x.shape), cmap="magma")
        lattice = jnp.linspace(-0.9, 0.9, 7)
        for lines in ((lattice[:, None], axis[None]), (axis[None], lattice[:, None])):
            labels = jnp.stack(jnp.broadcast_arrays(*map(jnp.asarray, lines)), -1)
            at = jax.vmap(jax.vmap(lambda s, t=t: solution.model.flow(s, jnp.asarray(t))[0]))(labels)
            ax.plot(at[..., 0].T, at[..., 1].T, "w", lw=0.5)
        ax.set(
            title=f"t = {t:g}: relative error {errors[-1]:.1e}", xlim=(-1, 1), ylim=(-1, 1), aspect="equal"
        )
    metrics = {"error": max(errors), "loss": solution.loss, "seconds": solution.seconds}
    print(json.dumps(metrics, indent=2))

    out.mkdir(parents=True, exist_ok=True)
    (out / "metrics.json").write_text(json.dumps(metrics, indent=2))
    figure.savefig(out / "rotation.png", dpi=120)
    return metrics


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="few steps, small networks")
    parser.add_argument("--out", type=Path, default=Path("out/rotation"))
    options = parser.parse_args()
    main(options.smoke, options.out)
    sys.exit(0)
