"""The problems of the benchmark `pinn`: equation, conditions, network, stages, reference, published figures.

Definitions follow the papers that the published figures are from.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxsci import nn, pde, pinn, train
from jaxsci.pde import Box, Dirichlet, Initial, Periodic, high, low, reference
from jaxsci.solvers import GaussNewton


@dataclasses.dataclass(frozen=True)
class Case:
    """One problem.

    - `train`: (key, precision, quick) ↦ what `pinn.fit` or `pinn.march` returns.
    - `reference`: () ↦ a `Reference`; `grid`: () ↦ points (n, d) of the error, none of training.
    - `fields`: the columns that count.
    - `target`: relative L² error; `minutes`: within.
    - `published`: error by what.
    """

    train: Callable[[jax.Array, Any, bool], Any]
    reference: Callable[[], Any]
    grid: Callable[[], np.ndarray]
    target: float
    minutes: float
    published: str
    fields: slice = dataclasses.field(default_factory=lambda: slice(None))


def _grid(bounds: dict[str, tuple[float, float]], counts: tuple[int, ...]) -> np.ndarray:
    axes = [np.linspace(a, b, n) for (a, b), n in zip(bounds.values(), counts, strict=True)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(axes))


def _inside(domain: pde.AbstractDomain, n: int) -> np.ndarray:
    return np.asarray(domain.interior(n, pde.Halton(), jax.random.key(99)), np.float64)


def _gauss_newton(steps: int, dtype: Any, quick: bool, **options: Any) -> list[pinn.Stage]:
    # In float32 the damping cannot fall as far, and neither can the loss.
    options = {"resample": pde.RAD(), "every": 50} | options
    return [pinn.Stage(GaussNewton(), 15 if quick else steps, dtype=dtype, **options)]


def _fit(make: Callable, steps: int, points: int, **options: Any) -> Callable:
    """Gauss–Newton from the start on one network."""

    def train(key, dtype, quick):
        first, second = jax.random.split(key)
        stages = _gauss_newton(steps, dtype, quick, **options)
        return pinn.fit(make(first), stages, key=second, points=300 if quick else points, progress=False)

    return train


def _march(make: Callable, domain, conditions, edges, steps: int, points: int, **options: Any) -> Callable:
    """The same in slabs of time."""

    def train(key, dtype, quick):
        stages = _gauss_newton(steps, dtype, quick, **options)
        cut = (edges[0], edges[-1]) if quick else edges
        n = 300 if quick else points
        return pinn.march(make, domain, conditions, cut, stages, key=key, points=n, progress=False)

    return train


def _mlp(size: int, fields: int, width: int, depth: int, key, activation=jnp.tanh) -> nn.MLP:
    return nn.MLP(size, fields, width=width, depth=depth, activation=activation, key=key)


# --- in one dimension and time --------------------------------------------------------------------------

UNIT_TIME = (0.0, 1.0)


def _burgers(viscosity: float, width: int, depth: int) -> Callable:
    bounds = {"x": (-1.0, 1.0), "t": UNIT_TIME}
    start = Initial("u", lambda p: -jnp.sin(jnp.pi * p.x))
    walls = [Dirichlet("u", low("x")), Dirichlet("u", high("x"))]
    return lambda key: pinn.PINN(
        pde.Burgers(viscosity), Box(bounds), [start, *walls], _mlp(2, 1, width, depth, key)
    )


def _modes(value: Callable, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The cosine and sine coefficients of a function on [0, 1), from 16 times as many samples."""
    n = 16 * count
    found = np.fft.rfft(np.asarray(value(np.arange(n) / n), np.float64)) / n
    found[1:] *= 2
    return found.real[:count], -found.imag[:count]


def _diffused(value: Callable, low: float, length: float, diffusivity: float, count: int, rate: float = 0.0):
    """x, t ↦ the solution of u_t = ν u_xx + ρ u from a periodic function with a kink at the seam."""
    a, b = _modes(lambda s: value(low + length * s), count)
    k = 2 * np.pi * np.arange(count) / length

    def extension(p):
        # Phase by phase in the precision of the point.
        angle = jnp.asarray(k, p.x.dtype) * (p.x - low)
        decay = jnp.exp((rate - jnp.asarray(diffusivity * k**2, p.x.dtype)) * p.t)
        return jnp.sum(
            decay * (jnp.asarray(a, p.x.dtype) * jnp.cos(angle) + jnp.asarray(b, p.x.dtype) * jnp.sin(angle))
        )

    return extension


