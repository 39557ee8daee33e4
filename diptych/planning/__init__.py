"""Plain requests to plans: a rule planner, and the normalisation that makes a plan possible."""

from diptych.planning.normalise import settle
from diptych.planning.rules import RulePlanner
from diptych.planning.understanding import opened, sized, understood

__all__ = ["RulePlanner", "opened", "settle", "sized", "understood"]
