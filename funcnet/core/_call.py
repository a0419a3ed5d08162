"""One call of a net, from the check of its arguments to the new buffers that it returns."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from funcnet._context import can_read_numbers, tensors_are_real, under_forward_mode, under_transform, under_vmap
from funcnet._errors import RandomnessError, TreeError, bullet_list
from funcnet._torch import never_compile_alone, peek_transform, read_frame_compiler
from funcnet._torch_tracer import list_traced_writes, start_watching_trace
from funcnet._typing import Selector, Tree, TreeLike
from funcnet.core._between_graphs import BETWEEN_GRAPHS
from funcnet.core._body_errors import explain_error
from funcnet.core._check import find_tree_misfits, fits_structure, fits_when_compiled, misfit_error
from funcnet.core._draw_source import PASS_RNG, Call, CallRoot, Mode, PartOfCall, draw_source
from funcnet.core._entries import Buffer, Param
from funcnet.core._inner_states import refuse_unfinished
from funcnet.core._input_watch import InputWatch, name_inputs, read_version, write_error
from funcnet.core._layer_numbers import skip_layer_numbers
from funcnet.core._net_plan import NOTHING_SHOWN, NetPlan
from funcnet.core._shown_writes import ShownWrites
from funcnet.core._ties import drop_aliases, link_buffers, resolve_aliases
from funcnet.core._traced_watch import run_and_compare_when_traced, traced_write_error, untraceable_error
from funcnet.core._tree_watch import buffers_write_error, copy_params, copy_tree, params_write_error, read_states
from funcnet.core._view import EMPTY_TREE
from funcnet.core._wrong_calls import SWALLOWED_ARGUMENTS, refuse_swallowed_arguments
from funcnet.kernels.internals import (
    KernelInterceptor,
    RankInterceptor,
    allow_second_derivatives_within,
    kernels_lack_rules,
)
from funcnet.random.internals import DrawInterceptor, RngArgument, as_rng
from funcnet.ranks import current_run
from funcnet.tree import select
from funcnet.tree.internals import describe_unmatched

_EVAL = Call(False, None)


class PreparedNet(NetPlan):
    """A net made ready to be called."""

    checked_trees: CheckedTrees | None = None

    def _look_for_writes(self, method: str) -> ShownWrites:
        """What the code of a method shows of its writes; if it shows any to tensors of the trees, calls have copies."""
        if method not in self.shown_writes and not torch.compiler.is_compiling():
            self.read_code(method)
        return self.shown_writes.get(method, NOTHING_SHOWN)

    # --- the two ways to call ---

    @never_compile_alone
    def evaluate(self, params: TreeLike, inputs: tuple[Any, ...], kwargs: dict[str, Any], method: str) -> Any:
        """The output in eval mode, of a net without buffers; see ``Net.__call__``."""
        if self.has_buffers or self.draws_in_eval:
            self._refuse_evaluate()
        if torch.compiler.is_compiling():
            self._check_trees(params, EMPTY_TREE)
        elif self.checked_trees is None or not self.checked_trees.matches(params, EMPTY_TREE):
            self._check_trees(params, EMPTY_TREE)
            self.checked_trees = CheckedTrees(self.outer_keys, params, EMPTY_TREE)
        return self._call(params, EMPTY_TREE, False, None, inputs, kwargs, method)[0]

    @never_compile_alone
    def apply(
        self,
        params: TreeLike,
        buffers: TreeLike,
        inputs: tuple[Any, ...],
        kwargs: dict[str, Any],
        train: Selector,
        rng: RngArgument,
        method: str,
    ) -> tuple[Any, Tree]:
        """The output and the new buffers; see ``Net.apply``."""
        mode = train if isinstance(train, bool) else self._select_mode(train)
        if rng is None and (mode is not False or self.draws_in_eval):
            self._refuse_missing_rng(mode)
        if torch.compiler.is_compiling():
            self._check_trees(params, buffers)
        elif self.checked_trees is None or not self.checked_trees.matches(params, buffers):
            self._check_trees(params, buffers)
            self.checked_trees = CheckedTrees(self.outer_keys, params, buffers)
        return self._call(params, buffers, mode, rng, inputs, kwargs, method)

    def run_part(
        self,
        params: TreeLike,
        buffers: TreeLike,
        call: Call,
        path: str,
        inputs: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> tuple[Any, Tree]:
        """Run the body as a part of another call, which has checked the trees; returns the output and the new buffers.

        Args:
            params, buffers: those of the part.
            call: the other call. Its mode and draws are those of the part, which it goes on after. A fork of it gives
                the same draws again, also when the call itself is over.
            path: where the part stands in the net of the other call.
            inputs, kwargs: handed to the body.
        """
        part = PartOfCall(call, path)
        result = self._call_guarded(params, buffers, call.train, call.rng, inputs, kwargs, "forward", part)
        part.end()
        return result

    @never_compile_alone
    def _call(
        self,
        params: TreeLike,
        buffers: TreeLike,
        mode: Mode,
        rng: RngArgument,
        inputs: tuple[Any, ...],
        kwargs: dict[str, Any],
        method: str,
    ) -> tuple[Any, Tree]:
        """Run the body, watched if funcnet did not write it."""
        if (run := current_run()) is not None and run.units is not None and not self.gathers_units:
            from funcnet.core._gathered_units import plan_gathering

            net, params = plan_gathering(self, params, run.units)
            if net is not self.net:
                return net._prepared()._call(params, buffers, mode, rng, inputs, kwargs, method)
        if kwargs and not SWALLOWED_ARGUMENTS.isdisjoint(kwargs):
            refuse_swallowed_arguments(self.net, kwargs, method)
        if method == "forward" and self.is_trusted:
            return self._run_body(params, buffers, mode, inputs, kwargs, method, None, rng)
        if torch.compiler.is_compiling() or not read_frame_compiler():
            return self._call_guarded(params, buffers, mode, rng, inputs, kwargs, method)
        can_compile = not (self._look_for_writes(method).hidden_in_traces or self.shared_values.hidden_in_traces)
        with BETWEEN_GRAPHS.compiling_bodies_alone(can_compile):
            return self._call_guarded(params, buffers, mode, rng, inputs, kwargs, method)

    def _call_guarded(
        self,
        params: TreeLike,
        buffers: TreeLike,
        mode: Mode,
        rng: RngArgument,
        inputs: tuple[Any, ...],
        kwargs: dict[str, Any],
        method: str,
        part: PartOfCall | None = None,
    ) -> tuple[Any, Tree]:
        """Run the body, and see to it that no draw in it comes from a global generator."""
        if self.draws_from_views_only and method == "forward":
            return self._run_body(params, buffers, mode, inputs, kwargs, method, part, rng)
        run_body = partial(self._run_body, params, buffers, mode, inputs, kwargs, method, part)
        return self.global_draw_guard.run_guarded(run_body, mode is False, rng)

    def _run_body(
        self,
        params: TreeLike,
        buffers: TreeLike,
        mode: Mode,
        inputs: tuple[Any, ...],
        kwargs: dict[str, Any],
        method: str,
        part: PartOfCall | None,
        rng: RngArgument,
        interceptor: DrawInterceptor | None = None,
    ) -> tuple[Any, Tree]:
        """Run the body once, over a tree of buffers that is the call's own; returns the output and that tree."""
        if part is not None:
            call = part.start_run()
        elif mode is False and rng is None and self.shares_eval_call:
            call = _EVAL
        else:
            call = Call(mode, as_rng(rng))
        aliases = self.aliases_by_kind[Param]
        full_params = resolve_aliases(params, aliases) if aliases else params
        watches = not self.is_trusted or method != "forward"
        shown = self._look_for_writes(method) if watches else NOTHING_SHOWN
        has_copies = (
            not shown.is_all and watches and tensors_are_real() and (self.copies_all or not self._has_seen(call))
        )
        is_traced = watches and torch.compiler.is_dynamo_compiling() and not self.copies_inputs
        gradients = None
        if has_copies and not (self.copies_inputs or self.is_trusted) and (shown.backward or not self._has_seen(call)):
            gradients = self._watch_gradients(full_params)
        if is_traced:
            start_watching_trace()
            if self.has_foreign_parts and self.copies_all:  # their forwards may write to copies
                full_params = resolve_aliases(copy_tree(params), aliases)
        elif has_copies or self.scratch:
            full_params = copy_params(full_params, None if has_copies else self.scratch)
        writable = EMPTY_TREE if shown.is_all and mode is False else self.writable
        call_buffers = self._make_call_buffers(buffers, writable) if self.has_buffers else {}
        try:
            view = self.open_view(self.view_class, full_params, call_buffers, call)  # type: ignore[arg-type]
            if part is not None:
                view._name = call.path
            body = view if method == "forward" else self.net.method(view, method)
            if self.settings and not torch.compiler.is_compiling():
                from funcnet._global_settings import with_settings_restored

                body = with_settings_restored(body, self.settings)
            # Without a group of processes there is no mesh for a tensor to lie on.
            if not torch.compiler.is_compiling() and dist.is_available() and dist.is_initialized():
                from funcnet.core._placed_calls import placed_tensor_context

                body = _run_within(placed_tensor_context(params, inputs, kwargs), body)
            if interceptor is not None:
                root: Any = view if part is None else CallRoot(call)
                interceptor.next_rng = lambda: draw_source(
                    root if call.find_drawing_path is None else call.find_drawing_path()
                )
                interceptor.key = rng if isinstance(rng, Tensor) else None
                if call is not _EVAL:
                    call.interceptor = interceptor
                with interceptor:
                    output = self._run_untrusted(
                        body, call, full_params, call_buffers, has_copies, inputs, kwargs, shown
                    )
            elif watches:
                output = self._run_untrusted(body, call, full_params, call_buffers, has_copies, inputs, kwargs, shown)
            else:
                output = body(*inputs, **kwargs)
            if is_traced:
                self._refuse_traced_writes()
            if gradients is not None:
                gradients.check(self.net.title())
        except Exception as error:
            if torch.compiler.is_compiling():
                raise  # the compiler would trace the explanation; it runs the call again without being compiled
            if gradients is not None:
                gradients.undo()
            if part is not None:
                raise  # the other call explains it
            explained = explain_error(self, params, error, inputs, kwargs, method)
            try:
                if explained is error:
                    raise
                raise explained from error
            finally:
                del explained  # a local of a frame in its own traceback would keep the frame, and all tensors in it
        if call is not _EVAL:
            if call.stacks:
                for stack in list(call.stacks.values())[::-1]:  # one in another was opened after it, and goes into it
                    stack.record()
            call.closed = True
        return output, drop_aliases(call_buffers, buffers) if self.aliases_by_kind[Buffer] else call_buffers

    def _refuse_traced_writes(self) -> None:
        """Refuse, while the compiler traces, writes to tensors that were there before the call."""
        names = list_traced_writes()
        if names:
            raise traced_write_error(self.net.title(), names)

    def _has_seen(self, call: Call) -> bool:
        """Whether a call of this mode was seen to write to no params, so that the next need no copies of them."""
        return _mode_key(call) in self.modes_seen or not can_read_numbers()

    def _run_untrusted(
        self,
        body: Callable[..., Any],
        call: Call,
        params: TreeLike,
        buffers: TreeLike,
        has_copies: bool,
        inputs: tuple[Any, ...],
        kwargs: dict[str, Any],
        shown: ShownWrites,
    ) -> Any:
        """Run a body that funcnet did not write; the kernels it calls have the rules that funcnet's layers have."""
        if self.normalises_batches and (run := current_run()) is not None and run.shares_statistics:
            body = _run_within(RankInterceptor(), body)
        if (under_transform() or under_forward_mode()) and (
            kernels_lack_rules((params, inputs, kwargs)) or (self.has_recurrent_kernels and under_vmap())
        ):
            with KernelInterceptor():
                output = self._run_watched(body, call, params, buffers, has_copies, inputs, kwargs, shown)
                refuse_unfinished(self.net.title(), output)
                return output
        output = self._run_watched(body, call, params, buffers, has_copies, inputs, kwargs, shown)
        if type(output) is not Tensor:
            refuse_unfinished(self.net.title(), output)
        if not self.calls_unruled_kernels or (type(output) is Tensor and not output.requires_grad):
            return output  # without a graph there is no derivative to prepare for
        return allow_second_derivatives_within(output)

    def _run_watched(
        self,
        body: Callable[..., Any],
        call: Call,
        params: TreeLike,
        buffers: TreeLike,
        has_copies: bool,
        inputs: tuple[Any, ...],
        kwargs: dict[str, Any],
        shown: ShownWrites,
    ) -> Any:
        """Run a body that funcnet did not write, and notice what it did to its arguments and to what all calls share.

        If a foreign forward in eval mode writes to its params (some scale their weights once, and remember that they
        did), it is left alone: it has copies.
        """
        if torch.compiler.is_compiling():
            if self.copies_inputs:
                return body(*inputs, **kwargs)
            title = self.net.title()
            unseen = shown.hidden_in_traces or self.shared_values.hidden_in_traces
            if unseen:
                raise untraceable_error(title, unseen)
            return run_and_compare_when_traced(title, body, inputs, kwargs, self.shared_values.comparable)
        is_first = has_copies and not self._has_seen(call)
        version = None
        watches: list[InputWatch] = []
        records_tensors = is_first or shown.touches_tensors
        defaults = self.shared_values.defaults
        if self.copies_inputs:
            if defaults:
                watches.append(InputWatch(defaults))
        elif len(inputs) == 1 and not (kwargs or records_tensors or defaults) and type(inputs[0]) is Tensor:
            version = read_version(inputs[0])  # the common case, without a detour
        else:
            watches.append(InputWatch([*name_inputs(inputs, kwargs), *defaults], records_tensors, shown.memory))
        if self.shared_values.named and (shared := self.shared_values.watch(is_first, shown.memory)) is not None:
            watches.append(shared)
        watched = []
        if tensors_are_real() and not shown.is_all:
            watched = [*self.read_params(params), *self.read_buffers(buffers)]
        states = _read_states(watched, has_copies)
        try:
            compile_frame = BETWEEN_GRAPHS.compile_frame
            output = body(*inputs, **kwargs) if compile_frame is None else BETWEEN_GRAPHS.run(body, inputs, kwargs)
        except BaseException:
            for watch in watches:
                watch.undo()
            raise
        if version is not None and read_version(inputs[0]) != version:
            raise write_error(self.net.title(), ["input 0"])
        for watch in watches:
            watch.check(self.net.title())
        new_states = _read_states(watched, has_copies)
        if new_states == states and not has_copies:
            return output
        names = [*self.specs["params"], *self.watched_buffers]
        paths = [path for path, old, new in zip(names, states, new_states, strict=False) if old != new]
        if buffer_paths := [path for path in paths if path in self.specs["buffers"]]:
            self.set_writable(True)
            raise buffers_write_error(buffer_paths)
        changed = [] if has_copies else [path for path in paths if path not in self.scratch]
        if changed or (paths and (call.train is not False or not all(map(self._is_read_as_tree, paths)))):
            if changed:
                self.set_writable(True)
            raise params_write_error(paths, bool(changed))
        if has_copies:
            self.modes_seen.add(_mode_key(call))
            self.scratch.update(paths)
        return output

    def _watch_gradients(self, params: TreeLike) -> InputWatch:
        """A watch of the params that a backward pass within the body could add gradients to."""
        paths_and_tensors = zip(self.specs["params"], self.read_params(params), strict=True)
        leaves = [(f"params {path!r}", tensor) for path, tensor in paths_and_tensors if tensor.requires_grad]
        return InputWatch(leaves, records_tensors=True)

    def _is_read_as_tree(self, path: str) -> bool:
        """Whether the tensor at a path belongs to a body that finds its tensors in the dicts of the call."""
        return any(
            net._facts.reads_trees
            for net_path, net in self.nets_by_path.items()
            if not net_path or path.startswith(f"{net_path}.")
        )

    def _make_call_buffers(self, buffers: TreeLike, writable: TreeLike) -> Tree:
        """The tree that a call records new buffers in: new dicts, and new tensors where a body may write in place."""
        copy = _copy_buffers(buffers, writable)
        aliases = self.aliases_by_kind[Buffer]
        return link_buffers(copy, aliases) if aliases else copy

    def _select_mode(self, train: Selector) -> Callable[[str], bool]:
        """The mode by path, from a selector of the paths in training mode; a pattern that matches none is refused."""
        problems = describe_unmatched(train, list(self.nets_by_path))
        if problems:
            raise TreeError(f"train={train!r} does not fit the nets of {self.net.title()}:{bullet_list(problems)}")
        is_training = select(train)
        depths = self.stack_depths
        return (lambda path: is_training(skip_layer_numbers(path, depths))) if depths else is_training

    # --- refusals ---

    def _check_trees(self, params: TreeLike, buffers: TreeLike) -> None:
        """Refuse trees that do not fit this net. Later calls with the same dicts rely on this check."""
        if torch.compiler.is_compiling():
            net = self.net
            if fits_when_compiled(net, "params", params) and fits_when_compiled(net, "buffers", buffers):
                return
        elif fits_structure(self.structures["params"], params) and fits_structure(self.structures["buffers"], buffers):
            return
        lines = find_tree_misfits(self.specs, {"params": params, "buffers": buffers})
        if lines:
            raise misfit_error(self.net, lines)

    def _refuse_evaluate(self) -> None:
        if self.has_buffers:
            paths = sorted({entry.path for entry in self.net.entries() if entry.kind == "buffers"})
            raise TreeError(
                f"net(params, x) has no buffers to give to {', '.join(map(repr, paths))}. "
                f"Call y, buffers = net.apply(params, buffers, x)."
            )
        self._refuse_missing_rng(False)

    def _refuse_missing_rng(self, mode: Mode) -> None:
        paths = self.draws_in_training if mode is True else self.drawing_paths(mode)
        if paths:
            names = ", ".join(repr(path) if path else "the net itself" for path in paths)
            raise RandomnessError(f"rng is None and random numbers are drawn at {names}. {PASS_RNG}")


