"""What the code of a foreign module shows of the effects of its calls, before any call.

Most forwards do nothing but compute: they read their tensors, call submodules and functions of torch, and return the
result. What protects a call from all that a forward could do besides (copies of its inputs, a look at all that the
module holds, at the global generator and at versions of tensors) takes longer than a tiny forward. So the code is read
first. An effect is ruled out only where every name in the code is known: a function of torch that computes, a
submodule, a tensor, a number, or a function whose code has been read too. Anything else may do anything.
"""

from __future__ import annotations

import builtins
import dis
import math
import types
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from funcnet._reachable import is_assigned
from funcnet._torch_functions import CASTS, COMPUTING_NAMES, DRAWING_NAMES
from funcnet.core.internals import ANY_EFFECT, PossibleEffects, iter_code
from funcnet.kernels.internals import UNRULED_KERNEL_NAMES

_LAYER_NAMES = """
Linear Bilinear Identity Flatten Unflatten Sequential ModuleList ModuleDict ParameterList ParameterDict
Conv1d Conv2d Conv3d ConvTranspose1d ConvTranspose2d ConvTranspose3d Embedding
BatchNorm1d BatchNorm2d BatchNorm3d InstanceNorm1d InstanceNorm2d InstanceNorm3d LayerNorm GroupNorm RMSNorm
ReLU ReLU6 LeakyReLU PReLU ELU SELU CELU GELU SiLU Mish Sigmoid Tanh Softplus Softmax LogSoftmax Softsign Hardswish
Hardtanh Hardsigmoid LogSigmoid Tanhshrink Softshrink Hardshrink Softmin GLU Threshold
MaxPool1d MaxPool2d MaxPool3d AvgPool1d AvgPool2d AvgPool3d AdaptiveAvgPool1d AdaptiveAvgPool2d AdaptiveAvgPool3d
AdaptiveMaxPool1d AdaptiveMaxPool2d AdaptiveMaxPool3d ZeroPad1d ZeroPad2d ZeroPad3d ConstantPad1d ConstantPad2d
ConstantPad3d ReflectionPad1d ReflectionPad2d ReplicationPad1d ReplicationPad2d PixelShuffle PixelUnshuffle Upsample
UpsamplingNearest2d UpsamplingBilinear2d Dropout Dropout1d Dropout2d Dropout3d
"""
_LAYERS_OF_TORCH = frozenset(getattr(nn, name) for name in _LAYER_NAMES.split())
"""Layers of torch whose forward computes, and writes to nothing but the running averages of a norm in training."""

_BASES_OF_TORCH = frozenset(base for layer in _LAYERS_OF_TORCH for base in layer.__mro__)
_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks", "_compiled_call_impl")
_TENSORS_AND_CHILDREN = ("_parameters", "_buffers", "_modules")

_MODULES = (torch, nn, F, math)
_BUILTIN_NAMES = """
abs all any bool dict enumerate float int isinstance len list max min range reversed round slice sorted str sum
super tuple zip ValueError TypeError RuntimeError NotImplementedError AssertionError
"""
_BUILTINS = frozenset(getattr(builtins, name) for name in _BUILTIN_NAMES.split())
_PLAIN_VALUES = (int, float, complex, str, bytes, type(None), type(...), torch.dtype, torch.device, torch.Size)
_HARMLESS_METHODS = frozenset(
    {"__init__", "__repr__", "__doc__", "forward", "extra_repr", "reset_parameters", "train", "eval", "training"}
)
"""Names that a class may define anew, though a layer of torch has them: no forward calls them unseen."""

_NAMES_OF_DRAWS = frozenset(DRAWING_NAMES) - {
    *("nn", "init", "distributions", "sample", "rsample", "Generator"),
    "scaled_dot_product_attention",  # its calls are looked at
}
_WRITING_ARGUMENTS = frozenset({"out", "inplace", "max_norm"})
_ATTENTION = "scaled_dot_product_attention"
_POSITIONS = {
    **{
        name: function.__code__.co_varnames.index("inplace")
        for name, function in vars(F).items()
        if isinstance(function, types.FunctionType) and "inplace" in function.__code__.co_varnames
    },
    _ATTENTION: 4,
}
"""Where functions take their argument ``inplace``, or the probability with which attention drops."""

