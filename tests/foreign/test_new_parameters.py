"""What a module keeps of its calls is copied; params that a forward makes are refused by name."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import funcnet as fn
from tests.foreign.helpers import X
from tests.helpers import assert_identical, clone


class Keeps(nn.Module):
    """Attention maps and hidden states, kept for whoever looks at them."""

    def __init__(self):
        super().__init__()
        self.fc, self.attn, self.log, self.last = nn.Linear(6, 6), None, [], {}

    def forward(self, x):
        before = 0 if self.attn is None else self.attn.sum()
        self.attn = self.fc(x)
        self.log.append(self.attn)
        self.last["y"] = (self.attn * 2, x)
        return self.attn + before


@pytest.mark.parametrize("how", ["call", "vmap", "grad", "jvp", "vmap(grad)", "no_grad"])
def test_a_module_that_keeps_activations_is_converted_with_their_values(how):
    module = Keeps()
    if how in ("call", "no_grad"):
        with torch.set_grad_enabled(how == "call"):
            module(X)
    elif how == "vmap":
        torch.vmap(module)(X)
    elif how == "grad":
        torch.func.grad(lambda x: module(x).sum())(X)
    elif how == "jvp":
        torch.func.jvp(module, (X,), (X,))
    else:
        torch.vmap(torch.func.grad(lambda x: module(x).sum()))(X)
    kept = module.attn
    net, params, buffers = fn.from_module(module)
    for _ in range(2):
        output, _ = net.apply(params, buffers, X)
    attn = F.linear(X, params["fc"]["weight"], params["fc"]["bias"])
    torch.testing.assert_close(output, attn + attn.sum())
    assert module.attn is kept and len(module.log) == 1
    grads = fn.value_and_grad(lambda params: net(params, X).square().sum())(params)[1]
    leaves = {name: leaf.clone().requires_grad_() for name, leaf in params["fc"].items()}
    (F.linear(X, **leaves) + attn.sum()).square().sum().backward()
    torch.testing.assert_close(grads["fc"], {name: leaf.grad for name, leaf in leaves.items()})
    assert fn.to_module(net, params, buffers).attn.grad_fn is None


class LateParameter(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(6, 6)

    def forward(self, x):
        if not hasattr(self, "scale"):
            self.scale = nn.Parameter(torch.ones(x.shape[-1]))
        return self.fc(x) * self.scale


class LateInList(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.scales = nn.Linear(6, 6), nn.ParameterList()

    def forward(self, x):
        if not self.scales:
            self.scales.append(nn.Parameter(torch.ones(6)))
        return self.fc(x) * self.scales[0]


class LateModule(nn.Module):
    def __init__(self):
        super().__init__()
        self.parts, self.late = nn.ModuleDict({"fc": nn.Linear(6, 6)}), None

    def forward(self, x):
        if "out" not in self.parts:
            self.parts["out"] = nn.LayerNorm(6)
        return self.parts["out"](self.parts["fc"](x))


class LateInPart(nn.Module):
    def __init__(self):
        super().__init__()
        self.part = nn.Sequential(LateParameter())

    def forward(self, x):
        return self.part(x)


LATE = [
    (LateParameter, r"LateParameter makes 'scale' in its forward"),
    (LateInList, r"LateInList makes 'scales\.0' in its forward"),
    (LateModule, r"LateModule makes 'parts\.out\.weight', 'parts\.out\.bias' in its forward"),
    (LateInPart, r"LateInPart makes 'part\.0\.scale' in its forward"),
]


@pytest.mark.parametrize(("make", "message"), LATE)
def test_params_that_a_forward_makes_are_refused_until_the_module_has_them(make, message):
    module = make()
    net, params, _ = fn.from_module(module)
    mapped = torch.vmap(net, in_dims=(None, 0))
    compiled = torch.compile(net, backend="eager")
    for call in (net, net, mapped, *([compiled] if make is LateParameter else [])):
        with pytest.raises(fn.PurityError, match=message):
            call(params, X)
    with pytest.raises(fn.PurityError, match=message):
        net.apply(params, {}, X, train=True, rng=0)
    module(X)  # the way out that the message names
    net, params, _ = fn.from_module(module)
    assert_identical(net(params, X), module(X).detach())
    grads = fn.value_and_grad(lambda params: net(params, X).square().sum())(params)[1]
    assert all(leaf.any() for leaf in fn.tree.flatten(grads).values())


def test_a_compiled_call_that_fails_leaves_nothing_to_other_calls():
    """Regression: calls in eval mode share a record, and a failed trace left its place of draws in it."""

    class Sampler(nn.Module):
        def forward(self, x):
            return x + torch.randn_like(x)

    torch.compiler.reset()
    net, params, _ = fn.from_module(LateParameter())
    with pytest.raises(fn.PurityError, match="'scale'"):
        torch.compile(net, backend="eager")(params, X)
    with pytest.raises(fn.RandomnessError, match="Sampler draws random numbers"):
        fn.from_module(Sampler())[0]({}, X)


class Clamps(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(6, 6)

    def forward(self, x):
        self.fc.weight = nn.Parameter(self.fc.weight.clamp(-0.1, 0.1))
        return self.fc(x)


def test_a_param_that_is_replaced_in_a_forward_would_lose_its_gradient_and_is_refused_there():
    module = Clamps()
    net, params, _ = fn.from_module(module)
    given = clone(params)
    expected = F.linear(X, params["fc"]["weight"].clamp(-0.1, 0.1), params["fc"]["bias"])
    for _ in range(2):
        assert_identical(net(params, X), expected)  # without gradients nothing is lost
    message = "Clamps puts another nn.Parameter in the place of 'fc.weight' in its forward"
    for transform in (fn.value_and_grad, torch.func.grad):
        with pytest.raises(fn.PurityError, match=message):
            transform(lambda params: net(params, X).sum())(params)
    with torch.no_grad():
        assert_identical(net(params, X), expected)
    assert_identical(params, given)


def test_what_a_forward_makes_without_params_of_its_own_is_its_own_affair():
    class Makes(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(6, 6)

        def forward(self, x):
            self.act = nn.Softmax(-1)
            self.register_buffer("mask", torch.ones(6))
            self.position = nn.Parameter(torch.arange(6.0), requires_grad=False)
            scale = nn.Parameter(torch.ones(6))  # of nobody, as in the module
            return self.act(self.fc(x) * self.mask * scale + self.position)

    net, params, _ = fn.from_module(Makes())
    for _ in range(2):
        expected = torch.softmax(F.linear(X, *params["fc"].values()) + torch.arange(6.0), -1)
        torch.testing.assert_close(net(params, X), expected)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("layout", [torch.strided, torch.jagged])
def test_nested_tensors_into_attention_are_told_to_be_padded(layout):
    x = torch.nested.nested_tensor([torch.ones(2, 4), torch.ones(3, 4)], layout=layout)
    attention = fn.MultiheadAttention(4, 2, batch_first=True)
    layer = fn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
    told = r"expected query, key and value \(N, L, 4\).* got query a nested tensor of 2 float32.*to_padded_tensor"
    with pytest.raises(fn.ShapeError, match=f"MultiheadAttention: {told}"):
        attention(attention.init(0)[0], x, x, x)
    for net, path in ((layer, "self_attn"), (fn.TransformerEncoder(layer, 1), "layers.0.self_attn")):
        with pytest.raises(fn.ShapeError, match=rf"MultiheadAttention at '{path}': {told}"):
            net(net.init(0)[0], x)
    linear, norm = fn.Linear(4, 4), fn.LayerNorm(4)
    assert fn.Sequential(linear, norm)({"0": linear.init(0)[0], "1": norm.init(0)[0]}, x).is_nested  # which can take it
