"""Sensitivity of packed soft disks to their diameter: the implicit rule against unrolled FIRE.

128 disks in a periodic square, half of them of diameter 1 and half of diameter θ = 0.6, at 0.9 of its area,
relax from uniformly random positions to a minimum x*(θ) of Σ ½ (1 − r/σ)² over touching pairs; float64. A
figure is dx*/dθ.

The Hessian is singular: nothing holds the packing against a translation, nor a rattler (a disk with fewer
than three contacts that hold themselves) against anything. The forces do not depend on where these are, so
dx*/dθ = −H⁺ ∂(∇E)/∂θ is what the contacts determine, with the mean at rest and the rattlers at rest:
`ImplicitAdjoint(well_posed=False)`. All comparisons are between disks that are held, up to a translation.

FIRE's own derivative is taken by forward mode through its loop, at the first iterate whose largest force is
below each of several bounds; the rule's, at two of these. The reference is the rule at |F| ≤ 1e-12. The
setting (128 disks, two diameters, 40 seeds, FIRE) is that of Blondel et al., arXiv 2105.15183, §4.4, who
find that unrolled derivatives typically diverge; density and stopping rule are ours.
"""

import dataclasses
import pathlib
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

import jaxsci as jsci
from jaxsci import linear

from ._harness import Better, Row, measure

X64 = True
DIAMETER = 0.6
FILLED = 0.9
STEP = 1e-5  # of the differences
BOUNDS = (1e-4, 1e-6, 1e-8, 1e-10, 1e-12)


@dataclasses.dataclass(frozen=True)
class Sizes:
    seeds: int = 40
    checked: int = 8  # against differences
    disks: int = 128
    bounds: tuple[float, ...] = BOUNDS
    max_steps: int = 40_000
    repeats: int = 5


FULL = Sizes()
QUICK = Sizes(seeds=3, checked=1, repeats=1)
TINY = Sizes(seeds=2, checked=1, disks=16, bounds=(1e-6, 1e-8, 1e-10, 1e-12), repeats=1)


def run(quick: bool) -> Iterator[Row]:
    """Every figure; `quick` takes fewer seeds and draws no picture."""
    sizes = QUICK if quick else FULL
    found = study(sizes)
    yield from rows_of(sizes, found)
    if not quick:
        folder = pathlib.Path("out") / "molecules"
        folder.mkdir(parents=True, exist_ok=True)
        picture(folder / "molecules.png", sizes, found)


# --- the packing ------------------------------------------------------------------------------------
# Positions are (2, n). args = (θ, side of the square).


class Pairs(NamedTuple):
    x: Float[Array, "n n"]
    y: Float[Array, "n n"]
    square: Float[Array, "n n"]  # of the distance
    reach: Float[Array, "n n"]  # σ, the mean of two diameters
    touch: Bool[Array, "n n"]


def side_of(disks: int) -> float:
    """The side of the square of which the disks fill a share of `FILLED`."""
    return (disks * np.pi / 8 * (1 + DIAMETER**2) / FILLED) ** 0.5


def pairs_of(x, args) -> Pairs:
    theta, side = args
    n = x.shape[1]
    diameter = jnp.where(jnp.arange(n) % 2 == 0, 1.0, theta)
    reach = 0.5 * (diameter[:, None] + diameter)
    apart = x[:, :, None] - x[:, None, :]
    apart = apart - side * jnp.round(apart / side)
    square = apart[0] ** 2 + apart[1] ** 2
    return Pairs(*apart, square, reach, (square < reach**2) & ~jnp.eye(n, dtype=bool))


def energy(x: Float[Array, "2 n"], args) -> Float[Array, ""]:
    """Σ ½ (1 − r/σ)² over touching pairs."""
    p = pairs_of(x, args)
    r = jnp.sqrt(jnp.where(p.touch, p.square, p.reach**2))
    return 0.25 * jnp.sum((1 - r / p.reach) ** 2)


def forces(x: Float[Array, "2 n"], args) -> Float[Array, "2 n"]:
    """−∇E in closed form, for the many steps of FIRE."""
    p = pairs_of(x, args)
    r = jnp.sqrt(jnp.where(p.touch, p.square, 1.0))
    pull = jnp.where(p.touch, (1 / r - 1 / p.reach) / p.reach, 0.0)
    return jnp.stack([jnp.sum(pull * p.x, 1), jnp.sum(pull * p.y, 1)])


