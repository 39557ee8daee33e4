"""Plain requests to plans: a rule planner, and the normalisation that makes a plan possible."""

from diptych.planning.normalise import Limits, settle
from diptych.planning.rules import RulePlanner

__all__ = ["Limits", "RulePlanner", "settle"]
