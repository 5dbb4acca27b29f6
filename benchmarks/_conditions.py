"""Small problems y*(a), a ∈ R², for every optimality condition: an oracle, and each library's way.

The oracle is a formula, or Newton's method written out and differentiated step by step. Every way is a
function a ↦ y of plain arrays that the library is asked to differentiate. None: the library has no such
condition.
"""

import dataclasses
import functools
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optimistix as optx

import jaxsci as jsci

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    import jaxopt

LIBRARIES = ("jaxsci", "optimistix", "jaxopt")
POINT = jnp.array([0.8, 0.35])

_TIGHT = 1e-12
_NEWTON = jsci.solvers.Newton(rtol=_TIGHT, atol=_TIGHT)
_MATRIX = jnp.array([[2.0, 0.3], [0.3, 1.0]])


@dataclasses.dataclass(frozen=True)
class Condition:
    """One optimality condition, on one problem."""

    name: str
    oracle: Callable
    ways: dict[str, Callable | None]


def _unrolled(equations: Callable, y):
    step = lambda y: y - jnp.linalg.solve(jax.jacfwd(equations)(y), equations(y))
    y = jax.lax.stop_gradient(jax.lax.fori_loop(0, 20, lambda _, y: step(y), y))
    return step(step(y))


def _target(a):
    """What the convex problems are drawn to; curved in a, so that second derivatives are not zero."""
    return jnp.stack([1.0 + a[0] ** 2, 0.5 * jnp.sin(a[1]) + a[0] * a[1]])


def _quadratic(y, a):
    return 0.5 * (y - _target(a)) @ _MATRIX @ (y - _target(a))


# --- smooth ---------------------------------------------------------------------------------------

_START = jnp.array([0.8, 0.6])


def _cubic(y, a):
    return jnp.stack([y[0] ** 3 + a[0] * y[1] - 1.0, y[1] ** 3 + jnp.sin(a[1]) * y[0] - 0.5])


def _bowl(y, a):
    return 0.25 * jnp.sum(y**4) + 0.5 * jnp.sum((y - a) ** 2) + a[0] * y[0] * y[1] ** 2


def _contraction(y, a):
    return 0.4 * jnp.tanh(jnp.array([[0.3, -0.8], [0.5, 0.2]]) @ y + a)


def _curved(y, a):
    return jnp.stack([y[0] ** 2 - a[0], y[1] + jnp.exp(0.3 * y[0]) - a[1], a[0] * y[0] * y[1] - 0.3])


_NEAR = jnp.array([-0.9, -0.4])


def _solved(residual, start, solver=_NEWTON):
    return lambda a: jsci.solve(residual, solver, start, a, throw=False).value


def _optimistix(entry, fn, solver, start):
    return lambda a: entry(fn, solver, start, a, throw=False, max_steps=1000).value


