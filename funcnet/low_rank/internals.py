"""Machinery of this package that other packages use. It is not part of the public interface."""

from funcnet.low_rank._lora_module import LoraModule as LoraModule
from funcnet.low_rank._lora_module import module_without_lora as module_without_lora
from funcnet.low_rank._lora_net import lora_net_of_module as lora_net_of_module
