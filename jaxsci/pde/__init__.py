from . import symbolic as symbolic
from ._axes import (
    AbstractAxis as AbstractAxis,
    Cells as Cells,
    Levels as Levels,
    graded as graded,
)
from ._conditions import (
    AbstractFaceCondition as AbstractFaceCondition,
    Data as Data,
    Dirichlet as Dirichlet,
    Face as Face,
    Initial as Initial,
    Neumann as Neumann,
    Part as Part,
    Periodic as Periodic,
    Robin as Robin,
    high as high,
    low as low,
)
from ._derivatives import derivatives as derivatives, differentiate as differentiate
from ._equation import (
    AbstractEquation as AbstractEquation,
    AbstractEquation as Equation,
    Derivative as Derivative,
    Derivatives as Derivatives,
    Point as Point,
    UnknownName as UnknownName,
    count as count,
    parse as parse,
    pointwise as pointwise,
    required as required,
    written_out as written_out,
)
from ._grid import Grid as Grid
from ._method_of_lines import MethodOfLines as MethodOfLines
from .equations import (
    Burgers as Burgers,
    DiffusionSorption as DiffusionSorption,
    Heat as Heat,
    NavierStokesVorticity as NavierStokesVorticity,
    Poisson as Poisson,
    ReactionDiffusion as ReactionDiffusion,
)
