"""Lagrangian networks: fast convection, fronts, shocks, flows in the plane, beside Eulerian ones.

Relative L² errors on uniform grids of space and time, median of three seeds, float64. "PINN" is an Eulerian
network with as many parameters, the same optimiser, steps and points (one seed); "published form" is the
same Lagrangian network with the diffusion ∂²U/∂ξ² of the published code in place of the one in space
(one seed). Errors of the moving shock are relative to u − C. The published paper gives no numbers.
`--case NAME` runs one part.
"""

import pathlib
import statistics
from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from jaxsci import nn, pde, pinn, train
from jaxsci.pde import reference
from jaxsci.solvers import GaussNewton

from ._chromatograph import column
from ._harness import Better, Row
from ._landscape import draw, loss_of, sharpest, surface

X64 = True
OUT = pathlib.Path("out/lpinn")
SEEDS = 3
CIRCLE = (0.0, 2 * np.pi)
AROUND = pde.Periodic("u", "x")
SINE = pde.Initial("u", lambda p: jnp.sin(p.x))


def _line(end: float = 1.0, space: tuple[float, float] = CIRCLE) -> pde.Box:
    return pde.Box({"x": space, "t": (0.0, end)})


def _grid(domain: pde.Box, counts: tuple[int, ...]) -> np.ndarray:
    """A uniform grid, without the copy of a seam."""
    axes = [np.linspace(a, b, n) for (a, b), n in zip(domain.bounds.tolist(), counts, strict=True)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(axes))


def _mlp(size: int, out: int, width: int, key, depth: int = 2) -> nn.MLP:
    return nn.MLP(size, out, width=width, depth=depth, key=key)


def _lagrangian(
    equation, domain, conditions, width: int = 10, form: type = pinn.LPINN, **options
) -> Callable:
    """key ↦ model with two networks of two layers."""
    n = len(domain.coordinates) - 1
    features = 1 + n + sum(isinstance(c, pde.Periodic) for c in conditions)

    def make(key):
        one, two = jax.random.split(key)
        characteristics, state = _mlp(features, n, width, one), _mlp(features, 1, width, two)
        return form(equation, domain, conditions, characteristics, state, **options)

    return make


def _eulerian(equation, domain, conditions, width: int, wrap: Callable = lambda network: network) -> Callable:
    return lambda key: pinn.PINN(equation, domain, conditions, wrap(_mlp(3, 1, width, key)))


class PublishedForm(pinn.LPINN):
    """U_t = g ∂²U/∂ξ²: the published code's diffusion, in the label."""

    def residual(self, point):
        whole = super().residual(point)
        state = lambda p: self.flow(p[:-1], p[-1])[1]
        e, t = jnp.eye(2, dtype=point.dtype)
        slope = lambda p: jax.jvp(state, (p,), (e,))[1]
        second = jax.jvp(slope, (point,), (e,))[1]
        rate = jax.jvp(state, (point,), (t,))[1]
        return jnp.concatenate([whole[:1], rate - self.equation.viscosity * second])


def _error(
    model: Callable, points: np.ndarray, exact: np.ndarray, order: int = 2, mean: float = 0.0
) -> float:
    """Relative to u − mean. NaN in the model (no label is known) is NaN here."""
    values = eqx.filter_jit(lambda m, p: jax.lax.map(m, p, batch_size=4096))(model, jnp.asarray(points))
    gap = np.asarray(values)[:, 0] - exact[:, 0]
    return float(np.linalg.norm(gap, order) / np.linalg.norm(exact[:, 0] - mean, order))


def _fit(make: Callable, seed: int, quick: bool, steps: int, points: int, stages: Any = None, **stage: Any):
    first, second = jax.random.split(jax.random.key(seed))
    if stages is None:
        stages = [pinn.Stage(GaussNewton(rtol=1e-14), 10 if quick else steps, **stage)]
    return pinn.fit(make(first), stages, key=second, points=100 if quick else points, progress=False)


