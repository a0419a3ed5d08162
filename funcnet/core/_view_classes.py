"""The classes of views: one is generated for each net when it is prepared for calls.

Each call makes a view for every part, so this must be fast. Each net gets its own generated class:

* params of a stock layer are slots, filled when the view is made (a body reads them at the price of an attribute);
* params and buffers of other nets are properties over the dicts; they are read-only, or record what is assigned;
* parts are properties that make the part's view; a part whose body ignores its view is one shared view.

torch.compile can make an instance of a class only if it knows where the class came from. It knows this for attributes
of its inputs, so the classes of parts are an attribute of the class, and never in a closure.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from types import FunctionType
from typing import TYPE_CHECKING, Any, TypeAlias

from torch import Tensor

from funcnet._typing import Tree
from funcnet.core._buffer_recording import make_buffer_setter
from funcnet.core._draw_source import Call
from funcnet.core._entries import Buffer, Param, has_entries
from funcnet.core._limits import refuse_transforms
from funcnet.core._view import EMPTY_TREE, RESERVED, View

if TYPE_CHECKING:
    from funcnet.core._net import Net

GetView: TypeAlias = Callable[[View], View]
"""The view of one part, from the view of the net that holds it."""

ApplyPart: TypeAlias = Callable[[View, Any], Any]
"""One part applied to one input, from the view of the net that holds it."""

OpenView: TypeAlias = Callable[[type[View], Tree, Tree, Call], View]
"""The root view of a call, from its class, params, buffers and the call."""


def view_class_of(net: Net, classes: dict[Net, type[View]]) -> type[View]:
    """The class of views of a net; ``classes`` holds those of this build, so equal nets share one."""
    if net in classes:
        return classes[net]
    base = net.view_base()
    facts = net._facts
    entries = {} if facts.reads_trees else net._own_entries
    children = {} if facts.reads_trees else net._children
    names = (*entries, *children, *net._named_constants)
    bad_names = [name for name in names if name in RESERVED or (name.startswith("_") and not facts.is_trusted)]
    if bad_names:
        raise ValueError(
            f"{type(net).__name__} has parts or fields named {bad_names}: nn.Module uses such names itself. "
            f"Choose others."
        )
    slots = ["_up", "_name"]
    space: dict[str, Any] = {
        name: staticmethod(value) if hasattr(type(value), "__get__") else value
        for name, value in net._named_constants.items()
    }
    if facts.slots is not None:
        slots += facts.slots
    else:
        slots += ["_params", "_part_classes"]
        params = [name for name, spec in entries.items() if isinstance(spec, Param)]
        space.update({name: property(_make_reader("_params", name)) for name in params})
    if has_entries(net, Buffer):
        slots.append("_buffers")
    for name, spec in entries.items():
        if isinstance(spec, Buffer):
            space[name] = property(_make_reader("_buffers", name), make_buffer_setter(name, spec))

    body = _body_function(net)
    part_classes: list[type[View]] = []
    getters: list[GetView] = []
    steps: list[ApplyPart] = []
    for index, (name, child) in enumerate(children.items()):
        part_class = view_class_of(child, classes)
        getter, step = _part_accessors(name, index, child, part_class)
        part_classes.append(part_class)
        getters.append(getter)
        steps.append(step)
        space[name] = property(getter) if part_class._shared is None else part_class._shared
    space.update(
        __slots__=tuple(slots),
        __call__=body,
        _classes=tuple(part_classes),
        _getters=tuple(getters),
        _steps=tuple(steps),
        _names=tuple(children),
        _tensors=tuple(net._own_entries),
        _expects=net.expects() if facts.is_trusted else None,
    )
    name = str(net.title())
    cls: type[View] = type(name, (base,), space)
    classes[net] = cls
    if facts.ignores_view:
        shared = cls()
        shared._up, shared._name = Call(False, None), name
        cls._shared = shared
    return cls


def _body_function(net: Net) -> Callable[..., Any]:
    """``forward`` as a plain function of (p, *inputs), which a class takes as ``__call__``."""
    if not hasattr(type(net), "forward"):
        raise TypeError(f"{net.title()} has no body: define forward(p, *inputs), a staticmethod or a method.")
    body = net.forward
    if net._facts.is_limited:
        return refuse_transforms(net, body)
    if isinstance(body, FunctionType):
        return body

    def call(p: View, *inputs: Any, **kwargs: Any) -> Any:
        return body(p, *inputs, **kwargs)

    return call


def _make_reader(tree: str, name: str) -> Callable[[View], Tensor]:
    """The getter of a tensor of this name, in the tree that views hold as ``tree``."""

    def read_tensor(view: View) -> Tensor:
        return getattr(view, tree)[name]

    return read_tensor


def _part_accessors(name: str, index: int, net: Net, part_class: type[View]) -> tuple[GetView, ApplyPart]:
    """The functions that get a part's view, and that apply the part to one input without calling the view."""
    shared = part_class._shared
    if shared is not None:

        def get(up: View) -> View:
            return shared

        forward = net.forward
        if isinstance(forward, FunctionType):
            return get, forward
        return get, lambda up, x: forward(None, x)
    bind = _compile_view_makers(net._facts.slots, has_entries(net, Param), has_entries(net, Buffer))
    getter, step, _ = bind(name, index, part_class.__call__)
    return getter, step


def make_view_opener(net: Net) -> OpenView:
    """The function that makes the root view of a call."""
    bind = _compile_view_makers(net._facts.slots, has_entries(net, Param), has_entries(net, Buffer))
    return bind("", 0, None)[2]


@cache
def _compile_view_makers(
    slots: tuple[str, ...] | None, has_params: bool, has_buffers: bool
) -> Callable[[str, int, Callable[..., Any] | None], tuple[GetView, ApplyPart, OpenView]]:
    """Compile how views of one kind are made; one code object for all nets of that kind stays in the processor's cache.

    A function that assigns in a loop, or a class with ``__init__``, takes two to four times as long to make a view.
    """

    def fill_slots(params: str, buffers: str) -> str:
        lines = []
        if slots is None:
            lines.append(f"view._params = {params if has_params else 'EMPTY_TREE'}")
            lines.append("view._part_classes = view._classes")  # a slot is read faster than a class attribute
        elif slots:
            lines.append(f"tensors = {params}")
            lines += [f"view.{name} = tensors[{name!r}]" for name in slots]
        if has_buffers:
            lines.append(f"view._buffers = {buffers}")
        return "\n        ".join(lines) or "pass"

    fill_part = fill_slots("up._params[name]", "up._buffers[name]")
    code = f"""
def bind(name, index, body):
    def get(up):
        view = up._part_classes[index]()
        view._up = up
        view._name = name
        {fill_part}
        return view
    def step(up, x):
        view = up._part_classes[index]()
        view._up = up
        view._name = name
        {fill_part}
        return body(view, x)
    def open(view_class, params, buffers, call):
        view = view_class()
        view._up = call
        view._name = ""
        {fill_slots("params", "buffers")}
        return view
    return get, step, open
"""
    space: dict[str, Any] = {"EMPTY_TREE": EMPTY_TREE}
    exec(code, space)
    return space["bind"]
