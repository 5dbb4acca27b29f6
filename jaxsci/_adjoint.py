"""Spine 2: dy*/dθ. The one custom derivative of the package.

F(y*(θ), θ) = 0 for all θ near the given one, so with A = ∂F/∂y and B = ∂F/∂θ at the solution

    A ẏ = −B θ̇   (forward)        θ̄ = −Bᵀ A⁻ᵀ ȳ   (reverse).

The rule is carried by a JAX primitive, `implicit`: the identity on y*, with y* and the constants of F
as operands. Only its linearisation is given; it is linear in θ̇, so its transpose is the reverse mode.
The linearisation uses the *output* of the primitive as the point y*, so that y* inside A and B carries
derivatives again, and every order follows from the first. A primitive and not a `custom_jvp`, because
up to JAX 0.11 the latter loses its rule in second derivatives through `scan` and `fori_loop`.
"""

import abc
import dataclasses
import functools
import itertools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import equinox.internal as eqxi
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import optimistix as optx
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, PyTree

from . import _tree
from ._residual import AbstractResidual, Pure, check_residual, check_square, hoist
from .linear import AbstractLinearSolver, Operator, default_solver
from .linear._solver import check_linear_solver


class AbstractAdjoint(optx.AbstractAdjoint):
    """How a solution gets its derivatives. Also an `optimistix.AbstractAdjoint`."""

    @abc.abstractmethod
    def attach(self, residual: AbstractResidual, y: PyTree[Array], args: PyTree[Any]) -> PyTree[Array]:
        """y, with derivatives with respect to everything that the residual's optimality reads."""


class ImplicitAdjoint(AbstractAdjoint):
    """Derivatives by the implicit function theorem: ∂F/∂y · dy = −∂F/∂θ · dθ at F(y*, θ) = 0.

    Forward mode, reverse mode, any order, under `jit`, `vmap`, `scan`, `cond`, `checkpoint` and
    `shard_map`. Memory: one solution, whatever the number of solver steps.

    **Arguments:**

    - `linear_solver`: a `jaxsci.linear` solver for the linear system; None: Cholesky or LU up to
      1024 unknowns, CG or GMRES above (`jaxsci.linear.default_solver`). The system is scaled by its
      right-hand side and its residual is checked; a singular or unconverged one gives NaN in that
      lane of a batch only.

    **Limits:** the error of the derivative is proportional to ‖y − y*‖: an unconverged solution has
    an inexact derivative. Where ∂F/∂y is singular there is no derivative, and NaN is returned.

    **Reference:** Blondel et al., Efficient and Modular Implicit Differentiation, NeurIPS 2022.
    """

    linear_solver: AbstractLinearSolver | None = None

    def __check_init__(self):
        check_linear_solver(self.linear_solver)

    def attach(self, residual, y, args):
        leaves, structure = jtu.tree_flatten(y)
        leaves = [jnp.asarray(x) for x in leaves]
        for path, leaf in jtu.tree_leaves_with_path(y):
            if not jnp.issubdtype(jnp.result_type(leaf), jnp.inexact):
                raise TypeError(
                    f"`y` has a leaf{jtu.keystr(path)} of dtype {jnp.result_type(leaf)}; the unknown of "
                    "an implicit equation is continuous. Expected floating or complex arrays; cast it, "
                    "or move it to `args`."
                )
        leaves = _tree.vary_like([jax.lax.stop_gradient(x) for x in leaves], residual, args)
        y = jtu.tree_unflatten(structure, leaves)
        rule, consts = _trace(residual, y, args, self.linear_solver)
        leaves = _tree.vary_like(leaves, consts)
        out = implicit_p.bind(*leaves, *consts, rule=rule, n=len(leaves), maps=())
        return jtu.tree_unflatten(structure, out)

    def apply(self, primal_fn, rewrite_fn, inputs, tags):
        """The entry for `optimistix.root_find(..., adjoint=...)` and the other three."""
        loop = functools.partial(eqxi.while_loop, kind="lax")
        root, rest = primal_fn((*_tree.stop_gradient(inputs), loop))
        rest = _tree.stop_gradient(rest)
        root = self.attach(_Rewritten(rewrite_fn, rest, tags), root, inputs)
        return root, rest


class _Rewritten(AbstractResidual):
    """An optimality condition in the form that optimistix hands over."""

    rewrite: Any
    rest: Any
    promised: frozenset = eqx.field(static=True)

    @property
    def tags(self):
        return self.promised

    def __call__(self, y, args):
        return self.rewrite(y, self.rest, args)


