"""What becomes of the fields of a published config: honoured, harmless, or refused by name where their value
would change results. Tables of them stand beside the code that reads the config."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_NEEDED = object()


@dataclass(frozen=True, kw_only=True)
class Field:
    fate: str
    """'honoured', 'harmless', or 'refused' unless the value is one of `only`."""
    only: tuple[Any, ...] = ()
    absent: Any = None
    """What the public code takes where the field is not there."""


HONOURED = Field(fate="honoured")
NEEDED = Field(fate="honoured", absent=_NEEDED)
HARMLESS = Field(fate="harmless")
Fields = Mapping[str, Field]


def only(*values: Any, absent: Any = _NEEDED) -> Field:
    """Refused for other values; `absent` is what the public code takes without the field, the first value
    unless given."""
    return Field(fate="refused", only=values, absent=values[0] if absent is _NEEDED else absent)


def table(fate: Field, names: str) -> dict[str, Field]:
    """One fate for many names, given as words."""
    return dict.fromkeys(names.split(), fate)


def check_fields(values: Mapping[str, Any], fields: Fields, where: str) -> None:
    """Raises ValueError naming the first field whose value would change results here.

    A field that no table has is refused too, unless its value says that it is off: a later version of the
    public code may have added it.
    """
    for name, value in values.items():
        field = fields.get(name)
        if field is None and value is not None and value is not False and not name.startswith("_"):
            raise ValueError(f"{where}: {name} is {value!r}; it is not known here and may change results")
        if field is not None and field.fate == "refused":
            _check(value, field, name, where)
    for name, field in fields.items():
        if name in values:
            continue
        if field.absent is _NEEDED:
            raise ValueError(f"{where}: {name} is missing")
        if field.fate == "refused":
            _check(field.absent, field, name, where)


def _check(value: Any, field: Field, name: str, where: str) -> None:
    # True equals 1 in Python, and means something else in a config
    if not any(value == right and isinstance(value, bool) == isinstance(right, bool) for right in field.only):
        known = " or ".join(repr(right) for right in field.only)
        raise ValueError(f"{where}: {name} is {value!r}, which would change results; it must be {known}")
