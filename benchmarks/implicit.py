"""Time and memory of a solve and its gradient, beside JAXopt and Optimistix on the same problems.

Each library is measured in several settings. Its best time is that of the quickest setting whose gradient
is right to 1e-6 of its largest entry; ours has to be as quick, and five times as quick on the equation.
"""

import dataclasses
import functools
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import optimistix as optx

import jaxsci as jsci

from ._harness import Better, Program, Row, compiled, measure, measure_in_turns

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    import jaxopt

X64 = True
ACCURATE = 1e-6


@dataclasses.dataclass(frozen=True)
class Problem:
    """A loss of θ through a solve.

    - `settings`: name ↦ (θ ↦ y); the first word of the name is the library.
    - `loss`: y ↦ the scalar that is differentiated.
    - `exact`: θ ↦ y, differentiable, however slow.
    - `margin`: how many times quicker than the best peer ours has to be.
    """

    name: str
    theta: Any
    settings: dict[str, Callable]
    loss: Callable
    exact: Callable
    margin: float = 1.0


def _jaxopt(solver, start):
    return lambda theta: solver.run(start, theta).params


def _optimistix(entry, fn, solver, start, adjoint, **options):
    return lambda theta: entry(fn, solver, start, theta, adjoint=adjoint, max_steps=2000, **options).value


def _ours(residual, solver, start, linear=None):
    adjoint = jsci.ImplicitAdjoint(linear)
    return lambda theta: (
        jsci.solve(residual, solver, start, theta, adjoint=adjoint, throw=False, max_steps=2000).value
    )


def _linear_cg(tol):
    return functools.partial(jaxopt.linear_solve.solve_cg, tol=tol, maxiter=5000)


def _ridge(quick: bool) -> Problem:
    m, n = (200, 40) if quick else (1000, 200)
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(m, n)))
    y = x @ jnp.asarray(rng.normal(size=n)) + jnp.asarray(rng.normal(size=m))
    theta = (x, y, jnp.exp(jnp.asarray(rng.normal(size=n))))

    def energy(w, theta):
        x, y, weights = theta
        return 0.5 * jnp.sum((x @ w - y) ** 2) / m + 0.5 * jnp.sum(weights * w**2)

    def closed(theta):
        x, y, weights = theta
        return jnp.linalg.solve(x.T @ x / m + jnp.diag(weights), x.T @ y / m)

    def stopped(init, theta):
        return closed(theta)

    convex = jsci.Stationary(energy, convex=True)
    newton_cg = jsci.solvers.Newton(1e-8, 1e-8, linear_solver=jsci.linear.CG(rtol=1e-4, check=1.0))
    start = jnp.zeros(n)
    by_rule = lambda solve: jaxopt.implicit_diff.custom_root(jax.grad(energy), solve=solve)(stopped)
    cg = optx.ImplicitAdjoint(linear_solver=lx.CG(rtol=1e-10, atol=1e-10))
    settings = {
        "jaxsci, Cholesky, attach": lambda t: jsci.attach(convex, closed(jax.lax.stop_gradient(t)), t),
        "jaxsci, closed form, CG": lambda t: jsci.attach(
            convex, closed(jax.lax.stop_gradient(t)), t, adjoint=jsci.ImplicitAdjoint(jsci.linear.CG(1e-11))
        ),
        "jaxsci, Newton-CG": _ours(convex, newton_cg, start, jsci.linear.CG(rtol=1e-10)),
        "jaxsci, LBFGS of Optimistix, CG": _ours(
            convex, optx.LBFGS(1e-9, 1e-9), start, jsci.linear.CG(rtol=1e-10)
        ),
        "jaxopt, closed form, CG": lambda t: by_rule(_linear_cg(1e-10))(None, t),
        "jaxopt, LBFGS, CG": _jaxopt(
            jaxopt.LBFGS(energy, tol=1e-9, maxiter=2000, implicit_diff_solve=_linear_cg(1e-10)), start
        ),
        "optimistix, LBFGS, CG": _optimistix(
            optx.minimise, energy, optx.LBFGS(1e-9, 1e-9), start, cg, tags=convex.tags
        ),
        "optimistix, BFGS": _optimistix(
            optx.minimise, energy, optx.BFGS(1e-9, 1e-9), start, optx.ImplicitAdjoint()
        ),
    }
    return Problem("ridge regression", theta, settings, lambda w: jnp.sum(jnp.sin(w)), closed)


