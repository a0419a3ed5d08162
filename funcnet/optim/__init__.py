"""Optimizers as values."""

from funcnet.optim._adadelta import Adadelta as Adadelta
from funcnet.optim._adafactor import Adafactor as Adafactor
from funcnet.optim._adagrad import Adagrad as Adagrad
from funcnet.optim._adam import Adam as Adam
from funcnet.optim._adam import AdamW as AdamW
from funcnet.optim._adamax import Adamax as Adamax
from funcnet.optim._asgd import ASGD as ASGD
from funcnet.optim._lbfgs import LBFGS as LBFGS
from funcnet.optim._muon import Muon as Muon
from funcnet.optim._nadam import NAdam as NAdam
from funcnet.optim._optimizer import Optimizer as Optimizer
from funcnet.optim._radam import RAdam as RAdam
from funcnet.optim._rmsprop import RMSprop as RMSprop
from funcnet.optim._rprop import Rprop as Rprop
from funcnet.optim._sgd import SGD as SGD
from funcnet.optim._sparse_adam import SparseAdam as SparseAdam

__all__ = [
    "ASGD",
    "Adadelta",
    "Adafactor",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "LBFGS",
    "Muon",
    "NAdam",
    "Optimizer",
    "RAdam",
    "RMSprop",
    "Rprop",
    "SGD",
    "SparseAdam",
]


def __dir__() -> list[str]:
    return [*__all__]
