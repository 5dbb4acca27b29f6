"""The outer loop: training in compiled chunks, with logs, checkpoints and exact resume."""

from ._checkpoint import (
    CheckpointError as CheckpointError,
    load_model as load_model,
    save_model as save_model,
)
from ._fit import fit as fit
from ._report import FitReport as FitReport
from ._result import FitResult as FitResult, Status as Status
