"""What is true on every rank: each function compares a run on many ranks with one process, in float64."""

from __future__ import annotations

import contextlib
import copy
import os
import tempfile
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard
from torch.nn.parallel import DistributedDataParallel

import funcnet as fn
from funcnet import distributed as fd
from funcnet._tensors import same_bits
from funcnet._torch_versions import PLACED_CROSS_ENTROPY_MISCOUNTS
from funcnet._typing import Tree

CHECKS: dict[str, Callable[[DeviceMesh], None]] = {}
PLANS: dict[str, Any] = {
    "default": None,
    "no_biases": {"**": 0, "!**.bias": None},
    "second_axis": {"**.weight": 1},
    "whole": {"**": None},
}


def check(function: Callable[[DeviceMesh], None]) -> Callable[[DeviceMesh], None]:
    CHECKS[function.__name__] = function
    return function


def run_checks(mesh: DeviceMesh, names: list[str]) -> dict[str, str | None]:
    """The traceback of each check by name; None for those that passed. A check that raises on one rank ends the run."""
    results: dict[str, str | None] = {}
    for name in names:
        torch.manual_seed(0)
        try:
            CHECKS[name](mesh)
            results[name] = None
        except AssertionError:
            results[name] = traceback.format_exc()
    return results


def assert_close(left: Tree, right: Tree, tolerance: float = 1e-10) -> None:
    lefts, rights = fn.tree.flatten(left), fn.tree.flatten(right)
    assert list(lefts) == list(rights)
    for path, tensor in rights.items():
        error = float((lefts[path].double() - tensor.double()).abs().max())
        assert error <= tolerance * max(1.0, float(tensor.abs().max())), f"{path} is {error:.1e} off"


# --- values and derivatives ---

MLP = fn.Sequential(fn.Linear(5, 7), fn.Tanh(), fn.Linear(7, 3))


def make_classification() -> tuple[Tree, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(7, 5, generator=generator, dtype=torch.float64)
    y = torch.randint(0, 3, (7,), generator=generator)
    y[:2] = -100
    return MLP.init(0, dtype=torch.float64)[0], x, y


def counted_loss(params: Tree, x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(MLP(params, x), y)


def count_labels(params: Tree, x: Tensor, y: Tensor) -> Tensor:
    return (y != -100).sum()


def mean_loss(params: Tree, x: Tensor, y: Tensor) -> Tensor:
    return MLP(params, x).square().mean()


def summed_loss(params: Tree, x: Tensor, y: Tensor) -> Tensor:
    return MLP(params, x).square().sum()


LOSSES: list[tuple[Callable[..., Tensor], Any]] = [
    (counted_loss, count_labels),
    (mean_loss, "mean"),
    (summed_loss, "sum"),
]


@check
def values_and_gradients(mesh):
    full, all_x, all_y = make_classification()
    x, y = fd.rows((all_x, all_y), mesh)
    for plan in PLANS.values():
        params = fd.shard(full, mesh, plan)
        assert_close(fd.gather(params), full, 0)
        for loss, reduction in LOSSES:
            value, grads = fd.value_and_grad(loss, mesh, reduction=reduction)(params, x, y)
            expected, expected_grads = fn.value_and_grad(loss)(full, all_x, all_y)
            torch.testing.assert_close(value, expected, rtol=1e-14, atol=1e-14)
            assert_close(fd.gather(grads), expected_grads, 1e-13)
            for path, grad in fn.tree.flatten(grads).items():
                assert grad.placements == fn.tree.get(params, path).placements


@check
def second_derivatives(mesh):
    full, all_x, all_y = make_classification()
    x, y = fd.rows((all_x, all_y), mesh)
    vector = fn.random.normal_like(fn.random.key(1), full)
    for plan in PLANS.values():
        params, placed = fd.shard(full, mesh, plan), fd.shard(vector, mesh, plan)
        for loss, reduction in LOSSES:
            whole = fd.global_loss(loss, mesh, reduction=reduction)
            expected = fn.hvp(loss)(full, vector, all_x, all_y)
            assert_close(fd.gather(fn.hvp(whole)(params, placed, x, y)), expected)
            gradient = partial(torch.func.grad(whole), x=x, y=y)
            assert_close(fd.gather(torch.func.jvp(gradient, (params,), (placed,))[1]), expected)
            tangent = torch.func.jvp(partial(whole, x=x, y=y), (params,), (placed,))[1]
            expected_tangent = torch.func.jvp(partial(loss, x=all_x, y=all_y), (full,), (vector,))[1]
            torch.testing.assert_close(tangent, expected_tangent)


@check
def second_derivatives_of_a_function_of_the_value(mesh):
    # An adjoint that averages over ranks has right gradients here, and wrong second derivatives.
    full, all_x, all_y = make_classification()
    x, y = fd.rows((all_x, all_y), mesh)
    vector = fn.random.normal_like(fn.random.key(1), full)
    whole = fd.global_loss(mean_loss, mesh)
    product = fn.hvp(lambda p: whole(p, x, y).log() ** 2)(fd.shard(full, mesh), fd.shard(vector, mesh))
    assert_close(fd.gather(product), fn.hvp(lambda p: mean_loss(p, all_x, all_y).log() ** 2)(full, vector))


@check
def gradients_of_examples(mesh):
    full, x, y = make_classification()
    loss = fd.global_loss(mean_loss, mesh, batch=())
    each = torch.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))(fd.shard(full, mesh), x[:, None], y[:, None])
    expected = torch.vmap(torch.func.grad(mean_loss), in_dims=(None, 0, 0))(full, x[:, None], y[:, None])
    assert_close(fd.gather(each), expected, 1e-14)


