"""What the implicit rule knows about a residual: F, A = ∂F/∂y and B = ∂F/∂θ, free of closures."""

import dataclasses
import itertools
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, PyTree

from . import _tree
from ._residual import AbstractResidual, Derivative, Pure, check_square, hoist
from .linear import AbstractLinearSolver, Operator, default_solver
from .linear._operator import linearized


def linearize(residual: AbstractResidual, y: PyTree[Array], args: PyTree, linear_solver, throw: bool):
    """The static part of `implicit`, and the arrays that go with it."""
    optimality, own = hoist(lambda y: residual.optimality(y, args), y)
    y = _tree.vary_like(y, own)
    check_square(residual, optimality, y)
    product = dense = None
    product_consts = dense_consts = ()
    operator = residual.jacobian(y, args)
    tags = residual.tags
    if operator is not None:
        tags = tags | operator.tags
        if not isinstance(operator.mv, Derivative):
            product, product_consts = hoist(lambda y, v: residual.jacobian(y, args).mv(v), y, y)
        if operator.dense is not None:
            dense, dense_consts = hoist(lambda y: residual.jacobian(y, args).matrix(), y)
    solver_of, solver_consts = _hoist_solver(linear_solver, y)
    near, near_consts = None, ()
    if residual.preconditioner(y, args) is not None:
        near, near_consts = hoist(lambda y, r: residual.preconditioner(y, args)(r), y, y)
    groups = (own, product_consts, dense_consts, solver_consts, near_consts)
    rule = Rule(optimality, product, dense, solver_of, near, tags, throw, tuple(map(len, groups)))
    return rule, sum(groups, ())


def _hoist_solver(linear_solver: AbstractLinearSolver | None, y: PyTree[Array]):
    """The linear solver as a function of its arrays. A callable in it (a preconditioner) maps vectors of
    the structure of y; the solver will see the leaves of y as a tuple."""
    arrays, rest = eqx.partition(linear_solver, eqx.is_array)
    functions, rest = eqx.partition(rest, callable)
    arrays, arrays_structure = jtu.tree_flatten(arrays)
    functions, functions_structure = jtu.tree_flatten(functions)
    hoisted = [hoist(fn, y) for fn in functions]
    sizes = (len(arrays), *(len(consts) for _, consts in hoisted))

    def solver_of(operands):
        arrays, *consts = split(operands, sizes)
        bound = [
            lambda v, pure=pure, c=c: tuple(_tree.shaped_like(list(v), pure.flat(c, *v)))
            for (pure, _), c in zip(hoisted, consts, strict=True)
        ]
        return eqx.combine(
            jtu.tree_unflatten(arrays_structure, arrays),
            jtu.tree_unflatten(functions_structure, bound),
            rest,
        )

    return solver_of, sum((consts for _, consts in hoisted), tuple(arrays))


@dataclasses.dataclass(frozen=True, eq=False)
class Rule:
    """F, and what is known of ∂F/∂y, as functions of y and of arrays that are operands elsewhere."""

    residual: Pure
    product: Pure | None
    dense: Pure | None
    solver_of: Callable
    near: Pure | None  # (y, r) ↦ M r with M ≈ A⁻¹
    tags: frozenset
    throw: bool
    sizes: tuple[int, ...]
    # The solves made with it; see _adjoint.
    traced: dict = dataclasses.field(default_factory=dict, repr=False)

    def equations(self, ys, own):
        return _tree.shaped_like(ys, self.residual.flat(own, *ys))

    def mv(self, ys, consts, v):
        """A v."""
        own, of_product, *_ = split(consts, self.sizes)
        if self.product is not None:
            return tuple(_tree.shaped_like(ys, self.product.flat(of_product, *ys, *v)))
        return tuple(jax.jvp(lambda *y: self.equations(y, own), tuple(ys), tuple(v))[1])

    def operator(self, ys, consts, array=None) -> Operator:
        """A, with the array of it if that is at hand."""
        near = None
        if self.near is not None:
            of_near = split(consts, self.sizes)[4]
            near = lambda r: tuple(_tree.shaped_like(ys, self.near.flat(of_near, *ys, *r)))
        return Operator(lambda v: self.mv(ys, consts, v), tuple(ys), array, self.tags, near)

    def iterable(self, operator: Operator, ys, consts) -> Operator:
        """The same for products in a loop: what A v needs of y and θ alone is computed once, before it."""
        if self.product is not None:
            return operator
        own = split(consts, self.sizes)[0]
        push = linearized(lambda *y: self.equations(y, own), *ys)
        return dataclasses.replace(operator, mv=lambda v: tuple(push(*v)))

    def solver(self, operator, consts) -> AbstractLinearSolver:
        solver = self.solver_of(split(consts, self.sizes)[3])
        return default_solver(operator) if solver is None else solver

    def right_hand_side(self, ys, consts, directions, active) -> list[Array]:
        """−B θ̇ for the tangents `directions` of the operands numbered `active`."""
        own = split(consts, self.sizes)[0]
        out = along(lambda own: self.equations(ys, own), own, directions, active)
        return _tree.vary_like([-x for x in out], ys)

    def prepared(self, ys, consts):
        """(array of A or None, what the linear solver can prepare); not differentiated."""
        ys, consts = jax.lax.stop_gradient((tuple(ys), tuple(consts)))
        array = None
        if self.dense is not None:
            array = self.dense.flat(split(consts, self.sizes)[2], *ys)[0]
        operator = self.operator(ys, consts, array)
        return array, self.solver(operator, consts).prepare(operator)


def along(fn: Callable, operands, directions, active) -> list[Array]:
    """The derivative of fn(operands) along tangents of the operands numbered `active`."""

    def moved(*values):
        moving = list(operands)
        for i, value in zip(active, values, strict=True):
            moving[i] = value
        return fn(tuple(moving))

    values = tuple(jnp.asarray(operands[i]) for i in active)
    directions = tuple(
        _tree.vary_like(jnp.asarray(d, v.dtype), v) for d, v in zip(directions, values, strict=True)
    )
    return list(jax.jvp(moved, values, directions)[1])


def split(items, sizes) -> list[tuple]:
    ends = list(itertools.accumulate(sizes))
    return [tuple(items[end - size : end]) for size, end in zip(sizes, ends, strict=True)]
