"""A trainer's file, in and out.

Trainers save a dict: the model's state_dict, the optimizer's, the scheduler's, the epoch and the state of the random
generator. Each part has its counterpart among values, so that a run goes on here from where a trainer stopped, and
there from where it stopped here, in the bits of a run that never moved.
"""

import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

import funcnet as fn
from funcnet import checkpoint, optim

X = fn.random.normal(fn.random.key(0), (64, 8))
Y = (X @ fn.random.normal(fn.random.key(1), (8, 3))).argmax(1)


def file_of(module, optimizer, scheduler, epoch, rng):
    parts = {"model": module.state_dict(), "optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()}
    return {**parts, "epoch": epoch, "rng": rng}


# Stateful: everything is an object, and the order of the images comes from torch's global generator.
def trainer(path, epochs):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.01)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=48)
    epoch = 0
    if path.exists():
        saved = torch.load(path)
        module.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        scheduler.load_state_dict(saved["scheduler"])
        torch.set_rng_state(saved["rng"])
        epoch = saved["epoch"]
    for _ in range(epochs):
        for rows in torch.randperm(64).split(8):
            optimizer.zero_grad()
            F.cross_entropy(module(X[rows]), Y[rows]).backward()
            optimizer.step()
            scheduler.step()
    return file_of(module, optimizer, scheduler, epoch + epochs, torch.get_rng_state())


# Stateless: records that say what there is, and a run that is a value.
NET = fn.Sequential(fn.Linear(8, 16), fn.BatchNorm1d(16), fn.ReLU(), fn.Linear(16, 3))
OPTIMIZER = optim.AdamW(lr=0.01)
SCHEDULE = optim.CosineAnnealingLR(OPTIMIZER, T_max=48)


def run_from(saved):
    params, buffers = fn.from_state_dict(NET, saved["model"])
    _, state = optim.from_state_dict(OPTIMIZER, saved["optimizer"], params)
    step = SCHEDULE.read_state_dict(saved["scheduler"])
    return {"params": params, "buffers": buffers, "optimizer": state, "step": step, "rng": saved["rng"]}


def file_from(run):
    module = fn.to_module(NET, run["params"], run["buffers"])
    optimizer = optim.to_torch(OPTIMIZER, run["optimizer"], module)
    scheduler = SCHEDULE.to_torch(optimizer, run["step"])
    return file_of(module, optimizer, scheduler, run["step"] // 8, run["rng"])


def go_on(run, epochs):
    generator = torch.Generator()
    generator.set_state(run["rng"])
    params, buffers, state, step = run["params"], run["buffers"], run["optimizer"], run["step"]
    for _ in range(epochs):
        for rows in torch.randperm(64, generator=generator).split(8):

            def loss(params, rows=rows, buffers=buffers):
                logits, buffers = NET.apply(params, buffers, X[rows], train=True)
                return F.cross_entropy(logits, Y[rows]), buffers

            (_, buffers), grads = fn.value_and_grad(loss, has_aux=True)(params)
            params, state = OPTIMIZER.step(params, grads, state, lr=SCHEDULE(step))
            step += 1
    return {"params": params, "buffers": buffers, "optimizer": state, "step": step, "rng": generator.get_state()}


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        last, moved, straight = (Path(folder) / f"{name}.pt" for name in ("last", "moved", "straight"))
        torch.save(trainer(last, 2), last)
        run = go_on(run_from(checkpoint.load(last).tree()), 2)
        torch.save(file_from(run), last)
        torch.save(trainer(last, 2), moved)
        torch.save(trainer(straight, 6), straight)
        left, right = checkpoint.load(moved), checkpoint.load(straight)
        assert not checkpoint.differences(left, right)
        assert left.extras == right.extras
        print(f"two epochs there, two here, two there: the file of six there, with all bits of {len(left)} tensors")

        # Lightning has the same parts under other names; the model is an attribute of the module that is trained.
        weights = {f"model.{name}": weight for name, weight in file_from(run)["model"].items()}
        optimizers, schedulers = [file_from(run)["optimizer"]], [file_from(run)["scheduler"]]
        torch.save({"state_dict": weights, "optimizer_states": optimizers, "lr_schedulers": schedulers}, last)
        parts, model = checkpoint.load(last).tree(), checkpoint.load(last, part="state_dict.model")
        (optimizer,), (scheduler,) = parts["optimizer_states"], parts["lr_schedulers"]
        again = run_from({"model": model, "optimizer": optimizer, "scheduler": scheduler, "rng": None})
        assert again["step"] == run["step"]
        assert fn.tree.norm(fn.tree.sub(again["params"], run["params"])) == 0
        print("a file of Lightning: the same parts under other names")


if __name__ == "__main__":
    main()
