"""A training state is a value: saved and loaded it is the same, and a run that was killed goes on in the same bits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim import swa_utils

import funcnet as fn
from tests.checkpoint.trees import as_comparable
from tests.helpers import assert_identical, parametrize
from tests.optim import killed_training
from tests.optim.killed_training import TARGETS, list_differences, start_run, take_step
from tests.optim.test_torch_optimizers import ARGUMENTS, NAMES, draw_grads, loss, make_model, params_of


@pytest.mark.parametrize("target", TARGETS)
def test_a_training_state_comes_back_as_it_was(tmp_path, target):
    run = take_step(start_run())
    momentumless = fn.optim.SGD()
    run |= {
        "other": momentumless.init(run["params"]),  # entries without a tensor
        "betas": (0.9, 0.95),
        "plateau": {"cooldown": None, "is_over": False, "milestones": [1, 2]},
        "tied": {"a": run["params"]["0"]["weight"]},
        "half": torch.ones(3, dtype=torch.bfloat16),
    }
    fn.checkpoint.save(tmp_path / target, run, **TARGETS[target])
    restored = fn.checkpoint.load(tmp_path / target).tree()
    assert list_differences(restored, run) == []
    assert restored["other"] == run["other"]
    assert restored["tied"]["a"] is restored["params"]["0"]["weight"]
    for part in ("params", "buffers", "optimizer", "ema"):  # whose order the norm of gradients depends on
        assert fn.tree.paths(restored[part]) == fn.tree.paths(run[part])
    assert list_differences(take_step(restored), take_step(run)) == []


@parametrize(name=NAMES)
def test_the_state_of_every_optimizer_comes_back_and_goes_on(name, tmp_path):
    module = make_model(name, torch.bfloat16 if name == "AdamW" else torch.float32)
    params, optimizer = params_of(module), getattr(fn.optim, name)(**ARGUMENTS[name])
    grads_at = [
        partial(loss, step=step) if name == "LBFGS" else fn.tree.unflatten(draw_grads(name, module, step))
        for step in range(4)
    ]
    if name != "LBFGS":
        params["frozen"]["weight"] = fn.tree.ABSENT
        for grads in grads_at:
            grads["frozen"]["weight"] = fn.tree.ABSENT
    state = optimizer.init(params)
    for grads in grads_at[:3]:
        params, state = optimizer.step(params, grads, state)
    expected = optimizer.step(params, grads_at[3], state)
    for target, options in TARGETS.items():
        fn.checkpoint.save(tmp_path / target, {"optimizer": state, "params": params}, **options)
        restored = fn.checkpoint.load(tmp_path / target).tree()
        assert as_comparable(restored) == as_comparable({"optimizer": state, "params": params})
        again = optimizer.step(restored["params"], grads_at[3], restored["optimizer"])
        assert as_comparable(again) == as_comparable(expected)


@pytest.mark.parametrize("rounds", [1, pytest.param(7, marks=pytest.mark.slow)])
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_run_that_is_killed_at_random_moments_ends_with_the_same_bits(tmp_path, rounds):
    root = Path(fn.__file__).parents[1]
    command = [sys.executable, "-m", killed_training.__name__, str(tmp_path), str(rounds)]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    process = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    report: dict[str, Any] = json.loads(process.stdout)
    assert [row["target"] for row in report["rows"]] == [*TARGETS]
    for row in report["rows"]:
        assert row["differences"] == [], row
        assert row["kills"] == rounds
        assert row["steps"] > 0 or rounds == 1  # among more than one, some come after a step was saved
    assert report["left"] == []


def test_the_average_and_the_scaler_in_the_file_of_a_trainer_go_on(tmp_path):
    net, ema = fn.Linear(3, 2), fn.optim.EMA(0.9)
    module = fn.to_module(net, net.init(0)[0])
    averaged = swa_utils.AveragedModel(module, multi_avg_fn=swa_utils.get_ema_multi_avg_fn(0.9))
    averaged.update_parameters(module)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    torch.save({"ema": averaged.state_dict(), "scaler": scaler.state_dict()}, tmp_path / "last.pt")
    saved = fn.checkpoint.load(tmp_path / "last.pt").tree()
    average = {"n_averaged": saved["ema"].pop("n_averaged"), "params": fn.from_state_dict(net, saved["ema"])[0]}
    with torch.no_grad():
        module.weight.mul_(2)
    averaged.update_parameters(module)
    average = ema.update(average, fn.from_module(module)[1])
    assert_identical(average["params"], fn.from_module(averaged.module)[1])
    record, state = fn.optim.GradScaler.from_state_dict(saved["scaler"])
    assert record.to_state_dict(state) == scaler.state_dict()
