from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding, PartitionSpec


def make_chunk(loss, optimizer, static, rows, batch_size, capacity):
    """The compiled part of training: `count` steps from step `start`, in one XLA call.

    `count` is an argument and what the steps return goes to rows of fixed length `capacity`, so one
    compilation serves every chunk. All randomness comes from the key and the number of the step:
    how the steps are divided into chunks changes no bit of the result.

    `static` is the part of the model that is no array, `rows` the shapes of loss and metrics.
    """
    optimizer = optax.with_extra_args_support(optimizer)

    def chunk(parameters, optimizer_state, frozen, data, key, start, count):
        order_key, loss_key = jax.random.split(key)
        draw, first_order = _sampler(data, batch_size, order_key)

        def body(index, carry):
            parameters, optimizer_state, order, history = carry
            batch, order = draw(start + index, index == 0, order)
            step_key = jax.random.fold_in(loss_key, start + index)

            def objective(parameters):
                return loss(combine(parameters, frozen, static), batch, step_key)

            (value, metrics), gradient = jax.value_and_grad(objective, has_aux=True)(parameters)
            updates, next_state = optimizer.update(
                gradient,
                optimizer_state,
                parameters,
                value=value,
                grad=gradient,
                value_fn=lambda parameters: objective(parameters)[0],
            )
            next_parameters = optax.apply_updates(parameters, updates)
            # An optimizer may start from an infinity (a best value so far), but must not reach one:
            # an overflowed second moment would hold its parameter still for good.
            accepted = (
                jnp.isfinite(value)
                & _all_finite(gradient)
                & _all_finite(next_parameters)
                & _none_lost(next_state, optimizer_state)
            )
            entries = {"loss": value, "skipped": ~accepted, **metrics}
            history = {
                name: row.at[index].set(jnp.asarray(entries[name], row.dtype))
                for name, row in history.items()
            }
            return (
                _select(accepted, next_parameters, parameters),
                _select(accepted, next_state, optimizer_state),
                order,
                history,
            )

        history = {name: jnp.zeros(capacity, row.dtype) for name, row in rows.items()}
        carry = (parameters, optimizer_state, first_order, history)
        parameters, optimizer_state, _, history = jax.lax.fori_loop(jnp.zeros_like(count), count, body, carry)
        return parameters, optimizer_state, history

    return chunk


def combine(parameters: Any, frozen: Any, static: Any) -> Any:
    """The model, from its trained arrays, its other arrays, and the rest."""
    return jax.tree.map(
        lambda *parts: next((part for part in parts if part is not None), None),
        parameters,
        frozen,
        static,
        is_leaf=lambda leaf: leaf is None,
    )


def _sampler(data, batch_size, key):
    """How a step gets its batch: epochs in shuffled order, without replacement."""
    if batch_size is None:
        return lambda step, first, order: (data, order), jnp.zeros(0, jnp.int32)
    samples = jax.tree.leaves(data)[0].shape[0]
    epoch_length = samples // batch_size
    order_of_data = jnp.arange(samples, dtype=jnp.int32)

    def shuffled(step, order):
        epoch_key = jax.random.fold_in(key, step // epoch_length)
        return jax.random.permutation(epoch_key, order_of_data)

    def draw(step, first, order):
        position = step % epoch_length
        # A chunk that starts within an epoch makes the order of that epoch again.
        renewed = first | (position == 0)
        order = jax.lax.cond(renewed, shuffled, lambda step, order: order, step, order)
        chosen = jax.lax.dynamic_slice_in_dim(order, position * batch_size, batch_size)
        return jax.tree.map(lambda array: array[chosen], data), order

    return draw, order_of_data


def _select(accepted, new, old):
    return jax.tree.map(lambda n, o: jnp.where(accepted, n.astype(o.dtype), o), new, old)


def _inexact(leaf):
    return jnp.issubdtype(leaf.dtype, jnp.inexact)


def _all_finite(tree):
    checks = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree) if _inexact(leaf)]
    return jnp.all(jnp.stack(checks)) if checks else jnp.array(True)


def _none_lost(new, old):
    checks = [
        jnp.all(jnp.isfinite(n) | ~jnp.isfinite(o))
        for n, o in zip(jax.tree.leaves(new), jax.tree.leaves(old), strict=True)
        if _inexact(o)
    ]
    return jnp.all(jnp.stack(checks)) if checks else jnp.array(True)


def on_one_mesh(*trees: Any) -> tuple[Any, ...]:
    """Pytrees of arrays that one XLA call accepts together, with fixed dtypes.

    If any array lies on a mesh of devices, those that do not are replicated over it.
    """
    leaves = jax.tree.leaves(trees)
    meshes = [leaf.sharding.mesh for leaf in leaves if _on_mesh(leaf)]

    def place(leaf):
        leaf = leaf if isinstance(leaf, jax.Array) else jnp.asarray(leaf)
        if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jnp.asarray(leaf, leaf.dtype)
        if meshes and not _on_mesh(leaf):
            leaf = jax.device_put(leaf, NamedSharding(meshes[0], PartitionSpec()))
        return leaf

    return tuple(jax.tree.map(place, tree) for tree in trees)


def _on_mesh(leaf):
    return isinstance(leaf, jax.Array) and isinstance(leaf.sharding, NamedSharding)


def compile_chunk(chunk, state, fixed):
    """`chunk` compiled ahead for `state` (parameters, optimizer state) and `fixed`."""
    placed = any(_on_mesh(leaf) for leaf in jax.tree.leaves((state, fixed)))
    # On a mesh, what comes out has to lie where it lay, to go in again.
    shardings = (*jax.tree.map(lambda leaf: leaf.sharding, state), None) if placed else None
    counts = (np.int32(0), np.int32(0))
    return jax.jit(chunk, out_shardings=shardings).lower(*state, *fixed, *counts).compile()
