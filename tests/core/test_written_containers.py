"""What a body does to lists, dicts and objects that the caller gave it: it is refused, named, and undone."""

from __future__ import annotations

import copy
import dataclasses
import random
from collections import OrderedDict, UserDict, defaultdict, deque
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

import funcnet as fn
from tests.helpers import assert_identical

X = torch.linspace(-1, 1, 12).view(4, 3)


@dataclasses.dataclass
class State:
    h: torch.Tensor
    steps: int = 0


class Slots:
    __slots__ = ("h", "other")

    def __init__(self, h):
        self.h = h


class Cache:
    """A cache in the manner of transformers: an object with lists of tensors, updated by a method."""

    def __init__(self):
        self.keys, self.seen = [], 0

    def update(self, key):
        self.keys.append(key)
        self.seen += 1
        return torch.cat(self.keys)


class Record(dict):
    """A dict whose own methods do not do what a dict's do."""

    def __getitem__(self, key):
        return super().__getitem__(key) + 1

    def update(self, *args, **kwargs):
        raise TypeError("no update")

    items = values = None


class Pair(NamedTuple):
    first: torch.Tensor
    second: list


WRITES = {
    "append": (lambda: [X], lambda c: c.append(X), r"input 1 \(1 items became 2\)"),
    "item of a list": (lambda: [X, X], lambda c: c.__setitem__(1, X + 1), r"input 1\[1\] \(another value\)"),
    "reverse": (lambda: [X, X + 1], lambda c: c.reverse(), r"input 1\[0\] \(another value\); input 1\[1\]"),
    "new key": (dict, lambda c: c.update(h=X), r"input 1\['h'\] \(new\)"),
    "another value": (lambda: {"h": X}, lambda c: c.update(h=X + 1), r"input 1\['h'\] \(another value\)"),
    "pop": (lambda: {"h": X}, lambda c: c.pop("h"), r"input 1\['h'\] \(gone\)"),
    "order": (lambda: OrderedDict(a=X, b=X), lambda c: c.move_to_end("a"), r"input 1 \(another order\)"),
    "number": (lambda: {"step": 1}, lambda c: c.update(step=2), r"input 1\['step'\] \(another value\)"),
    "defaultdict": (lambda: defaultdict(list), lambda c: c["k"].append(X), r"input 1\['k'\] \(new\)"),
    "dict subclass": (lambda: Record(h=X), lambda c: c.__setitem__("h", X + 1), r"input 1\['h'\] \(another value\)"),
    "user dict": (lambda: UserDict(h=X), lambda c: c.__setitem__("h", X + 1), r"input 1\.data\['h'\] \(another"),
    "set": (set, lambda c: c.add(3), r"input 1 \(0 items became 1\)"),
    "deque": (lambda: deque([X]), lambda c: c.append(X), r"input 1 \(1 items became 2\)"),
    "nested": (
        lambda: {"layers": [(X, [])]},
        lambda c: c["layers"][0][1].append(X),
        r"input 1\['layers'\]\[0\]\[1\] ",
    ),
    "named tuple": (lambda: Pair(X, []), lambda c: c.second.append(X), r"input 1\[1\] \(0 items became 1\)"),
    "dataclass": (lambda: State(X), lambda c: setattr(c, "h", X + 1), r"input 1\.h \(another value\)"),
    "slots": (lambda: Slots(X), lambda c: setattr(c, "h", X + 1), r"input 1\.h \(another value\)"),
    "new slot": (lambda: Slots(X), lambda c: setattr(c, "other", X), r"input 1\.other \(new\)"),
    "object": (Cache, lambda c: c.update(X), r"input 1\.seen \(another value\); input 1\.keys \(0 items became 1\)"),
    "new attribute": (Cache, lambda c: setattr(c, "h", X), r"input 1\.h \(new\)"),
    "array": (lambda: np.zeros(3), lambda c: c.__setitem__(0, 1.0), r"in place to input 1"),
    "generator": (torch.Generator, lambda c: torch.rand(3, generator=c), r"in place to input 1"),
    "tensor in an object": (lambda: State(X.clone()), lambda c: c.h.add_(1), r"in place to input 1\.h"),
}
BACK = [name for name, (_, _, message) in WRITES.items() if not message.startswith("in place")]


