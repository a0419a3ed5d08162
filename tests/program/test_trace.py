"""trace: any forward as plain code, with the bits of the module, for any batch size, and honest about the rest."""

from __future__ import annotations

import copy
import dataclasses
import enum
import linecache
import logging
import pickle
import subprocess
import sys
import threading
import traceback
import warnings
from collections import OrderedDict
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import funcnet as fn
from tests.cases.models import MODEL_CASES, Branches, TwoConvs
from tests.helpers import assert_identical, buffers_of, clone, global_generator_untouched, parametrize, params_of, total

X = torch.linspace(-1, 1, 24).view(4, 6)


class Pair(NamedTuple):
    left: Any
    right: Any


@dataclasses.dataclass
class Result:
    out: Tensor
    kept: list[Tensor]
    note: str = "none"


class Side(enum.Enum):
    LEFT = 1
    RIGHT = 2


class Everything(nn.Module):
    """In place on inputs and buffers, attributes, draws of several kinds, ties, hooks, containers, grad modes."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.linspace(0.1, 1, 6))
        self.register_parameter("nothing", None)
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self.register_buffer("table", torch.arange(6.0), persistent=False)
        self.register_buffer("window", torch.zeros(2, 6))
        self.fc = nn.Linear(6, 6)
        self.act = nn.ReLU(inplace=True)
        self.bn = nn.BatchNorm1d(6)
        self.head = nn.Linear(6, 6)
        self.head.weight = self.fc.weight
        self.drop = nn.Dropout(0.2)
        self.calls = 0
        self.fc.register_forward_hook(lambda module, args, output: output + 1)

    def forward(self, x, *, gain=1.0, side=Side.LEFT):
        self.calls += 1
        x += self.calls
        self.seen += x.shape[0]
        self.table = self.table + 1
        x = self.drop(self.act(self.bn(self.fc(x)))) * self.scale
        if self.training:
            x = x + torch.rand(6) + torch.zeros(6).normal_()
        with torch.no_grad():
            self.window[1:] = x.mean(0)
            self.window[0].mul_(2).add_(1)
        x[:, 0] = 0.5
        x = F.dropout(x, 0.2, self.training, inplace=True)
        x = x + self.table if side is Side.LEFT else x - self.table
        return {"out": self.head(x) * gain, "calls": self.calls, "pair": Pair(x, (self.scale, None))}


class Deep(nn.Module):
    def __init__(self, depth: int = 25) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(6, 6) for _ in range(depth)])
        self.norms = nn.ModuleList([nn.LayerNorm(6) for _ in range(depth)])

    def forward(self, x):
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = x + F.relu(layer(norm(x)))
        return x


def convolutions() -> nn.Module:
    blocks = [nn.Sequential(nn.Conv2d(c, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(True)) for c in (1, 4, 4)]
    return nn.Sequential(*blocks, nn.MaxPool2d(2), nn.Flatten(), nn.Dropout(0.2), nn.Linear(16, 3))


def encoder() -> nn.Module:
    return nn.TransformerEncoderLayer(6, 2, 12, dropout=0.1, batch_first=True)


def recurrent() -> nn.Module:
    return nn.LSTM(6, 5, 2, batch_first=True, bidirectional=True)


MODELS = {
    **{case.name: (case.module, case.inputs()) for case in MODEL_CASES if case.name != "empty"},
    "everything": (Everything, [X]),
    "deep": (Deep, [X]),
    "convolutions": (convolutions, [torch.linspace(-1, 1, 64).view(4, 1, 4, 4)]),
    "encoder": (encoder, [torch.linspace(-1, 1, 72).view(4, 3, 6)]),
    "recurrent": (recurrent, [torch.linspace(-1, 1, 72).view(4, 3, 6)]),
}


def check(module, net, params, buffers, xs, train, **kwargs) -> None:
    """Outputs, new buffers and gradients of a trace are those of the module; nothing given is written to."""
    given = clone((params, buffers, xs))
    with global_generator_untouched():
        y, new = net.apply(params, buffers, *xs, train=train, rng=7, **kwargs)
        _, grads = fn.value_and_grad(lambda p: total(net.apply(p, buffers, *xs, train=train, rng=7, **kwargs)[0]))(
            params
        )
    assert_identical((params, buffers, xs), given)
    module = copy.deepcopy(module).train(train)
    torch.manual_seed(7)
    expected = module(*clone(xs), **kwargs)
    assert_identical(y, expected)
    assert_identical(new, buffers_of(module))
    total(expected).backward()
    held = {name: param.grad for name, param in module.named_parameters() if param.grad is not None}
    flat = fn.tree.flatten(grads)
    assert_identical({name: flat[name] for name in held}, held)


# --- the same bits, any batch ---


@parametrize(name=MODELS, train=[False, True])
def test_a_trace_gives_the_bits_of_its_module_for_any_batch(name, train):
    make, xs = MODELS[name]
    module = make()
    state = clone(dict(module.state_dict()))
    with global_generator_untouched():
        net, params, buffers = fn.trace(module, *xs, train=train)
    assert_identical(dict(module.state_dict()), state)
    assert_identical((params, buffers), fn.from_module(module)[1:])
    for size in (4, 7):
        check(module, net, params, buffers, [x.repeat(2, *[1] * (x.dim() - 1))[:size] for x in xs], train)


def test_a_batch_of_one_and_of_none():
    net, params, _ = fn.trace(Deep(2), X)
    module = Deep(2)
    params = params_of(module)
    for size in (1, 0):
        assert_identical(net(params, X[:size]), module(X[:size]).detach())


def test_both_modes_in_one_net():
    module = convolutions()
    x = MODELS["convolutions"][1]
    net, params, buffers = fn.trace(module, *x, train="both")
    for train in (False, True):
        check(module, net, params, buffers, x, train)
    assert net.source.count("def forward(") == 2


def test_what_a_net_of_funcnet_computes_can_be_traced_through_its_module():
    net = fn.Sequential(fn.Linear(6, 6), fn.BatchNorm1d(6), fn.Dropout(0.3), fn.ReLU())
    params, buffers = net.init(0)
    for train in (False, True):
        module = fn.to_module(net, params, buffers)
        traced, *trees = fn.trace(module, X, train=train)
        assert_identical(trees, [params, buffers])
        key = fn.random.key(3)
        for rng in (5, key):
            expected = net.apply(params, buffers, X, train=train, rng=rng)
            assert_identical(traced.apply(params, buffers, X, train=train, rng=rng), expected)


def test_a_composed_net_with_draws_of_its_own_can_be_traced():
    @fn.compose(fc=fn.Linear(6, 6), count=fn.Buffer((), 0, dtype=torch.int64))
    def body(p, x):
        p.count = p.count + 1
        return fn.random.dropout(p.fc(x), 0.4, p.training, rng=p.rng)

    params, buffers = body.init(0)
    module = fn.to_module(body, params, buffers)
    net, *_ = fn.trace(module, X, train=True)
    check(module, net, params, buffers, [X], True)


# --- inputs and outputs of all kinds ---


def test_inputs_and_outputs_keep_their_structure():
    class Structured(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(6, 6)

        def forward(self, batch, *rest, mask=None, flags=("a", 2), **options):
            x = self.fc(batch["x"]) + batch["more"][1]
            x = x if mask is None else x * mask
            first = OrderedDict(sum=x.sum(), max=x.max(dim=1))
            return first, Result(x, [rest[0], options["extra"]], flags[0]), x.shape[0], {"given": batch["x"]}

    module = Structured()
    batch = {"x": X, "more": [None, X + 1]}
    net, params, _ = fn.trace(module, batch, X * 2, mask=X > 0, flags=("b", 3), extra=X.clone())
    for size in (4, 3):
        cut = {"x": X[:size], "more": [None, X[:size] + 1]}
        given = (cut, X[:size] * 2)
        options = {"mask": X[:size] > 0, "flags": ("b", 3), "extra": X[:size].clone()}
        y, expected = net(params, *given, **options), module(*given, **options)
        assert type(y[0]) is OrderedDict and type(y[0]["max"]) is torch.return_types.max
        assert type(y[1]) is Result and y[1].note == "b"
        assert_identical(
            (y[0], y[1].out, y[1].kept, *y[2:]), (expected[0], expected[1].out, expected[1].kept, *expected[2:])
        )
        assert y[3]["given"] is cut["x"]
    for wrong, message in [
        ({"flags": ("c", 3)}, r"flags\[0\]: expected 'b', got 'c'"),
        ({"mask": None}, r"mask: expected bool \(batch, 6\), got None"),
        ({"other": 1}, r"kwargs|options: expected a dict of \['extra'\]"),
    ]:
        with pytest.raises(fn.ShapeError, match=message):
            net(params, batch, X * 2, **{"mask": X > 0, "flags": ("b", 3), "extra": X.clone()} | wrong)


def test_inputs_by_position_and_by_name_are_the_same():
    class Two(nn.Module):
        def forward(self, params, type, rng=None, *, buffers=2.0):
            return params * buffers - type + (0 if rng is None else rng)

    net, params, _ = fn.trace(Two(), X, X + 1, buffers=3.0)
    expected = Two()(X, X + 1, buffers=3.0)
    assert_identical(net(params, X, X + 1, buffers=3.0), expected)
    assert_identical(net(params, X, buffers=3.0, type=X + 1), expected)
    with pytest.raises(fn.ShapeError, match=r"buffers: expected 3\.0, got 2\.0"):
        net(params, X, X + 1)
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'type'"):
        net(params, X)


def test_one_tensor_given_twice_is_not_two():
    attention = nn.MultiheadAttention(6, 2, batch_first=True).eval()
    x, z = X.view(2, 2, 6), X.view(2, 2, 6).flip(0)
    same, params, buffers = fn.trace(attention, x, x, x)
    apart, *_ = fn.trace(attention, x, z, z)
    params = fn.tree.map(torch.Tensor.requires_grad_, params)
    assert_identical(same.apply(params, buffers, z, z, z)[0], attention(z, z, z))
    assert_identical(apart.apply(params, buffers, z, x, x)[0], attention(z, x, x))
    with pytest.raises(fn.ShapeError, match="key: expected the tensor given as query"):
        same.apply(params, buffers, x, z, z)
    with pytest.raises(fn.ShapeError, match="query, key: expected different tensors"):
        apart.apply(params, buffers, x, x, x)


# --- what it is specialised on, and what it refuses ---


def test_it_says_what_it_is_for_and_refuses_the_rest_naming_every_misfit():
    net, params, buffers = fn.trace(Branches(), X, head="b")
    assert net.specialised == (
        "eval mode",
        "head: 'b'",
        "x: float32 (batch, 6)",
        'params["scale"]: float32',
    )
    assert all(line in net.source for line in net.specialised[1:])
    for wrong in (X[:, :5], X.double(), X[0], X[None], None):
        with pytest.raises(fn.ShapeError, match=r"x: expected float32 \(batch, 6\), got"):
            net.apply(params, buffers, wrong, head="b")
    with pytest.raises(fn.ShapeError) as caught:
        net.apply(params, buffers, X[:, :5], head="a")
    assert "head: expected 'b', got 'a'" in str(caught.value) and "got (4, 5) float32" in str(caught.value)
    assert "Trace it again" in str(caught.value) and "from_module" in str(caught.value)
    with pytest.raises(fn.ShapeError, match=r'params\["scale"\]: expected float32, got \(6,\) float64'):
        net.apply(fn.tree.to(params, torch.float64), buffers, X, head="b")


def test_another_mode_is_refused():
    net, params, buffers = fn.trace(Branches(), X)
    with pytest.raises(fn.ConversionError, match=r"traced in eval mode and is called in training mode.*train='both'"):
        net.apply(params, buffers, X, train=True, rng=0)
    with pytest.raises(fn.ConversionError, match="with some parts in training mode only"):
        net.apply(params, buffers, X, train="norm", rng=0)
    with pytest.raises(fn.RandomnessError, match="rng is None"):
        fn.trace(Branches(), X, train=True)[0].apply(params, buffers, X, train=True)


def test_a_branch_on_the_batch_holds_for_every_batch_it_is_called_with():
    class Even(nn.Module):
        def forward(self, x):
            if x.shape[0] == 1:
                return x * 100
            return x.view(2, -1) if x.shape[0] % 2 == 0 else x

    net, params, _ = fn.trace(Even(), X)
    for size in (4, 2, 1):
        assert_identical(net(params, X[:size]), Even()(X[:size]))
    assert net.source.count("def forward(") == 2  # the batch of one has code of its own
    with pytest.raises(fn.ShapeError, match=r"x.shape\[0\] % 2.*test_trace.py.*got 3"):
        net(params, X[:3])


def test_sizes_stay_free_as_asked():
    class Mean(nn.Module):
        def forward(self, x, y):
            return (x.mean(1) + y.sum(1)) / x.shape[1]

    a, b = torch.rand(4, 5, 6), torch.rand(4, 5, 6)
    net, params, _ = fn.trace(Mean(), a, b, dynamic={"x": (0, 1), 1: (0, -2)})
    for rows, columns, other in ((4, 5, 5), (2, 7, 3), (3, 1, 2)):
        given = torch.rand(rows, columns, 6), torch.rand(rows, other, 6)
        assert_identical(net(params, *given), Mean()(*given))
    with pytest.raises(fn.ShapeError, match=r"y: expected float32 \(batch, y.shape\[1\], 6\), got \(3, 5, 6\)"):
        net(params, a, b[:3])
    fixed, *_ = fn.trace(Mean(), a, b, dynamic=())
    with pytest.raises(fn.ShapeError, match=r"x: expected float32 \(4, 5, 6\), got \(3, 5, 6\)"):
        fixed(params, a[:3], b[:3])
    with pytest.raises(ValueError, match=r"dynamic names \['z'\], the tensor inputs are \['x', 'y'\]"):
        fn.trace(Mean(), a, b, dynamic={"z": 0})
    with pytest.raises(ValueError, match=r"x has 3 axes, and no axis \[3\]"):
        fn.trace(Mean(), a, b, dynamic={"x": 3})
    with pytest.raises(ValueError, match="dynamic is"):
        fn.trace(Mean(), a, b, dynamic=True)
    with pytest.raises(ValueError, match="train is True, False"):
        fn.trace(Mean(), a, b, train="eval")


def test_a_batch_that_cannot_stay_free_is_said():
    module = nn.Sequential(nn.Flatten(0), nn.Linear(24, 1))
    with pytest.raises(fn.ConversionError, match=r"axis 0 of input cannot stay free: .* 4, as at .*dynamic=\(\)"):
        fn.trace(module, X)
    net, params, _ = fn.trace(module, X, dynamic=())
    assert_identical(net(params, X), module(X).detach())


# --- what cannot be traced ---


class Refused(nn.Module):
    TABLE = torch.ones(6)

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.fc = nn.Linear(6, 6)
        self.plain = torch.ones(6)

    def forward(self, x):
        if self.how == "branch":
            if x.sum() > 0:
                return x
        elif self.how == "print":
            print("x", end="")
        elif self.how == "attribute":
            return x + self.plain
        elif self.how == "checkpoint":
            return torch.utils.checkpoint.checkpoint(self.fc, x, use_reentrant=False)
        elif self.how == "item":
            return [x] * int(x.argmax())
        elif self.how == "object":
            return Opaque(x)
        return self.fc(x)


class Opaque:
    def __init__(self, x):
        self.x = x


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("branch", r"stopped at .*test_trace.py:\d+ \(`if x.sum\(\) > 0:`\)"),
        ("print", r"stopped at .*test_trace.py:\d+ \(`print\("),
        ("attribute", r"uses plain, neither a parameter nor a buffer.*register_buffer"),
        ("checkpoint", r"cannot write down .*test_trace.py:\d+ \(`return torch.utils.checkpoint"),
        ("item", r"test_trace.py:\d+ \(`return \[x\] \* int"),
        ("object", r"the output is .* of Opaque: trace knows tensors"),
    ],
)
def test_what_cannot_be_traced_is_refused_with_its_line(how, message, capsys):
    module = Refused(how)
    with global_generator_untouched(), pytest.raises(fn.ConversionError, match=message) as caught:
        fn.trace(module, X)
    assert "from_module" in str(caught.value)


class Unusual(nn.Module):
    """Sizes that depend on numbers, chained and viewed in-place changes, contexts, names that mean something else."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("F", torch.ones(6))
        self.register_buffer("ring", torch.zeros(3, 6))
        self.weight = nn.Parameter(torch.linspace(-1, 1, 6))

    def scaled(self, fn):
        torch = self.F * fn
        return self.ring * torch

    def forward(self, x, fn=2):
        if self.how == "sizes":
            return x[x > 0].sum(), x.nonzero(), torch.where(x > 0)[0].shape[0] * fn
        if self.how == "chained":
            a = self.count.add_(1)
            b = (x * self.count).add_(a).mul_(2)
            self.count *= 3
            return a + 0, b, self.count.sub_(1)
        if self.how == "viewed":
            view = self.ring[1]
            view += x.mean(0)
            self.ring[0].copy_(x[0])
            self.ring = self.ring.roll(1, 0)
            return self.scaled(fn), view
        if self.how == "contexts":
            with torch.no_grad():
                running_mean = x.mean(0)
                with torch.enable_grad():
                    y = x * self.weight
                with torch.inference_mode(False), torch.autocast("cpu", dtype=BF16):
                    y = F.linear(y, self.weight[None])
            return F.instance_norm(x[None].mT.float(), running_mean, running_mean.abs() + 1), y * self.weight
        lambda_, is_, class_ = x + 1, x - 1, -2 * x
        input, list, print = lambda_ * is_, class_**2, -x
        return [input, list, print, -1 - x, (-x).abs(), x @ x.T @ x, ~(x > 0), x[:, None, ..., ::2], x[-1:, [0, -1]]]


