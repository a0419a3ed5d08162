"""Low-rank changes of weights (LoRA): small trees beside the params of a net, which stay as they are.

lora                  adds low-rank changes to layers of a net, and returns the net and the changes' first params.
merge_lora            adds every change to its weight, and returns the net without LoRA and its params.
unmerge_lora          returns params from before a merge, by subtraction, where nobody kept them.
to_peft_state_dict    names adapters as the library peft does, for its files.
from_peft_state_dict  returns the adapters of a net from what peft saved.
peft_config           returns the adapter_config.json of peft for a net with LoRA.
save_peft_adapter     writes adapters and config as a folder that peft loads.
load_peft_adapter     returns a net with the LoRA of such a folder, and the adapters.
"""

# Reading order: _lora_module (layers as modules, and the arithmetic), _lora_net (layers of funcnet's own as nets),
# _lora (which layers of a net, and their first params), _merge, _peft_names.

from funcnet.low_rank._lora import lora as lora
from funcnet.low_rank._merge import merge_lora as merge_lora
from funcnet.low_rank._merge import unmerge_lora as unmerge_lora
from funcnet.low_rank._peft_folder import load_peft_adapter as load_peft_adapter
from funcnet.low_rank._peft_folder import peft_config as peft_config
from funcnet.low_rank._peft_folder import save_peft_adapter as save_peft_adapter
from funcnet.low_rank._peft_names import from_peft_state_dict as from_peft_state_dict
from funcnet.low_rank._peft_names import to_peft_state_dict as to_peft_state_dict

__all__ = [
    "from_peft_state_dict",
    "load_peft_adapter",
    "lora",
    "merge_lora",
    "peft_config",
    "save_peft_adapter",
    "to_peft_state_dict",
    "unmerge_lora",
]


def __dir__() -> list[str]:
    return [*__all__]
