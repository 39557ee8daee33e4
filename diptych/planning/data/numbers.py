"""Numbers as requests say them, and words that nobody has seen."""

from __future__ import annotations

import random

from diptych.planning.words import listed, number_word

_SIDES = listed(
    "64 96 128 256 320 384 480 512 512 512 576 600 640 720 768 768 800 832 896 960 1024 1024 1080 1152 "
    "1280 1344 1440 1536 1600 1920 2048 2160 2560 3840 4096"
)
_RATIOS = listed("16:9 16:9 16:9 4:3 4:3 1:1 3:2 2:3 9:16 9:16 3:4 21:9 2:1 1:2 5:4 4:5 2.35:1 16/9 4/3 3/2")
_RATES = ["6", "8", "10", "12", "15", "16", "24", "24", "25", "30", "30", "48", "50", "60", "60", "120"]
_BETWEEN = {"en": "to", "de": "zu", "es": "a", "id": "banding", "zh": "比"}
_CONSONANTS = "bcdfghjklmnprstvwz"
_VOWELS = "aeiou"
_MADE = "甲乙丙丁鑫淼焱垚梵阕瑀璟霁翀弈珩琮曦澍昶骁彧祺瀚岚屿汀沐笙箬蕤檀榕"


def made_up(rng: random.Random, language: str) -> str:
    """A word of no meaning: what is to be drawn must not decide what is asked for."""
    if language == "zh":
        return "".join(rng.choice(_MADE) for _ in range(rng.randint(1, 3)))
    return "".join(
        rng.choice(_CONSONANTS)
        + rng.choice(_VOWELS)
        + (rng.choice(_CONSONANTS) if rng.random() < 0.3 else "")
        for _ in range(rng.randint(1, 4))
    )


def said_number(name: str, rng: random.Random, language: str) -> str:
    """A number of a kind ('seconds', 'px' ...) in digits or words. Raises KeyError for an unknown kind."""
    if name == "ratio":
        ratio = rng.choice(_RATIOS)
        if rng.random() < 0.12:
            space = "" if language == "zh" else " "
            ratio = ratio.replace(":", f"{space}{_BETWEEN[language]}{space}")
        return ratio
    if name == "px":
        if rng.random() < 0.02:
            return rng.choice(("-512", "0", "-1", "100000"))
        return rng.choice(_SIDES) if rng.random() < 0.7 else str(rng.randint(17, 5000))
    if name == "seed":
        return str(rng.randrange(10 ** rng.choice((1, 2, 2, 3, 4, 5, 7, 9))))
    if name == "fps":
        return rng.choice(_RATES) if rng.random() < 0.8 else str(rng.randint(1, 240))
    if name == "guidance":
        value = rng.randint(0, 30) / rng.choice((1, 1, 2, 2, 10))
        return f"{value:g}".replace(
            ".", "," if language in ("de", "es", "id") and rng.random() < 0.4 else "."
        )
    if name == "seconds" and rng.random() < 0.12:
        odd = rng.choice(("2.5", "1.5", "0.5", "3.5", "-3", "0", "-5", "3600", "7.5"))
        return odd.replace(".", "," if language in ("de", "es", "id") and rng.random() < 0.5 else ".")
    low, high = {
        "seconds": (1, 12),
        "frames": (2, 300),
        "count": (2, 10),
        "countdigit": (2, 10),
        "steps": (1, 100),
        "small": (2, 60),
        "two": (2, 10),
    }[name]
    value = rng.randint(low, high)
    if name == "seconds" and rng.random() < 0.2:
        value = rng.randint(1, 90)
    if name == "frames" and rng.random() < 0.4:
        value = rng.choice((9, 16, 17, 24, 25, 33, 48, 49, 72, 81, 96, 97, 120, 121))
    words = name not in ("countdigit",) and rng.random() < (0.15 if name in ("steps", "frames") else 0.4)
    word = number_word(language, value) if words else None
    if word is None:
        return str(value)
    if language == "zh" and value == 2:
        return "两"
    if language == "de" and value == 1:
        return "eine"
    if language == "es" and value == 1:
        return "un"
    return word