def _logistic(quick: bool) -> Problem:
    m, p, k = (100, 10, 3) if quick else (500, 40, 5)
    rng = np.random.default_rng(1)
    x = jnp.asarray(rng.normal(size=(m, p)))
    labels = jnp.argmax(x @ jnp.asarray(rng.normal(size=(p, k))) + jnp.asarray(rng.normal(size=(m, k))), 1)
    labels = jax.nn.one_hot(labels, k)
    theta = (x, jnp.exp(jnp.asarray(rng.normal(size=p)) - 2))

    def energy(w, theta):
        x, weights = theta
        fit = -jnp.mean(jnp.sum(labels * jax.nn.log_softmax(x @ w), axis=1))
        return fit + 0.5 * jnp.sum(weights[:, None] * w**2)

    start = jnp.zeros((p, k))
    convex = jsci.Stationary(energy, convex=True)

    def exact(theta):
        tight = jsci.solvers.Newton(1e-13, 1e-13)
        return jsci.solve(convex, tight, start, theta, throw=False).value

    settings: dict[str, Callable] = {}
    for tol, backward in ((1e-7, 1e-8), (1e-9, 1e-10)):
        own, cg = jsci.linear.CG(rtol=backward), _linear_cg(backward)
        adjoint = optx.ImplicitAdjoint(linear_solver=lx.CG(rtol=backward, atol=backward))
        lbfgs = functools.partial(jaxopt.LBFGS, energy, tol=tol, maxiter=2000)
        settings |= {
            # The last step of Newton's method is the error of the point before it.
            f"jaxsci, NewtonKrylov, {tol}": _ours(
                convex, jsci.solvers.NewtonKrylov(10 * tol, 10 * tol), start, own
            ),
            f"jaxsci, BFGS, {tol}": _ours(convex, jsci.solvers.BFGS(tol), start, own),
            f"jaxsci, LBFGS of JAXopt, {tol}": _ours(convex, lbfgs(), start, own),
            f"jaxopt, LBFGS, {tol}": _jaxopt(lbfgs(implicit_diff_solve=cg), start),
            f"optimistix, LBFGS, {tol}": _optimistix(
                optx.minimise, energy, optx.LBFGS(tol, tol), start, adjoint, tags=convex.tags
            ),
        }
    return Problem("logistic regression", theta, settings, lambda w: jnp.sum(jnp.sin(w)), exact)


def _roots(quick: bool) -> Problem:
    lanes = 50 if quick else 1000
    rng = np.random.default_rng(2)
    theta = (jnp.asarray(rng.normal(size=(3, 3))), jnp.asarray(rng.normal(size=(lanes, 3))))

    def f(y, theta):
        w, a = theta
        return y + 0.4 * jnp.tanh(w @ y) + 0.1 * y**3 - a

    start = jnp.zeros(3)

    def over_lanes(one):
        return lambda theta: jax.vmap(lambda a: one((theta[0], a)))(theta[1])

    exact = over_lanes(_ours(jsci.Root(f), jsci.solvers.Newton(1e-13, 1e-13), start))
    newton = optx.Newton(1e-9, 1e-9)
    settings = {
        "jaxsci, Newton": over_lanes(_ours(jsci.Root(f), jsci.solvers.Newton(1e-9, 1e-9), start)),
        "jaxopt, GaussNewton": over_lanes(_jaxopt(jaxopt.GaussNewton(f, tol=1e-9), start)),
        "jaxopt, LevenbergMarquardt": over_lanes(_jaxopt(jaxopt.LevenbergMarquardt(f, tol=1e-9), start)),
        "optimistix, Newton": over_lanes(
            _optimistix(optx.root_find, f, newton, start, optx.ImplicitAdjoint(), throw=False)
        ),
    }
    return Problem(f"{lanes} roots of 3 unknowns", theta, settings, lambda y: jnp.sum(jnp.sin(y)), exact)


