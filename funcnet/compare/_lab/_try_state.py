"""Trials of what users do with the state of a form: save it, pickle it, hook into it, share it between processes."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import funcnet as fn
from funcnet._format import format_count
from funcnet._typing import Flat
from funcnet.compare._lab._forms import Form
from funcnet.compare._lab._reasons import FailedError, NothingToTryError
from funcnet.compare._lab._trial_bench import Bench, require_same_bits, require_weights

# --- serialisation ---


def try_save(bench: Bench, form: Form) -> str:
    """Save the weights, and load them into a form that had other weights."""
    state = _save_and_load(form.saved_state())
    actual = bench.eval_outputs(form.forward_from_state(state, bench.batch))
    agreement = require_same_bits("outputs after loading", bench.reference_outputs(), actual)
    return f"{len(state)} {form.saved_state_title}; {agreement}"


def _save_and_load(state: Mapping[str, object]) -> Flat:
    file = io.BytesIO()
    torch.save({name: leaf.detach() if isinstance(leaf, Tensor) else leaf for name, leaf in state.items()}, file)
    file.seek(0)
    loaded: Flat = torch.load(file, weights_only=True)
    return loaded


def try_pickle(bench: Bench, form: Form) -> str:
    """Pickle the model, and call what was loaded."""
    data = form.pickle_model()
    actual = bench.eval_outputs(form.forward(bench.batch))
    agreement = require_same_bits("outputs", bench.reference_outputs(), actual)
    return f"{len(data):,} {form.pickle_title}; {agreement}"


# --- hooks ---


def try_hooks(bench: Bench, form: Form) -> str:
    """Register forward hooks on the leaves, and count those that fire."""
    count = form.count_hook_calls(bench.batch)
    return f"forward hooks on the leaves fired {format_count(count, 'time')} in a call"


# --- processes ---


@contextmanager
def _process_group() -> Iterator[None]:
    """A process group of this process alone, unless there is one already."""
    if not dist.is_available():
        raise NothingToTryError("this torch is built without torch.distributed")
    is_new = not dist.is_initialized()
    if is_new:
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        if is_new:
            dist.destroy_process_group()


def try_ddp(bench: Bench, form: Form) -> str:
    """Run a step in DistributedDataParallel, and check that it reduces gradients."""
    require_weights(bench)
    bucket_sizes: list[int] = []

    def record_bucket(state, bucket):  # type: ignore[no-untyped-def]  # DDP reads annotations, which may not be strings
        bucket_sizes.append(bucket.buffer().numel())
        future: Any = torch.futures.Future()
        future.set_result(bucket.buffer())
        return future

    def wrap(model: nn.Module | fn.Net) -> nn.Module:
        parallel = DistributedDataParallel(model)  # refuses a net
        parallel.register_comm_hook(None, record_bucket)
        return parallel

    with _process_group():
        form.backward_in_ddp(bench.batch, wrap)
    if not bucket_sizes:
        raise FailedError("the backward ran, and DDP reduced no gradient: it watches its own params, not those given")
    return f"DDP reduced {sum(bucket_sizes):,} gradients in {format_count(len(bucket_sizes), 'bucket')}"


def try_all_reduce(bench: Bench, form: Form) -> str:
    """Average the gradients of a step over a process group by hand."""
    require_weights(bench)
    gradients = form.step(bench.batch)().gradients
    before = {name: gradient.detach().clone() for name, gradient in gradients.items()}
    after = {name: gradient.clone() for name, gradient in before.items()}
    with _process_group():
        for gradient in after.values():
            dist.all_reduce(gradient, op=dist.ReduceOp.SUM)
            gradient /= dist.get_world_size()
    return f"all_reduce over {len(after)} gradients; {require_same_bits('they', before, after)}"
