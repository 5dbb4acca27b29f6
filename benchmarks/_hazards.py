"""What goes wrong in practice, made small: each hazard on the conditions that all three libraries have.

One nonlinear system stands behind all conditions: G(y, b) = A y + y³/10 − b with a symmetric positive
definite A. Its root is the fixed point of y − G/5, the minimum of the function whose gradient G is, and
the least-squares solution of r = G.
"""

import dataclasses
import functools
import warnings
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import optimistix as optx

import jaxsci as jsci

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    import jaxopt

KINDS = ("root", "fixed point", "minimum", "least squares")
_A = jnp.array([[2.0, 0.3], [0.3, 1.0]])


def system(y, b, a=_A):
    return a @ y + 0.1 * y**3 - b


def energy(y, b, a=_A):
    return 0.5 * y @ a @ y + 0.025 * jnp.sum(y**4) - b @ y


def exact(b, a=_A):
    """The root, by Newton's method with two differentiable steps at the end."""
    step = lambda y: y - jnp.linalg.solve(a + jnp.diag(0.3 * y**2), system(y, b, a))
    y = jax.lax.stop_gradient(jax.lax.fori_loop(0, 30, lambda _, y: step(y), jnp.zeros_like(b)))
    return step(step(y))


@dataclasses.dataclass(frozen=True)
class Setting:
    """How a library is asked to solve."""

    max_steps: int = 5000
    tolerance: float = 1e-12
    matrix_free: bool = False
    has_aux: bool = False


def functions(of_theta: Callable, a=_A) -> dict[str, Callable]:
    """For each kind its function of (y, θ), with b = of_theta(θ)."""
    return {
        "root": lambda y, theta: system(y, of_theta(theta), a),
        "fixed point": lambda y, theta: y - 0.2 * system(y, of_theta(theta), a),
        "minimum": lambda y, theta: energy(y, of_theta(theta), a),
        "least squares": lambda y, theta: system(y, of_theta(theta), a),
    }


# --- one call per library: (kind, function of (y, θ), y0, θ, setting) ↦ y ---------------------------


def by_jaxsci(kind, fn, y0, theta, setting):
    tight = {"rtol": setting.tolerance, "atol": setting.tolerance}
    residual, solver = {
        "root": (jsci.Root, jsci.solvers.Newton(**tight)),
        "fixed point": (jsci.FixedPoint, jsci.solvers.Newton(**tight)),
        "minimum": (functools.partial(jsci.Stationary, convex=True), jsci.solvers.Newton(**tight)),
        "least squares": (jsci.LeastSquares, jsci.solvers.LevenbergMarquardt(**tight)),
    }[kind]
    linear = jsci.linear.GMRES() if setting.matrix_free else None
    return jsci.solve(
        residual(fn),
        solver,
        y0,
        theta,
        adjoint=jsci.ImplicitAdjoint(linear),
        max_steps=setting.max_steps,
        has_aux=setting.has_aux,
    ).value


def by_optimistix(kind, fn, y0, theta, setting):
    tight = {"rtol": setting.tolerance, "atol": setting.tolerance}
    entry, solver = {
        "root": (optx.root_find, optx.Newton(**tight)),
        "fixed point": (optx.fixed_point, optx.FixedPointIteration(**tight)),
        "minimum": (optx.minimise, optx.BFGS(**tight)),
        "least squares": (optx.least_squares, optx.LevenbergMarquardt(**tight)),
    }[kind]
    # A matrix-free solve as the documentation of lineax shows it. CG on the normal equations where the
    # operator is not symmetric.
    linear = lx.Normal(lx.CG(rtol=1e-8, atol=1e-8)) if setting.matrix_free else None
    adjoint = optx.ImplicitAdjoint() if linear is None else optx.ImplicitAdjoint(linear_solver=linear)
    return entry(
        fn, solver, y0, theta, adjoint=adjoint, max_steps=setting.max_steps, has_aux=setting.has_aux
    ).value


def by_jaxopt(kind, fn, y0, theta, setting):
    maker = {
        "root": jaxopt.Broyden,
        "fixed point": jaxopt.FixedPointIteration,
        "minimum": jaxopt.LBFGS,
        "least squares": jaxopt.LevenbergMarquardt,
    }[kind]
    options = {"has_aux": True} if setting.has_aux else {}
    solver = maker(fn, tol=setting.tolerance, maxiter=setting.max_steps, **options)
    return solver.run(y0, theta).params


