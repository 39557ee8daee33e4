"""The one way from JSON to typed values: strict, and the path of what is wrong stands in the message.

Only a finite JSON text of plain types is read; it is converted into dataclasses, whose own checks
(`__post_init__`) run on the way. Nothing is coerced: "3" is no number, 3.0 no whole one.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import re
import stat
import types
import typing
from pathlib import Path
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")
MAX_JSON = 2**29
"""Bytes of a JSON file that is read."""


def to_json(value: Any) -> str:
    """A dataclass, or plain values, as readable JSON."""
    plain = dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value  # type: ignore[arg-type]
    text = json.dumps(plain, indent=1, ensure_ascii=False) + "\n"
    return _COMMANDS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


# what would command a terminal, or turn what is shown on it, and surrogates alone, which UTF-8 cannot hold
_COMMANDS = re.compile("[\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def check_finite(value: Any, where: str) -> None:
    """Raises ValueError with the path of a number that strict JSON has no word for: what `to_json` made of it
    could not be read again."""
    if dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            check_finite(getattr(value, field.name), f"{where}.{field.name}")
    elif isinstance(value, dict):
        for key, item in value.items():
            check_finite(item, f"{where}.{key}")
    elif isinstance(value, (tuple, list)):
        for index, item in enumerate(value):
            check_finite(item, f"{where}[{index}]")
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{where} must be a finite number, got {value}")


def parse(text: str | bytes, where: str, *, python: bool = False) -> Any:
    """Plain values of a JSON text; `where` names it in errors. `python`: with the NaN and Infinity that
    Python's own writer puts where JSON has no word. Raises ValueError for what is no strict JSON
    otherwise."""
    try:
        if python:
            return json.loads(text)
        return msgspec.json.decode(text.encode("utf-8", "strict") if isinstance(text, str) else text)
    except (msgspec.DecodeError, json.JSONDecodeError, UnicodeError) as error:
        raise ValueError(f"{where}: not JSON ({error})") from error
    except RecursionError as error:
        raise ValueError(f"{where}: nested too deeply") from error


def read_json(path: Path, *, python: bool = False) -> Any:
    """Plain values of a JSON file; `python` as in `parse`. Raises ValueError naming the file where it is
    missing, unreadable, no regular file, larger than MAX_JSON, or no JSON."""
    try:
        found = path.stat()
        # before it is opened: a pipe would wait for its other end for ever
        if not stat.S_ISREG(found.st_mode):
            raise ValueError(f"{path} is a folder, a pipe or a device, and a JSON file is needed")
        if found.st_size > MAX_JSON:
            raise ValueError(f"{path} has {found.st_size:,} bytes, more than the {MAX_JSON:,} that are read")
        return parse(path.read_bytes(), str(path), python=python)
    except FileNotFoundError as error:
        raise ValueError(f"{path}: no such file") from error
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror})") from error


def read(kind: type[T], path: Path) -> T:
    """A typed value from a JSON file; see `convert`."""
    return convert(kind, read_json(path), str(path))


def convert(kind: type[T], values: Any, where: str = "config") -> T:
    """A typed value from plain ones. Raises ValueError with the path of the wrong value, what it is and what
    it should be; an unknown key names the nearest right one."""
    # before the conversion: msgspec passes over unknown keys, and a misspelt setting would have no effect
    _check_keys(kind, values, where)
    try:
        return msgspec.convert(values, kind, strict=True)
    except msgspec.ValidationError as error:
        # "Expected `int`, got `str` - at `$.stages[0].steps`"
        what, _, place = str(error).partition(" - at `$")
        raise ValueError(f"{where}{place.rstrip('`')}: {what}") from error
    except RecursionError as error:
        raise ValueError(f"{where}: nested too deeply") from error


def _check_keys(kind: Any, value: Any, where: str) -> None:
    """Unknown keys of dataclasses, at any depth: msgspec would pass over them."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    # for T | None; a union of two dataclasses would be held to the keys of both
    if origin in (typing.Union, types.UnionType):
        for option in arguments:
            if dataclasses.is_dataclass(option) or typing.get_origin(option):
                _check_keys(option, value, where)
    elif origin in (tuple, list) and isinstance(value, list):
        for index, item in enumerate(value):
            _check_keys(arguments[0], item, f"{where}[{index}]")
    elif origin is dict and isinstance(value, dict):
        for key, item in value.items():
            _check_keys(arguments[1], item, f"{where}.{key}")
    elif dataclasses.is_dataclass(kind) and isinstance(value, dict):
        known = typing.get_type_hints(kind)
        names = [f.name for f in dataclasses.fields(kind)]
        for key, item in value.items():
            if key not in names:
                near = difflib.get_close_matches(str(key), names, n=1)
                raise ValueError(
                    f"{where}: unknown key {key!r}" + (f" (nearest: {near[0]!r})" if near else "")
                )
            _check_keys(known[key], item, f"{where}.{key}")