@check
def ranks_without_rows(mesh):
    full, all_x, all_y = make_classification()
    one_x, one_y = all_x[2:3], all_y[2:3]
    for loss, reduction in LOSSES:
        value, grads = fd.value_and_grad(loss, mesh, reduction=reduction)(
            fd.shard(full, mesh), *fd.rows((one_x, one_y), mesh)
        )
        expected, expected_grads = fn.value_and_grad(loss)(full, one_x, one_y)
        torch.testing.assert_close(value, expected, rtol=1e-14, atol=1e-14)
        assert_close(fd.gather(grads), expected_grads, 1e-13)


@check
def aux_of_all_rows(mesh):
    full, all_x, all_y = make_classification()
    x, y = fd.rows((all_x, all_y), mesh)

    def loss(params, x, y):
        each = MLP(params, x).square().mean(1)
        return each.mean(), {"each": each, "right": y >= 0, "most": each.max(), "mean": each.mean()}

    aux = {"each": "rows", "right": "rows", "mean": "mean"}
    (_, found), _ = fd.value_and_grad(loss, mesh, has_aux=True, aux=aux)(fd.shard(full, mesh), x, y)
    (_, expected), _ = fn.value_and_grad(loss, has_aux=True)(full, all_x, all_y)
    torch.testing.assert_close(found["each"], expected["each"], rtol=1e-14, atol=1e-14)
    assert torch.equal(found["right"], expected["right"])
    torch.testing.assert_close(found["mean"], expected["mean"])
    torch.testing.assert_close(found["most"], loss(full, x, y)[1]["most"])


# --- models in training, with dropout, batch norms, ties and units ---


class Block(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(size, 2 * size), nn.Linear(2 * size, size)
        self.norm, self.drop = nn.LayerNorm(size), nn.Dropout(0.3)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.drop(self.down(F.gelu(self.up(self.norm(x)))))


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.layers = nn.Embedding(11, 6), nn.ModuleList([Block(6) for _ in range(3)])
        self.head = nn.Linear(6, 11, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


class ConvNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.drop = nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Dropout2d(0.3)
        self.layers = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 3)])

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop(F.relu(self.norm(self.conv(x)))).mean((2, 3))
        for layer in self.layers:
            x = layer(x)
        return x