def _trace(residual: AbstractResidual, y: PyTree[Array], args: PyTree, linear_solver):
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
        product, product_consts = hoist(lambda y, v: residual.jacobian(y, args).mv(v), y, y)
        if operator.dense is not None:
            dense, dense_consts = hoist(lambda y: residual.jacobian(y, args).dense, y)
    arrays, solver = eqx.partition(linear_solver, eqx.is_array)
    arrays, solver_structure = jtu.tree_flatten(arrays)

    def solver_of(arrays):
        return eqx.combine(jtu.tree_unflatten(solver_structure, arrays), solver)

    groups = (own, product_consts, dense_consts, tuple(arrays))
    rule = _Rule(optimality, product, dense, solver_of, tags, tuple(map(len, groups)))
    return rule, sum(groups, ())


@dataclasses.dataclass(frozen=True, eq=False)
class _Rule:
    """F, and what is known of ∂F/∂y, as functions of y and of arrays that are operands elsewhere."""

    residual: Pure
    product: Pure | None
    dense: Pure | None
    solver_of: Callable
    tags: frozenset
    sizes: tuple[int, ...]

    def tangent(self, ys, consts, directions, active):
        """ẏ with A ẏ = −B θ̇, for the tangents `directions` of the operands numbered `active`."""
        own, of_product, of_dense, of_solver = _split(consts, self.sizes)

        def equations(ys, consts):
            return _tree.shaped_like(ys, self.residual.flat(consts, *ys))

        def moved(*values):
            moving = list(own)
            for i, value in zip(active, values, strict=True):
                moving[i] = value
            return equations(ys, moving)

        values = tuple(jnp.asarray(own[i]) for i in active)
        directions = tuple(
            _tree.vary_like(jnp.asarray(d, v.dtype), v) for d, v in zip(directions, values, strict=True)
        )
        _, rhs = jax.jvp(moved, values, directions)
        rhs = tuple(_tree.vary_like(_tie([-x for x in rhs]), ys))

        def mv(v):
            if self.product is not None:
                return tuple(_tree.shaped_like(ys, self.product.flat(of_product, *ys, *v)))
            return tuple(jax.jvp(lambda *y: equations(y, own), tuple(ys), tuple(v))[1])

        # Only A x = b is differentiated again (by custom_linear_solve); its factors are not.
        fixed = jax.lax.stop_gradient
        array = None if self.dense is None else self.dense.flat(fixed(of_dense), *fixed(ys))[0]
        operator = Operator(mv, tuple(ys), array, self.tags)
        solver = self.solver_of(of_solver)
        solver = default_solver(operator) if solver is None else solver
        prepared = fixed(solver.prepare(operator))

        def solve(b, transpose):
            x, _, _ = solver.solve(operator, prepared, b, transpose=transpose)
            return _tree.vary_like(x, ys, b)

        dy = jax.lax.custom_linear_solve(
            lambda v: tuple(_tie(mv(tuple(_tie(v))))),
            rhs,
            solve=lambda _, b: solve(b, False),
            transpose_solve=lambda _, b: solve(b, True),
        )
        return tuple(_tree.vary_like(list(dy), ys))


def _split(items, sizes) -> list[tuple]:
    ends = list(itertools.accumulate(sizes))
    return [tuple(items[end - size : end]) for size, end in zip(sizes, ends, strict=True)]


# --- implicit: (y*, θ) ↦ y*, with the derivative of the theorem -------------------------------------
# Parameters: `rule`, a _Rule for one sample; `n`, the number of leaves of y; `maps`, the batch axes that
# `vmap` has added since, innermost first, each (axis_data, in_axes). A batched linearisation is the
# vmap of the linearisation of one sample, so lanes stay independent.

implicit_p = Primitive("implicit")
implicit_p.multiple_results = True


def _identity(*operands, n, **_):
    return list(operands[:n])


def _implicit_jvp(operands, tangents, *, rule, n, maps):
    ys = implicit_p.bind(*operands, rule=rule, n=n, maps=maps)
    consts = operands[n:]
    # Operands behind those of F serve A and the linear solver, whose derivatives are not needed here.
    active = [i for i, t in enumerate(tangents[n : n + rule.sizes[0]]) if _moves(t)]
    if len(active) == 0:
        return ys, [ad.Zero.from_primal_value(y) for y in ys]
    directions = tuple(tangents[n + i] for i in active)

    def tangent(ys, consts, directions):
        return rule.tangent(ys, consts, directions, active)

    for axis, axes in maps:
        own, of_consts = axes[:n], axes[n:]
        in_axes = (own, of_consts, tuple(of_consts[i] for i in active))
        tangent = jax.vmap(
            tangent, in_axes, axis_size=axis.size, axis_name=axis.name, spmd_axis_name=axis.spmd_name
        )
    return ys, list(tangent(tuple(ys), tuple(consts), directions))


