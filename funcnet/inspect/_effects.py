"""What a call does besides computing its output, found out by watching one."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from funcnet._typing import TreeLike
from funcnet.adapters import to_module
from funcnet.core import Net
from funcnet.foreign.internals import copy_with_tensors
from funcnet.inspect._effect import Effects
from funcnet.inspect._origins import Held, Origins, leaves_in
from funcnet.inspect._places import spelled
from funcnet.inspect._versions import Versions
from funcnet.inspect._watch import Functions, Watch
from funcnet.random import Stream
from funcnet.random.internals import GLOBAL_GENERATORS_LOCK, as_rng, lend_python_generators

Axes: TypeAlias = "int | tuple[int | None, ...] | None"


def effects(
    model: Net | nn.Module,
    /,
    *inputs: Any,
    buffers: TreeLike | None = None,
    train: bool = False,
    batch_dim: Axes = 0,
    rng: Any = None,
    **kwargs: Any,
) -> Effects:
    """What a call does besides computing its output, by path and with the line of user code.

    There are six kinds: it **draws**, **writes buffer**, **mixes examples** of a batch, **reads outside tensor** (one
    that is no parameter, buffer or input), **mutates input**, **branches on data**. They are what torch.vmap fails on,
    or answers otherwise than the batch; printed, the report says what each means, and what to write instead.

    The call runs once, on copies and in the caller's grad mode: nothing given is changed, and the global generators are
    left as they are. A net runs as its module. What is said holds for this call: its branches, mode and shapes. It
    cannot show

    * code that did not run, or that is compiled or scripted;
    * what is computed from a number once ``item()`` has read it: that it was read is reported;
    * a mixture that changes no bit in this run. Of more than four examples the first, second, middle and last are
      changed in turn, which ``any`` or a maximum of probabilities may not notice. Examples that differ show most;
    * what is left behind and is no tensor: a counter or a list on the module, a print, a file.

    Args:
        model: a module; or a net, whose params come next.
        inputs, kwargs: what the call takes; after the params, if ``model`` is a net.
        buffers: of a net.
        train: the mode of the call; a module's own flags are not looked at.
        batch_dim: the axis of examples, of every input that is as long there as the first; or as in torch.vmap one for
            each input, None for an input that is the same for all. None if there are no examples.
        rng: a Key or an int seed for the draws; which one matters only to a branch on what is drawn.

    Returns:
        The effects: false if there are none, ``of(kind)`` and ``at(path)`` for some, print it for a table.

    Raises:
        TreeError: if params or buffers do not fit the net.
        ConversionError: if the module cannot be copied.
        TypeError: if ``model`` is neither a net nor a module, or a net comes without params.

    Errors of the call itself are raised as they are; a note says at which path.

    >>> print(len(effects(nn.Linear(2, 3), torch.ones(4, 2))))
    0
    >>> model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Dropout())
    >>> x = torch.arange(8.0).view(4, 2)
    >>> [(effect.path, effect.kind) for effect in effects(model, x, train=True)]
    [('1', 'writes buffer'), ('1', 'mixes examples'), ('2', 'draws')]
    >>> bool(effects(model, x))
    False
    """
    module, inputs = _private_module(model, inputs, buffers)
    module.train(train)
    (inputs, kwargs), given = _private_inputs(inputs, kwargs)
    named = [(f"input {index}", value) for index, value in enumerate(inputs)]
    named += [(f"input {name!r}", value) for name, value in kwargs.items()]
    origins = Origins(module, [(name, leaf) for name, value in named for leaf in leaves_in(value)])
    for tensor in given:  # in objects that torch cannot look into
        origins.hold(tensor, Held("inputs", "an input"))
    with torch.no_grad():
        versions = Versions(_batch(inputs, kwargs, batch_dim))
    watch = Watch(module, origins, versions)
    with own_generators(rng, given):
        try:
            with watch, Functions(watch):
                output = module(*inputs, **kwargs)
        except Exception as error:
            if watch.places.failed is not None and hasattr(error, "add_note"):
                error.add_note(
                    f"funcnet.effects ran the model, which failed at {spelled(watch.places.failed[1].path)}."
                )
            raise
        finally:
            watch.put_back()
        with torch.no_grad():
            watch.finish(output)
    notes = list(dict.fromkeys(watch.notes))
    if batch_dim is not None and not versions.changed:
        notes.append("whether examples mix: give at least two that differ")
    return Effects(watch.effects(), tuple(notes))


def _private_module(model: Any, inputs: tuple[Any, ...], buffers: Any) -> tuple[nn.Module, tuple[Any, ...]]:
    """A copy of the module, or the module of a net, and its inputs."""
    if isinstance(model, Net):
        if not inputs:
            raise TypeError(f"effects of a net takes its params first: fn.effects({model.title()}, params, *inputs).")
        return to_module(model, inputs[0], buffers), inputs[1:]
    if not isinstance(model, nn.Module):
        raise TypeError(f"effects takes a net or an nn.Module, not {model!r:.80}.")
    if buffers is not None:
        raise TypeError("a module holds its buffers itself: leave buffers out.")
    return copy_with_tensors(model, _own, "effects runs a copy"), inputs


def _own(tensor: Tensor) -> Tensor:
    made = tensor.detach().clone()
    return nn.Parameter(made, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else made


def _private_inputs(inputs: Any, kwargs: Any) -> tuple[tuple[Any, Any], list[Tensor]]:
    """Copies of the inputs, one for each tensor, and all the tensors in them."""
    memo: dict[int, Any] = {}
    for leaf in leaves_in((inputs, kwargs)):
        memo.setdefault(id(leaf), _private(leaf))
    copied = copy.deepcopy((tuple(inputs), kwargs), memo)
    return copied, [value for value in memo.values() if isinstance(value, Tensor)]


def _private(tensor: Tensor) -> Tensor:
    made = tensor.detach().clone().requires_grad_(tensor.requires_grad)
    return made if tensor.is_leaf else made.clone()


def _batch(inputs: Any, kwargs: Any, batch_dim: Axes) -> list[tuple[Tensor, int]]:
    """The tensors that hold examples, each with its axis of them."""
    if batch_dim is None:
        return []
    if isinstance(batch_dim, tuple):
        if len(batch_dim) != len(inputs):
            raise ValueError(f"batch_dim has {len(batch_dim)} entries for {len(inputs)} inputs.")
        pairs = zip(inputs, batch_dim, strict=True)
        return [(leaf, axis) for value, axis in pairs if axis is not None for leaf in leaves_in(value)]
    axis = batch_dim
    leaves = [leaf for leaf in leaves_in((inputs, kwargs)) if -leaf.dim() <= axis < leaf.dim()]
    return [(leaf, axis) for leaf in leaves if leaf.shape[axis] == leaves[0].shape[axis]]


@contextmanager
def own_generators(rng: Any, given: list[Tensor]) -> Iterator[None]:
    """Lend the global generators of torch, Python and NumPy to a block, and put them back."""
    source = as_rng(rng)
    seed = 0 if source is None else source.seed if isinstance(source, Stream) else int(source)
    devices = sorted({tensor.device.index for tensor in given if tensor.device.type == "cuda"})
    with GLOBAL_GENERATORS_LOCK, torch.random.fork_rng(devices), lend_python_generators(source):
        for generator in (torch.default_generator, *(torch.cuda.default_generators[index] for index in devices)):
            generator.manual_seed(seed or 0)
        yield