def _kinked(value: Callable, low: float, length: float, diffusivity: float, count: int) -> Initial:
    """An initial value by its first modes, which go on by diffusion."""
    extension = _diffused(value, low, length, diffusivity, count)
    return Initial(
        "u", lambda p: extension(pde.Point({"x": p.x, "t": jnp.zeros_like(p.x)})), extension=extension
    )


ALLEN_CAHN = Box({"x": (-1.0, 1.0), "t": UNIT_TIME})
ALLEN_CAHN_CONDITIONS = [
    _kinked(lambda x: x**2 * np.cos(np.pi * x), -1.0, 2.0, 1e-4, 200),
    Periodic("u", "x"),
]
KDV_CONDITIONS = [Initial("u", lambda p: jnp.cos(jnp.pi * p.x)), Periodic("u", "x")]
CIRCLE = Box({"x": (0.0, 2 * math.pi), "t": UNIT_TIME})


def _on_circle(equation, width: int, depth: int) -> Callable:
    """A network of (cos x, sin x, t)."""
    return lambda domain, conditions, key: pinn.PINN(
        equation, domain, conditions, _mlp(3, 1, width, depth, key)
    )


def _gauss(x):
    return np.exp(-((x - np.pi) ** 2) / (2 * (np.pi / 4) ** 2))


def _reaction(rate: float, width: int, depth: int) -> Callable:
    """Growth alone, point by point: the kink of the Gaussian stays, and no x-derivative asks for it."""
    start = Initial("u", lambda p: jnp.exp(-((p.x - jnp.pi) ** 2) / (2 * (jnp.pi / 4) ** 2)))
    return lambda key: pinn.PINN(pde.Fisher(rate), CIRCLE, [start], _mlp(2, 1, width, depth, key))


def _reaction_diffusion(rate: float, diffusivity: float, width: int, depth: int) -> Callable:
    start = _kinked(_gauss, 0.0, 2 * np.pi, diffusivity, 64)
    make = _on_circle(pde.Fisher(rate, diffusivity), width, depth)
    return lambda key: make(CIRCLE, [start, Periodic("u", "x")], key)


WAVE = Box({"x": (0.0, 1.0), "t": UNIT_TIME})
WAVE_CONDITIONS = [
    Initial("u", lambda p: jnp.sin(jnp.pi * p.x) + 0.5 * jnp.sin(4 * jnp.pi * p.x)),
    Initial("u", 0.0, rate=True),
    Dirichlet("u", low("x")),
    Dirichlet("u", high("x")),
]


def _wave(domain, conditions, key):
    return pinn.PINN(pde.Wave(2.0), domain, conditions, _mlp(2, 1, 20, 2, key))


# --- Poisson's equation ------------------------------------------------------------------------------------


def _waves(p, waves=(4, 8, 12, 16)):
    return sum(
        2 * (w * jnp.pi) ** 2 * jnp.sin(w * jnp.pi * p.x) * jnp.sin(w * jnp.pi * p.y) for w in waves
    ) / len(waves)


def _four_scales(key):
    square = Box({"x": (0.0, 1.0), "y": (0.0, 1.0)})
    walls = [Dirichlet("u", face(name)) for name in ("x", "y") for face in (low, high)]
    # A sum of products of waves, whose sines begin with frequencies of the scaled box up to some 20.
    network = nn.Separable(2, 1, rank=8, width=20, depth=2, activation=lambda z: jnp.sin(6 * z), key=key)
    return pinn.PINN(pde.Poisson(_waves), square, walls, network)


HOLES = functools.reduce(
    lambda shape, center: shape - pde.Disk(("x", "y"), center, 0.1, part="hole"),
    [(-0.3, -0.3), (-0.3, 0.3), (0.3, -0.3), (0.3, 0.3)],
    Box({"x": (-0.5, 0.5), "y": (-0.5, 0.5)}),
)


def _holes(key):
    outer = [Dirichlet("u", face(name), 1.0) for name in ("x", "y") for face in (low, high)]
    conditions = [*outer, Dirichlet("u", pde.Part("hole"), 0.0)]
    return pinn.PINN(pde.Poisson(lambda p: 0.0), HOLES, [], _mlp(2, 1, 24, 3, key), soft=conditions)


