"""What a call keeps for the next one is told, with its path, its line, and whether it changes the next output."""

from __future__ import annotations

import functools
import itertools
import os
import random
import secrets
import sys
import time
import uuid
from typing import ClassVar

import numpy
import pytest
import torch
from torch import nn

import funcnet as fn
from tests.core.test_written_tensors import ALL as TENSOR_WRITES
from tests.inspect.modules import Calls, X, effects_of, summarize

LOG: list[object] = []
COUNT = 0
TABLES: dict[object, torch.Tensor] = {}


class Recurrent(nn.Module):
    """A cell that remembers its last output."""

    def __init__(self):
        super().__init__()
        self.fc, self.h = nn.Linear(3, 3), None

    def forward(self, x):
        h = torch.tanh(self.fc(x))
        if self.h is not None:
            h = h + self.h
        self.h = h
        return h


class Counts(nn.Module):
    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return x * self.calls


class CountsInClass(nn.Module):
    calls = 0
    seen: ClassVar[list[object]] = []

    def forward(self, x, seen_before=[]):  # noqa: B006
        CountsInClass.calls += 1
        type(self).seen.append(1)
        seen_before.append(1)
        return x * len(seen_before)


def only(found, kind="keeps state"):
    assert {effect.kind for effect in found} == {kind}
    return [(effect.path, effect.code, effect.detail) for effect in found]


# --- attributes ---


def test_a_hidden_state_is_told_with_its_line():
    ((path, code, detail),) = only(fn.effects(nn.Sequential(Recurrent()), X))
    assert (path, code) == ("0", "self.h = h")
    assert detail.startswith(
        "sets self.h from None to a tensor of shape (4, 3) (a second call gives another output, by"
    )


def test_a_counter_is_told():
    ((path, code, detail),) = only(fn.effects(nn.Sequential(nn.Linear(3, 3), Counts()), X))
    assert (path, code) == ("1", "self.calls += 1")
    assert detail.startswith("sets self.calls from 0 to 1 (a second call")


def test_a_state_that_changes_nothing_is_told_without_saying_so():
    def body(m, x):
        m.last = x * 2
        return m.last

    assert only(effects_of(body)) == [("", "m.last = x * 2", "sets self.last to a tensor of shape (4, 3)")]


def test_a_cache_by_shape_is_told():
    def body(m, x):
        key = tuple(x.shape)
        if key not in m.cache:
            m.cache[key] = torch.arange(x.shape[1])
        return x * m.cache[key]

    ((_, code, detail),) = only(effects_of(body, cache={}))
    assert code == "m.cache[key] = torch.arange(x.shape[1])"
    assert detail == "sets self.cache[(4, 3)] to a tensor of shape (3,)"


def test_a_list_of_the_root_that_a_part_fills_is_named_for_both():
    log: dict[str, object] = {}
    child = Calls(lambda m, x: m.log.update(last=x) or x)
    model = Calls(lambda m, x: m.child(x))
    model.log = child.log = log
    model.child = child
    ((path, _, detail),) = only(fn.effects(model, X))
    assert (path, detail) == ("child", "sets log['last'] of the root to a tensor of shape (4, 3)")


def test_parameters_and_submodules_made_in_a_call_are_told():
    def body(m, x):
        if not hasattr(m, "scale"):
            m.scale = nn.Parameter(torch.ones(3))
            m.fc = nn.Identity()
        return m.fc(x * m.scale)

    assert only(effects_of(body)) == [
        ("", "m.scale = nn.Parameter(torch.ones(3))", "makes self.scale, a parameter of shape (3,), in the call"),
        ("", "m.fc = nn.Identity()", "makes self.fc, an Identity, in the call"),
    ]


def test_what_the_second_call_alone_changes_is_told():
    def body(m, x):
        if m.warm:
            m.fitted = 1
        m.warm.append(1)
        return x

    found = only(effects_of(body, warm=[]))
    assert [code for _, code, _ in found] == ["m.fitted = 1", "m.warm.append(1)"]


def test_a_tensor_and_an_array_that_are_written_to_are_told():
    def body(m, x):
        m.sums.add_(1)
        m.array += 1
        return x * m.sums

    found = effects_of(body, sums=torch.zeros(3), array=numpy.zeros(3)).of("keeps state")
    assert [effect.code for effect in found] == ["m.sums.add_(1)", "m.array += 1"]


