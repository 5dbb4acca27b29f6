"""What every reference is: values at points, and how far they may be off."""

from collections.abc import Callable

import equinox as eqx
import numpy as np
from jaxtyping import ArrayLike, Float

ROUNDING = 1e-14  # what a closed form in float64 is trusted to


class Reference(eqx.Module):
    """Values of a solution at any points, with an estimate of their error.

    `reference(points)` takes points (n, d), one column for each of `coordinates` in that order, and
    returns (n, fields), one column for each of `fields`. It computes in float64 on the host with NumPy,
    whatever JAX's precision, and is not made to be jitted or differentiated.

    **Arguments:**

    - `function`: (n, d) float64 points → (n, fields) values.
    - `errors`: for each field the estimate of its relative L2 error over the domain, from two resolutions
        (nothing smaller than 1e-14, which stands for closed forms too). `reference.error` is the largest.
    - `coordinates`, `fields`: names of the columns.

    **Raises:** `ValueError` for points of another shape, and where a reference knows its domain, for
    points outside it.
    """

    function: Callable[[Float[np.ndarray, "n d"]], Float[np.ndarray, "n fields"]] = eqx.field(static=True)
    errors: tuple[float, ...] = eqx.field(
        static=True, converter=lambda errors: tuple(np.maximum(np.ravel(errors), ROUNDING).tolist())
    )
    coordinates: tuple[str, ...] = eqx.field(static=True)
    fields: tuple[str, ...] = eqx.field(static=True)

    @property
    def error(self) -> float:
        """The largest of `errors`."""
        return max(self.errors)

    def __call__(self, points: Float[ArrayLike, "n d"]) -> Float[np.ndarray, "n fields"]:
        """The fields at the points."""
        points = np.asarray(points, np.float64)
        if points.ndim != 2 or points.shape[1] != len(self.coordinates):
            raise ValueError(
                f"`points` has shape {points.shape}; this reference takes (n, {len(self.coordinates)}), the "
                f"columns being {', '.join(self.coordinates)}."
            )
        return self.function(points)


def relative_errors(
    value: Float[np.ndarray, "n fields"], other: Float[np.ndarray, "n fields"]
) -> Float[np.ndarray, " fields"]:
    """‖value − other‖₂/‖other‖₂, field by field."""
    return np.linalg.norm(value - other, axis=0) / np.linalg.norm(other, axis=0)


def mesh(*axes: Float[np.ndarray, " m"]) -> Float[np.ndarray, "n d"]:
    """The points of a tensor grid, (n, d), the last axis varying fastest."""
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(axes))
