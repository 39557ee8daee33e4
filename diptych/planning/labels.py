"""What the learned planner tells apart, and how large it is. No torch here."""

from __future__ import annotations

from dataclasses import dataclass

from diptych.planning.clarify import WANTS
from diptych.planning.schema import Control
from diptych.planning.spans import KINDS
from diptych.request import Role, Task

STEPS = 2
"""Steps of a request that are told apart."""
TASKS = tuple(Task)
LANGUAGES = ("en", "zh", "es", "de", "id", "und")
CONTROLS = (None, *Control)
ROLES = tuple(role for role in Role if role is not Role.TARGET)
TAGS = ("", *(f"{edge}{kind}" for kind in KINDS for edge in ("B-", "I-")))
"""Of each word: nothing, the first word of something, a further word of it."""
OUTPUTS = {
    "count": STEPS,
    **{f"task{n}": len(TASKS) for n in range(STEPS)},
    "language": len(LANGUAGES),
    "control": len(CONTROLS),
    "wants": len(WANTS),
    "follows": 1,
    "tags": len(TAGS),
    "steps_of": STEPS,
    "roles": len(ROLES),
}
"""Head -> size."""


@dataclass(frozen=True, kw_only=True)
class TaggerConfig:
    width: int = 128
    depth: int = 3
    heads: int = 4
    hidden: int = 256
    kernel: int = 5
    table: int = 64
    """Width of a row of the tables of words and of pieces."""

    def __post_init__(self) -> None:
        if self.width % self.heads or self.kernel % 2 == 0:
            raise ValueError(
                f"width must be a multiple of heads and kernel odd, got {self.width}, {self.heads}, "
                f"{self.kernel}"
            )
        if min(self.width, self.depth, self.heads, self.hidden, self.table) < 1:
            raise ValueError("every size must be at least 1")
