"""Spine 1: the physics as F(y, θ) = 0."""

import abc
import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.extend.core
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, PyTree

from . import _tree
from .linear import Operator


class AbstractResidual(eqx.Module):
    """A problem written as F(y, θ) = 0, with the two faces that a solve needs.

    - `__call__(y, args)`: the residual as it is written; what least-squares solvers reduce.
    - `optimality(y, args)`: what the implicit function theorem linearises. It has as many scalars
      as y and vanishes at the solution: ∂F/∂y · dy = −∂F/∂θ · dθ.

    The other faces let *any* solver work on any residual and have defaults: `root` for root finders
    (the optimality condition), `objective` for minimisers (½‖F‖²), `fixed_point` for fixed-point
    solvers (y − F), `jacobian` for structure.

    y and args are pytrees; the floating arrays in `args`, in the fields of the residual and in the
    closures of its functions are all θ, and all of them are differentiated. Everything is for one
    sample; batch with `jax.vmap`.
    """

    @property
    def tags(self) -> frozenset:
        """lineax tags that ∂(optimality)/∂y and ∂(root)/∂y are promised to have; none by default."""
        return frozenset()

    @abc.abstractmethod
    def __call__(self, y: PyTree[Array], args: PyTree[Any]) -> PyTree[Array]:
        """F(y, θ), any pytree of arrays."""

    def optimality(self, y: PyTree[Array], args: PyTree[Any]) -> PyTree[Array]:
        """The condition that holds at the solution, of the same number of scalars as y."""
        return self(y, args)

    def root(self, y: PyTree[Array], args: PyTree[Any]) -> PyTree[Array]:
        """What a root finder drives to zero: the optimality condition, unless another function with the
        same roots and as many scalars is better to iterate on."""
        return self.optimality(y, args)

    def objective(self, y: PyTree[Array], args: PyTree[Any]) -> Array:
        """The scalar that a minimiser reduces: ½‖F(y, θ)‖² unless a subclass knows better."""
        r = self(y, args)
        return 0.5 * _tree.dot(r, r).real

    def fixed_point(self, y: PyTree[Array], args: PyTree[Any]) -> PyTree[Array]:
        """The map that a fixed-point solver iterates: y − F(y, θ), with F the optimality condition,
        unless a subclass knows better."""
        return jtu.tree_map(jnp.subtract, y, _tree.shaped_like(y, self.optimality(y, args)))

    def normal_equations(self, y: PyTree[Array], args: PyTree[Any]) -> "NormalEquations | None":
        """½‖F‖² and its derivatives in closed form, for least-squares solvers; None if there is none."""
        return None

    def value_and_gradient(self, y: PyTree[Array], args: PyTree[Any]) -> tuple[Array, Array] | None:
        """The objective and its gradient on the raveled unknown in closed form, for minimisers; None if
        there is none."""
        return None

    def quadratic_program(self, y: PyTree[Array], args: PyTree[Any]) -> tuple[Array, ...] | None:
        """(P, q, A, b, G, h) of min ½ xᵀP x + qᵀx subject to A x = b, G x ≤ h, where the problem is one
        and y = (x, ν, λ), for interior-point solvers; None otherwise."""
        return None

    def metric(self, y: PyTree[Array], args: PyTree[Any]) -> Array | None:
        """A symmetric positive definite matrix on the raveled unknown, near the Hessian of ½‖F‖², in
        which a least-squares solver measures its steps; None if there is none."""
        return None

    def with_hessian(self, hessian: Array) -> "AbstractResidual":
        """The same problem, knowing the Hessian that a solver ended with (forward and backward then
        share its computation). Ignored unless a subclass makes use of it."""
        return self

    def preconditioner(self, y: PyTree[Array], args: PyTree[Any]) -> Callable | None:
        """r ↦ M r, linear, with M ≈ (∂(optimality)/∂y)⁻¹, for matrix-free linear solvers that bring none of
        their own, in Newton's method and in the implicit rule, which transposes it; None if there is none."""
        return None

    def jacobian(self, y: PyTree[Array], args: PyTree[Any]) -> Operator | None:
        """∂(optimality)/∂y as an operator, where the residual knows more than automatic
        differentiation does (structure, a closed form, an approximation); None otherwise."""
        return None