BF16 = torch.bfloat16


@parametrize(how=["sizes", "chained", "viewed", "contexts", "names"], train=[False, True])
def test_unusual_code_is_written_down_exactly(how, train):
    module = Unusual(how)
    net, params, buffers = fn.trace(module, X, train=train)
    for x in (X, X[:3] * 2):
        given = clone((params, buffers, x))
        y, new = net.apply(params, buffers, x, train=train)
        assert_identical((params, buffers, x), given)
        again = copy.deepcopy(module).train(train)
        assert_identical(y, again(x))
        assert_identical(new, buffers_of(again))
    compile(net.source, "source", "exec")


def test_what_is_no_input_of_a_trace_is_refused():
    with pytest.raises(fn.ConversionError, match=r"input x is <.*object.*neither a tensor nor a constant"):
        fn.trace(Refused("none"), object())
    with pytest.raises(fn.ConversionError, match="trace takes plain tensors"):
        fn.trace(Refused("none"), X.to_sparse())
    with pytest.raises(TypeError, match=r"takes 2 positional arguments but 3 were given|too many positional"):
        fn.trace(Refused("none"), X, X)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):  # the module's own error, as it is
        fn.trace(Refused("none"), X[:, :5])
    with pytest.raises(fn.ConversionError, match=r"takes an nn.Module"):
        fn.trace(F.relu, X)