def _moves(tangent) -> bool:
    return type(tangent) is not ad.Zero and jax.typeof(tangent).dtype != jax.dtypes.float0


def _implicit_batch(axis, operands, dims, *, rule, n, maps):
    if all(d is None for d in dims):
        return implicit_p.bind(*operands, rule=rule, n=n, maps=maps), [None] * n
    moved = [x if d is None else jnp.moveaxis(x, d, 0) for x, d in zip(operands, dims, strict=True)]
    # y* may be the same in all lanes while its derivative is not.
    ys = [
        jnp.broadcast_to(x, (axis.size, *x.shape)) if d is None else x
        for x, d in zip(moved[:n], dims[:n], strict=True)
    ]
    axes = (0,) * n + tuple(None if d is None else 0 for d in dims[n:])
    out = implicit_p.bind(*ys, *moved[n:], rule=rule, n=n, maps=(*maps, (axis, axes)))
    return out, [0] * n


implicit_p.def_impl(_identity)
implicit_p.def_abstract_eval(_identity)
ad.primitive_jvps[implicit_p] = _implicit_jvp
batching.fancy_primitive_batchers[implicit_p] = _implicit_batch
mlir.register_lowering(implicit_p, mlir.lower_fun(_identity, multiple_results=True))


# --- tie: the identity on several arrays, linear, whose derivatives move together -------------------
# The transpose of custom_linear_solve wants every leaf of its right-hand side to be linear in θ̇. A leaf
# that does not depend on θ̇ is a known zero; tied to the others it counts as linear. The same holds one
# order up for the leaves of Ȧ x, hence the ties around the product.

tie_p = Primitive("tie")
tie_p.multiple_results = True


def _tie(leaves) -> list[Array]:
    return list(leaves) if len(leaves) == 1 else tie_p.bind(*leaves)


def _tie_tangents(tangents) -> list[Array]:
    return tie_p.bind(*(ad.instantiate_zeros(t) for t in tangents))


def _same(*operands):
    return list(operands)


tie_p.def_impl(_same)
tie_p.def_abstract_eval(_same)
ad.primitive_jvps[tie_p] = lambda operands, tangents: (tie_p.bind(*operands), _tie_tangents(tangents))
ad.primitive_transposes[tie_p] = lambda cotangents, *_: _tie_tangents(cotangents)
batching.fancy_primitive_batchers[tie_p] = lambda axis, operands, dims: (tie_p.bind(*operands), dims)
mlir.register_lowering(tie_p, mlir.lower_fun(_same, multiple_results=True))


def attach(
    residual: AbstractResidual,
    y: PyTree[Array],
    args: PyTree[Any] = None,
    *,
    adjoint: AbstractAdjoint = ImplicitAdjoint(),
) -> PyTree[Array]:
    """Give a solution its derivatives, whatever has produced it.

    If F(y, θ) = 0 holds, the result has the value of `y` and dy/dθ = −(∂F/∂y)⁻¹ ∂F/∂θ, where θ is every
    floating array in `args`, in the fields of `residual` and in the closures of its functions.

    **Arguments:**

    - `residual`: a `jaxsci` residual (`Root`, `FixedPoint`, `Stationary`, `LeastSquares`, `KKT`, …).
    - `y`: the solution; any pytree of floating arrays. Its own derivative is cut.
    - `args`: passed to the residual; any pytree, with leaves of any type.
    - `adjoint`: how to differentiate.

    **Returns:** y, with derivatives of every order.

    **Raises:** `ValueError` if there are not as many equations as unknowns; `TypeError` if `y` has a
    leaf that is not floating or complex, or if `residual` or `adjoint` is none.
    """
    check_residual(residual)
    check_adjoint(adjoint)
    return adjoint.attach(residual, y, args)


def check_adjoint(value: Any) -> None:
    """Raise `TypeError` unless `value` is an adjoint of this package."""
    if not isinstance(value, AbstractAdjoint):
        raise TypeError(
            f"`adjoint` is {value!r} of type {type(value).__name__}; expected an adjoint of jaxsci, such "
            "as jaxsci.ImplicitAdjoint()."
        )
