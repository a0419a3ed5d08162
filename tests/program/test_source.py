"""source: programs that run by themselves, with the bits of the module, in the author's words."""

from __future__ import annotations

import copy
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import nn

import funcnet as fn
from funcnet.compare._models import PAIRS
from tests.helpers import assert_identical, buffers_of, clone, global_generator_untouched, parametrize, total
from tests.program.models import CASES, Deep, ResNet
from tests.program.traced_models import MODELS

GOLDEN = Path(__file__).parent / "golden_files"
DIGITS = (torch.linspace(-1, 1, 3 * 64).view(3, 1, 8, 8),)
ALL = {
    **{name: (case.make, case.inputs) for name, case in CASES.items()},
    **{name: (pair.module, DIGITS) for name, pair in PAIRS.items()},
}


def build(name):
    make, inputs = ALL[name]
    torch.manual_seed(0)
    return make(), inputs


@cache
def source_of(name, train=False, style="stateless"):
    module, inputs = build(name)
    return fn.source(module, *inputs, train=train, style=style)


def forward_of(text):
    space = {"__name__": "emitted"}
    exec(compile(text, "<emitted>", "exec"), space)
    return space["forward"]


def check(module, text, inputs, train):
    """Outputs, new buffers and gradients of a program are those of the module, and it writes to nothing."""
    forward = forward_of(text)
    _, params, buffers = fn.from_module(module)
    leaves = fn.tree.map(lambda leaf: leaf.detach().requires_grad_(), params)
    given = clone((params, buffers, inputs))
    with global_generator_untouched():
        output, new = forward(leaves, buffers, *inputs, rng=7)
    assert_identical((fn.tree.map(torch.Tensor.detach, leaves), buffers, inputs), given)
    module = copy.deepcopy(module).train(train)
    torch.manual_seed(7)
    expected = module(*clone(inputs))
    assert_identical(output, expected)
    assert_identical(new, buffers_of(module))
    total(output).backward()
    total(expected).backward()
    held = {name: param.grad for name, param in module.named_parameters() if param.grad is not None}
    flat = fn.tree.flatten(leaves)
    assert_identical({name: flat[name].grad for name in held}, held)


# --- the same bits ---


@parametrize(name=ALL, train=[False, True])
def test_a_program_gives_the_bits_of_its_module_for_any_batch(name, train):
    module, inputs = build(name)
    with global_generator_untouched():
        text = source_of(name, train)
    check(module, text, inputs, train)
    check(module, text, tuple(torch.cat([one, one]) for one in inputs), train)


@parametrize(name=[name for name in MODELS if name not in ("everything", "branches")], train=[False, True])
def test_the_models_that_trace_knows(name, train):
    make, inputs = MODELS[name]
    module = make()
    try:
        text = fn.source(module, *inputs, train=train)
    except fn.ConversionError:
        with pytest.raises(fn.ConversionError):
            fn.trace(module, *inputs, train=train)
        return
    check(module, text, tuple(inputs), train)


@parametrize(name=ALL, train=[False, True])
def test_a_class_gives_the_bits_of_its_module_and_loads_its_state(name, train):
    module, inputs = build(name)
    text = source_of(name, style="stateful")
    space = {"__name__": "emitted"}
    exec(compile(text, "<emitted>", "exec"), space)
    made = space[re.findall(r"^class (\w+)", text, re.MULTILINE)[-1]]()
    assert list(made.state_dict()) == list(module.state_dict())
    made.load_state_dict(module.state_dict())
    results = []
    for one in (made.train(train), copy.deepcopy(module).train(train)):
        torch.manual_seed(7)
        output = one(*clone(inputs))
        total(output).backward()
        grads = {key: param.grad for key, param in one.named_parameters() if param.grad is not None}
        results.append((output, buffers_of(one), grads))
    assert_identical(*results)


def test_a_key_draws_as_a_net_draws():
    module, inputs = build("batchnorm")
    net, params, buffers = fn.from_module(module)
    forward, key = forward_of(source_of("batchnorm", True)), fn.random.key(3)
    expected = net.apply(params, buffers, *inputs, train=True, rng=key)
    assert_identical(forward(params, buffers, *inputs, rng=key), expected)
    with pytest.raises(fn.RandomnessError, match=r"rng is None. Pass rng=funcnet.random.key\(0\)"):
        forward(params, buffers, *inputs)


@parametrize(name=PAIRS)
def test_a_native_net_has_the_source_of_its_module(name):
    pair = PAIRS[name]
    params, buffers = pair.net.init(0)
    text = fn.source(pair.net, *DIGITS)
    expected = pair.net.apply(params, buffers, *DIGITS)
    assert_identical(forward_of(text)(params, buffers, *DIGITS), expected)


def test_a_traced_net_and_a_wrapped_one_have_a_source_too():
    module, inputs = build("deep")
    wrapped, params, buffers = fn.from_module(module)
    traced, *_ = fn.trace(module, *inputs)
    expected = wrapped.apply(params, buffers, *inputs)
    for net in (wrapped, traced):
        assert_identical(forward_of(fn.source(net, *inputs))(params, buffers, *inputs), expected)


