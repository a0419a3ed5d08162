"""LoRA against the library peft: its names, both ways, and, where it is installed, its bits."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import nn

import funcnet as fn
from tests.helpers import assert_identical

IDS = torch.tensor([[1, 0, 3], [6, 3, 2]])


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.conv, self.fc = nn.Embedding(7, 4), nn.Conv1d(4, 4, 3, padding=1), nn.Linear(4, 5)
        self.point, self.head = nn.Conv2d(5, 5, 1), nn.Linear(5, 2)

    def forward(self, ids):
        x = self.conv(self.embed(ids).transpose(1, 2)).transpose(1, 2)
        x = self.point(self.fc(torch.tanh(x)).transpose(1, 2)[..., None])[..., 0].transpose(1, 2)
        return self.head(x)


def gpt2():
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        n_layer=1, n_head=2, n_embd=8, vocab_size=7, n_positions=4, bos_token_id=0, eos_token_id=1
    )
    return transformers.GPT2LMHeadModel(config)


def llama():
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        hidden_size=8,
        intermediate_size=12,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        vocab_size=7,
        tie_word_embeddings=True,
    )
    return transformers.LlamaForCausalLM(config)


CASES = {
    "layers": (Model, ["embed", "conv", "fc", "point"]),
    "gpt2": (gpt2, ["c_attn", "c_proj"]),
    "gpt2 head": (gpt2, ["lm_head"]),
    "llama": (llama, ["q_proj", "v_proj"]),
    "llama table": (llama, ["embed_tokens"]),
}


def tensor_of(output):
    return output if isinstance(output, torch.Tensor) else output.logits


@pytest.mark.parametrize("case", CASES)
def test_all_is_as_in_peft(case):
    peft = pytest.importorskip("peft")
    make, targets = CASES[case]
    use_rslora = case == "llama"
    torch.manual_seed(0)
    module = make()
    before = copy.deepcopy(module)
    net, params, buffers = fn.from_module(module)
    config = peft.LoraConfig(r=2, lora_alpha=3, target_modules=targets, lora_dropout=0.5, use_rslora=use_rslora)
    torch.manual_seed(5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = peft.get_peft_model(module, config)
        saved = peft.get_peft_model_state_dict(theirs, save_embedding_layers=False)
    ours, adapters = fn.lora(
        net, [f"**.{name}" for name in targets], rank=2, alpha=3, dropout=0.5, use_rslora=use_rslora, rng=5
    )
    assert_identical(fn.to_peft_state_dict(ours, adapters), dict(saved))
    assert list(fn.to_peft_state_dict(ours, adapters)) == list(saved)

    # with a change that is not zero
    generator = torch.Generator().manual_seed(1)
    adapters = fn.tree.map(lambda leaf: leaf + 0.3 * torch.randn(leaf.shape, generator=generator), adapters)
    named = fn.to_peft_state_dict(ours, fn.tree.combine(params, adapters), "default")
    assert list(named) == list(theirs.state_dict())
    theirs.load_state_dict(named)
    assert_identical(fn.from_peft_state_dict(ours, theirs.state_dict()), adapters)
    tree = fn.tree.combine(params, adapters)
    expected = tensor_of(theirs.eval()(IDS)).detach()
    leaves = fn.tree.map(lambda leaf: leaf.clone().requires_grad_(), adapters)  # which decides about some kernels
    output, _ = ours.apply(fn.tree.combine(params, leaves), buffers, IDS)
    assert_identical(tensor_of(output).detach(), expected)
    assert_identical(tensor_of(fn.to_module(ours, tree, buffers).eval()(IDS)).detach(), expected)

    def loss(adapters):
        output, _ = ours.apply(fn.tree.combine(params, adapters), buffers, IDS, train=True, rng=3)
        return tensor_of(output).square().sum()

    grads = fn.to_peft_state_dict(ours, fn.value_and_grad(loss)(adapters)[1], "default")
    torch.manual_seed(3)
    tensor_of(theirs.train()(IDS)).square().sum().backward()
    assert_identical(grads, {name: param.grad for name, param in theirs.named_parameters() if param.requires_grad})

    merged_net, merged = fn.merge_lora(ours, tree)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain = theirs.eval().merge_and_unload()
    for name, tensor in fn.to_state_dict(merged_net, merged, buffers).items():
        if any(name.endswith(f"{target}.weight") for target in targets):
            assert_identical(tensor, plain.state_dict()[name])
    assert repr(fn.to_module(merged_net, merged, buffers)) == repr(before)


def adapted_model():
    torch.manual_seed(0)
    net, params, _ = fn.from_module(Model())
    net, adapters = fn.lora(net, ["embed", "fc"], rank=2, rng=0)
    return net, params, adapters


ADAPTER_FILE = [
    "base_model.model.embed.lora_embedding_A",
    "base_model.model.embed.lora_embedding_B",
    "base_model.model.fc.lora_A.weight",
    "base_model.model.fc.lora_B.weight",
]


def test_the_names_of_an_adapter_file():
    net, params, adapters = adapted_model()
    assert list(fn.to_peft_state_dict(net, adapters)) == ADAPTER_FILE
    assert list(fn.to_peft_state_dict(net, fn.tree.combine(params, adapters))) == ADAPTER_FILE
    assert_identical(fn.from_peft_state_dict(net, fn.to_peft_state_dict(net, adapters)), adapters)


def test_the_names_in_a_model_of_peft():
    net, params, adapters = adapted_model()
    names = list(fn.to_peft_state_dict(net, fn.tree.combine(params, adapters), "mine"))
    assert names[:3] == [
        "base_model.model.embed.base_layer.weight",
        "base_model.model.embed.lora_embedding_A.mine",
        "base_model.model.embed.lora_embedding_B.mine",
    ]
    assert "base_model.model.fc.lora_A.mine.weight" in names
    assert "base_model.model.head.weight" in names
    other = {name.replace(".mine", ".other"): tensor for name, tensor in zip(names, names, strict=True)}
    both = {
        **dict.fromkeys(other, torch.zeros(1)),
        **fn.to_peft_state_dict(net, fn.tree.combine(params, adapters), "mine"),
    }
    assert_identical(fn.from_peft_state_dict(net, both, "mine"), adapters)


def test_a_new_head_goes_with_the_adapters():
    net, params, adapters = adapted_model()
    net = net.freeze(lambda path: "lora_" not in path and not path.startswith("head."))
    saved = fn.to_peft_state_dict(net, fn.tree.combine(params, adapters))
    assert list(saved) == [*ADAPTER_FILE, "base_model.model.head.weight", "base_model.model.head.bias"]
    back = fn.from_peft_state_dict(net, saved)
    assert_identical(back["head"], params["head"])
    renamed = {name.replace(".head.", ".head.modules_to_save.default."): tensor for name, tensor in saved.items()}
    assert_identical(fn.from_peft_state_dict(net, renamed), back)


def test_every_name_that_does_not_fit_is_listed():
    net, _, adapters = adapted_model()
    saved = fn.to_peft_state_dict(net, adapters)
    saved["base_model.model.fc.lora_A.weight"] = torch.zeros(3, 4)
    saved["base_model.model.fd.lora_B.weight"] = saved.pop("base_model.model.fc.lora_B.weight")
    with pytest.raises(fn.TreeError) as caught:
        fn.from_peft_state_dict(net, saved)
    for words in ("missing     'fc.lora_B.weight'", "extra       'fd.lora_B.weight'", "mis-shaped  'fc.lora_A.weight'"):
        assert words in str(caught.value)
