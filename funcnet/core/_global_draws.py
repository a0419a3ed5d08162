"""How the draws of a call are contained: none comes from a global generator, and none of those moves.

A body may call ``F.dropout``, ``torch.rand``, ``random.random`` or ``numpy.random.rand``, which draw from generators
that the whole process shares. :class:`GlobalDrawGuard` runs it in one of these ways, so that what it draws comes from
the ``rng`` of the call. Later ways cost more, so each is taken only where no earlier one works.

=========================  ===========================================  ===============================================
way                        when it is taken                             what happens
=========================  ===========================================  ===============================================
no guard                   no body can draw from a global generator:    the body just runs (``core/_call.py`` decides,
                           it is funcnet's own, or its code shows it    by ``never_draws`` in
                                                                        ``random/_draws_in_code.py``)
as the global generator    ``rng`` is an int seed, in plain eager       torch's generator is set to the seed, the body
                           code, and no other thread can draw           draws from it as the module would, and it is
                                                                        put back (``Stream.as_global_generator``)
watched                    any other eager call, unless the mode is     the generator's state is compared before and
                           known to draw                                after; if it did not move, that was all
watched and run again      the generator moved while it was watched     it is put back, and the body runs again,
                                                                        intercepted
intercepted                this mode of the net is known to draw; or    torch's random functions are answered from
                           vmap, or torch.compile, where nothing can    ``rng`` (``random/_interception.py``)
                           be watched
inside a foreign forward,  a foreign forward learned which of its       only that submodule of its leased copy is
by path                    submodules draws                             intercepted, and draws at its own path
                                                                        (``foreign/_draws_by_path.py``)
lent to Python and NumPy   the first call of each mode; and every       under a lock, their generators are set to the
                           call, once that moved one of them or where   numbers of ``rng``, and put back
                           a foreign class names one in its code        (``lend_python_generators``)
=========================  ===========================================  ===============================================

The last way is combined with any of the others. Where a foreign class may seed torch's generator itself (its code
names ``manual_seed`` or ``seed``), watching proves nothing, because a seed may put the generator just where it was.
A class that puts the generator back after it drew (its code names ``fork_rng`` or ``set_rng_state``) runs from two
seeds first: if the results are equal, it drew nothing that the generator decides, and they are the result.
Any of these bodies runs as the global generator even while other threads run, or intercepted, from a seed that no body
will use; if it seeds the generator there, that call raises.

A draw by none of torch's functions that are known to draw (one by a C++ extension, say) still moves the generator when
the body is intercepted: that call raises too, and the generator is put back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor

from funcnet._context import can_read_numbers, is_plainly_eager, under_vmap
from funcnet._errors import RandomnessError
from funcnet._tensors import same_bits
from funcnet._torch import pytree, saved_tensors_hooks
from funcnet._typing import Tree
from funcnet.core._draw_source import PASS_RNG
from funcnet.core._facts import iter_bodies
from funcnet.random import Stream
from funcnet.random.internals import (
    GLOBAL_GENERATORS_LOCK,
    DrawInterceptor,
    RngArgument,
    as_rng,
    is_only_drawer,
    lend_python_generators,
    names_in_methods,
    read_torch_state,
    restore_torch_state,
)

if TYPE_CHECKING:
    from funcnet.core._net import Net

RunBody: TypeAlias = Callable[..., tuple[Any, Tree]]
"""Runs a body once: ``run_body(rng)``, or ``run_body(rng, interceptor)`` to run it within a ``DrawInterceptor``."""


class GlobalDrawGuard:
    """Runs the body of a net so that all its draws come from ``rng``; remembers, per mode, which generators it uses."""

    def __init__(self, net: Net) -> None:
        self._title = net.title()
        self._drawing_modes: set[bool] = (
            set()
        )  # modes (is it plain eval?) in which the body draws from torch's generator
        self._watched_modes: set[tuple[bool, bool]] = (
            set()
        )  # modes in which Python's and NumPy's generators were watched
        classes = {cls for _, body in iter_bodies(net) for cls in body._facts.foreign_classes}
        names = frozenset().union(*map(names_in_methods, classes))
        self._draws_in_python = "random" in names
        self._may_hide_draws = not names.isdisjoint(("fork_rng", "set_rng_state"))  # by putting the generator back
        self._may_seed_torch = self._may_hide_draws or not names.isdisjoint(("manual_seed", "seed"))
        self._python_draws_have_no_effect = False  # in a call without rng

    def run_guarded(self, run_body: RunBody, is_eval: bool, rng: RngArgument) -> tuple[Any, Tree]:
        """Run a body so that all it draws comes from ``rng``.

        Reading the generators of Python and NumPy takes longer than many calls. So it is done in the first call of each
        mode, and later only if that call moved them, or if the code of a foreign module names a "random".
        """
        mode = (is_eval, rng is None)
        if torch.compiler.is_compiling() or (mode in self._watched_modes and not self._draws_in_python):
            return self._run_with_torch_draws_redirected(run_body, all(mode), rng)
        with GLOBAL_GENERATORS_LOCK:
            with lend_python_generators(as_rng(rng) if can_read_numbers() else None) as lent:
                result = self._run_with_torch_draws_redirected(lent.from_start(run_body), all(mode), rng)
            self._watched_modes.add(mode)
            if lent.have_drawn and not (rng is None and self._python_draws_have_no_effect):
                self._draws_in_python = True
                if not can_read_numbers():
                    raise self._python_draw_error(
                        "once for all examples: not under vmap. Loop over the examples, or draw before vmap and pass "
                        "what is drawn as an input."
                    )
                if rng is None:
                    with lend_python_generators(Stream(1)) as lent:
                        second_result = self._run_with_torch_draws_redirected(lent.from_start(run_body), all(mode), rng)
                    if not _have_same_bits(result, second_result):
                        raise self._python_draw_error(f"and rng is None. {PASS_RNG}")
                    self._python_draws_have_no_effect = True
        return result

    def _python_draw_error(self, how: str) -> RandomnessError:
        return RandomnessError(f"{self._title} draws from the global generator of Python or NumPy {how}")

    def _run_with_torch_draws_redirected(
        self, run_body: RunBody, is_plain_eval: bool, rng: RngArgument
    ) -> tuple[Any, Tree]:
        """Run a body so that its draws from torch's generators come from ``rng``.

        Intercepting costs a third of a small call, and blocks torch's fast paths. So a body is only watched, and
        run again if the generator moved: another thread drew, or the body did. A foreign body then learns where it
        draws, and intercepts that part of itself in later calls; any other is intercepted as a whole from then on.
        """
        if torch.compiler.is_compiling() or under_vmap():
            return run_body(rng, DrawInterceptor())
        stream = as_rng(rng)
        if isinstance(stream, Stream) and stream is not rng and self._can_lend_torch():
            with GLOBAL_GENERATORS_LOCK, stream.as_global_generator():  # the body draws just as in a call of the module
                return run_body(stream)
        if self._may_hide_draws:
            with GLOBAL_GENERATORS_LOCK:
                results = []
                for seed in (_UNLIKELY_SEED, _UNLIKELY_SEED + 1):
                    with Stream(seed).as_global_generator():
                        results.append(run_body(rng))
            if _have_same_bits(*results):
                return results[0]
        if self._may_seed_torch:  # a seed may set the generator to its old state, and then no move is seen
            with GLOBAL_GENERATORS_LOCK, Stream(_UNLIKELY_SEED).as_global_generator():
                return self._run_intercepted(run_body, is_plain_eval, rng, None)
        # a checkpoint counts the tensors that are saved, so under its hooks the body runs once
        runs_once = is_plain_eval in self._drawing_modes or saved_tensors_hooks(True) is not None
        state = None if runs_once else read_torch_state()
        if state is not None:
            result = run_body(rng)
            if torch.equal(state, read_torch_state()):
                return result
        return self._run_intercepted(run_body, is_plain_eval, rng, state)

    def _can_lend_torch(self) -> bool:
        return is_plainly_eager() and (is_only_drawer() or self._may_seed_torch)

    def _run_intercepted(
        self, run_body: RunBody, is_plain_eval: bool, rng: RngArgument, moved_from: Tensor | None
    ) -> tuple[Any, Tree]:
        """Run the body with torch's draws answered from ``rng``.

        Args:
            run_body, is_plain_eval, rng: as above.
            moved_from: the state of the global generator before the body moved it, if it did.
        """
        before = read_torch_state() if moved_from is None else moved_from
        interceptor = DrawInterceptor()
        try:
            start = read_torch_state()
            for _ in range(2):  # a second time, because another thread may have moved the generator
                result = run_body(rng, interceptor)
                if torch.equal(start, read_torch_state()):
                    if interceptor.has_drawn and not interceptor.found_submodule:
                        self._drawing_modes.add(is_plain_eval)
                    return result
                restore_torch_state(start)  # a body that seeds the generator moves it again
            interceptor.has_drawn = True
            raise RandomnessError(
                f"{self._title} draws from torch's global generator by a function that takes no other, or seeds "
                f"it. Draw with funcnet.random and p.rng, or with one of torch's functions that take generator=."
            )
        finally:
            if interceptor.has_drawn and (moved_from is not None or not torch.equal(before, read_torch_state())):
                restore_torch_state(before)


_UNLIKELY_SEED = 0x5EED0FAB0D7
"""A seed that no body will use."""


def _have_same_bits(result: object, second_result: object) -> bool:
    """Whether two results of a call have the same bits; values that are not tensors are compared by type alone."""
    leaves, second_leaves = pytree.tree_leaves(result), pytree.tree_leaves(second_result)
    return len(leaves) == len(second_leaves) and all(
        type(leaf) is type(second_leaf) and (not isinstance(leaf, Tensor) or same_bits(leaf, second_leaf))
        for leaf, second_leaf in zip(leaves, second_leaves, strict=True)
    )