_AVERAGING = frozenset({"batch_norm", "instance_norm"})  # they write to what they are given
_UNSAFE_IN_PLACE = frozenset(
    {
        "requires_grad_",
        "set_",
        "share_memory_",
        "resize_",
        "resize_as_",
        "detach_",
        "swap_",
        "rename_",
        "apply_",
        "map_",
    }
)
_REFUSED_INSTRUCTIONS = (
    *("STORE_ATTR", "DELETE_ATTR", "STORE_SUBSCR", "DELETE_SUBSCR", "STORE_SLICE", "STORE_GLOBAL", "DELETE_GLOBAL"),
    *("STORE_NAME", "DELETE_NAME", "DELETE_DEREF", "IMPORT_", "YIELD", "GET_AWAITABLE", "GET_AITER"),
    *("RETURN_GENERATOR", "GEN_START", "BEFORE_WITH", "BEFORE_ASYNC", "SETUP_WITH", "SETUP_ASYNC", "LOAD_BUILD_CLASS"),
    *("LOAD_SPECIAL", "LOAD_FROM_DICT"),
)
"""Starts of the names of instructions by which code changes what it did not make, or runs later or elsewhere."""


def find_possible_effects(module: nn.Module) -> PossibleEffects:
    """What a call of a module may do besides computing its output, as far as its code does not rule it out."""
    try:
        return _CodeReader(module).read()
    except _UnknownCodeError:
        return ANY_EFFECT


class _UnknownCodeError(Exception):
    """Code has something of which it is not known what it does."""


