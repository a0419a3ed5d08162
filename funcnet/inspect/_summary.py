"""A table of a net: paths, types, output shapes, parameters and bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from funcnet._errors import InitError, ShapeError, TreeError
from funcnet._torch import pytree
from funcnet._typing import Flat, Tree, TreeLike
from funcnet.adapters import to_module
from funcnet.core import Buffer, Net, Param
from funcnet.foreign.internals import copy_inputs
from funcnet.inspect._effects import own_generators
from funcnet.inspect._table import rich_table, text_table
from funcnet.tree import flatten, join, unflatten
from funcnet.tree import map as tree_of


@dataclass(frozen=True)
class Row:
    """One net of a summary.

    Attributes:
        path: joined path; empty for the net itself.
        type: name of its class or function.
        output: shapes of what it returned, in words; empty if it was not called.
        parameters: how many numbers its own params are, parts not included and tied tensors counted once.
        bytes: the memory of its own params and buffers.
    """

    path: str
    type: str
    output: str
    parameters: int
    bytes: int


@dataclass(frozen=True)
class Summary:
    """The rows of a net in the order of ``named_nets``, and their totals; print it for a table."""

    rows: tuple[Row, ...]

    @property
    def parameters(self) -> int:
        """How many numbers the params are."""
        return sum(row.parameters for row in self.rows)

    @property
    def bytes(self) -> int:
        """The memory of params and buffers."""
        return sum(row.bytes for row in self.rows)

    def _cells(self) -> list[tuple[str, ...]]:
        rows = [(row.path, row.type, row.output, f"{row.parameters:,}", f"{row.bytes:,}") for row in self.rows]
        return [*rows, ("total", "", "", f"{self.parameters:,}", f"{self.bytes:,}")]

    def __rich__(self) -> Any:
        return rich_table(_COLUMNS, self._cells(), _NUMBERS, total=True)

    def __str__(self) -> str:
        return text_table(_COLUMNS, self._cells(), _NUMBERS, total=True)


_COLUMNS = ("path", "type", "output", "parameters", "bytes")
_NUMBERS = frozenset({"parameters", "bytes"})


def summary(
    net: Net, params: TreeLike | None = None, *inputs: Any, buffers: TreeLike | None = None, **kwargs: Any
) -> Summary:
    """A table of a net: path, type, output shape, parameters and bytes of each net in it.

    The body runs once, in eval mode, on shapes alone (the meta device), so even a large model costs nothing. A forward
    that shapes do not suffice for (it reads a number, or a tensor that is not in the trees) runs on the numbers of
    ``params`` instead, on copies; a buffer not given then has its first value, or zeros where only the module knew one.

    Args:
        net: the net.
        params, buffers: its trees, for their dtypes; without them they are taken to be of torch's default dtype.
        inputs, kwargs: what it is called with; without any, the column of outputs stays empty.

    Raises:
        TreeError: if the trees do not fit.
        ShapeError: if the inputs do not.

    Errors of the body itself are raised as they are.

    >>> from funcnet import Linear, ReLU, Sequential
    >>> net = Sequential(Linear(4, 8), ReLU())
    >>> table = summary(net, net.init(0)[0], torch.ones(3, 4))
    >>> [(row.path, row.type, row.output, row.parameters) for row in table.rows]
    [('', 'Sequential', '(3, 8)', 0), ('0', 'Linear', '(3, 8)', 40), ('1', 'ReLU', '(3, 8)', 0)]
    """
    declared = _declared(net)
    given = [tree_of(lambda leaf: leaf.to("meta"), tree) if tree is not None else None for tree in (params, buffers)]
    params_, buffers_ = (tree if tree is not None else made for tree, made in zip(given, declared, strict=True))
    outputs: dict[str, str] = {}
    if inputs or kwargs:
        args, named = pytree.tree_map_only(Tensor, lambda leaf: leaf.to("meta"), (inputs, kwargs))
        try:
            with torch.device("meta"):
                # a net checks its inputs and names the path where they do not fit, which the module does not do
                net.apply(params_, buffers_, *args, rng=0, **named)
                outputs = _outputs(net, to_module(net, params_, buffers_), args, named)
        except (ShapeError, TreeError):
            raise
        except Exception as error:
            if params is None:
                if hasattr(error, "add_note"):
                    error.add_note("funcnet.summary ran it on shapes alone; given params, it runs on their numbers.")
                raise
            outputs = _outputs_of_numbers(net, params, buffers, inputs, kwargs)
    held: Flat = {**flatten(params_), **flatten(buffers_)}
    kinds = {entry.path: entry.kind for entry in net.entries()}
    rows = []
    for path, below in net.named_nets():
        own = [join(path, name) for name in below._own_entries if join(path, name) in kinds]
        numbers = sum(held[name].numel() for name in own if kinds[name] == "params")
        size = sum(held[name].numel() * held[name].element_size() for name in own)
        rows.append(Row(path, below.title(), outputs.get(path, ""), numbers, size))
    return Summary(tuple(rows))


def _declared(net: Net) -> tuple[Tree, Tree]:
    """Params and buffers without content."""
    params: Flat = {}
    buffers: Flat = {}
    for entry in net.entries():
        made = torch.empty(entry.spec.shape, dtype=entry.spec.dtype, device="meta")
        (params if isinstance(entry.spec, Param) else buffers)[entry.path] = made
    return unflatten(params), unflatten(buffers)


def _outputs(net: Net, module: nn.Module, inputs: Any, kwargs: Any) -> dict[str, str]:
    """What each part of a module returns, in words, by its path."""
    outputs: dict[str, str] = {}
    for path, _ in net.named_nets():
        module.get_submodule(path).register_forward_hook(_noting(outputs, path))
    module.eval()(*inputs, **kwargs)
    return outputs


def _outputs_of_numbers(
    net: Net, params: TreeLike, buffers: TreeLike | None, inputs: Any, kwargs: Any
) -> dict[str, str]:
    """The same by a call with real numbers, on copies, without grad, with global generators that are put back."""
    device = next((leaf.device for leaf in flatten(params).values()), torch.device("cpu"))
    module = to_module(net, params, _first_buffers(net, device) if buffers is None else buffers)
    inputs, kwargs = copy_inputs(inputs, kwargs)
    with torch.no_grad(), own_generators(0, []):
        return _outputs(net, module, inputs, kwargs)


def _first_buffers(net: Net, device: torch.device) -> Tree:
    made: Flat = {}
    for entry in net.entries():
        if isinstance(entry.spec, Buffer):
            options: Any = {"dtype": entry.spec.dtype, "device": device}
            try:
                made[entry.path] = entry.spec.init(0, entry.spec.shape, **options)
            except InitError:
                made[entry.path] = torch.zeros(entry.spec.shape, **options)
    return unflatten(made)


def _noting(outputs: dict[str, str], path: str) -> Any:
    def note(module: Any, inputs: Any, output: Any) -> None:
        outputs.setdefault(path, _shapes(output))

    return note


def _shapes(output: Any) -> str:
    if isinstance(output, Tensor):
        return str(tuple(output.shape))
    if isinstance(output, dict):
        return "{" + ", ".join(f"{key}: {_shapes(value)}" for key, value in output.items()) + "}"
    if isinstance(output, (tuple, list)):
        return "(" + ", ".join(map(_shapes, output)) + ")"
    return type(output).__name__
