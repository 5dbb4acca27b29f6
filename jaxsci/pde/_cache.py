"""Where generated data is kept, and how it is found again."""

import hashlib
import json
import os
import pathlib
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from .._store import StoreError, load, save

Stored = tuple[dict[str, np.ndarray], dict[str, Any]]


def cache_folder() -> pathlib.Path:
    """`$JAXSCI_CACHE`, else `$XDG_CACHE_HOME/jaxsci`, else `~/.cache/jaxsci`."""
    own = os.environ.get("JAXSCI_CACHE")
    if own:
        return pathlib.Path(own)
    shared = os.environ.get("XDG_CACHE_HOME")
    return pathlib.Path(shared or pathlib.Path.home() / ".cache") / "jaxsci"


def cached(
    name: str,
    configuration: Mapping[str, Any],
    generate: Callable[[], Stored],
    folder: str | os.PathLike[str] | None = None,
) -> Stored:
    """What `generate()` returns, from the disk if it was generated before.

    **Arguments:**

    - `name`: the beginning of the folder's name; the rest is a hash of `configuration`.
    - `configuration`: everything the data depends on, as JSON.
    - `generate`: returns arrays by name, and meta data (JSON).
    - `folder`: the cache; [`cache_folder`][] by default.

    A damaged store is generated again, and a store that cannot be written is done without; both
    with a warning.
    """
    text = json.dumps(configuration, sort_keys=True, allow_nan=False)
    digest = hashlib.sha256(text.encode()).hexdigest()[:20]
    path = pathlib.Path(cache_folder() if folder is None else folder) / f"{name}-{digest}"
    if path.exists():
        try:
            return load(path)
        except StoreError as error:
            warnings.warn(f"Generating cached data again. {error}", stacklevel=3)
    arrays, meta = generate()
    # Through JSON, so that the first use sees what every later one does.
    meta = json.loads(json.dumps({**meta, "configuration": configuration}))
    try:
        save(path, arrays, meta)
    except StoreError as error:
        warnings.warn(
            f"The generated data is not cached: {error} Set JAXSCI_CACHE to a folder that can be written.",
            stacklevel=3,
        )
    return arrays, meta