def test_a_state_that_is_put_back_is_none():
    def body(m, x):
        before, m.flag = m.flag, True
        y = x * 2
        m.flag = before
        return y

    assert not effects_of(body, flag=False)


# --- globals, classes, closures, defaults, caches ---


def test_globals_are_told_and_put_back():
    def body(m, x):
        global COUNT
        COUNT += 1
        LOG.append(x)
        TABLES[COUNT] = x
        return x * len(LOG)

    found = only(effects_of(body))
    assert [(code, detail.partition(" (a second")[0]) for _, code, detail in found] == [
        ("COUNT += 1", "sets the global COUNT from 0 to 1"),
        ("LOG.append(x)", "grows the global LOG from 0 to 1 entries"),
        ("TABLES[COUNT] = x", "sets the global TABLES[1] to a tensor of shape (4, 3)"),
    ]
    assert (LOG, COUNT, TABLES) == ([], 0, {})


def test_globals_that_a_helper_changes_are_told():
    def remember(x):
        LOG.append(x)

    assert [code for _, code, _ in only(effects_of(lambda m, x: remember(x) or x))] == ["LOG.append(x)"]
    assert LOG == []


def test_attributes_of_classes_and_default_arguments_are_told_and_put_back():
    found = only(fn.effects(CountsInClass(), X))
    assert [detail.partition(" (a second")[0] for _, _, detail in found] == [
        "sets CountsInClass.calls from 0 to 1",
        "grows CountsInClass.seen from 0 to 1 entries",
        "grows seen_before (a default of forward) from 0 to 1 entries",
    ]
    assert (CountsInClass.calls, CountsInClass.seen, CountsInClass.forward.__defaults__) == (0, [], ([],))


def test_closures_are_told():
    count, box = 0, [0]

    def body(m, x):
        nonlocal count
        count += 1
        box[0] += 1
        return x

    assert [detail for _, _, detail in only(effects_of(body))] == [
        "sets count (closed over by body) from 0 to 1",
        "sets box (closed over by body)[0] from 0 to 1",
    ]
    assert (count, box) == (0, [0])


@pytest.mark.parametrize("decorator", [functools.cache, functools.lru_cache])
def test_a_cached_function_of_tensors_is_told_also_when_its_cache_is_warm(decorator):
    @decorator
    def table(size):
        return torch.arange(size)

    for _ in range(2):
        found = effects_of(lambda m, x: x * table(x.shape[1])).of("keeps state")
        assert [effect.detail for effect in found] == ["uses the cache of table"]
        table(3)


def test_cached_facts_are_no_state():
    @functools.lru_cache
    def has_kernels(name):
        return name == "here"

    assert not effects_of(lambda m, x: x if has_kernels("there") else x + 1)


# --- inputs ---


def test_containers_of_inputs_are_told_and_left_alone():
    def body(m, x, cache, states):
        cache.append(x)
        states["h"] = x
        return x

    cache, states = [X], {}
    found = only(effects_of(body, X, cache, states), "mutates input")
    assert [(code, detail) for _, code, detail in found] == [
        ("cache.append(x)", "grows input 1 from 1 to 2 entries"),
        ('states["h"] = x', "sets input 2['h'] to a tensor of shape (4, 3)"),
    ]
    assert (len(cache), states) == (1, {})


# --- what cannot be seen, or lies outside ---


def test_an_iterator_is_noticed_by_the_second_output():
    ((path, _, detail),) = only(
        effects_of(lambda m, x: x * next(m.numbers), numbers=itertools.count(1)), "differs if repeated"
    )
    assert path == "" and "a second call gives another output" in detail


def test_generators_of_python_and_numpy_on_a_module_draw():
    def body(m, x):
        return x * m.random.random() * m.numpy.random() * m.legacy.rand()

    legacy = numpy.random.RandomState(0)
    found = effects_of(body, random=random.Random(0), numpy=numpy.random.default_rng(0), legacy=legacy)
    assert summarize(found) == [("draws", "", "return x * m.random.random() * m.numpy.random() * m.legacy.rand()")]
    assert found[0].detail == "advances self.random; advances self.numpy; advances self.legacy"


