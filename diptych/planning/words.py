"""Numbers, units, shapes and sizes as five languages say them: what stands in a request, as a value.

Everything that is read here was marked in the request by a planner, as being a width, a duration ...; this
only says which one. No torch here.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache
from math import isfinite


def listed(words: str) -> tuple[str, ...]:
    """Words that are separated by spaces."""
    return tuple(words.split())


LANGUAGES = ("en", "zh", "es", "de", "id")
_ENGLISH = listed(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen"
)
_ENGLISH_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_GERMAN = listed(
    "null eins zwei drei vier fünf sechs sieben acht neun zehn elf zwölf dreizehn vierzehn fünfzehn "
    "sechzehn siebzehn achtzehn neunzehn"
)
_GERMAN_TENS = ["zwanzig", "dreißig", "vierzig", "fünfzig", "sechzig", "siebzig", "achtzig", "neunzig"]
_SPANISH = listed(
    "cero uno dos tres cuatro cinco seis siete ocho nueve diez once doce trece catorce quince dieciséis "
    "diecisiete dieciocho diecinueve veinte veintiuno veintidós veintitrés veinticuatro veinticinco "
    "veintiséis veintisiete veintiocho veintinueve"
)
_SPANISH_TENS = ["treinta", "cuarenta", "cincuenta", "sesenta", "setenta", "ochenta", "noventa"]
_INDONESIAN = listed("nol satu dua tiga empat lima enam tujuh delapan sembilan sepuluh sebelas")
_CHINESE = "零一二三四五六七八九"
# what stands for a number beside the word that counts
_ALSO = {
    "a": 1,
    "an": 1,
    "couple": 2,
    "pair": 2,
    "dozen": 12,
    "fourty": 40,
    "ein": 1,
    "eine": 1,
    "einen": 1,
    "einem": 1,
    "einer": 1,
    "zwo": 2,
    "paar": 2,
    "dutzend": 12,
    "dreissig": 30,
    "un": 1,
    "una": 1,
    "par": 2,
    "docena": 12,
    "dieciseis": 16,
    "veintidos": 22,
    "veintitres": 23,
    "veintiseis": 26,
    "sepasang": 2,
    "selusin": 12,
    "se": 1,
    "两": 2,
    "兩": 2,
    "〇": 0,
    "俩": 2,
}


def number_word(language: str, number: int) -> str | None:
    """A whole number of 0 to 99 in words; None for others."""
    if not 0 <= number <= 99:
        return None
    ten, one = divmod(number, 10)
    match language:
        case "en":
            if number < 20:
                return _ENGLISH[number]
            return _ENGLISH_TENS[ten - 2] + (f"-{_ENGLISH[one]}" if one else "")
        case "de":
            if number < 20:
                return _GERMAN[number]
            ones = {1: "ein"}.get(one, _GERMAN[one])
            return (f"{ones}und" if one else "") + _GERMAN_TENS[ten - 2]
        case "es":
            if number < 30:
                return _SPANISH[number]
            return _SPANISH_TENS[ten - 3] + (f" y {_SPANISH[one]}" if one else "")
        case "id":
            if number < 12:
                return _INDONESIAN[number]
            if number < 20:
                return f"{_INDONESIAN[one]} belas"
            return f"{_INDONESIAN[ten]} puluh" + (f" {_INDONESIAN[one]}" if one else "")
        case "zh":
            if number < 10:
                return _CHINESE[number]
            return ("" if ten == 1 else _CHINESE[ten]) + "十" + (_CHINESE[one] if one else "")
    return None


@cache
def _numbers() -> dict[str, int]:
    words = {plain(word): n for n in range(99, -1, -1) for la in LANGUAGES if (word := number_word(la, n))}
    words |= {word.replace("-", " "): n for word, n in words.items() if "-" in word}
    return words | _ALSO


# hundreds and thousands, where words say a size or a number of frames
_HUNDREDS = {
    "hundred": 100,
    "hundert": 100,
    "cien": 100,
    "ciento": 100,
    "seratus": 100,
    "ratus": 100,
    "百": 100,
}
_DIGITS = re.compile(r"[-−]?\d+(?:[.,]\d+)?")


def plain(text: str) -> str:
    """As it is compared: wide forms of letters and digits as the usual ones, small letters, single spaces."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def number(text: str) -> float | None:
    """The number that a text says, in digits or words; None where it says none. '1,000' is a thousand, '2,5'
    two and a half."""
    text = plain(text)
    if found := _DIGITS.search(text):
        digits = found[0].replace("−", "-")
        # three figures behind a comma or a point that follows one to three are thousands, in sizes and seeds
        if re.fullmatch(r"-?[1-9]\d{0,2},\d{3}", digits):
            digits = digits.replace(",", "")
        value = float(digits.replace(",", "."))
        return value if isfinite(value) else None
    words = _numbers()
    bare = text.strip(" -")
    if bare in words:
        return words[bare]
    if bare in _HUNDREDS:
        return _HUNDREDS[bare]
    pieces = re.findall(r"[^\W\d_]+", bare)
    counted = [
        words[said]
        for size in range(len(pieces), 0, -1)
        for start in range(len(pieces) - size + 1)
        if (said := " ".join(pieces[start : start + size])) in words
    ]
    # the longest, and an article only where nothing else counts: "a couple", "a dozen"
    if counted:
        return next((value for value in counted if value != 1), 1)
    # no spaces between the words of some languages: the longest one that is in it, a figure before a unit
    if figures := re.search(r"[零〇一二两兩俩三四五六七八九十百]+", bare):
        return _chinese(figures[0])
    return None


