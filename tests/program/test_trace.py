"""trace: any forward as plain code, with the bits of the module, for any batch size."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import warnings
from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import nn

import funcnet as fn
from tests.cases.models import Branches
from tests.helpers import assert_identical, clone, global_generator_untouched, parametrize, params_of
from tests.program.traced_models import MODELS, Deep, Everything, Refused, Result, X, check, convolutions

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
    with pytest.raises(TypeError, match=r"takes .*: missing a required argument: 'type'"):
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


# --- the text ---


def test_the_text_is_one_line_for_each_operation_in_the_names_of_the_author():
    net, *_ = fn.trace(Deep(2), X)
    body = net.source.split('"""\n')[-1]
    assert body == (
        "    # norms.0: LayerNorm\n"
        '    x_2 = F.layer_norm(x, (6,), params["norms"]["0"]["weight"], params["norms"]["0"]["bias"])\n'
        "    # layers.0: Linear\n"
        '    x_2 = F.linear(x_2, params["layers"]["0"]["weight"], params["layers"]["0"]["bias"])\n'
        "    # Deep\n"
        "    x_2 = F.relu(x_2)\n"
        "    x = x + x_2\n"
        "    # norms.1: LayerNorm\n"
        '    x_2 = F.layer_norm(x, (6,), params["norms"]["1"]["weight"], params["norms"]["1"]["bias"])\n'
        "    # layers.1: Linear\n"
        '    x_2 = F.linear(x_2, params["layers"]["1"]["weight"], params["layers"]["1"]["bias"])\n'
        "    # Deep\n"
        "    x_2 = F.relu(x_2)\n"
        "    x = x + x_2\n"
        "    return x\n"
    )


class ReadsData(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))

    def forward(self, x):
        return x * self.weight.data + self.weight + x.data


def test_data_is_written_as_the_author_wrote_it():
    module, x = ReadsData(), torch.ones(3, 2)
    for text in (fn.source(module, x), fn.trace(module, x)[0].source):
        assert text.count(".data") == 2 and "_data_attr(" not in text
    net, params, _ = fn.trace(module, x)
    assert_identical(net(params, x), module(x))
    grads = fn.value_and_grad(lambda params: net(params, x).sum())(params)[1]
    module(x).sum().backward()
    assert_identical(grads["weight"], module.weight.grad)
