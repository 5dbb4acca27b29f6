"""Penalty of a multiclass SVM by its gradient: implicit against unrolled, three solvers, and JAXopt.

m samples, k classes, p features; X (m × p) and one-hot Y (m × k). The inner problem is the dual of the
SVM with the penalty θ = exp(λ): min_W ½ θ‖W‖² + Σᵢ maxⱼ (1 − Yᵢⱼ + xᵢᵀ(wⱼ − w_{yᵢ})) has the dual

    min over a in Δᵏ × … × Δᵏ of ½ θ‖W(a, θ)‖² + ⟨a, Y⟩,   W(a, θ) = Xᵀ(Y − a)/θ,

with the gradient Y − X W; the outer one is λ ↦ ½‖X_val W − Y_val‖², reduced by gradient descent.

Three solvers, from the barycenters and by a fixed number of steps: projected gradient (PG), mirror
descent (MD) and block coordinate descent (BCD), a block being a sample. Each is differentiated by the
implicit rule, with a fixed point that need not be that of the solver, and by differentiating its steps;
the rule does not care either if Anderson's acceleration has found the solution, by a tolerance of 1e-10.
One program is one outer step. Times are of the processor; memory is what XLA says the program holds at
its peak. float64.

JAXopt runs the same steps of the same method (`acceleration=False`), with its own implicit rule and its
linear solver by default; the constants by which its BCD scales steps lack 1/θ, and are corrected here.

Reference: Blondel et al., Efficient and Modular Implicit Differentiation, NeurIPS 2022, section 4.1.
"""

import dataclasses
import functools
import pathlib
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

import jaxsci as jsci
from benchmarks._harness import Better, Measurement, Row, memory_of

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    import jaxopt
    from jaxopt.objective import multiclass_linear_svm_dual

X64 = True
CLASSES = 5
START = 4.0  # λ
RATE = 0.05  # of the outer descent


@dataclasses.dataclass(frozen=True)
class Sizes:
    samples: int
    outer: int
    steps: dict[int, int]  # p: steps of PG and MD
    sweeps: int  # of BCD
    solvers: tuple[str, ...]


FULL = Sizes(
    samples=700, outer=4, steps={100: 2500, 300: 1000, 1000: 400}, sweeps=60, solvers=("PG", "MD", "BCD")
)
QUICK = Sizes(samples=60, outer=3, steps={40: 400}, sweeps=40, solvers=("PG", "BCD"))


class Problem(eqx.Module):
    x: Float[Array, "m p"]
    y: Float[Array, "m k"]
    x_val: Float[Array, "v p"]
    y_val: Float[Array, "v k"]
    largest: Float[Array, ""]  # eigenvalue of X Xᵀ

    @property
    def start(self) -> Float[Array, "m k"]:
        return jnp.full(self.y.shape, 1 / CLASSES)


def _problem(samples: int, features: int) -> Problem:
    """Gaussian classes that differ in 20 of the features."""
    centers, train, val = jax.random.split(jax.random.key(0), 3)
    told = min(20, features)
    centers = 0.6 * jax.random.normal(centers, (CLASSES, told))

    def draw(key, count):
        one, two = jax.random.split(key)
        label = jax.random.randint(one, (count,), 0, CLASSES)
        x = jax.random.normal(two, (count, features)).at[:, :told].add(centers[label])
        return x / features**0.5, jax.nn.one_hot(label, CLASSES, dtype=x.dtype)

    x, y = draw(train, samples)
    return Problem(x, y, *draw(val, 200), jnp.linalg.norm(x, 2) ** 2)


def _inner(a, args):
    lam, problem = args
    v = problem.x.T @ (problem.y - a)
    return 0.5 * jnp.vdot(v, v) / jnp.exp(lam) + jnp.vdot(a, problem.y)


def _outer(a, lam, problem):
    w = problem.x.T @ (problem.y - a) / jnp.exp(lam)
    return 0.5 * jnp.sum((problem.x_val @ w - problem.y_val) ** 2)


# --- conditions and solvers ------------------------------------------------------------------------
# A step is a constant: the solution does not depend on it.