def _smooth():
    tight = {"rtol": _TIGHT, "atol": _TIGHT}
    yield Condition(
        "root",
        lambda a: _unrolled(lambda y: _cubic(y, a), _START),
        {
            "jaxsci": _solved(jsci.Root(_cubic), _START),
            "optimistix": _optimistix(optx.root_find, _cubic, optx.Newton(**tight), _START),
            "jaxopt": lambda a: jaxopt.Broyden(_cubic, tol=_TIGHT, maxiter=500).run(_START, a).params,
        },
    )
    yield Condition(
        "stationary point",
        lambda a: _unrolled(lambda y: jax.grad(_bowl)(y, a), _START),
        {
            "jaxsci": _solved(jsci.Stationary(_bowl), _START),
            "optimistix": _optimistix(optx.minimise, _bowl, optx.BFGS(**tight), _START),
            "jaxopt": lambda a: jaxopt.LBFGS(_bowl, tol=_TIGHT, maxiter=500).run(_START, a).params,
        },
    )
    yield Condition(
        "fixed point",
        lambda a: _unrolled(lambda y: y - _contraction(y, a), _START),
        {
            "jaxsci": _solved(jsci.FixedPoint(_contraction), _START),
            "optimistix": _optimistix(
                optx.fixed_point, _contraction, optx.FixedPointIteration(**tight), _START
            ),
            "jaxopt": lambda a: (
                jaxopt.FixedPointIteration(_contraction, tol=_TIGHT, maxiter=500).run(_START, a).params
            ),
        },
    )
    yield Condition(
        "least squares",
        lambda a: _unrolled(jax.grad(lambda y: 0.5 * jnp.sum(_curved(y, a) ** 2)), _NEAR),
        {
            "jaxsci": _solved(jsci.LeastSquares(_curved), _NEAR),
            "optimistix": _optimistix(optx.least_squares, _curved, optx.LevenbergMarquardt(**tight), _NEAR),
            "jaxopt": lambda a: (
                jaxopt.LevenbergMarquardt(_curved, tol=_TIGHT, maxiter=500).run(_NEAR, a).params
            ),
        },
    )
    yield Condition(
        "Newton fixed point",
        lambda a: _unrolled(lambda y: _cubic(y, a), _START),
        {"jaxsci": _solved(jsci.NewtonFixedPoint(_cubic), _START)},
    )
    field = lambda y, a: jnp.stack([y[1], -a[0] * jnp.sin(y[0]) - a[1] * y[1]])
    euler = lambda y, a: y - _START - 0.2 * field(y, a)
    step = jsci.ImplicitStep(lambda t, y, a: field(y, a))
    yield Condition(
        "implicit time step",
        lambda a: _unrolled(lambda y: euler(y, a), _START),
        {
            "jaxsci": lambda a: (
                jsci.solve(step, _NEWTON, _START, jsci.TimeStep(_START, 0.0, 0.2, a), throw=False).value
            ),
            "optimistix": _optimistix(optx.root_find, euler, optx.Newton(**tight), _START),
            "jaxopt": lambda a: jaxopt.Broyden(euler, tol=_TIGHT, maxiter=500).run(_START, a).params,
        },
    )


# --- constraints ----------------------------------------------------------------------------------


def _equality(x, a):
    return jnp.stack([x[0] + (1 + a[1] ** 2) * x[1] - 1.0])


def _inequality(x, a):
    """The first row is active, the second is not."""
    return jnp.stack([x[0] + x[1] - a[0], -x[0] - 5.0])


def _kkt(start, equality=None, inequality=None):
    problem = jsci.KKT(_quadratic, equality, inequality)
    first = problem.start(start, POINT)
    return lambda a: jsci.solve(problem, _NEWTON, first, a, throw=False).value[0]


def _with_multiplier(a, row):
    """min of the quadratic with row(x) = 0: the linear system of the KKT conditions."""
    normal = jax.jacfwd(row)(jnp.zeros(2))
    matrix = jnp.block([[_MATRIX, normal[:, None]], [normal[None], jnp.zeros((1, 1))]])
    right = jnp.append(_MATRIX @ _target(a), -row(jnp.zeros(2)))
    return jnp.linalg.solve(matrix, right)[:2]


def _by_optimistix(a):
    rows = lambda y, a: jnp.append(
        jax.grad(lambda x: _quadratic(x, a) + y[2] * _equality(x, a)[0])(y[:2]), _equality(y[:2], a)
    )
    solver = optx.Newton(rtol=_TIGHT, atol=_TIGHT)
    return optx.root_find(rows, solver, jnp.zeros(3), a, throw=False).value[:2]


def _by_equality_qp(a):
    row = jnp.stack([1.0, 1 + a[1] ** 2])[None]
    solver = jaxopt.EqualityConstrainedQP(tol=_TIGHT)
    solution = solver.run(params_obj=(_MATRIX, -_MATRIX @ _target(a)), params_eq=(row, jnp.ones(1)))
    return solution.params.primal


