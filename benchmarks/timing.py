"""Seconds of one call, on any device."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import torch

T = TypeVar("T")


def timed(device: str, run: Callable[..., T], *arguments: object) -> tuple[T, float]:
    """What a call returns, and the seconds that it and the device take for it."""
    # one thread's own seconds are what a clock would show, also where other programs share its core
    alone = device == "cpu" and torch.get_num_threads() == 1
    clock = time.process_time if alone else time.perf_counter
    _wait(device)
    began = clock()
    found = run(*arguments)
    _wait(device)
    return found, clock() - began


def _wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize(device)
