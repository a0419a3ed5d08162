"""What a forward asks of its inputs and of torch while it is captured must be so again, or a call is refused."""

from __future__ import annotations

import contextlib

import pytest
import torch
from torch import nn

import funcnet as fn

X = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))


class Asks(nn.Module):
    """A module that does something else where it gets another answer."""

    def __init__(self, ask):
        super().__init__()
        torch.manual_seed(0)
        self.fc, self.ask = nn.Linear(6, 6), ask
        self.register_buffer("scale", torch.ones(6))

    def forward(self, x):
        y = self.fc(x)
        return y.float() * (3 if self.ask(self, x, y) else 1)


def autocast():
    return torch.autocast("cpu", dtype=torch.bfloat16)


@contextlib.contextmanager
def default_float64():
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def other_dtype(params, buffers):
    return params, {"scale": buffers["scale"].double()}


# what is asked -> the question, and the circumstances in which the answer is another: a context, an input, or params
QUESTIONS = {
    "x.is_contiguous()": (lambda m, x, y: x.is_contiguous(), X.t().contiguous().t()),
    "x.stride(0) == 6": (lambda m, x, y: x.stride(0) == 6, X.t().contiguous().t()),
    "x.requires_grad": (lambda m, x, y: x.requires_grad, X.clone().requires_grad_()),
    "x.grad_fn is None": (lambda m, x, y: x.grad_fn is None, X.clone().requires_grad_() * 1),
    "x._base is None": (lambda m, x, y: x._base is None, X[:]),
    "torch.is_grad_enabled()": (lambda m, x, y: torch.is_grad_enabled(), torch.no_grad),
    'torch.is_autocast_enabled("cpu")': (lambda m, x, y: torch.is_autocast_enabled("cpu"), autocast),
    "torch.get_default_dtype()": (lambda m, x, y: torch.get_default_dtype() == torch.float64, default_float64),
    'not torch.is_autocast_enabled("cpu")': (lambda m, x, y: y.dtype == torch.bfloat16, autocast),
    'buffers["scale"].dtype == torch.float32': (lambda m, x, y: m.scale.dtype == torch.float64, other_dtype),
    "x.device": (lambda m, x, y: x.device.type == "meta", X.to("meta")),
}


@pytest.mark.parametrize("condition", QUESTIONS)
def test_a_call_in_which_the_answer_is_another_is_refused(condition):
    ask, circumstances = QUESTIONS[condition]
    module = Asks(ask)
    net, params, buffers = fn.trace(module, X)
    assert torch.equal(net.apply(params, buffers, X)[0], module(X))
    assert any(line.startswith("asserted: ") and condition in line for line in net.specialised)
    context, x = contextlib.nullcontext, X
    if isinstance(circumstances, torch.Tensor):
        x = circumstances
    elif circumstances is other_dtype:
        params, buffers = circumstances(params, buffers)
    else:
        context = circumstances
    with context(), pytest.raises(fn.ConversionError, match=r"Asks .*does not hold in this call") as caught:
        net.apply(params, buffers, x)
    assert condition.split(" == ")[0] in str(caught.value) and "test_circumstances.py:" in str(caught.value)


def test_the_source_says_in_its_head_what_it_asserts():
    text = fn.source(Asks(QUESTIONS["x.is_contiguous()"][0]), X)
    assert "    asserted: x.is_contiguous()\n" in text
    assert '    assert x.is_contiguous(), "as captured for test_circumstances.py:' in text
    namespace: dict[str, object] = {}
    exec(text, namespace)
    _, params, buffers = fn.from_module(Asks(QUESTIONS["x.is_contiguous()"][0]))
    with pytest.raises(AssertionError, match="as captured for"):
        namespace["forward"](params, buffers, X.t().contiguous().t())


def test_what_the_forward_set_itself_is_no_condition():
    def ask(m, x, y):
        with torch.no_grad():
            return torch.is_grad_enabled()

    module = Asks(ask)
    net, params, buffers = fn.trace(module, X)
    assert not any(line.startswith("asserted") for line in net.specialised)
    with torch.no_grad():
        assert torch.equal(net.apply(params, buffers, X)[0], module(X))


