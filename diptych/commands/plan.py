"""diptych plan: what a request is understood as."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from rich.console import Console

from diptych import planning
from diptych.commands.arguments import (
    Images,
    Json,
    Overrides,
    PlanOverrides,
    Positional,
    Settled,
    understood,
)
from diptych.planning import Planner
from diptych.request import Media


@dataclass(frozen=True, kw_only=True)
class ShowPlan:
    """Print what a request is understood as, as JSON, without carrying it out: the intent, in words of the
    request, and the plan of each step, in numbers of the model."""

    request: Positional[str] = ""
    image: Images = ()
    settled: Settled = None
    """A file with what this command printed, in place of a request."""
    model: str = "default"
    json: Json = False
    """As without it: a plan is always printed as one JSON object."""
    plan: PlanOverrides = field(default_factory=Overrides)


def run(command: ShowPlan, console: Console) -> int:
    from diptych.systems.registry import settings_of

    settings = settings_of(command.model)

    def planner(media: Sequence[Media | Path]) -> Planner | None:
        import diptych

        return diptych.load(command.model).planner(media)

    course, found = understood(
        settings, command.request, command.image, command.plan, command.settled, planner=planner
    )
    if found or not course.plans[0].inputs:
        first, _ = planning.given(settings, course, 0, found)
        course = replace(course, plans=(first, *course.plans[1:]))
    # nothing but the plan, unwrapped: other programs read it
    print(course.to_json(), end="")
    return 0
