"""Conditions on the faces of a box and at the initial time."""

import abc

import equinox as eqx
from jaxtyping import Array, ArrayLike


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
    """A condition a·u + b·∂ₙu = c on one face, ∂ₙ along the outward normal.

    Values are scalars, or arrays that broadcast to the face: over the levels 1…n of a time axis
    (if there is one) and over the cells of the other axes, in the order of the grid.
    """

    field: eqx.AbstractVar[str]
    face: eqx.AbstractVar[Face]

    @abc.abstractmethod
    def coefficients(self) -> tuple[ArrayLike, ArrayLike, ArrayLike]:
        """(a, b, c): a and b·(1/length) in one unit, c in that unit times that of the field."""


class Dirichlet(AbstractFaceCondition):
    """u = value on a face.

    **Arguments:**

    - `field`: the field's name.
    - `face`: `low("x")` or `high("x")`.
    - `value`: in the units of the field.
    """

    field: str = eqx.field(static=True)
    face: Face
    value: ArrayLike

    def coefficients(self):
        """(1, 0, value)."""
        return 1.0, 0.0, self.value


class Neumann(AbstractFaceCondition):
    """∂ₙu = value on a face, along the outward normal.

    **Arguments:**

    - `field`: the field's name.
    - `face`: `low("x")` or `high("x")`.
    - `value`: in units of the field by length; zero by default.
    """

    field: str = eqx.field(static=True)
    face: Face
    value: ArrayLike = 0.0

    def coefficients(self):
        """(0, 1, value)."""
        return 0.0, 1.0, self.value


class Robin(AbstractFaceCondition):
    """a·u + b·∂ₙu = value on a face, along the outward normal.

    Dissipative (and well-posed for diffusion) when a and b have the same sign.

    **Arguments:**

    - `field`: the field's name.
    - `face`: `low("x")` or `high("x")`.
    - `a`, `b`: coefficients of the value and of the normal derivative.
    - `value`: in units of `a` times those of the field; zero by default.
    """

    field: str = eqx.field(static=True)
    face: Face
    a: ArrayLike
    b: ArrayLike
    value: ArrayLike = 0.0

    def coefficients(self):
        """(a, b, value)."""
        return self.a, self.b, self.value


class Periodic(eqx.Module):
    """u at the lower end of an axis continues at the upper end.

    **Arguments:**

    - `field`: the field's name.
    - `axis`: the coordinate that is periodic.
    """

    field: str = eqx.field(static=True)
    axis: str = eqx.field(static=True)


class Initial(eqx.Module):
    """u = value at the first time level.

    **Arguments:**

    - `field`: the field's name.
    - `value`: an array over the cells of the space axes, in the units of the field.
    """

    field: str = eqx.field(static=True)
    value: Array


Condition = AbstractFaceCondition | Periodic | Initial
