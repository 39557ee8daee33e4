"""What a model was taught of conversations, and the sizes at which it reads pictures."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from diptych.data.conversations.template import ANSWER, DRAW, FORMS, STORY, Template
from diptych.data.conversations.tokens import TextTokenizer
from diptych.data.pictures import resize


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """Pixels that a picture is read at: at least and at most."""

    least: int
    most: int

    def __post_init__(self) -> None:
        if not 0 < self.least <= self.most:
            raise ValueError(f"least must be above 0 and at most most, got {self.least} and {self.most}")


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """`conversation` in config.json; what it does not say is that of the shipped model."""

    form: str = "marks"
    """Which of `data.conversations.template.FORMS` its turns have."""
    system: dict[str, str] = field(default_factory=dict)
    """System texts by purpose: 'answer', 'draw' (pictures and edits), 'story' (text and pictures in turn)."""
    max_tokens: int = 64
    """Tokens of an answer where the request does not say."""
    think_tokens: int = 0
    """Most tokens of thoughts before a picture; 0: it was not taught to think."""
    context: int = 32_768
    """Tokens that a request may have, pictures included."""
    max_media: int = 1
    """Pictures that a request may bring."""
    read: Bounds | None = None
    """Pixels of a picture that is asked about; None: its own size, shrunk to the model's area."""
    source: Bounds | None = None
    """Pixels of a picture that is changed or continued; None: likewise."""
    all_sources: int = 0
    """Most pixels of all sources of a request together; 0: no bound."""
    story_pictures: int = 0
    """Most pictures that one answer may hold; 0: it was not taught to draw within an answer."""

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise ValueError(f"form must be one of {', '.join(FORMS)}, got {self.form!r}")
        if unknown := sorted(set(self.system) - {ANSWER, DRAW, STORY}):
            raise ValueError(f"system has texts for {ANSWER}, {DRAW} and {STORY}, not for {unknown[0]!r}")
        for name, least in (("max_tokens", 1), ("think_tokens", 0), ("context", 1), ("max_media", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")

    def template(self, tokenizer: TextTokenizer, token: int) -> Template:
        """Raises ValueError for a tokenizer without the form's marks."""
        return Template(FORMS[self.form], tokenizer, token, self.system)


def fit_between(pixels: np.ndarray, multiple: int, bounds: Bounds) -> np.ndarray:
    """A picture (height, width, 3) with sides at the nearest multiples, ties to even, and its area brought
    within the bounds: rounded down where it was too large, up where it was too small."""
    height, width = pixels.shape[:2]
    sides = [max(multiple, round(side / multiple) * multiple) for side in (height, width)]
    area = sides[0] * sides[1]
    if area > bounds.most:
        ratio = (height * width / bounds.most) ** 0.5
        sides = [max(multiple, int(side / ratio // multiple) * multiple) for side in (height, width)]
    elif area < bounds.least:
        ratio = (bounds.least / (height * width)) ** 0.5
        sides = [-int(-(side * ratio) // multiple) * multiple for side in (height, width)]
    return resize(pixels, sides[1], sides[0])
