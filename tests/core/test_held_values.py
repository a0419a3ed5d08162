"""What bodies hold from outside of their calls: a body that writes to it, or draws from it, is refused by name."""

from __future__ import annotations

import array
import collections
import contextvars
import functools
import io
import itertools
import os
import random
import types
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn

import funcnet as fn
from tests.helpers import assert_identical

X = torch.ones(3)
TOTAL = 0


CONTEXT = contextvars.ContextVar("CONTEXT", default=0)
MODULE = types.ModuleType("a_module_of_users")
MODULE.counts = {}


class Counter:
    calls = 0
    counts: ClassVar[dict] = {}

    class Inner:
        log: ClassVar[list] = []

    def __init__(self):
        self.n = 0

    def __call__(self):
        self.n += 1
        return self.n

    @classmethod
    def count(cls):
        cls.counts["n"] = cls.counts.get("n", 0) + 1
        return cls.counts["n"]


def bump(obj, name="n"):
    setattr(obj, name, getattr(obj, name, 0) + 1)
    return getattr(obj, name)


def add_to_global():
    global TOTAL
    TOTAL += 1
    return TOTAL


def add_to_itself():
    add_to_itself.n = getattr(add_to_itself, "n", 0) + 1
    return add_to_itself.n


def add_to_class():
    Counter.calls += 1
    return Counter.calls


def add_to_dict_of_class():
    Counter.counts["n"] = Counter.counts.get("n", 0) + 1
    return Counter.counts["n"]


def add_to_list_of_class():
    Counter.Inner.log.append(1)
    return len(Counter.Inner.log)


def add_to_class_of_object(counter):
    type(counter).total = getattr(type(counter), "total", 0) + 1
    return counter.total


def add_to_dict_of_itself():
    add_to_dict_of_itself.counts["n"] += 1
    return add_to_dict_of_itself.counts["n"]


add_to_dict_of_itself.counts = {"n": 0}


def add_to_module():
    MODULE.n = getattr(MODULE, "n", 0) + 1
    return MODULE.n


def add_to_variable_of_module():
    MODULE.n += 1
    return MODULE.n


def add_to_dict_of_module():
    MODULE.counts["n"] = MODULE.counts.get("n", 0) + 1
    return MODULE.counts["n"]


def set_in_module():
    setattr(MODULE, "m", getattr(MODULE, "m", 0) + 1)  # noqa: B010
    return MODULE.m


def set_in_globals():
    globals()["NEW"] = globals().get("NEW", 0) + 1
    return globals()["NEW"]


def set_context():
    CONTEXT.set(CONTEXT.get() + 1)
    return CONTEXT.get()


def make_cell():
    count = 0

    def step():
        nonlocal count
        count += 1
        return count

    return step