class _Poisson(jsci.AbstractResidual):
    """−∇·(κ∇u) + u³ = f on the unit square, u = 0 on its boundary, with a mean-κ sine transform as
    preconditioner."""

    n: int

    @property
    def tags(self):
        return frozenset({lx.positive_semidefinite_tag})

    def __call__(self, u, theta):
        kappa, f = theta
        u = jnp.pad(u, 1)
        k = jnp.pad(kappa, 1, mode="edge")
        flux = lambda axis: (
            0.5 * (_cut(k, axis, 1) + _cut(k, axis, 0)) * (_cut(u, axis, 1) - _cut(u, axis, 0))
        )
        dx, dy = flux(0), flux(1)
        h2 = (self.n + 1) ** 2
        inner = u[1:-1, 1:-1]
        return -h2 * (dx[1:, 1:-1] - dx[:-1, 1:-1] + dy[1:-1, 1:] - dy[1:-1, :-1]) + inner**3 - f

    def preconditioner(self, u, theta):
        sines, eigenvalues = _sine_basis(self.n)
        mean = jnp.mean(theta[0])
        return lambda r: sines @ ((sines @ r @ sines) / (mean * eigenvalues)) @ sines


def _cut(x, axis, first):
    stop = x.shape[axis] - 1 + first
    return jax.lax.slice_in_dim(x, first, stop, axis=axis)


def _sine_basis(n):
    k = np.arange(1, n + 1)
    sines = np.sqrt(2 / (n + 1)) * np.sin(np.pi * np.outer(k, k) / (n + 1))
    one = 4 * (n + 1) ** 2 * np.sin(np.pi * k / (2 * (n + 1))) ** 2
    return jnp.asarray(sines), jnp.asarray(one[:, None] + one)


def _poisson(quick: bool) -> Problem:
    n = 16 if quick else 64
    x = np.linspace(0, 1, n + 2)[1:-1]
    kappa = 1 + 0.5 * np.sin(3 * x)[:, None] * np.cos(5 * x)
    theta = (jnp.asarray(kappa), jnp.asarray(50 * np.exp(x)[:, None] * np.sin(4 * x)))
    residual = _Poisson(n)
    start = jnp.zeros((n, n))
    cg = jsci.linear.CG(rtol=1e-10)
    inexact = jsci.linear.CG(rtol=1e-3, check=1.0)
    plain = jsci.Root(lambda u, t: residual(u, t), tags=residual.tags)
    # Lineax stops when every entry is below atol + rtol |entry|: the best of twelve pairs that were tried.
    peer_cg = lx.CG(rtol=1e-3, atol=1e-6)
    f = lambda u, t: residual(u, t)
    by_rule = jaxopt.implicit_diff.custom_root(
        f, solve=functools.partial(_linear_cg(1e-10), M=residual.preconditioner(start, theta))
    )

    def hand(init, theta):
        newton = jsci.solvers.Newton(1e-9, 1e-9, linear_solver=inexact)
        return jsci.solve(residual, newton, start, jax.lax.stop_gradient(theta), throw=False).value

    settings = {
        "jaxsci, Newton-CG, sine transform": _ours(
            residual, jsci.solvers.Newton(1e-9, 1e-9, linear_solver=inexact), start, cg
        ),
        "jaxsci, Newton-CG, sine transform, 1e-6": _ours(
            residual,
            jsci.solvers.Newton(1e-6, 1e-6, linear_solver=inexact),
            start,
            jsci.linear.CG(rtol=1e-8),
        ),
        "jaxsci, Newton-CG": _ours(plain, jsci.solvers.Newton(1e-9, 1e-9, linear_solver=inexact), start, cg),
        "optimistix, Newton-CG, CG": _optimistix(
            optx.root_find,
            f,
            optx.Newton(1e-5, 1e-5, linear_solver=peer_cg),
            start,
            optx.ImplicitAdjoint(linear_solver=lx.CG(rtol=1e-8, atol=1e-8, max_steps=5000)),
            tags=residual.tags,
            throw=False,
        ),
        "jaxopt, LBFGS on the energy, CG": _jaxopt(
            jaxopt.LBFGS(
                lambda u, t: _poisson_energy(u, t, n),
                tol=1e-6,
                maxiter=5000,
                implicit_diff_solve=_linear_cg(1e-10),
            ),
            start,
        ),
        "(jaxopt's rule, our solver, sine transform)": lambda t: by_rule(hand)(None, t),
    }
    exact = _ours(
        residual, jsci.solvers.Newton(1e-12, 1e-12, linear_solver=jsci.linear.CG()), start, jsci.linear.CG()
    )
    return Problem(
        f"nonlinear Poisson equation, {n}²", theta, settings, lambda u: jnp.sum(jnp.sin(u)), exact, margin=5.0
    )


