from . import symbolic as symbolic
from ._axes import (
    AbstractAxis as AbstractAxis,
    Cells as Cells,
    Levels as Levels,
    graded as graded,
)
from ._cloud import PointCloud as PointCloud
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
from ._domain import AbstractDomain as AbstractDomain, Patch as Patch, Product as Product
from ._equation import (
    AbstractEquation as AbstractEquation,
    AbstractEquation as Equation,
    AbstractTransport as AbstractTransport,
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
from ._geometry import (
    AbstractGeometry as AbstractGeometry,
    Difference as Difference,
    Intersection as Intersection,
    Union as Union,
)
from ._grid import Grid as Grid
from ._mesh import Mesh as Mesh
from ._method_of_lines import MethodOfLines as MethodOfLines
from ._polygon import Polygon as Polygon
from ._resampling import (
    R3 as R3,
    RAD as RAD,
    AbstractResampling as AbstractResampling,
    candidates_in_box as candidates_in_box,
)
from ._sampling import (
    AbstractSampler as AbstractSampler,
    Halton as Halton,
    LatinHypercube as LatinHypercube,
    Lattice as Lattice,
    Sobol as Sobol,
    Uniform as Uniform,
)
from ._shapes import Ball as Ball, Box as Box, Disk as Disk, Interval as Interval
from .equations import (
    Advection as Advection,
    AllenCahn as AllenCahn,
    Burgers as Burgers,
    Convection as Convection,
    DiffusionSorption as DiffusionSorption,
    Fisher as Fisher,
    Heat as Heat,
    KortewegDeVries as KortewegDeVries,
    NavierStokes as NavierStokes,
    NavierStokesVorticity as NavierStokesVorticity,
    Poisson as Poisson,
    ReactionDiffusion as ReactionDiffusion,
    Wave as Wave,
)
