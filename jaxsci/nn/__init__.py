"""Networks as Equinox modules on one sample."""

from ._embeddings import (
    Comoving as Comoving,
    Embedded as Embedded,
    PeriodicEmbedding as PeriodicEmbedding,
    RandomFourier as RandomFourier,
    Scaled as Scaled,
)
from ._fno import (
    FNO as FNO,
    SpectralLayer as SpectralLayer,
    cosine_modes as cosine_modes,
    fourier_modes as fourier_modes,
)
from ._linear import RWF as RWF, Linear as Linear
from ._mlp import MLP as MLP, SIREN as SIREN, ModifiedMLP as ModifiedMLP
from ._pirate import PirateNet as PirateNet
from ._separable import Separable as Separable
