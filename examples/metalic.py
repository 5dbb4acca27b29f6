"""Which conditions should join two networks? A bandit learns it from problems that it has solved (METALIC).

    −Δu = f on the unit square,   u = 0 on its boundary,   f a plateau with slopes of the width 1/s

One network below y = ½ and one above, joined by a subset of nine conditions. For each s a bandit picks one of
the 512 subsets, the networks are trained for a few steps of Gauss–Newton, and −log₁₀ of their error is its
reward: one compiled program, for three bandits at once. Then they are asked for values of s not seen before.

`python examples/metalic.py` writes a picture and metrics.json to out/metalic (a few minutes).
"""

import argparse
import itertools
import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from jax.scipy.special import erf

from jaxsci import nn, pde, pinn
from jaxsci.pinn import Interface
from jaxsci.solvers import GaussNewton

matplotlib.use("Agg")
import matplotlib.pyplot as plt

ARMS = np.array([*itertools.product((0.0, 1.0), repeat=len(Interface))])
AXIS = np.linspace(0, 1, 31)
BOX = pde.Box({"x": (0.0, 1.0), "y": (0.0, 1.0)})


def plateau(x, s):
    return (erf(s * (x - 0.25)) - erf(s * (x - 0.75))) / (2 * erf(0.25 * s))


def exact(s):
    """By 100 sines along each axis."""
    modes = jnp.pi * jnp.arange(1, 101)
    nodes, weights = np.polynomial.legendre.leggauss(400)
    x = jnp.asarray((nodes + 1) / 2)
    c = (jnp.sin(modes[:, None] * x) * plateau(x, s)) @ weights
    sines = jnp.sin(AXIS[:, None] * modes)
    return sines @ (c[:, None] * c / (modes[:, None] ** 2 + modes**2)) @ sines.T


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="a few plays of small networks")
    parser.add_argument("--out", type=Path, default=Path("out/metalic"))
    options = parser.parse_args(argv)
    jax.config.update("jax_enable_x64", True)
    width, depth, n, steps = (2, 1, 20, 3) if options.smoke else (8, 2, 120, 30)
    count, bandits, held = (2, 2, 2) if options.smoke else (40, 3, 5)
    fixed, keys = jax.random.key(0), jax.random.split(jax.random.key(1))
    sides = [pde.Dirichlet("u", end(name)) for name in "xy" for end in (pde.low, pde.high)]
    grid = np.stack(np.meshgrid(AXIS, AXIS, indexing="ij"), -1)

    @jax.jit
    @jax.vmap
    def solve(s, selection, key):
        """u − exact on the grid, and its relative size."""
        equation = pde.Poisson(lambda p: plateau(p.x, s) * plateau(p.y, s))
        make = lambda key: nn.MLP(2, 1, width=width, depth=depth, key=key)
        model = pinn.MultiDomainPINN(equation, BOX, sides, make, {"y": (0.5,)}, selection=selection, key=key)
        method, u = GaussNewton(acceleration=0.0), exact(s)
        trained, _ = pinn.minimize(model, method, steps, key=fixed, points=n, boundary_points=n // 4)
        gap = jax.vmap(jax.vmap(trained))(grid)[..., 0] - u
        return gap, jnp.linalg.norm(gap) / jnp.linalg.norm(u)

    bandit = pinn.ContextualBandit(ARMS, capacity=count, blocks=(1,) * 9)  # each flag its own rate
    choose, update = jax.jit(jax.vmap(bandit.choose)), jax.jit(jax.vmap(bandit.update))
    plays = jax.tree.map(lambda x: jnp.stack([x] * bandits), bandit.init())
    history = []
    for step in range(count):
        where, choice, seed = jax.random.split(jax.random.fold_in(keys[0], step), 3)
        s = jax.random.uniform(where, (bandits,), minval=1.0, maxval=10.0)
        arms = choose(plays, jax.random.split(choice, bandits), s)
        _, errors = solve(s, ARMS[np.asarray(arms)], jax.random.split(seed, bandits))
        plays = update(plays, s, arms, -jnp.log10(jnp.minimum(errors, 100.0)))
        history.append(np.asarray(errors))

    new = jnp.linspace(1.5, 9.5, held)
    learned = np.asarray(jax.jit(jax.vmap(jax.vmap(bandit.best, (None, 0)), (0, None)))(plays, new))
    sets = {c.name: np.tile(Interface.select(c), (held, bandits, 1)) for c in Interface}
    sets |= {"all nine": np.ones((held, bandits, 9)), "learned": ARMS[learned.T]}
    seeds, table, gaps = jax.random.split(keys[1], bandits), {}, {}
    for name, picked in sets.items():
        found = [solve(jnp.full(bandits, s), one, seeds) for s, one in zip(new, picked, strict=True)]
        gaps[name], table[name] = found[-1][0][0], np.array([errors for _, errors in found])
    means = {name: float(np.exp(np.log(errors).mean())) for name, errors in table.items()}
    alone = min((c.name for c in Interface), key=means.__getitem__)
    chosen = [c.name for c, on in zip(Interface, ARMS[learned[0, -1]], strict=True) if on]
    metrics = {"errors": means, "best alone": alone, "chosen for the largest s": chosen}
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "metrics.json").write_text(json.dumps(metrics, indent=2))
    print(json.dumps(metrics, indent=2))

    figure, (left, middle, *maps) = plt.subplots(1, 4, figsize=(17, 4), layout="constrained")
    left.semilogy(history, ".", color="C0", alpha=0.4)
    left.semilogy(np.exp(np.log(history).mean(1)), color="C1", label="mean of three bandits")
    left.set(xlabel="play", ylabel="relative error", title="while it learns")
    left.legend()
    for name, errors in table.items():
        color = {"learned": "C1", "all nine": "C0"}.get(name, "0.7")
        middle.semilogy(new, np.exp(np.log(errors).mean(1)), color=color)
    middle.set(xlabel="s", title="new s: each alone, all nine, learned")
    for axis, name in zip(maps, (alone, "learned"), strict=True):
        image = axis.imshow(np.asarray(gaps[name]).T, origin="lower", extent=(0, 1, 0, 1), cmap="RdBu")
        axis.set(title=f"error, s = {new[-1]:.1f}: {name}", xlabel="x", ylabel="y")
        figure.colorbar(image, ax=axis, shrink=0.8)
    figure.savefig(options.out / "metalic.png", dpi=120)
    return 0


if __name__ == "__main__":
    sys.exit(main())
