"""Row scalings: linear maps from residuals of an equation to rows of a least-squares problem."""

import math
from collections.abc import Mapping, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .. import _tree, pde


class MeanSquare(eqx.Module):
    """Rows whose sum of squares is the mean square of the residual over the domain.

    e = √(w/Σw) r with the measure w of each row, times `scale`, so ‖e‖² = scale² · mean r².

    **Arguments:**

    - `grid`: the grid of the residual.
    - `scale`: a factor that turns the unit of r into the unit that rows shall have, such as
      1/|∂r/∂u|.
    """

    weights: Float[np.ndarray, " *rows"]

    def __init__(self, grid: pde.Grid, scale: float = 1.0):
        self.weights = scale * _root_weights(grid)

    def __call__(self, r: Float[Array, "equations *rows"]) -> Float[Array, "equations *rows"]:
        return jnp.asarray(self.weights, r.dtype) * r


class SpaceTimeInverse(eqx.Module):
    """Rows in the unit of the unknown: e = √(w/Σw) L⁻¹ r, with L the scheme linearised at a reference.

    r(u) ≈ L (u − u*) for a field u near the solution u*, so ‖e‖ is the root-mean-square *error* of u as far
    as the linearisation goes, and not the size of its residual: least squares on these rows are nearly
    the best approximation in L2. L⁻¹ is block forward substitution in time: with the backward
    differentiation formula Σₛ wₛₙ uₙ₋ₛ of the levels,

        vₙ = (w₀ₙ C + A)⁻¹ (rₙ − Σ_{s≥1} wₛₙ C vₙ₋ₛ),   v₀ = 0.

    **Arguments:**

    - `grid`: with or without a time axis (`pde.Levels`).
    - `equation`: at typical values of its coefficients (concrete numbers; a *fixed* L serves all
      samples: it only scales rows). As many equations as fields.
    - `conditions`: of the faces, as for `pde.Grid.fields`.
    - `reference`: field name → the constant at which the equation is linearised (unit of the field).
    - `cells`: slices of the space axes, for the rows of a sub-domain only; None: all of them.

    **Limits:** holds one (FS, FS) matrix per level for F fields on S cells: for S up to some
    thousands. Derivatives that mix time and space are refused.

    **Raises:** `ValueError` for a mixed derivative, a system that is not square, or a singular level.
    """

    inverse: Float[np.ndarray, "levels n n"]
    lags: Float[np.ndarray, "order levels equations fields cells"]
    weights: Float[np.ndarray, "levels *space"]

    def __init__(
        self,
        grid: pde.Grid,
        equation: pde.AbstractEquation,
        conditions: Sequence = (),
        *,
        reference: Mapping[str, float],
        cells: Sequence[slice] | None = None,
    ):
        blocks, lags = _linearised(grid, equation, tuple(conditions), reference)
        space = _space(grid)
        shape = tuple(axis.rows().size for axis in space.values())
        keep = np.arange(math.prod(shape)).reshape(shape)
        keep = keep[tuple(cells) if cells is not None else ...].reshape(-1)
        # (levels, equations, cells, fields, cells) on the kept cells: what lies outside counts as zero.
        blocks = blocks[:, :, keep][..., keep]
        n = blocks.shape[1] * keep.size
        try:
            self.inverse = np.linalg.inv(blocks.reshape(-1, n, n))
        except np.linalg.LinAlgError as error:
            raise ValueError(
                f"`equation` ({type(equation).__name__}) linearised at `reference` {dict(reference)} has "
                "a singular time level. Choose a reference at which every field appears in the "
                "equations, and give conditions for all faces."
            ) from error
        self.lags = lags[..., keep]
        weights = _root_weights(grid).reshape(blocks.shape[0], *shape)
        self.weights = weights[(slice(None), *cells)] if cells is not None else weights

    def __call__(self, r: Float[Array, "equations *rows"]) -> Float[Array, "fields levels *space"]:
        inverse, lags = jnp.asarray(self.inverse, r.dtype), jnp.asarray(self.lags, r.dtype)
        levels, space = self.weights.shape[0], self.weights.shape[1:]
        order, _, equations, fields, cells = lags.shape
        r = jnp.moveaxis(r.reshape(equations, levels, cells), 1, 0)

        def advance(before, level):
            r, inverse, lags = level
            for s in range(order):
                r = r - jnp.einsum("efc,fc->ec", lags[s], before[s])
            flat = jnp.matmul(inverse, r.reshape(-1), precision=jax.lax.Precision.HIGHEST)
            v = flat.reshape(fields, cells)
            return (v, *before[:-1]), v

        first = _tree.vary_like((jnp.zeros((fields, cells), r.dtype),) * max(order, 1), r)
        _, v = jax.lax.scan(advance, first, (r, inverse, jnp.moveaxis(lags, 1, 0)))
        v = jnp.moveaxis(v, 0, 1).reshape(fields, levels, *space)
        return jnp.asarray(self.weights, v.dtype) * v


