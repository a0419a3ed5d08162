"""What is known of a body before it runs: one record, made when a net that contains it is first prepared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from funcnet.core._entries import Param
from funcnet.core._function import Function
from funcnet.core._kinds import DelegatingNet, ForeignNet, StockNet
from funcnet.core._net import Net
from funcnet.kernels.internals import UNRULED_KERNEL_NAMES
from funcnet.random.internals import names_in_function, never_draws
from funcnet.tree import join

_MODES = (False, True)


@dataclass(frozen=True)
class BodyFacts:
    """What is known of the body of one net, parts not included.

    The kinds of bodies that exist, and what holds for each ("code" means that the code of the body decides):

    ===========================================  =======  ===============  ============  ===========  =========  =======
    body                                         trusted  draws from view  ignores view  reads trees  one piece  slots
    ===========================================  =======  ===============  ============  ===========  =========  =======
    stock layer with tensors (Linear)            yes      yes              no            no           no         yes
    stock layer that only computes (ReLU)        yes      yes              yes           no           no         yes
    stock layer with parts (MultiheadAttention)  yes      yes              no            no           no         no
    stock layer that calls a given function      no       code             no            no           no         no
    container of nets (Sequential)               yes      yes              no            no           no         no
    container of tensors (ParameterList)         yes      yes              no            yes          no         no
    part of a model (LlamaRMSNorm)               yes      yes              no            no           no         yes
    net that runs others (Stack, Remat)          yes      yes              no            yes          yes        no
    net of a computed tensor (Parametrized)      as base  as base          no            no           no         no
    traced program (Traced)                      yes      yes              no            yes          yes        no
    composed function, class of a user           no       code             no            no           no         no
    plain function (Function)                    no       code             yes           no           no         no
    foreign module (Wrapped)                     no       code             no            yes          no         no
    ===========================================  =======  ===============  ============  ===========  =========  =======

    Args:
        is_trusted: the body is funcnet's own: it draws from ``p`` only, and writes to nothing in place. Any other is
            watched for writes to what the caller gave it.
        draws_from_view_only: the body is known never to draw from torch's global generator, so nobody watches it.
        ignores_view: the body never uses its view; one view is shared by all calls.
        reads_trees: the body finds its tensors and parts by itself in the dicts of the call.
        one_piece: the body calls none of the parts, so nothing is asked about them, and writes to no buffer in place.
        slots: the names of the params that views hold as attributes, filled when a view is made; None where views read
            them from the dicts. For bodies that are trusted, have no parts and read their params by name.
        limits: the transforms that the body refuses, each with the way out; for eval (False) and training (True).
        draws: whether the body draws random numbers from its view, by the same modes.
        may_write: the body may write in place to tensors of the trees or to inputs, or change anything outside of the
            call; that norms of torch write to their running averages in training does not count.
        calls_unruled_kernels: the body may call kernels of torch that have no second derivative, and is not funcnet's.
        foreign_classes: the classes of a foreign module in whose methods code may use global generators.
    """

    is_trusted: bool
    draws_from_view_only: bool
    ignores_view: bool
    reads_trees: bool
    one_piece: bool
    slots: tuple[str, ...] | None
    limits: Mapping[bool, Mapping[str, str]]
    draws: Mapping[bool, bool]
    may_write: bool
    calls_unruled_kernels: bool
    foreign_classes: frozenset[type]

    @property
    def is_limited(self) -> bool:
        """Whether the body refuses some transform."""
        return any(self.limits.values())


def collect_facts(net: Net) -> BodyFacts:
    """The facts about the body of a net; kept by the net as ``net._facts``."""
    traits = net._traits
    trusted = traits.trusted and not (isinstance(net, StockNet) and net.calls_unknown_code())
    limits = {mode: dict(net.limits(mode)) for mode in _MODES}
    has_slots = trusted and not net._children and not traits.reads_trees
    return BodyFacts(
        is_trusted=trusted,
        draws_from_view_only=trusted or never_draws_globally(net),
        ignores_view=traits.ignores_view and not (net._own_entries or net._children or any(limits.values())),
        reads_trees=traits.reads_trees,
        one_piece=traits.one_piece,
        slots=tuple(name for name, spec in net._own_entries.items() if isinstance(spec, Param)) if has_slots else None,
        limits=limits,
        draws={mode: bool(net.draws(mode)) for mode in _MODES},
        may_write=not trusted and _may_write(net),
        calls_unruled_kernels=not trusted and _names_unruled_kernel(net),
        foreign_classes=frozenset(net.code_classes()) if isinstance(net, ForeignNet) else frozenset(),
    )


def never_draws_globally(net: Net) -> bool:
    """Whether the body of a net, parts not included, is known from its code never to draw from a global generator."""
    if isinstance(net, ForeignNet):
        return not net.possible_effects().draws
    if net._traits.reads_trees or not hasattr(type(net), "forward"):
        return False
    function = net.function if isinstance(net, Function) else getattr(net.forward, "__func__", net.forward)
    return all(never_draws(value, safe_classes=(Net,)) for value in (function, *net._named_constants.values()))


def _may_write(net: Net) -> bool:
    if not isinstance(net, ForeignNet):
        return True
    effects = net.possible_effects()
    return effects.changes_module or effects.writes_in_place


def _names_unruled_kernel(net: Net) -> bool:
    if isinstance(net, ForeignNet):
        return net.possible_effects().calls_unruled_kernels
    if net._traits.reads_trees or not hasattr(type(net), "forward"):
        return False
    function = net.function if isinstance(net, Function) else getattr(net.forward, "__func__", net.forward)
    return not names_in_function(function).isdisjoint(UNRULED_KERNEL_NAMES)


def iter_drawing_nets(bodies: Mapping[str, Net]) -> Iterator[tuple[str, Net]]:
    """Paths and nets that may draw in a call: its bodies, and what is inside of those that run other nets."""
    for path, net in bodies.items():
        yield from net.named_nets(path) if isinstance(net, DelegatingNet) else [(path, net)]


def iter_bodies(net: Net, prefix: str = "") -> Iterator[tuple[str, Net]]:
    """Paths and nets whose bodies a call may run: not those inside of a body that calls no parts."""
    yield prefix, net
    if not net._facts.one_piece:
        for name, child in net._children.items():
            yield from iter_bodies(child, join(prefix, name))
