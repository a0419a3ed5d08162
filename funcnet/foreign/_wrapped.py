"""A foreign forward as a net: what torch.func.functional_call does, made pure.

functional_call swaps tensors into the module it is given, so two threads corrupt each other; it hands in-place buffer
writes to the caller's tensors; and a forward may draw from the global generator, write to its inputs or leave things
behind on the module. Here it runs on leased copies that hold no weights, with copies of inputs and buffers.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping
from functools import partial
from types import TracebackType
from typing import Any, cast

import torch
from torch import Tensor, nn

from funcnet._context import transform_levels, under_vmap
from funcnet._errors import InitError
from funcnet._global_settings import with_settings_restored
from funcnet._torch import MODULE_CALL_CODE
from funcnet._typing import Tree
from funcnet.core import Buffer, Lazy, Net, Param, View
from funcnet.core.internals import (
    ANY_EFFECT,
    EMPTY_TREE,
    Call,
    ForeignNet,
    PossibleEffects,
    call_and_path,
    dtype_to_declare,
    refuse_unfinished,
)
from funcnet.foreign._carried_values import UNKNOWN_VALUE, carried_value
from funcnet.foreign._compiled_call import run_while_compiling
from funcnet.foreign._draws_by_path import find_drawing_submodule
from funcnet.foreign._gathering_submodules import submodules_gathering
from funcnet.foreign._input_copies import OverlappingInputs, copy_inputs
from funcnet.foreign._leased_copies import CopyPool, LeasedCopy, TrainFlags
from funcnet.kernels.internals import with_guarded_kernels
from funcnet.random import Stream
from funcnet.tree import join


class Wrapped(ForeignNet):
    """A module's own forward as a net. Made by :func:`funcnet.from_module`.

    Params and buffers have the module's keys; ``named_nets`` shows its children. Calls are pure: new buffers are
    returned, inputs and module stay as they are, draws come from ``rng`` by the path of the submodule that draws, and
    threads do not meet. ``net.apply(..., method="encode")`` runs another method of the module than its forward.

    >>> class Twice(nn.Linear):
    ...     def forward(self, x):
    ...         return super().forward(super().forward(x))
    >>> import funcnet as fn
    >>> net, params, buffers = fn.from_module(Twice(2, 2))
    >>> isinstance(net, Wrapped), net(params, torch.ones(1, 2)).shape
    (True, torch.Size([1, 2]))
    """

    copy_pool: CopyPool
    children: tuple[tuple[str, Net], ...]
    tensors: tuple[tuple[str, Param | Buffer], ...]
    gathering_paths: tuple[str, ...] = ()

    @classmethod
    def of(cls, module: nn.Module, convert: Callable[[nn.Module], Net]) -> Wrapped:
        """The net for a module; ``convert`` makes those of its children."""
        tensors: dict[str, Param | Buffer] = {}
        for name, param in module._parameters.items():
            if param is not None:
                tensors[name] = Param(tuple(param.shape), UNKNOWN_VALUE, dtype_to_declare(param))
        for name, buffer in module._buffers.items():
            if buffer is not None:
                is_persistent = name not in module._non_persistent_buffers_set
                scheme = UNKNOWN_VALUE if is_persistent else carried_value(buffer)
                tensors[name] = Buffer(tuple(buffer.shape), scheme, dtype_to_declare(buffer), is_persistent)
        children = tuple((name, convert(child)) for name, child in module._modules.items() if child is not None)
        return cls(CopyPool(module), children, tuple(tensors.items()))

    def _with_children(self, nets: Mapping[str, Net], replaced: Mapping[str, Net]) -> Net:
        lazy = [path for path, net in replaced.items() for _, part in net.named_nets() if isinstance(part, Lazy)]
        if lazy:
            raise InitError(f"{', '.join(map(repr, lazy))}: lazy layers have no shape yet; give the layers that fit.")
        around = {
            join(name, path): net
            for name, child in nets.items()
            for path, net in child.named_nets()
            if any(replaced_path.startswith(f"{join(name, path)}.") for replaced_path in replaced)
        }
        children = tuple((name, nets.get(name, net)) for name, net in self.children)
        fields = {"copy_pool": self.copy_pool.with_nets(replaced, around), "children": children}
        return type(self)(**{**self._field_values(), **fields})

    def _gathering(self, paths: Collection[str]) -> Net:
        if "" in paths:
            return super()._gathering(paths)
        return type(self)(**{**self._field_values(), "gathering_paths": tuple(paths)})._with_edits(self._edits)

    def title(self) -> str:
        return type(self.copy_pool.module).__name__

    def parts(self) -> Mapping[str, Any]:
        return {**dict(self.tensors), **dict(self.children)}

    def module_repr(self) -> str | None:
        return self.copy_pool.module_repr

    def code_classes(self) -> set[type]:
        classes = {type(submodule) for submodule in self.copy_pool.module.modules()}
        return {cls for cls in classes if not cls.__module__.startswith(("torch.", "funcnet."))}

    def possible_effects(self) -> PossibleEffects:
        return self.copy_pool.effects

    def is_recurrent(self) -> bool:
        return any(isinstance(submodule, nn.RNNBase) for submodule in self.copy_pool.module.modules())

    def normalises_batches(self) -> bool:
        has_norms = any(isinstance(submodule, _BATCH_NORMS) for submodule in self.copy_pool.module.modules())
        return has_norms or "batch_norm" in self.copy_pool.words

    def as_module(self) -> nn.Module:
        return copy.deepcopy(self.copy_pool.module).train()

    def check_init(self, path: str) -> None:
        raise InitError(
            f"{self.title()} at {path or 'the root'!r} initialises itself in Python code that funcnet cannot replay. "
            f"Build the module under torch.manual_seed(seed) and take its params from funcnet.from_module(module)."
        )

    def called_function(self, method: str) -> Callable[..., Any]:
        function: Callable[..., Any] = getattr(self.copy_pool.module, method)
        return function

    def find_running_submodule(self, trace: TracebackType | None) -> tuple[str, dict[str, Any]] | None:
        title_and_inputs: tuple[str, dict[str, Any]] | None = None
        leased: LeasedCopy | None = None
        path = ""
        while trace is not None:
            code, values = trace.tb_frame.f_code, trace.tb_frame.f_locals
            if code in (_FORWARD_CODE, _RUN_CODE):
                leased, path = values.get("leased"), call_and_path(values["p"])[1]
            if code is MODULE_CALL_CODE and leased is not None and id(values["self"]) in leased.path_by_id:
                full_path = join(path, leased.path_by_id[id(values["self"])])
                inputs = {f"input {index}": value for index, value in enumerate(values["args"])} | values["kwargs"]
                title_and_inputs = f"{type(values['self']).__name__}{f' at {full_path!r}' if full_path else ''}", inputs
            trace = trace.tb_next
        return title_and_inputs

    def method(self, view: View, name: str) -> Callable[..., Any]:
        module = self.copy_pool.module
        if name.startswith("__") or not callable(getattr(module, name, None)):
            raise AttributeError(f"{type(module).__name__} has no method {name!r} to run.")
        return partial(self._run_method, view, name)

    def forward(self, p: View, *inputs: Any, **kwargs: Any) -> Any:
        pool = self.copy_pool
        if torch.compiler.is_compiling() or self.gathering_paths or not pool.only_computes:
            return self._run_method(p, None, *inputs, **kwargs)
        call = p._up  # from here on, few steps: this is what a call costs more than that of the module
        while type(call) is not Call:
            call = call._up
        flags: TrainFlags = call.train if isinstance(call.train, bool) else self._train_flags(p, call)
        buffers = getattr(p, "_buffers", EMPTY_TREE)
        if kwargs or len(inputs) != 1 or type(inputs[0]) is not Tensor:
            inputs, kwargs = copy_inputs(inputs, kwargs, copies_tensors=False)
        if flags is not False and buffers and under_vmap():
            _give_batch_axes(buffers, _list_tensors((p._params, inputs, kwargs)))
        leased = pool.lease_copy(flags)
        leased.put_tensors(p._params, buffers, is_watched=False)
        output = leased.module(*inputs, **kwargs)
        if type(output) is not Tensor:
            refuse_unfinished(self.title(), output)
        output = leased.replace_aliases(output)
        if flags is not False and buffers and not call.closed:
            leased.record_buffers(buffers)
        pool.return_copy(flags, leased)
        return output

    def _run_method(self, p: View, method: str | None, /, *inputs: Any, **kwargs: Any) -> Any:
        """Run the forward, or another method of the module, and record new buffers in the tree of the call."""
        call = call_and_path(p)[0]
        flags: TrainFlags = call.train if isinstance(call.train, bool) else self._train_flags(p, call)
        buffers = getattr(p, "_buffers", EMPTY_TREE)  # the call's own tree, made for writing
        is_known = method is None and not (self.gathering_paths or torch.compiler.is_compiling())
        effects = self.copy_pool.effects if is_known else ANY_EFFECT
        given = inputs, kwargs
        inputs, kwargs = copy_inputs(inputs, kwargs, effects.writes_in_place)
        if flags is not False and buffers and (under_vmap() or torch.compiler.is_compiling()):
            _give_batch_axes(buffers, _list_tensors((p._params, inputs, kwargs)))
        if torch.compiler.is_compiling():
            return run_while_compiling(self.copy_pool, flags, method, p, call, p._params, buffers, inputs, kwargs)
        overlapping = OverlappingInputs(*given, inputs, kwargs) if effects.writes_in_place else None
        leased = self.copy_pool.lease_copy(flags)
        leased.put_tensors(p._params, buffers, is_watched=effects.changes_module)
        module = leased.module
        run = module if method is None else getattr(module, method)
        if self.copy_pool.calls_wrong_kernels:
            run = with_guarded_kernels(run)
        if self.gathering_paths:
            run = self._run_gathering(run, module, p._params)
        if self.copy_pool.settings:
            run = with_settings_restored(run, self.copy_pool.settings)
        if call.rng is None or not effects.draws or (type(call.rng) is Stream and call.rng.is_global):
            output = run(*inputs, **kwargs)
        else:
            leased.call = call
            outer_find_drawing_path, call.find_drawing_path = (
                call.find_drawing_path,
                partial(find_drawing_submodule, p, leased, self.copy_pool.learn_drawing_path, _RUN_CODE),
            )
            try:
                output = run(*inputs, **kwargs)
            finally:
                leased.call, call.find_drawing_path = None, outer_find_drawing_path
        if overlapping is not None:
            overlapping.check(self.title())
        if buffers and not call.closed and (flags is not False or effects.writes_in_place):
            leased.record_buffers(buffers)
        if type(output) is not Tensor:
            refuse_unfinished(self.title(), output)
        output = leased.replace_aliases(output)
        del module, run  # because all references to the copy are counted
        self.copy_pool.return_copy(flags, leased)
        return output

    def _run_gathering(self, run: Callable[..., Any], module: nn.Module, params: Tree) -> Callable[..., Any]:
        """A method of a leased copy, some submodules of which gather their params when they are called."""

        def run_gathering(*inputs: Any, **kwargs: Any) -> Any:
            with submodules_gathering(module, self.gathering_paths, params):
                return run(*inputs, **kwargs)

        return run_gathering

    def _train_flags(self, view: View, call: Call) -> tuple[bool, ...]:
        path, is_training = call_and_path(view)[1], cast(Callable[[str], bool], call.train)
        return tuple(bool(is_training(join(path, submodule_path))) for submodule_path in self.copy_pool.paths)


_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_FORWARD_CODE, _RUN_CODE = Wrapped.forward.__code__, Wrapped._run_method.__code__


# --- buffers under vmap ---


def _list_tensors(value: object) -> list[Tensor]:
    """The tensors in nested dicts, lists and tuples; only those, because the compiler traces this function."""
    if isinstance(value, Tensor):
        return [value]
    items = value.values() if isinstance(value, Mapping) else value if isinstance(value, (list, tuple)) else ()
    return [tensor for item in items for tensor in _list_tensors(item)]


def _give_batch_axes(buffers: Tree, inputs: list[Tensor]) -> None:
    """Give every buffer the batch axes of the inputs; else vmap lets no batched value be written to it."""
    zeros: dict[frozenset[tuple[str, int]], Tensor] = {}
    for tensor in inputs:
        levels = frozenset() if torch.compiler.is_compiling() else frozenset(transform_levels(tensor))
        if levels not in zeros and tensor.is_floating_point():
            zeros[levels] = tensor.detach().new_zeros(())
    total = sum(zeros.values())
    if isinstance(total, Tensor):
        _add_zero(buffers, total)


def _add_zero(tree: Tree, zero: Tensor) -> None:
    for key, value in tree.items():
        if isinstance(value, dict):
            _add_zero(value, zero)
        elif value.is_floating_point():  # counters stay as they are: modules read them as numbers
            tree[key] = value + zero.to(value.dtype)
