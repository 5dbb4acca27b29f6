"""Axes of a grid: levels of time, cells of space, and how values along them are differentiated."""

import abc
from typing import ClassVar, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike


def _floats(numbers: ArrayLike) -> tuple[float, ...]:
    return tuple(float(x) for x in np.asarray(numbers, np.float64))


def graded(end: float, n: int, power: float = 2.0) -> np.ndarray:
    """Levels tⱼ = end·(j/n)^power, which resolve an initial layer; (n+1,), in units of `end`."""
    return end * (np.arange(n + 1) / n) ** power


class Ends(NamedTuple):
    """(a, b, c) of a·u + b·∂ₙu = c at both ends, each broadcastable to the values."""

    low: tuple[Array, Array, Array]
    high: tuple[Array, Array, Array]


class Wrap(NamedTuple):
    """A periodic axis."""


class AbstractAxis(eqx.Module):
    """One axis of a grid: where values are, where rows are, how values are differentiated.

    Values are what is known or unknown; rows are where an equation is asked to hold. Everything
    here is static: the weights are made in float64 and cast to the precision of the values.
    """

    has_faces: eqx.AbstractClassVar[bool]

    @property
    @abc.abstractmethod
    def size(self) -> int:
        """How many values lie along the axis."""

    @abc.abstractmethod
    def rows(self) -> np.ndarray:
        """Coordinates of the rows, increasing, in the units of the coordinate."""

    @abc.abstractmethod
    def widths(self) -> np.ndarray:
        """What each row stands for: its step or the width of its cell."""

    @abc.abstractmethod
    def differentiate(self, values: Array, position: int, order: int, ends: Ends | Wrap | None) -> Array:
        """The derivative of `order` along array axis `position`, at the rows."""


class Levels(AbstractAxis):
    """A time axis: levels t₀ < t₁ < … < tₙ with backward differentiation at t₁ … tₙ.

    u_t(tⱼ) is the derivative at tⱼ of the polynomial through the levels j, j−1, …, j−k with
    k = min(order, j): backward Euler for order 1, variable-step BDF2 for order 2, and so on, each
    started by the lower ones. The value at t₀ is the initial value; rows are the levels 1 … n.

    **Arguments:**

    - `times`: the levels, increasing, in units of time; (n+1,).
    - `order`: of accuracy, 1 to 6. BDF2 is zero-stable while steps grow by less than 1+√2 (a single
        larger ratio, as in the first steps of [`graded`][], does no harm).

    **Reference:** E. Hairer, S.P. Nørsett, G. Wanner, Solving Ordinary Differential Equations I,
    §III.5.
    """

    times: tuple[float, ...] = eqx.field(converter=_floats, static=True)
    order: int = eqx.field(default=2, static=True)
    has_faces: ClassVar[bool] = False

    def __check_init__(self):
        if len(self.times) < 2 or not np.all(np.diff(self.times) > 0):
            raise ValueError(f"`times` is {self.times}; expected at least 2 increasing numbers.")
        if not 1 <= self.order <= 6:
            raise ValueError(
                f"`order` is {self.order}; expected 1 (backward Euler), 2 (BDF2) … 6: backward "
                "differentiation of higher order is unstable."
            )

    @property
    def size(self):
        """n + 1."""
        return len(self.times)

    def rows(self):
        """t₁ … tₙ."""
        return np.asarray(self.times[1:])

    def widths(self):
        """tⱼ − tⱼ₋₁."""
        return np.diff(self.times)

    def weights(self) -> np.ndarray:
        """w of u_t(tⱼ) = Σₛ w[s, j−1] u(tⱼ₋ₛ); (order+1, n), in units of 1/time."""
        times, n = np.asarray(self.times), len(self.times) - 1
        weights = np.zeros((self.order + 1, n))
        for j in range(1, n + 1):
            # With dₛ = tⱼ − tⱼ₋ₛ, the Lagrange polynomial ℓₛ of node s ≥ 1 has the slope
            # ℓₛ'(tⱼ) = −(1/dₛ) Π_{m≠s} dₘ/(dₘ − dₛ) at node 0, and all slopes sum to zero.
            d = times[j] - times[j - np.arange(1, min(self.order, j) + 1)]
            for s in range(len(d)):
                others = np.delete(d, s)
                weights[s + 1, j - 1] = -np.prod(others / (others - d[s])) / d[s]
            weights[0, j - 1] = -weights[1:, j - 1].sum()
        return weights

    def differentiate(self, values, position, order, ends):
        """See [`AbstractAxis`][]; orders 0 and 1."""
        if order > 1:
            raise ValueError(
                f"A time axis gives derivatives of order 0 and 1, not {order}: write the equation "
                "as a system of first order in time."
            )
        values = jnp.moveaxis(values, position, 0)
        n = len(self.times) - 1
        if order == 0:
            result = values[1:]
        else:
            weights = _column(self.weights(), values)
            result = weights[0] * values[1:] + weights[1] * values[:-1]
            for s in range(2, min(self.order, n) + 1):
                # The first s − 1 rows have no value s levels back, and weight zero for it.
                result = result.at[s - 1 :].add(weights[s, s - 1 :] * values[: n + 1 - s])
        return jnp.moveaxis(result, 0, position)


