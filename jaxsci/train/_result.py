import dataclasses
import enum
from typing import Any

import equinox as eqx
import numpy as np


class Status(enum.Enum):
    """How a training run ended; each value is a message that carries the remedy."""

    finished = "All steps were taken."
    stopped = "A callback asked to stop."
    interrupted = (
        "Interrupted by Ctrl-C after a whole step. With a `directory`, running the same call again "
        "goes on from here."
    )
    terminated = (
        "Asked to end by SIGTERM; stopped after a whole step. With a `directory`, running the same "
        "call again goes on from here."
    )
    nonfinite = (
        "Too many steps were skipped because the loss, its gradient or the step was not finite. "
        "The parameters are the last finite ones and `best` is kept. Lower the learning rate, clip "
        "gradients (`optax.clip_by_global_norm`), use float64, or look for NaN in the data."
    )


@dataclasses.dataclass(frozen=True)
class FitResult:
    """What [`jaxsci.train.fit`][] returns.

    - `model`: the model after the last step.
    - `best`: the model with the smallest value of the chosen metric; `model` if there was no
        finite one.
    - `best_value`, `best_step`: that value (None if there was none) and its step.
    - `step`: how many steps have been taken, over all resumed runs.
    - `status`: a `Status`; `message`: its text, with what is known about the cause.
    - `history`: one value for each step: `"loss"`, `"skipped"` (whether the step was skipped) and
        each metric of the loss.
    - `evaluations`: one value for each evaluation: `"step"`, `"training_loss"` (mean over the steps
        since the one before) and what `evaluate` returned.
    - `seconds_per_step`: median over the compiled chunks of this call but the first [s]; NaN if
        there was none.
    - `compile_seconds`: tracing and compiling [s]; 0 if nothing was left to do.
    """

    model: eqx.Module
    best: eqx.Module
    best_value: float | None
    best_step: int | None
    step: int
    status: Status
    message: str
    history: dict[str, np.ndarray] = dataclasses.field(repr=False)
    evaluations: dict[str, np.ndarray] = dataclasses.field(repr=False)
    seconds_per_step: float
    compile_seconds: float

    @property
    def skipped_steps(self) -> int:
        """How many steps were skipped because something in them was not finite."""
        return int(np.sum(self.history["skipped"]))

    def __str__(self) -> str:
        best = "" if self.best_value is None else f", best {self.best_value:.3e} at {self.best_step}"
        return f"step {self.step}{best}, {self.skipped_steps} skipped: {self.message}"


@dataclasses.dataclass(frozen=True)
class Best:
    """The best parameters so far; `value` and `step` are None before there are any."""

    parameters: Any
    value: float | None = None
    step: int | None = None
