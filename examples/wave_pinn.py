"""A string with two modes, by a physics-informed network in slabs of time.

    u_tt = 4 u_xx on 0 < x < 1, 0 < t < 1,   u(x, 0) = sin πx + ½ sin 4πx,   u_t(x, 0) = u(0, t) = u(1, t) = 0

Value and rate at the start hold by construction in each slab, those of the one before.

`python examples/wave_pinn.py` writes a picture and metrics.json to out/wave_pinn.
"""

import argparse
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from _pinn_report import report

from jaxsci import nn, pde, pinn
from jaxsci.pde import reference
from jaxsci.solvers import GaussNewton


def main(smoke: bool = False, out: Path = Path("out/wave_pinn")) -> dict:
    jax.config.update("jax_enable_x64", True)
    end, slabs, width, points, steps = (0.25, 1, 12, 200, 60) if smoke else (1.0, 4, 20, 1500, 200)
    domain = pde.Box({"x": (0.0, 1.0), "t": (0.0, end)})
    conditions = [
        pde.Initial("u", lambda p: jnp.sin(jnp.pi * p.x) + 0.5 * jnp.sin(4 * jnp.pi * p.x)),
        pde.Initial("u", 0.0, rate=True),
        pde.Dirichlet("u", pde.low("x")),
        pde.Dirichlet("u", pde.high("x")),
    ]

    def make(domain, conditions, key):
        network = nn.MLP(2, 1, width=width, depth=2, key=key)
        return pinn.PINN(pde.Wave(2.0), domain, conditions, network)

    stages = [pinn.Stage(GaussNewton(), steps)]
    edges = np.linspace(0, end, slabs + 1).tolist()
    found = pinn.march(make, domain, conditions, edges, stages, key=jax.random.key(0), points=points)

    axes = np.linspace(0, 1, 101), np.linspace(0, end, 81)
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2)
    u = np.asarray(jax.jit(jax.vmap(found.model))(jnp.asarray(grid)))
    return report(out, "wave_pinn", found, grid, u, reference.wave()(grid), ("x", "t"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="a quarter of the time, a small network")
    parser.add_argument("--out", type=Path, default=Path("out/wave_pinn"))
    options = parser.parse_args()
    main(options.smoke, options.out)
    sys.exit(0)
