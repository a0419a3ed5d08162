"""The one table of cases: a module, its net and an input in each row; every promise is tested on every row."""

from tests.cases.activations import ACTIVATIONS
from tests.cases.attention import ATTENTION, COMPOSED_ATTENTION
from tests.cases.basic import BASIC
from tests.cases.convolution import CONVOLUTION
from tests.cases.embedding import EMBEDDING
from tests.cases.losses import LOSSES
from tests.cases.models import MODEL_CASES
from tests.cases.norms import NORMS
from tests.cases.parametrized import PARAMETRIZED, PARAMETRIZED_MODELS
from tests.cases.pooling import POOLING
from tests.cases.recurrent import COMPOSED, RECURRENT
from tests.cases.shapes import SHAPES

LAYER_CASES = [
    *BASIC,
    *ACTIVATIONS,
    *ATTENTION,
    *CONVOLUTION,
    *EMBEDDING,
    *LOSSES,
    *NORMS,
    *PARAMETRIZED,
    *POOLING,
    *RECURRENT,
    *SHAPES,
]
COMPOSED_CASES = [*COMPOSED, *COMPOSED_ATTENTION]  # close to the module, not equal: for transforms only
CASES = [*LAYER_CASES, *MODEL_CASES, *PARAMETRIZED_MODELS]
