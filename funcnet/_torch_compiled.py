"""Every private name of torch that calls of compiled parts from compiled code rely on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from funcnet._torch import set_frame_compiler


def read_backend() -> tuple[Callable[..., Any], bool] | None:
    """While the compiler traces: its backend, and whether it was asked for one whole graph.

    None where another graph is to be a part of this one, as in an export or inside of a higher-order operator; or where
    the backend is not one of torch's own which compile a graph and its gradient ahead of time.
    """
    from torch._dynamo.eval_frame import innermost_backend
    from torch._dynamo.symbolic_convert import InstructionTranslator

    tracer = InstructionTranslator.current_tx()
    output = tracer.output
    if output.export or output.current_tracer.parent is not None or output.compiler_fn is None:
        return None
    backend = innermost_backend(output.compiler_fn)
    is_known = getattr(backend, "compiler_name", None) in ("inductor", "aot_eager", "aot_eager_decomp_partition")
    return (backend, bool(tracer.one_graph)) if is_known else None


@contextmanager
def plain_dispatch(record_gradients: bool) -> Iterator[None]:
    """A block in the kernel of an operator in which tensors are what they are outside of it, autograd's included.

    No frame of the kernel itself is compiled, as where an operator is called between graphs.
    """
    compile_frame = set_frame_compiler(None)
    try:
        with torch._C._ForceDispatchKeyGuard(_INCLUDED, _EXCLUDED), torch.set_grad_enabled(record_gradients):
            yield
    finally:
        set_frame_compiler(compile_frame)


_INCLUDED = torch._C._dispatch_tls_local_include_set()
_EXCLUDED = torch._C._dispatch_tls_local_exclude_set()


def keeps_graph() -> bool:
    """Whether the backward pass that runs now may be run again."""
    return bool(torch._C._autograd._get_current_graph_task_keep_graph())


def leave_to_eager_code(operator: Any) -> Exception:
    """What a fake kernel raises so that the compiler breaks its graph there, and eager code calls the operator."""
    from torch._subclasses.fake_tensor import UnsupportedOperatorException

    return UnsupportedOperatorException(operator)
