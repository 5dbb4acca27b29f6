"""The discrete twin: derivatives on a tensor grid, so that an equation's residual is a scheme."""

import functools
import math
from collections.abc import Iterable, Mapping, Sequence

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from ._axes import AbstractAxis, Ends, Wrap
from ._conditions import AbstractFaceCondition, Condition, Face, Periodic
from ._equation import Derivative, Derivatives, Point, written_out


class Grid(eqx.Module):
    """A tensor grid of named axes. Arrays on it have its axes first, then any trailing axes.

    **Arguments:**

    - `axes`: coordinate name → axis, in the order of the array axes, for example
        `Grid({"t": Levels(times), "x": Cells(faces)})`.
    """

    axes: dict[str, AbstractAxis]

    def __init__(self, axes: Mapping[str, AbstractAxis]):
        self.axes = dict(axes)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of values on the grid."""
        return tuple(axis.size for axis in self.axes.values())

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Shape of what holds at the rows."""
        return tuple(axis.rows().size for axis in self.axes.values())

    def point(self, dtype=None) -> Point:
        """Coordinates of the rows, each broadcastable to `row_shape`, in the precision `dtype`."""
        return Point({name: self._along(name, axis.rows(), dtype) for name, axis in self.axes.items()})

    def weights(self, dtype=None) -> Float[Array, " *rows"]:
        """The measure of each row (time step times cell widths), of shape `row_shape`."""
        along = (self._along(name, axis.widths(), dtype) for name, axis in self.axes.items())
        return math.prod(along, start=jnp.ones(self.row_shape, dtype))

    def fields(
        self,
        values: Mapping[str, Array],
        required: Sequence[Derivative],
        conditions: Iterable[Condition] = (),
        *,
        homogeneous: bool = False,
    ) -> Derivatives:
        """Every required derivative of fields given on the grid, at its rows.

        The map from values to derivatives is affine: `homogeneous=True` gives its linear part (all
        boundary values zero), which is what basis functions take; the full one is for the lift.
        `fields(u) = fields(0) + fields(u, homogeneous=True)`.

        **Arguments:**

        - `values`: field name → array of shape `(*shape, *trailing)`.
        - `required`: what [`required`][] found for an equation. A Laplacian is the sum of its parts.
        - `conditions`: a condition for both faces, or `Periodic`, of every axis of `Cells` that a
            field is differentiated along.

        **Returns:** [`Derivatives`][], arrays of shape `(*row_shape, *trailing)`.

        **Raises:** `ValueError` for a missing field or condition, a wrong shape, or a derivative
        that an axis cannot give.
        """
        conditions = tuple(conditions)
        arrays = {}
        for derivative in required:
            terms = written_out(derivative, tuple(self.axes))
            for term in terms:
                self._validate(values, term)
            field = values[derivative.field]
            parts = [self._differentiate(field, term, conditions, homogeneous) for term in terms]
            arrays[derivative.name] = functools.reduce(jnp.add, parts)
        names = tuple(dict.fromkeys(derivative.field for derivative in required))
        return Derivatives(arrays, names, tuple(self.axes))

    def operator(
        self, derivative: Derivative, axis: str, conditions: Iterable[Condition] = (), dtype=None
    ) -> tuple[Float[Array, "rows n"], Float[Array, " rows"]]:
        """The part of a derivative along one axis as matrix and offset: rows = matrix·u + offset.

        **Arguments:**

        - `derivative`: its order along `axis` is what counts.
        - `axis`: the name of the axis.
        - `conditions`: as in [`Grid.fields`][]; their values must be scalars.
        """
        line = Grid({axis: self.axes[axis]})
        along = Derivative(derivative.field, (axis,) * derivative.order(axis))
        conditions = tuple(conditions)
        size = self.axes[axis].size
        matrix = line._differentiate(jnp.eye(size, dtype=dtype), along, conditions, True)
        offset = line._differentiate(jnp.zeros(size, dtype), along, conditions, False)
        return matrix, offset

    def _along(self, name, numbers, dtype):
        shape = tuple(numbers.size if other == name else 1 for other in self.axes)
        return jnp.asarray(numbers.reshape(shape), dtype)

    def _validate(self, values, derivative):
        if derivative.field not in values:
            raise ValueError(
                f"The derivative {derivative.name} is required and `values` has no field "
                f"{derivative.field!r}; it has {tuple(values)}."
            )
        shape = jnp.shape(values[derivative.field])
        if shape[: len(self.shape)] != self.shape:
            raise ValueError(
                f"The values of {derivative.field!r} have shape {shape}; expected "
                f"{self.shape} (the sizes of the axes {tuple(self.axes)}), then trailing axes."
            )
        unknown = [name for name in derivative.along if name not in self.axes]
        if unknown:
            raise ValueError(
                f"The derivative {derivative.name} is required and the grid has no axis "
                f"{unknown[0]!r}; it has {tuple(self.axes)}."
            )

    def _differentiate(self, values, derivative, conditions, homogeneous):
        # Axes without faces come first, so that what is given on a face is given at the rows. Once
        # differentiated along one axis, a condition on another axis holds for its derivative, which
        # is homogeneous if the condition is the same all along the face.
        done = 0
        for by_faces in (False, True):
            for position, (name, axis) in enumerate(self.axes.items()):
                if axis.has_faces == by_faces:
                    order, ends = derivative.order(name), None
                    if by_faces and order:
                        ends = self._ends(derivative, name, conditions, homogeneous, done > 0, values)
                    values = axis.differentiate(values, position, order, ends)
                    done += order
        return values

    def _ends(self, derivative, name, conditions, homogeneous, mixed, values):
        found: dict[int, AbstractFaceCondition] = {}
        for condition in conditions:
            if isinstance(condition, Periodic):
                if (condition.field, condition.axis) == (derivative.field, name):
                    return Wrap()
            elif isinstance(condition, AbstractFaceCondition):
                face: Face = condition.face
                if (condition.field, face.axis) == (derivative.field, name):
                    if face.outward in found:
                        raise ValueError(
                            f"`conditions` has two conditions for {derivative.field!r} on one face "
                            f"of {name!r}; expected one."
                        )
                    found[face.outward] = condition
        for outward, end in ((-1, "low"), (1, "high")):
            if outward not in found:
                raise ValueError(
                    f"The derivative {derivative.name} needs a condition for "
                    f"{derivative.field!r} at {end}({name!r}), and `conditions` has none: add "
                    "Dirichlet, Neumann or Robin there, or Periodic for the axis."
                )
        return Ends(
            *(
                self._coefficients(found[outward], derivative, name, homogeneous, mixed, values)
                for outward in (-1, 1)
            )
        )

    def _face_point(self, face, dtype):
        """Where the rows of the other axes meet a face."""
        others = Grid({name: axis for name, axis in self.axes.items() if name != face.axis})
        faces = self.axes[face.axis].faces
        at = jnp.asarray(faces[0] if face.outward < 0 else faces[-1], dtype)
        return Point({**others.point(dtype)._arrays, face.axis: at})

    def _coefficients(self, condition, derivative, name, homogeneous, mixed, values):
        position = list(self.axes).index(name)
        shape = self.row_shape[:position] + self.row_shape[position + 1 :]
        trailing = values.ndim - len(self.axes)
        result = []
        for coefficient in condition.coefficients(self._face_point(condition.face, values.dtype)):
            coefficient = jnp.asarray(coefficient)
            if mixed and coefficient.ndim > 0:
                raise ValueError(
                    f"The mixed derivative {derivative.name} needs conditions that are the same "
                    f"all along a face; the one on a face of {name!r} has shape "
                    f"{coefficient.shape}, expected a scalar."
                )
            try:
                coefficient = jnp.broadcast_to(coefficient, shape if coefficient.ndim else ())
            except ValueError as error:
                raise ValueError(
                    f"A condition for {derivative.field!r} on a face of {name!r} has a value of "
                    f"shape {coefficient.shape}; expected a scalar or what broadcasts to {shape}, "
                    "the rows of the other axes."
                ) from error
            if coefficient.ndim:
                coefficient = jnp.expand_dims(coefficient, position)
                coefficient = coefficient.reshape(coefficient.shape + (1,) * trailing)
            else:
                coefficient = coefficient.reshape((1,) * values.ndim)
            result.append(coefficient.astype(values.dtype))
        a, b, c = result
        return a, b, jnp.zeros_like(c) if homogeneous or mixed else c