def test_code_that_asks_whether_it_is_compiled_does_what_it_does_outside():
    class Asks(nn.Module):
        def forward(self, x):
            return x + 1 if torch.compiler.is_compiling() else x - 1

    net, params, _ = fn.trace(Asks(), X)
    assert_identical(net(params, X), X - 1)


def test_code_that_does_otherwise_than_the_module_is_refused():
    class Grads(nn.Module):
        def forward(self, x):
            return x + 1 if isinstance(x, torch.fx.Proxy) or torch.nn.modules.activation._is_make_fx_tracing() else x

    with pytest.raises(fn.ConversionError, match=r"does not do what the module does:\n  \['output'\]: 24 of 24"):
        fn.trace(Grads(), X)


# --- a value like any net, and under every transform ---


def test_a_trace_is_a_value():
    module = Branches()
    net, params, buffers = fn.trace(module, X, train="both")
    again, *_ = fn.trace(module, X, train="both")
    other, *_ = fn.trace(module, X)
    assert net == again and hash(net) == hash(again) and net != other
    loaded = pickle.loads(pickle.dumps(net))
    assert loaded == net and loaded.source == net.source
    assert_identical(
        loaded.apply(params, buffers, X, train=True, rng=1), net.apply(params, buffers, X, train=True, rng=1)
    )
    assert copy.deepcopy(net) is net
    assert repr(net) == repr(module)
    assert [path for path, _ in net.named_nets()] == [path for path, _ in module.named_modules()]


