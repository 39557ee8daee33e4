"""Which of two equal computations a processor is given: by what it is, never by a race.

The two round differently, so one machine must choose alike in every process, whatever else it is doing.
"""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path

import torch

_TOLD = Path("/proc/cpuinfo")
_PACKED_MAKERS = ("AuthenticAMD", "HygonGenuine")


def fused_attention_pays(device: torch.device) -> bool:
    """Whether torch's fused kernel is faster than two products where the text is short: on a CPU its backward
    pass is several times slower."""
    return device.type == "cuda"


def block_mask_pays() -> bool:
    """Whether runs here should attend under a FlexAttention block mask: on a CPU its kernel has no backward
    pass."""
    return torch.cuda.is_available()


@cache
def packing_pays() -> bool:
    """Whether float32 layers in oneDNN's own layout are faster than plain ones on this CPU: on AMD they take
    half the time, on Intel a little more."""
    if not torch.backends.mkldnn.is_available():
        return False
    told = _TOLD.read_text(errors="replace") if _TOLD.is_file() else platform.processor()
    return any(maker in told for maker in _PACKED_MAKERS)