class _CodeReader:
    """Reads the code that the forward of a module may run."""

    def __init__(self, module: nn.Module) -> None:
        self._modules = list(module.modules())
        self._classes = dict.fromkeys(type(submodule) for submodule in self._modules if not _is_of_torch(submodule))
        self._writes_in_place = False
        self._draws = False
        self._calls_unruled_kernels = False
        self._visited: set[int] = set()
        self._values_by_name: dict[str, list[Any]] = {}
        """The values that an attribute has in the module: those in instances, tensors aside, and in their classes."""

    def read(self) -> PossibleEffects:
        """The effects that the code does not rule out.

        Raises:
            _UnknownCodeError: if something in it is not known.
        """
        for module in self._modules:
            self._read_module(module)
        for cls in self._classes:
            self._collect_class(cls)
        for cls in self._classes:
            self._read_value(getattr(cls, "forward", None))
        return PossibleEffects(
            changes_module=False,
            writes_in_place=self._writes_in_place,
            draws=self._draws,
            calls_unruled_kernels=self._calls_unruled_kernels,
        )

    def _read_module(self, module: nn.Module) -> None:
        attributes = vars(module)
        if any(attributes.get(name) for name in _HOOKS):
            raise _UnknownCodeError
        for name, value in attributes.items():
            if callable(getattr(type(module), name, None)):
                raise _UnknownCodeError  # the instance has a method of its own
            self._values_by_name.setdefault(name, []).append(value)
        for kind in _TENSORS_AND_CHILDREN:
            for name in attributes[kind]:
                self._values_by_name.setdefault(name, [])
        if _is_of_torch(module):
            self._writes_in_place |= bool(attributes.get("inplace")) or attributes.get("max_norm") is not None
            self._draws |= type(module) in _DROPOUTS and bool(attributes["p"])
            self._calls_unruled_kernels |= type(module) is nn.Hardsigmoid

    def _collect_class(self, cls: type) -> None:
        """Collect what a class and its bases define, unless it changes how layers of torch work."""
        torch_bases = [base for base in cls.__mro__ if base in _BASES_OF_TORCH]
        for base in cls.__mro__:
            if base in _BASES_OF_TORCH:
                continue
            for name, value in vars(base).items():
                is_overridden = any(name in vars(torch_base) for torch_base in torch_bases)
                if callable(value) and name not in _HARMLESS_METHODS and (is_overridden or name.startswith("__")):
                    raise _UnknownCodeError
                self._values_by_name.setdefault(name, []).append(value)

    # --- values that code names ---

    def _read_value(self, value: Any) -> None:
        if id(value) in self._visited or isinstance(value, _PLAIN_VALUES):
            return
        self._visited.add(id(value))
        if isinstance(value, (tuple, frozenset)):
            for item in value:
                self._read_value(item)
        elif isinstance(value, types.ModuleType):
            if value not in _MODULES:
                raise _UnknownCodeError
        elif isinstance(value, property):
            self._read_value(value.fget)
        elif isinstance(value, (staticmethod, classmethod)):
            self._read_value(value.__func__)
        elif isinstance(value, types.FunctionType) and (value.__module__ or "").partition(".")[0] != "torch":
            self._read_function(value)
        elif not any(value is known for known in (Tensor, *_BUILTINS, *(layer.forward for layer in _LAYERS_OF_TORCH))):
            self._read_torch_function(value)

    def _read_torch_function(self, function: Any) -> None:
        name = getattr(function, "__name__", "")
        if not any(getattr(home, name, None) is function for home in (torch, F, math)):
            raise _UnknownCodeError
        self._draws |= name == _ATTENTION  # with which arguments it is called is not known here
        self._read_name(name)

    def _read_function(self, function: types.FunctionType) -> None:
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            if name != "__class__" and is_assigned(cell):  # super() needs that one
                self._read_value(cell.cell_contents)
        for value in (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()):
            self._read_value(value)
        for code in iter_code(function):
            self._read_code(code, function.__globals__, function.__name__ == "forward")

    # --- code ---

    def _read_code(self, code: types.CodeType, global_values: dict[str, Any], is_forward: bool) -> None:
        keywords = {item for constant in code.co_consts if isinstance(constant, tuple) for item in constant}
        if keywords & _WRITING_ARGUMENTS or {"inplace", "max_norm"} & {*code.co_names, *code.co_varnames}:
            self._writes_in_place = True
        self._draws |= "dropout_p" in keywords
        inputs = code.co_varnames[1 : code.co_argcount + code.co_kwonlyargcount] if is_forward else ()
        instructions = list(dis.get_instructions(code))
        for index, instruction in enumerate(instructions):
            kind, name = instruction.opname, str(instruction.argval)
            if kind.startswith(_REFUSED_INSTRUCTIONS) or (kind == "STORE_DEREF" and name in code.co_freevars):
                raise _UnknownCodeError
            if kind.startswith("INPLACE_") or (kind == "BINARY_OP" and instruction.argrepr.endswith("=")):
                self._writes_in_place = True
            elif kind in ("LOAD_GLOBAL", "LOAD_NAME"):
                self._read_global(name, global_values)
            elif kind in ("LOAD_ATTR", "LOAD_METHOD", "LOAD_SUPER_ATTR"):
                before = instructions[index - 1]
                if name in CASTS and not (before.opname.startswith("LOAD_FAST") and before.argval in inputs):
                    raise _UnknownCodeError  # a submodule that is cast is changed
                self._read_attribute(name)
            if kind.startswith("LOAD_") and name in _POSITIONS and _passes(_POSITIONS[name], instructions[index + 1 :]):
                self._writes_in_place |= name != _ATTENTION
                self._draws |= name == _ATTENTION

    def _read_global(self, name: str, global_values: dict[str, Any]) -> None:
        if name in global_values:
            self._read_value(global_values[name])
        elif getattr(builtins, name, None) not in _BUILTINS:
            raise _UnknownCodeError

    def _read_attribute(self, name: str) -> None:
        """Read what an attribute may stand for: one of a tensor, of torch, of the module, or of its classes."""
        is_of_module = name in self._values_by_name
        for value in self._values_by_name.get(name, ()):
            self._read_value(value)
        if is_of_module and name not in COMPUTING_NAMES and any(name in vars(base) for base in _BASES_OF_TORCH):
            if name not in ("forward", "training"):
                raise _UnknownCodeError  # a method that changes a module
        elif not is_of_module and name != "forward":
            self._read_name(name)

    def _read_name(self, name: str) -> None:
        """Read the name of a function of torch, or of an attribute of tensors."""
        self._draws |= name in _NAMES_OF_DRAWS
        self._calls_unruled_kernels |= name in UNRULED_KERNEL_NAMES
        self._writes_in_place |= name in _AVERAGING
        if name.endswith("_") and not name.endswith("__"):
            self._writes_in_place = True
            if name in _UNSAFE_IN_PLACE or not hasattr(Tensor, name):
                raise _UnknownCodeError
        elif not any(name in names for names in (COMPUTING_NAMES, _NAMES_OF_DRAWS, _AVERAGING, CASTS)):
            raise _UnknownCodeError


def _is_of_torch(module: nn.Module) -> bool:
    return type(module) in _LAYERS_OF_TORCH


def _passes(position: int, instructions: list[dis.Instruction]) -> bool:
    """Whether a call passes an argument by its position.

    Args:
        position: of the argument.
        instructions: those that follow the one that loads the function.
    """
    size = 0  # of the stack above the function
    for instruction in instructions:
        if instruction.opname.startswith("CALL") and instruction.opname != "CALL_INTRINSIC_1":
            count = instruction.arg or 0
            if size <= count + ("KW" in instruction.opname):
                return count > position
        if instruction.opcode in dis.hasjrel or instruction.opcode in dis.hasjabs:
            return True  # one of the arguments is a choice, which is not followed
        size += dis.stack_effect(instruction.opcode, instruction.arg)
    return False  # the function is not called here