def held(x: Float[Array, "2 n"], args) -> Bool[Array, " n"]:
    """Which disks have three contacts with disks that have three contacts with …"""
    touch = pairs_of(x, args).touch

    def narrower(_, disks):
        return disks & (jnp.sum(touch & disks, axis=1) >= 3)

    return jax.lax.fori_loop(0, x.shape[1], narrower, jnp.ones(x.shape[1], bool))


def determined(v: Float[Array, "2 n"], disks: Bool[Array, " n"]) -> Float[Array, "2 n"]:
    """The part of a motion that contacts determine: of held disks, up to a translation."""
    mean = jnp.sum(jnp.where(disks, v, 0), 1) / jnp.maximum(jnp.sum(disks), 1)
    return jnp.where(disks, v - mean[:, None], 0)


# --- FIRE -------------------------------------------------------------------------------------------


class Fire(NamedTuple):
    x: Float[Array, "2 n"]
    v: Float[Array, "2 n"]
    force: Float[Array, "2 n"]
    dt: Float[Array, ""]
    mix: Float[Array, ""]
    since: Int[Array, ""]  # steps since the motion last went uphill


def fire_step(s: Fire, args) -> Fire:
    """Bitzek et al., Phys. Rev. Lett. 97, 170201, 2006, by semi-implicit Euler."""
    downhill = jnp.vdot(s.force, s.v) > 0
    length = lambda u: jnp.sqrt(jnp.sum(u * u) + 1e-300)
    v = (1 - s.mix) * s.v + s.mix * s.force * length(s.v) / length(s.force)
    since = jnp.where(downhill, s.since + 1, 0)
    trust = since > 5
    dt = jnp.where(trust, jnp.minimum(1.1 * s.dt, 1.0), jnp.where(downhill, s.dt, 0.5 * s.dt))
    mix = jnp.where(downhill, jnp.where(trust, 0.99 * s.mix, s.mix), 0.1)
    v = jnp.where(downhill, v, 0) + dt * s.force
    x = s.x + dt * v
    return Fire(x, v, forces(x, args), dt, mix, since)


def relax(x0, args, bounds: tuple[float, ...], max_steps: int):
    """The first iterates with max|F| below each of the falling `bounds`, and their numbers; NaN, 0 where
    there is none within `max_steps`."""
    limits = jnp.array(bounds)

    def unfinished(carry):
        k, _, _, counts = carry
        return (k < max_steps) & (counts[-1] == 0)

    def advance(carry):
        k, state, kept, counts = carry
        state = fire_step(state, args)
        now = (jnp.max(jnp.abs(state.force)) <= limits) & (counts == 0)
        kept = jnp.where(now[:, None, None], state.x, kept)
        return k + 1, state, kept, jnp.where(now, k + 1, counts)

    start = Fire(x0, jnp.zeros_like(x0), forces(x0, args), jnp.array(0.1), jnp.array(0.1), jnp.array(0))
    kept = jnp.full((len(bounds), *x0.shape), jnp.nan)
    first = (jnp.array(0), start, kept, jnp.zeros(len(bounds), int))
    _, _, kept, counts = jax.lax.while_loop(unfinished, advance, first)
    return kept, counts


# --- sensitivities ----------------------------------------------------------------------------------

PACKING = jsci.Stationary(energy)
RULE = jsci.ImplicitAdjoint(well_posed=False)


def sensitivity(x, side, adjoint=RULE) -> Float[Array, "2 n"]:
    """dx*/dθ by the rule."""
    attached = lambda theta: jsci.attach(PACKING, x, (theta, side), adjoint=adjoint)
    return jax.jvp(attached, (DIAMETER,), (1.0,))[1]


COMPARED = (-4, -1)  # of the bounds: where the rule is evaluated; the last one is the reference


class Study(NamedTuple):
    """All seeds: axes (seed, bound, 2, disk)."""

    side: Float[Array, ""]
    x: Float[Array, "s b 2 n"]
    steps: Int[Array, "s b"]
    unrolled: Float[Array, "s b 2 n"]
    implicit: Float[Array, "s 2 2 n"]  # at COMPARED
    held: Bool[Array, "s n"]

    def determined(self, v: Float[Array, "s b 2 n"]) -> Float[Array, "s b 2 n"]:
        return jax.vmap(jax.vmap(determined, (0, None)))(v, self.held)

    def errors(self, v: Float[Array, "s b 2 n"]) -> Float[Array, "s b"]:
        """Relative to the rule at the last bound."""
        exact = self.determined(self.implicit)[:, -1:]
        return norms(self.determined(v) - exact) / norms(exact)


def norms(v):
    return jnp.sqrt(jnp.sum(v * v, axis=(-2, -1)))


