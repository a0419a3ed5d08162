"""Losses and distances beyond the table: weights, old arguments, warnings, refusals, and forms that replace kernels."""

from __future__ import annotations

import copy
import pickle
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import funcnet as fn
from tests.cases.losses import LOSSES
from tests.helpers import assert_identical, buffers_of, clone, parametrize, params_of

WEIGHT = torch.tensor([0.1, 0.7, 3.0])
WEIGHTED = [
    "NLLLoss",
    "CrossEntropyLoss",
    "BCELoss",
    "BCEWithLogitsLoss",
    "MultiMarginLoss",
    "MultiLabelSoftMarginLoss",
]


# --- weights ---


@parametrize(name=WEIGHTED)
def test_a_weight_is_numbers_in_the_record_and_a_buffer_in_the_call(name):
    loss = getattr(fn, name)(weight=WEIGHT)
    assert loss.weight == tuple(WEIGHT.tolist())
    assert loss == getattr(fn, name)(weight=WEIGHT.tolist()) == getattr(fn, name)(weight=loss.weight)
    assert_identical(loss.init(0), ({}, {"weight": WEIGHT}))
    net, params, buffers = fn.from_module(getattr(nn, name)(weight=WEIGHT))
    assert net == loss
    assert_identical((params, buffers), ({}, {"weight": WEIGHT}))
    assert_identical(fn.to_state_dict(net, params, buffers), getattr(nn, name)(weight=WEIGHT).state_dict())
    assert_identical(fn.to_module(net, params, buffers).weight, WEIGHT)


@parametrize(dtype=[torch.float64, torch.bfloat16, torch.int64])
def test_a_weight_of_another_dtype_keeps_its_bits(dtype):
    module = nn.BCEWithLogitsLoss(pos_weight=(WEIGHT * 10).to(dtype))
    net, _, buffers = fn.from_module(module)
    assert_identical(buffers, {"pos_weight": module.pos_weight})
    if dtype.is_floating_point:
        assert_identical(net.init(0, dtype=dtype)[1], buffers)


def test_a_weight_may_have_any_number_of_axes():
    for weight in (torch.tensor(0.5), torch.rand(2, 1, 3), torch.zeros(0), torch.zeros(2, 0)):
        net, _, buffers = fn.from_module(nn.BCELoss(weight))
        assert isinstance(net, fn.BCELoss)
        assert_identical(net.init(0)[1], buffers)


def test_a_loss_without_weight_is_called_on_empty_params():
    x, y = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    assert_identical(fn.CrossEntropyLoss()({}, x, y), nn.CrossEntropyLoss()(x, y))
    with pytest.raises(fn.TreeError, match="has no buffers to give to 'weight'"):
        fn.CrossEntropyLoss(weight=WEIGHT)({}, x, y)


def test_a_weight_without_numbers_leaves_the_loss_wrapped():
    net, _, _ = fn.from_module(nn.CrossEntropyLoss(weight=WEIGHT.to("meta")))
    assert isinstance(net, fn.Wrapped)


# --- old arguments ---


@parametrize(size_average=[None, True, False], reduce=[None, True, False])
def test_old_arguments_become_the_reduction_and_warn_once(size_average, reduce):
    arguments = {"size_average": size_average, "reduce": reduce}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        net = fn.SmoothL1Loss(**arguments)
        assert repr(net) == "SmoothL1Loss()"
        assert pickle.loads(pickle.dumps(net)) == net
    assert len(caught) == (arguments != {"size_average": None, "reduce": None})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = nn.SmoothL1Loss(**arguments)
    assert net.reduction == module.reduction
    assert net.size_average is net.reduce is None
    assert fn.from_module(module)[0] == net == fn.SmoothL1Loss(reduction=module.reduction)


def test_the_old_name_of_a_loss_warns_when_it_is_made_and_never_again():
    with pytest.warns(FutureWarning, match="NLLLoss2d"):
        net = fn.NLLLoss2d(ignore_index=3)
    with pytest.warns(FutureWarning, match="NLLLoss2d"):
        module = nn.NLLLoss2d(ignore_index=3)
    assert repr(net) == repr(module)
    assert pickle.loads(pickle.dumps(net)) == net == copy.deepcopy(net)
    assert fn.from_module(fn.to_module(net, {}, {}))[0] == fn.from_module(module)[0] == net


# --- warnings, refusals, dtypes ---


