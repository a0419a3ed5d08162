"""Changes to a net besides its fields: ties, frozen params, replaced parts, order and dtypes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from funcnet._errors import TreeError
from funcnet._tensors import is_inexact
from funcnet._typing import Shape
from funcnet.core._entries import Buffer, Param, dtype_to_declare
from funcnet.core._ties import check_aliases

if TYPE_CHECKING:
    from torch import nn

    from funcnet.core._net import Net

T = TypeVar("T")


@dataclass(frozen=True)
class Edits:
    """What a net holds besides the fields that its class declares.

    Args:
        aliases: pairs of alias path and owner path, as :meth:`Net.tie` declares them.
        frozen: paths of the params that :meth:`Net.freeze` selected. They change no result, so nets that differ in
            this alone are equal.
        replaced: names of parts and the nets that :meth:`Net.replaced` put in their place.
        order: names of the net's own tensors and nets in the order of the module, where that is not the order of
            ``parts()``: somebody took a tensor off the module and put it back.
        dtypes: names of the net's own tensors whose declared dtype is not that of ``parts()``, with the dtype.
        sequences: names of fields that were given as a list or a ``torch.Size``, and which of the two. The record
            holds tuples, which are hashable. They change no result, so nets that differ in this alone are equal.
        shared: pairs (path, earlier path) at which the module holds the same submodule. They change no result either.
    """

    aliases: tuple[tuple[str, str], ...] = ()
    frozen: tuple[str, ...] = ()
    replaced: tuple[tuple[str, Net], ...] = ()
    order: tuple[str, ...] = ()
    dtypes: tuple[tuple[str, torch.dtype | None], ...] = ()
    sequences: tuple[tuple[str, type], ...] = ()
    shared: tuple[tuple[str, str], ...] = ()

    def edit_parts(self, parts: Mapping[str, Any]) -> dict[str, Any]:
        """Named parts with the replaced nets and dtypes."""
        edited = {**parts, **dict(self.replaced)}
        for name, dtype in self.dtypes:
            edited[name] = replace(edited[name], dtype=dtype)
        return edited

    def with_replaced(self, nets: Mapping[str, Net], parts: Mapping[str, Any]) -> Edits:
        """The edits with other nets at some names; a net that is put back as ``parts`` has it is no edit."""
        changed = {
            name: net
            for name, net in {**dict(self.replaced), **nets}.items()
            if net != parts[name] or net._edits != parts[name]._edits
        }
        return replace(self, replaced=tuple(changed.items()))

    def beside_parts(self) -> Edits:
        """The edits that are not in the parts of the net, so that a net made of these parts has none of them yet."""
        return replace(self, replaced=(), dtypes=(), sequences=())

    def sort_parts(self, parts: dict[str, T]) -> dict[str, T]:
        """The named tensors, or the named nets, in the order of the module."""
        if not self.order:
            return parts
        return dict(sorted(parts.items(), key=lambda item: self.order.index(item[0])))

    def without(self, other: Edits) -> Edits:
        """The edits that another record of the same fields does not have."""
        return Edits(
            aliases=tuple(pair for pair in self.aliases if pair not in other.aliases),
            frozen=self.frozen,
            replaced=self.replaced,
            order=self.order,
            dtypes=self.dtypes,
            sequences=tuple(pair for pair in self.sequences if pair not in other.sequences),
            shared=self.shared,
        )

    def added_to(self, other: Edits) -> Edits:
        """These edits and those of a record to which they are added; a part that only that one has edited stays so."""
        return Edits(
            aliases=tuple({**dict(other.aliases), **dict(self.aliases)}.items()),
            frozen=self.frozen or other.frozen,
            replaced=tuple({**dict(other.replaced), **dict(self.replaced)}.items()),
            order=self.order or other.order,
            dtypes=self.dtypes or other.dtypes,
            sequences=tuple({**dict(self.sequences), **dict(other.sequences)}.items()),
            shared=self.shared or other.shared,
        )

    def list_missing_parts(self, net: Net) -> list[str]:
        """Lines about tensors and nets of its own that a net does not have and these edits speak of."""
        names = {**net._own_entries, **net._children}
        replaced = [name for name, _ in self.replaced if name not in net._children]
        problems = [f"it has no net {name!r}, which was replaced" for name in replaced]
        problems += [f"it has no tensor {name!r}, whose dtype was set" for name, _ in self.dtypes if name not in names]
        unordered = sorted(names.keys() ^ set(self.order)) if self.order else []
        return problems + [f"its parts were put in order, and {name!r} came or went" for name in unordered]

    def list_missing_paths(self, net: Net) -> list[str]:
        """Lines about tensors and nets at paths that a net does not have and these edits speak of."""
        specs, paths = net._all_entries, {path for path, _ in net.named_nets()}
        problems = [f"it has no param {path!r}, which was frozen" for path in self.frozen if path not in specs]
        shared = [path for pair in self.shared for path in pair if path not in paths]
        problems += [f"it has no net {path!r}, which was shared" for path in shared]
        try:
            check_aliases(dict(self.aliases), specs)
        except TreeError as error:
            problems.append(f"it {error}")
        return problems

    def drop_outdated(self, specs: Mapping[str, Param | Buffer]) -> Edits:
        """The edits without tensors that are no longer declared and without ties that no longer fit.

        Where the owner of several aliases is gone, the first alias becomes the owner of the later ones.
        """
        aliases: dict[str, str] = {}
        new_owners: dict[str, str] = {}
        for alias, owner in self.aliases:
            if alias not in specs:
                continue
            if owner not in specs or (specs[owner].shape != specs[alias].shape):
                owner = new_owners.setdefault(owner, alias)
            if owner != alias and specs[owner].shape == specs[alias].shape:
                aliases[alias] = owner
        frozen = tuple(path for path in self.frozen if isinstance(specs.get(path), Param))
        return replace(self, aliases=tuple(aliases.items()), frozen=frozen)


def adopt_module_tensors(net: Net, module: nn.Module) -> Net | None:
    """The net whose own tensors are those of a module: in its order and with its dtypes.

    None if they have other names or shapes, or are not saved in the same way.
    """
    params = {name: param for name, param in module._parameters.items() if param is not None}
    buffers = {name: buffer for name, buffer in module._buffers.items() if buffer is not None}
    specs = net._own_entries
    actual = {name: _describe_entry(Param, param.shape) for name, param in params.items()}
    for name, buffer in buffers.items():
        actual[name] = _describe_entry(Buffer, buffer.shape, name not in module._non_persistent_buffers_set)
    declared = {
        name: _describe_entry(type(spec), spec.sizes, getattr(spec, "persistent", True)) for name, spec in specs.items()
    }
    children = [name for name, child in module._modules.items() if child is not None]
    if actual != declared or set(children) != set(net._children):
        return None
    order = (*params, *buffers, *children)
    dtypes = tuple(
        (name, dtype_to_declare(tensor))
        for name, tensor in (*params.items(), *buffers.items())
        if dtype_to_declare(tensor) != _exact_or_none(specs[name].dtype)
    )
    if order == (*specs, *net._children) and not dtypes:
        return net
    return net._with_edits(replace(net._edits, order=order, dtypes=dtypes))


def _describe_entry(
    kind: type[Param | Buffer], shape: torch.Size | Shape, is_persistent: bool = True
) -> tuple[type[Param | Buffer], Shape, bool]:
    return kind, tuple(shape), is_persistent


def _exact_or_none(dtype: torch.dtype | None) -> torch.dtype | None:
    """A declared dtype, or None if any inexact one fits."""
    return None if dtype is None or is_inexact(dtype) else dtype


def sort_module(module: nn.Module, net: Net) -> None:
    """Order the tensors and children of a module twin as the net has them, in all submodules."""
    for path, part in net.named_nets():
        if part._edits.order:
            submodule = module.get_submodule(path)
            for named in (submodule._parameters, submodule._buffers, submodule._modules):
                _sort_names(named, part._edits.order)


def _sort_names(named: dict[str, Any], order: tuple[str, ...]) -> None:
    """Sort a dict in place; names that are not in the order come last: their values are None."""
    for name in sorted(named, key=lambda name: order.index(name) if name in order else len(order)):
        named[name] = named.pop(name)
