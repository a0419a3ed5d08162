"""Forms: what is done to tensors, whichever tensors they are. Layers of one form are proved once for all of them.

The form of a node says its operations and the shapes of its sources, which are numbered in the order of their use. Two
nodes of one form move elements in the same way. So does a node of nodes, if its form, the forms of what it is made of,
and the sources that they share are the same.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple

from funcnet.checkpoint._nodes import CatNode, ConstantNode, NarrowNode, Node, PermuteNode, SourceNode


class NodeForm(NamedTuple):
    """The form of a node as a number, and the names of its sources with their positions in the order of use."""

    number: int
    sources: dict[str, int]


class FormTable:
    """Numbers for forms; equal forms have equal numbers.

    >>> import torch
    >>> from funcnet.checkpoint import Spec
    >>> from funcnet.checkpoint._nodes import permute_node
    >>> a, b = (SourceNode(Spec((2, 3), torch.float32), name) for name in "ab")
    >>> table = FormTable()
    >>> table.find_form(permute_node(a, (1, 0))).number == table.find_form(permute_node(b, (1, 0))).number
    True
    """

    def __init__(self) -> None:
        self._numbers: dict[Hashable, int] = {}

    def find_form(self, node: Node) -> NodeForm:
        """The form of a node."""
        if isinstance(node, SourceNode):
            return NodeForm(self.number((SourceNode, node.shape, 0)), {node.name: 0})
        positions: dict[str, int] = {}
        numbers: dict[int, int] = {}  # of the nodes seen so far, which may share operands

        def number_node(node: Node) -> int:
            if id(node) not in numbers:
                operands = tuple(map(number_node, node.operands))
                numbers[id(node)] = self.number((*self._describe(node, positions), *operands))
            return numbers[id(node)]

        return NodeForm(number_node(node), positions)

    def number(self, description: Hashable) -> int:
        """The number of a description; a new one for one that is new."""
        return self._numbers.setdefault(description, len(self._numbers))

    def compose(self, outer: NodeForm, inner: Sequence[NodeForm]) -> NodeForm:
        """The form of a node whose sources have forms of their own, in the order of the sources."""
        if len(inner) == 1:
            return NodeForm(self.number((outer.number, inner[0].number)), inner[0].sources)
        names = [name for form in inner for name in form.sources]
        positions = {name: position for position, name in enumerate(dict.fromkeys(names))}
        sharing = tuple(positions[name] for name in names)
        return NodeForm(self.number((outer.number, *(form.number for form in inner), sharing)), positions)

    @staticmethod
    def _describe(node: Node, positions: dict[str, int]) -> tuple[object, ...]:
        """What a node does, besides to what; a source becomes its position."""
        if isinstance(node, SourceNode):
            return SourceNode, node.shape, positions.setdefault(node.name, len(positions))
        if isinstance(node, ConstantNode):
            return ConstantNode, node.spec, str(node.value)
        if isinstance(node, PermuteNode):
            return PermuteNode, node.dims
        if isinstance(node, NarrowNode):
            return NarrowNode, node.shape, node.dim, node.start
        if isinstance(node, CatNode):
            return CatNode, node.dim
        return type(node), node.shape