_rows = jax.vmap(jsci.convex.Simplex())


def _projected(lam, problem):
    step = jax.lax.stop_gradient(jnp.exp(lam) / problem.largest)
    return jsci.ProjectedGradient(_inner, lambda v, _: _rows(v), step=step)


def _mirror(lam, problem):
    # Between the step that is safe in the Euclidean norm and the one that is in the norm Σ|aᵢ|.
    step = jax.lax.stop_gradient(8 * jnp.exp(lam) / problem.largest)
    return jsci.MirrorDescent(_inner, step=step)


CONDITIONS = {"PG": _projected, "MD": _mirror}


def _by_pg(lam, problem, steps):
    advance = lambda a, _: (_projected(lam, problem).fixed_point(a, (lam, problem)), None)
    return jax.lax.scan(advance, problem.start, None, steps)[0]


def _by_md(lam, problem, steps):
    """On log a, whose entries do not underflow."""
    step = _mirror(lam, problem).step

    def advance(v, _):
        gradient = jax.grad(_inner)(jax.nn.softmax(v), (lam, problem))
        return jax.nn.log_softmax(v - step * gradient), None

    return jax.nn.softmax(jax.lax.scan(advance, jnp.log(problem.start), None, steps)[0])


def _by_bcd(lam, problem, steps):
    """Each row moves by the inverse of its own curvature ‖xᵢ‖²/θ; v = Xᵀ(Y − a) follows."""
    theta = jnp.exp(lam)
    curvature = jax.lax.stop_gradient(jnp.sum(problem.x**2, axis=1) / theta)
    simplex = jsci.convex.Simplex()

    def row(carry, now):
        a, v = carry
        i, x, y, c = now
        moved = simplex(a[i] - (y - x @ v / theta) / c)
        return (a.at[i].set(moved), v - jnp.outer(x, moved - a[i])), None

    every = (jnp.arange(len(problem.x)), problem.x, problem.y, curvature)
    sweep = lambda carry, _: (jax.lax.scan(row, carry, every)[0], None)
    first = (problem.start, problem.x.T @ (problem.y - problem.start))
    return jax.lax.scan(sweep, first, None, steps)[0][0]


SOLVERS = {"PG": _by_pg, "MD": _by_md, "BCD": _by_bcd}


def _adjoint(residual, a, args, diagonal: bool) -> jsci.ImplicitAdjoint:
    """GMRES, for mirror descent with a diagonal preconditioner: rows of A are of the size of aᵢⱼ where
    that is positive, and 1 − Tᵢⱼ/aᵢⱼ where it vanishes."""
    precondition = None
    if diagonal:
        size = a + jnp.abs(1 - residual.fixed_point(a, args) / a)
        precondition = lambda r: r / size
    return jsci.ImplicitAdjoint(jsci.linear.GMRES(rtol=1e-10, preconditioner=precondition))


def _implicit(solver: str, condition: str, steps: int) -> Callable:
    def loss(lam, problem):
        held = jax.lax.stop_gradient((lam, problem))
        a = SOLVERS[solver](*held, steps)
        if condition == "MD":
            a = jnp.maximum(a, 1e-200)  # the condition is in log a
        adjoint = _adjoint(CONDITIONS[condition](*held), a, held, condition == "MD")
        a = jsci.attach(CONDITIONS[condition](lam, problem), a, (lam, problem), adjoint=adjoint)
        return _outer(a, lam, problem)

    return loss


def _accelerated(steps: int) -> Callable:
    """Projected gradient with Anderson's acceleration, to a tolerance and not by a number of steps."""
    solver = jsci.solvers.Anderson(rtol=1e-10, atol=1e-10)

    def loss(lam, problem):
        residual, args = _projected(lam, problem), (lam, problem)
        adjoint = _adjoint(residual, problem.start, args, False)
        solution = jsci.solve(
            residual, solver, problem.start, args, adjoint=adjoint, throw=False, max_steps=steps
        )
        return _outer(solution.value, lam, problem)

    return loss


