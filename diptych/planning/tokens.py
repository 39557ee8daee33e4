"""Requests as the learned planner reads them: words, with hashes of their letters, and media.

A word is known by the hashes of itself and of pieces of it, so that words that nobody has seen, and mistyped
ones, are near those that they look like. Chinese and its relatives are read letter by letter. No torch here.
"""

from __future__ import annotations

import re
import unicodedata
import zlib
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from diptych.planning.schema import Attached, Look, Request
from diptych.request import MARK

WORDS, PIECES = 2**14, 2**14
"""Rows of the tables that hashes of words, and of pieces of words, choose from."""
FEATURES = 24
MEDIUM_FEATURES = 26
CONTEXT_FEATURES = 10
ORDINALS = 8
"""Places of media that are told apart."""
LONGEST = 384
"""Words of a request that are read: the first ones, and LAST_READ at its end."""
LAST_READ = 96
_LOOKS = tuple(Look)
_CJK = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
# what looks like a signal of a planner, or like JSON, is one word: no number in it is a size
_TOKEN = re.compile(
    rf"(?P<mark>{re.escape(MARK)})"
    r"|(?P<typed><[A-Za-z][A-Za-z_]*>(?:[\d,. ]+<[A-Za-z_]+>)?|\{[^{}]*\})"
    r"|(?P<digits>\d+)"
    rf"|(?P<cjk>[{_CJK}])"
    rf"|(?P<word>(?:[^\W\d_{_CJK}][\u0300-\u036f\u0900-\u0903\u093a-\u094f]*)+)"
    r"|(?P<other>\S)"
)
# where one of these stands, the order in which media are attached says something
_ORDER = re.compile(
    r"\b(first|second|third|fourth|1st|2nd|3rd|4th|other|latter|former|one is|left|right)\b"
    r"|\b(picture|image|photo|attachment|file|upload|img|clip|video|number|no\.?|bild|foto|anhang|imagen"
    r"|gambar|vídeo|klip)"
    r" ?#?\d\b|#\d|第[一二三四1234]|[图片频]\d|前者|后者|另一"
    r"|\b(primer[ao]?|segund[ao]|tercer[ao]?|cuart[ao]|otr[ao]|1\.?ª|2\.?ª|3\.?ª|4\.?ª)"
    r"|\b(erste|zweite|dritte|vierte|andere)[nrs]?\b|\b[1-4]\. (bild|foto|video)"
    r"|\b(pertama|kedua|ketiga|keempat|lainnya|ke-\d)\b",
    re.IGNORECASE,
)
_FRAMES = re.compile(
    r"(first|last|second|third) (frame|of all)|(primer|segundo|último) (fotograma|frame|paso)"
    r"|(frame|bingkai) pertama|第[一二三四1234]帧|第[一二三1234]步|(erste[rn]?|letzte[rn]?) frame"
    r"|pertama-tama|for the first time|primero",
    re.IGNORECASE,
)


class Token(NamedTuple):
    start: int
    end: int
    kind: str
    """'mark', 'typed', 'digits', 'cjk', 'word', 'other'."""


def tokens(text: str, marks: int) -> list[Token]:
    """The words of a text; only the first `marks` marks stand for media, the others are words."""
    found, seen = [], 0
    for match in _TOKEN.finditer(text):
        kind = str(match.lastgroup)
        if kind == "mark":
            seen += 1
            if seen > marks:
                kind = "typed"
        found.append(Token(match.start(), match.end(), kind))
    return found


@dataclass(frozen=True)
class Encoded:
    """A request as numbers."""

    tokens: tuple[Token, ...]
    """Those that are read."""
    skipped: tuple[int, int]
    """Characters in the middle of a very long text that are not read."""
    words: list[int]
    """Row of each word, then of each medium that has no mark."""
    pieces: list[list[int]]
    features: list[list[int]]
    """Which features each has: of words, and then of media."""
    media: list[int]
    """Where each medium stands, by its number; in attached order."""
    context: list[int]
    """Features of the whole."""

    def __len__(self) -> int:
        return len(self.words)


_MARKED, _LOOSE, _PADDING = 1, 2, 0


