"""Global generators are read, lent and put back."""

from __future__ import annotations

import random

import numpy as np
import torch

from funcnet.random.internals import (
    GLOBAL_GENERATORS_LOCK,
    GeneratorStates,
    PythonGenerators,
    lend_python_generators,
    preserve_torch_state,
    read_torch_state,
    restore_torch_state,
)
from tests.helpers import global_generator_untouched


def test_torch_s_generator_is_put_back_after_a_block():
    state = read_torch_state()
    with global_generator_untouched(), preserve_torch_state():
        torch.rand(3)
        assert not torch.equal(state, read_torch_state())
    with global_generator_untouched():
        first = torch.rand(3)
        restore_torch_state(state)
        assert torch.equal(torch.rand(3), first)
        restore_torch_state(state)


def test_states_of_generators_are_equal_until_one_of_them_draws():
    generators = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    before = GeneratorStates(generators)
    assert before == GeneratorStates(generators)
    numbers = torch.rand(3, generator=generators[1])
    assert before != GeneratorStates(generators)
    before.restore()
    assert before == GeneratorStates(generators)
    assert torch.equal(torch.rand(3, generator=generators[1]), numbers)


def test_python_s_and_numpy_s_generators_are_lent_from_their_start_and_put_back():
    generators = PythonGenerators()
    before = generators.read_fingerprints()
    draw = lambda: (random.random(), np.random.rand(), np.random.randn())  # noqa: E731
    with GLOBAL_GENERATORS_LOCK, lend_python_generators(None) as lent:
        assert lent.from_start(draw)() == lent.from_start(draw)()
        assert lent.have_drawn
        lent.from_start(lambda: None)()
        assert not lent.have_drawn
    assert generators.read_fingerprints() == before