def test_sizes_stay_free_as_asked():
    encoder, inputs = build("encoder")
    text = fn.source(encoder, *inputs, dynamic={"src": (0, 1)})
    check(encoder, text, (inputs[0][:, :3],), False)


# --- text ---


def ruff(command, text):
    here = Path(__file__).parent  # where funcnet is not the project itself, and is imported like any library
    ruff = [sys.executable, "-m", "ruff", *command, "--isolated", "-"]
    return subprocess.run(ruff, input=text, capture_output=True, text=True, cwd=here)


FORMS = [(False, "stateless"), (True, "stateless"), (False, "stateful")]


@parametrize(name=ALL, form=FORMS)
def test_the_text_is_clean_and_formatted(name, form):
    text = source_of(name, *form)
    assert not ruff(["check", "-q"], text).stdout
    assert ruff(["format", "-q"], text).stdout == text


@parametrize(name=ALL)
def test_the_text_calls_nothing_but_torch(name):
    text = source_of(name)
    assert not re.search(r"nn\.Module|functional_call|funcnet|\bself\b", text)


def test_it_runs_as_a_file_of_its_own(tmp_path):
    (tmp_path / "unet.py").write_text(source_of("unet"))
    code = "import sys, unet; print(unet.forward.__doc__.split()[0], 'funcnet' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["UNet", "False"]


def test_equal_blocks_are_one_function_called_in_a_loop():
    lengths = set()
    for depth in (4, 12):
        text = fn.source(ResNet(depth), CASES["resnet"].inputs[0], train=True)
        lengths.add(len(text.splitlines()))
        assert text.count("def basic_block(") == 1
        assert f"for i in range({depth}):" in text and f"for i in range(1, {depth}):" in text
    assert len(lengths) == 1


def test_values_have_the_names_of_the_author():
    text = fn.source(Deep(), CASES["deep"].inputs[0])
    for line in ("residual = x", "x = residual + x", "logits = F.linear(", "# steps.0 to steps.4: Step"):
        assert line in text, text
    assert "x_2" not in text


class Masked(nn.Module):
    """A causal mask made from positions by functions, read in a part that has a name of its own for it."""

    def __init__(self):
        super().__init__()
        self.parts = nn.ModuleList(Attending() for _ in range(2))
        self.table = nn.Parameter(torch.ones(6))

    def forward(self, hidden):
        causal_mask = self.combined(hidden)
        for part in self.parts:
            hidden = part(hidden, causal_mask)
        even_0 = hidden[..., 0::2]
        odd_1 = hidden[..., 1::2]
        return torch.cat([odd_1, even_0, odd_1 + even_0], -1) + self.table[None, :5, None]

    def combined(self, hidden):
        positions = torch.arange(5, device=hidden.device)
        rows, columns = positions[:, None], positions[None, :]
        result = rows.new_ones((), dtype=torch.bool)
        result = result & (columns <= rows)
        return result.expand(hidden.shape[0], 5, 5)


class Attending(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.norm = nn.LayerNorm(4)

    def forward(self, values, attention_mask):
        scores = self.fc(values) @ values.mT
        scores = scores.masked_fill(~attention_mask, -1e4).softmax(-1)
        return self.norm(values + scores @ values)


@parametrize(train=[False, True])
def test_masks_and_arguments_read_as_the_author_means_them(train):
    module, x = Masked(), torch.linspace(-1, 1, 40).view(2, 5, 4)
    text = fn.source(module, x, train=train)
    check(module, text, (x,), train)
    check(module, text, (torch.cat([x, x, x]),), train)
    for line in (
        "causal_mask = torch.ones(5, 5, dtype=torch.bool).tril().expand(batch, 5, 5)",
        "def attending(params, values, attention_mask):",
        "even_0 = hidden[..., 0::2]",
        'params["table"][None, :5, None]',
    ):
        assert line in text, text


class Overwriting(nn.Module):
    """Its gradients cannot be computed: it writes over what they need."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x):
        x = self.fc(x)
        return x.exp().add_(x)


def test_a_module_whose_gradients_fail_has_a_source():
    module, x = Overwriting(), torch.ones(2, 4)
    output, _ = forward_of(fn.source(module, x))(*fn.from_module(module)[1:], x)
    assert_identical(output, module(x).detach())


def test_what_is_given_twice_is_said():
    attention, x = nn.MultiheadAttention(4, 2, batch_first=True), torch.ones(2, 3, 4)
    assert "key: the tensor given as query" in fn.source(attention, x, x, x)


@parametrize(name=["batchnorm", "modulelist", "deep"], style=["stateless", "stateful"])
def test_golden(name, style):
    text = source_of(name, style == "stateless", style)
    assert text == (GOLDEN / f"{name}_{style}.txt").read_text()


# --- what it refuses ---


class Branch(nn.Module):
    def forward(self, x):
        if x.sum() > 0:
            return x
        return -x


def test_a_branch_on_data_names_the_line():
    with pytest.raises(fn.ConversionError, match=r"test_source.py:\d+ \(`if x.sum\(\) > 0:`\)"):
        fn.source(Branch(), torch.ones(3))


def test_an_unknown_style_is_refused():
    with pytest.raises(ValueError, match='style is "stateless" or "stateful", not "functional"'):
        fn.source(nn.Linear(2, 2), torch.ones(1, 2), style="functional")
