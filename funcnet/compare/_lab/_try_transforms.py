"""Can a form be transformed? By torch.func, and by torch.compile."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from funcnet._torch import graphs_allowed, pytree
from funcnet.compare._lab._forms import ModuleForm, PureForm
from funcnet.compare._lab._many import (
    batch_of,
    ensemble_call,
    ensemble_loop,
    loop_gradients,
    members,
    sample_gradients,
    samples_of,
)
from funcnet.compare._lab._tries import Bench, FailedError, close, need_batch, need_determinism, need_weights, tensors
from funcnet.tree import flatten

K = 3


def per_sample_of_module(bench: Bench, form: ModuleForm) -> str:
    need_weights(bench)
    need_batch(bench)
    need_determinism(bench)
    _, tree = samples_of(bench.batch)
    form.module.eval()
    weights = {name: weight.detach() for name, weight in form.module.named_parameters()}

    def loss(params: Any, sample: Any) -> Tensor:
        one = batch_of(pytree.tree_map(lambda leaf: leaf[None], sample))
        return form.subject.loss(one.call(form.module), one.labels)

    found = torch.vmap(torch.func.grad(loss), in_dims=(None, 0))(weights, tree)
    return _rows_agree(bench, found)


def per_sample_of_pure(bench: Bench, form: PureForm) -> str:
    need_weights(bench)
    need_batch(bench)
    need_determinism(bench)
    return _rows_agree(bench, sample_gradients(form, bench.batch)())


def _rows_agree(bench: Bench, found: Any) -> str:
    flat = flatten(found)
    rows = zip(*loop_gradients(bench.module_form(), bench.batch)(), strict=True)
    names = [name for name, weight in bench.module_form().module.named_parameters() if weight.requires_grad]
    expected = {name: torch.stack(row) for name, row in zip(names, rows, strict=True)}
    if not any(bool(flat[name].any()) for name in names) and any(bool(row.any()) for row in expected.values()):
        raise FailedError("every gradient came out 0: the weights are inside the module, and no argument of its call")
    return close("gradients", expected, {name: flat[name] for name in names})


def hvp_of_module(bench: Bench, form: ModuleForm) -> str:
    need_weights(bench)
    need_determinism(bench)
    return close("products", _expected_products(bench), _double_backward(bench)) + " (by two backward passes)"


def _expected_products(bench: Bench) -> list[Tensor]:
    """By two backward passes over the module, with the one kernel of attention that has a second derivative."""
    with sdpa_kernel(SDPBackend.MATH):
        return _double_backward(bench)


def _double_backward(bench: Bench) -> list[Tensor]:
    form = bench.module_form()
    weights = [weight for weight in form.module.eval().parameters() if weight.requires_grad]
    value = form.subject.loss(bench.batch.call(form.module), bench.batch.labels)
    grads = torch.autograd.grad(value, weights, create_graph=True, allow_unused=True, materialize_grads=True)
    dot = sum((grad * weight.detach()).sum() for grad, weight in zip(grads, weights, strict=True))
    if not isinstance(dot, Tensor) or not dot.requires_grad:
        return [torch.zeros_like(weight) for weight in weights]
    return list(torch.autograd.grad(dot, weights, allow_unused=True, materialize_grads=True))


def hvp_of_pure(bench: Bench, form: PureForm) -> str:
    need_weights(bench)
    need_determinism(bench)
    params = pytree.tree_map(Tensor.detach, form.params)
    gradient = torch.func.grad(lambda p: form.subject.loss(form.output(p, bench.batch), bench.batch.labels))
    found = torch.func.jvp(gradient, (params,), (params,))[1]
    learn = [leaf for leaf in flatten(found).values() if leaf.is_floating_point()]
    return close("products", _expected_products(bench), learn) + " (by jvp of grad)"


def forward_mode_of_module(bench: Bench, form: ModuleForm) -> str:
    need_weights(bench)
    form.module.eval()
    params = {name: weight.detach() for name, weight in form.module.named_parameters()}
    tangents = torch.func.jvp(lambda p: _floats(bench.batch.call(form.module)), (params,), (params,))[1]
    return _moves(tangents)


def forward_mode_of_pure(bench: Bench, form: PureForm) -> str:
    need_weights(bench)
    params = pytree.tree_map(Tensor.detach, form.params)
    tangents = torch.func.jvp(lambda p: _floats(form.output(p, bench.batch)), (params,), (params,))[1]
    return _moves(tangents)


def _floats(output: Any) -> list[Tensor]:
    leaves = pytree.tree_leaves(output)
    return [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point()]


def _moves(tangents: list[Tensor]) -> str:
    if not any(bool(tangent.any()) for tangent in tangents):
        raise FailedError("the derivative came out 0: the weights are inside the module, and no argument of its call")
    largest = max(float(tangent.abs().max()) for tangent in tangents if tangent.numel())
    return f"a derivative of {len(tangents)} output{'s' * (len(tangents) > 1)}, up to {largest:.2g}"


def ensemble_of_module(bench: Bench, form: ModuleForm) -> str:
    need_weights(bench)
    need_determinism(bench)
    stacked = members(dict(form.module.named_parameters()), K)
    form.module.eval()
    with torch.no_grad():
        found = torch.vmap(lambda params: _floats(bench.batch.call(form.module)), out_dims=None)(stacked)
        expected = [_floats(output) for output in ensemble_loop(bench.module_form(), bench.batch, K)()]
    try:
        return close(f"outputs of {K} models", expected, [found] * K)
    except FailedError as failed:
        raise FailedError(
            f"all {K} outputs came from the module's own weights, which are no argument of its call; {failed}"
        ) from None


def ensemble_of_pure(bench: Bench, form: PureForm) -> str:
    need_weights(bench)
    need_determinism(bench)
    with torch.no_grad():
        found = _floats(ensemble_call(form, bench.batch, K)())
        members_of = [_floats(output) for output in ensemble_loop(bench.module_form(), bench.batch, K)()]
    expected = [torch.stack(rows) for rows in zip(*members_of, strict=True)]
    return close(f"outputs of {K} models", expected, found)


def compiled_module(bench: Bench, form: ModuleForm) -> str:
    return _compiled(bench, form.module.eval(), lambda f: bench.batch.call(f))


def compiled_pure(bench: Bench, form: PureForm) -> str:
    def function(params: Any, *args: Any, **kwargs: Any) -> Any:
        return form.output(params, bench.batch._replace(args=args, kwargs=kwargs))

    return _compiled(bench, function, lambda f: bench.batch.call(lambda *a, **k: f(form.params, *a, **k)))


def _compiled(bench: Bench, function: Any, call: Any) -> str:
    need_determinism(bench)
    with torch.no_grad(), graphs_allowed():
        found = tensors(call(torch.compile(function, fullgraph=True, backend="aot_eager")))
    return close("outputs", bench.reference(), found)
