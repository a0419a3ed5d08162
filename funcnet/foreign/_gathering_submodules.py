"""Submodules of a foreign module whose params are whole only while they run."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from torch import nn

from funcnet._typing import Tree, TreeLike
from funcnet.ranks import current_run
from funcnet.tree import flatten, get


@contextlib.contextmanager
def submodules_gathering(module: nn.Module, paths: Sequence[str], params: TreeLike) -> Iterator[None]:
    """Run a block in which the submodules at some paths gather their params when they are called.

    Args:
        module: a leased copy with the tensors of the call in it.
        paths: of the submodules.
        params: those of the call.
    """
    submodules = [module.get_submodule(path) for path in paths]
    forwards = [submodule.__dict__.get("forward") for submodule in submodules]
    for submodule, path in zip(submodules, paths, strict=True):
        submodule.__dict__["forward"] = partial(_run_gathered, submodule, submodule.forward, get(params, path))
    try:
        yield
    finally:
        for submodule, forward in zip(submodules, forwards, strict=True):
            del submodule.__dict__["forward"]
            if forward is not None:
                submodule.__dict__["forward"] = forward


def _run_gathered(
    submodule: nn.Module, forward: Callable[..., Any], params: Tree, /, *inputs: Any, **kwargs: Any
) -> Any:
    from funcnet.ranks.internals import whole_params

    run = current_run()
    with whole_params(params, None if run is None else run.units) as wholes:
        _put_params(submodule, wholes)
        try:
            return forward(*inputs, **kwargs)
        finally:
            _put_params(submodule, params)


def _put_params(module: nn.Module, params: TreeLike) -> None:
    for path, tensor in flatten(params).items():
        parent, _, name = path.rpartition(".")
        module.get_submodule(parent)._parameters[name] = tensor  # not by attribute, which takes Parameters only
