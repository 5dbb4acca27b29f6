"""Every public module, forward and gradient in float32, lowers for CUDA and TPU.

`jax.export` lowers on this CPU for other platforms: it stops at a primitive that they do not have
and at a host callback. It does not run the devices' own compilers.
"""

import dataclasses
import importlib
import inspect
import math
import pkgutil
import re
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.export
import jax.numpy as jnp
import lineax as lx
import numpy as np
import optax
import pytest

import jaxsci as jsci
from jaxsci import convex, layers, nn, pde, pinn
from jaxsci.pde import equations, reference
from jaxsci.pinn._driver import make_driver
from jaxsci.pinn._terms import Objective
from jaxsci.pinn._unknown import network_of, split

PLATFORMS = ("cuda", "tpu")

# Targets of custom calls that leave the device or exist on CPUs only.
FORBIDDEN = re.compile(r"callback|lapack_|_cpu|host_", re.IGNORECASE)


def _float32(tree):
    def cast(x):
        if eqx.is_array(x) and jnp.issubdtype(x.dtype, jnp.floating):
            return x.astype(jnp.float32)
        return x

    return jax.tree.map(cast, tree)


def lower_for_accelerators(f: Callable, *args: Any) -> str:
    """Lowers `f(*args)` for CUDA and TPU, as a user there would: in float32, with x64 off.

    Arrays in `f` and in `args` are inputs. Returns the lowered text; raises `AssertionError` if it
    calls back to the host or calls what only a CPU has.
    """
    dynamic, static = eqx.partition((f, args), eqx.is_array)
    dynamic = _float32(dynamic)

    def program(dynamic):
        f, args = eqx.combine(dynamic, static)
        return eqx.filter(f(*args), eqx.is_array)

    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), dynamic)
    x64 = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", False)
    try:
        exported = jax.export.export(jax.jit(program), platforms=PLATFORMS)(shapes)
    except (NotImplementedError, TypeError, ValueError) as error:
        # What has no lowering. (For some effects on several platforms, jax 0.10 has a TypeError.)
        raise AssertionError(f"does not lower for {PLATFORMS}: {error}") from error
    finally:
        jax.config.update("jax_enable_x64", x64)
    assert tuple(exported.platforms) == PLATFORMS
    text = exported.mlir_module()
    targets = set(re.findall(r"custom_call\s+@([\w.$]+)", text))
    targets |= set(re.findall(r'call_target_name\s*=\s*"([^"]+)"', text))
    found = sorted(t for t in targets if FORBIDDEN.search(t))
    assert not found, f"calls that an accelerator cannot make on its own: {found}"
    assert not re.search(r"tensor<(\d+x)*f64>", text), "float64 in a float32 program"
    return text


def scalar(f: Callable) -> Callable:
    """Σ|·|² over every floating array that `f` returns."""

    def total(operands):
        f, args = operands
        leaves = jax.tree.leaves(eqx.filter(f(*args), eqx.is_inexact_array))
        assert leaves, "a case must return floating arrays, to have a gradient"
        return sum(jnp.sum(jnp.abs(x) ** 2) for x in leaves)

    # Differentiated in the arrays of f as well as in its arguments.
    return lambda *args: eqx.filter_grad(total)((f, args))


@dataclasses.dataclass(frozen=True)
class Case:
    build: Callable[[], tuple]
    covers: tuple[type, ...]
    gradient: bool


CASES: dict[str, Case] = {}


def case(*covers: type, gradient: bool = True):
    """Adds a case. The function returns (f, *args), with `f(*args)` giving floating arrays.

    `covers` are the public classes that the case stands for. `gradient=False` is for what has no
    derivative by design.
    """

    def add(build):
        CASES[build.__name__] = Case(build, covers, gradient)
        return build

    return add


# Public Equinox classes that no case covers, each with the reason.
EXEMPT: dict[str, str] = {
    "jaxsci.linear.KLU": "is SuiteSparse, on the CPU only",
    "jaxsci.solvers.External": "runs on the host, which an exported program does not have",
    "jaxsci.pde.Initial": "a record: the name of a field and an array",
    "jaxsci.pde.Part": "a name of a part of a boundary",
    "jaxsci.pde.PointCloud": "draws points with NumPy, before any program runs, and has no distance",
    "jaxsci.pde.Mesh": "draws points with NumPy, before any program runs, and has no distance",
    "jaxsci.pde.Sobol": "draws points with SciPy, before any program runs",
    "jaxsci.pde.Halton": "draws points with SciPy, before any program runs",
    "jaxsci.pde.LatinHypercube": "draws points with SciPy, before any program runs",
    "jaxsci.pde.Uniform": "draws points with NumPy, before any program runs",
    "jaxsci.pde.Lattice": "draws points with NumPy, before any program runs",
    "jaxsci.pde.reference.ConservationLaw": "computes on the host with NumPy, in float64",
    "jaxsci.pde.reference.Reference": "computes on the host with NumPy, in float64",
    "jaxsci.pde.datasets.Paper": "draws samples with NumPy, before any program runs",
    "jaxsci.pde.datasets.Rich": "draws samples with NumPy, before any program runs",
    "jaxsci.testing.ImplicitReport": "the figures of a check on the host",
}


def newton():
    return jsci.solvers.Newton(rtol=1e-4, atol=1e-4)


def solved(residual, y0, args, solver=None, adjoint=None):
    """A front-door solve; `throw=False`, since raising an error needs the host."""
    adjoint = jsci.ImplicitAdjoint() if adjoint is None else adjoint
    solver = newton() if solver is None else solver
    return lambda y0, args: (
        jsci.solve(residual, solver, y0, args, adjoint=adjoint, throw=False).value
    ), y0, args  # fmt: skip


@case(jsci.Root, jsci.ImplicitAdjoint, jsci.solvers.Newton, jsci.Solution, jsci.Stats)
def root():
    residual = jsci.Root(lambda y, a: y**3 + a * y - jnp.roll(y, 1) - 1.0)
    return solved(residual, jnp.ones(4), jnp.linspace(1.0, 2.0, 4))