def _chinese(text: str) -> float | None:
    total, ones = 0, 0
    for figure in text:
        if figure in "十百":
            total += (ones or 1) * (10 if figure == "十" else 100)
            ones = 0
        else:
            ones = _ALSO[figure] if figure in _ALSO else _CHINESE.index(figure)
    return total + ones


def whole(text: str) -> int | None:
    """The whole number that a text says; None where it says none, or a broken one."""
    value = number(text)
    return int(value) if value is not None and value == int(value) else None


_MINUTE = re.compile(r"min|menit|分")
_HOUR = re.compile(r"hour|stunde|hora|\bjam\b|小时|小時|钟头|鐘頭|\bstd\b|\dh\b")
_HALF = re.compile(r"\bhal[fb]|\bmedi[oa]\b|setengah|半")
_QUARTER = re.compile(r"quarter|viertel|cuarto|seperempat|一刻")
# "two and a half seconds", "zweieinhalb", "dos segundos y medio", "dua setengah", "两秒半": and a half more
_AND_HALF = re.compile(r"and a half|einhalb|und eine halbe|\by medi[oa]\b|\w setengah|[秒分]钟?半|个半")
_AND_A_HALF = {"anderthalb": 1.5, "eineinhalb": 1.5, "satu setengah": 1.5}


def seconds(text: str) -> float | None:
    """A duration in seconds: '5-second', 'halbe Minute', '三秒', 'medio minuto', '2.5 s'; None for none."""
    text = plain(text)
    unit = 3600.0 if _HOUR.search(text) else 60.0 if _MINUTE.search(text) else 1.0
    for word, value in _AND_A_HALF.items():
        if word in text:
            return value * unit
    if _AND_HALF.search(text):
        whole_part = re.sub(r"and a half|einhalb|und eine halbe|y medi[oa]|setengah|半", " ", text)
        said = number(whole_part)
        return ((1.0 if said is None else said) + 0.5) * unit
    if _QUARTER.search(text) and not _DIGITS.search(text):
        return unit / 4
    if _HALF.search(text) and not _DIGITS.search(text):
        return unit / 2
    said = number(text)
    if said is None:
        # 'a minute' without its article, 'semenit', 'sedetik'
        return unit if re.search(r"sec|sek|seg|detik|秒|min|menit|分|hour|stunde|hora|jam|时", text) else None
    return said * unit


_RATIO = re.compile(r"(\d{1,3}(?:[.,]\d+)?) ?(?:[:/xX×*]|to|zu|a|比|banding|by) ?(\d{1,3}(?:[.,]\d+)?)")
_SQUARE = r"squar|quadrat|cuadrad|persegi|正方|方形|方图|方的|bujur sangkar|kotak"
_PHONE = (
    r"phone|handy|móvil|movil|celular|teléfono|telefono|ponsel|\bhp\b|手机|手機|smartphone|mobil|story|reel"
)
_UPRIGHT = (
    r"vertical|portrait|hochformat|hochkan|retrato|potret|tegak|竖|豎|纵向|upright|直幅|直式|senkrecht|"
    r"vertikal"
)
_LYING = (
    r"landscape|widescreen|wide screen|horizontal|querformat|breitbild|apaisad|panorámic|panoramic|lanskap|"
    r"layar lebar|mendatar|横|橫|宽屏|寬屏|desktop|escritorio|桌面|waagerecht|quer|pantalla ancha|computer"
)
_WIDE = r"wid|breit|anch|lebar|宽|寬|melebar"
_TALL = r"tall|hoch|höher|alto|alta|tinggi|高|长条|high"


def aspect(text: str) -> tuple[int, int] | None:
    """A shape as width and height: '16:9', 'square', 'hochkant', 'fondo de pantalla para el móvil'."""
    text = plain(text)
    if found := _RATIO.search(text):
        return _ratio(float(found[1].replace(",", ".")), float(found[2].replace(",", ".")))
    # the longer words first: a phone's wallpaper is upright whatever else is said
    for words, value in (
        (_SQUARE, (1, 1)),
        (_PHONE, (9, 16)),
        (_UPRIGHT, (9, 16)),
        (_LYING, (16, 9)),
        (_WIDE, (4, 3)),
        (_TALL, (3, 4)),
    ):
        if re.search(words, text):
            return value
    if found := re.fullmatch(
        r"(\D+) (?:to|zu|a|por|banding|比)? ?(\D+)|([一二三四五六七八九十]+)比([一二三四五六七八九十]+)", text
    ):
        sides = [number(side) for side in found.groups() if side]
        if len(sides) == 2 and sides[0] and sides[1]:
            return _ratio(sides[0], sides[1])
    return None


def _ratio(width: float, height: float) -> tuple[int, int] | None:
    scale = 1
    while scale < 100 and (width * scale != int(width * scale) or height * scale != int(height * scale)):
        scale *= 10
    sides = int(width * scale), int(height * scale)
    return sides if min(sides) > 0 else None


_NAMED = (
    (r"8 ?k", 4320),
    (r"4 ?k|uhd|ultra ?hd|超高清|超清", 2160),
    (r"2 ?k|qhd|wqhd", 1440),
    (r"full ?hd|fhd|1080|全高清|蓝光", 1080),
    (r"\bhd\b|高清|high definition|alta definición|\bhd", 720),
)


def resolution(text: str) -> int | None:
    """A quality by name as its short side, px: '480p', '4K', 'full HD', '高清'."""
    text = plain(text)
    if found := re.search(r"(\d{3,4}) ?[pi]?\b", text):
        return int(found[1])
    for words, side in _NAMED:
        if re.search(words, text):
            return side
    return None
