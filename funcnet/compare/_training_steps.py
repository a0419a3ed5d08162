"""One training step in both forms. Readers see both side by side, so they are narrow and have no annotations."""
# mypy: disable-error-code="no-untyped-def, no-untyped-call"
# fmt: off

from __future__ import annotations

import torch
import torch.nn.functional as F

import funcnet as fn

RATE, MOMENTUM = 0.1, 0.9


def logits(output):
    """The scores of the classes; a model that returns intermediate outputs too returns them after its scores."""
    return output[0] if isinstance(output, tuple) else output


def module_step(module, optimizer, x, labels):
    optimizer.zero_grad()
    output = module(x)
    loss = F.cross_entropy(logits(output), labels)
    loss.backward()
    optimizer.step()
    return output


def function_step(net, state, x, labels, seed):
    params, buffers, velocity = state

    def loss(params):
        output, new = net.apply(
            params, buffers, x, train=True, rng=seed
        )
        value = F.cross_entropy(logits(output), labels)
        return value, (output, new)

    both = fn.value_and_grad(loss, has_aux=True)
    (_, (output, new)), grads = both(params)
    velocity = fn.tree.map(
        lambda v, g: MOMENTUM * v + g, velocity, grads
    )
    params = fn.tree.map(
        lambda w, v: torch.add(w, v, alpha=-RATE),
        params, velocity,
    )
    return (params, new, velocity), grads, output
