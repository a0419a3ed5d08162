"""Names, shapes and counts do not change unless somebody means them to."""

from __future__ import annotations

import json

from tests.cases import CASES
from tests.golden import FILE, described, dumped, transforms
from tests.helpers import parametrize


@parametrize(case=CASES)
def test_names_shapes_and_counts_are_the_golden_ones(case):
    golden = json.loads(FILE.read_text())
    assert case.name in golden, "a new case: run python -m tests.golden"
    assert sum(param.numel() for param in case.module().parameters()) == golden[case.name]["parameters"]
    held = {"params": dict(case.module().named_parameters()), "buffers": dict(case.module().named_buffers())}
    for kind, tensors in held.items():
        shapes = {path: list(tensor.shape) for path, tensor in tensors.items()}
        assert list(shapes.items()) == list(golden[case.name][kind].items())


def test_the_golden_file_is_what_is_declared():
    assert FILE.read_text() == dumped(described())


def test_the_table_of_transforms_says_what_the_layers_declare():
    assert transforms.FILE.read_text() == transforms.rendered(), "run python -m tests.golden"


def test_the_names_of_cases_are_unique():
    names = [case.name for case in CASES]
    assert sorted(set(names)) == sorted(names)
