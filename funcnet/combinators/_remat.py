"""A net that keeps nothing for its backward pass and runs again there, as torch.utils.checkpoint does it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from funcnet._context import under_forward_mode, under_transform
from funcnet._typing import Tree, TreeLike
from funcnet.core import InitContext, Net, View, as_net
from funcnet.core.internals import EMPTY_TREE, Call, DelegatingNet, call_and_path
from funcnet.tree import flatten, unflatten


def remat(net: Net | Callable[..., Any]) -> Remat:
    """The same net, which keeps its inputs alone for the backward pass and computes the rest again there.

    Memory for time: of a row of blocks, each in ``remat``, only one at a time holds what its gradient needs. Outputs,
    gradients, draws and new buffers have the bits of ``net``, whose names, params and buffers it has too. Within
    transforms of ``torch.func`` and in forward mode, which would keep everything anyway, it runs as ``net``.

    Args:
        net: the part to compute twice, say a block of a deep model; or a function.

    Returns:
        A net that stands wherever ``net`` could. ``to_module`` makes the module of ``net``: put torch's
        ``checkpoint_wrapper`` around that to compute it twice as well.

    Raises:
        TypeError: if ``net`` is neither; a module is converted first.

    Source: torch.utils.checkpoint, without reentrance.

    >>> import funcnet as fn
    >>> block = fn.Sequential(fn.Linear(4, 16), fn.ReLU(), fn.Dropout(0.5), fn.Linear(16, 4))
    >>> deep = fn.Sequential(*[fn.remat(block) for _ in range(3)])
    >>> params, buffers = deep.init(0)
    >>> def loss(params, x, net):
    ...     return net.apply(params, buffers, x, train=True, rng=fn.random.key(0))[0].square().mean()
    >>> value, grads = fn.value_and_grad(loss)(params, torch.ones(2, 4), deep)
    >>> bool(value == loss(params, torch.ones(2, 4), fn.Sequential(block, block, block)))
    True
    """
    net = as_net("net", net)
    kept_edits = replace(net._edits, replaced=(), dtypes=(), sequences=())  # the others are in the parts already
    return Remat(net)._with_edits(kept_edits)


class RematView(View):
    """The ``p.block`` of a body for a net in ``remat``: called, it keeps its inputs; its names are those of the net."""

    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        prepared = self.net_._prepared()
        view = prepared.open_view(prepared.view_class, self._params, _buffers_of(self), self)
        view._up, view._name = self._up, self._name
        return getattr(view, name)


class Remat(DelegatingNet):
    """A net whose body runs again in the backward pass; see :func:`remat`."""

    net_: Net

    def parts(self) -> Mapping[str, Any]:
        return self.net_._parts

    def title(self) -> str:
        return self.net_.title()

    def delegate(self) -> Net:
        return self.net_

    def check_init(self, path: str) -> None:
        self.net_.check_init(path)

    def first_values(self, context: InitContext, path: str) -> Iterator[tuple[str, Tensor]]:
        return self.net_.first_values(context, path)

    def view_base(self) -> type[View]:
        return RematView

    def as_module(self) -> nn.Module:
        return self.net_.as_module()

    def _with_children(self, nets: Mapping[str, Net], replaced: Mapping[str, Net]) -> Net:
        return Remat(self.net_._with_children(nets, replaced))

    @staticmethod
    def forward(p: View, *inputs: Any, **kwargs: Any) -> Any:
        call, path = call_and_path(p)
        start = call.fork(path)
        prepared = p.net_._prepared()

        def run_from_start(
            params: Tree, buffers: Tree, inputs: tuple[Any, ...], kwargs: dict[str, Any]
        ) -> tuple[Any, Tree, Call]:
            part_call = start.fork()
            return *prepared.run_part(params, buffers, part_call, path, inputs, kwargs), part_call

        buffers = unflatten(flatten(_buffers_of(p)))  # as they are now, for the second run
        keeps_everything = not torch.is_grad_enabled() or under_transform() or under_forward_mode()
        if keeps_everything:
            output, new_buffers, part_call = run_from_start(p._params, buffers, inputs, kwargs)
        else:
            output, new_buffers, part_call = checkpoint(
                run_from_start, p._params, buffers, inputs, kwargs, use_reentrant=False, preserve_rng_state=False
            )
        call.go_on_from(part_call)
        _record_buffers(_buffers_of(p), new_buffers)
        return output


def _buffers_of(view: View) -> Tree:
    return getattr(view, "_buffers", EMPTY_TREE)


def _record_buffers(tree: Tree, new_tree: TreeLike) -> None:
    """Put new buffers into the tree of a call."""
    for key, value in new_tree.items():
        if isinstance(value, Mapping):
            _record_buffers(tree[key], value)
        else:
            tree[key] = value
