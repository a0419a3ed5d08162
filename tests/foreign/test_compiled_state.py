"""Foreign forwards that keep something between calls keep nothing in compiled code."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

import funcnet as fn
from tests.helpers import assert_identical

X = torch.linspace(-1, 1, 20).view(5, 4)


class Counter:
    def __init__(self):
        self.count = 0


class Keeps(nn.Module):
    """Computes with something that it keeps, which is made in ``kept``."""

    kept = None

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        if self.kept is not None:
            self.held = type(self).kept()


class CachesWeight(Keeps):
    kept = dict

    def forward(self, x):
        if "weight" not in self.held:
            self.held["weight"] = self.linear.weight * 2
        return x @ self.held["weight"]


class CachesInAttribute(Keeps):
    def __init__(self):
        super().__init__()
        self.held = None

    def forward(self, x):
        if self.held is None:
            self.held = self.linear.weight * 2
        return x @ self.held


class MakesAttribute(Keeps):
    def forward(self, x):
        if not hasattr(self, "held"):
            self.held = self.linear.weight * 2
        return x @ self.held


class HasDefaultInClass(Keeps):
    held = None

    def forward(self, x):
        if self.held is None:
            self.held = self.linear.weight * 2
        return x @ self.held


class Counts(Keeps):
    kept = int

    def forward(self, x):
        self.held += 1
        return self.linear(x) * self.held


class CountsByName(Keeps):
    kept = int

    def forward(self, x):
        self.held = getattr(self, "held") + 1
        return self.linear(x) * self.held


class CountsInObject(Keeps):
    kept = Counter

    def forward(self, x):
        self.held.count += 1
        return self.linear(x) * self.held.count


class CounterOfClass:
    count = 0


class CountsFromDefault(CountsInObject):
    kept = CounterOfClass


class CountsInPart(Keeps):
    kept = Counts

    def forward(self, x):
        return self.held(x) * self.held.held


class CountsInDict(Keeps):
    kept = dict

    def forward(self, x):
        self.held["count"] = self.held.get("count", 0) + 1
        return self.linear(x) * self.held["count"]


class AddsToList(Keeps):
    kept = list

    def forward(self, x):
        self.held.append(1)
        return self.linear(x) * len(self.held)


class AddsToSet(Keeps):
    kept = set

    def forward(self, x):
        self.held.add(len(self.held))
        return self.linear(x) * len(self.held)


class DoublesTensor(Keeps):
    def __init__(self):
        super().__init__()
        self.held = torch.ones(4)

    def forward(self, x):
        self.held = self.held * 2
        return self.linear(x) * self.held


class DoublesInPlace(DoublesTensor):
    def forward(self, x):
        self.held.mul_(2)
        return self.linear(x) * self.held


class DoublesInList(Keeps):
    def __init__(self):
        super().__init__()
        self.held = [torch.ones(4), {"nested": torch.ones(4)}]

    def forward(self, x):
        self.held[0].mul_(2)
        self.held[1]["nested"].mul_(3)
        return self.linear(x) * self.held[0] * self.held[1]["nested"]


KEEPING = [
    *(
        CachesWeight,
        CachesInAttribute,
        MakesAttribute,
        HasDefaultInClass,
        Counts,
        CountsByName,
        CountsInObject,
        CountsInPart,
    ),
    *(CountsInDict, AddsToList, AddsToSet, DoublesTensor, DoublesInPlace, DoublesInList),
]


@pytest.mark.parametrize("cls", KEEPING)
def test_what_a_compiled_forward_keeps_does_not_reach_the_next_call(cls):
    torch.compiler.reset()
    graphs = []
    net, params, buffers = fn.from_module(cls())
    compiled = torch.compile(net, fullgraph=True, backend=lambda graph, _: graphs.append(graph) or graph.forward)
    for factor in (1.0, 1.0, 2.0):
        scaled = fn.tree.map(lambda tensor, factor=factor: tensor * factor, params)
        assert_identical(compiled(scaled, X).detach(), net.apply(scaled, buffers, X)[0].detach())
    assert len(graphs) == 1


class CountsInClosure(Keeps):
    def __init__(self):
        super().__init__()
        count = 0

        def add_one():
            nonlocal count
            count += 1
            return count

        self.held = SimpleNamespace(add_one=add_one)

    def forward(self, x):
        return self.linear(x) * self.held.add_one()


def test_a_variable_outside_of_a_function_is_named():
    torch.compiler.reset()
    net, params, _ = fn.from_module(CountsInClosure())
    with pytest.raises(Exception, match=r"'count' in CountsInClosure\.__init__\.<locals>\.add_one"):
        torch.compile(net, fullgraph=True, backend="eager")(params, X)
