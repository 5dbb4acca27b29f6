"""How an equation becomes rows: on a grid by the scheme, or at points by exact derivatives."""

import abc
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .. import pde
from ..residuals import Block
from ..residuals._structured import combination


class _Law(eqx.Module):
    """The pointwise residual of an equation, as a function of named derivatives."""

    equation: pde.AbstractEquation
    point: pde.Point

    def __call__(self, fields: dict[str, Array]) -> Float[Array, "equations *points"]:
        d = pde.Derivatives(fields, self.equation.fields, self.equation.coordinates)
        return jnp.stack(pde.pointwise(self.equation, d, self.point))


class AbstractDiscretization(eqx.Module):
    """Turns an equation and a basis into the blocks of a structured least-squares problem."""

    @abc.abstractmethod
    def blocks(
        self, equation: pde.AbstractEquation, basis: Any, lift: Any, conditions: Sequence
    ) -> tuple[Block, ...]:
        """The rows of the equation (and of conditions that the ansatz does not meet by itself)."""

    @abc.abstractmethod
    def combine(self, omega: Float[Array, " N"], basis: Any, lift: Any) -> Any:
        """u = lift + Σₙ ωₙ basisₙ, of the kind of `lift`."""


class Scheme(AbstractDiscretization):
    """Discretise, then constrain: the residual is that of a scheme on a grid.

    Derivatives are those of `pde.Grid`, so the discrete solution of the scheme has residual zero and
    face conditions hold exactly (they are eliminated in the stencils). Initial values hold exactly
    too: the basis is set to zero at the first level of a time axis, where the lift has them.

    **Arguments:**

    - `grid`: a `pde.Grid`.
    - `rows`: the row scaling, `SpaceTimeInverse` or `MeanSquare`.
    - `exact_initial`: False for the published ansatz u = Σₙ ωₙ basisₙ: of the lift only the initial
      values u₀ are used, and they are asked for by further rows √(w/Σw) (u(t₀) − u₀), in the unit of u.

    **Raises:** `ValueError` for `exact_initial=False` on a grid without a time axis.

    A basis is a mapping of field names to arrays (N, *grid.shape), a lift to arrays (*grid.shape); for
    an equation of one field the array alone will do.
    """

    grid: pde.Grid
    rows: Callable
    exact_initial: bool = eqx.field(static=True, default=True)

    def __check_init__(self):
        if not self.exact_initial and self._time() is None:
            raise ValueError(
                f"`exact_initial` is False, but the axes of `grid` are {tuple(self.grid.axes)} and none of "
                "them is a time axis (`pde.Levels`), so there are no initial values. Leave it out."
            )

    def blocks(self, equation, basis, lift, conditions=()):
        basis = self._named(equation, basis, "basis", extra=1)
        lift = self._named(equation, lift, "lift")
        initial = ()
        at = self._time()
        if at is not None and not self.exact_initial:
            initial = (self._initial(basis, lift, at),)
            lift = {f: jnp.zeros_like(v) for f, v in lift.items()}
        needed = pde.required(equation)
        dtype = next(iter(lift.values())).dtype
        return (
            Block(
                basis,
                _plain(self.grid.fields(lift, needed, conditions)),
                _Law(equation, self._points(self.grid.row_shape, dtype)),
                self.rows,
                _Stencils(self.grid, tuple(conditions), needed, self._mask()),
            ),
            *initial,
        )

    def combine(self, omega, basis, lift):
        single = not isinstance(lift, Mapping)
        basis, lift = ({"": basis}, {"": lift}) if single else (basis, lift)
        mask = jnp.asarray(self._mask(), omega.dtype)
        out = {f: mask * combination(omega, basis[f]) for f in lift}
        if self.exact_initial:
            out = {f: lift[f] + v for f, v in out.items()}
        return out[""] if single else out

    def _initial(self, basis, lift, at: int) -> Block:
        """The rows √(w/Σw) (u(t₀) − u₀) of all fields; t₀ is the first level along axis `at`."""
        widths = [axis.widths() for i, axis in enumerate(self.grid.axes.values()) if i != at]
        measure = functools.reduce(np.multiply.outer, widths, np.ones(()))
        weight = np.sqrt(measure / measure.sum())
        names = tuple(lift)
        return Block(
            {f: jnp.take(v, 0, at + 1) for f, v in basis.items()},
            {f: -jnp.take(v, 0, at) for f, v in lift.items()},
            _Stack(names),
            _Times(weight),
        )

    def _time(self) -> int | None:
        """The position of the time axis."""
        kinds = [isinstance(axis, pde.Levels) for axis in self.grid.axes.values()]
        return kinds.index(True) if True in kinds else None

    def residual(
        self, equation: pde.AbstractEquation, values: Any, conditions: Sequence = ()
    ) -> Float[Array, "fields *rows"]:
        """The scaled rows of given fields: ‖rows‖ is the root-mean-square in the unit of the scaling.

        **Arguments:**

        - `equation`, `conditions`: as everywhere.
        - `values`: field name → array of `grid.shape`, or the array alone.
        """
        values = self._named(equation, values, "values")
        d = self.grid.fields(values, pde.required(equation), conditions)
        law = _Law(equation, self._points(self.grid.row_shape, None))
        return self.rows(law({f: d[f] for f in d}))

    def _points(self, shape, dtype) -> pde.Point:
        point = self.grid.point(dtype)
        return pde.Point({name: jnp.broadcast_to(point[name], shape) for name in point})

    def _mask(self) -> np.ndarray:
        """Zero at the initial level if its values are exact, one elsewhere."""
        mask = np.ones(self.grid.shape)
        at = self._time()
        if at is not None and self.exact_initial:
            np.moveaxis(mask, at, 0)[0] = 0
        return mask

    def _named(self, equation, values, name: str, extra: int = 0) -> dict[str, Array]:
        fields = equation.fields
        if not isinstance(values, Mapping):
            if len(fields) > 1:
                raise ValueError(
                    f"`{name}` is one array, but {type(equation).__name__} has the fields {fields}; "
                    "expected a mapping of each field to its array."
                )
            values = {fields[0]: values}
        for field in fields:
            shape = None if field not in values else jnp.shape(values[field])[extra:]
            if shape != self.grid.shape:
                leading = "(N, *grid.shape)" if extra else "grid.shape"
                raise ValueError(
                    f"`{name}` has shape {None if field not in values else jnp.shape(values[field])} for "
                    f"the field {field!r}; expected {leading} with grid.shape {self.grid.shape}."
                )
        return {field: jnp.asarray(values[field]) for field in fields}


