"""The modules and tensors in a module by path; wrappers that torch puts around a module are looked through."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from torch import Tensor, nn

from funcnet._errors import ConversionError
from funcnet._torch import module_inside_wrapper
from funcnet._typing import Selector
from funcnet.tree import join


def unwrap_module(module: nn.Module) -> nn.Module:
    """The module that torch.compile, checkpoint_wrapper or DataParallel wraps; any other module as it is."""
    inner = module_inside_wrapper(module)
    return module if inner is None else unwrap_module(inner)


def named_modules(
    module: nn.Module, prefix: str = "", around: Mapping[int, str] = MappingProxyType({})
) -> Iterator[tuple[str, nn.Module]]:
    """Paths and modules as ``module.named_modules(remove_duplicate=False)`` has them, wrappers left out.

    Args:
        module: where to start.
        prefix: its path.
        around: the paths of the modules that it is in, by id.

    Raises:
        ConversionError: if a module contains itself; names both paths.
    """
    module = unwrap_module(module)
    if id(module) in around:
        raise ConversionError(
            f"{type(module).__name__} contains itself: {around[id(module)] or 'the module'!r} and {prefix!r} are one "
            f"module, so its paths have no end. Keep the one at {prefix!r} out of the submodules: in a tuple, "
            f"self.parent = (module,), or a weak reference."
        )
    yield prefix, module
    for name, child in module._modules.items():
        if child is not None:
            yield from named_modules(child, join(prefix, name), {**around, id(module): prefix})


def named_tensors(module: nn.Module, kind: str) -> Iterator[tuple[str, Tensor]]:
    """Paths and tensors, ties under each of their names; ``kind`` is ``"_parameters"`` or ``"_buffers"``."""
    for path, submodule in named_modules(module):
        for name, tensor in getattr(submodule, kind).items():
            if tensor is not None:
                yield join(path, name), tensor


def train_flags(module: nn.Module) -> Selector:
    """The ``train=`` argument under which a net runs each part in the mode in which this module has it now.

    Args:
        module: the module the net was made from.

    Returns:
        True or False where all parts agree, else patterns for :meth:`Net.apply`.

    >>> module = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    >>> train_flags(module)
    True
    >>> _ = module[1].eval()
    >>> train_flags(module)
    ('', '!1')
    """
    flags = {path: submodule.training for path, submodule in named_modules(module)}
    if len(set(flags.values())) == 1:
        return flags[""]
    patterns = [""] if flags[""] else []
    for path, flag in flags.items():
        if path and flag != flags[path.rpartition(".")[0]]:
            patterns.append(path if flag else f"!{path}")
    return tuple(patterns)
