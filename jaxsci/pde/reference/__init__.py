"""Classical references: the same problems by other means, each with an estimate of its error."""

from ._cavity import cavity as cavity
from ._closed_forms import (
    convection_diffusion as convection_diffusion,
    harmonic_products as harmonic_products,
    heat as heat,
    inverse_diffusivity as inverse_diffusivity,
    kovasznay as kovasznay,
    multiscale_poisson as multiscale_poisson,
    poisson_cosines as poisson_cosines,
    reaction as reaction,
    rotating_pulse as rotating_pulse,
    wave as wave,
)
from ._cole_hopf import burgers as burgers, cole_hopf as cole_hopf, moving_burgers as moving_burgers
from ._conservation_law import (
    ConservationLaw as ConservationLaw,
    characteristics as characteristics,
    hopf_lax as hopf_lax,
    inviscid_burgers as inviscid_burgers,
    sine_law as sine_law,
)
from ._etdrk4 import ETDRK4 as ETDRK4, Fourier as Fourier, etdrk4 as etdrk4
from ._harmonic import square_with_holes as square_with_holes
from ._method_of_lines import (
    Trajectory as Trajectory,
    Tridiagonal as Tridiagonal,
    method_of_lines as method_of_lines,
)
from ._periodic import fourier_sum as fourier_sum, periodic as periodic
from ._periodic_cases import (
    allen_cahn as allen_cahn,
    kdv as kdv,
    kuramoto_sivashinsky as kuramoto_sivashinsky,
    reaction_diffusion as reaction_diffusion,
)
from ._reference import Reference as Reference
