import inspect

import pytest
import torch

from funcnet.compare import CompareError, compare_articles
from funcnet.compare import _training as training_file
from funcnet.compare import _training_steps as steps_file
from funcnet.compare._digits import TEST_SIZE, load_digits
from funcnet.compare._models import PAIRS
from funcnet.compare._training import LockstepTraining, ModuleTrainee, NetTrainee
from funcnet.tree import flatten, map, unflatten

STEPS = 6
BUFFERS = {"batchnorm"}


@pytest.fixture(scope="module")
def digits():
    return load_digits()


@pytest.fixture(scope="module")
def articles():
    return compare_articles(steps=STEPS, seed=3, budget=0.02)


@pytest.mark.parametrize("name", PAIRS)
def test_both_trainings_give_the_same_bits(articles, name):
    model = next(model for model in articles.models if model.name == name)
    assert model.largest_difference == {
        "outputs": 0.0,
        "gradients": 0.0,
        "buffers": 0.0 if name in BUFFERS else None,
        "weights": 0.0,
    }
    assert model.accuracy.stateful == model.accuracy.stateless
    assert model.identical
    assert model.passes


@pytest.mark.parametrize("name", PAIRS)
def test_what_is_compared_has_moved(digits, name):
    stateful, stateless = ModuleTrainee(PAIRS[name], 0), NetTrainee(PAIRS[name], 0)
    both = LockstepTraining(stateful, stateless)
    first = [map(torch.clone, trainee.state_tensors()) for trainee in both.trainees]
    for seed, (x, labels) in enumerate(digits.iter_batches(64, 40, seed=0)):
        both.step(x, labels, seed)
    for before, trainee in zip(first, both.trainees, strict=True):
        after = trainee.state_tensors()
        assert all(not torch.equal(before["weights"][key], after["weights"][key]) for key in before["weights"])
        assert all(not torch.equal(before["buffers"][key], after["buffers"][key]) for key in before["buffers"])
        assert all(gradient.abs().max() > 0 for gradient in after["gradients"].values())
    assert both.accuracy(digits.test_x, digits.test_labels).stateful > 0.4
    assert not any(both.largest_difference.values())


def nudged(tree):
    """The tree with its largest number moved to the next float."""
    flat = flatten(tree)
    path = max(flat, key=lambda path: float(flat[path].abs().max()))
    moved = flat[path].clone()
    place = moved.abs().argmax()
    moved.view(-1)[place] = torch.nextafter(moved.view(-1)[place], torch.tensor(float("inf")))
    return unflatten({**flat, path: moved})


def test_one_weight_off_by_one_bit_is_seen(digits):
    stateless = NetTrainee(PAIRS["conv"], 0)
    params, buffers, optimizer_state = stateless.state
    stateless.state = (nudged(params), buffers, optimizer_state)
    both = LockstepTraining(ModuleTrainee(PAIRS["conv"], 0), stateless)
    assert 0 < both.largest_difference["weights"] < 1e-6


def test_other_buffers_are_seen(digits):
    stateless = NetTrainee(PAIRS["batchnorm"], 0)
    both = LockstepTraining(ModuleTrainee(PAIRS["batchnorm"], 0), stateless)
    params, buffers, optimizer_state = stateless.state
    stateless.state = (params, map(lambda leaf: leaf + 1, buffers), optimizer_state)
    both.step(*next(digits.iter_batches(64, 1, seed=0)), 0)
    assert both.largest_difference == {"outputs": 0, "gradients": 0, "buffers": 1, "weights": 0}


def test_another_dropout_seed_is_seen(digits):
    class OtherSeed(NetTrainee):
        def step(self, x, labels, seed):
            return super().step(x, labels, seed + 1)

    both = LockstepTraining(ModuleTrainee(PAIRS["batchnorm"], 0), OtherSeed(PAIRS["batchnorm"], 0))
    both.step(*next(digits.iter_batches(64, 1, seed=0)), 0)
    assert both.largest_difference["outputs"] > 0.01
    assert both.largest_difference["gradients"] > 0
    assert both.largest_difference["buffers"] == 0


