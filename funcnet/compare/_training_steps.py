"""One training step in both forms. Readers see both side by side, so they are narrow and have no annotations."""
# mypy: disable-error-code="no-untyped-def, no-untyped-call"
# fmt: off

from __future__ import annotations

import torch.nn.functional as F

import funcnet as fn

RATE, MOMENTUM = 0.1, 0.9
OPTIMIZER = fn.optim.SGD(lr=RATE, momentum=MOMENTUM)


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
    params, buffers, optimizer_state = state

    def loss(params):
        output, new = net.apply(
            params, buffers, x, train=True, rng=seed
        )
        value = F.cross_entropy(logits(output), labels)
        return value, (output, new)

    both = fn.value_and_grad(loss, has_aux=True)
    (_, (output, new)), grads = both(params)
    params, optimizer_state = OPTIMIZER.step(
        params, grads, optimizer_state
    )
    return (params, new, optimizer_state), grads, output
