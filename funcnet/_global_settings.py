"""Settings of the whole process that a forward may change: how to read each, and how to put it back.

``torch.set_grad_enabled(False)`` in a forward holds for all code that runs later in the thread, and
``torch.set_default_dtype`` for the whole process. A call of a foreign net puts back what it changed, so nothing outside
sees it. A setting is read only if the code of the module has a word by which it can be changed, because each call would
pay for it otherwise.
"""

from __future__ import annotations

import decimal
import gc
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial, wraps
from typing import Any, NamedTuple

import torch
from torch import backends


class Setting(NamedTuple):
    """One setting.

    Attributes:
        name: how code reads it.
        words: names in code, one of which is needed to change it.
        read: returns the value: a number, a text, or a tuple, which nothing changes afterwards.
        write: sets the value.
    """

    name: str
    words: frozenset[str]
    read: Callable[[], Any]
    write: Callable[[Any], object]


def named_settings(words: frozenset[str]) -> tuple[Setting, ...]:
    """The settings that code with these words may change."""
    return tuple(setting for setting in SETTINGS if not setting.words.isdisjoint(words))


def with_settings_restored(run: Callable[..., Any], settings: tuple[Setting, ...]) -> Callable[..., Any]:
    """A function that puts settings back after it ran, also if it raised an error."""

    @wraps(run, assigned=(), updated=())
    def run_and_restore(*inputs: Any, **kwargs: Any) -> Any:
        with restored_settings(settings):
            return run(*inputs, **kwargs)

    return run_and_restore


@contextmanager
def restored_settings(settings: tuple[Setting, ...]) -> Iterator[None]:
    """A block after which settings are as they were before it."""
    values = [setting.read() for setting in settings]
    try:
        yield
    finally:
        for setting, value in zip(settings, values, strict=True):
            if setting.read() != value:
                setting.write(value)


# --- settings of torch ---


def _read_deterministic() -> tuple[bool, bool]:
    return torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()


def _write_deterministic(value: tuple[bool, bool]) -> None:
    torch.use_deterministic_algorithms(value[0], warn_only=value[1])


def _read_anomaly() -> tuple[bool, bool]:
    return torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()


def _write_anomaly(value: tuple[bool, bool]) -> None:
    torch.autograd.set_detect_anomaly(*value)


def _read_sdp() -> tuple[bool, ...]:
    cuda = backends.cuda
    return cuda.flash_sdp_enabled(), cuda.mem_efficient_sdp_enabled(), cuda.math_sdp_enabled(), cuda.cudnn_sdp_enabled()


def _write_sdp(value: tuple[bool, ...]) -> None:
    cuda = backends.cuda
    writers = (cuda.enable_flash_sdp, cuda.enable_mem_efficient_sdp, cuda.enable_math_sdp, cuda.enable_cudnn_sdp)
    for write, is_enabled in zip(writers, value, strict=True):
        write(is_enabled)


def _read_autocast() -> tuple[Any, ...]:
    devices = ("cpu", "cuda")
    states = [(torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)) for device in devices]
    return (*states, torch.is_autocast_cache_enabled())


def _write_autocast(value: tuple[Any, ...]) -> None:
    *states, is_cached = value
    for device, (is_enabled, dtype) in zip(("cpu", "cuda"), states, strict=True):
        torch.set_autocast_enabled(device, is_enabled)
        torch.set_autocast_dtype(device, dtype)
    torch.set_autocast_cache_enabled(is_cached)


def _write_default_device(value: torch.device) -> None:
    torch.set_default_device(None)
    if torch.get_default_device() != value:
        torch.set_default_device(value)


_SMALLEST = 5e-324


def _flushes_denormal() -> bool:
    return _SMALLEST * 1.0 == 0.0  # the flag of the processor holds for numbers of Python too


# --- settings of Python and NumPy ---


def _read_environment() -> tuple[tuple[str, str], ...]:
    return tuple(os.environ.items())


def _write_environment(value: tuple[tuple[str, str], ...]) -> None:
    for name in os.environ.keys() - {name for name, _ in value}:
        del os.environ[name]
    for name, text in value:
        if os.environ.get(name) != text:
            os.environ[name] = text


def _read_warning_filters() -> tuple[Any, ...]:
    return tuple(warnings.filters)


def _write_warning_filters(value: tuple[Any, ...]) -> None:
    warnings.resetwarnings()  # which makes Python forget which warnings it has shown by the old filters
    warnings.filters[:] = value  # type: ignore[index]


def _read_path() -> tuple[str, ...]:
    return tuple(sys.path)


def _write_path(value: tuple[str, ...]) -> None:
    sys.path[:] = value


def _read_numpy_errors() -> tuple[tuple[str, str], ...]:
    numpy = sys.modules.get("numpy")
    return () if numpy is None else tuple(numpy.geterr().items())


