"""The viscosity in Burgers' equation, from 200 points of measurement with noise.

    u_t + u u_x = ν u_xx on [−1, 1], u(x, 0) = −sin πx, u(±1, t) = 0.

ν is a further unknown of the same least squares problem: its logarithm, so that it stays positive. True is
0.05/π.

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

VISCOSITY = 0.05 / np.pi


class Burgers(pde.Equation):
    """u_t + u u_x = exp(log_viscosity) u_xx."""

    log_viscosity: jax.Array = eqx.field(converter=jnp.asarray)
    coordinates = ("x", "t")
    fields = ("u",)

    def residual(self, d, point):
        return d.u_t + d.u * d.u_x - jnp.exp(self.log_viscosity) * d.u_xx


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="a small network and a few steps")
    parser.add_argument("--noise", type=float, default=0.01, help="relative to the largest value")
    parser.add_argument("--out", type=Path, default=Path("out/inverse_pinn"))
    options = parser.parse_args(argv)
    jax.config.update("jax_enable_x64", True)
    width, steps, points = (8, 25, 200) if options.smoke else (16, 200, 1500)

    keys = jax.random.split(jax.random.key(0), 4)
    domain = pde.Box({"x": (-1.0, 1.0), "t": (0.0, 1.0)})
    where = domain.interior(200, pde.Uniform(), keys[0])
    exact = reference.burgers(VISCOSITY)
    noise = options.noise * jax.random.normal(keys[1], (200,))
    measured = jnp.asarray(exact(where)[:, 0]) + noise
    model = pinn.PINN(
        Burgers(jnp.log(0.1)),
        domain,
        [
            pde.Initial("u", lambda p: -jnp.sin(jnp.pi * p.x)),
            pde.Dirichlet("u", pde.low("x")),
            pde.Dirichlet("u", pde.high("x")),
            pde.Data("u", where, measured, "probes"),
        ],
        nn.MLP(2, 1, width=width, depth=2, key=keys[2]),
    )
    found = []
    solution = pinn.fit(
        model,
        [pinn.Stage(GaussNewton(), steps)],
        key=keys[3],
        points=points,
        unknown=lambda m: (m.network, m.equation.log_viscosity),
        evaluate_every=5,
        callbacks=[lambda now: found.append((now.step, float(jnp.exp(now.model.equation.log_viscosity))))],
    )
    viscosity = float(jnp.exp(solution.model.equation.log_viscosity))
    metrics = {
        "viscosity": viscosity,
        "true": VISCOSITY,
        "relative_error": abs(viscosity / VISCOSITY - 1),
        "noise": options.noise,
        "seconds": solution.seconds,
    }
    print(solution)
    print(json.dumps(metrics, indent=2))
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "metrics.json").write_text(json.dumps(metrics, indent=2))
    x = np.linspace(-1, 1, 201)
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
    left.scatter(where[:, 1], where[:, 0], c=measured, s=12)
    left.set(title="measured", xlabel="t", ylabel="x")
    for time in (0.25, 0.5, 1.0):
        p = jnp.stack([jnp.asarray(x), jnp.full(201, time)], 1)
        u = np.asarray(jax.vmap(solution.model)(p))
        middle.plot(x, u, label=f"t = {time}")
        right.semilogy(x, np.maximum(np.abs(u - exact(p)), 1e-9), label=f"|error|, t = {time}")
    middle.set(title="u", xlabel="x")
    middle.legend()
    right.set(title="error of u", xlabel="x")
    right.legend(loc="lower left")
    inset = right.inset_axes((0.62, 0.1, 0.36, 0.3))
    inset.semilogy(*np.array(found).T)
    inset.axhline(VISCOSITY, color="black", lw=0.8)
    inset.set_title("ν by step", fontsize=8)
    figure.savefig(options.out / "inverse_pinn.png", dpi=120)
    return 0


if __name__ == "__main__":
    sys.exit(main())
