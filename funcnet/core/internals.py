"""Machinery of this package that other packages use. It is not part of the public interface."""

from funcnet.core._body_errors import describe_input as describe_input
from funcnet.core._check import describe_misfits as describe_misfits
from funcnet.core._check import find_misfits as find_misfits
from funcnet.core._check import misfit_error as misfit_error
from funcnet.core._draw_source import Call as Call
from funcnet.core._draw_source import call_and_path as call_and_path
from funcnet.core._draw_source import describe_view as describe_view
from funcnet.core._draw_source import draw_source as draw_source
from funcnet.core._edits import Edits as Edits
from funcnet.core._edits import adopt_module_tensors as adopt_module_tensors
from funcnet.core._entries import dtype_to_declare as dtype_to_declare
from funcnet.core._entries import has_entries as has_entries
from funcnet.core._entries import make_empty_tensor as make_empty_tensor
from funcnet.core._init_context import InitContext as InitContext
from funcnet.core._inner_states import copy_inner_state as copy_inner_state
from funcnet.core._kinds import DelegatingNet as DelegatingNet
from funcnet.core._kinds import ForeignNet as ForeignNet
from funcnet.core._kinds import StockNet as StockNet
from funcnet.core._part_check import check_part as check_part
from funcnet.core._tensor_records import TensorRecord as TensorRecord
from funcnet.core._tensor_records import record_tensor as record_tensor
from funcnet.core._ties import resolve_aliases as resolve_aliases
from funcnet.core._view import EMPTY_TREE as EMPTY_TREE
