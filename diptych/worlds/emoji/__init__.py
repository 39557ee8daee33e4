"""The emoji world: real glyphs under their Unicode names, composed into scenes that can be asked about and
edited."""

from diptych.worlds.emoji.captions import CATEGORIES
from diptych.worlds.emoji.checker import Checker
from diptych.worlds.emoji.edits import EDIT_TYPES
from diptych.worlds.emoji.font import FontNotFoundError
from diptych.worlds.emoji.questions import QUESTION_TYPES
from diptych.worlds.emoji.scene import EmojiWorld, Scene, Wanted, WorldConfig, world_of

__all__ = [
    "CATEGORIES",
    "EDIT_TYPES",
    "QUESTION_TYPES",
    "Checker",
    "EmojiWorld",
    "FontNotFoundError",
    "Scene",
    "Wanted",
    "WorldConfig",
    "world_of",
]
