"""Packages whose modules are loaded when something of them is first asked for.

Torch takes seconds to load, and what a command prints first needs none of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any


def attributes(package: str, modules: Sequence[str]) -> Callable[[str], Any]:
    """A package's `__getattr__`: names that its `__all__` promises, found in its modules, which are asked in
    this order."""

    def found(name: str) -> Any:
        if name in import_module(package).__all__:
            for module in modules:
                there = vars(import_module(f"{package}.{module}"))
                if name in there:
                    return there[name]
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return found
