"""The record: what a net is, and the verbs every net has."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property, partial
from types import FunctionType
from typing import TYPE_CHECKING, Any, ClassVar, overload

import torch
from torch import nn
from typing_extensions import Self, dataclass_transform

from funcnet._context import outside_transforms
from funcnet._errors import InitError, TreeError
from funcnet._torch import constant_result, register_constant
from funcnet._typing import Selector, Tree, TreeLike
from funcnet.core._edits import Edits
from funcnet.core._entries import Buffer, Entry, Param
from funcnet.core._parts import check_part
from funcnet.core._shown import TextModule
from funcnet.core._start import Device, InitContext
from funcnet.core._traits import BodyTraits, traits_of_class
from funcnet.random import as_rng
from funcnet.tree import join, unflatten
from funcnet.tree._partition import select_paths

if TYPE_CHECKING:
    from funcnet.core._call import Program
    from funcnet.core._facts import BodyFacts
    from funcnet.core._view import View


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field,))
class Net:
    """An immutable, hashable record of hyperparameters and named parts, with a body.

    Subclasses are frozen dataclasses without a decorator: their annotated fields are the hyperparameters. They say what
    they are made of in :meth:`parts` and what they compute in ``forward(p, *inputs)``, where ``p`` is the view of the
    call: params, buffers and parts by name, the fields, ``p.training`` and ``p.rng``. A ``staticmethod`` named so that
    its ``p`` is the only state also runs on an ``nn.Module`` of the same names.

    >>> import torch.nn.functional as F
    >>> class Scaled(Net):
    ...     features: int
    ...     def parts(self):
    ...         return {"scale": Param(self.features, 1.0)}
    ...     @staticmethod
    ...     def forward(p, x):
    ...         return F.relu(x) * p.scale
    >>> net = Scaled(3)
    >>> params, buffers = net.init(0)
    >>> net(params, torch.tensor([-1.0, 0.0, 2.0]))
    tensor([0., 0., 2.])
    """

    forward: Any

    _traits: ClassVar[BodyTraits] = BodyTraits()
    _edits: ClassVar[Edits] = Edits()  # the value of an instance that has been tied, frozen or replaced in is its own

    def __init_subclass__(
        cls,
        *,
        trusted: bool | None = None,
        ignores_view: bool | None = None,
        reads_trees: bool | None = None,
        one_piece: bool | None = None,
        fields_in_view: bool | None = None,
    ) -> None:
        """Make the class a frozen dataclass; the keywords are promises about its body, see :class:`BodyTraits`."""
        super().__init_subclass__()
        promises = {"trusted": trusted, "ignores_view": ignores_view, "reads_trees": reads_trees}
        cls._traits = traits_of_class(cls, {**promises, "one_piece": one_piece, "fields_in_view": fields_in_view})
        body = cls.__dict__.get("forward")
        if isinstance(body, FunctionType) and body.__code__.co_varnames[:1] != ("self",):
            raise TypeError(
                f"{cls.__name__}.forward takes {body.__code__.co_varnames[:1]} first: decorate it with @staticmethod, "
                f"or put self before p."
            )
        dataclasses.dataclass(frozen=True, eq=False, repr=False)(cls)
        register_constant(cls)  # so torch.compile and torch's pytrees take a net for the value it is

    # --- what a subclass says ---

    def parts(self) -> Mapping[str, Any]:
        """Named parts in order: nets, ``Param``, ``Buffer``, functions, constants, or ``None`` for one left out."""
        return {}

    def title(self) -> str:
        """What the net is called in messages and in its ``repr``: the name of its class, or of its function."""
        return type(self).__name__

    def constants(self) -> Mapping[str, Any]:
        """What a body reads by name besides its parts: the fields, unless the class says ``fields_in_view=False``."""
        if not self._traits.fields_in_view:
            return {}
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}  # type: ignore[arg-type]

    def draws(self, training: bool) -> bool:
        """Whether the body itself draws random numbers in this mode."""
        return False

    def limits(self, training: bool) -> Mapping[str, str]:
        """The transforms that the body cannot run under in this mode (see ``supports``), each with the way out."""
        return {}

    def check_init(self, path: str) -> None:
        """Raise InitError if the first values of this net, found at ``path``, are not known."""

    def drawing_order(self) -> Iterable[str]:
        """Names of the parts in the order in which a module draws their first values."""
        return self._parts

    def expects(self) -> str:
        """The inputs the body takes, in words, for error messages."""
        return ""

    def as_module(self) -> nn.Module:
        """The ``nn.Module`` twin, with tensors of no content; call it under ``torch.device("meta")``."""
        from funcnet.core._stateful import Body

        return Body(self)

    def view_base(self) -> type[View]:
        """The class that views of this net extend."""
        from funcnet.core._view import View

        return View

    # --- calling ---

    def method(self, view: View, name: str) -> Callable[..., Any]:
        """What ``method=name`` runs: that of the view, or of this net with the view in front."""
        if (found := getattr(view, name, None)) is not None and callable(found):
            return found
        body = getattr(type(self), name, None)
        if body is None or not callable(body) or hasattr(Net, name):
            raise AttributeError(
                f"{self.title()} has no method {name!r}. A method of a net takes a view: def {name}(p, x)."
            )
        return partial(getattr(self, name), view)

    def __call__(self, params: TreeLike, /, *inputs: Any, method: str = "forward", **kwargs: Any) -> Any:
        """The output for ``params``, in eval mode: a pure function of its arguments.

        Args:
            params: nested dict, as :meth:`init` makes it.
            inputs, kwargs: handed to the body.
            method: what to run instead of the body: a method of the foreign module, or of the net, or a part by name.

        Raises:
            TreeError: if ``params`` does not fit, or the net needs buffers, which only :meth:`apply` takes.
            RandomnessError: if the body draws in eval mode too.
        """
        return self._program().evaluate(params, inputs, kwargs, method)

    def apply(
        self,
        params: TreeLike,
        buffers: TreeLike,
        /,
        *inputs: Any,
        train: Selector = False,
        rng: Any = None,
        method: str = "forward",
        **kwargs: Any,
    ) -> tuple[Any, Tree]:
        """The output and the new buffers, in any mode; nothing given is written to.

        Args:
            params, buffers: nested dicts, as :meth:`init` makes them.
            inputs, kwargs: handed to the body.
            train: whether nets are in training mode; or a selector of the paths that are (see ``funcnet.tree.select``).
            rng: a Key or an int seed; needed where something draws.
            method: what to run instead of the body: a method of the foreign module, or of the net, or a part by name.

        Returns:
            ``(output, new_buffers)``; ``new_buffers`` has the structure of ``buffers``.

        Raises:
            TreeError: if ``params`` or ``buffers`` do not fit; lists every misfit.
            RandomnessError: if a draw is needed and ``rng`` is None; names the paths.
            PurityError: if a body wrote to an input or a buffer in place.
        """
        return self._program().apply(params, buffers, inputs, kwargs, train, rng, method)

    # --- tensors ---

    @overload
    def init(self, rng: Any, *, device: Device = None, dtype: torch.dtype | None = None) -> tuple[Tree, Tree]: ...
    @overload
    def init(
        self, rng: Any, *, example_inputs: Any, device: Device = None, dtype: torch.dtype | None = None
    ) -> tuple[Net, Tree, Tree]: ...
    def init(
        self, rng: Any, *, example_inputs: Any = None, device: Device = None, dtype: torch.dtype | None = None
    ) -> Any:
        """First params and buffers; with ``example_inputs``, the concrete net and its params and buffers.

        Args:
            rng: an int seed: the numbers of ``torch.manual_seed(seed)`` followed by building the module. Or a Key: the
                numbers depend on the path of each tensor, and ``torch.vmap(net.init)(keys)`` makes an ensemble.
            example_inputs: a tuple of inputs, or a single tensor, for nets with lazy layers. The body runs on their
                shapes alone (on the meta device), and each lazy layer becomes the layer that fits.
            device: where to put them; default torch's default device. "meta" gives shapes only.
            dtype: of floating tensors; default that of the layer, else torch's default dtype.

        Raises:
            InitError: if ``rng`` is missing, part of the net has no first values, or a lazy layer no input.

        >>> from funcnet import LazyLinear, ReLU, Sequential
        >>> net, params, buffers = Sequential(LazyLinear(8), ReLU()).init(0, example_inputs=torch.ones(1, 5))
        >>> net[0], params["0"]["weight"].shape
        (Linear(in_features=5, out_features=8, bias=True), torch.Size([8, 5]))
        """
        source = as_rng(rng)
        if source is None:
            raise InitError("init needs rng: an int seed (0) or a Key (funcnet.random.key(0)).")
        from funcnet.core._lazy import SHOW_INPUTS, Lazy, find_concrete_nets

        net: Net = self
        found: dict[str, Net] = {}
        if example_inputs is not None:
            found = find_concrete_nets(self, example_inputs, dtype)
            net = self.replaced(found)
        elif lazy := [path or "the net itself" for path, below in self.named_nets() if isinstance(below, Lazy)]:
            raise InitError(f"{', '.join(map(repr, lazy))} have no shape yet. {SHOW_INPUTS}")
        start = InitContext(source, device, dtype, net._all_aliases)
        made = dict(start.of_net(self, ""))
        for path, late in found.items():  # drawn last, as by lazy modules, which wait for their first call
            made.update(start.of_net(late, path))
        trees: dict[type, Tree] = {Param: {}, Buffer: {}}
        for entry in net.entries():
            _place(trees[type(entry.spec)], entry.path, made[entry.path])
        return (trees[Param], trees[Buffer]) if example_inputs is None else (net, trees[Param], trees[Buffer])

    def first_values(self, start: InitContext, path: str) -> Iterator[tuple[str, torch.Tensor]]:
        """Paths and first values in the order in which a module makes, and so draws, them.

        A net whose module does more than build its parts (copies one, draws some anew) overrides this.
        """
        for name in self.drawing_order():
            part, where = self._parts[name], join(path, name)
            if isinstance(part, Net):
                yield from start.of_net(part, where)
            elif isinstance(part, (Param, Buffer)):
                yield where, start.of_spec(part, where, self)

    def entries(self) -> Iterator[Entry]:
        """Every declared tensor with its path, in the order of the module's ``state_dict``; aliases are left out."""
        return (Entry(path, spec) for path, spec in self._all_entries.items() if path not in self._all_aliases)

    def tie(self, aliases: Mapping[str, str]) -> Net:
        """This net with tied tensors: each alias path is read from its owner's path and has no entry of its own.

        Args:
            aliases: alias path -> owner path, e.g. ``{"head.weight": "embed.weight"}``.

        Raises:
            TreeError: if a path is not a tensor of the net, or the shapes of the two differ.
        """
        specs = self._all_entries
        table = {**self._aliases, **aliases}
        problems = [
            f"{path!r} is not a tensor of the net" for pair in table.items() for path in pair if path not in specs
        ]
        problems += [
            f"{owner!r} owns {alias!r} and is an alias itself" for alias, owner in table.items() if owner in table
        ]
        problems += [
            f"{alias!r} has shape {specs[alias].shape}, {owner!r} has {specs[owner].shape}"
            for alias, owner in table.items()
            if alias in specs and owner in specs and specs[alias].shape != specs[owner].shape
        ]
        if problems:
            raise TreeError(f"cannot tie: {'; '.join(problems)}. The tensors of the net are {sorted(specs)}.")
        return self._with_edits(replace(self._edits, aliases=tuple(table.items())))

    def freeze(self, selector: Selector) -> Net:
        """This net with other params frozen: those that are meant, and no others.

        Nothing is computed otherwise, so nets that differ in this alone are equal. It is what ``requires_grad`` is
        to a module: ``to_module`` gives it back, and ``tree.partition(params, net.frozen)`` takes the trees apart.

        Args:
            selector: paths of params (see ``funcnet.tree.select``).

        Raises:
            TreeError: if a pattern means no param.

        >>> from funcnet import Linear, ReLU, Sequential
        >>> Sequential(Linear(2, 3), ReLU(), Linear(3, 1)).freeze("0").frozen
        ('0.weight', '0.bias')
        """
        params = [entry.path for entry in self.entries() if entry.kind == "params"]
        meant = select_paths(unflatten(dict.fromkeys(params)), selector)
        return self._with_edits(replace(self._edits, frozen=tuple(path for path in params if path in meant)))

    @property
    def frozen(self) -> tuple[str, ...]:
        """Paths of the params that do not require grad in the module, of this net and of all nets below it."""
        return tuple(join(path, name) for path, net in self.named_nets() for name in net._edits.frozen)

    def replaced(self, nets: Mapping[str, Net]) -> Net:
        """This net with other nets at some paths.

        >>> from funcnet import Linear, ReLU, Sequential
        >>> Sequential(Linear(2, 3), ReLU()).replaced({"0": Linear(4, 3)})[0]
        Linear(in_features=4, out_features=3, bias=True)
        """
        if "" in nets:
            return nets[""]
        below: dict[str, dict[str, Net]] = {}
        for path, net in nets.items():
            name, _, rest = path.partition(".")
            below.setdefault(name, {})[rest] = net
        if unknown := sorted(set(below) - set(self._children)):
            raise TreeError(f"{self.title()} has no nets {unknown}; it has {list(self._children)}.")
        if not below:
            return self
        made = self._with_children({name: self._children[name].replaced(rest) for name, rest in below.items()})
        # what is said about paths, of this net and below it, holds for the new parts too
        return made._with_edits(replace(made._edits, aliases=self._edits.aliases, frozen=self._edits.frozen))

    def _with_children(self, nets: Mapping[str, Net]) -> Net:
        """A new record with other nets under some names."""
        return self._with_edits(replace(self._edits, replaced=tuple({**dict(self._edits.replaced), **nets}.items())))

    def _with_edits(self, edits: Edits) -> Self:
        """The same record with other edits."""
        copy = object.__new__(type(self))
        copy.__dict__.update(self.__getstate__(), _edits=edits)
        return copy

    @property
    def aliases(self) -> dict[str, str]:
        """Alias path -> owner path, of this net and of all nets below it."""
        return dict(self._all_aliases)

    # --- structure ---

    def named_nets(self, prefix: str = "") -> Iterator[tuple[str, Net]]:
        """Paths and nets, this one first under ``prefix``, in the order of ``named_modules``."""
        yield prefix, self
        for name, net in self._children.items():
            yield from net.named_nets(join(prefix, name))

    @cached_property
    def _parts(self) -> dict[str, Any]:
        self.__dict__["_building"] = True  # so that a misspelt field in parts() does not ask parts() again
        try:
            parts = {**self.parts(), **dict(self._edits.replaced)}
        except AttributeError as error:
            raise TypeError(f"{type(self).__name__}.parts() failed: {error}") from error
        finally:
            del self.__dict__["_building"]
        for name, part in parts.items():
            check_part(name, part)
        return parts

    @cached_property
    def _own_entries(self) -> dict[str, Param | Buffer]:
        return {name: part for kind in (Param, Buffer) for name, part in self._parts.items() if isinstance(part, kind)}

    @cached_property
    def _all_entries(self) -> dict[str, Param | Buffer]:
        return {join(path, name): spec for path, net in self.named_nets() for name, spec in net._own_entries.items()}

    @cached_property
    def _children(self) -> dict[str, Net]:
        return {name: part for name, part in self._parts.items() if isinstance(part, Net)}

    @cached_property
    def _named_constants(self) -> dict[str, Any]:
        others = {name: part for name, part in self._parts.items() if not isinstance(part, (Net, Param, Buffer))}
        return {name: value for name, value in self.constants().items() if name not in self._parts} | others

    @cached_property
    def _facts(self) -> BodyFacts:
        from funcnet.core._facts import collect_facts

        try:
            return collect_facts(self)
        except AttributeError as error:  # which Python would take for a missing ``_facts``
            raise TypeError(f"{type(self).__name__}.draws() or limits() failed: {error}") from error

    @property
    def _aliases(self) -> dict[str, str]:
        return dict(self._edits.aliases)

    @cached_property
    def _all_aliases(self) -> dict[str, str]:
        return {
            join(path, alias): join(path, owner)
            for path, net in self.named_nets()
            for alias, owner in net._edits.aliases
        }

    def _program(self) -> Program:
        if torch.compiler.is_compiling() or "_built" not in self.__dict__:
            _build(self)
        return self.__dict__["_built"]

    # --- a value ---

    def _record(self) -> tuple[Any, ...]:
        fields = tuple(getattr(self, field.name) for field in dataclasses.fields(self))  # type: ignore[arg-type]
        return (*fields, self._edits.replaced, self._edits.aliases)

    @cached_property
    def _hash(self) -> int:
        return hash((type(self), self._record()))

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return type(other) is type(self) and hash(self) == hash(other) and self._record() == other._record()

    def __hash__(self) -> int:
        return self._hash

    def __repr__(self) -> str:
        from funcnet.core._kinds import ForeignNet

        module = self.twin_module()
        for path, net in self.named_nets():
            text = net.module_repr() if isinstance(net, ForeignNet) else None
            if text is not None:
                words = TextModule(text)
                if not path:
                    return repr(words)
                parent, _, name = path.rpartition(".")
                module.get_submodule(parent)._modules[name] = words
        return repr(module).replace("torch.meta.", "torch.")  # in the types that a ParameterDict shows

    def twin_module(self) -> nn.Module:
        """The ``nn.Module`` twin on the meta device: its names, shapes and ``repr``, and no numbers."""
        with torch.device("meta"), outside_transforms():
            return self.as_module()

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("_") and "_building" not in self.__dict__ and name in self._parts:
            return self._parts[name]
        if name == "__name__":  # as on a function: torch and functools ask what they call for it
            return self.title()
        hint = f". {_OF_MODULES[name]}" if name in _OF_MODULES else ""
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}{hint}")

    def __getstate__(self) -> dict[str, Any]:
        names = {field.name for field in dataclasses.fields(self)} | {"_edits"}  # type: ignore[arg-type]
        return {name: value for name, value in self.__dict__.items() if name in names}

    def __deepcopy__(self, memo: Any) -> Net:
        return self

    def __copy__(self) -> Net:
        return self


