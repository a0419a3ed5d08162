"""The layers of torch.nn as pure functions: same names, arguments, defaults, ``repr``, param names and first values.

One file per family. A layer is a record of hyperparameters with a body built on ``torch.nn.functional``; nothing here
holds a tensor. ``COUNTERPARTS`` maps each ``torch.nn`` class to its counterpart.
"""

from funcnet.layers._activation import CELU as CELU
from funcnet.layers._activation import ELU as ELU
from funcnet.layers._activation import GELU as GELU
from funcnet.layers._activation import GLU as GLU
from funcnet.layers._activation import SELU as SELU
from funcnet.layers._activation import LogSigmoid as LogSigmoid
from funcnet.layers._activation import Mish as Mish
from funcnet.layers._activation import Sigmoid as Sigmoid
from funcnet.layers._activation import SiLU as SiLU
from funcnet.layers._activation import Softplus as Softplus
from funcnet.layers._activation import Softsign as Softsign
from funcnet.layers._activation import Tanh as Tanh
from funcnet.layers._activation import Tanhshrink as Tanhshrink
from funcnet.layers._adaptive_pool import AdaptiveAvgPool1d as AdaptiveAvgPool1d
from funcnet.layers._adaptive_pool import AdaptiveAvgPool2d as AdaptiveAvgPool2d
from funcnet.layers._adaptive_pool import AdaptiveAvgPool3d as AdaptiveAvgPool3d
from funcnet.layers._adaptive_pool import AdaptiveMaxPool1d as AdaptiveMaxPool1d
from funcnet.layers._adaptive_pool import AdaptiveMaxPool2d as AdaptiveMaxPool2d
from funcnet.layers._adaptive_pool import AdaptiveMaxPool3d as AdaptiveMaxPool3d
from funcnet.layers._adaptive_softmax import AdaptiveLogSoftmaxWithLoss as AdaptiveLogSoftmaxWithLoss
from funcnet.layers._attention import MultiheadAttention as MultiheadAttention
from funcnet.layers._attention import NonDynamicallyQuantizableLinear as NonDynamicallyQuantizableLinear
from funcnet.layers._avg_pool import AvgPool1d as AvgPool1d
from funcnet.layers._avg_pool import AvgPool2d as AvgPool2d
from funcnet.layers._avg_pool import AvgPool3d as AvgPool3d
from funcnet.layers._avg_pool import LPPool1d as LPPool1d
from funcnet.layers._avg_pool import LPPool2d as LPPool2d
from funcnet.layers._avg_pool import LPPool3d as LPPool3d
from funcnet.layers._batch_norm import BatchNorm1d as BatchNorm1d
from funcnet.layers._batch_norm import BatchNorm2d as BatchNorm2d
from funcnet.layers._batch_norm import BatchNorm3d as BatchNorm3d
from funcnet.layers._batch_norm import SyncBatchNorm as SyncBatchNorm
from funcnet.layers._classification_loss import BCELoss as BCELoss
from funcnet.layers._classification_loss import BCEWithLogitsLoss as BCEWithLogitsLoss
from funcnet.layers._classification_loss import CrossEntropyLoss as CrossEntropyLoss
from funcnet.layers._classification_loss import KLDivLoss as KLDivLoss
from funcnet.layers._classification_loss import MultiLabelSoftMarginLoss as MultiLabelSoftMarginLoss
from funcnet.layers._classification_loss import NLLLoss as NLLLoss
from funcnet.layers._classification_loss import NLLLoss2d as NLLLoss2d
from funcnet.layers._classification_loss import SoftMarginLoss as SoftMarginLoss
from funcnet.layers._conv import Conv1d as Conv1d
from funcnet.layers._conv import Conv2d as Conv2d
from funcnet.layers._conv import Conv3d as Conv3d
from funcnet.layers._conv_transpose import ConvTranspose1d as ConvTranspose1d
from funcnet.layers._conv_transpose import ConvTranspose2d as ConvTranspose2d
from funcnet.layers._conv_transpose import ConvTranspose3d as ConvTranspose3d
from funcnet.layers._ctc import CTCLoss as CTCLoss
from funcnet.layers._distance import CosineSimilarity as CosineSimilarity
from funcnet.layers._distance import PairwiseDistance as PairwiseDistance
from funcnet.layers._dropout import AlphaDropout as AlphaDropout
from funcnet.layers._dropout import Dropout as Dropout
from funcnet.layers._dropout import Dropout1d as Dropout1d
from funcnet.layers._dropout import Dropout2d as Dropout2d
from funcnet.layers._dropout import Dropout3d as Dropout3d
from funcnet.layers._dropout import FeatureAlphaDropout as FeatureAlphaDropout
from funcnet.layers._embedding import Embedding as Embedding
from funcnet.layers._embedding_bag import EmbeddingBag as EmbeddingBag
from funcnet.layers._fractional_pool import FractionalMaxPool2d as FractionalMaxPool2d
from funcnet.layers._fractional_pool import FractionalMaxPool3d as FractionalMaxPool3d
from funcnet.layers._instance_norm import InstanceNorm1d as InstanceNorm1d
from funcnet.layers._instance_norm import InstanceNorm2d as InstanceNorm2d
from funcnet.layers._instance_norm import InstanceNorm3d as InstanceNorm3d
from funcnet.layers._layer import COUNTERPARTS as COUNTERPARTS
from funcnet.layers._layer import Layer as Layer
from funcnet.layers._lazy_layers import LazyBatchNorm1d as LazyBatchNorm1d
from funcnet.layers._lazy_layers import LazyBatchNorm2d as LazyBatchNorm2d
from funcnet.layers._lazy_layers import LazyBatchNorm3d as LazyBatchNorm3d
from funcnet.layers._lazy_layers import LazyConv1d as LazyConv1d
from funcnet.layers._lazy_layers import LazyConv2d as LazyConv2d
from funcnet.layers._lazy_layers import LazyConv3d as LazyConv3d
from funcnet.layers._lazy_layers import LazyConvTranspose1d as LazyConvTranspose1d
from funcnet.layers._lazy_layers import LazyConvTranspose2d as LazyConvTranspose2d
from funcnet.layers._lazy_layers import LazyConvTranspose3d as LazyConvTranspose3d
from funcnet.layers._lazy_layers import LazyInstanceNorm1d as LazyInstanceNorm1d
from funcnet.layers._lazy_layers import LazyInstanceNorm2d as LazyInstanceNorm2d
from funcnet.layers._lazy_layers import LazyInstanceNorm3d as LazyInstanceNorm3d
from funcnet.layers._lazy_layers import LazyLinear as LazyLinear
from funcnet.layers._linear import Bilinear as Bilinear
from funcnet.layers._linear import Identity as Identity
from funcnet.layers._linear import Linear as Linear
from funcnet.layers._linear_cross_entropy import LinearCrossEntropyLoss as LinearCrossEntropyLoss
from funcnet.layers._local_response import CrossMapLRN2d as CrossMapLRN2d
from funcnet.layers._local_response import LocalResponseNorm as LocalResponseNorm
from funcnet.layers._margin_loss import CosineEmbeddingLoss as CosineEmbeddingLoss
from funcnet.layers._margin_loss import HingeEmbeddingLoss as HingeEmbeddingLoss
from funcnet.layers._margin_loss import MarginRankingLoss as MarginRankingLoss
from funcnet.layers._margin_loss import MultiLabelMarginLoss as MultiLabelMarginLoss
from funcnet.layers._margin_loss import MultiMarginLoss as MultiMarginLoss
from funcnet.layers._max_pool import MaxPool1d as MaxPool1d
from funcnet.layers._max_pool import MaxPool2d as MaxPool2d
from funcnet.layers._max_pool import MaxPool3d as MaxPool3d
from funcnet.layers._norm import GroupNorm as GroupNorm
from funcnet.layers._norm import LayerNorm as LayerNorm
from funcnet.layers._norm import RMSNorm as RMSNorm
from funcnet.layers._padding import CircularPad1d as CircularPad1d
from funcnet.layers._padding import CircularPad2d as CircularPad2d
from funcnet.layers._padding import CircularPad3d as CircularPad3d
from funcnet.layers._padding import ConstantPad1d as ConstantPad1d
from funcnet.layers._padding import ConstantPad2d as ConstantPad2d
from funcnet.layers._padding import ConstantPad3d as ConstantPad3d
from funcnet.layers._padding import ReflectionPad1d as ReflectionPad1d
from funcnet.layers._padding import ReflectionPad2d as ReflectionPad2d
from funcnet.layers._padding import ReflectionPad3d as ReflectionPad3d
from funcnet.layers._padding import ReplicationPad1d as ReplicationPad1d
from funcnet.layers._padding import ReplicationPad2d as ReplicationPad2d
from funcnet.layers._padding import ReplicationPad3d as ReplicationPad3d
from funcnet.layers._padding import ZeroPad1d as ZeroPad1d
from funcnet.layers._padding import ZeroPad2d as ZeroPad2d
from funcnet.layers._padding import ZeroPad3d as ZeroPad3d
from funcnet.layers._recurrent import GRU as GRU
from funcnet.layers._recurrent import LSTM as LSTM
from funcnet.layers._recurrent import RNN as RNN
from funcnet.layers._recurrent import RNNBase as RNNBase
from funcnet.layers._recurrent_cells import GRUCell as GRUCell
from funcnet.layers._recurrent_cells import LSTMCell as LSTMCell
from funcnet.layers._recurrent_cells import RNNCell as RNNCell
from funcnet.layers._recurrent_cells import RNNCellBase as RNNCellBase
from funcnet.layers._regression_loss import GaussianNLLLoss as GaussianNLLLoss
from funcnet.layers._regression_loss import HuberLoss as HuberLoss
from funcnet.layers._regression_loss import L1Loss as L1Loss
from funcnet.layers._regression_loss import MSELoss as MSELoss
from funcnet.layers._regression_loss import PoissonNLLLoss as PoissonNLLLoss
from funcnet.layers._regression_loss import SmoothL1Loss as SmoothL1Loss
from funcnet.layers._shape import ChannelShuffle as ChannelShuffle
from funcnet.layers._shape import Flatten as Flatten
from funcnet.layers._shape import Fold as Fold
from funcnet.layers._shape import PixelShuffle as PixelShuffle
from funcnet.layers._shape import PixelUnshuffle as PixelUnshuffle
from funcnet.layers._shape import Unflatten as Unflatten
from funcnet.layers._shape import Unfold as Unfold
from funcnet.layers._softmax import LogSoftmax as LogSoftmax
from funcnet.layers._softmax import Softmax as Softmax
from funcnet.layers._softmax import Softmax2d as Softmax2d
from funcnet.layers._softmax import Softmin as Softmin
from funcnet.layers._threshold import Hardshrink as Hardshrink
from funcnet.layers._threshold import Hardsigmoid as Hardsigmoid
from funcnet.layers._threshold import Hardswish as Hardswish
from funcnet.layers._threshold import Hardtanh as Hardtanh
from funcnet.layers._threshold import LeakyReLU as LeakyReLU
from funcnet.layers._threshold import PReLU as PReLU
from funcnet.layers._threshold import ReLU as ReLU
from funcnet.layers._threshold import ReLU6 as ReLU6
from funcnet.layers._threshold import RReLU as RReLU
from funcnet.layers._threshold import Softshrink as Softshrink
from funcnet.layers._threshold import Threshold as Threshold
from funcnet.layers._transformer import Transformer as Transformer
from funcnet.layers._transformer_layers import TransformerDecoderLayer as TransformerDecoderLayer
from funcnet.layers._transformer_layers import TransformerEncoderLayer as TransformerEncoderLayer
from funcnet.layers._transformer_stacks import TransformerDecoder as TransformerDecoder
from funcnet.layers._transformer_stacks import TransformerEncoder as TransformerEncoder
from funcnet.layers._triplet_loss import TripletMarginLoss as TripletMarginLoss
from funcnet.layers._triplet_loss import TripletMarginWithDistanceLoss as TripletMarginWithDistanceLoss
from funcnet.layers._unpool import MaxUnpool1d as MaxUnpool1d
from funcnet.layers._unpool import MaxUnpool2d as MaxUnpool2d
from funcnet.layers._unpool import MaxUnpool3d as MaxUnpool3d
from funcnet.layers._upsample import Upsample as Upsample
from funcnet.layers._upsample import UpsamplingBilinear2d as UpsamplingBilinear2d
from funcnet.layers._upsample import UpsamplingNearest2d as UpsamplingNearest2d

