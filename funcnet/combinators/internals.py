"""Machinery of this package that other packages use. It is not part of the public interface."""

from funcnet.combinators._stacked_layers import StackView as StackView
from funcnet.combinators._views import SequenceView as SequenceView
