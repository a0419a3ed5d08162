"""Which statements of a captured graph write in place to what belongs to the caller, found by running it on fakes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses import FakeTensor
from torch.fx import GraphModule, Interpreter, Node
from torch.utils._pytree import tree_leaves

from funcnet._torch import tracer_operator_rules


class Writes(Interpreter):
    """A run of a graph on the fakes it was captured with, which compares version counters around every node.

    ``written`` lists for each placeholder the nodes that changed it, ``shared`` the nodes whose value is its memory.
    """

    def __init__(self, module: GraphModule, fakes: Mapping[Node, Any]) -> None:
        super().__init__(module, garbage_collect_values=False)
        self.fakes = fakes
        self.written: defaultdict[Node, list[Node]] = defaultdict(list)
        self.shared: defaultdict[Node, set[Node]] = defaultdict(set)
        self._at: defaultdict[int, list[Node]] = defaultdict(list)
        given = [node for node in self.module.graph.nodes if node.op == "placeholder"]  # type: ignore[union-attr]
        for node in given:
            for storage in _storages(fakes[node]):
                self._at[storage].append(node)
        mode = next((fakes[node].fake_mode for node in given if isinstance(fakes[node], FakeTensor)), nullcontext())
        with mode, tracer_operator_rules(), torch.set_grad_enabled(True):
            self.run(*(fakes[node] for node in given))

    def run_node(self, n: Node) -> Any:
        if n.op in ("placeholder", "output"):
            return super().run_node(n)
        args = self.fetch_args_kwargs_from_env(n)
        owners = {owner for storage in _storages(args) for owner in self._at.get(storage, ())}
        before = {owner: self.fakes[owner]._version for owner in owners}
        try:
            result = super().run_node(n)
        except Exception:
            if n not in self.fakes:
                raise
            result, before = self.fakes[n], dict.fromkeys(before, -1)  # needs real data: taken to write to all its args
        written = [owner for owner, version in before.items() if self.fakes[owner]._version != version]
        written += [owner for owner in self._averages(n) if owner not in written]
        for owner in written:
            self.written[owner].append(n)
        for storage in _storages(result):
            for owner in self._at.get(storage, ()):
                self.shared[owner].add(n)
        return result

    def only_arithmetic(self, holder: Node, targets: tuple[Any, ...]) -> bool:
        """Whether all writes to a placeholder are like ``add_(1)`` of all of it, and nothing else is its memory."""
        writers, fake = self.written[holder], self.fakes[holder]
        kinds = (int, float) if fake.is_floating_point() else (int,)
        return self.shared[holder] <= set(writers) and all(
            node.target in targets
            and not node.kwargs
            and len(node.args) == 2
            and isinstance(node.args[1], kinds)
            and (node.args[0] is holder or node.args[0] in writers)
            for node in writers
        )

    def _averages(self, n: Node) -> list[Node]:
        """The running averages that a norm updates: the one write that moves no version counter."""
        if n.target not in NORMS:
            return []
        names = NORMS[n.target]
        given = {**dict(zip(names, n.args, strict=False)), **n.kwargs}
        if not given.get("training", given.get("use_input_stats", n.target is F.instance_norm)):
            return []
        averages = [given.get(name) for name in ("running_mean", "running_var")]
        storages = [storage for one in averages if isinstance(one, Node) for storage in _storages(self.env[one])]
        return [owner for storage in storages for owner in self._at.get(storage, ())]


_OF_F = ("input", "running_mean", "running_var", "weight", "bias")
_OF_TORCH = ("input", "weight", "bias", "running_mean", "running_var")
NORMS: dict[Any, tuple[str, ...]] = {
    F.batch_norm: (*_OF_F, "training"),
    F.instance_norm: (*_OF_F, "use_input_stats"),
    torch.batch_norm: (*_OF_TORCH, "training"),
    torch.instance_norm: (*_OF_TORCH, "use_input_stats"),
}
"""Functions that update running averages, and the names of their first arguments."""


def _storages(value: Any) -> Iterator[int]:
    for leaf in tree_leaves(value):
        if isinstance(leaf, Tensor):
            yield leaf.untyped_storage()._cdata