class Derivative(eqx.Module):
    """v ↦ ∂F/∂y · v for the optimality condition F: a product of a `jacobian` that knows no better one
    than the implicit rule does."""

    optimality: Callable
    y: PyTree[Array]

    def __call__(self, v: PyTree[Array]) -> PyTree[Array]:
        return jax.jvp(lambda y: self.optimality(y, None), (self.y,), (v,))[1]


class NormalEquations(eqx.Module):
    """½‖F‖² at a point y, and its derivatives on the raveled unknown (n scalars).

    **Fields:**

    - `value`: ½‖F‖².
    - `gradient`: JᵀF, of shape (n,).
    - `gram`: JᵀJ, of shape (n, n).
    - `curvature`: Σᵢ Fᵢ ∂²Fᵢ/∂y², of shape (n, n), or None if it is not known.
    """

    value: Array
    gradient: Array
    gram: Array
    curvature: Array | None

    @property
    def hessian(self) -> Array:
        """JᵀJ + Σᵢ Fᵢ ∂²Fᵢ/∂y², as far as it is known."""
        return self.gram if self.curvature is None else self.gram + self.curvature

    def with_ridge(self, weight: Array, y: Array) -> "NormalEquations":
        """The same with ½ weight ‖y‖² added."""
        return NormalEquations(
            self.value + 0.5 * weight * jnp.vdot(y, y),
            self.gradient + weight * y,
            self.gram + weight * jnp.eye(y.size, dtype=y.dtype),
            self.curvature,
        )


class Pure:
    """A traced function: its result depends on `consts` and on the leaves of y, and on nothing else."""

    def __init__(self, jaxpr, structure, shapes):
        self._jaxpr = jaxpr
        self._structure = structure
        self.shapes = shapes

    def flat(self, consts: tuple[Array, ...], *leaves: Array) -> list[Array]:
        """The leaves of the result."""
        closed = jax.extend.core.ClosedJaxpr(self._jaxpr, list(consts))
        return jax.extend.core.jaxpr_as_fun(closed)(*leaves)

    def __call__(self, y: PyTree[Array], consts: tuple[Array, ...]) -> PyTree[Array]:
        return jtu.tree_unflatten(self._structure, self.flat(consts, *jtu.tree_leaves(y)))


def hoist(fn: Callable, *y: PyTree[Array]) -> tuple[Pure, tuple[Array, ...]]:
    """Trace fn(*y) once and lift out the arrays it reaches besides y.

    Arguments, fields of modules and closures alike: so θ may be any Python object, holding anything,
    and to differentiate with respect to θ is to differentiate with respect to the returned arrays.
    """
    leaves, structure = jtu.tree_flatten(y)

    def flat(*leaves):
        return fn(*jtu.tree_unflatten(structure, leaves))

    def trace(leaves):
        closed, out = jax.make_jaxpr(flat, return_shape=True)(*leaves)
        shapes, out_structure = jtu.tree_flatten(out)
        return Pure(closed.jaxpr, out_structure, tuple(shapes)), tuple(closed.consts)

    pure, consts = trace(leaves)
    if _tree.in_manual_region():
        # Inside shard_map the trace fixes over which mesh axes y varies: over all that θ varies over.
        pure, consts = trace(_tree.vary_like(leaves, consts))
    return pure, consts


def check_residual(value: Any) -> None:
    """Raise `TypeError` unless `value` is a residual."""
    if not isinstance(value, AbstractResidual):
        raise TypeError(
            f"`residual` is {value!r} of type {type(value).__name__}; expected a jaxsci residual. "
            "Wrap a function: jaxsci.Root(fn), jaxsci.FixedPoint(fn), jaxsci.Stationary(fn), "
            "jaxsci.LeastSquares(fn)."
        )


def check_square(residual: AbstractResidual, equations: Pure, y: PyTree[Array]) -> None:
    """Raise `ValueError` unless there are as many equations (of `optimality` or `root`) as unknowns."""
    shapes = [x.shape for x in equations.shapes]
    given = [x.shape for x in jtu.tree_leaves(y)]
    if sum(map(math.prod, shapes)) != sum(map(math.prod, given)):
        raise ValueError(
            f"The optimality condition of {type(residual).__name__} returns arrays of shapes {shapes}, "
            f"but the unknown `y` has shapes {given}. The implicit function theorem needs as many "
            "equations as unknowns: for more equations than unknowns use `jaxsci.LeastSquares`, for "
            "fewer add the missing ones."
        )
