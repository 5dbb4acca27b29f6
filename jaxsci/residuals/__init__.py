"""Every way to write a problem as F(y, θ) = 0."""

from ._kkt import KKT as KKT
from ._least_squares import LeastSquares as LeastSquares
from ._optimum import Stationary as Stationary
from ._pre_activation import PreActivation as PreActivation
from ._root import FixedPoint as FixedPoint, Root as Root
from ._structured import Block as Block, StructuredLeastSquares as StructuredLeastSquares
