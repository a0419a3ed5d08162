"""Which operations of a captured graph write in place to tensors of the caller; found by running it on fake tensors."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch.fx import GraphModule, Interpreter, Node

from funcnet._tensors import iter_tensors
from funcnet._torch_functions import written_averages
from funcnet._torch_tracer import (
    FakeTensor,
    tracer_operator_rules,
)


class InplaceWriteFinder(Interpreter):
    """Runs a graph on the fake tensors it was captured with, and compares version counters around every node.

    ``writers`` lists for each placeholder the nodes that write to it, ``shared`` those whose values share its memory.
    """

    def __init__(self, module: GraphModule, fakes: Mapping[Node, Any]) -> None:
        super().__init__(module, garbage_collect_values=False)
        self.fakes = fakes
        self.writers: defaultdict[Node, list[Node]] = defaultdict(list)
        self.shared: defaultdict[Node, set[Node]] = defaultdict(set)
        self._placeholders_by_storage: defaultdict[int, list[Node]] = defaultdict(list)
        placeholders = [node for node in self.module.graph.nodes if node.op == "placeholder"]  # type: ignore[union-attr]
        for node in placeholders:
            for storage in _iter_storages(fakes[node]):
                self._placeholders_by_storage[storage].append(node)
        modes = (fakes[node].fake_mode for node in placeholders if isinstance(fakes[node], FakeTensor))
        with next(modes, nullcontext()), tracer_operator_rules(), torch.set_grad_enabled(True):
            self.run(*(fakes[node] for node in placeholders))

    def run_node(self, n: Node) -> Any:
        if n.op in ("placeholder", "output"):
            return super().run_node(n)
        args = self.fetch_args_kwargs_from_env(n)
        placeholders = {
            placeholder
            for storage in _iter_storages(args)
            for placeholder in self._placeholders_by_storage.get(storage, ())
        }
        versions = {placeholder: self.fakes[placeholder]._version for placeholder in placeholders}
        try:
            result = super().run_node(n)
        except Exception:
            if n not in self.fakes:
                raise
            # it needs real data, so it is assumed to write to all its arguments
            result, versions = self.fakes[n], dict.fromkeys(versions, -1)
        written = [
            placeholder for placeholder, version in versions.items() if self.fakes[placeholder]._version != version
        ]
        written += [placeholder for placeholder in self._placeholders_of_averages(n) if placeholder not in written]
        for placeholder in written:
            self.writers[placeholder].append(n)
        for storage in _iter_storages(result):
            for placeholder in self._placeholders_by_storage.get(storage, ()):
                self.shared[placeholder].add(n)
        return result

    def writing_nodes(self) -> set[Node]:
        """All nodes that write to a placeholder."""
        return {node for nodes in self.writers.values() for node in nodes}

    def adds_only_numbers(self, placeholder: Node, targets: tuple[object, ...]) -> bool:
        """Whether every write adds a plain number to the whole placeholder, and no other node shares its memory."""
        writers, fake = self.writers[placeholder], self.fakes[placeholder]
        kinds = (int, float) if fake.is_floating_point() else (int,)
        return self.shared[placeholder] <= set(writers) and all(
            node.target in targets
            and not node.kwargs
            and len(node.args) == 2
            and isinstance(node.args[1], kinds)
            and (node.args[0] is placeholder or node.args[0] in writers)
            for node in writers
        )

    def _placeholders_of_averages(self, node: Node) -> list[Node]:
        averages = [value for value in written_averages(node.target, node.args, node.kwargs) if isinstance(value, Node)]
        storages = [storage for value in averages for storage in _iter_storages(self.env[value])]
        return [placeholder for storage in storages for placeholder in self._placeholders_by_storage.get(storage, ())]


def _iter_storages(value: object) -> Iterator[int]:
    for tensor in iter_tensors(value):
        yield tensor.untyped_storage()._cdata
