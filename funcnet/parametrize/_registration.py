"""The functions of torch.nn.utils.parametrize and torch.nn.utils.parametrizations, on nets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from funcnet._typing import Tree, TreeLike
from funcnet.core import Buffer, Net, Param, as_net
from funcnet.core.internals import InitContext, dtype_to_declare, find_misfits, misfit_error
from funcnet.parametrize._first_values import Registration, right_inverse_of
from funcnet.parametrize._parametrized import ParametrizationList, Parametrized
from funcnet.parametrize._stock_parametrizations import Orthogonal, SpectralNorm, WeightNorm
from funcnet.random import Stream
from funcnet.tree import flatten, unflatten


def weight_norm(net: Net, name: str = "weight", dim: int | None = 0) -> Net:
    """A net that computes a tensor from its lengths and its direction, ``g * v / |v|``.

    Args:
        net: a net that declares the tensor.
        name: name of the tensor.
        dim: there is one length for each slice along this axis; None for a single length.

    Params: parametrizations.weight.original0 (g) and .original1 (v) in place of weight.
    Source: torch.nn.utils.parametrizations.weight_norm.

    >>> from funcnet import Linear
    >>> net = weight_norm(Linear(3, 2))
    >>> params, _ = net.init(0)
    >>> {name: tuple(tensor.shape) for name, tensor in params["parametrizations"]["weight"].items()}
    {'original0': (2, 1), 'original1': (2, 3)}
    """
    return register_parametrization(net, name, WeightNorm(-1 if dim is None else dim), unsafe=True)


def spectral_norm(
    net: Net, name: str = "weight", n_power_iterations: int = 1, eps: float = 1e-12, dim: int | None = None
) -> Net:
    """A net that divides a tensor by its largest singular value.

    The value is estimated by power iteration: each call in training mode makes ``n_power_iterations`` steps and returns
    the new estimates of the singular vectors as buffers. (A recurrent layer makes four times as many steps for its
    first such weight, and twice as many for the others, because torch's module reads its weights that often.)

    Args:
        net: a net that declares the tensor.
        name: name of the tensor.
        n_power_iterations: how many steps each training call makes, at least 1.
        eps: lower bound of the lengths that are divided by.
        dim: the axis of outputs; None for axis 1 of transposed convolutions and axis 0 of all other nets.

    Params: parametrizations.weight.original in place of weight.  Buffers: parametrizations.weight.0._u and ._v.
    Source: torch.nn.utils.parametrizations.spectral_norm.

    >>> from funcnet import Linear
    >>> net = spectral_norm(Linear(3, 2))
    >>> params, buffers = net.init(0)
    >>> y, new = net.apply(params, buffers, torch.ones(1, 3), train=True)
    >>> {name: tuple(tensor.shape) for name, tensor in new["parametrizations"]["weight"]["0"].items()}
    {'_u': (2,), '_v': (3,)}
    """
    if dim is None:
        base = net.base if isinstance(net, Parametrized) else net
        dim = int(getattr(type(base), "twin", None) in _TRANSPOSED)
    shape = tuple(_spec_of(net, name).shape)  # type: ignore[arg-type]
    return register_parametrization(net, name, SpectralNorm.for_shape(shape, n_power_iterations, dim, eps))


def orthogonal(
    net: Net, name: str = "weight", orthogonal_map: str | None = None, *, use_trivialization: bool = True
) -> Net:
    """A net whose matrix, or batch of matrices, has orthonormal columns, or orthonormal rows if it is wide.

    Args:
        net: a net that declares the tensor.
        name: name of the tensor.
        orthogonal_map: "matrix_exp", "cayley" or "householder": how an orthogonal matrix is computed from a matrix
            without constraints. None means "matrix_exp" for square and complex matrices, else "householder".
        use_trivialization: whether to multiply by a fixed orthogonal matrix in a buffer, made from the first value.

    Params: parametrizations.weight.original in place of weight.  Buffers: parametrizations.weight.0.base.
    Raises: ValueError for a vector, an unknown map, or a complex tensor and "householder".
    Source: torch.nn.utils.parametrizations.orthogonal.

    >>> from funcnet import Linear
    >>> net = orthogonal(Linear(3, 3, bias=False))
    >>> y = net.apply(*net.init(0), torch.eye(3))[0]
    >>> torch.allclose(y @ y.T, torch.eye(3), atol=1e-6)
    True
    """
    spec = _spec_of(net, name)
    shape: tuple[int, ...] = tuple(spec.shape)  # type: ignore[arg-type]
    if len(shape) < 2:
        raise ValueError(f"orthogonal takes a matrix or a batch of matrices; {name!r} has shape {shape}.")
    is_complex = _dtype_of(net, spec).is_complex
    if orthogonal_map is None:
        orthogonal_map = "matrix_exp" if shape[-2] == shape[-1] or is_complex else "householder"
    if is_complex and orthogonal_map == "householder":
        raise ValueError("the map 'householder' takes no complex tensors. Take 'matrix_exp' or 'cayley'.")
    if is_parametrized(net, name) and use_trivialization:
        raise ValueError(
            f"{name!r} is parametrized already, and then there is no first value to trivialise at. Pass "
            f"use_trivialization=False, or make it orthogonal first."
        )
    return register_parametrization(net, name, Orthogonal(shape, orthogonal_map, use_trivialization), unsafe=True)


def register_parametrization(
    net: Net, tensor_name: str, parametrization: Net | Callable[..., Any], *, unsafe: bool = False
) -> Net:
    """A net whose tensor of this name is computed by a parametrization each time the body reads it.

    Args:
        net: any net that declares the tensor itself; for a tensor inside a container, parametrize the part.
        tensor_name: name of the tensor. If it is parametrized already, the new parametrization is applied last.
        parametrization: a function of the tensor; or a net that is called with the tensor, and may have params and
            buffers. A net may have a second body ``right_inverse(p, value)``, and a function an attribute of that name.
            It returns the original tensor, or several, from which ``value`` is computed, and so makes the first values.
            Without it the original is ``value`` itself.
        unsafe: whether the parametrization may change shape and dtype.

    Raises:
        ValueError: if there is no such tensor, or its shape or dtype would change.

    >>> from funcnet import Linear
    >>> net = register_parametrization(Linear(3, 3, bias=False), "weight", torch.triu)
    >>> net(net.init(0)[0], torch.eye(3)).T[2, :2]
    tensor([0., 0.])
    """
    spec = _spec_of(net, tensor_name)
    base, lists = (net.base, dict(net.lists)) if isinstance(net, Parametrized) else (net, {})
    if base._facts.reads_trees:
        raise TypeError(
            f"{base.title()} finds its tensors by itself. Parametrize the module with "
            f"torch.nn.utils.parametrize, and take the net from funcnet.from_module."
        )
    step = as_net(tensor_name, parametrization)
    if right_inverse_of(step) is None and hasattr(step.twin_module(), "right_inverse"):
        raise TypeError(
            f"the net of {step.title()} does not know its right_inverse. Parametrize the module with "
            f"torch.nn.utils.parametrize, and take the net from funcnet.from_module."
        )
    earlier = lists.get(tensor_name)
    items = (*(earlier.items if earlier else ()), step)
    unsafe = unsafe or bool(earlier and earlier.unsafe)
    originals = _originals_of(net, spec, items, unsafe, tensor_name)
    lists[tensor_name] = ParametrizationList(items, originals, unsafe)
    return _rebuild_with_lists(net, base, lists, tensor_name)


def is_parametrized(net: Net, tensor_name: str | None = None) -> bool:
    """Whether a net computes the tensor of this name, or any tensor if there is no name.

    >>> from funcnet import Linear
    >>> is_parametrized(weight_norm(Linear(3, 2))), is_parametrized(weight_norm(Linear(3, 2)), "bias")
    (True, False)
    """
    return isinstance(net, Parametrized) and (tensor_name is None or tensor_name in dict(net.lists))


def remove_parametrizations(
    net: Net, params: TreeLike, buffers: TreeLike, tensor_name: str, leave_parametrized: bool = True
) -> tuple[Net, Tree, Tree]:
    """The net that declares the tensor itself again, and trees for it.

    Args:
        net, params, buffers: a parametrized net and its trees.
        tensor_name: name of the tensor.
        leave_parametrized: whether its new value is the computed tensor, as in eval mode, or else the original tensor.

    Returns:
        ``(net, params, buffers)``; the other tensors are shared with the given trees.

    Raises:
        ValueError: if the tensor is not parametrized, is tied, or has several originals where one should become it.

    >>> from funcnet import Linear
    >>> net = weight_norm(Linear(3, 2))
    >>> params, buffers = net.init(0)
    >>> plain, params, buffers = remove_parametrizations(net, params, buffers, "weight")
    >>> plain, list(params)
    (Linear(in_features=3, out_features=2, bias=True), ['weight', 'bias'])
    """
    if not isinstance(net, Parametrized) or not is_parametrized(net, tensor_name):
        raise ValueError(f"{net.title()} has no parametrization of {tensor_name!r}.")
    problems = find_misfits(net, params, buffers)
    if problems:
        raise misfit_error(net, problems)
    lists = dict(net.lists)
    computed, prefix = lists.pop(tensor_name), f"parametrizations.{tensor_name}."
    flat = {Param: flatten(params), Buffer: flatten(buffers)}
    list_entries = {
        kind: {name.removeprefix(prefix): tensor for name, tensor in tree.items() if name.startswith(prefix)}
        for kind, tree in flat.items()
    }
    kind = type(computed.originals[0][1])
    if leave_parametrized:
        value = computed.apply(unflatten(list_entries[Param]), unflatten(list_entries[Buffer]))[0]
    elif len(computed.originals) > 1 or computed.originals[0][0] != "original":
        raise ValueError(f"{tensor_name!r} is computed from {len(computed.originals)} tensors: none of them is it.")
    else:
        value = list_entries[kind]["original"]
    plain = _rebuild_with_lists(net, net.base, lists, prefix.rstrip("."))
    flat[kind][tensor_name] = value
    trees = [
        unflatten({entry.path: flat[kind][entry.path] for entry in plain.entries() if type(entry.spec) is kind})
        for kind in (Param, Buffer)
    ]
    return plain, trees[0], trees[1]


_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def _spec_of(net: Net, name: str) -> Param | Buffer:
    """The declaration of the tensor of this name in the net before it was parametrized."""
    declared = (net.base if isinstance(net, Parametrized) else net)._own_entries
    if name not in declared:
        inside = f" For one of {', '.join(net._children)}, parametrize that part." if net._children else ""
        raise ValueError(f"{net.title()} declares no tensor {name!r} itself; it declares {list(declared)}.{inside}")
    return declared[name]


def _dtype_of(net: Net, spec: Param | Buffer) -> torch.dtype:
    base = net.base if isinstance(net, Parametrized) else net
    return spec.dtype or getattr(base, "dtype", None) or torch.get_default_dtype()


def _originals_of(
    net: Net, spec: Param | Buffer, nets: tuple[Net, ...], unsafe: bool, name: str
) -> tuple[tuple[str, Param | Buffer], ...]:
    """Names and declarations of the original tensors, found by registering on the meta device where possible."""
    value = torch.empty(spec.shape, dtype=_dtype_of(net, spec), device="meta")
    context = InitContext(Stream(0), None, None, {})
    try:
        registration = Registration(nets, unsafe, value, context, name)
    except (RuntimeError, NotImplementedError):  # a right_inverse that needs numbers
        base = net.base if isinstance(net, Parametrized) else net
        registration = Registration(nets, unsafe, dict(context.init_net(base, ""))[name], context, name)
    return tuple(
        (original_name, type(spec)(tuple(tensor.shape), dtype=dtype_to_declare(tensor)))
        for original_name, tensor in zip(registration.original_names(), registration.originals, strict=True)
    )


def _rebuild_with_lists(net: Net, base: Net, lists: dict[str, ParametrizationList], changed: str) -> Net:
    """The base with these tensors computed and with the ties of ``net``. The changed tensor must not be tied."""
    ties = net._aliases
    if tied := [path for pair in ties.items() for path in pair if f"{path}.".startswith(f"{changed}.")]:
        raise ValueError(f"{tied[0]!r} is tied: parametrize first, then tie the originals.")
    if base._aliases:
        base = base._with_edits(replace(base._edits, aliases=()))
    result = Parametrized(base, tuple(lists.items())) if lists else base
    return result.tie(ties) if ties else result