class Cells(AbstractAxis):
    """A space axis: cells between faces; values and rows are at the cell centers.

    With cell widths hᵢ and centers xᵢ: u_xx is the finite-volume three-point difference of the
    fluxes (uᵢ₊₁ − uᵢ)/(xᵢ₊₁ − xᵢ), u_x the derivative at xᵢ of the parabola through three centers.
    A condition a·u + b·∂ₙu = c on an end face is met by a ghost cell of the same width h as the end
    cell: with (u_g + u₁)/2 and (u_g − u₁)/h on the face, u_g = (b − ah/2)/(b + ah/2) u₁ +
    h/(b + ah/2) c. Second-order accurate on smoothly varying cells. Orders above 2 are compositions
    and need a periodic axis.

    **Arguments:**

    - `faces`: positions of the faces, increasing, in units of length; (n+1,), n ≥ 2.
    """

    faces: tuple[float, ...] = eqx.field(converter=_floats, static=True)
    has_faces: ClassVar[bool] = True

    def __check_init__(self):
        if len(self.faces) < 3 or not np.all(np.diff(self.faces) > 0):
            raise ValueError(f"`faces` is {self.faces}; expected at least 3 increasing numbers.")

    @property
    def size(self):
        """n."""
        return len(self.faces) - 1

    def rows(self):
        """Cell centers."""
        faces = np.asarray(self.faces)
        return (faces[1:] + faces[:-1]) / 2

    def widths(self):
        """Cell widths."""
        return np.diff(self.faces)

    def stencil(self, order: int, wrap: bool) -> np.ndarray:
        """Weights of (uᵢ₋₁, uᵢ, uᵢ₊₁) for the derivative of order 1 or 2; (3, n)."""
        h = np.diff(self.faces)
        before, after = (h[-1], h[0]) if wrap else (h[0], h[-1])
        padded = np.concatenate([[before], h, [after]])
        gaps = (padded[1:] + padded[:-1]) / 2
        left, right = gaps[:-1], gaps[1:]
        if order == 1:
            lower = -right / (left * (left + right))
            upper = left / (right * (left + right))
        else:
            lower, upper = 1 / (h * left), 1 / (h * right)
        return np.stack([lower, -lower - upper, upper])

    def differentiate(self, values, position, order, ends):
        """See [`AbstractAxis`][]; orders 0, 1 and 2, any order where periodic."""
        if order == 0:
            return values
        if order > 2:
            if not isinstance(ends, Wrap):
                raise ValueError(
                    f"A derivative of order {order} needs a periodic axis; with conditions on its "
                    "faces, write the equation as a system of second order."
                )
            values = self.differentiate(values, position, order - 2, ends)
            return self.differentiate(values, position, 2, ends)
        values = jnp.moveaxis(values, position, 0)
        if isinstance(ends, Wrap):
            before, after = values[-1:], values[:1]
        else:
            assert ends is not None
            before = self._ghost(values[:1], ends.low, position, self.faces[1] - self.faces[0])
            after = self._ghost(values[-1:], ends.high, position, self.faces[-1] - self.faces[-2])
        padded = jnp.concatenate([before, values, after])
        lower, middle, upper = _column(self.stencil(order, isinstance(ends, Wrap)), values)
        result = lower * padded[:-2] + middle * values + upper * padded[2:]
        return jnp.moveaxis(result, 0, position)

    def _ghost(self, edge, coefficients, position, h):
        a, b, c = (jnp.moveaxis(array, position, 0) for array in coefficients)
        return ((b - a * h / 2) * edge + h * c) / (b + a * h / 2)


def _column(numbers: np.ndarray, values: Array) -> Array:
    """Weights (k, n) as (k, n, 1, …), to multiply values (n, …)."""
    shape = numbers.shape + (1,) * (values.ndim - 1)
    return jnp.asarray(numbers.reshape(shape), values.dtype)
