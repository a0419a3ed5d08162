"""The numbers of layers in paths of a call: a net with stacked tensors has one path, and each of its layers another.

A view of a layer stands at ``layers.3.drop``, as in a ModuleList: by that path it draws. The net itself, and so its
tensors and its mode, is at ``layers.drop``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from funcnet.core._kinds import DelegatingNet
from funcnet.tree import join

if TYPE_CHECKING:
    from funcnet.core._net import Net


def stack_depths(nets: Mapping[str, Net]) -> dict[str, int]:
    """The paths of the nets with stacked tensors, and how many numbers of layers lie on the way below each."""
    counts = {path: net.count_stacks() for path, net in nets.items() if isinstance(net, DelegatingNet)}
    return {path: count for path, count in counts.items() if count}


def skip_layer_numbers(path: str, depths: Mapping[str, int]) -> str:
    """The path of a net, from the path of a view of it in one of the layers.

    >>> skip_layer_numbers("layers.3.drop", {"layers": 1, "layers.drop": 1})
    'layers.drop'
    """
    net_path, skipped = "", 0
    for name in path.split("."):
        if depths.get(net_path, 0) > skipped:
            skipped += 1
        else:
            net_path = join(net_path, name)
    return net_path
