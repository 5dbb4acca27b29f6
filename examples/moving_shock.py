"""A front that is carried ten times as fast as it steepens, and the shock without viscosity.

    u_t + u u_x = ν u_xx on 0 < x < 2π, periodic,   u(x, 0) = 10 + sin x

With ν = 0.01 to t = 1, by a Lagrangian network: characteristics come together until J = ∂X/∂ξ is 0.05.
Without viscosity to t = 2: they cross at t = 1, and the query takes the label of the entropy solution; the
shock's speed is the derivative of its position, by the implicit function theorem.

`python examples/moving_shock.py` writes a picture and metrics.json to out/moving_shock.
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

MEAN = 10.0


def solve(viscosity, end, steps, points, width, entropy=False):
    one, two, draw = jax.random.split(jax.random.key(0), 3)
    model = pinn.LPINN(
        pde.Burgers(viscosity),
        pde.Box({"x": (0.0, 2 * np.pi), "t": (0.0, end)}),
        [pde.Initial("u", lambda p: MEAN + jnp.sin(p.x)), pde.Periodic("u", "x")],
        characteristics=nn.MLP(3, 1, width=width, depth=2, key=one),
        state=nn.MLP(3, 1, width=width, depth=2, key=two),
        entropy=entropy,
    )
    return pinn.fit(model, [pinn.Stage(GaussNewton(rtol=1e-14), steps)], key=draw, points=points)


def main(smoke: bool = False, out: Path = Path("out/moving_shock")) -> dict:
    jax.config.update("jax_enable_x64", True)
    steps, points, width = (30, 200, 6) if smoke else (150, 1500, 16)
    viscous = solve(0.01, 1.0, steps, points, width)
    ideal = solve(None, 2.0, steps // 2, points // 3, width // 2, entropy=True)

    x = np.linspace(0, 2 * np.pi, 513)
    figure, axes = plt.subplots(1, 3, figsize=(14, 4), layout="constrained")
    metrics = {}
    for ax, name, found, source, times in (
        (axes[0], "ν = 0.01", viscous, reference.moving_burgers(0.01, MEAN), (0.0, 0.5, 1.0)),
        (axes[1], "ν = 0", ideal, reference.inviscid_burgers(MEAN), (0.0, 1.0, 2.0)),
    ):
        gaps = []
        for t in times:
            # Seen by one who moves with the mean.
            points = np.stack([x + MEAN * t, np.full_like(x, t)], axis=1)
            u = np.asarray(jax.jit(jax.vmap(found.model))(jnp.asarray(points)))[:, 0]
            gaps.append(float(np.mean(np.abs(u - source(points)[:, 0]))))
            ax.plot(x, u - MEAN, label=f"t = {t:g}")
        metrics[name] = {"mean error": max(gaps), "seconds": found.seconds}
        ax.set(title=f"{name}: mean error {max(gaps):.1e}", xlabel="x − 10 t", ylabel="u − 10")
        ax.legend()
    at = lambda t: ideal.model.shock(t, np.pi + MEAN * t - 0.5, np.pi + MEAN * t + 0.4)
    place, speed = eqx.filter_jit(jax.value_and_grad(at))(jnp.array(1.8))
    metrics["shock"] = {"position error": abs(float(place) - np.pi - 1.8 * MEAN), "speed": float(speed)}
    labels = jnp.linspace(0, 2 * np.pi, 41)
    t = jnp.linspace(0, 1, 41)
    path = jax.vmap(jax.vmap(lambda s, t: viscous.model.flow(s[None], t)[0][0], (None, 0)), (0, None))
    axes[2].plot((path(labels, t) - MEAN * t).T, np.asarray(t), "k", lw=0.6)
    axes[2].set(title="characteristics, ν = 0.01", xlabel="X − 10 t", ylabel="t")
    print(json.dumps(metrics, indent=2, ensure_ascii=False))

    out.mkdir(parents=True, exist_ok=True)
    (out / "metrics.json").write_text(json.dumps(metrics, indent=2))
    figure.savefig(out / "moving_shock.png", dpi=120)
    return metrics


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="few steps, small networks")
    parser.add_argument("--out", type=Path, default=Path("out/moving_shock"))
    options = parser.parse_args()
    main(options.smoke, options.out)
    sys.exit(0)