@case()
def root_of_a_batch():
    residual = jsci.Root(lambda y, a: y**3 + a * y - 1.0)
    solve, y0, args = solved(residual, jnp.ones(4), jnp.linspace(1.0, 2.0, 4))
    return jax.vmap(solve, (None, 0)), y0, jnp.stack([args, 2 * args])


@case(jsci.FixedPoint, jsci.solvers.Picard)
def fixed_point():
    residual = jsci.FixedPoint(lambda y, w: jnp.tanh(w @ y + 1.0))
    return solved(residual, jnp.ones(3), 0.3 * jnp.eye(3), jsci.solvers.Picard(1e-4, 1e-4))


@case(jsci.solvers.Anderson, layers.FixedPointLayer)
def deep_equilibrium():
    start = lambda w: jnp.ones_like(w[0])
    layer = layers.FixedPointLayer(lambda z, w: jnp.tanh(w @ z + 1.0), start=start, throw=False)
    return lambda w: layer(w), 0.3 * jnp.eye(3)


@case(jsci.solvers.Broyden, layers.ImplicitLayer)
def implicit_layer():
    residual = jsci.Root(lambda y, a: y**3 + a * y - 1.0)
    solver = jsci.solvers.Broyden(rtol=1e-4, atol=1e-4)
    layer = layers.ImplicitLayer(residual, solver, jnp.ones(3), throw=False)
    return lambda layer, a: layer(a), layer, jnp.linspace(1.0, 2.0, 3)


@case(layers.ArgminLayer)
def argmin_layer():
    objective = lambda y, a: jnp.sum((y - a) ** 2)
    layer = layers.ArgminLayer(
        objective, jnp.zeros_like, projection=lambda v, a: jnp.clip(v, 0, 1), throw=False
    )
    return lambda a: layer(a), jnp.linspace(-0.5, 1.7, 3)


@case(jsci.solvers.InteriorPoint, jsci.residuals.QuadraticProgram, layers.QPLayer)
def quadratic_program():
    layer = layers.QPLayer(A=jnp.ones((1, 3)), b=jnp.ones(1), G=-jnp.eye(3), h=jnp.zeros(3), throw=False)
    return lambda layer, p, q: layer(P=p, q=q), layer, jnp.eye(3), jnp.arange(3.0)


@case(jsci.solvers.SelfScaledBFGS, jsci.solvers.SelfScaledBroyden, jsci.solvers.StrongWolfe)
def self_scaled():
    residual = jsci.Stationary(lambda y, a: jnp.sum((y - a) ** 2) + jnp.sum(y**4))

    def both(y0, args):
        solvers = (jsci.solvers.SelfScaledBFGS(1e-4), jsci.solvers.SelfScaledBroyden(1e-4))
        return [jsci.solve(residual, solver, y0, args, throw=False).value for solver in solvers]

    return both, jnp.ones(3), jnp.array([0.5, -0.2, 0.1])


@case(jsci.train.Sum, jsci.train.MGDA, jsci.train.ConFIG, jsci.train.PCGrad, gradient=False)
def directions():
    every = (jsci.train.Sum(), jsci.train.MGDA(), jsci.train.ConFIG(), jsci.train.PCGrad())
    return lambda g, losses: [d(g, losses) for d in every], jnp.eye(3, 5) - 0.3, jnp.ones(3)


@case(
    jsci.train.Fixed,
    jsci.train.Product,
    jsci.train.Terms,
    jsci.train.GradientNorm,
    jsci.train.NeuralTangent,
    jsci.train.ReLoBRaLo,
    jsci.train.ResidualAttention,
    jsci.train.SelfAdaptive,
    jsci.train.Causal,
    gradient=False,
)
def weights():
    """All methods at once: no gradient flows into weights."""
    methods = jsci.train.Product(
        jsci.train.Fixed(),
        jsci.train.GradientNorm(),
        jsci.train.NeuralTangent(),
        jsci.train.ReLoBRaLo(),
        jsci.train.ResidualAttention(),
        jsci.train.SelfAdaptive(),
        jsci.train.Causal(),
    )
    function = lambda p: {"a": jnp.sin(p), "b": p[:2] ** 2}

    def update(p, times):
        r = function(p)
        terms = jsci.train.Terms(function, p, {"a": times})
        return methods.update(methods.init(r), r, terms, 0, jax.random.key(0))[0]

    return update, jnp.ones(4), jnp.linspace(0.0, 1.0, 4)


@case(jsci.Stationary)
def stationary():
    residual = jsci.Stationary(lambda y, a: jnp.sum((y - a) ** 2) + jnp.sum(y**4))
    return solved(residual, jnp.ones(3), jnp.arange(3.0))


@case(jsci.LeastSquares)
def least_squares():
    def fn(y, a):
        return jnp.concatenate([y**2 - a, y - 1.0])

    exact = solved(jsci.LeastSquares(fn), jnp.ones(3), jnp.arange(1.0, 4.0))
    rough = solved(jsci.LeastSquares(fn, gauss_newton=True), jnp.ones(3), jnp.arange(1.0, 4.0))
    return lambda y0, args: (exact[0](y0, args), rough[0](y0, args)), *exact[1:]


@case()
def attach_to_a_given_solution():
    residual = jsci.Root(lambda y, a: y**2 - a)
    return (
        lambda y, a: jsci.attach(residual, y, a),
        jnp.sqrt(jnp.arange(1.0, 4.0)),
        jnp.arange(1.0, 4.0),
    )


def linear_solver_case(solver):
    matrix = jnp.diag(jnp.arange(2.0, 5.0)) + 0.1 * jnp.ones((3, 3))
    residual = jsci.Root(lambda y, a: a @ y - 1.0)
    adjoint = jsci.ImplicitAdjoint(linear_solver=solver)
    return solved(residual, jnp.ones(3), matrix, adjoint=adjoint)


@case(jsci.OneStepAdjoint, jsci.NeumannAdjoint, jsci.linear.Neumann, jsci.UnrolledAdjoint)
def estimators():
    residual = jsci.FixedPoint(lambda y, w: jnp.tanh(w @ y + 1.0))
    adjoints = (jsci.OneStepAdjoint(), jsci.NeumannAdjoint(3), jsci.UnrolledAdjoint())
    many = [solved(residual, jnp.ones(3), 0.3 * jnp.eye(3), adjoint=adjoint) for adjoint in adjoints]
    return lambda y0, args: [f(y0, args) for f, _, _ in many], *many[0][1:]