def _poisson_energy(u, theta, n):
    """½ ∫ κ |∇u|² + ∫ u⁴/4 − ∫ f u, of which the residual is the derivative (unit cells)."""
    kappa, f = theta
    v, k = jnp.pad(u, 1), jnp.pad(kappa, 1, mode="edge")
    total = jnp.sum(u**4) / 4 - jnp.sum(f * u)
    for axis in (0, 1):
        between = 0.5 * (_cut(k, axis, 1) + _cut(k, axis, 0))
        total = total + 0.5 * (n + 1) ** 2 * jnp.sum(between * (_cut(v, axis, 1) - _cut(v, axis, 0)) ** 2)
    return total


def _equilibrium(quick: bool) -> Problem:
    width, batch = (64, 4) if quick else (512, 32)
    rng = np.random.default_rng(3)
    w = rng.normal(size=(width, width)) / width**0.5
    theta = (
        jnp.asarray(0.9 * w / np.linalg.norm(w, 2) * 1.0),
        jnp.asarray(rng.normal(size=(width, width)) / width**0.5),
    )
    x = jnp.asarray(rng.normal(size=(batch, width)))
    layer = lambda z, t: jnp.tanh(z @ t[0] + x @ t[1])
    start = jnp.zeros((batch, width))
    fixed = jsci.FixedPoint(layer)
    settings: dict[str, Callable] = {}
    for tol in (1e-7, 1e-9):
        anderson = jsci.solvers.Anderson(tol, tol)
        own, picard = jsci.solvers.Picard(tol, tol), optx.FixedPointIteration(tol, tol)
        gmres, stable = jsci.linear.GMRES(rtol=tol), jsci.linear.BiCGStab(rtol=tol)
        bicgstab = functools.partial(jaxopt.linear_solve.solve_bicgstab, tol=tol)
        adjoint = optx.ImplicitAdjoint(linear_solver=lx.BiCGStab(rtol=tol, atol=tol))
        # The same tolerance: JAXopt's is of the length of the step, ours of its root-mean-square.
        options = {"tol": tol * start.size**0.5, "maxiter": 500, "implicit_diff_solve": bicgstab}
        settings |= {
            f"jaxsci, Anderson, GMRES, {tol}": _ours(fixed, anderson, start, gmres),
            f"jaxsci, Anderson, BiCGStab, {tol}": _ours(fixed, anderson, start, stable),
            f"jaxsci, Picard, GMRES, {tol}": _ours(fixed, own, start, gmres),
            f"jaxsci, Picard, BiCGStab, {tol}": _ours(fixed, own, start, stable),
            f"jaxopt, Anderson, BiCGStab, {tol}": _jaxopt(
                jaxopt.AndersonAcceleration(layer, **options), start
            ),
            f"jaxopt, Picard, BiCGStab, {tol}": _jaxopt(jaxopt.FixedPointIteration(layer, **options), start),
            f"optimistix, Picard, BiCGStab, {tol}": _optimistix(
                optx.fixed_point, layer, picard, start, adjoint
            ),
        }
    exact = _ours(fixed, jsci.solvers.Anderson(1e-13, 1e-13), start, jsci.linear.GMRES())
    return Problem(
        f"equilibrium network, width {width}", theta, settings, lambda z: jnp.sum(jnp.sin(z)), exact
    )


