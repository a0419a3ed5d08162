"""A foreign forward that asks its parameters who they are gets the answers of the module."""

from __future__ import annotations

import weakref
from functools import partial
from typing import NamedTuple

import numpy
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, grad_and_value, vmap

import funcnet as fn
from tests.helpers import assert_identical, parametrize

X = torch.linspace(-1, 1, 12).view(4, 3)


class Base(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(3, 3)
        self.w = nn.Parameter(torch.linspace(1, 2, 3))
        self.frozen = nn.Parameter(torch.linspace(0.5, 1, 3), requires_grad=False)
        self.tied = nn.Linear(3, 3)
        self.tied.weight = self.lin.weight
        self.register_buffer("scale", torch.ones(3))

    def forward(self, x):
        return self.compute(x, self.lin(x))


def count_trained(module):
    return sum(param.numel() for param in module.parameters() if param.requires_grad)


class AsksRequiresGrad(Base):
    def compute(self, x, y):
        return y * (self.w if self.w.requires_grad else 5.0) * (1.0 if not self.frozen.requires_grad else 7.0)


class AsksByString(Base):
    def compute(self, x, y):
        return y * (self.w if getattr(self.w, "requires_grad") else 5.0)


class AsksClass(Base):
    def compute(self, x, y):
        return y * (self.w if isinstance(self.w, nn.Parameter) else 5.0)


class AsksLeaf(Base):
    def compute(self, x, y):
        return y * (self.w if self.w.is_leaf and self.w.grad_fn is None and self.w.grad is None else 5.0)


class AsksHelper(Base):
    def compute(self, x, y):
        return y * count_trained(self)


class GetsParameter(Base):
    def compute(self, x, y):
        return y * self.get_parameter("w")


class DecaysWeights(Base):
    def compute(self, x, y):
        decayed = [p for name, p in self.named_parameters() if p.requires_grad and not name.endswith("bias")]
        return y + sum(p.square().sum() for p in decayed)


class ListsAll(Base):
    def compute(self, x, y):
        params = sum(p.sum() * (index + 1) for index, p in enumerate(self.parameters()))
        return y + params + sum(b.sum() for b in self.buffers())


class CallsFunctionally(Base):
    def compute(self, x, y):
        halved = {name: param / 2 for name, param in self.lin.named_parameters()}
        return functional_call(self.lin, halved, y) + functional_call(self.lin, dict(self.lin.named_parameters()), y)


class ReadsStateDict(Base):
    def compute(self, x, y):
        return y + sum(value.sum() for value in self.state_dict(keep_vars=True).values())


class AsksExactClass(Base):
    def compute(self, x, y):
        return y * (self.w if type(self.w) is nn.Parameter else 5.0)


class AsksBuffer(Base):
    def __init__(self):
        super().__init__()
        self.gain = nn.Buffer(torch.ones(3))

    def compute(self, x, y):
        return y * (self.w if isinstance(self.gain, nn.Buffer) else 5.0)


class Slotted:
    __slots__ = ("w",)

    def __init__(self, w):
        self.w = w


class HoldsElsewhere(Base):
    def __init__(self):
        super().__init__()

        def scale(x, w=self.w):
            return x * w

        self.slotted, self.scale_by_default = Slotted(self.w), scale
        self.multiply, self.reference = partial(torch.mul, self.w), weakref.ref(self.w)

    def compute(self, x, y):
        return self.multiply(self.scale_by_default(y)) * self.slotted.w + self.reference()


class ComparesTies(Base):
    def compute(self, x, y):
        return self.tied(y) * (1.0 if self.tied.weight is self.lin.weight else 5.0) * len(list(self.parameters()))


class Pair(NamedTuple):
    left: torch.Tensor
    right: torch.Tensor


class HoldsTuples(Base):
    def __init__(self):
        super().__init__()
        self.both, self.pair, self.nested = (self.w, self.frozen), Pair(self.w, self.frozen), {"a": [(self.w,)]}

    def compute(self, x, y):
        return y * self.both[0] + self.pair.right * self.nested["a"][0][0]


class HoldsKeys(Base):
    def __init__(self):
        super().__init__()
        self.gains, self.decayed = {self.w: 7.0, self.frozen: 2.0}, {self.w}

    def compute(self, x, y):
        return y * self.gains[self.w] + (self.w if self.w in self.decayed else 5.0) * self.gains.get(self.frozen, 1.0)


ASKING = [
    *(AsksRequiresGrad, AsksByString, AsksClass, AsksLeaf, AsksHelper, GetsParameter, DecaysWeights, ListsAll),
    *(
        CallsFunctionally,
        ReadsStateDict,
        ComparesTies,
        AsksExactClass,
        AsksBuffer,
        HoldsElsewhere,
        HoldsTuples,
        HoldsKeys,
    ),
]


def make(cls):
    torch.manual_seed(0)
    return cls().eval()


@pytest.mark.parametrize("cls", ASKING)
def test_answers_give_the_values_of_the_module(cls):
    module = make(cls)
    net, params, buffers = fn.from_module(module)
    for _ in range(2):
        assert_identical(net.apply(params, buffers, X)[0], module(X).detach())


@pytest.mark.parametrize("cls", ASKING)
@pytest.mark.parametrize("transform", [fn.value_and_grad, lambda loss: lambda p: grad_and_value(loss)(p)[::-1]])
def test_answers_give_the_gradients_of_the_module(cls, transform):
    module = make(cls)
    net, params, buffers = fn.from_module(module)
    value, grads = transform(lambda p: net.apply(p, buffers, X)[0].square().sum())(params)
    expected = module(X).square().sum()
    assert_identical(value.detach(), expected.detach())
    expected.backward()
    for path, param in module.named_parameters():
        expected_grad = torch.zeros_like(param) if param.grad is None else param.grad
        if param.requires_grad:
            assert_identical(fn.tree.flatten(grads)[path], expected_grad)


@pytest.mark.parametrize("cls", ASKING)
def test_answers_are_those_of_the_module_under_vmap(cls):
    net, params, buffers = fn.from_module(make(cls))
    each = vmap(lambda x: net.apply(params, buffers, x)[0])(X)
    torch.testing.assert_close(each, torch.stack([net.apply(params, buffers, x)[0] for x in X]))


@pytest.mark.parametrize("cls", [AsksRequiresGrad, AsksClass, AsksHelper, GetsParameter, DecaysWeights])
def test_answers_are_those_of_the_module_when_compiled(cls):
    module = make(cls)
    net, params, buffers = fn.from_module(module)
    compiled = torch.compile(lambda p, x: net.apply(p, buffers, x)[0], backend="eager", fullgraph=True)
    assert_identical(compiled(params, X), module(X).detach())


class ReturnsParams(Base):
    def compute(self, x, y):
        assert self.w.requires_grad
        return {"params": [self.w, self.frozen], "y": y * self.w, "row": self.w[0], "tied": (self.tied.weight,)}


class ReturnsParamsByClass(Base):
    def compute(self, x, y):
        return [self.w] if isinstance(self.w, nn.Parameter) else None


@parametrize(cls=[ReturnsParams, ReturnsParamsByClass])
def test_a_param_that_a_forward_returns_is_a_plain_tensor(cls):
    net, params, buffers = fn.from_module(make(cls))
    output, _ = net.apply(params, buffers, X)
    returned = output if cls is ReturnsParamsByClass else output["params"] + [output["y"], output["row"]]
    assert_identical(returned[0], params["w"])
    assert {type(tensor) for tensor in returned} == {torch.Tensor}


def test_a_param_that_a_compiled_forward_returns_is_a_plain_tensor():
    net, params, buffers = fn.from_module(make(ReturnsParams))
    compiled = torch.compile(lambda p, x: net.apply(p, buffers, x)[0], backend="eager", fullgraph=True)
    output = compiled(params, X)
    assert_identical(output["params"], [params["w"], params["frozen"]])
    assert {type(tensor) for tensor in output["params"]} == {torch.Tensor}


class FreezesItself(Base):
    def compute(self, x, y):
        self.requires_grad_(False)
        return y


def test_a_forward_cannot_freeze_the_tensors_of_the_caller():
    net, params, buffers = fn.from_module(make(FreezesItself))
    leaves = fn.tree.map(lambda leaf: leaf.clone().requires_grad_(), params)
    with pytest.raises(fn.PurityError, match=r"sets requires_grad of a parameter of shape \(3,\) to False"):
        net.apply(leaves, buffers, X)
    assert all(leaf.requires_grad for leaf in fn.tree.flatten(leaves).values())


class LooksUpIds(Base):
    def __init__(self):
        super().__init__()
        self.gains = {id(self.w): 7.0}

    def compute(self, x, y):
        return y * self.gains.get(id(self.w), 1.0)


def test_tensors_that_are_looked_up_by_id_are_refused():
    with pytest.raises(fn.ConversionError, match="keeps ids of its parameters or buffers in 'gains'"):
        fn.from_module(LooksUpIds())


class ChecksInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(3, 3)

    def forward(self, x):
        return F.relu(self.lin(x))


def test_a_module_that_asks_nothing_is_given_the_tensors_themselves():
    net, params, _ = fn.from_module(ChecksInputs())
    net(params, X)
    [leased] = net.copy_pool._ready[False]
    assert not leased._answering_params


class DrawsFromItsOwn(nn.Module):
    def __init__(self, generator):
        super().__init__()
        self.generator = generator

    def forward(self, x):
        return x + float(self.generator.random_sample() if hasattr(self.generator, "seed") else self.generator.random())


@pytest.mark.parametrize("make", [numpy.random.RandomState, numpy.random.default_rng])
def test_generators_of_numpy_that_a_module_holds_are_put_back(make):
    net, params, buffers = fn.from_module(DrawsFromItsOwn(make(3)))
    first = net.apply(params, buffers, X)[0]
    assert_identical(net.apply(params, buffers, X)[0], first)
    assert_identical(first, DrawsFromItsOwn(make(3))(X))


_READS = {
    "dtype": lambda w, x: x * (2.0 if w.dtype in (torch.float16, torch.bfloat16) else 3.0) * w,
    "shape": lambda w, x: x * w.shape[0] * w,
    "device": lambda w, x: x.to(w.device) * w,
    "layout": lambda w, x: x * w if w.layout == torch.strided else x,
    "ndim": lambda w, x: x * w.ndim * w,
    "mT": lambda w, x: x * w.unsqueeze(0).mT.squeeze(),
    "data": lambda w, x: x * w.data * w,
    "real": lambda w, x: x * w.real,
    "size": lambda w, x: x * w.size(0) * w,
    "item of": lambda w, x: x * w[0],
}


class ReadsAttribute(nn.Module):
    def __init__(self, read):
        super().__init__()
        self.w, self.read = nn.Parameter(torch.linspace(1, 2, 3)), read

    def forward(self, x):
        return self.read(self.w, x) if self.w.requires_grad else x


@pytest.mark.parametrize("name", _READS)
def test_compiled_code_reads_what_a_parameter_has_beside_its_answers(name):
    torch.compiler.reset()
    module = ReadsAttribute(_READS[name])
    net, params, _ = fn.from_module(module)
    compiled = torch.compile(net, fullgraph=True, backend="eager")
    assert_identical(compiled(params, X).detach(), module(X).detach())
