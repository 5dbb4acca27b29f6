"""What is wrong with the arguments of `fit`, said before anything is compiled."""

import operator
import pathlib
import tempfile
from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax


def check_count(name: str, value: Any, least: int) -> int:
    try:
        count = operator.index(value)
    except TypeError as error:
        raise TypeError(f"`{name}` = {value!r}: expected an integer, at least {least}.") from error
    if isinstance(value, bool) or count < least:
        raise ValueError(f"`{name}` = {value!r}: expected an integer, at least {least}.")
    return count


def check_optimizer(optimizer: Any) -> None:
    if not isinstance(optimizer, optax.GradientTransformation):
        raise TypeError(
            f"`optimizer` is {type(optimizer).__name__}: expected an optax GradientTransformation, "
            "for example `optax.adam(1e-3)`."
        )


def check_best(evaluate: Any, best: Any) -> None:
    if best is not None and evaluate is None:
        raise ValueError(f"`best` = {best!r} names a value of `evaluate`, which is not given.")


def check_share(name: str, value: Any) -> None:
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"`{name}` = {value!r}: expected a share between 0 and 1.")


def check_one_process() -> None:
    if jax.process_count() > 1:
        raise ValueError(
            f"`fit` runs in one process; this is one of {jax.process_count()}. Write the loop over "
            "processes yourself, or use the devices of one process."
        )


def check_key(key: Any) -> None:
    typed = eqx.is_array(key) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    if typed and key.shape == ():
        return
    if not typed and eqx.is_array(key) and key.dtype == np.uint32 and key.ndim == 1:
        return
    given = f"{key.dtype} of shape {key.shape}" if eqx.is_array(key) else repr(key)
    raise TypeError(f"`key` is {given}: expected one PRNG key, for example `jax.random.key(0)`.")


def check_parameters(parameters: Any) -> None:
    leaves = named(parameters)
    if not leaves:
        raise ValueError(
            "`model` has nothing to train: expected at least one inexact array that `trainable` selects."
        )
    for name, leaf in leaves.items():
        if not (eqx.is_array(leaf) and jnp.issubdtype(leaf.dtype, jnp.inexact)):
            raise TypeError(
                f"`trainable` selects model{name}, which is no inexact array ({leaf!r}): gradients "
                "exist for floating-point arrays only."
            )
        if not bool(jnp.all(jnp.isfinite(leaf))):
            raise ValueError(
                f"`model`: the initial values of model{name} are not finite, so no step could be "
                "taken. Check how it was initialized, or loaded."
            )


def check_data(data: Any, batch_size: Any) -> Any:
    """The data as JAX arrays."""
    if batch_size is not None:
        check_count("batch_size", batch_size, 1)
    if data is None:
        if batch_size is not None:
            raise ValueError(f"`batch_size` = {batch_size} is given, but no `data` to take it from.")
        return None
    leaves = named(data)
    if not leaves:
        raise ValueError("`data` holds no array: give arrays with samples first, or None.")
    lengths = {}
    for name, leaf in leaves.items():
        try:
            array = leaf if isinstance(leaf, jax.Array) else np.asarray(leaf)
        except ValueError as error:
            raise TypeError(f"`data`{name} is not an array: {error}.") from error
        if isinstance(array, np.ndarray) and array.dtype.kind not in "biufcV":
            raise TypeError(f"`data`{name} has dtype {array.dtype}: expected numbers; encode it first.")
        if array.ndim == 0:
            raise ValueError(f"`data`{name} is a scalar: expected samples on a leading axis.")
        lengths[name] = array.shape[0]
    if len(set(lengths.values())) > 1:
        raise ValueError(
            "`data`: the leading axes differ, so they are not the same samples: "
            + ", ".join(f"{name or 'data'}: {length}" for name, length in lengths.items())
            + "."
        )
    samples = next(iter(lengths.values()))
    if samples == 0:
        raise ValueError("`data` is empty: its leading axis has length 0.")
    if batch_size is not None and batch_size > samples:
        raise ValueError(
            f"`batch_size` = {batch_size} is more than the {samples} samples of `data`: lower it, "
            "or pass None to use all in each step."
        )
    return jax.tree.map(jnp.asarray, data)


