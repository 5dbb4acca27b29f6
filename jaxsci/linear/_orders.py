"""A = L + D + U in an order of the unknowns, and the triangular solves that relaxation is made of."""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.scipy.linalg as jsl
import jax.tree_util as jtu
from jaxtyping import Array, PyTree

from .. import _tree
from . import _stencil
from ._operator import Operator
from ._small import diagonal


class AbstractOrder(eqx.Module):
    """The order in which relaxation visits the unknowns, for one kind of matrix."""

    @abc.abstractmethod
    def prepare(self, operator: Operator) -> Any:
        """The entries of A, as this order needs them."""

    @abc.abstractmethod
    def transpose(self, parts: Any) -> Any:
        """The entries of Aᵀ."""

    @abc.abstractmethod
    def scale(self, parts: Any, r: PyTree[Array]) -> PyTree[Array]:
        """D r."""

    @abc.abstractmethod
    def forward(self, parts: Any, omega: float | Array, r: PyTree[Array]) -> PyTree[Array]:
        """(D/ω + L)⁻¹ r."""

    @abc.abstractmethod
    def backward(self, parts: Any, omega: float | Array, r: PyTree[Array]) -> PyTree[Array]:
        """(D/ω + U)⁻¹ r."""


class NaturalOrder(AbstractOrder):
    """The order of the raveled unknown, by triangular solves with the n×n array of A. O(n²) a sweep."""

    def prepare(self, operator):
        return operator.matrix()

    def transpose(self, parts):
        return parts.T

    def scale(self, parts, r):
        return _tree.unravel(diagonal(parts) * _tree.ravel(r), r)

    def forward(self, parts, omega, r):
        return self._solve(parts, omega, r, True)

    def backward(self, parts, omega, r):
        return self._solve(parts, omega, r, False)

    def _solve(self, a, omega, r, lower):
        triangle = (jnp.tril(a, -1) if lower else jnp.triu(a, 1)) + jnp.diag(diagonal(a) / omega)
        return _tree.unravel(jsl.solve_triangular(triangle, _tree.ravel(r), lower=lower), r)


class BandedOrder(AbstractOrder):
    """The order of the raveled unknown, for aᵢⱼ = 0 where |i − j| > `width`. A sweep: O(n · width), n steps.

    The bands are found by 2 · width + 1 products. Entries outside of them are left out of the sweep, which
    costs iterations and not accuracy.

    **Arguments:**

    - `width`: bands on each side of the diagonal, at least 1.
    """

    width: int = eqx.field(static=True)

    def __check_init__(self):
        if isinstance(self.width, bool) or not isinstance(self.width, int) or self.width < 1:
            raise ValueError(f"`width` of BandedOrder is {self.width!r}; expected an int ≥ 1.")

    def prepare(self, operator):
        n, period = operator.size, 2 * self.width + 1
        dtype = jnp.result_type(*jtu.tree_leaves(operator.like))
        color = jnp.arange(n) % period
        combs = (color == jnp.arange(period)[:, None]).astype(dtype)
        product = lambda v: _tree.ravel(operator.mv(_tree.unravel(v, operator.like)))
        images = jax.vmap(product)(_tree.vary_like(combs, operator.like))
        # Row i touches the columns i − width … i + width: one of each color. bands[o + width, i] = a_{i,i+o}.
        shifts = jnp.arange(-self.width, self.width + 1)[:, None]
        return jnp.take_along_axis(images, (color + shifts) % period, axis=0)

    def transpose(self, parts):
        # a_{i+o,i} is at row i + o, offset −o.
        w, n = self.width, parts.shape[1]
        padded = jnp.pad(parts, ((0, 0), (w, w)))
        return jnp.stack([padded[w - o, w + o : w + o + n] for o in range(-w, w + 1)])

    def scale(self, parts, r):
        return _tree.unravel(parts[self.width] * _tree.ravel(r), r)

    def forward(self, parts, omega, r):
        lower = parts[: self.width]
        return _tree.unravel(_rows(lower, parts[self.width] / omega, _tree.ravel(r), False), r)

    def backward(self, parts, omega, r):
        upper = parts[self.width + 1 :][::-1]
        return _tree.unravel(_rows(upper, parts[self.width] / omega, _tree.ravel(r), True), r)


def _rows(band: Array, pivots: Array, r: Array, reverse: bool) -> Array:
    """x with pᵢ xᵢ = rᵢ − Σₖ bₖᵢ x of the rows before, the farthest first; from the last row if `reverse`."""

    def advance(before, row):
        b, p, right = row
        x = (right - jnp.sum(b * before)) / p
        return jnp.append(before[1:], x), x

    none = _tree.vary_like(jnp.zeros_like(r, shape=(len(band),)), r, band, pivots)
    return jax.lax.scan(advance, none, (band.T, pivots, r), reverse=reverse)[1]


