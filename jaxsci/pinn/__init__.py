from ._fit import Progressed as Progressed, fit as fit
from ._lpinn import LPINN as LPINN
from ._march import Marched as Marched, Slabs as Slabs, march as march
from ._model import AbstractPINN as AbstractPINN
from ._pinn import PINN as PINN
from ._pseudo_time import PseudoTime as PseudoTime
from ._result import Trained as Trained
from ._sensitivity import attach as attach
from ._stage import Stage as Stage
