"""What a call does besides computing its output, found by running it once on copies and watching."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from funcnet._errors import add_note
from funcnet._typing import TreeLike
from funcnet.adapters import to_module
from funcnet.core import Net
from funcnet.core.internals import find_unfinished
from funcnet.foreign.internals import copy_with_tensors
from funcnet.inspect._call_watch import CallWatch, TorchFunctionWatch
from funcnet.inspect._code_locations import describe_path
from funcnet.inspect._effect_report import Effects
from funcnet.inspect._example_versions import ExampleVersions
from funcnet.inspect._repeated_calls import CallMaker, RepeatedCalls, name_inputs
from funcnet.inspect._tensor_origins import GivenMemory, TensorOrigins, tensor_leaves
from funcnet.random import Stream
from funcnet.random.internals import (
    GLOBAL_GENERATORS_LOCK,
    RngArgument,
    as_rng,
    lend_python_generators,
    preserve_torch_state,
)

Axes: TypeAlias = "int | tuple[int | None, ...] | None"


def effects(
    model: Net | nn.Module,
    /,
    *inputs: Any,
    buffers: TreeLike | None = None,
    train: bool = False,
    batch_dim: Axes = 0,
    rng: RngArgument = None,
    **kwargs: Any,
) -> Effects:
    """What a call does besides computing its output, by path and with the line of user code.

    There are eleven kinds of effects. A call **draws**; it **writes buffer**; it **keeps state** for the next call (an
    attribute, a list, a global, an attribute of a class, a default argument, the cache of a function, a parameter or
    submodule that it makes); it **changes setting**s of the process (the grad mode, a default dtype, a filter of
    warnings); it **reaches outside** (a clock, a file, the environment, the operating system); or it
    **differs if repeated** with equal inputs and draws, for whatever reason. It **mixes examples** of a batch, **reads
    outside tensor** (a tensor that is not a parameter, buffer or input), **mutates input** (a tensor or a container),
    or **branches on data**. Or it calls a **wrong kernel** of torch's, in a way in which that may show. On these
    torch.vmap fails, or gives another result than the batch. The printed report says what each kind means, and what to
    write instead; rows that differ in numbers of layers only are one row there.

    The call runs on copies and in the caller's grad mode: once operator by operator, twice on one copy, to see whether
    the second call gives the same, and once or twice line by line, to see which line keeps what was kept. Nothing that
    is passed in is changed; globals, attributes of classes and global generators are put back. What the code does to
    the world, such as a line in a file, happens each time. A net runs as its module. The report holds for this call,
    that is for its branches, mode and shapes. It cannot show

    * code that did not run, or that is compiled or scripted;
    * what is computed from a number after ``item()`` has read it; that it was read is reported;
    * a mixture of examples that changes no bit in this run. Of more than four examples the first, second, middle and
      last are changed in turn, which ``any`` or a maximum of probabilities may not notice. Use examples that differ;
    * state in objects without contents that Python can see (iterators, generators, extensions in C), in globals and
      attributes of classes that the code does not call by name (``setattr``, ``globals()``), and in other threads or
      processes. It is noticed if the second call gives something else;
    * state that was put back before the call ended, which is harmless unless two threads call at once;
    * what is printed or logged, and files and clocks that torch or another extension uses by itself.

    Args:
        model: a module; or a net, whose params come next.
        inputs, kwargs: the inputs of the call; they come after the params, if ``model`` is a net.
        buffers: the buffers of a net.
        train: the mode of the call; the flags of a module are not read.
        batch_dim: the axis of examples in every input that is as long there as the first input; or, as in torch.vmap,
            one axis for each input, with None for an input that is the same for all examples. None if there are no
            examples.
        rng: a Key or an int seed for the draws; which of them matters only if the code branches on what is drawn.

    Returns:
        The effects: false if there are none, ``of(kind)`` and ``at(path)`` select from them, print it for a table.

    Raises:
        TreeError: if params or buffers do not fit the net.
        ConversionError: if the module cannot be copied.
        TypeError: if ``model`` is neither a net nor a module, or a net comes without params.

    Errors of the call itself are raised as they are, with a note that names the path.

    >>> print(len(effects(nn.Linear(2, 3), torch.ones(4, 2))))
    0
    >>> model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Dropout())
    >>> x = torch.arange(8.0).view(4, 2)
    >>> [(effect.path, effect.kind) for effect in effects(model, x, train=True)]
    [('1', 'writes buffer'), ('1', 'mixes examples'), ('2', 'draws')]
    >>> bool(effects(model, x))
    False
    """
    copy_module, inputs = _make_copier(model, inputs, buffers, train)
    (args, named), copied_tensors = _copy_inputs(inputs, kwargs)
    maker = CallMaker(
        copy_module, lambda: _copy_inputs(inputs, kwargs)[0], lambda: lend_global_generators(rng, copied_tensors)
    )
    module = copy_module()
    repeated_calls = RepeatedCalls(maker)
    origins = TensorOrigins(
        module, [(name, leaf) for name, value in name_inputs(args, named) for leaf in tensor_leaves(value)]
    )
    for tensor in copied_tensors:  # those in objects that torch cannot look into have no name yet
        origins.register(tensor, GivenMemory("inputs", "an input"))
    with torch.no_grad():
        versions = ExampleVersions(_find_batch(args, named, batch_dim))
    watch = CallWatch(module, origins, versions)
    watch.reports_wrong_kernels = isinstance(model, nn.Module)
    with maker.lend_generators(), repeated_calls.undo_changes():
        try:
            with watch, TorchFunctionWatch(watch):
                output = module(*args, **named)
        except Exception as error:
            if watch.stack.failure is not None:
                path = describe_path(watch.stack.failure[1].path)
                add_note(error, f"funcnet.effects ran the model, which failed at {path}.")
            raise
        finally:
            watch.undo_writes()
        with torch.no_grad():
            watch.check_output(output)
    repeated_calls.report_repeats(watch)
    notes = list(dict.fromkeys(watch.notes))
    if (unfinished := find_unfinished(output)) is not None:
        notes.append(f"what the {unfinished} that the call returned does when it is read: return a list")
    if batch_dim is not None and not versions.has_changed:
        notes.append("whether examples mix: give at least two that differ")
    return Effects(watch.list_effects(), tuple(notes))


def _make_copier(
    model: Net | nn.Module, inputs: tuple[Any, ...], buffers: TreeLike | None, train: bool
) -> tuple[Callable[[], nn.Module], tuple[Any, ...]]:
    """A function that copies the module, or the module of a net, and the inputs without the params of a net."""
    if isinstance(model, Net):
        if not inputs:
            raise TypeError(f"effects of a net takes its params first: fn.effects({model.title()}, params, *inputs).")
        net, params = model, inputs[0]
        return lambda: to_module(net, params, buffers).train(train), inputs[1:]
    if not isinstance(model, nn.Module):
        raise TypeError(f"effects takes a net or an nn.Module, not {model!r:.80}.")
    if buffers is not None:
        raise TypeError("a module holds its buffers itself: leave buffers out.")
    module = model

    def copy_module() -> nn.Module:
        return copy_with_tensors(module, _clone_parameter_or_buffer, "effects runs a copy").train(train)

    return copy_module, inputs


def _clone_parameter_or_buffer(tensor: Tensor) -> Tensor:
    clone = tensor.detach().clone()
    return nn.Parameter(clone, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else clone


def _copy_inputs(inputs: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[tuple[Any, Any], list[Tensor]]:
    """Copies of the inputs, in which a tensor that is there twice stays one, and all tensors in the copies."""
    copies: dict[int, Any] = {}
    for leaf in tensor_leaves((inputs, kwargs)):
        copies.setdefault(id(leaf), _clone_input(leaf))
    copied = copy.deepcopy((tuple(inputs), kwargs), copies)
    return copied, [value for value in copies.values() if isinstance(value, Tensor)]


def _clone_input(tensor: Tensor) -> Tensor:
    clone = tensor.detach().clone().requires_grad_(tensor.requires_grad)
    return clone if tensor.is_leaf else clone.clone()


def _find_batch(inputs: Sequence[Any], kwargs: Mapping[str, Any], batch_dim: Axes) -> list[tuple[Tensor, int]]:
    """The tensors that hold examples, each with its axis of examples."""
    if batch_dim is None:
        return []
    if isinstance(batch_dim, tuple):
        if len(batch_dim) != len(inputs):
            raise ValueError(f"batch_dim has {len(batch_dim)} entries for {len(inputs)} inputs.")
        pairs = zip(inputs, batch_dim, strict=True)
        return [(leaf, axis) for value, axis in pairs if axis is not None for leaf in tensor_leaves(value)]
    axis = batch_dim
    leaves = [leaf for leaf in tensor_leaves((inputs, kwargs)) if -leaf.dim() <= axis < leaf.dim()]
    return [(leaf, axis) for leaf in leaves if leaf.shape[axis] == leaves[0].shape[axis]]


@contextmanager
def lend_global_generators(rng: RngArgument, tensors: Sequence[Tensor]) -> Iterator[None]:
    """Seed the global generators of torch, Python and NumPy for a block, and put them back after it.

    Args:
        rng: a Key or an int seed.
        tensors: the tensors that the block runs on, for their devices.
    """
    source = as_rng(rng)
    seed = 0 if source is None else source.seed if isinstance(source, Stream) else int(source)
    devices = sorted({tensor.device.index for tensor in tensors if tensor.device.type == "cuda"})
    with GLOBAL_GENERATORS_LOCK, preserve_torch_state(), lend_python_generators(source):
        for generator in (torch.default_generator, *(torch.cuda.default_generators[index] for index in devices)):
            generator.manual_seed(seed or 0)
        yield
