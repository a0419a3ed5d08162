"""Nets made of nets: Sequential, ModuleList, ModuleDict, with the names and keys of their torch.nn twins."""

from funcnet.combinators._containers import ModuleDict as ModuleDict
from funcnet.combinators._containers import ModuleList as ModuleList
from funcnet.combinators._containers import Sequential as Sequential
