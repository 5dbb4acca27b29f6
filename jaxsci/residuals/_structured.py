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
from .._residual import AbstractResidual, Derivative, NormalEquations
from ..linear import Operator

Fields = dict[str, Array]

PART = 8  # basis functions whose images are held at a time


def _same(fields: Fields) -> Fields:
    return fields


class Block(eqx.Module):
    """Rows e(ω) = P r(f(ω)) with fields f = lift + S Σₙ ωₙ basisₙ.

    S is linear and acts on one function: of the basis only its values are kept, and derivatives are
    taken of the sum (in the iteration) or of one basis function after another (for the Jacobian).

    **Arguments:**

    - `basis`: name → (N, *values), every basis function.
    - `lift`: field name → (*points), the fields of what the basis is added to.
    - `law`: {field name: (*points)} ↦ r of shape (equations, *points). Pointwise: r at a point depends
      on the fields at that point alone. May hold traced arrays.
    - `rows`: P, a linear map on arrays (equations, *points), such as a row scaling.
    - `stencils`: S, {name: (*values)} ↦ {field name: (*points)}, linear, such as differences on a grid.
      By default the identity: the basis is then given by its fields.
    """

    basis: Fields
    lift: Fields
    law: Callable[[Fields], Array]
    rows: Callable[[Array], Array]
    stencils: Callable[[Fields], Fields] = _same

    @property
    def unknowns(self) -> int:
        """N."""
        return next(iter(self.basis.values())).shape[0]

    def fields(self, omega: Float[Array, " N"]) -> Fields:
        """f(ω)."""
        change = self.stencils({b: combination(omega, v) for b, v in self.basis.items()})
        return {f: self.lift[f] + change[f] for f in self.lift}

    def __call__(self, omega: Float[Array, " N"]) -> Array:
        """e(ω)."""
        return self.rows(self.law(self.fields(omega)))

    def slopes(self, fields: Fields) -> tuple[Array, Fields]:
        """r and ∂r/∂f for every f: one product with ones each, since r is pointwise."""

        def along(f):
            # The other fields are constants: zeros for them would be multiplied, and look like a dependence.
            law = lambda x: self.law({**fields, f: x})
            return jax.jvp(law, (fields[f],), (jnp.ones_like(fields[f]),))

        both = {f: along(f) for f in fields}
        return next(iter(both.values()))[0], {f: slope for f, (_, slope) in both.items()}

    def _weighed(self, r: Array) -> tuple[Array, Array]:
        """e = P r and q = Pᵀe.

        Inside shard_map P may vary over the mesh where r does not, and the transpose of that is a sum
        over the mesh: of the rows of other devices' experts. So r is made to vary first.
        """
        e, pull = jax.vjp(self.rows, _tree.vary_like(r, self))
        return e, pull(e)[0]

    def _gathered(self, weights: Fields) -> Fields:
        """Sᵀ of what is given at the fields."""
        like = {b: jnp.zeros(v.shape[1:], v.dtype) for b, v in self.basis.items()}
        _, pull = jax.vjp(self.stencils, _tree.vary_like(like, weights))
        return pull(weights)[0]

    def value_and_gradient(self, omega: Float[Array, " N"]) -> tuple[Array, Array]:
        """½‖e‖² and Jᵀe, by operations on vectors: the Jacobian is not formed."""
        fields = self.fields(omega)
        r, slopes = self.slopes(fields)
        e, q = self._weighed(r)
        weights = self._gathered({f: jnp.sum(slopes[f] * q, axis=0) for f in fields})
        gradient = jnp.asarray(sum(_contract(self.basis[b], weights[b]) for b in self.basis))
        return 0.5 * jnp.vdot(e, e), gradient

    def normal(self, omega: Float[Array, " N"], exact: bool) -> NormalEquations:
        """½‖e‖², Jᵀe, JᵀJ and Σᵢ eᵢ ∂²eᵢ in closed form.

        With d_f = ∂r/∂f and B_f = (S basis)_f: J = P Σ_f diag(d_f) B_f, and with q = Pᵀe the
        second-order term is Σ_fg B_fᵀ diag(q ∂²r/∂f∂g) B_g over the pairs in which r is not linear.
        """
        n = self.unknowns
        fields = self.fields(omega)
        # The barrier keeps XLA from computing the slopes again for every basis function.
        r, slopes = jax.lax.optimization_barrier(self.slopes(fields))

        def column(basis):
            moved = self.stencils(basis)
            return self.rows(sum(slopes[f] * moved[f] for f in fields))

        pairs = self._nonlinear_pairs(fields) if exact else []
        e, q = self._weighed(r) if pairs else (self.rows(r), None)
        columns = _in_parts(column, self.basis, e).reshape(n, -1)
        jtj, gradient, value = _product(columns, columns), _contract(columns, e), 0.5 * jnp.vdot(e, e)
        if not exact:
            return NormalEquations(value, gradient, jtj, None)
        if not pairs:
            return NormalEquations(value, gradient, jtj, jnp.zeros_like(jtj))
        bends = jax.lax.optimization_barrier(self._bends(fields, q, pairs))

        def bent(basis):
            moved = self.stencils(basis)
            out = {f: jnp.zeros_like(fields[f]) for f in fields}
            for (f, g), weight in bends.items():
                out[f] = out[f] + weight * moved[g]
                if f != g:
                    out[g] = out[g] + weight * moved[f]
            return self._gathered(out)

        def against_all(basis):
            image = bent(basis)
            return sum(_contract(v, image[b]) for b, v in self.basis.items())

        c = _in_parts(against_all, self.basis, gradient)
        return NormalEquations(value, gradient, jtj, 0.5 * (c + c.T))

    def _bends(self, fields: Fields, q: Array, pairs) -> dict[tuple[str, str], Array]:
        """Σ_e q_e ∂²r_e/∂f∂g for the given pairs."""

        def along(g):
            slopes = lambda x: self.slopes({**fields, g: x})[1]
            return jax.jvp(slopes, (fields[g],), (jnp.ones_like(fields[g]),))[1]

        second = {g: along(g) for g in {g for _, g in pairs}}
        return {(f, g): jnp.sum(q * second[g][f], axis=0) for f, g in pairs}

    def _nonlinear_pairs(self, fields: Fields) -> list[tuple[str, str]]:
        """The pairs f ≤ g for which ∂r/∂f depends on field g, found by tracing."""
        closed = jax.make_jaxpr(lambda x: self.slopes(x)[1])(fields)
        order = sorted(fields)  # how JAX flattens a dict
        reads = {v: {f} for f, v in zip(order, closed.jaxpr.invars, strict=True)}
        fields_of = lambda v: set() if isinstance(v, jax.extend.core.Literal) else reads.get(v, set())
        for equation in closed.jaxpr.eqns:
            found = set().union(*map(fields_of, equation.invars))
            reads.update(dict.fromkeys(equation.outvars, found))
        depends = {f: fields_of(v) for f, v in zip(order, closed.jaxpr.outvars, strict=True)}
        names = list(fields)
        return [(f, g) for j, g in enumerate(names) for f in names[: j + 1] if g in depends[f]]


