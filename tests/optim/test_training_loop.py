"""Whole training loops: what stands between a gradient and a step, together, beside the same loop in torch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch._dynamo.testing import CompileCounterWithBackend
from torch.optim import lr_scheduler, swa_utils

import funcnet as fn
from funcnet import optim
from tests.helpers import assert_identical

NET = fn.Sequential(
    fn.Conv2d(1, 4, 3), fn.BatchNorm2d(4), fn.ReLU(), fn.Flatten(), fn.Dropout(0.2), fn.Linear(4 * 36, 10)
)


def draw_batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(12, 1, 8, 8, generator=generator), torch.randint(10, (12,), generator=generator)


def loss(params, buffers, x, y, rng=None):
    with torch.autocast("cpu", torch.bfloat16):
        logits, buffers = NET.apply(params, buffers, x, train=True, rng=rng)
        return F.cross_entropy(logits, y), buffers


@pytest.mark.parametrize("donate", [False, True])
def test_a_loop_with_everything_has_the_bits_of_torchs(donate):
    params, buffers = NET.init(0)
    module = fn.to_module(NET, params, buffers).train()
    decayed = [param for param in module.parameters() if param.dim() > 1]
    others = [param for param in module.parameters() if param.dim() <= 1]
    torch_optimizer = torch.optim.AdamW(
        [{"params": decayed}, {"params": others, "weight_decay": 0.0}], lr=1e-2, weight_decay=0.1
    )
    scheduler = lr_scheduler.OneCycleLR(torch_optimizer, max_lr=0.05, total_steps=12)
    averaged = swa_utils.AveragedModel(module, multi_avg_fn=swa_utils.get_ema_multi_avg_fn(0.9))

    optimizer = optim.AdamW(lr=1e-2, weight_decay=0.1, groups={("**.bias", "1"): {"weight_decay": 0.0}})
    schedule, ema = optim.OneCycleLR(optimizer, max_lr=0.05, total_steps=12), optim.EMA(0.9)
    state, average = optimizer.init(params), ema.init(params)
    value_and_grad = optim.accumulate(loss, 3, has_buffers=True)
    for step in range(12):
        x, y = draw_batch(step)
        torch.manual_seed(step)
        torch_optimizer.zero_grad()
        for x_part, y_part in zip(x.chunk(3), y.chunk(3), strict=True):
            with torch.autocast("cpu", torch.bfloat16):
                value = F.cross_entropy(module(x_part), y_part)
            (value / 3).backward()
        expected_norm = torch.nn.utils.clip_grad_norm_(module.parameters(), 0.5)
        torch_optimizer.step()
        scheduler.step()
        averaged.update_parameters(module)

        (_, buffers), grads = value_and_grad(params, buffers, x, y, rng=step)
        grads, norm = optim.clip_grad_norm(grads, 0.5, donate=donate)
        params, state = optimizer.step(params, grads, state, donate=donate, **schedule.hyperparameters(step))
        average = ema.update(average, params, donate=donate)
        assert_identical(norm, expected_norm)
        assert_identical(fn.tree.flatten(params), dict(module.named_parameters()))
        assert_identical(fn.tree.flatten(buffers), dict(module.named_buffers()))
    assert_identical(fn.tree.flatten(average["params"]), dict(averaged.module.named_parameters()))


def test_a_whole_step_is_one_graph_that_step_and_schedule_never_compile_again():
    net = fn.Sequential(fn.Linear(4, 8), fn.Tanh(), fn.Linear(8, 2))
    optimizer, ema = optim.AdamW(lr=0.1), optim.EMA(0.9)
    schedule = optim.CosineAnnealingLR(optimizer, 20)
    table = schedule.table(30)

    def step(run, x):
        grads = torch.func.grad(lambda params: net(params, x).square().mean())(run["params"])
        grads, _ = optim.clip_grad_norm(grads, 0.1)
        lr = table.gather(0, run["step"])
        params, state = optimizer.step(run["params"], grads, run["optimizer"], lr=lr)
        return {
            "params": params, "optimizer": state, "ema": ema.update(run["ema"], params), "step": run["step"] + 1
        }  # fmt: skip

    params, _ = net.init(0)
    run = {"params": params, "optimizer": optimizer.init(params), "ema": ema.init(params), "step": torch.tensor(0)}
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(step, fullgraph=True, backend=counter)
    by_compiler = run
    for index in range(8):
        x = torch.randn(3, 4, generator=torch.Generator().manual_seed(index))
        run, by_compiler = step(run, x), compiled(by_compiler, x)
    torch.testing.assert_close(by_compiler, run)
    assert counter.frame_count == 1
