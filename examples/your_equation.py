"""An equation of your own: write its residual, say where it holds and what is known, and train.

Here, a chemical that flows along a pipe, spreads and is used up faster where there is more of it,

    c_t + v(y) c_x = D (c_xx + c_yy) − k c²,   v(y) = 4 y (1 − y),   0 < x < 2, 0 < y < 1,

with c = 1 at the inlet once it is opened, no flow through the walls, free outflow, and nothing in the pipe at
first. What the program does not know about your equation, you can ask of it: here dc/dk at the outlet.

`python examples/your_equation.py` writes a picture and metrics.json to out/your_equation.
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
from jaxsci.solvers import GaussNewton

matplotlib.use("Agg")
import matplotlib.pyplot as plt


class Reactor(pde.Equation):
    """c_t + v(y) c_x = D Δc − k c²."""

    diffusivity: jax.Array = eqx.field(converter=jnp.asarray)
    rate: jax.Array = eqx.field(converter=jnp.asarray)
    coordinates = ("x", "y", "t")
    fields = ("c",)

    def residual(self, d, point):
        velocity = 4 * point.y * (1 - point.y)
        return d.c_t + velocity * d.c_x - self.diffusivity * d.c_lap + self.rate * d.c**2


def problem(width, key):
    domain = pde.Box({"x": (0.0, 2.0), "y": (0.0, 1.0), "t": (0.0, 2.0)})
    conditions = [
        pde.Initial("c", 0.0),
        pde.Dirichlet("c", pde.low("x"), lambda p: -jnp.expm1(-5 * p.t)),
        pde.Neumann("c", pde.high("x")),
        pde.Neumann("c", pde.low("y")),
        pde.Neumann("c", pde.high("y")),
    ]
    network = nn.MLP(3, 1, width=width, depth=2, key=key)
    return pinn.PINN(Reactor(0.1, 1.0), domain, conditions, network)


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="a small network and a few steps")
    parser.add_argument("--out", type=Path, default=Path("out/your_equation"))
    options = parser.parse_args(argv)
    jax.config.update("jax_enable_x64", True)
    width, steps, points = (8, 15, 200) if options.smoke else (20, 150, 2000)

    first, second = jax.random.split(jax.random.key(0))
    model = problem(width, first)
    print(f"{len(model.hard)} conditions hold by construction, {len(model.soft)} are rows of the loss.")
    solution = pinn.fit(model, [pinn.Stage(GaussNewton(), steps)], key=second, points=points)
    print(solution)
    outlet = jnp.array([2.0, 0.5, 2.0])

    def concentration(rate):
        changed = solution.model.with_equation(Reactor(0.1, rate))
        return pinn.attach(changed, solution.points)(outlet)[0]

    c, slope = jax.jit(jax.value_and_grad(concentration))(jnp.array(1.0))
    # Points that no one trained on.
    fresh = solution.model.domain.interior(1000, pde.Halton(), jax.random.key(7))
    residual = jax.jit(jax.vmap(lambda p: solution.model.residual(p)))(fresh)
    metrics = {
        "loss": solution.loss,
        "root_mean_square_residual": float(jnp.sqrt(jnp.mean(residual**2))),
        "at_outlet": float(c),
        "slope_in_rate": float(slope),
        "seconds": solution.seconds,
    }
    print(json.dumps(metrics, indent=2))
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "metrics.json").write_text(json.dumps(metrics, indent=2))
    x, y = np.linspace(0, 2, 81), np.linspace(0, 1, 41)
    fields = jax.jit(jax.vmap(lambda p: solution.model(p)))
    figure, panels = plt.subplots(1, 4, figsize=(15, 3), layout="constrained")
    for axes, t in zip(panels, (0.2, 0.8, 2.0), strict=False):
        grid = np.stack([*np.meshgrid(x, y, indexing="ij"), np.full((81, 41), t)], -1).reshape(-1, 3)
        c = np.asarray(fields(jnp.asarray(grid))).reshape(81, 41)
        image = axes.pcolormesh(x, y, c.T, vmin=0, vmax=1, shading="gouraud", rasterized=True)
        axes.set(title=f"c at t = {t}", xlabel="x", ylabel="y")
    figure.colorbar(image, ax=panels[2])
    panels[3].semilogy(solution.history["loss"])
    panels[3].set(title="loss", xlabel="step of Gauss–Newton")
    figure.savefig(options.out / "your_equation.png", dpi=120)
    return 0


if __name__ == "__main__":
    sys.exit(main())
