"""What a call does about global generators: torch's, Python's and NumPy's. No draw comes from them, none moves them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from funcnet._context import numbers_known, plainly_eager, under_vmap
from funcnet._errors import RandomnessError
from funcnet._torch import draws_alone, global_state, set_global_state
from funcnet._typing import Tree
from funcnet.core._view import PASS_RNG, iter_bodies
from funcnet.random import LENDING, Intercept, Stream, as_rng, names_in, others_lent

if TYPE_CHECKING:
    from funcnet.core._net import Net

Once: TypeAlias = "Callable[..., tuple[Any, Tree]]"
"""One run of a body: ``once(rng)``, or ``once(rng, intercept)`` to run it within an ``Intercept``."""


class GlobalDrawGuard:
    """Runs the bodies of a net, and remembers which generators they draw from."""

    def __init__(self, net: Net) -> None:
        self._title = net.title()
        self._torch: set[bool] = set()  # the modes, plain eval or not, in which torch's is known to be drawn from
        self._heard: set[tuple[bool, bool]] = set()  # the modes in which the others were watched
        kinds = {kind for _, below in iter_bodies(net) for kind in below._facts.foreign_classes}
        names = frozenset().union(*map(names_in, kinds))
        self._others = "random" in names
        self._seeds = not names.isdisjoint(("manual_seed", "seed"))  # whether a body may seed torch's generator
        self._idle = False  # whether a call without rng draws from the others to no effect

    def kept(self, once: Once, eval: bool, rng: Any) -> tuple[Any, Tree]:
        """Run a body such that all it draws comes from ``rng``.

        To look at the generators of Python and NumPy takes longer than many a call. So it is done in the first call of
        each mode, and from then on if that moved them, or where the code of a foreign module names a "random".
        """
        mode = (eval, rng is None)
        if torch.compiler.is_compiling() or (mode in self._heard and not self._others):
            return self._torch_kept(once, all(mode), rng)
        with LENDING:
            with others_lent(as_rng(rng) if numbers_known() else None) as lent:
                result = self._torch_kept(lent.from_start(once), all(mode), rng)
            self._heard.add(mode)
            if lent.drawn and not (rng is None and self._idle):
                self._others = True
                if not numbers_known():
                    raise self._drew_beside("once for all examples: not under vmap.")
                if rng is None:
                    with others_lent(Stream(1)) as lent:
                        other = self._torch_kept(lent.from_start(once), all(mode), rng)
                    if not _agree(result, other):
                        raise self._drew_beside(f"and rng is None. {PASS_RNG}")
                    self._idle = True
        return result

    def _drew_beside(self, how: str) -> RandomnessError:
        return RandomnessError(f"{self._title} draws from the global generator of Python or NumPy {how}")

    def _torch_kept(self, once: Once, plain: bool, rng: Any) -> tuple[Any, Tree]:
        """The same for torch's generator alone.

        To intercept costs a third of a small call, and keeps torch from its fast paths. So a body is only watched, and
        run again if the generator moved: another thread drew, or it did. A foreign body learns where, and intercepts
        that part of itself in later calls; any other is intercepted as a whole from then on.
        """
        if torch.compiler.is_compiling() or under_vmap():
            return once(rng, Intercept())
        stream = as_rng(rng)
        if isinstance(stream, Stream) and stream is not rng and plainly_eager() and (draws_alone() or self._seeds):
            with LENDING, stream.as_global():  # as torch.manual_seed(seed); module(x), which nobody can tell
                return once(stream)
        if self._seeds:  # which may put the generator just where it was: then nobody would see it move
            with LENDING, Stream(_UNLIKELY).as_global():
                return self._intercepted(once, plain, rng, None)
        state = None if plain in self._torch else global_state()
        if state is not None:
            result = once(rng)
            if torch.equal(state, global_state()):
                return result
        return self._intercepted(once, plain, rng, state)

    def _intercepted(self, once: Once, plain: bool, rng: Any, state: Tensor | None) -> tuple[Any, Tree]:
        """Run the body with torch's draws redirected; ``state`` is the global generator's, if the body moved it."""
        before = global_state() if state is None else state
        intercept = Intercept()
        try:
            start = global_state()
            for _ in range(2):  # twice, if another thread may have moved the generator
                result = once(rng, intercept)
                if torch.equal(start, global_state()):
                    if intercept.drew and not intercept.learned:
                        self._torch.add(plain)
                    return result
                set_global_state(start)  # a body that seeds it moves it again
            intercept.drew = True
            raise RandomnessError(
                f"{self._title} draws from torch's global generator by a function that takes no other, or seeds "
                f"it. Draw with funcnet.random and p.rng, or with one of torch's functions that take generator=."
            )
        finally:
            if intercept.drew and (state is not None or not torch.equal(before, global_state())):
                set_global_state(before)


_UNLIKELY = 0x5EED0FAB0D7
"""A seed that no body will use."""


def _agree(one: Any, other: Any) -> bool:
    """Whether two results of a call have the same bits."""
    left, right = tree_leaves(one), tree_leaves(other)
    return len(left) == len(right) and all(
        type(x) is type(y) and (not isinstance(x, Tensor) or (x.shape == y.shape and torch.equal(x, y)))
        for x, y in zip(left, right, strict=True)
    )
