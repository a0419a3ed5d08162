"""Rules that nobody has to write: those of known conventions, and proposals for a person to look at.

``_layouts`` reads names and shapes on both sides, ``_networks`` finds the network that is meant and its prefix, and
``_stacks`` takes stacked layers apart. ``_words`` and ``_roles`` say what names mean. ``_units`` are the tensors of one
module, which ``_assignment`` assigns to those of the other side. ``_changes`` lists how axes may change, ``_links`` has
which tensors become which and what speaks against it, and ``_rule_writing`` makes rules of that for ``_match``.
``_families`` makes numbered names patterns for ``_flax_rules``.
"""

from funcnet.checkpoint._matching._flax_rules import flax_rules as flax_rules
from funcnet.checkpoint._matching._match import Match as Match
from funcnet.checkpoint._matching._match import Proposal as Proposal
from funcnet.checkpoint._matching._match import match as match