def _by_osqp(a):
    solver = jaxopt.OSQP(tol=1e-11, maxiter=20000)
    rows = jnp.array([[1.0, 1.0], [-1.0, 0.0]])
    bounds = jnp.stack([a[0], jnp.asarray(5.0, a.dtype)])
    solution = solver.run(params_obj=(_MATRIX, -_MATRIX @ _target(a)), params_ineq=(rows, bounds))
    return solution.params.primal


def _nonlinear(y, a):
    return jnp.stack([y[0] ** 2 + a[0] * y[1] + jnp.sin(y[2]) - a[1] - 1.0])


def _nearest(a):
    """The point of r = 0 nearest to the origin, with its multiplier."""
    rows = lambda z: jnp.append(
        jax.grad(lambda y: 0.5 * y @ y + z[3] * _nonlinear(y, a)[0])(z[:3]), _nonlinear(z[:3], a)
    )
    return _unrolled(rows, jnp.array([0.9, 0.4, 0.4, -0.4]))[:3]


def _constrained():
    yield Condition(
        "KKT, equality",
        lambda a: _with_multiplier(a, lambda x: _equality(x, a)[0]),
        {
            "jaxsci": _kkt(jnp.zeros(2), equality=_equality),
            "optimistix": _by_optimistix,
            "jaxopt": _by_equality_qp,
        },
    )
    yield Condition(
        "KKT, inequality",
        lambda a: _with_multiplier(a, lambda x: _inequality(x, a)[0]),
        {"jaxsci": _kkt(jnp.zeros(2), inequality=_inequality), "jaxopt": _by_osqp},
    )
    yield Condition(
        "minimum norm",
        _nearest,
        {"jaxsci": _solved(jsci.MinNorm(_nonlinear), jnp.array([0.9, 0.4, 0.4]))},
    )
    # 0 ≤ y ⟂ A (y − target) ≥ 0 is the minimum of the quadratic over y ≥ 0 with a target below 0.
    shifted = lambda a: _target(a) - jnp.stack([0.0, 2.0])
    force = lambda y, a: _MATRIX @ (y - shifted(a))
    yield Condition(
        "complementarity",
        lambda a: jnp.stack([(_MATRIX @ shifted(a))[0] / _MATRIX[0, 0], 0 * a[0]]),
        {"jaxsci": _solved(jsci.Complementarity(force), jnp.ones(2))},
    )
    cone = jsci.residuals.SecondOrderCone(3)
    program = jsci.ConicProgram(cone)

    def disc(a):
        """max of p·x over |x| ≤ r: −A x + s = b with s = (r, x)."""
        rows = jnp.array([[0.0, 0.0], [-1.0, 0.0], [0.0, -1.0]])
        return rows, jnp.stack([1 + a[1] ** 2, 0 * a[0], 0 * a[0]]), -_target(a)

    def conic(a):
        start = program.start(jax.lax.stop_gradient(disc(a)))
        return jsci.solve(program, _NEWTON, start, disc(a), throw=False).value[0]

    yield Condition(
        "conic program",
        lambda a: (1 + a[1] ** 2) * _target(a) / jnp.linalg.norm(_target(a)),
        {"jaxsci": conic},
    )


# --- projections and proximal maps ----------------------------------------------------------------

_LIPSCHITZ = 2.1
_WEIGHTS = lambda a: 0.3 + a[1] ** 2


def _shrink(v, weight):
    return jnp.sign(v) * jnp.maximum(jnp.abs(v) - weight, 0)


def _lasso(y, a):
    return 0.5 * y @ _MATRIX @ y - y @ _MATRIX @ (_target(a) * jnp.array([1.0, 0.1]))


def _lasso_point(a):
    return _target(a) * jnp.array([1.0, 0.1])


def _box_oracle(a):
    """The first entry is at its upper bound, the second is free."""
    top = 1 + a[1] ** 2
    y1 = _target(a)[1] - _MATRIX[1, 0] / _MATRIX[1, 1] * (top - _target(a)[0])
    return jnp.stack([top, y1])


