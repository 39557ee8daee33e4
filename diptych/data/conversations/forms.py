"""Marks and words around the turns of a conversation, by the names that models' configs have for them."""

from __future__ import annotations

from dataclasses import dataclass

from diptych.contracts import SPEAKERS

IMAGE, END_IMAGE, IN_IMAGE = "<img>", "</img>", "<IMG_CONTEXT>"
THINK, END_THINK = "<think>", "</think>"
# what a sample is for, and so which of a model's system texts goes before it
ANSWER, DRAW, STORY = "answer", "draw", "story"
PURPOSES = {"generate": DRAW, "edit": DRAW, "clip": DRAW, "clip-edit": DRAW, "interleave": STORY}
"""What a sample of a task is for, where that is not an answer."""


@dataclass(frozen=True)
class Form:
    """Marks and words around a turn; '{}' stands for its role."""

    role: str
    """Mark that opens a turn."""
    after_role: str
    end: str
    """Mark that ends a turn: what a model writes when it has said all."""
    after_end: str
    pad: str
    thinks: bool
    """Whether a block of thoughts precedes what the assistant draws; empty where it does not think."""

    @property
    def marks(self) -> tuple[str, ...]:
        """All that a tokenizer must have for it."""
        roles = dict.fromkeys(self.role.format(role) for role in SPEAKERS)
        return (self.pad, *roles, self.end, IMAGE, END_IMAGE, IN_IMAGE, *(THINK, END_THINK) * self.thinks)


FORMS = {
    "marks": Form("<|{}|>", "", "<|end|>", "", "<|pad|>", thinks=False),
    "neo1_0": Form("<|im_start|>", "{}\n", "<|im_end|>", "\n", "<|endoftext|>", thinks=True),
}
"""By the names that configs have for them."""