def read(value):
    """What a value holds, in plain containers."""
    if isinstance(value, torch.Tensor):
        return id(value)
    if isinstance(value, (list, tuple, deque)):
        return [read(item) for item in value]
    if isinstance(value, dict):
        return [(key, read(item)) for key, item in dict.items(value)]
    if isinstance(value, Slots):
        return [(name, read(getattr(value, name))) for name in value.__slots__ if hasattr(value, name)]
    return read(vars(value)) if hasattr(value, "__dict__") else value


@pytest.mark.parametrize("what", WRITES)
def test_a_body_that_writes_to_what_it_was_given_is_refused_and_the_write_undone(what):
    make, write, message = WRITES[what]

    @fn.compose(fc=fn.Linear(3, 3))
    def net(p, x, given):
        write(given)
        return p.fc(x)

    params, _ = net.init(0)
    for call in (net, lambda params, x, given: torch.vmap(lambda x: net(params, x, given), randomness="same")(x)):
        given = make()
        before = read(given)
        with pytest.raises(fn.PurityError, match=f"the body of net wrote .*{message}"):
            call(params, X, given)
        assert what not in BACK or read(given) == before
    with pytest.raises(fn.PurityError, match=message.replace("input 1", "input 'given'")):
        net(params, X, given=make())


@pytest.mark.parametrize("what", [name for name in BACK if name not in ("slots", "new slot")])
def test_what_a_body_wrote_before_it_failed_is_undone_too(what):
    make, write, _ = WRITES[what]

    @fn.compose()
    def net(p, x, given):
        write(given)
        raise KeyError("mine")

    given = make()
    before = read(given)
    with pytest.raises(KeyError, match="mine"):
        net({}, X, given)
    assert read(given) == before


def test_parts_methods_and_functions_are_watched_as_the_body_is():
    @fn.compose()
    def part(p, x, cache):
        cache.append(x)
        return x

    class Own(fn.Net):
        def parts(self):
            return {"part": part}

        @staticmethod
        def forward(p, x, cache):
            return p.part(x, cache)

        def encode(self, p, x, cache):
            return p.part(x, cache)

    for net, options in ((Own(), {}), (Own(), {"method": "encode"}), (Own(), {"method": "part"}), (part, {})):
        cache = []
        with pytest.raises(fn.PurityError, match=r"input 1 \(0 items became 1\)"):
            net({}, X, cache, **options)
        assert cache == []


def test_what_only_reads_is_as_quick_to_say_as_to_do():
    class Lazy:
        def __init__(self, x):
            self.x = x

        @cached_property
        def mask(self):
            return self.x > 0

    @fn.compose()
    def net(p, batch, rows, options, function, flag=True):
        local = [*rows, batch.mask]
        local.append(batch.x)
        options = {**options, "more": 1}
        return function(sum(row.sum() for row in local)) + len(options)

    batch, rows, options = Lazy(X), [X, X], {"a": 1}
    for _ in range(2):
        assert torch.isfinite(net({}, batch, rows, options, torch.sin))
    assert (len(rows), options) == (2, {"a": 1})


def test_an_explicit_cache_goes_in_and_comes_out():
    """The decoder of lesson 7 in small: the cache is an input and an output, so each call can be repeated."""

    @fn.compose(qkv=fn.Linear(3, 9))
    def attend(p, x, cache=()):
        q, k, v = p.qkv(x).chunk(3, -1)
        cache = (*cache, (k, v))
        keys, values = (torch.cat(tensors) for tensors in zip(*cache, strict=True))
        return torch.softmax(q @ keys.T, -1) @ values, cache

    params, _ = attend.init(0)
    cache, outputs = (), []
    for token in X:
        before = cache
        y, cache = attend(params, token[None], cache)
        outputs.append(y)
        again, _ = attend(params, token[None], before)
        assert_identical(again, y)
    assert len(cache) == len(X)
    q, k, v = fn.Linear(3, 9)(params["qkv"], X).chunk(3, -1)
    scores = (q @ k.T).masked_fill(torch.ones(4, 4).triu(1).bool(), -torch.inf)
    torch.testing.assert_close(torch.cat(outputs), torch.softmax(scores, -1) @ v)


