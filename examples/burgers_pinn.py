"""Burgers' equation with a front, by a physics-informed network and Gauss–Newton.

    u_t + u u_x = ν u_xx on −1 < x < 1, 0 < t < 1,   u(x, 0) = −sin πx,   u(±1, t) = 0,   ν = 0.01/π

The initial and the boundary values hold by construction; the points of the equation follow its residual.
The error is that against Cole and Hopf's solution, on a grid that training never sees.

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


def main(smoke: bool = False, out: Path = Path("out/burgers_pinn")) -> dict:
    jax.config.update("jax_enable_x64", True)
    viscosity = (0.3 if smoke else 0.01) / np.pi
    width, depth, points, steps = (10, 2, 200, 100) if smoke else (20, 3, 3000, 400)
    key, draw = jax.random.split(jax.random.key(0))

    model = pinn.PINN(
        pde.Burgers(viscosity),
        pde.Box({"x": (-1.0, 1.0), "t": (0.0, 1.0)}),
        [
            pde.Initial("u", lambda p: -jnp.sin(jnp.pi * p.x)),
            pde.Dirichlet("u", pde.low("x")),
            pde.Dirichlet("u", pde.high("x")),
        ],
        nn.MLP(2, 1, width=width, depth=depth, key=key),
    )
    x, t = np.linspace(-1, 1, 257), np.linspace(0, 1, 101)
    grid = np.stack(np.meshgrid(x, t, indexing="ij"), -1).reshape(-1, 2)
    exact = reference.burgers(viscosity)(grid)

    stages = [pinn.Stage(GaussNewton(), steps, resample=pde.RAD(), every=25)]
    solution = pinn.fit(model, stages, key=draw, points=points, reference=(grid, exact))
    print(solution)

    metrics = {
        "error": solution.error,
        "loss": solution.loss,
        "steps": solution.step,
        "seconds": solution.seconds,
        "compile_seconds": solution.compile_seconds,
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / "metrics.json").write_text(json.dumps(metrics, indent=2))
    u = np.asarray(jax.jit(jax.vmap(solution.model))(jnp.asarray(grid)))
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(14, 4), layout="constrained")
    shown = {"origin": "lower", "extent": (0, 1, -1, 1), "aspect": "auto"}
    image = left.imshow(u.reshape(257, 101), cmap="RdBu", **shown)
    figure.colorbar(image, ax=left)
    left.set(title="u", xlabel="t", ylabel="x")
    wrong = np.log10(np.abs(u - exact) + 1e-16).reshape(257, 101)
    image = middle.imshow(wrong, **shown, vmin=np.quantile(wrong, 0.02))
    figure.colorbar(image, ax=middle)
    middle.set(title="log₁₀ |error|", xlabel="t", ylabel="x")
    right.semilogy(solution.history["loss"], label="loss")
    evaluations = solution.evaluations
    right.semilogy(evaluations["step"], evaluations["error"], "o-", label="relative L² error")
    right.set(xlabel="step", title=f"error {solution.error:.1e} in {solution.seconds:.0f} s")
    right.legend()
    figure.savefig(out / "burgers_pinn.png", dpi=120)
    return metrics


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="a small network and an easy viscosity")
    parser.add_argument("--out", type=Path, default=Path("out/burgers_pinn"))
    options = parser.parse_args()
    main(options.smoke, options.out)
    sys.exit(0)
