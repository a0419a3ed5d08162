"""What the table of cases does not say of the normalisations: other dtypes, maps over buffers, refusals."""

from __future__ import annotations

import itertools
import warnings

import pytest
import torch
from torch import nn

import funcnet as fn
from tests.helpers import assert_identical, buffers_of, clone, parametrize, params_of

DTYPES = [(torch.float32, torch.float32)] + [
    (params, inputs)
    for params, inputs in itertools.product((torch.float32, torch.bfloat16, torch.float16), repeat=2)
    if inputs != torch.float32
    if params in (torch.float32, inputs)
]
LAYOUTS = {
    "channels_last": lambda x: x.to(memory_format=torch.channels_last),
    "transposed": lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
    "expanded": lambda x: x[:1].expand_as(x),
    "empty": lambda x: x[:0],
}


def result_or_raises(run):
    """Outputs, gradients and buffers, or the word that it raised."""
    try:
        return run()
    except (RuntimeError, ValueError, IndexError):
        return "raised"


def run_module(module, x):
    leaf = x.clone(memory_format=torch.preserve_format).requires_grad_()
    y = module(leaf)
    y.backward(torch.linspace(0.5, 1.5, y.numel(), dtype=y.dtype).view(y.shape))
    return y, leaf.grad, {n: p.grad for n, p in module.named_parameters()}, buffers_of(module), y.stride()


def run_net(module, x):
    net, params, buffers = fn.from_module(module)
    params = {name: param.requires_grad_() for name, param in params.items()}
    leaf = x.clone(memory_format=torch.preserve_format).requires_grad_()
    y, new = net.apply(params, buffers, leaf, train=module.training)
    y.backward(torch.linspace(0.5, 1.5, y.numel(), dtype=y.dtype).view(y.shape))
    return y, leaf.grad, {n: p.grad for n, p in params.items()}, new, y.stride()


MODULES = {
    "BatchNorm2d": lambda: nn.BatchNorm2d(3),
    "BatchNorm2d by count": lambda: nn.BatchNorm2d(3, momentum=None, bias=False),
    "SyncBatchNorm": lambda: nn.SyncBatchNorm(3, affine=False),
    "InstanceNorm2d": lambda: nn.InstanceNorm2d(3),
    "InstanceNorm2d tracked": lambda: nn.InstanceNorm2d(3, affine=True, track_running_stats=True),
    "GroupNorm": lambda: nn.GroupNorm(3, 3),
    "LayerNorm": lambda: nn.LayerNorm(4),
    "RMSNorm": lambda: nn.RMSNorm(4),
    "LocalResponseNorm": lambda: nn.LocalResponseNorm(3, 0.5),
    "CrossMapLRN2d": lambda: nn.CrossMapLRN2d(3, 0.5),
}


@pytest.mark.filterwarnings("ignore:Mismatch dtype")  # RMSNorm's
@parametrize(name=list(MODULES), layout=list(LAYOUTS), train=[False, True])
def test_any_layout_and_dtype_gives_the_bits_or_the_error_of_the_module(name, layout, train):
    make = MODULES[name]
    for of_params, of_inputs in DTYPES:
        x = LAYOUTS[layout](torch.randn(2, 3, 5, 4, generator=torch.Generator().manual_seed(0)).to(of_inputs))
        net = result_or_raises(lambda x=x, d=of_params: run_net(make().to(d).train(train), x))
        module = result_or_raises(lambda x=x, d=of_params: run_module(make().to(d).train(train), x))
        assert_identical(net, module)


@parametrize(net=[fn.BatchNorm2d(3), fn.InstanceNorm2d(3, track_running_stats=True)])
def test_training_maps_over_any_axis_of_inputs_with_shared_buffers(net):
    params, buffers = net.init(0)
    x = torch.randn(2, 4, 3, 5, 5)
    for axis in (0, 2, -1):
        y, new = torch.vmap(lambda x: net.apply(params, buffers, x, train=True), in_dims=axis)(x.movedim(0, axis))
        for index in range(2):
            alone = net.apply(params, buffers, x[index].contiguous(), train=True)
            torch.testing.assert_close((y[index], {k: v[index] for k, v in new.items()}), alone)


@parametrize(net=[fn.BatchNorm2d(3, momentum=None), fn.InstanceNorm2d(3, track_running_stats=True)])
def test_training_maps_over_buffers_too_and_within_another_map(net):
    params, buffers = net.init(0)
    stacked = fn.tree.map(lambda leaf: torch.stack([leaf, leaf + 2]), buffers)
    x = torch.randn(2, 4, 4, 3, 5, 5)

    def train_call(buffers, x):
        return net.apply(params, buffers, x, train=True)

    y, new = torch.vmap(torch.vmap(train_call, in_dims=(None, 0)))(stacked, x)
    for outer, inner in itertools.product(range(2), range(4)):
        alone = train_call(fn.tree.map(lambda leaf, outer=outer: leaf[outer], stacked), x[outer, inner])
        torch.testing.assert_close((y[outer, inner], {k: v[outer, inner] for k, v in new.items()}), alone)
    _, shared = torch.vmap(train_call, in_dims=(0, None))(stacked, x[0, 0])
    _, alone = train_call({name: leaf[1] for name, leaf in stacked.items()}, x[0, 0])
    torch.testing.assert_close(shared["running_var"][1], alone["running_var"])


