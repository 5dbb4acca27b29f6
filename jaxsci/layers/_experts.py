"""One constraint over several sub-domains."""

import abc
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jaxtyping import Array, Float

from .. import pde
from ..residuals import Block
from ._discretization import Scheme
from ._hard_constraint import Constrained, HardConstraint


class AbstractPartition(eqx.Module):
    """How a grid is shared out among experts."""

    counts: eqx.AbstractVar[tuple[tuple[str, int], ...]]

    @property
    @abc.abstractmethod
    def experts(self) -> int:
        """K, the number of experts."""


def _counts(parts: Mapping[str, int]) -> tuple[tuple[str, int], ...]:
    for name, count in dict(parts).items():
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ValueError(
                f"`counts` has {count!r} parts along {name!r}; expected a whole number ≥ 1."
            )
    return tuple(dict(parts).items())


class Windows(AbstractPartition):
    """Overlapping experts under a partition of unity: u = lift + Σₖ φₖ Σₙ ωₖₙ basisₙ, one joint solve.

    φₖ is cos² about the middle of the k-th part and reaches to the middles of its neighbors; Σₖ φₖ = 1.
    The result is as smooth as the basis, and the equation holds for *it*, not for each expert alone.

    **Arguments:**

    - `counts`: axis name → number of parts along it, such as {"x": 4}.
    """

    counts: tuple[tuple[str, int], ...] = eqx.field(converter=_counts, static=True)

    @property
    def experts(self):
        return math.prod(n for _, n in self.counts)

    def windows(self, grid: pde.Grid) -> Float[np.ndarray, "K ..."]:
        """φ at the values of the grid, (K, *grid.shape)."""
        along = []
        for position, (name, axis) in enumerate(grid.axes.items()):
            shape = [1] * len(grid.axes)
            shape[position] = -1
            count = dict(self.counts).get(name, 1)
            along.append([w.reshape(shape) for w in _bumps(_values(axis), count)])
        ones = np.ones(grid.shape)
        return np.stack([math.prod(parts, start=ones) for parts in itertools.product(*along)])


class Boxes(AbstractPartition):
    """Disjoint equal boxes, each with its own coefficients and its own solve: u = lift + basis · ωₖ in box k.

    As in the paper. Nothing couples the experts: the result jumps between boxes, and what each expert
    satisfies is not the equation of the assembled field where that is non-local. For comparison, and
    for speed on many devices.

    **Arguments:**

    - `counts`: axis name → number of boxes along it, such as {"x": 4}; must divide the cells.
    """

    counts: tuple[tuple[str, int], ...] = eqx.field(converter=_counts, static=True)

    @property
    def experts(self):
        return math.prod(n for _, n in self.counts)

    def slices(self, grid: pde.Grid) -> list[tuple[slice, ...]]:
        """For every expert, its cells: a slice of each space axis."""
        along = []
        for name, axis in grid.axes.items():
            if isinstance(axis, pde.Levels):
                continue
            count = dict(self.counts).get(name, 1)
            if axis.size % count:
                raise ValueError(
                    f"`counts` asks for {count} boxes along {name!r}, which has {axis.size} cells; "
                    f"expected a divisor of {axis.size}."
                )
            step = axis.size // count
            along.append([slice(k * step, (k + 1) * step) for k in range(count)])
        return list(itertools.product(*along))


def _values(axis: pde.AbstractAxis) -> np.ndarray:
    return np.asarray(axis.times) if isinstance(axis, pde.Levels) else axis.rows()


def _bumps(x: np.ndarray, count: int) -> np.ndarray:
    """cos² windows about the middles of `count` equal parts, one beyond the first and last middle."""
    low, high = x[0], x[-1]
    position = (x - low) / (high - low) * count - 0.5 - np.arange(count)[:, None]
    phi = np.where(np.abs(position) < 1, np.cos(np.pi * position / 2) ** 2, 0.0)
    phi[0] = np.where(position[0] < 0, 1.0, phi[0])
    phi[-1] = np.where(position[-1] > 0, 1.0, phi[-1])
    return phi / phi.sum(0)


