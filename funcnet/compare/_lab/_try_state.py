"""What of a form can be saved, watched by hooks, and shared between processes."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import funcnet as fn
from funcnet.compare._lab._forms import FunctionalCall, ModuleForm, NetForm, PureForm
from funcnet.compare._lab._tries import (
    Bench,
    FailedError,
    NothingToTryError,
    first_line,
    need_weights,
    same,
)
from funcnet.tree import flatten, unflatten

# --- serialisation ---


def saved_module(bench: Bench, form: ModuleForm) -> str:
    flat = _through_file(form.module.state_dict())
    fresh = copy.deepcopy(form.module)
    with torch.no_grad():
        for tensor in fresh.state_dict().values():
            tensor.zero_()
        fresh.load_state_dict(flat)
    found = bench.seeded(lambda: bench.batch.call(fresh.eval()))
    return f"{len(flat)} tensors by state_dict; " + same("outputs after loading", bench.reference(), found)


def saved_pure(bench: Bench, form: PureForm) -> str:
    flat = _through_file({**flatten(form.params), **flatten(form.buffers)})
    params = {name: flat[name].requires_grad_(leaf.requires_grad) for name, leaf in flatten(form.params).items()}
    buffers = {name: flat[name] for name in flatten(form.buffers)}
    if isinstance(form, NetForm):
        params, buffers = unflatten(params), unflatten(buffers)
    found = bench.seeded(lambda: form.apply(params, buffers, bench.batch)[0])
    return f"{len(flat)} tensors, no class needed; " + same("outputs after loading", bench.reference(), found)


def _through_file(flat: Any) -> dict[str, Tensor]:
    file = io.BytesIO()
    torch.save({name: leaf.detach() if isinstance(leaf, Tensor) else leaf for name, leaf in flat.items()}, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def pickled_module(bench: Bench, form: ModuleForm) -> str:
    data = pickle.dumps(form.module)
    found = bench.seeded(lambda: bench.batch.call(pickle.loads(data).eval()))
    return f"{len(data):,} bytes, weights included; " + same("outputs", bench.reference(), found)


def pickled_pure(bench: Bench, form: PureForm) -> str:
    if isinstance(form, NetForm):
        data = pickle.dumps(form.net)
        form.net = pickle.loads(data)
        held = "bytes, no weights in it"
    else:
        assert isinstance(form, FunctionalCall)
        data = pickle.dumps(form.module)
        form.module = pickle.loads(data)
        held = "bytes of module, as the call needs one"
    found = bench.seeded(form.forward(bench.batch))
    return f"{len(data):,} {held}; " + same("outputs", bench.reference(), found)


# --- hooks ---


def _hooked(module: nn.Module, call: Callable[[nn.Module], Any]) -> int:
    fired: list[str] = []
    for path, part in module.named_modules():
        if not any(True for _ in part.children()):
            part.register_forward_hook(lambda *_, path=path: fired.append(path))
    with torch.no_grad():
        call(module.eval())
    if not fired:
        raise FailedError("the call ran, and no forward hook on any leaf of the module fired")
    return len(fired)


def hooked_module(bench: Bench, form: ModuleForm) -> str:
    return f"forward hooks on the leaves fired {_hooked(form.module, bench.batch.call)} times in a call"


def hooked_pure(bench: Bench, form: PureForm) -> str:
    if isinstance(form, FunctionalCall):
        form.module = copy.deepcopy(form.module)
        count = _hooked(form.module, lambda module: form.forward(bench.batch)())
        return f"forward hooks on the leaves fired {count} time{'s' * (count != 1)} in a call"
    assert isinstance(form, NetForm)
    try:
        getattr(form.net, "register_forward_hook")(print)
    except AttributeError as error:
        raise FailedError(f"{first_line(error)}{_by_module(bench, form)}") from error
    raise FailedError("register_forward_hook was taken, and is no part of a net")


def _by_module(bench: Bench, form: NetForm) -> str:
    """What the way out gives: the net as a module."""
    try:
        count = _hooked(fn.to_module(form.net, form.subject.params, form.buffers), bench.batch.call)
    except Exception as error:  # what was tried is an alternative only
        return f" (fn.to_module then gave {first_line(error)})"
    return f" (on fn.to_module(net, params, buffers), hooks fired {count} time{'s' * (count != 1)})"


# --- processes ---


class _Group:
    """A process group of this process alone, unless there is one already."""

    def __enter__(self) -> None:
        if not dist.is_available():
            raise NothingToTryError("this torch is built without torch.distributed")
        self.ours = not dist.is_initialized()
        if self.ours:
            dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]

    def __exit__(self, *exc: object) -> None:
        if self.ours:
            dist.destroy_process_group()


def _watched(module: Any) -> tuple[DistributedDataParallel, list[int]]:
    """A module in DDP, and the sizes of the buckets of gradients it has reduced."""
    reduced: list[int] = []

    def hook(state, bucket):  # type: ignore[no-untyped-def]  # DDP reads annotations, and they must be no strings
        reduced.append(bucket.buffer().numel())
        future: Any = torch.futures.Future()
        future.set_result(bucket.buffer())
        return future

    parallel = DistributedDataParallel(module)
    parallel.register_comm_hook(None, hook)
    return parallel, reduced


def ddp_of_module(bench: Bench, form: ModuleForm) -> str:
    need_weights(bench)
    with _Group():
        parallel, reduced = _watched(form.module.train())
        output = bench.batch.call(parallel)
        form.subject.loss(output, bench.batch.labels).backward()
        del parallel
    return _reduced(reduced)


def ddp_of_pure(bench: Bench, form: PureForm) -> str:
    need_weights(bench)
    with _Group():
        if isinstance(form, NetForm):
            _watched(form.net)
            raise FailedError("DDP took a net, and has nothing to watch in it")
        assert isinstance(form, FunctionalCall)
        parallel, reduced = _watched(copy.deepcopy(form.module).train())
        buffers = {name: buffer.clone() for name, buffer in form.buffers.items()}  # which are written in place
        given = {f"module.{name}": leaf for name, leaf in {**form.params, **buffers}.items()}
        output = torch.func.functional_call(parallel, given, bench.batch.args, dict(bench.batch.kwargs))
        weights = [leaf for leaf in form.params.values() if leaf.requires_grad]
        torch.autograd.grad(form.subject.loss(output, bench.batch.labels), weights, allow_unused=True)
        del parallel
    return _reduced(reduced)


def _reduced(buckets: list[int]) -> str:
    if not buckets:
        raise FailedError("the backward ran, and DDP reduced no gradient: it watches its own params, not those given")
    return f"DDP reduced {sum(buckets):,} gradients in {len(buckets)} bucket{'s' * (len(buckets) > 1)}"


def reduced_of_module(bench: Bench, form: ModuleForm) -> str:
    need_weights(bench)
    return _all_reduce(form.step(bench.batch)().gradients)


def reduced_of_pure(bench: Bench, form: PureForm) -> str:
    need_weights(bench)
    return _all_reduce(form.step(bench.batch)().gradients)


def _all_reduce(gradients: dict[str, Tensor]) -> str:
    before = {name: gradient.detach().clone() for name, gradient in gradients.items()}
    after = {name: gradient.clone() for name, gradient in before.items()}
    with _Group():
        for gradient in after.values():
            dist.all_reduce(gradient, op=dist.ReduceOp.SUM)
            gradient /= dist.get_world_size()
    return f"all_reduce over {len(after)} gradients; " + same("they", before, after)