@pytest.mark.parametrize("make", [Branches, TwoConvs, Everything, convolutions], ids=lambda make: make.__name__)
def test_back_to_a_module_of_the_same_class(make):
    module = make()
    x = {TwoConvs: torch.ones(2, 1, 8, 8), convolutions: torch.ones(2, 1, 4, 4)}.get(make, X)
    net, params, buffers = fn.trace(module, x)
    back = fn.to_module(net, params, buffers)
    assert type(back) is type(module) and repr(back) == repr(module)
    assert list(back.state_dict()) == list(module.state_dict())
    assert_identical(dict(back.state_dict()), dict(module.state_dict()))
    assert_identical(fn.to_state_dict(net, params, buffers), dict(module.state_dict()))
    assert_identical(fn.from_state_dict(net, module.state_dict()), (params, buffers))
    assert_identical(back.eval()(x.clone()), module.eval()(x.clone()))


def test_ties_are_one_entry():
    module = Everything()
    net, params, buffers = fn.trace(module, X)
    assert net.aliases == {"head.weight": "fc.weight"} == fn.from_module(module)[0].aliases
    assert "weight" not in params["head"]
    doubled = fn.tree.map(lambda leaf: leaf * 2, params)
    with torch.no_grad():
        for param in module.parameters():
            param.mul_(2)
    assert_identical(net.apply(doubled, buffers, X)[0], module.eval()(X.clone()))


