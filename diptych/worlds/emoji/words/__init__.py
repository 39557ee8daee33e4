"""Wide wordings in five languages, each a file of words and frames."""

from diptych.worlds.emoji.words.chinese import CHINESE
from diptych.worlds.emoji.words.english import ENGLISH
from diptych.worlds.emoji.words.german import GERMAN
from diptych.worlds.emoji.words.grammar import Tongue
from diptych.worlds.emoji.words.indonesian import INDONESIAN
from diptych.worlds.emoji.words.spanish import SPANISH

TONGUES: dict[str, Tongue] = {
    tongue.code: tongue for tongue in (ENGLISH, SPANISH, GERMAN, INDONESIAN, CHINESE)
}

__all__ = ["TONGUES", "Tongue"]