def _programs(quick: bool) -> Problem:
    lanes, n, k = (8, 6, 8) if quick else (128, 16, 24)
    rng = np.random.default_rng(4)
    root = rng.normal(size=(lanes, n, n))
    p = jnp.asarray(root @ root.transpose(0, 2, 1) / n + np.eye(n))
    q = jnp.asarray(rng.normal(size=(lanes, n)))
    a = jnp.asarray(rng.normal(size=(lanes, 2, n)))
    g = jnp.asarray(rng.normal(size=(lanes, k, n)))
    inside = rng.normal(size=(lanes, n, 1))
    theta = (
        p,
        q,
        a,
        (a @ inside)[..., 0],
        g,
        (g @ inside)[..., 0] + 0.1 + jnp.asarray(rng.random((lanes, k))),
    )

    def osqp(tol, **backward):
        solver = jaxopt.OSQP(tol=tol, maxiter=20000, **backward)
        one = lambda p, q, a, b, g, h: (
            solver.run(params_obj=(p, q), params_eq=(a, b), params_ineq=(g, h)).params.primal
        )
        return lambda theta: jax.vmap(one)(*theta)

    layer = jsci.layers.QPLayer(throw=False)
    names = ("P", "q", "A", "b", "G", "h")
    ours = lambda theta: jax.vmap(lambda *six: layer(**dict(zip(names, six, strict=True))))(*theta)
    solved = jax.jit(jax.vmap(lambda *six: layer.solve(**dict(zip(names, six, strict=True))).value))(*theta)
    active = solved[2] > 1e-6

    def exact(theta):
        """The linear system of the active constraints; the rows of the others say that λ = 0."""

        def one(p, q, a, b, g, h, on):
            free = jnp.diag(jnp.where(on, 0.0, 1.0))
            rows = jnp.where(on[:, None], g, 0)
            zeros = jnp.zeros((len(b), len(b) + len(h)))
            matrix = jnp.block([[p, a.T, rows.T], [a, zeros], [rows, jnp.zeros((len(h), len(b))), free]])
            return jnp.linalg.solve(matrix, jnp.concatenate([-q, b, jnp.where(on, h, 0)]))[: len(q)]

        return jax.vmap(one)(*theta, active)

    def symmetric(solve):
        """A gradient in P is defined by what every library is given, a symmetric P."""
        return lambda theta: solve(((theta[0] + theta[0].transpose(0, 2, 1)) / 2, *theta[1:]))

    settings = {
        "jaxsci, QPLayer": symmetric(ours),
        "jaxopt, OSQP, 1e-4": symmetric(osqp(1e-4)),
        "jaxopt, OSQP, 1e-8, BiCGStab": symmetric(
            osqp(1e-8, implicit_diff_solve=functools.partial(jaxopt.linear_solve.solve_bicgstab, tol=1e-9))
        ),
        "jaxopt, OSQP, 1e-8, normal CG": symmetric(
            osqp(
                1e-8,
                implicit_diff_solve=functools.partial(
                    jaxopt.linear_solve.solve_normal_cg, tol=1e-9, maxiter=2000
                ),
            )
        ),
    }
    name = f"{lanes} quadratic programs"
    return Problem(name, theta, settings, lambda x: jnp.sum(jnp.sin(x)), symmetric(exact))


PROBLEMS = (_ridge, _logistic, _roots, _poisson, _equilibrium, _programs)


