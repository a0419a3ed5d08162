"""Stop at any moment, resume, equal bits to the end.

A CNN with AdamW (decay on matrices only), warm-up and cosine, clipping, averaged weights, accumulation, autocast and a
file for each epoch, written both ways. The stateful run lives in four objects, each with a state_dict of its own. The
stateless run is one dict, and what is saved is what there is. Both have the same bits, and take as many lines.
"""

import inspect
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import lr_scheduler, swa_utils

import funcnet as fn
from funcnet import checkpoint, optim

torch.set_num_threads(1)  # here, so that the process that is killed computes as this one does
BATCHES = [(fn.random.normal(fn.random.key(at), (32, 1, 8, 8)), torch.arange(32) % 10) for at in range(4)]


# Stateful
def train_module(path, epochs):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10))
    matrices = [weight for weight in module.parameters() if weight.dim() > 1]
    others = [weight for weight in module.parameters() if weight.dim() == 1]
    groups = [{"params": matrices}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-2, weight_decay=0.1)
    warmup = lr_scheduler.LinearLR(optimizer, 0.1, total_iters=4)
    cosine = lr_scheduler.CosineAnnealingLR(optimizer, 36)
    scheduler = lr_scheduler.SequentialLR(optimizer, [warmup, cosine], milestones=[4])
    average = swa_utils.AveragedModel(module, multi_avg_fn=swa_utils.get_ema_multi_avg_fn(0.9))
    parts, start = {"model": module, "optimizer": optimizer, "scheduler": scheduler, "ema": average}, 0
    if path.exists():
        saved = torch.load(path)
        start = saved["epoch"]
        for name, part in parts.items():
            part.load_state_dict(saved[name])
    for epoch in range(start, epochs):
        for images, labels in BATCHES:
            optimizer.zero_grad()
            for x, y in zip(images.chunk(2), labels.chunk(2), strict=True):
                with torch.autocast("cpu", torch.bfloat16):
                    loss = F.cross_entropy(module(x), y)
                (loss / 2).backward()
            nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
            average.update_parameters(module)
        torch.save({"epoch": epoch + 1, **{name: part.state_dict() for name, part in parts.items()}}, path)
    return torch.load(path)


# Stateless
def train_net(path, epochs):
    net = fn.Sequential(fn.Conv2d(1, 8, 3), fn.BatchNorm2d(8), fn.ReLU(), fn.Flatten(), fn.Linear(288, 10))
    optimizer = optim.AdamW(lr=1e-2, weight_decay=0.1, groups={("**.bias", "1"): {"weight_decay": 0.0}})
    warmup, cosine = optim.LinearLR(optimizer, 0.1, total_iters=4), optim.CosineAnnealingLR(optimizer, 36)
    schedule = optim.SequentialLR(optimizer, [warmup, cosine], milestones=[4])
    ema = optim.EMA(0.9)

    def loss(params, buffers, x, y):
        with torch.autocast("cpu", torch.bfloat16):
            logits, buffers = net.apply(params, buffers, x, train=True)
            return F.cross_entropy(logits, y), buffers

    value_and_grad = optim.accumulate(loss, 2, has_buffers=True)
    params, buffers = net.init(0)
    state, average, step = optimizer.init(params), ema.init(params), 0
    if path.exists():
        params, buffers, state, average, step = checkpoint.load(path).tree().values()
    while step < epochs * len(BATCHES):
        images, labels = BATCHES[step % len(BATCHES)]
        (_, buffers), grads = value_and_grad(params, buffers, images, labels)
        grads, _ = optim.clip_grad_norm(grads, 1.0)
        params, state = optimizer.step(params, grads, state, lr=schedule(step))
        average, step = ema.update(average, params), step + 1
        if step % len(BATCHES) == 0:
            run = {"params": params, "buffers": buffers, "optimizer": state, "ema": average, "step": step}
            checkpoint.save(path, run)
    return checkpoint.load(path).tree()


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        theirs, ours = train_module(Path(folder) / "module.pt", 5), train_net(Path(folder) / "net.safetensors", 5)
        weights = fn.tree.flatten(ours["params"]) | fn.tree.flatten(ours["buffers"])
        assert all(torch.equal(weights[name], weight) for name, weight in theirs["model"].items())
        averages = fn.tree.flatten(ours["ema"]["params"])
        assert all(torch.equal(weight, theirs["ema"][f"module.{name}"]) for name, weight in averages.items())
        lines = [len(inspect.getsource(program).splitlines()) for program in (train_module, train_net)]
        assert lines[1] <= lines[0]
        print("5 epochs, stateful and stateless: the same weights, averages and statistics, bit for bit")

        # A process that trains for long is killed without warning. A file is replaced when the next one is whole.
        killed = Path(folder) / "killed.safetensors"
        command = (
            f"import runpy, pathlib; runpy.run_path({__file__!r})['train_net'](pathlib.Path({str(killed)!r}), 999)"
        )
        with subprocess.Popen([sys.executable, "-c", command]) as process:
            while process.poll() is None and not killed.exists():
                time.sleep(0.01)
            process.kill()
        epochs = checkpoint.load(killed).tree()["step"] // len(BATCHES) + 2
        resumed, uninterrupted = train_net(killed, epochs), train_net(Path(folder) / "again.safetensors", epochs)
        for path, leaf in fn.tree.flatten(uninterrupted).items():
            assert torch.equal(torch.as_tensor(fn.tree.get(resumed, path)), torch.as_tensor(leaf))
        print("killed by kill -9, and resumed for two epochs: the bits of a run that nobody interrupted")


if __name__ == "__main__":
    main()