def starts(sizes: Sizes) -> Float[Array, "s 2 n"]:
    """Uniformly random positions in the square."""
    side = side_of(sizes.disks)
    draw = lambda key: side * jax.random.uniform(key, (2, sizes.disks))
    return jax.vmap(draw)(jax.random.split(jax.random.key(0), sizes.seeds))


def study(sizes: Sizes) -> Study:
    """Relaxation, unrolled and implicit derivatives of every seed."""
    side = jnp.array(side_of(sizes.disks))

    def one(x0):
        at = lambda theta: relax(x0, (theta, side), sizes.bounds, sizes.max_steps)
        (x, steps), (unrolled, _) = jax.jvp(at, (DIAMETER,), (1.0,))
        implicit = jax.lax.map(lambda x: sensitivity(x, side), x[jnp.array(COMPARED)])
        return Study(side, x, steps, unrolled, implicit, held(x[-1], (DIAMETER, side)))

    found = jax.jit(lambda many: jax.lax.map(one, many))(starts(sizes))
    return found._replace(side=side)


def differences(x: Float[Array, "s 2 n"], side, sizes: Sizes):
    """(x*(θ + h) − x*(θ − h))/2h from packings that relax again from x, and whether no contact changes."""

    def one(x):
        again = lambda theta: relax(x, (theta, side), sizes.bounds[-1:], sizes.max_steps)[0][0]
        above, below = again(DIAMETER + STEP), again(DIAMETER - STEP)
        contacts = [
            pairs_of(v, (theta, side)).touch
            for v, theta in ((above, DIAMETER + STEP), (below, DIAMETER - STEP))
        ]
        disks = held(x, (DIAMETER, side))
        changed = (contacts[0] != contacts[1]) & disks & disks[:, None]
        return determined((above - below) / (2 * STEP), disks), ~jnp.any(changed)

    return jax.jit(lambda many: jax.lax.map(one, many))(x)


# --- the figures ------------------------------------------------------------------------------------


def rows_of(sizes: Sizes, found: Study) -> Iterator[Row]:
    side, packed = found.side, found.x[:, -1]
    size = norms(found.determined(found.implicit))[:, -1]
    rattlers = jnp.sum(~found.held, axis=1)
    detail = {
        "seeds": sizes.seeds,
        "disks": sizes.disks,
        "steps of FIRE": found.steps,
        "bounds": sizes.bounds,
        "rattlers": rattlers,
        "norms": size,
    }
    finite = jnp.all(jnp.isfinite(found.implicit[:, -1]), axis=(1, 2))
    yield Row("implicit: share of seeds that are finite", float(jnp.mean(finite)), "", 1.0, Better.HIGHER,
              detail)  # fmt: skip
    yield Row("implicit: median norm", float(jnp.median(size)))
    yield Row("implicit: largest norm", float(jnp.max(size)))

    difference, smooth = differences(packed[: sizes.checked], side, sizes)
    exact = found.determined(found.implicit)[: sizes.checked, -1]
    errors = norms(difference - exact) / norms(exact)
    kept = errors[smooth]
    detail = {"h": STEP, "errors": errors, "no contact changes": smooth}
    yield Row("implicit: median error against differences", float(jnp.median(kept)), "", 1e-4, detail=detail)
    yield Row("implicit: largest error against differences", float(jnp.max(kept)), "", 1e-3, detail=detail)

    at = sizes.bounds[COMPARED[0]]
    series = [(f"implicit, |F| <= {at:.0e}", found.implicit[:, 0], 0.05, Better.LOWER)]
    for i, bound in enumerate(sizes.bounds):
        # "Typically diverge": more than half.
        target = 0.5 if bound == at else None
        series.append((f"unrolled, |F| <= {bound:.0e}", found.unrolled[:, i], target, Better.HIGHER))
    for name, v, target, better in series:
        (error,) = found.errors(v[:, None]).T
        detail = {
            "non-finite": jnp.mean(~jnp.isfinite(error)),
            "median error": jnp.median(error),
            "largest error": jnp.max(error),
            "largest norm, rattlers included": jnp.max(norms(v)),
        }
        off = float(jnp.mean(~(error <= 0.1)))
        yield Row(f"{name}: off by > 10 %", off, "", target, better, detail)

    regular = jax.jit(lambda x: sensitivity(x, side, jsci.ImplicitAdjoint()))(packed[0])
    loud = float(jnp.all(jnp.isnan(regular)))
    yield Row("rule for regular systems: refused (NaN)", loud, "", 1.0, Better.HIGHER)
    # Consistent and positive semidefinite: conjugate gradients from 0 never leave the range of H.
    free = jsci.ImplicitAdjoint(linear.CG())
    matrix_free = jax.jit(lambda x: jax.lax.map(lambda x: sensitivity(x, side, free), x))(packed)
    (gap,) = found.errors(matrix_free[:, None]).T
    accepted = jnp.isfinite(gap)
    detail = {"errors": gap, "rattlers": rattlers}
    yield Row("conjugate gradients: refused (NaN)", float(jnp.mean(~accepted)))
    yield Row("conjugate gradients: largest error of the others", float(jnp.max(gap[accepted])), "", 1e-6,
              detail=detail)  # fmt: skip

    x0, x = starts(sizes)[0], packed[0]
    limits = sizes.bounds[-1:]
    once = lambda x0, theta: relax(x0, (theta, side), limits, sizes.max_steps)[0]
    times = {
        "FIRE alone": measure(once, x0, jnp.array(DIAMETER), repeats=sizes.repeats),
        "FIRE unrolled": measure(
            lambda x0, theta: jax.jvp(lambda t: once(x0, t), (theta,), (jnp.ones_like(theta),)),
            x0, jnp.array(DIAMETER), repeats=sizes.repeats,
        ),
        "rule by pseudo-inverse": measure(lambda x: sensitivity(x, side), x, repeats=sizes.repeats),
        "rule by conjugate gradients": measure(
            lambda x: sensitivity(x, side, free), x, repeats=sizes.repeats
        ),
    }  # fmt: skip
    for name, timing in times.items():
        yield Row(f"time of one seed: {name}", timing.wall_s, "s", detail=timing.as_detail())


