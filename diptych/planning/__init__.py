"""Plain requests to plans: a rule planner, and the normalisation that makes a plan possible."""

from diptych.planning.normalise import settle
from diptych.planning.rules import RulePlanner
from diptych.planning.understanding import attached, opened, sized, understood

__all__ = ["RulePlanner", "attached", "opened", "settle", "sized", "understood"]
