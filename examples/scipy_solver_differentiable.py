"""A SciPy solver inside a differentiated, compiled program: which mass makes a cable sag, and by how much.

A cable of springs hangs from two pins and carries a mass on each node. Its positions y make the energy

    E(y, θ) = Σ ½ k (ℓᵢ(y) − ℓ)² + Σ mᵢ g yᵢ

stationary; `scipy.optimize.root` finds them. Its code knows nothing of JAX; the derivative of the sag with
respect to the stiffness k, the rest length ℓ and all masses comes from ∇E(y, θ) = 0, in one linear solve,
and is compared with central differences. Then the derivative is used: masses for which the cable takes a
wanted shape, by Newton steps through the same solver.

`python examples/scipy_solver_differentiable.py` writes a picture and metrics.json to out/scipy_solver.
"""

import argparse
import json
import sys
from pathlib import Path

import jax
import jax.flatten_util
import jax.numpy as jnp
import matplotlib

import jaxsci as jsci

matplotlib.use("Agg")
import matplotlib.pyplot as plt

GRAVITY = 9.81  # m/s²
SPAN = 1.0  # m
SCIPY = jsci.solvers.External.scipy_root(method="hybr", tol=1e-12)


def energy(nodes, theta):
    """E in joules; nodes of shape (n, 2) in meters."""
    pins = jnp.array([[0.0, 0.0], [SPAN, 0.0]])
    chain = jnp.concatenate([pins[:1], nodes, pins[1:]])
    lengths = jnp.linalg.norm(jnp.diff(chain, axis=0), axis=1)
    springs = 0.5 * theta["stiffness"] * jnp.sum((lengths - theta["rest"]) ** 2)
    return springs + GRAVITY * jnp.sum(theta["masses"] * nodes[:, 1])


def cable(theta):
    """The nodes at rest, as SciPy finds them."""
    n = len(theta["masses"])
    x = jnp.linspace(0.0, SPAN, n + 2)[1:-1]
    start = jnp.stack([x, -0.8 * x * (SPAN - x)], axis=1)
    return jsci.solve(jsci.Stationary(energy), SCIPY, start, theta).value


def sag(theta):
    """Depth of the lowest node in meters."""
    return -jnp.min(cable(theta)[:, 1])


def compare(theta):
    """The gradient of the sag, and its largest relative deviation from central differences."""
    flat, unravel = jax.flatten_util.ravel_pytree(theta)
    depth = jax.jit(lambda flat: sag(unravel(flat)))
    gradient = jax.jit(jax.grad(depth))(flat)
    steps = 1e-5 * jnp.diag(flat)
    differences = jnp.array([(depth(flat + h) - depth(flat - h)) / (2 * jnp.sum(h)) for h in steps])
    error = jnp.max(jnp.abs(gradient - differences)) / jnp.max(jnp.abs(differences))
    return unravel(gradient), unravel(differences), float(error)


def fit(theta, wanted, steps):
    """Masses with which the nodes are as deep as `wanted`."""
    depths = jax.jit(lambda masses: -cable(theta | {"masses": masses})[:, 1])
    slope, masses = jax.jit(jax.jacfwd(depths)), theta["masses"]
    for k in range(steps):
        miss = depths(masses) - wanted
        print(f"step {k}: largest deviation {float(jnp.max(jnp.abs(miss))):.1e} m")
        masses = jnp.maximum(masses - jnp.linalg.solve(slope(masses), miss), 0.2 * masses)
    return masses, float(jnp.max(jnp.abs(depths(masses) - wanted)))


def main(smoke: bool = False, out: Path = Path("out/scipy_solver")) -> int:
    jax.config.update("jax_enable_x64", True)
    n = 3 if smoke else 15
    theta = {
        "masses": jnp.full(n, 1.5 / n),  # kg
        "rest": jnp.array(1.1 * SPAN / (n + 1)),  # m
        "stiffness": jnp.array(100.0 * (n + 1)),  # N/m, of one spring
    }
    gradient, differences, error = compare(theta)
    print(f"sag {float(sag(theta)):.4f} m; gradient against differences: relative deviation {error:.1e}")
    x = jnp.linspace(0.0, SPAN, n + 2)[1:-1]
    hidden = theta | {"masses": theta["masses"] * (0.5 + x)}
    masses, miss = fit(theta, -cable(hidden)[:, 1], 3 if smoke else 6)
    found = float(jnp.max(jnp.abs(masses / hidden["masses"] - 1)))
    print(f"shape met within {miss:.1e} m; hidden masses recovered within {found:.1e} of them")

    out.mkdir(parents=True, exist_ok=True)
    figures = {"gradient_error": error, "shape_error_m": miss, "mass_error": found}
    (out / "metrics.json").write_text(json.dumps(figures, indent=2) + "\n")
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
    for name, which in (("even masses", theta), ("masses that grow to the right", hidden)):
        left.plot(*cable(which).T, "o-", label=name)
    left.plot(*cable(theta | {"masses": masses}).T, "kx", label="fitted")
    left.set(xlabel="x in m", ylabel="y in m", title="the cable")
    left.legend()
    right.bar(range(n), gradient["masses"], label="implicit, through SciPy")
    right.plot(range(n), differences["masses"], "k_", label="central differences")
    right.set(xlabel="node", ylabel="∂ sag / ∂ mass in m/kg", title=f"relative deviation {error:.1e}")
    right.legend(loc="upper left", fontsize="small")
    figure.savefig(out / "cable.png", dpi=120)
    plt.close(figure)
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="three nodes")
    parser.add_argument("--out", type=Path, default=Path("out/scipy_solver"))
    options = parser.parse_args()
    sys.exit(main(options.smoke, options.out))
