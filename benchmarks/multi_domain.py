"""Two scales in one dimension: overlapping windows beside one network, at equal parameters and time.

u′ = Σ ω cos ωx and u″ = −Σ ω² sin ωx, with the solution u = sin ω₁x + sin ω₂x, by Gauss–Newton on the same
points. The windowed networks, one for each period of ω₂, take a number of steps; networks of one, two and
three layers with as many parameters get the seconds of these, and the best of the three counts.
"""

import dataclasses
import math
import statistics
from collections.abc import Iterator

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxsci import _tree, nn, pde, pinn
from jaxsci.solvers import GaussNewton

from ._harness import Better, Row

X64 = True
SEEDS = 3


class First(pde.Equation):
    """u′ = Σ ω cos ωx, divided by the largest ω."""

    frequencies: Float[Array, "2"]
    coordinates = ("x",)
    fields = ("u",)

    def residual(self, d, point):
        w = self.frequencies
        return (d.u_x - jnp.sum(w * jnp.cos(w * point.x))) / w[1]


class Second(pde.Equation):
    """u″ = −Σ ω² sin ωx, divided by the largest ω²."""

    frequencies: Float[Array, "2"]
    coordinates = ("x",)
    fields = ("u",)

    def residual(self, d, point):
        w = self.frequencies
        return (d.u_xx + jnp.sum(w**2 * jnp.sin(w * point.x))) / w[1] ** 2


@dataclasses.dataclass(frozen=True)
class Problem:
    equation: type
    frequency: float  # ω₂; ω₁ = 1
    ends: tuple[float, float]
    boxes: int
    points: int
    steps: int

    def exact(self, x: Array) -> Array:
        return jnp.sin(x) + jnp.sin(self.frequency * x)

    def train(self, network, key, steps, seconds=None) -> pinn.Trained:
        low, high = self.ends
        faces = [pde.low("x")] if self.equation is First else [pde.low("x"), pde.high("x")]
        at = {pde.low("x"): low, pde.high("x"): high}
        conditions = [pde.Dirichlet("u", face, float(self.exact(at[face]))) for face in faces]
        domain, equation = pde.Box({"x": self.ends}), self.equation(jnp.array([1.0, self.frequency]))
        x = jnp.linspace(low, high, 4001)[:, None]
        return pinn.fit(
            pinn.PINN(equation, domain, conditions, network),
            [pinn.Stage(GaussNewton(), steps)],
            key=key,
            points=self.points,
            sampler=pde.Lattice(),
            reference=(x, self.exact(x)),
            seconds=seconds,
            progress=False,
        )


PROBLEMS = {
    "u′, ω = 1 and 30π on (0, 1)": Problem(First, 30 * math.pi, (0.0, 1.0), 15, 1000, 200),
    "u″, ω = 1 and 30π on (0, 1)": Problem(Second, 30 * math.pi, (0.0, 1.0), 15, 1000, 200),
    "u′, ω = 1 and 15 on (−2π, 2π)": Problem(First, 15.0, (-2 * math.pi, 2 * math.pi), 30, 2000, 150),
}
QUICK = {"u′, ω = 1 and 6π on (0, 1)": Problem(First, 6 * math.pi, (0.0, 1.0), 3, 100, 20)}


def parameters(network) -> int:
    return _tree.size(eqx.filter(network, eqx.is_inexact_array))


def one_network(size: int, depth: int, key: Array) -> nn.MLP:
    """The narrowest one with at least so many parameters."""
    made = lambda width: nn.MLP(1, 1, width=width, depth=depth, key=key)
    return next(made(width) for width in range(1, size) if parameters(made(width)) >= size)


def compared(name: str, problem: Problem, quick: bool) -> Iterator[Row]:
    small = lambda key: nn.MLP(1, 1, width=8, depth=1, key=key)
    errors, seconds, size = [], [], 0
    for seed in range(1 if quick else SEEDS):
        key = jax.random.key(seed)
        network = pinn.Windowed(small, (problem.boxes,), key=key)
        size = parameters(network)
        found = problem.train(network, key, problem.steps)
        errors.append(float(found.error))
        seconds.append(found.seconds)
    spent = statistics.median(seconds)
    detail = {"errors": errors, "parameters": size, "steps": problem.steps, "seconds": seconds}
    yield Row(f"{name}: windows, worst error", max(errors), "", None if quick else 1e-4, detail=detail)
    yield Row(f"{name}: windows, median error", statistics.median(errors))
    key, single = jax.random.key(0), {}
    for depth in (2,) if quick else (1, 2, 3):
        network = one_network(size, depth, key)
        found = problem.train(network, key, 100 * problem.steps, spent)
        single[depth] = {
            "error": float(found.error),
            "steps": found.step,
            "seconds": found.seconds,
            "parameters": parameters(network),
        }
    yield Row(
        f"{name}: one network, least error",
        min(one["error"] for one in single.values()),
        "",
        None if quick else 0.1,
        Better.HIGHER,
        detail={"layers": single},
    )
    yield Row(f"{name}: seconds of each", spent, "s")


def run(quick: bool) -> Iterator[Row]:
    for name, problem in (QUICK if quick else PROBLEMS).items():
        yield from compared(name, problem, quick)
