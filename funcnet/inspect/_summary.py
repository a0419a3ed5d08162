"""A table of a net: paths, types, output shapes, parameters and bytes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from funcnet._errors import InitError, ShapeError, TreeError, add_note
from funcnet._torch import pytree
from funcnet._typing import Flat, Tree, TreeLike
from funcnet.adapters import from_module, to_module
from funcnet.core import Buffer, Net, Param
from funcnet.foreign.internals import copy_inputs
from funcnet.inspect._effects import lend_global_generators
from funcnet.inspect._operator_effects import Args, Kwargs
from funcnet.inspect._text_table import rich_table, text_table
from funcnet.tree import flatten, join, unflatten
from funcnet.tree import map as map_tree

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class SummaryRow:
    """One net in a summary.

    Attributes:
        path: joined path; empty for the net itself.
        type: name of its class or function.
        output: shapes of what it returned, as text; empty if it was not called.
        parameters: the number of elements in its params, without those of its parts; tied tensors count once.
        bytes: the memory of its params and buffers, without those of its parts.

    >>> import funcnet as fn
    >>> table = fn.summary(fn.Sequential(fn.Linear(2, 3), fn.ReLU()))
    >>> table.rows[1].path, table.rows[1].parameters, table.rows[1].bytes
    ('0', 9, 36)
    """

    path: str
    type: str
    output: str
    parameters: int
    bytes: int


@dataclass(frozen=True)
class Summary:
    """A row for each net in a net, in the order of ``named_nets``, and their totals; print it for a table.

    >>> import funcnet as fn
    >>> table = fn.summary(fn.Sequential(fn.Linear(2, 3), fn.ReLU()))
    >>> [row.type for row in table.rows]
    ['Sequential', 'Linear', 'ReLU']
    """

    rows: tuple[SummaryRow, ...]

    @property
    def parameters(self) -> int:
        """The number of elements in all params."""
        return sum(row.parameters for row in self.rows)

    @property
    def bytes(self) -> int:
        """The memory of all params and buffers."""
        return sum(row.bytes for row in self.rows)

    def _format_cells(self) -> list[tuple[str, ...]]:
        rows = [(row.path, row.type, row.output, f"{row.parameters:,}", f"{row.bytes:,}") for row in self.rows]
        return [*rows, ("total", "", "", f"{self.parameters:,}", f"{self.bytes:,}")]

    def __rich__(self) -> Table:
        return rich_table(_COLUMNS, self._format_cells(), _NUMBERS, total=True)

    def __str__(self) -> str:
        return text_table(_COLUMNS, self._format_cells(), _NUMBERS, total=True)


_COLUMNS = ("path", "type", "output", "parameters", "bytes")
_NUMBERS = frozenset({"parameters", "bytes"})


def summary(model: Net | nn.Module, /, *inputs: Any, buffers: TreeLike | None = None, **kwargs: Any) -> Summary:
    """A table of a net or of a module: path, type, output shape, parameters and bytes of each part of it.

    The body runs once, in eval mode, on shapes alone (the meta device), so even a large model costs nothing. A forward
    for which shapes do not suffice (it reads a number, or a tensor that is not in the trees) runs on the values of
    ``params`` instead, on copies. If ``buffers`` are left out then, a buffer has its first value, or zeros where only
    the module knew a first value.

    Args:
        model: a module, or a net.
        inputs: what the module is called with. For a net, its params come first; they give the dtypes, and without them
            the dtypes are torch's default dtype. Without any further input the column of outputs stays empty.
        buffers: the buffers of a net.
        kwargs: named inputs.

    Raises:
        TreeError: if the trees do not fit the net.
        ShapeError: if the inputs do not fit it.
        ConversionError: if the module cannot be converted to a net.
        TypeError: if ``model`` is neither a net nor a module.

    Errors of the body itself are raised as they are.

    >>> from funcnet import Linear, ReLU, Sequential
    >>> net = Sequential(Linear(4, 8), ReLU())
    >>> table = summary(net, net.init(0)[0], torch.ones(3, 4))
    >>> [(row.path, row.type, row.output, row.parameters) for row in table.rows]
    [('', 'Sequential', '(3, 8)', 0), ('0', 'Linear', '(3, 8)', 40), ('1', 'ReLU', '(3, 8)', 0)]
    >>> summary(nn.Linear(4, 8), torch.ones(3, 4)).parameters
    40
    """
    if isinstance(model, nn.Module):
        if buffers is not None:
            raise TypeError("a module holds its buffers itself: leave buffers out.")
        net, params_of_module, buffers = from_module(model, example_inputs=inputs or None, copy=False)
        return _summarize(net, params_of_module, buffers, inputs, kwargs)
    if not isinstance(model, Net):
        raise TypeError(f"summary takes a net or an nn.Module, not {model!r:.80}.")
    if "params" in kwargs:
        inputs = (kwargs.pop("params"), *inputs)
    return _summarize(model, inputs[0] if inputs else None, buffers, inputs[1:], kwargs)


def _summarize(
    net: Net, params: TreeLike | None, buffers: TreeLike | None, inputs: tuple[Any, ...], kwargs: dict[str, Any]
) -> Summary:
    shapes_of_params, shapes_of_buffers = _trees_on_meta(net)
    if params is not None:
        shapes_of_params = map_tree(lambda leaf: leaf.to("meta"), params)
    if buffers is not None:
        shapes_of_buffers = map_tree(lambda leaf: leaf.to("meta"), buffers)
    outputs: dict[str, str] = {}
    if inputs or kwargs:
        args, named = pytree.tree_map_only(Tensor, lambda leaf: leaf.to("meta"), (inputs, kwargs))
        try:
            with torch.device("meta"):
                # a net checks its inputs and names the path where they do not fit, which the module does not do
                net.apply(shapes_of_params, shapes_of_buffers, *args, rng=0, **named)
                outputs = _record_output_shapes(net, to_module(net, shapes_of_params, shapes_of_buffers), args, named)
        except (ShapeError, TreeError):
            raise
        except Exception as error:
            if params is None:
                add_note(error, "funcnet.summary ran it on shapes alone; given params, it runs on their numbers.")
                raise
            outputs = _record_output_shapes_of_values(net, params, buffers, inputs, kwargs)
    tensors: Flat = {**flatten(shapes_of_params), **flatten(shapes_of_buffers)}
    kinds = {entry.path: entry.kind for entry in net.entries()}
    rows = []
    for path, child_net in net.named_nets():
        names = [join(path, name) for name in child_net._own_entries if join(path, name) in kinds]
        parameters = sum(tensors[name].numel() for name in names if kinds[name] == "params")
        size = sum(tensors[name].numel() * tensors[name].element_size() for name in names)
        rows.append(SummaryRow(path, child_net.title(), outputs.get(path, ""), parameters, size))
    return Summary(tuple(rows))


def _trees_on_meta(net: Net) -> tuple[Tree, Tree]:
    """Params and buffers as the net declares them, on the meta device."""
    params: Flat = {}
    buffers: Flat = {}
    for entry in net.entries():
        tensor = torch.empty(entry.spec.shape, dtype=entry.spec.dtype, device="meta")
        (params if isinstance(entry.spec, Param) else buffers)[entry.path] = tensor
    return unflatten(params), unflatten(buffers)


def _record_output_shapes(net: Net, module: nn.Module, inputs: Args, kwargs: Kwargs) -> dict[str, str]:
    """The shapes of what each part of a module returns, as text, by its path."""
    outputs: dict[str, str] = {}
    for path, _ in net.named_nets():
        module.get_submodule(path).register_forward_hook(_make_recorder(outputs, path))
    module.eval()(*inputs, **kwargs)
    return outputs


def _record_output_shapes_of_values(
    net: Net, params: TreeLike, buffers: TreeLike | None, inputs: Args, kwargs: Kwargs
) -> dict[str, str]:
    """The same by a call with real numbers, on copies, without grad, with global generators that are put back."""
    device = next((leaf.device for leaf in flatten(params).values()), torch.device("cpu"))
    module = to_module(net, params, _initial_buffers(net, device) if buffers is None else buffers)
    inputs, kwargs = copy_inputs(inputs, kwargs)
    with torch.no_grad(), lend_global_generators(0, []):
        return _record_output_shapes(net, module, inputs, kwargs)


def _initial_buffers(net: Net, device: torch.device) -> Tree:
    buffers: Flat = {}
    for entry in net.entries():
        if isinstance(entry.spec, Buffer):
            options: Any = {"dtype": entry.spec.dtype, "device": device}
            try:
                buffers[entry.path] = entry.spec.init(0, entry.spec.shape, **options)
            except InitError:
                buffers[entry.path] = torch.zeros(entry.spec.shape, **options)
    return unflatten(buffers)


def _make_recorder(outputs: dict[str, str], path: str) -> Callable[[nn.Module, Args, object], None]:
    """A forward hook that notes the shapes of the first output of a module."""

    def record(module: nn.Module, inputs: Args, output: object) -> None:
        outputs.setdefault(path, _format_shapes(output))

    return record


def _format_shapes(output: object) -> str:
    if isinstance(output, Tensor):
        return str(tuple(output.shape))
    if isinstance(output, dict):
        return "{" + ", ".join(f"{key}: {_format_shapes(value)}" for key, value in output.items()) + "}"
    if isinstance(output, (tuple, list)):
        return "(" + ", ".join(map(_format_shapes, output)) + ")"
    return type(output).__name__