def _simplex_oracle(a):
    """Σ y = 1 with all entries positive: the KKT system of ½‖y − p‖²."""
    p = _soft_target(a)
    return p - (jnp.sum(p) - 1) / 3


def _soft_target(a):
    return jnp.stack([0.4 + 0.1 * a[0] ** 2, 0.3 * jnp.cos(a[1]), 0.2 + 0.1 * a[0] * a[1]])


def _on_simplex(y, a):
    return 0.5 * jnp.sum((y - _soft_target(a)) ** 2)


def _projected():
    iterations = {"tol": _TIGHT, "maxiter": 5000}
    bounds = lambda a: (-3.0 * jnp.ones(2), jnp.stack([1 + a[1] ** 2, 3.0 + 0 * a[0]]))
    start = jnp.zeros(2)
    yield Condition(
        "proximal gradient",
        lambda a: jnp.stack([((_MATRIX @ _lasso_point(a))[0] - _WEIGHTS(a)) / _MATRIX[0, 0], 0 * a[0]]),
        {
            "jaxsci": _solved(
                jsci.ProximalGradient(
                    _lasso, lambda v, step, a: _shrink(v, step * _WEIGHTS(a)), step=1 / _LIPSCHITZ
                ),
                start,
            ),
            "jaxopt": lambda a: (
                jaxopt.ProximalGradient(_lasso, jaxopt.prox.prox_lasso, **iterations)
                .run(start, _WEIGHTS(a), a)
                .params
            ),
        },
    )
    yield Condition(
        "projected gradient",
        _box_oracle,
        {
            "jaxsci": _solved(
                jsci.ProjectedGradient(_quadratic, lambda v, a: jnp.clip(v, *bounds(a)), step=1 / _LIPSCHITZ),
                start,
            ),
            "jaxopt": lambda a: (
                jaxopt.ProjectedGradient(_quadratic, jaxopt.projection.projection_box, **iterations)
                .run(start, bounds(a), a)
                .params
            ),
        },
    )
    thirds = jnp.full(3, 1 / 3)
    yield Condition(
        "mirror descent",
        _simplex_oracle,
        {
            "jaxsci": _solved(jsci.MirrorDescent(_on_simplex, step=0.5), thirds),
            "jaxopt": lambda a: (
                jaxopt.MirrorDescent(
                    _on_simplex,
                    jaxopt.MirrorDescent.make_projection_grad(lambda v, _: jax.nn.softmax(v), jnp.log),
                    stepsize=0.5,
                    **iterations,
                )
                .run(thirds, None, a)
                .params
            ),
        },
    )
    blocks = {"free": lambda v, step, a: v, "sparse": lambda v, step, a: _shrink(v, step * _WEIGHTS(a))}
    pair = lambda y: jnp.stack([y["free"], y["sparse"]])
    yield Condition(
        "block proximal gradient",
        lambda a: jnp.stack([(_MATRIX @ _lasso_point(a))[0] / _MATRIX[0, 0], 0 * a[0]]),
        {
            "jaxsci": lambda a: pair(
                jsci.solve(
                    jsci.BlockProximal(lambda y, a: _lasso(pair(y), a), blocks, {"free": 0.4, "sparse": 0.4}),
                    _NEWTON,
                    {"free": jnp.array(0.0), "sparse": jnp.array(0.0)},
                    a,
                    throw=False,
                ).value
            ),
        },
    )


@functools.cache
def conditions() -> tuple[Condition, ...]:
    return (*_smooth(), *_constrained(), *_projected())


def derivatives(condition: Condition, points) -> tuple[Any, Any, Any]:
    """y, ∂y/∂a and ∂²y/∂a² of the oracle at each point."""
    first = jax.jacfwd(condition.oracle)
    lanes = jax.vmap(lambda a: (condition.oracle(a), first(a), jax.jacfwd(first)(a)))
    return tuple(np.asarray(x) for x in jax.jit(lanes)(points))