def _space(grid: pde.Grid) -> dict:
    return {name: axis for name, axis in grid.axes.items() if not isinstance(axis, pde.Levels)}


def _time(grid: pde.Grid) -> tuple[str | None, pde.Levels | None]:
    times = [(n, a) for n, a in grid.axes.items() if isinstance(a, pde.Levels)]
    if times and next(iter(grid.axes)) != times[0][0]:
        raise ValueError(
            f"`grid` has the axes {tuple(grid.axes)}; expected the time axis {times[0][0]!r} first."
        )
    return times[0] if times else (None, None)


def _root_weights(grid: pde.Grid) -> np.ndarray:
    measure = np.ones(grid.row_shape)
    for position, axis in enumerate(grid.axes.values()):
        shape = [1] * len(grid.axes)
        shape[position] = -1
        measure = measure * axis.widths().reshape(shape)
    return np.sqrt(measure / measure.sum())


def _linearised(grid, equation, conditions, reference) -> tuple[np.ndarray, np.ndarray]:
    """Per level: the matrix on the new values (levels, E, S, F, S), and the coefficients of earlier
    levels (order, levels, E, F, S), which are local in space."""
    needed = pde.required(equation)
    fields = equation.fields
    unknown = [name for name in fields if name not in reference]
    if unknown:
        raise ValueError(
            f"`reference` has the fields {tuple(reference)}; expected a number for each of {fields}."
        )
    if pde.count(equation) != len(fields):
        raise ValueError(
            f"{type(equation).__name__} has {pde.count(equation)} equations for {len(fields)} fields; "
            "a row scaling by its inverse needs as many equations as fields. Use `MeanSquare`."
        )
    slopes = _slopes(grid, equation, needed, reference)
    time, levels = _time(grid)
    space = _space(grid)
    sizes = [axis.rows().size for axis in space.values()]
    cells = math.prod(sizes)
    count = 1 if levels is None else levels.size - 1
    weights = np.ones((1, 1)) if levels is None else levels.weights()
    blocks = np.zeros((count, len(fields), cells, len(fields), cells))
    lags = np.zeros((weights.shape[0] - 1, count, len(fields), len(fields), cells))
    for derivative in needed:
        matrix = np.zeros((cells, cells))
        for term in pde.written_out(derivative, space):
            product = np.ones((1, 1))
            for name, size in zip(space, sizes, strict=True):
                along = np.eye(size)
                if term.order(name) > 0:
                    along = np.asarray(grid.operator(term, name, conditions)[0])
                product = np.kron(product, along)
            matrix += product
        f = fields.index(derivative.field)
        in_time = time is not None and derivative.order(time) > 0
        if in_time and len(derivative.along) > derivative.order(time):
            raise ValueError(
                f"The derivative {derivative.name} mixes time and space; `SpaceTimeInverse` handles "
                "evolution equations M u_t + A u = 0. Use `MeanSquare`."
            )
        for e in range(len(fields)):
            slope = slopes[derivative][e].reshape(count, cells)
            if in_time:
                slope = slope * weights[0][:, None]
                lags[:, :, e, f] += slopes[derivative][e].reshape(count, cells) * weights[1:, :, None]
            blocks[:, e, :, f, :] += slope[:, :, None] * matrix
    return blocks, lags


def _slopes(grid, equation, needed, reference) -> dict:
    """∂r_e/∂f at the reference, derivative → (equations, *rows)."""
    rows = grid.row_shape
    value = {d.name: jnp.full(rows, 0.0 if d.along else float(reference[d.field])) for d in needed}

    def law(arrays):
        d = pde.Derivatives(arrays, equation.fields, equation.coordinates)
        return jnp.stack(pde.pointwise(equation, d, grid.point()))

    slopes = {}
    for d in needed:
        ones = {name: jnp.full(rows, float(name == d.name)) for name in value}
        slopes[d] = np.asarray(jax.jvp(law, (value,), (ones,))[1], np.float64)
    return slopes
