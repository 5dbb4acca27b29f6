"""What structure is worth: 2-D and 3-D equations, implicit time steps, beside JAXopt, Optimistix, diffrax.

Each time is a row, and the error of what was computed in that time is a row below it. A peer's best time
is that of its quickest setting whose gradient is right to 1e-6.
"""

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import optimistix as optx

import jaxsci as jsci
from jaxsci import pde
from jaxsci.linear import CG, Multigrid, Operator

from ._harness import Better, Row, measure, measure_host, peak_rss_bytes

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    import jaxopt

X64 = True
ACCURATE = 1e-6
LIMIT = 20.0
"""CPU seconds after which a peer is not tried on the next larger grid."""


# --- equations on a square and in a cube -------------------------------------------------------------


class Elliptic(jsci.AbstractResidual):
    """−∇·(κ∇u) + g(u, f) = 0 on the unit square or cube, u = 0 on its boundary; times h², so that the
    entries do not grow.

    `near(residual, u, θ)` is r ↦ M r; θ = (κ, f), arrays on the interior points.
    """

    reaction: Callable
    near: Callable | None = None

    @property
    def tags(self):
        return frozenset({lx.positive_semidefinite_tag})

    def __call__(self, u, theta):
        kappa, f = theta
        out = self.reaction(u, f) / (u.shape[0] + 1) ** 2
        padded, k = jnp.pad(u, 1), jnp.pad(kappa, 1, mode="edge")
        inside = (slice(1, -1),) * u.ndim
        for axis in range(u.ndim):
            flux = 0.5 * (_cut(k, axis, 1) + _cut(k, axis, 0)) * jnp.diff(padded, axis=axis)
            others = tuple(slice(None) if a == axis else slice(1, -1) for a in range(u.ndim))
            out = out - jnp.diff(flux[others], axis=axis)
        return out.reshape(padded[inside].shape)

    def preconditioner(self, u, theta):
        return None if self.near is None else self.near(self, u, theta)


def _cut(x, axis, first):
    return jax.lax.slice_in_dim(x, first, x.shape[axis] - 1 + first, axis=axis)


