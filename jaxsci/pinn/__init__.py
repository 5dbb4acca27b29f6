from ._bandit import (
    UCB as UCB,
    AbstractAcquisition as AbstractAcquisition,
    ContextualBandit as ContextualBandit,
    Plays as Plays,
    SequentialBandit as SequentialBandit,
    Thompson as Thompson,
)
from ._fit import Progressed as Progressed, fit as fit
from ._interface import Interface as Interface
from ._lpinn import LPINN as LPINN
from ._march import Marched as Marched, Slabs as Slabs, march as march
from ._minimize import minimize as minimize
from ._model import AbstractPINN as AbstractPINN
from ._multi_domain import MultiDomainPINN as MultiDomainPINN
from ._pinn import PINN as PINN
from ._pseudo_time import PseudoTime as PseudoTime
from ._relabel import relabel as relabel
from ._result import Trained as Trained
from ._sensitivity import attach as attach
from ._stage import Stage as Stage
from ._windows import Windowed as Windowed
