"""Convex sets with their projections, and convex functions with their proximal operators."""

from ._base import AbstractFunction as AbstractFunction, AbstractSet as AbstractSet
from ._cones import PSDCone as PSDCone, SecondOrderCone as SecondOrderCone
from ._functions import (
    L1 as L1,
    ElasticNet as ElasticNet,
    GroupLasso as GroupLasso,
    Huber as Huber,
    LInf as LInf,
    LogBarrier as LogBarrier,
    NonNegativeL1 as NonNegativeL1,
    NonNegativeSquaredL2 as NonNegativeSquaredL2,
    NuclearNorm as NuclearNorm,
    SquaredL2 as SquaredL2,
)
from ._isotonic import Isotonic as Isotonic
from ._linear import (
    Affine as Affine,
    Halfspace as Halfspace,
    Hyperplane as Hyperplane,
    Polyhedron as Polyhedron,
)
from ._simple import (
    Box as Box,
    BoxSection as BoxSection,
    KLSimplex as KLSimplex,
    L1Ball as L1Ball,
    L2Ball as L2Ball,
    LInfBall as LInfBall,
    NonNegative as NonNegative,
    Simplex as Simplex,
)
from ._transport import Birkhoff as Birkhoff, KLTransport as KLTransport, Transport as Transport