def _in_parts(fn: Callable[[Fields], Array], basis: Fields, like: Array) -> Array:
    """fn, of results like `like`, of every basis function; a few at a time, since what is in between is
    larger than the result."""
    n = next(iter(basis.values())).shape[0]
    size = min(n, PART)

    def part(i, out):
        start = jnp.minimum(i * size, n - size)  # the last part may overlap the one before
        cut = {b: jax.lax.dynamic_slice_in_dim(v, start, size) for b, v in basis.items()}
        return jax.lax.dynamic_update_slice_in_dim(out, jax.vmap(fn)(cut), start, 0)

    return _tree.fori_loop(-(-n // size), part, jnp.zeros((n, *like.shape), like.dtype))


def combination(omega: Float[Array, " N"], basis: Float[Array, "N *values"]) -> Float[Array, " *values"]:
    """Σₙ ωₙ basisₙ, as the product of a vector and a matrix: the form that XLA copies nothing for."""
    flat = basis.reshape(basis.shape[0], -1)
    return jnp.matmul(omega, flat, precision=jax.lax.Precision.HIGHEST).reshape(basis.shape[1:])


def _contract(basis: Float[Array, "N *points"], weights: Float[Array, " *points"]) -> Array:
    """Σ over points."""
    flat = basis.reshape(basis.shape[0], -1)
    return jnp.matmul(flat, weights.reshape(-1), precision=jax.lax.Precision.HIGHEST)


def _product(a: Float[Array, "n m"], b: Float[Array, "k m"]) -> Float[Array, "n k"]:
    """a bᵀ."""
    return jnp.matmul(a, b.T, precision=jax.lax.Precision.HIGHEST)


class StructuredLeastSquares(AbstractResidual):
    """min over ω of ½ Σ_b ‖P_b r_b(lift + Σₙ ωₙ basisₙ)‖² + ½ ρ ‖ω‖².

    Equations of physics are nonlinear pointwise and linear in the derivatives, and the derivatives are
    linear in the coefficients ω. So an evaluation is a contraction, a stencil and a pointwise function, and
    Jacobian and Hessian have closed forms.

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
            push = lambda b: jax.jvp(b, (y,), (v,))[1]
            pull = lambda b, e: jax.vjp(b, y)[1](e)[0]
            product = sum(pull(b, push(b)) for b in self.blocks)
            return product + self.ridge * v if self.ridge > 0 else product

        known = lambda: self.normal_equations(y).hessian if self.hessian is None else self.hessian
        product = mv if self.gauss_newton else Derivative(self.optimality, y)
        return Operator(product, y, known, self.tags)
