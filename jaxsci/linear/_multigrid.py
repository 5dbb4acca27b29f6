"""Geometric multigrid and additive Schwarz, for an operator on a grid."""

import itertools
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.scipy.linalg as jsl
import jax.tree_util as jtu
import numpy as np
from jaxtyping import Array

from . import _stencil
from ._preconditioner import AbstractPreconditioner


class Multigrid(AbstractPreconditioner):
    """One V-cycle for an operator on a grid that couples nearest neighbors, such as −∇·(κ∇u) + c u with
    Dirichlet conditions, the unknown being the array of interior points in one, two or three dimensions.

    Everything is made from products with A: its coefficients of 3ᵈ, those of the coarse operators Pᵀ A P
    (P: linear interpolation from every second point) of 3ᵈ smaller ones. The smoother is damped Jacobi, as
    often before as after, so that M is symmetric positive definite where A is and CG may use it.

    **Arguments:**

    - `sweeps`: smoothing steps before and after the coarse correction.
    - `damping`: of the smoother (dimensionless).
    - `coarsest`: no axis of the coarsest grid, which is solved directly, is longer.

    **Raises:** `ValueError` if the unknown is not one array of one to three axes.

    **Limits:** slow where A is strongly anisotropic. Coupling over more than one point is left out of M.
    Memory: 3ᵈ · 2ᵈ/(2ᵈ − 1) copies of the unknown.

    **Reference:** Trottenberg, Oosterlee, Schüller, Multigrid, 2001.
    """

    sweeps: int = eqx.field(static=True, default=2)
    damping: float = 0.8
    coarsest: int = eqx.field(static=True, default=8)

    def __check_init__(self):
        if self.sweeps < 1 or self.coarsest < 2:
            raise ValueError(
                f"`sweeps` and `coarsest` of Multigrid are {self.sweeps!r} and {self.coarsest!r}; expected "
                "ints ≥ 1 and ≥ 2."
            )

    def prepare(self, operator):
        fine = _stencil.grid_of(operator, "Multigrid")
        dtype, shape = fine.dtype, tuple(fine.shape)
        s = _stencil.coefficients(_stencil.on_grid(operator), shape, dtype, fine)
        levels = [s]
        while max(shape) > self.coarsest:
            coarse = tuple(n // 2 if n > self.coarsest else n for n in shape)
            galerkin = lambda v, s=s, n=shape, m=coarse: _down(_stencil.multiply(s, _up(v, n)), m)
            s, shape = _stencil.coefficients(galerkin, coarse, dtype, s), coarse
            levels.append(s)
        eye = jnp.eye(int(np.prod(shape)), dtype=dtype)
        columns = jax.vmap(lambda e: _stencil.multiply(s, e.reshape(shape)).ravel(), out_axes=1)
        return levels[:-1], jsl.lu_factor(columns(eye))

    def apply(self, operator, prepared, r):
        levels, coarsest = prepared
        (r,), structure = jtu.tree_flatten(r)
        return jtu.tree_unflatten(structure, [self._cycle(levels, coarsest, r)])

    def _cycle(self, levels: list[Array], coarsest, r: Array) -> Array:
        if not levels:
            return jsl.lu_solve(coarsest, r.ravel()).reshape(r.shape)
        s = levels[0]
        diagonal = _stencil.center(s)
        step = self.damping / jnp.where(diagonal == 0, 1, diagonal)
        x = step * r
        for _ in range(self.sweeps - 1):
            x = x + step * (r - _stencil.multiply(s, x))
        rest = r - _stencil.multiply(s, x)
        below = levels[1].shape[1:] if len(levels) > 1 else self._coarser(r.shape)
        x = x + _up(self._cycle(levels[1:], coarsest, _down(rest, below)), r.shape)
        for _ in range(self.sweeps):
            x = x + step * (r - _stencil.multiply(s, x))
        return x

    def _coarser(self, shape):
        return tuple(n // 2 if n > self.coarsest else n for n in shape)


def _up(v: Array, shape: tuple[int, ...]) -> Array:
    """P v: the points 1, 3, 5 … of an axis are those of the coarse grid, and the others the mean of their
    neighbors; zero beyond the ends."""
    for axis, n in enumerate(shape):
        m = v.shape[axis]
        if m == n:
            continue
        widths = lambda a, b, axis=axis, v=v: [(a, b) if k == axis else (0, 0) for k in range(v.ndim)]
        between = 0.5 * (jnp.pad(v, widths(1, 0)) + jnp.pad(v, widths(0, 1)))
        pairs = jnp.stack([between, jnp.pad(v, widths(0, 1))], axis=axis + 1)
        both = pairs.reshape(*v.shape[:axis], 2 * (m + 1), *v.shape[axis + 1 :])
        v = jax.lax.slice_in_dim(both, 0, n, axis=axis)
    return v


def _down(v: Array, shape: tuple[int, ...]) -> Array:
    """Pᵀ v."""
    for axis, m in enumerate(shape):
        n = v.shape[axis]
        if m == n:
            continue
        v = jnp.pad(v, [(0, 2 * m + 1 - n) if k == axis else (0, 0) for k in range(v.ndim)])
        take = lambda start, v=v, axis=axis, m=m: jax.lax.slice_in_dim(
            v, start, start + 2 * m - 1, stride=2, axis=axis
        )
        v = take(1) + 0.5 * (take(0) + take(2))
    return v


class AdditiveSchwarz(AbstractPreconditioner):
    """M = Σᵢ Rᵢᵀ (Rᵢ A Rᵢᵀ)⁻¹ Rᵢ + Z (Zᵀ A Z)⁻¹ Zᵀ over overlapping boxes i of a grid, for an operator that
    couples nearest neighbors. The columns of Z add up to one: each is one over the number of the boxes that
    share a point.

    Symmetric positive definite where A is. The local solves are dense and run side by side.

    **Arguments:**

    - `box`: points of a box along each axis, without the overlap.
    - `overlap`: points by which a box is longer at each end.
    - `coarse`: whether M has its last term; without it, iterations grow with the number of boxes.

    **Raises:** `ValueError` if the unknown is not one array of one to three axes, or `box` has not one size
    for each.

    **Limits:** memory of (number of boxes) · (points of a box with its overlap)² + (number of boxes)².

    **Reference:** Toselli and Widlund, Domain Decomposition Methods, 2005.
    """

    box: tuple[int, ...] = eqx.field(static=True)
    overlap: int = eqx.field(static=True, default=1)
    coarse: bool = eqx.field(static=True, default=True)

    def prepare(self, operator):
        grid = _stencil.grid_of(operator, "AdditiveSchwarz")
        if len(self.box) != grid.ndim or min(self.box) < 1 or self.overlap < 0:
            raise ValueError(
                f"`box` and `overlap` of AdditiveSchwarz are {self.box} and {self.overlap}; expected a size "
                f"≥ 1 for each of the {grid.ndim} axes, and ≥ 0."
            )
        shape = tuple(grid.shape)
        s = _stencil.coefficients(_stencil.on_grid(operator), shape, grid.dtype, grid)
        points, inside = self._points(shape)
        # A point outside of the grid has the equation x = 0.
        flat = s.reshape(len(s), -1)[:, points]  # (3ᵈ, boxes, points)
        places = np.stack(np.meshgrid(*map(np.arange, self._long()), indexing="ij"), -1).reshape(
            -1, grid.ndim
        )
        gap = places[None, :, :] - places[:, None, :]
        near = np.all(np.abs(gap) <= 1, axis=-1)
        which = np.where(near, np.sum((gap + 1) * 3 ** np.arange(grid.ndim)[::-1], axis=-1), 0)
        local = jnp.moveaxis(flat, 0, -1)[:, np.arange(len(places))[:, None], which]
        both = inside[:, :, None] & inside[:, None, :]
        local = jnp.where(near & both, local, 0) + (~inside)[:, :, None] * jnp.eye(len(places), dtype=s.dtype)
        factors = jax.vmap(jsl.lu_factor)(local)
        if not self.coarse:
            return factors, None
        unit = jnp.eye(len(points), dtype=s.dtype)
        product = lambda e: self._down(_stencil.multiply(s, self._up(e, shape)))
        return factors, jsl.lu_factor(jax.vmap(product, out_axes=1)(unit))

    def apply(self, operator, prepared, r):
        factors, coarse = prepared
        (r,), structure = jtu.tree_flatten(r)
        points, inside = self._points(r.shape)
        local = jnp.where(inside, r.ravel()[points], 0)
        parts = jnp.where(inside, jax.vmap(jsl.lu_solve)(factors, local), 0)
        x = jnp.zeros_like(r.ravel()).at[points].add(parts).reshape(r.shape)
        if coarse is not None:
            x = x + self._up(jsl.lu_solve(coarse, self._down(r)), r.shape)
        return jtu.tree_unflatten(structure, [x])

    def _long(self):
        return [b + 2 * self.overlap for b in self.box]

    def _points(self, shape) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of the points of every box, and whether they are in the grid: (boxes, points)."""
        axes = [
            np.arange(-self.overlap, b + self.overlap)[None] + np.arange(0, n, b)[:, None]
            for n, b in zip(shape, self.box, strict=True)
        ]
        points, inside = [], []
        for starts in itertools.product(*axes):
            mesh = np.meshgrid(*starts, indexing="ij")
            good = np.all([(i >= 0) & (i < n) for i, n in zip(mesh, shape, strict=True)], axis=0)
            points.append(np.ravel_multi_index([np.where(good, i, 0) for i in mesh], shape).ravel())
            inside.append(good.ravel())
        return np.stack(points), np.stack(inside)

    def _weights(self, shape) -> np.ndarray:
        """One over the number of boxes that share a point, zero outside of the grid: (boxes, points)."""
        points, inside = self._points(shape)
        shared = np.bincount(points[inside], minlength=math.prod(shape))
        return np.where(inside, 1 / np.maximum(shared[points], 1), 0)

    def _up(self, v: Array, shape) -> Array:
        """Z v."""
        parts = (self._weights(shape) * v[:, None]).astype(v.dtype)
        out = jnp.zeros_like(v, shape=(math.prod(shape),))
        return out.at[self._points(shape)[0]].add(parts).reshape(shape)

    def _down(self, r: Array) -> Array:
        """Zᵀ r."""
        parts = self._weights(r.shape) * r.ravel()[self._points(r.shape)[0]]
        return jnp.sum(parts, axis=1).astype(r.dtype)
