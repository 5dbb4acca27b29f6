"""Burgers' equation with a front, by a network of 941 parameters and Gauss–Newton in float64.

    u_t + u u_x = ν u_xx on [−1, 1], ν = 0.01/π, u(x, 0) = −sin πx, u(±1, t) = 0,

against the Cole–Hopf transform. Initial and boundary values hold by construction; points move to where the
residual is large.

`python examples/burgers_pinn.py` writes a picture and metrics.json to out/burgers_pinn.
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

VISCOSITY = 0.01 / np.pi


def problem(width, key):
    return pinn.PINN(
        pde.Burgers(VISCOSITY),
        pde.Box({"x": (-1.0, 1.0), "t": (0.0, 1.0)}),
        [
            pde.Initial("u", lambda p: -jnp.sin(jnp.pi * p.x)),
            pde.Dirichlet("u", pde.low("x")),
            pde.Dirichlet("u", pde.high("x")),
        ],
        nn.MLP(2, 1, width=width, depth=3, key=key),
    )


def picture(x, t, u, exact, solution, file):
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
    for axes, values, title in ((left, u, "u"), (middle, np.abs(u - exact), "|error|")):
        norm = "log" if axes is middle else None
        if norm:
            values = np.maximum(values, 1e-12)
        image = axes.pcolormesh(t, x, values, norm=norm, shading="gouraud", rasterized=True)
        axes.set(title=title, xlabel="t", ylabel="x")
        figure.colorbar(image, ax=axes)
    right.semilogy(np.arange(1, solution.step + 1), solution.history["loss"], label="loss")
    right.semilogy(
        solution.evaluations["step"], solution.evaluations["error"], "o-", label="error, relative L²"
    )
    right.set(xlabel="step of Gauss–Newton")
    right.legend()
    figure.savefig(file, dpi=120)


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="a small network and a few steps")
    parser.add_argument("--out", type=Path, default=Path("out/burgers_pinn"))
    options = parser.parse_args(argv)
    jax.config.update("jax_enable_x64", True)
    width, steps, points, every = (8, 15, 200, 5) if options.smoke else (20, 400, 2000, 50)

    x, t = np.linspace(-1, 1, 41 if options.smoke else 201), np.linspace(0, 1, 11 if options.smoke else 101)
    grid = np.stack(np.meshgrid(x, t, indexing="ij"), -1).reshape(-1, 2)
    exact = reference.burgers(VISCOSITY)(grid)
    first, second = jax.random.split(jax.random.key(0))
    solution = pinn.fit(
        problem(width, first),
        [pinn.Stage(GaussNewton(), steps, resample=pde.RAD(), every=every)],
        key=second,
        points=points,
        reference=(grid, exact),
        evaluate_every=every,
    )
    print(solution)
    metrics = {
        "relative_l2": solution.error,
        "loss": solution.loss,
        "steps": solution.step,
        "seconds": solution.seconds,
        "compile_seconds": solution.compile_seconds,
    }
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "metrics.json").write_text(json.dumps(metrics, indent=2))
    u = np.asarray(jax.jit(jax.vmap(lambda p: solution.model(p)))(jnp.asarray(grid)))
    shape = (len(x), len(t))
    picture(x, t, u.reshape(shape), exact.reshape(shape), solution, options.out / "burgers_pinn.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
