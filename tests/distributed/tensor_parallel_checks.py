"""What is true of models whose layers ranks share: as in checks.py, against one process, in float64."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import Replicate, Shard

import funcnet as fn
from funcnet import distributed as fd
from funcnet._typing import Tree
from tests.distributed.checks import assert_close, check, run_checks

GPT2 = partial(fn.models.GPT2, 11, 8, hidden_size=8, num_hidden_layers=2, num_attention_heads=4, fused_qkv=False)
LLAMA = partial(
    fn.models.Llama, 11, hidden_size=8, num_hidden_layers=2, num_attention_heads=8, intermediate_size=12, head_dim=2
)
MODELS = {
    "GPT-2": GPT2(),
    "GPT-2 without a head": GPT2(head=False),
    "Llama": LLAMA(num_key_value_heads=4, fused_qkv=False, attention_dropout=0.3, padding_idx=1),
    "tied Llama": LLAMA(fused_qkv=False, attention_bias=True, mlp_bias=True, tie_word_embeddings=True),
}
GENERATOR = torch.Generator().manual_seed(0)
IDS = torch.randint(0, 11, (5, 6), generator=GENERATOR)
MASK = torch.ones(5, 6, dtype=torch.int64).index_fill(1, torch.tensor([0]), 0)


def run_all_checks(mesh: DeviceMesh, names: list[str]) -> dict[str, str | None]:
    """``run_checks``, with those of this file."""
    return run_checks(mesh, names)


def iter_meshes(mesh: DeviceMesh) -> Iterator[DeviceMesh]:
    """All ranks share the layers; and with four ranks, two of them do and the others have other rows."""
    yield init_device_mesh("cpu", (1, mesh.size()), mesh_dim_names=("data", "model"))
    if mesh.size() == 4:
        yield init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "model"))


def make_loss(net: Any, train: bool = True) -> Any:
    def loss(params: Tree, ids: Tensor, mask: Tensor) -> Tensor:
        y, _ = net.apply(params, {}, ids, mask, train=train, rng=fn.random.key(5))
        if not net.head:
            return y.square().mean()
        return F.cross_entropy(y[:, :-1].flatten(0, 1), ids[:, 1:].flatten())

    return loss


def random_params(net: Any) -> Tree:
    """Params none of which is zero or one, so that biases and norms matter."""
    return fn.random.normal_like(fn.random.key(2), net.init(0, dtype=torch.float64)[0])


@check
def ranks_that_share_layers_have_the_values_of_one_process(mesh):
    for shared in iter_meshes(mesh):
        ids, mask = fd.rows((IDS, MASK), shared["data"])
        for name, net in MODELS.items():
            full, loss = random_params(net), make_loss(net)
            params = fd.shard(full, shared, fd.tensor_parallel_plan(net, shared, "model"))
            value, grads = fd.value_and_grad(loss, shared, tensor_parallel="model")(params, ids, mask)
            expected, expected_grads = fn.value_and_grad(loss)(full, IDS, MASK)
            torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12, msg=name)
            assert_close(fd.gather(grads), expected_grads)
            for path, grad in fn.tree.flatten(grads).items():
                assert grad.placements == fn.tree.get(params, path).placements


@check
def ranks_that_share_layers_have_second_derivatives(mesh):
    for shared in iter_meshes(mesh):
        ids, mask = fd.rows((IDS, MASK), shared["data"])
        for name in ("GPT-2", "Llama"):
            net = MODELS[name]
            full, loss = random_params(net), make_loss(net)
            vector = fn.random.normal_like(fn.random.key(1), full)
            plan = fd.tensor_parallel_plan(net, shared, "model")
            whole = fd.global_loss(loss, shared, tensor_parallel="model")
            product = fn.hvp(whole)(fd.shard(full, shared, plan), fd.shard(vector, shared, plan), ids, mask)
            assert_close(fd.gather(product), fn.hvp(loss)(full, vector, IDS, MASK))


@check
def a_shared_layer_takes_two_sums_each_way(mesh):
    shared = next(iter_meshes(mesh))
    counts = []
    for layers in (1, 3):
        net = GPT2(num_hidden_layers=layers)
        params = fd.shard(net.init(0)[0], shared, fd.tensor_parallel_plan(net, shared, "model"))
        compute = fd.value_and_grad(make_loss(net), shared, tensor_parallel="model")
        with mock.patch.object(dist, "all_reduce", wraps=dist.all_reduce) as all_reduce:
            compute(params, IDS, MASK)
        counts.append(all_reduce.call_count)
    assert counts[1] - counts[0] == 2 * 4


@check
def ranks_share_layers_and_keep_pieces_of_their_shares(mesh):
    for shared in iter_meshes(mesh):
        net = MODELS["Llama"]
        full, loss = random_params(net), make_loss(net)
        plan = fd.tensor_parallel_plan(net, shared, "model")
        plan |= {"layers.*.mlp.down.weight": (Shard(0), Shard(1)), "layers.*.norm1": (Shard(0), Replicate())}
        ids, mask = fd.rows((IDS, MASK), shared["data"])
        value, grads = fd.value_and_grad(loss, shared, tensor_parallel="model")(fd.shard(full, shared, plan), ids, mask)
        expected, expected_grads = fn.value_and_grad(loss)(full, IDS, MASK)
        torch.testing.assert_close(value, expected)
        assert_close(fd.gather(grads), expected_grads)


@check
def what_ranks_cannot_share_is_named(mesh):
    shared = next(iter_meshes(mesh))
    with pytest.raises(ValueError, match="num_attention_heads = 3 is not divisible") as caught:
        fd.tensor_parallel_plan(
            fn.models.GPT2(1, 8, hidden_size=9, num_hidden_layers=1, num_attention_heads=3, stacked=True),
            shared,
            "model",
        )
    for reason in ("stacked=False", "fused_qkv=False", "vocab_size = 1 leaves no token"):
        assert reason in str(caught.value)
    with pytest.raises(ValueError, match="Linear has no plan by which ranks share its layers"):
        fd.tensor_parallel_plan(fn.Linear(2, 2), shared, "model")
    with pytest.raises(ValueError, match="parts of it were replaced"):
        fd.tensor_parallel_plan(GPT2().replaced({"layers.1.attn.q": fn.Linear(8, 8)}), shared, "model")
    net = MODELS["GPT-2"]
    plan = fd.tensor_parallel_plan(net, shared, "model")
    with pytest.raises(ValueError, match="the mesh has no axis 'heads'"):
        fd.value_and_grad(make_loss(net), shared, tensor_parallel="heads")
    with pytest.raises(ValueError, match="give one of them"):
        fd.value_and_grad(make_loss(net), shared, tensor_parallel="model", units="layers.*")
    compute = fd.value_and_grad(make_loss(net), shared, tensor_parallel="model")
    misplaced = fd.shard(net.init(0)[0], shared, plan | {"layers.0.mlp.up.weight": None, "norm.weight": 0})
    with pytest.raises(ValueError, match=r"'layers\.0\.mlp\.up\.weight' is placed as") as caught:
        compute(misplaced, IDS, MASK)
    assert "'norm.weight' is placed as" in str(caught.value)
    params = fd.shard(net.init(0)[0], shared, plan)
    with pytest.raises(ValueError, match="ranks that share layers have different inputs"):
        compute(params, *fd.rows((IDS[:4], MASK[:4]), shared))
    with pytest.raises(fn.ShapeError, match=r"ints in \[0, 11\)"):
        compute(params, IDS + 11, MASK)
