"""Tensors of a call that answer as the parameters in whose place they stand.

A forward may ask its parameters who they are: ``if w.requires_grad``, ``isinstance(w, nn.Parameter)``, ``w.is_leaf``.
What a caller puts into ``params`` are plain tensors, or tensors in the middle of a graph, and would answer otherwise,
so other code would run than in the module. So where the code of a module asks, each tensor is put in as an alias, by
``Tensor.as_subclass``, of a class that gives the answers of the module. Autograd, every transform of torch.func and
the compiler look through it. It costs a microsecond for each parameter, so it is not done where no code asks.
"""

from __future__ import annotations

from torch import Tensor, nn

from funcnet._errors import ConversionError, PurityError
from funcnet.foreign._module_walk import named_modules
from funcnet.tree import join

_QUESTIONS = frozenset(
    {
        *("requires_grad", "requires_grad_", "is_leaf", "grad", "grad_fn", "retain_grad"),
        *("Parameter", "UninitializedParameter", "get_parameter", "deepcopy"),
    }
)
"""Names in code that asks a parameter whether it is one, or how it is trained."""


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


def as_parameter(tensor: Tensor, requires_grad: bool) -> Tensor:
    """An alias of a tensor that answers as a parameter; a tensor of a class of its own, as a DTensor, as it is."""
    if type(tensor) not in (Tensor, nn.Parameter):
        return tensor
    return tensor.as_subclass(TrainedParameterInCall if requires_grad else FrozenParameterInCall)


def is_recorded(tensor: Tensor) -> bool:
    """Whether autograd records what is computed from a tensor, whatever it answers itself."""
    return bool(Tensor.requires_grad.__get__(tensor))  # type: ignore[attr-defined]


# --- which modules ask ---


def asks_parameters(words: frozenset[str]) -> bool:
    """Whether code with these words asks parameters who they are."""
    return not words.isdisjoint(_QUESTIONS)


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
