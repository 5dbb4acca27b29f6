"""The rows of a loss: the equation at points, and the conditions that do not hold by construction."""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .. import _tree, pde
from ..solvers._gauss_newton_system import lower_gram
from ._ansatz import named, value_of
from ._model import AbstractPINN, AbstractTerm, EquationTerm, Inputs


class FaceTerm(AbstractTerm):
    """a·u + b·∂ₙu − c on a part of the boundary."""

    condition: pde.AbstractFaceCondition
    name: str = eqx.field(static=True)

    def draw(self, model, n, sampler, key):
        return model.domain.boundary(self.condition.face, n, sampler, key)

    def rows(self, model, p, normal):
        f = model.equation.fields.index(self.condition.field)
        u, slope = jax.jvp(lambda p: model(p)[f], (p,), (normal.astype(p.dtype),))
        a, b, c = self.condition.coefficients(named(p, model.equation.coordinates))
        return jnp.reshape(a * u + b * slope - c, 1)


class PeriodicTerm(AbstractTerm):
    """u and ∂u at one end of a coordinate, less those at the other."""

    condition: pde.Periodic
    name: str = eqx.field(static=True)

    def draw(self, model, n, sampler, key):
        return (model.domain.boundary(pde.low(self.condition.axis), n, sampler, key)[0],)

    def rows(self, model, p):
        f = model.equation.fields.index(self.condition.field)
        axis = model.equation.coordinates.index(self.condition.axis)
        along = jnp.zeros_like(p).at[axis].set(1)
        end = lambda p: jnp.stack(jax.jvp(lambda p: model(p)[f], (p,), (along,)))
        return end(p) - end(p.at[axis].set(model.domain.bounds[axis][1]))


class StartTerm(AbstractTerm):
    """u, or ∂u/∂t, less the initial value."""

    condition: pde.Initial
    name: str = eqx.field(static=True)

    def draw(self, model, n, sampler, key):
        return (model.domain.boundary(pde.low(self.condition.time), n, sampler, key)[0],)

    def rows(self, model, p):
        names = model.equation.coordinates
        f = model.equation.fields.index(self.condition.field)
        along = jnp.zeros_like(p).at[names.index(self.condition.time)].set(1)
        u, rate = jax.jvp(lambda p: model(p)[f], (p,), (along,))
        return jnp.reshape(
            (rate if self.condition.rate else u) - value_of(self.condition, named(p, names)), 1
        )


class DataTerm(AbstractTerm):
    """u at the points of measurements, less what was measured."""

    condition: pde.Data
    name: str = eqx.field(static=True)

    def draw(self, model, n, sampler, key):
        return self.condition.points, self.condition.values

    def current(self, inputs):
        """The values of the condition, which may be traced."""
        return inputs[0], self.condition.values.astype(inputs[1].dtype)

    def rows(self, model, p, value):
        f = model.equation.fields.index(self.condition.field)
        return jnp.reshape(model(p)[f] - value, 1)


def terms_of(soft: Sequence) -> tuple[AbstractTerm, ...]:
    """The equation, and each soft condition."""
    terms: list[AbstractTerm] = [EquationTerm()]
    for c in soft:
        if isinstance(c, pde.AbstractFaceCondition):
            where = c.face.name if isinstance(c.face, pde.Part) else f"{_end(c.face)} {c.face.axis}"
            terms.append(FaceTerm(c, f"{type(c).__name__} {c.field} {where}"))
        elif isinstance(c, pde.Periodic):
            terms.append(PeriodicTerm(c, f"Periodic {c.field} {c.axis}"))
        elif isinstance(c, pde.Initial):
            terms.append(StartTerm(c, f"Initial {c.field}{' rate' if c.rate else ''}"))
        else:
            terms.append(DataTerm(c, f"Data {c.field} {c.name}"))
    return tuple(terms)


def _end(face: pde.Face) -> str:
    return "low" if face.outward < 0 else "high"


