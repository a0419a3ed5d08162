"""What a body sees: its place in the net, for one call.

A view class is generated per net, because views are made for every part on every call and each nanosecond is paid that
often. What a class holds:

* params of a stock layer are slots, filled when the view is made (a body reads them at the price of an attribute);
* params and buffers of other nets are properties over the dicts, read-only and recording in turn;
* parts are properties that make the part's view; a part whose body ignores its view is one shared view.

torch.compile can make an instance of a class only if it knows where the class came from. It knows for attributes of
what it was given, so the classes of parts are an attribute of the class, never in a closure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from types import FunctionType
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from funcnet._errors import RandomnessError, TreeError
from funcnet._typing import Tree
from funcnet.core._check import misfit
from funcnet.core._entries import Buffer, Param
from funcnet.core._limits import guarded
from funcnet.random import Rng, Stream, fold_in
from funcnet.random.internals import DrawInterceptor, KeyAtPath, rng_at_path
from funcnet.tree import join

if TYPE_CHECKING:
    from funcnet.core._lazy import Found
    from funcnet.core._net import Net

NOTHING: Tree = {}
RESERVED = frozenset(name for name in dir(nn.Module) if not name.startswith("__")) | {"training", "rng"}
"""Names that no part can have, because an nn.Module or a view means something else by them."""


class Call:
    """What one call knows: its mode, its source of draws and how often each path drew. The root of every view.

    ``found`` is there in a call that is made to learn shapes: what lazy nets become, by path. ``within`` is there while
    a foreign forward runs: it gives the place in it, as far as :func:`draws_at` wants a view. ``intercept`` is there
    while torch's own random functions are answered.
    """

    __slots__ = ("closed", "counts", "found", "intercept", "rng", "train", "within")

    def __init__(self, train: Any, rng: Any, found: Found | None = None) -> None:
        self.train: bool | Callable[[str], bool] = train
        self.rng: Any = rng
        self.counts: dict[str, int] = {}
        self.closed = False
        self.found = found
        self.within: Callable[[], Any] | None = None
        self.intercept: DrawInterceptor | None = None


class View:
    """The ``p`` of a body: params, buffers, parts and fields by name, for one call.

    ``p.fc(x)`` calls a part and ``p.fc.weight`` reads its tensor; assigning ``p.running_mean = new`` records a new
    buffer and writes nothing. An ``nn.Module`` with the same names does the same things.
    """

    __slots__ = ()

    if TYPE_CHECKING:
        _up: Any
        _kids: tuple[type[View], ...]
        _name: str
        _params: Tree
        _buffers: Tree

        def __getattr__(self, name: str) -> Any: ...
        def __setattr__(self, name: str, value: Any) -> None: ...
        def __call__(self, *inputs: Any, **kwargs: Any) -> Any: ...

    _classes: tuple[type[View], ...] = ()
    _gets: tuple[Callable[[View], Any], ...] = ()
    _steps: tuple[Callable[[View, Any], Any], ...] = ()
    _names: tuple[str, ...] = ()
    _tensors: tuple[str, ...] = ()
    _expects: str | None = None  # None for a body not funcnet's own
    _shared: ClassVar[View | None] = None  # the one view of a body that ignores its view

    @property
    def training(self) -> bool:
        """Whether the net at this place is in training mode."""
        up = self._up
        while type(up) is not Call:
            up = up._up
        return up.train if isinstance(up.train, bool) else bool(up.train(origin(self)[1]))

    @property
    def rng(self) -> Tensor | Stream:
        """What to draw from: with a Key, another Key at every look; with an int seed, its sequence."""
        draws = draws_at(self)
        return fold_in(draws.key, draws.salt) if isinstance(draws, KeyAtPath) else draws

    def __repr__(self) -> str:
        return f"<view of {type(self).__name__} at {origin(self)[1] or 'the root'!r}>"


def origin(view: View) -> tuple[Call, str]:
    """The call a view belongs to, and its path in the net called."""
    path, up = view._name, view._up
    while type(up) is not Call:
        path, up = join(up._name, path), up._up
    return up, path


def where(view: View) -> str:
    """Words for the place of a view: what it is, and its path."""
    path = origin(view)[1]
    return f"{type(view).__name__} at {path!r}" if path else type(view).__name__


def draws_at(view: View, below: str = "") -> Rng:
    """What the next draw at the place of a view, or at a path below it, draws from.

    Raises:
        RandomnessError: if the call has no ``rng``, or is over.
    """
    up, path = view._up, view._name
    if below:
        path = join(path, below)
    while type(up) is not Call:
        name = up._name
        path, up = f"{name}.{path}" if name else path, up._up
    rng = up.rng
    if rng is None:
        raise RandomnessError(f"{where(view)} draws random numbers and rng is None. {PASS_RNG}")
    if up.closed:
        raise RandomnessError(
            f"{where(view)} draws after its call has ended, as when torch.utils.checkpoint runs a part again: the "
            f"draws would differ from the first run. Checkpoint a function of (params, x, key) that calls the net."
        )
    if type(rng) is Stream:
        return rng
    counts = up.counts
    count = counts.get(path, 0)
    counts[path] = count + 1
    return rng_at_path(rng, path, count)


PASS_RNG = "Pass rng=funcnet.random.key(0), or rng=0 for the draws of torch.manual_seed(0)."


# --- generating the classes ---


def view_class(net: Net, made: dict[Net, type[View]]) -> type[View]:
    """The class of views of a net; ``made`` holds those of this build, so equal nets share one."""
    if net in made:
        return made[net]
    base = net.view_base()
    facts = net._facts
    entries = {} if facts.reads_trees else net._own_entries
    children = {} if facts.reads_trees else net._children
    names = (*entries, *children, *net._named_constants)
    bad = [name for name in names if name in RESERVED or (name.startswith("_") and not facts.is_trusted)]
    if bad:
        raise ValueError(
            f"{type(net).__name__} has parts or fields named {bad}: nn.Module uses such names itself. Choose others."
        )
    slots = ["_up", "_name"]
    space: dict[str, Any] = {
        name: staticmethod(value) if hasattr(type(value), "__get__") else value
        for name, value in net._named_constants.items()
    }
    params = tuple(name for name, spec in entries.items() if isinstance(spec, Param))
    if facts.slots is not None:
        slots += params
    else:
        slots += ["_params", "_kids"]
        space.update({name: property(_reader("_params", name)) for name in params})
    if has(net, Buffer):
        slots.append("_buffers")
    for name, spec in entries.items():
        if isinstance(spec, Buffer):
            space[name] = property(_reader("_buffers", name), _recorder(name, spec))

    body = body_of(net)
    kids, gets, steps = [], [], []
    for index, (name, child) in enumerate(children.items()):
        kid = view_class(child, made)
        get, step = _bind(name, index, child, kid)
        kids.append(kid)
        gets.append(get)
        steps.append(step)
        space[name] = property(get) if kid._shared is None else kid._shared
    space.update(
        __slots__=tuple(slots),
        __call__=body,
        _classes=tuple(kids),
        _gets=tuple(gets),
        _steps=tuple(steps),
        _names=tuple(children),
        _tensors=tuple(net._own_entries),
        _expects=net.expects() if facts.is_trusted else None,
    )
    name = net.title()
    cls: type[View] = type(str(name), (base,), space)
    made[net] = cls
    if facts.ignores_view:
        shared = cls()
        shared._up, shared._name = Call(False, None), name
        cls._shared = shared
    return cls


def body_of(net: Net) -> Callable[..., Any]:
    """``forward`` as a plain function of (p, *inputs), which a class takes as ``__call__``."""
    if not hasattr(type(net), "forward"):
        raise TypeError(f"{net.title()} has no body: define forward(p, *inputs), a staticmethod or a method.")
    body = net.forward
    if net._facts.is_limited:
        return guarded(net, body)
    if isinstance(body, FunctionType):
        return body

    def call(p: View, *inputs: Any, **kwargs: Any) -> Any:
        return body(p, *inputs, **kwargs)

    return call


def bodies(net: Net, prefix: str = "") -> Iterator[tuple[str, Net]]:
    """Paths and nets whose bodies a call may run: not those below a body that calls no parts."""
    yield prefix, net
    if not net._facts.one_piece:
        for name, child in net._children.items():
            yield from bodies(child, join(prefix, name))


def has(net: Net, kind: type) -> bool:
    """Whether a net or one below it declares a Param (or Buffer)."""
    return any(isinstance(spec, kind) for _, below in net.named_nets() for spec in below._own_entries.values())


def _reader(tree: str, name: str) -> Callable[[View], Tensor]:
    def read(view: View) -> Tensor:
        return getattr(view, tree)[name]

    return read


def _recorder(name: str, spec: Buffer) -> Callable[[View, Tensor], None]:
    shape, dtype = spec.shape, spec.dtype or torch.float32
    floating = dtype.is_floating_point

    def record(view: View, value: Tensor) -> None:
        # what fits is told here at a quarter of the price of misfit: a normalisation records three values a call
        fits = isinstance(value, Tensor) and value.shape == shape
        if not fits or not (value.is_floating_point() if floating else value.dtype is dtype):
            wrong = list(misfit(spec, value))
            if wrong:
                raise TreeError(f"buffer {join(origin(view)[1], name)!r} cannot be recorded: {'; '.join(wrong)}.")
        call = view._up
        while type(call) is not Call:
            call = call._up
        if not call.closed:  # a part run again after its call (checkpointing) has nothing left to record
            view._buffers[name] = value

    return record


def _bind(name: str, index: int, net: Net, kid: type[View]) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """(get, step) for a part: its view; and the part applied to one input, without a call of the view in between."""
    shared = kid._shared
    if shared is not None:

        def get(up: View) -> View:
            return shared

        forward = net.forward
        if isinstance(forward, FunctionType):
            return get, forward
        return get, lambda up, x: forward(None, x)
    bind = _filler(net._facts.slots, has(net, Param), has(net, Buffer))
    get, step, _ = bind(name, index, kid.__call__)
    return get, step


def opener(net: Net) -> Callable[[type[View], Tree, Tree, Call], View]:
    """The function that makes the root view of a call: ``open(view_class, params, buffers, call)``."""
    bind = _filler(net._facts.slots, has(net, Param), has(net, Buffer))
    return bind("", 0, None)[2]


@cache
def _filler(eager_params: tuple[str, ...] | None, params: bool, buffers: bool) -> Callable[..., Any]:
    """Compile how views of one kind are made; one code object for all nets of that kind keeps them in the cache.

    A function that assigns in a loop, or a class with ``__init__``, makes views at two to four times the price.
    """

    def fill(params_at: str, buffers_at: str) -> str:
        lines = []
        if eager_params is None:
            lines.append(f"view._params = {params_at if params else 'NOTHING'}")
            lines.append("view._kids = view._classes")  # a slot is read faster than a class attribute, part by part
        elif eager_params:
            lines.append(f"tensors = {params_at}")
            lines += [f"view.{name} = tensors[{name!r}]" for name in eager_params]
        if buffers:
            lines.append(f"view._buffers = {buffers_at}")
        return "\n        ".join(lines) or "pass"

    part = fill("up._params[name]", "up._buffers[name]")
    code = f"""
def bind(name, index, body):
    def get(up):
        view = up._kids[index]()
        view._up = up
        view._name = name
        {part}
        return view
    def step(up, x):
        view = up._kids[index]()
        view._up = up
        view._name = name
        {part}
        return body(view, x)
    def open(view_class, params, buffers, call):
        view = view_class()
        view._up = call
        view._name = ""
        {fill("params", "buffers")}
        return view
    return get, step, open
"""
    space: dict[str, Any] = {"NOTHING": NOTHING}
    exec(code, space)
    return space["bind"]
