"""A gas-chromatograph column: transport with sorption, its exact solution, and a network for it.

Carrier gas and solute along a capillary, cross-section averaged, without diffusion in the gas: with ω the
time that gas takes to a place (1 at the outlet) and η the time since gas that entered at zero passed there,

    C_ω = −R,   S_η = R,   R = k (K C − S),

C the flux of solute, S what is sorbed. No term of transport is left. The peak comes K ω behind the gas, K
its retention. In ζ = η − K ω, with S = K C + W: C_ω + W_ζ = 0, k W + W_ζ + K C_ζ = 0.

The data are those of toluene at 353.15 K in 20 m of capillary: Cabrera-Codony et al., arXiv:2501.00001,
tables 1 and 3. The pulse of 4 s has edges rounded by half a second.
"""

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import erf, i1e

from jaxsci import nn, pde, pinn
from jaxsci.solvers import GaussNewton

RATE = 11.502  # k [1/s], of desorption
PULSE, EDGE = 4.0, 0.5  # [s]


def _retention() -> float:
    """K [s]: capacity ratio times the time of the gas, under a pressure that falls from p₀ to p_L."""
    fall = 1.013e5 / 4.01e5
    gas = 20.0 / 0.41 * 2 * (1 - fall**3) / (3 * (1 - fall**2))
    return 2 * 1e-6 / 9e-5 * 256.73 * gas


RETENTION = _retention()
BOX = {"w": (0.0, 1.0), "z": (-22.0, 26.0)}


def _pulse(eta, erf):
    scaled = 2**0.5 * EDGE
    return 0.5 * (erf(eta / scaled) - erf((eta - PULSE) / scaled))


def exact(w: np.ndarray, z: np.ndarray, nodes: int = 400) -> np.ndarray:
    """C by the inverse Laplace transform for a sharp pulse, convolved with this one:

        C = e^{−a} p(η) + ∫ √(a k/T) I₁(2√(a k T)) e^{−a − k T} p(η − T) dT,   a = k K ω,

    with the scaled Bessel function, so that nothing overflows, and Gauss–Legendre nodes where p ≠ 0.
    """
    eta, a = z + RETENTION * w, (RETENTION * RATE * w)[:, None]
    first, last = np.maximum(0, eta - PULSE - 8 * EDGE), np.maximum(0, eta + 8 * EDGE)
    at, weights = np.polynomial.legendre.leggauss(nodes)
    delay = first[:, None] + (last - first)[:, None] * (at + 1) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        response = np.sqrt(a * RATE / delay) * i1e(2 * np.sqrt(a * RATE * delay))
        response = response * np.exp(-((np.sqrt(RATE * delay) - np.sqrt(a)) ** 2))
    response = np.where(delay > 0, response, 0)
    late = (response * _pulse(eta[:, None] - delay, erf)) @ weights * (last - first) / 2
    return np.exp(-a[:, 0]) * _pulse(eta, erf) + late


class Column(pde.Equation):
    """C_ω + s Q_ζ = 0, s (Q + Q_ζ/k) + (K/k) C_ζ = 0: W = s Q, with a scale s that makes Q about one."""

    coordinates = ("w", "z")
    fields = ("c", "q")
    scale = RETENTION / RATE / 2

    def residual(self, d, point):
        lag = self.scale * (d.q + d.q_z / RATE) + RETENTION / RATE * d.c_z
        return d.c_w + self.scale * d.q_z, lag


def column(seed: int, quick: bool) -> tuple[float, float, float]:
    """The relative L² error of C on a grid, the seconds of steps, the error of the exact solution."""
    conditions = [
        pde.Initial("c", lambda p: _pulse(p.z, jax.scipy.special.erf), time="w"),
        pde.Dirichlet("q", pde.low("z"), 0.0),
    ]
    width, depth, steps, points = (8, 1, 10, 100) if quick else (20, 3, 100, 1500)

    def make(domain, conditions, key):
        network = nn.MLP(2, 2, width=width, depth=depth, key=key)
        return pinn.PINN(Column(), domain, conditions, network)

    stages = [pinn.Stage(GaussNewton(rtol=1e-14), steps, resample=pde.RAD(), every=50)]
    edges = (0.0, 1.0) if quick else (0.0, 0.02, 0.15, 1.0)
    found = pinn.march(
        make, pde.Box(BOX), conditions, edges, stages, key=jax.random.key(seed), points=points,
        progress=False, time="w",
    )  # fmt: skip
    axes = np.linspace(*BOX["w"], 41), np.linspace(*BOX["z"], 301)
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
    c = np.asarray(jax.jit(lambda p: jax.lax.map(found.model, p, batch_size=4096))(jnp.asarray(grid)))[:, 0]
    true, scale = exact(*grid.T), np.linalg.norm(exact(*grid.T))
    own = float(np.linalg.norm(true - exact(*grid.T, nodes=300)) / scale)
    return float(np.linalg.norm(c - true) / scale), found.seconds, own