LIBRARIES = {"jaxsci": by_jaxsci, "optimistix": by_optimistix, "jaxopt": by_jaxopt}


# --- the hazards ------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Hazard:
    """A situation, and the scalar loss that is differentiated in it.

    - `loss`: (solve, kind) ↦ (b ↦ loss), with solve(kind, fn, y0, θ, setting) one of the above.
    - `expected`: b ↦ the loss without a solver, or None where there is no answer.
    - `kinds`: the conditions on which it makes sense.
    """

    name: str
    loss: Callable
    expected: Callable | None
    kinds: tuple[str, ...] = KINDS
    tolerance: float = 1e-4
    dtype: Any = jnp.float64


_Y0 = jnp.array([0.1, -0.2])


class _Affine(eqx.Module):
    """A module with an array, a number, a string and a function."""

    shift: jax.Array
    times: int
    name: str
    activation: Callable = jax.nn.softplus

    def __call__(self):
        return self.activation(self.shift) * self.times


def _total(y):
    return jnp.sum(jnp.sin(y))


def _closure(solve, kind):
    return lambda b: _total(solve(kind, functions(lambda _: b)[kind], _Y0, None, Setting()))


def _leaves(solve, kind):
    def loss(b):
        theta = {"b": b, "none": None, "times": 2, "name": "spring", "activation": jax.nn.softplus}
        of_theta = lambda t: t["activation"](t["b"]) * t["times"]
        return _total(solve(kind, functions(of_theta)[kind], _Y0, theta, Setting()))

    return loss


def _module(solve, kind):
    def loss(b):
        theta = _Affine(b, 2, "spring")
        return _total(solve(kind, functions(lambda t: t())[kind], _Y0, theta, Setting()))

    return loss


def _aux(solve, kind):
    fn = functions(lambda b: b)[kind]
    pair = lambda y, b: (fn(y, b), {"twice": 2 * y})
    return lambda b: _total(solve(kind, pair, _Y0, b, Setting(has_aux=True)))


def _scaled(scale, matrix_free):
    def loss(solve, kind):
        fn = functions(lambda b: b)[kind]
        setting = Setting(matrix_free=matrix_free)
        return lambda b: scale * _total(solve(kind, fn, _Y0, b, setting))

    return loss


def _single(solve, kind):
    fn = functions(lambda b: b, _A.astype(jnp.float32))[kind]
    setting = Setting(tolerance=1e-5)
    return lambda b: _total(solve(kind, fn, _Y0.astype(jnp.float32), b, setting))


# Rank one. The root, the minimum and so on form a line.
_SINGULAR = jnp.array([[1.0, 1.0], [1.0, 1.0]])


def _flat(a):
    """Of the linear system a y = (b₀, b₀)."""
    right = lambda b: jnp.stack([b[0], b[0]])
    return {
        "root": lambda y, b: a @ y - right(b),
        "fixed point": lambda y, b: y - 0.2 * (a @ y - right(b)),
        "minimum": lambda y, b: 0.5 * y @ a @ y - right(b) @ y,
        "least squares": lambda y, b: a @ y - right(b),
    }


def _singular(solve, kind):
    # From a solution: no solver has anything to do, and only the derivative is asked for.
    def loss(b):
        start = jax.lax.stop_gradient(jnp.stack([b[0], b[0]]) / 2)
        return jnp.sum(solve(kind, _flat(_SINGULAR)[kind], start, b, Setting()) * jnp.array([1.0, 2.0]))

    return loss


def _lanes(solve, kind):
    """Three systems (s 1 1ᵀ + …) y = …, of which the second is singular."""
    shifts = jnp.array([1.0, 0.0, 2.0])

    def loss(b):
        def lane(shift):
            a = _SINGULAR + shift * jnp.eye(2)
            fns = {
                "root": lambda y, t: t[1] @ y - jnp.stack([t[0][0], t[0][0]]),
                "fixed point": lambda y, t: y - 0.2 * (t[1] @ y - jnp.stack([t[0][0], t[0][0]])),
                "minimum": lambda y, t: 0.5 * y @ t[1] @ y - jnp.stack([t[0][0], t[0][0]]) @ y,
                "least squares": lambda y, t: t[1] @ y - jnp.stack([t[0][0], t[0][0]]),
            }
            start = jax.lax.stop_gradient(jnp.stack([b[0], b[0]]) / (2 + shift))
            return solve(kind, fns[kind], start, (b, a), Setting())

        return jnp.sum(jax.vmap(lane)(shifts) * jnp.array([[1.0, 1.0], [1.0, 2.0], [1.0, 1.0]]), axis=1)

    return loss


