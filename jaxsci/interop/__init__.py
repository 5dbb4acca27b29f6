"""For code that comes from other libraries: jaxopt's decorators and solvers, diffrax's steady states."""

from ._decorators import (
    LinearFunction as LinearFunction,
    custom_fixed_point as custom_fixed_point,
    custom_root as custom_root,
    root_jvp as root_jvp,
    root_vjp as root_vjp,
)
from ._diffrax import diffrax_root_finder as diffrax_root_finder
from ._jaxopt import run as run
from ._steady_state import steady_state as steady_state
