"""The machine and the software that numbers were measured with."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import torch

import funcnet as fn


def installed_versions() -> dict[str, str]:
    """The versions of funcnet, torch and Python."""
    return {"funcnet": fn.__version__, "torch": torch.__version__, "python": platform.python_version()}


def describe_machine() -> dict[str, str]:
    """The processor, its cores, the operating system and the accelerator, as far as they are known."""
    has_accelerator = torch.accelerator.is_available()
    facts = {
        "processor": _processor_name(),
        "cores": str(os.cpu_count()),
        "system": f"{platform.system()} {platform.release()}",
        "accelerator": str(torch.accelerator.current_accelerator()) if has_accelerator else "none",
    }
    return {name: value for name, value in facts.items() if value}


def _processor_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
