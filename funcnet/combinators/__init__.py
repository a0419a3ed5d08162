"""Nets made of nets or of params, with the names and keys of their torch.nn twins.

Sequential, ModuleList and ModuleDict hold nets; ParameterList and ParameterDict hold params.

* :func:`remat`: the same net, which runs again in the backward pass and keeps nothing for it.
"""

from funcnet.combinators._containers import ModuleDict as ModuleDict
from funcnet.combinators._containers import ModuleList as ModuleList
from funcnet.combinators._containers import Sequential as Sequential
from funcnet.combinators._parameters import ParameterDict as ParameterDict
from funcnet.combinators._parameters import ParameterList as ParameterList
from funcnet.combinators._remat import Remat as Remat
from funcnet.combinators._remat import remat as remat

__all__ = ["ModuleDict", "ModuleList", "ParameterDict", "ParameterList", "Remat", "Sequential", "remat"]


def __dir__() -> list[str]:
    return [*__all__]
