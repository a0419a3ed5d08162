"""What users of torch.optim and optax type first: where it is not what is meant here, the error says what to write."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

import funcnet as fn
from tests.helpers import parametrize

PARAMS = {"fc": {"weight": torch.ones(2, 3), "bias": torch.zeros(2)}}
GRADS = fn.tree.map(torch.ones_like, PARAMS)
OPTIMIZER = fn.optim.AdamW(1e-3)
STATE = OPTIMIZER.init(PARAMS)
SCHEDULE = fn.optim.StepLR(OPTIMIZER, 2)
MODULE = nn.Linear(3, 2)
ONE = torch.ones(1)
THEIRS = torch.optim.AdamW(MODULE.parameters())

MISTAKES = {
    "a list of params": (
        lambda: OPTIMIZER.init([torch.ones(2)]),
        "params are nested dicts of tensors, and this is list",
    ),
    "parameters()": (lambda: OPTIMIZER.init(MODULE.parameters()), "of a module they are the second of fn.from_module"),
    "a module": (lambda: OPTIMIZER.init(MODULE), "this is the module Linear"),
    "a list in a tree": (lambda: OPTIMIZER.init({"a": [torch.ones(1)]}), "params['a']: expected a tensor, got list"),
    "a step of a list": (lambda: OPTIMIZER.step([torch.ones(2)], GRADS, STATE), "params are nested dicts of tensors"),
    "params first": (lambda: fn.optim.AdamW(PARAMS, lr=0.1), "an optimizer holds no params, and AdamW is given a dict"),
    "parameters() first": (
        lambda: fn.optim.SGD(MODULE.parameters(), 0.1, momentum=0.9),
        "Write optimizer = SGD(momentum=...), then state = optimizer.init(params).",
    ),
    "a list of params first": (lambda: fn.optim.Adam([*MODULE.parameters()]), "Adam is given list [Parameter"),
    "params by name": (lambda: fn.optim.LBFGS(params=PARAMS), "LBFGS is given a dict with 'fc'"),
    "a name of optax": (lambda: fn.optim.Adam(learning_rate=0.1), "Did you mean 'lr'? It has lr, betas"),
    "betas of optax": (
        lambda: fn.optim.Adam(0.1, b1=0.9, b2=0.99),
        "has no hyperparameter 'b1', 'b2'. Did you mean 'be",
    ),
    "text for a number": (lambda: fn.optim.Adam("0.1"), "Adam: lr is a number or a tensor, not str."),
    "no number": (
        lambda: OPTIMIZER.step(PARAMS, GRADS, STATE, lr=None),
        "AdamW: lr is a number or a tensor, not NoneType.",
    ),
    "one beta": (lambda: fn.optim.Adam(betas=0.9), "betas is 2 numbers or tensors, as (0.9, 0.999) are, not 0.9."),
    "a number for a group": (lambda: fn.optim.SGD(groups={"fc": 0.1}), "each group is a dict of hyperparameters"),
    "no optimizer in particular": (lambda: fn.optim.Optimizer(), "make one of them, as fn.optim.AdamW(lr=1e-3)"),
    "the state of another optimizer": (
        lambda: fn.optim.SGD(momentum=0.9).step(PARAMS, GRADS, STATE),
        "state['fc']['weight']['momentum_buffer'] is missing: expected (2, 3)",
    ),
    "a state in another dtype": (
        lambda: OPTIMIZER.step(PARAMS, GRADS, fn.tree.map(torch.Tensor.double, STATE)),
        "state['fc']['weight']['exp_avg'] is torch.float64 on cpu: expected torch.float32 on cpu",
    ),
    "a state without steps": (
        lambda: OPTIMIZER.step({"a": ONE}, {"a": ONE}, {"a": {"exp_avg": ONE, "exp_avg_sq": ONE}}),
        "state['a']['step']: expected a tensor, got NoneType",
    ),
    "sparse gradients": (
        lambda: OPTIMIZER.step(
            {"a": torch.ones(2)}, {"a": torch.ones(2).to_sparse()}, OPTIMIZER.init({"a": torch.ones(2)})
        ),
        "AdamW cannot step by sparse gradients, grads['a']: Could not run",
    ),
    "a list to clip": (
        lambda: fn.optim.clip_grad_norm(MODULE.parameters(), 1.0),
        "a tree is nested dicts, and this is",
    ),
    "an average of a module": (lambda: fn.optim.EMA().init(MODULE), "this is the module Linear"),
    "params before their average": (lambda: fn.optim.EMA().update(PARAMS, STATE), "is what init or update returned"),
    "torch's optimizer with copies": (lambda: fn.optim.MasterParams(THEIRS), "and this is torch.optim.adamw.AdamW"),
    "a state without copies": (
        lambda: fn.optim.MasterParams(OPTIMIZER).step(PARAMS, GRADS, STATE),
        "a dict with 'master' and 'optimizer', as its init(params) makes it; this is a dict with 'fc'",
    ),
    "a schedule": (
        lambda: OPTIMIZER.step(PARAMS, GRADS, STATE, lr=SCHEDULE),
        "lr is a number or a tensor, not StepLR. ",
    ),
    "a schedule is called": (lambda: fn.optim.SGD(lr=SCHEDULE), "A step takes what it returns: lr=schedule(step)"),
    "groups of torch": (lambda: fn.optim.SGD(groups=[{"lr": 1}]), "groups are hyperparameters by selector, {'**.bias'"),
    "the order of optax": (lambda: OPTIMIZER.step(GRADS, STATE, PARAMS), "takes params, grads and state in this order"),
    "update": (lambda: OPTIMIZER.update(GRADS, STATE, PARAMS), "params, state = optimizer.step(params, grads, state)"),
    "zero_grad": (lambda: OPTIMIZER.zero_grad(), "'AdamW' has no attribute 'zero_grad': gradients are values"),
    "param_groups": (lambda: OPTIMIZER.param_groups, "optimizer.groups has them by selector"),
    "state_dict": (lambda: OPTIMIZER.state_dict(), "fn.optim.to_state_dict makes that of torch"),
    "a name of nobody": (lambda: OPTIMIZER.nobody, "'AdamW' has no attribute 'nobody'"),
    "a step of a schedule": (lambda: SCHEDULE.step(), "schedule(step) is the learning rate of a step"),
    "state of a schedule": (lambda: SCHEDULE.state_dict(), "the step is all there is to save"),
    "torch's optimizer in a schedule": (lambda: fn.optim.StepLR(THEIRS, 2), "not the AdamW of torch: from_torch makes"),
    "a scheduler of torch": (
        lambda: fn.optim.from_torch(torch.optim.lr_scheduler.StepLR(THEIRS, 2), MODULE),
        "A schedule is made as the scheduler was, StepLR(optimizer, ...); then schedule.read_state_dict(",
    ),
    "params for the module": (lambda: fn.optim.from_torch(THEIRS, PARAMS), "is an nn.Module, and this is a dict"),
    "torch's class": (
        lambda: fn.optim.from_state_dict(torch.optim.AdamW, THEIRS.state_dict(), PARAMS),
        "as fn.optim.AdamW, and this is torch.optim.adamw.AdamW",
    ),
    "the state_dict first": (
        lambda: fn.optim.from_state_dict(THEIRS.state_dict(), OPTIMIZER, PARAMS),
        "this is a dict",
    ),
    "an average of params": (lambda: fn.optim.EMA(PARAMS), "decay is a number, not dict; ema.init(params)"),
    "a pair to save": (lambda: fn.checkpoint.save("run.pt", (PARAMS, STATE)), 'Name what is saved: {"params": ...'),
}


@parametrize(mistake=list(MISTAKES))
def test_the_error_says_what_to_write(mistake):
    call, text = MISTAKES[mistake]
    with pytest.raises((TypeError, ValueError, AttributeError), match=re.escape(text)):
        call()


def test_records_do_not_pretend_to_have_what_they_only_explain():
    assert not hasattr(OPTIMIZER, "zero_grad") and not hasattr(SCHEDULE, "state_dict")
    assert getattr(OPTIMIZER, "update", None) is None


def test_a_subclass_of_an_optimizer_is_checked_and_steps_as_that_one():
    class Mine(fn.optim.SGD):
        pass

    optimizer = Mine(lr=0.5)
    params, _ = optimizer.step({"a": ONE}, {"a": ONE}, optimizer.init({"a": ONE}))
    assert type(optimizer.replace(lr=0.1)) is Mine and params["a"].item() == 0.5
    with pytest.raises(ValueError, match="Invalid learning rate"):
        Mine(lr=-1.0)