def _coordinates(n: int) -> tuple[str, ...]:
    return tuple(f"x{i}" for i in range(n))


class Poisson5(pde.Equation):
    """−Δu = π² Σ cos πxᵢ in five dimensions."""

    coordinates = _coordinates(5)
    fields = ("u",)

    def residual(self, d, point):
        return -d.u_lap - jnp.pi**2 * sum(jnp.cos(jnp.pi * point[c]) for c in self.coordinates)


class Laplace10(pde.Equation):
    """Δu = 0 in ten dimensions."""

    coordinates = _coordinates(10)
    fields = ("u",)

    def residual(self, d, point):
        return d.u_lap


def _cosines(p):
    return sum(jnp.cos(jnp.pi * p[c]) for c in _coordinates(5))


def _pairs(p):
    return sum(p[f"x{i}"] * p[f"x{i + 1}"] for i in range(0, 10, 2))


def _cube(equation, value, width, depth, n):
    box = Box(dict.fromkeys(_coordinates(n), (0.0, 1.0)))
    walls = [Dirichlet("u", face(c), value) for c in _coordinates(n) for face in (low, high)]
    return lambda key: pinn.PINN(equation, box, [], _mlp(n, 1, width, depth, key), soft=walls)


# --- steady flow -----------------------------------------------------------------------------------------


def _kovasznay_fields():
    rate = 20 - math.sqrt(400 + 4 * math.pi**2)
    e = lambda p: jnp.exp(rate * p.x)
    return {
        "u": lambda p: 1 - e(p) * jnp.cos(2 * jnp.pi * p.y),
        "v": lambda p: rate / (2 * jnp.pi) * e(p) * jnp.sin(2 * jnp.pi * p.y),
        "p": lambda p: (1 - e(p) ** 2) / 2,
    }


def _kovasznay(key):
    box = Box({"x": (-0.5, 1.0), "y": (-0.5, 1.5)})
    exact = _kovasznay_fields()
    walls = [
        Dirichlet(f, face(name), exact[f]) for f in ("u", "v") for name in ("x", "y") for face in (low, high)
    ]
    # Pressure is fixed at one end, where it does not depend on y.
    walls.append(Dirichlet("p", high("x"), exact["p"]))
    return pinn.PINN(pde.NavierStokes(40.0), box, walls, _mlp(2, 3, 24, 3, key))


def _cavity(key):
    box = Box({"x": (0.0, 1.0), "y": (0.0, 1.0)})
    walls = [
        Dirichlet(f, face(name), 0.0)
        for f in ("u", "v")
        for name in ("x", "y")
        for face in (low, high)
        if (f, name, face) != ("u", "y", high)
    ]
    walls.append(Dirichlet("u", high("y"), lambda p: 4 * p.x * (1 - p.x)))
    return pinn.PINN(pde.NavierStokes(100.0), box, walls, _mlp(2, 3, 24, 3, key))


def _cavity_grid() -> np.ndarray:
    middles = (np.arange(64) + 0.5) / 64
    return np.stack(np.meshgrid(middles, middles, indexing="ij"), axis=-1).reshape(-1, 2)


XT = (256, 101)
QUARTERS = (0.0, 0.25, 0.5, 0.75, 1.0)
SQUARE = {"x": (0.0, 1.0), "y": (0.0, 1.0)}

