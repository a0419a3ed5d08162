"""Words in the place of a module."""

from __future__ import annotations

from typing import Any

from torch import nn


class Shown(nn.Module):
    """Stands in a ``repr`` for a module of which only the words are known."""

    def __init__(self, words: Any) -> None:
        super().__init__()
        self.words = words

    def __repr__(self) -> str:
        return str(self.words)
