"""Time to continue texts: ``fn.models.generate`` beside ``generate`` of transformers, on the same weights.

All contestants take turns in one process, on one thread; smallest times are reported, and the tokens must be equal.
With ``--compiled`` the steps of the net are compiled too. Run it with ``python -m tests.benchmarks.decoding``.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import funcnet as fn
from funcnet.checkpoint import convert, load

NEW_TOKENS = 64
GPT2 = {"n_layer": 4, "n_embd": 256, "n_head": 4, "vocab_size": 1000, "n_positions": 256}
LLAMA = {"num_hidden_layers": 4, "hidden_size": 256, "intermediate_size": 688, "vocab_size": 1000}
LLAMA |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256}
MODELS: dict[str, tuple[str, str, dict[str, int]]] = {
    "GPT-2": ("GPT2LMHeadModel", "GPT2Config", GPT2),
    "Llama, grouped": ("LlamaForCausalLM", "LlamaConfig", LLAMA),
}


def build(name: str) -> tuple[Any, Any, Any]:
    """A model of transformers, the net for it, and its params."""
    import transformers

    model_class, config_class, settings = MODELS[name]
    torch.manual_seed(0)
    config = getattr(transformers, config_class)(**settings, bos_token_id=0, eos_token_id=None, pad_token_id=None)
    module = getattr(transformers, model_class)(config).eval()
    with torch.no_grad():
        for weight in module.parameters():
            weight.mul_(5.0) if weight.dim() > 1 else None  # so that texts do not repeat one token
    net = fn.models.from_config(config)
    with tempfile.TemporaryDirectory() as folder:
        module.save_pretrained(f"{folder}/theirs")
        rules = fn.models.rules(config, source=load(f"{folder}/theirs"))
        convert(f"{folder}/theirs", f"{folder}/ours.safetensors", rules)
        params, _ = fn.from_state_dict(net, load(f"{folder}/ours.safetensors"))
        return module, net, fn.tree.map(torch.clone, params)


def measure(name: str, batch_size: int, compiled: bool, rounds: int = 7) -> dict[str, float]:
    """Smallest seconds to continue ``batch_size`` texts, by contestant."""
    module, net, params = build(name)
    tokens = torch.randint(1, 1000, (batch_size, 16), generator=torch.Generator().manual_seed(0))
    options = {"attention_mask": torch.ones_like(tokens), "do_sample": False, "pad_token_id": 0}
    calls: dict[str, Callable[[], Tensor]] = {
        "transformers": lambda: module.generate(tokens, max_new_tokens=NEW_TOKENS, **options),
        "growing cache": lambda: fn.models.generate(net, params, tokens, NEW_TOKENS),
        "static cache": lambda: fn.models.generate(net, params, tokens, NEW_TOKENS, step=net),
    }
    if compiled:
        step = torch.compile(net, fullgraph=True)
        calls["static cache, compiled step"] = lambda: fn.models.generate(net, params, tokens, NEW_TOKENS, step=step)
    expected = calls["transformers"]()
    for contestant, call in calls.items():
        if not torch.equal(call(), expected):
            raise AssertionError(f"{contestant} gives other tokens than transformers")
    seconds: dict[str, list[float]] = {contestant: [] for contestant in calls}
    for _ in range(rounds):
        for contestant, call in calls.items():
            start = time.process_time()
            call()
            seconds[contestant].append(time.process_time() - start)
    return {contestant: min(times) for contestant, times in seconds.items()}


def main() -> None:
    """Print one line for each contestant."""
    torch.set_num_threads(1)
    print(f"{NEW_TOKENS} new tokens, CPU seconds")
    for name in MODELS:
        for batch_size in (1, 4):
            seconds = measure(name, batch_size, "--compiled" in sys.argv)
            print(f"{name}, {batch_size} texts")
            for contestant, value in seconds.items():
                print(f"  {contestant:30}{value * 1e3:9.1f} ms{value / seconds['transformers']:8.2f}")


if __name__ == "__main__":
    main()
