"""Nets made of nets or of params, with the names and keys of their torch.nn twins.

Sequential, ModuleList and ModuleDict hold nets; ParameterList and ParameterDict hold params.

* :class:`Stack`: equal nets one after the other, in stacked tensors.
* :func:`stack_layers`: the tree of a Stack from that of a list of its layers.
* :func:`unstack_layers`: the way back.
* :func:`remat`: the same net, which runs again in the backward pass and keeps nothing for it.
"""

from funcnet.combinators._containers import ModuleDict as ModuleDict
from funcnet.combinators._containers import ModuleList as ModuleList
from funcnet.combinators._containers import Sequential as Sequential
from funcnet.combinators._parameters import ParameterDict as ParameterDict
from funcnet.combinators._parameters import ParameterList as ParameterList
from funcnet.combinators._remat import Remat as Remat
from funcnet.combinators._remat import remat as remat
from funcnet.combinators._stacked_layers import Stack as Stack
from funcnet.combinators._stacked_layouts import stack_layers as stack_layers
from funcnet.combinators._stacked_layouts import unstack_layers as unstack_layers

__all__ = [
    # nets of nets
    "ModuleDict",
    "ModuleList",
    "Sequential",
    # nets of params
    "ParameterDict",
    "ParameterList",
    # depth
    "Remat",
    "Stack",
    "remat",
    "stack_layers",
    "unstack_layers",
]


def __dir__() -> list[str]:
    return [*__all__]
