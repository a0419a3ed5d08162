"""A net that keeps nothing for its backward pass and runs again there, as torch.utils.checkpoint does it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from typing_extensions import Self

from funcnet._context import outside_transforms, planned_derivatives, under_forward_mode, under_transform
from funcnet._typing import Tree, TreeLike
from funcnet.core import InitContext, Net, View, as_net
from funcnet.core.internals import EMPTY_TREE, Call, TransparentNet, call_and_path
from funcnet.kernels.internals import differentiable_kernels
from funcnet.ranks import current_run, running_on_ranks
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
    return Remat(net)._with_edits(net._edits.beside_parts())


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


class Remat(TransparentNet):
    """A net whose body runs again in the backward pass; see :func:`remat`.

    >>> import funcnet as fn
    >>> net = fn.remat(fn.Linear(2, 3))
    >>> isinstance(net, Remat), fn.tree.paths(net.init(0)[0])
    (True, ['weight', 'bias'])
    """

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

    def _gathering(self, paths: Collection[str]) -> Net:
        return Remat(self.net_._gathering(paths))._with_edits(self._edits)  # inside, so that it gathers again

    @staticmethod
    def forward(p: View, *inputs: Any, **kwargs: Any) -> Any:
        call, path = call_and_path(p)
        rank_run = current_run()
        start = call.fork(path)
        prepared = p.net_._prepared()

        def run_from_start(
            params: Tree, buffers: Tree, inputs: tuple[Any, ...], kwargs: dict[str, Any]
        ) -> tuple[Any, Tree, Call]:
            part_call = start.fork()
            with running_on_ranks(rank_run):  # which is over when the backward pass comes
                return *prepared.run_part(params, buffers, part_call, path, inputs, kwargs), part_call

        buffers = unflatten(flatten(_buffers_of(p)))  # as they are now, for the second run
        keeps_everything = not torch.is_grad_enabled() or under_transform() or under_forward_mode()
        if keeps_everything:
            output, new_buffers, part_call = run_from_start(p._params, buffers, inputs, kwargs)
        else:
            run = partial(checkpoint, run_from_start, use_reentrant=False, preserve_rng_state=False)
            if not torch.compiler.is_compiling():
                run = partial(run, context_fn=lambda: (contextlib.nullcontext(), ContextOfSecondRun()))
            output, new_buffers, part_call = run(p._params, buffers, inputs, kwargs)
        call.go_on_from(part_call)
        _record_buffers(_buffers_of(p), new_buffers)
        return output


class ContextOfSecondRun(contextlib.ExitStack):
    """A context, to be entered as often as there are backward passes, in which kernels are those of the first run.

    The backward pass runs where nobody plans derivatives any more, and maybe under a vmap over the rows of a Hessian,
    which does not concern the tensors of the run.
    """

    def __init__(self) -> None:
        super().__init__()
        self.is_second, self.is_mapped = planned_derivatives()

    def __enter__(self) -> Self:
        self.enter_context(outside_transforms())
        if self.is_second or self.is_mapped:
            self.enter_context(differentiable_kernels(self.is_second, self.is_mapped))
        return super().__enter__()


def _buffers_of(view: View) -> Tree:
    return getattr(view, "_buffers", EMPTY_TREE)


def _record_buffers(tree: Tree, new_tree: TreeLike) -> None:
    """Put new buffers into the tree of a call."""
    for key, value in new_tree.items():
        if isinstance(value, Mapping):
            _record_buffers(tree[key], value)
        else:
            tree[key] = value