def sines(residual, u, theta):
    """The inverse of −mean(κ) ∇² by sine transforms, in float32 whatever u is: a preconditioner does not
    need more digits. n is even.

    Sines of odd k are even about the middle, and those of even k odd, so that each needs half of the points.
    """
    n = u.shape[0]
    k = np.concatenate([np.arange(1, n + 1, 2), np.arange(2, n + 1, 2)])
    s = np.sqrt(2 / (n + 1)) * np.sin(np.pi * np.outer(k, np.arange(1, n // 2 + 1)) / (n + 1))
    one, first, second = (
        jnp.asarray(x, jnp.float32)
        for x in (4 * np.sin(np.pi * k / (2 * (n + 1))) ** 2, s[: n // 2], s[n // 2 :])
    )
    inverse = 1 / (jnp.mean(theta[0]).astype(jnp.float32) * (one[:, None] + one))

    def forward(x):
        top, bottom = x[: n // 2], x[n // 2 :][::-1]
        return jnp.concatenate([first @ (top + bottom), second @ (top - bottom)])

    def back(z):
        even, odd = first.T @ z[: n // 2], second.T @ z[n // 2 :]
        return jnp.concatenate([even + odd, (even - odd)[::-1]])

    def inverted(r):
        z = forward(forward(r.astype(jnp.float32)).T) * inverse
        return back(back(z).T).astype(r.dtype)

    return inverted


def multigrid(residual, u, theta):
    """One V-cycle for ∂F/∂u."""
    operator = Operator(
        lambda v: jax.jvp(lambda u: residual(u, theta), (u,), (v,))[1], u, None, residual.tags
    )
    return Multigrid(sweeps=1).of(operator)


def _poisson(n, axes=2):
    x = np.linspace(0, 1, n + 2)[1:-1]
    grid = np.meshgrid(*[x] * axes, indexing="ij")
    kappa = 1 + 0.5 * np.sin(3 * grid[0]) * np.cos(5 * grid[1])
    return (jnp.asarray(kappa), jnp.asarray(50 * np.exp(grid[0]) * np.sin(4 * grid[1])))


def _bratu(n):
    x = np.linspace(0, 1, n + 2)[1:-1]
    a, b = np.meshgrid(x, x, indexing="ij")
    return (jnp.ones((n, n)), jnp.asarray(4 + np.sin(3 * a) * np.cos(2 * b)))


EQUATIONS = {
    # θ of n, g, an antiderivative of it in u
    "Poisson": (_poisson, lambda u, f: u**3 - f, lambda u, f: u**4 / 4 - f * u),
    "Bratu": (_bratu, lambda u, f: -f * jnp.exp(u), lambda u, f: -f * jnp.exp(u)),
}


def _settings(name: str, n: int, dtype) -> dict[str, Callable]:
    """Name ↦ (θ ↦ u); the first word of the name is the library."""
    _, g, potential = EQUATIONS[name]
    start = jnp.zeros((n, n), dtype)
    tolerance = 1e-8 if dtype == jnp.float64 else 1e-4

    finish = 1e-9 if dtype == jnp.float64 else 1e-6

    def ours(near=None, preconditioner=None):
        """`near` is a function of u and θ; a `preconditioner` is made once for each linear system."""
        residual = Elliptic(g, near)
        newton = jsci.solvers.NewtonKrylov(
            tolerance, tolerance, linear_solver=CG(preconditioner=preconditioner)
        )
        adjoint = jsci.ImplicitAdjoint(CG(rtol=finish, preconditioner=preconditioner))
        return lambda theta: jsci.solve(residual, newton, start, theta, adjoint=adjoint, throw=False).value

    def energy(u, theta):
        kappa, f = theta
        v, k = jnp.pad(u, 1), jnp.pad(kappa, 1, mode="edge")
        total = jnp.sum(potential(u, f)) / (n + 1) ** 2
        for axis in (0, 1):
            between = 0.5 * (_cut(k, axis, 1) + _cut(k, axis, 0))
            total = total + 0.5 * jnp.sum(between * jnp.diff(v, axis=axis) ** 2)
        return total

    plain = Elliptic(g)
    # Without h², as its absolute tolerances like it.
    f = lambda u, theta: (n + 1) ** 2 * plain(u, theta)
    found = {
        "jaxsci, sine transform": ours(sines),
        "jaxsci, multigrid": ours(preconditioner=Multigrid(sweeps=1)),
    }
    if dtype == jnp.float32:
        return found
    peer_cg = lx.CG(rtol=1e-3, atol=1e-6, max_steps=5000)
    adjoint = optx.ImplicitAdjoint(linear_solver=lx.CG(rtol=1e-9, atol=1e-9, max_steps=20000))
    newton = optx.Newton(1e-8, 1e-8, linear_solver=peer_cg)
    lbfgs = jaxopt.LBFGS(
        energy, tol=1e-7 / (n + 1), maxiter=20000,
        implicit_diff_solve=lambda mv, b, **_: jaxopt.linear_solve.solve_cg(mv, b, tol=1e-10, maxiter=20000),
    )  # fmt: skip
    return found | {
        "optimistix, Newton-CG, CG": lambda theta: (
            optx.root_find(
                f, newton, start, theta, adjoint=adjoint, max_steps=60, tags=plain.tags, throw=False
            ).value
        ),
        "jaxopt, LBFGS on the energy, CG": lambda theta: lbfgs.run(start, theta).params,
    }


def _exact(name: str, n: int) -> Callable:
    residual = Elliptic(EQUATIONS[name][1], multigrid)
    newton = jsci.solvers.NewtonKrylov(1e-11, 1e-11)
    adjoint = jsci.ImplicitAdjoint(CG(rtol=1e-13))
    return lambda t: jsci.solve(residual, newton, jnp.zeros((n, n)), t, adjoint=adjoint, throw=False).value


def _loss_of(solve: Callable) -> Callable:
    def both(theta):
        total = lambda theta: (lambda u: (jnp.mean(jnp.sin(u)), u))(solve(theta))
        return jax.value_and_grad(total, has_aux=True)(theta)

    return both


def _far(found: Any, exact: Any) -> float:
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(exact), strict=True)
    return max(float(np.max(np.abs(x - y)) / np.max(np.abs(y))) for x, y in pairs)


def _square(name: str, sizes: tuple[int, ...], repeats: int, quick: bool) -> Iterator[Row]:
    times: dict[tuple[str, int], float] = {}
    iterations: dict[str, list[int]] = {"sine transform": [], "multigrid": []}
    late: set[str] = set()
    for n in sizes:
        theta = EQUATIONS[name][0](n)
        (_, u), slope = jax.jit(_loss_of(_exact(name, n)))(theta)
        for dtype in (jnp.float64, jnp.float32) if n == sizes[0] else (jnp.float64,):
            for setting, solve in _settings(name, n, dtype).items():
                if setting in late:
                    continue
                label = f"{name} {n}²: {setting}{', float32' if dtype == jnp.float32 else ''}"
                cast = jax.tree.map(lambda x, dtype=dtype: x.astype(dtype), theta)
                try:
                    found = measure(_loss_of(solve), cast, repeats=repeats)
                except Exception as error:  # what a library cannot do is part of the table
                    yield Row(label, float("nan"), "ms", detail={"error": str(error)[:300]})
                    continue
                (_, value), gradient = found.result
                error = _far(gradient, slope)
                yield Row(label, 1e3 * found.cpu_s, "ms", detail=found.as_detail())
                yield Row(f"{label}: error of u", _far(value, u))
                yield Row(f"{label}: error of the gradient", error)
                if found.cpu_s > LIMIT / repeats:
                    late.add(setting)
                if dtype == jnp.float64 and error <= ACCURATE:
                    times[setting, n] = found.cpu_s
        residual = Elliptic(EQUATIONS[name][1])
        jacobian = lambda v, u=u, theta=theta, f=residual: jax.jvp(lambda u: f(u, theta), (u,), (v,))[1]
        for kind, near in (("sine transform", sines), ("multigrid", multigrid)):
            m = near(residual, u, theta)
            a = Operator(jacobian, u, None, residual.tags, m)
            count = jax.jit(lambda a=a, u=u: CG(rtol=1e-8).solve(a, None, jnp.ones_like(u))[2])()
            iterations[kind].append(int(count))
    for kind, counts in iterations.items():
        yield Row(f"{name}: iterations to 1e-8, {kind}, largest", max(counts), detail={"counts": counts})
        yield Row(f"{name}: iterations, {kind}, spread over n", max(counts) - min(counts), "", 2.0)
    first, last = sizes[0], sizes[-1]
    ours = {n: min(t for (s, m), t in times.items() if m == n and s.startswith("jaxsci")) for n in sizes}
    yield Row(f"{name} {first}²: best of ours", 1e3 * ours[first], "ms", None if quick else 4.0)
    exponent = np.log(ours[last] / ours[first]) / np.log((last / first) ** 2)
    yield Row(f"{name}: growth of the time with the unknowns", exponent, "", None if quick else 1.2)
    for n in sizes:
        peers = [t for (s, m), t in times.items() if m == n and not s.startswith("jaxsci")]
        if peers:
            target = None if quick else 5.0
            yield Row(f"{name} {n}²: best peer / ours", min(peers) / ours[n], "", target, Better.HIGHER)


# --- the method of lines ------------------------------------------------------------------------------


def _lines(name: str, n: int):
    """The lines, the first state, the time of the end."""
    cells = {"x": pde.Cells(np.linspace(0, 1, n + 1))}
    x = jnp.asarray((np.arange(n) + 0.5) / n)
    if name == "Burgers":
        walls = [pde.Dirichlet("u", face("x"), 0.0) for face in (pde.low, pde.high)]
        lines = pde.MethodOfLines(pde.Burgers(0.005), cells, walls)
        return lines, lines.state({"u": jnp.sin(2 * jnp.pi * x)}), 0.1
    equation = pde.DiffusionSorption()
    lines = pde.MethodOfLines(equation, cells, equation.conditions())
    return lines, lines.state({"u": 0.1 + 0 * x}), 50.0


def _integrated(root_finder, lines, y0, t1):
    @jax.jit
    def run(tolerance):
        found = diffrax.diffeqsolve(
            diffrax.ODETerm(lines), diffrax.Kvaerno5(root_finder=root_finder), 0.0, t1, t1 / 1000, y0,
            stepsize_controller=diffrax.PIDController(rtol=tolerance, atol=tolerance), max_steps=None,
            adjoint=diffrax.ForwardMode(), throw=False,
        )  # fmt: skip
        return found.ys[-1], found.stats["num_steps"]

    return run


def _time_steps(name: str, quick: bool) -> Iterator[Row]:
    dense_limit = 64 if quick else 1024
    ours = {}
    for n in (32, 64) if quick else (256, 1024, 2048, 4096, 8192):
        lines, y0, t1 = _lines(name, n)
        banded = jsci.interop.diffrax_root_finder(lines.linear_solver)
        solve = _integrated(banded, lines, y0, t1)
        tight = solve(1e-11)[0] if n <= dense_limit else None

        def timed(label, solve, tolerance, repeats, n=n, exact=tight):
            found = measure_host(solve, tolerance, repeats=repeats)
            y, count = found.result
            label = f"{name}, n = {n}: {label}"
            detail = found.as_detail() | {"steps": int(count), "tolerance": tolerance}
            rows = [Row(label, 1e3 * found.cpu_s / int(count), "ms/step", detail=detail)]
            error = None if exact is None else _far(y, exact)
            if error is not None:
                rows.append(Row(f"{label}: error", error))
            return found.cpu_s, found.cpu_s / int(count), error, rows

        _, ours[n], error, rows = timed("jaxsci, banded", solve, 1e-6, 3)
        yield from rows
        if n > dense_limit:
            continue
        default = diffrax.with_stepsize_controller_tols(diffrax.VeryChord)()
        peer = _integrated(default, lines, y0, t1)
        total, each, their_error, rows = timed("diffrax, default", peer, 1e-6, 1)
        yield from rows
        target = 20.0 if n == 1024 else None
        yield Row(f"{name}, n = {n}: a step, diffrax / ours", each / ours[n], "", target, Better.HIGHER)
        # diffrax's steps are limited by its root finder, and so more exact than its tolerance: ours gets the
        # largest tolerance of a ladder with which it is no less exact.
        for tolerance in (1e-6, 1e-7, 1e-8, 1e-9, 1e-10):
            spent, _, error, rows = timed(f"jaxsci, tolerance {tolerance:.0e}", solve, tolerance, 3)
            if error <= their_error:
                break
        yield from rows
        yield Row(f"{name}, n = {n}: our error / diffrax's", error / their_error, "", None if quick else 1.0)
        yield Row(f"{name}, n = {n}: whole solve, diffrax / ours", total / spent, "", target, Better.HIGHER)
    first, last = (32, 64) if quick else (1024, 8192)
    exponent = np.log(ours[last] / ours[first]) / np.log(last / first)
    yield Row(f"{name}: growth of the time of a step with n", exponent, "", None if quick else 1.1)


# --- three dimensions ---------------------------------------------------------------------------------


def _cube(n: int) -> Iterator[Row]:
    theta = _poisson(n, 3)
    residual = Elliptic(EQUATIONS["Poisson"][1])
    newton = jsci.solvers.NewtonKrylov(1e-6, 1e-6, linear_solver=CG(preconditioner=Multigrid(sweeps=1)))
    adjoint = jsci.ImplicitAdjoint(CG(rtol=1e-9, preconditioner=Multigrid(sweeps=1)))
    start = jnp.zeros((n,) * 3)
    solve = lambda t: jsci.solve(residual, newton, start, t, adjoint=adjoint, throw=False).value
    found = measure(_loss_of(solve), theta, repeats=1)
    (_, u), gradient = found.result
    yield Row(f"3-D Poisson {n}³: value and gradient", 1e3 * found.cpu_s, "ms", detail=found.as_detail())
    yield Row(f"3-D Poisson {n}³: largest residual", float(jnp.max(jnp.abs(residual(u, theta)))), "", 1e-6)
    # du/dθ along one direction, by a difference of two solves.
    direction = jnp.cos(theta[1])
    value = jax.jit(lambda f: jnp.mean(jnp.sin(solve((theta[0], f)))))
    difference = (value(theta[1] + direction) - value(theta[1] - direction)) / 2
    along = jnp.sum(gradient[1] * direction)
    yield Row(
        f"3-D Poisson {n}³: gradient against a difference", float(abs(along / difference - 1)), "", 1e-3
    )
    yield Row(f"3-D Poisson {n}³: memory of the program", (found.peak_bytes or 0) / 2**30, "GiB", 4.0)
    yield Row(f"3-D Poisson {n}³: peak memory of the process", peak_rss_bytes() / 2**30, "GiB", 4.0)


def run(quick: bool) -> Iterator[Row]:
    yield from _cube(8 if quick else 64)
    for name in EQUATIONS:
        yield from _square(name, (16, 32) if quick else (64, 128, 256), 2 if quick else 5, quick)
    for name in ("Burgers", "diffusion–sorption"):
        yield from _time_steps(name, quick)