@case(jsci.EquilibriumPropagation, jsci.PreActivation)
def equilibrium_propagation():
    residual = jsci.PreActivation(lambda y, w: w @ y + 1.0, jnp.tanh)
    return solved(residual, jnp.ones(3), 0.3 * jnp.eye(3), adjoint=jsci.EquilibriumPropagation())


@case()
def nudged_equilibria():
    residual = jsci.PreActivation(lambda y, w: w @ y + 1.0, jnp.tanh)

    def nudged(y0, w):
        loss = lambda y, _: jnp.sum(y**2)
        return jsci.equilibrium_propagation(residual, loss, newton(), y0, w, beta=0.1, points=3, throw=False)

    return nudged, jnp.ones(3), 0.3 * jnp.eye(3)


@case(jsci.KKT)
def kkt():
    residual = jsci.KKT(lambda x, a: jnp.sum((x - a) ** 2), lambda x, a: jnp.sum(x**2) - a[0])
    args = jnp.arange(1.0, 4.0)
    inside = jsci.KKT(lambda x, a: jnp.sum((x - a) ** 2), None, lambda x, a: x - 1.5)
    return lambda y0, args: (
        solved(residual, residual.start(y0, args), args)[0](residual.start(y0, args), args),
        solved(inside, inside.start(y0, args), args)[0](inside.start(y0, args), args),
    ), jnp.ones(3), args  # fmt: skip


@case(jsci.Complementarity)
def complementarity():
    residual = jsci.Complementarity(lambda y, a: 2 * y + jnp.roll(y, 1) - a, upper=1.5)
    return solved(residual, jnp.ones(3), jnp.arange(1.0, 4.0))


@case(jsci.ProximalGradient, jsci.ProjectedGradient, jsci.MirrorDescent, jsci.BlockProximal)
def splittings():
    half = lambda y, a: 0.5 * jnp.sum((y - a) ** 2)
    shrink = lambda v, step, a: jnp.sign(v) * jnp.maximum(jnp.abs(v) - step * 0.3, 0)
    residuals = (
        jsci.ProximalGradient(half, shrink, step=0.5),
        jsci.ProjectedGradient(half, lambda v, a: jnp.clip(v, 0, 1.5), step=0.5),
        jsci.MirrorDescent(half),
        jsci.BlockProximal(lambda y, a: half(jnp.stack(y), a), (shrink,) * 3),
    )

    def solve(y0, a):
        guesses = (y0, y0, y0, tuple(y0))
        return [
            jsci.solve(r, newton(), y, a, throw=False).value for r, y in zip(residuals, guesses, strict=True)
        ]

    return solve, jnp.full(3, 0.3), jnp.array([0.1, 0.9, 2.0])


@case(jsci.NewtonFixedPoint, jsci.MinNorm)
def eliminated():
    newtons = jsci.NewtonFixedPoint(lambda y, a: y**3 + a * y - 1.0)
    nearest = jsci.MinNorm(lambda y, a: jnp.sum(y**2) - a[0], 0.5)
    first, second = solved(newtons, jnp.ones(3), None)[0], solved(nearest, jnp.ones(3), None)[0]
    return lambda y, a: (first(y, a), second(y, a)), jnp.ones(3), jnp.arange(1.0, 4.0)


@case(
    jsci.ImplicitStep,
    jsci.TimeStep,
    jsci.residuals.Theta,
    jsci.residuals.OneStage,
    jsci.residuals.BDF2,
)
def implicit_steps():
    schemes = jsci.residuals.Theta(0.5), jsci.residuals.OneStage(), jsci.residuals.BDF2()
    steps = [jsci.ImplicitStep(lambda t, y, a: a * jnp.sin(y) - t, scheme) for scheme in schemes]

    def solve(y, step):
        return [jsci.solve(r, newton(), y, step, throw=False).value for r in steps]

    start = jsci.TimeStep(jnp.ones(2), jnp.array(0.1), jnp.array(0.2), -jnp.ones(2), jnp.ones(2))
    return solve, jnp.ones(2), start


@case(
    jsci.ConicProgram,
    jsci.residuals.ZeroCone,
    jsci.residuals.NonnegativeCone,
    jsci.residuals.SecondOrderCone,
    jsci.residuals.SemidefiniteCone,
)
def conic_program():
    names = ("ZeroCone", "NonnegativeCone", "SecondOrderCone", "SemidefiniteCone")
    cones = [vars(jsci.residuals)[name](n) for name, n in zip(names, (1, 2, 3, 2), strict=True)]
    program = jsci.ConicProgram(tuple(cones))

    def solve(args):
        return jsci.solve(program, newton(), program.start(args, steps=5), args, throw=False).value

    return solve, (jnp.eye(9)[:, :4] + 0.1, jnp.ones(9), jnp.ones(4))


@case(jsci.linear.LU, jsci.linear.Operator)
def linear_lu():
    return linear_solver_case(jsci.linear.LU())


@case(jsci.solvers.NewtonKrylov, jsci.solvers.Chord, jsci.solvers.PseudoTransient)
def newtons_family():
    residual = jsci.Root(lambda y, a: y**3 + a * y - 1.0)
    kinds = (jsci.solvers.NewtonKrylov, jsci.solvers.Chord, jsci.solvers.PseudoTransient)
    many = [solved(residual, jnp.ones(3), jnp.arange(1.0, 4.0), kind(rtol=1e-4, atol=1e-4)) for kind in kinds]
    return lambda y0, args: [f(y0, args) for f, _, _ in many], *many[0][1:]


@case(jsci.linear.Sparse)
def linear_sparse():
    return linear_solver_case(jsci.linear.Sparse(np.ones((3, 3), bool)))


@case(jsci.linear.IncompleteLU)
def linear_incomplete():
    near = jsci.linear.IncompleteLU(np.ones((3, 3), bool))
    return linear_solver_case(jsci.linear.GMRES(rtol=1e-5, preconditioner=near))


