"""How a published model draws and answers: its folder says nothing of it, so that is the published defaults
here. What differs stands in a file of ours beside it, `diptych.json`, which its own code does not look at."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from diptych.files.typed import convert, read
from diptych.flow import SamplerConfig
from diptych.settings import Bounds
from diptych.systems.u1.conversation import Conversation

FILE = "diptych.json"
NATIVE = 2048
"""Side, px, of the pictures that the published models draw unless asked otherwise."""
SAMPLER = SamplerConfig(
    num_steps=50,
    shift=3.0,
    guidance_scale=4.0,
    image_guidance_scale=1.0,
    guides_below_one=False,
    sigma_min=0.02,
)
"""How the published base models draw; those distilled to 8 steps take num_steps 8 and guidance_scale 1."""
# in words of our own: the published sentences are no part of the weights, and may be given in SETTINGS
CONVERSATION = Conversation(
    form="neo1_0",
    system={
        "draw": "Make the picture that the user asks for, or change the given pictures as the user asks. "
        "Show all that is named, as it is described, and let everything else fit to it.",
        "story": "Answer the user in words and pictures in turn. Draw a picture wherever it shows more than "
        "words can say, and keep people, things and style alike in all of them.",
    },
    max_tokens=1024,
    think_tokens=1024,
    max_media=10,
    read=Bounds(least=65_536, most=4_194_304),
    source=Bounds(least=262_144, most=4_194_304),
    all_sources=16_777_216,
    story_pictures=10,
    clip_frames=32,
)


@dataclass(frozen=True, kw_only=True)
class Told:
    """`diptych.json`: what differs from the published defaults, field by field, as our own config.json names
    it."""

    native: int | None = None
    sampler: dict[str, Any] = field(default_factory=dict)
    conversation: dict[str, Any] = field(default_factory=dict)

    def applied(
        self,
        where: str,
        native: int = NATIVE,
        sampler: SamplerConfig = SAMPLER,
        conversation: Conversation = CONVERSATION,
    ) -> tuple[int, SamplerConfig, Conversation]:
        """Side, sampler and conversation with what is said here. Raises ValueError with the path of a wrong
        value."""
        sampler = convert(SamplerConfig, {**_plain(sampler), **self.sampler}, f"{where}.sampler")
        values = {**_plain(conversation), **self.conversation}
        if isinstance(values["system"], dict):
            # one by one: to give the text of drawing leaves that of stories
            values["system"] = {**conversation.system, **values["system"]}
        talk = convert(Conversation, values, f"{where}.conversation")
        return native if self.native is None else self.native, sampler, talk


def _plain(value: Any) -> dict[str, Any]:
    """A dataclass as the plain values that JSON has."""
    return {key: list(item) if isinstance(item, tuple) else item for key, item in asdict(value).items()}


def told_in(path: Path) -> Told:
    """Raises ValueError naming the file and the field that is wrong."""
    return read(Told, path)


def told_by(folder: Path) -> tuple[int, SamplerConfig, Conversation]:
    """Side, px, sampler and conversation of a published folder. Raises ValueError as `told_in`."""
    path = folder / FILE
    return (told_in(path) if path.is_file() else Told()).applied(str(path))


def told_of(native: int, sampler: SamplerConfig, conversation: Conversation) -> Told:
    """What of these differs from the published defaults."""

    def differing(value: Any, default: Any) -> dict[str, Any]:
        plain, usual = _plain(value), _plain(default)
        return {key: item for key, item in plain.items() if item != usual[key]}

    told = differing(conversation, CONVERSATION)
    if "system" in told:
        # none for a purpose is said by an empty text
        told["system"] = {**dict.fromkeys(CONVERSATION.system, ""), **told["system"]}
    return Told(
        native=None if native == NATIVE else native,
        sampler=differing(sampler, SAMPLER),
        conversation=told,
    )
