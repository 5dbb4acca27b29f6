"""Diffusion–sorption with hard constraints and experts, trained without any solution data.

R(u) uₜ = D uₓₓ on 0 < x < 1, 0 < t ≤ 500 s, from initial values to the whole solution. Four models on the
same data, network and budget. The first three are those of Chalapathi et al., ICLR 2024, with our scaling
of the rows; initial values are rows of theirs beside the equation's.

- soft:    the network's output is u, and all rows are a penalty;
- hard:    the network gives 16 basis functions, and a solve finds their coefficients;
- boxes:   the same with 4 independent experts; each sees the rows of its box, initial and boundary values;
- windows: 4 experts under a partition of unity, one consistent solve, initial values exact (ours).

`--lifted` adds the single hard constraint with exact initial values, which tells what the windows add.

`python examples/diffusion_sorption_experts.py` writes pictures and metrics.json to out/diffusion_sorption.
"""

import os

os.environ.setdefault("NPROC", "8")  # XLA's thread pool; batched LAPACK can dead-lock in a pool of 2

import argparse
import dataclasses
import functools
import sys
from pathlib import Path

import _diffusion_sorption_report as report
import jax
import jax.numpy as jnp
import optax

import jaxsci as jsci
from jaxsci import layers, nn, pde
from jaxsci.pde import datasets

KINDS = ("soft", "hard", "boxes", "windows")
# Trial fields inside a solve undershoot zero, where R has a pole: R is exact above 0.002.
EQUATION = functools.partial(pde.DiffusionSorption, smallest=2e-3, floor=0.5)


@dataclasses.dataclass(frozen=True)
class Setting:
    """Sizes of a run."""

    cells: int = 64
    levels: int = 32
    basis: int = 16
    experts: int = 4
    width: int = 16
    modes: int = 8
    steps: int = 300
    batch: int = 4
    train: int = 256
    held_out: int = 16  # of the training initial values: they choose the best model, without any solution
    test: int = 32
    evaluate_every: int = 50
    rate: float = 3e-3


DEMO = Setting()
FULL = Setting(levels=64, width=32, modes=12, steps=800, train=1024, test=64, evaluate_every=100)
SMOKE = Setting(
    cells=16, levels=8, basis=4, width=4, modes=4, steps=4, train=8, held_out=2, test=2, evaluate_every=2
)


class Problem:
    """The grid, the scheme and the constraints that the models share."""

    def __init__(self, setting: Setting, data: datasets.DataSet):
        self.setting, self.data, self.grid = setting, data, data.grid(order=2)
        typical = EQUATION()
        rows = layers.SpaceTimeInverse(self.grid, typical, typical.conditions(), reference={"u": 0.1})
        self.scheme = layers.Scheme(self.grid, rows, exact_initial=False)
        hard, parts = layers.HardConstraint(self.scheme), {"x": setting.experts}
        lifted = layers.HardConstraint(layers.Scheme(self.grid, rows))
        self.constraints = {
            "hard": hard,
            "boxes": layers.MixtureOfExperts(hard, layers.Boxes(parts)),
            "lifted": lifted,
            "windows": layers.MixtureOfExperts(lifted, layers.Windows(parts)),
        }

    def network(self, kind: str, key) -> nn.FNO:
        """Level, position, initial value, D and k in; the solution or the basis functions out."""
        s = self.setting
        out = {"soft": 1, "windows": s.basis * s.experts}.get(kind, s.basis)
        return nn.FNO(5, out, (s.modes, s.modes), width=s.width, key=key)

    def __call__(self, kind: str, network: nn.FNO, initial, diffusivity, freundlich):
        """The solution for one sample, with its equation."""
        equation = EQUATION(diffusivity, freundlich)
        level = jnp.linspace(-1, 1, self.grid.shape[0])[:, None]
        position = 2 * jnp.asarray(self.data.x) - 1
        spread = jnp.log(diffusivity / 5e-4), jnp.log(freundlich / 3.5e-4)
        channels = jnp.broadcast_arrays(level, position, 10 * initial - 1, *spread)
        basis = network(jnp.stack(channels).astype(network.lift.dtype)).astype(initial.dtype)
        lift = jnp.broadcast_to(initial, self.grid.shape)
        if kind == "soft":
            done = jsci.RESULTS.successful
            found = layers.Constrained(basis[0], jnp.ones(1), jnp.zeros(()), done, jnp.array(0))
        else:
            found = self.constraints[kind](equation, basis, lift, equation.conditions())
        return equation, found

    def size(self, equation, values, initial):
        """The norm of all rows of a field, of initial values too."""
        rows = self.scheme.residual(equation, values, equation.conditions())
        return jnp.sqrt(jnp.sum(rows**2) + jnp.mean((values[0] - initial) ** 2))

    def loss(self, kind: str, network: nn.FNO, batch):
        """Mean over the batch of the norm of all rows of the assembled field: no solution data is used."""

        def one(*sample):
            equation, found = self(kind, network, *sample)
            return self.size(equation, found.values, sample[0]), found

        sizes, found = jax.vmap(one)(*batch)
        done = jnp.broadcast_to(found.converged, found.steps.shape)
        return sizes.mean(), {"solver_steps": found.steps.mean(), "converged": done.mean()}