@parametrize(name=["L1Loss", "MSELoss", "SmoothL1Loss", "HuberLoss"])
def test_shapes_that_are_broadcast_warn_as_in_torch(name):
    x, y = torch.randn(4, 1), torch.randn(4)
    with pytest.warns(UserWarning, match="different to the input size") as theirs:
        expected = getattr(nn, name)()(x, y)
    with pytest.warns(UserWarning, match="different to the input size") as ours:
        assert_identical(getattr(fn, name)()({}, x, y), expected)
    assert [str(warning.message) for warning in ours] == [str(warning.message) for warning in theirs]


def test_the_mean_of_a_divergence_warns_as_in_torch():
    x, y = torch.randn(4, 3).log_softmax(1), torch.randn(4, 3).softmax(1)
    with pytest.warns(UserWarning, match="batchmean"):
        assert_identical(fn.KLDivLoss()({}, x, y), F.kl_div(x, y, reduction="sum") / 12)


@pytest.mark.filterwarnings("ignore")
@parametrize(case=LOSSES)
def test_inputs_that_the_module_refuses_are_refused_and_others_give_its_bits(case):
    for index, x in enumerate(case.inputs()):
        if not isinstance(x, torch.Tensor) or (type(case.module()) is nn.CTCLoss and index == 1):
            continue  # for a class out of range, ctc_loss reads memory outside its tensors
        unusual = [x[..., None], x[:0] if x.dim() else x, x.flatten(), x.flatten()[:1], x.flatten()[:2], x.sum()]
        for variant in (*unusual, x.double(), x.long(), x.half(), x.bfloat16(), x * 100, -100 * x):
            inputs = [*case.inputs()[:index], variant, *case.inputs()[index + 1 :]]
            module, net = case.module(), case.net()
            try:
                expected = module(*clone(inputs))
            except Exception:
                with pytest.raises((RuntimeError, ValueError, TypeError)):
                    net.apply(params_of(module), buffers_of(module), *inputs)
            else:
                assert_identical(net.apply(params_of(module), buffers_of(module), *inputs)[0], expected)


@parametrize(case=LOSSES, dtype=[torch.float16, torch.bfloat16])
def test_short_floats_give_the_bits_of_the_module(case, dtype):
    module, net, inputs = case.module().to(dtype), case.net(), case.inputs(dtype)
    try:
        expected = module(*clone(inputs))
    except RuntimeError as error:
        with pytest.raises(fn.ShapeError, match=str(error)[:8]):
            net.apply(params_of(module), buffers_of(module), *inputs)
    else:
        assert_identical(net.apply(params_of(module), buffers_of(module), *inputs)[0], expected)


def test_an_error_says_which_inputs_fit():
    with pytest.raises(fn.ShapeError) as caught:
        fn.CrossEntropyLoss()({}, torch.randn(4, 3), torch.tensor([0, 1]))
    assert "CrossEntropyLoss: expected input (N, C, *) or (C,), target class indices in [0, C)" in str(caught.value)
    assert "got input (4, 3) float32, target (2,) int64" in str(caught.value)


REFUSED = [
    (lambda: fn.L1Loss(reduction="average"), ValueError, "reduction is one of 'none', 'mean', 'sum'"),
    (lambda: fn.GaussianNLLLoss(reduction="batchmean"), ValueError, "reduction is one of"),
    (lambda: fn.SmoothL1Loss(beta=-1.0), ValueError, "beta is at least 0"),
    (lambda: fn.HuberLoss(delta=0.0), ValueError, "delta is above 0"),
    (lambda: fn.HuberLoss(delta="1"), TypeError, "delta must be a float"),
    (lambda: fn.CrossEntropyLoss(label_smoothing=1.5), ValueError, r"label_smoothing is in \[0, 1\]"),
    (lambda: fn.CrossEntropyLoss(weight=[[1.0, 2.0]]), ValueError, "weight has one axis"),
    (lambda: fn.CrossEntropyLoss(weight=[[1.0], [1.0, 2.0]]), ValueError, "expected sequence of length"),
    (lambda: fn.MultiMarginLoss(p=3), ValueError, "only p == 1 and p == 2"),
    (lambda: fn.MultiMarginLoss(weight=[[1.0]]), ValueError, "expected weight to be None or 1D"),
    (lambda: fn.TripletMarginLoss(margin=0.0), ValueError, "margin to be greater than 0"),
    (lambda: fn.CTCLoss(blank=-1), ValueError, "blank is a class"),
    (lambda: fn.AdaptiveLogSoftmaxWithLoss(8, 5, [3, 2]), ValueError, "cutoffs should be"),
    (lambda: fn.LinearCrossEntropyLoss(8, 5, weight=[1.0]), RuntimeError, "expected weight shape"),
    (lambda: fn.TripletMarginWithDistanceLoss(distance_function=nn.Bilinear(2, 2, 1)), TypeError, "from_module"),
    (lambda: fn.TripletMarginWithDistanceLoss(distance_function=nn.Sequential()), TypeError, "from_module"),
]


