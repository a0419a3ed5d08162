import gc

import pytest
import torch

from funcnet.compare._measure import LiveBytes, largest_difference, measure_seconds, single_threaded
from funcnet.compare._results import Sides, to_json

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        ([1.0, 2.0], [1.0, 2.0], 0.0),
        ([1.0, 2.0], [1.0, 2.5], 0.5),
        ([NAN, 1.0], [NAN, 1.0], 0.0),
        ([NAN, 1.0], [NAN, 3.0], 2.0),
        ([NAN, 1.0], [0.0, 1.0], INF),
        ([INF, 1.0], [INF, 1.0], 0.0),
        ([INF, 1.0], [-INF, 1.0], INF),
        ([True, False], [True, True], 1.0),
    ],
)
def test_largest_difference_of_values(left, right, expected):
    assert largest_difference({"w": torch.tensor(left)}, {"w": torch.tensor(right)}) == expected


def test_the_smallest_difference_is_not_lost():
    tensor = torch.ones(3)
    assert largest_difference(tensor, torch.nextafter(tensor, tensor + 1)) == torch.finfo(torch.float32).eps
    tiny = torch.tensor([5e-324], dtype=torch.float64)
    assert largest_difference(tiny, torch.zeros(1, dtype=torch.float64)) == 5e-324
    large = torch.tensor([2**62])
    assert largest_difference(large, large + 1) > 0


@pytest.mark.parametrize(
    "tree",
    [
        {"w": torch.ones(3)},
        {"w": torch.ones(2, dtype=torch.float64)},
        {"v": torch.ones(2)},
        {"w": torch.ones(2), "v": torch.ones(2)},
        {"w": 1.0},
        {},
    ],
)
def test_other_shapes_dtypes_and_keys_are_infinitely_far(tree):
    assert largest_difference({"w": torch.ones(2)}, tree) == INF


def test_leaves_that_are_no_tensors_are_compared_too():
    assert largest_difference({"n": 3, "s": "a"}, {"n": 3, "s": "a"}) == 0
    assert largest_difference({"n": 3}, {"n": 4}) == INF


def test_live_bytes_counts_what_is_alive():
    counted_twice = torch.ones(10)
    with LiveBytes() as memory:
        memory.count_tensors([counted_twice, counted_twice])
        assert memory.live == 40
        x = torch.zeros(100)
        view = x.view(10, 10)
        del x
        assert memory.live == 440
        y = view + 1
        del view
        gc.collect()
        assert memory.live == 440
    assert memory.peak == 840
    assert y.sum() == 100


def test_live_bytes_sees_the_backward_pass():
    weight = torch.ones(100, requires_grad=True)
    with LiveBytes() as memory:
        (weight * weight).sum().backward()
    assert memory.live == 400  # the gradient
    assert memory.peak > 400


def test_measure_seconds_tells_slow_from_quick():
    small, large = torch.ones(4, 4), torch.ones(400, 400)
    sides = measure_seconds(lambda: small @ small, lambda: large @ large, budget=0.05)
    assert sides.ratio > 2


def test_single_threaded_is_put_back():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with single_threaded():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_json_has_no_number_that_json_lacks():
    assert to_json(Sides(0.0, 1.0)) == {"stateful": 0.0, "stateless": 1.0, "ratio": "inf"}
    assert to_json({"a": (NAN, 1)}) == {"a": ["nan", 1]}
