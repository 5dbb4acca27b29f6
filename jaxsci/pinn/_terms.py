"""The rows of a loss: the equation at points, and the conditions that do not hold by construction."""

import abc
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from .. import _tree, pde
from ._ansatz import named, value_of
from ._pinn import PINN

Inputs = tuple[Array, ...]
"""What a term needs at each of its points: arrays with the points on the leading axis."""


class AbstractTerm(eqx.Module):
    """One summand of the loss: rows at points."""

    name: eqx.AbstractVar[str]

    @abc.abstractmethod
    def draw(self, model: PINN, n: int, sampler: pde.AbstractSampler, key: PRNGKeyArray) -> Inputs:
        """Points, and what else the rows need there."""

    @abc.abstractmethod
    def rows(self, model: PINN, *inputs: Array) -> Float[Array, " k"]:
        """The rows at one point."""

    def current(self, inputs: Inputs) -> Inputs:
        """Inputs of an earlier draw, with what this term knows better."""
        return inputs


class EquationTerm(AbstractTerm):
    """The residual of the equation inside."""

    name: str = eqx.field(static=True, default="equation")

    def draw(self, model, n, sampler, key):
        return (model.domain.interior(n, sampler, key),)

    def rows(self, model, p):
        return model.residual(p)


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


def terms_of(model: PINN) -> tuple[AbstractTerm, ...]:
    """The equation, and each soft condition."""
    terms: list[AbstractTerm] = [EquationTerm()]
    for c in model.soft:
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
    """

    terms: tuple[AbstractTerm, ...]
    owners: tuple[tuple[str, str], ...] = eqx.field(static=True)
    rest: Any

    def __init__(self, terms: Sequence[AbstractTerm], model: PINN, inputs: dict[str, Inputs], rest: Any):
        self.terms = tuple(terms)
        self.rest = rest
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

    def model(self, unknown: Any) -> PINN:
        """The whole model."""
        return eqx.combine(unknown, self.rest)

    def residuals(self, unknown: Any, inputs: dict[str, Inputs]) -> dict[str, Float[Array, " n"]]:
        """The rows by name, without weights."""
        model = self.model(unknown)
        columns: list[Array] = []
        for term in self.terms:
            found = jax.vmap(lambda *i, t=term: _rows(t, model, i))(*inputs[term.name])
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
        flat = _tree.ravel(unknown)
        rows, jacobians = [], []
        for term in self.terms:

            def one(*at, term=term):
                fn = lambda v: _rows(term, self.model(_tree.unravel(v, unknown)), at)
                r, pull = jax.vjp(fn, flat)
                return r, jax.vmap(lambda e: pull(e)[0])(jnp.eye(len(r), dtype=r.dtype))

            r, j = jax.vmap(one)(*inputs[term.name])
            rows += list(r.T)
            jacobians += [j[:, i] for i in range(j.shape[1])]
        scales = [_scale(r, weights[name]) for name, r in zip(self.names, rows, strict=True)]
        of_rows = [jnp.broadcast_to(s, r.shape)[:, None] for s, r in zip(scales, rows, strict=True)]
        r = jnp.concatenate([s * r for s, r in zip(scales, rows, strict=True)])
        return r, jnp.concatenate([s * j for s, j in zip(of_rows, jacobians, strict=True)])


def _rows(term: AbstractTerm, model: PINN, at: Inputs) -> Float[Array, " k"]:
    # In the precision of the points, whatever that of a function in the equation or in a condition.
    return term.rows(model, *at).astype(at[0].dtype)


def _scale(r: Array, weight: Array) -> Array:
    return jnp.sqrt(jnp.asarray(weight, r.dtype) / r.size)
