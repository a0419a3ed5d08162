"""Patterns of names: what they match, in bounded time, and what their errors tell."""

from __future__ import annotations

import random
import re

import pytest
import torch

from funcnet.checkpoint import Cast, Rename, RuleError, Spec, plan
from funcnet.checkpoint.rules._patterns import Pattern


def test_patterns_of_many_holes_take_no_longer_than_others():
    text = ".".join(f"{{{hole}**}}" for hole in "abcdefgh")
    pattern = Pattern(f"{text}.x")
    assert pattern.match(".".join(["k"] * 200)) is None
    assert pattern.match(".".join("abcdefghi") + ".x") == {**dict(zip("bcdefgh", "cdefghi", strict=True)), "a": "a.b"}


def test_a_pattern_of_many_holes_finds_what_a_regular_expression_finds():
    rng = random.Random(0)
    for _ in range(300):
        holes = [f"{{{hole}{rng.choice(['', '**'])}}}" for hole in rng.sample("abcdef", rng.randrange(2, 6))]
        text = "".join(rng.choice(["", ".", "x", "/", "x."]) + hole for hole in holes) + rng.choice(["", ".x", "x"])
        name = "".join(rng.choices("xy./", k=rng.randrange(3, 14)))
        match = re.fullmatch(re.sub(r"\\\{(\w)(\\\*\\\*)?\\\}", _as_group, re.escape(text)), name)
        assert Pattern(text).match(name) == (match and match.groupdict()), (text, name)


def _as_group(hole):
    return f"(?P<{hole[1]}>{'.+' if hole[2] else '[^./]+'})"


def test_a_star_in_a_pattern_is_told_what_to_write():
    with pytest.raises(RuleError, match=r"A star stands for itself: write \{i\} for one key"):
        plan({"layers.0.w": Spec((1,), torch.float32)}, [Rename("layers.*.w", "h.*.w")])


def test_short_names_of_dtypes():
    specs = {"w": Spec((1,), torch.float32)}
    assert plan(specs, [Cast("w", "fp32", "half", lossy=True)]).specs["w"].dtype is torch.float16
    assert Cast("w", "float", "bf16") == Cast("w", "float32", "bfloat16")
