"""Pure steps of large tensors take turns between two sets of memory, and never write over what anybody can read."""

from __future__ import annotations

import copy
import gc
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import funcnet as fn
from tests.helpers import assert_identical, parametrize

SIZE = 4_500
GRADS = {"w": torch.linspace(-1, 1, SIZE)}
ADAM = fn.optim.AdamW(lr=0.1)


@pytest.fixture(autouse=True)
def _every_tensor_is_large(monkeypatch):
    monkeypatch.setattr("funcnet.optim._chunks.CHUNK_SIZE", 256)


def step(trees):
    return ADAM.step(trees[0], GRADS, trees[1])


def start():
    params = {"w": torch.linspace(0, 1, SIZE)}
    return params, ADAM.init(params)


def test_the_memory_of_the_step_before_the_last_is_taken_again():
    trees = start()
    seen = []
    for _ in range(6):
        trees = step(trees)
        seen.append([trees[0]["w"].data_ptr(), trees[1]["w"]["exp_avg"].data_ptr()])
    assert seen[2:] == [seen[0], seen[1]] * 2 and seen[0] != seen[1]


def test_what_was_given_first_is_never_written_over():
    """Torch does not know who else reads memory that it did not ask for, as that of a mapped file."""
    array = torch.linspace(0, 1, SIZE).numpy()
    before = array.copy()
    params = {"w": torch.from_numpy(array)}
    trees = params, ADAM.init(params)
    del params
    for _ in range(5):
        trees = step(trees)
    assert (array == before).all()


@parametrize(
    assign=[
        lambda tensor, array: setattr(tensor, "data", torch.from_numpy(array)),
        lambda tensor, array: tensor.set_(torch.frombuffer(array, dtype=torch.float32)),
    ]
)
def test_memory_that_others_put_into_a_result_is_never_written_over(assign):
    trees, arrays = start(), []
    for _ in range(5):
        trees = step(trees)
        arrays.append(torch.full([SIZE], 0.5).numpy())
        assign(trees[0]["w"], arrays[-1])
    assert all((array == 0.5).all() for array in arrays)


HOLDERS = {
    "tensor": lambda tensor: tensor,
    "view": lambda tensor: tensor[5:9],
    "detached": lambda tensor: tensor.detach(),
    "storage": lambda tensor: tensor.untyped_storage(),
    "array": lambda tensor: tensor.numpy(),
    "memoryview": lambda tensor: memoryview(tensor.numpy()),
    "dlpack": lambda tensor: torch.from_dlpack(tensor),
    "lazy clone": lambda tensor: torch._lazy_clone(tensor),
    "shallow copy": lambda tensor: copy.copy(tensor),
    "graph": lambda tensor: (torch.ones(SIZE, requires_grad=True) * tensor).sum(),
}


def read(held):
    if isinstance(held, torch.UntypedStorage):
        return held.tolist()
    if isinstance(held, torch.Tensor) and held.requires_grad:
        saved = held.grad_fn.next_functions[0][0]._saved_other
        return saved.clone()
    return held.clone() if isinstance(held, torch.Tensor) else held.tobytes()


@parametrize(holder=list(HOLDERS))
def test_what_anybody_holds_is_never_written_over(holder):
    trees, held = start(), []
    for _ in range(6):
        trees = step(trees)
        kept = HOLDERS[holder](trees[0]["w"])
        held.append((kept, read(kept)))
        del kept
    for kept, before in held:
        now = read(kept)
        assert torch.equal(now, before) if isinstance(now, torch.Tensor) else now == before


def test_shared_memory_is_left_to_other_processes():
    trees = step(step(start()))
    trees[0]["w"].share_memory_()
    address = trees[0]["w"].data_ptr()
    for _ in range(4):
        trees = step(trees)
        assert trees[0]["w"].data_ptr() != address


def test_branches_and_threads_from_the_same_trees_do_not_meet():
    trees = step(step(step(start())))
    expected = step(trees)
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: step(step(trees)), range(8)))
    assert_identical(step(trees), expected)
    for result in results:
        assert_identical(result, step(expected))


def test_memory_is_kept_no_longer_than_the_results():
    trees = step(step(step(start())))
    storage = trees[0]["w"].untyped_storage()
    reference = torch.multiprocessing.reductions.StorageWeakRef(storage)
    del storage
    trees = step(trees)
    assert not reference.expired()
    del trees
    gc.collect()
    assert reference.expired()
