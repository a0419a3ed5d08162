"""Both ways: nn.Module and state_dict to nets and trees, and back, with nothing lost.

``from_module`` and ``to_module`` are inverse to each other; so are ``to_state_dict`` and ``from_state_dict``.
"""

from funcnet.adapters._from_module import from_module as from_module
from funcnet.adapters._state_dict import from_state_dict as from_state_dict
from funcnet.adapters._state_dict import to_state_dict as to_state_dict
from funcnet.adapters._to_module import to_module as to_module
from funcnet.foreign import Wrapped as Wrapped
from funcnet.foreign.internals import train_flags as train_flags
