"""The two kinds of nets besides those that users write: funcnet's own, and modules of other people."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from funcnet.core._net import Net


class StockNet(Net, trusted=True):
    """A net whose body funcnet wrote: a layer, a container, a part of a model, a traced program.

    Its body draws random numbers from ``p`` only and writes to nothing in place, so a call need not watch it.
    """

    def calls_unknown_code(self) -> bool:
        """Whether this record holds a function, given by a user, that the body calls."""
        return False

    def uncalled_parts(self) -> Iterable[str]:
        """Names of the parts whose tensors the body reads, without calling the part."""
        return ()


class DelegatingNet(StockNet, reads_trees=True, one_piece=True):
    """A net whose body runs another net, with tensors that it takes out of the dicts of the call."""

    def delegate(self) -> Net:
        """The net that the body runs."""
        raise NotImplementedError

    def count_stacks(self) -> int:
        """How many numbers of layers the body puts between its own path and the paths of what it runs."""
        inner = self.delegate()
        return inner.count_stacks() if isinstance(inner, DelegatingNet) else 0

    def draws(self, training: bool) -> bool:
        return any(net.draws(training) for _, net in self.delegate().named_nets())

    def limits(self, training: bool) -> Mapping[str, str]:
        return {name: why for _, net in self.delegate().named_nets() for name, why in net.limits(training).items()}


class TransparentNet(DelegatingNet):
    """A net whose body runs another net. Its params and buffers, its parts and its name are those of that net."""

    net_: Net

    def parts(self) -> Mapping[str, Any]:
        return self.net_._parts

    def title(self) -> str:
        return self.net_.title()

    def delegate(self) -> Net:
        return self.net_


@dataclass(frozen=True)
class PossibleEffects:
    """What a call of foreign code may do besides computing its output; False where it is known not to.

    Args:
        changes_module: it may change what the module holds besides its tensors, or anything outside of the call.
        writes_in_place: it may write to tensors that it did not make, except that norms in training write to their
            running averages.
        draws: it may draw from the global generator of torch.
        calls_unruled_kernels: it may call kernels of torch that have no second derivative.
    """

    changes_module: bool
    writes_in_place: bool
    draws: bool
    calls_unruled_kernels: bool


ANY_EFFECT = PossibleEffects(True, True, True, True)


class ForeignNet(Net, reads_trees=True, fields_in_view=False):
    """A net whose body is the forward of a module that funcnet did not write."""

    def code_classes(self) -> Iterable[type]:
        """The classes in whose methods the body may draw from global generators, or seed them."""
        return ()

    def possible_effects(self) -> PossibleEffects:
        """What the forward may do besides computing its output."""
        return ANY_EFFECT

    def is_recurrent(self) -> bool:
        """Whether the body calls torch's recurrent kernels, which have no batching rule."""
        return False

    def normalises_batches(self) -> bool:
        """Whether the body may call torch's batch norm, whose statistics are those of the whole batch."""
        return False

    def called_function(self, method: str) -> Callable[..., Any]:
        """The forward of the module, or any other method of it."""
        raise NotImplementedError

    def find_running_submodule(self, trace: TracebackType | None) -> tuple[str, dict[str, Any]] | None:
        """The innermost submodule whose call an error passed, in words with its path, and the inputs of that call."""
        return None

    def module_repr(self) -> str | None:
        """The ``repr`` of the module, where the ``repr`` of its twin without numbers differs."""
        return None
