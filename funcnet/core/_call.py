"""One call of a net, from checking what was given to returning what is new."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from funcnet._context import numbers_known
from funcnet._errors import PurityError, RandomnessError, TreeError
from funcnet._torch import lazy_clone
from funcnet._typing import Selector, Tree, TreeLike
from funcnet.core._check import CheckedTrees, specs_by_tree, find_tree_misfits, misfit_error
from funcnet.core._entries import Buffer, Param
from funcnet.core._explain import explain_error
from funcnet.core._generators import GlobalDrawGuard
from funcnet.core._ties import resolve_aliases, link_buffers, drop_aliases
from funcnet.core._view import EMPTY_TREE, PASS_RNG, Call, iter_bodies, draw_source, has_entries, root_view_opener, view_class
from funcnet.random import Intercept, as_rng
from funcnet.tree import flatten, join, select, unflatten

if TYPE_CHECKING:
    from funcnet.core._net import Net

_EVAL = Call(False, None)


class Program:
    """A net made ready to be called: its view classes and what is known about it beforehand."""

    def __init__(self, net: Net) -> None:
        self.net = net
        self.view = view_class(net, {})
        self.open = root_view_opener(net)
        self.expected = specs_by_tree(net)
        self.has_buffers = has_entries(net, Buffer)
        self.writable = unflatten({path: True for path in _iter_writable_buffers(net) if path not in net.aliases})
        self.tied: dict[type, dict[str, str]] = {
            kind: {alias: owner for alias, owner in net.aliases.items() if isinstance(net._all_entries[alias], kind)}
            for kind in (Param, Buffer)
        }
        self.facts = {path: body._facts for path, body in iter_bodies(net)}
        self.silent = all(facts.draws_from_view_only for facts in self.facts.values())
        self.foreign = not all(facts.is_trusted for facts in self.facts.values())
        self.always_draws = self.drawing(False)
        self.seen: CheckedTrees | None = None
        self.generators = GlobalDrawGuard(net)
        self.looked: set[tuple[Any, bool]] = set()  # the modes in which params were compared before and after a call
        self.scratch: set[str] = set()  # paths of params that a foreign forward in eval mode writes to: given as copies

    @cached_property
    def draws_in_training(self) -> list[str]:
        return self.drawing(True)

    def drawing(self, train: Any) -> list[str]:
        """Paths that draw in this mode."""
        mode = (lambda path: train) if isinstance(train, bool) else train
        return [path for path, facts in self.facts.items() if facts.draws[bool(mode(path))]]

    # --- the two ways to call ---

    def evaluate(self, params: TreeLike, inputs: tuple[Any, ...], kwargs: dict[str, Any], method: str) -> Any:
        if self.has_buffers or self.always_draws:
            self._refuse_evaluate()
        if torch.compiler.is_compiling():
            self._admit(params, EMPTY_TREE)
        elif self.seen is None or not self.seen.same(params, EMPTY_TREE):
            self._admit(params, EMPTY_TREE)
            self.seen = CheckedTrees(self.expected, params, EMPTY_TREE)
        return self._call(params, EMPTY_TREE, False, None, inputs, kwargs, method)[0]

    def apply(
        self,
        params: TreeLike,
        buffers: TreeLike,
        inputs: tuple[Any, ...],
        kwargs: dict[str, Any],
        train: Selector,
        rng: Any,
        method: str,
    ) -> tuple[Any, Tree]:
        mode = train if isinstance(train, bool) else self._selected(train)
        if rng is None and (mode is not False or self.always_draws):
            self._refuse_drawing(mode)
        if torch.compiler.is_compiling():
            self._admit(params, buffers)
        elif self.seen is None or not self.seen.same(params, buffers):
            self._admit(params, buffers)
            self.seen = CheckedTrees(self.expected, params, buffers)
        return self._call(params, buffers, mode, rng, inputs, kwargs, method)

    def _call(
        self,
        params: TreeLike,
        buffers: TreeLike,
        mode: Any,
        rng: Any,
        inputs: tuple[Any, ...],
        kwargs: dict[str, Any],
        method: str,
    ) -> tuple[Any, Tree]:
        """Run the body, and see to it that no draw in it comes from a global generator."""
        if self.silent and method == "forward":
            return self._once(params, buffers, mode, inputs, kwargs, method, rng)
        once = partial(self._once, params, buffers, mode, inputs, kwargs, method)
        return self.generators.kept(once, mode is False, rng)

    def _once(
        self,
        params: TreeLike,
        buffers: TreeLike,
        mode: Any,
        inputs: tuple[Any, ...],
        kwargs: dict[str, Any],
        method: str,
        rng: Any,
        intercept: Intercept | None = None,
    ) -> tuple[Any, Tree]:
        """Run the body once, over a tree of buffers of its own; returns the output and that tree."""
        call = _EVAL if mode is False and rng is None else Call(mode, as_rng(rng))
        given = resolve_aliases(params, self.tied[Param]) if self.tied[Param] else params
        looks = self._looks(call)
        if looks or self.scratch:
            given = self._on_copies(given, looks)
        own = self._own_tree(buffers) if self.has_buffers else {}
        try:
            view = self.open(self.view, given, own, call)  # type: ignore[arg-type]
            body = view if method == "forward" else self.net.method(view, method)
            if intercept is not None:
                intercept.draws = lambda: draw_source(view if call.within is None else call.within())
                if call is not _EVAL:
                    call.intercept = intercept
                with intercept:
                    output = self._watched(body, call, given if looks else None, inputs, kwargs)
            elif self.foreign or method != "forward":
                output = self._watched(body, call, given if looks else None, inputs, kwargs)
            else:
                output = view(*inputs, **kwargs)
        except Exception as error:
            explained = explain_error(self, params, error)
            if explained is error:
                raise
            raise explained from error
        if call is not _EVAL:
            call.closed = True
        return output, drop_aliases(own, buffers) if self.tied[Buffer] else own

    def _looks(self, call: Call) -> bool:
        """Whether a call is the first of its mode, in which writes to params are looked for; there may be thousands."""
        return self.foreign and _mode_key(call) not in self.looked and numbers_known()

    def _on_copies(self, params: TreeLike, every: bool) -> Tree:
        """The params with copies, made when first written to, in the place of those that are (or may be) written to."""
        copies: dict[int, Tensor] = {}  # a tied tensor stays one
        flat = flatten(params)
        for path, tensor in flat.items():
            if every or path in self.scratch:
                flat[path] = copies.setdefault(id(tensor), lazy_clone(tensor))
        return unflatten(flat)

    def _watched(
        self,
        body: Callable[..., Any],
        call: Call,
        params: TreeLike | None,
        inputs: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """Run a body that funcnet did not write, and notice by version counters if it wrote to what it was given.

        Inputs are looked at in every call, params where they are given here. What a foreign forward in eval mode does
        to its params (some scale their weights once, and remember that they did) is its own affair: it has copies.
        """
        if torch.compiler.is_compiling():
            return body(*inputs, **kwargs)
        if len(inputs) == 1 and not kwargs and type(inputs[0]) is Tensor:  # the common case, without a detour
            given = [("input 0", inputs[0])]
        else:
            named = [(f"input {index}", value) for index, value in enumerate(inputs)]
            named += [(f"input {name!r}", value) for name, value in kwargs.items()]
            given = [found for name, value in named for found in iter_named_tensors(name, value)]
        before = [_write_count(tensor) for _, tensor in given]
        flat = {} if params is None else flatten(params)
        versions = [_write_count(tensor) for tensor in flat.values()]
        output = body(*inputs, **kwargs)
        written = [name for (name, tensor), version in zip(given, before, strict=True) if _write_count(tensor) != version]
        if written:
            raise PurityError(
                f"the body wrote in place to {', '.join(written)}, which belongs to the caller and is changed now. "
                f"Write x = x + 1 for x += 1, or work on a clone()."
            )
        if params is not None:
            now = map(_version, flat.values())
            paths = [path for path, old, new in zip(flat, versions, now, strict=True) if old != new]
            if paths and (call.train is not False or not all(map(self._within_opaque, paths))):
                which = ", ".join(f"params {path!r}" for path in paths)
                raise PurityError(
                    f"the body writes in place to {which}, and a call returns no new params; none is changed. Compute "
                    f"what it wrote outside of the call, from the params and the output, or hold it in a buffer."
                )
            self.looked.add(_mode_key(call))
            self.scratch.update(paths)
        return output

    def _within_opaque(self, path: str) -> bool:
        above = [net for at, net in self.net.named_nets() if not at or path.startswith(f"{at}.")]
        return any(net._facts.reads_trees for net in above)

    def _own_tree(self, buffers: TreeLike) -> Tree:
        """The tree that a call records new buffers in: new dicts, and new tensors where a body may write in place."""
        fresh = _copy_buffers(buffers, self.writable)
        return link_buffers(fresh, self.tied[Buffer]) if self.tied[Buffer] else fresh

    def _selected(self, train: Selector) -> Callable[[str], bool]:
        """The paths in training mode; a pattern that means none of them is a mistake."""
        patterns = [train] if isinstance(train, str) else train if isinstance(train, (list, tuple)) else []
        paths = [path for path, _ in self.net.named_nets()]
        for pattern in patterns:
            if not any(map(select(pattern.removeprefix("!")), paths)):
                near = get_close_matches(pattern, paths, n=3, cutoff=0.3)
                raise TreeError(
                    f"train={train!r}: no net of {self.net.title()} is at {pattern!r}. "
                    f"{'Near it: ' + ', '.join(map(repr, near)) if near else 'Paths are ' + repr(paths[1:6])}."
                )
        return select(train)

    # --- refusals ---

    def _admit(self, params: TreeLike, buffers: TreeLike) -> None:
        """Check trees that are new to this net. Later calls with the same dicts rely on it."""
        lines = find_tree_misfits(self.expected, {"params": params, "buffers": buffers})
        if lines:
            raise misfit_error(self.net, lines)

    def _refuse_evaluate(self) -> None:
        if self.has_buffers:
            paths = sorted({entry.path for entry in self.net.entries() if entry.kind == "buffers"})
            raise TreeError(
                f"net(params, x) has no buffers to give to {', '.join(map(repr, paths))}. "
                f"Call y, buffers = net.apply(params, buffers, x)."
            )
        self._refuse_drawing(False)

    def _refuse_drawing(self, mode: Any) -> None:
        paths = self.draws_in_training if mode is True else self.drawing(mode)
        if paths:
            named = ", ".join(repr(path) if path else "the net itself" for path in paths)
            raise RandomnessError(f"rng is None and random numbers are drawn at {named}. {PASS_RNG}")


def _mode_key(call: Call) -> tuple[Any, bool]:
    return call.train if isinstance(call.train, bool) else None, call.rng is None


def _iter_writable_buffers(net: Net, prefix: str = "", within: bool = False) -> Iterator[str]:
    """Paths of the buffers that a body not funcnet's own may write to in place, as ``p.steps += 1`` does."""
    if net._facts.one_piece:
        return
    for name, spec in net._own_entries.items():
        if isinstance(spec, Buffer) and (within or not net._facts.is_trusted):
            yield join(prefix, name)
    for name, child in net._children.items():
        yield from _iter_writable_buffers(child, join(prefix, name), within or net._facts.reads_trees)


def _copy_buffers(tree: TreeLike, writable: TreeLike) -> Tree:
    """New dicts with the same tensors, but for clones of those that are writable."""
    fresh = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            fresh[key] = _copy_buffers(value, writable.get(key, EMPTY_TREE))
        else:
            fresh[key] = value.clone() if key in writable else value
    return fresh


def iter_named_tensors(name: str, value: Any) -> Iterator[tuple[str, Tensor]]:
    """The tensors in an input, with words for where they are."""
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from iter_named_tensors(f"{name}[{key!r}]", item)
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from iter_named_tensors(f"{name}[{index}]", item)


def _write_count(tensor: Tensor) -> int:
    return -1 if tensor.is_inference() else tensor._version
