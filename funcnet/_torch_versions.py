"""What torch computes in one version and not in another: one fact for each difference, with the versions it holds in.

Names that a version lacks are looked up in ``_torch.py``. What a kernel computes shows only when it runs, and no import
should run kernels: so these facts are by number, and ``tests/test_torch_versions.py`` runs each kernel on the torch at
hand, to see that its fact is true there.
"""

from __future__ import annotations

import torch

VERSION: tuple[int, ...] = tuple(int(number) for number in torch.__version__.split(".")[:2])
"""Major and minor number of torch."""

BAG_TAKES_WRONG_COUNTS = VERSION < (2, 14)
"""Whether the gradient of F.embedding_bag with ``scale_grad_by_freq`` divides by counts of other rows, on the CPU."""

PLACED_CROSS_ENTROPY_MISCOUNTS = VERSION < (2, 14)
"""Whether the mean of F.cross_entropy on DTensors is one of means over what each rank counts by itself."""