_OF_MODULES = {
    "train": "A net has no mode: net.apply(params, buffers, x, train=True).",
    "eval": "A net has no mode: net.apply(params, buffers, x) runs in eval mode.",
    "training": "A net has no mode: its body reads p.training of each call.",
    "parameters": "A net holds no tensors: params, buffers = net.init(0); see funcnet.tree.flatten(params).",
    "named_parameters": "A net holds no tensors: params, buffers = net.init(0); see funcnet.tree.flatten(params).",
    "buffers": "A net holds no tensors: params, buffers = net.init(0).",
    "state_dict": "A net holds no tensors: funcnet.to_state_dict(net, params, buffers).",
    "load_state_dict": "A net holds no tensors: params, buffers = funcnet.from_state_dict(net, state_dict).",
    "to": "A net holds no tensors: funcnet.tree.to(params, device_or_dtype).",
    "cuda": "A net holds no tensors: funcnet.tree.to(params, 'cuda').",
    "half": "A net holds no tensors: funcnet.tree.to(params, torch.float16).",
    "double": "A net holds no tensors: funcnet.tree.to(params, torch.float64).",
    "zero_grad": "Gradients are values: loss, grads = funcnet.value_and_grad(loss)(params).",
    "requires_grad_": "Gradients are values: see net.freeze(paths) and funcnet.tree.partition(params, net.frozen).",
    "modules": "net.named_nets() gives paths and nets.",
    "named_modules": "net.named_nets() gives paths and nets.",
    "children": "net.named_nets() gives paths and nets.",
}
"""What someone used to nn.Module may look for on a net, and where it is."""


@constant_result
def _build(net: Net) -> bool:
    # torch.compile cannot trace how view classes are made, so it is told to call this and believe the result. What it
    # can take for a constant is a bool, not a Program; that it finds on the net afterwards.
    from funcnet.core._call import Program

    if "_built" not in net.__dict__:
        net.__dict__["_built"] = Program(net)
    return True


def _place(tree: Tree, path: str, value: Any) -> None:
    *parents, leaf = path.split(".")
    for key in parents:
        tree = tree.setdefault(key, {})
    tree[leaf] = value
