"""Conditions on the boundary, at the initial time, and at points of measurements."""

import abc
from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from ._equation import Point

Value = ArrayLike | Callable[[Point], Array]
"""A number, an array, or a function of the point."""


def value_at(value: Value, point: Point | None) -> ArrayLike:
    """The value of a condition; `point` is needed if it is a function."""
    if not callable(value):
        return value
    if point is None:
        raise ValueError(
            "The value of a condition is a function of the point, and here there is no point to give it. "
            "Give a number or an array."
        )
    return value(point)


class Face(eqx.Module):
    """One face of a box: an axis, and on which end of it. See [`low`][] and [`high`][].

    **Arguments:**

    - `axis`: the coordinate that is constant on the face.
    - `outward`: the sign of the outward normal along it, -1 (lower end) or +1 (upper end).
    """

    axis: str = eqx.field(static=True)
    outward: int = eqx.field(static=True)

    def __check_init__(self):
        if self.outward not in (-1, 1):
            raise ValueError(f"`outward` is {self.outward!r}; expected -1 (lower end) or +1 (upper end).")


class Part(eqx.Module):
    """A named part of the boundary of a domain that is no box: `Part("hole")`.

    **Arguments:**

    - `name`: as the domain calls it.
    """

    name: str = eqx.field(static=True)


def low(axis: str) -> Face:
    """The face at the lower end of the axis named `axis`; its outward normal is −axis."""
    return Face(axis, -1)


def high(axis: str) -> Face:
    """The face at the upper end of the axis named `axis`; its outward normal is +axis."""
    return Face(axis, 1)


class AbstractFaceCondition(eqx.Module):
    """A condition a·u + b·∂ₙu = c on one part of the boundary, ∂ₙ along the outward normal.

    Each of a, b and c is a number, or a function of a [`Point`][]. On a [`Grid`][] it may also be an array
    that broadcasts to the face: over the levels 1…n of a time axis (if there is one) and over the cells
    of the other axes, in the order of the grid.
    """

    field: eqx.AbstractVar[str]
    face: eqx.AbstractVar[Face | Part]

    @abc.abstractmethod
    def coefficients(self, point: Point | None = None) -> tuple[ArrayLike, ArrayLike, ArrayLike]:
        """(a, b, c) at a point: a and b·(1/length) in one unit, c in that unit times that of the field."""


class Dirichlet(AbstractFaceCondition):
    """u = value on a face.

    **Arguments:**

    - `field`: the field's name.
    - `face`: `low("x")` or `high("x")`, or a `Part`.
    - `value`: in the units of the field; zero by default.
    """

    field: str = eqx.field(static=True)
    face: Face | Part
    value: Value = 0.0

    def coefficients(self, point=None):
        """(1, 0, value)."""
        return 1.0, 0.0, value_at(self.value, point)


class Neumann(AbstractFaceCondition):
    """∂ₙu = value on a face, along the outward normal.

    **Arguments:**

    - `field`: the field's name.
    - `face`: `low("x")` or `high("x")`, or a `Part`.
    - `value`: in units of the field by length; zero by default.
    """

    field: str = eqx.field(static=True)
    face: Face | Part
    value: Value = 0.0

    def coefficients(self, point=None):
        """(0, 1, value)."""
        return 0.0, 1.0, value_at(self.value, point)


class Robin(AbstractFaceCondition):
    """a·u + b·∂ₙu = value on a face, along the outward normal.

    Dissipative (and well-posed for diffusion) when a and b have the same sign.

    **Arguments:**

    - `field`: the field's name.
    - `face`: `low("x")` or `high("x")`, or a `Part`.
    - `a`, `b`: coefficients of the value and of the normal derivative.
    - `value`: in units of `a` times those of the field; zero by default.
    """

    field: str = eqx.field(static=True)
    face: Face | Part
    a: Value
    b: Value
    value: Value = 0.0

    def coefficients(self, point=None):
        """(a, b, value)."""
        a, b, c = (value_at(v, point) for v in (self.a, self.b, self.value))
        return a, b, c


class Periodic(eqx.Module):
    """u at the lower end of an axis continues at the upper end.

    **Arguments:**

    - `field`: the field's name.
    - `axis`: the coordinate that is periodic.
    """

    field: str = eqx.field(static=True)
    axis: str = eqx.field(static=True)


class Initial(eqx.Module):
    """u = value at the first time, or ∂u/∂t = value there.

    **Arguments:**

    - `field`: the field's name.
    - `value`: a number or a function of a [`Point`][], or on a [`Grid`][] an array over the cells of the
        space axes; in the units of the field.
    - `rate`: the condition is on ∂u/∂t, for equations of second order in time.
    - `time`: the name of the time coordinate.
    - `extension`: for a hard condition of a network: a function of the point that equals `value` at the first
        time, and meets conditions on the boundary. The network then adds to it in place of the value itself:
        worth it where `value` has a kink that the solution has at no later time.
    """

    field: str = eqx.field(static=True)
    value: Value
    rate: bool = eqx.field(static=True, default=False)
    time: str = eqx.field(static=True, default="t")
    extension: Callable[[Point], Array] | None = None


class Data(eqx.Module):
    """u = values at points of measurements, in the sense of least squares.

    **Arguments:**

    - `field`: the field's name.
    - `points`: (n, d), in the order of the equation's coordinates.
    - `values`: (n,), in the units of the field.
    - `name`: of this set of data, in losses.

    **Raises:** `ValueError` for shapes that do not fit.
    """

    field: str = eqx.field(static=True)
    points: Float[Array, "n d"] = eqx.field(converter=jnp.asarray)
    values: Float[Array, " n"] = eqx.field(converter=jnp.asarray)
    name: str = eqx.field(static=True, default="data")

    def __check_init__(self):
        if self.points.ndim != 2 or self.values.shape != self.points.shape[:1]:
            raise ValueError(
                f"`points` has shape {self.points.shape} and `values` {self.values.shape}; expected (n, d) "
                "and (n,)."
            )


Condition = AbstractFaceCondition | Periodic | Initial | Data