__all__ = [
    "AdaptiveAvgPool1d",
    "AdaptiveAvgPool2d",
    "AdaptiveAvgPool3d",
    "AdaptiveLogSoftmaxWithLoss",
    "AdaptiveMaxPool1d",
    "AdaptiveMaxPool2d",
    "AdaptiveMaxPool3d",
    "AlphaDropout",
    "AvgPool1d",
    "AvgPool2d",
    "AvgPool3d",
    "BCELoss",
    "BCEWithLogitsLoss",
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "Bilinear",
    "CELU",
    "CTCLoss",
    "ChannelShuffle",
    "CircularPad1d",
    "CircularPad2d",
    "CircularPad3d",
    "ConstantPad1d",
    "ConstantPad2d",
    "ConstantPad3d",
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "CosineEmbeddingLoss",
    "CosineSimilarity",
    "CrossEntropyLoss",
    "CrossMapLRN2d",
    "Dropout",
    "Dropout1d",
    "Dropout2d",
    "Dropout3d",
    "ELU",
    "Embedding",
    "EmbeddingBag",
    "FeatureAlphaDropout",
    "Flatten",
    "Fold",
    "FractionalMaxPool2d",
    "FractionalMaxPool3d",
    "GELU",
    "GLU",
    "GRU",
    "GRUCell",
    "GaussianNLLLoss",
    "GroupNorm",
    "Hardshrink",
    "Hardsigmoid",
    "Hardswish",
    "Hardtanh",
    "HingeEmbeddingLoss",
    "HuberLoss",
    "Identity",
    "InstanceNorm1d",
    "InstanceNorm2d",
    "InstanceNorm3d",
    "KLDivLoss",
    "L1Loss",
    "LPPool1d",
    "LPPool2d",
    "LPPool3d",
    "LSTM",
    "LSTMCell",
    "LayerNorm",
    "LazyBatchNorm1d",
    "LazyBatchNorm2d",
    "LazyBatchNorm3d",
    "LazyConv1d",
    "LazyConv2d",
    "LazyConv3d",
    "LazyConvTranspose1d",
    "LazyConvTranspose2d",
    "LazyConvTranspose3d",
    "LazyInstanceNorm1d",
    "LazyInstanceNorm2d",
    "LazyInstanceNorm3d",
    "LazyLinear",
    "LeakyReLU",
    "Linear",
    "LinearCrossEntropyLoss",
    "LocalResponseNorm",
    "LogSigmoid",
    "LogSoftmax",
    "MSELoss",
    "MarginRankingLoss",
    "MaxPool1d",
    "MaxPool2d",
    "MaxPool3d",
    "MaxUnpool1d",
    "MaxUnpool2d",
    "MaxUnpool3d",
    "Mish",
    "MultiLabelMarginLoss",
    "MultiLabelSoftMarginLoss",
    "MultiMarginLoss",
    "MultiheadAttention",
    "NLLLoss",
    "NLLLoss2d",
    "PReLU",
    "PairwiseDistance",
    "PixelShuffle",
    "PixelUnshuffle",
    "PoissonNLLLoss",
    "RMSNorm",
    "RNN",
    "RNNBase",
    "RNNCell",
    "RNNCellBase",
    "RReLU",
    "ReLU",
    "ReLU6",
    "ReflectionPad1d",
    "ReflectionPad2d",
    "ReflectionPad3d",
    "ReplicationPad1d",
    "ReplicationPad2d",
    "ReplicationPad3d",
    "SELU",
    "SiLU",
    "Sigmoid",
    "SmoothL1Loss",
    "SoftMarginLoss",
    "Softmax",
    "Softmax2d",
    "Softmin",
    "Softplus",
    "Softshrink",
    "Softsign",
    "SyncBatchNorm",
    "Tanh",
    "Tanhshrink",
    "Threshold",
    "Transformer",
    "TransformerDecoder",
    "TransformerDecoderLayer",
    "TransformerEncoder",
    "TransformerEncoderLayer",
    "TripletMarginLoss",
    "TripletMarginWithDistanceLoss",
    "Unflatten",
    "Unfold",
    "Upsample",
    "UpsamplingBilinear2d",
    "UpsamplingNearest2d",
    "ZeroPad1d",
    "ZeroPad2d",
    "ZeroPad3d",
]


def __dir__() -> list[str]:
    return sorted(__all__)
