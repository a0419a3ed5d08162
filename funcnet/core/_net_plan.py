"""What is known of a net before it is called: how its trees are checked, and how its bodies are watched."""

from __future__ import annotations

from types import FunctionType
from typing import TYPE_CHECKING, Any

from funcnet.core._body_functions import iter_code, iter_functions
from funcnet.core._check import expected_structure, specs_by_tree
from funcnet.core._draw_source import Mode
from funcnet.core._entries import Buffer, Param, has_entries
from funcnet.core._facts import iter_bodies, iter_drawing_nets
from funcnet.core._global_draws import GlobalDrawGuard
from funcnet.core._held_values import SharedValues
from funcnet.core._kinds import DelegatingNet, ForeignNet
from funcnet.core._layer_numbers import stack_depths
from funcnet.core._shown_writes import ShownWrites, look_for_writes
from funcnet.core._tree_watch import compile_reader, iter_writable_buffers
from funcnet.core._view_classes import make_view_opener, view_class_of
from funcnet.random.internals import names_in_function
from funcnet.tree import unflatten

if TYPE_CHECKING:
    from funcnet._global_settings import Setting
    from funcnet.core._net import Net

NOTHING_SHOWN = ShownWrites()
ALL_SHOWN = ShownWrites(is_all=True)
"""What is shown by code that is known to write to nothing, but for the running averages of norms in training."""


class NetPlan:
    """What is known of a net and its bodies before they run, and what later calls learn of them."""

    def __init__(self, net: Net) -> None:
        self.net = net
        self.view_class = view_class_of(net, {})
        self.open_view = make_view_opener(net)
        self.specs = specs_by_tree(net)
        self.structures = {tree: expected_structure(specs) for tree, specs in self.specs.items()}
        self.has_buffers = has_entries(net, Buffer)
        self.aliases_by_kind: dict[type, dict[str, str]] = {
            kind: {alias: owner for alias, owner in net.aliases.items() if isinstance(net._all_entries[alias], kind)}
            for kind in (Param, Buffer)
        }
        bodies_by_path = dict(iter_bodies(net))
        bodies = list(bodies_by_path.values())
        self.has_recurrent_kernels = any(isinstance(body, ForeignNet) and body.is_recurrent() for body in bodies)
        self.calls_unruled_kernels = any(body._facts.calls_unruled_kernels for body in bodies)
        self.nets_by_path = dict(net.named_nets())
        self.facts = {path: body._facts for path, body in bodies_by_path.items()}
        self.draws_from_views_only = all(facts.draws_from_view_only for facts in self.facts.values())
        self.is_trusted = all(facts.is_trusted for facts in self.facts.values())
        self.draws = {path: net._facts.draws for path, net in iter_drawing_nets(bodies_by_path)}
        self.stack_depths = stack_depths(self.nets_by_path)
        self.draws_in_eval = self.drawing_paths(False)
        self.draws_in_training = self.drawing_paths(True)  # not cached: torch.compile cannot enter such a lock
        names = list(self.specs["params"])
        self.outer_keys = [tuple(path.split(".")) for path in dict.fromkeys(names[:1] + names[-1:])]
        self.global_draw_guard = GlobalDrawGuard(net)
        self.functions = list(iter_functions(bodies))  # with the names by which code reaches them
        self.normalises_batches = any(isinstance(body, ForeignNet) and body.normalises_batches() for body in bodies)
        self.normalises_batches |= any("batch_norm" in names_in_function(function) for _, function in self.functions)
        own_bodies = [body for body in bodies if not (isinstance(body, ForeignNet) or body._facts.is_trusted)]
        self.own_functions = list(iter_functions(own_bodies, across_files=True))
        self.buffer_names = {path.rpartition(".")[2] for path in self.specs["buffers"]}
        functions, own_functions = (
            list(dict.fromkeys(function for _, function in pairs)) for pairs in (self.functions, self.own_functions)
        )
        self.shared_values = SharedValues(functions, own_functions, own_bodies, self.buffer_names)
        self.settings = _named_settings(own_functions) if own_functions else ()
        self.modes_seen: set[tuple[Any, bool]] = set()  # in which params were compared before and after a call
        self.shown_writes: dict[str, ShownWrites] = {}  # by method
        self.read_params = compile_reader([] if self.is_trusted else list(self.specs["params"]))
        self.set_writable(False)
        self.copies_inputs = isinstance(net, ForeignNet)  # so nothing that the caller gave can be written to
        self.read_code("forward")  # here, because the compiler cannot trace it
        self.has_foreign_parts = any(isinstance(body, ForeignNet) for body in bodies)
        runs_others = any(isinstance(body, DelegatingNet) for body in bodies)  # which calls keep something for
        # a body could keep its view, and record a buffer in the tree of a call that is over
        self.shares_eval_call = (self.is_trusted or not self.has_buffers) and not runs_others
        self.gathering_nets: dict[frozenset[tuple[str, str]], Net] = {}  # by the units of the params of a call
        self.gathers_units = False  # whether the parts of this net gather their params already
        self.scratch: set[str] = set()  # paths of params that a foreign forward in eval mode writes to: it gets copies

    def set_writable(self, below_bodies: bool) -> None:
        """Let calls copy the buffers of bodies that may write to their own; or all below such bodies too."""
        net = self.net
        own = [path for path in iter_writable_buffers(net, below_bodies) if path not in net.aliases]
        below = [path for path in iter_writable_buffers(net, True) if path not in net.aliases]
        self.writable = unflatten(dict.fromkeys(own, True))
        self.watched_buffers = [path for path in below if path not in set(own)]  # those of trusted parts
        self.read_buffers = compile_reader(self.watched_buffers)
        self.copies_all = below_bodies

    def read_code(self, method: str) -> None:
        """Find out what the code of a method shows of its writes; if to tensors of the trees, calls have copies."""
        shown = NOTHING_SHOWN
        if method == "forward" and not any(facts.may_write for facts in self.facts.values()):
            shown = ALL_SHOWN
        elif not self.is_trusted or method != "forward":
            param_names = {path.rpartition(".")[2] for path in self.specs["params"]}
            shown = look_for_writes(self.functions, self.own_functions, method, param_names, self.buffer_names)
        self.shown_writes[method] = shown
        self.calls_unruled_kernels |= method != "forward" and self.copies_inputs  # the other methods are not read
        if not self.copies_all and (shown.in_place or shown.touches_tensors):
            self.set_writable(True)

    def drawing_paths(self, train: Mode) -> list[str]:
        """Paths of the nets that draw in this mode."""
        if isinstance(train, bool):
            return [path for path, draws in self.draws.items() if draws[train]]
        return [path for path, draws in self.draws.items() if draws[bool(train(path))]]


def _named_settings(functions: list[FunctionType]) -> tuple[Setting, ...]:
    """The settings of the process that the code of some functions may change."""
    from funcnet._global_settings import named_settings

    return named_settings(
        frozenset(name for function in functions for code in iter_code(function) for name in code.co_names)
    )