@pytest.mark.parametrize(("make", "kind", "words"), REFUSED, ids=[words for _, _, words in REFUSED])
def test_arguments_without_a_meaning_are_refused(make, kind, words):
    with pytest.raises(kind, match=words):
        make()


# --- forms that replace kernels ---


def test_compiled_margin_losses_count_no_class_after_the_end():
    # torch's own decomposition, which compiling the module uses, counts classes after the first -1
    x, y = torch.randn(3, 4), torch.tensor([[3, -1, 0, 1], [-1, 2, 1, 0], [1, 0, 3, 2]])
    compiled = torch.compile(lambda x: fn.MultiLabelMarginLoss(reduction="none")({}, x, y), backend="aot_eager")
    torch.testing.assert_close(compiled(x), F.multilabel_margin_loss(x, y, reduction="none"))


def test_a_class_out_of_range_is_never_silent():
    x, out_of_range = torch.randn(2, 4, 3), torch.tensor([[0, 1, 3, 2]] * 2)
    assert torch.vmap(lambda x, y: fn.MultiMarginLoss(reduction="none")({}, x, y))(x, out_of_range)[:, 2].isnan().all()
    spread = torch.tensor([[[0, 3, -1], [1, -1, 7], [0, 1, 2], [-1, 0, 0]]] * 2)
    losses = torch.vmap(lambda x, y: fn.MultiLabelMarginLoss(reduction="none")({}, x, y))(x, spread)
    assert losses[:, 0].isnan().all()
    assert not losses[:, 2:].isnan().any()


def test_a_negative_variance_is_never_silent():
    net, x = fn.GaussianNLLLoss(), torch.randn(2, 3)
    var = torch.tensor([[1.0, 1.0, 1.0], [1.0, -1.0, 1.0]])
    with pytest.raises(fn.ShapeError, match="negative"):
        net({}, x, x, var)
    assert torch.vmap(lambda x, var: net({}, x, x, var))(x, var).isnan().tolist() == [False, True]


def test_small_variances_are_raised_and_keep_their_gradient():
    net, x, y = fn.GaussianNLLLoss(eps=0.5), torch.randn(4, 3), torch.randn(4, 3)
    var = torch.rand(4, 3)
    expected = [torch.func.grad(lambda v, i=i: net({}, x[i], y[i], v))(var[i]) for i in range(4)]
    mapped = torch.vmap(torch.func.grad(lambda v, x, y: net({}, x, y, v)))(var, x, y)
    torch.testing.assert_close(mapped, torch.stack(expected))


def test_variances_of_another_shape_are_refused_under_a_transform_too():
    with pytest.raises(fn.ShapeError, match="Var is of incorrect size"):
        torch.vmap(lambda x, var: fn.GaussianNLLLoss()({}, x, x, var))(torch.zeros(2, 4, 3), torch.ones(2, 3))


# --- ctc ---


CTC_CASES = {
    "padded": ((8, 4, 5), torch.tensor([[1, 2, 2], [3, 3, 3], [1, 9, 9], [4, 4, 1]]), (8, 7, 3, 5), (3, 3, 1, 2)),
    "joined": ((8, 4, 5), torch.tensor([1, 2, 2, 3, 3, 3, 1, 4, 4]), (8, 7, 3, 5), (3, 3, 1, 2)),
    "empty target": ((8, 4, 5), torch.tensor([1, 2, 2, 3, 3, 3, 4, 4]), (8, 7, 3, 5), (3, 3, 0, 2)),
    "no time": ((8, 4, 5), torch.tensor([[1, 2], [3, 3], [1, 9], [4, 4]]), (0, 7, 0, 5), (2, 2, 0, 2)),
    "too short": ((8, 4, 5), torch.tensor([[1, 2], [3, 3], [1, 9], [4, 4]]), (1, 2, 3, 3), (2, 2, 1, 2)),
    "no classes": ((8, 2, 5), torch.zeros(2, 0, dtype=torch.long), (8, 3), (0, 0)),
    "unbatched": ((8, 5), torch.tensor([1, 2, 2]), (8,), (3,)),
}


