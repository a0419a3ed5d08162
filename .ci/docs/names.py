"""The public names of funcnet and what they are called in links."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from functools import cache
from typing import Any

import funcnet


@cache
def public_packages() -> list[str]:
    """Dotted names of the packages that users import from, the package itself first."""
    found = pkgutil.walk_packages(funcnet.__path__, "funcnet.")
    return [
        "funcnet",
        *(info.name for info in found if info.ispkg and "._" not in info.name and info.name != "funcnet.cli"),
    ]


@cache
def public_names() -> dict[str, Any]:
    """Each public function, class and value by the shortest path that users may write, packages left out."""
    path_by_id: dict[int, str] = {}
    values = {}
    for package in public_packages():
        module = importlib.import_module(package)
        for name in module.__all__:
            value = getattr(module, name)
            if not inspect.ismodule(value) and id(value) not in path_by_id:
                path_by_id[id(value)] = f"{package}.{name}"
                values[f"{package}.{name}"] = value
    return values


@cache
def _path_by_id() -> dict[int, str]:
    return {id(value): path for path, value in public_names().items()}


def path_of(value: Any) -> str | None:
    """The public path of a value, a package or a method of a public class; None if it has none."""
    if inspect.ismodule(value):
        return value.__name__ if value.__name__ in public_packages() else None
    return _path_by_id().get(id(value))


def room_of(path: str) -> str:
    """The room that users find a public name in; for a layer, with its family, as ``layers/conv``."""
    value = public_names()[path]
    if path.count(".") > 1:
        return path.split(".")[1]
    for package in public_packages()[1:]:
        if any(
            getattr(importlib.import_module(package), name) is value
            for name in importlib.import_module(package).__all__
        ):
            room = package.split(".")[1]
            return f"layers/{value.__module__.split('.')[2].strip('_')}" if room == "layers" else room
    return value.__module__.split(".")[1].strip("_")
