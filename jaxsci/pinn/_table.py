"""A function of space, kept by its derivatives at the nodes of a lattice."""

import itertools
import math
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .. import pde

# Coefficients of the quintics in s on [0, 1] (rows: powers), of which one of value, first and second
# derivative over two is one at one of the ends and all others are zero: at 0, then at 1.
_POWERS = np.array([[s**k for k in range(6)] for s in (0.0, 1.0)])
_BASIS = np.linalg.inv(
    np.array(
        [
            [math.comb(k, order) * s ** (k - order) if k >= order else 0.0 for k in range(6)]
            for s in (0.0, 1.0)
            for order in range(3)
        ]
    )
)


class Table(eqx.Module):
    """Quintic Hermite interpolation on a lattice, in each of n coordinates: twice continuously
    differentiable, the error is O(h⁶).

    - `terms`: (∂^α u) h^α/α!, |αᵢ| ≤ 2, of shape (nodes₁, …, nodesₙ, 3, …, 3).
    - `bounds`: the lattice; outside of it, the polynomial of its last cells.
    """

    terms: Float[Array, "..."]
    bounds: tuple[tuple[float, float], ...] = eqx.field(static=True)
    coordinates: tuple[str, ...] = eqx.field(static=True)

    def __call__(self, point: pde.Point) -> Array:
        n = len(self.coordinates)
        cells, weights = [], []
        for axis, (name, (a, b)) in enumerate(zip(self.coordinates, self.bounds, strict=True)):
            nodes = self.terms.shape[axis]
            at = (point[name] - a) * ((nodes - 1) / (b - a))
            cell = jax.lax.stop_gradient(jnp.clip(jnp.floor(at), 0, nodes - 2))
            s = at - cell
            powers = jnp.stack([s**k for k in range(1, 6)])
            powers = jnp.concatenate([jnp.ones_like(s)[None], powers])
            cells.append(cell.astype(int))
            weights.append((powers @ jnp.asarray(_BASIS, s.dtype)).reshape(2, 3))
        found = jax.lax.dynamic_slice(self.terms, (*cells, *[0] * n), (*[2] * n, *[3] * n))
        for w in weights:
            # Each takes the first axis of the ends, and the first of the orders.
            found = jnp.tensordot(w, jnp.moveaxis(found, found.ndim // 2, 1), 2)
        return found


def tabulate(
    model: Callable, fields: tuple[str, ...], coordinates: tuple[str, ...], t: float, bounds, nodes: int
) -> dict[str, Table]:
    """The fields of a model at a time.

    **Arguments:**

    - `model`: (d,) ↦ (fields,) with `coordinates`, time the last.
    - `bounds`: of the lattice, for each coordinate of space; `nodes` along each.
    """
    space = coordinates[:-1]
    orders = [*itertools.product(range(3), repeat=len(space))]
    along = [tuple(x for x, k in zip(space, order, strict=True) for _ in range(k)) for order in orders]
    wanted = tuple(pde.Derivative(f, a) for f in fields for a in along)
    step = [(b - a) / (nodes - 1) for a, b in bounds]

    @jax.jit
    def at(x):
        point = jnp.append(x, jnp.asarray(t, x.dtype))
        found = pde.differentiate(model, wanted, point, fields=fields, coordinates=coordinates)
        scale = [math.prod(h**k / math.factorial(k) for h, k in zip(step, o, strict=True)) for o in orders]
        return jnp.stack(
            [
                jnp.stack([s * found[pde.Derivative(f, a).name] for s, a in zip(scale, along, strict=True)])
                for f in fields
            ]
        )

    axes = [jnp.linspace(a, b, nodes) for a, b in bounds]
    lattice = jnp.stack(jnp.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(space))
    terms = jax.lax.map(at, lattice, batch_size=1024)
    shape = (*[nodes] * len(space), *[3] * len(space))
    limits = tuple((float(a), float(b)) for a, b in bounds)
    return {f: Table(terms[:, i].reshape(shape), limits, space) for i, f in enumerate(fields)}
