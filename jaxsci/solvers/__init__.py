"""Every way to make a residual vanish: forward only, no derivative code."""

from ._anderson import Anderson as Anderson
from ._bfgs import BFGS as BFGS
from ._bracketed_newton import BracketedNewton as BracketedNewton
from ._broyden import Broyden as Broyden
from ._chord import Chord as Chord
from ._external import External as External
from ._gauss_newton import GaussNewton as GaussNewton
from ._host import HostProblem as HostProblem
from ._interior_point import InteriorPoint as InteriorPoint
from ._levenberg_marquardt import LevenbergMarquardt as LevenbergMarquardt
from ._newton import Newton as Newton
from ._newton_krylov import NewtonKrylov as NewtonKrylov
from ._picard import Picard as Picard
from ._pseudo_transient import PseudoTransient as PseudoTransient
from ._self_scaled import SelfScaledBFGS as SelfScaledBFGS, SelfScaledBroyden as SelfScaledBroyden
from ._wolfe import StrongWolfe as StrongWolfe
