"""A foreign forward while torch.compile or torch.export traces it.

The compiler knows ``torch.func.functional_call``, and neither frames nor reference counts. So here the forward runs on
one copy per mode, and what it changes there is put back in the code that is traced.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.func import functional_call

from funcnet._torch import assume_constant_result, pytree
from funcnet._typing import Tree, TreeLike
from funcnet.core import View
from funcnet.core.internals import Call
from funcnet.foreign._draws_by_path import path_in_compiled_call
from funcnet.foreign._parameter_answers import TrainedParameterInCall, as_parameter
from funcnet.tree import flatten

if TYPE_CHECKING:
    from funcnet.foreign._leased_copies import CopyPool, TrainFlags


def run_while_compiling(
    pool: CopyPool,
    flags: TrainFlags,
    method: str | None,
    view: View,
    call: Call,
    params: TreeLike,
    buffers: Tree,
    inputs: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> Any:
    """Run the forward of the pool's module, or another method, and record new buffers in ``buffers``."""
    _prepare_copy(pool, flags)
    module = pool.compiled[flags]
    flat_buffers = flatten(buffers)
    # Each attribute of a module has one name here, and functional_call is told of no ties: it fails on some of them.
    tensors: dict[str, Tensor] = {
        pool.first_names[path]: tensor for path, tensor in {**flatten(params), **flat_buffers}.items()
    }
    for path in pool.renormed_weights:
        tensors[path] = tensors[path].clone()
    for path, cls in pool.classes_when_compiled.items():
        tensors[path] = as_parameter(tensors[path], cls)
    outer_find_drawing_path, call.find_drawing_path = call.find_drawing_path, partial(path_in_compiled_call, view)
    prefix = ""
    if method is not None:
        module, prefix = _MethodAsForward(module, method), "module."
        tensors = {prefix + path: tensor for path, tensor in tensors.items()}
    state = pool.states_when_compiled[flags]
    state.begin()
    for reference in pool.references_when_compiled[flags]:
        reference.put(tensors[prefix + reference.path])
    try:
        output = functional_call(module, tensors, inputs, dict(kwargs), tie_weights=False)
    finally:  # calls in eval mode share their record
        call.find_drawing_path = outer_find_drawing_path
        for reference in pool.references_when_compiled[flags]:
            reference.put(reference.value)
        state.restore()
    for path in flat_buffers:
        *parents, name = path.split(".")
        node: Any = buffers
        for key in parents:
            node = node[key]
        node[name] = tensors[prefix + pool.first_names[path]]
    if pool.classes_when_compiled:
        output = pytree.tree_map_only(TrainedParameterInCall, _as_plain_tensor, output)
    return output


def _as_plain_tensor(param: Tensor) -> Tensor:
    return param.view_as(param)  # the compiler does not know as_subclass(Tensor)


class _MethodAsForward(nn.Module):
    """A method of a module as the forward of another module, because functional_call runs a forward."""

    def __init__(self, module: nn.Module, method: str) -> None:
        super().__init__()
        self.module, self.method = module, method

    def forward(self, *inputs: Any, **kwargs: Any) -> Any:
        return getattr(self.module, self.method)(*inputs, **kwargs)


@assume_constant_result
def _prepare_copy(pool: CopyPool, flags: TrainFlags) -> bool:
    # The compiler does not trace a function whose result is a constant; the copy itself is found in the pool.
    pool.prepare_compiled(flags)
    return True