CASES: dict[str, Case] = {
    "Burgers 0.01/π": Case(
        _fit(_burgers(0.01 / math.pi, 24, 3), 450, 4000),
        lambda: reference.burgers(0.01 / math.pi),
        lambda: _grid({"x": (-1, 1), "t": UNIT_TIME}, XT),
        1e-6, 5, "6.7e-4 Raissi; 4.0e-5 PirateNet+SOAP; 8e-9 SSBroyden",
    ),
    "Burgers 0.01": Case(
        _fit(_burgers(0.01, 24, 3), 300, 4000),
        lambda: reference.burgers(0.01),
        lambda: _grid({"x": (-1, 1), "t": UNIT_TIME}, XT),
        1e-8, 3, "3.9e-7 float32, 8e-14 float64 DSGNAR on H100",
    ),
    "Allen–Cahn": Case(
        _march(
            _on_circle(pde.AllenCahn(), 24, 3), ALLEN_CAHN, ALLEN_CAHN_CONDITIONS, QUARTERS, 150, 3000,
        ),
        reference.allen_cahn,
        lambda: _grid({"x": (-1, 1), "t": UNIT_TIME}, XT),
        1e-5, 8, "5.4e-5 jaxpi; 1.9e-6 vRBA+SSBroyden",
    ),
    "KdV": Case(
        _march(
            _on_circle(pde.KortewegDeVries(), 24, 3), ALLEN_CAHN, KDV_CONDITIONS, QUARTERS, 150, 3000,
        ),
        reference.kdv,
        lambda: _grid({"x": (-1, 1), "t": UNIT_TIME}, XT),
        1e-4, 8, "4.3e-4 PirateNet; 2.2e-6 vRBA+SSBroyden",
    ),
    "wave": Case(
        _march(_wave, WAVE, WAVE_CONDITIONS, QUARTERS, 250, 1000, resample=None), reference.wave,
        lambda: _grid({"x": (0, 1), "t": UNIT_TIME}, (100, 100)),
        1e-6, 3, "9.8e-2 PINNacle's best",
    ),
    "Poisson, four scales": Case(
        _fit(_four_scales, 250, 2000, resample=None),
        reference.multiscale_poisson, lambda: _grid(SQUARE, (100, 100)),
        1e-5, 3, "none",
    ),
    "Poisson, four holes": Case(
        _fit(_holes, 150, 2000, weights=train.Fixed({"equation": 1e-4})),
        reference.square_with_holes, lambda: _inside(HOLES, 10000),
        1e-3, 3, "1.2e-2 PINNacle's best",
    ),
    "Poisson 5-D": Case(
        _fit(_cube(Poisson5(), _cosines, 24, 2, 5), 150, 3000), lambda: reference.poisson_cosines(5),
        lambda: _inside(Box(dict.fromkeys(_coordinates(5), (0.0, 1.0))), 20000),
        1e-5, 4, "none",
    ),
    "harmonic 10-D": Case(
        _fit(_cube(Laplace10(), _pairs, 24, 2, 10), 150, 3000), lambda: reference.harmonic_products(10),
        lambda: _inside(Box(dict.fromkeys(_coordinates(10), (0.0, 1.0))), 20000),
        1e-5, 4, "none",
    ),
    "reaction 5": Case(
        _fit(_reaction(5.0, 16, 2), 1500, 1500), lambda: reference.reaction(5.0),
        lambda: _grid({"x": (0, 2 * math.pi), "t": UNIT_TIME}, XT),
        1e-6, 1, "9.9e-3 NNCG",
    ),
    "reaction 10": Case(
        _fit(_reaction(10.0, 16, 2), 1500, 1500), lambda: reference.reaction(10.0),
        lambda: _grid({"x": (0, 2 * math.pi), "t": UNIT_TIME}, XT),
        1e-6, 1, "about 1",
    ),
    "reaction–diffusion": Case(
        _fit(_reaction_diffusion(5.0, 3.0, 16, 2), 300, 2000), lambda: reference.reaction_diffusion(5.0, 3.0),
        lambda: _grid({"x": (0, 2 * math.pi), "t": UNIT_TIME}, XT),
        1e-5, 2, "1.2e-2 to 2.8e-2 slabs",
    ),
    "convection 30": Case(
        _march(
            _on_circle(pde.Convection(30.0), 12, 2), CIRCLE,
            [Initial("u", lambda p: jnp.sin(p.x)), Periodic("u", "x")],
            tuple(i / 5 for i in range(6)), 80, 1500,
        ),
        lambda: reference.convection_diffusion(30.0),
        lambda: _grid({"x": (0, 2 * math.pi), "t": UNIT_TIME}, XT),
        1e-4, 3, "2.0e-2 curriculum",
    ),
    "Kovasznay": Case(
        _fit(_kovasznay, 120, 1500, resample=None), reference.kovasznay,
        lambda: _grid({"x": (-0.5, 1.0), "y": (-0.5, 1.5)}, (100, 100)),
        1e-6, 3, "none",
    ),
    "cavity 100": Case(
        _fit(_cavity, 200, 2000), reference.cavity, _cavity_grid,
        1e-3, 8, "4.7e-2 PINNacle's best", slice(0, 2),
    ),
}  # fmt: skip