@pytest.mark.parametrize("where", ["gradients", "weights"])
def test_a_step_that_differs_makes_the_comparison_fail(monkeypatch, where):
    def perturbed(net, state, x, labels, seed):
        (params, buffers, optimizer_state), grads, output = steps_file.function_step(net, state, x, labels, seed)
        if where == "gradients":
            grads = nudged(grads)
        else:
            params = nudged(params)
        return (params, buffers, optimizer_state), grads, output

    monkeypatch.setattr(training_file, "function_step", perturbed)
    result = compare_articles(["sequential"], steps=2, budget=0.01)
    assert result.models[0].largest_difference[where] > 0
    assert not result.identical
    assert not result.passes


def test_the_programs_shown_are_those_that_ran(articles):
    for model in articles.models:
        pair = PAIRS[model.name]
        assert model.programs.stateful == inspect.getsource(pair.module)
        assert model.programs.stateless == inspect.getsource(pair.net.forward)
        assert "@fn.compose(" in model.programs.stateless
    assert articles.training_step.stateful == inspect.getsource(training_file.module_step)
    assert articles.training_step.stateless == inspect.getsource(training_file.function_step)


def test_the_stateless_step_writes_nothing(digits):
    x, labels = next(digits.iter_batches(64, 1, seed=0))
    stateless = NetTrainee(PAIRS["batchnorm"], 0)
    state = stateless.state
    copies = [map(torch.clone, tree) for tree in state]
    stateless.step(x, labels, 0)
    for tree, copy in zip(state, copies, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(leaves(tree), leaves(copy), strict=True))


def leaves(tree):
    result = []
    map(result.append, tree)
    return result


def test_gradients_per_sample_agree_and_count(articles):
    for model in articles.models:
        assert model.per_sample.batch == 64
        assert model.per_sample.agrees
        assert model.per_sample.largest_gradient > 0
        assert model.per_sample.loops_inside == ()
        assert model.per_sample.line == "torch.vmap(torch.func.grad(loss), in_dims=(None, 0))(params, batch)"


def test_times_and_bytes_are_those_of_the_models(articles):
    for model in articles.models:
        least = model.parameters * 4 * 3  # weights, gradients, momentum
        assert model.peak_bytes.stateful > least
        assert model.peak_bytes.stateless > least
        assert 0 < model.forward_seconds.stateful < model.step_seconds.stateful
        assert 0 < model.forward_seconds.stateless < model.step_seconds.stateless
        if model.name == "sequential":
            batch, hidden = 64 * (64 * 4 + 8), 64 * 128 * 4
            assert least + batch + 2 * hidden < model.peak_bytes.stateful < least + batch + 3 * hidden


def test_the_global_generator_and_the_threads_stay(digits):
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    compare_articles(["batchnorm"], steps=1, budget=0.01)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads


def test_the_digits_are_split_once(digits):
    assert digits.test_x.shape == (TEST_SIZE, 1, 8, 8)
    assert len(digits.train_x) + TEST_SIZE == 1797
    assert digits.train_x.min() == 0
    assert digits.train_x.max() == 1
    reloaded = load_digits()
    assert torch.equal(reloaded.test_labels, digits.test_labels)
    batches = list(digits.iter_batches(64, 30, seed=1))
    assert len(batches) == 30
    assert all(x.shape == (64, 1, 8, 8) and labels.shape == (64,) for x, labels in batches)


def test_progress_goes_from_start_to_end():
    reports = []
    compare_articles(
        ["sequential"], steps=1, budget=0.01, progress=lambda activity, share: reports.append((activity, share))
    )
    shares = [share for _, share in reports]
    assert shares == sorted(shares)
    assert shares[0] == 0
    assert reports[-1] == ("done", 1.0)
    assert all(activity for activity, _ in reports)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"models": ["sequental"]}, "no model 'sequental'. Did you mean 'sequential'?"),
        ({"models": ["xyz"]}, "The models are sequential, modulelist, conv, batchnorm"),
        ({"steps": 0}, "steps is 0"),
    ],
)
def test_what_is_refused(arguments, message):
    with pytest.raises(CompareError, match=message.replace("?", r"\?")):
        compare_articles(**arguments)
