"""What is known of torch's functions and operators beyond what they declare, in one table for every package.

A row holds what the documentation of torch says of a function, or what its kernels were seen to do: whether it does
anything besides computing its result, whether that result is memory of its own, whether it draws from the global
generator, which argument is the mode, and which arguments it writes to without saying so. A new torch is checked here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from funcnet._torch import sample_dirichlet, sample_gamma

_aten = torch.ops.aten

# --- functions that only compute a result ---

_PURE = """
add all and_ any arange bitwise_and bool broadcast_to cat chunk clone contiguous cumsum diff dim empty eq expand
flatten float floordiv full ge getattr getitem gt int invert le logical_and logical_not logical_or long lshift lt
masked_fill matmul mod mul ne neg new_empty new_ones new_tensor new_zeros not_ ones ones_like or_ permute pos pow
reshape rshift size split squeeze stack sub sum t tensor to transpose tril triu truediv type_as unbind unsqueeze view
where xor zeros zeros_like
"""
PURE_NAMES = frozenset(_PURE.split())
"""Names of functions, methods and Python operators whose calls can be left out where nobody reads the result."""

_COMPUTING = """
abs absolute acos acosh adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d
adaptive_max_pool2d adaptive_max_pool3d addbmm addcdiv addcmul addmm addmv addr adjoint affine_grid allclose amax amin
aminmax angle argmax argmin argsort argwhere as_tensor asin asinh atan atan2 atanh atleast_1d atleast_2d atleast_3d
avg_pool1d avg_pool2d avg_pool3d baddbmm bilinear binary_cross_entropy binary_cross_entropy_with_logits bincount
bitwise_left_shift bitwise_not bitwise_or bitwise_right_shift bitwise_xor block_diag bmm broadcast_shapes
broadcast_tensors bucketize cartesian_prod cdist ceil celu channel_shuffle cholesky clamp clamp_max clamp_min clip
column_stack combinations complex concat concatenate conj conv1d conv2d conv3d conv_transpose1d conv_transpose2d
conv_transpose3d copysign cos cosh cosine_embedding_loss cosine_similarity count_nonzero cross cross_entropy ctc_loss
cummax cummin cumprod cumulative_trapezoid deg2rad det detach device diag diag_embed diagonal digamma dist div divide
dot dsplit dstack dtype eigh eigvalsh einsum elu embedding embedding_bag equal erf erfc erfinv exp exp2 expand_as expm1
eye finfo fix flip fliplr flipud float_power floor floor_divide fmax fmin fmod fold frac full_like gather gelu
get_device glu greater greater_equal grid_sample group_norm gru H hardshrink hardsigmoid hardswish hardtanh heaviside
hinge_embedding_loss histc hsplit hstack huber_loss hypot iinfo imag index_add index_copy index_fill index_put
index_select inner interpolate inv inverse is_complex is_contiguous is_cuda is_floating_point is_tensor isclose
isfinite isinf isnan isreal item items itemsize keys kl_div kron kthvalue l1_loss layer_norm layout leaky_relu ldexp
lerp less less_equal lgamma linear linspace log log10 log1p log2 log_sigmoid log_softmax logaddexp logaddexp2
logcumsumexp logdet logical_xor logit logsigmoid logspace logsumexp lp_pool1d lp_pool2d lstm margin_ranking_loss
masked_scatter masked_select matrix_exp matrix_norm matrix_power max max_pool1d max_pool2d max_pool3d maximum mean
median meshgrid mH min minimum mish mm moveaxis movedim mse_loss msort mT multi_head_attention_forward
multi_margin_loss multilabel_margin_loss multilabel_soft_margin_loss multiply mv nan_to_num nanmean nanmedian
nanquantile nansum narrow ndim ndimension negative nelement nll_loss nonzero norm normalize not_equal numel one_hot
outer pad pairwise_distance pdist pinv pixel_shuffle pixel_unshuffle poisson_nll_loss polar positive prelu prod qr
quantile rad2deg ravel real reciprocal relu relu6 remainder renorm repeat repeat_interleave reshape_as rms_norm
rnn_relu rnn_tanh roll rot90 round rsqrt scalar_tensor scaled_dot_product_attention scatter scatter_add scatter_reduce
select selu sgn shape sigmoid sign silu sin sinc sinh slogdet smooth_l1_loss soft_margin_loss softmax softmin softplus
softshrink softsign solve sort split_with_sizes sqrt square std std_mean stft subtract sum_to_size svd swapaxes
swapdims T take take_along_dim tan tanh tanhshrink tensor_split tensordot threshold tile tolist topk trace trapezoid
tril_indices triplet_margin_loss triu_indices true_divide trunc unflatten unfold unique unique_consecutive upsample
values var var_mean vander vdot vector_norm view_as view_as_complex view_as_real vsplit vstack xlogy
"""
_CONSTANTS_AND_HOMES = """
Tensor bfloat16 channels_last channels_last_3d complex128 complex64 contiguous_format e fft float16 float32 float64
functional inf int16 int32 int64 int8 linalg nan newaxis nn pi special uint8
"""
COMPUTING_NAMES = PURE_NAMES.union(_COMPUTING.split(), _CONSTANTS_AND_HOMES.split()) - {"getattr"}
"""Names in torch, of functions, of methods of tensors and of their homes, of which none has an effect but its result.