def _write_numpy_errors(value: tuple[tuple[str, str], ...]) -> None:
    if value:
        sys.modules["numpy"].seterr(**dict(value))


def _read_decimal() -> tuple[int, str]:
    context = decimal.getcontext()
    return context.prec, context.rounding


def _write_decimal(value: tuple[int, str]) -> None:
    context = decimal.getcontext()
    context.prec, context.rounding = value


def _write_gc(is_enabled: bool) -> None:
    (gc.enable if is_enabled else gc.disable)()


def _attribute(name: str, owner: object) -> Setting:
    """A setting that is an attribute of a part of ``torch.backends``, which has this name."""
    _, _, part, attribute = name.split(".")
    return Setting(name, frozenset({part}), partial(getattr, owner, attribute), partial(setattr, owner, attribute))


SETTINGS: tuple[Setting, ...] = (
    Setting(
        "torch.is_grad_enabled()",
        frozenset({"set_grad_enabled", "_set_grad_enabled", "__enter__", "enter_context"}),
        torch.is_grad_enabled,
        torch.set_grad_enabled,
    ),
    Setting(
        "torch.is_autocast_enabled(...)",
        frozenset({"set_autocast_enabled", "set_autocast_dtype", "set_autocast_cache_enabled", "__enter__"}),
        _read_autocast,
        _write_autocast,
    ),
    Setting(
        "torch.get_default_device()",
        frozenset({"set_default_device"}),
        torch.get_default_device,
        _write_default_device,
    ),
    Setting(
        "torch.get_default_dtype()",
        frozenset({"set_default_dtype", "set_default_tensor_type"}),
        torch.get_default_dtype,
        torch.set_default_dtype,
    ),
    Setting("torch.get_num_threads()", frozenset({"set_num_threads"}), torch.get_num_threads, torch.set_num_threads),
    Setting(
        "torch.are_deterministic_algorithms_enabled()",
        frozenset({"use_deterministic_algorithms", "set_deterministic_debug_mode"}),
        _read_deterministic,
        _write_deterministic,
    ),
    Setting("torch.is_anomaly_enabled()", frozenset({"set_detect_anomaly"}), _read_anomaly, _write_anomaly),
    Setting(
        "torch.is_warn_always_enabled()",
        frozenset({"set_warn_always"}),
        torch.is_warn_always_enabled,
        torch.set_warn_always,
    ),
    Setting(
        "the mode of torch.set_flush_denormal()",
        frozenset({"set_flush_denormal"}),
        _flushes_denormal,
        torch.set_flush_denormal,
    ),
    Setting(
        "torch.get_float32_matmul_precision()",
        frozenset({"set_float32_matmul_precision", "allow_tf32"}),
        torch.get_float32_matmul_precision,
        torch.set_float32_matmul_precision,
    ),
    Setting(
        "torch.backends.cuda.flash_sdp_enabled() and its like",
        frozenset({"enable_flash_sdp", "enable_mem_efficient_sdp", "enable_math_sdp", "enable_cudnn_sdp"}),
        _read_sdp,
        _write_sdp,
    ),
    Setting(
        "torch.backends.mha.get_fastpath_enabled()",
        frozenset({"set_fastpath_enabled"}),
        backends.mha.get_fastpath_enabled,
        backends.mha.set_fastpath_enabled,
    ),
    _attribute("torch.backends.mkldnn.enabled", backends.mkldnn),
    _attribute("torch.backends.mkldnn.deterministic", backends.mkldnn),
    _attribute("torch.backends.cudnn.enabled", backends.cudnn),
    _attribute("torch.backends.cudnn.benchmark", backends.cudnn),
    _attribute("torch.backends.cudnn.deterministic", backends.cudnn),
    _attribute("torch.backends.cudnn.allow_tf32", backends.cudnn),
    _attribute("torch.backends.quantized.engine", backends.quantized),
    Setting(
        "warnings.filters",
        frozenset({"filterwarnings", "simplefilter", "resetwarnings"}),
        _read_warning_filters,
        _write_warning_filters,
    ),
    Setting("os.environ", frozenset({"environ"}), _read_environment, _write_environment),
    Setting("sys.path", frozenset({"sys"}), _read_path, _write_path),
    Setting("sys.getrecursionlimit()", frozenset({"sys"}), sys.getrecursionlimit, sys.setrecursionlimit),
    Setting("numpy.geterr()", frozenset({"seterr"}), _read_numpy_errors, _write_numpy_errors),
    Setting("decimal.getcontext()", frozenset({"getcontext"}), _read_decimal, _write_decimal),
    Setting("gc.isenabled()", frozenset({"gc"}), gc.isenabled, _write_gc),
)