class MixtureOfExperts(eqx.Module):
    """One `HardConstraint` over sub-domains, with a report for every expert.

    With `Windows` the K·N coefficients are one consistent solve. With `Boxes` there are K independent
    solves, vmapped on a device and placed over a mesh of devices, without any communication.

    **Arguments:**

    - `constraint`: a `HardConstraint` on a `Scheme`.
    - `partition`: `Windows` (our default) or `Boxes` (the paper's).
    - `rows`: for `Boxes`, the row scaling of each box with a leading axis of experts; `box_rows`
      makes it. None: the rows of the scheme, restricted to the box, without further coupling.
    - `mesh`, `axis`: for `Boxes`, a `jax.sharding.Mesh` and the name of its axis over which the
      experts are placed with `jax.shard_map`; their number must be a multiple of the devices'. Each
      device iterates until its own experts are done.
    """

    constraint: HardConstraint
    partition: AbstractPartition
    rows: Any = None
    mesh: jax.sharding.Mesh | None = eqx.field(static=True, default=None)
    axis: str = eqx.field(static=True, default="experts")

    def __check_init__(self):
        if not isinstance(self.constraint.discretization, Scheme):
            raise TypeError(
                "`constraint` has the discretization "
                f"{type(self.constraint.discretization).__name__}; sub-domains are cut from a grid: "
                "expected a HardConstraint on a `Scheme`."
            )
        names = tuple(self.constraint.discretization.grid.axes)
        unknown = [name for name, _ in self.partition.counts if name not in names]
        if unknown:
            raise ValueError(f"`partition` cuts along {unknown[0]!r}; the grid has the axes {names}.")
        if isinstance(self.partition, Boxes) and self.rows is None:
            raise ValueError(
                "`rows` is missing: boxes need a row scaling each. Make it with `box_rows(partition, "
                "grid, lambda cells: SpaceTimeInverse(..., cells=cells))`."
            )
        if self.mesh is not None and self.partition.experts % self.mesh.shape[self.axis]:
            raise ValueError(
                f"{self.partition.experts} experts cannot be placed evenly on "
                f"{self.mesh.shape[self.axis]} devices; choose a multiple."
            )

    def __call__(
        self, equation: pde.AbstractEquation, basis: Any, lift: Any, conditions: Sequence = ()
    ) -> Constrained:
        """Solve for one sample; batch with `jax.vmap`. Arguments as for `HardConstraint`.

        Every expert uses the same N basis functions: under its own window, or in its own box.
        """
        if isinstance(self.partition, Windows):
            windowed = jtu.tree_map(self.windowed, basis)
            return self.constraint(equation, windowed, lift, conditions)
        return self._separately(equation, basis, lift, tuple(conditions))

    def windowed(self, basis: Float[Array, "N ..."]) -> Float[Array, "KN ..."]:
        """φₖ basisₙ for all k, n, ordered by expert."""
        phi = self.partition.windows(self.constraint.discretization.grid)
        products = jnp.asarray(phi, basis.dtype)[:, None] * basis[None]
        return products.reshape(-1, *basis.shape[1:])

    def _separately(self, equation, basis, lift, conditions) -> Constrained:
        scheme = self.constraint.discretization
        slices = self.partition.slices(scheme.grid)
        (whole,) = scheme.blocks(equation, basis, lift, conditions)

        def cut(array):
            lead = (slice(None),) * (array.ndim - len(slices[0]))
            return jnp.stack([array[(*lead, *cells)] for cells in slices])

        basis_fields, lift_fields = jtu.tree_map(cut, (whole.basis, whole.lift))
        point = pde.Point({n: cut(whole.law.point[n]) for n in whole.law.point.keys()})
        law = whole.law

        def one(basis_fields, lift_fields, point, rows, law):
            local = eqx.tree_at(lambda x: x.point, law, point)
            return self.constraint.coefficients((Block(basis_fields, lift_fields, local, rows),))

        many = jax.vmap(one, in_axes=(0, 0, 0, 0, None))
        if self.mesh is not None:
            spec = jax.sharding.PartitionSpec(self.axis)
            none = jax.sharding.PartitionSpec()
            many = jax.shard_map(
                many,
                mesh=self.mesh,
                in_specs=(spec, spec, spec, spec, none),
                out_specs=spec,
                check_vma=False,
            )
        rows = jtu.tree_map(lambda x: jnp.asarray(x, _precision(whole)), self.rows)
        omega, norm, result, steps = many(basis_fields, lift_fields, point, rows, law)
        parts = [scheme.combine(omega[k], basis, lift) for k in range(len(slices))]
        values = jtu.tree_map(lambda *u: _joined(u, slices), *parts)
        return Constrained(values, omega, norm, result, steps)


def _precision(block: Block):
    """The precision of a block."""
    return next(iter(block.basis.values())).dtype


def _joined(parts: Sequence[Array], slices) -> Array:
    """In each box, the values of its expert."""
    out = parts[0]
    for u, cells in zip(parts[1:], slices[1:], strict=True):
        index = (..., *cells)
        out = out.at[index].set(u[index])
    return out


def box_rows(partition: Boxes, grid: pde.Grid, make) -> Any:
    """The row scalings of all boxes, stacked: `make(cells)` for the cells of every box.

    **Arguments:**

    - `partition`, `grid`: as for `MixtureOfExperts`.
    - `make`: cells (a slice for each space axis) ↦ a row scaling, such as
      `lambda cells: SpaceTimeInverse(grid, equation, conditions, reference={"u": 0.1}, cells=cells)`.
    """
    each = [make(cells) for cells in partition.slices(grid)]
    return jtu.tree_map(lambda *x: np.stack(x), *each)

