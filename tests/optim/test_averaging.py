"""Averages of params, and batch statistics for them, have the bits of torch.optim.swa_utils."""

from __future__ import annotations

import pytest
import torch
from torch.optim import swa_utils

import funcnet as fn
from funcnet import optim
from funcnet.tree import ABSENT
from tests.helpers import assert_identical, clone, parametrize

AVERAGES = {
    "EMA by lerp": (optim.EMA(0.9), {"multi_avg_fn": swa_utils.get_ema_multi_avg_fn(0.9)}),
    "EMA by sum": (optim.EMA(0.99, lerp=False), {"avg_fn": swa_utils.get_ema_avg_fn(0.99)}),
    "EMA of torch's default": (optim.EMA(), {"multi_avg_fn": swa_utils.get_ema_multi_avg_fn()}),
    "SWA by lerp": (optim.SWA(lerp=True), {"multi_avg_fn": swa_utils.get_swa_multi_avg_fn()}),
    "SWA by sum": (optim.SWA(lerp=False), {"avg_fn": swa_utils.get_swa_avg_fn()}),
    "SWA of torch's default": (optim.SWA(), {}),
    "own": (optim.WeightAverage(lambda a, b, n: a + b / (n + 2)), {"avg_fn": lambda a, b, n: a + b / (n + 2)}),
    "torch's own": (optim.WeightAverage(swa_utils.get_swa_avg_fn()), {"avg_fn": swa_utils.get_swa_avg_fn()}),
}


def move(module: torch.nn.Module, generator: torch.Generator) -> None:
    """Change all params and buffers of a module, as a step of training would."""
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            noise = torch.randn(tensor.shape, generator=generator)
            tensor.add_(noise.to(tensor.dtype) if tensor.dtype.is_floating_point else 1)


def read_params(module: torch.nn.Module) -> dict:
    return fn.tree.unflatten({path: param.detach() for path, param in module.named_parameters()})


@parametrize(name=list(AVERAGES), dtype=[torch.float32, torch.bfloat16, torch.float64], donate=[False, True])
def test_averages_have_the_bits_of_averaged_model(name, dtype, donate):
    average_rule, options = AVERAGES[name]
    module = torch.nn.Sequential(torch.nn.Linear(7, 5), torch.nn.BatchNorm1d(5), torch.nn.Linear(5, 3)).to(dtype)
    averaged_model = swa_utils.AveragedModel(module, **options)
    average = average_rule.init(read_params(module))
    generator = torch.Generator().manual_seed(0)
    for _ in range(12):
        move(module, generator)
        params, before = clone(read_params(module)), clone(average)
        new = average_rule.update(average, params, donate=donate)
        if not donate:
            assert_identical(average, before)
        assert_identical(params, read_params(module))
        average = new
        averaged_model.update_parameters(module)
        assert_identical(average["params"], read_params(averaged_model.module))
        assert_identical(average["n_averaged"], averaged_model.n_averaged)


@pytest.mark.parametrize("name", [name for name in AVERAGES if name != "SWA by lerp"])  # torch cannot, of integers
def test_buffers_are_averaged_too_where_they_are_in_the_tree(name):
    average_rule, options = AVERAGES[name]
    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    averaged_model = swa_utils.AveragedModel(module, use_buffers=True, **options)

    def read(module: torch.nn.Module) -> dict:
        return {"params": read_params(module), "buffers": fn.tree.unflatten(dict(module.named_buffers()))}

    average = average_rule.init(read(module))
    generator = torch.Generator().manual_seed(0)
    for _ in range(6):
        move(module, generator)
        average = average_rule.update(average, read(module))
        averaged_model.update_parameters(module)
    assert_identical(average["params"], read(averaged_model.module))


@pytest.mark.parametrize(
    "rule", [optim.EMA(0.9), optim.EMA(0.9, lerp=False), optim.SWA(lerp=True), optim.SWA()], ids=repr
)
def test_averages_are_mapped_compiled_and_differentiated(rule):
    trees = [{"w": torch.randn(4, 3), "gone": ABSENT, "none": None, "n": torch.tensor(step)} for step in range(5)]
    average = rule.init(trees[0])
    mapped = torch.vmap(rule.init)({"w": torch.stack([tree["w"] for tree in trees[:2]])})
    torch._dynamo.reset()
    compiled = torch.compile(rule.update, fullgraph=True, backend="aot_eager")
    by_compiler, members = average, rule.init({"w": torch.stack([tree["w"] for tree in trees[:2]])})
    del mapped
    members["n_averaged"] = torch.zeros(2, dtype=torch.int64)
    singles = [rule.init({"w": tree["w"]}) for tree in trees[:2]]
    for left, right in zip(trees, reversed(trees), strict=True):
        average = rule.update(average, left)
        by_compiler = compiled(by_compiler, left)
        assert_identical(by_compiler, average)
        members = torch.vmap(rule.update)(members, {"w": torch.stack([left["w"], right["w"]])})
        singles = [rule.update(single, {"w": tree["w"]}) for single, tree in zip(singles, (left, right), strict=True)]
    torch.testing.assert_close(members, fn.tree.stack(singles))
    assert average["params"]["gone"] is ABSENT and average["params"]["none"] is None
    w, other = (torch.randn(3, dtype=torch.float64, requires_grad=True) for _ in range(2))

    def run(w, other):
        average = rule.init({"w": torch.zeros(3, dtype=torch.float64)})
        for params in (w, other, w * other):
            average = rule.update(average, {"w": params})
        return average["params"]["w"]

    torch.autograd.gradcheck(run, (w, other))