Some of them write in place or draw if they are told to, by ``out=``, ``inplace=``, ``max_norm=`` or a mode.
"""

CASTS = frozenset({"to", "float", "double", "half", "bfloat16", "type", "type_as", "long", "int", "bool"})
"""Methods that give the tensor itself back where it has the dtype and device that they are asked for."""

RESHAPES = frozenset({"expand", "view", "reshape", "expand_as", "view_as"})
"""Methods that give the tensor itself back, or a view of all of it, where it has the shape that they are asked for."""

_FRESH = """
linear conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d batch_norm layer_norm group_norm
instance_norm relu relu6 silu gelu elu hardswish leaky_relu max_pool2d
"""
FRESH_RESULTS = frozenset(f"F.{name}" for name in _FRESH.split())
"""Functions whose result is new memory, so that no other tensor sees writes to it."""

VARIADIC_SIZES = frozenset({"view", "reshape", "expand", "permute", "repeat"})
"""Methods that take sizes as one tuple or as several arguments."""


def is_pure(function: object) -> bool:
    """Whether a function, or a method given by name, does nothing but compute its result."""
    if function is _aten.sym_size.int:
        return True
    name = function if isinstance(function, str) else getattr(function, "__name__", "")
    return name in PURE_NAMES


# --- arguments ---

_CONV = (("bias", "stride", "padding", "dilation", "groups"), (None, 1, 0, 1, 1))
_CONV_TRANSPOSE = (("bias", "stride", "padding", "output_padding", "groups", "dilation"), (None, 1, 0, 0, 1, 1))
_ATTENTION = (("attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa"), (None, 0.0, False, None, False))
_POOL = (("stride", "padding", "dilation", "ceil_mode", "return_indices"), (None, 0, 1, False, False))
LATER_ARGUMENTS: dict[str, tuple[int, tuple[str, ...], tuple[object, ...]]] = {
    **{f"F.conv{rank}d": (2, *_CONV) for rank in (1, 2, 3)},
    **{f"F.max_pool{rank}d": (2, *_POOL) for rank in (1, 2, 3)},
    "F.batch_norm": (5, ("training", "momentum", "eps"), (False, 0.1, 1e-5)),
    "F.layer_norm": (4, ("eps",), (1e-5,)),
    "F.group_norm": (4, ("eps",), (1e-5,)),
    "F.embedding": (2, ("padding_idx",), (None,)),
    "F.scaled_dot_product_attention": (3, *_ATTENTION),
    "fn.random.scaled_dot_product_attention": (3, *_ATTENTION),
    **{f"F.conv_transpose{rank}d": (2, *_CONV_TRANSPOSE) for rank in (1, 2, 3)},
    "F.pad": (2, ("mode", "value"), ("constant", None)),
    "torch.softmax": (1, ("dim", "dtype"), (..., None)),
}
"""Function -> how many of its arguments read best without their names, and the names and defaults of the others."""

PUBLIC_NAMES = {"torch._C._nn.pad": "F.pad"}
"""Private name of a function -> the public name of one that does the same."""

_AVERAGES_OF_F = ("input", "running_mean", "running_var", "weight", "bias")
_AVERAGES_OF_TORCH = ("input", "weight", "bias", "running_mean", "running_var")
AVERAGING_NORMS: dict[object, tuple[str, ...]] = {
    F.batch_norm: (*_AVERAGES_OF_F, "training"),
    F.instance_norm: (*_AVERAGES_OF_F, "use_input_stats"),
    torch.batch_norm: (*_AVERAGES_OF_TORCH, "training"),
    torch.instance_norm: (*_AVERAGES_OF_TORCH, "use_input_stats"),
}
"""Norm -> the names of its first arguments, the last of which is the mode in which it updates its running averages."""


def written_averages(function: object, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
    """The running averages that a call of a norm updates: the one write that moves no version counter."""
    names = AVERAGING_NORMS.get(function)
    if names is None:
        return []
    arguments = {**dict(zip(names, args, strict=False)), **kwargs}
    # F.instance_norm uses the statistics of its input by default
    if not arguments.get(names[-1], function is F.instance_norm):
        return []
    return [arguments.get("running_mean"), arguments.get("running_var")]


# --- draws ---


def _draws_by_generator(*_: Any, **kwargs: Any) -> bool:
    return kwargs.get("generator") is None


def _draws_in_mode(
    mode: str, position: int, default: bool, p: str = "", p_position: int = 1, default_p: float = 0.5
) -> Callable[..., bool]:
    """A function that draws in its training mode, and only if its probability, if it has one, is not 0."""

    def draws(*args: Any, **kwargs: Any) -> bool:
        training = kwargs.get(mode, args[position] if len(args) > position else default)
        probability = kwargs.get(p, args[p_position] if len(args) > p_position else default_p) if p else 1.0
        return bool(training and probability)

    return draws


def _attention_draws(*args: Any, **kwargs: Any) -> bool:
    return bool(kwargs.get("dropout_p", args[4] if len(args) > 4 else 0.0))


def _multi_head_draws(*args: Any, training: bool = True, **_: Any) -> bool:
    return bool(training and args[10] > 0)  # dropout_p


def recurrent_mode_position(args: Sequence[Any]) -> int:
    """Where the mode stands among the arguments of torch.lstm and its kin.

    The first flag is ``has_biases``; after it come ``num_layers``, ``dropout`` and ``train``.
    """
    return 3 + next(index for index, value in enumerate(args) if isinstance(value, bool))


def _recurrent_draws(*args: Any) -> bool:
    mode = recurrent_mode_position(args)
    return bool(args[mode - 1] > 0 and args[mode])


def _always_draws(*_: Any, **__: Any) -> bool:
    return True


RRELU: dict[object, Callable[..., bool]] = {
    F.rrelu: _draws_in_mode("training", 3, False),
    torch.rrelu: _draws_in_mode("training", 3, False),
    torch.rrelu_: _draws_in_mode("training", 3, False),
}
DROPOUTS: dict[object, Callable[..., bool]] = {
    **{
        function: _draws_in_mode("training", 2, True, "p")
        for function in (F.dropout, F.dropout1d, F.dropout2d, F.dropout3d)
    },
    **{function: _draws_in_mode("training", 2, False, "p") for function in (F.alpha_dropout, F.feature_alpha_dropout)},
    **{
        getattr(torch, f"{name}{ending}"): _draws_in_mode("train", 2, True, "p")
        for name in ("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout")
        for ending in ("", "_")
    },
}
"""Functions that drop elements of their first argument."""

PUBLIC_DROPOUTS = frozenset(
    {F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout}
)
"""Those that give their first argument back as it is where they do not draw."""

_TAKES_GENERATOR = (
    *(torch.rand, torch.randn, torch.rand_like, torch.randn_like, torch.randint, torch.randperm, torch.normal),
    *(torch.bernoulli, Tensor.bernoulli, torch.multinomial, Tensor.multinomial, torch.poisson),
    *(Tensor.uniform_, Tensor.normal_, Tensor.bernoulli_, Tensor.exponential_, Tensor.log_normal_, Tensor.cauchy_),
    *(Tensor.geometric_, Tensor.random_),
)
TAKES_GENERATOR: dict[object, Callable[..., bool]] = dict.fromkeys(_TAKES_GENERATOR, _draws_by_generator)
"""Functions that draw from ``generator=``, and from the global one where none is given."""

RECURRENT = ("lstm", "gru", "rnn_tanh", "rnn_relu")
"""Names of torch's recurrent layers as functions."""

