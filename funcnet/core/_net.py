"""The record: what a net is, and the verbs every net has.

Names with one underscore on :class:`Net` are for the package: the public names of a net belong to its fields and parts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property, partial
from types import FunctionType
from typing import TYPE_CHECKING, Any, ClassVar, Concatenate, ParamSpec, Protocol, TypeVar, overload

import torch
from torch import Tensor, nn
from typing_extensions import Self, dataclass_transform

from funcnet._context import outside_transforms
from funcnet._errors import TreeError, bullet_list
from funcnet._torch import assume_constant_result, register_constant
from funcnet._typing import Selector, Tree, TreeLike
from funcnet.core._edits import Edits, sort_module
from funcnet.core._entries import Buffer, Entry, Param
from funcnet.core._init_context import Device, InitContext
from funcnet.core._module_names import HINTS_BY_NAME
from funcnet.core._net_equality import RecordValue, take_added_edits
from funcnet.core._part_check import check_part
from funcnet.core._ties import check_aliases
from funcnet.core._traits import BodyTraits, traits_of_class
from funcnet.core._view import View
from funcnet.random.internals import RngArgument
from funcnet.tree import join, unflatten
from funcnet.tree.internals import select_paths

if TYPE_CHECKING:
    from funcnet.core._call import PreparedNet
    from funcnet.core._facts import BodyFacts

P = ParamSpec("P")
R = TypeVar("R", covariant=True)


class HasBody(Protocol[P, R]):
    """A net as a type checker sees it whose body has typed inputs and a typed output."""

    @property
    def forward(self) -> Callable[Concatenate[Any, P], R]: ...


class HasOutput(Protocol[R]):
    """A net as a type checker sees it whose body has a typed output."""

    @property
    def forward(self) -> Callable[..., R]: ...


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field,))
class Net(RecordValue):
    """An immutable, hashable record of hyperparameters and named parts, with a body.

    Subclasses are frozen dataclasses without a decorator: their annotated fields are the hyperparameters. They say what
    they are made of in :meth:`parts` and what they compute in ``forward(p, *inputs)``, where ``p`` is the view of the
    call: params, buffers and parts by name, the fields, ``p.training`` and ``p.rng``. A ``staticmethod`` whose only
    state is its ``p`` also runs on an ``nn.Module`` of the same names.

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
        if "__init__" in cls.__dict__:
            cls.__init__ = take_added_edits(cls.__init__)  # type: ignore[method-assign]
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
        return self._field_values() if self._traits.fields_in_view else {}

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
        from funcnet.core._module_body import Body

        return Body(self)

    def view_base(self) -> type[View]:
        """The class that views of this net extend."""
        return View

    # --- calling ---

    def method(self, view: View, name: str) -> Callable[..., Any]:
        """The function that ``method=name`` runs: that of the view, or of this net with the view in front."""
        of_view = getattr(view, name, None)
        if callable(of_view):
            return of_view
        body = getattr(type(self), name, None)
        if not callable(body) or hasattr(Net, name):
            raise AttributeError(
                f"{self.title()} has no method {name!r}. A method of a net takes a view: def {name}(p, x)."
            )
        return partial(getattr(self, name), view)

    # Overloads: without ``method``, the inputs and the output have the types that the body declares.

    @overload
    def __call__(self: HasBody[P, R], params: TreeLike, /, *inputs: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    def __call__(self, params: TreeLike, /, *inputs: Any, method: str, **kwargs: Any) -> Any: ...
    def __call__(  # type: ignore[misc]  # a body with an input called "method" would lose it to this one
        self, params: TreeLike, /, *inputs: Any, method: str = "forward", **kwargs: Any
    ) -> Any:
        """The output for ``params``, in eval mode: a pure function of its arguments.

        Args:
            params: nested dict, as :meth:`init` makes it.
            inputs, kwargs: handed to the body.
            method: what to run instead of the body: a method of the foreign module, or of the net, or a part by name.

        Raises:
            TreeError: if ``params`` does not fit, or the net needs buffers, which only :meth:`apply` takes.
            RandomnessError: if the body draws in eval mode too.
        """
        return self._prepared().evaluate(params, inputs, kwargs, method)

    @overload
    def apply(
        self: HasOutput[R],
        params: TreeLike,
        buffers: TreeLike,
        /,
        *inputs: Any,
        train: Selector = False,
        rng: RngArgument = None,
        **kwargs: Any,
    ) -> tuple[R, Tree]: ...
    @overload
    def apply(
        self,
        params: TreeLike,
        buffers: TreeLike,
        /,
        *inputs: Any,
        train: Selector = False,
        rng: RngArgument = None,
        method: str,
        **kwargs: Any,
    ) -> tuple[Any, Tree]: ...
    def apply(
        self,
        params: TreeLike,
        buffers: TreeLike,
        /,
        *inputs: Any,
        train: Selector = False,
        rng: RngArgument = None,
        method: str = "forward",
        **kwargs: Any,
    ) -> tuple[Any, Tree]:
        """The output and the new buffers, in any mode; no argument is written to.

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
            PurityError: if a body wrote to an input: to a tensor in place, or to a list, a dict or an object.
        """
        return self._prepared().apply(params, buffers, inputs, kwargs, train, rng, method)

    # --- tensors ---

    @overload
    def init(
        self, rng: RngArgument, *, device: Device = None, dtype: torch.dtype | None = None
    ) -> tuple[Tree, Tree]: ...
    @overload
    def init(
        self, rng: RngArgument, *, example_inputs: Any, device: Device = None, dtype: torch.dtype | None = None
    ) -> tuple[Net, Tree, Tree]: ...
    def init(
        self, rng: RngArgument, *, example_inputs: Any = None, device: Device = None, dtype: torch.dtype | None = None
    ) -> tuple[Tree, Tree] | tuple[Net, Tree, Tree]:
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
        from funcnet.core._first_trees import init_net_and_trees

        net, params, buffers = init_net_and_trees(self, rng, example_inputs, device, dtype)
        return (params, buffers) if example_inputs is None else (net, params, buffers)

    def first_values(self, context: InitContext, path: str) -> Iterator[tuple[str, Tensor]]:
        """Paths and first values in the order in which a module makes, and so draws, them.

        A net whose module does more than build its parts (copies one, draws some anew) overrides this.
        """
        for name in self.drawing_order():
            part, part_path = self._parts[name], join(path, name)
            if isinstance(part, Net):
                yield from context.init_net(part, part_path)
            elif isinstance(part, (Param, Buffer)):
                yield part_path, context.init_tensor(part, part_path, self)

    def entries(self) -> Iterator[Entry]:
        """Every declared tensor with its path, in the order of the module's ``state_dict``; aliases are left out."""
        return (Entry(path, spec) for path, spec in self._all_entries.items() if path not in self._all_aliases)

    def tie(self, aliases: Mapping[str, str]) -> Self:
        """This net with tied tensors: each alias path is read from its owner's path and has no entry of its own.

        Args:
            aliases: alias path -> owner path, e.g. ``{"head.weight": "embed.weight"}``.

        Raises:
            TreeError: if a path is not a tensor of the net, or the shapes of the two differ.
        """
        all_aliases = {**self._aliases, **aliases}
        check_aliases(all_aliases, self._all_entries)
        return self._with_edits(replace(self._edits, aliases=tuple(all_aliases.items())))

    def freeze(self, selector: Selector) -> Self:
        """This net with other params frozen: those that are selected, and no others.

        Nothing is computed otherwise, so nets that differ in this alone are equal. It is what ``requires_grad`` is
        to a module: ``to_module`` gives it back, and ``tree.partition(params, net.frozen)`` takes the trees apart.

        Args:
            selector: paths of params (see ``funcnet.tree.select``).

        Raises:
            TreeError: if a pattern selects no param.

        >>> from funcnet import Linear, ReLU, Sequential
        >>> Sequential(Linear(2, 3), ReLU(), Linear(3, 1)).freeze("0").frozen
        ('0.weight', '0.bias')
        """
        paths = [entry.path for entry in self.entries() if entry.kind == "params"]
        selected = select_paths(unflatten(dict.fromkeys(paths)), selector)
        return self._with_edits(replace(self._edits, frozen=tuple(path for path in paths if path in selected)))

    @property
    def frozen(self) -> tuple[str, ...]:
        """Paths of the params that do not require grad in the module, of this net and of all nets in it."""
        return tuple(join(path, name) for path, net in self.named_nets() for name in net._edits.frozen)

    def replaced(self, nets: Mapping[str, Net]) -> Net:
        """This net with other nets at some paths.

        What is said of paths holds for the new nets too: a param that is frozen stays frozen, and a tie holds as long
        as both of its tensors exist and have one shape.

        Args:
            nets: path -> the net to put there. Its params and buffers go to that path in the trees.

        Raises:
            TreeError: if there is no net at a path.
            ConversionError: if the net calls no parts (a traced one), or a foreign module could not call the new one.

        >>> from funcnet import Linear, ReLU, Sequential
        >>> Sequential(Linear(2, 3), ReLU()).replaced({"0": Linear(4, 3)})[0]
        Linear(in_features=4, out_features=3, bias=True)
        """
        if "" in nets:
            return nets[""]
        nets_by_child: dict[str, dict[str, Net]] = {}
        for path, net in nets.items():
            name, _, subpath = path.partition(".")
            nets_by_child.setdefault(name, {})[subpath] = net
        if unknown := sorted(set(nets_by_child) - set(self._children)):
            raise TreeError(f"{self.title()} has no nets {unknown}; it has {list(self._children)}.")
        if not nets_by_child:
            return self
        children = {name: self._children[name].replaced(subnets) for name, subnets in nets_by_child.items()}
        result = self._with_children(children, nets)
        # what the edits say of paths and of the net's own tensors holds with the new children too
        result = result._with_edits(replace(self._edits, replaced=result._edits.replaced))
        return result._with_edits(result._edits.drop_outdated(result._all_entries))

    def _with_children(self, nets: Mapping[str, Net], replaced: Mapping[str, Net]) -> Net:
        """A new record with other nets under some names.

        Args:
            nets: the new children by name.
            replaced: what makes them new: nets by their path, which may lie deep in a child.
        """
        return self._with_edits(self._edits.with_replaced(nets, self.parts()))

    def _gathering(self, paths: Collection[str]) -> Net:
        """This net with parts at some paths, or itself at "", that gather their params when they are called."""
        from funcnet.core._gathered_units import gather_at

        return gather_at(self, paths)

    def _add_edits(self, edits: Edits) -> None:
        problems = edits.list_missing_parts(self._with_edits(self._edits))  # a copy, as self is to remember no parts
        edits = edits.added_to(self._edits)
        sequences = tuple(pair for pair in edits.sequences if isinstance(getattr(self, pair[0]), tuple))
        edits = replace(edits, sequences=sequences)
        if problems := problems or edits.list_missing_paths(self._with_edits(edits)):
            raise TreeError(
                f"what was tied, frozen or replaced does not fit {self.title()} with its new fields:"
                f"{bullet_list(problems)}\nMake a new net of all its fields, and tie, freeze or replace again."
            )
        self.__setstate__({"_edits": edits})

    @property
    def aliases(self) -> dict[str, str]:
        """Alias path -> owner path, of this net and of all nets in it."""
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
            parts = self._edits.edit_parts(self.parts())
        except AttributeError as error:
            raise TypeError(f"{type(self).__name__}.parts() failed: {error}") from error
        finally:
            del self.__dict__["_building"]
        for name, part in parts.items():
            check_part(name, part)
        return parts

    @cached_property
    def _own_entries(self) -> dict[str, Param | Buffer]:
        return self._edits.sort_parts(
            {name: part for kind in (Param, Buffer) for name, part in self._parts.items() if isinstance(part, kind)}
        )

    @cached_property
    def _all_entries(self) -> dict[str, Param | Buffer]:
        return {join(path, name): spec for path, net in self.named_nets() for name, spec in net._own_entries.items()}

    @cached_property
    def _children(self) -> dict[str, Net]:
        return self._edits.sort_parts({name: part for name, part in self._parts.items() if isinstance(part, Net)})

    @cached_property
    def _named_constants(self) -> dict[str, Any]:
        constants = {name: value for name, value in self.constants().items() if name not in self._parts}
        return constants | {
            name: part for name, part in self._parts.items() if not isinstance(part, (Net, Param, Buffer))
        }

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

    @cached_property
    def _facts(self) -> BodyFacts:
        from funcnet.core._facts import collect_facts

        try:
            return collect_facts(self)
        except AttributeError as error:  # which Python would take for a missing ``_facts``
            raise TypeError(f"{type(self).__name__}.draws() or limits() failed: {error}") from error

    def _prepared(self) -> PreparedNet:
        if torch.compiler.is_compiling() or "_prepared_net" not in self.__dict__:
            _prepare_net(self)
        prepared: PreparedNet = self.__dict__["_prepared_net"]
        return prepared

    def __repr__(self) -> str:
        from funcnet.core._module_body import format_as_module

        return format_as_module(self)

    def twin_module(self) -> nn.Module:
        """The ``nn.Module`` twin on the meta device: its names, order, shapes and ``repr``, and no numbers."""
        module = self._build_twin()
        sort_module(module, self)
        return module

    def _build_twin(self) -> nn.Module:
        """The twin in the order of its class. It asks nothing of the record that is not there before its parts."""
        with torch.device("meta"), outside_transforms():
            return self.as_module()

    if not TYPE_CHECKING:  # a type checker knows the fields of a net and is to complain about any other name

        def __getattr__(self, name):
            if not name.startswith("_") and "_building" not in self.__dict__ and name in self._parts:
                return self._parts[name]
            if name == "__name__":  # as on a function: torch and functools ask what they call for it
                return self.title()
            hint = f". {HINTS_BY_NAME[name]}" if name in HINTS_BY_NAME else ""
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}{hint}")


@assume_constant_result
def _prepare_net(net: Net) -> bool:
    # torch.compile cannot trace how view classes are made, so it is told to call this and believe the result. What it
    # can take for a constant is a bool, not a Program; that it finds on the net afterwards.
    from funcnet.core._call import PreparedNet

    if "_prepared_net" not in net.__dict__:
        net.__dict__["_prepared_net"] = PreparedNet(net)
    return True
