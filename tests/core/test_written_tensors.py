"""What a body does to tensors that no version counter shows is refused and undone: memory, gradients, hooks, flags."""

from __future__ import annotations

import contextlib
import ctypes

import numpy as np
import pytest
import torch
from torch import nn

import funcnet as fn
from tests.helpers import assert_identical

DATA = {
    "numpy": lambda x: x.numpy().__setitem__(0, 5.0),
    "asarray": lambda x: np.asarray(x).__setitem__(0, 5.0),
    "memoryview": lambda x: memoryview(x.numpy()).__setitem__(0, 5.0),
    "from_numpy": lambda x: torch.from_numpy(x.numpy()).add_(1),
    "dlpack": lambda x: torch.from_dlpack(x).add_(1),
    "storage": lambda x: x.untyped_storage().fill_(3),
    "item of the storage": lambda x: x.untyped_storage().__setitem__(0, 3),
    "memset": lambda x: ctypes.memset(x.data_ptr(), 0, 4),
    "data.add_": lambda x: x.data.add_(1),
    "data": lambda x: setattr(x, "data", x + 1),
    "swap": lambda x: torch.utils.swap_tensors(x, torch.zeros(3)),
}
STATES = {
    "requires_grad_": lambda x: x.requires_grad_(),
    "attribute": lambda x: setattr(x, "note", 1),
    "grad": lambda x: setattr(x, "grad", torch.ones(3)),
}
STATES_OF_LEAVES = {
    "backward": lambda x: (x * 2).sum().backward(),
    "autograd.backward": lambda x: torch.autograd.backward((x * 2).sum()),
    "hook": lambda x: x.register_hook(lambda grad: grad * 100),
    "hook after": lambda x: x.register_post_accumulate_grad_hook(lambda x: x.grad.zero_()),
    "detach_": lambda x: x.detach_(),
    "data of a leaf": lambda x: x.data.add_(1),
}
ALL = {**{name: (write, False) for name, write in (DATA | STATES).items()}}
ALL |= {name: (write, True) for name, write in STATES_OF_LEAVES.items()}


def make_net(write):
    """A net that writes when it is told to; its parameter is read in any case."""

    @fn.compose(w=fn.Param(3, 1.0))
    def net(p, given, writes=True):
        x = given["x"] if isinstance(given, dict) else given
        if writes:
            write(x)
        return x.detach() * p.w

    return net


def describe(x):
    hooks = (x._backward_hooks, x._post_accumulate_grad_hooks)
    storage = x.untyped_storage()._cdata
    return (x.detach().clone(), x.grad), (x.requires_grad, storage, vars(x).copy(), [bool(each) for each in hooks])


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("what", ALL)
def test_what_is_done_to_an_input_is_refused_and_undone(what, first, nested):
    write, is_leaf = ALL[what]
    net = make_net(write)
    params, x = net.init(0)[0], torch.ones(3, requires_grad=is_leaf)
    given = {"x": x} if nested else x
    if not first:
        net(params, given, writes=False)
    before = describe(x)
    with pytest.raises(fn.PurityError, match=r"the body of net changed input 0.*as it was"):
        net(params, given)
    after = describe(x)
    assert_identical(after[0], before[0])
    assert after[1] == before[1]
    net(params, given, writes=False)


@pytest.mark.parametrize("what", ["numpy", "requires_grad_", "attribute", "grad", "hook", "data.add_", "storage"])
@pytest.mark.parametrize("requires_grad", [False, True])
def test_what_is_done_to_a_param_is_done_to_a_copy_or_refused(what, requires_grad):
    write = ALL[what][0]

    @fn.compose(w=fn.Param(3, 1.0))
    def net(p, x, writes=True):
        if writes:
            write(p.w.detach() if what in ("numpy", "storage") else p.w)
        return x * p.w

    params = {"w": torch.ones(3, requires_grad=requires_grad)}
    net(params, torch.ones(3), writes=False)
    before = describe(params["w"])
    with contextlib.suppress(fn.PurityError, RuntimeError):
        net(params, torch.ones(3))
    after = describe(params["w"])
    assert_identical(after[0], before[0])
    assert after[1] == before[1]


@pytest.mark.parametrize("old_grad", [None, torch.ones(3)])
def test_a_backward_pass_in_a_body_adds_nothing_to_params(old_grad):
    @fn.compose(w=fn.Param(3, 1.0))
    def net(p, x):
        (p.w * x).sum().backward()
        return x

    w = torch.ones(3, requires_grad=True)
    w.grad = None if old_grad is None else old_grad.clone()
    with pytest.raises(fn.PurityError, match=r"changed params 'w' \((another grad|other numbers in grad)\)"):
        net({"w": w}, torch.ones(3))
    assert_identical(w.grad, old_grad)


def test_a_backward_pass_over_what_a_body_made_is_its_own_affair():
    @fn.compose(w=fn.Param(3, 1.0))
    def net(p, x):
        leaf = x.detach().requires_grad_()
        (leaf * 2).sum().backward()
        return leaf.grad * p.w

    params = {"w": torch.ones(3)}
    for _ in range(2):
        assert_identical(net(params, torch.ones(3)), torch.full((3,), 2.0))


def test_what_a_body_only_reads_past_torch_is_not_refused():
    @fn.compose()
    def net(p, x):
        return x * float(np.asarray(x).sum()) + x.data.mean() + torch.from_numpy(x.numpy() * 2)

    for _ in range(2):
        assert_identical(net({}, torch.ones(3)), torch.full((3,), 6.0))


def test_a_module_that_is_an_input_is_watched():
    def count(module):
        module.calls = getattr(module, "calls", 0) + 1

    writes = {
        "weight": lambda module: module.weight.data.add_(1),
        "attribute": count,
        "mode": lambda module: module.eval(),
        "parameter": lambda module: module.register_parameter("more", nn.Parameter(torch.ones(1))),
        "hook": lambda module: module.register_forward_hook(lambda *args: None),
        "statistics": lambda module: module(torch.randn(4, 3)),
    }
    for name, write in writes.items():
        module = nn.BatchNorm1d(3) if name == "statistics" else nn.Linear(3, 3)
        state = {key: value.clone() for key, value in module.state_dict().items()}
        net = fn.compose()(lambda p, x, module, write=write: (write(module), x)[1])
        with pytest.raises(fn.PurityError, match="input 1"):
            net({}, torch.ones(3), module)
        if name != "statistics":
            assert_identical(dict(module.state_dict()), state)
            assert module.training and not hasattr(module, "calls") and not module._forward_hooks
