"""Machinery of this package that other packages use. It is not part of the public interface."""

from funcnet.tree._arithmetic import collect_inexact as collect_inexact
from funcnet.tree._arithmetic import collect_tensors as collect_tensors
from funcnet.tree._arithmetic import norm_of_tensors as norm_of_tensors
from funcnet.tree._partition import select_paths as select_paths
from funcnet.tree._paths import require_same_paths as require_same_paths
from funcnet.tree._select import describe_unmatched as describe_unmatched
from funcnet.tree._state_order import merge_params_and_buffers as merge_params_and_buffers
