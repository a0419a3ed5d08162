"""Rows of the recurrent layers; those of their composed form are close to the module, not equal, and tested apart."""

from __future__ import annotations

from typing import Any

from torch import nn

import funcnet as fn
from tests.cases.case import Case, Input, layer, normal


def pair(*inputs: Input) -> Input:
    """A tuple of inputs as one: (h, c)."""
    return Input(lambda g, dtype, front: tuple(one.make(g, dtype, front) for one in inputs))


H_AND_C = pair(normal(4, 1, 4), normal(4, 1, 4))
PROJECTED = pair(normal(1, 2), normal(1, 4))

# dropout=True is the table's; the probability of a layer goes by position. Rows with batch_first have a batch of one:
# with more, torch's kernels round by whether weights require gradients, and the table compares modules with tensors
# that do not. tests/layers/test_recurrent.py has both in the same state.
RECURRENT = [
    layer("RNN", 3, 4, given=(5, 2, 3)),
    layer("RNN", 3, 4, 2, "relu", True, True, 0.4, True, given=(1, 5, 3), dropout=True),
    layer("LSTM", 3, 4, given=(5, 2, 3)),
    layer("LSTM", 3, 4, 2, bidirectional=True, batch_first=True, given=(normal(1, 5, 3), H_AND_C)),
    layer("LSTM", 3, 4, 3, True, False, 0.4, given=(5, 2, 3), dropout=True),
    layer("LSTM", 3, 4, proj_size=2, bias=False, given=(normal(5, 3), PROJECTED)),
    layer("GRU", 3, 4, num_layers=2, given=(normal(5, 3), normal(2, 4))),
    layer("GRU", 3, 4, 2, True, True, 0.4, True, given=(5, 3), dropout=True),
    layer("RNNCell", 3, 4, given=(2, 3)),
    layer("RNNCell", 3, 4, False, "relu", given=(normal(3), normal(4))),
    layer("GRUCell", 3, 4, given=(3,)),
    layer("GRUCell", 3, 4, bias=False, given=(normal(2, 3), normal(2, 4))),
    layer("LSTMCell", 3, 4, given=(2, 3)),
    layer("LSTMCell", 3, 4, bias=False, given=(normal(3), pair(normal(4), normal(4)))),
]


def composed(name: str, *args: Any, given: tuple[Input, ...], **kwargs: Any) -> Case:
    """A row of the composed form."""
    return Case(
        f"{name}({','.join(map(str, [*args, *kwargs.items()]))})".replace(" ", ""),
        lambda: getattr(nn, name)(*args, **kwargs),
        lambda: getattr(fn, name)(*args, **kwargs, impl="composed"),
        given,
    )


COMPOSED = [
    composed("RNN", 3, 4, 2, "relu", given=(normal(3, 2, 3), normal(2, 2, 4))),
    composed("RNN", 3, 4, 2, "tanh", False, True, 0.4, True, given=(normal(2, 3, 3),)),
    composed("LSTM", 3, 4, given=(normal(3, 3),)),
    composed("LSTM", 3, 4, 2, True, True, 0.4, True, given=(normal(1, 3, 3), H_AND_C)),
    composed("LSTM", 3, 4, bias=False, proj_size=2, given=(normal(3, 3), PROJECTED)),
    composed("GRU", 3, 4, 2, True, False, 0.4, True, given=(normal(3, 2, 3),)),
    composed("GRU", 3, 4, given=(normal(3, 3), normal(1, 4))),
]
