"""Derivatives of a network at one point, all that an equation needs at once."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ._equation import AbstractEquation, Derivative, Derivatives, required


def derivatives(
    network: Callable[[Float[Array, " d"]], Array],
    equation: AbstractEquation,
    point: Float[Array, " d"],
) -> Derivatives:
    """Every derivative of a network that an equation's residual needs, at one point.

    Forward mode throughout: u, u_x and u_xx come out of one nested pass, and passes share what they
    have in common when compiled, so that a layer costs one product for each different derivative.

    **Arguments:**

    - `network`: a function of one point. It returns the fields, `(n_fields, *trailing)`: with
        `trailing` empty one solution, with `trailing = (N,)` N basis functions of every field. The
        equation of one field may also be given a scalar.
    - `equation`: what the derivatives are for; it names the fields and the coordinates.
    - `point`: the coordinates, in the order of `equation.coordinates`.

    **Returns:** [`Derivatives`][] with arrays of shape `trailing`. Batch with `jax.vmap`.

    **Raises:** `ValueError` for a point or an output of the wrong shape.
    """
    arrays = differentiate(
        network,
        required(equation),
        point,
        fields=equation.fields,
        coordinates=equation.coordinates,
    )
    return Derivatives(arrays, equation.fields, equation.coordinates)


def differentiate(
    network: Callable[[Float[Array, " d"]], Array],
    wanted: Sequence[Derivative],
    point: Float[Array, " d"],
    *,
    fields: Sequence[str],
    coordinates: Sequence[str],
) -> dict[str, Array]:
    """As [`derivatives`][], for any list of derivatives.

    **Arguments:**

    - `network`, `point`: as there.
    - `wanted`: for example `[parse("u_xx", fields, coordinates)]`.
    - `fields`, `coordinates`: the names of the network's outputs and inputs.

    **Returns:** canonical name → array of shape `trailing`.

    **Raises:** `ValueError` for a point or an output of the wrong shape.
    """
    if point.shape != (len(coordinates),):
        raise ValueError(
            f"`point` has shape {point.shape}; expected ({len(coordinates)},), one number for each "
            f"of the coordinates {tuple(coordinates)}. Batch with `jax.vmap`."
        )

    def outputs(p):
        out = network(p)
        if out.ndim == 0 and len(fields) == 1:
            return out[None]
        if out.ndim == 0 or out.shape[0] != len(fields):
            raise ValueError(
                f"`network` returned shape {out.shape}; expected ({len(fields)}, …), the fields "
                f"{tuple(fields)} first and then any trailing axes."
            )
        return out

    index = {name: i for i, name in enumerate(coordinates)}
    orders = {d: tuple(sorted(index[c] for c in d.along)) for d in wanted}
    table = _tower(outputs, frozenset(orders.values()), len(coordinates))(point)
    return {d.name: table[order][fields.index(d.field)] for d, order in orders.items()}


def _tower(f, orders, n):
    """p ↦ {order: ∂^order f(p)}, an order being a sorted tuple of directions.

    Derivatives with the same last direction c come from one push-forward along c of the tower of
    what is left of them: its primal output is the lower derivatives, its tangent the higher ones.
    """

    def at(p):
        table = {}
        for c in range(n):
            below = frozenset(order[:-1] for order in orders if order and order[-1] == c)
            if below:
                direction = jnp.zeros(n, p.dtype).at[c].set(1)
                primal, tangent = jax.jvp(_tower(f, below, n), (p,), (direction,))
                table.update(primal)
                table.update({(*order, c): value for order, value in tangent.items()})
        if () in orders and () not in table:
            table[()] = f(p)
        return {order: table[order] for order in orders}

    return at
