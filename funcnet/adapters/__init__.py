"""Both ways: nn.Module and state_dict to nets and trees, and back, with nothing lost.

from_module      makes the net that computes what a module computes, with its params and buffers.
to_module        makes the nn.Module of a net and its trees; the inverse of ``from_module``.
to_state_dict    makes the state_dict of trees.
from_state_dict  makes the trees of a state_dict; the inverse of ``to_state_dict``.
train_flags      returns the ``train=`` argument for a module whose parts are in different modes.

``Wrapped`` is the net of a module with a forward of its own, as ``from_module`` makes it (see ``funcnet.foreign``).
"""

from funcnet.adapters._from_module import from_module as from_module
from funcnet.adapters._state_dict import from_state_dict as from_state_dict
from funcnet.adapters._state_dict import to_state_dict as to_state_dict
from funcnet.adapters._to_module import to_module as to_module
from funcnet.foreign import Wrapped as Wrapped
from funcnet.foreign.internals import train_flags as train_flags

__all__ = ["from_module", "to_module", "to_state_dict", "from_state_dict", "train_flags", "Wrapped"]


def __dir__() -> list[str]:
    return [*__all__]
