"""A copy of a module that has other modules in the place of some of its parts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import nn

from funcnet._errors import ConversionError
from funcnet._reachable import collect_reachable
from funcnet.foreign._isolated_copies import CopiesById, deepcopy_isolated
from funcnet.foreign._module_walk import named_modules, named_tensors
from funcnet.tree import join


def edit_modules(module: nn.Module, new_modules: Mapping[str, nn.Module]) -> nn.Module:
    """A copy of a module with other modules at some paths, and wherever else it refers to those that were there.

    A forward may find a part in a list or in a closure, so there the new part takes the place of the old one too. What
    the module also has at a path that is not named stays as it is there.

    Args:
        module: the module, which is left as it is.
        new_modules: path -> the module to put there.

    Raises:
        ConversionError: if the copy would still refer to a tensor of a part that is gone, or if a part around a path is
            at a second path too, so that it would change there as well.
    """
    _refuse_shared_parents(module, new_modules)
    objects = [(path, id(obj)) for path, obj in _named_objects(module)]
    kept = {key for path, key in objects if not any(_is_in(path, part) for part in new_modules)}
    memo: CopiesById = {}
    unmapped: dict[int, str] = {}  # the tensors of old parts for which new ones have no counterpart
    for part, new_module in new_modules.items():
        new_objects = dict(_named_objects(new_module))
        for path, obj in _named_objects(module.get_submodule(part)):
            if id(obj) in kept:
                continue
            if path in new_objects:
                memo[id(obj)] = new_objects[path]
            elif not isinstance(obj, nn.Module):
                unmapped[id(obj)] = join(part, path)
    edited = deepcopy_isolated(module, memo)
    for part, new_module in new_modules.items():
        parent, _, name = part.rpartition(".")
        edited.get_submodule(parent)._modules[name] = new_module
    reachable = collect_reachable(edited)
    left_over = [path for key, path in unmapped.items() if id(memo.get(key)) in reachable]
    if left_over:
        raise ConversionError(
            f"{type(module).__name__} refers to {', '.join(map(repr, left_over))} in a list, a closure or a hook too, "
            f"and what was put there has no tensor of that name. Edit the module, and convert it."
        )
    return edited


def _named_objects(module: nn.Module) -> Iterator[tuple[str, object]]:
    """Paths and objects: all modules, params and buffers in a module, those that are shared at each of their paths."""
    yield from named_modules(module)
    for kind in ("_parameters", "_buffers"):
        yield from named_tensors(module, kind)


def _is_in(path: str, part: str) -> bool:
    return path == part or path.startswith(f"{part}.")


def _refuse_shared_parents(module: nn.Module, new_modules: Mapping[str, nn.Module]) -> None:
    modules_by_path = dict(named_modules(module))
    for part in new_modules:
        parent, _, name = part.rpartition(".")
        for path, module_at_path in modules_by_path.items():
            if module_at_path is modules_by_path[parent] and join(path, name) not in new_modules:
                raise ConversionError(
                    f"{parent!r} and {path!r} of {type(module).__name__} are one module: replace {join(path, name)!r} "
                    f"as well as {part!r}, or the whole of {parent!r}."
                )
