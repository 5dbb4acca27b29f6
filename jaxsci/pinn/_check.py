"""What is wrong with a problem, said before anything is computed."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .. import pde
from ..pde._conditions import Condition
from ._ansatz import Ansatz, named, value_of

_AGREE = 1e-3


def check_problem(equation: Any, domain: Any, conditions: tuple, soft: tuple) -> None:
    """Raise unless equation, domain and conditions fit each other."""
    if not isinstance(equation, pde.AbstractEquation):
        raise TypeError(f"`equation` is {equation!r}; expected a pde.Equation, such as pde.Burgers(0.01).")
    if not isinstance(domain, pde.AbstractDomain):
        raise TypeError(f"`domain` is {domain!r}; expected a domain, such as pde.Box({{'x': (0.0, 1.0)}}).")
    if domain.coordinates != equation.coordinates:
        raise ValueError(
            f"`domain` has the coordinates {domain.coordinates} and `equation` {equation.coordinates}; "
            "expected the same, in the same order. Time is one of them, as in "
            "pde.Product(shape, pde.Box({'t': (0.0, 1.0)}))."
        )
    taken: dict[tuple, Any] = {}
    for c in (*conditions, *soft):
        if not isinstance(c, Condition):
            raise TypeError(
                f"`conditions` holds {c!r}; expected pde.Initial, Dirichlet, Neumann, Robin, Periodic or "
                "Data."
            )
        if c.field not in equation.fields:
            raise ValueError(f"{c!r} is for the field {c.field!r}; the equation has {equation.fields}.")
        place = _place(c, domain, equation)
        if place in taken:
            raise ValueError(f"Two conditions for {c.field!r} in one place: {taken[place]!r} and {c!r}.")
        taken[place] = c
    for c in taken.values():
        if isinstance(c, pde.Periodic):
            ends = [taken.get((c.field, face(c.axis))) for face in (pde.low, pde.high)]
            if clash := [end for end in ends if end is not None]:
                raise ValueError(
                    f"{c!r} and {clash[0]!r} contradict each other: a periodic axis has no ends."
                )


def _place(c, domain, equation) -> tuple:
    if isinstance(c, pde.Data):
        if c.points.shape[1] != len(equation.coordinates):
            raise ValueError(
                f"`points` of Data {c.name!r} have shape {c.points.shape}; expected "
                f"(n, {len(equation.coordinates)}): the coordinates {equation.coordinates}."
            )
        _check_data(c, domain)
        return c.field, c.name
    if isinstance(c, pde.AbstractFaceCondition):
        faces = [c.face]
    elif isinstance(c, pde.Initial):
        faces = [pde.low(c.time)]
    else:
        faces = [pde.low(c.axis), pde.high(c.axis)]
    for face in faces:
        if face not in domain.parts:
            raise ValueError(
                f"{c!r} is on {face}, which is no part of the domain; its parts are "
                f"{', '.join(map(str, domain.parts))}."
            )
    if isinstance(c, pde.Initial):
        return (c.field, "rate") if c.rate else (c.field, faces[0])
    return c.field, faces[0] if len(faces) == 1 else c.axis


def _check_data(c: pde.Data, domain: pde.AbstractDomain) -> None:
    if isinstance(c.points, jax.core.Tracer) or isinstance(c.values, jax.core.Tracer):
        return
    if not bool(jnp.all(jnp.isfinite(c.values))) or not bool(jnp.all(jnp.isfinite(c.points))):
        raise ValueError(f"Data {c.name!r} holds NaN or infinity. Leave those measurements out.")
    outside = ~domain.contains(np.asarray(c.points))
    if outside.any():
        raise ValueError(
            f"{outside.sum()} of {len(outside)} `points` of Data {c.name!r} lie outside of the domain, such "
            f"as {np.asarray(c.points)[outside][0]}, in the order {domain.coordinates}. Leave them out, or "
            "make the domain larger."
        )


def check_network(network: Any, ansatz: Ansatz, fields: tuple[str, ...]) -> None:
    """Raise unless the network takes the features and gives the fields."""
    names = ansatz.coordinates
    size = len(names) + len(ansatz.periodic)
    around = f"; {ansatz.periodic} are periodic and give two each" if ansatz.periodic else ""
    expected = (
        f"expected a callable from ({size},) features (of the coordinates {names}{around}) to "
        f"({len(fields)},), the fields {fields}"
    )
    if not callable(network):
        raise TypeError(f"`network` is {network!r}; {expected}.")
    try:
        out = eqx.filter_eval_shape(network, jax.ShapeDtypeStruct((size,), jnp.result_type(float)))
    except Exception as error:
        raise ValueError(
            f"`network` fails on an input of shape ({size},), with {error!r}; {expected}."
        ) from error
    if out.shape != (len(fields),) and not (out.shape == () and len(fields) == 1):
        raise ValueError(f"`network` gives shape {out.shape}; {expected}.")


def check_transport(equation: Any, domain: Any) -> None:
    """Raise unless an equation and a domain fit a Lagrangian frame."""
    if not isinstance(equation, pde.AbstractTransport):
        raise TypeError(
            f"`equation` is {equation!r}, which has no transport form; expected a pde.AbstractTransport with "
            "`velocity` (and `diffusion`, `source`), such as pde.Burgers(0.01). Write it as one, or use "
            "pinn.PINN."
        )
    names = equation.coordinates
    if names[-1] != "t" or len(names) not in (2, 3):
        raise ValueError(
            f"`equation` has the coordinates {names}; expected one or two of space and then 't'. Use "
            "pinn.PINN."
        )
    if not isinstance(domain, pde.Box) or domain.coordinates != names:
        raise ValueError(
            f"`domain` is {domain!r}; expected a pde.Box with the coordinates {names}, in this order."
        )


def check_branch(name: str, network: Any, size: int, out: int) -> None:
    """Raise unless a network takes `size` features and gives `out` numbers."""
    expected = f"expected a callable from ({size},), features of the label and of time, to ({out},)"
    if not callable(network):
        raise TypeError(f"`{name}` is {network!r}; {expected}.")
    try:
        found = eqx.filter_eval_shape(network, jax.ShapeDtypeStruct((size,), jnp.result_type(float)))
    except Exception as error:
        raise ValueError(
            f"`{name}` fails on an input of shape ({size},), with {error!r}; {expected}."
        ) from error
    if found.shape != (out,) and not (found.shape == () and out == 1):
        raise ValueError(f"`{name}` gives shape {found.shape}; {expected}.")


def check_agreement(ansatz: Ansatz, domain: pde.AbstractDomain, fields: tuple[str, ...]) -> None:
    """Raise where the lift lacks a hard condition: it contradicts another one where they meet."""
    names = ansatz.coordinates
    for c in ansatz.hard:
        if isinstance(c, pde.Periodic):
            continue
        face = pde.low(c.time) if isinstance(c, pde.Initial) else c.face
        with jax.ensure_compile_time_eval():  # points are drawn on the host
            points, _ = domain.boundary(face, 64, pde.Sobol(), jax.random.key(0))
        projectors = ansatz.projectors[fields.index(c.field)]

        def compare(p, c=c, face=face, projectors=projectors):
            lift = lambda p: ansatz.lift(projectors, p)
            want = value_of(c, named(p, names))
            if isinstance(c, pde.Neumann) or (isinstance(c, pde.Initial) and c.rate):
                along = jnp.zeros_like(p).at[names.index(face.axis)].set(1)
                return jax.jvp(lift, (p,), (along,))[1], want
            return lift(p), want

        have, want = jax.vmap(compare)(points)
        if isinstance(have, jax.core.Tracer):
            return  # coefficients are traced: what they are is not known yet
        if not bool(jnp.all(jnp.isfinite(want))):
            raise ValueError(f"The value of {c!r} is not finite everywhere on its part of the boundary.")
        gap = jnp.abs(have - want)
        if not float(jnp.max(gap)) <= _AGREE * (1 + float(jnp.max(jnp.abs(want)))):
            worst = named(points[jnp.argmax(gap)], names)
            at = ", ".join(f"{name} = {float(worst[name]):.3g}" for name in names)
            raise ValueError(
                f"{c!r} contradicts another condition where they meet, near {at}, by "
                f"{float(jnp.max(gap)):.2g}. Both cannot hold exactly: move one of them to `soft`."
            )
