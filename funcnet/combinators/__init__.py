"""Nets made of nets or of params, with the names and keys of their torch.nn twins.

Sequential, ModuleList and ModuleDict hold nets; ParameterList and ParameterDict hold params.
"""

from funcnet.combinators._containers import ModuleDict as ModuleDict
from funcnet.combinators._containers import ModuleList as ModuleList
from funcnet.combinators._containers import Sequential as Sequential
from funcnet.combinators._parameters import ParameterDict as ParameterDict
from funcnet.combinators._parameters import ParameterList as ParameterList

__all__ = ["ModuleDict", "ModuleList", "ParameterDict", "ParameterList", "Sequential"]


def __dir__() -> list[str]:
    return [*__all__]