HELD = {
    "np Generator": (lambda: np.random.default_rng(0), lambda held: held.random()),
    "np MT19937": (lambda: np.random.Generator(np.random.MT19937(0)), lambda held: held.normal()),
    "np RandomState": (lambda: np.random.RandomState(0), lambda held: held.rand()),
    "Random": (lambda: random.Random(0), lambda held: held.random()),
    "torch Generator": (torch.Generator, lambda held: torch.rand(3, generator=held)),
    "array": (lambda: array.array("d", [0.0]), lambda held: (held.append(1.0), len(held))[1]),
    "item of an array": (lambda: array.array("d", [0.0]), lambda held: (held.__setitem__(0, held[0] + 1), held[0])[1]),
    "text": (io.StringIO, lambda held: held.write("a") + held.tell()),
    "bytes": (io.BytesIO, lambda held: held.write(b"a") + held.tell()),
    "deque": (collections.deque, lambda held: (held.append(1), len(held))[1]),
    "set": (set, lambda held: (held.add(len(held)), len(held))[1]),
    "bytearray": (bytearray, lambda held: (held.append(1), len(held))[1]),
    "list": (list, lambda held: (held.append(1), len(held))[1]),
    "dict": (dict, lambda held: (held.update({len(held): 1}), len(held))[1]),
    "counts": (collections.Counter, lambda held: (held.update("a"), held["a"])[1]),
    "iterator": (lambda: iter(range(9)), next),
    "count": (itertools.count, next),
    "generator": (lambda: (number for number in range(9)), next),
    "tensor": (lambda: torch.zeros(3), lambda held: held.add_(1).clone()),
    "numbers of a tensor": (lambda: torch.zeros(3), lambda held: held.data.add_(1).clone()),
    "np array": (lambda: np.zeros(3), lambda held: (held.__iadd__(1), held[0])[1]),
    "object": (Counter, bump),
    "namespace": (types.SimpleNamespace, bump),
    "callable": (Counter, lambda held: held()),
    "weight": (lambda: nn.Linear(1, 1), lambda held: held.weight.data.add_(1).sum().item()),
    "statistics": (lambda: nn.BatchNorm1d(3), lambda held: (held(torch.ones(2, 3)), held.running_mean.sum().item())[1]),
    "attribute of a module": (lambda: nn.Linear(1, 1), bump),
    "nonlocal": (make_cell, lambda held: held()),
    "global": (lambda: add_to_global, lambda held: held()),
    "function": (lambda: add_to_itself, lambda held: held()),
    "class": (lambda: add_to_class, lambda held: held()),
    "dict of a class": (lambda: add_to_dict_of_class, lambda held: held()),
    "list of a class in a class": (lambda: add_to_list_of_class, lambda held: held()),
    "class of an object": (Counter, lambda held: add_to_class_of_object(held)),
    "method of a class": (lambda: Counter, lambda held: held.count()),
    "method of the class of an object": (Counter, lambda held: held.count()),
    "dict of a function": (lambda: add_to_dict_of_itself, lambda held: held()),
    "new variable of a module": (lambda: add_to_module, lambda held: held()),
    "variable of a module": (lambda: (setattr(MODULE, "n", 0), add_to_variable_of_module)[1], lambda held: held()),
    "dict of a module": (lambda: add_to_dict_of_module, lambda held: held()),
    "name in a module": (lambda: set_in_module, lambda held: held()),
    "globals": (lambda: set_in_globals, lambda held: held()),
    "context": (lambda: set_context, lambda held: held()),
}

WRITE = r"wrote (in place )?to .*(outside of|the (global|function|attribute|class|variable|context variable)) "


@pytest.mark.parametrize("what", HELD)
def test_a_body_that_changes_what_it_holds_is_refused(what):
    make, step = HELD[what]
    held = make()
    net = fn.compose()(lambda p, x, writes=True: x * torch.as_tensor(step(held)) if writes else x)
    assert_identical(net({}, X, writes=False), X)
    for _ in range(2):
        with pytest.raises(fn.PurityError, match=WRITE):
            net({}, X)


@pytest.mark.parametrize("what", ["np Generator", "torch Generator", "Random"])
def test_the_error_of_a_draw_tells_what_to_draw_from(what):
    make, step = HELD[what]
    held = make()
    with pytest.raises(fn.PurityError, match=r"'held' outside of .* a draw moved it\. Draw from the rng of the call"):
        fn.compose()(lambda p, x: x * step(held))({}, X)


def test_settings_of_the_process_are_put_back():
    def body(p, x, name):
        if name == "environ":
            os.environ["FUNCNET_TEST"] = os.environ.get("FUNCNET_TEST", "") + "1"
            return x * len(os.environ["FUNCNET_TEST"])
        torch.set_default_dtype(torch.float64)
        torch.set_grad_enabled(False)
        return x * torch.ones(1).element_size()

    net = fn.compose()(body)
    for _ in range(2):
        assert_identical(net({}, X, "environ"), X)
        assert_identical(net({}, X, "dtype").float(), X * 8)
        assert "FUNCNET_TEST" not in os.environ
        assert torch.get_default_dtype() is torch.float32 and torch.is_grad_enabled()


