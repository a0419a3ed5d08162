"""What a foreign module may hold, each as one test: closures, hooks, weak references, locks, sparse buffers."""

from __future__ import annotations

import collections
import pickle
import random
import threading
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import funcnet as fn
from tests.foreign.helpers import X, assert_same_as_module
from tests.helpers import assert_identical, parametrize


class ClosesOver(nn.Module):
    """A function in an attribute that has closed over the module, a list outside and a weight."""

    def __init__(self, outside):
        super().__init__()
        self.fc = nn.Linear(6, 6)
        weight = self.fc.weight

        def scaled(x):
            outside.append(len(outside))
            return F.linear(self.fc(x), weight) * len(outside)

        self.scaled = scaled

    def forward(self, x):
        return self.scaled(x)


def test_a_closure_over_the_module_uses_the_params_given_and_writes_nowhere():
    outside = []
    net, params, _ = fn.from_module(ClosesOver(outside))
    expected = F.linear(F.linear(X, **params["fc"]), params["fc"]["weight"])
    for _ in range(2):
        assert_identical(net(params, X), expected)
    assert outside == []
    doubled = fn.tree.map(lambda leaf: 2 * leaf, params)
    assert_identical(net(doubled, X), F.linear(F.linear(X, **doubled["fc"]), doubled["fc"]["weight"]))
    grads = fn.value_and_grad(lambda params: net(params, X).sum())(params)[1]
    assert grads["fc"]["weight"].abs().sum() > 0


def test_hooks_run_and_what_they_collect_stays_inside():
    seen = []
    module = nn.Sequential(nn.Linear(6, 6), nn.ReLU())
    module[0].register_forward_hook(lambda layer, args, output: seen.append(output) or output * 2)
    module[1].register_forward_pre_hook(lambda layer, args: (args[0] + 1,))
    module.register_forward_hook(lambda layer, args, kwargs, output: output + len(kwargs), with_kwargs=True)
    expected = module(X).detach()
    count = len(seen)
    seen.clear()
    net, params, _ = fn.from_module(module)
    for _ in range(2):
        assert_identical(net(params, X), expected)
    assert (count, seen) == (1, [])


def test_weak_references_point_into_the_copy():
    class Child(nn.Module):
        def __init__(self, parent):
            super().__init__()
            self.parent = weakref.ref(parent)

        def forward(self, x):
            return x * self.parent().scale

    class Parent(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(6))
            self.child = Child(self)

        def forward(self, x):
            return self.child(x)

    module = Parent()
    net, params, _ = fn.from_module(module)
    assert_identical(net({"scale": 3 * params["scale"]}, X), X * 3)


def test_weights_in_lists_and_plain_attributes_are_those_given():
    class Lists(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Parameter(torch.ones(6)), nn.Parameter(torch.full((6,), 2.0))
            self.both = [self.a, self.b]
            self.named = {"last": self.b}
            self.__dict__["again"] = self.a

        def forward(self, x):
            return sum(x * weight for weight in self.both) * self.named["last"] + self.again

    net, params, _ = assert_same_as_module(Lists(), X)
    given = fn.tree.map(lambda leaf: leaf * 3, params)
    assert_identical(net(given, X), (sum(x * 1 for x in (X * given["a"], X * given["b"]))) * given["b"] + given["a"])


def test_locks_executors_and_random_sources_are_the_copy_s_own():
    class Holds(nn.Module):
        def __init__(self):
            super().__init__()
            self.lock, self.condition = threading.RLock(), threading.Condition()
            self.local = threading.Event()
            self.dice = random.Random(3)
            self.generator = torch.Generator().manual_seed(5)
            self.names = {str(index): index for index in range(5000)}
            self.queue = collections.deque(maxlen=3)

        def forward(self, x):
            with self.lock, self.condition:
                self.names["3"] += 1
                self.queue.append(x)
                noise = torch.rand(6, generator=self.generator)
                return x * self.dice.random() + self.names["3"] + len(self.queue) + noise

    module = Holds()
    net, _, _ = fn.from_module(module)
    first = net({}, X)
    for _ in range(3):
        assert_identical(net({}, X), first)
    assert module.names["3"] == 3 and not module.queue
    assert_identical(first, module(X))


def test_what_cannot_be_copied_is_named():
    class Holds(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(6, 6)
            self.fc.numbers = (number for number in range(3))
            self.file = open(__file__)  # noqa: SIM115

        def forward(self, x):
            return x

    module = Holds()
    with pytest.raises(fn.ConversionError) as caught:
        fn.from_module(module)
    module.file.close()
    assert "file: TextIOWrapper" in str(caught.value) and "fc.numbers: generator" in str(caught.value)


def test_scripted_parts_are_named():
    module = nn.Sequential(nn.Linear(6, 6), nn.Sequential(torch.jit.script(nn.Linear(6, 6))))
    with pytest.raises(fn.ConversionError, match=r"a ScriptModule has none\n  1\.0\n"):
        fn.from_module(module)


class Tells(nn.Module):
    """Its numbers are in its repr."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(6, 6)
        self.register_buffer("scale", torch.full((), 2.0))

    def extra_repr(self):
        return f"scale={self.scale.item():.2f}"

    def forward(self, x):
        return self.fc(x) * self.scale


@parametrize(make=[Tells, lambda: nn.Sequential(nn.ReLU(), Tells())])
def test_numbers_in_a_repr_are_shown(make):
    net, params, buffers = fn.from_module(make())
    assert "scale=2.00" in repr(net) and repr(net) == repr(make())
    assert repr(pickle.loads(pickle.dumps(net))) == repr(net)
    assert repr(fn.to_module(net, params, fn.tree.map(lambda leaf: leaf + 1, buffers))).count("scale=3.00") == 1


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
@parametrize(layout=["to_sparse", "to_sparse_csr"])
def test_sparse_buffers_are_buffers(layout):
    class Graph(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(6, 6)
            self.register_buffer("edges", getattr(torch.eye(4), layout)())

        def forward(self, x):
            return self.edges @ self.fc(x)

    module = Graph()
    net, params, buffers = fn.from_module(module)
    assert_identical(net.apply(params, buffers, X)[0], module(X).detach())
    assert_identical(fn.to_module(net, params, buffers)(X).detach(), module(X).detach())
