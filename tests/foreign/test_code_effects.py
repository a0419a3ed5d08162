"""What the code of foreign modules rules out, and that nothing is ruled out which a forward does."""

from __future__ import annotations

import math
import weakref
from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import nn

import funcnet as fn
from funcnet.core.internals import ANY_EFFECT, PossibleEffects
from funcnet.foreign._code_effects import find_possible_effects
from tests.helpers import assert_identical, clone, parametrize

NO_EFFECT = PossibleEffects(False, False, False, False)
X = torch.linspace(-1, 1, 12).view(4, 3)


class Base(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.norm = nn.Linear(3, 3), nn.LayerNorm(3)
        self.scale, self.flag, self.sizes, self.calls = 0.5, True, [1, 2], 0
        self.layers = nn.ModuleList([nn.Linear(3, 3)])
        self.activation = F.gelu
        self.register_buffer("steps", torch.zeros(3))

    def helper(self, x):
        return x * self.scale

    @property
    def doubled(self):
        return 2 * self.scale

    def forward(self, x):
        return self.linear(x)


def affine(x, weight):
    return x @ weight.T


HALF = 0.5
LOG = []


class Computes(Base):
    def forward(self, x):
        rows, columns = x.shape
        x = self.activation(self.norm(self.linear(x))) + self.helper(affine(x, self.linear.weight)) * self.doubled
        for layer in self.layers:
            x = F.relu(layer(x.float())) * HALF
        parts = [self.helper(part) for part in x.chunk(2, -1)]
        if self.training and columns > math.sqrt(rows):
            x = x / torch.arange(1, columns + 1)
        y = F.scaled_dot_product_attention(x[None], x[None], x[None])[0]
        return torch.cat(parts, -1).mean(-1, keepdim=True) + F.softmax(x, -1) + y + super().forward(x)


class Rescales(nn.Linear):
    def forward(self, x):
        return F.linear(x, self.weight.clamp(0), self.bias)


COMPUTING = [Base, Rescales, nn.Identity, nn.Flatten]


@parametrize(cls=COMPUTING)
def test_code_that_only_computes_is_known(cls):
    module = cls(3, 3) if cls is Rescales else cls()
    assert find_possible_effects(module) == NO_EFFECT


def test_code_that_only_computes_with_attention_may_lack_a_second_derivative():
    assert find_possible_effects(Computes()) == PossibleEffects(False, False, False, calls_unruled_kernels=True)


class Counts(Base):
    def forward(self, x):
        self.calls += 1
        return x * self.calls


class KeepsItem(Base):
    def forward(self, x):
        self.sizes[0] = 3
        return x


class Appends(Base):
    def forward(self, x):
        self.sizes.append(1)
        return x * len(self.sizes)


class ReturnsList(Base):
    def forward(self, x):
        return self.sizes


class AppendsToGlobal(Base):
    def forward(self, x):
        LOG.append(x)
        return x


class SetsGlobal(Base):
    def forward(self, x):
        global HALF
        HALF = 0.5
        return x


class CastsItself(Base):
    def forward(self, x):
        self.linear.double()
        return self.linear(x.double())


class CastsInLoop(Base):
    def forward(self, x):
        for layer in self.layers:
            layer.double()
        return x


class SetsByName(Base):
    def forward(self, x):
        self.calls = 1
        return x


class UsesDict(Base):
    def forward(self, x):
        self.__dict__["calls"] = 1
        return x


class ChangesLayers(Base):
    def forward(self, x):
        self.layers.append(nn.Identity())
        return x


class SwitchesMode(Base):
    def forward(self, x):
        self.eval()
        return x


class CallsUnknown(Base):
    def forward(self, x):
        return OrderedDict(x=x)


class Yields(Base):
    def forward(self, x):
        yield x


class WithoutGradient(Base):
    def forward(self, x):
        with torch.no_grad():
            return self.linear(x)


class TrainsInput(Base):
    def forward(self, x):
        return x.requires_grad_()


class HooksInput(Base):
    def forward(self, x):
        x.register_hook(print)
        return x


class DefinesCall(Base):
    def __call__(self, x):
        return x


class DefinesGetattr(Base):
    def __getattr__(self, name):
        return super().__getattr__(name)


class OverridesLayer(nn.Conv2d):
    def _conv_forward(self, *inputs):
        self.calls = 1
        return super()._conv_forward(*inputs)


class Mixin:
    def __len__(self):
        return 1


class HasMixin(Base, Mixin):
    pass


UNKNOWN = [
    *(Counts, KeepsItem, Appends, ReturnsList, AppendsToGlobal, SetsGlobal, CastsItself, CastsInLoop, SetsByName),
    *(UsesDict, ChangesLayers, SwitchesMode, CallsUnknown, Yields, WithoutGradient, TrainsInput, HooksInput),
    *(DefinesCall, DefinesGetattr, HasMixin, nn.MultiheadAttention, nn.LSTM, OverridesLayer),
]
ARGUMENTS = {nn.MultiheadAttention: (4, 2), nn.LSTM: (3, 3), OverridesLayer: (1, 1, 1)}


@parametrize(cls=UNKNOWN)
def test_code_with_anything_else_may_do_anything(cls):
    assert find_possible_effects(cls(*ARGUMENTS.get(cls, ()))) == ANY_EFFECT


def test_hooks_and_methods_of_an_instance_may_do_anything():
    hooked, replaced, compiled = Base(), Base(), Base()
    hooked.linear.register_forward_hook(lambda *_: None)
    replaced.linear.forward = lambda x: x
    compiled.linear.compile()
    parametrized = Base()
    nn.utils.parametrizations.weight_norm(parametrized.linear)
    assert [find_possible_effects(module) for module in (hooked, replaced, compiled, parametrized)] == [ANY_EFFECT] * 4


class AddsInPlace(Base):
    def forward(self, x):
        x += 1
        return x


class CallsInPlace(Base):
    def forward(self, x):
        return x.add_(1)


class PassesInplace(Base):
    def forward(self, x):
        return F.relu(x, inplace=True)


class PassesInplaceByPosition(Base):
    def forward(self, x):
        return F.leaky_relu(self.helper(x) * 0 + F.relu(x, self.flag), 0.1)


class PassesInplaceToImported(Base):
    def forward(self, x):
        return relu(x, True)


class WritesToOut(Base):
    def forward(self, x):
        return torch.add(x, 1, out=x)


class HasInplaceLayer(Base):
    def __init__(self):
        super().__init__()
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        return self.relu(x)


class WritesToBuffer(Base):
    def forward(self, x):
        return x + self.steps.add_(1)


class NormsByFunction(nn.BatchNorm1d):
    def __init__(self):
        super().__init__(3)

    def forward(self, x):
        return F.batch_norm(x, self.running_mean, self.running_var, training=True)


relu = F.relu
WRITING = [
    *(AddsInPlace, CallsInPlace, PassesInplace, PassesInplaceByPosition, PassesInplaceToImported, WritesToOut),
    *(HasInplaceLayer, WritesToBuffer, NormsByFunction),
]


@parametrize(cls=WRITING)
def test_code_that_may_write_in_place_is_known_to(cls):
    effects = find_possible_effects(cls())
    assert effects.writes_in_place
    assert not effects.changes_module


@parametrize(cls=[*WRITING, *(cls for cls in UNKNOWN if issubclass(cls, Base) and cls not in (Yields, HooksInput))])
def test_no_call_changes_what_the_caller_has(cls):
    torch.manual_seed(0)
    net, params, buffers = fn.from_module(cls())
    given = clone((params, buffers, X))
    x = X.clone()
    outputs = [net.apply(params, buffers, x) for _ in range(3)]
    assert_identical(outputs[1], outputs[0])
    assert_identical(outputs[2], outputs[0])
    assert_identical((params, buffers, x), given)


class Draws(Base):
    def forward(self, x):
        return x + torch.rand_like(x)


class Drops(Base):
    def forward(self, x):
        return F.dropout(x, 0.5, self.training)


class DropsInAttention(Base):
    def forward(self, x):
        return F.scaled_dot_product_attention(x, x, x, None, 0.5)


class HasDropout(Base):
    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout(0.5)


@parametrize(cls=[Draws, Drops, DropsInAttention, HasDropout])
def test_code_that_may_draw_is_known_to(cls):
    assert find_possible_effects(cls()).draws


def test_another_method_than_the_forward_is_not_taken_for_it():
    class Coder(Base):
        def encode(self, x):
            self.calls += 1
            x += 1
            return x * self.calls

    net, params, buffers = fn.from_module(Coder())
    assert net.possible_effects() == NO_EFFECT
    x = X.clone()
    for _ in range(3):
        assert_identical(net.apply(params, buffers, x)[0], net.apply(params, buffers, X)[0])
        assert_identical(net.apply(params, buffers, x, method="encode")[0], X + 1)
        assert_identical(x, X)


def test_a_new_buffer_of_a_norm_is_no_tensor_of_the_caller():
    class Normed(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(3)

        def forward(self, x):
            return self.norm(x)

    net, params, buffers = fn.from_module(Normed())
    given = clone(buffers)
    new = net.apply(params, buffers, X, train=True, rng=0)[1]
    assert_identical(buffers, given)
    assert torch.any(new["norm"]["running_mean"] != buffers["norm"]["running_mean"])


@parametrize(train=[False, True])
def test_a_call_of_code_that_only_computes_holds_on_to_no_weights(train):
    net, params, buffers = fn.from_module(Base())
    params = clone(params)
    net.apply(params, buffers, X, train=train, rng=0)
    weight = weakref.ref(params["linear"]["weight"])
    del params
    assert weight() is None
