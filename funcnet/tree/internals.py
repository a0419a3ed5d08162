"""Machinery of this room that other rooms use. It is not part of the public interface."""

from funcnet.tree._partition import select_paths as select_paths
from funcnet.tree._select import describe_unmatched as describe_unmatched
from funcnet.tree._state_order import merge_params_and_buffers as merge_params_and_buffers