def test_source_runs_by_itself():
    module = convolutions().eval()
    (x,) = MODELS["convolutions"][1]
    net, params, buffers = fn.trace(module, x)
    space: dict[str, Any] = {}
    exec(net.source, space)
    assert_identical(space["forward"](params, buffers, x), module(x).detach())
    assert 'F.conv2d(input, params["0"]["0"]["weight"], params["0"]["0"]["bias"]' in net.source
    assert "# 0.0: Conv2d" in net.source


def test_source_of_training_returns_new_buffers_and_writes_to_none():
    module = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6))
    net, params, buffers = fn.trace(module, X, train=True)
    space: dict[str, Any] = {}
    exec(net.source, space)
    given = clone(buffers)
    y, new = space["forward"](params, buffers, X)
    assert_identical(buffers, given)
    assert_identical((y, new), net.apply(params, buffers, X, train=True))


def test_errors_in_captured_code_show_its_line():
    class Divides(nn.Module):
        def forward(self, x, index):
            return x[index]

    net, params, _ = fn.trace(Divides(), X, torch.tensor([0, 1]))
    with pytest.raises(fn.ShapeError, match="Index 9 is out of bounds") as caught:
        net(params, X, torch.tensor([0, 9]))
    *_, frame = traceback.extract_tb(caught.value.__cause__.__traceback__)
    assert "x[index]" in linecache.getline(frame.filename, frame.lineno)


