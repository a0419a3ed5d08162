"""Models whose source the tests read and run."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn


class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(50, 8)
        self.drop = nn.Dropout(0.2)
        self.lstm = nn.LSTM(8, 6, 2, batch_first=True, bidirectional=True, dropout=0.1)
        self.head = nn.Linear(12, 5)

    def forward(self, words):
        x = self.drop(self.embed(words))
        output, _ = self.lstm(x)
        return self.head(output)


class BasicBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int = 1):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = None
        if stride != 1:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x):
        identity = x
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.downsample is not None:
            identity = self.downsample(x)
        out += identity
        return self.relu(out)


class ResNet(nn.Module):
    def __init__(self, depth: int = 4):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1 = nn.Sequential(*(BasicBlock(8, 8) for _ in range(depth)))
        self.layer2 = nn.Sequential(BasicBlock(8, 16, 2), *(BasicBlock(16, 16) for _ in range(depth - 1)))
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(16, 10)

    def forward(self, x):
        x = self.maxpool(F.relu(self.bn1(self.conv1(x))))
        x = self.layer1(x)
        x = self.layer2(x)
        x = torch.flatten(self.avgpool(x), 1)
        return self.fc(x)


class DoubleConv(nn.Module):
    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, padding=1),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
            nn.Conv2d(outputs, outputs, 3, padding=1),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        )

    def forward(self, x):
        return self.net(x)


class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.inc = DoubleConv(1, 4)
        self.downs = nn.ModuleList([DoubleConv(4, 8), DoubleConv(8, 16)])
        self.ups = nn.ModuleList([nn.ConvTranspose2d(16, 8, 2, 2), nn.ConvTranspose2d(8, 4, 2, 2)])
        self.convs = nn.ModuleList([DoubleConv(16, 8), DoubleConv(8, 4)])
        self.out = nn.Conv2d(4, 2, 1)

    def forward(self, x):
        x = self.inc(x)
        skips = []
        for down in self.downs:
            skips.append(x)
            x = F.max_pool2d(x, 2)
            x = down(x)
        for up, conv in zip(self.ups, self.convs, strict=True):
            x = up(x)
            x = torch.cat([skips.pop(), x], 1)
            x = conv(x)
        return self.out(x)


class Step(nn.Module):
    def __init__(self, size: int):
        super().__init__()
        self.fc = nn.Linear(size, size)
        self.norm = nn.LayerNorm(size)

    def forward(self, x, gain):
        residual = x
        x = self.norm(x)
        x = F.gelu(self.fc(x)) * gain
        return residual + x


class Deep(nn.Module):
    """Blocks in a row, a shared part, a tie, a buffer of its own, draws of its own, several outputs."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(6))
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.register_buffer("table", torch.linspace(0, 1, 6), persistent=False)
        self.steps = nn.ModuleList(Step(6) for _ in range(5))
        self.shared = Step(6)
        self.head = nn.Linear(6, 6)
        self.head.weight = self.steps[0].fc.weight

    def forward(self, x):
        self.calls += 1
        x = x + self.table
        for step in self.steps:
            x = step(x, self.gain)
        x = F.dropout(x, 0.3, self.training)
        x = self.shared(self.shared(x, self.gain), self.gain)
        logits = self.head(x)
        return {"logits": logits, "pair": (x, [logits.sum(), None]), "count": 3}


class Case(NamedTuple):
    make: Any
    inputs: tuple[Any, ...]


def _rand(*shape: int) -> torch.Tensor:
    return torch.linspace(-1, 1, torch.Size(shape).numel()).mul(7).sin().view(shape)


CASES = {
    "tagger": Case(Tagger, (torch.arange(21).view(3, 7),)),
    "resnet": Case(ResNet, (_rand(2, 3, 16, 16),)),
    "unet": Case(UNet, (_rand(2, 1, 16, 16),)),
    "deep": Case(Deep, (_rand(4, 6),)),
    "transformer": Case(lambda: nn.Transformer(16, 2, 3, 3, 32, batch_first=True), (_rand(2, 5, 16), _rand(2, 4, 16))),
    "encoder": Case(
        lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 4), (_rand(2, 5, 16),)
    ),
}
