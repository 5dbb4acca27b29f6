"""One constraint over several sub-domains."""

import abc
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jaxtyping import Array, Float

from .. import pde
from ._discretization import Scheme
from ._hard_constraint import Constrained, HardConstraint


class AbstractPartition(eqx.Module):
    """How a grid is shared out among experts: `Windows` or `Boxes`."""

    counts: eqx.AbstractVar[tuple[tuple[str, int], ...]]

    @property
    @abc.abstractmethod
    def experts(self) -> int:
        """K, the number of experts."""


def _counts(parts: Mapping[str, int]) -> tuple[tuple[str, int], ...]:
    for name, count in dict(parts).items():
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ValueError(f"`counts` has {count!r} parts along {name!r}; expected a whole number ≥ 1.")
    return tuple(dict(parts).items())


class Windows(AbstractPartition):
    """Overlapping experts under a partition of unity: u = lift + Σₖ φₖ Σₙ ωₖₙ basisₙ, one joint solve.

    φₖ is cos² about the middle of the k-th part and reaches to the middles of its neighbors; Σₖ φₖ = 1.
    The result is as smooth as the basis, and the equation holds for *it*, not for each expert alone.

    **Arguments:**

    - `counts`: axis name → number of parts along it, such as {"x": 4}.
    - `shared`: every expert uses the same N basis functions. By default each has its own: the basis
      then has K·N functions, ordered by expert.
    """

    counts: tuple[tuple[str, int], ...] = eqx.field(converter=_counts, static=True)
    shared: bool = eqx.field(static=True, default=False)

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
    """Disjoint boxes, each with its own coefficients from its own solve: in box k, u = lift + basis · ωₖ.

    Expert k minimises ½‖Dₖ rows(ω)‖², where Dₖ is 1 on the rows of its box, and 1 on those of the cells
    at the faces of the domain and on the rows of initial values, which every expert sees as in the
    paper; `outside` elsewhere. With `Scheme(..., exact_initial=False)` this is the published method, but
    for the scaling of its rows. Nothing couples the experts: the result jumps between boxes.

    **Arguments:**

    - `counts`: axis name → number of boxes along it, such as {"x": 4}.
    - `outside`: weight in [0, 1] of the other rows; 0 in the paper. A small positive weight decides what
      the box alone leaves open; with 1 every expert is the single constraint.
    """

    counts: tuple[tuple[str, int], ...] = eqx.field(converter=_counts, static=True)
    outside: float = eqx.field(static=True, default=0.0)

    def __check_init__(self):
        if not 0 <= self.outside <= 1:
            raise ValueError(f"`outside` is {self.outside}; expected a weight in [0, 1].")

    @property
    def experts(self):
        return math.prod(n for _, n in self.counts)

    def indicators(self, grid: pde.Grid, *, at_rows: bool) -> np.ndarray:
        """1 in box k and 0 elsewhere, at the values of the grid or at its rows: (K, *shape)."""
        along = []
        for position, (name, axis) in enumerate(grid.axes.items()):
            shape = [1] * len(grid.axes)
            shape[position] = -1
            x = axis.rows() if at_rows else _values(axis)
            count = dict(self.counts).get(name, 1)
            edges = np.linspace(0, x.size, count + 1).round().astype(int)
            index = np.arange(x.size)
            inside = [(index >= low) & (index < high) for low, high in itertools.pairwise(edges)]
            along.append([w.astype(float).reshape(shape) for w in inside])
        ones = np.ones(grid.row_shape if at_rows else grid.shape)
        return np.stack([math.prod(parts, start=ones) for parts in itertools.product(*along)])

    def weights(self, grid: pde.Grid, conditions: Sequence) -> np.ndarray:
        """Dₖ at the rows of the equation, (K, *row_shape)."""
        periodic = {c.axis for c in conditions if isinstance(c, pde.Periodic)}
        seen = np.zeros(grid.row_shape, bool)
        for position, (name, axis) in enumerate(grid.axes.items()):
            if axis.has_faces and name not in periodic:
                np.moveaxis(seen, position, 0)[[0, -1]] = True
        inside = self.indicators(grid, at_rows=True)
        return np.where(seen | (inside > 0), 1.0, self.outside)


