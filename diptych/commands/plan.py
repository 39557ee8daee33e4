"""diptych plan: what a request is understood as."""

from __future__ import annotations

from dataclasses import dataclass, field

from rich.console import Console

from diptych.commands.arguments import Images, Overrides, PlanOverrides, Positional


@dataclass(frozen=True, kw_only=True)
class ShowPlan:
    """Print what a request is understood as, without carrying it out."""

    request: Positional[str]
    image: Images = ()
    model: str = "default"
    plan: PlanOverrides = field(default_factory=Overrides)


def run(command: ShowPlan, console: Console) -> int:
    import diptych

    pipeline = diptych.load(command.model)
    plan = pipeline.plan(command.request, len(command.image), **command.plan.given())
    # nothing but the plan, unwrapped: other programs read it
    print(plan.to_json())
    return 0
