"""diptych plan: what a request is understood as."""

from __future__ import annotations

from dataclasses import dataclass, field

from rich.console import Console

from diptych.commands.arguments import Images, Json, Overrides, PlanOverrides, Positional, understood
from diptych.files.typed import to_json


@dataclass(frozen=True, kw_only=True)
class ShowPlan:
    """Print what a request is understood as, as JSON, without carrying it out."""

    request: Positional[str]
    image: Images = ()
    model: str = "default"
    json: Json = False
    """As without it: a plan is always printed as one JSON object."""
    plan: PlanOverrides = field(default_factory=Overrides)


def run(command: ShowPlan, console: Console) -> int:
    from diptych.systems.registry import settings_of

    plan, _ = understood(settings_of(command.model), command.request, command.image, command.plan)
    # nothing but the plan, unwrapped: other programs read it
    print(to_json(plan), end="")
    return 0
