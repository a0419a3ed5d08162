"""Modules that a user might have written, for the comparison to import."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class Scale(nn.Module):
    """Has a forward that writes to its input in place."""

    def __init__(self, features: int = 4) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(features))

    def forward(self, x):
        return x.relu_() * self.scale


class Mixed(nn.Module):
    """Has BatchNorm and dropout, and returns a dict in which one value is not a tensor."""

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.bn = nn.BatchNorm2d(8)
        self.drop = nn.Dropout(p)

    def forward(self, x, *, shift=None):
        x = self.drop(F.relu(self.bn(self.conv(x))))
        return {"features": x if shift is None else x + shift, "channels": 8}


class Branches(nn.Module):
    """Branches on the numbers in a tensor, which vmap does not support."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 2)

    def forward(self, x):
        return self.fc(x) if float(x.sum()) > 0 else -self.fc(x)


HISTORY: list[float] = []


class Careless(nn.Module):
    """Writes to its input, appends to a global list, branches on data, and draws in eval mode in one branch."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x):
        x += 1
        HISTORY.append(float(x.mean()))
        h = self.fc(x)
        if h.sum() > 1e9:
            return h
        return F.dropout(h, 0.5, training=True)


class Attends(nn.Module):
    """A batch of one, whose batch norm gets a transposed gradient: torch computes it wrongly."""

    def __init__(self, channels: int = 4) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x):
        tokens = self.bn(x).flatten(2).transpose(1, 2)
        return tokens @ tokens.transpose(1, 2)


class AlwaysDraws(nn.Module):
    """Applies dropout in eval mode too."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x):
        return F.dropout(self.fc(x), 0.5, training=True)


class Opaque(nn.Module):
    """Returns, beside a tensor, an object that is not a tree of tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x):
        return self.fc(x), object()


class Raises(nn.Module):
    """Raises an error with a long message."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x):
        raise ValueError("cannot " + "very " * 200 + "long")


class Stack(nn.Module):
    """Has BatchNorm, dropout, and blocks that repeat."""

    def __init__(self, depth: int = 2) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3)
        self.blocks = nn.Sequential(*(nn.BatchNorm2d(4) for _ in range(depth)))
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        x = self.blocks(F.relu(self.conv1(x)))
        return self.head(self.drop(x.mean((2, 3))))


class Tied(nn.Module):
    """Has one weight under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(5, 4), nn.Linear(4, 5, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x):
        return self.head(self.embed(x))


class KeepsGraph(nn.Module):
    """Keeps a tensor of the graph of its first call, through which a second backward cannot go."""

    scale: torch.Tensor | None = None

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x):
        if self.scale is None:
            self.scale = self.linear.weight.norm()
        return self.linear(x) / self.scale


def stacked() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 4), Scale(), nn.BatchNorm1d(4), nn.Dropout())


def bert(layers: int = 2) -> nn.Module:
    from transformers import BertConfig, BertModel

    sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 50}
    return BertModel(BertConfig(num_hidden_layers=layers, max_position_embeddings=16, **sizes))


def gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 16, "vocab_size": 50}
    return GPT2LMHeadModel(GPT2Config(bos_token_id=0, eos_token_id=0, **sizes))


def broken() -> nn.Module:
    raise RuntimeError("weights not found\n  in any folder")


def forty_two() -> int:
    return 42


mixed = Mixed()
number = 3
shelf = {"mixed": mixed}
