"""Every sample of PyTorch's own module tests: a net gives the module's outputs, gradients and buffers bit for bit."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.modules.lazy import LazyModuleMixin
from torch.utils._pytree import tree_leaves, tree_map

import funcnet as fn
from tests.helpers import assert_identical, buffers_of, clone, global_generator_untouched

with warnings.catch_warnings():  # of the test utilities of torch, as they are imported
    warnings.simplefilter("ignore")
    from torch.testing._internal.common_modules import module_db

SEED = 11


def samples(info: Any, train: bool) -> Any:
    torch.manual_seed(0)
    return info.module_inputs_func(info, device="cpu", dtype=torch.float32, requires_grad=True, training=train)


def copy_as_leaves(tree: Any) -> Any:
    """Copies of the tensors that are leaves and require gradients where the originals do."""

    def leaf(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return value.detach().clone().requires_grad_(value.requires_grad)

    return tree_map(leaf, tree)


def backward(output: Any) -> None:
    """Run a backward pass whose result depends on each element of the output."""
    leaves = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor) and leaf.requires_grad]
    grads = [torch.linspace(0.5, 1.5, leaf.numel(), dtype=leaf.dtype).view(leaf.shape) for leaf in leaves]
    if leaves:
        torch.autograd.backward(leaves, grads)


def gradients(tree: Any) -> list[Any]:
    return [leaf.grad for leaf in tree_leaves(tree) if isinstance(leaf, Tensor) and leaf.requires_grad]


@pytest.mark.filterwarnings("ignore")  # torch's samples use what torch warns about
@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("info", module_db, ids=lambda info: info.name.removeprefix("nn."))
def test_a_net_gives_the_bits_of_the_module(info, train):
    count = 0
    for sample in samples(info, train):
        if sample.forward_input is None:
            continue
        count += 1
        args, kwargs = sample.forward_input.args, sample.forward_input.kwargs
        module = info.module_cls(*sample.constructor_input.args, **sample.constructor_input.kwargs)
        module = module.to(torch.float32).train(train)  # some samples hold doubles
        if isinstance(module, LazyModuleMixin):
            with torch.no_grad():
                module(*copy_as_leaves(args), **copy_as_leaves(kwargs))  # this call gives the module its shapes
        net, params, buffers = fn.from_module(module)
        wrapped = [path for path, child in net.named_nets() if isinstance(child, fn.Wrapped)]
        assert not wrapped, f"{info.name}: no native net at {wrapped}"
        params = tree_map(lambda leaf: leaf.requires_grad_(leaf.is_floating_point() or leaf.is_complex()), params)
        ours, theirs, before = copy_as_leaves((args, kwargs)), copy_as_leaves((args, kwargs)), clone((params, buffers))
        with global_generator_untouched():
            output, new = net.apply(params, buffers, *ours[0], **ours[1], train=train, rng=SEED)
        assert_identical((params, buffers), before)
        torch.manual_seed(SEED)
        expected = module(*theirs[0], **theirs[1])
        assert_identical(output, expected)
        assert_identical(new, buffers_of(module))
        backward(output)
        backward(expected)
        assert_identical(gradients(ours), gradients(theirs))
        expected_grads = {path: param.grad for path, param in module.named_parameters()}
        assert_identical({path: param.grad for path, param in fn.tree.flatten(params).items()}, expected_grads)
    assert count, f"{info.name} has no samples"