class Wavefront(AbstractOrder):
    """Row by row, for an unknown that is an array of two axes and an A that couples each point to its four
    neighbors. Points of an anti-diagonal do not see each other, so that n + m − 1 vector steps do a sweep.

    Red–black order needs two, and is as good for SOR; for CG with SSOR it is not: there ω loses its effect.
    Other entries of A are left out of the sweep, which costs iterations and not accuracy.
    """

    def prepare(self, operator):
        return self._parts(_five_points(operator, "Wavefront"))

    def _parts(self, s):
        """The coefficients; and above, left and center, below, right and center along the diagonals."""
        ahead = _skewed(s[1], 0), _skewed(s[3], 0), _skewed(s[4], 1)
        back = _skewed(_turned(s[7]), 0), _skewed(_turned(s[5]), 0), _skewed(_turned(s[4]), 1)
        return s, ahead, back

    def transpose(self, parts):
        return self._parts(_stencil.transpose(parts[0]))

    def scale(self, parts, r):
        return jtu.tree_map(lambda r: _stencil.center(parts[0]) * r, r)

    def forward(self, parts, omega, r):
        return jtu.tree_map(lambda r: _fronts(*parts[1], omega, r), r)

    def backward(self, parts, omega, r):
        return jtu.tree_map(lambda r: _turned(_fronts(*parts[2], omega, _turned(r))), r)


def _five_points(operator: Operator, who: str) -> Array:
    """The coefficients of a grid with two axes; numbers 1, 3, 5 and 7 are those of up, left, right, down."""
    grid = _stencil.grid_of(operator, who)
    if grid.ndim != 2:
        raise ValueError(f"{who} works on an array of two axes; got the shape {tuple(grid.shape)}.")
    return _stencil.coefficients(_stencil.on_grid(operator), tuple(grid.shape), grid.dtype, grid)


def _turned(x: Array) -> Array:
    return x[::-1, ::-1]


def _skewed(x: Array, fill: float) -> Array:
    """Entry (i, j) at (i + j, i): the rows are anti-diagonals."""
    n, m = x.shape
    # Row i moves by i to the right: a row is one shorter than what is cut into rows.
    wide = jnp.pad(x, ((0, 0), (0, n)), constant_values=fill).ravel()
    return wide[: n * (n + m - 1)].reshape(n, n + m - 1).T


def _fronts(up: Array, left: Array, center: Array, omega: float | Array, r: Array) -> Array:
    """x with c/ω xᵢⱼ = r − u xᵢ₋₁ⱼ − l xᵢⱼ₋₁; u, l and c skewed."""
    n, m = r.shape

    def advance(before, row):
        u, l, step, right = row
        x = step * (right - u * jnp.pad(before[:-1], (1, 0)) - l * before)
        return x, x

    rows = (up, left, omega / center, _skewed(r, 0))
    fronts = jax.lax.scan(advance, _tree.vary_like(jnp.zeros_like(r[:, 0]), *rows), rows)[1]
    return jnp.pad(fronts.T.ravel(), (0, n)).reshape(n, n + m)[:, :m]


class RedBlack(AbstractOrder):
    """First the points with an even sum of indices, then the others, for an unknown that is an array of one
    to three axes and an A that couples each point to its neighbors along the axes. Two vector steps a sweep.

    Other entries of A are left out of the sweep, which costs iterations and not accuracy.
    """

    def prepare(self, operator):
        grid = _stencil.grid_of(operator, "RedBlack")
        s = _stencil.coefficients(_stencil.on_grid(operator), tuple(grid.shape), grid.dtype, grid)
        cross = [sum(abs(o) for o in offset) <= 1 for offset in _stencil.offsets(grid.ndim)]
        return jnp.where(jnp.reshape(jnp.array(cross), (-1,) + (1,) * grid.ndim), s, 0)

    def transpose(self, parts):
        return _stencil.transpose(parts)

    def scale(self, parts, r):
        return jtu.tree_map(lambda r: _stencil.center(parts) * r, r)

    def forward(self, parts, omega, r):
        return self._solve(parts, omega, r, 0)

    def backward(self, parts, omega, r):
        return self._solve(parts, omega, r, 1)

    def _solve(self, s, omega, r, first):
        def one(r):
            red = jnp.sum(jnp.indices(r.shape), axis=0) % 2 == first
            step = omega / _stencil.center(s)
            x = jnp.where(red, step * r, 0)
            # x is zero on the other color, so that the diagonal takes no part there.
            return jnp.where(red, x, step * (r - _stencil.multiply(s, x)))

        return jtu.tree_map(one, r)
