"""PyTorch models as pure functions over explicit parameter trees, and both ways to ``nn.Module``.

Every layer of ``torch.nn`` is here under its own name: ``fn.Linear``, ``fn.Conv2d``, ``fn.MSELoss``. Beside them:

compose            makes a net from a function and its parts.
Net                is what every net is: hyperparameters, named parts and a body ``forward(p, *inputs)``.
Sequential         holds nets in a row, as ModuleList, ModuleDict, ParameterList and ParameterDict hold nets or params.
Param, Buffer      declare the tensors of a net that you write as a class.
Stack              is many equal nets one after the other, in stacked tensors.
stack_layers       turns equal layers with tensors of their own into a Stack: the net, its params and its buffers.
unstack_layers     turns every Stack of a net into layers with tensors of their own.
remat              makes a net run again in the backward pass instead of keeping what its gradient needs.
value_and_grad     returns the value of a loss and its gradients by one plain backward pass.
grad               returns the gradients alone.
jvp                returns the output of a function of nested dicts and its directional derivative.
vjp                returns the output of such a function and the map from changes of it back to the arguments.
jacobian           returns the derivative of each output by each number of an argument.
hessian            returns the second derivatives of a loss.
hvp                returns the product of the Hessian of a loss with a vector.
ggn_vp             returns the product of the Gauss-Newton matrix with a vector.
per_sample_norms   returns the norm of the gradient of each example, by one backward pass over the batch.
clipped_grads      returns the sum of the gradients of examples, each clipped to a norm.
weighted_grads     returns the sum of the gradients of examples, each times a weight.
per_sample_dots    returns the inner product of the gradient of each example with a tree.
per_sample_grads   returns the gradient of each example.
per_sample_rules   says how these are computed.
supports           says whether a net can be put through a transform such as vmap.

from_module        converts any ``nn.Module`` to a net, its params and its buffers.
to_module          makes an ``nn.Module`` of a net and its trees.
from_state_dict    splits a state_dict into params and buffers.
to_state_dict      joins params and buffers into a state_dict.
train_flags        returns the training mode of every submodule of a module, by path.

lora               adds low-rank changes to layers of a net, and returns the net and the changes' first params.
merge_lora         adds every change to its weight, and returns the net without LoRA and its params.
unmerge_lora       returns params from before a merge, by subtraction, where nobody kept them.
to_peft_state_dict    names adapters as the library peft does, for its files.
from_peft_state_dict  returns the adapters of a net from what peft saved.

summary            shows paths, types, output shapes, parameters and bytes of a net.
effects            runs a call once and lists what it does besides computing its output.
trace              writes the forward of a module down as plain ``F`` code over params, and runs that.
source             writes a model as a program that runs by itself.

Packages: ``tree`` (nested dicts of tensors), ``random`` (keys and draws), ``init`` (first values), ``parametrize``,
``optim`` (optimizers, schedules and what else training needs), ``checkpoint`` (files), ``models`` (GPT-2, Llama, BERT),
``distributed`` (many ranks), ``compare`` and ``report`` (both styles side by side).
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from funcnet import checkpoint as checkpoint
    from funcnet import compare as compare
    from funcnet import distributed as distributed
    from funcnet import init as init
    from funcnet import models as models
    from funcnet import optim as optim
    from funcnet import parametrize as parametrize
    from funcnet import random as random
    from funcnet import report as report
    from funcnet import tree as tree
    from funcnet._errors import ConversionError as ConversionError
    from funcnet._errors import FuncnetError as FuncnetError
    from funcnet._errors import InitError as InitError
    from funcnet._errors import PurityError as PurityError
    from funcnet._errors import RandomnessError as RandomnessError
    from funcnet._errors import ShapeError as ShapeError
    from funcnet._errors import TransformError as TransformError
    from funcnet._errors import TreeError as TreeError
    from funcnet.adapters import Wrapped as Wrapped
    from funcnet.adapters import from_module as from_module
    from funcnet.adapters import from_state_dict as from_state_dict
    from funcnet.adapters import to_module as to_module
    from funcnet.adapters import to_state_dict as to_state_dict
    from funcnet.adapters import train_flags as train_flags
    from funcnet.combinators import ModuleDict as ModuleDict
    from funcnet.combinators import ModuleList as ModuleList
    from funcnet.combinators import ParameterDict as ParameterDict
    from funcnet.combinators import ParameterList as ParameterList
    from funcnet.combinators import Sequential as Sequential
    from funcnet.combinators import Stack as Stack
    from funcnet.combinators import remat as remat
    from funcnet.combinators import stack_layers as stack_layers
    from funcnet.combinators import unstack_layers as unstack_layers
    from funcnet.core import Buffer as Buffer
    from funcnet.core import Function as Function
    from funcnet.core import Net as Net
    from funcnet.core import Param as Param
    from funcnet.core import View as View
    from funcnet.core import compose as compose
    from funcnet.core import supports as supports
    from funcnet.inspect import effects as effects
    from funcnet.inspect import summary as summary
    from funcnet.layers import *  # noqa: F403
    from funcnet.low_rank import from_peft_state_dict as from_peft_state_dict
    from funcnet.low_rank import lora as lora
    from funcnet.low_rank import merge_lora as merge_lora
    from funcnet.low_rank import to_peft_state_dict as to_peft_state_dict
    from funcnet.low_rank import unmerge_lora as unmerge_lora
    from funcnet.program import Traced as Traced
    from funcnet.program import source as source
    from funcnet.program import trace as trace
    from funcnet.transforms import clipped_grads as clipped_grads
    from funcnet.transforms import ggn_vp as ggn_vp
    from funcnet.transforms import grad as grad
    from funcnet.transforms import hessian as hessian
    from funcnet.transforms import hvp as hvp
    from funcnet.transforms import jacobian as jacobian
    from funcnet.transforms import jvp as jvp
    from funcnet.transforms import per_sample_dots as per_sample_dots
    from funcnet.transforms import per_sample_grads as per_sample_grads
    from funcnet.transforms import per_sample_norms as per_sample_norms
    from funcnet.transforms import per_sample_rules as per_sample_rules
    from funcnet.transforms import value_and_grad as value_and_grad
    from funcnet.transforms import vjp as vjp
    from funcnet.transforms import weighted_grads as weighted_grads
else:
    # Importing funcnet imports nothing, not even torch: a package is loaded when one of its names is read for the first
    # time. A type checker must not see __getattr__, or every misspelt name would be right.
    _PUBLIC_NAMES = {
        "_errors": (
            "ConversionError",
            "FuncnetError",
            "InitError",
            "PurityError",
            "RandomnessError",
            "ShapeError",
            "TransformError",
            "TreeError",
        ),
        "adapters": ("Wrapped", "from_module", "from_state_dict", "to_module", "to_state_dict", "train_flags"),
        "combinators": (
            *("ModuleDict", "ModuleList", "ParameterDict", "ParameterList", "Sequential"),
            *("Stack", "remat", "stack_layers", "unstack_layers"),
        ),
        "core": ("Buffer", "Function", "Net", "Param", "View", "compose", "supports"),
        "inspect": ("effects", "summary"),
        "low_rank": ("from_peft_state_dict", "lora", "merge_lora", "to_peft_state_dict", "unmerge_lora"),
        "program": ("Traced", "source", "trace"),
        "transforms": (
            "clipped_grads",
            "ggn_vp",
            "grad",
            "hessian",
            "hvp",
            "jacobian",
            "jvp",
            "per_sample_dots",
            "per_sample_grads",
            "per_sample_norms",
            "per_sample_rules",
            "value_and_grad",
            "vjp",
            "weighted_grads",
        ),
    }
    _ROOM_OF = {name: room for room, names in _PUBLIC_NAMES.items() for name in names}
    _PACKAGES = {
        "checkpoint",
        "compare",
        "distributed",
        "init",
        "models",
        "optim",
        "parametrize",
        "random",
        "report",
        "tree",
    }
    _ROOMS = _PACKAGES | {*_PUBLIC_NAMES, "layers"}
    _NOT_IN_STAR_IMPORT = {"random"}  # the standard library has a module of that name

    def __getattr__(name):
        """Load the package that a name comes from. A name that is not in the table may be a layer."""
        if name == "__all__":
            value = sorted({*_ROOM_OF, *_PACKAGES, *import_module("funcnet.layers").__all__} - _NOT_IN_STAR_IMPORT)
        elif name.startswith("_"):
            raise AttributeError(f"module 'funcnet' has no attribute {name!r}")
        elif name in _ROOM_OF:
            value = getattr(import_module(f"funcnet.{_ROOM_OF[name]}"), name)
        elif name in _ROOMS:
            return import_module(f"funcnet.{name}")
        elif name in (layers := import_module("funcnet.layers")).__all__:
            value = getattr(layers, name)
        else:
            raise AttributeError(f"module 'funcnet' has no attribute {name!r}")
        globals()[name] = value  # so that the next read of the name finds it without this function
        return value

    def __dir__():
        return sorted({*__getattr__("__all__"), *_NOT_IN_STAR_IMPORT, "__version__"})
