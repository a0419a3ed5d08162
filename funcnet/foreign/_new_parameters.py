"""Parameters that a foreign forward makes. No tree has them, so they get no gradient and are gone after the call."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from funcnet._errors import PurityError
from funcnet._torch import is_wrapped_by_transform
from funcnet.foreign._module_walk import named_modules
from funcnet.foreign._parameter_answers import is_recorded
from funcnet.tree import join


def refuse_new_parameters(module: nn.Module) -> None:
    """Have a copy of a module, and all submodules, refuse parameters that are assigned to them from now on.

    An assignment of a ``nn.Parameter`` to an attribute of a module calls ``register_parameter`` on it.
    """
    visited: set[int] = set()
    for path, submodule in named_modules(module):
        if id(submodule) not in visited:
            visited.add(id(submodule))
            submodule.__dict__["register_parameter"] = _make_refusal(module, path, submodule)


def _make_refusal(module: nn.Module, path: str, submodule: nn.Module) -> Callable[[str, Any], None]:
    title = type(module).__name__
    reference = weakref.ref(submodule)  # the submodule holds this function; a cycle would keep copies alive

    def register_parameter(name: str, param: Any) -> None:
        owner = reference()
        if owner is None:
            return
        old = owner._parameters.get(name)
        if old is not None and param is old:
            return
        if old is None and isinstance(param, Tensor) and param.requires_grad:
            raise _new_params_error(title, [join(path, name)])
        if old is not None and torch.is_grad_enabled() and (is_recorded(old) or is_wrapped_by_transform(old)):
            raise PurityError(
                f"{title} puts another nn.Parameter in the place of {join(path, name)!r} in its forward, so the one in "
                f"params gets no gradient. Compute with a tensor instead: F.linear(x, self.weight.clamp(0)), or "
                f"torch.nn.utils.parametrize."
            )
        nn.Module.register_parameter(owner, name, param)

    return register_parameter


def refuse_new_submodules(module: nn.Module, path_by_id: Mapping[int, str]) -> None:
    """Refuse submodules that a call has made, if they have parameters.

    Args:
        module: the copy that the call has changed.
        path_by_id: the paths of the submodules that it had, by id.

    Raises:
        PurityError: names the parameters.
    """
    new_params = [
        join(path, name)
        for path, submodule in named_modules(module)
        if id(submodule) not in path_by_id
        for name, param in submodule._parameters.items()
        if param is not None and param.requires_grad
    ]
    if new_params:
        raise _new_params_error(type(module).__name__, new_params)


def _new_params_error(title: str, paths: list[str]) -> PurityError:
    return PurityError(
        f"{title} makes {', '.join(map(repr, paths))} in its forward. No tree has them, so they would get no gradient "
        f"and be gone after the call. Make them in __init__; or call the module once before from_module, and the net "
        f"has them."
    )