@pytest.mark.parametrize("name", ["branches", "convolutions", "deep", "encoder"])
def test_per_sample_gradients_equal_a_loop(name):
    make, (x,) = MODELS[name]
    net, params, buffers = fn.trace(make(), x, train="both")
    xs = torch.stack([x, x.flip(0), x * 2])
    keys = fn.random.split(fn.random.key(0), 3)

    for train in (False, True):

        def loss(params, x, key, train=train):
            y, new = net.apply(params, buffers, x, train=train, rng=key)
            return total(y), new

        grads, new = torch.vmap(torch.func.grad(loss, has_aux=True), in_dims=(None, 0, 0))(params, xs, keys)
        for index in range(3):
            one = torch.func.grad(loss, has_aux=True)(params, xs[index], keys[index])
            mine = fn.tree.map(lambda leaf, index=index: leaf[index], grads)
            torch.testing.assert_close(mine, one[0], atol=1e-4, rtol=1e-3)
            if train:  # an average of each sample of its own, where it was one for all
                mine = fn.tree.map(lambda leaf, index=index: leaf[index], new)
                torch.testing.assert_close(mine, one[1])


def test_ensembles_and_forward_mode():
    module = convolutions()
    (x,) = MODELS["convolutions"][1]
    net, params, buffers = fn.trace(module, x, train="both")
    stacked = fn.tree.map(lambda leaf: torch.stack([leaf, leaf * 2]), params)
    keys = fn.random.split(fn.random.key(0), 2)
    for train in (False, True):

        def call(params, key, train=train):
            return net.apply(params, buffers, x, train=train, rng=key)[0]

        mapped = torch.vmap(call)(stacked, keys)
        for index in range(2):
            one = call(fn.tree.map(lambda leaf, index=index: leaf[index], stacked), keys[index])
            torch.testing.assert_close(mapped[index], one)
        y, tangent = torch.func.jvp(lambda p: call(p, keys[0]), (params,), (params,))
        grad = torch.func.grad(lambda p: call(p, keys[0]).sum())(params)
        inner = sum((fn.tree.flatten(params)[path] * leaf).sum() for path, leaf in fn.tree.flatten(grad).items())
        torch.testing.assert_close(tangent.sum(), inner, rtol=1e-3, atol=1e-3)
        assert_identical(y, call(params, keys[0]))