def test_an_average_never_shares_memory_with_params():
    params = {"w": torch.ones(3)}
    average = optim.EMA().init(params)
    first = optim.EMA().update(average, params)
    pointers = {tree["w"].data_ptr() for tree in (params, average["params"], first["params"])}
    assert len(pointers) == 3
    donated = optim.EMA().update(average, params, donate=True)
    assert donated["params"]["w"] is average["params"]["w"]


def test_params_in_half_precision_are_averaged_in_float32():
    params = {"w": torch.full((3,), 1.0, dtype=torch.bfloat16)}
    ema = optim.EMA(0.999)
    average = ema.init(params, dtype=torch.float32)
    for _ in range(3):
        average = ema.update(average, params)
    for _ in range(5):
        average = ema.update(average, {"w": torch.full((3,), 1.01, dtype=torch.bfloat16)})
    assert average["params"]["w"].dtype == torch.float32
    assert 1.0 < float(average["params"]["w"][0]) < 1.001


def test_what_does_not_fit_an_average_is_named():
    average = optim.SWA().init({"a": torch.ones(2), "b": torch.ones(3)})
    with pytest.raises(fn.TreeError, match=r"an average needs trees of one structure; .*: b, c\."):
        optim.SWA().update(average, {"a": torch.ones(2), "c": torch.ones(3)})
    with pytest.raises(
        fn.TreeError, match=r"'a' has shape \(\), its average \(2,\)\n  'b' has shape \(1,\), its average \(3,\)"
    ):
        optim.SWA().update(average, {"a": torch.tensor(1.0), "b": torch.ones(1)})
    with pytest.raises(ValueError, match=r"decay is a weight in \[0, 1\], got 1\.5"):
        optim.EMA(1.5)


# --- batch statistics ---


class Foreign(torch.nn.Module):
    """A forward of its own with two normalisations, one of them called twice, and dropout."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn = torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4, momentum=0.3)
        self.drop, self.last = torch.nn.Dropout(0.3), torch.nn.BatchNorm2d(4)
        self.again = [self.bn]

    def forward(self, x):
        x = self.drop(self.again[0](self.bn(self.conv(x))).relu())
        return self.last(x).mean()


def sequential() -> torch.nn.Module:
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3),
        torch.nn.BatchNorm2d(4, momentum=0.3),
        torch.nn.ReLU(),
        torch.nn.Dropout(0.3),
        torch.nn.BatchNorm2d(4),
    )


@pytest.mark.parametrize(
    "build",
    [sequential, Foreign, lambda: torch.nn.Sequential(Foreign(), torch.nn.Identity())],
    ids=["net", "foreign", "foreign in a net"],
)
def test_update_bn_has_torchs_bits(build):
    torch.manual_seed(0)
    module = build()
    for tensor in module.buffers():
        tensor.copy_(torch.rand(tensor.shape) * 3)
    net, params, buffers = fn.from_module(module)
    params, buffers = clone(params), clone(buffers)
    given = clone((params, buffers))
    loader = [(torch.randn(5, 3, 6, 6), torch.zeros(5)) for _ in range(4)]
    torch.manual_seed(9)
    swa_utils.update_bn(loader, module)
    new = optim.update_bn(loader, net, params, buffers, rng=9)
    assert_identical(fn.tree.flatten(new), dict(module.named_buffers()))
    assert_identical((params, buffers), given)
    keyed = optim.update_bn([x for x, _ in loader], net, params, buffers, rng=fn.random.key(0))
    assert list(fn.tree.flatten(keyed)) == list(fn.tree.flatten(new))


def test_update_bn_of_a_net_without_statistics_changes_nothing():
    net = fn.Sequential(fn.Linear(2, 2), fn.BatchNorm1d(2, track_running_stats=False))
    params, buffers = net.init(0)
    assert optim.update_bn([torch.ones(3, 2)], net, params, buffers) == buffers
    plain = fn.Linear(2, 2)
    assert optim.update_bn([], plain, plain.init(0)[0], {}) == {}


def test_update_bn_refuses_what_it_cannot_change():
    class Own(torch.nn.BatchNorm1d):
        def forward(self, x):
            return super().forward(x) + 1

    net, params, buffers = fn.from_module(torch.nn.Sequential(Own(2)))
    with pytest.raises(fn.ConversionError, match=r"cannot change how .*\n  '0' is a Own\nUse torch"):
        optim.update_bn([torch.ones(3, 2)], net, params, buffers)
