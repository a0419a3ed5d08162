"""What other rooms use of this one, besides its functions; it is no part of the public interface."""

from funcnet.tree._partition import select_paths as select_paths
from funcnet.tree._state_order import merge_params_and_buffers as merge_params_and_buffers