@case(pde.MethodOfLines)
def lines():
    cells = {"x": pde.Cells([0.0, 0.2, 0.5, 1.0])}
    walls = [pde.Dirichlet("u", face("x"), 0.0) for face in (pde.low, pde.high)]
    lines = pde.MethodOfLines(equations.Burgers(0.1), cells, walls)
    # One implicit Euler step with the band.
    step = jsci.Root(lambda y, args: y - args[1] - 0.1 * args[0](0.0, y, None))
    solver = jsci.solvers.Newton(1e-4, 1e-4, linear_solver=lines.linear_solver)
    adjoint = jsci.ImplicitAdjoint(lines.linear_solver)
    return solved(step, jnp.ones((3, 1)), (lines, jnp.ones((3, 1))), solver, adjoint)


@case(jsci.linear.Banded)
def linear_banded():
    # Products of the Jacobian with vectors, and the transposed solve.
    a = jnp.linspace(1.0, 2.0, 24)
    fn = lambda y, a: y**3 + (2 + a) * y - jnp.roll(y, 1) - jnp.roll(y, -1) - 1.0
    chain = lambda y, a: y**3 + (2 + a) * y - jnp.pad(y, (1, 0))[:-1] - jnp.pad(y, (0, 1))[1:] - 1.0
    ring, plain = jsci.linear.Banded(1, 1, periodic=True), jsci.linear.Banded(1, 1)
    wide = jsci.linear.Banded(5, 4)
    problems = ((fn, ring), (chain, plain), (chain, wide))
    many = [solved(jsci.Root(f), a, a, adjoint=jsci.ImplicitAdjoint(s))[0] for f, s in problems]
    return lambda y, a: [f(y, a) for f in many], jnp.ones(24), a


@case(jsci.linear.BlockDiagonal, jsci.linear.BlockTridiagonal, jsci.linear.Bordered)
def linear_blocks():
    block, chain = jsci.linear.BlockDiagonal(6), jsci.linear.BlockTridiagonal(2)
    solvers = (block, chain, jsci.linear.BlockTridiagonal(2, parallel=True), jsci.linear.Bordered(chain, 2))

    def solve(b):
        a = jsci.linear.Operator(lambda x: 3 * x + jnp.flip(x), b)
        return [s.attempt(a, s.prepare(a), b, transpose=True)[0] for s in solvers]

    return solve, jnp.ones(6)


@case(
    jsci.linear.Kronecker,
    jsci.linear.Spectral,
    jsci.linear.Fourier,
    jsci.linear.Sine,
    jsci.linear.Cosine,
)
def linear_transforms():
    ends = (jsci.linear.Sine(), jsci.linear.Cosine(), jsci.linear.Fourier())

    def solve(b, a, h):
        symbol = jsci.linear.laplacian_symbol(ends, (2, 3, 2), (h, h, h), 1.0)
        return jsci.linear.Spectral(ends, symbol)(b), jsci.linear.Kronecker((a, a), h)(b[:9])

    return solve, jnp.ones(12), jnp.eye(3), jnp.array(0.5)


@case(jsci.linear.Cholesky)
def linear_cholesky():
    return linear_solver_case(jsci.linear.Cholesky())


@case(jsci.linear.PseudoInverse)
def linear_pseudo_inverse():
    return linear_solver_case(jsci.linear.PseudoInverse())


@case(jsci.linear.Reuse)
def linear_reuse():
    a = jnp.linspace(1.0, 2.0, jsci.linear.Reuse.SMALLEST)
    return solved(jsci.Root(lambda y, a: y**3 + a * y - jnp.roll(y, 1) - 1.0), jnp.ones_like(a), a)


@case(jsci.AdjointInfo, jsci.Conditioning)
def diagnosis():
    residual = jsci.Root(lambda y, a: y**3 + a * y - jnp.roll(y, 1) - 1.0)
    return lambda y, a: (
        jsci.adjoint_info(residual, y, a, y).residual + jsci.check(residual, y, a).derivative_bound
    ), jnp.ones(4), jnp.linspace(1.0, 2.0, 4)  # fmt: skip


@case(jsci.linear.BiCGStab)
def linear_bicgstab():
    return linear_solver_case(jsci.linear.BiCGStab(rtol=1e-5))


@case(jsci.linear.CG)
def linear_cg():
    return linear_solver_case(jsci.linear.CG(rtol=1e-5))


@case(jsci.interop.LinearFunction)
def linear_function():
    cg = lambda matvec, b: jax.scipy.sparse.linalg.cg(matvec, b, tol=1e-5)[0]
    return linear_solver_case(jsci.interop.LinearFunction(cg))


@case(jsci.linear.GMRES)
def linear_gmres():
    return linear_solver_case(jsci.linear.GMRES(rtol=1e-5))


@case(jsci.linear.MINRES, jsci.linear.LSMR, jsci.linear.LeastSquaresSolution, jsci.linear.FGMRES)
def linear_krylov():
    loose = {"rtol": 1e-5}
    inner = jsci.linear.FGMRES(preconditioner=jsci.linear.GMRES(restart=2, max_cycles=1), **loose)
    solvers = (jsci.linear.MINRES(**loose), jsci.linear.LSMR(**loose), inner)
    cases = [linear_solver_case(solver) for solver in solvers]
    return lambda y0, args: [f(y0, args) for f, _, _ in cases], *cases[0][1:]


@case(jsci.linear.DeflatedCG, jsci.linear.RecycledGMRES, jsci.linear.Kaczmarz, jsci.linear.SketchAndProject)
def linear_deflated_and_sketched():
    solvers = (
        jsci.linear.DeflatedCG(jnp.ones((1, 3), jnp.float32), rtol=1e-5),
        jsci.linear.RecycledGMRES(jnp.ones((1, 3), jnp.float32), rtol=1e-5),
        jsci.linear.Kaczmarz(rtol=1e-4),
        jsci.linear.SketchAndProject(size=2, rtol=1e-4),
    )
    cases = [linear_solver_case(solver) for solver in solvers]
    return lambda y0, args: [f(y0, args) for f, _, _ in cases], *cases[0][1:]


