"""LoRA for layers of a net: which can have it, at which paths, and the first params."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from funcnet._context import outside_transforms
from funcnet._errors import ConversionError, InitError, TreeError, bullet_list
from funcnet._typing import Flat, Selector, Tree
from funcnet.core import Net, Param
from funcnet.core.internals import InitContext, StockNet
from funcnet.foreign import Wrapped
from funcnet.low_rank._lora_module import (
    LoraModule,
    adapter_parts,
    find_obstacle,
    module_with_lora,
)
from funcnet.low_rank._lora_net import Lora, first_adapter_values, list_factors, reader_of_children
from funcnet.random.internals import RngArgument, as_rng
from funcnet.tree import join, select, unflatten
from funcnet.tree.internals import describe_unmatched


def lora(
    net: Net,
    selector: Selector,
    *,
    rank: int = 8,
    alpha: float = 16.0,
    dropout: float = 0.0,
    use_rslora: bool = False,
    rng: RngArgument,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> tuple[Net, Tree]:
    """The net with low-rank changes of some weights (LoRA), and their first params, the adapters.

    A weight that is adapted keeps its name and stays as it is; beside it are two small factors, whose product is the
    change. ``tree.combine(params, adapters)`` is the tree of the new net, and ``tree.partition(tree, "**.lora_*")``
    takes it apart again. All params but the adapters are frozen in the new net (``net.frozen``).

    Foreign modules are adapted where they stand: ``to_module`` gives the module with layers such as ``LoraLinear``,
    which are subclasses of what was there. So hundreds of adapters fit one net, and ``vmap`` over a stack of them runs
    each example with its own.

    Args:
        net: a net of any kind.
        selector: paths of the layers to adapt, and of nets in which all are adapted that can be: Linear, Embedding,
            Conv1d to Conv3d, and the Conv1D of transformers. See :func:`funcnet.tree.select`.
        rank: size r of the factors, A (r, in) and B (out, r). B starts at zero, so the outputs are those of ``net``;
            in a table it is A.
        alpha: the change is multiplied by ``alpha / rank``.
        dropout: probability that an element of the input of A is zeroed in training; not in tables, as in peft.
        use_rslora: multiply by ``alpha / sqrt(rank)`` instead.
        rng: a Key; or an int seed: the numbers of ``torch.manual_seed(seed)`` followed by peft's ``get_peft_model``.
        device, dtype: of the adapters, as for ``net.init``. They may be of a larger dtype than the weights.

    Returns:
        ``(net, adapters)``.

    Raises:
        TreeError: if a pattern selects no layer that can be adapted; says why.
        ConversionError: if a layer that is selected is at two paths of a foreign module, and the other is not.
        ValueError: if ``rank`` or ``dropout`` is out of range.

    Source: Hu et al., LoRA, 2021; the names and the arithmetic of peft.

    >>> import funcnet as fn
    >>> net = fn.Sequential({"body": fn.Linear(4, 6), "act": fn.ReLU(), "head": fn.Linear(6, 2)})
    >>> params, _ = net.init(0)
    >>> adapted, adapters = fn.lora(net, "body", rank=2, rng=fn.random.key(1))
    >>> fn.tree.paths(adapters)
    ['body.lora_A.weight', 'body.lora_B.weight']
    >>> x = torch.ones(3, 4)
    >>> bool((adapted(fn.tree.combine(params, adapters), x) == net(params, x)).all())
    True
    >>> adapted.body
    LoraLinear(
      in_features=4, out_features=6, bias=True, rank=2, alpha=16
      (lora_dropout): Identity()
      (lora_A): Linear(in_features=4, out_features=2, bias=False)
      (lora_B): Linear(in_features=2, out_features=6, bias=False)
    )
    """
    if not isinstance(net, Net):
        raise TypeError(f"lora takes a net, got {type(net).__name__}. Of a module fn.from_module(module) makes one.")
    if rank < 1 or not 0 <= dropout < 1:
        raise ValueError(f"rank is at least 1 and dropout in [0, 1), got rank={rank}, dropout={dropout}.")
    source = as_rng(rng)
    if source is None:
        raise InitError("lora needs rng: an int seed (0) or a Key (funcnet.random.key(0)).")
    first_paths = _first_paths(net)
    selected = _select_layers(net, selector, first_paths)
    if problems := list(_iter_rank_problems(selected, rank)):
        raise ConversionError(f"some layers cannot have LoRA of rank {rank}:{bullet_list(problems)}")
    parts_by_path: dict[str, Mapping[str, Any]] = {}
    new_layers: dict[str, Net] = {}
    for path, layer in selected.items():
        new_layers[path], parts_by_path[path] = _adapt_layer(layer, rank, alpha, dropout, use_rslora)
    adapted = net.replaced(new_layers)
    aliases = {
        join(path, name): join(first_paths[path], name)
        for path, layer in new_layers.items()
        for name in list_factors(layer)
        if first_paths[path] != path and first_paths[path] in new_layers
    }
    if aliases:
        adapted = adapted.tie(aliases)
    factors = {join(path, name) for path, layer in new_layers.items() for name in list_factors(layer)}
    adapted = adapted.freeze(lambda path: path not in factors)
    context = InitContext(source, device, dtype, {})
    values: Flat = {}
    for path, parts in parts_by_path.items():
        if first_paths[path] == path or first_paths[path] not in new_layers:
            values.update(first_adapter_values(parts, context, path))
    return adapted, unflatten(values)


def _first_paths(net: Net) -> dict[str, str]:
    """Every path of a net, and the first path at which the module has the same submodule."""
    shared = [
        (join(outer, path), join(outer, first))
        for outer, part in net.named_nets()
        for path, first in part._edits.shared
    ]
    first_paths = {path: path for path, _ in net.named_nets()}
    for path in first_paths:
        for later, first in shared:
            if path == later or path.startswith(f"{later}."):
                first_paths[path] = first_paths[first + path[len(later) :]]
    return first_paths


def _iter_rank_problems(layers: Mapping[str, Net], rank: int) -> Iterator[str]:
    for path, layer in layers.items():
        groups = getattr(layer.twin_module(), "groups", 1)
        if rank % groups:
            yield f"{path!r} has {groups} groups, and {rank} is no multiple of that"


def _select_layers(net: Net, selector: Selector, first_paths: Mapping[str, str]) -> dict[str, Net]:
    """The layers to adapt, by path; one that is at several paths is adapted at all of them."""
    layers: dict[str, Net] = {}
    obstacles: dict[str, str] = {}
    for path, part, obstacle in _iter_layers(net):
        if obstacle is None:
            layers[path] = part
        else:
            obstacles[path] = obstacle
    is_selected = select(selector)
    selected_firsts = {first_paths[path] for path in layers if is_selected(path)}
    problems = describe_unmatched(selector, list(layers))
    if problems or not selected_firsts:
        problems = problems or [f"{selector!r} selects nothing"]
        problems += [f"{path!r} {why}" for path, why in obstacles.items() if is_selected(path)]
        raise TreeError(f"lora finds no layer of {net.title()} to adapt:{bullet_list(problems[:20])}")
    return {path: layer for path, layer in layers.items() if first_paths[path] in selected_firsts}


def _iter_layers(net: Net, path: str = "", obstacle: str | None = None) -> Iterator[tuple[str, Net, str | None]]:
    """Paths, nets, and why a net cannot be adapted; what is inside of an adapted layer is left out."""
    module: nn.Module | None = None
    if isinstance(net, Wrapped):
        module = net.copy_pool.module
    elif isinstance(net, Lora) or not net._children:
        module = net.twin_module()
    why = obstacle or ("is not one layer" if module is None else find_obstacle(module))
    if why and net._facts.one_piece:
        why = f"is a {net.title()}, whose body calls no layers: adapt the net without it, as with stacked=False"
    yield path, net, why
    if isinstance(module, LoraModule):
        return
    uncalled = net.uncalled_parts() if isinstance(net, StockNet) else ()
    for name, child in net._children.items():
        reads = f"is not called: {net.title()} reads its weight" if name in uncalled else None
        yield from _iter_layers(child, join(path, name), reads)


def _adapt_layer(
    layer: Net, rank: int, alpha: float, dropout: float, use_rslora: bool
) -> tuple[Net, Mapping[str, Net | Param]]:
    """The net of a layer with LoRA, and what it has more than the layer."""
    if not isinstance(layer, Wrapped):
        net = Lora.around(layer, rank, alpha, dropout, use_rslora)
        return net, net._adapter_parts()
    children = dict(layer.children)
    with torch.device("meta"), outside_transforms():
        module = layer.as_module()
        parts = adapter_parts(module, rank, dropout)
        children.update({name: part for name, part in parts.items() if isinstance(part, Net)})
        adapted = module_with_lora(module, rank, alpha, dropout, use_rslora, parts)
    return Wrapped.of(adapted, reader_of_children(adapted, children)), parts
