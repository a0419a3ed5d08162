"""Clipped gradients have the bits of torch.nn.utils, and nothing is written to that was not given away."""

from __future__ import annotations

import math

import pytest
import torch

import funcnet as fn
from funcnet import optim
from funcnet.tree import ABSENT
from tests.helpers import assert_identical, clone, parametrize

NORMS = {"1": 1.0, "2": 2.0, "3": 3.0, "inf": math.inf, "-1": -1.0}


def draw_grads(count: int, dtypes: list[torch.dtype], seed: int = 0) -> dict:
    generator = torch.Generator().manual_seed(seed)
    return {
        f"layer{index}": {
            "weight": torch.randn(7, index + 1, generator=generator).to(dtypes[index % len(dtypes)]),
            "bias": torch.randn(7, generator=generator).to(dtypes[index % len(dtypes)]),
        }
        for index in range(count)
    }


def clip_by_torch(grads: dict, clip) -> tuple[dict, object]:
    """Gradients as torch's functions leave them, and what those return."""
    leaves = fn.tree.flatten(grads)
    params = {path: torch.nn.Parameter(torch.zeros_like(leaf)) for path, leaf in leaves.items()}
    for path, leaf in leaves.items():
        params[path].grad = leaf.clone()
    result = clip(params.values())
    return fn.tree.unflatten({path: param.grad for path, param in params.items()}), result


DTYPES = {
    "single": [torch.float32],
    "double": [torch.float64],
    "bfloat16": [torch.bfloat16],
    "complex": [torch.complex64],
    "mixed": [torch.float32, torch.bfloat16, torch.float64],
}


@parametrize(dtypes=list(DTYPES), norm=list(NORMS), donate=[False, True])
def test_clip_grad_norm_has_torchs_bits(dtypes, norm, donate):
    for count in (1, 4, 13):
        for max_norm in (0.5, 1e9):
            grads = draw_grads(count, DTYPES[dtypes], seed=count)
            expected, total = clip_by_torch(
                grads, lambda params, max_norm=max_norm: torch.nn.utils.clip_grad_norm_(params, max_norm, NORMS[norm])
            )
            before = clone(grads)
            clipped, measured = optim.clip_grad_norm(grads, max_norm, NORMS[norm], donate=donate)
            assert_identical(clipped, expected)
            assert_identical(measured, total)
            if donate:
                assert clipped["layer0"]["weight"] is grads["layer0"]["weight"]
            else:
                assert_identical(grads, before)


@parametrize(dtypes=["single", "double", "bfloat16", "mixed"], donate=[False, True])
def test_clip_grad_value_has_torchs_bits(dtypes, donate):
    grads = draw_grads(9, DTYPES[dtypes])
    grads["layer0"]["weight"][0, 0] = math.nan
    grads["layer0"]["weight"][1, 0] = -math.inf
    expected, _ = clip_by_torch(grads, lambda params: torch.nn.utils.clip_grad_value_(params, 0.7))
    before = clone(grads)
    clipped = optim.clip_grad_value(grads, 0.7, donate=donate)
    assert_identical(clipped, expected)
    assert_identical(grads, clipped if donate else before)


def test_the_order_is_that_of_parameters():
    module = torch.nn.Sequential(*(torch.nn.Linear(5, 5) for _ in range(30)))
    net, params, _ = fn.from_module(module)
    x = torch.randn(3, 5)
    _, grads = fn.value_and_grad(lambda params: net(params, x).square().sum())(params)
    module(x).square().sum().backward()
    total = torch.nn.utils.clip_grad_norm_(module.parameters(), 1e-3)
    clipped, measured = optim.clip_grad_norm(grads, 1e-3)
    assert_identical(measured, total)
    assert_identical(fn.tree.flatten(clipped), {path: param.grad for path, param in module.named_parameters()})


