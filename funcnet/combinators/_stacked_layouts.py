"""From layers with tensors of their own to stacked tensors and back: the net, its params and its buffers at once."""

from __future__ import annotations

from collections.abc import Iterator

from funcnet._errors import TreeError, bullet_list
from funcnet._typing import Flat, Selector, Tree, TreeLike
from funcnet.combinators._containers import ModuleList, Sequential
from funcnet.combinators._stacked_layers import Stack
from funcnet.core import Net
from funcnet.core.internals import find_misfits, misfit_error
from funcnet.tree import flatten, join, select, stack, unflatten


def stack_layers(
    net: Net, params: TreeLike, buffers: TreeLike | None = None, selector: Selector = True
) -> tuple[Net, Tree, Tree]:
    """The net with a :class:`Stack` in the place of layers that are equal, and its params and buffers.

    It is how the tensors of a module, or of its ``state_dict``, come into the stacked layout:
    ``stack_layers(*fn.from_module(module))``.

    Args:
        net: a net with a Sequential or ModuleList of equal layers.
        params, buffers: its trees.
        selector: paths of the containers to stack (see ``funcnet.tree.select``); default all with two equal layers or
            more.

    Returns:
        ``(net, params, buffers)``.

    Raises:
        TreeError: if the trees do not fit the net, no container is selected, or the layers of one differ; says which.

    >>> import funcnet as fn
    >>> net = fn.Sequential(fn.Linear(2, 4), fn.Sequential(*[fn.Linear(4, 4)] * 3))
    >>> stacked, params, _ = stack_layers(net, net.init(0)[0])
    >>> stacked[1], params["1"]["weight"].shape
    (Stack(
      (0-2): 3 x Linear(in_features=4, out_features=4, bias=True)
    ), torch.Size([3, 4, 4]))
    """
    trees = _check_trees(net, params, buffers)
    containers = [
        path for path, part in net.named_nets() if isinstance(part, (Sequential, ModuleList)) and part._children
    ]
    is_selected = select(selector)
    selected = [path for path in containers if is_selected(path)]
    if selector is True:
        are_equal = {path: not any(_find_differences(net, path)) for path in selected}
        selected = [path for path in selected if are_equal[path] and len(_layers_at(net, path)) > 1]
    selected = [path for path in selected if not any(_path_inside(path, outer) for outer in selected)]
    if not selected:
        raise TreeError(f"stack_layers finds no equal layers at {selector!r}; the containers are {containers}.")
    if problems := [line for path in selected for line in _find_differences(net, path)]:
        raise TreeError(f"layers that differ cannot be stacked:{bullet_list(problems)}")
    for path in selected:
        net, trees = _stack_at(net, trees, path)
    return net, unflatten(trees[0]), unflatten(trees[1])


def unstack_layers(net: Net, params: TreeLike, buffers: TreeLike | None = None) -> tuple[Net, Tree, Tree]:
    """The net with a Sequential in the place of each :class:`Stack`, and its params and buffers.

    Their keys are those of a module with separate layers: ``fn.to_module(*unstack_layers(net, params, buffers))`` has
    them in its ``state_dict``.

    Args:
        net: a net.
        params, buffers: its trees.

    Returns:
        ``(net, params, buffers)``; the tensors are views of the stacked ones.

    Raises:
        TreeError: if the trees do not fit the net.

    >>> import funcnet as fn
    >>> net = fn.Stack(fn.Linear(4, 4), 3)
    >>> plain, params, _ = unstack_layers(net, net.init(0)[0])
    >>> list(fn.to_state_dict(params))[:3]
    ['0.weight', '0.bias', '1.weight']
    """
    trees = _check_trees(net, params, buffers)
    while path_to_stack := {path: part for path, part in net.named_nets() if isinstance(part, Stack)}:
        net, trees = _unstack_at(net, trees, *next(iter(path_to_stack.items())))  # the outermost comes first
    return net, unflatten(trees[0]), unflatten(trees[1])


def _check_trees(net: Net, params: TreeLike, buffers: TreeLike | None) -> list[Flat]:
    """Both trees, flat, which fit the net."""
    buffers = {} if buffers is None else buffers
    if problems := find_misfits(net, params, buffers):
        raise misfit_error(net, problems)
    return [flatten(params), flatten(buffers)]


def _layers_at(net: Net, path: str) -> dict[str, Net]:
    """Names and nets of the layers in the container at a path."""
    return dict(net.named_nets())[path]._children


