"""Training as a pure function."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from .. import pde
from ._driver import make_driver
from ._model import AbstractPINN, Choose, EquationTerm
from ._stage import Stage
from ._terms import Objective
from ._unknown import cast, network_of, precision, split


def minimize(
    model: AbstractPINN,
    method: Any,
    steps: int,
    *,
    key: PRNGKeyArray,
    points: int = 500,
    boundary_points: int = 50,
    sampler: pde.AbstractSampler | None = None,
    unknown: Choose = network_of,
) -> tuple[AbstractPINN, Float[Array, " steps"]]:
    """min ½ Σ_terms mean(r²) by some steps of one method at fixed points: [`jaxsci.pinn.fit`][] as a pure
    function, to be vmapped over equations, interface conditions and seeds. ::

        def trained(speed):
            return pinn.minimize(model.with_equation(pde.Convection(speed)), GaussNewton(), 50, key=key)[0]

        table = jax.jit(jax.vmap(lambda speed: error(trained(speed), speed)))

    **Arguments:**

    - `model`: its arrays may be traced.
    - `method`: as of a [`jaxsci.pinn.Stage`][]; `steps`: how many, fixed, for each lane.
    - `key`: of the points, which are drawn on the host while the function is traced: not traced itself.
      All lanes have the same points.
    - `points`, `boundary_points`, `sampler`, `unknown`: as of `fit`.

    **Returns:** the trained model, and the loss of each step as in the history of `fit`. A lane that fails
    keeps its last finite networks.

    **Raises:** `TypeError` or `ValueError` for wrong arguments.
    """
    if not isinstance(model, AbstractPINN):
        raise TypeError(f"`model` is {model!r}; expected a jaxsci.pinn.PINN or MultiDomainPINN.")
    if isinstance(key, jax.core.Tracer):
        raise TypeError(
            "`key` is traced, and points are drawn on the host: make it outside of what is compiled. Seeds "
            "differ by the networks of `model`."
        )
    stage = Stage(method, steps)
    found, rest = split(model, unknown)
    terms = model.terms()
    sampler = pde.Sobol() if sampler is None else sampler
    counts = [points if isinstance(term, EquationTerm) else boundary_points for term in terms]
    with jax.ensure_compile_time_eval():  # points are drawn on the host
        drawn = zip(terms, counts, jax.random.split(key, len(terms)), strict=True)
        inputs = {t.name: t.draw(model, n, sampler, k) for t, n, k in drawn}
    inputs = cast(inputs, precision(found))
    objective = Objective(terms, model, inputs, rest)
    driver = make_driver(stage, objective)
    weights = {name: jnp.ones((), precision(found)) for name in objective.names}

    def step(carry, key):
        unknown, state = carry
        unknown, state, figures, _ = driver.step(unknown, state, inputs, weights, key)
        return (unknown, state), figures["loss"]

    start = (found, driver.start(found, inputs, weights))
    (found, _), losses = jax.lax.scan(step, start, jax.random.split(key, steps))
    return eqx.combine(found, rest), losses