@parametrize(name=list(CTC_CASES), reduction=["none", "mean", "sum"], zero_infinity=[False, True])
def test_ctc_by_steps_equals_the_kernel(name, reduction, zero_infinity):
    shape, targets, *lengths = CTC_CASES[name]
    x = torch.randn(shape, dtype=torch.float64)  # not normalised, so that all of the kernel's gradient counts
    net = fn.CTCLoss(reduction=reduction, zero_infinity=zero_infinity)

    def loss(x):
        y = net({}, x, targets, *lengths)
        return (y * torch.linspace(0.5, 1.5, y.numel(), dtype=y.dtype).view(y.shape)).sum()

    value, grad = fn.value_and_grad(loss)(x)
    grads, values = torch.vmap(torch.func.grad_and_value(loss))(x[None])
    torch.testing.assert_close(values[0], value)
    torch.testing.assert_close(torch.func.grad(loss)(x), grad, equal_nan=True)
    # an infinite loss has the gradient NaN there and infinity here
    torch.testing.assert_close(torch.where(grads[0].isinf(), torch.nan, grads[0]), grad, equal_nan=True)


def test_ctc_by_lengths_that_do_not_fit_is_never_silent():
    x, targets = torch.randn(3, 6, 1, 4).log_softmax(-1), torch.tensor([[[1, 2]], [[1, 2]], [[1, 7]]])
    input_sizes, target_sizes = torch.tensor([[6], [7], [6]]), torch.tensor([[2], [2], [2]])
    with pytest.raises(fn.ShapeError, match="input_lengths"):
        fn.CTCLoss()({}, x[1], targets[1], input_sizes[1], target_sizes[1])
    losses = torch.vmap(lambda *inputs: fn.CTCLoss()({}, *inputs))(x, targets, input_sizes, target_sizes)
    assert losses.isnan().tolist() == [False, True, True]


# --- adaptive softmax ---


def adaptive_softmax(**options):
    module = nn.AdaptiveLogSoftmaxWithLoss(16, 12, [3, 6], **options)
    return module, *fn.from_module(module)


def test_log_prob_and_predict_give_the_bits_of_the_module():
    module, net, params, _ = adaptive_softmax(div_value=2.0, head_bias=True)
    x = torch.randn(50, 16)
    assert_identical(net.log_prob(params, x), module.log_prob(x))
    for scale, rows in ((5, slice(None)), (1, slice(0, 1)), (0, slice(0, 3))):
        assert_identical(net.predict(params, x[rows] * scale), module.predict(x[rows] * scale))
    best = module.predict(x)
    for rows in (best < 3, best >= 3):  # all in the shortlist, and none
        assert_identical(net.predict(params, x[rows]), module.predict(x[rows]))
    assert isinstance(net(params, x, best), type(module(x, best)))


def test_log_prob_and_predict_work_in_a_body_and_under_transforms():
    module, net, params, _ = adaptive_softmax(head_bias=True)

    @fn.compose(out=net)
    def classify(p, x):
        return p.out.log_prob(x), p.out.predict(x)

    x = torch.randn(5, 7, 16)
    log_probs, best = torch.vmap(lambda x: classify({"out": params}, x))(x)
    torch.testing.assert_close(log_probs.flatten(0, 1), module.log_prob(x.flatten(0, 1)))
    assert_identical(best.flatten(), module.predict(x.flatten(0, 1)))
    compiled = torch.compile(lambda params, x: net.predict(params, x), fullgraph=True, backend="aot_eager")
    assert_identical(compiled(params, x[0]), module.predict(x[0]))
    with pytest.raises(fn.TreeError, match=r"params\['tail'\]"):
        net.log_prob({"head": params["head"]}, x[0])


def test_log_prob_knows_tied_tensors():
    module = nn.AdaptiveLogSoftmaxWithLoss(16, 12, [3, 6], div_value=1.0)
    module.tail[1][0].weight = module.tail[0][0].weight
    net, params, _ = fn.from_module(module)
    assert net.aliases == {"tail.1.0.weight": "tail.0.0.weight"}
    x = torch.randn(5, 16)
    assert_identical(net.log_prob(params, x), module.log_prob(x))


@parametrize(classes=[[0], [5], [11], [0, 1], [3, 11], [0, 5, 11], []])
def test_adaptive_softmax_gives_the_bits_of_the_module_whichever_clusters_are_empty(classes):
    module, net, params, _ = adaptive_softmax()
    x, y = torch.randn(len(classes), 16), torch.tensor(classes, dtype=torch.long)
    assert_identical(net(params, x, y), module(x, y))


