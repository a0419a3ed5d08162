"""Folders of the library peft: the adapters and the ``adapter_config.json`` beside them, both ways."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from funcnet._errors import ConversionError, TreeError
from funcnet._typing import Tree, TreeLike
from funcnet.checkpoint import load, save
from funcnet.checkpoint.internals import ADAPTER_CONFIG, list_unsupported_settings, read_adapter_config, replace_file
from funcnet.core import Net, Param
from funcnet.low_rank._lora import lora
from funcnet.low_rank._lora_module import LoraModule, is_transposed
from funcnet.low_rank._lora_net import lora_modules
from funcnet.low_rank._peft_names import from_peft_state_dict, to_peft_state_dict

_WEIGHTS = "adapter_model.safetensors"


def peft_config(net: Net, **settings: Any) -> dict[str, Any]:
    """The ``adapter_config.json`` of peft for a net with LoRA: ranks, factors, dropout, and which layers have it.

    Args:
        net: a net with LoRA.
        settings: more settings, as ``base_model_name_or_path`` and ``task_type``.

    Raises:
        TreeError: if there is no LoRA in the net.
        ConversionError: if its layers differ in what peft has one setting for.

    >>> import funcnet as fn
    >>> net, _ = fn.lora(fn.Sequential(fn.Linear(3, 2)), "0", rank=1, alpha=4, rng=0)
    >>> config = peft_config(net)
    >>> config["r"], config["lora_alpha"], config["target_modules"]
    (1, 4, ['0'])
    """
    modules: Mapping[str, LoraModule] = lora_modules(net)
    if not modules:
        raise TreeError("the net has no LoRA: fn.lora(net, selector, rng=...) returns one that has.")
    alphas = {path: _plain_number(module.alpha) for path, module in modules.items()}
    ranks = {path: module.rank for path, module in modules.items()}
    rank, alpha = (Counter(values.values()).most_common(1)[0][0] for values in (ranks, alphas))
    rates = {_dropout_rate(module) for module in modules.values() if not isinstance(module, nn.Embedding)} or {0.0}
    kinds: dict[str, set[Any]] = {
        "use_rslora": {module.use_rslora for module in modules.values()},
        "lora_dropout": rates,
    }
    layers = [module for module in modules.values() if not isinstance(module, nn.Embedding)]
    kinds["fan_in_fan_out"] = {is_transposed(module) for module in layers} or {False}
    mixed = [f"{name} {sorted(values)}" for name, values in kinds.items() if len(values) > 1]
    if mixed:
        raise ConversionError(f"peft has one setting for all layers, and these have {', '.join(mixed)}.")
    return {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": None,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": alpha,
        **{name: values.pop() for name, values in kinds.items()},
        "use_dora": False,
        "bias": "none",
        "init_lora_weights": True,
        "target_modules": list(modules),
        "modules_to_save": _trained_modules(net, modules) or None,
        "rank_pattern": {path: value for path, value in ranks.items() if value != rank},
        "alpha_pattern": {path: value for path, value in alphas.items() if value != alpha},
        **settings,
    }


def save_peft_adapter(folder: str | os.PathLike[str], net: Net, params: TreeLike, **settings: Any) -> None:
    """Write the adapters of a net as a folder that peft loads: ``adapter_model.safetensors`` and its config.

    Args:
        folder: the folder, which is made if it is not there.
        net: a net with LoRA, whose paths are those of a module.
        params: its params; the adapters alone will do, where nothing else is trained.
        settings: more settings for the config; see :func:`peft_config`.

    >>> import tempfile
    >>> import funcnet as fn
    >>> plain = fn.Sequential(fn.Linear(3, 2))
    >>> net, adapters = fn.lora(plain, "0", rank=1, rng=0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_peft_adapter(folder, net, adapters)
    ...     loaded_net, loaded = load_peft_adapter(folder, plain)
    >>> loaded_net == net, loaded["0"].keys() == adapters["0"].keys()
    (True, True)
    """
    config = peft_config(net, **settings)
    Path(folder).mkdir(parents=True, exist_ok=True)
    save(Path(folder) / _WEIGHTS, to_peft_state_dict(net, params))
    with replace_file(Path(folder) / ADAPTER_CONFIG) as file:
        file.write((json.dumps(config, indent=2) + "\n").encode())


def load_peft_adapter(folder: str | os.PathLike[str], net: Net) -> tuple[Net, Tree]:
    """A net with the LoRA of a folder that peft wrote, and the adapters.

    Args:
        folder: the folder, with ``adapter_model.safetensors`` or ``.bin``, and ``adapter_config.json``.
        net: the net without LoRA, with the paths of the module that peft adapted.

    Returns:
        ``(net, adapters)``, as :func:`lora` returns them; ``tree.combine(params, adapters)`` is the whole tree.

    Raises:
        ConversionError: if the config asks for what :func:`lora` has not; names all settings.
        TreeError: if the adapters do not fit the net.

    >>> import tempfile
    >>> import funcnet as fn
    >>> plain = fn.Sequential(fn.Linear(3, 2))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_peft_adapter(folder, *fn.lora(plain, "0", rank=1, rng=0))
    ...     net, adapters = load_peft_adapter(folder, plain)
    >>> fn.tree.paths(adapters)
    ['0.lora_A.weight', '0.lora_B.weight']
    """
    config = read_adapter_config(folder)
    problems = list_unsupported_settings(config, {"use_dora": [False], "bias": ["none"], "lora_bias": [False]})
    problems += [name for name in ("rank_pattern", "alpha_pattern") if config.get(name)]
    if problems:
        raise ConversionError(f"LoRA here has one rank and no biases, and this adapter has {', '.join(problems)}.")
    state_dict = dict(load(folder))
    paths = sorted({_layer_path(name) for name in state_dict if "lora_" in name} - {""})
    adapted, _ = lora(
        net,
        paths,
        rank=config.get("r", 8),
        alpha=config.get("lora_alpha", 8),
        dropout=config.get("lora_dropout", 0.0),
        use_rslora=bool(config.get("use_rslora", False)),
        rng=0,
        device="meta",
    )
    return adapted, from_peft_state_dict(adapted, state_dict)


def _layer_path(name: str) -> str:
    """The path of the layer that a factor is of."""
    return name.removeprefix("base_model.model.").partition(".lora_")[0]


def _plain_number(alpha: float) -> float:
    return int(alpha) if alpha == int(alpha) else alpha


def _dropout_rate(module: LoraModule) -> float:
    dropout = getattr(module, "lora_dropout", None)
    return float(getattr(dropout, "p", 0.0))


def _trained_modules(net: Net, layers: Mapping[str, LoraModule]) -> list[str]:
    """The modules that are trained beside the adapters, as a new head."""
    frozen = set(net.frozen)
    trained = {
        path.rpartition(".")[0]
        for path, spec in net._all_entries.items()
        if isinstance(spec, Param) and path not in frozen and ".lora_" not in f".{path}"
    }
    return sorted(trained - set(layers))
