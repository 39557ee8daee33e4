"""What a language brings to clips: what things do, in frames as `grammar` has them.

Slots: `{a}` is the thing that does something, `{b}` the other of two that swap, or what stays beside, `{w}`
where to, `{t}` how often, `{v}` a verb, `{x}` and `{y}` whole clauses.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from diptych.worlds.emoji.words.grammar import Frames, Words


@dataclass(frozen=True, kw_only=True)
class Moving:
    """One language's words for clips. Acts are those of `motion.ACTS`, ways of `motion.WAYS`, questions those
    of `motion_words.CLIP_QUESTIONS`."""

    code: str
    acts: Mapping[str, Frames]
    """Clauses, the plainest first; `{a}` and `{b}` have no case, so that they may be 'a cat' or 'the cat'."""
    orders: Mapping[str, Frames]
    """Said of a picture's things."""
    ways: Mapping[str, Words]
    times: tuple[Words, ...]
    """Once, twice, three times; '' may stand for once."""
    beside: Frames
    then: Frames
    clip: Frames
    """A clause as a request for a clip."""
    backwards: Frames
    verbs: Mapping[str, Words]
    """Act -> `{v}` of the question what does it."""
    questions: Mapping[str, Frames]
    to: Mapping[str, str]
    """Way -> the answer to the question where to."""
    often: tuple[str, str, str]
    """Answers to the question how often."""
