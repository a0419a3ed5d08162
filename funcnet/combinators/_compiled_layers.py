"""Layers of a Stack in compiled code: one of them is compiled, and the graph holds one operator that calls it in turn.

A loop that the compiler traces costs as much as all layers. Here the graph has ``funcnet::run_layers``, whose kernel
calls the code of one layer ``count`` times; autograd records these calls, and the gradient of the operator runs what it
recorded. So the numbers are those of the one compiled layer, forward and backward.
"""

from __future__ import annotations

import secrets
import warnings
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge

from funcnet._context import under_forward_mode, under_transform
from funcnet._torch import assume_constant_result, never_compile_alone
from funcnet._torch_compiled import keeps_graph, leave_to_eager_code, plain_dispatch, read_backend
from funcnet._typing import TreeLike
from funcnet.core import Net
from funcnet.core.internals import EMPTY_TREE, Call
from funcnet.ranks import current_run
from funcnet.tree import flatten, join, unflatten

_FEWEST = 3
"""Of fewer layers a loop is compiled as quickly."""

NO_PLAN = -1


@dataclass(eq=False)
class _Plan:
    """How the kernel of the operator runs layers: what does not change between calls of the same graph."""

    net: Net
    path: str
    train: bool
    count: int
    names: tuple[str, ...]
    has_inputs: tuple[bool, ...]  # an input that is none is None
    backend: Callable[..., Any]
    fullgraph: bool
    compiled: Callable[..., Tensor] = field(init=False)
    kinds_seen: set[Any] = field(default_factory=set)

    def __post_init__(self) -> None:
        run_layer = self._run_layer
        function = FunctionType(  # code of its own, as the compiler counts by code how often it compiled
            _call_layer.__code__.replace(), {**_call_layer.__globals__, "run_layer": run_layer}, _call_layer.__name__
        )
        self.compiled = torch.compile(function, backend=self.backend, fullgraph=self.fullgraph)

    def _run_layer(self, x: Tensor, params: Sequence[Tensor], inputs: Sequence[Tensor]) -> Any:
        prepared = self.net._prepared()
        tree = unflatten(dict(zip(self.names, params, strict=True)))
        given = iter(inputs)
        others = tuple(next(given) if is_tensor else None for is_tensor in self.has_inputs)
        call, path = Call(self.train, None), join(self.path, "0")
        if not prepared.is_trusted:
            return prepared.run_part(tree, EMPTY_TREE, call, path, (x, *others), {})[0]
        view = prepared.open_view(prepared.view_class, tree, EMPTY_TREE, call)
        view._name = path
        return view(x, *others)

    def run(self, layer: Callable[..., Any], x: Tensor, params: Sequence[Tensor], inputs: Sequence[Tensor]) -> Tensor:
        """The output of all layers."""
        kinds = tuple([(tensor.shape, tensor.dtype, tensor.requires_grad) for tensor in (x, *params, *inputs)])
        if layer is self.compiled and kinds not in self.kinds_seen:
            with warnings.catch_warnings():  # the compiler asks every input for its gradient, which torch warns of
                warnings.filterwarnings("ignore", "The .grad attribute of a Tensor that is not a leaf")
                output = self._run_in_turn(layer, x, params, inputs)
            self.kinds_seen.add(kinds)
            return output
        return self._run_in_turn(layer, x, params, inputs)

    def _run_in_turn(
        self, layer: Callable[..., Any], x: Tensor, params: Sequence[Tensor], inputs: Sequence[Tensor]
    ) -> Tensor:
        pieces = [param.unbind(0) for param in params]
        for index in range(self.count):
            x = layer(x, [piece[index] for piece in pieces], inputs)
        return x


def _call_layer(x: Tensor, params: Sequence[Tensor], inputs: Sequence[Tensor]) -> Any:
    return run_layer(x, params, inputs)  # type: ignore[name-defined]  # noqa: F821  # a global of each copy


_PLANS: dict[int, _Plan] = {}


@assume_constant_result
def _make_plan(
    net: Net, path: str, train: bool, count: int, names: tuple[str, ...], has_inputs: tuple[bool, ...]
) -> int:
    """While the compiler traces: the number of a plan for these layers, or ``NO_PLAN`` where a loop is to be traced."""
    found = read_backend()
    if found is None or torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"):
        return NO_PLAN
    number = secrets.randbits(62)  # no graph in a cache of another process may have it
    _PLANS[number] = _Plan(net, path, train, count, names, has_inputs, *found)
    return number


def run_compiled(
    net: Net, count: int, call: Call, path: str, params: TreeLike, has_buffers: bool, x: Any, inputs: tuple[Any, ...]
) -> Tensor | None:
    """While the compiler traces: the output of all layers, by one operator; None where a loop is to be traced."""
    train = call.train
    if count < _FEWEST or has_buffers or not isinstance(train, bool) or torch.compiler.is_exporting():
        return None
    prepared = net._prepared()
    draws = prepared.draws_in_training if train else prepared.draws_in_eval
    if draws or prepared.has_foreign_parts or not prepared.draws_from_views_only:
        return None
    if under_transform() or under_forward_mode() or current_run() is not None:
        return None
    flat = flatten(params)
    leaves, others = list(flat.values()), [value for value in inputs if value is not None]
    if not _is_plain(x) or not x.is_floating_point() or not x.is_contiguous():
        return None
    for value in (*leaves, *others):
        if not _is_plain(value):
            return None
    has_inputs = tuple([value is not None for value in inputs])
    plan = _make_plan(net, path, train, count, tuple(flat), has_inputs)
    if plan == NO_PLAN:
        return None
    tensors = [*leaves, x, *others]
    wants = [torch.is_grad_enabled() and tensor.requires_grad for tensor in tensors]
    output: Tensor = torch.ops.funcnet.run_layers(plan, tensors, wants)[0]
    return output


