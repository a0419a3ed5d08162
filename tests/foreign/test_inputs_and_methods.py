"""What a foreign forward may be called with and may return; and methods other than forward."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

import funcnet as fn
from tests.foreign.helpers import Coder, X
from tests.helpers import assert_identical, global_generator_untouched


def test_packed_sequences_go_in_and_out():
    class Packs(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(6, 5, 2, dropout=0.5, bidirectional=True)

        def forward(self, x):
            return self.lstm(x)[0]

    module = Packs().train()
    packed = pack_padded_sequence(X.view(4, 1, 6).repeat(1, 3, 1), [4, 2, 1])
    net, params, buffers = fn.from_module(module)
    for _ in range(2):
        with global_generator_untouched():
            output, _ = net.apply(params, buffers, packed, train=True, rng=2)
        torch.manual_seed(2)
        assert isinstance(output, PackedSequence)
        assert_identical(output.data, module(packed).data.detach())


def test_another_method_than_forward():
    module = Coder().train()
    net, params, buffers = fn.from_module(module)
    y, new = net.apply(params, buffers, X, method="encode", train=True, rng=5, gain=2.0)
    torch.manual_seed(5)
    assert_identical(y, module.encode(X, gain=2.0).detach())
    assert_identical(new, {"calls": torch.ones(())})
    with pytest.raises(AttributeError, match="Coder has no method 'decode'"):
        net.apply(params, buffers, X, method="decode")
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda x: net.apply(params, buffers, x, method="encode")[0], fullgraph=True, backend="eager"
    )
    assert_identical(compiled(X), net.apply(params, buffers, X, method="encode")[0])
    softmax = fn.AdaptiveLogSoftmaxWithLoss(24, 10, [2, 5])
    params, _ = softmax.init(0)
    x = X.view(1, 24)
    assert_identical(softmax(params, x, method="log_prob"), softmax.log_prob(params, x))


def test_a_method_of_a_net_of_one_s_own():
    class Doubles(fn.Net):
        def parts(self):
            return {"fc": fn.Linear(6, 6)}

        @staticmethod
        def forward(p, x):
            return Doubles.half(p, x) * 2

        @staticmethod
        def half(p, x):
            return p.fc(x) / 2

    net = Doubles()
    params, _ = net.init(0)
    assert_identical(net(params, X, method="half"), net(params, X) / 2)
    assert_identical(net(params, X, method="fc"), fn.Linear(6, 6)(params["fc"], X))
    for name in ("init", "quarter"):
        with pytest.raises(AttributeError, match=f"Doubles has no method '{name}'"):
            net(params, X, method=name)
