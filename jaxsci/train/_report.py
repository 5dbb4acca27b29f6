import dataclasses
import json
import math
import os
import pathlib
import sys
import time
import warnings
from typing import Any

import equinox as eqx
import tqdm


@dataclasses.dataclass(frozen=True)
class FitReport:
    """What a callback of [`jaxsci.train.fit`][] is given after each compiled chunk.

    - `step`: steps taken so far; `steps`: how many there will be.
    - `loss`: mean over the steps of the chunk that were not skipped; NaN if all were.
    - `metrics`: means over the same steps.
    - `skipped_steps`: how many steps of the chunk were skipped.
    - `model`: the model after the chunk.
    """

    step: int
    steps: int
    loss: float
    metrics: dict[str, float]
    skipped_steps: int
    model: eqx.Module


class Log:
    """A JSONL file, one event a line. A line that cannot be written is warned about once."""

    def __init__(self, path: str | os.PathLike[str] | None):
        self._path = None if path is None else pathlib.Path(path)

    def write(self, event: str, **fields: Any) -> None:
        if self._path is None:
            return
        line = json.dumps(_plain({"event": event, **fields}), allow_nan=False)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", encoding="utf-8") as stream:
                stream.write(line + "\n")
        except OSError as error:
            warnings.warn(
                f"The log {self._path} cannot be written ({error}); training goes on without it.",
                stacklevel=3,
            )
            self._path = None


class _Bar(tqdm.tqdm):
    # No watching thread: updates come at least once a chunk.
    monitor_interval = 0


class Progress:
    """A bar on stderr; where that is no terminal, a line every ten seconds."""

    def __init__(self, steps: int, step: int, shown: bool):
        stream = sys.stderr
        self._steps = steps
        self._written = time.monotonic()
        self._first = None
        self._bar = None
        self._stream = None
        if not shown or stream is None or stream.closed:
            return
        if stream.isatty():
            self._bar = self._guarded(
                lambda: _Bar(total=steps, initial=step, file=stream, unit="step", dynamic_ncols=True)
            )
        else:
            self._stream = stream

    def update(self, step: int, loss: float, skipped: int, best: float | None, label: str = "best") -> None:
        text = f"loss {loss:.3e}"
        if best is not None:
            text += f", {label} {best:.3e}"
        if skipped:
            text += f", skipped {skipped}"
        if self._bar is not None:
            bar = self._bar
            self._guarded(lambda: (bar.set_postfix_str(text, False), bar.update(step - bar.n)))
        elif self._stream is not None:
            now = time.monotonic()
            # The rate is counted from the end of the first chunk, so that it tells of steps only.
            self._first = self._first or (step, now)
            if now - self._written >= 10.0 or step >= self._steps:
                self._written = now
                taken, seconds = step - self._first[0], now - self._first[1]
                rate = f" ({taken / seconds:.3g} step/s)" if taken and seconds else ""
                line = f"step {step}/{self._steps}{rate}: {text}\n"
                stream = self._stream
                self._guarded(lambda: (stream.write(line), stream.flush()))

    def close(self) -> None:
        if self._bar is not None:
            self._guarded(self._bar.close)

    def _guarded(self, action):
        try:
            return action()
        except (OSError, ValueError):
            # The reader of stderr is gone, which leaves nowhere to say so.
            if self._bar is not None:
                self._bar.disable = True
            self._bar = self._stream = None


def _plain(value):
    """`value` as JSON can hold it: what is not finite becomes null."""
    if isinstance(value, dict):
        return {name: _plain(entry) for name, entry in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
