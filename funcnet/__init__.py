"""funcnet: PyTorch models as pure functions over explicit parameter trees, and both ways to ``nn.Module``.

Every layer of ``torch.nn`` is here under its own name: ``fn.Linear``, ``fn.Conv2d``, ``fn.MSELoss``. Beside them:

compose            makes a net from a function and its parts.
Net                is what every net is: hyperparameters, named parts and a body ``forward(p, *inputs)``.
Sequential         holds nets in a row, as ModuleList, ModuleDict, ParameterList and ParameterDict hold nets or params.
Param, Buffer      declare the tensors of a net that you write as a class.
value_and_grad     returns the value of a loss and its gradients by one plain backward pass.
supports           says whether a net can be put through a transform such as vmap.

from_module        converts any ``nn.Module`` to a net, its params and its buffers.
to_module          makes an ``nn.Module`` of a net and its trees.
from_state_dict    splits a state_dict into params and buffers.
to_state_dict      joins params and buffers into a state_dict.
train_flags        returns the training mode of every submodule of a module, by path.

summary            shows paths, types, output shapes, parameters and bytes of a net.
effects            runs a call once and lists what it does besides computing its output.
trace              writes the forward of a module down as plain ``F`` code over params, and runs that.
source             writes a model as a program that runs by itself.

Packages: ``tree`` (nested dicts of tensors), ``random`` (keys and draws), ``init`` (first values), ``parametrize``,
``checkpoint`` (files), ``models`` (GPT-2, Llama, BERT), ``compare`` and ``report`` (both styles side by side).
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from funcnet import checkpoint as checkpoint
    from funcnet import init as init
    from funcnet import models as models
    from funcnet import parametrize as parametrize
    from funcnet import random as random
    from funcnet import tree as tree
    from funcnet._errors import *
    from funcnet.adapters import *
    from funcnet.combinators import *
    from funcnet.core import *
    from funcnet.inspect import *
    from funcnet.layers import *
    from funcnet.transforms import *
