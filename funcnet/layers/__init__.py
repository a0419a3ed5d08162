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
from funcnet.layers._adaptive_pool import AdaptiveAvgPool1d as AdaptiveAvgPool1d
from funcnet.layers._adaptive_pool import AdaptiveAvgPool2d as AdaptiveAvgPool2d
from funcnet.layers._adaptive_pool import AdaptiveAvgPool3d as AdaptiveAvgPool3d
from funcnet.layers._adaptive_pool import AdaptiveMaxPool1d as AdaptiveMaxPool1d
from funcnet.layers._adaptive_pool import AdaptiveMaxPool2d as AdaptiveMaxPool2d
from funcnet.layers._adaptive_pool import AdaptiveMaxPool3d as AdaptiveMaxPool3d
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
from funcnet.layers._conv import Conv1d as Conv1d
from funcnet.layers._conv import Conv2d as Conv2d
from funcnet.layers._conv import Conv3d as Conv3d
from funcnet.layers._conv_transpose import ConvTranspose1d as ConvTranspose1d
from funcnet.layers._conv_transpose import ConvTranspose2d as ConvTranspose2d
from funcnet.layers._conv_transpose import ConvTranspose3d as ConvTranspose3d
from funcnet.layers._dropout import Dropout as Dropout
from funcnet.layers._dropout import Dropout1d as Dropout1d
from funcnet.layers._dropout import Dropout2d as Dropout2d
from funcnet.layers._dropout import Dropout3d as Dropout3d
from funcnet.layers._embedding import Embedding as Embedding
from funcnet.layers._embedding_bag import EmbeddingBag as EmbeddingBag
from funcnet.layers._fractional_pool import FractionalMaxPool2d as FractionalMaxPool2d
from funcnet.layers._fractional_pool import FractionalMaxPool3d as FractionalMaxPool3d
from funcnet.layers._instance_norm import InstanceNorm1d as InstanceNorm1d
from funcnet.layers._instance_norm import InstanceNorm2d as InstanceNorm2d
from funcnet.layers._instance_norm import InstanceNorm3d as InstanceNorm3d
from funcnet.layers._layer import COUNTERPARTS as COUNTERPARTS
from funcnet.layers._layer import Layer as Layer
from funcnet.layers._linear import Bilinear as Bilinear
from funcnet.layers._linear import Identity as Identity
from funcnet.layers._linear import Linear as Linear
from funcnet.layers._local_response import CrossMapLRN2d as CrossMapLRN2d
from funcnet.layers._local_response import LocalResponseNorm as LocalResponseNorm
from funcnet.layers._max_pool import MaxPool1d as MaxPool1d
from funcnet.layers._max_pool import MaxPool2d as MaxPool2d
from funcnet.layers._max_pool import MaxPool3d as MaxPool3d
from funcnet.layers._norm import GroupNorm as GroupNorm
from funcnet.layers._norm import LayerNorm as LayerNorm
from funcnet.layers._norm import RMSNorm as RMSNorm
from funcnet.layers._shape import Flatten as Flatten
from funcnet.layers._shape import Unflatten as Unflatten
from funcnet.layers._unpool import MaxUnpool1d as MaxUnpool1d
from funcnet.layers._unpool import MaxUnpool2d as MaxUnpool2d
from funcnet.layers._unpool import MaxUnpool3d as MaxUnpool3d
