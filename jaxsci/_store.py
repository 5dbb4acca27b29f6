"""Atomic, checked storage of named arrays: what checkpoints and data caches are written with.

A stored folder holds two files, an uncompressed ``arrays.npz`` and a ``manifest.json``::

    {"arrays": {name: {"dtype": ..., "sha256": ..., "shape": [...]}}, "file": "arrays.npz",
     "file_sha256": ..., "format": 1, "meta": ..., "sha256": ..., "versions": {...}}

Every byte is covered: the manifest by its own digest and by being in canonical form, the array file
by the digest of the whole file, each array by the digest of its bytes. Nothing is ever unpickled.
"""

import functools
import hashlib
import importlib.metadata
import json
import math
import os
import pathlib
import platform
import re
import shutil
import time
import uuid
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

FORMAT = 1

_MANIFEST = "manifest.json"
_MANIFEST_LIMIT = 1 << 24
_TEMPORARY = re.compile(r".+\.tmp-[0-9a-f]{32}")
_ARRAY_FILE = re.compile(r"arrays(-[0-9a-f]{32})?\.npz")
_ARRAY_NAME = re.compile(r"[^\x00-\x1f\x7f\\]{1,1000}")
_NATIVE_KINDS = "biufcSUmM"


class StoreError(RuntimeError):
    """A folder could not be written, or what it holds is missing, damaged or foreign."""


