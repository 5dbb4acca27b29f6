"""The method of lines: an equation on cells as a system of ordinary differential equations, and its band."""

from collections.abc import Iterable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..linear import AbstractLinearSolver, Banded
from ._axes import Cells
from ._conditions import Condition, Periodic
from ._equation import AbstractEquation, Derivative, Derivatives, Point, count, required
from ._grid import Grid


class MethodOfLines(eqx.Module):
    """du/dt = f(t, u): an equation of first order in time on a line of cells, with the band of ∂f/∂u.

        lines = jaxsci.pde.MethodOfLines(equation, {"x": cells}, conditions)
        solver = diffrax.Kvaerno5(root_finder=jaxsci.interop.diffrax_root_finder(lines.linear_solver))
        solution = diffrax.diffeqsolve(lines.term, solver, t0, t1, dt0, lines.state(initial), …)
        u = lines.fields(solution.ys)["u"]

    The state is one array (cells, fields): all fields of a cell are neighbors, and ∂f/∂u has a band of
    (reach + 1) · fields − 1 on both sides, where `reach` is that of the differences in cells.

    **Arguments:**

    - `equation`: as many equations as fields, each field with a first time derivative, affine in those.
    - `space`: the name of the coordinate → `Cells`; one axis.
    - `conditions`: what [`Grid.fields`][] needs: values constant in time.
    - `time`: the name of the time coordinate.

    **Raises:** `ValueError` for an equation that is not of first order in time, or for several axes.
    """

    rates: "Rates"
    reach: int = eqx.field(static=True)
    periodic: bool = eqx.field(static=True)

    def __init__(
        self,
        equation: AbstractEquation,
        space: Mapping[str, Cells],
        conditions: Iterable[Condition],
        *,
        time: str = "t",
    ):
        if len(space) != 1:
            raise ValueError(
                f"`space` has the axes {tuple(space)}; expected one. For several use "
                "jaxsci.pde.reference.method_of_lines, or jaxsci.linear.Sparse with the pattern of the grid."
            )
        conditions = tuple(conditions)
        self.rates = Rates(equation, Grid(space), conditions, time)
        self.periodic = any(isinstance(condition, Periodic) for condition in conditions)
        (axis,) = space
        # Differences of order 1 and 2 look one cell away; higher ones are composed of them.
        orders = [d.order(axis) for d in required(equation) if not d.order(time)]
        self.reach = max((-(-order // 2) for order in orders), default=0)

    def state(
        self, values: Mapping[str, Float[Array, "*times cells"]]
    ) -> Float[Array, "*times cells fields"]:
        """Field name → values at the cell centers, as a state."""
        names = self.rates.equation.fields
        missing = [name for name in names if name not in values]
        if missing:
            raise ValueError(
                f"`values` has no field {missing[0]!r}; it has {tuple(values)}, expected {names}."
            )
        return jnp.stack([jnp.asarray(values[name]) for name in names], axis=-1)

    def fields(self, state: Float[Array, "*times cells fields"]) -> dict[str, Float[Array, "*times cells"]]:
        """The inverse of `state`, also of many states."""
        return {name: state[..., i] for i, name in enumerate(self.rates.equation.fields)}

    def __call__(
        self, t: Any, state: Float[Array, "cells fields"], args: Any
    ) -> Float[Array, "cells fields"]:
        """f(t, u): the vector field, for `diffrax.ODETerm`."""
        return jnp.moveaxis(self.rates(t, jnp.moveaxis(state, -1, 0), args), 0, -1)

    @property
    def term(self):
        """The `diffrax.ODETerm` of f."""
        import diffrax

        return diffrax.ODETerm(self)

    @property
    def bandwidth(self) -> int:
        """Of ∂f/∂u on the raveled state, to each side."""
        return (self.reach + 1) * len(self.rates.equation.fields) - 1

    @property
    def linear_solver(self) -> AbstractLinearSolver:
        """A direct solver for that band."""
        return Banded(self.bandwidth, self.bandwidth, periodic=self.periodic)


class Rates(eqx.Module):
    """∂u/∂t of all fields, (n_fields, *cells) to the same."""

    equation: AbstractEquation
    grid: Grid
    conditions: tuple[Condition, ...]
    time: str = eqx.field(static=True)

    def __check_init__(self):
        name = type(self.equation).__name__
        orders = {(d.field, d.order(self.time)) for d in required(self.equation)}
        for field in self.equation.fields:
            if (field, 1) not in orders or max(n for f, n in orders if f == field) > 1:
                raise ValueError(
                    f"{name} is not of first order in {self.time!r} for its field {field!r}: the "
                    "method of lines needs one first time derivative of every field and none of "
                    "higher order. Write it as a first-order system."
                )
        for derivative in required(self.equation):
            if derivative.order(self.time) and len(derivative.along) > 1:
                raise ValueError(
                    f"{name} needs {derivative.name}, mixed in {self.time!r}; the method of lines "
                    "takes the time derivative of the fields only."
                )
        if count(self.equation) != len(self.equation.fields):
            raise ValueError(
                f"{name} has {count(self.equation)} equations for {len(self.equation.fields)} "
                "fields; expected as many equations as fields."
            )

    def __call__(self, t, u, args):
        del args
        equation, n = self.equation, len(self.equation.fields)
        names = equation.fields, equation.coordinates
        spatial = [d for d in required(equation) if not d.order(self.time)]
        known = self.grid.fields(dict(zip(equation.fields, u, strict=True)), spatial, self.conditions)
        shape = u.shape[1:]
        point = {**dict(self.grid.point(u.dtype)), self.time: t}
        flat = jax.tree.map(lambda array: jnp.broadcast_to(array, shape).reshape(-1), (dict(known), point))

        def rate(known, point):
            def residual(rates):
                unknown = {
                    Derivative(field, (self.time,)).name: rates[i] for i, field in enumerate(equation.fields)
                }
                r = equation.residual(Derivatives({**known, **unknown}, *names), Point(point))
                return jnp.stack(r if isinstance(r, tuple | list) else [r])

            # r(v) = r(0) + M v with one M everywhere, if the residual is affine. (To ask whether
            # r(v) = 0 would be to ask rounding errors, where r(0) is nothing else.)
            zero = jnp.zeros(n, u.dtype)
            rest, mass = residual(zero), jax.jacfwd(residual)(zero)
            rates = -rest / mass[0] if n == 1 else -jnp.linalg.solve(mass, rest)
            change = jnp.max(jnp.abs(jax.jacfwd(residual)(rates) - mass))
            return jnp.where(change <= 1e-3 * jnp.max(jnp.abs(mass)), rates, jnp.nan)

        return jnp.moveaxis(jax.vmap(rate)(*flat), -1, 0).reshape(u.shape)
