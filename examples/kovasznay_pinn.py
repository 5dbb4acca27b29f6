"""The flow behind a grid (Kovasznay), by one network for velocity and pressure.

    u·∇u = −∇p + Δu/Re,   ∇·u = 0 on −½ < x < 1, −½ < y < 3/2,   Re = 40

Velocity on the boundary and pressure where the fluid leaves hold by construction. The picture shows u.

`python examples/kovasznay_pinn.py` writes a picture and metrics.json to out/kovasznay_pinn.
"""

import argparse
import math
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from _pinn_report import report

from jaxsci import nn, pde, pinn
from jaxsci.pde import reference
from jaxsci.solvers import GaussNewton

REYNOLDS = 40.0
RATE = REYNOLDS / 2 - math.sqrt(REYNOLDS**2 / 4 + 4 * math.pi**2)
EXACT = {
    "u": lambda p: 1 - jnp.exp(RATE * p.x) * jnp.cos(2 * jnp.pi * p.y),
    "v": lambda p: RATE / (2 * jnp.pi) * jnp.exp(RATE * p.x) * jnp.sin(2 * jnp.pi * p.y),
    "p": lambda p: (1 - jnp.exp(2 * RATE * p.x)) / 2,
}


def main(smoke: bool = False, out: Path = Path("out/kovasznay_pinn")) -> dict:
    jax.config.update("jax_enable_x64", True)
    width, depth, points, steps = (10, 1, 150, 30) if smoke else (24, 3, 1500, 120)
    key, draw = jax.random.split(jax.random.key(0))
    sides = [face(x) for x in ("x", "y") for face in (pde.low, pde.high)]
    conditions = [pde.Dirichlet(f, side, EXACT[f]) for f in ("u", "v") for side in sides]
    model = pinn.PINN(
        pde.NavierStokes(REYNOLDS),
        pde.Box({"x": (-0.5, 1.0), "y": (-0.5, 1.5)}),
        [*conditions, pde.Dirichlet("p", pde.high("x"), EXACT["p"])],
        nn.MLP(2, 3, width=width, depth=depth, key=key),
    )
    found = pinn.fit(model, [pinn.Stage(GaussNewton(), steps)], key=draw, points=points)

    axes = np.linspace(-0.5, 1, 76), np.linspace(-0.5, 1.5, 101)
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2)
    u = np.asarray(jax.jit(jax.vmap(found.model))(jnp.asarray(grid)))
    exact = reference.kovasznay(REYNOLDS)(grid)
    return report(out, "kovasznay_pinn", found, grid, u, exact, ("x", "y"), loss=found.loss)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="a small network, few steps")
    parser.add_argument("--out", type=Path, default=Path("out/kovasznay_pinn"))
    options = parser.parse_args()
    main(options.smoke, options.out)
    sys.exit(0)