def save(folder: str | os.PathLike[str], arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> None:
    """Writes named arrays and a JSON description to `folder`, all or nothing.

    At every moment, `folder` holds either what it held before or everything given here: a killed
    process, a full disk or a lost power supply leaves at most a stray temporary folder beside it,
    which [`sweep`][] removes. Concurrent writers do not mix; the last one wins.

    **Arguments:**

    - `folder`: where to write; its parents are made. An older store there is replaced; anything
        else there is left alone, and refused.
    - `arrays`: name → array of numbers, booleans, strings or dates (no objects), any shape.
    - `meta`: anything JSON can hold (numbers finite); tuples come back as lists.

    **Raises:** `StoreError` if the file system refuses; `TypeError` or `ValueError` for something
    that cannot be stored.
    """
    folder = pathlib.Path(folder).absolute()
    stored = {name: _storable(name, array) for name, array in arrays.items()}
    try:
        json.dumps(meta, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise type(error)(f"`meta` cannot be written as JSON: {error}.") from error
    token = uuid.uuid4().hex
    temporary = folder.with_name(f"{folder.name}.tmp-{token}")
    try:
        replaced = _array_file_of(folder)
        file = "arrays.npz" if replaced is None else f"arrays-{token}.npz"
        temporary.mkdir(parents=True)
        _write_arrays(temporary / file, stored)
        content = {
            "arrays": {name: _describe(array) for name, array in stored.items()},
            "file": file,
            "file_sha256": _file_digest(temporary / file),
            "format": FORMAT,
            "meta": meta,
            "versions": _versions(),
        }
        with (temporary / _MANIFEST).open("wb") as stream:
            stream.write(_sealed(content))
            _flush(stream)
        _flush_folder(temporary)
        if replaced is None:
            temporary.rename(folder)
        else:
            # A folder cannot be swapped for another in one step, a file can: the new arrays come
            # to lie beside the old ones, and replacing the manifest is what publishes them.
            (temporary / file).replace(folder / file)
            _flush_folder(folder)
            (temporary / _MANIFEST).replace(folder / _MANIFEST)
            _flush_folder(folder)
            temporary.rmdir()
            (folder / replaced).unlink(missing_ok=True)
        _flush_folder(folder.parent)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise StoreError(
            f"Could not write {folder}: {error}. What was there before is untouched. Free space on "
            "that disk, correct the permissions, or choose another folder."
        ) from error


def load(
    folder: str | os.PathLike[str], *, max_bytes: int = 1 << 36
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Reads what [`save`][] wrote, and verifies all of it.

    **Arguments:**

    - `folder`: a folder written by `save`.
    - `max_bytes`: the most that the arrays may declare together [bytes]; checked before anything
        is allocated.

    **Returns:** `(arrays, meta)`.

    **Raises:** `StoreError`, which says which file is wrong, how, and what to do. No code stored in
    a file is ever run.
    """
    folder = pathlib.Path(folder)
    path = folder / _MANIFEST
    content = _read_manifest(path)
    declared = sum(_size(entry) for entry in content["arrays"].values())
    path = folder / content["file"]
    if declared > max_bytes:
        raise StoreError(
            f"{path} declares {declared} bytes of arrays, above the limit of {max_bytes} bytes. If "
            "you trust it, pass a larger `max_bytes`."
        )
    try:
        if not path.is_file():
            raise _damaged(path, "it is missing or not a file")
        if _file_digest(path) != content["file_sha256"]:
            raise _damaged(path, "its bytes do not match the sha256 in the manifest")
        with zipfile.ZipFile(path) as archive:
            if sorted(archive.namelist()) != sorted(f"{name}.npy" for name in content["arrays"]):
                raise _damaged(path, "it does not hold the arrays that the manifest lists")
            arrays = {
                name: _read_array(archive, path, name, entry) for name, entry in content["arrays"].items()
            }
    except (OSError, zipfile.BadZipFile, NotImplementedError) as error:
        raise _damaged(path, f"{type(error).__name__}: {error}") from error
    return arrays, content["meta"]


def sweep(parent: str | os.PathLike[str], *, older_than: float = 0.0) -> list[pathlib.Path]:
    """Removes the temporary folders that killed writers left in `parent`.

    **Arguments:**

    - `parent`: the folder that stored folders lie in; it need not exist.
    - `older_than`: spare what was changed less than this long ago [s]. Raise it where another
        process may be writing to the same parent right now.

    **Returns:** what was removed.
    """
    parent = pathlib.Path(parent)
    removed = []
    if parent.is_dir():
        now = time.time()
        for path in sorted(parent.iterdir()):
            stray = _TEMPORARY.fullmatch(path.name) and path.is_dir() and not path.is_symlink()
            if stray and now - path.stat().st_mtime >= older_than:
                shutil.rmtree(path, ignore_errors=True)
                removed.append(path)
    return removed


def _storable(name, array):
    if not isinstance(name, str) or not _ARRAY_NAME.fullmatch(name):
        raise ValueError(f"The array name {name!r} cannot be stored: give 1 to 1000 printable characters.")
    array = np.asarray(array, order="C")
    if array.dtype.kind in _NATIVE_KINDS or (array.dtype.kind == "V" and _by_name(array.dtype)):
        return array
    raise TypeError(
        f"The array {name!r} has dtype {array.dtype}, which cannot be stored: convert it to "
        "numbers, booleans or strings."
    )


def _by_name(dtype):
    # The number types that extend NumPy (bfloat16, float8, ...) are known by name only.
    if dtype.names is not None or dtype.subdtype is not None:
        return False
    try:
        return np.dtype(dtype.name) == dtype
    except TypeError:
        return False


def _raw(array):
    """`array` as the .npy format can hold it: extension types as their bytes, on a last axis."""
    if array.dtype.kind != "V":
        return array
    return np.frombuffer(array.tobytes(), np.uint8).reshape(*array.shape, array.dtype.itemsize)


def _describe(array):
    return {
        "dtype": array.dtype.name if array.dtype.kind == "V" else array.dtype.str,
        "sha256": hashlib.sha256(array.tobytes()).hexdigest(),
        "shape": list(array.shape),
    }


def _write_arrays(path, arrays):
    with path.open("wb") as stream:
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
            for name, array in arrays.items():
                info = zipfile.ZipInfo(f"{name}.npy")
                with archive.open(info, "w", force_zip64=True) as entry:
                    np.lib.format.write_array(entry, _raw(array), allow_pickle=False)
        _flush(stream)


def _read_array(archive, path, name, entry):
    info = archive.getinfo(f"{name}.npy")
    dtype, shape, size = _dtype(entry), tuple(entry["shape"]), _size(entry)
    stored = np.dtype(np.uint8) if dtype.kind == "V" else dtype
    stored_shape = (*shape, dtype.itemsize) if dtype.kind == "V" else shape
    # Stored entries cannot expand on reading, and the header is compared before any allocation.
    if info.compress_type != zipfile.ZIP_STORED or info.file_size > size + 65536:
        raise _damaged(path, f"the array {name!r} is compressed or longer than declared")
    with archive.open(info) as stream:
        try:
            version = np.lib.format.read_magic(stream)
            readers = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }
            header = readers[version](stream)
        except (ValueError, KeyError) as error:
            raise _damaged(path, f"the array {name!r} has no readable header ({error})") from error
        if header != (stored_shape, False, stored):
            raise _damaged(
                path,
                f"the array {name!r} has (shape, Fortran order, dtype) = {header}, the manifest "
                f"declares {(stored_shape, False, stored)}",
            )
        data = bytearray(stream.read())
    if len(data) != size or hashlib.sha256(data).hexdigest() != entry["sha256"]:
        raise _damaged(path, f"the array {name!r} does not match its sha256")
    return np.frombuffer(data, stored).view(dtype).reshape(shape) if size else np.empty(shape, dtype)


def _read_manifest(path):
    try:
        if not path.parent.is_dir():
            raise StoreError(f"{path.parent} is not a folder: nothing is stored there.")
        if not path.is_file():
            raise _damaged(path, "it is missing or not a file, so this is no stored folder")
        if path.stat().st_size > _MANIFEST_LIMIT:
            raise _damaged(path, f"it is longer than {_MANIFEST_LIMIT} bytes")
        written = path.read_bytes()
        content = json.loads(written)
        digest = content.pop("sha256")
        number = content["format"]
    except OSError as error:
        raise _damaged(path, f"it cannot be read ({error})") from error
    except (ValueError, RecursionError, AttributeError, KeyError, TypeError) as error:
        raise _damaged(path, f"it is not a manifest ({type(error).__name__}: {error})") from error
    if number != FORMAT and isinstance(number, int):
        raise StoreError(
            f"{path} is written in format {number}; this version of jaxsci reads format {FORMAT}. "
            "Use the version that wrote it (named in the manifest), or store it anew."
        )
    if _sealed(content) != written or digest != _digest(content):
        raise _damaged(path, "its bytes do not match its own sha256")
    if not _well_formed(content):
        raise _damaged(path, "its fields are not those of a manifest")
    return content


def _well_formed(content):
    try:
        for entry in content["arrays"].values():
            valid = all(type(n) is int and n >= 0 for n in entry["shape"])
            if not valid or len(entry["shape"]) > 32 or not isinstance(entry["sha256"], str):
                return False
            if _dtype(entry).kind not in _NATIVE_KINDS + "V" or _dtype(entry).hasobject:
                return False
        return (
            _ARRAY_FILE.fullmatch(content["file"]) is not None
            and isinstance(content["file_sha256"], str)
            and "meta" in content
        )
    except (AttributeError, KeyError, TypeError, ValueError):
        return False


def _dtype(entry):
    return np.dtype(str(entry["dtype"]))


def _size(entry):
    return math.prod(entry["shape"]) * _dtype(entry).itemsize


def _array_file_of(folder):
    """The array file of the store at `folder`; None if nothing is there."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return None
    if not folder.is_dir() or not (folder / _MANIFEST).is_file():
        raise FileExistsError("it exists and is not a stored folder, so it is not overwritten")
    try:
        return _read_manifest(folder / _MANIFEST)["file"]
    except StoreError:
        # A damaged manifest does not say; the usual name is then the one to tidy away.
        return "arrays.npz"


def _canonical(content):
    return json.dumps(content, sort_keys=True, indent=1, allow_nan=False)


def _digest(content):
    return hashlib.sha256(_canonical(content).encode()).hexdigest()


def _sealed(content):
    try:
        return (_canonical({**content, "sha256": _digest(content)}) + "\n").encode()
    except ValueError:
        return b""


def _file_digest(path):
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _flush(stream):
    stream.flush()
    os.fsync(stream.fileno())


def _flush_folder(folder):
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _damaged(path, what):
    return StoreError(
        f"{path} cannot be used: {what}. It is damaged, incomplete or not written by jaxsci: "
        "delete the folder it lies in and make it again, or load another one."
    )


@functools.cache
def _versions():
    versions = {"python": platform.python_version()}
    for package in ("jaxsci", "jax", "jaxlib", "equinox", "numpy"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return versions
