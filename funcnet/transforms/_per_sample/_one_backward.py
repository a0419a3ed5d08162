"""From a loss of one example to the gradients of all: one forward and one backward pass, for the whole batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from funcnet.transforms._per_sample._contributions import Contribution, StackedGrads, merge_uses, stack_sum
from funcnet.transforms._per_sample._recorder import Use, UseRecorder, leaf_ids
from funcnet.transforms._per_sample._rules import RULES
from funcnet.transforms._per_sample._sample_gradients import ParamGrads, SampleGradients, Segment
from funcnet.transforms._recording import count_gradient_bytes_of

LossOfLeaves = Callable[..., Any]
"""(the params that are differentiated, what is mapped) -> (loss, aux) of one example."""


@dataclass(frozen=True)
class RecordedPass:
    """What one pass over the batch gave.

    Attributes:
        gradients: of all examples by the params.
        aux: what the loss returned besides, one for each example.
        uses: where params met the examples.
        leaves: the params, as the loss had them.
        unrecorded: indices of the params that are used where no rule saw it; their gradients are not there.
        bytes: about the memory that the pass took at most, if it was asked for.
    """

    gradients: SampleGradients
    aux: Any
    uses: list[Use]
    leaves: list[Tensor]
    unrecorded: list[int]
    bytes: int = 0


def run_recorded(
    map_loss: Callable[[Callable[..., Any]], tuple[Tensor, Any]],
    loss: LossOfLeaves,
    params: Sequence[Tensor],
    batch_size: int,
    counts_bytes: bool = False,
) -> RecordedPass | None:
    """Run the loss for all examples under a recorder, and a single backward pass.

    Args:
        map_loss: runs a function of one example's arguments for all of them, by vmap.
        loss: ``(params, *arguments)`` -> (loss, aux) of one example.
        params: what is differentiated.
        batch_size: number of examples B.
        counts_bytes: whether ``RecordedPass.bytes`` is asked for.

    Returns:
        The gradients; None if only transforms of torch.func can give them: tensors outside take part that autograd
        records, so that the gradients may be differentiated again, or a weight was written in place after a use.
    """
    leaves = [param.detach().requires_grad_() for param in params]
    recorder = UseRecorder(leaves, batch_size, RULES)

    def run_one(*arguments: Any) -> Any:
        with recorder:
            return loss(leaves, *arguments)

    with torch.enable_grad():
        losses, aux = map_loss(run_one)
        if recorder.reaches_other_leaves or recorder.has_overwritten_weights:
            return None
        uses = recorder.uses
        graph_bytes = count_gradient_bytes_of([losses]) if counts_bytes else 0
        edges = list({(use.edge.node, use.edge.output_nr): use.edge for use in uses}.values())
        grads: tuple[Tensor | None, ...] = (None,) * (len(edges) + len(leaves))
        if losses.requires_grad:
            ones = torch.ones_like(losses)
            inputs: list[Any] = [*edges, *leaves]
            grads = torch.autograd.grad(losses, inputs, ones, allow_unused=True)
    unrecorded = [index for index, grad in enumerate(grads[len(edges) :]) if grad is not None]
    grads_by_edge = dict(zip(((edge.node, edge.output_nr) for edge in edges), grads, strict=False))
    contributions: list[tuple[Tensor, Contribution]] = []
    for use in uses:
        grad = grads_by_edge[use.edge.node, use.edge.output_nr]
        if grad is not None:
            contributions.append((use.weight, use.contribute(grad.reshape(use.shape))))
    segments = _divide_by_param(leaves, contributions, set(unrecorded))
    by_param = [ParamGrads(leaf, batch_size, segments[index]) for index, leaf in enumerate(leaves)]
    gradients = SampleGradients(by_param, batch_size)
    bytes_of_stacks = sum(batch_size * leaves[index].nbytes for index in unrecorded)
    # What the graph saves and the gradients by outputs that rules need have about the size of all gradients each.
    return RecordedPass(gradients, aux, uses, leaves, unrecorded, 2 * graph_bytes + bytes_of_stacks)


def _divide_by_param(
    leaves: Sequence[Tensor], contributions: Sequence[tuple[Tensor, Contribution]], excluded: set[int]
) -> list[list[Segment]]:
    """For each leaf, what the uses of the leaf, of its views and of tensors computed from it add to its gradients."""
    index_by_id = {id(leaf): index for index, leaf in enumerate(leaves)}
    segments: list[list[Segment]] = [[] for _ in leaves]
    computed: dict[int, tuple[Tensor, list[Contribution]]] = {}
    for weight, contribution in contributions:
        base = weight if weight._base is None else weight._base
        index = index_by_id.get(id(base))
        segment = None if index is None else _segment_of_view(leaves[index], weight, contribution)
        if index is None or segment is None:
            computed.setdefault(id(weight), (weight, []))[1].append(contribution)
        elif index not in excluded:
            segments[index].append(segment)
    wanted = [index for index in range(len(leaves)) if index not in excluded]
    for weight, uses in computed.values():
        for index, grads in _pull_back(weight, stack_sum(merge_uses(uses)), leaves, wanted):
            segments[index].append(Segment(0, leaves[index].numel(), [StackedGrads(grads)]))
    return segments


def _segment_of_view(leaf: Tensor, view: Tensor, contribution: Contribution) -> Segment | None:
    """What a use of a view adds to the elements that it shows; None if they are not one run of the leaf's elements."""
    if view is leaf:
        return Segment(0, leaf.numel(), [contribution])
    if not leaf.is_contiguous() or view.dtype != leaf.dtype or view.is_neg() or view.is_conj():
        return None
    start = int(view.storage_offset() - leaf.storage_offset())
    if view.is_contiguous():
        return Segment(start, view.numel(), [contribution])
    if view.dim() == 2 and view.t().is_contiguous():
        return Segment(start, view.numel(), [contribution.transposed()])
    return None


def _pull_back(
    weight: Tensor, stacked: Tensor, leaves: Sequence[Tensor], wanted: Sequence[int]
) -> list[tuple[int, Tensor]]:
    """From the gradients (B, ...) by a tensor computed from leaves to those by the leaves."""
    own_leaves = leaf_ids(weight)
    reached = [index for index in wanted if id(leaves[index]) in own_leaves]
    if not reached:
        return []
    grads = torch.autograd.grad(
        weight, [leaves[index] for index in reached], stacked.to(weight.dtype), retain_graph=True, is_grads_batched=True
    )
    return list(zip(reached, grads, strict=True))


def name_rules(leaves: Sequence[Tensor], uses: Sequence[Use]) -> list[list[str]]:
    """The rules that were used for each leaf, in the order of its uses."""
    names: list[dict[str, None]] = [{} for _ in leaves]
    for use in uses:
        own_leaves = leaf_ids(use.weight)
        for leaf, rules in zip(leaves, names, strict=True):
            if id(leaf) in own_leaves:
                rules[use.rule] = None
    return [list(rules) for rules in names]
