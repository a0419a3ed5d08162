"""Training as values: optimizers, schedules, and what comes between a gradient and a step.

**Optimizers** are frozen records with the names, arguments and bits of torch.optim: ``state = optimizer.init(params)``,
then ``params, state = optimizer.step(params, grads, state)``. ``MasterParams`` keeps float32 copies of params in half
precision.

A step is a function of params, gradients, state and hyperparameters, and can be differentiated by each of them where
grad mode is on and something requires grad. torch.optim is silently wrong in these places, and steps are right:

* gradients through the foreach and fused kernels, through the first momentum buffer of SGD, and by learning rates;
* gradients through a root where a gradient is exactly 0, which are NaN in torch and finite here;
* fused kernels that ignore strides: of transposed, expanded or sliced tensors they update other elements;
* fused SGD of params in half precision on a CPU, which in torch 2.13 moves by something else than the gradient;
* a learning rate or a beta in a tensor of fewer bits than the params, in whose dtype torch computes the sizes of steps
  (a tensor of as many bits, or more, gives the bits of torch);
* Muon without nesterov on bfloat16 params, which writes over its own momentum buffer;
* Adafactor of params of several dtypes, where the first dtype decides the smallest root of all.

What has torch's limits here too: Muon computes in bfloat16, so its gradients are those of rounded numbers; and kernels
of half dtypes round by the place of a number in memory, so mapped or stacked members may differ in the last bit.

**Schedules** are functions of the step with the names, arguments and floats of torch.optim.lr_scheduler:
``optimizer.step(..., lr=schedule(step))``, or ``**schedule.hyperparameters(step)`` for those that move momentum or
several groups. How far a run has come is one number. ``ReduceLROnPlateau`` has a state.

**A run** is a value too: ``run = {"params": ..., "buffers": ..., "optimizer": state, "ema": ..., "key": ..., "step":
step}``. Where each step takes all it needs from there (its key is ``fn.random.fold_in(run["key"], run["step"])``, its
learning rate ``schedule(run["step"])``), ``checkpoint.save(path, run)`` after a step and ``run =
checkpoint.load(path).tree()`` are all it takes to go on in the same bits, even after kill -9.

**The file of a trainer of torch**, ``saved = checkpoint.load(path).tree()``, is a run in other words::

    params, buffers = fn.from_state_dict(net, saved["model"])
    _, state = fn.optim.from_state_dict(optimizer, saved["optimizer"], params)
    step = schedule.read_state_dict(saved["scheduler"])

and back::

    module = fn.to_module(net, params, buffers)
    torch_optimizer = fn.optim.to_torch(optimizer, state, module)
    saved = {"model": module.state_dict(), "optimizer": torch_optimizer.state_dict()}
    saved["scheduler"] = schedule.to_torch(torch_optimizer, step).state_dict()

``optimizer`` and ``schedule`` are the records with the arguments of the trainer. ``saved["rng"]``, the state of a
generator, is kept as it is. Lightning's names are ``state_dict``, ``optimizer_states[0]`` and ``lr_schedulers[0]``. The
state_dict of a ``torch.amp.GradScaler`` is read by ``GradScaler.from_state_dict``, and that of an ``AveragedModel`` is
``{"n_averaged": saved["ema"].pop("n_averaged"), "params": fn.from_state_dict(net, saved["ema"])[0]}``.

clip_grad_norm   scales gradients by their norm.
clip_grad_value  limits every number of gradients.
accumulate       is value_and_grad on one part of the batch after the other.
EMA, SWA         average params over the steps of a run; WeightAverage does it by a function of one's own.
update_bn        computes the statistics of batch normalisation anew, for averaged params.
GradScaler       scales losses, for gradients in half precision.

from_torch       makes the record and the state of a live optimizer of torch.
to_torch         makes the live optimizer of a record and a state.
from_state_dict  makes the record and the state of the state_dict of an optimizer of torch.
to_state_dict    makes that state_dict.
"""

