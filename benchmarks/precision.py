"""Error of a derivative against the error of the solution: implicit, unrolled, bound, estimate.

Gradient descent w ← w − ∇f(w, λ)/L from w = 0, after t steps, on the diabetes data (442 × 10, columns
centered and of length one); λ is one penalty for each feature. In float64.

- ridge: f = ½‖X w − y‖² + ½ Σⱼ λⱼ wⱼ², with y centered and of length one;
- logistic: f = Σᵢ log(1 + exp(−yᵢ xᵢᵀw)) + ½ Σⱼ λⱼ wⱼ², with yᵢ = ±1 for progression above the median.

With A = ∂²f/∂w², B = ∂²f/∂w∂λ = diag(w) and the smallest eigenvalue α of A at w and at the solution w*,

    ‖J(w) − J(w*)‖₂ ≤ (β/α + γ R/α²) ‖w − w*‖₂,   β = 1, R = maxⱼ|wⱼ*|, γ = ‖X‖₂² maxᵢ‖xᵢ‖ max|σ″|

(γ = 0 for ridge; |σ″| ≤ 1/(6√3) for the logistic function). Beside it what `jaxsci.check` tells without
knowing w*. `before` in the details are the figures of an earlier program on the same ridge problem.

Reference: Blondel et al., Efficient and Modular Implicit Differentiation, NeurIPS 2022, Theorem 1.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

import jaxsci as jsci
from benchmarks._harness import Better, Row

X64 = True
DATA = pathlib.Path(__file__).parent / "data" / "diabetes.csv"
SEGMENT = 50  # steps between the iterates that are looked at
BEFORE = {  # steps: errors of the implicit and of the unrolled Jacobian, bound
    500: (1.00, 3.29, 1.64),
    1000: (0.0997, 0.557, 0.164),
    2000: (9.9e-4, 1.0e-2, 1.6e-3),
    4000: (9.8e-8, 1.9e-6, 1.6e-7),
}


@dataclasses.dataclass(frozen=True)
class Problem:
    name: str
    objective: Callable  # (w, λ) ↦ f
    penalty: Float[Array, " n"]  # λ
    smoothness: float  # L, at least the largest eigenvalue of A
    curving: float  # γ, a Lipschitz constant of A
    times: tuple[int, ...]
    before: dict[int, tuple[float, float, float]]


def run(quick: bool) -> Iterator[Row]:
    problems = _problems(quick)
    found = [_examine(problem) for problem in problems]
    for problem, figures in zip(problems, found, strict=True):
        yield from _rows(problem, figures)
    if not quick:
        folder = pathlib.Path("out") / "precision"
        folder.mkdir(parents=True, exist_ok=True)
        _draw(problems, found, folder / "precision.png")


def _problems(quick: bool) -> list[Problem]:
    table = np.loadtxt(DATA, delimiter=",", skiprows=4)
    unit = lambda x: (x - x.mean(0)) / np.linalg.norm(x - x.mean(0), axis=0)
    x, y = jnp.asarray(unit(table[:, :-1])), jnp.asarray(unit(table[:, -1]))
    label = jnp.asarray(np.where(table[:, -1] > np.median(table[:, -1]), 1.0, -1.0))
    penalty = jnp.full(x.shape[1], 1e-2)
    square = float(jnp.linalg.norm(x, 2) ** 2)
    longest = float(jnp.max(jnp.linalg.norm(x, axis=1)))
    weight = lambda w, penalty: 0.5 * jnp.vdot(penalty, w * w)
    ridge = lambda w, penalty: 0.5 * jnp.sum((x @ w - y) ** 2) + weight(w, penalty)
    logistic = lambda w, penalty: jnp.sum(jax.nn.softplus(-label * (x @ w))) + weight(w, penalty)
    return [
        Problem("ridge", ridge, penalty, square + 1e-2, 0.0, (500,) if quick else tuple(BEFORE), BEFORE),
        Problem(
            "logistic", logistic, penalty, square / 4 + 1e-2, square * longest / (6 * 3**0.5),
            (200,) if quick else (200, 400, 800, 1600), {},
        ),
    ]  # fmt: skip


def _examine(problem: Problem) -> dict[str, np.ndarray]:
    """Every figure, at each `SEGMENT`-th iterate."""
    residual = jsci.Stationary(problem.objective)
    start = jnp.zeros_like(problem.penalty)

    def iterates(penalty):
        def step(w, _):
            return w - jax.grad(problem.objective)(w, penalty) / problem.smoothness, None

        def segment(w, _):
            w, _ = jax.lax.scan(step, w, None, SEGMENT)
            return w, w

        return jax.lax.scan(segment, start, None, max(problem.times) // SEGMENT)[1]

    def implicit(w, penalty):
        return jax.jacrev(lambda penalty: jsci.attach(residual, w, penalty))(penalty)

    @jax.jit
    def figures(penalty):
        newton = jsci.solvers.Newton(rtol=1e-14, atol=1e-14)
        solution = jsci.solve(residual, newton, start, penalty, throw=False).value
        exact = implicit(solution, penalty)
        curvature = jax.hessian(problem.objective)
        smallest = lambda w: jnp.linalg.eigvalsh(curvature(w, penalty))[0]
        spectral = lambda j: jnp.linalg.norm(j, 2)

        def at(w, unrolled):
            error = jnp.linalg.norm(w - solution)
            alpha = jnp.minimum(smallest(w), smallest(solution))
            bound = (1 / alpha + problem.curving * jnp.max(jnp.abs(solution)) / alpha**2) * error
            given = implicit(w, penalty)
            told = jsci.check(residual, w, penalty)
            return {
                "error of the iterate": error,
                "implicit": spectral(given - exact),
                "unrolled": spectral(unrolled - exact),
                "bound": bound,
                "implicit, Frobenius": jnp.linalg.norm(given - exact),
                "estimate": told.derivative_error,
                "estimated bound": told.derivative_bound,
                "estimated error of the iterate": told.error,
            }

        return jax.vmap(at)(iterates(penalty), jax.jacfwd(iterates)(penalty))

    return {name: np.asarray(value) for name, value in figures(problem.penalty).items()}


def _rows(problem: Problem, figures: dict[str, np.ndarray]) -> Iterator[Row]:
    for t in problem.times:
        here = {name: float(value[t // SEGMENT - 1]) for name, value in figures.items()}
        before = dict(zip(("implicit", "unrolled", "bound"), problem.before.get(t, ()), strict=False))
        row = functools.partial(Row, detail=here | {"steps": t, "before": before})
        name = f"{problem.name}, {t} steps"
        yield row(f"{name}: error of the implicit Jacobian", here["implicit"], "", here["bound"])
        yield row(f"{name}: unrolled/implicit", here["unrolled"] / here["implicit"], "", 1.0, Better.HIGHER)
        # Both are to first order in the error of the iterate.
        ratio = here["estimate"] / here["implicit, Frobenius"]
        yield row(f"{name}: |estimate/error - 1|", abs(ratio - 1), "", 0.2)
        yield row(f"{name}: estimate/estimated bound", here["estimate"] / here["estimated bound"], "", 1.0)


def _draw(problems, found, path: pathlib.Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(problems), figsize=(9, 3.6), sharey=True, layout="constrained")
    for axis, problem, figures in zip(axes, problems, found, strict=True):
        error = figures["error of the iterate"]
        for name, style in (("unrolled", "C3-"), ("bound", "k--"), ("implicit", "C0-")):
            axis.loglog(error, figures[name], style, label=name)
        axis.loglog(error[::8], figures["estimate"][::8], "C0x", label="jsci.check")
        axis.set(title=problem.name, xlabel="error of the iterate")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("error of the Jacobian")
    axes[0].legend()
    figure.savefig(path, dpi=90)
    plt.close(figure)
