"""One small laboratory for all tests of the page: a model with all kinds of tensors, measured as little as possible."""

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
    """The same laboratory, with hostile text in every place that a stranger may write to."""
    text = "</code><script>document.title='taken'</script><b onload=\"x\">&amp;'"
    (study,) = laboratory.studies
    changed = dataclasses.replace(
        study,
        title=f"Title {text}",
        notes=(f"note {text}",),
        stateful=dataclasses.replace(study.stateful, title=text, code=f"x = '''{text}'''\n"),
        entries=tuple(dataclasses.replace(entry, path=f"{text}.{entry.path}") for entry in study.entries),
    )
    return dataclasses.replace(laboratory, studies=(changed,), machine={text: text})
