"""Laplace's equation around four holes: a shape made of boxes and disks.

    Δu = 0 in the square |x|, |y| < ½ without four disks of radius 0.1,   u = 1 outside, u = 0 on the holes

`python examples/holes_pinn.py` writes a picture and metrics.json to out/holes_pinn.
"""

import argparse
import functools
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from _pinn_report import report

from jaxsci import nn, pde, pinn, train
from jaxsci.pde import reference
from jaxsci.solvers import GaussNewton

CENTERS = [(-0.3, -0.3), (-0.3, 0.3), (0.3, -0.3), (0.3, 0.3)]


def main(smoke: bool = False, out: Path = Path("out/holes_pinn")) -> dict:
    jax.config.update("jax_enable_x64", True)
    width, depth, points, steps = (12, 1, 200, 30) if smoke else (24, 3, 2000, 150)
    key, draw = jax.random.split(jax.random.key(0))
    square = pde.Box({"x": (-0.5, 0.5), "y": (-0.5, 0.5)})
    holes = [pde.Disk(("x", "y"), center, 0.1, part="hole") for center in CENTERS]
    domain = functools.reduce(lambda shape, hole: shape - hole, holes, square)
    walls = [pde.Dirichlet("u", face(x), 1.0) for x in ("x", "y") for face in (pde.low, pde.high)]
    model = pinn.PINN(
        pde.Poisson(lambda p: 0.0),
        domain,
        [],
        nn.MLP(2, 1, width=width, depth=depth, key=key),
        soft=[*walls, pde.Dirichlet("u", pde.Part("hole"), 0.0)],
    )
    # Rows of the equation are second derivatives, on holes of a tenth: a hundred times those of the values.
    stages = [pinn.Stage(GaussNewton(), steps, weights=train.Fixed({"equation": 1e-4}))]
    found = pinn.fit(model, stages, key=draw, points=points)

    inside = np.asarray(domain.interior(6000, pde.Halton(), jax.random.key(9)))
    u = np.asarray(jax.jit(jax.vmap(found.model))(jnp.asarray(inside)))
    exact = reference.square_with_holes()(inside)
    return report(out, "holes_pinn", found, inside, u, exact, ("x", "y"), loss=found.loss)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="a small network, few steps")
    parser.add_argument("--out", type=Path, default=Path("out/holes_pinn"))
    options = parser.parse_args()
    main(options.smoke, options.out)
    sys.exit(0)
