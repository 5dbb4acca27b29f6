import os
import pathlib
import re
import shutil
import uuid
import warnings
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .. import _store

_STEP = re.compile(r"step_(\d{8,})")


class CheckpointError(RuntimeError):
    """A checkpoint is damaged, or belongs to another model or problem."""


def save_model(path: str | os.PathLike[str], model: Any) -> None:
    """Writes the arrays and numbers of a model to a folder, all or nothing.

    **Arguments:**

    - `path`: the folder to write (`arrays.npz` and `manifest.json`); an older one is replaced.
    - `model`: any pytree. Its structure and functions are not stored: see [`load_model`][].

    **Raises:** `CheckpointError` if the file system refuses.
    """
    try:
        _store.save(path, pack("model", model), {"kind": "model"})
    except _store.StoreError as error:
        raise CheckpointError(str(error)) from error


def load_model(path: str | os.PathLike[str], like: Any) -> Any:
    """Reads what [`save_model`][] wrote.

    **Arguments:**

    - `path`: the folder.
    - `like`: a model of the same structure, for example a freshly made one; its arrays say which
        shapes, dtypes and devices are wanted.

    **Returns:** `like` with the stored arrays and numbers.

    **Raises:** `CheckpointError` if anything stored is damaged, or does not fit `like`: the message
    names the first leaf that differs. No code stored in a file is ever run.
    """
    try:
        arrays, _ = _store.load(path)
    except _store.StoreError as error:
        raise CheckpointError(str(error)) from error
    return unpack("model", like, arrays, path)


def pack(prefix: str, tree: Any) -> dict[str, np.ndarray]:
    """The arrays and numbers of a pytree, named by their paths."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {
        f"{prefix}{jax.tree_util.keystr(path)}": _to_numpy(leaf)
        for path, leaf in leaves
        if eqx.is_array_like(leaf)
    }


def unpack(prefix: str, like: Any, arrays: dict[str, np.ndarray], where: Any) -> Any:
    """The inverse of `pack`, onto the structure of `like`."""
    wanted = pack(prefix, like)
    stored = {name: array for name, array in arrays.items() if re.match(rf"{prefix}([.\[]|$)", name)}
    for name in [*wanted, *stored]:
        found, expected = (
            f"{tree[name].dtype.name} of shape {tree[name].shape}" if name in tree else "absent"
            for tree in (stored, wanted)
        )
        if found != expected:
            raise CheckpointError(
                f"{where} was written for another model, optimizer or precision: {name} is {found} "
                f"there and {expected} here. Make the same objects as when it was written, or use "
                "another folder."
            )
    leaves, structure = jax.tree_util.tree_flatten_with_path(like)
    return jax.tree_util.tree_unflatten(
        structure,
        [
            _to_leaf(stored[f"{prefix}{jax.tree_util.keystr(path)}"], leaf)
            if eqx.is_array_like(leaf)
            else leaf
            for path, leaf in leaves
        ],
    )


def _is_key(leaf):
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _to_numpy(leaf):
    return np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)


def _to_leaf(array, like):
    if _is_key(like):
        array = jax.random.wrap_key_data(jnp.asarray(array), impl=jax.random.key_impl(like))
    if isinstance(like, jax.Array):
        return jax.device_put(array, like.sharding)
    if isinstance(like, np.ndarray):
        return array
    return type(like)(array.item())


class Checkpoints:
    """The folders `step_00000300` in `folder`: the newest `keep` of one run."""

    def __init__(self, folder: pathlib.Path, keep: int):
        self.folder = folder
        self._keep = keep

    def list(self) -> list[pathlib.Path]:
        """Oldest first."""
        if not self.folder.is_dir():
            return []
        found = [
            (int(match[1]), path) for path in self.folder.iterdir() if (match := _STEP.fullmatch(path.name))
        ]
        return [path for _, path in sorted(found)]

    def clear(self) -> None:
        for path in self.list():
            shutil.rmtree(path)

    def save(self, step: int, arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> bool:
        """Writes one and prunes. What cannot be written is warned about; older ones stay."""
        try:
            _store.save(self.folder / f"step_{step:08d}", arrays, meta)
        except _store.StoreError as error:
            warnings.warn(
                f"No checkpoint of step {step}: {error} Training goes on; a checkpoint is tried "
                "again later, and older ones are kept.",
                stacklevel=3,
            )
            return False
        for path in self.list()[: -self._keep]:
            shutil.rmtree(path, ignore_errors=True)
        return True

    def load(self) -> tuple[pathlib.Path, dict[str, np.ndarray], dict[str, Any]] | None:
        """The newest that verifies; None if there is none at all."""
        _store.sweep(self.folder)
        skipped = []
        for path in reversed(self.list()):
            try:
                arrays, meta = _store.load(path)
            except _store.StoreError as error:
                skipped.append((path, error))
                continue
            if skipped:
                # Out of the way, or they would count as the newest when old ones are pruned.
                for damaged, _ in skipped:
                    damaged.rename(f"{damaged}.damaged-{uuid.uuid4().hex[:8]}")
                warnings.warn(
                    f"Going on from {path}; newer checkpoints were skipped and renamed to "
                    f"*.damaged-*: {'; '.join(str(error) for _, error in skipped)}",
                    stacklevel=3,
                )
            return path, arrays, meta
        if skipped:
            raise CheckpointError(
                f"No checkpoint in {self.folder} can be used: "
                f"{'; '.join(str(error) for _, error in skipped)} To start over, pass "
                "`resume=False`, which removes them, or another `directory`."
            )
        return None
