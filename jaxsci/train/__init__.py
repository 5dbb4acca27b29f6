"""The outer loop: training in compiled chunks, with logs, checkpoints and exact resume."""

from ._checkpoint import (
    CheckpointError as CheckpointError,
    load_model as load_model,
    save_model as save_model,
)
from ._directions import (
    MGDA as MGDA,
    AbstractDirection as AbstractDirection,
    ConFIG as ConFIG,
    PCGrad as PCGrad,
    Sum as Sum,
    combine as combine,
)
from ._fit import fit as fit
from ._report import FitReport as FitReport
from ._result import FitResult as FitResult, Status as Status
from ._soap import soap as soap
from ._weights import (
    AbstractWeights as AbstractWeights,
    Fixed as Fixed,
    Product as Product,
    Terms as Terms,
    weighted_loss as weighted_loss,
)
from ._weights_points import (
    Causal as Causal,
    ResidualAttention as ResidualAttention,
    SelfAdaptive as SelfAdaptive,
)
from ._weights_terms import (
    GradientNorm as GradientNorm,
    NeuralTangent as NeuralTangent,
    ReLoBRaLo as ReLoBRaLo,
)
