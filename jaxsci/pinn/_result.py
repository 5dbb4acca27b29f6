"""What training a PINN gives back."""

import dataclasses

import numpy as np

from ..train import Status
from ._model import AbstractPINN


@dataclasses.dataclass(frozen=True)
class Trained:
    """What [`jaxsci.pinn.fit`][] returns.

    - `model`: the trained [`jaxsci.pinn.PINN`][].
    - `points`: the points of the last stage by the name of the term, for [`jaxsci.pinn.attach`][].
    - `history`: one value for each step: `"stage"`, `"loss"` (½ Σ mean w r²), and what the method tells:
      `"damping"` (relative to ‖J‖²), `"gain"` (actual over predicted decrease); NaN where it tells nothing.
    - `evaluations`: one value for each evaluation: `"step"`, `"seconds"`, ½ mean r² of each term by its name,
      and `"error"`, relative L², if there is a reference.
    - `step`: steps taken, over all stages and resumed runs.
    - `status`: a `jaxsci.train.Status`; `message`: its text, and how the last method says that it ended.
    - `seconds`: of steps [s]; `compile_seconds`: of tracing and compiling, in this call [s].
    """

    model: AbstractPINN
    points: dict = dataclasses.field(repr=False)
    history: dict[str, np.ndarray] = dataclasses.field(repr=False)
    evaluations: dict[str, np.ndarray] = dataclasses.field(repr=False)
    step: int
    status: Status
    message: str
    seconds: float
    compile_seconds: float

    @property
    def loss(self) -> float:
        """The loss after the last step."""
        return float(self.history["loss"][-1]) if self.step else float("nan")

    @property
    def error(self) -> float:
        """The relative L² error at the last evaluation; NaN without a reference."""
        found = self.evaluations.get("error", np.array([np.nan]))
        return float(found[-1])

    def __str__(self) -> str:
        error = "" if np.isnan(self.error) else f", error {self.error:.3e}"
        return f"step {self.step}, loss {self.loss:.3e}{error}, {self.seconds:.1f} s: {self.message}"
