"""Models without storage: names and shapes, for what is filled afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class _NoStartingValues(TorchFunctionMode):
    """Leaves out torch's own starting values. Without storage they draw nothing, and still load torch's
    compiler: more than a second of every start."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if getattr(func, "__module__", "") == "torch.nn.init":
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


@contextmanager
def without_storage() -> Iterator[None]:
    """Modules that are made in this block lie on the meta device."""
    with torch.device("meta"), _NoStartingValues():
        yield
