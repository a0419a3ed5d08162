"""The layers of torch.nn as pure functions: same names, arguments, defaults, ``repr``, param names and first values.

One file per family. A layer is a record of hyperparameters with a body built on ``torch.nn.functional``; nothing here
holds a tensor. ``COUNTERPARTS`` maps each ``torch.nn`` class to its counterpart.
"""

from funcnet.layers._activation import GELU as GELU
from funcnet.layers._activation import LeakyReLU as LeakyReLU
from funcnet.layers._activation import LogSoftmax as LogSoftmax
from funcnet.layers._activation import ReLU as ReLU
from funcnet.layers._activation import Sigmoid as Sigmoid
from funcnet.layers._activation import SiLU as SiLU
from funcnet.layers._activation import Softmax as Softmax
from funcnet.layers._activation import Tanh as Tanh
from funcnet.layers._attention import MultiheadAttention as MultiheadAttention
from funcnet.layers._attention import NonDynamicallyQuantizableLinear as NonDynamicallyQuantizableLinear
from funcnet.layers._batch_norm import BatchNorm1d as BatchNorm1d
from funcnet.layers._batch_norm import BatchNorm2d as BatchNorm2d
from funcnet.layers._batch_norm import BatchNorm3d as BatchNorm3d
from funcnet.layers._conv import Conv1d as Conv1d
from funcnet.layers._conv import Conv2d as Conv2d
from funcnet.layers._conv import Conv3d as Conv3d
from funcnet.layers._dropout import Dropout as Dropout
from funcnet.layers._dropout import Dropout1d as Dropout1d
from funcnet.layers._dropout import Dropout2d as Dropout2d
from funcnet.layers._dropout import Dropout3d as Dropout3d
from funcnet.layers._embedding import Embedding as Embedding
from funcnet.layers._layer import COUNTERPARTS as COUNTERPARTS
from funcnet.layers._layer import Layer as Layer
from funcnet.layers._lazy import LazyBatchNorm1d as LazyBatchNorm1d
from funcnet.layers._lazy import LazyBatchNorm2d as LazyBatchNorm2d
from funcnet.layers._lazy import LazyBatchNorm3d as LazyBatchNorm3d
from funcnet.layers._lazy import LazyConv1d as LazyConv1d
from funcnet.layers._lazy import LazyConv2d as LazyConv2d
from funcnet.layers._lazy import LazyConv3d as LazyConv3d
from funcnet.layers._lazy import LazyLinear as LazyLinear
from funcnet.layers._linear import Bilinear as Bilinear
from funcnet.layers._linear import Identity as Identity
from funcnet.layers._linear import Linear as Linear
from funcnet.layers._norm import GroupNorm as GroupNorm
from funcnet.layers._norm import LayerNorm as LayerNorm
from funcnet.layers._pooling import AdaptiveAvgPool1d as AdaptiveAvgPool1d
from funcnet.layers._pooling import AdaptiveAvgPool2d as AdaptiveAvgPool2d
from funcnet.layers._pooling import AdaptiveAvgPool3d as AdaptiveAvgPool3d
from funcnet.layers._pooling import AvgPool1d as AvgPool1d
from funcnet.layers._pooling import AvgPool2d as AvgPool2d
from funcnet.layers._pooling import AvgPool3d as AvgPool3d
from funcnet.layers._pooling import MaxPool1d as MaxPool1d
from funcnet.layers._pooling import MaxPool2d as MaxPool2d
from funcnet.layers._pooling import MaxPool3d as MaxPool3d
from funcnet.layers._shape import Flatten as Flatten
from funcnet.layers._shape import Unflatten as Unflatten
from funcnet.layers._transformer import Transformer as Transformer
from funcnet.layers._transformer import TransformerDecoder as TransformerDecoder
from funcnet.layers._transformer import TransformerEncoder as TransformerEncoder
from funcnet.layers._transformer_layers import TransformerDecoderLayer as TransformerDecoderLayer
from funcnet.layers._transformer_layers import TransformerEncoderLayer as TransformerEncoderLayer