def _is_plain(value: Any) -> bool:
    return type(value) is Tensor or type(value) is nn.Parameter


# --- the operator ---

_LIBRARY = torch.library.Library("funcnet", "FRAGMENT")
_TAGS = (torch.Tag.pt2_compliant_tag, torch.Tag.nondeterministic_seeded, torch.Tag.cudagraph_unsafe)
# nondeterministic_seeded: two equal calls stay two, as each has what its own gradient needs
_LIBRARY.define("run_layers(int plan, Tensor[] tensors, bool[] wants) -> (Tensor, Tensor)", tags=_TAGS)
_LIBRARY.define(
    "run_layers_backward(int plan, Tensor ticket, Tensor gradient, Tensor[] tensors, bool[] wants) -> Tensor[]",
    tags=_TAGS,
)


class _Recorded(bytearray):
    """What autograd recorded in a call, as the memory of a tensor: it lives as long as a graph holds the tensor."""

    output: Any
    inputs: list[Any]


_RECORDED: weakref.WeakValueDictionary[int, _Recorded] = weakref.WeakValueDictionary()


def _split(plan: _Plan, tensors: Sequence[Tensor]) -> tuple[Tensor, Sequence[Tensor], Sequence[Tensor]]:
    count = len(plan.names)
    return tensors[count], tensors[:count], tensors[count + 1 :]


@never_compile_alone
def _run_layers(plan_number: int, tensors: Sequence[Tensor], wants: Sequence[bool]) -> tuple[Tensor, Tensor]:
    plan, records = _PLANS[plan_number], any(wants)
    number = secrets.randbits(62)
    recorded = _Recorded(number.to_bytes(8, "little"))
    with plain_dispatch(records):
        # the first layer is given an x with a gradient, as all others are: else it would be compiled twice
        flags = [want or (records and index == len(plan.names)) for index, want in enumerate(wants)]
        leaves = [tensor.detach().requires_grad_(flag) for tensor, flag in zip(tensors, flags, strict=True)]
        output = plan.run(plan.compiled, *_split(plan, leaves))
        if records:
            recorded.output = get_gradient_edge(output)
            recorded.inputs = [leaf for leaf, want in zip(leaves, wants, strict=True) if want]
            _RECORDED[number] = recorded
        output = _own_contiguous(output.detach(), tensors)
    return output, torch.frombuffer(recorded, dtype=torch.int64)


def _own_contiguous(output: Tensor, tensors: Sequence[Tensor]) -> Tensor:
    if output.untyped_storage().data_ptr() in {tensor.untyped_storage().data_ptr() for tensor in tensors}:
        return output.clone(memory_format=torch.contiguous_format)
    return output.contiguous()


def _infer_output(plan_number: int, tensors: Sequence[Tensor], wants: Sequence[bool]) -> tuple[Tensor, Tensor]:
    plan = _PLANS[plan_number]
    x, params, inputs = _split(plan, tensors)
    with torch.no_grad():
        first = [param[0] for param in params]
        for _ in range(plan.count):
            try:
                y = plan._run_layer(x, first, inputs)
            except (RuntimeError, TypeError, ValueError) as error:
                # errors of eager code say where they arose
                raise leave_to_eager_code(torch.ops.funcnet.run_layers.default) from error
            if not isinstance(y, Tensor):
                raise leave_to_eager_code(torch.ops.funcnet.run_layers.default)
            is_settled = y.shape == x.shape and y.dtype == x.dtype
            x = y
            if is_settled:
                break
    return torch.empty(x.shape, dtype=x.dtype, device=x.device), torch.empty(1, dtype=torch.int64)


@never_compile_alone
def _run_backward(
    plan_number: int, ticket: Tensor, gradient: Tensor, tensors: Sequence[Tensor], wants: Sequence[bool]
) -> list[Tensor]:
    recorded = _RECORDED[int(ticket.item())]
    with plain_dispatch(False):
        gradients = torch.autograd.grad(
            recorded.output, recorded.inputs, gradient, allow_unused=True, retain_graph=keeps_graph()
        )
        wanted = [tensor for tensor, want in zip(tensors, wants, strict=True) if want]
        return [
            torch.zeros(tensor.shape, dtype=tensor.dtype, device=tensor.device)
            if found is None
            else _own_contiguous(found, [gradient, *tensors])
            for found, tensor in zip(gradients, wanted, strict=True)
        ]


def _infer_gradients(
    plan_number: int, ticket: Tensor, gradient: Tensor, tensors: Sequence[Tensor], wants: Sequence[bool]
) -> list[Tensor]:
    wanted = [tensor for tensor, want in zip(tensors, wants, strict=True) if want]
    return [torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device) for tensor in wanted]


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.plan, tensors, ctx.wants = inputs
    ctx.save_for_backward(output[1], *tensors)


def _differentiate(ctx: Any, gradient: Tensor, ticket_gradient: object) -> tuple[Any, ...]:
    ticket, *tensors = ctx.saved_tensors
    found = iter(torch.ops.funcnet.run_layers_backward(ctx.plan, ticket, gradient, tensors, ctx.wants))
    return None, [next(found) if want else None for want in ctx.wants], None


_LIBRARY.impl("run_layers", _run_layers, "CompositeExplicitAutograd")
_LIBRARY.impl("run_layers_backward", _run_backward, "CompositeExplicitAutograd")
torch.library.register_fake("funcnet::run_layers", _infer_output, lib=_LIBRARY)
torch.library.register_fake("funcnet::run_layers_backward", _infer_gradients, lib=_LIBRARY)
torch.library.register_autograd("funcnet::run_layers", _differentiate, setup_context=_save_for_backward, lib=_LIBRARY)
