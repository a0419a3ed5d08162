"""Models from a library: the module's own bits, purely, and both ways."""

from __future__ import annotations

import pytest
import torch
from torch.utils._pytree import tree_map

import funcnet as fn
from tests.adapters.architectures import ARCHITECTURES
from tests.helpers import assert_identical, buffers_of, clone, floats, global_generator_untouched, total

pytest.importorskip("transformers")
ROWS = [pytest.param(one, marks=[pytest.mark.slow] if one.slow else [], id=one.name) for one in ARCHITECTURES]


def outputs(result):
    return floats(result)


def gradients(value, leaves):
    """Zeros where the value does not depend on a leaf. By torch.autograd.grad on both sides: backward() also reaches
    inputs that a forward makes require grad, and torch takes another kernel for both gradients than for one.
    """
    grads = torch.autograd.grad(value, list(leaves.values()), materialize_grads=True, allow_unused=True)
    return dict(zip(leaves, grads, strict=True))


@pytest.mark.parametrize("one", ROWS)
def test_a_model_from_a_library_is_the_same_function(one):
    module = one.module()
    state = clone(dict(module.state_dict()))
    attributes = {path: dict(below.__dict__) for path, below in module.named_modules()}
    net, params, buffers = fn.from_module(module)
    inputs = clone(one.inputs)
    for train in (False, True):
        given = clone((params, buffers))
        module.train(train)
        rng = 3 if train else None

        def run(train=train, rng=rng):
            leaves = {path: leaf.clone().requires_grad_() for path, leaf in fn.tree.flatten(params).items()}
            tree = fn.tree.unflatten(leaves)
            output, new = net.apply(tree, buffers, **inputs, **one.call, train=train, rng=rng)
            return output, new, gradients(total(outputs(output)), leaves)

        with global_generator_untouched():
            output, new, grads = run()
            again, _, _ = run()
        torch.manual_seed(3)
        expected = module(**clone(one.inputs), **one.call)
        assert type(output) is type(expected)
        assert_identical(outputs(again), outputs(output))
        assert_identical(outputs(output), outputs(expected))
        trainable = {path: param for path, param in module.named_parameters() if param.requires_grad}
        wanted = gradients(total(outputs(expected)), trainable)
        assert_identical({path: leaf for path, leaf in grads.items() if path in wanted}, wanted)
        assert_identical(new, buffers_of(module))
        assert_identical((params, buffers, inputs), (*given, one.inputs))
        module.load_state_dict(state)
    assert {path: dict(below.__dict__).keys() for path, below in module.named_modules()} == {
        path: held.keys() for path, held in attributes.items()
    }


@pytest.mark.parametrize("one", ROWS)
def test_a_model_from_a_library_goes_both_ways(one):
    module = one.module()
    net, params, buffers = fn.from_module(module)
    assert repr(net) == repr(module)
    assert [path for path, _ in net.named_nets()] == [path for path, _ in module.named_modules(remove_duplicate=False)]
    assert_identical(dict(fn.to_state_dict(net, params, buffers)), dict(module.state_dict()))
    back = fn.to_module(net, params, buffers)
    assert type(back) is type(module)
    assert_identical(dict(back.state_dict()), dict(module.state_dict()))
    assert {path for path, param in back.named_parameters() if not param.requires_grad} == set(net.frozen)
    assert back.load_state_dict(module.state_dict()).missing_keys == []
    with torch.no_grad():
        assert_identical(
            outputs(back.eval()(**clone(one.inputs), **one.call)),
            outputs(module.eval()(**clone(one.inputs), **one.call)),
        )


PER_SAMPLE = [row for row in ROWS if row.id in ("GPT2", "Llama", "Bert", "T5", "ViT", "ResNet", "Mamba")]


@pytest.mark.parametrize("one", PER_SAMPLE)
def test_gradients_per_sample_are_those_of_a_loop(one):
    net, params, buffers = fn.from_module(one.module())
    inputs = {name: value for name, value in one.inputs.items() if name != "attention_mask"}

    def loss(params, inputs):
        return total(outputs(net.apply(params, buffers, **tree_map(lambda leaf: leaf[None], inputs), **one.call)[0]))

    mapped = torch.vmap(torch.func.grad(loss), in_dims=(None, 0))(params, inputs)
    for index in range(2):
        alone = torch.func.grad(loss)(params, tree_map(lambda leaf, index=index: leaf[index], inputs))
        torch.testing.assert_close(
            fn.tree.map(lambda leaf, index=index: leaf[index], mapped), alone, atol=1e-4, rtol=1e-3
        )