class CountsInClass(fn.Net):
    counts: ClassVar[dict] = {}

    def forward(self, p, x):
        self.counts["n"] = self.counts.get("n", 0) + 1
        return x * self.counts["n"]


def test_a_dict_of_the_class_of_a_net_is_held_too():
    for _ in range(2):
        with pytest.raises(fn.PurityError, match=r"wrote to the attribute CountsInClass\.counts\['n'\] "):
            CountsInClass()({}, X)


def test_fields_of_a_net_are_held_too():
    class Noisy(fn.Net):
        dice: random.Random

        @staticmethod
        def forward(p, x):
            return x * p.dice.random()

    with pytest.raises(fn.PurityError, match="the field 'dice' of Noisy"):
        Noisy(random.Random(0))({}, X)


def test_helpers_are_looked_into():
    counts = collections.Counter()

    def helper(x):
        counts["calls"] += 1
        return x * counts["calls"]

    for body in (lambda p, x: helper(x), lambda p, x, f=helper: f(x), functools.wraps(helper)(lambda p, x: helper(x))):
        with pytest.raises(fn.PurityError, match=r"'counts' outside of .*helper"):
            fn.compose()(body)({}, X)
    with pytest.raises(fn.PurityError, match="'counts'"):
        fn.Sequential(helper)({}, X)


def test_a_log_to_which_a_list_only_appends_is_left_alone():
    log = []
    net = fn.compose()(lambda p, x: (log.append(float(x.sum())), x)[1])
    for _ in range(2):
        net({}, X)
    assert log == [3.0, 3.0]


def test_a_value_that_is_computed_once_is_no_write():
    @functools.cache
    def mask(size):
        return torch.ones(size, size).tril()

    net = fn.compose()(lambda p, x: mask(len(x)) @ x)
    for _ in range(2):
        assert_identical(net({}, X), torch.tensor([1.0, 2.0, 3.0]))


def test_what_a_caller_changes_between_calls_is_the_callers_affair():
    config, scale = {"scale": 1.0}, types.SimpleNamespace(value=1.0)
    net = fn.compose()(lambda p, x: x * config["scale"] * scale.value + len(config))
    assert_identical(net({}, X), X + 1)
    config["scale"], scale.value = 2.0, 3.0
    assert_identical(net({}, X), X * 6 + 1)


def test_what_is_only_read_item_by_item_is_not_watched():
    config, sizes = {"scale": 1.0}, [1, 2]
    read = fn.compose()(lambda p, x: x * config["scale"] + sizes[0])
    used = fn.compose()(lambda p, x: x * config.get("scale") + len(sizes))
    assert read._prepared().shared_values.named == []
    assert {name.partition(" ")[0] for name, _ in used._prepared().shared_values.named} == {"'config'", "'sizes'"}


class KeepsInItself(fn.Net):
    calls = 0
    way: str

    def forward(self, p, x):
        if self.way == "attribute":
            object.__setattr__(self, "n", getattr(self, "n", 0) + 1)
            return x * self.n
        if self.way == "dict":
            self.__dict__["n"] = self.__dict__.get("n", 0) + 1
            return x * self.n
        type(self).calls += 1
        return x * self.calls


@pytest.mark.parametrize(("way", "where"), [("attribute", "net"), ("dict", "net"), ("class", "class")])
def test_a_net_that_keeps_something_in_itself_or_its_class_is_refused(way, where):
    net = KeepsInItself(way)
    for _ in range(2):
        with pytest.raises(fn.PurityError, match=f"wrote to the {where} KeepsInItself"):
            net({}, X)
    assert repr(net) == repr(KeepsInItself(way))


@pytest.mark.parametrize(
    "make", [lambda: zip([1, 2], [3, 4], strict=True), lambda: map(int, "12"), lambda: enumerate("ab")]
)
def test_iterators_over_iterators_are_watched(make):
    net = fn.compose()(lambda p, x, rows: (next(rows), x)[1])
    with pytest.raises(fn.PurityError, match="input 1"):
        net({}, X, make())