from funcnet.optim._accumulation import accumulate as accumulate
from funcnet.optim._adadelta import Adadelta as Adadelta
from funcnet.optim._adafactor import Adafactor as Adafactor
from funcnet.optim._adagrad import Adagrad as Adagrad
from funcnet.optim._adam import Adam as Adam
from funcnet.optim._adam import AdamW as AdamW
from funcnet.optim._adamax import Adamax as Adamax
from funcnet.optim._asgd import ASGD as ASGD
from funcnet.optim._averaging import EMA as EMA
from funcnet.optim._averaging import SWA as SWA
from funcnet.optim._averaging import WeightAverage as WeightAverage
from funcnet.optim._batch_statistics import update_bn as update_bn
from funcnet.optim._clipping import clip_grad_norm as clip_grad_norm
from funcnet.optim._clipping import clip_grad_value as clip_grad_value
from funcnet.optim._combined_schedules import ChainedScheduler as ChainedScheduler
from funcnet.optim._combined_schedules import SequentialLR as SequentialLR
from funcnet.optim._cyclic_schedules import CosineAnnealingWarmRestarts as CosineAnnealingWarmRestarts
from funcnet.optim._cyclic_schedules import CyclicLR as CyclicLR
from funcnet.optim._cyclic_schedules import OneCycleLR as OneCycleLR
from funcnet.optim._decaying_schedules import SWALR as SWALR
from funcnet.optim._decaying_schedules import ConstantLR as ConstantLR
from funcnet.optim._decaying_schedules import CosineAnnealingLR as CosineAnnealingLR
from funcnet.optim._decaying_schedules import ExponentialLR as ExponentialLR
from funcnet.optim._decaying_schedules import LambdaLR as LambdaLR
from funcnet.optim._decaying_schedules import LinearLR as LinearLR
from funcnet.optim._decaying_schedules import MultiplicativeLR as MultiplicativeLR
from funcnet.optim._decaying_schedules import MultiStepLR as MultiStepLR
from funcnet.optim._decaying_schedules import PolynomialLR as PolynomialLR
from funcnet.optim._decaying_schedules import StepLR as StepLR
from funcnet.optim._lbfgs import LBFGS as LBFGS
from funcnet.optim._loss_scaling import GradScaler as GradScaler
from funcnet.optim._master_params import MasterParams as MasterParams
from funcnet.optim._muon import Muon as Muon
from funcnet.optim._nadam import NAdam as NAdam
from funcnet.optim._optimizer import Optimizer as Optimizer
from funcnet.optim._optimizer_state_dicts import from_state_dict as from_state_dict
from funcnet.optim._optimizer_state_dicts import to_state_dict as to_state_dict
from funcnet.optim._plateau import ReduceLROnPlateau as ReduceLROnPlateau
from funcnet.optim._radam import RAdam as RAdam
from funcnet.optim._rmsprop import RMSprop as RMSprop
from funcnet.optim._rprop import Rprop as Rprop
from funcnet.optim._schedule import Schedule as Schedule
from funcnet.optim._sgd import SGD as SGD
from funcnet.optim._sparse_adam import SparseAdam as SparseAdam
from funcnet.optim._torch_optimizers import from_torch as from_torch
from funcnet.optim._torch_optimizers import to_torch as to_torch

__all__ = [
    # optimizers
    "SGD",
    "Adam",
    "AdamW",
    "Adamax",
    "NAdam",
    "RAdam",
    "Adagrad",
    "Adadelta",
    "RMSprop",
    "Rprop",
    "ASGD",
    "Adafactor",
    "Muon",
    "SparseAdam",
    "LBFGS",
    "Optimizer",
    "MasterParams",
    # schedules
    "LambdaLR",
    "MultiplicativeLR",
    "StepLR",
    "MultiStepLR",
    "ConstantLR",
    "LinearLR",
    "ExponentialLR",
    "PolynomialLR",
    "CosineAnnealingLR",
    "CosineAnnealingWarmRestarts",
    "CyclicLR",
    "OneCycleLR",
    "SWALR",
    "SequentialLR",
    "ChainedScheduler",
    "ReduceLROnPlateau",
    "Schedule",
    # between gradient and step, and after it
    "clip_grad_norm",
    "clip_grad_value",
    "accumulate",
    "EMA",
    "SWA",
    "WeightAverage",
    "update_bn",
    "GradScaler",
    # both ways with torch.optim
    "from_torch",
    "to_torch",
    "from_state_dict",
    "to_state_dict",
]


def __dir__() -> list[str]:
    return [*__all__]