def _judge(
    name: str,
    make: Callable,
    grid: np.ndarray,
    source: reference.Reference,
    quick: bool,
    *,
    target: float | None,
    seconds: float | None,
    seeds: int = SEEDS,
    order: int = 2,
    mean: float = 0.0,
    **options: Any,
) -> Iterator[Row]:
    """Errors and seconds of one kind of model on one problem."""
    grid = grid[:: max(1, len(grid) // 200)] if quick else grid
    exact = source(grid)
    runs = [_fit(make, seed, quick, **options) for seed in range(1 if quick else seeds)]
    errors = [_error(run.model, grid, exact, order, mean) for run in runs]
    detail = {
        "errors": errors,
        "seconds": [run.seconds for run in runs],
        "compile seconds": [run.compile_seconds for run in runs],
        "loss": [run.loss for run in runs],
        "error of the reference": source.error,
    }
    target, seconds = (None, None) if quick else (target, seconds)
    yield Row(f"{name}: error", statistics.median(errors), "", target, detail=detail)
    yield Row(f"{name}: seconds", statistics.median(detail["seconds"]), "s", seconds)


def convection(quick: bool, diffusivity: float | None = None) -> Iterator[Row]:
    """u_t + c u_x = ν u_xx from sin x."""
    kind = "convection" if diffusivity is None else "convection–diffusion"
    speeds = (1.0, 10.0, 30.0, 50.0, 100.0) if diffusivity is None else (0.0, 10.0, 30.0, 50.0, 70.0)
    domain, options = _line(), {"steps": 250, "points": 500}
    grid, found = _grid(domain, (256, 101)), []
    for c in speeds[2:3] if quick else speeds:
        problem = (pde.Convection(c, diffusivity), domain, [SINE, AROUND])
        source = reference.convection_diffusion(c, diffusivity or 0.0)
        made = _lagrangian(*problem)
        for row in _judge(f"{kind} {c:g}", made, grid, source, quick, target=1e-8, seconds=30, **options):
            yield row
            found += [row.figure] if row.name.endswith("error") else []
        rival = _eulerian(*problem, width=15)
        yield from _judge(
            f"{kind} {c:g}, PINN", rival, grid, source, quick, target=None, seconds=None, seeds=1, **options
        )
    if not quick:
        yield Row(f"{kind}: largest error over smallest", max(found) / min(found), "", 3.0)


def burgers(quick: bool) -> Iterator[Row]:
    """u_t + u u_x = 0.01 u_xx from C + sin x."""
    domain, found = _line(), []
    grid, options = _grid(domain, (256, 101)), {"steps": 150, "points": 1500}
    for mean in (10.0,) if quick else (0.0, 10.0, 50.0):
        start = pde.Initial("u", lambda p, mean=mean: mean + jnp.sin(p.x))
        problem = (pde.Burgers(0.01), domain, [start, AROUND])
        whole = reference.moving_burgers(0.01, mean)
        options = options | {"mean": mean}
        ours, name = _lagrangian(*problem, width=16), f"moving shock {mean:g}"
        for row in _judge(name, ours, grid, whole, quick, target=1e-4, seconds=180, **options):
            yield row
            found += [row.figure] if row.name.endswith("error") else []
        rivals = {
            "PINN": _eulerian(*problem, width=24),
            "published form": _lagrangian(*problem, width=16, form=PublishedForm),
        }
        for rival, make in rivals.items():
            for row in _judge(
                f"{name}, {rival}", make, grid, whole, quick, target=None, seconds=None, seeds=1, **options
            ):
                yield row
                if rival == "published form" and row.name.endswith("error") and not quick:
                    yield Row(
                        f"{name}: error of the published form over ours",
                        row.figure / found[-1], "", 10.0, Better.HIGHER,
                    )  # fmt: skip
    if not quick:
        yield Row("moving shock: largest error over smallest", max(found) / min(found), "", 3.0)


def inviscid(quick: bool) -> Iterator[Row]:
    """u_t + u u_x = 0 from ½ + sin x: a shock from t = 1."""
    start = pde.Initial("u", lambda p: 0.5 + jnp.sin(p.x))
    options = {"steps": 100, "points": 500, "seconds": 60}
    for end, target in ((0.9, 1e-6), (2.0, 2e-3)):
        domain = _line(end)
        make = _lagrangian(pde.Burgers(None), domain, [start, AROUND], entropy=end > 1)
        source, grid = reference.inviscid_burgers(0.5, end=end), _grid(domain, (256, 61))
        order = 1 if end > 1 else 2
        name = f"inviscid Burgers to {end:g}" + (" (L¹)" if end > 1 else "")
        yield from _judge(name, make, grid, source, quick, target=target, order=order, **options)
    model = _fit(make, 0, quick, 100, 500).model
    at = eqx.filter_jit(lambda m, t: m.shock(t, np.pi + 0.5 * t - 0.5, np.pi + 0.5 * t + 0.4))
    gaps = [abs(float(at(model, jnp.array(t))) - np.pi - 0.5 * t) for t in (1.2, 1.6, 2.0)]
    yield Row("inviscid Burgers: position of the shock", max(gaps), "", None if quick else 1e-3)


PLANE = {"target": 1e-6, "seconds": 180, "resample": pde.RAD(), "every": 25}


def rotation(quick: bool) -> Iterator[Row]:
    """A pulse on a plane that turns as a whole, with diffusivity 1e-3."""
    domain = pde.Box({"x": (-1.0, 1.0), "y": (-1.0, 1.0), "t": (0.0, 1.0)})
    pulse = pde.Initial("u", lambda p: jnp.exp(-((p.x - 0.4) ** 2 + p.y**2) / (2 * 0.3**2)))
    labels = pde.Box({"x": (-1.5, 1.5), "y": (-1.5, 1.5), "t": (0.0, 1.0)})
    turning = pde.Advection(lambda p: (-p.y, p.x), 1e-3)
    waves = nn.RandomFourier(3, 24, 1.5, key=jax.random.key(1))

    def make(key):
        one, two = jax.random.split(key)
        state = nn.Embedded(waves, _mlp(48, 1, 14, two, depth=1))
        return pinn.LPINN(turning, domain, [pulse], _mlp(3, 2, 12, one), state, labels=labels, order=2)

    source = reference.rotating_pulse(1e-3, width=0.3, center=(0.4, 0.0))
    grid = _grid(domain, (41, 41, 7))
    yield from _judge("rotation", make, grid, source, quick, steps=500, points=1200, **PLANE)


def vortices(quick: bool) -> Iterator[Row]:
    """Cellular vortices that draw out a wave, with diffusivity 1e-3."""
    domain = pde.Box({"x": CIRCLE, "y": CIRCLE, "t": (0.0, 1.0)})
    cells = pde.Advection(lambda p: (jnp.sin(p.x) * jnp.cos(p.y), -jnp.cos(p.x) * jnp.sin(p.y)), 1e-3)
    wave = pde.Initial("u", lambda p: jnp.cos(p.x) + jnp.sin(p.y))
    make = _lagrangian(cells, domain, [wave, AROUND, pde.Periodic("u", "y")], width=20)
    source, grid = _cellular(48 if quick else 96), _grid(domain, (41, 41, 6))
    yield from _judge("vortices", make, grid, source, quick, steps=250, points=1500, **PLANE)


def _cellular(n: int) -> reference.Reference:
    """The vortices' solution by Fourier modes."""

    def carried(v, f):
        x, y = (jnp.linspace(0, 2 * jnp.pi, m, endpoint=False) for m in f.shape)
        x, y = x[:, None], y[None]
        along, across = (f.values(1j * k * v) for k in f.wavenumbers)
        return -f.modes(jnp.sin(x) * jnp.cos(y) * along - jnp.cos(x) * jnp.sin(y) * across)

    return reference.periodic(
        lambda a, b: -1e-3 * (a**2 + b**2),
        carried,
        lambda x, y: np.cos(x) + np.sin(y),
        reference.Fourier((0.0, 0.0), (2 * np.pi, 2 * np.pi), (n, n)),
        end=1.0,
        steps=400,
        saves=10,
        coordinates=("x", "y", "t"),
    )


class Accelerating(pde.AbstractTransport):
    """u_t + (1 + x/2) u_x = 0."""

    coordinates = ("x", "t")
    fields = ("u",)

    def velocity(self, u, point):
        return (1 + point.x / 2,)


def inflow(quick: bool) -> Iterator[Row]:
    """A front that enters [0, 1] and leaves it, faster and faster: u = f(t − 2 log(1 + x/2))."""
    front = lambda s: jnp.tanh(8 * (s - 0.4))
    age = lambda p: p.t - 2 * jnp.log1p(p.x / 2)
    domain = _line(2.0, (0.0, 1.0))
    conditions = [
        pde.Initial("u", lambda p: front(age(p))),
        pde.Dirichlet("u", pde.low("x"), lambda p: front(age(p))),
    ]
    equation, grid = Accelerating(), _grid(domain, (201, 101))
    exact = np.tanh(8 * (grid[:, 1] - 2 * np.log1p(grid[:, 0] / 2) - 0.4))[:, None]
    make = _lagrangian(equation, domain, conditions)
    runs = [_fit(make, seed, quick, 150, 500) for seed in range(1 if quick else SEEDS)]
    errors = [_error(run.model, grid, exact) for run in runs]
    target = None if quick else 1e-5
    yield Row("inflow: error", statistics.median(errors), "", target, detail={"errors": errors})
    yield Row("inflow: seconds", statistics.median(run.seconds for run in runs), "s")


def chromatograph(quick: bool) -> Iterator[Row]:
    """Toluene in a capillary column, in the frame (ω, η) that moves with the gas."""
    runs = [column(seed, quick) for seed in range(1 if quick else SEEDS)]
    errors = [error for error, *_ in runs]
    detail = {"errors": errors, "error of the reference": runs[0][2]}
    target = None if quick else 1e-4
    yield Row("gas chromatograph: error", statistics.median(errors), "", target, detail=detail)
    yield Row("gas chromatograph: seconds", statistics.median(s for _, s, _ in runs), "s")


def remedies(quick: bool) -> Iterator[Row]:
    """What is done against fast convection in the Eulerian frame, at c = 30; one seed."""
    c, domain = 30.0, _line()
    problem = (pde.Convection(c), domain, [SINE, AROUND])
    grid, steps, points = _grid(domain, (256, 101)), 10 if quick else 250, 100 if quick else 1000
    exact = reference.convection_diffusion(c)(grid)
    stage = lambda n, **more: pinn.Stage(GaussNewton(rtol=1e-14), n, **more)
    key = jax.random.key(0)

    def fit(make, stages):
        return pinn.fit(make(key), stages, key=key, points=points, progress=False)

    plain = _eulerian(*problem, width=15)
    ramp = [stage(steps // 5, equation=pde.Convection(k * c / 5)) for k in (1, 2, 3, 4, 5)]
    moving = _eulerian(*problem, width=15, wrap=lambda n: nn.Embedded(nn.Comoving(c / 2), n))
    edges = tuple(np.linspace(0, 1, 3 if quick else 6).tolist())
    slabs = lambda: pinn.march(
        lambda d, conditions, k: pinn.PINN(problem[0], d, conditions, _mlp(3, 1, 15, k)),
        domain, problem[2], edges, [stage(steps // 5)], key=key, points=points, progress=False,
    )  # fmt: skip
    runs = {
        "none": lambda: fit(plain, [stage(steps)]),
        "curriculum in c": lambda: fit(plain, ramp),
        "causal weights": lambda: fit(plain, [stage(steps, weights=train.Causal((1e-4, 1e-3, 1e-2, 1e-1)))]),
        "slabs of time": slabs,
        "features along characteristics": lambda: fit(moving, [stage(steps)]),
    }
    for name, run in runs.items():
        found = run()
        detail = {"seconds": found.seconds}
        yield Row(f"PINN at c = 30, {name}: error", _error(found.model, grid, exact), detail=detail)


def landscape(quick: bool) -> Iterator[Row]:
    """Sharpness of the loss against c, at the start and after training."""
    pictures = {}
    for c in (30.0,) if quick else (1.0, 10.0, 30.0, 50.0, 100.0):
        problem = (pde.Convection(c), _line(), [SINE, AROUND])
        for name, make in {"LPINN": _lagrangian(*problem), "PINN": _eulerian(*problem, width=15)}.items():
            trained = _fit(make, 0, quick, 100, 500).model
            for when, model in (("at the start", make(jax.random.key(0))), ("trained", trained)):
                loss, flat = loss_of(model, 100 if quick else 1000)
                values, vectors = sharpest(loss, flat, 3)
                detail = {"eigenvalues": values.tolist(), "loss": float(loss(flat))}
                yield Row(f"largest eigenvalue at c = {c:g}, {name} {when}", float(values[0]), detail=detail)
            pictures[name, c] = surface(loss, flat, vectors[:, :2], 5 if quick else 33)
    if not quick:
        draw(pictures, OUT)


def gradients(quick: bool) -> Iterator[Row]:
    """Derivatives of an Eulerian query of a trained model against central differences."""
    make = _lagrangian(pde.Burgers(0.1), _line(), [SINE, AROUND])
    model = _fit(make, 0, quick, 60, 300).model
    chosen, rest = eqx.partition(model, eqx.is_inexact_array)
    flat, unravel = ravel_pytree(chosen)
    query = jax.jit(lambda w, p: eqx.combine(unravel(w), rest)(p)[0])
    p, h = jnp.array([1.3, 0.7]), 1e-5
    v = jax.random.normal(jax.random.key(1), flat.shape)
    by_w, by_p = jax.jit(jax.grad(query, argnums=(0, 1)))(flat, p)
    difference = lambda f: (f(h) - f(-h)) / (2 * h)
    pairs = {
        "x": (by_p[0], difference(lambda s: query(flat, p.at[0].add(s)))),
        "t": (by_p[1], difference(lambda s: query(flat, p.at[1].add(s)))),
        "networks": (by_w @ v, difference(lambda s: query(flat + s * v, p))),
    }
    for name, (a, b) in pairs.items():
        gap = abs(float(a - b)) / abs(float(b))
        yield Row(f"derivative of a query along {name}: relative gap", gap, "", 1e-6)


CASES = {
    "convection": convection,
    "diffusion": lambda quick: convection(quick, 0.01),
    "burgers": burgers,
    "inviscid": inviscid,
    "rotation": rotation,
    "vortices": vortices,
    "inflow": inflow,
    "chromatograph": chromatograph,
    "remedies": remedies,
    "landscape": landscape,
    "gradients": gradients,
}


def run(quick: bool, only: str | None = None) -> Iterator[Row]:
    for name, part in CASES.items():
        if only is None or only == name:
            yield from part(quick)