def test_a_trace_with_conditions_is_transformed_and_compiled():
    net, params, buffers = fn.trace(Asks(lambda m, x, y: x.is_contiguous() and x.device.type == "cpu"), X)

    def run(params, x):
        return net.apply(params, buffers, x)[0]

    expected = run(params, X)
    assert torch.equal(torch.vmap(run, in_dims=(None, 0))(params, X[:, None])[:, 0], expected)
    assert torch.equal(torch.compile(run, backend="eager", fullgraph=True)(params, X), expected)
    torch.vmap(torch.func.grad(lambda p, x: run(p, x).sum()), in_dims=(None, 0))(params, X[:, None])


def test_branches_on_numbers_that_depend_on_no_input_are_followed():
    def ask(m, x, y):
        positions = torch.arange(3).expand(x.shape[0], 3)
        return bool((positions.diff(dim=-1) == 1).all()) and torch.arange(4).sum().item() == 6

    module = Asks(ask)
    net, params, buffers = fn.trace(module, X)
    for size in (4, 2, 1):
        assert torch.equal(net.apply(params, buffers, X[:size])[0], module(X[:size]))


def written(m, x, y):
    t = torch.zeros(3)
    t[0] = 5
    return t.sum() > 2


@pytest.mark.parametrize(
    "ask",
    [
        lambda m, x, y: torch.arange(x.shape[0]).sum() > 2,
        lambda m, x, y: torch.rand(()) > 0.5,
        lambda m, x, y: m.scale.sum() > 2,
        written,
    ],
    ids=["size", "drawn", "buffer", "written"],
)
def test_branches_on_other_numbers_are_refused_by_their_line(ask):
    with pytest.raises(fn.ConversionError, match=r"test_circumstances.py:\d+"):
        fn.trace(Asks(ask), X)


def test_setting_requires_grad_of_what_is_computed_changes_nothing():
    class Sets(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(6, 6)

        def forward(self, x):
            hidden = x[:, None]
            hidden.requires_grad = True
            return self.fc(hidden) * (3 if hidden.requires_grad else 1)

    module = Sets()
    net, params, _ = fn.trace(module, X)
    assert torch.equal(net(params, X), module(X)) and "requires_grad" not in net.source


class AttendsIfAllSeen(nn.Module):
    """As in transformers: a mask of ones is left out, except in compiled code."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.qkv, self.last = nn.Linear(64, 192), nn.Linear(64, 1)

    def forward(self, x, mask):
        q, k, v = self.qkv(x).chunk(3, -1)
        if not torch.compiler.is_compiling() and mask.all():
            return self.last(nn.functional.scaled_dot_product_attention(q, k, v))
        scores = q @ k.transpose(1, 2) / 8
        return self.last(scores.masked_fill(~mask[:, None], -1e9).softmax(-1) @ v)


def test_a_branch_on_numbers_of_an_input_is_asserted_where_compiled_code_would_do_otherwise():
    x, mask = torch.randn(2, 9, 64, generator=torch.Generator().manual_seed(0)), torch.ones(2, 9, dtype=torch.bool)
    module = AttendsIfAllSeen()
    net, params, _ = fn.trace(module, x, mask)
    assert torch.equal(net(params, x, mask), module(x, mask))
    mask[1, 5:] = False
    with pytest.raises(fn.ConversionError, match=r"does not hold in this call: .*test_circumstances.py"):
        net(params, x, mask)


class OpensFile(nn.Module):
    """A module that does what cannot be traced, except in compiled code."""

    def forward(self, x):
        if torch.compiler.is_compiling():
            return x @ x.mT
        with open(__file__):
            return x @ x.mT


def test_the_function_that_cannot_be_traced_is_told_that_it_is_compiled_and_nobody_else():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.part = OpensFile()

        def forward(self, x):
            return self.part(x) + (100 if torch.compiler.is_compiling() else 1)

    module = Both()
    x = X[None]
    net, params, _ = fn.trace(module, x)
    assert torch.equal(net(params, x), module(x))