def _path_inside(path: str, outer: str) -> str:
    """The rest of a path that lies below another; empty if it does not."""
    return path[len(outer) :].removeprefix(".") if path.startswith(f"{outer}.") or not outer else ""


def _find_differences(net: Net, path: str) -> Iterator[str]:
    """A line for each way in which the layers of a container differ."""
    layers, ties, frozen = _layers_at(net, path), _ties_of_layers(net, path), _frozen_in_layers(net, path)
    first, *others = layers
    for name in others:
        if layers[name] != layers[first] or layers[name].aliases != layers[first].aliases:
            yield f"{join(path, name)!r} is {layers[name]!r}, and {join(path, first)!r} is {layers[first]!r}"
        elif ties is not None and ties[name] != ties[first]:
            yield f"{join(path, name)!r} has other ties than {join(path, first)!r}"
        elif frozen[name] != frozen[first]:
            yield f"{join(path, name)!r} has other frozen params than {join(path, first)!r}"
    if ties is None:
        yield f"a tensor in {path or 'the net itself'!r} is tied to one outside of its layer"


def _ties_of_layers(net: Net, path: str) -> dict[str, dict[str, str]] | None:
    """The ties in each layer of a container, by name of the layer; None if one leads out of its layer."""
    ties: dict[str, dict[str, str]] = {name: {} for name in _layers_at(net, path)}
    for pair in net.aliases.items():
        (alias_layer, _, alias), (owner_layer, _, owner) = (_path_inside(end, path).partition(".") for end in pair)
        if alias_layer != owner_layer:
            return None
        if alias_layer:
            ties[alias_layer][alias] = owner
    return ties


def _frozen_in_layers(net: Net, path: str) -> dict[str, set[str]]:
    """The frozen params in each layer of a container, by name of the layer."""
    frozen: dict[str, set[str]] = {name: set() for name in _layers_at(net, path)}
    for param in net.frozen:
        name, _, inside = _path_inside(param, path).partition(".")
        if name:
            frozen[name].add(inside)
    return frozen


def _stack_at(net: Net, trees: list[Flat], path: str) -> tuple[Net, list[Flat]]:
    layers, ties = _layers_at(net, path), _ties_of_layers(net, path) or {}
    first, *_ = layers
    layer = layers[first]
    inner_ties = {alias: owner for alias, owner in ties[first].items() if alias not in layer.aliases}
    new_frozen = {join(path, inside) for inside in _frozen_in_layers(net, path)[first]}
    stack_net = Stack(layer.tie(inner_ties) if inner_ties else layer, len(layers))
    new_trees = []
    for flat in trees:
        pieces: dict[str, Flat] = {name: {} for name in layers}
        for key, tensor in flat.items():
            name, _, inside = _path_inside(key, path).partition(".")
            if name:
                pieces[name][inside] = tensor
        stacked = {join(path, inside): tensor for inside, tensor in stack(list(pieces.values())).items()}
        new_trees.append(_put_in_place(flat, path, stacked))
    return _with_frozen(net.replaced({path: stack_net}), {*net.frozen, *new_frozen}), new_trees


def _unstack_at(net: Net, trees: list[Flat], path: str, stack_net: Stack) -> tuple[Net, list[Flat]]:
    names = [str(index) for index in range(stack_net.count)]
    new_frozen = {
        join(path, name, inside) for param in net.frozen if (inside := _path_inside(param, path)) for name in names
    }
    new_trees = []
    for flat in trees:
        pieces = {inside: tensor.unbind(0) for key, tensor in flat.items() if (inside := _path_inside(key, path))}
        separate = {
            join(path, name, inside): tensors[index]
            for index, name in enumerate(names)
            for inside, tensors in pieces.items()
        }
        new_trees.append(_put_in_place(flat, path, separate))
    layers = Sequential(*[stack_net.net] * stack_net.count)
    return _with_frozen(net.replaced({path: layers}), {*net.frozen, *new_frozen}), new_trees


def _put_in_place(flat: Flat, path: str, new: Flat) -> Flat:
    """A flat tree with other tensors in the place of all below a path."""
    keys = list(flat)
    inside = [index for index, key in enumerate(keys) if _path_inside(key, path)]
    start = inside[0] if inside else len(keys)
    outside = {key: flat[key] for index, key in enumerate(keys) if index not in set(inside)}
    before = {key: outside[key] for key in keys[:start]}
    return {**before, **new, **outside}


def _with_frozen(net: Net, paths: set[str]) -> Net:
    return net.freeze(paths.__contains__) if paths else net