def test_a_trace_draws_what_the_net_draws_from_the_same_key():
    module = nn.Sequential(nn.Linear(6, 6), nn.Dropout(0.4), nn.Sequential(nn.Dropout(0.4), nn.ReLU()))
    traced, params, buffers = fn.trace(module, X, train=True)
    net, *_ = fn.from_module(module)
    for rng in (fn.random.key(1), 2):
        expected = net.apply(params, buffers, X, train=True, rng=rng)
        assert_identical(traced.apply(params, buffers, X, train=True, rng=rng), expected)


@pytest.mark.parametrize("train", [False, True])
def test_a_trace_is_compiled_in_one_graph(train):
    net, params, buffers = fn.trace(convolutions(), *MODELS["convolutions"][1], train=train)
    (x,) = MODELS["convolutions"][1]
    key = fn.random.key(0)
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda p, b, x: net.apply(p, b, x, train=train, rng=key), fullgraph=True, backend="aot_eager"
    )
    assert_identical(compiled(params, buffers, x), net.apply(params, buffers, x, train=train, rng=key))


def test_a_trace_as_a_part():
    inner = Branches()
    traced, params, buffers = fn.trace(inner, X, train="both")
    outer = fn.Sequential(fn.Linear(6, 6), traced)
    own, _ = fn.Linear(6, 6).init(0)
    trees = {"0": own, "1": params}, {"1": buffers}
    for train in (False, True):
        y, new = outer.apply(*trees, X, train=train, rng=3)
        hidden = fn.Linear(6, 6)(own, X)
        expected, inner_new = traced.apply(params, buffers, hidden, train=train, rng=3)
        assert_identical(y, expected)
        assert_identical(new, {"1": inner_new})
    with pytest.raises(fn.ConversionError, match=r"Branches is traced: its code is one piece"):
        outer.replaced({"1.norm": fn.Identity()})


# --- nothing is left behind ---


def test_tracing_leaves_no_trace():
    module = Everything()
    before = clone(
        {key: value for key, value in module.__dict__.items() if key not in ("_parameters", "_buffers", "_modules")}
    )
    config = torch._dynamo.config.get_config_copy()
    counting, refused = CountsCompiles(), Refused("branch")
    compiled = torch.compile(lambda x: x * 2 + 1, backend=counting)
    compiled(X)
    logged: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: logged.append(record.getMessage())
    logging.getLogger("torch").addHandler(handler)
    try:
        with warnings.catch_warnings(), global_generator_untouched():
            warnings.simplefilter("error")
            for _ in range(12):  # more often than torch compiles one piece of code
                fn.trace(module, X)
            with pytest.raises(fn.ConversionError):
                fn.trace(refused, X)
    finally:
        logging.getLogger("torch").removeHandler(handler)
    compiled(X)
    assert counting.count == 1
    assert not logged
    assert torch._dynamo.config.get_config_copy() == config
    assert module.calls == 0 and not module.fc.weight.grad
    after = {key: value for key, value in module.__dict__.items() if key in before}
    assert_identical(
        {k: v for k, v in after.items() if isinstance(v, (int, bool))},
        {k: v for k, v in before.items() if isinstance(v, (int, bool))},
    )


class CountsCompiles:
    def __init__(self) -> None:
        self.count = 0

    def __call__(self, graph, inputs):
        self.count += 1
        return graph.forward


def test_threads_trace_and_call_side_by_side():
    module = Branches()
    net, params, buffers = fn.trace(module, X, train="both")
    expected = net.apply(params, buffers, X, train=True, rng=5)
    failures: list[Any] = []

    def work(index: int) -> None:
        try:
            if index % 2:
                assert fn.trace(module, X, train="both")[0] == net
            for _ in range(20):
                assert_identical(net.apply(params, buffers, X, train=True, rng=5), expected)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_importing_funcnet_does_not_import_the_tracer():
    code = "import sys, funcnet; funcnet.trace; print('torch._dynamo' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