def check_directory(directory: Any) -> pathlib.Path | None:
    if directory is None:
        return None
    path = pathlib.Path(directory).expanduser()
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise ValueError(
            f"`directory` = {str(path)!r} is not a folder that can be written to ({error}): give "
            "another one, or correct its permissions."
        ) from error
    return path


def check_loss(loss: Any, model: Any, data: Any, batch_size: Any, key: Any) -> dict[str, Any]:
    """The scalars that a step records, by name: their shapes and dtypes."""

    def call(model, data, key):
        batch = data if batch_size is None else jax.tree.map(lambda x: x[:batch_size], data)
        return loss(model, batch, key)

    returned = eqx.filter_eval_shape(call, model, data, key)
    wanted = (
        "expected `loss(model, batch, key)` to return `(value, metrics)`: a real floating-point "
        "scalar and a dict of scalars, for example `return jnp.mean(error**2), {}`"
    )
    if not isinstance(returned, tuple) or len(returned) != 2:
        raise TypeError(f"`loss` returned {_shown(returned)}: {wanted}.")
    value, metrics = returned
    if not isinstance(value, jax.ShapeDtypeStruct) or not isinstance(metrics, dict):
        raise TypeError(f"`loss` returned {_shown(returned)}: {wanted}.")
    if value.shape != () or not jnp.issubdtype(value.dtype, jnp.floating):
        raise ValueError(f"`loss` returned {_shown(value)} as its value: {wanted}.")
    rows = {"loss": value, "skipped": jax.ShapeDtypeStruct((), jnp.bool_)}
    for name, entry in metrics.items():
        _check_name("loss", name, rows)
        if isinstance(entry, bool | int | float):
            entry = jax.eval_shape(lambda entry=entry: jnp.asarray(entry))
        if not isinstance(entry, jax.ShapeDtypeStruct) or entry.shape != ():
            raise ValueError(f"`loss`: the metric {name!r} is {_shown(entry)}, not a scalar.")
        real = any(jnp.issubdtype(entry.dtype, kind) for kind in (jnp.floating, jnp.integer))
        if not real and entry.dtype != jnp.bool_:
            raise ValueError(f"`loss`: the metric {name!r} is {_shown(entry)}, not real.")
        rows[name] = entry
    return rows


def check_evaluation(values: Any, best: str) -> dict[str, float]:
    if not isinstance(values, Mapping):
        raise TypeError(
            f"`evaluate` returned {type(values).__name__}: expected a dict of floats, for example "
            '`{"relative_l2": 0.1}`.'
        )
    checked = {}
    for name, value in values.items():
        _check_name("evaluate", name, ("step", "training_loss"))
        try:
            checked[name] = float(value)
        except (TypeError, ValueError) as error:
            raise TypeError(f"`evaluate` returned {value!r} for {name!r}: expected a float.") from error
    if best not in ("training_loss", *checked):
        raise ValueError(f"`best` = {best!r} is not among the values of `evaluate`: {[*checked]}.")
    return checked


def describe_nonfinite(data: Any) -> str:
    """Where the data are not finite: the likely cause of steps that are not."""
    for name, leaf in named(data).items():
        if _inexact(leaf):
            bad = np.argwhere(~np.isfinite(np.asarray(leaf)))
            if len(bad):
                at = ", ".join(str(index) for index in bad[0])
                return f" `data`{name} has {len(bad)} non-finite values, the first at [{at}]."
    return ""


def named(tree: Any) -> dict[str, Any]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


def _inexact(leaf):
    return jnp.issubdtype(leaf.dtype, jnp.inexact)


def _check_name(source, name, taken):
    if not isinstance(name, str) or not name.isprintable() or not name or "\\" in name:
        raise ValueError(f"`{source}`: the name {name!r} is not a printable string.")
    if name in taken:
        raise ValueError(f"`{source}`: the name {name!r} is taken; choose another.")


def _shown(returned):
    def one(x):
        return f"{x.dtype}{list(x.shape)}" if isinstance(x, jax.ShapeDtypeStruct) else repr(x)

    return str(jax.tree.map(one, returned)).replace("'", "")
