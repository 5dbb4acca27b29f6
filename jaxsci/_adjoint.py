"""Spine 2: dy*/dθ. The one custom derivative of the package.

F(y*(θ), θ) = 0 for all θ near the given one, so with A = ∂F/∂y and B = ∂F/∂θ at the solution

    A ẏ = −B θ̇   (forward)        θ̄ = −Bᵀ A⁻ᵀ ȳ   (reverse).

The rule is carried by a JAX primitive, `implicit`: the identity on y*, with y* and the constants of F
as operands. Only its linearisation is given; it is linear in θ̇, so its transpose is the reverse mode.
The linearisation uses the *output* of the primitive as the point y*, so that y* inside A and B carries
derivatives again, and every order follows from the first. A primitive and not a `custom_jvp`, because
up to JAX 0.11 the latter loses its rule in second derivatives through `scan` and `fori_loop`.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import equinox.internal as eqxi
import jax
import jax.extend.core
import jax.numpy as jnp
import jax.tree_util as jtu
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, PyTree

from . import _tree
from ._adjoint_interface import AbstractAdjoint, check_adjoint
from ._linearization import Rule, along, linearize, split
from ._residual import AbstractResidual, check_residual
from ._solution import RESULTS
from .linear import AbstractLinearSolver, PseudoInverse, Reuse
from .linear._solver import check_linear_solver


class ImplicitAdjoint(AbstractAdjoint):
    """Derivatives by the implicit function theorem: ∂F/∂y · dy = −∂F/∂θ · dθ at F(y*, θ) = 0.

    Forward mode, reverse mode, any order, under every transformation and inside `shard_map`. Memory: one
    solution, whatever the number of solver steps.

    **Arguments:**

    - `linear_solver`: a `jaxsci.linear` solver for the linear system; None: Cholesky or LU up to
      1024 unknowns, CG or GMRES above (`jaxsci.linear.default_solver`). The system is scaled by its
      right-hand side and its residual is checked; a singular or unconverged one gives NaN in that
      lane of a batch only.
    - `well_posed`: with False, ∂F/∂y may be singular, and dy = −(∂F/∂y)⁺ ∂F/∂θ · dθ is the shortest of
      the least-squares solutions (`jaxsci.linear.PseudoInverse`, whatever the size). Where solutions
      form a smooth family y* + ker ∂F/∂y, this is right for every loss that is constant on the family.
    - `throw`: raise an error, instead of returning NaN, when a linear solve fails as the program runs.
      Not inside `jax.shard_map` and `jax.export`, where no error can be raised.

    **Raises:** `ValueError` for `well_posed=False` with a solver of regular systems; `RuntimeError` as
    described under `throw`. `jaxsci.adjoint_info` and `jaxsci.check` tell why a solve failed.

    **Limits:** the error of the derivative is proportional to ‖y − y*‖: an unconverged solution has
    an inexact derivative. Where ∂F/∂y is singular there is no derivative, and NaN is returned; the
    matrix-free solvers cannot tell a singular system that has a solution from a regular one.

    **Reference:** Blondel et al., Efficient and Modular Implicit Differentiation, NeurIPS 2022.
    """

    linear_solver: AbstractLinearSolver | None = None
    well_posed: bool = eqx.field(static=True, default=True)
    throw: bool = eqx.field(static=True, default=False)

    def __check_init__(self):
        check_linear_solver(self.linear_solver)
        if not self.well_posed and self.linear_solver is not None and self.linear_solver.exact:
            raise ValueError(
                f"`well_posed` is False and `linear_solver` is {self.linear_solver!r}, which is for regular "
                "systems. Use jaxsci.linear.PseudoInverse(), or leave `linear_solver` out."
            )

    def reuses(self, y):
        return self.linear_solver is None and self.well_posed and _tree.size(y) >= Reuse.SMALLEST

    def reusing(self, factorised):
        return ImplicitAdjoint(factorised, throw=self.throw)

    @property
    def solver(self) -> AbstractLinearSolver | None:
        """The linear solver; None for a choice by size."""
        return self.linear_solver if self.well_posed or self.linear_solver is not None else PseudoInverse()

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
        rule, consts = linearize(residual, y, args, self.solver, self.throw)
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


def _moves(tangent) -> bool:
    return type(tangent) is not ad.Zero and jax.typeof(tangent).dtype != jax.dtypes.float0


# --- vmap -------------------------------------------------------------------------------------------
# Both primitives below hold `maps`, the batch axes that `vmap` has added, innermost first, each
# (axis_data, in_axes). What a batched primitive stands for is the vmap of what it is for one sample, so
# lanes stay independent.


def _mapped(fn: Callable, maps, in_axes: Callable = lambda axes: axes) -> Callable:
    """fn(operands), batched over `maps`; `in_axes` gives its axes in terms of those of the operands."""
    for axis, axes in maps:
        fn = jax.vmap(
            fn, in_axes(axes), axis_size=axis.size, axis_name=axis.name, spmd_axis_name=axis.spmd_name
        )
    return fn


def _batched(axis, operands, dims, mapped: range):
    """The operands with batch axis 0 or none, those numbered `mapped` with one, and their in_axes."""
    moved = [x if d is None else jnp.moveaxis(x, d, 0) for x, d in zip(operands, dims, strict=True)]
    for i in mapped:
        if dims[i] is None:
            moved[i] = jnp.broadcast_to(moved[i], (axis.size, *moved[i].shape))
    axes = tuple(0 if i in mapped or d is not None else None for i, d in enumerate(dims))
    return moved, axes


# --- implicit: (y*, θ) ↦ y*, with the derivative of the theorem -------------------------------------
# Parameters: `rule`, a Rule for one sample; `n`, the number of leaves of y; `maps`.

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
        return _tangent(rule, ys, consts, directions, active)

    axes_of = lambda axes: (axes[:n], axes[n:], tuple(axes[n + i] for i in active))
    return ys, list(_mapped(tangent, maps, axes_of)(tuple(ys), tuple(consts), directions))


def _implicit_batch(axis, operands, dims, *, rule, n, maps):
    if all(d is None for d in dims):
        return implicit_p.bind(*operands, rule=rule, n=n, maps=maps), [None] * n
    # y* may be the same in all lanes while its derivative is not.
    operands, axes = _batched(axis, operands, dims, range(n))
    return implicit_p.bind(*operands, rule=rule, n=n, maps=(*maps, (axis, axes))), [0] * n


implicit_p.def_impl(_identity)
implicit_p.def_abstract_eval(_identity)
ad.primitive_jvps[implicit_p] = _implicit_jvp
batching.fancy_primitive_batchers[implicit_p] = _implicit_batch
mlir.register_lowering(implicit_p, mlir.lower_fun(_identity, multiple_results=True))


# --- solve_linear: (y*, θ, factors of A, b) ↦ x with A x = b or Aᵀ x = b, linear in b ---------------
# ẋ solves A ẋ = ḃ − Ȧ x, and the transpose with respect to b is the solve with Aᵀ. Not
# `lax.custom_linear_solve`: it traces four functions where this traces one; it wants each leaf of b to
# depend on θ̇; and in shard_map it widens its constants after having traced with narrow ones.


@dataclasses.dataclass(frozen=True)
class _Form:
    """The static part: what stands behind the operands (*y, *θ, *prepared, *b)."""

    rule: Rule
    n: int  # leaves of y, and of b
    structure: Any  # of (array of A or None, what the linear solver has prepared)
    exact: bool  # x = A⁻¹b, else A⁺b
    transpose: bool
    maps: tuple

    def other(self) -> "_Form":
        """The solve with Aᵀ."""
        return dataclasses.replace(self, transpose=not self.transpose)

    def product(self, operands, xs, transpose: bool = False):
        """A x, or Aᵀ x, for one sample."""
        a = self.rule.operator(operands[: self.n], operands[self.n :])
        return (a.transpose() if self.transpose != transpose else a).mv(tuple(xs))

    def run(self, *operands) -> list[Array]:
        """x, for one sample."""
        sizes = (self.n, sum(self.rule.sizes), self.structure.num_leaves, self.n)
        ys, consts, prepared, b = split(operands, sizes)
        array, prepared = jtu.tree_unflatten(self.structure, prepared)
        operator = self.rule.operator(ys, consts, array)
        solver = self.rule.solver(operator, consts)
        if not solver.direct:
            operator = self.rule.iterable(operator, ys, consts)
        x, ok, _ = solver.solve(operator, prepared, tuple(b), transpose=self.transpose)
        if self.rule.throw and not _tree.in_manual_region():
            x = RESULTS.derivative_failed.error_if(x, ~ok)
        return _tree.vary_like(list(x), *operands)


class _Traced:
    """What one `solve_linear` computes, by the types of the operands. It is traced where the types are
    found, because there, and no longer at lowering, is known what is inside `shard_map`.

    A solve, its derivatives, its transposes and its batches are handed on by these objects, so that the same
    one is traced once, however many derivatives of it a program takes.
    """

    def __init__(self, form: _Form):
        self.form = form
        self.run = _mapped(form.run, form.maps)
        self.known: dict[tuple, Any] = {}
        self._other: _Traced | None = None
        self._batches: dict[tuple, _Traced] = {}

    def other(self) -> "_Traced":
        """The solve with Aᵀ."""
        if self._other is None:
            self._other = _Traced(self.form.other())
            self._other._other = self
        return self._other

    def batched(self, axis, axes) -> "_Traced":
        """The solves along one more batch axis."""
        if (axis, axes) not in self._batches:
            form = dataclasses.replace(self.form, maps=(*self.form.maps, (axis, axes)))
            self._batches[axis, axes] = _Traced(form)
        return self._batches[axis, axes]

    def __call__(self, *types):
        if types not in self.known:
            self.known[types] = jax.make_jaxpr(self.run)(*types)
        return self.known[types]


linear_p = Primitive("solve_linear")
linear_p.multiple_results = True


def _tangent(rule: Rule, ys, consts, directions, active) -> list[Array]:
    """ẏ with A ẏ = −B θ̇."""
    rhs = rule.right_hand_side(ys, consts, directions, active)
    prepared, structure = jtu.tree_flatten(rule.prepared(ys, consts))
    exact = rule.solver(rule.operator(ys, consts), consts).exact
    if (structure, exact) not in rule.traced:
        rule.traced[structure, exact] = _Traced(_Form(rule, len(ys), structure, exact, False, ()))
    return _solve_linear((*ys, *consts, *prepared, *rhs), rule.traced[structure, exact])


def _solve_linear(operands, traced: _Traced) -> list[Array]:
    n = traced.form.n
    b = _tree.vary_like(list(operands[-n:]), *operands[:-n])
    return linear_p.bind(*operands[:-n], *b, traced=traced)


def _linear_jvp(operands, tangents, *, traced):
    xs = linear_p.bind(*operands, traced=traced)
    form = traced.form
    n, rule = form.n, form.rule
    of_a = n + sum(rule.sizes[:2])
    active = [i for i, t in enumerate(tangents[:of_a]) if _moves(t)]
    rhs = [ad.instantiate_zeros(t) for t in tangents[-n:]]
    if len(active) == 0:
        return xs, _solve_linear((*operands[:-n], *rhs), traced)
    known = tuple(operands[: n + sum(rule.sizes)])
    directions = tuple(tangents[i] for i in active)
    axes_of = lambda axes: (axes[: len(known)], (0,) * n, tuple(axes[i] for i in active))

    def moved(vs, transpose: bool = False):
        """Ȧ v, or Ȧᵀ v."""

        def one(known, vs, directions):
            return along(lambda known: form.product(known, vs, transpose), known, directions, active)

        return _mapped(one, form.maps, axes_of)(known, tuple(vs), directions)

    rhs = [b - c for b, c in zip(rhs, moved(xs), strict=True)]
    if form.exact:
        return xs, _solve_linear((*operands[:-n], *rhs), traced)
    # x = A⁺b (Golub & Pereyra 1973): with r = b − A x and s = Ȧᴴ A⁺ᴴ x,
    # ẋ = A⁺(ḃ − Ȧ x + A⁺ᴴ Ȧᴴ r) + (1 − A⁺A) s, where A is of the same rank nearby.
    product = _mapped(form.product, form.maps, lambda axes: (axes[: len(known)], (0,) * n))
    hermitian = lambda vs: _tree.conj(_solve_linear((*operands[:-n], *_tree.conj(vs)), traced.other()))
    changed = lambda vs: _tree.conj(list(moved(_tree.conj(list(vs)), True)))
    r = [b - c for b, c in zip(operands[-n:], product(known, tuple(xs)), strict=True)]
    s = changed(hermitian(list(xs)))
    parts = zip(rhs, hermitian(changed(r)), product(known, tuple(s)), strict=True)
    solved = _solve_linear((*operands[:-n], *(b + h - c for b, h, c in parts)), traced)
    return xs, [x + y for x, y in zip(solved, s, strict=True)]


def _linear_transpose(cotangents, *operands, traced):
    n = traced.form.n
    cotangents = [ad.instantiate_zeros(c) for c in cotangents]
    out = _solve_linear((*operands[:-n], *cotangents), traced.other())
    wanted = [ad.is_undefined_primal(b) for b in operands[-n:]]
    return [None] * (len(operands) - n) + [x if w else None for x, w in zip(out, wanted, strict=True)]


def _linear_batch(axis, operands, dims, *, traced):
    n = traced.form.n
    if all(d is None for d in dims):
        return linear_p.bind(*operands, traced=traced), [None] * n
    operands, axes = _batched(axis, operands, dims, range(len(dims) - n, len(dims)))
    return _solve_linear(operands, traced.batched(axis, axes)), [0] * n


def _linear_lowering(context, *operands, traced):
    run = jax.extend.core.jaxpr_as_fun(traced(*context.avals_in))
    return mlir.lower_fun(run, multiple_results=True)(context, *operands)


linear_p.def_impl(lambda *operands, traced: traced.run(*operands))
linear_p.def_abstract_eval(lambda *types, traced: list(traced(*types).out_avals))
ad.primitive_jvps[linear_p] = _linear_jvp
ad.primitive_transposes[linear_p] = _linear_transpose
batching.fancy_primitive_batchers[linear_p] = _linear_batch
mlir.register_lowering(linear_p, _linear_lowering)


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
