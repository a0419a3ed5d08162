"""New statistics of batch normalisation for params that no training step has run with, such as an average."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from funcnet._errors import ConversionError, bullet_list
from funcnet._typing import Tree, TreeLike
from funcnet.core import Net
from funcnet.core.internals import ForeignNet
from funcnet.layers import BatchNorm1d, BatchNorm2d, BatchNorm3d, SyncBatchNorm
from funcnet.random import fold_in
from funcnet.random.internals import RngArgument, as_rng
from funcnet.tree import flatten, join
from funcnet.tree import replace as replace_leaf

_BATCH_NORMS = (BatchNorm1d, BatchNorm2d, BatchNorm3d, SyncBatchNorm)
_BATCH_NORM_MODULES = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def update_bn(loader: Iterable[Any], net: Net, params: TreeLike, buffers: TreeLike, *, rng: RngArgument = None) -> Tree:
    """The buffers with the batch statistics that some data has under these params.

    It does what :func:`torch.optim.swa_utils.update_bn` does to a module, with the same bits: the statistics of every
    BatchNorm start anew and become the plain mean over all batches of the loader, which runs once in training mode.

    Args:
        loader: batches; of a list or tuple the first item is the input.
        net: the net. Nets without a BatchNorm that tracks statistics give ``buffers`` back as they are.
        params: the params, those of an average for example.
        buffers: the buffers; they stay as they are.
        rng: for nets that draw in training mode: of a Key each batch gets ``fold_in(key, batch)``, and with an int seed
            the batches draw in turn from ``torch.manual_seed(seed)``.

    Raises:
        ConversionError: if how statistics are averaged cannot be changed: in a traced net, or in a module that inherits
            from a BatchNorm of torch.

    >>> import funcnet as fn
    >>> net = fn.Sequential(fn.Linear(2, 3), fn.BatchNorm1d(3))
    >>> params, buffers = net.init(0)
    >>> update_bn([torch.ones(4, 2), torch.zeros(4, 2)], net, params, buffers)["1"]["num_batches_tracked"]
    tensor(2)
    """
    layers = {path: layer for path, layer in net.named_nets() if isinstance(layer, _BATCH_NORMS)}
    _refuse_batch_norm_subclasses(net)
    flat_buffers = flatten(buffers)
    start_values: dict[str, Tensor] = {}
    for path in layers:
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            if join(path, name) in flat_buffers:
                buffer = flat_buffers[join(path, name)]
                start_values[join(path, name)] = (
                    torch.ones_like(buffer) if name == "running_var" else torch.zeros_like(buffer)
                )
    if not layers:
        return dict(buffers)
    averaging_net = net.replaced({path: replace(layer, momentum=None) for path, layer in layers.items()})
    new_buffers: Tree = dict(buffers)
    for path, value in start_values.items():
        new_buffers = replace_leaf(new_buffers, path, value)
    checked_rng = as_rng(rng)
    with torch.no_grad():
        for index, batch in enumerate(loader):
            input = batch[0] if isinstance(batch, (list, tuple)) else batch
            key = fold_in(checked_rng, index) if isinstance(checked_rng, Tensor) else checked_rng
            _, new_buffers = averaging_net.apply(params, new_buffers, input, train=True, rng=key)
    return new_buffers


def _refuse_batch_norm_subclasses(net: Net) -> None:
    """Refuse subclasses of torch's BatchNorm: a net runs them as foreign modules."""
    foreign = [(path, part.as_module()) for path, part in net.named_nets() if isinstance(part, ForeignNet)]
    problems = [
        f"{path or 'the root'!r} is a {type(module).__name__}"
        for path, module in foreign
        if isinstance(module, _BATCH_NORM_MODULES)
    ]
    if problems:
        raise ConversionError(
            f"update_bn cannot change how these average their statistics:{bullet_list(problems)}\n"
            "Use torch.optim.swa_utils.update_bn on funcnet.to_module(net, params, buffers)."
        )
