"""What a request became: the intent, and the settled plan of each of its steps; one versioned JSON object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from diptych.files.typed import convert, parse, to_json
from diptych.planning.schema import VERSION, Intent
from diptych.request import Plan, RequestError

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Course:
    """Plans in the order in which they are carried out, and the intent that they come from."""

    intent: Intent
    plans: tuple[Plan, ...]

    def __post_init__(self) -> None:
        if len(self.plans) != len(self.intent.steps):
            raise ValueError(f"{len(self.intent.steps)} steps, but {len(self.plans)} plans")

    def media_of(self, step: int, attached: Sequence[T], made: Sequence[T]) -> list[T]:
        """What a step is given, of what is attached and of what each earlier step made. Raises RequestError
        where something is not there."""
        plan, pool = self.plans[step], [*attached, *made]
        wanted = plan.media or range(len(plan.inputs))
        there = range(len(pool))
        if len(wanted) != len(plan.inputs) or any(number not in there for number in wanted):
            raise RequestError(
                f"step {step} names the media {', '.join(map(str, wanted))}, but {len(attached)} are "
                f"attached, and {len(made)} made before it"
            )
        return [pool[number] for number in wanted]

    def plain(self) -> dict[str, Any]:
        return {"version": VERSION, **asdict(self)}

    def to_json(self) -> str:
        return to_json(self.plain())

    @classmethod
    def from_json(cls, text: str | bytes, where: str = "the plan") -> Course:
        """Inverse of `to_json`; `where` names the text in errors. Raises RequestError that names the field of
        a wrong value."""
        try:
            values = parse(text, where)
            if not isinstance(values, dict):
                raise ValueError(f"{where}: a JSON object is needed, got {type(values).__name__}")
            version = values.pop("version", None)
            # not ==: True would pass for 1
            if type(version) is not int or version != VERSION:
                raise ValueError(f"{where}: version must be {VERSION}, got {version!r}")
            return convert(cls, values, where)
        except ValueError as error:
            raise RequestError(str(error)) from error
