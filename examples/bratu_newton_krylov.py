"""−∇²u = λ eᵘ on the unit square, u = 0 on its boundary: the fold of its solutions, and how fast they move.

Newton–Krylov with one multigrid cycle as preconditioner follows the lower branch; du/dλ comes from the
implicit rule, transposed preconditioner and all. At λ ≈ 6.808 the branch ends, and the solver says so.

    python examples/bratu_newton_krylov.py
"""

import argparse
import json
import pathlib

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np

import jaxsci as jsci
from jaxsci.linear import CG, Multigrid, Operator

FOLD = 6.808124423  # λ at which the branch ends: Mohsen, Comput. Math. Appl. 67, 2014


class Bratu(jsci.AbstractResidual):
    """h² (−∇²u − λ eᵘ) by the five-point difference; u on the interior points, (n, n)."""

    @property
    def tags(self):
        return frozenset({lx.positive_semidefinite_tag})  # on the lower branch

    def __call__(self, u, lam):
        v = jnp.pad(u, 1)
        neighbors = v[2:, 1:-1] + v[:-2, 1:-1] + v[1:-1, 2:] + v[1:-1, :-2]
        return 4 * u - neighbors - lam * jnp.exp(u) / (u.shape[0] + 1) ** 2

    def preconditioner(self, u, lam):
        jacobian = lambda v: jax.jvp(lambda u: self(u, lam), (u,), (v,))[1]
        return Multigrid().of(Operator(jacobian, u, None, self.tags))


def branch(n: int, parameters: np.ndarray) -> list[dict]:
    """Solutions for growing λ, each from the one before along du/dλ."""
    newton = jsci.solvers.NewtonKrylov(1e-10, 1e-10)
    adjoint = jsci.ImplicitAdjoint(CG(rtol=1e-10))

    @jax.jit
    def advance(u, slope, before, lam):
        def solve(lam):
            guess = jax.lax.stop_gradient(u + (lam - before) * slope)
            solution = jsci.solve(Bratu(), newton, guess, lam, adjoint=adjoint, throw=False, max_steps=30)
            return solution.value, solution

        u, slope, solution = jax.jvp(solve, (lam,), (1.0,), has_aux=True)
        return u, slope, solution.result == jsci.RESULTS.successful, solution.stats

    u = slope = jnp.zeros((n, n))
    rows, before = [], 0.0
    for lam in parameters:
        new, tangent, ok, stats = advance(u, slope, before, float(lam))
        rows.append(
            {
                "lambda": float(lam),
                "converged": bool(ok),
                "largest u": float(new.max()),
                "its derivative": float(tangent.reshape(-1)[jnp.argmax(new)]),
                "Newton steps": int(stats.steps),
                "Krylov iterations": int(stats.linear_iterations),
            }
        )
        if ok:
            u, slope, before = new, tangent, float(lam)
    return rows


def main(smoke: bool = False, out: str | None = None) -> dict:
    """The branch on a grid, as a table, and as JSON in the folder `out`."""
    jax.config.update("jax_enable_x64", True)
    n = 15 if smoke else 127
    parameters = np.array([2.0, 6.0, 7.2] if smoke else [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 6.5, 6.8, 7.0])
    rows = branch(n, parameters)
    for row in rows:
        print("  ".join(f"{k} {v:.6g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()))
    # Below the fold every solve converges, above it none does.
    right = all(row["converged"] == (row["lambda"] < FOLD) for row in rows)
    metrics = {"n": n, "rows": rows, "fold is respected": right}
    if out is not None:
        folder = pathlib.Path(out)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "bratu.json").write_text(json.dumps(metrics, indent=2))
    return metrics


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="a small grid")
    parser.add_argument("--out", help="folder for bratu.json")
    options = parser.parse_args()
    main(options.smoke, options.out)