def _error(found, exact) -> float:
    """The largest error of any array of the gradient, relative to the array's largest entry."""
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(exact), strict=True)
    return max(float(np.max(np.abs(x - y)) / np.max(np.abs(y))) for x, y in pairs)


def _compare(problem: Problem, repeats: int) -> Iterator[Row]:
    def gradient_of(solve):
        return lambda theta: jax.value_and_grad(lambda t: problem.loss(solve(t)))(theta)

    exact = jax.jit(gradient_of(problem.exact))(problem.theta)[1]
    programs: dict[str, Program] = {}
    for name, solve in problem.settings.items():
        try:
            found = {
                f"{name}: forward": compiled(solve, problem.theta),
                name: compiled(gradient_of(solve), problem.theta),
            }
            jax.block_until_ready([program.run() for program in found.values()])
        except Exception as error:  # what a library cannot do is part of the table
            yield Row(f"{problem.name}: {name}", float("nan"), "ms", detail={"error": str(error)[:300]})
        else:
            programs |= found
    times = measure_in_turns({name: program.run for name, program in programs.items()}, repeats=repeats)
    times = {name: dataclasses.replace(t, **programs[name].as_fields()) for name, t in times.items()}
    best: dict[str, tuple[float, float]] = {}
    for name in [name for name in problem.settings if name in times]:
        forward, both = times[f"{name}: forward"], times[name]
        library = name.split(",")[0]
        error = _error(both.result[1], exact)
        detail = {"gradient_error": error, "forward": forward.as_detail(), "both": both.as_detail()}
        yield Row(f"{problem.name}: {name}", 1e3 * both.cpu_s, "ms", detail=detail)
        yield Row(f"{problem.name}: {name}: forward", 1e3 * forward.cpu_s, "ms")
        yield Row(f"{problem.name}: {name}: error of the gradient", error)
        if error <= ACCURATE:
            best[library] = min(best.get(library, (np.inf, np.inf)), (both.cpu_s, error))
    peers = [t for library, (t, _) in best.items() if library in ("jaxopt", "optimistix")]
    if "jaxsci" in best and peers:
        ratio = min(peers) / best["jaxsci"][0]
        yield Row(f"{problem.name}: best peer / ours", ratio, "", problem.margin, Better.HIGHER)
    elif "jaxsci" in best:
        yield Row(f"{problem.name}: best peer / ours", np.inf, "", problem.margin, Better.HIGHER)


def _memory(quick: bool) -> Iterator[Row]:
    """Temporary memory of value and gradient against the number of solver steps."""
    width = 32 if quick else 256
    w = 0.5 * np.random.default_rng(5).normal(size=(width, width)) / width**0.5
    fixed = jsci.FixedPoint(lambda z, w: jnp.tanh(w @ z + 1))
    picard = optx.FixedPointIteration(1e-30, 1e-30)
    used = {}
    for steps in (10, 1000):
        for name, adjoint in (
            ("implicit", jsci.ImplicitAdjoint()),
            ("unrolled", jsci.UnrolledAdjoint(checkpoints=steps)),
        ):
            loss = lambda w, adjoint=adjoint, steps=steps: jnp.sum(
                jsci.solve(
                    fixed, picard, jnp.zeros(width), w, adjoint=adjoint, throw=False, max_steps=steps
                ).value
            )
            found = measure(jax.value_and_grad(loss), jnp.asarray(w), repeats=1)
            used[name, steps] = found.memory.get("temp", 0)
            yield Row(f"memory, {name}, {steps} steps", used[name, steps] / 2**10, "KiB")
    yield Row(
        "memory of 1000 steps / of 10, implicit",
        used["implicit", 1000] / max(used["implicit", 10], 1),
        "",
        1.0,
    )


def run(quick: bool) -> Iterator[Row]:
    for make in PROBLEMS:
        yield from _compare(make(quick), 3 if quick else 15)
    yield from _memory(quick)
