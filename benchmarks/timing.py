"""Seconds of one call, on any device."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import torch

T = TypeVar("T")


def timed(device: str, run: Callable[..., T], *arguments: object) -> tuple[T, float]:
    """What a call returns, and the seconds that it and the device take for it."""
    _wait(device)
    began = time.perf_counter()
    found = run(*arguments)
    _wait(device)
    return found, time.perf_counter() - began


def _wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize(device)