class Objective(eqx.Module):
    """½‖rows‖² with row i of a term that has n points equal to √(w/n) rᵢ: ½ Σ mean(w r²).

    - `terms`: of one model. - `owners`: the names of the rows at a point, and the names of their terms.
    - `rest`: the model without its unknowns.
    - `chunk`: so many points are evaluated together; None: all.
    """

    terms: tuple[AbstractTerm, ...]
    owners: tuple[tuple[str, str], ...] = eqx.field(static=True)
    rest: Any
    chunk: int | None = eqx.field(static=True)

    def __init__(
        self,
        terms: Sequence[AbstractTerm],
        model: AbstractPINN,
        inputs: dict[str, Inputs],
        rest: Any,
        chunk: int | None = None,
    ):
        self.terms = tuple(terms)
        self.rest = rest
        self.chunk = chunk
        owners: list[tuple[str, str]] = []
        for t in terms:
            first = tuple(x[0] for x in inputs[t.name])
            (k,) = jax.eval_shape(lambda *i, t=t: t.rows(model, *i), *first).shape
            owners += [(t.name if k == 1 else f"{t.name}[{i}]", t.name) for i in range(k)]
        self.owners = tuple(owners)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the rows at a point."""
        return tuple(name for name, _ in self.owners)

    def owned(self, term: str) -> tuple[str, ...]:
        """The names of a term's rows."""
        return tuple(name for name, owner in self.owners if owner == term)

    def model(self, unknown: Any) -> AbstractPINN:
        """The whole model."""
        return eqx.combine(unknown, self.rest)

    def residuals(self, unknown: Any, inputs: dict[str, Inputs]) -> dict[str, Float[Array, " n"]]:
        """The rows by name, without weights."""
        model = self.model(unknown)
        columns: list[Array] = []
        for term in self.terms:
            one = lambda i, t=term: _rows(t, model, i)
            if self.chunk is None:
                found = jax.vmap(one)(inputs[term.name])
            else:
                # What a derivative needs of a chunk is computed again rather than kept.
                found = jax.lax.map(jax.checkpoint(one), inputs[term.name], batch_size=self.chunk)
            columns += list(found.T)
        return dict(zip(self.names, columns, strict=True))

    def rows(
        self, unknown: Any, inputs: dict[str, Inputs], weights: dict[str, Array]
    ) -> Float[Array, " rows"]:
        """All rows, weighted."""
        found = self.residuals(unknown, inputs)
        return jnp.concatenate([_scale(r, weights[name]) * r for name, r in found.items()])

    def linearized(self, unknown: Any, inputs: dict[str, Inputs], weights: dict[str, Array]):
        """All rows with their Jacobian on the raveled unknowns, by one reverse pass for each row."""
        rows, jacobians = [], []
        for term in self.terms:
            scales = self._scales(term, inputs, weights)
            r, j = jax.vmap(lambda *at, term=term: self._one(term, unknown, at))(*inputs[term.name])
            rows.append(jnp.ravel((scales * r).T))
            jacobians.append(jnp.reshape(jnp.moveaxis(scales[..., None] * j, 1, 0), (-1, j.shape[-1])))
        return jnp.concatenate(rows), jnp.concatenate(jacobians)

    def normal(self, unknown: Any, inputs: dict[str, Inputs], weights: dict[str, Array]):
        """All rows, and the lower triangle of JᵀJ, of which no more than `chunk` points are held at once."""
        assert self.chunk is not None
        rows, size = [], _tree.size(unknown)
        gram = jnp.zeros((size, size), _tree.ravel(unknown).dtype)
        for term in self.terms:
            given = (inputs[term.name], self._scales(term, inputs, weights))

            def add(gram, given, term=term):
                at, scales = given
                r, j = jax.vmap(lambda *at: self._one(term, unknown, at))(*at)
                j = jnp.reshape(scales[..., None] * j, (-1, size))
                return gram + lower_gram(j), scales * r

            n = len(given[1])
            whole = n - n % self.chunk
            cut = lambda x, whole=whole: x[:whole].reshape(-1, self.chunk, *x.shape[1:])
            gram, r = jax.lax.scan(add, gram, jax.tree.map(cut, given))
            r = jnp.reshape(r, (whole, given[1].shape[1]))
            if whole < n:
                gram, rest = add(gram, jax.tree.map(lambda x, whole=whole: x[whole:], given))
                r = jnp.concatenate([r, rest])
            rows.append(jnp.ravel(r.T))
        return jnp.concatenate(rows), gram

    def _one(self, term: AbstractTerm, unknown: Any, at: Inputs) -> tuple[Array, Array]:
        """The rows at one point, and their Jacobian (k, n)."""
        fn = lambda v: _rows(term, self.model(_tree.unravel(v, unknown)), at)
        r, pull = jax.vjp(fn, _tree.ravel(unknown))
        return r, jax.vmap(lambda e: pull(e)[0])(jnp.eye(len(r), dtype=r.dtype))

    def _scales(self, term: AbstractTerm, inputs: dict[str, Inputs], weights: dict[str, Array]) -> Array:
        """√(w/n) at each point, for each row (n, k)."""
        first = inputs[term.name][0]
        like = jnp.zeros(len(first), first.dtype)
        found = [jnp.broadcast_to(_scale(like, weights[name]), like.shape) for name in self.owned(term.name)]
        return jnp.stack(found, axis=1)


def _rows(term: AbstractTerm, model: AbstractPINN, at: Inputs) -> Float[Array, " k"]:
    # In the precision of the points, whatever that of a function in the equation or in a condition.
    return term.rows(model, *at).astype(at[0].dtype)


def _scale(r: Array, weight: Array) -> Array:
    return jnp.sqrt(jnp.asarray(weight, r.dtype) / r.size)
