"""Parameters that a foreign forward reads elsewhere than in the attributes that register them."""

from __future__ import annotations

import warnings
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import funcnet as fn
from tests.helpers import assert_identical

X = torch.full((3,), 2.0)
SHARED = nn.Parameter(torch.ones(3))
SHARED_LAYER = nn.Linear(3, 3)
SHARED_LIST = [torch.ones(3, requires_grad=True)]
CONSTANT = torch.full((3,), 5.0)


class Holder:
    weight = SHARED


class Scale(nn.Module):
    """Multiplies by its parameter, and by what a subclass finds elsewhere."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.arange(1.0, 4.0))
        self.set_up()

    def set_up(self):
        pass

    def forward(self, x):
        return x * self.weight * self.find()


# --- references, which compiled code has to follow too ---


class InList(Scale):
    def set_up(self):
        self.held = [self.weight]

    def find(self):
        return self.held[0]


class InDict(Scale):
    def set_up(self):
        self.held = {"nested": {"weight": self.weight}}

    def find(self):
        return self.held["nested"]["weight"]


class Box:
    def __init__(self, weight):
        self.weight = weight


class InObject(Scale):
    def set_up(self):
        self.held = Box(self.weight)

    def find(self):
        return self.held.weight


class InNamespace(InObject):
    def set_up(self):
        self.held = SimpleNamespace(weight=self.weight)


class InKeys(Scale):
    def set_up(self):
        self.held = {self.weight: 1.0}

    def find(self):
        return next(iter(self.held))


class InSet(Scale):
    def set_up(self):
        self.held = {self.weight}

    def find(self):
        return next(iter(self.held))


class InClosure(Scale):
    def set_up(self):
        weight = self.weight
        self.held = lambda: weight

    def find(self):
        return self.held()


class InPartial(Scale):
    def set_up(self):
        self.held = partial(torch.mul, self.weight)

    def find(self):
        return self.held(1.0)


class InUnreadSet(Scale):
    def __init__(self):
        super().__init__()
        self.kept = {self.weight}

    def find(self):
        return self.weight


@pytest.mark.parametrize("cls", [InList, InDict, InObject, InUnreadSet])
def test_compiled_code_reads_the_params_of_the_call_wherever_the_module_holds_them(cls):
    torch.compiler.reset()
    net, params, _ = fn.from_module(cls())
    compiled = torch.compile(net, fullgraph=True, backend="eager")
    for factor in (1.0, 3.0):
        scaled = fn.tree.map(lambda tensor, factor=factor: tensor * factor, params)
        assert_identical(compiled(scaled, X), X * scaled["weight"] * scaled["weight"])
        assert_identical(net(scaled, X), X * scaled["weight"] * scaled["weight"])
    grads = torch.func.grad(lambda params: compiled(params, X).sum())(params)
    assert_identical(grads["weight"], 2 * X * params["weight"])


@pytest.mark.parametrize("cls", [InKeys, InSet, InClosure, InPartial, InNamespace])
def test_what_compiled_code_cannot_write_to_is_named(cls):
    torch.compiler.reset()
    net, params, _ = fn.from_module(cls())
    assert_identical(net(params, X), X * params["weight"] * params["weight"])
    with pytest.raises(Exception, match=r"holds parameters or buffers in what torch\.compile cannot") as caught:
        torch.compile(net, fullgraph=True, backend="eager")(params, X)
    assert "held, a" in str(caught.value)


# --- parameters from outside ---


class ByGlobal(Scale):
    def set_up(self):
        self.shared = SHARED

    def find(self):
        return SHARED


class ByClassOfSomeone(ByGlobal):
    def find(self):
        return Holder.weight


class ByDefault(ByGlobal):
    def find(self, weight=SHARED):
        return weight


class ByOwnClass(ByGlobal):
    table = SHARED

    def find(self):
        return self.table


@pytest.mark.parametrize("cls", [ByGlobal, ByClassOfSomeone, ByDefault, ByOwnClass])
def test_own_parameters_that_are_read_by_another_name_are_refused(cls):
    with pytest.raises(fn.ConversionError, match=r"reads parameters of the module by other names") as caught:
        fn.from_module(nn.Sequential(cls()))
    assert "0.shared: the " in str(caught.value)


class OtherGlobal(Scale):
    def find(self):
        return SHARED


class OtherLayer(Scale):
    def find(self):
        return SHARED_LAYER(X)


class OtherInList(Scale):
    def find(self):
        return SHARED_LIST[0]


class UnregisteredList(Scale):
    def set_up(self):
        self.layers = [nn.Linear(3, 3), nn.Linear(3, 3)]

    def find(self):
        return self.layers[1](self.layers[0](X))


class UnregisteredTensor(Scale):
    def set_up(self):
        self.shift = torch.ones(3, requires_grad=True)

    def find(self):
        return self.shift


@pytest.mark.parametrize(
    ("cls", "place"),
    [
        (OtherGlobal, "the global 'SHARED' in OtherGlobal.find, of shape (3,)"),
        (OtherLayer, "'weight' in the global 'SHARED_LAYER' in OtherLayer.find, of shape (3, 3)"),
        (OtherInList, "the global 'SHARED_LIST' in OtherInList.find, of shape (3,)"),
        (UnregisteredList, "'bias' in the attribute 'layers', of shape (3,)"),
        (UnregisteredTensor, "the attribute 'shift', of shape (3,)"),
    ],
)
def test_trained_tensors_that_are_no_parameters_are_named_in_a_warning(cls, place):
    with pytest.warns(UserWarning, match="are no parameters of the module") as caught:
        fn.from_module(cls())
    assert place in str(caught[0].message)
    assert caught[0].filename == __file__


class ReadsConstants(Scale):
    def set_up(self):
        self.parent = (self,)

    def find(self):
        return CONSTANT * self.parent[0].weight


def test_constants_and_references_to_the_module_itself_bring_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        net, params, _ = fn.from_module(ReadsConstants())
    assert_identical(net(params, X), X * params["weight"] * (CONSTANT * params["weight"]))