def _unrolled(solver: str, steps: int) -> Callable:
    return lambda lam, problem: _outer(SOLVERS[solver](lam, problem, steps), lam, problem)


# --- JAXopt ----------------------------------------------------------------------------------------


class _Dual(type(multiclass_linear_svm_dual)):
    def columnwise_lipschitz_const(self, theta, data):
        return jnp.sum(data[0] ** 2, axis=1) / theta


def _peer(solver: str, steps: int) -> Callable:
    condition = CONDITIONS.get(solver)

    def scaled(a, lam, problem):
        """The objective by which a step of length one is the step of ours, also in JAXopt's condition."""
        return condition(lam, problem).step * _inner(a, (lam, problem))

    def loss(lam, problem):
        common = {"maxiter": steps, "tol": 0.0}
        if solver == "BCD":
            simplex = lambda v, _, scaling=1.0: jaxopt.projection.projection_simplex(v)
            peer = jaxopt.BlockCoordinateDescent(_Dual(), simplex, **common)
            given = (jnp.exp(lam), (problem.x, problem.y))
        elif solver == "PG":
            rows = lambda v, _: jax.vmap(jaxopt.projection.projection_simplex)(v)
            peer = jaxopt.ProjectedGradient(scaled, rows, stepsize=1.0, acceleration=False, **common)
            given = (lam, problem)
        else:
            update = jaxopt.MirrorDescent.make_projection_grad(lambda v, _: jax.nn.softmax(v), jnp.log)
            peer = jaxopt.MirrorDescent(scaled, update, stepsize=1.0, **common)
            given = (lam, problem)
        return _outer(peer.run(problem.start, None, *given).params, lam, problem)

    return loss


# --- measurements ----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Descent:
    gradient: float  # at the start
    losses: list[float]
    timing: Measurement

    def as_detail(self) -> dict[str, Any]:
        return {"gradient": self.gradient, "losses": self.losses} | self.timing.as_detail()


def _descend(loss: Callable, problem: Problem, outer: int) -> Descent:
    """Gradient descent on λ. The first step warms up; the others are timed, each on its own."""
    lam = jnp.asarray(START)
    begin = time.perf_counter()
    compiled = jax.jit(jax.value_and_grad(loss)).lower(lam, problem).compile()
    compile_s = time.perf_counter() - begin
    losses, gradients, wall, cpu = [], [], [], []
    for _ in range(outer):
        wall_start, cpu_start = time.perf_counter(), time.process_time()
        value, gradient = jax.block_until_ready(compiled(lam, problem))
        wall.append(time.perf_counter() - wall_start)
        cpu.append(time.process_time() - cpu_start)
        losses.append(float(value))
        gradients.append(float(gradient))
        lam = lam - RATE * gradient
    wall, cpu = wall[1:], cpu[1:]
    timing = Measurement(
        compile_s, statistics.median(wall), max(wall) - min(wall), statistics.median(cpu),
        max(cpu) - min(cpu), len(cpu), memory_of(compiled), None,
    )  # fmt: skip
    return Descent(gradients[0], losses, timing)


def _reference(problem: Problem, sweeps: int) -> tuple[float, float]:
    """The gradient at the start from 5 times as many sweeps, and its distance to central differences."""
    exact = jax.jit(jax.value_and_grad(_implicit("BCD", "PG", 5 * sweeps)))
    lam, h = jnp.asarray(START), 1e-4
    gradient = float(exact(lam, problem)[1])
    slope = float(exact(lam + h, problem)[0] - exact(lam - h, problem)[0]) / (2 * h)
    return gradient, abs(gradient / slope - 1)


def run(quick: bool) -> Iterator[Row]:
    rows = []
    for row in _every(QUICK if quick else FULL):
        # What is gained, is gained in large problems.
        rows.append(dataclasses.replace(row, target=None) if quick and row.unit == "x" else row)
        yield rows[-1]
    if not quick:
        folder = pathlib.Path("out") / "svm"
        folder.mkdir(parents=True, exist_ok=True)
        _draw([row.as_json() for row in rows], folder / "svm.png")