class _Weighted(eqx.Module):
    """Rows of another scaling, weighted."""

    rows: Callable
    weight: Array

    def __call__(self, r):
        return self.weight * self.rows(r)


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
    - `mesh`, `axis`: for `Boxes`, a `jax.sharding.Mesh` and the name of its axis over which the
      experts are placed with `jax.shard_map`; their number must be a multiple of the devices'. Each
      device iterates until its own experts are done.

    **Raises:** `TypeError` without a scheme, `ValueError` for axes that the grid does not have or
    experts that cannot be placed evenly.
    """

    constraint: HardConstraint
    partition: AbstractPartition
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
        if self.mesh is not None:
            if isinstance(self.partition, Windows):
                raise ValueError(
                    "`mesh` is given with `Windows`, which are one joint solve; expected `Boxes`, or no "
                    "mesh (batch the samples over the devices instead)."
                )
            if self.axis not in self.mesh.shape:
                raise ValueError(f"`axis` is {self.axis!r}; the mesh has the axes {tuple(self.mesh.shape)}.")
            if self.partition.experts % self.mesh.shape[self.axis]:
                raise ValueError(
                    f"{self.partition.experts} experts cannot be placed evenly on "
                    f"{self.mesh.shape[self.axis]} devices; choose a multiple."
                )

    def __call__(
        self, equation: pde.AbstractEquation, basis: Any, lift: Any, conditions: Sequence = ()
    ) -> Constrained:
        """Solve for one sample; batch with `jax.vmap`. Arguments as for `HardConstraint`.

        `Boxes` share the N functions of the basis; for `Windows` see `Windows.shared`.
        """
        if isinstance(self.partition, Windows):
            windowed = jtu.tree_map(self.windowed, basis)
            return self.constraint(equation, windowed, lift, conditions)
        return self._separately(equation, basis, lift, tuple(conditions))

    def windowed(self, basis: Float[Array, "M ..."]) -> Float[Array, "KN ..."]:
        """φₖ basisₖₙ for all k, n, ordered by expert."""
        phi = self.partition.windows(self.constraint.discretization.grid)
        experts = self.partition.experts
        if self.partition.shared:
            own = basis[None]
        elif basis.shape[0] % experts == 0:
            own = basis.reshape(experts, -1, *basis.shape[1:])
        else:
            raise ValueError(
                f"`basis` has {basis.shape[0]} functions for {experts} experts; expected a multiple of "
                f"{experts}, ordered by expert, or `Windows(..., shared=True)`."
            )
        products = jnp.asarray(phi, basis.dtype)[:, None] * own
        return products.reshape(-1, *basis.shape[1:])

    def _separately(self, equation, basis, lift, conditions) -> Constrained:
        scheme = self.constraint.discretization
        blocks = scheme.blocks(equation, basis, lift, conditions)
        dtype = next(iter(blocks[0].basis.values())).dtype
        weights = jnp.asarray(self.partition.weights(scheme.grid, conditions), dtype)

        def one(weight, blocks):
            first, *others = blocks  # the equation's rows, then those of initial values
            own = eqx.tree_at(lambda b: b.rows, first, _Weighted(first.rows, weight))
            return self.constraint.coefficients((own, *others))

        many = jax.vmap(one, in_axes=(0, None))
        if self.mesh is not None:
            spec, everywhere = jax.sharding.PartitionSpec(self.axis), jax.sharding.PartitionSpec()
            # Nothing inside reduces over the mesh; the derivative with respect to what all experts
            # share is summed over it by the transpose of the replication.
            many = jax.shard_map(many, mesh=self.mesh, in_specs=(spec, everywhere), out_specs=spec)
        omega, norm, result, steps = many(weights, blocks)
        boxes = jnp.asarray(self.partition.indicators(scheme.grid, at_rows=False), dtype)
        fields = jax.vmap(lambda w: scheme.combine(w, basis, lift))(omega)
        values = jtu.tree_map(lambda u: jnp.sum(boxes * u, axis=0), fields)
        return Constrained(values, omega, norm, result, steps)


def interface_jump(values: Float[Array, "levels cells"], counts: int) -> Float[Array, ""]:
    """Root-mean-square jump of a field on (time levels, uniform cells) where `counts` equal boxes meet.

    A jump is how far the step across the interface exceeds the mean of the steps beside it, in the
    unit of the field; zero for a field that is linear there.
    """
    cells = values.shape[-1]
    at = np.linspace(0, cells, counts + 1).round().astype(int)[1:-1]
    steps = values[..., 1:] - values[..., :-1]
    jumps = steps[..., at - 1] - 0.5 * (steps[..., at - 2] + steps[..., at])
    return jnp.sqrt(jnp.mean(jumps**2))
