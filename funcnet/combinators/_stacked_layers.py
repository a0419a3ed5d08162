"""Layers of equal form in stacked tensors: each tensor has one more axis in front, the number of the layer."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from funcnet._errors import TreeError
from funcnet.combinators._open_layers import OpenLayers, StackedLayer
from funcnet.combinators._stacked_module import StackModule
from funcnet.combinators._views import CallableSlice
from funcnet.core import InitContext, Lazy, Net, View, as_net
from funcnet.core.internals import DelegatingNet, call_and_path
from funcnet.tree import join


class Stack(DelegatingNet, fields_in_view=False):
    """``count`` equal nets one after the other, whose tensors are stacked along a new first axis.

    Called, it is a Sequential of its layers. In a body it is a ModuleList too: loop over it, index and slice it, and
    give each layer what it takes. A layer computes, draws and records buffers with the bits that it has there, at the
    path that it has there, ``layers.3``; and the first values are those of ``count`` nets.

    So a deep model has few tensors. And torch.compile compiles one layer and runs its code ``count`` times where a
    Stack is called with contiguous tensors, its layers draw nothing and have no buffers, and the backend is "inductor"
    or "aot_eager": 48 layers then compile in the time of one, and so they do with the gradient of
    ``fn.value_and_grad(torch.compile(loss))``. Elsewhere it compiles every layer, as it does those of a Sequential: in
    a loop of a body, under transforms and ``fn.value_and_grad`` in compiled code, autocast, and in exports.

    For ``train=``, ``freeze`` and ``replaced`` the path of what is in a layer has no number, ``layers.drop``, and means
    it in all layers.

    Args:
        net: one layer: a net, or a function.
        count: how many there are, at least 1.

    Params, Buffers: those of ``net`` under the same names, each (count, ...).
    Shape: as ``net`` says; called, each layer is given the output of the one before, and all are given what else there
        is.
    Raises: ValueError if ``count`` is less than 1, or a part of ``net`` is lazy.

    >>> import torch
    >>> import funcnet as fn
    >>> block = fn.Sequential(fn.Linear(4, 4), fn.ReLU())
    >>> net = fn.Sequential(fn.Stack(block, 24), fn.Linear(4, 1))
    >>> params, _ = net.init(0)
    >>> params["0"]["0"]["weight"].shape
    torch.Size([24, 4, 4])
    >>> plain, plain_params, _ = fn.unstack_layers(net, params)
    >>> bool((net(params, torch.ones(2, 4)) == plain(plain_params, torch.ones(2, 4))).all())
    True

    >>> @fn.compose(blocks=fn.Stack(fn.Linear(4, 4), 3))
    ... def body(p, x):
    ...     for block in p.blocks:
    ...         x = x + block(x)
    ...     return p.blocks[0](x)
    >>> body(body.init(0)[0], torch.ones(2, 4)).shape
    torch.Size([2, 4])
    """

    net: Net
    count: int

    def __init__(self, net: Net | Callable[..., Any], count: int) -> None:
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ValueError(f"Stack(net, count) has at least 1 layer, got count={count!r}.")
        net = as_net("net", net)
        if lazy := [path or "it" for path, part in net.named_nets() if isinstance(part, Lazy)]:
            raise ValueError(
                f"a layer of a Stack has sizes, and {', '.join(lazy)} has none yet: make the layer concrete first, "
                f"layer, *_ = layer.init(0, example_inputs=(x,))."
            )
        object.__setattr__(self, "net", net)
        object.__setattr__(self, "count", count)
        edits = self.net._edits.beside_parts()
        if edits != self._edits:
            self.__setstate__({"_edits": edits})

    def __len__(self) -> int:
        return self.count

    def __bool__(self) -> bool:
        return True

    def __getitem__(self, index: int | slice) -> Net:
        """One layer; or a Stack of some, for the same slice of the tensors."""
        if isinstance(index, slice):
            return Stack(self.net, len(range(self.count)[index]))
        range(self.count)[index]  # an index out of range is an IndexError
        return self.net

    def parts(self) -> Mapping[str, Any]:
        specs = {name: replace(spec, shape=(self.count, *spec.sizes)) for name, spec in self.net._own_entries.items()}
        return {**specs, **{name: Stack(child, self.count) for name, child in self.net._children.items()}}

    def constants(self) -> Mapping[str, Any]:
        return {"_net": self.net, "_count": self.count}

    def delegate(self) -> Net:
        return self.net

    def count_stacks(self) -> int:
        return 1 + super().count_stacks()

    def check_init(self, path: str) -> None:
        for index in range(self.count):
            self.net.check_init(join(path, str(index)))

    def first_values(self, context: InitContext, path: str) -> Iterator[tuple[str, Tensor]]:
        layers = []
        for index in range(self.count):
            layer_path = join(path, str(index))
            ties = {join(layer_path, alias): join(layer_path, owner) for alias, owner in self.net.aliases.items()}
            inside = context._replace(aliases={**context.aliases, **ties})
            values = dict(inside.init_net(self.net, layer_path))
            layers.append({name[len(layer_path) + 1 :]: value for name, value in values.items()})
        for name in layers[0]:
            yield join(path, name), torch.stack([values[name] for values in layers])

    def view_base(self) -> type[View]:
        return StackView

    def as_module(self) -> nn.Module:
        return StackModule(self, self.net, self.count)

    def _with_children(self, nets: Mapping[str, Net], replaced: Mapping[str, Net]) -> Net:
        wrong = [name for name, net in nets.items() if not (isinstance(net, Stack) and net.count == self.count)]
        if wrong:
            raise TreeError(
                f"{', '.join(map(repr, wrong))} of {self.title()} is in each of its {self.count} layers, with stacked "
                f"tensors: put funcnet.Stack(net, {self.count}) there."
            )
        children = {name: net.net for name, net in nets.items() if isinstance(net, Stack)}
        return Stack(self.net._with_children(children, children), self.count)

    def _gathering(self, paths: Collection[str]) -> Net:
        return super()._gathering([""])  # the params of all layers at once: they are in the same tensors

    @staticmethod
    def forward(p: View, input: Any, *inputs: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_dynamo_compiling() and isinstance(p, View) and not kwargs:
            from funcnet.combinators._compiled_layers import run_compiled

            call, path = call_and_path(p)
            output = run_compiled(p._net, p._count, call, path, p._params, hasattr(p, "_buffers"), input, inputs)
            if output is not None:
                return output
        for layer in p:  # type: ignore[attr-defined]
            input = layer(input, *inputs, **kwargs)
        return input


class StackView(View):
    """The view of a Stack: a sequence of its layers, each of which can be called and has its parts by name."""

    __slots__ = ()

    def _open(self) -> OpenLayers:
        call, path = call_and_path(self)
        layers = call.stacks.get(path)
        if layers is None:
            buffers = getattr(self, "_buffers", {})
            layers = call.stacks[path] = OpenLayers(self._net, self._count, call, path, self._params, buffers)
        assert isinstance(layers, OpenLayers)
        return layers

    def __len__(self) -> int:
        count: int = self._count
        return count

    def __iter__(self) -> Iterator[StackedLayer]:
        layers = self._open()
        return iter([StackedLayer(layers, index) for index in range(self._count)])

    def __getitem__(self, index: int | slice) -> Any:
        layers = self._open()
        if isinstance(index, slice):
            return CallableSlice([StackedLayer(layers, number) for number in range(self._count)[index]])
        return StackedLayer(layers, range(self._count)[index])