def _few(solve, kind):
    """One equation for two unknowns."""
    fns = {
        "root": lambda y, b: (y[0] + y[1] - b[0])[None],
        "least squares": lambda y, b: (y[0] + y[1] - b[0])[None],
    }

    def loss(b):
        start = jax.lax.stop_gradient(jnp.stack([b[0], b[0]]) / 2)
        return jnp.sum(solve(kind, fns[kind], start, b, Setting()) * jnp.array([1.0, 2.0]))

    return loss


def _rows(y, b):
    """Three equations for two unknowns, with a residual of size one."""
    return jnp.stack([y[0] ** 2 - b[0], y[1] + 0.5 * y[0] ** 2, y[0] + y[1] - b[1] - 1])


def _many(solve, kind):
    return lambda b: _total(solve(kind, _rows, jnp.array([0.9, 0.2]), b, Setting()))


def _many_exact(b):
    gradient = jax.grad(lambda y: 0.5 * jnp.sum(_rows(y, b) ** 2))
    step = lambda y: y - jnp.linalg.solve(jax.jacfwd(gradient)(y), gradient(y))
    start = jnp.array([0.9, 0.2])
    y = jax.lax.stop_gradient(jax.lax.fori_loop(0, 30, lambda _, y: step(y), start))
    return _total(step(step(y)))


def _too_many(solve, kind):
    return lambda b: _total(solve(kind, _rows, jnp.array([0.9, 0.2]), b, Setting()))


def _empty_leaf(solve, kind):
    def loss(b):
        theta = {"b": b, "empty": jnp.zeros((0, 3))}
        of_theta = lambda t: t["b"] + jnp.sum(t["empty"])
        return _total(solve(kind, functions(of_theta)[kind], _Y0, theta, Setting()))

    return loss


def _empty_unknown(solve, kind):
    fns = {
        "root": lambda y, b: y * b[0],
        "fixed point": lambda y, b: y * b[0],
        "minimum": lambda y, b: jnp.sum(y**2) * b[0],
        "least squares": lambda y, b: y * b[0],
    }
    return lambda b: jnp.sum(solve(kind, fns[kind], jnp.zeros(0), b, Setting())) + jnp.sum(b**2)


def _unconverged(solve, kind):
    fn = functions(lambda b: b)[kind]
    start = jnp.array([30.0, -40.0])
    return lambda b: _total(solve(kind, fn, start, b, Setting(max_steps=2)))


_softened = lambda b: _total(exact(2 * jax.nn.softplus(b)))
_plain = lambda b: _total(exact(b))


def _flat_lanes(b):
    return jnp.stack([2 * b[0] / 3, jnp.nan * b[0], 2 * b[0] / 4])


HAZARDS = (
    Hazard("closure", _closure, _plain),
    Hazard("None, int, string and function in θ", _leaves, _softened),
    Hazard("Equinox module as θ", _module, _softened),
    Hazard("auxiliary output", _aux, _plain),
    Hazard("cotangent of size 1e-9, matrix-free", _scaled(1e-9, True), lambda b: 1e-9 * _plain(b)),
    Hazard("cotangent of size 1e-30", _scaled(1e-30, False), lambda b: 1e-30 * _plain(b)),
    Hazard("cotangent of size 1e30, matrix-free", _scaled(1e30, True), lambda b: 1e30 * _plain(b)),
    Hazard("float32", _single, _plain, tolerance=1e-3, dtype=jnp.float32),
    Hazard("singular", _singular, None),
    Hazard("one singular lane of three", _lanes, _flat_lanes),
    Hazard("fewer equations than unknowns", _few, None, ("root", "least squares")),
    Hazard("more equations than unknowns", _many, _many_exact, ("least squares",)),
    Hazard("more equations than unknowns, as a root", _too_many, None, ("root",)),
    Hazard("empty array in θ", _empty_leaf, _plain),
    Hazard("empty unknown", _empty_unknown, lambda b: jnp.sum(b**2)),
    Hazard("solver out of steps", _unconverged, None),
)
