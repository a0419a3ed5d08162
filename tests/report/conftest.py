"""One small laboratory for all tests of the page: a model with every kind of tensor, measured as little as possible."""

from __future__ import annotations

import dataclasses

import pytest

from funcnet.compare import compare_module, study


@pytest.fixture(scope="session")
def laboratory():
    result = compare_module("tests.compare.zoo:Stack", ["f32[4,3,8,8]"], budget=0.01)
    return study(result, budget=0.002, compiling=0.0, command='funcnet compare "<script>alert(1)</script>"')


@pytest.fixture(scope="session")
def hostile(laboratory):
    """The same, with text in every place that somebody else may write to."""
    text = "</code><script>document.title='taken'</script><b onload=\"x\">&amp;'"
    (found,) = laboratory.studies
    changed = dataclasses.replace(
        found,
        title=f"Title {text}",
        notes=(f"note {text}",),
        stateful=dataclasses.replace(found.stateful, title=text, code=f"x = '''{text}'''\n"),
        entries=tuple(dataclasses.replace(entry, path=f"{text}.{entry.path}") for entry in found.entries),
    )
    return dataclasses.replace(laboratory, studies=(changed,), machine={text: text})