class Collocation(AbstractDiscretization):
    """The residual at given points, with exact derivatives of basis functions that are functions.

    **Arguments:**

    - `points`: (m, d) points, columns in the order of the equation's coordinates.
    - `scale`: factor of the equation's rows (row = scale · r/√m); turns the unit of r into that of
      the conditions' rows.
    - `conditions`: rows for conditions that basis and lift do not meet by themselves: a tuple of
      `(equation-like residual, points, scale)`, each an `AbstractEquation` whose residual vanishes
      where the condition holds, such as u − g at boundary points.

    A basis is a function (d,) ↦ (fields, N) or (N,) for one field, the lift a function
    (d,) ↦ (fields,) or a scalar.
    """

    points: Float[Array, "m d"]
    scale: float = 1.0
    conditions: tuple[tuple[pde.AbstractEquation, Array, float], ...] = ()

    def blocks(self, equation, basis, lift, conditions=()):
        if len(tuple(conditions)) > 0:
            raise ValueError(
                "`conditions` of faces are for `Scheme`; `Collocation` takes its conditions as rows: "
                "Collocation(points, conditions=((residual, points, scale), …))."
            )
        groups = ((equation, self.points, self.scale), *self.conditions)
        return tuple(self._block(basis, lift, *group) for group in groups)

    def combine(self, omega, basis, lift):
        return lambda point: lift(point) + basis(point) @ omega

    def _block(self, basis, lift, equation, points, scale) -> Block:
        count = len(equation.fields)
        functions = lambda p: jnp.reshape(basis(p), (count, -1))
        start = lambda p: jnp.reshape(lift(p), (count,))
        many = jax.vmap(lambda p: _plain(pde.derivatives(functions, equation, p)))(points)
        one = jax.vmap(lambda p: _plain(pde.derivatives(start, equation, p)))(points)
        named = {c: points[:, i] for i, c in enumerate(equation.coordinates)}
        weight = scale / points.shape[0] ** 0.5
        return Block(
            {f: jnp.moveaxis(v, -1, 0) for f, v in many.items()},
            one,
            _Law(equation, pde.Point(named)),
            _Times(weight),
        )


class _Stencils(eqx.Module):
    """Values of one function on a grid ↦ its derivatives at the rows, without boundary values."""

    grid: pde.Grid
    conditions: tuple
    needed: tuple = eqx.field(static=True)
    mask: np.ndarray

    def __call__(self, values: dict[str, Array]) -> dict[str, Array]:
        masked = {f: jnp.asarray(self.mask, v.dtype) * v for f, v in values.items()}
        return _plain(self.grid.fields(masked, self.needed, self.conditions, homogeneous=True))


class _Stack(eqx.Module):
    """Rows that are the fields themselves."""

    names: tuple[str, ...] = eqx.field(static=True)

    def __call__(self, fields: dict[str, Array]) -> Array:
        return jnp.stack([fields[f] for f in self.names])


class _Times(eqx.Module):
    factor: Any

    def __call__(self, r):
        return jnp.asarray(self.factor, r.dtype) * r


def _plain(d: pde.Derivatives) -> dict[str, Array]:
    return {name: d[name] for name in d}