_ALWAYS_DRAW = (
    *(F.gumbel_softmax, F.fractional_max_pool2d, F.fractional_max_pool3d),  # the first in compiled code only
    *(torch.svd_lowrank, torch.pca_lowrank, torch.lobpcg, torch.randint_like, torch.binomial),
    *(sample_gamma, sample_dirichlet),
    *(getattr(nn.init, name) for name in ("uniform_", "normal_", "trunc_normal_", "orthogonal_", "sparse_")),
    *(getattr(nn.init, f"{name}_{kind}_") for name in ("xavier", "kaiming") for kind in ("uniform", "normal")),
)
DRAWS_INSIDE: dict[object, Callable[..., bool]] = {
    F.multi_head_attention_forward: _multi_head_draws,
    torch.native_dropout: _draws_in_mode("training", 2, True),
    **dict.fromkeys(_ALWAYS_DRAW, _always_draws),
    **{getattr(torch, name): _recurrent_draws for name in RECURRENT},
}
"""Functions that draw from the global generator within, and take no other one."""

DRAWING: dict[object, Callable[..., bool]] = {
    **DROPOUTS,
    **RRELU,
    F.scaled_dot_product_attention: _attention_draws,
    **TAKES_GENERATOR,
    **DRAWS_INSIDE,
}
"""Function that may draw from the global generator -> whether a call with these arguments does."""