def test_instance_norm_without_affine_warns_of_other_channels_as_the_module_does():
    net = fn.InstanceNorm1d(3)
    with pytest.warns(UserWarning, match="made for 3 channels and got 4"):
        y = net({}, torch.ones(2, 4, 5))
    assert y.shape == (2, 4, 5)


@parametrize(
    case=[
        (fn.BatchNorm2d(3), (2, 4, 5, 5), "expected input with 3 channels"),
        (fn.BatchNorm2d(3), (2, 3, 5), "expected 4D|Expected 4D"),
        (fn.BatchNorm1d(3), (1, 3), "Expected more than 1 value per channel"),
        (fn.SyncBatchNorm(3), (3,), "at least 2D"),
        (fn.InstanceNorm1d(3, affine=True), (2, 4, 5), r"Expected 3 channels in axis 1, got 4"),
        (fn.InstanceNorm1d(3, track_running_stats=True), (3, 1), "more than 1 element of space"),
        (fn.InstanceNorm2d(3), (3, 5), "Expected 3D or 4D"),
        (fn.GroupNorm(2, 4), (2, 5, 3), "expected input"),
        (fn.RMSNorm(3), (2, 4), r"expected x \(\*, 3\)"),
        (fn.LocalResponseNorm(3), (2, 4), "at least 3 axes"),
        (fn.CrossMapLRN2d(3), (2, 4, 4), "Expected 4D input"),
    ]
)
def test_an_input_that_does_not_fit_is_refused_by_module_and_net(case):
    net, shape, words = case
    params, buffers = net.init(0)
    with pytest.raises((RuntimeError, ValueError)):
        fn.to_module(net, params, buffers)(torch.ones(shape))
    with pytest.raises(fn.ShapeError, match=words):
        net.apply(params, buffers, torch.ones(shape), train=True)


@pytest.mark.parametrize(
    "make",
    [
        lambda: fn.BatchNorm1d(3, eps=-1.0),
        lambda: fn.GroupNorm(-2, 4),
        lambda: fn.GroupNorm(3, 4),
        lambda: fn.LayerNorm(()),
        lambda: fn.RMSNorm([]),
        lambda: fn.LocalResponseNorm(0),
        lambda: fn.CrossMapLRN2d(-1),
    ],
)
def test_arguments_that_no_call_could_use_are_refused(make):
    with pytest.raises(ValueError, match=r"got|divisible"):
        make()


def test_cross_map_lrn_has_the_module_s_gradient_under_transforms_and_no_hessian():
    net = fn.CrossMapLRN2d(4, 0.5)
    x = torch.randn(2, 7, 3, 3, dtype=torch.float64)
    leaf = x.clone().requires_grad_()
    nn.CrossMapLRN2d(4, 0.5)(leaf).square().sum().backward()
    torch.testing.assert_close(torch.func.grad(lambda x: net({}, x).square().sum())(x), leaf.grad)
    compiled = x.clone().requires_grad_()
    torch.compile(lambda x: net({}, x), fullgraph=True, backend="aot_eager")(compiled).square().sum().backward()
    torch.testing.assert_close(compiled.grad, leaf.grad)
    with pytest.raises(fn.TransformError, match="LocalResponseNorm"):
        torch.func.hessian(lambda x: net({}, x).sum())(x)


def test_between_processes_synchronised_batch_norm_needs_a_gpu(tmp_path):
    net = fn.SyncBatchNorm(3)
    params, buffers = net.init(0)
    x = torch.randn(4, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        with pytest.raises(ValueError, match="GPU"):
            fn.to_module(net, params, buffers)(x)
        with pytest.raises(fn.ShapeError, match="on a GPU, got it on cpu"):
            net.apply(params, buffers, x, train=True)
        assert net.apply(params, buffers, x)[0].shape == x.shape
    finally:
        torch.distributed.destroy_process_group()


def test_process_group_is_part_of_the_record():
    group = object()
    assert fn.SyncBatchNorm(3, process_group=group) == fn.from_module(nn.SyncBatchNorm(3, process_group=group))[0]
    assert fn.SyncBatchNorm(3, process_group=group) != fn.SyncBatchNorm(3)


def test_a_training_call_writes_to_none_of_its_inputs():
    net = fn.InstanceNorm2d(3, track_running_stats=True, affine=True)
    params, buffers = net.init(0)
    before = clone((params, buffers))
    for examples in (1, 2):
        net.apply(params, buffers, torch.randn(examples, 3, 4, 4), train=True)
        assert_identical((params, buffers), before)
    assert params_of(fn.to_module(net, params, buffers)).keys() == params.keys()