def _every(sizes: Sizes) -> Iterator[Row]:
    for features, steps in sizes.steps.items():
        problem = _problem(sizes.samples, features)
        exact, apart = _reference(problem, sizes.sweeps)
        place = {"samples": sizes.samples, "classes": CLASSES, "features": features}
        yield Row(f"p = {features}: reference and differences", apart, "", 1e-6, detail=place)
        for solver in sizes.solvers:
            count = sizes.sweeps if solver == "BCD" else steps
            yield from _compare(solver, problem, count, sizes.outer, exact, place | {"steps": count})


def _compare(solver, problem, steps, outer, exact, place) -> Iterator[Row]:
    name = f"p = {place['features']}, {solver}"
    error = lambda descent: abs(descent.gradient / exact - 1)
    seconds = lambda descent: descent.timing.cpu_s
    unrolled = _descend(_unrolled(solver, steps), problem, outer)
    peer = _descend(_peer(solver, steps), problem, outer)
    row = functools.partial(Row, detail=place | unrolled.as_detail())
    yield row(f"{name}, unrolled: time of a gradient", seconds(unrolled), "s")
    yield row(f"{name}, unrolled: gradient error", error(unrolled))
    row = functools.partial(Row, detail=place | peer.as_detail())
    yield row(f"{name}, JAXopt: time of a gradient", seconds(peer), "s")
    yield row(f"{name}, JAXopt: gradient error", error(peer))
    ways = {c: _implicit(solver, c, steps) for c in (CONDITIONS if solver == "BCD" else (solver,))}
    if solver == "PG":
        ways["PG, Anderson"] = _accelerated(steps)
    for condition, loss in ways.items():
        ours = _descend(loss, problem, outer)
        row = functools.partial(Row, detail=place | {"condition": condition} | ours.as_detail())
        case = f"{name}, implicit {condition}"
        yield row(f"{case}: time of a gradient", seconds(ours), "s")
        yield row(f"{case}: gradient error", error(ours), "", max(error(unrolled), 1e-6))
        ratio = seconds(unrolled) / seconds(ours)
        yield row(f"{case}: time unrolled/implicit", ratio, "x", 1.0, Better.HIGHER)
        ratio = unrolled.timing.peak_bytes / ours.timing.peak_bytes
        yield row(f"{case}: memory unrolled/implicit", ratio, "x", 1.0, Better.HIGHER)
        apart = abs(ours.losses[-1] / unrolled.losses[-1] - 1)
        # Mirror descent approaches the boundary at a rate of 1/steps: neither of the two has arrived.
        target = None if solver == "MD" else 1e-6
        yield row(f"{case}: difference of the outer losses", apart, "", target)
        yield row(f"{case}: time ours/JAXopt", seconds(ours) / seconds(peer), "x")


def _draw(rows: list[dict[str, Any]], path: pathlib.Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(
        2, len(SOLVERS), figsize=(9, 5), sharex=True, sharey="row", layout="constrained"
    )
    colors = {
        "unrolled": "C3",
        "JAXopt": "C7",
        "implicit PG": "C0",
        "implicit MD": "C2",
        "implicit PG, Anderson": "C1",
    }
    for column, solver in zip(axes.T, SOLVERS, strict=True):
        for ending, color in colors.items():
            found = [r for r in rows if r["name"].endswith(f", {ending}: time of a gradient")]
            detail = [r["detail"] for r in found if f", {solver}, " in r["name"]]
            p = [d["features"] for d in detail]
            column[0].loglog(p, [d["cpu_s"] for d in detail], f"{color}o-", label=ending)
            column[1].loglog(p, [d["peak_bytes"] / 2**20 for d in detail], f"{color}o-")
        column[0].set_title(solver)
        column[1].set_xlabel("features p")
    axes[0, 0].set_ylabel("processor time of a gradient, s")
    axes[1, 0].set_ylabel("peak memory, MiB")
    axes[0, 0].legend(fontsize=8)
    for axis in axes.flat:
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=85)
    plt.close(figure)
