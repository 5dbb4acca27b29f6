"""Hard constraint on diffusion–sorption, forward and backward: ours against vmapped optimistix.

Both minimize ½‖rows(ω)‖² + ½ ρ ‖ω‖² of the same `StructuredLeastSquares` on the same batch, and take the
gradient of mean u² with respect to the basis. optimistix gets the loosest of three tolerances at which
its gradient norm (median over the solves) is at most ours, or else the first that takes half a minute.
Each gradient is compared with that of our Levenberg–Marquardt at rtol = 1e-11 on the samples for which
both found the same minimum, since the problems have several: `gradient error` is the median over these.
"""

import dataclasses
import itertools
import math
import time
from collections.abc import Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import optimistix as optx
from jaxtyping import Array, Float

import jaxsci as jsci
from jaxsci import layers, nn, pde
from jaxsci.residuals import StructuredLeastSquares

from ._harness import Better, Measurement, Row, measure, measure_host, memory_of

X64 = True
TOLERANCES = (1e-2, 1e-4, 1e-6)


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What is measured."""

    cells: int = 64
    levels: int = 32
    samples: int = 4
    bases: tuple[int, ...] = (16, 64)
    experts: tuple[int, ...] = (1, 8)
    training: tuple[int, int] = (16, 4)  # basis functions and experts of the training steps
    networks: tuple[tuple[str, int, int], ...] = (("demo", 16, 3), ("published", 64, 5))  # name, width, depth
    modes: int = 8
    repeats: int = 5
    max_steps: int = 100
    seconds: float = 30.0  # of timing for each program of the peer, at least one repeat


FULL = Sizes()
QUICK = Sizes(repeats=2)
TINY = Sizes(16, 8, 2, (4,), (1, 2), (4, 2), (("small", 4, 1),), modes=4, repeats=1)


def run(quick: bool) -> Iterator[Row]:
    """Every figure; `quick` repeats less."""
    yield from rows_of(QUICK if quick else FULL)


def rows_of(sizes: Sizes) -> Iterator[Row]:
    """Every figure at the given sizes."""
    scheme, equation, lifts = _problem(sizes)
    for experts in sizes.experts:
        for count in sizes.bases:
            bases = _smooth(scheme.grid.shape, sizes.samples, count)
            yield from _against(sizes, scheme, equation, lifts, bases, experts)
    yield from _shares(sizes, scheme, equation, lifts)


def _problem(sizes: Sizes):
    times = pde.graded(500.0, sizes.levels, 2)
    faces = np.linspace(0, 1, sizes.cells + 1)
    grid = pde.Grid({"t": pde.Levels(times, 2), "x": pde.Cells(faces)})
    equation = pde.DiffusionSorption(smallest=4e-3)
    rows = layers.SpaceTimeInverse(grid, equation, equation.conditions(), reference={"u": 0.1})
    initial = jnp.linspace(0.03, 0.18, sizes.samples)
    lifts = jnp.broadcast_to(initial[:, None, None], (sizes.samples, *grid.shape))
    return layers.Scheme(grid, rows), equation, lifts


def _smooth(shape: tuple[int, int], samples: int, count: int) -> Float[Array, "samples N t x"]:
    """Σᵢⱼ cᵢⱼ cos(iπτ) cos(jπξ), i, j < ⌈√N⌉, with independent normal c: random functions that span the
    smoothest fields, so that a Gauss–Newton method has small residuals to work with."""
    modes = math.ceil(count**0.5)
    coefficients = np.random.default_rng(0).normal(size=(samples, count, modes, modes)) / modes
    along = [np.cos(np.pi * np.outer(np.arange(modes), np.linspace(0, 1, n))) for n in shape]
    return jnp.asarray(np.einsum("snij,it,jx->sntx", coefficients, *along))


class _Ours(eqx.Module):
    """basis ↦ (values, coefficients, result, steps) of one sample by the layer."""

    layer: Any
    equation: pde.AbstractEquation

    def __call__(self, basis, lift):
        found = self.layer(self.equation, basis, lift, self.equation.conditions())
        done = jnp.broadcast_to(found.converged, found.steps.shape)
        return found.values, (jnp.atleast_2d(found.coefficients), done, found.steps)


class _Optimistix(eqx.Module):
    """The same by `optimistix.least_squares`; experts vmapped."""

    scheme: layers.Scheme
    equation: pde.AbstractEquation
    weights: Float[Array, "experts ..."]
    inside: Float[Array, "experts ..."]
    ridge: float
    tolerance: Any
    max_steps: int

    def __call__(self, basis, lift):
        blocks = _blocks(self, basis, lift)

        def one(weight):
            problem = _weighted(blocks, weight, self.ridge)
            found = optx.least_squares(
                lambda y, _: problem(y),
                optx.LevenbergMarquardt(rtol=self.tolerance, atol=self.tolerance),
                problem.start,
                adjoint=optx.ImplicitAdjoint(),
                throw=False,
                max_steps=self.max_steps,
            )
            done = found.result == optx.RESULTS.successful
            return found.value, done, found.stats["num_steps"]

        omega, done, steps = jax.vmap(one)(self.weights)
        fields = jax.vmap(lambda w: self.scheme.combine(w, basis, lift))(omega)
        return jnp.sum(self.inside * fields, axis=0), (omega, done, steps)


class _Times(eqx.Module):
    rows: Any
    weight: Array

    def __call__(self, r):
        return self.weight * self.rows(r)


def _blocks(case, basis, lift):
    return case.scheme.blocks(case.equation, basis, lift, case.equation.conditions())


def _weighted(blocks, weight, ridge) -> StructuredLeastSquares:
    many = [dataclasses.replace(b, rows=_Times(b.rows, weight)) for b in blocks]
    return StructuredLeastSquares(tuple(many), ridge)


def _gradient(one):
    """(bases, lifts) ↦ gradient of Σ over samples of mean u², and what the solver reports."""

    def scalar(bases, lifts):
        values, report = jax.vmap(one)(bases, lifts)
        return jnp.sum(jnp.mean(values**2, axis=(-2, -1))), report

    return jax.grad(scalar, has_aux=True)


def _against(sizes, scheme, equation, lifts, bases, experts) -> Iterator[Row]:
    partition = layers.Boxes({"x": experts}, outside=0.1)
    layer = layers.HardConstraint(scheme)
    weights = jnp.asarray(partition.weights(scheme.grid, equation.conditions()))
    inside = jnp.asarray(partition.indicators(scheme.grid, at_rows=False))
    peer = _Optimistix(scheme, equation, weights, inside, layer.ridge, 1e-6, sizes.max_steps)
    quality = eqx.filter_jit(lambda *a: jax.vmap(lambda *b: _quality(peer, *b))(*a))

    def ours(solver) -> Measurement:
        one = layers.HardConstraint(scheme, solver, max_steps=sizes.max_steps)
        many = one if experts == 1 else layers.MixtureOfExperts(one, partition)
        return measure(_gradient(_Ours(many, equation)), bases, lifts, repeats=sizes.repeats)

    default = ours(layer.solver)
    second = ours(jsci.solvers.LevenbergMarquardt(rtol=1e-6))
    exact = ours(jsci.solvers.LevenbergMarquardt(rtol=1e-11))
    wanted = quality(default.result[1][0], bases, lifts)[1]
    start = time.perf_counter()
    # One program for every tolerance, an input of it.
    graph = lambda tolerance, *a: _gradient(eqx.tree_at(lambda p: p.tolerance, peer, tolerance))(*a)
    program = jax.jit(graph).lower(jnp.asarray(1.0), bases, lifts).compile()
    compile_s = time.perf_counter() - start
    for tolerance in TOLERANCES:
        start = time.perf_counter()
        omega = program(jnp.asarray(tolerance), bases, lifts)[1][0].block_until_ready()
        seconds = time.perf_counter() - start
        if seconds > sizes.seconds or np.median(quality(omega, bases, lifts)[1]) <= np.median(wanted):
            break
    repeats = max(1, min(sizes.repeats, round(sizes.seconds / seconds)))
    timed = measure_host(program, jnp.asarray(tolerance), bases, lifts, repeats=repeats)
    other = dataclasses.replace(timed, compile_s=compile_s, memory=memory_of(program))
    name = f"N={bases.shape[1]}, experts={experts}"
    details = {}
    parts = {"ours": default, "ours_lm": second, "optimistix": other}
    for key, found in parts.items():
        details[key] = _detail(found, exact.result, quality, bases, lifts)
    details["optimistix"]["tolerance"] = tolerance
    ratio = lambda found: other.cpu_s / found.cpu_s
    memory = lambda found: other.memory["temp"] / found.memory["temp"]
    yield Row(f"CPU time, optimistix / ours, {name}", ratio(default), "x", 5, Better.HIGHER, details)
    yield Row(f"temporary memory, optimistix / ours, {name}", memory(default), "x", 3, Better.HIGHER)
    yield Row(f"CPU time, optimistix / our LM, {name}", ratio(second), "x")
    yield Row(f"temporary memory, optimistix / our LM, {name}", memory(second), "x")
    for key, found in parts.items():
        yield Row(f"CPU time, {key}, {name}", found.cpu_s, "s", detail=details[key])
        for quantity in ("converged_share", "same_minimum_share", "gradient_error"):
            yield Row(f"{quantity.replace('_', ' ')}, {key}, {name}", details[key][quantity], "")
    for key, found in parts.items():
        yield Row(f"temporary memory, {key}, {name}", found.memory["temp"] / 2**20, "MiB")


def _quality(peer, omega, basis, lift):
    """Objective, and gradient in the norm of the metric's inverse over √(2 × objective at ω = 0): the
    measure by which our solvers stop. For each expert."""
    blocks = _blocks(peer, basis, lift)

    def one(weight, w):
        problem = _weighted(blocks, weight, peer.ridge)
        factor = jnp.linalg.cholesky(problem.metric(w))
        gradient = jax.scipy.linalg.solve_triangular(factor, problem.optimality(w), lower=True)
        scale = jnp.sqrt(2 * problem.objective(problem.start))
        return problem.objective(w), jnp.linalg.norm(gradient) / scale

    return jax.vmap(one)(peer.weights, omega)


def _detail(found: Measurement, exact, quality, bases, lifts) -> dict[str, Any]:
    gradient, (omega, done, steps) = found.result
    objective, slope = quality(omega, bases, lifts)
    best, _ = quality(exact[1][0], bases, lifts)
    same = np.all(np.abs(objective - best) <= 1e-4 * np.abs(best), axis=1)  # the same minimum
    size = lambda g: np.sqrt(np.sum(np.square(g), axis=(1, 2, 3)))
    error = size(gradient - exact[0]) / size(exact[0])
    return found.as_detail() | {
        "objective_mean": float(objective.mean()),
        "relative_gradient_norm_median": float(np.median(slope)),
        "relative_gradient_norm_max": float(np.max(slope)),
        "converged_share": float(np.mean(done)),
        "steps_mean": float(np.mean(steps)),
        "steps_max": int(np.max(steps)),
        "same_minimum_share": float(same.mean()),
        "gradient_error": float(np.median(error[same])) if same.any() else math.nan,
        "gradient_error_by_sample": error.tolist(),
    }


_SHARE = (
    "CPU time of the constraint's forward and backward alone (basis to field, and its transpose on a "
    "fixed cotangent; batch as in the step) over that of one training step: FNO in float32, constraint "
    "in float64, loss = rms of the rows, gradient, Adam; the network of the demo, or one of the paper's size"
)


def _shares(sizes, scheme, equation, lifts) -> Iterator[Row]:
    count, experts = sizes.training
    hard = layers.HardConstraint(scheme)
    windows = layers.MixtureOfExperts(hard, layers.Windows({"x": experts}))
    level = jnp.linspace(-1, 1, scheme.grid.shape[0])[:, None]
    position = jnp.linspace(-1, 1, sizes.cells)
    channels = [jnp.broadcast_to(c, lifts.shape) for c in (level, position, 10 * lifts - 1)]
    inputs = jnp.stack(channels, axis=1).astype(jnp.float32)
    optimizer = optax.adam(3e-3)
    kinds = (("hard", hard, count), ("windows", windows, count * experts))
    for (name, width, depth), (kind, layer, outputs) in itertools.product(sizes.networks, kinds):
        modes = (min(sizes.modes, sizes.levels), min(sizes.modes, sizes.cells))
        network = nn.FNO(3, outputs, modes, width=width, depth=depth, key=jax.random.key(0))
        ours = _Ours(layer, equation)

        def loss(network, inputs, lifts, ours=ours):
            def one(x, lift):
                values, report = ours(network(x).astype(lift.dtype), lift)
                rows = scheme.residual(equation, values, equation.conditions())
                return jnp.linalg.norm(rows), report

            norms, report = jax.vmap(one)(inputs, lifts)
            return norms.mean(), report

        def step(network, state, inputs, lifts, loss=loss):
            gradient, report = eqx.filter_grad(loss, has_aux=True)(network, inputs, lifts)
            updates, state = optimizer.update(gradient, state)
            return eqx.apply_updates(network, updates), state, report

        def alone(bases, lifts, cotangents, ours=ours):
            values, pull, report = jax.vjp(lambda b: jax.vmap(ours)(b, lifts), bases, has_aux=True)
            return values, pull(cotangents), report

        state = optimizer.init(eqx.filter(network, eqx.is_inexact_array))
        bases = jax.vmap(network)(inputs).astype(lifts.dtype)
        whole = measure(step, network, state, inputs, lifts, repeats=sizes.repeats)
        part = measure(alone, bases, lifts, jnp.ones_like(lifts), repeats=sizes.repeats)
        _, done, steps = part.result[2]
        detail = {
            "definition": _SHARE,
            "step": whole.as_detail(),
            "constraint": part.as_detail(),
            "solver_steps_mean": float(np.mean(steps)),
            "converged_share": float(np.mean(done)),
        }
        what = f"{kind}, {name} network"
        yield Row(f"share of a training step, {what}", part.cpu_s / whole.cpu_s, "", 0.5, detail=detail)
        yield Row(f"CPU time of a training step, {what}", whole.cpu_s, "s")