def test_what_is_no_gradient_stays():
    steps = torch.tensor(5)
    grads = {"w": torch.tensor([3.0, 4.0]), "none": None, "gone": ABSENT, "steps": steps, "empty": {}}
    for clipped in (optim.clip_grad_norm(grads, 1.0)[0], optim.clip_grad_value(grads, 1.0)):
        assert list(clipped) == list(grads)
        assert clipped["none"] is None and clipped["gone"] is ABSENT and clipped["steps"] is steps
    assert_identical(optim.clip_grad_norm({"a": None, "b": {}}, 1.0), ({"a": None, "b": {}}, torch.tensor(0.0)))
    with pytest.raises(fn.TreeError, match="clip_grad_norm takes nested dicts of tensors:\n  'w' is of type float"):
        optim.clip_grad_norm({"w": 1.0}, 1.0)


def shared_grads() -> dict:
    """Gradients of torch.func: one number shown many times, one memory at two paths; and views that overlap."""
    params = {"a": torch.ones(3), "b": torch.ones(3), "sum": torch.ones(4)}
    grads = torch.func.grad(lambda p: ((p["a"] + p["b"]) * torch.arange(3.0)).sum() + p["sum"].sum())(params)
    memory = torch.arange(6.0)
    return {**grads, "left": memory[:4], "right": memory[2:], "apart": torch.ones(2, 3).T}


@pytest.mark.parametrize(
    "clip",
    [
        lambda g, donate: optim.clip_grad_norm(g, 0.1, donate=donate)[0],
        lambda g, donate: optim.clip_grad_value(g, 0.5, donate=donate),
    ],
    ids=["norm", "value"],
)
def test_donated_gradients_that_share_memory_are_each_clipped_once(clip):
    grads = shared_grads()
    assert grads["sum"].stride() == (0,)
    assert grads["a"].data_ptr() == grads["b"].data_ptr()
    expected = clip(clone(grads), False)
    donated = shared_grads()
    assert_identical(clip(donated, True), expected)
    assert_identical(
        {key: donated[key] for key in ("a", "b", "sum", "left", "right")},
        {key: grads[key] for key in ("a", "b", "sum", "left", "right")},
    )
    assert donated["apart"].allclose(expected["apart"])


def test_a_norm_that_is_not_finite():
    grads = {"a": torch.tensor([1.0, math.inf]), "b": torch.tensor([1.0]), "c": torch.tensor([math.nan])}
    expected, total = clip_by_torch(grads, lambda params: torch.nn.utils.clip_grad_norm_(params, 1.0))
    assert_identical(optim.clip_grad_norm(grads, 1.0), (expected, total))
    with pytest.raises(RuntimeError, match=r"of order 2\.0 is nan: not finite are a, c\."):
        optim.clip_grad_norm(grads, 1.0, error_if_nonfinite=True)
    with pytest.raises(RuntimeError, match="is inf: the sum of finite numbers overflows"):
        optim.clip_grad_norm({"a": torch.tensor([3e38, 3e38])}, 1.0, 1.0, error_if_nonfinite=True)


def test_clipping_is_differentiated_mapped_and_compiled():
    grads = fn.tree.to(draw_grads(3, [torch.float32]), torch.float64)
    flat, unravel = fn.tree.ravel(grads)
    for clip in (
        lambda g: optim.clip_grad_norm(g, 0.5, donate=True)[0],
        lambda g: optim.clip_grad_value(g, 0.5, donate=True),
    ):
        before = clone(grads)
        torch.autograd.gradcheck(
            lambda flat, clip=clip: fn.tree.ravel(clip(unravel(flat)))[0], flat.clone().requires_grad_()
        )
        members = fn.tree.stack([grads, fn.tree.scale(grads, 3.0)])
        mapped = torch.vmap(clip)(members)
        assert_identical(grads, before)
        expected = fn.tree.stack([clip(clone(member)) for member in fn.tree.unstack(members)])
        torch.testing.assert_close(mapped, expected, rtol=1e-12, atol=0)
        torch._dynamo.reset()
        compiled = torch.compile(clip, fullgraph=True, backend="aot_eager")
        assert_identical(compiled(grads), clip(clone(grads)))
    by_norm = torch.func.grad(lambda max_norm: fn.tree.norm(optim.clip_grad_norm(grads, max_norm)[0]))(
        torch.tensor(0.5)
    )
    torch.testing.assert_close(by_norm, torch.tensor(1.0))