@case(
    jsci.linear.Jacobi,
    jsci.linear.BlockJacobi,
    jsci.linear.Chebyshev,
    jsci.linear.Nystrom,
    jsci.linear.SSOR,
    jsci.linear.SSORCG,
    jsci.linear.SOR,
    jsci.linear.NaturalOrder,
    jsci.linear.BandedOrder,
)
def linear_preconditioned():
    made = (
        jsci.linear.Jacobi(),
        jsci.linear.BlockJacobi(1),
        jsci.linear.Chebyshev(2),
        jsci.linear.Nystrom(2, 1.0),
        jsci.linear.SSOR(1.2, jsci.linear.BandedOrder(2)),
    )
    solvers = [jsci.linear.CG(rtol=1e-5, preconditioner=m) for m in made]
    solvers += [jsci.linear.SSORCG(1.2, rtol=1e-5), jsci.linear.SOR(1.2, rtol=1e-5)]
    cases = [linear_solver_case(solver) for solver in solvers]
    return lambda y0, args: [f(y0, args) for f, _, _ in cases], *cases[0][1:]


@case(jsci.linear.Multigrid, jsci.linear.AdditiveSchwarz, jsci.linear.Wavefront, jsci.linear.RedBlack)
def linear_on_a_grid():
    residual = jsci.Root(lambda y, a: 5 * y - jnp.roll(y, 1, 0) - jnp.roll(y, 1, 1) - a)
    solvers = (
        jsci.linear.GMRES(rtol=1e-5, preconditioner=jsci.linear.Multigrid(coarsest=2)),
        jsci.linear.GMRES(rtol=1e-5, preconditioner=jsci.linear.AdditiveSchwarz((2, 2))),
        jsci.linear.SOR(1.1, jsci.linear.Wavefront(), rtol=1e-5),
        jsci.linear.SOR(1.1, jsci.linear.RedBlack(), rtol=1e-5),
    )
    adjoints = [jsci.ImplicitAdjoint(linear_solver=solver) for solver in solvers]
    cases = [solved(residual, jnp.ones((5, 4)), jnp.ones((5, 4)), adjoint=adjoint) for adjoint in adjoints]
    return lambda y0, args: [f(y0, args) for f, _, _ in cases], *cases[0][1:]


@case(
    jsci.linear.TsallisINF,
    jsci.linear.ContextualTsallisINF,
    jsci.linear.ChebCB,
    jsci.linear.Choice,
    gradient=False,
)
def learners_of_a_parameter():
    grid = jnp.linspace(1.0, 1.9, 4)
    learners = (
        jsci.linear.TsallisINF(grid),
        jsci.linear.ContextualTsallisINF(grid, 0.0, 1.0),
        jsci.linear.ChebCB(grid, 0.0, 1.0),
    )

    def sequence(learners, contexts):
        out = []
        for learner in learners:

            def one(state, context, learner=learner):
                choice = learner.choose(state, jax.random.key(0), context)
                return learner.update(state, choice, 1 + 9 * choice.value), choice.value

            out.append(jax.lax.scan(one, learner.init(), contexts)[1])
        return out

    return sequence, learners, jnp.linspace(0.0, 1.0, 3)


@case()
def least_squares_by_products():
    matrix = jnp.cos(jnp.arange(12.0)).reshape(4, 3)

    def solve(matrix, b):
        plain = jsci.linear.lsmr(lambda x: matrix @ x, b, matrix[0], rtol=1e-5).value
        key = jax.random.key(0)
        return jax.lax.stop_gradient((plain, jsci.linear.sketched_least_squares(matrix, b, key).value)), b

    return solve, matrix, jnp.ones(4)


def on_a_grid(equation, conditions, *names):
    """The scheme's residual of `equation` for fields on a small grid."""
    space = {name: pde.Cells(jnp.linspace(0.0, 1.0, 7)) for name in names}
    time = {"t": pde.Levels((0.0, 0.1, 0.2, 0.4))} if "t" in equation.coordinates else {}
    grid = pde.Grid(space | time)
    size = math.prod(grid.shape)
    values = {field: (0.2 + jnp.arange(size) / size).reshape(grid.shape) for field in equation.fields}

    def residual(equation, conditions, values):
        d = grid.fields(values, pde.required(equation), conditions)
        point = grid.point(next(iter(values.values())).dtype)
        return pde.pointwise(equation, d, point), grid.weights(jnp.float32)

    return residual, equation, conditions, values


def periodic(fields, axes):
    return tuple(pde.Periodic(field, axis) for field in fields for axis in axes)


@case(
    pde.Box, pde.Ball, pde.Polygon, pde.Union, pde.Intersection, pde.Difference, pde.Product, pde.RAD, pde.R3
)
def distance_and_resampling():
    names = ("x", "y")
    box, disk, arc = (
        pde.Box({"x": (0, 1), "y": (0, 1)}), pde.Ball(names, (1, 1), 0.5), pde.Ball(names, (0, 0), 1.2, "arc")
    )  # fmt: skip
    cut = ((box | disk) - pde.Polygon(names, [(0, 0), (0.5, 0), (0, 0.5)])) & arc
    domain = pde.Product(cut, pde.Interval("t", 0, 1))
    phi = domain.distance([pde.Part("arc"), pde.Part("ball"), pde.Part("edge1"), pde.low("t")])

    def run(points, candidates, seed):
        score, key = jax.vmap(phi), jax.random.wrap_key_data(seed)
        kept = pde.R3()(points, score, candidates, key)
        return pde.RAD()(kept, score, candidates, key)

    points = jnp.linspace(0.1, 0.9, 24).reshape(8, 3)
    return run, points[:4], points, jnp.zeros(2, jnp.uint32)


@case(equations.Heat, pde.Neumann, pde.Dirichlet, pde.Face)
def heat():
    conditions = (
        pde.Dirichlet("u", pde.low("x"), jnp.asarray(1.0)),
        pde.Neumann("u", pde.high("x"), jnp.asarray(0.5)),
    )
    return on_a_grid(equations.Heat(0.1), conditions, "x")


