"""The nets of models by themselves: forms, transforms, both ways, and what is refused."""

from __future__ import annotations

import json
import pickle

import pytest
import torch

import funcnet as fn
from tests.helpers import assert_identical, global_generator_untouched
from tests.models.published import FORMS, IDS, PADDED

SMALL = {"vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4}
NETS = {
    "gpt2": lambda **form: fn.models.GPT2(**SMALL, max_position_embeddings=16, **form),
    "llama": lambda **form: fn.models.Llama(
        **SMALL, num_key_value_heads=2, intermediate_size=12, attention_dropout=0.2, **form
    ),
    "bert": lambda **form: fn.models.Bert(**SMALL, max_position_embeddings=16, intermediate_size=12, **form),
    "bert, classes": lambda **form: fn.models.Bert(
        **SMALL, max_position_embeddings=16, intermediate_size=12, head="classes", pooler=True, **form
    ),
}
NET = pytest.mark.parametrize("make", NETS.values(), ids=NETS)
FORM = pytest.mark.parametrize(("fused_qkv", "stacked"), FORMS)


@NET
@FORM
def test_a_net_is_a_value_and_its_calls_are_pure(make, fused_qkv, stacked):
    net = make(fused_qkv=fused_qkv, stacked=stacked)
    assert net == make(fused_qkv=fused_qkv, stacked=stacked)
    assert net != make(fused_qkv=fused_qkv, stacked=not stacked)
    assert pickle.loads(pickle.dumps(net)) == net
    with global_generator_untouched():
        params, buffers = net.init(0)
        assert buffers == {}
        assert_identical(net(params, IDS), net(params, IDS, None))
        draws = [net.apply(params, {}, IDS, PADDED, train=True, rng=fn.random.key(seed))[0] for seed in (0, 0, 1)]
    assert_identical(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    with pytest.raises(fn.RandomnessError, match="layers"):
        net.apply(params, {}, IDS, train=True)


@NET
@pytest.mark.parametrize("fused_qkv", [True, False])
def test_stacked_layers_are_the_layers_with_the_same_draws(make, fused_qkv):
    net, stacked = make(fused_qkv=fused_qkv), make(fused_qkv=fused_qkv, stacked=True)
    params, _ = net.init(0)
    layers = [fn.tree.flatten(params["layers"][str(number)]) for number in range(2)]
    stacked_layers = {path: torch.stack([layer[path] for layer in layers]) for path in layers[0]}
    stacked_params = {**params, "layers": fn.tree.unflatten(stacked_layers)}
    assert_identical(stacked(stacked_params, IDS, PADDED), net(params, IDS, PADDED))
    key = fn.random.key(5)
    train = {"train": True, "rng": key}
    assert_identical(stacked.apply(stacked_params, {}, IDS, **train)[0], net.apply(params, {}, IDS, **train)[0])
    assert {entry.path for entry in stacked.entries()} == set(fn.tree.flatten(stacked_params))
    for rng in (3, key):
        plain_net, *trees = fn.unstack_layers(stacked, *stacked.init(rng))
        assert_identical(tuple(trees), net.init(rng))
        assert_identical(plain_net(trees[0], IDS), net(net.init(rng)[0], IDS))


@NET
@FORM
def test_module_and_back(make, fused_qkv, stacked):
    net = make(fused_qkv=fused_qkv, stacked=stacked)
    params, _ = net.init(0)
    module = fn.to_module(net, params, {}).eval()
    assert_identical(module(IDS, PADDED), net(params, IDS, PADDED))
    assert list(module.state_dict()) == list(fn.to_state_dict(net, params, {}))
    torch.manual_seed(3)
    assert_identical(module.train()(IDS), net.apply(params, {}, IDS, train=True, rng=3)[0])
    returned_net, returned_params, _ = fn.from_module(module)
    assert returned_net == net
    assert_identical(returned_params, params)


@NET
@pytest.mark.parametrize(
    ("fused_qkv", "stacked"),
    [pytest.param(*form, marks=[pytest.mark.slow] if form[0] == form[1] else []) for form in FORMS],
)
def test_transforms(make, fused_qkv, stacked):
    net = make(fused_qkv=fused_qkv, stacked=stacked)
    params, _ = net.init(0)
    key = fn.random.key(1)

    def train(params, ids):
        return net.apply(params, {}, ids, train=True, rng=key)[0]

    torch.compiler.reset()  # or it gives up on code that it has seen with many nets
    compiled = torch.compile(train, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(params, IDS), train(params, IDS))
    outputs = torch.vmap(lambda ids, mask: net(params, ids[None], mask[None])[0])(IDS, PADDED)
    torch.testing.assert_close(outputs, net(params, IDS, PADDED))

    def loss(params, ids):
        return net(params, ids[None]).square().mean()

    per_sample = torch.vmap(torch.func.grad(loss), (None, 0))(params, IDS)
    alone = torch.func.grad(loss)(params, IDS[1])
    actual, expected = (fn.tree.flatten(tree) for tree in (per_sample, alone))
    for path in expected:
        torch.testing.assert_close(actual[path][1], expected[path], msg=path)
    ensemble = torch.vmap(lambda seed: net.init(fn.random.fold_in(key, seed))[0])(torch.arange(2))
    assert torch.vmap(net, (0, None))(ensemble, IDS).shape[0] == 2


def test_first_values_are_those_of_the_papers():
    params, _ = fn.models.GPT2(500, 64, 64, num_hidden_layers=8, num_attention_heads=4, stacked=True).init(0)
    layers = params["layers"]
    assert abs(layers["attn"]["qkv"]["weight"].std() - 0.02) < 0.001
    assert abs(layers["mlp"]["down"]["weight"].std() - 0.005) < 0.001
    assert layers["norm1"]["weight"].eq(1).all()
    assert not layers["attn"]["out"]["bias"].any()


def test_a_config_may_be_an_object_a_dict_or_a_file(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(vocab_size=60, hidden_size=16, num_hidden_layers=2, num_attention_heads=4)
    config.save_pretrained(tmp_path)
    nets = [fn.models.from_config(source) for source in (config, config.to_dict(), tmp_path, tmp_path / "config.json")]
    assert len(set(nets)) == 1
    assert fn.models.from_config(config, architecture="LlamaModel").head is False


def test_configs_of_older_versions():
    old = {"model_type": "llama", "rope_theta": 500.0, "rope_scaling": {"type": "linear", "factor": 2.0}}
    net = fn.models.from_config(old)
    assert (net.rope_theta, dict(net.rope_scaling)) == (500.0, {"rope_type": "linear", "factor": 2.0})


@pytest.mark.parametrize(
    ("config", "match"),
    [
        ({"model_type": "t5"}, "'t5'; there are nets for gpt2, llama, bert"),
        ({"model_type": "gpt2", "architectures": ["GPT2ForSequenceClassification"]}, "say architecture="),
        ({"model_type": "gpt2", "add_cross_attention": True}, "add_cross_attention = True"),
        ({"model_type": "bert", "is_decoder": True, "hidden_act": "mish"}, "is_decoder = True.*activation 'mish'"),
        ({"model_type": "llama", "rope_parameters": {"rope_type": "yarn"}}, "rope_type 'yarn'"),
        ({"model_type": "llama", "rope_parameters": {"rope_type": "linear"}}, "'linear' without factor"),
    ],
)
def test_what_no_net_does_is_refused(config, match):
    with pytest.raises(fn.ConversionError, match=f"(?is){match}"):
        fn.models.from_config(config)


def test_a_file_that_is_no_config_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("[")
    with pytest.raises(fn.ConversionError, match="is no config"):
        fn.models.from_config(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps([1]))
    with pytest.raises(fn.ConversionError, match="a list, not an object"):
        fn.models.from_config(tmp_path)


def test_options_that_exclude_each_other_are_refused():
    with pytest.raises(ValueError, match="stacked"):
        fn.models.GPT2(scale_by_layer=True, stacked=True)
    with pytest.raises(ValueError, match="pooler"):
        fn.models.Bert(head="classes")
    with pytest.raises(ValueError, match="'yarn'; it is one of default, linear, llama3"):
        fn.models.Llama(rope_scaling=(("rope_type", "yarn"),))


@NET
def test_inputs_that_do_not_fit_are_refused_by_name(make):
    net = make()
    params, _ = net.init(0)
    with pytest.raises(fn.ShapeError, match=r"attention_mask has shape \(N, L\), got \(2, 1, 6, 6\)"):
        net(params, IDS, torch.ones(2, 1, 6, 6))
    with pytest.raises(fn.ShapeError, match=r"Embedding at 'embed.token'"):
        net(params, IDS + 60)
