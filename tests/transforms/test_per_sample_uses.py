"""Where weights meet examples: tied, over time, by views, hidden, and in nets and modules of all kinds."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import funcnet as fn
from tests.transforms.test_per_sample import assert_close, check_against_vmap

TOKENS = torch.tensor([[0, 3, 3, 1], [5, 5, 5, 5], [2, 0, 1, 6]])


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def check(loss, params, *batch):
    """The rules that were used, once every statistic was compared with vmap(grad)."""
    return check_against_vmap(loss, (None, *(0,) * len(batch)), params, *batch)


def test_a_table_tied_to_the_logits():
    def loss(params, tokens):
        x = torch.tanh(F.embedding(tokens, params["table"], padding_idx=0))
        return F.cross_entropy(F.linear(x, params["table"]), tokens)

    for sizes in ((7, 2), (70, 30)):  # stacked gradients are smaller for one, inner products of factors for the other
        assert check(loss, {"table": normal(*sizes)}, TOKENS) == {"table": "embedding, linear"}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"reduction": "sum", "label_smoothing": 0.1},
        {"ignore_index": 3, "label_smoothing": 0.2},
        {"reduction": "none"},
        {"weight": torch.linspace(0.5, 2, 7, dtype=torch.float64)},
    ],
    ids=str,
)
def test_cross_entropy_of_each_example(options):
    def loss(params, x, tokens):
        logits = F.linear(x, params["w"])
        spatial = F.cross_entropy(logits.t()[None, ..., None], tokens[None, :, None], **options)
        single = F.cross_entropy(logits[0], tokens[0] if options.get("ignore_index") != 3 else tokens[0] * 0, **options)
        probabilities = F.cross_entropy(logits, (tokens[:, None] == torch.arange(7)).to(x.dtype))
        return F.cross_entropy(logits, tokens, **options).sum() + spatial.sum() + single.sum() + probabilities

    check(loss, {"w": normal(7, 2)}, normal(3, 4, 2), TOKENS)


def test_a_weight_used_over_time():
    def loss(params, xs):
        state = torch.zeros(3, dtype=xs.dtype)
        for x in xs:
            state = torch.tanh(F.linear(x, params["inner"], params["bias"]) + F.linear(state, params["outer"]))
        return state.sum()

    params = {"inner": normal(3, 2), "outer": normal(3, 3), "bias": normal(3)}
    assert set(check(loss, params, normal(4, 6, 2)).values()) == {"linear"}


def test_views_of_a_weight():
    def loss(params, x):
        q, k, v = params["qkv"].chunk(3)
        y = F.linear(x, q) * (x @ k.t()) + torch.mm(x, params["stack"][1])
        y = y + F.linear(x, params["stack"][0]) + F.linear(x, v.reshape(2, 8)[:, :4].repeat(2, 1))
        overlapping = F.linear(x, params["qkv"][2:6]) + F.linear(x, params["qkv"])[..., :4]
        return (y * overlapping + F.linear(x, params["wide"][:, 1:5])).square().sum()

    params = {"qkv": normal(12, 4), "stack": normal(2, 4, 4), "wide": normal(4, 6)}
    check(loss, params, normal(3, 5, 4))


def test_weights_that_are_no_rows_in_memory():
    def loss(params, x):
        y = F.conv2d(x, params["conv"], padding=1)
        projected = params["w"].t()[:3].t() @ torch.ones(3, 4, dtype=x.dtype)
        return F.linear(y, projected).sum() + F.linear(y, params["w"].t()[:, :4]).square().sum()

    params = {"w": normal(4, 4).t(), "conv": normal(2, 3, 3, 3).to(memory_format=torch.channels_last)}
    check(loss, params, normal(2, 3, 4, 4))


@pytest.mark.parametrize(
    "product",
    [
        lambda w, x: w @ x,
        lambda w, x: x.t() @ w.t(),
        lambda w, x: torch.matmul(w, x[:, 0]),
        lambda w, x: x[:, 0] @ w.t(),
        lambda w, x: torch.addmm(w[0, :3], x.t(), w[:, :4].t()[:, :3]),
        lambda w, x: torch.einsum("oi,it->ot", w, x),
        lambda w, x: (w.unsqueeze(0) @ x.unsqueeze(0)).sum(0),
        lambda w, x: torch.addmm(w[:, :2], w, x, beta=0.5)[:, :2],
    ],
)
def test_products_in_any_form(product):
    def loss(params, x):
        return torch.sin(product(params["w"], x)).sum()

    check(loss, {"w": normal(4, 4)}, normal(3, 4, 2))


def test_uses_inside_of_other_transforms_and_functions():
    class Scale(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(x, w):
            return x * w

        @staticmethod
        def setup_context(ctx, inputs, output):
            ctx.save_for_backward(*inputs)

        @staticmethod
        def backward(ctx, grad):
            x, w = ctx.saved_tensors
            return grad * w, grad * x

    def loss(params, x):
        y = F.linear(Scale.apply(x, params["hidden"]), params["weight"])
        slope = torch.func.grad(lambda x: F.linear(x, params["inner"]).square().sum())(x)
        return (y.square().sum() + slope.square().sum()) + F.linear(x, params["inner"]).sum()

    params = {"hidden": normal(4), "weight": normal(3, 4), "inner": normal(2, 4)}
    expected = {"hidden": "copies for custom_function_call", "weight": "linear", "inner": "vmap(grad)"}
    assert check(loss, params, normal(3, 4)) == expected


def test_functions_of_params_alone():
    def loss(params, x):
        weight = params["g"][:, None] * F.normalize(params["v"]) + params["b"] @ params["a"]
        return F.linear(x, weight).square().sum() + 0.1 * params["v"].square().sum()

    params = {"g": normal(3), "v": normal(3, 4), "a": normal(2, 4), "b": normal(3, 2)}
    assert not any("vmap" in rule for rule in check(loss, params, normal(5, 4)).values())


def test_outputs_are_written_over():
    def loss(params, x):
        y = F.conv2d(x, params["conv"]).mul_(2)
        y = F.relu_(F.group_norm(y[None], 1, params["scale"])[0].add_(1))
        y = F.relu_(F.linear(y, params["linear"], params["bias"]))
        return F.linear(y, params["linear"][:, :3]).sum()

    params = {"conv": normal(3, 2, 2, 2), "scale": normal(3), "linear": normal(3, 4), "bias": normal(3)}
    check(loss, params, normal(3, 2, 5, 5))


def test_an_input_that_is_written_over_is_refused():
    def loss(params, x):
        x = x * 1
        y = F.linear(x, params["w"])
        return (y * x.add_(1)).sum()

    with pytest.raises(RuntimeError, match=r"input of shape \(2, 3\) of a layer was written to"):
        fn.per_sample_norms(loss)({"w": normal(3, 3)}, normal(2, 3))


def test_frozen_absent_and_integer_leaves():
    net = fn.Sequential(fn.Linear(4, 3), fn.Tanh(), fn.Linear(3, 2))
    params, _ = net.init(0, dtype=torch.float64)
    trainable, frozen = fn.tree.partition(params, ["0.bias", "2.weight"])
    trainable = {**trainable, "steps": torch.tensor(3), "none": None}

    def loss(trainable, x):
        tree = {key: value for key, value in trainable.items() if key not in ("steps", "none")}
        return net(fn.tree.combine(tree, frozen), x).square().sum()

    x = normal(5, 4)
    grads, norms = fn.clipped_grads(loss, 1.0)(trainable, x)
    assert grads["0"]["weight"] is fn.tree.partition(params, "2")[1]["2"]["weight"]  # ABSENT
    assert grads["none"] is None
    assert torch.equal(grads["steps"], torch.tensor(0))
    stacked = fn.per_sample_grads(loss)(trainable, x)
    assert stacked["steps"].shape == (5,)
    full = torch.vmap(torch.func.grad(lambda p, x: net(p, x).square().sum()), (None, 0))(params, x)
    assert_close(stacked["0"]["bias"], full["0"]["bias"])
    assert_close(norms, (full["0"]["bias"].square().sum(1) + full["2"]["weight"].square().sum((1, 2))).sqrt())


def foreign_transformer() -> nn.Module:
    class Tiny(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(7, 8), nn.Linear(8, 7, bias=False)
            self.head.weight = self.embed.weight
            self.layer = nn.TransformerEncoderLayer(8, 2, 16, 0.2, batch_first=True)
            self.cross = nn.MultiheadAttention(8, 2, batch_first=True, kdim=8)
            self.gru, self.scale = nn.GRU(8, 8, batch_first=True), nn.Parameter(torch.ones(8))

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            x = self.layer(self.embed(tokens))
            x = x + self.cross(x, x * 2, x, need_weights=False)[0]
            return self.head(self.gru(x)[0] * self.scale)

    return Tiny().double()


@pytest.mark.parametrize("train", [False, True])
def test_a_foreign_module_with_keys(train):
    net, params, buffers = fn.from_module(foreign_transformer())
    keys = fn.random.split(fn.random.key(0), 3)

    def loss(params, tokens, key):
        logits, _ = net.apply(params, buffers, tokens[None], train=train, rng=key)
        return F.cross_entropy(logits[0], tokens)

    rules = check(loss, params, TOKENS, keys)
    assert rules["embed.weight"] == "embedding, linear"
    assert rules.pop("scale") == "copies for mul"
    assert {rule for path, rule in rules.items() if path != "embed.weight"} <= {"linear", "norm"}


@pytest.mark.parametrize("stacked", [False, True])
def test_a_language_model(stacked):
    net = fn.models.GPT2(7, 8, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, stacked=stacked)
    params, buffers = net.init(0, dtype=torch.float64)

    def loss(params, tokens):
        return F.cross_entropy(net.apply(params, buffers, tokens[None])[0][0, :-1], tokens[1:])

    rules = check(loss, params, TOKENS)
    assert rules["embed.token.weight"] == "embedding, linear"
    assert set(rules.values()) == {"embedding", "embedding, linear", "matmul", "norm"}


def test_a_key_passed_by_name_draws_the_same_for_all():
    net = fn.Sequential(fn.Linear(4, 16), fn.Dropout(0.5), fn.Linear(16, 1))
    params, _ = net.init(0)
    x = torch.ones(3, 4)

    def loss(params, x, rng=None):
        return net.apply(params, {}, x, train=True, rng=rng)[0].sum()

    shared = fn.per_sample_norms(loss)(params, x, rng=fn.random.key(1))
    own = fn.per_sample_norms(lambda params, x, key: loss(params, x, key))(
        params, x, fn.random.split(fn.random.key(1), 3)
    )
    assert len(set(shared.tolist())) == 1
    assert len(set(own.tolist())) == 3


def test_modules_that_average_over_the_batch_are_refused_by_path():
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Sequential(nn.BatchNorm2d(2)), nn.Flatten(), nn.Linear(32, 2))
    own, params, buffers = fn.from_module(module)

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = module

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.body(x) * 1

    foreign, foreign_params, foreign_buffers = fn.from_module(Outer())
    x = torch.ones(3, 1, 6, 6)
    for net, trees, path in ((own, (params, buffers), "1.0"), (foreign, (foreign_params, foreign_buffers), "body.1.0")):

        def loss(params, x, net=net, buffers=trees[1]):
            return net.apply(params, buffers, x[None], train=True, rng=0)[0].sum()

        with pytest.raises(
            fn.TransformError, match=f"BatchNorm2d at '{path}' normalises by the statistics of the batch"
        ):
            fn.per_sample_norms(loss)(trees[0], x)
    with pytest.raises(fn.TransformError, match=r"^torch.nn.functional.batch_norm normalises by the statistics"):
        fn.per_sample_norms(lambda p, x: (p * F.batch_norm(x[None], None, None, training=True)).sum())(
            torch.ones(()), x
        )


def scale_weight(weight):
    weight.mul_(3.0)


def scale_row_of_weight(weight):
    weight[0].mul_(3.0)


def scale_weight_without_autograd(weight):
    with torch.no_grad():
        weight.add_(1.0)


@pytest.mark.parametrize("multiply", [F.linear, lambda x, weight: (x * weight).sum(1)], ids=["linear", "mul"])
@pytest.mark.parametrize(
    "write", [scale_weight, scale_row_of_weight, torch.Tensor.zero_, scale_weight_without_autograd]
)
def test_a_weight_written_in_place_after_a_use(multiply, write):
    def loss(params, x):
        weight = params["w"] * 1.0
        total = multiply(x, weight).sum().sin()
        write(weight)
        return total + multiply(x, weight).sum()

    assert check(loss, {"w": normal(3, 2)}, normal(4, 2)) == {"w": "vmap(grad)"}


@pytest.mark.parametrize("multiply", [F.linear, lambda x, weight: (x * weight).sum(1)], ids=["linear", "mul"])
def test_a_param_without_autograd_is_a_constant(multiply):
    def loss(params, x):
        with torch.no_grad():
            factor = multiply(x, params["w"])
        return (F.linear(x, params["w"]) * factor).sum()

    assert check(loss, {"w": normal(3, 2)}, normal(4, 2)) == {"w": "linear"}


def test_dots_with_real_and_complex_params_keep_the_imaginary_part():
    params = {"real": torch.ones(2, dtype=torch.float64), "complex": torch.ones(2, dtype=torch.complex128)}
    tree = {"real": normal(2), "complex": torch.complex(normal(2), normal(2))}
    x = normal(3, 2)

    def loss(params, x):
        return (params["real"] * x).sum() + (params["complex"] * x).real.sum()

    dots = fn.per_sample_dots(loss)(params, tree, x)
    apart = [fn.per_sample_dots(lambda p, x: loss({**params, **p}, x))({k: params[k]}, {k: tree[k]}, x) for k in tree]
    assert dots.dtype == torch.complex128 and bool((dots.imag != 0).all())
    assert_close(dots, apart[0] + apart[1])
