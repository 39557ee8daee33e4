"""What a caption is, measured without any model: length, language, repetition, boilerplate, addresses."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from diptych.curation.stage import Batch, Drop, Stage, Verdict, View, above, below, threshold

READ = 4000
"""Characters of a caption that are looked at."""
ADDRESS = re.compile(
    r"(?:https?://|www\.)\S+|\b[\w.+-]+@[\w-]+\.\w{2,}|\b[\w-]+\.(?:com|net|org|io|de|ru|cn)\b"
)
NUMBERED = re.compile(
    r"^(?:img|dsc|dscn|pict?|photo|image|screenshot|untitled|scan|wp|p)?[\s_\-.]*[\d\s_\-.:()]*$"
)
FILE_NAME = re.compile(r"^\S+\.(?:jpe?g|png|gif|webp|bmp|tiff?)$")
BOILERPLATE = (
    "click here",
    "click to enlarge",
    "all rights reserved",
    "stock photo",
    "stock image",
    "stock illustration",
    "royalty free",
    "royalty-free",
    "free shipping",
    "add to cart",
    "buy now",
    "image not available",
    "no image",
    "no description",
    "thumbnail",
    "read more",
    "privacy policy",
    "copyright ©",
    "shutterstock",
    "getty images",
    "alamy",
    "dreamstime",
    "depositphotos",
    "123rf",
)
LANGUAGES: dict[str, frozenset[str]] = {
    code: frozenset(words.split())
    for code, words in {
        "en": "the of and a an in is to with on for at by from are this that it his her as two three",
        "de": "der die das und ein eine mit auf von im ist den dem zu für aus am bei zwei einer einem",
        "fr": "le la les et un une des du de dans sur avec est pour au aux par qui deux en",
        "es": "el la los las y un una de del en con por para es su al que dos",
        "it": "il lo la gli e un una di del della in con su per è che al due nel",
        "pt": "o a os as e um uma de do da em com no na por para que ao dois",
        "nl": "de het een en van in op met is te voor aan bij uit twee naar",
        "pl": "i w na z do się jest to o przez dla dwa od po",
    }.items()
}
"""Words that stand in every text of a language; which of them stand there tells it."""
SCRIPTS = {
    "CJK": "zh",
    "HIRAGANA": "ja",
    "KATAKANA": "ja",
    "HANGUL": "ko",
    "CYRILLIC": "ru",
    "ARABIC": "ar",
    "HEBREW": "he",
    "GREEK": "el",
    "THAI": "th",
    "DEVANAGARI": "hi",
}
"""Letters' names -> the language that is most often written so."""


@dataclass(frozen=True, kw_only=True)
class Text(Stage):
    """Measures a row's best caption; drops rows that have none of use."""

    kind: ClassVar[str] = "text"

    captions: str = "captions"
    """Column that holds them."""
    min_words: int | None = threshold(1)
    max_words: int | None = threshold(None)
    languages: tuple[str, ...] = threshold(())
    """Codes, such as en; any where empty. A caption too short to tell ('') passes."""
    max_repetition: float | None = threshold(0.6)
    """Share of words, or of runs of three, that were said before."""
    boilerplate: bool = threshold(False)
    """Whether phrases of shops and stock libraries, and names of files, may pass."""
    addresses: bool = threshold(False)
    """Whether captions with addresses may pass."""

    def needs(self) -> tuple[str, ...]:
        return (self.captions,)

    def gives(self) -> dict[str, pa.DataType]:
        whole = dict.fromkeys(("captions", "words", "letters"), pa.int32())
        truths = dict.fromkeys(("boilerplate", "addresses"), pa.bool_())
        return {**whole, **truths, "repetition": pa.float32(), "language": pa.string()}

    def compute(self, batch: Batch, loaded: Any) -> Mapping[str, Sequence[Any]]:
        told = [measured(captions or ()) for captions in batch[self.captions]]
        return {name: [one[name] for one in told] for name in self.gives()}

    def judge(self, view: View) -> Verdict:
        def named(name: str) -> str:
            return f"{self.name}.{name}"

        drops = [Drop("no caption", view[named("captions")] == 0)]
        if not self.boilerplate:
            drops.append(Drop("boilerplate", view[named("boilerplate")]))
        if not self.addresses:
            drops.append(Drop("an address in the caption", view[named("addresses")]))
        drops += below("caption too short", view[named("words")], self.min_words, named("words"))
        drops += above("caption too long", view[named("words")], self.max_words, named("words"))
        drops += above("repetition", view[named("repetition")], self.max_repetition, named("repetition"))
        if self.languages:
            spoken = view.strings(named("language"))
            drops.append(Drop("another language", ~np.isin(spoken, ["", *self.languages])))
        return Verdict(drops)


def measured(captions: Sequence[str]) -> dict[str, Any]:
    """Of the captions of a row: each measure of the caption that is best in it, so that a row goes only where
    no caption is of use."""
    told = [_measured(caption[:READ]) for caption in captions if caption.strip()]
    if not told:
        return {
            "captions": 0,
            "words": 0,
            "letters": 0,
            "boilerplate": False,
            "addresses": False,
            "repetition": 0.0,
            "language": "",
        }
    best = min(
        told, key=lambda one: (one["boilerplate"] + one["addresses"], one["repetition"], -one["words"])
    )
    return {"captions": len(told), **best}


def _measured(caption: str) -> dict[str, Any]:
    words = words_of(caption)
    low = " ".join(caption.lower().split())
    return {
        "words": len(words),
        "letters": len(caption),
        "boilerplate": any(phrase in low for phrase in BOILERPLATE)
        or bool(NUMBERED.match(low) or FILE_NAME.match(low)),
        "addresses": bool(ADDRESS.search(low)),
        "repetition": repetition(words),
        "language": language(caption, words),
    }


def words_of(text: str) -> list[str]:
    """Words; of scripts that put no space between them, the signs."""
    return re.findall(r"[぀-ヿ㐀-鿿가-힣฀-๿]|\w+", text.lower())


def repetition(words: Sequence[str]) -> float:
    """Share of runs of three words that stood before, or of words where there are few; 0 below five words."""
    if len(words) < 5:
        return 0.0
    runs = list(zip(words, words[1:], words[2:], strict=False))
    alone = Counter(words).most_common(1)[0][1] / len(words)
    return max(1 - len(set(runs)) / len(runs), alone if alone > 0.4 else 0.0)


def language(text: str, words: Sequence[str]) -> str:
    """Code of a caption's language by its letters and its commonest words; '' where too little is said."""
    letters = Counter(
        SCRIPTS.get(unicodedata.name(c, "").split(" ")[0], "") for c in text[:200] if c.isalpha()
    )
    if not letters:
        return ""
    if letters["ja"]:
        return "ja"
    script, count = letters.most_common(1)[0]
    if script and count * 2 > letters.total():
        return script
    hits = Counter({code: sum(word in known for word in words) for code, known in LANGUAGES.items()})
    (best, most), (_, second) = hits.most_common(2)
    return best if most >= 2 and most > second else ""
