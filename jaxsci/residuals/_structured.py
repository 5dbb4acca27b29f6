"""Least squares whose residual is pointwise in fields that are linear in the unknown."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.extend.core
import jax.numpy as jnp
import jax.tree_util as jtu
import lineax as lx
from jaxtyping import Array, Float, PyTree

from .. import _tree
from .._residual import AbstractResidual, NormalEquations
from ..linear import Operator

Fields = dict[str, Array]

# Basis functions whose columns are computed at a time: bounds the memory, fills a matrix product.
_CHUNK = 16


def _same(values: Fields) -> Fields:
    return values


class Block(eqx.Module):
    """Rows e(ω) = P r(f(ω)) with fields f = lift_f + E_f (Σₙ ωₙ basisₙ).

    **Arguments:**

    - `basis`: name → (N, *values), every basis function.
    - `lift`: field name → (*points), the fields of what the basis is added to.
    - `law`: {field name: (*points)} ↦ r of shape (equations, *points). Pointwise: r at a point depends
      on the fields at that point alone. May hold traced arrays.
    - `rows`: P, a linear map on arrays (equations, *points), such as a row scaling.
    - `expand`: E, a linear map from {name: (*values)} to {field name: (*points)}, such as stencils. By
      default the basis is given by its fields, computed once per solve; give a map where it costs less
      than to hold every field of every basis function.
    """

    basis: Fields
    lift: Fields
    law: Callable[[Fields], Array]
    rows: Callable[[Array], Array]
    expand: Callable[[Fields], Fields] = _same

    @property
    def unknowns(self) -> int:
        """N."""
        return next(iter(self.basis.values())).shape[0]

    def fields(self, omega: Float[Array, " N"]) -> Fields:
        """f(ω)."""
        return self._moved(self.expand({f: jnp.tensordot(omega, b, 1) for f, b in self.basis.items()}))

    def _moved(self, change: Fields) -> Fields:
        return {f: self.lift[f] + change[f] for f in self.lift}

    def _expansion(self, omega: Array) -> tuple[Fields, Callable]:
        """f(ω) and Eᵀ."""
        values = {f: jnp.tensordot(omega, b, 1) for f, b in self.basis.items()}
        change, pull = jax.vjp(self.expand, values)
        return self._moved(change), lambda weights: pull(weights)[0]

    def __call__(self, omega: Float[Array, " N"]) -> Array:
        """e(ω)."""
        return self.rows(self.law(self.fields(omega)))

    def slopes(self, fields: Fields) -> tuple[Array, Fields]:
        """r and ∂r/∂f for every f: one product with ones each, since r is pointwise."""
        zeros = {f: jnp.zeros_like(v) for f, v in fields.items()}

        def along(f):
            ones = {**zeros, f: jnp.ones_like(fields[f])}
            return jax.jvp(self.law, (fields,), (ones,))[1]

        return self.law(fields), {f: along(f) for f in fields}

    def value_and_gradient(self, omega: Float[Array, " N"]) -> tuple[Array, Array]:
        """½‖e‖² and Jᵀe, by operations on vectors: the Jacobian is not formed."""
        fields, pull = self._expansion(omega)
        r, slopes = self.slopes(fields)
        e, pull_rows = jax.vjp(self.rows, r)
        (q,) = pull_rows(e)
        values = pull({f: jnp.sum(slopes[f] * q, axis=0) for f in fields})
        gradient = sum(_contract(self.basis[f], values[f]) for f in values)
        return 0.5 * jnp.vdot(e, e), gradient

    def normal(self, omega: Float[Array, " N"], exact: bool) -> NormalEquations:
        """½‖e‖², Jᵀe, JᵀJ and Σᵢ eᵢ ∂²eᵢ in closed form.

        With d_f = ∂r/∂f and B_f = E_f basis: J = P Σ_f diag(d_f) B_f, and with q = Pᵀe the second-order
        term is Σ_fg B_fᵀ diag(q ∂²r/∂f∂g) B_g over the pairs in which r is not linear.
        """
        n = self.unknowns
        fields, pull = self._expansion(omega)
        # The barriers keep XLA from computing the slopes again for every basis function.
        r, slopes = jax.lax.optimization_barrier(self.slopes(fields))
        e, pull_rows = jax.vjp(self.rows, r)
        pairs = self._nonlinear_pairs(fields) if exact else []
        weights = {}
        if pairs:
            weights = jax.lax.optimization_barrier(self._bends(fields, pull_rows(e)[0], pairs))

        def some(start):
            """The columns of J of some basis functions, and their rows of Sᵀ."""
            cut = lambda b: jax.lax.dynamic_slice_in_dim(b, start, size)
            own = jax.vmap(self.expand)({f: cut(b) for f, b in self.basis.items()})
            columns = sum(slopes[f] * own[f][:, None] for f in own)
            columns = jax.vmap(self.rows)(columns).reshape(size, -1)
            if not weights:
                return columns, jnp.zeros((size, n), columns.dtype)
            half = {f: jnp.zeros_like(v) for f, v in own.items()}
            for (f, g), weight in weights.items():
                # Half of each diagonal pair, whole of each other one: C = S + Sᵀ.
                half[f] = half[f] + (0.5 if f == g else 1.0) * weight * own[g]
            back = jax.vmap(pull)(half)
            s = sum(_product(_flat(back[f]), _flat(self.basis[f])) for f in back)
            return columns, s

        size = min(n, _CHUNK)
        count = -(-n // size)
        if count == 1:
            columns, s = some(0)
        else:
            # The last chunk starts early where N is no multiple: some rows are computed twice.
            def put(i, whole):
                start = jnp.minimum(i * size, n - size)
                place = lambda a, b: jax.lax.dynamic_update_slice_in_dim(a, b, start, 0)
                return jax.tree.map(place, whole, some(start))

            like = jax.eval_shape(some, 0)
            empty = jax.tree.map(lambda x: jnp.zeros((n, *x.shape[1:]), x.dtype), like)
            empty = _tree.vary_like(empty, self, omega)
            columns, s = jax.lax.fori_loop(0, count, put, empty)
        gram, gradient = _product(columns, columns), _contract(columns, e)
        curvature = s + s.T if exact else None
        return NormalEquations(0.5 * jnp.vdot(e, e), gradient, gram, curvature)

    def _bends(self, fields: Fields, q: Array, pairs) -> dict[tuple[str, str], Array]:
        """Σ_e q_e ∂²r_e/∂f∂g for the given pairs."""
        zeros = {f: jnp.zeros_like(v) for f, v in fields.items()}

        def along(g):
            ones = {**zeros, g: jnp.ones_like(fields[g])}
            return jax.jvp(lambda x: self.slopes(x)[1], (fields,), (ones,))[1]

        second = {g: along(g) for g in {g for _, g in pairs}}
        return {(f, g): jnp.sum(q * second[g][f], axis=0) for f, g in pairs}

    def _nonlinear_pairs(self, fields: Fields) -> list[tuple[str, str]]:
        """The pairs f ≤ g for which ∂r/∂f depends on field g, found by tracing."""
        names = list(fields)
        pairs = []
        for j, g in enumerate(names):
            slopes = lambda x, g=g: self.slopes({**fields, g: x})[1]
            closed = jax.make_jaxpr(slopes)(fields[g])
            live = set(closed.jaxpr.invars)
            for equation in closed.jaxpr.eqns:
                if any(_is_in(v, live) for v in equation.invars):
                    live.update(equation.outvars)
            order = sorted(names)  # how JAX flattens a dict
            depends = {f: _is_in(v, live) for f, v in zip(order, closed.jaxpr.outvars, strict=True)}
            pairs += [(f, g) for f in names[: j + 1] if depends[f]]
        return pairs


def _is_in(variable, live) -> bool:
    return not isinstance(variable, jax.extend.core.Literal) and variable in live


def _contract(basis: Float[Array, "N *points"], weights: Float[Array, " *points"]) -> Array:
    """Σ over points."""
    return jnp.matmul(_flat(basis), weights.reshape(-1), precision=jax.lax.Precision.HIGHEST)


def _flat(a: Float[Array, "n ..."]) -> Float[Array, "n m"]:
    return a.reshape(a.shape[0], -1)


def _product(a: Float[Array, "n m"], b: Float[Array, "k m"]) -> Float[Array, "n k"]:
    """a bᵀ."""
    return jnp.matmul(a, b.T, precision=jax.lax.Precision.HIGHEST)


class StructuredLeastSquares(AbstractResidual):
    """min over ω of ½ Σ_b ‖P_b r_b(lift + Σₙ ωₙ basisₙ)‖² + ½ ρ ‖ω‖².

    Equations of physics are nonlinear pointwise and linear in the derivatives, and the derivatives are
    linear in the coefficients ω. So an evaluation is a contraction and a pointwise function, and Jacobian and Hessian have closed forms.

    **Arguments:**

    - `blocks`: a tuple of `Block`s with the same number of unknowns (equation, conditions, …).
    - `ridge`: ρ ≥ 0, in squared units of a row per coefficient; decides what dependent basis functions
      would leave open.
    - `gauss_newton`: iterate and differentiate with JᵀJ only; see `jaxsci.LeastSquares`.
    - `hessian`: the Hessian at the solution, if it is known already; it spares the derivative one
      evaluation and changes nothing else.
    """

    blocks: tuple[Block, ...]
    ridge: float = 0.0
    gauss_newton: bool = eqx.field(static=True, default=False)
    hessian: Float[Array, "N N"] | None = None

    @property
    def tags(self):
        return frozenset({lx.symmetric_tag})

    @property
    def start(self) -> Float[Array, " N"]:
        """ω = 0."""
        basis = self.blocks[0].basis
        return jnp.zeros(self.blocks[0].unknowns, next(iter(basis.values())).dtype)

    def __call__(self, y: Float[Array, " N"], args: PyTree[Any] = None) -> PyTree[Array]:
        rows = tuple(block(y) for block in self.blocks)
        return (*rows, self.ridge**0.5 * y) if self.ridge > 0 else rows

    def optimality(self, y, args=None):
        rows, pull = jax.vjp(lambda y: tuple(block(y) for block in self.blocks), y)
        (gradient,) = pull(rows)
        return gradient + self.ridge * y if self.ridge > 0 else gradient

    def normal_equations(self, y, args=None):
        parts = [block.normal(y, exact=not self.gauss_newton) for block in self.blocks]
        total = jtu.tree_map(lambda *x: sum(x), *parts)
        if self.ridge > 0:
            total = total.with_ridge(self.ridge, y)
        return total

    def objective(self, y, args=None):
        value = sum(0.5 * jnp.sum(block(y) ** 2) for block in self.blocks)
        return value + 0.5 * self.ridge * jnp.vdot(y, y) if self.ridge > 0 else value

    def value_and_gradient(self, y, args=None):
        values, gradients = zip(*(block.value_and_gradient(y) for block in self.blocks), strict=True)
        value, gradient = sum(values), sum(gradients)
        if self.ridge > 0:
            value = value + 0.5 * self.ridge * jnp.vdot(y, y)
            gradient = gradient + self.ridge * y
        return value, gradient

    def metric(self, y, args=None):
        gram = sum(block.normal(self.start, exact=False).gram for block in self.blocks)
        # Positive definite also where basis functions are dependent.
        small = 10 * float(jnp.finfo(gram.dtype).eps) * jnp.trace(gram) / gram.shape[0]
        return gram + (self.ridge + small) * jnp.eye(gram.shape[0], dtype=gram.dtype)

    def with_hessian(self, hessian):
        return StructuredLeastSquares(self.blocks, self.ridge, self.gauss_newton, hessian)

    def jacobian(self, y, args=None):
        def mv(v):
            if self.gauss_newton:
                push = lambda b: jax.jvp(b, (y,), (v,))[1]
                pull = lambda b, e: jax.vjp(b, y)[1](e)[0]
                product = sum(pull(b, push(b)) for b in self.blocks)
                return product + self.ridge * v if self.ridge > 0 else product
            return jax.jvp(lambda y: self.optimality(y), (y,), (v,))[1]

        known = self.normal_equations(y).hessian if self.hessian is None else self.hessian
        return Operator(mv, y, known, self.tags)