def draws_when_called(function: object, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether a function draws from the global generator with these arguments; values of tensors are not looked at."""
    draws = DRAWING.get(function)
    return draws is not None and draws(*args, **kwargs)


DRAWING_NAMES = {getattr(function, "__name__", "") for function in DRAWING} | {
    *("nn", "init", "distributions", "sample", "rsample", "Generator")
}
"""Names that code uses to draw: a body that has one of them may draw."""

# --- operators below autograd ---

CONSTANT = _aten.lift_fresh.default
"""What ``torch.tensor(1.0)`` in code calls with a tensor that was not there before."""

READ_NO_VALUE = ("empty_like", "zeros_like", "ones_like", "full_like", "new_")
"""Operators whose names start so look at the shape and dtype of a tensor only."""

UNFILLED = ("empty_like", "new_empty", "resize_")
"""Operators whose names start so give memory that nothing was written to."""

BY_INDEX = {
    *(_aten.index.Tensor, _aten.index_put.default, _aten.index_put_.default),
    *(_aten._unsafe_index.Tensor, _aten._index_put_impl_.default),
}
"""Operators of (tensor, indices, ...), where a mask among the indices decides how many elements the result has."""

READS_A_VALUE = {Tensor.tolist, Tensor.numpy, Tensor.__array__, Tensor.__dlpack__}
"""Functions that take values out of a tensor without an operator."""

SET_DATA = Tensor.data.__set__  # type: ignore[attr-defined]
"""What ``x.data = y`` calls, which is not an operator either."""

WRITES_AVERAGES_UNDECLARED = {
    getattr(_aten, name).default for name in ("native_batch_norm", "cudnn_batch_norm", "miopen_batch_norm")
}
"""Operators of (input, weight, bias, running mean and variance, training, ...) that do not declare what they write."""

HAS_WORK_SPACE = {"mkldnn_rnn_layer", "_cudnn_rnn", "miopen_rnn", "cudnn_batch_norm"}
"""Names of operators whose results from the fourth on are work space."""
