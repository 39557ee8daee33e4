"""What a model was taught of conversations, and the sizes at which it reads pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from diptych.contracts import Picture
from diptych.data.conversations.forms import ANSWER, DRAW, FORMS, STORY
from diptych.request import FPS, MARK, MAX_FPS, Media, RequestError, Role, Task
from diptych.settings import Bounds, check_shape, size_between

if TYPE_CHECKING:
    import numpy as np

    from diptych.data.conversations.template import Template
    from diptych.data.conversations.tokens import TextTokenizer

T = TypeVar("T")
GUIDES = {
    Role.MASK: Task.EDIT,
    Role.REFERENCE: Task.REFERENCE_TO_IMAGE,
    Role.CONTROL: Task.CONTROL_TO_IMAGE,
}
"""What a model that is not free may have been taught of pictures to draw by, and the task that is then
its."""
CLIP_GUIDES = {
    Role.FIRST: Task.IMAGE_TO_CLIP,
    Role.LAST: Task.IMAGE_TO_CLIP,
    Role.REFERENCE: Task.REFERENCE_TO_CLIP,
    Role.SOURCE: Task.EDIT_CLIP,
    Role.MASK: Task.EDIT_CLIP,
    Role.CONTROL: Task.CONTROL_TO_CLIP,
}
"""The same of clips."""
CONTROLS = ("edges", "boxes", "paths")
"""What a control holds, in the samples that such models learn by."""
_LEAST = {
    "max_tokens": 1,
    "story_tokens": 1,
    "context": 1,
    "think_tokens": 0,
    "max_media": 0,
    "all_sources": 0,
    "story_pictures": 0,
    "clip_frames": 0,
    "drawn_frames": 0,
    "clip_side": 0,
}


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """`conversation` in config.json; what it does not say is that of the shipped model."""

    form: str = "marks"
    """Which of `data.conversations.forms.FORMS` its turns have."""
    system: dict[str, str] = field(default_factory=dict)
    """System texts by purpose: 'answer', 'draw' (pictures and edits), 'story' (text and pictures in turn)."""
    max_tokens: int = 64
    """Tokens of an answer where the request does not say."""
    story_tokens: int = 8192
    """Tokens of all the text of an answer that may hold pictures, where the request does not say."""
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
    guides: tuple[str, ...] = ()
    """Of a model that is not free: roles of pictures, beside a source, that it was taught to draw by. Their
    names stand before them, in the order of `GUIDES`."""
    clip_frames: int = 0
    """Most frames of a clip that are looked at; 0: it was not taught to look at clips."""
    plans: bool = False
    """Whether it was taught to plan requests itself, and does."""
    drawn_frames: int = 0
    """Most frames of a clip that it draws; 0: it was not taught to draw clips."""
    clip_side: int = 0
    """Side, px, of the frames that it was taught to draw; 0: that of its pictures."""
    fps: float = FPS
    """Frames a second of its clips."""
    clip_guides: tuple[str, ...] = ()
    """Roles of pictures and clips that it was taught to draw clips by."""

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise ValueError(f"form must be one of {', '.join(FORMS)}, got {self.form!r}")
        if unknown := sorted(set(self.system) - {ANSWER, DRAW, STORY}):
            raise ValueError(f"system has texts for {ANSWER}, {DRAW} and {STORY}, not for {unknown[0]!r}")
        if unknown := sorted(set(self.guides) - set(GUIDES)):
            raise ValueError(f"guides may be {', '.join(GUIDES)}, not {unknown[0]!r}")
        if unknown := sorted(set(self.clip_guides) - set(CLIP_GUIDES)):
            raise ValueError(f"clip_guides may be {', '.join(CLIP_GUIDES)}, not {unknown[0]!r}")
        for name, least in _LEAST.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if not 0 < self.fps <= MAX_FPS:
            raise ValueError(f"fps must be above 0 and at most {MAX_FPS:g}, got {self.fps}")
        if self.clip_guides and self.drawn_frames < 2:
            raise ValueError(
                f"clip_guides are for a model of clips, and drawn_frames is {self.drawn_frames}: make it 2 "
                "or more"
            )

    def template(self, tokenizer: TextTokenizer, token: int) -> Template:
        """Raises ValueError for a tokenizer without the form's marks."""
        # settings are read before a tokenizer is loaded
        from diptych.data.conversations.template import Template

        return Template(FORMS[self.form], tokenizer, token, self.system)

    @property
    def free(self) -> bool:
        """Whether any text may be said, in its own letters and lines, with marks where pictures stand in it;
        models of the first form know one way of asking: a picture, then words in lower case on one line."""
        return FORMS[self.form].thinks

    @property
    def most_media(self) -> int:
        """Media that a drawing may bring: a mask comes beside its source, a last frame beside a first one."""
        return self.max_media + (
            Role.MASK in (*self.guides, *self.clip_guides) or Role.LAST in self.clip_guides
        )

    def guided(self, roles: Sequence[Role]) -> list[tuple[int, str]]:
        """Places of given pictures in the order in which a model that is not free was taught them, whatever
        the order that they are attached in, each with what is said before it."""
        order = sorted(range(len(roles)), key=lambda at: [Role.SOURCE, *GUIDES].index(roles[at]))
        return [(at, "" if roles[at] is Role.SOURCE else roles[at].value) for at in order]

    def placed(self, text: str, pictures: Sequence[T], purpose: str) -> tuple[str | T, ...]:
        """A turn's text and pictures in their order: the k-th mark <image> of the text stands for the k-th
        picture, and marks that are missing go before it, each on a line (SenseNova-U1's own prompts).

        Raises RequestError for more marks than pictures. A model that is not `free` has its pictures before
        the text, in which a mark is only text.
        """
        if not self.free:
            return (*pictures, text)
        missing = len(pictures) - text.count(MARK)
        if missing < 0:
            raise RequestError(
                f"the text has {text.count(MARK)} marks {MARK}, but {len(pictures)} pictures are attached: "
                "each mark stands for one of them"
            )
        if purpose == DRAW and missing == len(pictures) > 1:
            text = "".join(f"Image-{number}:{MARK}\n" for number in range(1, missing + 1)) + text
        else:
            text = f"{MARK}\n" * missing + text
        first, *rest = text.split(MARK)
        parts: list[str | T] = [first]
        for picture, words in zip(pictures, rest, strict=True):
            parts += [picture, words]
        return tuple(part for part in parts if part != "")

    def shown(
        self, medium: Media, multiple: int, native: int, purpose: str, together: int = 1
    ) -> tuple[str | Picture, ...]:
        """A medium, one of so many of a request, as parts of a turn: a picture at the size that it is read
        at; of a clip the frames that are looked at, each behind its time in words, or for a model that was
        taught to draw clips as one clip.

        Raises RequestError for a clip where none are looked at, and as `fit`."""
        if len(medium.frames) > 1 and not self.clip_frames:
            raise RequestError(f"{medium.name} is a clip, and this model looks at pictures alone")
        chosen = spread(len(medium.frames), max(1, self.clip_frames))
        if self.drawn_frames and len(medium.frames) > 1:
            import numpy as np

            side = self.clip_side or native
            sized = [
                self.fit(medium.frames[frame], multiple, side, purpose, together, len(chosen))
                for frame in chosen
            ]
            return (Picture(np.stack(sized)),)
        pictures = [
            Picture(self.fit(medium.frames[frame], multiple, native, purpose, together, len(chosen)))
            for frame in chosen
        ]
        if len(medium.frames) == 1:
            return tuple(pictures)
        told = zip(chosen, pictures, strict=True)
        return tuple(
            part for frame, picture in told for part in (f"{medium.time(frame):.1f} s: ", picture, "\n")
        )

    def fit(
        self,
        pixels: np.ndarray,
        multiple: int,
        native: int,
        purpose: str,
        together: int = 1,
        frames: int = 1,
    ) -> np.ndarray:
        """A picture (height, width, 3), one of so many of a request, at the size that it is read at: sides
        are multiples, and the area is within the bounds of what the picture is for, or at most native^2 where
        there are none. The frames of a clip share what one picture may have.

        Raises RequestError for a picture that is too thin a strip."""
        height, width = pixels.shape[:2]
        check_shape(width, height)
        from diptych.data.pictures import resize

        bounds = self.read if purpose == ANSWER else self.source
        if bounds is None:
            shrink = min(1.0, (native**2 / (width * height)) ** 0.5)
            sides = (max(multiple, round(round(x * shrink) / multiple) * multiple) for x in (width, height))
            return resize(pixels, *sides)
        if purpose != ANSWER:
            bounds = bounds.shared(self.all_sources, together)
        if frames > 1:
            bounds = Bounds(least=bounds.least, most=max(bounds.least, bounds.most // frames))
        return resize(pixels, *size_between(width, height, multiple, bounds))


def spread(count: int, most: int) -> list[int]:
    """At most so many of the numbers below `count`, evenly, the first and the last among them."""
    if count <= most:
        return list(range(count))
    return [round(place * (count - 1) / max(1, most - 1)) for place in range(most)]
