"""LoRA: the adapters are a tree beside the params, and the outputs are those of a layer that was edited by hand."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import funcnet as fn
from tests.helpers import assert_identical

X = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
IDS = torch.tensor([[1, 0, 3], [6, 3, 2]])


def perturbed(tree, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return fn.tree.map(lambda leaf: leaf + 0.3 * torch.randn(leaf.shape, generator=generator).to(leaf.dtype), tree)


def adapted(net, selector, params=None, **options):
    """A net with LoRA that is not zero, its params, and its adapters."""
    params = net.init(0)[0] if params is None else params
    new, adapters = fn.lora(net, selector, **{"rank": 2, "alpha": 3, "rng": fn.random.key(0), **options})
    adapters = perturbed(adapters)
    return new, fn.tree.combine(params, adapters), adapters


NET = fn.Sequential({"body": fn.Linear(4, 6), "act": fn.ReLU(), "head": fn.Linear(6, 2)})


class Tied(nn.Module):
    """A language model with a tied head."""

    def __init__(self):
        super().__init__()
        self.embed, self.fc, self.head = nn.Embedding(7, 4, padding_idx=0), nn.Linear(4, 4), nn.Linear(4, 7, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids):
        return self.head(torch.tanh(self.fc(self.embed(ids))))


# --- the change ---


def test_first_adapters_change_no_output():
    params, _ = NET.init(0)
    for selector in ("body", "**", True, lambda path: path == "head"):
        net, adapters = fn.lora(NET, selector, rng=0)
        assert_identical(net(fn.tree.combine(params, adapters), X), NET(params, X))


def test_the_output_is_that_of_the_formula():
    net, tree, _ = adapted(NET, "body")
    body, head = tree["body"], tree["head"]
    change = F.linear(F.linear(X, body["lora_A"]["weight"]), body["lora_B"]["weight"]) * 1.5
    hidden = F.linear(X, body["weight"], body["bias"]) + change
    assert_identical(net(tree, X), F.linear(F.relu(hidden), head["weight"], head["bias"]))


def test_one_short_selector_takes_the_adapters_out():
    net, tree, adapters = adapted(fn.from_module(Tied())[0], True, fn.from_module(Tied())[1])
    taken, rest = fn.tree.partition(tree, "**.lora_*")
    assert fn.tree.paths(taken) == fn.tree.paths(adapters) == [path for path in net_params(net) if "lora_" in path]
    assert set(net.frozen) == set(fn.tree.paths(rest))


def net_params(net):
    return [entry.path for entry in net.entries() if entry.kind == "params"]


def test_scaling_by_the_root_of_the_rank():
    net, tree, _ = adapted(fn.Linear(4, 4), True, rank=4, alpha=2, use_rslora=True)
    same, _, _ = adapted(fn.Linear(4, 4), True, rank=4, alpha=4)
    assert_identical(net(tree, X), same(tree, X))


def test_first_values_depend_on_path_and_key_alone():
    key = fn.random.key(3)
    _, both = fn.lora(NET, True, rng=key)
    _, one = fn.lora(NET, "head", rng=key)
    assert_identical(both["head"], one["head"])
    assert not torch.equal(
        both["head"]["lora_A"]["weight"], fn.lora(NET, True, rng=fn.random.key(4))[1]["head"]["lora_A"]["weight"]
    )
    _, double = fn.lora(NET, "head", rng=0, dtype=torch.float64)
    assert double["head"]["lora_A"]["weight"].dtype is torch.float64


def test_dropout_draws_as_the_module_does():
    net, tree, _ = adapted(NET, True, dropout=0.5)
    module = fn.to_module(net, tree)
    torch.manual_seed(3)
    assert_identical(net.apply(tree, {}, X, train=True, rng=3)[0], module(X).detach())
    assert not torch.equal(net.apply(tree, {}, X, train=True, rng=3)[0], net(tree, X))


def test_half_precision_weights_take_adapters_in_single_precision():
    params, _ = fn.Linear(4, 6).init(0, dtype=torch.bfloat16)
    net, tree, _ = adapted(fn.Linear(4, 6), True, params)
    assert tree["lora_A"]["weight"].dtype is torch.float32
    assert net(tree, X.bfloat16()).dtype is torch.bfloat16
    assert fn.merge_lora(net, tree)[1]["weight"].dtype is torch.bfloat16


# --- transforms and training ---


def test_adapters_are_trained_alone():
    net, tree, _ = adapted(NET, "body")
    adapters, base = fn.tree.partition(tree, "**.lora_*")
    optimizer = fn.optim.AdamW(lr=0.1)
    state = optimizer.init(adapters)

    def loss(adapters):
        return net(fn.tree.combine(adapters, base), X).square().mean()

    first = loss(adapters)
    for _ in range(5):
        adapters, state = optimizer.step(adapters, fn.value_and_grad(loss)(adapters)[1], state)
    assert loss(adapters) < first


def test_each_example_has_its_own_adapters_under_vmap():
    net, _, _ = adapted(NET, True)
    params, _ = NET.init(0)
    members = [perturbed(fn.lora(NET, True, rank=2, alpha=3, rng=seed)[1], seed) for seed in range(3)]

    def call(adapters, x):
        return net(fn.tree.combine(params, adapters), x)

    rows = torch.vmap(call)(fn.tree.stack(members), X)
    torch.testing.assert_close(rows, torch.stack([call(*pair) for pair in zip(members, X, strict=True)]))


def test_it_compiles_to_the_same_bits():
    net, tree, _ = adapted(NET, True)
    compiled = torch.compile(lambda tree, x: net(tree, x), backend="eager", fullgraph=True)
    assert_identical(compiled(tree, X), net(tree, X))


# --- modules ---


@pytest.mark.parametrize("of_module", [False, True])
def test_the_module_computes_the_same_and_comes_back(of_module):
    if of_module:
        net, params, _ = fn.from_module(Tied())
    else:
        net = fn.Sequential(
            {"embed": fn.Embedding(7, 4, padding_idx=0), "fc": fn.Linear(4, 4), "head": fn.Linear(4, 7)}
        )
        params, _ = net.init(0)
    net, tree, _ = adapted(net, ["embed", "fc"], params)
    module = fn.to_module(net, tree)
    assert isinstance(module.fc, nn.Linear) and isinstance(module.embed, nn.Embedding)
    assert [name for name, param in module.named_parameters() if param.requires_grad] == [
        path for path in net_params(net) if "lora_" in path
    ]
    for each in (module, copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert_identical(each(IDS).detach(), net(tree, IDS))
    again, again_tree, _ = fn.from_module(module)
    assert (again.frozen, again.aliases, repr(again)) == (net.frozen, net.aliases, repr(net))
    assert_identical(again_tree, tree)
    assert_identical(again(again_tree, IDS), net(tree, IDS))
    assert_identical(pickle.loads(pickle.dumps(net))(tree, IDS), net(tree, IDS))
    if not of_module:
        assert again == net


def test_what_is_at_two_paths_has_one_adapter():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
            self.b = self.a

        def forward(self, x):
            return self.b(self.a(x))

    net, params, _ = fn.from_module(Shared())
    new, tree, adapters = adapted(net, "b.0", params)
    assert fn.tree.paths(adapters) == ["a.0.lora_A.weight", "a.0.lora_B.weight"]
    module = fn.to_module(new, tree)
    assert module.a is module.b
    assert_identical(module(X).detach(), new(tree, X))
    merged_net, merged = fn.merge_lora(new, tree)
    assert merged_net.aliases == net.aliases
    torch.testing.assert_close(net(merged, X), new(tree, X))


def test_the_module_of_a_transformer_calls_its_adapters_in_eval_mode_too():
    net = fn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
    new, tree, _ = adapted(net, ["linear1", "linear2"])
    module = fn.to_module(new, tree).eval()
    with torch.no_grad():
        torch.testing.assert_close(module(X[None]), new(tree, X[None]))


# --- merging ---

CONVOLUTIONS = [
    fn.Conv1d(4, 6, 3, padding="same", padding_mode="reflect"),
    fn.Conv2d(4, 6, 3, stride=2, padding=2, dilation=2),
    fn.Conv2d(4, 6, 1),
    fn.Conv3d(4, 6, 2, padding=1, padding_mode="circular"),
]
LAYERS = [fn.Linear(4, 6), fn.Linear(4, 4, bias=False), fn.Embedding(7, 4, padding_idx=0), *CONVOLUTIONS]


@pytest.mark.parametrize("layer", LAYERS, ids=repr)
def test_merged_params_are_params_of_the_layer(layer):
    params, _ = layer.init(0, dtype=torch.float64)
    net, tree, adapters = adapted(layer, True, params, dtype=torch.float64)
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(2, 4, *[6] * getattr(layer, "axes", 0), generator=generator).double()
    x = IDS if isinstance(layer, fn.Embedding) else x
    merged_net, merged = fn.merge_lora(net, tree)
    assert merged_net == layer
    torch.testing.assert_close(layer(merged, x), net(tree, x), rtol=1e-12, atol=1e-12)
    back = fn.unmerge_lora(net, merged, adapters)
    torch.testing.assert_close(back, tree, rtol=1e-12, atol=1e-12)
    assert_identical(fn.to_module(net, tree)(x).detach(), net(tree, x))


@pytest.mark.parametrize(
    "net",
    [
        fn.TransformerEncoderLayer(4, 2, 8),
        fn.models.Llama(
            vocab_size=7,
            hidden_size=4,
            intermediate_size=6,
            num_hidden_layers=1,
            num_attention_heads=2,
            fused_qkv=False,
        ),
    ],
    ids=lambda net: net.title(),
)
def test_the_merged_net_is_the_one_from_before(net):
    new, tree, _ = adapted(net, True)
    assert new != net
    assert fn.merge_lora(new, tree)[0] == net


def test_parts_whose_weights_are_read_and_that_are_not_called_are_refused():
    net = fn.models.GPT2(7, 4, 4, 1, 2)
    with pytest.raises(fn.TreeError, match=r"'layers\.0\.attn\.qkv' is not called: SelfAttention reads its weight"):
        fn.lora(net, "**.qkv", rng=0)
    assert fn.lora(net, "**.attn", rng=0)[0].layers[0].attn.out != net.layers[0].attn.out


def test_a_tied_head_that_is_adapted_gets_a_weight_of_its_own():
    net, params, _ = fn.from_module(Tied())
    new, tree, adapters = adapted(net, "head", params)
    assert new.aliases == {"head.weight": "embed.weight"}
    merged_net, merged = fn.merge_lora(new, tree)
    assert merged_net.aliases == {}
    assert_identical(merged["embed"], params["embed"])
    torch.testing.assert_close(merged_net(merged, IDS), new(tree, IDS))
    torch.testing.assert_close(fn.to_module(merged_net, merged)(IDS).detach(), new(tree, IDS))
    assert_identical(fn.unmerge_lora(new, merged, adapters), tree)
    other, other_tree, _ = adapted(net, "fc", params)
    assert fn.merge_lora(other, other_tree)[0].aliases == net.aliases


# --- what cannot be ---


def test_layers_that_cannot_be_adapted_are_named_with_the_reason():
    class Hooked(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 4)
            self.fc.register_forward_hook(print)

        def forward(self, x):
            return self.fc(x)

    for net, selector, words in [
        (NET, "act", "'act' is none of Linear, Embedding"),
        (NET, "bodi", "'bodi' matches nothing. Near it: 'body'"),
        (fn.MultiheadAttention(4, 2), "out_proj", "'out_proj' is not called: MultiheadAttention reads its weight"),
        (fn.Embedding(7, 4, max_norm=1.0), True, "shortens its rows to max_norm"),
        (adapted(NET, "body")[0], "body", "'body' has LoRA already"),
        (fn.models.GPT2(7, 4, 4, 2, 2, stacked=True), "**.out", "'layers.attn.out' is a Stack, .* stacked=False"),
        (fn.from_module(Hooked())[0], "fc", "'fc' has hooks or a forward of its own"),
    ]:
        with pytest.raises(fn.TreeError, match=words):
            fn.lora(net, selector, rng=0)


def test_groups_of_a_convolution():
    conv = fn.Conv2d(4, 6, 3, groups=2)
    with pytest.raises(fn.ConversionError, match="'' has 2 groups, and 3 is no multiple of that"):
        fn.lora(conv, True, rank=3, rng=0)
    net, tree, _ = adapted(conv, True)
    with pytest.raises(fn.ConversionError, match="reaches over all groups"):
        fn.merge_lora(net, tree)


def test_wrong_arguments():
    with pytest.raises(ValueError, match="rank is at least 1"):
        fn.lora(NET, True, rank=0, rng=0)
    with pytest.raises(fn.InitError, match="needs rng"):
        fn.lora(NET, True, rng=None)
    with pytest.raises(TypeError, match="takes a net, got Linear"):
        fn.lora(nn.Linear(2, 2), True, rng=0)
    with pytest.raises(fn.TreeError, match="has no LoRA"):
        fn.merge_lora(NET, NET.init(0)[0])
    net, adapters = fn.lora(NET, True, rng=0)
    with pytest.raises(fn.TreeError, match="missing     params"):
        fn.merge_lora(net, adapters)
