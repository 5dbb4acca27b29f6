import math
import time
from typing import Any

import jax
import numpy as np
import optax

from ._checkpoint import CheckpointError, Checkpoints, pack, unpack
from ._result import Best


class Run:
    """The state of a training run, on the host: everything that a resumed run needs."""

    def __init__(self, parameters, optimizer_state, rows, problem):
        self.parameters = parameters
        self.optimizer_state = optimizer_state
        self.step = 0
        self.seconds = 0.0
        self.best = Best(parameters)
        self.evaluations: list[dict[str, float]] = []
        self._problem = problem
        self._chunks = [{name: np.zeros(0, row.dtype) for name, row in rows.items()}]
        self._keeps_rate = True
        self._saved_step = None
        self._saved_at = time.monotonic()

    def advance(self, compiled, fixed, count: int) -> float:
        """Takes `count` steps; returns the seconds they took."""
        started = time.perf_counter()
        counts = (np.int32(self.step), np.int32(count))
        outputs = compiled(self.parameters, self.optimizer_state, *fixed, *counts)
        # Errors of the call surface here, while the state is still the one before it.
        self.parameters, self.optimizer_state, rows = jax.block_until_ready(outputs)
        self._chunks.append({name: np.asarray(row)[:count] for name, row in rows.items()})
        seconds = time.perf_counter() - started
        self.step += count
        self.seconds += seconds
        return seconds

    def history(self) -> dict[str, np.ndarray]:
        if len(self._chunks) > 1:
            names = self._chunks[0]
            joined = {name: np.concatenate([c[name] for c in self._chunks]) for name in names}
            self._chunks = [joined]
        return dict(self._chunks[0])

    def means(self, steps: int) -> tuple[dict[str, float], int]:
        """Means over the last `steps` steps, less the skipped ones; how many those were."""
        tail = {name: row[max(0, len(row) - steps) :] for name, row in self._tail(steps).items()}
        accepted = ~tail.pop("skipped").astype(bool)
        kept = {name: row[accepted].astype(np.float64) for name, row in tail.items()}
        means = {name: float(row.mean()) if row.size else math.nan for name, row in kept.items()}
        return means, int((~accepted).sum())

    def _tail(self, steps):
        return self._chunks[-1] if len(self._chunks[-1]["skipped"]) >= steps else self.history()

    @property
    def evaluated_step(self) -> int:
        """The step of the last evaluation; -1 before the first."""
        return int(self.evaluations[-1]["step"]) if self.evaluations else -1

    def evaluation(self, values: dict[str, float]) -> dict[str, float]:
        """What is recorded of an evaluation now."""
        window = self.step - max(self.evaluated_step, 0)
        loss = self.means(window)[0]["loss"] if window else math.nan
        return {"step": self.step, "training_loss": loss, **values}

    def best_with(self, evaluation: dict[str, float], name: str) -> Best:
        """The best so far, or the parameters now if this evaluation of them is better."""
        value = evaluation[name]
        if math.isfinite(value) and (self.best.value is None or value < self.best.value):
            return Best(self.parameters, value, self.step)
        return self.best

    def learning_state(self) -> dict[str, float]:
        """The learning rate, where the optimizer keeps one (`optax.inject_hyperparams`)."""
        if self._keeps_rate:
            found = optax.tree.get_all_with_path(self.optimizer_state, "learning_rate")
            rates = [float(value) for _, value in found if np.ndim(value) == 0]
            self._keeps_rate = bool(rates)
            return {"learning_rate": rates[0]} if rates else {}
        return {}

    def seconds_unsaved(self) -> float:
        return time.monotonic() - self._saved_at

    def save(self, checkpoints: Checkpoints | None) -> None:
        """Writes a checkpoint, unless this step is saved already."""
        if checkpoints is None or self._saved_step == self.step or self.step == 0:
            return
        arrays = {
            **pack("parameters", self.parameters),
            **pack("optimizer", self.optimizer_state),
            **pack("best", self.best.parameters),
            **{f"history/{name}": row for name, row in self.history().items()},
            **{f"evaluations/{name}": row for name, row in columns(self.evaluations).items()},
        }
        meta = {
            "kind": "fit",
            "problem": self._problem,
            "step": self.step,
            "seconds": self.seconds,
            "best_value": self.best.value,
            "best_step": self.best.step,
            "evaluations": [*columns(self.evaluations)],
        }
        if checkpoints.save(self.step, arrays, meta):
            self._saved_step = self.step
        self._saved_at = time.monotonic()

    def restore(self, checkpoints: Checkpoints) -> None:
        """Goes to the newest checkpoint that verifies, if there is any."""
        found = checkpoints.load()
        if found is None:
            return
        path, arrays, meta = found
        if meta.get("kind") != "fit":
            raise CheckpointError(f"{path} is no checkpoint of `fit`: use another `directory`.")
        parameters = unpack("parameters", self.parameters, arrays, path)
        optimizer_state = unpack("optimizer", self.optimizer_state, arrays, path)
        for name, here in self._problem.items():
            there = meta["problem"].get(name)
            if there != here:
                raise CheckpointError(
                    f"{path} was written for another problem: `{name}` is {there!r} there and "
                    f"{here!r} here. Give the same arguments to go on, `resume=False` to start "
                    "over, or another `directory`."
                )
        history = _with_prefix(arrays, "history/")
        if set(history) != set(self._chunks[0]):
            raise CheckpointError(
                f"{path} was written with another loss: its metrics are {sorted(history)}, here "
                f"{sorted(self._chunks[0])}. Use the same loss, or another `directory`."
            )
        self.parameters, self.optimizer_state = parameters, optimizer_state
        self.best = Best(unpack("best", self.parameters, arrays, path), meta["best_value"], meta["best_step"])
        self.step, self.seconds = meta["step"], meta["seconds"]
        self._saved_step = self.step
        self._chunks = [{name: history[name] for name in self._chunks[0]}]
        table = _with_prefix(arrays, "evaluations/")
        table = {name: table[name] for name in meta["evaluations"]}
        rows = zip(*(table[name].tolist() for name in table), strict=True)
        self.evaluations = [dict(zip(table, row, strict=True)) for row in rows]


def columns(entries: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    """A table by columns; NaN where an entry lacks a value."""
    names = dict.fromkeys(name for entry in entries for name in entry)
    return {name: np.array([entry.get(name, math.nan) for entry in entries]) for name in names}


def _with_prefix(arrays, prefix):
    return {name[len(prefix) :]: a for name, a in arrays.items() if name.startswith(prefix)}