def remember(x, memory=[]):  # noqa: B006
    memory.append(x)
    return sum(memory)


class Forgetful(nn.Module):
    def forward(self, x, memory={}, *, more=[]):  # noqa: B006
        more.append(x)
        return x * len(more)


def test_a_mutable_default_is_what_the_caller_never_gave():
    @fn.compose()
    def own(p, x, memory=[]):  # noqa: B006
        memory.append(x)
        return x * len(memory)

    nets = {
        "memory": [own, fn.compose()(lambda p, x: remember(x)), fn.Sequential(own), fn.Sequential(remember)],
        "more": [fn.from_module(Forgetful())[0], fn.compose(m=fn.from_module(Forgetful())[0])(lambda p, x: p.m(x))],
    }
    for name, writers in nets.items():
        for net in writers:
            for _ in range(2):
                with pytest.raises(fn.PurityError, match=rf"the default of '{name}' in .* \(0 items became 1\)"):
                    net({}, X)
    harmless = fn.compose()(lambda p, x, scales=[2.0], shape=(1,): x * scales[0])
    assert_identical(harmless({}, X), X * 2)


@pytest.mark.parametrize(
    "what",
    [
        "append",
        "new key",
        "another value",
        "pop",
        "nested",
        "dataclass",
        "object",
        "new attribute",
        "tensor in an object",
    ],
)
def test_compiled_code_refuses_the_same(what):
    make, write, _ = WRITES[what]

    @fn.compose(fc=fn.Linear(3, 3))
    def net(p, x, given):
        write(given)
        return p.fc(x)

    @fn.compose(fc=fn.Linear(3, 3))
    def reader(p, x, given):
        return p.fc(x) + (0 if copy.copy(given) is None else 1)

    params, _ = net.init(0)
    torch.compiler.reset()
    given = make()
    before = read(given)
    with pytest.raises(fn.PurityError, match="input 1"):
        torch.compile(net, backend="eager")(params, X, given)
    assert what not in BACK or read(given) == before
    given = make()
    before = read(given)
    with pytest.raises(Exception, match=r"wrote .*to input 1|PurityError"):
        torch.compile(net, backend="eager", fullgraph=True)(params, X, given)
    assert read(given) == before


def test_compiled_code_that_only_reads_containers_is_one_graph():
    @fn.compose(fc=fn.Linear(3, 3))
    def net(p, state, rows, *, options):
        rows = [*rows, state["h"]]
        return p.fc(sum(rows)) * options["scale"], {**state, "h": rows[0]}

    params, _ = net.init(0)
    torch.compiler.reset()
    inputs, options = ({"h": X}, [X, (X + 1)]), {"scale": 2.0}
    compiled = torch.compile(net, backend="eager", fullgraph=True)
    assert_identical(compiled(params, *inputs, options=options), net(params, *inputs, options=options))


def test_python_generators_given_as_inputs_are_watched():
    draw = fn.compose()(lambda p, x, dice: x * dice.random())
    with pytest.raises(fn.PurityError, match="in place to input 1"):
        draw({}, X, random.Random(0))


def test_a_foreign_forward_has_copies_of_all_it_is_given():
    class Grows(nn.Module):
        def forward(self, x, cache, state):
            cache.append(x)
            state["h"] = x + len(cache)
            return state["h"]

    net, params, _ = fn.from_module(Grows())
    cache, state = [X], {}
    for _ in range(2):
        assert_identical(net(params, X, cache, state), X + 2)
    assert (len(cache), state) == (1, {})
