"""Plain requests to plans: planners, signals of language models, and the normalisation that makes a plan
possible."""

from diptych.planning.course import Course
from diptych.planning.normalise import settle
from diptych.planning.rules import RulePlanner
from diptych.planning.schema import Attached, Intent, Planner, Request
from diptych.planning.understanding import given, looked_at, opened, settled, sized, told, understood

__all__ = [
    "Attached",
    "Course",
    "Intent",
    "Planner",
    "Request",
    "RulePlanner",
    "given",
    "looked_at",
    "opened",
    "settle",
    "settled",
    "sized",
    "told",
    "understood",
]
