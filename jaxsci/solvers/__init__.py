"""Every way to make a residual vanish: forward only, no derivative code."""

from ._bfgs import BFGS as BFGS
from ._external import External as External
from ._host import HostProblem as HostProblem
from ._levenberg_marquardt import LevenbergMarquardt as LevenbergMarquardt
from ._newton import Newton as Newton