def test_adaptive_softmax_refuses_a_class_out_of_range():
    _, net, params, _ = adaptive_softmax()
    x, y = torch.randn(3, 2, 16), torch.tensor([[0, 11], [12, 5], [3, -1]])
    for index in (1, 2):
        with pytest.raises(fn.ShapeError, match=r"ints in \[0, 12\)"):
            net(params, x[index], y[index])
    output = torch.vmap(lambda x, y: net(params, x, y).output)(x, y)
    assert output.isnan().tolist() == [[False, False], [True, False], [False, True]]


def test_a_stock_layer_whose_parts_were_replaced_is_wrapped():
    module = nn.AdaptiveLogSoftmaxWithLoss(16, 12, [3, 6])
    module.head = nn.Sequential(nn.Linear(16, 5, bias=False), nn.Tanh())
    net, params, _ = fn.from_module(module)
    assert isinstance(net, fn.Wrapped)
    x, y = torch.randn(4, 16), torch.tensor([0, 3, 6, 9])
    assert_identical(net(params, x, y), module(x, y))
    hooked = nn.AdaptiveLogSoftmaxWithLoss(16, 12, [3, 6])
    hooked.head.register_forward_hook(lambda module, inputs, output: output * 2)
    assert isinstance(fn.from_module(hooked)[0], fn.Wrapped)


# --- linear cross entropy ---


@parametrize(reduction=["none", "mean", "sum"], retain=[False, True], bias=[False, True])
def test_scores_in_chunks_give_the_bits_of_the_module(reduction, retain, bias):
    options = nn.LinearCrossEntropyOptions(allow_retain_graph=retain, batch_chunk_size=3, chunking_method=None)
    module = nn.LinearCrossEntropyLoss(6, 9, bias=bias, weight=torch.rand(9), reduction=reduction, options=options)
    net, params, buffers = fn.from_module(module)
    assert isinstance(net, fn.LinearCrossEntropyLoss)
    x, y = torch.randn(7, 6), torch.randint(9, (7,))
    _, grads = fn.value_and_grad(lambda params: net.apply(params, buffers, x, y)[0].sum())(params)
    module(x, y).sum().backward()
    assert_identical(net.apply(params, buffers, x, y)[0], module(x, y))
    assert_identical(fn.tree.flatten(grads), {name: param.grad for name, param in module.named_parameters()})


def test_chunks_that_cannot_be_warn_as_in_torch():
    net = fn.LinearCrossEntropyLoss(6, 3, out_features=(2,), options=nn.LinearCrossEntropyOptions())
    with pytest.warns(UserWarning, match="``options`` ignored"):
        net(net.init(0)[0], torch.randn(4, 6), torch.zeros(4, 2, dtype=torch.long))


# --- distances ---


def test_a_distance_may_be_a_net_with_params():
    @fn.compose(map=fn.Linear(3, 2))
    def mapped(p, x1, x2):
        return (p.map(x1) - p.map(x2)).norm(dim=-1)

    net = fn.TripletMarginWithDistanceLoss(distance_function=mapped)
    params, buffers = net.init(0)
    assert list(params["distance_function"]["map"]) == ["weight", "bias"]
    triplet = [torch.randn(4, 3) for _ in range(3)]
    module = fn.to_module(net, params, buffers)
    assert_identical(module(*triplet), net(params, *triplet))
    assert fn.from_module(module)[0] == net


def test_a_distance_that_is_a_foreign_module_leaves_the_loss_wrapped():
    class Far(nn.Module):
        def forward(self, x1, x2):
            return (x1 - x2).abs().amax(-1)

    module = nn.TripletMarginWithDistanceLoss(distance_function=Far())
    net, params, _ = fn.from_module(module)
    assert isinstance(net, fn.Wrapped)
    triplet = [torch.randn(4, 3) for _ in range(3)]
    assert_identical(net(params, *triplet), module(*triplet))


def test_a_distance_that_writes_to_its_inputs_is_noticed():
    net = fn.TripletMarginWithDistanceLoss(distance_function=lambda x1, x2: x1.sub_(x2).norm(dim=-1))
    with pytest.raises(fn.PurityError, match="input 0"):
        net({}, *(torch.randn(4, 3) for _ in range(3)))


def test_a_distance_that_draws_needs_rng():
    net = fn.TripletMarginWithDistanceLoss(distance_function=lambda x1, x2: F.dropout(x1 - x2).norm(dim=-1))
    triplet = [torch.randn(4, 3) for _ in range(3)]
    with pytest.raises(fn.RandomnessError):
        net({}, *triplet)
    state = torch.get_rng_state()
    net.apply({}, {}, *triplet, rng=0)
    assert torch.equal(state, torch.get_rng_state())
