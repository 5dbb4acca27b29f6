"""Every way to write a problem as F(y, θ) = 0."""

from ._least_squares import LeastSquares as LeastSquares
from ._optimum import KKT as KKT, Stationary as Stationary
from ._root import FixedPoint as FixedPoint, Root as Root
from ._structured import Block as Block, StructuredLeastSquares as StructuredLeastSquares
