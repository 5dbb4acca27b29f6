"""Errors of the references that other cases are judged by.

For each benchmark problem the error that its reference estimates of itself (relative L2, from two
resolutions), beside a target at least ten times below what is asked of those who are judged by it; and
references of one problem by two different methods against each other. Seconds are of making the reference
(compilation included) and, in the details, of its values on a grid.
"""

import math
import time
from collections.abc import Callable, Iterator

import numpy as np

from benchmarks._harness import Row
from jaxsci.pde import reference

X64 = True
TAU = 2 * math.pi

SYMMETRIC = ((-1.0, 0.0), (1.0, 1.0))  # corners of the domain in x and t (or y)
UNIT = ((0.0, 0.0), (1.0, 1.0))
CIRCLE = ((0.0, 0.0), (TAU, 1.0))

# Name, how the reference is made, corners of its domain, target.
Problem = tuple[str, Callable[[], reference.Reference], tuple, float]


def _problems(quick: bool) -> Iterator[Problem]:
    ref = reference
    yield "Burgers, ν = 0.01/π", ref.burgers, SYMMETRIC, 1e-10
    yield "Burgers, ν = 0.01", lambda: ref.burgers(0.01), SYMMETRIC, 1e-11
    for c in (10.0,) if quick else (0.0, 10.0, 50.0):
        yield f"moving Burgers, C = {c:g}", lambda c=c: ref.moving_burgers(0.01, c), CIRCLE, 1e-10
    yield "inviscid Burgers", ref.inviscid_burgers, ((0.0, 0.0), (TAU, 2.0)), 1e-7
    yield "Laplace, four holes", ref.square_with_holes, ((-0.5, -0.5), (0.5, 0.5)), 1e-8
    if quick:
        yield "cavity, Re = 100", lambda: ref.cavity(points=32), UNIT, 1e-4
        small = lambda: ref.reaction_diffusion(5.0, 3.0, points=256, steps=400)
        yield "reaction–diffusion, ν = 3", small, CIRCLE, 1e-6
        return
    yield "cavity, Re = 100", ref.cavity, UNIT, 1e-5
    for nu in (2.0, 3.0, 6.0):
        yield f"reaction–diffusion, ν = {nu:g}", lambda nu=nu: ref.reaction_diffusion(5.0, nu), CIRCLE, 1e-6
    yield "Allen–Cahn", ref.allen_cahn, SYMMETRIC, 1e-6
    yield "Allen–Cahn, smooth", lambda: ref.allen_cahn(smooth=True), SYMMETRIC, 1e-6
    yield "KdV", ref.kdv, SYMMETRIC, 1e-6
    short = lambda: ref.kuramoto_sivashinsky(end=0.4)
    yield "Kuramoto–Sivashinsky, t ≤ 0.4", short, ((0.0, 0.0), (TAU, 0.4)), 1e-6
    yield "Kuramoto–Sivashinsky, t ≤ 1", ref.kuramoto_sivashinsky, CIRCLE, 1e-5


def run(quick: bool) -> Iterator[Row]:
    for name, make, (low, high), target in _problems(quick):
        start = time.perf_counter()
        made = make()
        seconds = time.perf_counter() - start
        shape = (65, 11) if quick else (256, 101)
        grid = _grid(*(np.linspace(a, b, n) for a, b, n in zip(low, high, shape, strict=True)))
        start = time.perf_counter()
        made(grid)
        detail = {
            "errors": dict(zip(made.fields, made.errors, strict=True)),
            "points": len(grid),
            "seconds on the grid": time.perf_counter() - start,
        }
        velocity = {"u", "v"}.intersection(made.fields)
        judged = max(e for f, e in zip(made.fields, made.errors, strict=True) if f in velocity)
        yield Row(f"{name}: error of the reference", judged, "", target, detail=detail)
        if "p" in made.fields:
            yield Row(f"{name}: error of the pressure", made.errors[made.fields.index("p")], "", 10 * target)
        yield Row(f"{name}: time to make it", seconds, "s")
    yield _shock()
    yield _two_methods(quick)
    if not quick:
        yield _finer()


def _shock() -> Row:
    """Of u₀ = ½ + sin x, at x = π + t/2 by symmetry."""
    law = reference.sine_law(0.5)
    off = [
        law.shock(t, math.pi + t / 2 - 0.3, math.pi + t / 2 + 0.4) - math.pi - t / 2 for t in (1.2, 1.5, 2.0)
    ]
    return Row("inviscid Burgers: position of the shock", float(np.max(np.abs(off))), "", 1e-10)


def _two_methods(quick: bool) -> Row:
    """Cole and Hopf's integral and Fourier modes in time steps."""
    viscosity, points = (0.1, 256) if quick else (0.01, 2048)
    steps = 1000 if quick else 4000
    fourier = reference.periodic(
        lambda k: -viscosity * k**2,
        lambda v, f: -0.5j * f.wavenumbers[0] * f.modes(f.values(v) ** 2),
        lambda x: 1.0 + np.sin(x),
        reference.Fourier((0.0,), (TAU,), (points,), 2 / 3),
        end=1.0, steps=steps, saves=10,
    )  # fmt: skip
    grid = _grid(np.linspace(0, TAU, 256), np.linspace(0, 1, 11))
    exact = reference.moving_burgers(viscosity, 1.0)(grid)
    error = np.linalg.norm(fourier(grid) - exact) / np.linalg.norm(exact)
    return Row(
        f"Burgers, ν = {viscosity}: Fourier against Cole–Hopf", float(error), "", 1e-10,
        detail={"points": points, "steps": steps, "its own estimate": fourier.error},
    )  # fmt: skip


def _finer() -> Row:
    """Allen and Cahn's equation against twice the points and steps: the error itself, not an estimate."""
    grid = _grid(np.linspace(-1, 1, 256), np.linspace(0, 1, 101))
    coarse, fine = reference.allen_cahn()(grid), reference.allen_cahn(points=8192, steps=2000)(grid)
    error = np.linalg.norm(coarse - fine) / np.linalg.norm(fine)
    return Row("Allen–Cahn: difference from twice the points", float(error), "", 1e-7)


def _grid(*axes: np.ndarray) -> np.ndarray:
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(axes))
