"""What is known of a net before it is called: how its trees are checked, and how its bodies are watched."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from funcnet.core._body_functions import iter_functions
from funcnet.core._check import expected_structure, specs_by_tree
from funcnet.core._draw_source import Mode
from funcnet.core._entries import Buffer, Param, has_entries
from funcnet.core._facts import iter_bodies
from funcnet.core._global_draws import GlobalDrawGuard
from funcnet.core._held_values import SharedValues
from funcnet.core._kinds import ForeignNet
from funcnet.core._shown_writes import ShownWrites, look_for_writes
from funcnet.core._tree_watch import compile_reader, iter_writable_buffers
from funcnet.core._view_classes import make_view_opener, view_class_of
from funcnet.tree import unflatten

if TYPE_CHECKING:
    from funcnet.core._net import Net

NOTHING_SHOWN = ShownWrites()


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
        self.draws_in_eval = self.drawing_paths(False)
        self.draws_in_training = self.drawing_paths(True)  # not cached: torch.compile cannot enter such a lock
        names = list(self.specs["params"])
        self.outer_keys = [tuple(path.split(".")) for path in dict.fromkeys(names[:1] + names[-1:])]
        self.global_draw_guard = GlobalDrawGuard(net)
        self.functions = list(iter_functions(bodies))
        own_bodies = [body for body in bodies if not (isinstance(body, ForeignNet) or body._facts.is_trusted)]
        self.own_functions = list(iter_functions(own_bodies, across_files=True))
        self.buffer_names = {path.rpartition(".")[2] for path in self.specs["buffers"]}
        self.shared_values = SharedValues(self.functions, self.own_functions, own_bodies, self.buffer_names)
        self.modes_seen: set[tuple[Any, bool]] = set()  # in which params were compared before and after a call
        self.shown_writes: dict[str, ShownWrites] = {}  # by method
        self.read_params = compile_reader([] if self.is_trusted else list(self.specs["params"]))
        self.set_writable(False)
        self.read_code("forward")  # here, because the compiler cannot trace it
        self.copies_inputs = isinstance(net, ForeignNet)  # so nothing that the caller gave can be written to
        self.has_foreign_parts = any(isinstance(body, ForeignNet) for body in bodies)
        # a body could keep its view, and record a buffer in the tree of a call that is over
        self.shares_eval_call = self.is_trusted or not self.has_buffers
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
        if not self.is_trusted or method != "forward":
            shown = look_for_writes(self.functions, self.own_functions, method, self.buffer_names)
        self.shown_writes[method] = shown
        if not self.copies_all and (shown.in_place or shown.touches_tensors):
            self.set_writable(True)

    def drawing_paths(self, train: Mode) -> list[str]:
        """Paths of the bodies that draw in this mode."""
        if isinstance(train, bool):
            return [path for path, facts in self.facts.items() if facts.draws[train]]
        return [path for path, facts in self.facts.items() if facts.draws[bool(train(path))]]