@case(equations.Burgers, pde.Grid, pde.Cells, pde.Levels, pde.Derivatives, pde.Point)
def burgers():
    return on_a_grid(equations.Burgers(0.1), periodic("u", "x"), "x")


@case(equations.DiffusionSorption, pde.Robin)
def diffusion_sorption():
    equation = equations.DiffusionSorption()
    return on_a_grid(equation, equation.conditions(), "x")


@case(equations.ReactionDiffusion, pde.Periodic)
def reaction_diffusion():
    return on_a_grid(equations.ReactionDiffusion(), periodic("uv", "xy"), "x", "y")


@case(equations.NavierStokesVorticity)
def navier_stokes():
    equation = equations.NavierStokesVorticity(1e-3)
    return on_a_grid(equation, periodic(("w", "psi"), "xy"), "x", "y")


@case(equations.Poisson)
def poisson():
    equation = equations.Poisson(lambda point: jnp.sin(point.x) * point.y)
    return on_a_grid(equation, periodic("u", "xy"), "x", "y")


@case(
    equations.AllenCahn,
    equations.Convection,
    equations.Fisher,
    equations.KortewegDeVries,
    equations.Wave,
    equations.NavierStokes,
)
def residuals_of_networks():
    systems = (
        equations.AllenCahn(), equations.Convection(2.0, 0.1), equations.Fisher(5.0, 0.1),
        equations.KortewegDeVries(), equations.Wave(2.0), equations.NavierStokes(40.0),
    )  # fmt: skip
    networks = [nn.MLP(2, len(e.fields), width=3, depth=1, key=jax.random.key(0)) for e in systems]
    at = lambda e, p: pde.Point(dict(zip(e.coordinates, p, strict=True)))

    def residuals(systems, networks, p):
        pairs = zip(systems, networks, strict=True)
        return [e.residual(pde.derivatives(network, e, p), at(e, p)) for e, network in pairs]

    return residuals, systems, networks, jnp.ones(2)


def small_pinn():
    """A PINN of the heat equation with data, and points of it."""
    p = jnp.array([[0.2, 0.3], [0.6, 0.4], [0.9, 0.8]])
    sides = [pde.Dirichlet("u", pde.low("x")), pde.Dirichlet("u", pde.high("x"))]
    conditions = [pde.Initial("u", lambda p: jnp.sin(jnp.pi * p.x)), *sides, pde.Data("u", p, p[:, 0])]
    network = nn.MLP(2, 1, width=3, depth=1, key=jax.random.key(0))
    domain = pde.Box({"x": (0.0, 1.0), "t": (0.0, 1.0)})
    model = pinn.PINN(equations.Heat(0.1), domain, conditions, network)
    return model, {"equation": (p + 0.05,), "Data u data": (p, p[:, 0])}


@case(pinn.PINN, pinn.Slabs, pde.Data)
def trained_pinn_as_a_function_of_its_equation():
    model, points = small_pinn()

    def at(model, points, p):
        attached = pinn.attach(model, points)
        return attached(p), pinn.Slabs((attached, model), (0.0, 0.5, 1.0))(p)

    return at, model, points, jnp.array([0.3, 0.4])


@case(pinn.LPINN, equations.Advection, jsci.solvers.BracketedNewton)
def queries_of_characteristics():
    net = lambda size, out, seed: nn.MLP(size, out, width=3, depth=1, key=jax.random.key(seed))
    start = pde.Initial("u", lambda p: jnp.sin(p.x))
    line = pde.Box({"x": (0.0, 2 * math.pi), "t": (0.0, 1.0)})
    conditions = [start, pde.Periodic("u", "x")]
    one = pinn.LPINN(equations.Burgers(0.1), line, conditions, net(3, 1, 0), net(3, 1, 1))
    plane = pde.Box({"x": (-1.0, 1.0), "y": (-1.0, 1.0), "t": (0.0, 1.0)})
    flow = equations.Advection(lambda p: (-p.y, p.x), 0.1)
    two = pinn.LPINN(flow, plane, [start], net(3, 2, 2), net(3, 1, 3))

    def at(one, two, p):
        return one(p[:2]), one.residual(p[:2]), two(p), two.residual(p)

    return at, one, two, jnp.array([0.3, 0.2, 0.4])


@case(pinn.Windowed, pinn.MultiDomainPINN)
def several_networks_for_one_solution():
    one, _ = small_pinn()
    make = lambda key: nn.MLP(2, 1, width=3, depth=1, key=key)
    boxes = pinn.MultiDomainPINN(
        equations.Burgers(0.1), one.domain, one.hard, make, {"x": (0.4,)}, key=jax.random.key(1)
    )
    overlapping = eqx.tree_at(lambda m: m.network, one, pinn.Windowed(make, (2, 1), key=jax.random.key(2)))

    def at(overlapping, boxes, p):
        return overlapping(p), overlapping.residual(p), boxes(p), boxes.interface(p.at[0].set(0.4), 0)

    return at, overlapping, boxes, jnp.array([0.3, 0.6])


@case(gradient=False)
def training_as_a_function_of_the_model():
    key, method = jax.random.key(0), jsci.solvers.GaussNewton()
    train = lambda model: pinn.minimize(model, method, 2, key=key, points=8, boundary_points=4)[0].network
    return train, small_pinn()[0]


@case(
    pinn.ContextualBandit,
    pinn.SequentialBandit,
    pinn.Plays,
    pinn.UCB,
    pinn.Thompson,
    gradient=False,
)
def bandits():
    pytest.importorskip("tinygp", reason="bandits need tinygp: pip install 'jaxsci[bandit]'")
    arms = jnp.eye(3)
    one = pinn.ContextualBandit(arms, capacity=3, steps=1)
    two = pinn.SequentialBandit(arms, capacity=3, steps=1, acquisition=pinn.Thompson())

    def play(one, two, context):
        plays, both, key = one.init(), two.init(), jax.random.key(0)
        arms = one.choose(plays, key, context), two.second(both, key, context, 0, 0.5)
        return one.update(plays, context, arms[0], 1.0), two.update(both, context, arms, (0.5, 1.0))

    return play, one, two, jnp.array(0.3)


