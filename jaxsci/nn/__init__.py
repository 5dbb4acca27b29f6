"""Networks as Equinox modules on one sample."""

from ._fno import (
    FNO as FNO,
    SpectralLayer as SpectralLayer,
    cosine_modes as cosine_modes,
    fourier_modes as fourier_modes,
)
