"""Which parts of a model are to be found."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from ._model import AbstractPINN, Choose


def network_of(model: AbstractPINN) -> Any:
    """The unknowns by default: the network."""
    return model.network


def split(model: AbstractPINN, unknown: Choose) -> tuple[AbstractPINN, AbstractPINN]:
    """The floating arrays of the chosen parts, and the rest of the model."""
    chosen = unknown(model)
    for part in jax.tree.leaves(chosen, is_leaf=lambda x: isinstance(x, eqx.Module)):
        if isinstance(part, float):
            raise ValueError(
                f"`unknown` names the number {part!r}, which cannot be trained; expected an array. Make it "
                "one where the module is made: `field: Array = eqx.field(converter=jnp.asarray)`."
            )
    none = jax.tree.map(lambda _: False, model)
    wanted = eqx.tree_at(unknown, none, replace=jax.tree.map(eqx.is_inexact_array, chosen))
    found, rest = eqx.partition(model, wanted)
    if not jax.tree.leaves(found):
        raise ValueError("`unknown` names no floating arrays of the model: there is nothing to find.")
    return found, rest


def moved(source: AbstractPINN, model: AbstractPINN, unknown: Choose) -> AbstractPINN:
    """`model` with the unknowns of `source`, in its own precision."""
    like = lambda new, old: new.astype(old.dtype) if eqx.is_inexact_array(new) else new
    new, old = unknown(source), unknown(model)
    if jax.tree.structure(new) != jax.tree.structure(old):
        raise ValueError("`unknown` names parts of another structure in the equation of a stage.")
    return eqx.tree_at(unknown, model, replace=jax.tree.map(like, new, old))


def cast(tree: Any, dtype: Any) -> Any:
    """Every floating array in another precision; as it is if `dtype` is None."""
    if dtype is None:
        return tree
    return jax.tree.map(lambda x: x.astype(dtype) if eqx.is_inexact_array(x) else x, tree)


def precision(unknown: Any) -> Any:
    """The dtype of unknowns."""
    return jnp.result_type(*jax.tree.leaves(unknown))
