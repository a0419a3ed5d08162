"""Machinery of this package that other packages use. It is not part of the public interface."""

from funcnet.parametrize._parametrized import ParametrizationList as ParametrizationList
from funcnet.parametrize._parametrized import parametrize_net as parametrize_net
from funcnet.parametrize._parametrized_modules import module_without_parametrizations as module_without_parametrizations
from funcnet.parametrize._parametrized_modules import parametrization_lists_of as parametrization_lists_of
from funcnet.parametrize._stock_parametrizations import STOCK_PARAMETRIZATIONS as STOCK_PARAMETRIZATIONS
