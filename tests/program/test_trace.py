"""trace: any forward as plain code, with the bits of the module, for any batch size, and honest about the rest."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torch import nn

import funcnet as fn
from tests.cases.models import Branches
from tests.helpers import assert_identical, clone, global_generator_untouched, parametrize, params_of
from tests.program.traced_models import MODELS, Deep, Result, X, check, convolutions

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