def test_clocks_files_and_the_environment_are_told(tmp_path):
    path = tmp_path / "count"

    def body(m, x):
        x = x * (time.time() % 1)
        x = x * float(os.environ.get("SCALE", "1"))
        with open(path, "a") as file:
            file.write("x")
        return x

    found = effects_of(body)
    assert [(effect.code, effect.detail) for effect in found.of("reaches outside")] == [
        ("x = x * (time.time() % 1)", "reads a clock (time.time)"),
        ('x = x * float(os.environ.get("SCALE", "1"))', "asks the environment (os.environ)"),
        ('with open(path, "a") as file:', "opens a file (open)"),
        ('file.write("x")', "uses a file (write)"),
    ]
    (again,) = found.of("differs if repeated")
    assert "a call of a fresh copy gives another output" in again.detail


def test_the_hooks_of_python_are_left_as_they_were():
    hooks = sys.gettrace(), sys.getprofile()
    with pytest.raises(RuntimeError):
        effects_of(lambda m, x: x.view(-1, 7))
    fn.effects(Recurrent(), X)
    assert hooks == (sys.gettrace(), sys.getprofile())


def test_a_second_call_that_fails_is_told():
    def body(m, x):
        if m.seen:
            raise ValueError("only once")
        m.seen.append(1)
        return x

    ((_, code, detail),) = only(effects_of(body, seen=[]))
    assert code == "m.seen.append(1)" and "a second call raises ValueError: only once" in detail


# --- stateless calls of stateful modules ---


class Heads(nn.Module):
    """Heads whose weights are stacked and hidden in a plain dict."""

    def __init__(self, kind):
        super().__init__()
        heads = [nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)) for _ in range(4)]
        self.base = heads[0]
        self.stacked = torch.func.stack_module_state(heads)
        if kind == "parts":
            self.heads = nn.ModuleList(heads)

    def forward(self, x):
        params, buffers = torch.func.stack_module_state(self.heads) if hasattr(self, "heads") else self.stacked
        return torch.vmap(lambda p, b: torch.func.functional_call(self.base, (p, b), (x,)))(params, buffers)


def test_stacked_heads_by_functional_call_under_vmap():
    assert not fn.effects(Heads("parts"), X)
    found = fn.effects(Heads("hidden"), X)
    assert {effect.kind for effect in found} == {"reads outside tensor"}
    assert [effect.path for effect in found] == ["base.0", "base.1"]
    assert found[0].detail.startswith("stacked of the root of shape (4, 2, 3), by linear")


def test_numbered_parts_are_one_row_and_the_number_of_the_line_stays():
    model = nn.Sequential(*(nn.Sequential(nn.Linear(3, 3), nn.Dropout()) for _ in range(12)))
    text = str(fn.effects(model, X, train=True))
    assert "*.* (12 times)" in text
    long = fn.inspect.Effects((fn.inspect.Effect("draws", "", "/a" * 150 + "/model.py", 1234, "x", "y"),))
    assert "/model.py:1234" in str(long)


@pytest.mark.parametrize("what", TENSOR_WRITES)
def test_what_is_done_to_an_input_without_an_operator_is_told(what):
    write, is_leaf = TENSOR_WRITES[what]
    net = fn.compose()(lambda p, x: (write(x), x.detach() * 2)[1])
    found = fn.effects(net, {}, torch.ones(3, requires_grad=is_leaf)).of("mutates input")
    assert "input 0" in str([effect.detail for effect in found.found])


def test_a_gradient_that_is_added_to_a_parameter_is_told():
    def forward(module, x):
        (module.weight.sum() * 2).backward()
        return x

    module = type("Backward", (nn.Linear,), {"forward": forward})(2, 2)
    found = fn.effects(module, torch.ones(3, 2)).of("mutates input")
    assert "the parameter weight has another grad" in str([effect.detail for effect in found.found])


@pytest.mark.parametrize(
    ("draw", "detail"),
    [
        (lambda: os.urandom(1)[0], "os.urandom"),
        (lambda: uuid.uuid4().int % 7, "os.urandom"),
        (lambda: secrets.randbelow(7), "os.urandom"),
        (lambda: random.SystemRandom().random(), "os.urandom"),
        (lambda: random.Random().random(), "seeds random.Random from the operating system"),
        (lambda: numpy.random.default_rng().random(), "os.urandom"),
        (lambda: torch.Generator().seed(), "seeds a torch.Generator from the operating system"),
    ],
)
def test_draws_that_nobody_seeds_are_named_with_their_line(draw, detail):
    class Draws(nn.Module):
        def forward(self, x):
            return x + draw() * 0

    [effect] = fn.effects(Draws(), torch.ones(2, 3)).of("draws")
    assert effect.detail == detail
