"""Derivatives of a network at one point, all that an equation needs at once."""

from collections.abc import Callable, Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float

from ._equation import LAP, AbstractEquation, Derivative, Derivatives, required, space
from ._taylor import LAPLACIAN, taylor


def derivatives(
    network: Callable[[Float[Array, " d"]], Array],
    equation: AbstractEquation,
    point: Float[Array, " d"],
) -> Derivatives:
    """Every derivative of a network that an equation's residual needs, at one point.

    Taylor mode: one pass over the network's operations, at each of which all derivatives are known, so
    that a layer costs one product for each of them; the derivatives of an activation are computed once.
    A Laplacian `u_lap` over d coordinates costs d + 2 products a layer, not the 2d + 1 of d second
    derivatives. Anything that JAX can differentiate forward may stand in the network.

    **Arguments:**

    - `network`: a function of one point. It returns the fields, `(n_fields, *trailing)`: with
        `trailing` empty one solution, with `trailing = (N,)` N basis functions of every field. The
        equation of one field may also be given a scalar.
    - `equation`: what the derivatives are for; it names the fields and the coordinates.
    - `point`: the coordinates, in the order of `equation.coordinates`.

    **Returns:** [`Derivatives`][] with arrays of shape `trailing`. Batch with `jax.vmap`.

    **Raises:** `ValueError` for a point or an output of the wrong shape, `TypeError` for integers.
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

    **Raises:** `ValueError` for a point or an output of the wrong shape, `TypeError` for integers.
    """
    if point.shape != (len(coordinates),):
        raise ValueError(
            f"`point` has shape {point.shape}; expected ({len(coordinates)},), one number for each "
            f"of the coordinates {tuple(coordinates)}. Batch with `jax.vmap`."
        )
    if not jnp.issubdtype(point.dtype, jnp.inexact):
        raise TypeError(f"`point` has dtype {point.dtype}; expected floating-point numbers.")

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
    directions = tuple(index[name] for name in space(coordinates))
    keys = {d: (tuple(sorted(index[c] for c in d.along if c != LAP)), d.along.count(LAP)) for d in wanted}
    table = _table(outputs, set(keys.values()), (LAPLACIAN, *directions), point)
    return {d.name: table[key][fields.index(d.field)] for d, key in keys.items()}


def _table(f, keys, laplacian, p) -> dict:
    """(directions, number of Laplacians) → that derivative of f at p."""
    at_once = {key: laplacian if key[1] else key[0] for key in keys if key[1] == 0 or key == ((), 1)}
    found = {}
    if at_once:
        (table,) = taylor(f, at_once.values())(p)
        # What is absent vanishes identically.
        zero = jnp.zeros_like(table[()])
        found = {key: table.get(simple, zero) for key, simple in at_once.items()}
    if nested := keys - set(at_once):
        inner = lambda p: _table(f, {((), 1)}, laplacian, p)[(), 1]
        below = _table(inner, {(along, n - 1) for along, n in nested}, laplacian, p)
        found |= {(along, n + 1): value for (along, n), value in below.items()}
    return found
