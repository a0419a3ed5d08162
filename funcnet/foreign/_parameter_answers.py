"""Tensors of a call that answer as the parameters in whose place they stand.

A forward may ask its parameters who they are: ``if w.requires_grad``, ``isinstance(w, nn.Parameter)``, ``w.is_leaf``.
What a caller puts into ``params`` are plain tensors, or tensors in the middle of a graph, and would answer otherwise,
so other code would run than in the module. So where the code of a module asks, each tensor is put in as an alias, by
``Tensor.as_subclass``, of a class that gives the answers of the module. Autograd, every transform of torch.func and
the compiler look through it. It costs a microsecond for each parameter, so it is not done where no code asks.

The answers are those of the module when it was converted: ``net.freeze`` changes nothing that is computed, and so no
answer either.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, nn

from funcnet._errors import ConversionError, PurityError
from funcnet._torch import DisableTorchFunctionSubclass
from funcnet.foreign._module_walk import named_modules
from funcnet.tree import join

_ATTRIBUTES = frozenset({"requires_grad", "requires_grad_", "is_leaf", "grad", "grad_fn", "retain_grad", "deepcopy"})
"""Names in code that asks a parameter how it is trained."""

_CLASSES = frozenset({"Parameter", "UninitializedParameter", "get_parameter"})
"""Names in code that asks a parameter whether it is one."""


class TrainedParameterInCall(nn.Parameter):
    """A tensor of a call in the place of a parameter that requires grad."""

    @property
    def requires_grad(self) -> bool:
        """What the parameter of the module answers."""
        return True

    @requires_grad.setter
    def requires_grad(self, flag: bool) -> None:
        if flag != self.requires_grad:
            raise PurityError(
                f"the forward sets requires_grad of a parameter of shape {tuple(self.shape)} to {flag}, which would "
                f"last beyond the call. Compute with w.detach() for that; net.freeze(paths) names what is not trained."
            )

    def requires_grad_(self, requires_grad: bool = True) -> Tensor:
        """Refuse a change, as the setter does."""
        self.requires_grad = requires_grad
        return self

    @property
    def is_leaf(self) -> bool:  # type: ignore[override]
        """A parameter is always a leaf."""
        return True

    @property
    def grad_fn(self) -> None:  # type: ignore[override]
        """A parameter comes from no operator."""
        return None

    @property
    def grad(self) -> None:  # type: ignore[override]
        """In a pure function no gradient is kept on a tensor."""
        return None


class FrozenParameterInCall(TrainedParameterInCall):
    """A tensor of a call in the place of a parameter that does not require grad."""

    @property
    def requires_grad(self) -> bool:
        """What the parameter of the module answers."""
        return False

    @requires_grad.setter
    def requires_grad(self, flag: bool) -> None:
        TrainedParameterInCall.requires_grad.fset(self, flag)  # type: ignore[attr-defined]


class _TracedFunctions:
    """Functions of torch on the tensors of a class, in words that the compiler traces; they take longer than none."""

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: object, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run a function, or read an attribute, as on a plain tensor."""
        with DisableTorchFunctionSubclass():
            plain = [arg.view_as(arg) if isinstance(arg, TrainedParameterInCall) else arg for arg in args]
            return func(*plain, **(kwargs or {}))


class TracedTrainedParameter(_TracedFunctions, TrainedParameterInCall):
    """A tensor in the place of a parameter that requires grad, for the compiler."""


class TracedFrozenParameter(_TracedFunctions, FrozenParameterInCall):
    """A tensor in the place of a parameter that does not require grad, for the compiler."""


def as_parameter(tensor: Tensor, cls: type[Tensor]) -> Tensor:
    """An alias of a tensor of a class of parameters; a tensor of a class of its own, as a DTensor, as it is."""
    return tensor.as_subclass(cls) if type(tensor) in (Tensor, nn.Parameter) else tensor


def is_recorded(tensor: Tensor) -> bool:
    """Whether autograd records what is computed from a tensor, whatever it answers itself."""
    return bool(Tensor.requires_grad.__get__(tensor))  # type: ignore[attr-defined]


# --- which modules ask ---


def answering_class(param: Tensor, words: frozenset[str], is_compiled: bool = False) -> type[Tensor] | None:
    """The class of the tensors that stand in for a parameter in code with these words; None if it asks nothing.

    Where code asks whether it is a parameter and nothing else, the class is that of parameters itself, so that
    ``type(w) is nn.Parameter`` holds too. The compiler makes no alias of that class.
    """
    if words.isdisjoint(_ATTRIBUTES) and (words.isdisjoint(_CLASSES) or not is_compiled):
        return None if words.isdisjoint(_CLASSES) else nn.Parameter
    if is_compiled:
        return TracedTrainedParameter if param.requires_grad else TracedFrozenParameter
    return TrainedParameterInCall if param.requires_grad else FrozenParameterInCall


def list_answering_params(
    modules: Iterable[nn.Module], words: frozenset[str]
) -> list[tuple[dict[str, Any], str, type[Tensor]]]:
    """The dicts and names of the params for which code with these words needs tensors of another class."""
    return [
        (module._parameters, name, cls)
        for module in modules
        for name, param in module._parameters.items()
        if param is not None and (cls := answering_class(param, words)) is not None
    ]


def list_answering_buffers(modules: Iterable[nn.Module], words: frozenset[str]) -> list[tuple[dict[str, Any], str]]:
    """The dicts and names of the buffers that code with these words may ask whether they are a ``nn.Buffer``."""
    if "Buffer" not in words:
        return []
    return [
        (module._buffers, name)
        for module in modules
        for name, buffer in module._buffers.items()
        if isinstance(buffer, nn.Buffer)
    ]


def refuse_ids_of_tensors(module: nn.Module, words: frozenset[str]) -> None:
    """Refuse a module that looks its tensors up by ``id()``, because the tensors of a call have other ids.

    Args:
        module: the original, not a copy.
        words: the words in its code.

    Raises:
        ConversionError: names the attributes.
    """
    if "id" not in words:
        return
    ids = {id(tensor) for tensor in (*module.parameters(), *module.buffers())}
    holders = [
        join(path, name)
        for path, submodule in named_modules(module)
        for name, value in vars(submodule).items()
        if isinstance(value, (dict, list, tuple, set, frozenset))
        and any(type(item) is int and item in ids for item in list(value))
    ]
    if holders:
        raise ConversionError(
            f"{type(module).__name__} keeps ids of its parameters or buffers in {', '.join(map(repr, holders))}, and "
            f"its code calls id(). The tensors of a call have other ids. Use names, or the tensors themselves, as keys."
        )
