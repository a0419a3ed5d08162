"""Trials of transforms: those of torch.func, and torch.compile."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from funcnet._format import format_count
from funcnet._tensors import iter_tensors
from funcnet._torch import allow_graphs
from funcnet.compare._lab._forms import Form
from funcnet.compare._lab._reasons import FailedError
from funcnet.compare._lab._trial_bench import (
    Bench,
    list_outputs,
    require_agreement,
    require_batch_axis,
    require_determinism,
    require_weights,
)
from funcnet.tree import flatten

ENSEMBLE_SIZE = 3


def try_sample_gradients(bench: Bench, form: Form) -> str:
    """Compute per-sample gradients under vmap, and compare them with a loop over the module."""
    require_weights(bench)
    require_batch_axis(bench)
    require_determinism(bench)
    actual = flatten(form.vmap_sample_gradients(bench.batch)())
    module_form = bench.make_module_form()
    rows = zip(*module_form.sample_gradients(bench.batch)(), strict=True)
    names = [name for name, weight in module_form.model.named_parameters() if weight.requires_grad]
    expected = {name: torch.stack(row) for name, row in zip(names, rows, strict=True)}
    if not any(bool(actual[name].any()) for name in names) and any(bool(row.any()) for row in expected.values()):
        raise FailedError("every gradient came out 0: the weights are inside the module, and no argument of its call")
    return require_agreement("gradients", expected, {name: actual[name] for name in names})


def try_hessian_vector_product(bench: Bench, form: Form) -> str:
    """Compute a Hessian-vector product, and compare it with two backward passes over the module."""
    require_weights(bench)
    require_determinism(bench)
    actual = form.hessian_vector_product(bench.batch)
    with sdpa_kernel(SDPBackend.MATH):  # the only kernel of attention that has a second derivative
        expected = bench.make_module_form().hessian_vector_product(bench.batch)
    return f"{require_agreement('products', expected, actual)} ({form.product_title})"


def try_forward_mode(bench: Bench, form: Form) -> str:
    """Compute the derivative of the outputs along the weights by jvp."""
    require_weights(bench)
    params = form.detached_params()
    tangents = torch.func.jvp(lambda p: _float_outputs(form.output(p, bench.batch)), (params,), (params,))[1]
    if not any(bool(tangent.any()) for tangent in tangents):
        raise FailedError("the derivative came out 0: the weights are inside the module, and no argument of its call")
    largest = max(float(tangent.abs().max()) for tangent in tangents if tangent.numel())
    return f"a derivative of {format_count(len(tangents), 'output')}, up to {largest:.2g}"


def try_ensemble(bench: Bench, form: Form) -> str:
    """Run several sets of weights under vmap, and compare them with as many modules."""
    require_weights(bench)
    require_determinism(bench)
    with torch.no_grad():
        actual = _float_outputs(form.vmap_ensemble_outputs(bench.batch, ENSEMBLE_SIZE)())
        loop = bench.make_module_form().ensemble_outputs(bench.batch, ENSEMBLE_SIZE)
        outputs_by_model = [_float_outputs(output) for output in loop()]
    expected = [torch.stack(rows) for rows in zip(*outputs_by_model, strict=True)]
    try:
        return require_agreement(f"outputs of {ENSEMBLE_SIZE} models", expected, actual)
    except FailedError as error:
        if any(not torch.equal(output, output[:1].expand_as(output)) for output in actual):
            raise
        raise FailedError(
            f"all {ENSEMBLE_SIZE} outputs came from the module's own weights, which are no argument of its call; "
            f"{error}"
        ) from None


def try_compile(bench: Bench, form: Form) -> str:
    """Compile the forward into one graph, and compare its outputs with those of the module."""
    require_determinism(bench)
    with torch.no_grad(), allow_graphs():
        actual = list_outputs(form.compile_forward(bench.batch)())
    return require_agreement("outputs", bench.reference_outputs(), actual)


def _float_outputs(output: object) -> list[Tensor]:
    return [tensor for tensor in iter_tensors(output) if tensor.is_floating_point()]