def train(problem: Problem, kind: str, seed: int, folder: Path, restart: bool) -> dict | None:
    """Train one model and measure it; None if interrupted."""
    s, samples = problem.setting, problem.data.train
    samples = (samples.initial, samples.diffusivity, samples.freundlich)
    held_out = [a[: s.held_out] for a in samples]
    key = jax.random.key(seed)
    schedule = optax.cosine_decay_schedule(s.rate, s.steps, 0.03)
    result = jsci.train.fit(
        problem.network(kind, key),
        lambda network, batch, key: problem.loss(kind, network, batch),
        optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule)),
        tuple(a[s.held_out :] for a in samples),
        steps=s.steps,
        key=key,
        batch_size=s.batch,
        evaluate=lambda network: report.figures(problem, kind, network, held_out),
        evaluate_every=s.evaluate_every,
        best="held_out_loss",
        directory=folder / kind / f"seed_{seed}",
        resume=not restart,
        tag=repr((kind, s)),
    )
    if result.status in (jsci.train.Status.interrupted, jsci.train.Status.terminated):
        return None
    return report.measured(problem, kind, result)


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=1, help="how many seeds; the table has medians")
    parser.add_argument("--full", action="store_true", help="the large setting (about an hour)")
    parser.add_argument("--smoke", action="store_true", help="a few steps on a tiny grid")
    parser.add_argument("--lifted", action="store_true", help="a fifth model, see above")
    parser.add_argument("--rich", action="store_true", help="varying initial fields, D and k")
    parser.add_argument("--restart", action="store_true", help="start over instead of resuming")
    parser.add_argument("--out", type=Path, default=Path("out/diffusion_sorption"))
    options = parser.parse_args(argv)
    jax.config.update("jax_enable_x64", True)
    setting = SMOKE if options.smoke else FULL if options.full else DEMO
    preset = datasets.Rich() if options.rich else datasets.Paper()
    times = pde.graded(500.0, setting.levels)
    sizes = {"train": setting.train, "test": setting.test, "cells": setting.cells}
    data = datasets.diffusion_sorption(preset, times=times, **sizes)
    kinds = (*KINDS[:3], "lifted", KINDS[3]) if options.lifted else KINDS
    problem, runs = Problem(setting, data), {kind: [] for kind in kinds}
    for seed in range(options.seeds):
        for kind in kinds:
            done = train(problem, kind, seed, options.out, options.restart)
            if done is None:
                print("Interrupted: the best models are kept. Run again to resume; --restart starts over.")
                return 130
            runs[kind].append(done)
    report.write(problem, runs, options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
