"""Memory of this process, as the C library keeps it."""

from __future__ import annotations

import ctypes

RETURNED = 2**20
"""Bytes from which memory is given back at once: far below a block or a large picture, far above what is
often made."""
_MMAP_THRESHOLD = -3
"""glibc's number for it (malloc.h)."""


def give_memory_back() -> None:
    """Have glibc return large pieces of memory to the system when they are freed, from now on. By itself it
    keeps ever larger ones for what comes next, each thread its own. Other C libraries and allocators have no
    such setting."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, RETURNED)
