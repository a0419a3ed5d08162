"""Runs on several ranks of this machine against one process: see checks.py for what is claimed."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist

from funcnet import distributed as fd
from tests.distributed.checks import CHECKS
from tests.distributed.ranks import run_on_ranks
from tests.distributed.tensor_parallel_checks import run_all_checks


@pytest.fixture(scope="module")
def results_of_two():
    return run_on_ranks(2, run_all_checks, list(CHECKS))


@pytest.fixture(scope="module")
def results_of_four():
    return run_on_ranks(4, run_all_checks, list(CHECKS))


def assert_passed(results_by_rank, name):
    problems = [f"rank {rank}: {results[name]}" for rank, results in enumerate(results_by_rank) if results[name]]
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("name", CHECKS)
def test_two_ranks_are_as_one(results_of_two, name):
    assert_passed(results_of_two, name)


@pytest.mark.slow
@pytest.mark.parametrize("name", CHECKS)
def test_four_ranks_are_as_one(results_of_four, name):
    assert_passed(results_of_four, name)


def fail_on_last_rank(mesh):
    if mesh.get_rank() == mesh.size() - 1:
        raise ValueError("the last rank has had enough")
    torch.distributed.barrier()


@pytest.mark.slow
def test_a_rank_that_fails_says_why():
    with pytest.raises(AssertionError, match="the last rank has had enough"):
        run_on_ranks(2, fail_on_last_rank)


def test_one_process_is_a_mesh_of_one():
    assert not dist.is_initialized()
    with fd.world_mesh() as mesh:
        params = fd.shard({"w": torch.arange(3.0)}, mesh)
        value, grads = fd.value_and_grad(lambda p, x: (p["w"] * x).sum(1).mean(), mesh)(params, torch.ones(2, 3))
        assert value == 3 and torch.equal(fd.gather(grads)["w"], torch.ones(3))
    assert not dist.is_initialized()
