"""What other rooms use of this one, besides its public names; it is no part of the public interface."""

from funcnet.combinators._views import SequenceView as SequenceView
