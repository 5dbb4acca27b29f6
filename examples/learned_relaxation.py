"""Heat with a diffusivity that changes in time: ω of each step's solver is learned from its iterations.

    uₜ = κ(t) Δu + f(x, t) on the unit square, u = 0 on its boundary,

by Crank–Nicolson: (1 − ½ Δt κ Δ) u⁺ = (1 + ½ Δt κ Δ) u + Δt f, each step by successive over-relaxation from
the state before it. How many sweeps that takes depends on ω and on κ. `ChebCB` sees log κ before a solve
and the number of sweeps after it, and is compared with fixed values of ω.

`python examples/learned_relaxation.py` writes a picture and metrics.json to out/learned_relaxation.
"""

import argparse
import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import lineax as lx
import matplotlib

from jaxsci.linear import SOR, ChebCB, Choice, Operator, RedBlack

matplotlib.use("Agg")
import matplotlib.pyplot as plt

POSITIVE = frozenset({lx.positive_semidefinite_tag})
STEP = 2e-3


def negative_laplacian(u):
    p, h = jnp.pad(u, 1), 1 / (len(u) + 1)
    return (4 * u - p[:-2, 1:-1] - p[2:, 1:-1] - p[1:-1, :-2] - p[1:-1, 2:]) / h**2


def diffusivity(t):
    """Between 0.01 and 1, with a period of 0.4."""
    return 10 ** (-1 + jnp.sin(5 * jnp.pi * t))


def simulate(n, steps, choose, state, update):
    """u at the end, and of each step the sweeps, ω and log₁₀ κ."""
    x, y = jnp.meshgrid(*2 * (jnp.arange(1, n + 1) / (n + 1),), indexing="ij")

    def advance(carry, inputs):
        u, state = carry
        k, key = inputs
        t = (k + 0.5) * STEP
        half = 0.5 * STEP * diffusivity(t)
        source = jnp.exp(
            -50 * ((x - 0.5 - 0.3 * jnp.cos(9 * t)) ** 2 + (y - 0.5 - 0.3 * jnp.sin(9 * t)) ** 2)
        )
        b = u - half * negative_laplacian(u) + STEP * 10 * source
        operator = Operator(lambda v: v + half * negative_laplacian(v), u, None, POSITIVE)
        choice = choose(state, key, jnp.log10(diffusivity(t)))
        # The correction is solved for, to 1e-8 of the right-hand side b.
        rest = b - operator.mv(u)
        rtol = 1e-8 * jnp.linalg.norm(b) / jnp.linalg.norm(rest)
        solver = SOR(choice.value, RedBlack(), rtol=rtol)
        change, _, sweeps = solver.solve(operator, solver.prepare(operator), rest)
        state = update(state, choice, jnp.maximum(sweeps, 1))
        return (u + change, state), (sweeps, choice.value, choice.context)

    keys = jax.random.split(jax.random.key(0), steps)
    (u, _), out = jax.lax.scan(advance, (jnp.zeros((n, n)), state), (jnp.arange(steps), keys))
    return u, out


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="a few steps on a coarse grid")
    parser.add_argument("--out", type=Path, default=Path("out/learned_relaxation"))
    options = parser.parse_args(argv)
    jax.config.update("jax_enable_x64", True)
    n, steps = (8, 40) if options.smoke else (31, 3000)

    grid = jnp.linspace(1.0, 1.9, 10)
    learner = ChebCB(grid, -2.0, 0.0)
    run = jax.jit(lambda: simulate(n, steps, learner.choose, learner.init(), learner.update))
    u, (sweeps, omega, context) = run()

    @jax.jit
    def fixed(omega):
        always = Choice(jnp.array(0), omega, jnp.ones(()), jnp.zeros(()))
        return simulate(n, steps, lambda *_: always, jnp.zeros(()), lambda state, *_: state)

    totals, plain = {}, None
    for value in grid:
        plain, out = fixed(value)
        totals[f"{value:.1f}"] = int(out[0].sum())
    quarter = steps // 4
    metrics = {
        "sweeps_learned": int(sweeps.sum()),
        "sweeps_learned_last_quarter": int(sweeps[-quarter:].sum()),
        "sweeps_fixed": totals,
        "difference_of_solutions": float(jnp.abs(u - plain).max() / jnp.abs(plain).max()),
    }
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "metrics.json").write_text(json.dumps(metrics, indent=2))
    print(json.dumps(metrics, indent=2))
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(12, 4), layout="constrained")
    image = left.imshow(u.T, origin="lower", extent=(0, 1, 0, 1))
    left.set_title("u at the end")
    figure.colorbar(image, ax=left)
    middle.plot(list(map(float, totals)), list(totals.values()), "o-", label="fixed ω")
    middle.axhline(metrics["sweeps_learned"], color="C1", label="learned")
    middle.set(xlabel="ω", ylabel="sweeps in all", yscale="log")
    middle.legend()
    right.plot(context[steps // 2 :], omega[steps // 2 :], ".", alpha=0.3)
    right.set(xlabel="log₁₀ κ", ylabel="ω, in the second half")
    figure.savefig(options.out / "learned_relaxation.png", dpi=120)
    return 0


if __name__ == "__main__":
    sys.exit(main())
