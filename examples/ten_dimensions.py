"""A harmonic function in ten dimensions, where no grid has room.

    Δu = 0 in the unit cube of ten dimensions,   u = x₀x₁ + x₂x₃ + x₄x₅ + x₆x₇ + x₈x₉ on its faces

`d.u_lap` is the Laplacian, at about the cost of one forward pass for each coordinate.
The picture shows u against two coordinates, with the others at one half.

`python examples/ten_dimensions.py` writes a picture and metrics.json to out/ten_dimensions.
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

NAMES = tuple(f"x{i}" for i in range(10))


class Laplace(pde.Equation):
    coordinates = NAMES
    fields = ("u",)

    def residual(self, d, point):
        return d.u_lap


def pairs(p):
    return sum(p[NAMES[i]] * p[NAMES[i + 1]] for i in range(0, 10, 2))


def main(smoke: bool = False, out: Path = Path("out/ten_dimensions")) -> dict:
    jax.config.update("jax_enable_x64", True)
    width, depth, points, steps = (8, 1, 200, 30) if smoke else (24, 2, 3000, 150)
    key, draw = jax.random.split(jax.random.key(0))
    box = pde.Box(dict.fromkeys(NAMES, (0.0, 1.0)))
    walls = [pde.Dirichlet("u", face(x), pairs) for x in NAMES for face in (pde.low, pde.high)]
    network = nn.MLP(10, 1, width=width, depth=depth, key=key)
    model = pinn.PINN(Laplace(), box, [], network, soft=walls)
    found = pinn.fit(
        model, [pinn.Stage(GaussNewton(), steps)], key=draw, points=points, boundary_points=points // 10
    )

    # The error is that at points of the whole cube, apart from the picture's slice.
    inside = np.asarray(box.interior(5000, pde.Halton(), jax.random.key(9)))
    call = jax.jit(jax.vmap(found.model))
    u, exact = np.asarray(call(jnp.asarray(inside))), reference.harmonic_products(10)(inside)
    error = float(np.linalg.norm(u - exact) / np.linalg.norm(exact))
    side = np.stack(np.meshgrid(*[np.linspace(0, 1, 61)] * 2, indexing="ij"), -1).reshape(-1, 2)
    slice_ = np.concatenate([side, np.full((len(side), 8), 0.5)], axis=1)
    shown, true = np.asarray(call(jnp.asarray(slice_))), reference.harmonic_products(10)(slice_)
    more = {"loss": found.loss, "error in the cube": error}
    return report(out, "ten_dimensions", found, side, shown, true, ("x₀", "x₁"), **more)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="a small network, few steps")
    parser.add_argument("--out", type=Path, default=Path("out/ten_dimensions"))
    options = parser.parse_args()
    main(options.smoke, options.out)
    sys.exit(0)