def iter_models() -> Iterator[tuple[str, Any, Tree, Tree, Tensor, str]]:
    """Name, net, params, buffers, inputs and units."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 11, (5, 6), generator=generator)
    images = torch.randn(5, 1, 6, 6, generator=generator, dtype=torch.float64)
    torch.manual_seed(0)
    yield "foreign transformer", *fn.from_module(Transformer().double()), ids, "layers.*"
    yield "foreign CNN", *fn.from_module(ConvNet().double()), images, "layers.*"
    gpt2 = fn.models.GPT2(11, 8, hidden_size=8, num_hidden_layers=2, num_attention_heads=2)
    yield "GPT-2", gpt2, *gpt2.init(0, dtype=torch.float64), ids, "layers.*"
    llama = fn.models.Llama(11, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=12)
    yield "Llama", llama, *llama.init(0, dtype=torch.float64), ids, "layers.*"
    block = fn.Sequential(
        fn.Linear(4, 8, bias=False), fn.BatchNorm1d(8), fn.ReLU(), fn.Dropout(0.4), fn.Linear(8, 4, bias=False)
    )
    blocks = fn.Sequential(fn.Flatten(), fn.Linear(36, 4, bias=False), fn.Sequential(block, fn.remat(block), block))
    yield "blocks", blocks, *blocks.init(0, dtype=torch.float64), images, "2.*"


@check
def models_in_training(mesh):
    optimizer, key = fn.optim.AdamW(lr=1e-2), fn.random.key(3)
    for name, net, full, buffers, inputs, units in iter_models():
        if name in ("GPT-2", "Llama") and mesh.size() == 2:
            continue  # these are left to the slower run on four ranks

        def loss(params, buffers, x, rng, net=net):
            y, buffers = net.apply(params, buffers, x, train=True, rng=rng)
            return y.square().mean(), buffers

        for with_units in (None, units):
            compute = fd.value_and_grad(loss, mesh, has_aux=True, units=with_units, batch=2)
            expected_params, expected_buffers, expected_state = full, buffers, optimizer.init(full)
            params, new_buffers = fd.shard(full, mesh), buffers
            state = optimizer.init(params)
            for step in range(3):
                rng = fn.random.fold_in(key, step)
                (expected, expected_buffers), expected_grads = fn.value_and_grad(loss, has_aux=True)(
                    expected_params, expected_buffers, inputs, rng=rng
                )
                (value, new_buffers), grads = compute(params, new_buffers, fd.rows(inputs, mesh), rng=rng)
                torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-10)
                assert_close(fd.gather(grads), expected_grads)
                assert_close(new_buffers, expected_buffers)
                expected_grads, expected_norm = fn.optim.clip_grad_norm(expected_grads, 0.1)
                grads, norm = fn.optim.clip_grad_norm(grads, 0.1)
                torch.testing.assert_close(fd.gather({"norm": norm})["norm"], expected_norm, rtol=1e-10, atol=1e-10)
                expected_params, expected_state = optimizer.step(expected_params, expected_grads, expected_state)
                params, state = optimizer.step(params, grads, state)
            assert_close(fd.gather(params), expected_params)
            for path, param in fn.tree.flatten(params).items():
                assert fn.tree.get(state, path)["exp_avg"].placements == param.placements


@check
def batch_norm_to_second_order(mesh):
    net = fn.Sequential(fn.Linear(3, 4), fn.BatchNorm1d(4), fn.Tanh(), fn.Linear(4, 1))
    full, buffers = net.init(0, dtype=torch.float64)
    inputs = torch.randn(9, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) + 1e3

    def loss(params, x):
        return net.apply(params, buffers, x, train=True)[0].square().mean()

    vector = fn.random.normal_like(fn.random.key(1), full)
    whole, x = fd.global_loss(loss, mesh), fd.rows(inputs, mesh)
    product = fn.hvp(whole)(fd.shard(full, mesh), fd.shard(vector, mesh), x)
    assert_close(fd.gather(product), fn.hvp(loss)(full, vector, inputs), 1e-9)
    local = fd.global_loss(loss, mesh, statistics="local")(fd.shard(full, mesh), x)
    assert abs(local - loss(full, inputs)) > 1e-4


@check
def draws_along_other_axes(mesh):
    inputs = torch.ones(6, 5, 4, dtype=torch.float64)  # rows in the second axis, as sequences first have them
    net, key = fn.Dropout(0.5), fn.random.key(0)

    def loss(scale, x):
        first = net.apply({}, {}, x.transpose(0, 1), train=True, rng=key)[0].transpose(0, 1)
        heads = net.apply({}, {}, x.repeat_interleave(2, 0), train=True, rng=fn.random.fold_in(key, 1))[0]
        noise = fn.random.normal(key, (4,), dtype=torch.float64)  # not about rows: the same for all
        return (first * noise * scale).square().mean() + heads.square().mean()

    scale, rows_first = torch.ones((), dtype=torch.float64), inputs.transpose(0, 1).contiguous()
    value = fd.global_loss(loss, mesh)(scale, fd.rows(rows_first, mesh))
    torch.testing.assert_close(value, loss(scale, rows_first), rtol=1e-13, atol=0)


# --- checkpoints ---


@contextlib.contextmanager
def shared_folder(mesh: DeviceMesh) -> Iterator[Path]:
    """A folder that all ranks see."""
    with contextlib.ExitStack() as stack:
        names = [stack.enter_context(tempfile.TemporaryDirectory()) if mesh.get_rank() == 0 else ""]
        dist.broadcast_object_list(names)
        yield Path(names[0])
        dist.barrier()


def assert_same_bits(left: Tree, right: Tree) -> None:
    lefts, rights = fn.tree.flatten(left), fn.tree.flatten(right)
    assert list(lefts) == list(rights)
    for path, value in rights.items():
        same = same_bits(lefts[path], value) if isinstance(value, Tensor) else lefts[path] == value
        assert same, f"{path} differs"


@check
def saved_and_loaded(mesh):
    full, *_ = make_classification()
    full["counts"] = {"seen": torch.tensor([2**62 + 1, 3, 4]), "half": torch.randn(5, 3).bfloat16()}
    params = fd.shard(full, mesh, {"**": 0, "2.weight": 1, "!**.bias": None})
    optimizer = fn.optim.AdamW()
    run = {"params": params, "optimizer": optimizer.init(params), "step": 3, "rng": fn.random.key(1), "empty": {}}
    plain = {**run, "params": full, "optimizer": optimizer.init(full)}
    with shared_folder(mesh) as folder:
        path = fd.save(folder, run)
        assert path.name == "step-00000000" and fd.save_async(folder, run).wait().name == "step-00000001"
        assert_same_bits(fd.load(folder), plain)
        again = fd.load(path, mesh)
        for name, leaf in fn.tree.flatten(again).items():
            assert getattr(leaf, "placements", None) == getattr(fn.tree.get(run, name), "placements", None), name
        assert_same_bits(fd.gather(again), plain)
        other = fd.load(folder, mesh, {"**": -1})
        assert other["params"]["0"]["weight"].placements == (Shard(1),)
        assert_same_bits(fd.gather(other), plain)
        assert_same_bits(fn.checkpoint.load(path).tree(), plain)
        by_torch = {f"params.{name}": torch.zeros_like(leaf) for name, leaf in fn.tree.flatten(full).items()}
        torch.distributed.checkpoint.load(by_torch, checkpoint_id=path, no_dist=True)
        assert_same_bits(by_torch, {f"params.{name}": leaf for name, leaf in fn.tree.flatten(full).items()})
        with pytest.raises(ValueError, match="is there already"):
            fd.save(folder, run, step=1)
        assert sorted(os.listdir(folder)) == ["step-00000000", "step-00000001"]
        fn.checkpoint.save(folder / f"whole-{mesh.get_rank()}.pt", params)  # every rank takes part, as in fd.gather
        assert_same_bits(fn.checkpoint.load(folder / f"whole-{mesh.get_rank()}.pt").tree(), fd.gather(params))


# --- DTensors in nets, outside of a loss on many ranks ---

PLACED_LOSSES = (fn.MSELoss(), fn.HuberLoss(), fn.SmoothL1Loss(), fn.SoftMarginLoss(), fn.L1Loss())


@check
def losses_of_placed_inputs(mesh):
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(4, 6, generator=generator, dtype=torch.float64) for _ in range(2))
    for loss in PLACED_LOSSES:
        placed = fd.shard({"x": x, "y": y.sign()}, mesh)
        value = loss({}, placed["x"].requires_grad_(), placed["y"])
        (grad,) = torch.autograd.grad(value, placed["x"])
        expected, expected_grad = fn.value_and_grad(lambda x, y, loss=loss: loss({}, x, y))(x, y.sign())
        torch.testing.assert_close(value.full_tensor(), expected)
        torch.testing.assert_close(grad.full_tensor(), expected_grad)


@check
def functions_that_torch_gets_wrong_are_named(mesh):
    scores, labels = torch.randn(4, 3), torch.tensor([0, 1, -100, 2])
    placed = fd.shard({"scores": scores}, mesh)["scores"]
    targets = DTensor.from_local(fd.rows(labels, mesh), mesh, [Shard(0)])
    wrong = [lambda: fn.CrossEntropyLoss()({}, placed, targets)] if PLACED_CROSS_ENTROPY_MISCOUNTS else []
    conv, norm = fn.Conv2d(2, 4, 3), fn.BatchNorm2d(4)
    conv_params, images = fd.shard(conv.init(0)[0], mesh), fd.shard({"x": torch.ones(2, 2, 5, 5)}, mesh, {"x": None})
    wrong.append(lambda: conv(conv_params, images["x"]))
    norm_trees = [fd.shard(tree, mesh) for tree in norm.init(0)]
    channels = fd.shard({"x": torch.randn(2, 4, 5, 5)}, mesh, {"x": 1})["x"]
    wrong.append(lambda: norm.apply(*norm_trees, channels, train=True))
    for call in wrong:
        with pytest.raises(RuntimeError, match=r"on DTensors, .*funcnet\.distributed\.value_and_grad"):
            call()


@check
def mixed_tensors_are_named(mesh):
    net = fn.Linear(3, 2)
    params = fd.shard(net.init(0)[0], mesh)
    with pytest.raises(ValueError, match=r"on a mesh: params 'weight', params 'bias'\n.*plain: input 0"):
        net(params, torch.ones(4, 3))


@check
def a_key_draws_for_placed_inputs_what_it_draws_for_plain_ones(mesh):
    x, key = torch.ones(6, 5, 4), fn.random.key(3)
    for net in (fn.Dropout(0.5), fn.Dropout1d(0.5)):
        expected = net.apply({}, {}, x, train=True, rng=key)[0]
        for axis in range(3):
            placed = fd.shard({"x": x}, mesh, {"x": axis})["x"]
            assert torch.equal(net.apply({}, {}, placed, train=True, rng=key)[0].full_tensor(), expected)


# --- what is refused ---


@check
def wrong_plans_are_named(mesh):
    full, *_ = make_classification()
    with pytest.raises(ValueError, match=r"'3\.weight' matches nothing"):
        fd.shard(full, mesh, {"3.weight": 0})
    with pytest.raises(ValueError, match=r"'0.bias' has shape \(7,\), and so no axis 1") as caught:
        fd.shard(full, mesh, {"**": 1})
    assert "'2.bias'" in str(caught.value)
    with pytest.raises(ValueError, match="takes params out"):
        fd.shard(full, mesh, {"!**.bias": 0})


@check
def wrong_calls_are_named(mesh):
    full, x, y = make_classification()
    params = fd.shard(full, mesh)
    with pytest.raises(ValueError, match="units='layers' does not fit the params"):
        fd.value_and_grad(mean_loss, mesh, units="layers")(params, x, y)
    with pytest.raises(ValueError, match="argument 1 has 7 rows on this rank"):
        fd.value_and_grad(mean_loss, mesh)(params, x, y[:3])
    with pytest.raises(ValueError, match="argument 'batch' may hold rows"):
        fd.value_and_grad(lambda p, batch: mean_loss(p, **batch), mesh)(params, batch={"x": x, "y": y})
    with pytest.raises(ValueError, match="reduction is 'mean', 'sum' or a function"):
        fd.value_and_grad(mean_loss, mesh, reduction="max")
    with pytest.raises(RuntimeError, match="an int seed replays torch's generator over the whole batch"):
        fd.global_loss(lambda p, x: fn.Dropout(0.5).apply({}, {}, x, train=True, rng=0)[0].mean(), mesh)(params, x)


# --- from and to modules of torch.distributed ---


@check
def sharded_modules_give_and_take_params(mesh):
    module = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)).double()
    net, full, _ = fn.from_module(module)
    x = torch.randn(5, 4, dtype=torch.float64)
    sharded = copy.deepcopy(module)
    fully_shard(sharded, mesh=mesh)
    params, _ = fn.from_state_dict(net, sharded.state_dict())
    assert params["0"]["weight"].placements == (Shard(0),)
    value, grads = fd.value_and_grad(lambda p, x: net(p, x).square().mean(), mesh)(params, fd.rows(x, mesh))
    expected, expected_grads = fn.value_and_grad(lambda p, x: net(p, x).square().mean())(full, x)
    torch.testing.assert_close(value, expected)
    assert_close(fd.gather(grads), expected_grads)
    again = fn.to_module(net, fd.gather(params), {})
    fully_shard(again, mesh=mesh)
    torch.testing.assert_close(again(x), module(x))
    parallel = DistributedDataParallel(fn.to_module(net, fd.gather(params), {}))
    net_of_parallel, of_parallel, _ = fn.from_module(parallel)
    torch.testing.assert_close(net_of_parallel(of_parallel, x), module(x))
    with pytest.raises(TypeError, match="fully_shard"):
        fn.from_module(sharded)
