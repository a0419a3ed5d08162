"""State_dicts of modules that save or load by code of their own, and keys with the names of wrappers."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper, offload_wrapper
from torch.nn.utils import parametrizations

import funcnet as fn
from funcnet.adapters._own_state_dict import are_equal
from tests.helpers import assert_identical


class Transposed(nn.Linear):
    """Saves the transpose under another name."""

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        destination[f"{prefix}kernel"] = self.weight.detach().t().contiguous()
        destination[f"{prefix}bias"] = self.bias.detach()

    def _load_from_state_dict(self, state_dict, prefix, *args):
        state_dict[f"{prefix}weight"] = state_dict.pop(f"{prefix}kernel").t()
        super()._load_from_state_dict(state_dict, prefix, *args)


class Versioned(nn.Linear):
    """Saved half of its weight, under another name, in its first version."""

    _version = 2

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, *args):
        if (local_metadata.get("version") or 1) < 2:
            state_dict[f"{prefix}weight"] = state_dict.pop(f"{prefix}half") * 2
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)


class WritesInPlace(nn.Module):
    """Loads by copying, and what it loads is not only a tensor."""

    def __init__(self):
        super().__init__()
        self.scale, self.gain = nn.Parameter(torch.rand(3)), 1.0

    def forward(self, x):
        return x * self.scale * self.gain

    def _load_from_state_dict(self, state_dict, prefix, *args):
        with torch.no_grad():
            self.scale.copy_(state_dict[f"{prefix}scale"])
        self.gain = float(state_dict.get(f"{prefix}gain", 1.0))


class KeepsWhatItHas(nn.Linear):
    """Takes a state_dict without its bias."""

    def _load_from_state_dict(self, state_dict, prefix, *args):
        state_dict.setdefault(f"{prefix}bias", self.bias)
        super()._load_from_state_dict(state_dict, prefix, *args)


def with_hooks():
    module = nn.Linear(2, 3)
    module.register_state_dict_post_hook(
        lambda module, state, prefix, _: state.update({f"{prefix}note": torch.ones(1)})
    )
    module.register_load_state_dict_pre_hook(lambda module, state, prefix, *_: state.pop(f"{prefix}note", None))
    return module


MODULES = {
    "own methods": lambda: Transposed(3, 4),
    "a version": lambda: Versioned(3, 4),
    "copies": WritesInPlace,
    "hooks": with_hooks,
    "spectral norm": lambda: nn.utils.spectral_norm(nn.Linear(3, 4)),
    "checkpoint_wrapper": lambda: checkpoint_wrapper(nn.Sequential(checkpoint_wrapper(nn.Linear(3, 4)), nn.ReLU())),
    "offload_wrapper": lambda: offload_wrapper(nn.Linear(3, 4)),
    "weight norm": lambda: parametrizations.weight_norm(nn.Linear(3, 4)),
}


@pytest.mark.parametrize("around", [lambda module: module, nn.Sequential], ids=["alone", "Sequential"])
@pytest.mark.parametrize("build", MODULES.values(), ids=MODULES)
def test_the_state_dict_is_the_modules_own(build, around):
    module, other = around(build()), around(build())
    net, params, buffers = fn.from_module(module)
    state = fn.to_state_dict(net, params, buffers)
    assert_identical(dict(state), dict(module.state_dict()))
    copy.deepcopy(module).load_state_dict(state)
    for expected in (module, other):
        given = {key: value.clone() for key, value in expected.state_dict().items()}
        trees = fn.from_state_dict(net, expected.state_dict())
        assert_identical(dict(expected.state_dict()), given)
        assert_identical(dict(fn.to_module(net, *trees).state_dict()), given)


def quantized(module):
    quantize = getattr(torch.ao.quantization, "quantize_dynamic", None)
    if quantize is None:
        pytest.skip("this torch has no dynamic quantization")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return quantize(nn.Sequential(module))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*quantiz:UserWarning")
@pytest.mark.parametrize("build", [lambda: nn.Linear(3, 4), lambda: nn.LSTM(3, 4), lambda: nn.GRU(3, 4)])
def test_packed_weights_are_saved_and_others_are_refused(build):
    module, other = quantized(build()), quantized(build())
    net, params, buffers = fn.from_module(module)
    state = fn.to_state_dict(net, params, buffers)
    assert list(state) == list(module.state_dict())
    assert all(map(are_equal, state.values(), module.state_dict().values()))
    module.load_state_dict(state)
    assert fn.from_state_dict(net, state) == ({}, {})
    with pytest.raises(fn.TreeError, match=r"other .*'0\..*': it is part of the net, not of the trees"):
        fn.from_state_dict(net, other.state_dict())
    with pytest.raises(fn.TreeError, match="the module does not load it"):
        fn.from_state_dict(net, {})


def test_what_an_older_version_saved_is_loaded_as_the_module_loads_it():
    net, params, _ = fn.from_module(nn.Sequential(Versioned(3, 4)))
    loaded, _ = fn.from_state_dict(net, {"0.half": params["0"]["weight"] / 2, "0.bias": params["0"]["bias"]})
    assert_identical(loaded, params)
    bfloat16 = {"module.0.half": torch.ones(4, 3, dtype=torch.bfloat16), "module.0.bias": torch.ones(4)}
    assert fn.from_state_dict(net, bfloat16)[0]["0"]["weight"].dtype is torch.bfloat16


def test_a_file_older_than_the_counter_of_batch_norm_is_loaded_and_a_newer_one_without_it_is_not():
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    net, params, buffers = fn.from_module(module)
    state = module.state_dict()
    del state["1.num_batches_tracked"]
    assert_identical(fn.from_state_dict(net, dict(state)), (params, buffers))
    assert_identical(fn.from_state_dict(net, {f"module.{key}": value for key, value in state.items()})[1], buffers)
    with pytest.raises(fn.TreeError, match=r"missing     '1\.num_batches_tracked'"):
        fn.from_state_dict(net, state)
    with pytest.raises(fn.TreeError, match=r"1 problem\n  missing     '1\.running_mean'"):
        fn.from_state_dict(net, {key: value for key, value in module.state_dict().items() if key != "1.running_mean"})


def test_the_older_weight_norm_is_loaded_into_parametrizations():
    with pytest.warns(FutureWarning, match="weight_norm"):
        old = nn.utils.weight_norm(nn.Linear(3, 4))
    net = fn.parametrize.weight_norm(fn.Linear(3, 4))
    params, _ = fn.from_state_dict(net, old.state_dict())
    assert_identical(net(params, torch.ones(2, 3)), old(torch.ones(2, 3)).detach())


def test_what_trees_cannot_hold_and_what_gets_no_value_is_refused():
    net, params, _ = fn.from_module(WritesInPlace())
    with pytest.raises(fn.TreeError, match="other       'gain': it is part of the net"):
        fn.from_state_dict(net, {"scale": params["scale"], "gain": torch.tensor(2.0)})
    net, params, _ = fn.from_module(KeepsWhatItHas(2, 3))
    with pytest.raises(fn.TreeError, match="missing     'bias': the module takes this state_dict"):
        fn.from_state_dict(net, {"weight": params["weight"]})
    assert_identical(fn.from_state_dict(net, params)[0], params)


def test_memory_is_shared_only_where_it_is_asked_for():
    module = Transposed(3, 4)
    net, params, _ = fn.from_module(module)
    state = module.state_dict()
    assert fn.to_state_dict(net, params)["bias"].data_ptr() == params["bias"].data_ptr()
    for is_copy in (True, False):
        loaded, _ = fn.from_state_dict(net, state, copy=is_copy)
        assert (loaded["bias"].data_ptr() == state["bias"].data_ptr()) is not is_copy


class Named(nn.Module):
    """Has parts of the names that wrappers give."""

    def __init__(self):
        super().__init__()
        self.module, self.head = nn.Linear(2, 2), nn.ModuleDict({"module": nn.Linear(2, 2), "fc": nn.Linear(2, 2)})

    def forward(self, x):
        return self.head["fc"](self.head["module"](self.module(x)))


PREFIXES = [
    "module.",
    "_orig_mod.",
    "_orig_mod.module.",
    "module._orig_mod.",
    "module.module.",
    "_forward_module.module.",
    "_fsdp_wrapped_module._orig_mod.",
]


@pytest.mark.parametrize("inside", ["", "_checkpoint_wrapped_module.", "module.", "_fsdp_wrapped_module._orig_mod."])
@pytest.mark.parametrize("prefix", ["", *PREFIXES])
def test_names_of_wrappers_are_left_out_of_keys_in_any_nesting(prefix, inside):
    for module in (nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), Named()):
        net, params, buffers = fn.from_module(module)
        state = {}
        for key, value in module.state_dict().items():
            first, _, rest = key.partition(".")
            state[f"{prefix}{first}.{inside}{rest}"] = value
        assert_identical(fn.from_state_dict(net, state), (params, buffers))


def test_keys_that_would_fall_together_stay_as_they_are():
    net = fn.Sequential({"fc": fn.Linear(2, 2)})
    state = {"fc.weight": torch.ones(2, 2), "_orig_mod.fc.weight": torch.zeros(2, 2), "fc.bias": torch.ones(2)}
    with pytest.raises(fn.TreeError, match=r"extra       '_orig_mod\.fc\.weight'"):
        fn.from_state_dict(net, state)
    with pytest.raises(fn.TreeError, match=r"1 problem\n  missing     'fc\.bias'"):
        fn.from_state_dict(net, {"module._orig_mod.fc.weight": torch.ones(2, 2)})


def test_hooks_on_a_wrapper_are_not_lost_in_silence():
    module = nn.Sequential(checkpoint_wrapper(nn.Linear(3, 4)))
    module[0].register_forward_hook(lambda *_: None)
    with pytest.raises(fn.ConversionError, match=r"hooks are on a wrapper, which is left out\n  0\._forward_hooks"):
        fn.from_module(module)
