"""A layer of funcnet's own with LoRA, as a net."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from funcnet.core import Net, View
from funcnet.core.internals import InitContext, StockNet
from funcnet.foreign import Wrapped
from funcnet.layers import Embedding
from funcnet.low_rank._lora_module import (
    LoraModule,
    adapter_parts,
    add_low_rank,
    module_with_lora,
    scaling_of,
)
from funcnet.random import Stream
from funcnet.tree import join


class Lora(StockNet):
    """A layer and a low-rank change of its weight: ``base(x) + B(A(dropout(x))) * scaling``; see :func:`funcnet.lora`.

    Params: those of the layer under their names; lora_A.weight (r, I), lora_B.weight (O, r). For a table
    lora_embedding_A (r, V), lora_embedding_B (E, r).
    """

    base: Net
    rank: int
    alpha: float
    dropout: float = 0.0
    use_rslora: bool = False

    @classmethod
    def around(cls, base: Net, rank: int, alpha: float, dropout: float, use_rslora: bool) -> Lora:
        """The net around a layer, whose order of tensors it keeps. A table has no dropout."""
        net = cls(base, rank, alpha, 0.0 if isinstance(base, Embedding) else dropout, use_rslora)
        if order := base._edits.order:
            net = net._with_edits(replace(net._edits, order=(*order, *net._adapter_parts())))
        return net

    def _adapter_parts(self) -> Mapping[str, Any]:
        return adapter_parts(self.base.twin_module(), self.rank, self.dropout)

    def title(self) -> str:
        return f"Lora{self.base.title()}"

    def parts(self) -> Mapping[str, Any]:
        return {**self.base._parts, **self._adapter_parts()}

    def constants(self) -> Mapping[str, Any]:
        return {**self.base.constants(), "scaling": scaling_of(self.rank, self.alpha, self.use_rslora)}

    def calls_unknown_code(self) -> bool:
        return not self.base._facts.is_trusted

    def expects(self) -> str:
        return self.base.expects()

    def view_base(self) -> type[View]:
        return self.base.view_base()

    def as_module(self) -> nn.Module:
        parts = self._adapter_parts()
        return module_with_lora(self.base.as_module(), self.rank, self.alpha, self.dropout, self.use_rslora, parts)

    def first_values(self, context: InitContext, path: str) -> Iterator[tuple[str, Tensor]]:
        yield from context.init_net(self.base, path)
        yield from first_adapter_values(self._adapter_parts(), context, path)

    def forward(self, p: View, input: Tensor) -> Tensor:
        return add_low_rank(p, self.base.forward(p, input), input, isinstance(self.base, Embedding))


def lora_net_of_module(module: LoraModule, base: Net, children: Mapping[str, Net]) -> Lora | None:
    """The net of a module with LoRA; None if it has other adapters than those that :func:`funcnet.lora` makes.

    Args:
        module: the module.
        base: the net of the module without LoRA.
        children: the nets of its children.
    """
    dropout = getattr(children.get("lora_dropout"), "p", 0.0)
    net = Lora.around(base, module.rank, module.alpha, dropout, module.use_rslora)
    return net if net._children == dict(children) else None


def first_adapter_values(parts: Mapping[str, Any], context: InitContext, path: str) -> Iterator[tuple[str, Tensor]]:
    """Paths and first values of what a layer at ``path`` gets: the change is zero, as one factor is.

    With an int seed they are the numbers that peft draws. It builds both factors, which draws, before it draws one.
    """
    nets = {name: part for name, part in parts.items() if isinstance(part, Net)}
    values: dict[str, Tensor] = {}
    for name, net in nets.items():
        values.update(context.init_net(net, join(path, name)))
    if "lora_A" in nets:
        if isinstance(context.rng, Stream):
            values.update(context.init_net(nets["lora_A"], join(path, "lora_A")))
        up = join(path, "lora_B.weight")
        values[up] = values[up].new_zeros(values[up].shape)
    else:
        owner = Embedding(1, 1)
        if isinstance(context.rng, Stream):
            for name, part in parts.items():
                context.init_tensor(replace(part, init=parts["lora_embedding_B"].init), join(path, name), owner)
        values.update(
            {join(path, name): context.init_tensor(part, join(path, name), owner) for name, part in parts.items()}
        )
    yield from values.items()


def lora_modules(net: Net) -> dict[str, LoraModule]:
    """The modules of the layers of a net that have LoRA, by path, without numbers."""
    modules: dict[str, LoraModule] = {}
    for path, part in net.named_nets():
        module = part.copy_pool.module if isinstance(part, Wrapped) else None
        if isinstance(part, Lora):
            module = part.twin_module()
        if isinstance(module, LoraModule):
            modules[path] = module
    return modules


def list_factors(layer: Net) -> list[str]:
    """The names of the factors of a layer with LoRA."""
    return [name for name in layer._all_entries if name.startswith("lora_")]


def reader_of_children(module: nn.Module, nets: Mapping[str, Net]) -> Callable[[nn.Module], Net]:
    """The function that returns the net of each child of a module, from the nets by name."""
    names = {id(child): name for name, child in module._modules.items()}
    return lambda child: nets[names[id(child)]]
