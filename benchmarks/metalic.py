"""METALIC: a contextual bandit that learns which interface conditions a multi-domain PINN should have.

Two parts. Synthetic rewards of 64 sets of flags, quadratic in the flags and linear in the context: the regret
of the bandit over that of random choices. Two families of equations, solved by two networks each: the errors
with the conditions that the bandit has learned, beside those of each condition alone and of known sets, at
parameters and seeds that it has not seen.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import erf
from jaxtyping import Array

from jaxsci import nn, pde, pinn
from jaxsci.pinn import Interface
from jaxsci.solvers import GaussNewton

from ._harness import Row

X64 = True
ACQUISITIONS = {"UCB": pinn.UCB(), "Thompson": pinn.Thompson()}
FLAGS = np.array([*itertools.product((0.0, 1.0), repeat=6)])
ALL = np.array([*itertools.product((0.0, 1.0), repeat=len(Interface))])


# --- synthetic rewards ----------------------------------------------------------------------------


def reward(key: Array, context: Array) -> Array:
    """Of each of the 64 sets: aᵀ(P + s Q)a with normal entries, s in (−1, 1)."""
    matrix = jax.random.normal(key, (2, 6, 6))
    return jnp.einsum("ai,ij,aj->a", FLAGS, matrix[0] + context * matrix[1], FLAGS)


def regrets(acquisition, rounds: int, key: Array) -> tuple[Array, Array]:
    """What each round loses against the best set: of the bandit, and of a random choice."""
    problem, draw = jax.random.split(key)
    bandit = pinn.ContextualBandit(FLAGS, acquisition=acquisition, capacity=rounds)

    def play(plays, key):
        where, choice, noise, other = jax.random.split(key, 4)
        context = jax.random.uniform(where, minval=-1.0)
        rewards = reward(problem, context)
        arm = bandit.choose(plays, choice, context)
        plays = bandit.update(plays, context, arm, rewards[arm] + 0.1 * jax.random.normal(noise))
        return plays, jnp.max(rewards) - rewards[jnp.stack([arm, jax.random.randint(other, (), 0, 64)])]

    lost = jax.lax.scan(play, bandit.init(), jax.random.split(draw, rounds))[1]
    return lost[:, 0], lost[:, 1]


def synthetic(quick: bool) -> Iterator[Row]:
    seeds, rounds = (2, 20) if quick else (10, 120)
    keys = jax.random.split(jax.random.key(0), seeds)
    for name, acquisition in ACQUISITIONS.items():
        run = jax.jit(jax.vmap(lambda key, a=acquisition: regrets(a, rounds, key)))
        bandit, random = map(np.asarray, run(keys))
        total, other = bandit.sum(1), random.sum(1)
        if name == "UCB":
            yield Row("synthetic: regret of random choices", float(other.mean()))
        yield Row(
            f"synthetic: regret of {name}/random",
            float(total.mean() / other.mean()),
            "",
            None if quick else 0.35,
            detail={"regret": total, "random": other, "last quarter": bandit[:, -(rounds // 4) :].mean()},
        )


# --- families of equations ------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Family:
    """An equation with one parameter, two boxes."""

    low: float
    high: float
    cuts: dict[str, tuple[float, ...]]
    problem: Callable[[Array], tuple[pde.AbstractEquation, pde.Box, list]]
    exact: Callable[[Array], tuple[Array, Array]]  # points and u there


def advection(speed):
    """u = sin(x − βt): initial values and inflow; nothing is known at the end."""
    box = pde.Box({"x": (0.0, 2 * np.pi), "t": (0.0, 1.0)})
    conditions = [
        pde.Initial("u", lambda p: jnp.sin(p.x)),
        pde.Dirichlet("u", pde.low("x"), lambda p: -jnp.sin(speed * p.t)),
    ]
    return pde.Convection(speed), box, conditions


def advected(speed):
    x, t = map(jnp.ravel, jnp.meshgrid(jnp.linspace(0, 2 * jnp.pi, 41), jnp.linspace(0, 1, 21)))
    return jnp.stack([x, t], 1), jnp.sin(x - speed * t)


def plateau(x, s):
    """1 in the middle of (0, 1), with slopes of the width 1/s about 1/4 and 3/4."""
    return (erf(s * (x - 0.25)) - erf(s * (x - 0.75))) / (2 * erf(0.25 * s))


def poisson(s):
    """−Δu = f on the unit square, f a plateau of the sharpness s."""
    box = pde.Box({"x": (0.0, 1.0), "y": (0.0, 1.0)})
    sides = [pde.Dirichlet("u", end(name)) for name in "xy" for end in (pde.low, pde.high)]
    return pde.Poisson(lambda p: plateau(p.x, s) * plateau(p.y, s)), box, sides


def sines(s):
    """The solution by 100 sines along each axis; coefficients by Gauss–Legendre."""
    x = jnp.linspace(0.0, 1.0, 31)
    modes = jnp.pi * jnp.arange(1, 101)
    nodes, weights = np.polynomial.legendre.leggauss(400)
    at = jnp.asarray((nodes + 1) / 2)
    c = (jnp.sin(modes[:, None] * at) * plateau(at, s)) @ weights
    table = jnp.sin(x[:, None] * modes)
    u = table @ (c[:, None] * c / (modes[:, None] ** 2 + modes**2)) @ table.T
    points = jnp.stack(jnp.meshgrid(x, x, indexing="ij"), -1).reshape(-1, 2)
    return points, u.ravel()


FAMILIES = {
    "advection": Family(1.0, 5.0, {"t": (0.5,)}, advection, advected),
    "Poisson": Family(1.0, 10.0, {"y": (0.5,)}, poisson, sines),
}
KNOWN = {
    "all nine": tuple(Interface),
    "XPINN": (Interface.AVERAGE, Interface.RESIDUAL_JUMP),
    "cPINN": (Interface.VALUE, Interface.FLUX),
    "default": (Interface.VALUE, Interface.RESIDUAL_JUMP, Interface.FLUX),
}


@dataclasses.dataclass(frozen=True)
class Sizes:
    plays: int
    learners: int  # of each acquisition
    contexts: int  # held out, each with as many seeds:
    seeds: int
    width: int
    points: int
    steps: int


FULL = Sizes(150, 3, 6, 3, 6, 120, 50)
QUICK = Sizes(2, 1, 1, 2, 2, 20, 2)


def trained(family: Family, sizes: Sizes, points: Array, context: Array, selection: Array, key: Array):
    """Two networks after some steps of Gauss–Newton; `points` and `key` are of points and of networks."""
    equation, box, conditions = family.problem(context)
    make = lambda key: nn.MLP(2, 1, width=sizes.width, depth=2, key=key)
    model = pinn.MultiDomainPINN(equation, box, conditions, make, family.cuts, selection=selection, key=key)
    n, method = sizes.points, GaussNewton(acceleration=0.0)
    return pinn.minimize(model, method, sizes.steps, key=points, points=n, boundary_points=n // 4)[0]


def error(family: Family, sizes: Sizes, points: Array, context: Array, selection: Array, key: Array) -> Array:
    """Relative L² error."""
    model = trained(family, sizes, points, context, selection, key)
    grid, u = family.exact(context)
    found = jax.vmap(model)(grid)[:, 0]
    return jnp.linalg.norm(found - u) / jnp.linalg.norm(u)


def families(quick: bool) -> Iterator[Row]:
    sizes = QUICK if quick else FULL
    for name, family in [*FAMILIES.items()][: 1 if quick else None]:
        yield from learned(name, family, sizes, quick)


def learned(name: str, family: Family, sizes: Sizes, quick: bool) -> Iterator[Row]:
    # One program for all sets, parameters and seeds, on as many lanes as there are learners.
    lanes = len(ACQUISITIONS) * sizes.learners
    points = jax.random.key(0)
    errors = jax.jit(jax.vmap(lambda *lane: error(family, sizes, points, *lane)))
    # A length scale for each condition: some of them do not matter.
    options = {"capacity": sizes.plays, "blocks": (1,) * len(Interface)}
    bandits = [pinn.ContextualBandit(ALL, acquisition=a, **options) for a in ACQUISITIONS.values()]
    choose = [jax.jit(jax.vmap(b.choose)) for b in bandits]
    update = [jax.jit(jax.vmap(b.update)) for b in bandits]
    start = lambda b: jax.tree.map(lambda x: jnp.stack([x] * sizes.learners), b.init())
    plays, history = [start(b) for b in bandits], []
    cut = lambda x: x.reshape(len(bandits), sizes.learners, *x.shape[1:])
    for step in range(sizes.plays):
        where, choice, seed = jax.random.split(jax.random.fold_in(jax.random.key(1), step), 3)
        contexts = jax.random.uniform(where, (lanes,), minval=family.low, maxval=family.high)
        keys = cut(jax.random.split(choice, lanes))
        given = cut(contexts)
        arms = [c(p, k, s) for c, p, k, s in zip(choose, plays, keys, given, strict=True)]
        found = errors(contexts, ALL[np.concatenate(arms)], jax.random.split(seed, lanes))
        rewards = -jnp.log10(jnp.minimum(found, 100.0))
        told = zip(update, plays, given, arms, cut(rewards), strict=True)
        plays = [u(p, s, a, r) for u, p, s, a, r in told]
        history.append(np.asarray(rewards))

    # Pairs of parameters and seeds that no play had.
    pairs = [*itertools.product(np.linspace(family.low, family.high, sizes.contexts), range(sizes.seeds))]
    contexts = jnp.array([c for c, _ in pairs])
    seeds = jax.random.split(jax.random.key(2), sizes.seeds)[jnp.array([s for _, s in pairs])]

    def evaluated(selections: Array) -> np.ndarray:
        """Errors of one set for each pair."""
        assert len(pairs) % lanes == 0
        blocks = zip(*(jnp.split(x, len(pairs) // lanes) for x in (contexts, selections, seeds)), strict=True)
        return np.concatenate([np.asarray(errors(*block)) for block in blocks])

    mean = lambda found: float(np.exp(np.mean(np.log(found))))
    same = lambda conditions: jnp.stack([Interface.select(*conditions)] * len(pairs))
    alone = {c.name: evaluated(same([c])) for c in Interface}
    best = min(alone, key=lambda c: mean(alone[c]))
    for condition, found in alone.items():
        yield Row(f"{name}: error, {condition} alone", mean(found), detail={"errors": found})
    for label, conditions in KNOWN.items():
        found = evaluated(same(conditions))
        yield Row(f"{name}: error, {label}", mean(found), detail={"errors": found})
    rewards = cut(np.stack(history, 1))
    for label, bandit, p, r in zip(ACQUISITIONS, bandits, plays, rewards, strict=True):
        pick = jax.jit(jax.vmap(jax.vmap(bandit.best, (None, 0)), (0, None)))
        chosen = ALL[np.asarray(pick(p, contexts))]
        found = np.stack([evaluated(selections) for selections in chosen])
        quarter = max(1, sizes.plays // 4)
        detail = {
            "errors": found,
            "best alone": best,
            "sets": [sorted({_names(s) for s in learner}) for learner in np.asarray(chosen)],
            "rewards, first quarter": r[:, :quarter].mean(),
            "rewards, last quarter": r[:, -quarter:].mean(),
        }
        yield Row(f"{name}: error, learned by {label}", mean(found), detail=detail)
        gap = np.log(found).mean(0) - np.log(alone[best])
        yield Row(
            f"{name}: error, learned by {label}/best alone",
            mean(found) / mean(alone[best]),
            "",
            None if quick else 1.0,
            detail={"standard error of its logarithm": gap.std() / len(gap) ** 0.5},
        )


def _names(selection: np.ndarray) -> str:
    return " ".join(c.name for c, s in zip(Interface, selection, strict=True) if s)


def run(quick: bool) -> Iterator[Row]:
    yield from synthetic(quick)
    yield from families(quick)
