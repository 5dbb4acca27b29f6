"""Classical references: the method of lines on the same equation, grid and conditions."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import diffrax
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, ArrayLike, Float

from .._axes import Cells
from .._conditions import Condition, Periodic
from .._equation import AbstractEquation
from .._grid import Grid
from .._method_of_lines import Rates


class Tridiagonal(lx.AbstractLinearSolver):
    """Solves with any tridiagonal operator, given only by its products with vectors.

    Three products with 0/1 vectors (columns 0, 3, 6, …, then 1, 4, …, then 2, 5, …) give the three
    diagonals; Gaussian elimination with partial pivoting does the rest. Whether the operator is
    tridiagonal is for the caller to know.
    """

    def init(self, operator, options):
        """Probes the operator. State: the lower, middle and upper diagonal."""
        del options
        structure = operator.in_structure()
        if operator.out_structure() != structure:
            raise ValueError(
                "`operator` is not square: it maps "
                f"{structure} to {operator.out_structure()}; a tridiagonal solve needs one "
                "structure."
            )
        zero = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), structure)
        flat, unflatten = ravel_pytree(zero)
        index = np.arange(flat.size)
        probes = jnp.asarray(index % 3 == np.arange(3)[:, None], flat.dtype)
        products = jax.vmap(lambda probe: ravel_pytree(operator.mv(unflatten(probe)))[0])(probes)
        diagonals = [products[(index + shift) % 3, index] for shift in (-1, 0, 1)]
        diagonals[0] = diagonals[0].at[0].set(0)
        diagonals[2] = diagonals[2].at[-1].set(0)
        return tuple(diagonals)

    def compute(self, state, vector, options):
        """The solution, its status and no statistics."""
        del options
        flat, unflatten = ravel_pytree(vector)
        solution = jax.lax.linalg.tridiagonal_solve(*state, flat[:, None])[:, 0]
        result = lx.RESULTS.where(jnp.all(jnp.isfinite(solution)), lx.RESULTS.successful, lx.RESULTS.singular)
        return unflatten(solution), result, {}

    def transpose(self, state, options):
        """The state of the transposed operator."""
        lower, middle, upper = state
        return (jnp.roll(upper, 1), middle, jnp.roll(lower, -1)), options

    def conj(self, state, options):
        """The state of the conjugate operator."""
        return jax.tree.map(jnp.conj, state), options

    def assume_full_rank(self):
        """A singular operator is an error."""
        return True


class Trajectory(NamedTuple):
    """What [`method_of_lines`][] returns.

    - `values`: field name → values at the cell centers; (times, *cells).
    - `steps`: how many time steps were taken (accepted and rejected).
    - `success`: whether the solver reached the last time.
    """

    values: dict[str, Float[Array, "times *cells"]]
    steps: Array
    success: Array


def method_of_lines(
    equation: AbstractEquation,
    space: Mapping[str, Cells],
    conditions: Iterable[Condition],
    initial: Mapping[str, Float[Array, " *cells"]],
    times: Float[ArrayLike, " times"],
    *,
    rtol: float | Float[Array, ""] = 1e-6,
    atol: float | Float[Array, ""] = 1e-8,
    time: str = "t",
    solver: diffrax.AbstractSolver | None = None,
    max_steps: int = 16384,
) -> Trajectory:
    """Solves an equation of first order in time: finite volumes, then adaptive implicit steps.

    Space is discretized by [`Grid.fields`][], so `equation`, `conditions` and cells are exactly
    those of any other use. The rates ∂u/∂t follow pointwise from the residual, which must be affine
    in them (a solve of one that is not fails). Can be jitted, vmapped and differentiated like any
    diffrax solve.

    **Arguments:**

    - `equation`: as many equations as fields, each field with a first time derivative.
    - `space`: coordinate name → `Cells`, in the order of the axes of `initial`.
    - `conditions`: what [`Grid.fields`][] needs. Values are constant in time.
    - `initial`: field name → values at the cell centers. Their precision is that of the solve:
        tight tolerances need float64.
    - `times`: increasing, in units of time; `times[0]` is the initial one. Every one is the end of
        a step, so that no interpolation error enters.
    - `rtol`, `atol`: tolerances of the local time error, `atol` in units of the fields.
    - `time`: the name of the time coordinate.
    - `solver`: a diffrax solver; Kvaerno5 by default, with tridiagonal linear solves for one field
        on one axis that is not periodic, and dense ones otherwise.
    - `max_steps`: bound on the number of steps.

    **Returns:** a [`Trajectory`][]. A solve that failed has `success` False and NaN or infinity
    where it did not get.

    **Raises:** `ValueError` for an equation that is not of first order in time.
    """
    conditions = tuple(conditions)
    rates = Rates(equation, Grid(space), conditions, time)
    times = jnp.asarray(times)
    if solver is None:
        periodic = any(isinstance(condition, Periodic) for condition in conditions)
        banded = len(equation.fields) == len(space) == 1 and not periodic
        linear = Tridiagonal() if banded else lx.LU()
        root_finder = diffrax.VeryChord(rtol=rtol, atol=atol, linear_solver=linear)
        solver = diffrax.Kvaerno5(root_finder=root_finder)
    start = jnp.stack([jnp.asarray(initial[field]) for field in equation.fields])
    controller = diffrax.ClipStepSizeController(
        diffrax.PIDController(rtol=rtol, atol=atol, pcoeff=0.3, icoeff=0.4), step_ts=times
    )
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(rates),
        solver,
        times[0],
        times[-1],
        None,
        start,
        saveat=diffrax.SaveAt(ts=times),
        stepsize_controller=controller,
        max_steps=max_steps,
        throw=False,
    )
    assert solution.ys is not None
    values = {field: solution.ys[:, i] for i, field in enumerate(equation.fields)}
    success = solution.result == diffrax.RESULTS.successful
    return Trajectory(values, solution.stats["num_steps"], success)