def encode(request: Request, before: str = "") -> Encoded:
    """A request as the planner reads it. `before`: what the turn before made, '', 'picture', 'clip' or
    'text'."""
    text = request.text
    found = tokens(text, len(request.media))
    skipped = (len(text), len(text))
    if len(found) > LONGEST:
        skipped = (found[LONGEST - LAST_READ - 1].end, found[-LAST_READ].start)
        found = found[: LONGEST - LAST_READ] + found[-LAST_READ:]
    words: list[int] = []
    pieces: list[list[int]] = []
    features: list[list[int]] = []
    media = [-1] * len(request.media)
    order = arranged(request)
    marked = 0
    for n, token in enumerate(found):
        said = text[token.start : token.end]
        if token.kind == "mark":
            media[marked] = n
            words.append(_MARKED)
            pieces.append([])
            features.append(_medium(request.media[marked], order[marked], True))
            marked += 1
            continue
        near = [text[found[m].start : found[m].end] if 0 <= m < len(found) else "" for m in (n - 1, n + 1)]
        word, bits = (
            _word(said, token.kind, near[0], near[1]) if token.kind == "cjk" else _plain(said, token.kind)
        )
        words.append(word)
        pieces.append(bits)
        features.append(_features(text, token, n, len(found)))
    for number in sorted(range(marked, len(request.media)), key=lambda m: order[m]):
        media[number] = len(words)
        words.append(_LOOSE)
        pieces.append([])
        features.append(_medium(request.media[number], order[number], False))
    count = len(request.media)
    context = [("", "picture", "clip", "text").index(before), 4 + min(count, 4)]
    if marked:
        context.append(9)
    return Encoded(tuple(found), skipped, words, pieces, features, media, context)


def arranged(request: Request) -> list[int]:
    """Place of each medium in an order in which what it is comes first: that of attachment says something
    only where the words speak of it, or where media look alike."""
    text = _FRAMES.sub(" ", request.text)
    if _ORDER.search(text) or MARK in text:
        return list(range(len(request.media)))
    order = sorted(
        range(len(request.media)),
        key=lambda n: (request.media[n].kind, _LOOKS.index(request.media[n].look)),
    )
    places = [0] * len(order)
    for place, number in enumerate(order):
        places[number] = place
    return places


def _hash(text: str, rows: int) -> int:
    # the first rows stand for media and for nothing
    return 4 + zlib.crc32(text.encode("utf-8", "surrogatepass")) % (rows - 4)


_SPECIAL = {"480", "720", "1080", "1440", "2160", "360", "2", "4", "8", "16", "9", "3", "1"}


@lru_cache(maxsize=20_000)
def _plain(said: str, kind: str) -> tuple[int, list[int]]:
    """Rows of a word that stands for itself."""
    if kind == "typed":
        return 3, []
    said = unicodedata.normalize("NFKC", said)
    if kind == "digits":
        shape = f"#{min(len(said), 6)}"
        return _hash(said if said in _SPECIAL else shape, WORDS), [_hash(shape, PIECES)]
    word = said.casefold()
    bare = "".join(c for c in unicodedata.normalize("NFD", word) if not unicodedata.combining(c))
    framed = f"^{bare[:24]}$"
    bits = {framed[n : n + size] for size in (3, 4) for n in range(max(1, len(framed) - size + 1))}
    if len(bare) > 4:
        bits |= {framed[:5], framed[-5:]}
    return _hash(word, WORDS), sorted(_hash(bit, PIECES) for bit in bits)


@lru_cache(maxsize=50_000)
def _word(said: str, kind: str, before: str, after: str) -> tuple[int, list[int]]:
    """Rows of a letter that is read together with its neighbours."""
    return _hash(said, WORDS), [
        _hash(before + said, PIECES),
        _hash(said + after, PIECES),
        _hash(f"{before}{said}{after}", PIECES),
    ]


def _features(text: str, token: Token, place: int, count: int) -> list[int]:
    said = text[token.start : token.end]
    before = text[token.start - 1 : token.start]
    found = [("mark", "typed", "digits", "cjk", "word", "other").index(token.kind)]
    if before.isspace():
        found.append(6)
    if before == "\n":
        found.append(7)
    if said[:1].isupper():
        found.append(8 if len(said) == 1 or not said.isupper() else 9)
    if place == 0:
        found.append(10)
    if place == count - 1:
        found.append(11)
    if token.kind == "digits":
        value = int(said[:9])
        found.append(11 + min(len(said), 6))
        found += [n for n, most in ((18, 12), (19, 60), (20, 300)) if value <= most]
        if value and value % 8 == 0:
            found.append(21)
        if 16 <= value <= 8192:
            found.append(22)
    return found


def _medium(medium: Attached, place: int, marked: bool) -> list[int]:
    found = [FEATURES + 0 if medium.kind == "picture" else FEATURES + 1]
    found.append(FEATURES + 2 + _LOOKS.index(medium.look))
    found.append(FEATURES + 9 + marked)
    found.append(FEATURES + 11 + min(place, ORDINALS - 1))
    return found
