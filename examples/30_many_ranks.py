"""Training on many ranks, sharded, and resumed on another number of them.

Run it as it is for one process, or on four: ``torchrun --nproc-per-node 4 examples/30_many_ranks.py RUN_FOLDER``, and
once more with ``--nproc-per-node 2`` on the same folder, where it resumes. The loss is that of a single machine. What
is said about ranks is said where it is called, and the numbers are those of one process, dropout and batch norms
included.
"""

import os
import sys
import tempfile
import warnings

import torch
import torch.nn.functional as F
from torch import nn
from torch.distributed.fsdp import fully_shard

import funcnet as fn
from funcnet import distributed as fd

torch.set_num_threads(1)
X = fn.random.normal(fn.random.key(1), (30, 6))
Y = (X.sum(1) > 0).long()


def make_module():
    torch.manual_seed(0)
    layers = [nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Dropout(0.2)) for _ in range(3)]
    return nn.Sequential(nn.Linear(6, 16, bias=False), nn.BatchNorm1d(16), *layers, nn.Linear(16, 2))


# Stateful: hooks on modules gather what is sharded; each rank's loss, norm and dropout are its own.
def train_module(mesh):
    module = make_module()
    for layer in module[2:5]:
        fully_shard(layer, mesh=mesh)
    fully_shard(module, mesh=mesh)
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-2)
    x, y = fd.rows((X, Y), mesh)
    for _ in range(3):
        optimizer.zero_grad()
        loss = F.cross_entropy(module(x), y)
        loss.backward()
        optimizer.step()
    return loss.detach()


# Stateless: the loss of one machine, and params that lie on a mesh.
net, first_params, first_buffers = fn.from_module(make_module())
optimizer = fn.optim.AdamW(lr=1e-2)


def loss(params, buffers, x, y, rng):
    logits, buffers = net.apply(params, buffers, x, train=True, rng=rng)
    return F.cross_entropy(logits, y), buffers


def train_params(mesh, folder, steps):
    try:
        run = fd.load(folder, mesh)  # the newest complete checkpoint, from whatever number of ranks
    except fn.checkpoint.CheckpointError:
        params = fd.shard(first_params, mesh, {"**": 0, "!1": None})  # the batch norm is whole on every rank
        run = {"params": params, "buffers": first_buffers, "state": optimizer.init(params), "step": 0, "value": 0.0}
    compute = fd.value_and_grad(loss, mesh, units=["2", "3", "4"], batch=(2, 3), has_aux=True)
    x, y = fd.rows((X, Y), mesh)
    while run["step"] < steps:
        rng = fn.random.fold_in(fn.random.key(0), run["step"])
        (value, buffers), grads = compute(run["params"], run["buffers"], x, y, rng=rng)
        grads, _ = fn.optim.clip_grad_norm(grads, 1.0)
        params, state = optimizer.step(run["params"], grads, run["state"])
        run = {"params": params, "buffers": buffers, "state": state, "step": run["step"] + 1, "value": value.item()}
        fd.save(folder, run)
    return run


def mean_square(params, x):
    return net.apply(params, first_buffers, x)[0].square().mean()


def train_on_one_process(steps):
    params, buffers, state = first_params, first_buffers, optimizer.init(first_params)
    for step in range(steps):
        rng = fn.random.fold_in(fn.random.key(0), step)
        (value, buffers), grads = fn.value_and_grad(loss, has_aux=True)(params, buffers, X, Y, rng=rng)
        grads, _ = fn.optim.clip_grad_norm(grads, 1.0)
        params, state = optimizer.step(params, grads, state)
    return params, value.item()


def main(folder):
    with fd.world_mesh() as mesh, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch about a mesh of one rank
        train_module(mesh)
        run = train_params(mesh, folder, steps=3)
        resumed = train_params(mesh, folder, steps=6)
        whole = fd.gather(resumed["params"])
        expected_params, expected = train_on_one_process(6)
        assert abs(resumed["value"] - expected) < 1e-5
        assert float(fn.tree.norm(fn.tree.sub(whole, expected_params))) < 1e-3
        vector = fd.shard(fn.random.normal_like(fn.random.key(5), first_params), mesh)
        smooth = fd.global_loss(mean_square, mesh)
        curvature = fn.hvp(smooth)(fd.shard(first_params, mesh), vector, fd.rows(X, mesh))  # which hooks cannot do
        curvature_norm = float(fd.gather({"norm": fn.tree.norm(curvature)})["norm"])
        if mesh.get_rank() == 0:
            print(fd.describe(run["params"]))
            print(f"loss after 3 steps {run['value']:.4f}, after 6 {resumed['value']:.4f}; one process {expected:.4f}")
            print(f"norm of a Hessian-vector product over all ranks: {curvature_norm:.4f}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as new_folder:
        main(sys.argv[1] if "RANK" in os.environ else new_folder)  # torchrun says which rank a process is