def _read_states(tensors: list[Tensor], reads_storages: bool) -> list[Any]:
    """What shows later that somebody wrote to a tensor; with storages, also that somebody assigned to its data."""
    if not reads_storages and peek_transform() is None:
        try:
            return [tensor._version for tensor in tensors]
        except RuntimeError:  # an inference tensor
            pass
    return read_states(tensors)


def _run_within(context: AbstractContextManager[Any], body: Callable[..., Any]) -> Callable[..., Any]:
    """A body that runs within a context."""

    def run(*inputs: Any, **kwargs: Any) -> Any:
        with context:
            return body(*inputs, **kwargs)

    return run


def _mode_key(call: Call) -> tuple[bool | None, bool]:
    """The mode of a call as far as it decides which code runs: training, eval or by path; and with or without rng."""
    return call.train if isinstance(call.train, bool) else None, call.rng is None


def _copy_buffers(tree: TreeLike, writable: TreeLike) -> Tree:
    """New dicts with the same tensors, and with clones of those that are writable."""
    copy = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            copy[key] = _copy_buffers(value, writable.get(key, EMPTY_TREE))
        else:
            copy[key] = value.clone() if key in writable else value
    return copy


class CheckedTrees:
    """The params and buffers that were last found to fit a net.

    They are recognised by identity and by their outermost leaves, and not kept alive.

    Args:
        outer_keys: nested keys of the first and the last leaf of params.
        params, buffers: what was checked.
    """

    __slots__ = ("_ids", "_leaves", "_sizes")

    def __init__(self, outer_keys: list[tuple[str, ...]], params: TreeLike, buffers: TreeLike) -> None:
        self._ids = (id(params), id(buffers))
        self._sizes = (len(params), len(buffers))
        self._leaves = [(keys, weakref.ref(_leaf_at(params, keys))) for keys in outer_keys]

    def matches(self, params: TreeLike, buffers: TreeLike) -> bool:
        """Whether these dicts are the ones that were checked."""
        if self._ids != (id(params), id(buffers)) or self._sizes != (len(params), len(buffers)):
            return False
        try:
            for keys, ref in self._leaves:
                if ref() is not _leaf_at(params, keys):
                    return False
        except (KeyError, TypeError):
            return False
        return True


def _leaf_at(tree: TreeLike, keys: tuple[str, ...]) -> Any:
    for key in keys:
        tree = tree[key]
    return tree