@case(pinn.Stage, pinn.PseudoTime, jsci.solvers.GaussNewton, gradient=False)
def steps_of_training_a_pinn():
    model, points = small_pinn()
    stages = (
        pinn.Stage(jsci.solvers.GaussNewton(), 1),
        pinn.Stage(optax.adam(1e-3), 1, pseudo_time=pinn.PseudoTime()),
    )

    def steps(model, points):
        unknown, rest = split(model, network_of)
        objective = Objective(model.terms(), model, points, rest)
        weights = {name: jnp.ones((), jnp.float32) for name in objective.names}
        drivers = [make_driver(stage, objective) for stage in stages]
        return [
            d.step(unknown, d.start(unknown, points, weights), points, weights, jax.random.key(0))[0]
            for d in drivers
        ]

    return steps, model, points


@case()
def derivatives_of_a_network():
    network = eqx.nn.MLP(2, 1, 8, 2, jnp.tanh, key=jax.random.key(0))
    equation = equations.Burgers(0.1)

    def residual(network, equation, points):
        def at(p):
            d = pde.derivatives(network, equation, p)
            return equation.residual(d, pde.Point({"x": p[0], "t": p[1]}))

        return jax.vmap(at)(points)

    return residual, network, equation, jnp.ones((5, 2))


# lineax's derivative of a solve raises its errors through a callback, whatever `throw` was.
@case(reference.ETDRK4, reference.Fourier)
def exponential_time_differencing():
    fourier = reference.Fourier((0.0,), (2 * np.pi,), (8,), 2 / 3)
    (k,) = fourier.wavenumbers

    def run(values, symbol, step):
        convected = lambda v: -0.5j * k * fourier.modes(fourier.values(v) ** 2)
        scheme = reference.ETDRK4(symbol, step)
        return fourier.values(scheme(fourier.modes(values), convected))

    return run, jnp.linspace(0.0, 1.0, 8), jnp.asarray(-(k**2)), jnp.array(0.1)


@case(reference.Tridiagonal, gradient=False)
def tridiagonal():
    def solve(a, b):
        operator = lx.TridiagonalLinearOperator(a, a[1:] / 4, a[1:] / 5)
        return lx.linear_solve(operator, b, reference.Tridiagonal(), throw=False).value

    return solve, jnp.arange(1.0, 6.0), jnp.ones(5)


def constrained(make, functions=3):
    """A layer on a small diffusion–sorption scheme, as a function of (basis, lift, equation)."""
    grid = pde.Grid({"t": pde.Levels((0.0, 5.0, 20.0)), "x": pde.Cells(tuple(i / 8 for i in range(9)))})
    typical = equations.DiffusionSorption()
    rows = layers.SpaceTimeInverse(grid, typical, typical.conditions(), reference={"u": 0.1})
    layer = make(layers.Scheme(grid, rows))
    size = math.prod(grid.shape)
    n = jnp.arange(functions)[:, None]
    basis = jnp.cos((n + 1) * jnp.arange(size)).reshape(functions, *grid.shape)

    def solve(basis, lift, equation):
        found = layer(equation, basis, lift, equation.conditions())
        return found.values, found.residual_norm

    return solve, basis, jnp.full(grid.shape, 0.1), typical


def hard(scheme, solver=None):
    solver = jsci.solvers.BFGS(rtol=1e-3) if solver is None else solver
    return layers.HardConstraint(scheme, solver=solver)


@case(
    layers.HardConstraint,
    layers.Constrained,
    layers.Scheme,
    layers.SpaceTimeInverse,
    jsci.solvers.BFGS,
    jsci.residuals.Block,
    jsci.residuals.StructuredLeastSquares,
)
def hard_constraint():
    return constrained(hard)


@case(jsci.solvers.LevenbergMarquardt)
def hard_constraint_by_levenberg_marquardt():
    return constrained(lambda s: hard(s, jsci.solvers.LevenbergMarquardt(rtol=1e-3)))


@case(layers.MixtureOfExperts, layers.Windows)
def windows():
    return constrained(lambda s: layers.MixtureOfExperts(hard(s), layers.Windows({"x": 2})), 4)


@case(layers.Boxes)
def boxes():
    return constrained(lambda s: layers.MixtureOfExperts(hard(s), layers.Boxes({"x": 2})))


@case(layers.MeanSquare)
def mean_square_rows():
    return constrained(lambda s: hard(layers.Scheme(s.grid, layers.MeanSquare(s.grid, scale=20.0))))


@case(layers.Collocation)
def collocation():
    points = jnp.stack([jnp.linspace(0.1, 0.9, 12), jnp.linspace(0.8, 0.1, 12)], axis=1)
    network = eqx.nn.MLP(2, 3, 8, 1, jnp.tanh, key=jax.random.key(0))

    def solve(network, equation, points):
        layer = hard(layers.Collocation(points))
        found = layer(equation, network, lambda p: jnp.sin(p[0]))
        return found.coefficients, found.residual_norm

    return solve, network, equations.Heat(0.1), points


@case(nn.FNO, nn.SpectralLayer)
def fno():
    network = nn.FNO(2, 3, (3, 2), width=4, depth=2, key=jax.random.key(0))
    return lambda network, x: network(x), network, jnp.ones((2, 5, 4))


@case(
    nn.MLP,
    nn.Linear,
    nn.ModifiedMLP,
    nn.RWF,
    nn.SIREN,
    nn.PirateNet,
    nn.Separable,
    nn.RandomFourier,
    nn.PeriodicEmbedding,
    nn.Embedded,
    nn.Comoving,
    nn.Scaled,
)
def networks_on_a_point():
    size, key = {"width": 4, "depth": 2}, jax.random.key(0)
    periodic = nn.PeriodicEmbedding({0: 2.0}, trainable=True)
    networks = (
        nn.Scaled((-1.0, 0.0), (1.0, 2.0), nn.Embedded(periodic, nn.MLP(3, 2, **size, key=key))),
        nn.Embedded(nn.RandomFourier(2, 3, key=key), nn.ModifiedMLP(6, 2, **size, linear=nn.RWF, key=key)),
        nn.SIREN(2, 2, **size, key=key),
        nn.Embedded(periodic, nn.Embedded(nn.Comoving(0.5), nn.MLP(3, 2, **size, key=key))),
        nn.PirateNet(2, 2, **size, key=key),
        nn.Separable(2, 2, rank=3, **size, key=key),
    )
    return lambda networks, x: [network(x) for network in networks], networks, jnp.ones(2)