# --- the picture ------------------------------------------------------------------------------------


def picture(path: pathlib.Path, sizes: Sizes, found: Study) -> None:
    """A packing with its sensitivity, and the errors of all seeds."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from PIL import Image

    rattlers = np.asarray(jnp.sum(~found.held, axis=1))
    size = np.asarray(norms(found.determined(found.implicit))[:, -1])
    # Of the packings with a rattler, if there are any, the one of most ordinary sensitivity.
    chosen = np.flatnonzero(rattlers > 0) if rattlers.any() else np.arange(sizes.seeds)
    seed = chosen[np.argmin(np.abs(np.log(size[chosen] / np.median(size))))]
    side = float(found.side)
    x = np.asarray(found.x[seed, -1]) % side
    v = np.asarray(found.implicit[seed, -1])
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.4, 4.0), dpi=100, layout="constrained")
    for i in range(sizes.disks):
        color = "#9ecae1" if i % 2 else "#e8e8e8"
        alive = bool(found.held[seed, i])
        radius = 0.5 * (DIAMETER if i % 2 else 1.0)
        for dx in (-side, 0, side):
            for dy in (-side, 0, side):
                if -radius < x[0, i] + dx < side + radius and -radius < x[1, i] + dy < side + radius:
                    left.add_patch(plt.Circle(
                        (x[0, i] + dx, x[1, i] + dy), radius, facecolor=color if alive else "white",
                        edgecolor="gray" if alive else "red", linewidth=0.5 if alive else 1.2,
                    ))  # fmt: skip
    left.quiver(x[0], x[1], v[0], v[1], color="black", width=0.004, scale_units="xy", angles="xy")
    left.set(xlim=(0, side), ylim=(0, side), aspect="equal", xticks=[], yticks=[])
    left.set_title("dx*/dθ, θ the diameter of the blue disks", fontsize=9)
    bounds = np.array(sizes.bounds)
    for name, at, errors, color in (
        ("unrolled", bounds, found.errors(found.unrolled), "C3"),
        ("implicit", bounds[COMPARED[0], None], found.errors(found.implicit[:, :1]), "C0"),
    ):
        spread = np.linspace(0.75, 1.3, sizes.seeds)[:, None]
        right.loglog(at * spread, errors, ".", color=color, markersize=3)
        right.loglog(at, np.median(errors, 0), "-_", color=color, label=f"{name}; line: median")
    right.axhline(0.1, color="gray", linewidth=0.8, linestyle="--")
    right.invert_xaxis()
    right.set(xlabel="largest force when FIRE stops", ylabel="relative error of dx*/dθ")
    right.legend(fontsize=8)
    # Few colors: a third of the bytes.
    figure.canvas.draw()
    image = Image.fromarray(np.asarray(figure.canvas.buffer_rgba())).convert("RGB")
    image.quantize(48, dither=Image.Dither.NONE).save(path, optimize=True)
    plt.close(figure)