@case(
    convex.Box,
    convex.NonNegative,
    convex.Simplex,
    convex.KLSimplex,
    convex.L1Ball,
    convex.L2Ball,
    convex.LInfBall,
    convex.BoxSection,
    convex.Hyperplane,
    convex.Halfspace,
    convex.Affine,
    convex.SecondOrderCone,
    convex.Isotonic,
)
def projections():
    a = jnp.linspace(-1.0, 2.0, 8)
    sets = (
        convex.Box(0.0, jnp.ones(8)), convex.NonNegative(), convex.Simplex(), convex.KLSimplex(),
        convex.L1Ball(), convex.L2Ball(), convex.LInfBall(), convex.BoxSection(0.0, 1.0, a, 0.5),
        convex.Hyperplane(a, 0.5), convex.Halfspace(a, 0.5), convex.Affine(a[None], jnp.ones(1)),
        convex.SecondOrderCone(), convex.Isotonic(),
    )  # fmt: skip
    return lambda sets, v: [s(v) for s in sets], sets, jnp.cos(jnp.arange(8.0))


@case(convex.Polyhedron)
def projection_on_a_polyhedron():
    a = jnp.linspace(-1.0, 2.0, 8)
    polyhedron = convex.Polyhedron(a[None], jnp.ones(1), jnp.eye(8), jnp.full(8, 0.2))
    return lambda p, v: p(v), polyhedron, jnp.cos(jnp.arange(8.0))


@case(convex.PSDCone, convex.NuclearNorm, convex.Transport, convex.Birkhoff, convex.KLTransport)
def projections_of_matrices():
    sums = jnp.full(4, 0.25)
    sets = (convex.PSDCone(), convex.NuclearNorm(), convex.Birkhoff())
    sets += (convex.Transport(sums, sums), convex.KLTransport(sums, sums))
    return lambda sets, v: [s(v) for s in sets], sets, jnp.cos(jnp.arange(16.0)).reshape(4, 4)


@case(
    convex.L1,
    convex.NonNegativeL1,
    convex.ElasticNet,
    convex.GroupLasso,
    convex.SquaredL2,
    convex.NonNegativeSquaredL2,
    convex.LInf,
    convex.LogBarrier,
    convex.Huber,
)
def proximal_operators():
    functions = (
        convex.L1(0.1 * jnp.ones(8)), convex.NonNegativeL1(), convex.ElasticNet(), convex.GroupLasso(),
        convex.SquaredL2(), convex.NonNegativeSquaredL2(), convex.LInf(), convex.LogBarrier(), convex.Huber(),
    )  # fmt: skip
    return lambda fs, v: [f(v, 0.3) for f in fs], functions, jnp.cos(jnp.arange(8.0))


@pytest.mark.parametrize("name", list(CASES))
def test_forward_lowers(name):
    f, *args = CASES[name].build()
    lower_for_accelerators(f, *args)


@pytest.mark.parametrize("name", [name for name, c in CASES.items() if c.gradient])
def test_gradient_lowers(name):
    f, *args = CASES[name].build()
    lower_for_accelerators(scalar(f), *args)


@pytest.mark.parametrize("name", list(CASES))
def test_precision_comes_from_the_inputs(name):
    """float32 arguments give float32 results, although x64 is on."""
    f, *args = _float32(CASES[name].build())
    out = jax.tree.leaves(eqx.filter(eqx.filter_eval_shape(f, *args), _is_floating))
    assert {x.dtype for x in out} == {jnp.dtype(jnp.float32)}


def _is_floating(x) -> bool:
    return isinstance(x, jax.ShapeDtypeStruct) and jnp.issubdtype(x.dtype, jnp.floating)


def public_classes() -> dict[str, type]:
    """Every concrete public Equinox class of jaxsci and its public sub-packages."""
    names = ["jaxsci"]
    for info in pkgutil.walk_packages(jsci.__path__, "jaxsci."):
        if not any(part.startswith("_") for part in info.name.split(".")[1:]):
            names.append(info.name)
    found = {}
    for name in names:
        module = importlib.import_module(name)
        package = module.__spec__.submodule_search_locations is not None
        for short, thing in vars(module).items():
            if not short.startswith("_") and inspect.isclass(thing) and issubclass(thing, eqx.Module):
                # A package exports what it imports; a file only what it defines.
                ours = thing.__module__.startswith("jaxsci") if package else thing.__module__ == name
                abstract = inspect.isabstract(thing) or short.startswith("Abstract")
                if ours and not abstract and not getattr(thing, "__abstractvars__", ()):
                    found.setdefault(f"{name}.{short}", thing)
    return found


def test_every_public_class_has_a_case():
    covered = {cls for c in CASES.values() for cls in c.covers}
    classes = public_classes()
    missing = [n for n, cls in classes.items() if cls not in covered and n not in EXEMPT]
    assert not missing, f"without a case in CASES or a reason in EXEMPT: {missing}"
    stale = sorted(set(EXEMPT) - set(classes))
    assert not stale, f"in EXEMPT but no public class: {stale}"


@pytest.mark.parametrize(
    ("what", "f"),
    [
        ("a host callback", lambda x: jax.pure_callback(lambda x: x, x, x)),
        ("a debug print", lambda x: (jax.debug.print("{}", x), x)[1]),
        ("an error raised at run time", lambda x: eqx.error_if(x, x.sum() > 0, "no")),
        ("a CPU-only primitive", lambda x: jnp.linalg.eigvals(jnp.outer(x, x)).real),
    ],
)
def test_the_check_itself_catches(what, f):
    with pytest.raises(AssertionError, match=r"does not lower|cannot make on its own"):
        lower_for_accelerators(f, jnp.ones(3))
