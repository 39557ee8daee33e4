"""Numbers beside the word that says what they are, in five languages: '20 steps', 'seed 7', '24 fps'.

What a planner has marked is checked against them: a number that a unit stands beside is of that unit,
whatever it was taken for, and one that nothing speaks for is no setting. No torch here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache
from typing import NamedTuple

from diptych.planning.spans import Span, trimmed
from diptych.planning.words import spelt, whole

_SIDES = ("side", "width", "height")
_COUNTED = ("steps", "seconds", "fps", "frames", "count", "seed", "guidance", *_SIDES)
"""What is said by a number."""
# a rate before frames, as it names them too
_UNITS = {
    "fps": (
        r"fps\b|f/s|帧(?:每|/)秒|\bhz\b|(?:frames?|bilder[n]?|fotogramas|cuadros|imágenes|bingkai)[ -]?"
        r"(?:per|a|/|pro|je|por)[ -]?(?:second|sec|s\b|sekunde|segundo|detik)"
    ),
    "frames": r"frames?\b(?! of (?:it|them))|einzelbilder[n]?\b|fotogramas\b|bingkai\b|帧",
    "seconds": (
        r"(?:milli)?sec(?:ond)?s?\b|ms\b|(?:milli)?sek(?:unden?)?\b|(?:mili)?seg(?:undos?)?\b"
        r"|(?:mili)?detik\b|dtk\b|毫?秒钟?"
    ),
    "side": r"px\b|pixels?\b|pixeln\b|p[ií]xeles\b|piksel\b|像素",
    "steps": (
        r"(?:(?:sampling|denoising|inference|diffusion)[ -])?(?:steps?|schritten?|iterationen|iterations?)\b"
        r"|(?:pasos|iteraciones|langkah|iterasi)\b|(?:个采样)?步(?!行|道)"
    ),
}
_UNIT = re.compile("|".join(f"(?P<{kind}>{words})" for kind, words in _UNITS.items()), re.IGNORECASE)
_KEYS = {
    "seed": r"\b(?:seed|semilla|startwert|zufalls(?:start)?wert|benih)(?: number| aleatoria| acak)?|种子数?",
    "guidance": (
        r"\b(?:guidance|cfg|guidance scale|cfg scale|führung|escala de guía|skala panduan)\b|引导(?:系数"
        r"|强度)?"
    ),
    "steps": r"\b(?:steps|schritte|pasos|langkah)(?= ?[:=])|步数",
}
_KEY = re.compile(
    "(?:"
    + "|".join(f"(?P<{kind}>{words})" for kind, words in _KEYS.items())
    + r")\s{0,2}(?:[:=]|is\b|of\b|von\b|ist\b|de\b|es\b|是|为)?\s{0,2}"
    + r"(?P<number>[-−]?\d+(?:[.,]\d+)?)(?![\w:])",
    re.IGNORECASE,
)
# words near a number without which it is no such setting
_SPEAKS = {
    "steps": "step iteration schritt paso iteraci langkah iterasi 步 迭代",
    "seed": "seed semilla startwert zufall benih 种子",
    "guidance": "guidance cfg scale führ fuehr guía guia panduan skala 引导",
    "fps": "fps frame rate second bild sekunde fotograma cuadro velocidad frecuencia imágen detik bingkai 帧",
    "frames": "frame einzelbild bild fotograma cuadro bingkai 帧",
    "count": "picture image drawing photo pic version variation variant cop draft sketch attempt tries take "
    "option piece time more them those these give count number amount batch dozen clip video film animation "
    "movie gif illustration bild zeichnung foto entw versuch fassung ausführ mal stück davon mehr weitere "
    "noch "
    "gib anzahl dutzend imagen imágen dibujo boceto intento borrador variac copia opcion más otr dame "
    "cantidad "
    "número docena vídeo ilustra gambar sketsa percobaan versi varia buah pilihan lagi jumlah banyak beri "
    "lukisan klip animasi lusin 张 幅 个 份 图 数量 种 视频 片 段 动画 打 给",
}
_TIMES = re.compile(r"\bx ?\d|\d ?[x×]|\b[nN] ?[:=]")
_NEAR = 24
"""Characters around a number within which something speaks for it."""
_STAIRS = re.compile(
    r"(?:stair|ladder|flight of|treppe|leiter|stiege|escalera|escalinata|tangga|楼梯|台阶"
    r"|阶梯)[^,;.!?:，；。]*$",
    re.IGNORECASE,
)
_CLOCK = re.compile(
    r"(?:clock|stopwatch|timer|countdown|uhr|cronómetro|reloj|\bjam\b|秒表|钟)[^,;.!?:，；。]*$",
    re.IGNORECASE,
)
_SCENERY = {"steps": _STAIRS, "seconds": _CLOCK}
"""Kind of number -> what is drawn with so many of them, in the same clause."""
_LEFT = re.compile(
    r"(?:^|[,;.(:|/\n，；。（：、]\s*|(?:^|\s)(?:with|at|in|using|use|and|mit|bei|in|und|con|en|a|y|usa"
    r"|dengan"
    r"|dalam|pakai"
    r"|dan)\s+|用)$",
    re.IGNORECASE,
)
_RIGHT = re.compile(
    r"\s*(?:$|[,;.)!?|/\n，；。）！？]|(?:and|und|y|dan|please|pls|bitte|thanks|with|at|mit|con|dengan)\b)",
    re.IGNORECASE,
)
_CLIP = r"(?:videos?|vídeo|clip|klip|film|movie|gif|animation|animación|animasi|视频|短片|动画)"
_CLIP_BEHIND = re.compile(rf"[- ]?(?:long |langes? |的)?{_CLIP}", re.IGNORECASE)
_CLIP_BEFORE = re.compile(rf"{_CLIP}(?: (?:de|von|of|mit|with|lasting|berdurasi))? $", re.IGNORECASE)
_RES = re.compile(r"\b(?:4k|8k|uhd|full ?hd|(?:480|720|1080|1440|2160)p)(?![a-z0-9-])", re.IGNORECASE)
_SIZE = re.compile(
    r"(?<![\w.,])(?P<width>\d{2,5}) ?[x×*] ?(?P<height>\d{2,5})(?![\w.])(?: ?px| pixels)?", re.IGNORECASE
)
_SHAPED = re.compile(
    rf"(?P<before>\b(?:vertical(?:es)?|vertikal(?:es)?|horizontal(?:es)?|square|quadratisch\w+"
    rf"|hochkant))[ -]{_CLIP}"
    rf"|{_CLIP} (?P<behind>vertikal|vertical|horizontal|persegi|cuadrado)\b",
    re.IGNORECASE,
)
_QUOTED = re.compile(r"[\"“„«「『][^\"”“»」』]{1,200}[\"”“»」』]")
_RATIO = re.compile(r"(?<![\w:.,])(?:16:9|9:16|4:3|3:4|1:1|21:9|3:2|2:3|4:5|5:4)(?![\w:])")
_SQUARE = re.compile(r"\b(?:square|quadratisch\w*|cuadrad[oa]|persegi)\b|正方形|方形", re.IGNORECASE)
_JOINED = re.compile(r"\s*(?:,|and|or|und|oder|y|o|dan|atau|和|、|，)?\s*", re.IGNORECASE)
_WITHOUT = re.compile(
    r"(?:[,;.，；。]\s*|\b(?:and|but|und|aber|y|pero|dan|tapi)\s+|^)(?:but |and |aber |und |pero |y |tapi |但"
    r"|而且)?"
    r"(?:(?:without|with no|no|w/o|ohne|keine?n?|sin|que no (?:haya|salgan?|aparezcan?)|tanpa|jangan ada)\s+"
    r"|(?:不要(?![用画看改动管做把])有?(?:出现)?|别有|没有|不带|不含)\s*)"
    r"(?P<what>[^,;.!?，；。！？\n]{1,40})",
    re.IGNORECASE,
)
# what is denied in talk, and is nothing that could be seen
_TALK = re.compile(
    r"(?:any |the |great |real |particular )*(?:rush|hurry|worries|worry|pressure|problem|stress|need"
    r"|questions?|idea|matter"
    r"|prisas?|apuro|problema|agobios?|duda|eile|hast|sorge|problem|umstände|frage|buru-buru|masalah|急|着急"
    r"|关系|问题)\b"
    r"|急|着急|关系|问题",
    re.IGNORECASE,
)
# a medium that is not wanted
_MEDIUM = re.compile(
    r"(?:any )?(?:videos?|vídeos?|clips?|animations?|animación|animasi|movies?|films?|gifs?|stills?|pictures?"
    r"|photos?|images?|(?:stand)?bild(?:er)?|imagen|foto|gambar|视频|动画|图片?)",
    re.IGNORECASE,
)


class Plain(NamedTuple):
    """A number whose unit or name stands beside it."""

    start: int
    end: int
    kind: str
    whole: int
    """Where its unit ends."""
    alone: bool
    """Whether nothing but settings stand around it."""


@cache
def _before_unit() -> re.Pattern[str]:
    words = "|".join(sorted(map(re.escape, spelt()), key=len, reverse=True))
    return re.compile(
        rf"(?<![\w.,:])(?P<number>[-−]?\d+(?:[.,]\d+)?|(?:{words})(?:[ -](?:{words}))?"
        rf"|[零〇一二两三四五六七八九十百]+)[ \u00a0-]?\Z",
        re.IGNORECASE,
    )


@cache
def _many() -> re.Pattern[str]:
    words = "|".join(sorted(map(re.escape, spelt()), key=len, reverse=True))
    return re.compile(
        rf"(?:^|[,:]\s*)(?P<number>\d{{1,2}}|{words}) (?:(?:different|separate|verschiedene|distint\w+) )?"
        r"(?:pictures|images|photos|drawings|videos|clips|bilder|fotos|zeichnungen|imágenes|dibujos|vídeos"
        r"|gambar|video|klip)\b"
        r"|(?:^|[，。：,]\s*)(?P<figures>[两三四五六七八九十\d]+)(?:张|幅|段|个)(?:不同的)?(?:图|图片|画"
        r"|照片|视频|短片|动画)",
        re.IGNORECASE,
    )


def plain(text: str) -> Iterator[Plain]:
    """Numbers with their units or names, those between quotation marks left out."""
    quoted = [found.span() for found in _QUOTED.finditer(text)]
    named: set[int] = set()
    for found in (*_KEY.finditer(text), *_UNIT.finditer(text)):
        kind = str(next(name for name, value in found.groupdict().items() if value and name != "number"))
        if found.re is _UNIT:
            before = _before_unit().search(text, max(0, found.start() - 40), found.start())
            if before is None:
                continue
            start, end, whole = *before.span("number"), found.end()
            left = start
            if start in named:
                continue
        else:
            start, end = found.span("number")
            left, whole = found.start(), end
            named.add(start)
        if any(first < start < last for first, last in quoted):
            continue
        alone = bool(_LEFT.search(text[:left]) and _RIGHT.match(text, whole))
        # 'a 3-second video', 'un vídeo de 3 segundos'
        if kind == "seconds" and (_CLIP_BEHIND.match(text, whole) or _CLIP_BEFORE.search(text[:left])):
            alone = True
        yield Plain(start, whole if kind == "seconds" else end, kind, whole, alone)


def checked(text: str, spans: Sequence[Span], draws: bool, moves: bool, language: str = "en") -> list[Span]:
    """Marked words without what plain numbers contradict, and with what was missed. `draws`: something is
    drawn from words alone; `moves`: it is a clip."""
    numbers = list(plain(text))
    quoted = [found.span() for found in _QUOTED.finditer(text)]
    kept: list[Span] = []
    for span in spans:
        said = text[span.start : span.end].strip()
        if span.kind == "count" and text[max(0, span.start - 1) : span.start] == "第":
            # the third one, and not three
            continue
        if span.kind == "negative" and (_TALK.match(said) or _MEDIUM.fullmatch(said)):
            continue
        if span.kind == "aspect" and (halves := _halved(text, span)):
            kept += halves
            continue
        if span.kind not in _COUNTED:
            kept.append(span)
            continue
        if any(first < span.start and span.end < last for first, last in quoted):
            kept.append(span._replace(kind="prompt"))
            continue
        found = next((one for one in numbers if one.start < span.end and span.start < one.whole), None)
        scenery = _SCENERY.get(found.kind if found else span.kind)
        if scenery is not None and scenery.search(text[: span.start]):
            kept.append(Span(span.start, found.whole if found else span.end, "prompt", span.step))
        elif found is None:
            kept += [span] if _spoken_for(text, span) else []
        elif found.kind == span.kind or (found.kind == "side" and span.kind in _SIDES):
            kept.append(span)
        else:
            kept.append(Span(found.start, found.end, found.kind, span.step))
    for one in numbers:
        if not one.alone or any(
            s.kind in _COUNTED and s.start < one.whole and one.start < s.end for s in kept
        ):
            continue
        scenery = _SCENERY.get(one.kind)
        if (one.kind == "seconds" and not moves) or (scenery and scenery.search(text[: one.start])):
            continue
        if one.kind == "side" and any(s.kind in _SIDES for s in kept):
            continue
        kept = _with(kept, Span(one.start, one.end, one.kind, _step(kept, one.start)))
    for missed in (*_shapes(text, kept), *_unmarked(text, kept, quoted)):
        kept = _with(kept, missed)
    kept = _cleaned(text, kept, numbers)
    if draws:
        kept = _whole(text, sorted(_denied(text, kept, language)))
    return sorted(kept)


_LEADING = re.compile(r"\s+(?:with|at|in|using|of|mit|bei|in|con|en|a|dengan|dalam|pada)\s*$", re.IGNORECASE)


def _cleaned(text: str, spans: Sequence[Span], numbers: Sequence[Plain]) -> list[Span]:
    """Prompts without the units of numbers beside them, and without a word that only leads to a setting."""
    counted = [span for span in spans if span.kind in _COUNTED]
    units = [
        (one.end, one.whole)
        for one in numbers
        if one.end < one.whole and any(s.start < one.whole and one.start < s.end for s in counted)
    ]
    kept: list[Span] = []
    for span in spans:
        if span.kind == "prompt":
            start, end = span.start, span.end
            for first, last in units:
                start = last if first <= start < last else start
                end = first if first < end <= last else end
            span = span._replace(start=start, end=max(start, end))
            leading = _LEADING.search(text, span.start, span.end)
            if leading and any(s.start >= end and not text[end : s.start].strip() for s in counted):
                span = span._replace(end=leading.start())
        if span.start < span.end:
            kept.append(span)
    return kept


def _halved(text: str, span: Span) -> list[Span]:
    """One that was marked as a shape and says two of them."""
    found = [*_RATIO.finditer(text, span.start, span.end), *_SQUARE.finditer(text, span.start, span.end)]
    places = sorted(one.span() for one in found)
    return [span._replace(start=start, end=end) for start, end in places] if len(places) > 1 else []


def _spoken_for(text: str, span: Span) -> bool:
    """Whether a word near a number says that it is such a setting."""
    words = _SPEAKS.get(span.kind)
    if words is None:
        return True
    near = text[max(0, span.start - _NEAR) : span.end + _NEAR].casefold()
    if any(word in near if word[0] > "\u3000" else re.search(rf"\b{word}", near) for word in words.split()):
        return True
    if span.kind == "count" and _TIMES.search(near):
        return True
    from difflib import get_close_matches

    # mistyped
    said = re.findall(r"[^\W\d_]{2,}", near)
    return any(get_close_matches(word, said, 1, 0.75) for word in words.split() if len(word) > 2)


def _step(spans: Sequence[Span], start: int) -> int:
    return max((span.step for span in spans if span.start <= start), default=0)


def _with(spans: Sequence[Span], new: Span) -> list[Span]:
    """With a further one, which takes its words from any other."""
    rest: list[Span] = []
    for span in spans:
        if span.end <= new.start or new.end <= span.start:
            rest.append(span)
            continue
        rest += [span._replace(end=new.start)] if span.start < new.start else []
        rest += [span._replace(start=new.end)] if new.end < span.end else []
    return sorted([*rest, new])


def _shapes(text: str, spans: Sequence[Span]) -> Iterator[Span]:
    """A second shape right beside one that was marked: it contradicts that one."""
    for span in spans:
        if span.kind != "aspect":
            continue
        for found in (*_RATIO.finditer(text), *_SQUARE.finditer(text)):
            start, end = found.span()
            if any(s.start < end and start < s.end and s.kind != "prompt" for s in spans):
                continue
            between = text[end : span.start] if end <= span.start else text[span.end : start]
            if _JOINED.fullmatch(between):
                yield Span(start, end, "aspect", span.step)


def _unmarked(text: str, spans: Sequence[Span], quoted: Sequence[tuple[int, int]]) -> Iterator[Span]:
    """A resolution that stands alone, and the shape that a clip is said to have, where none is marked."""
    kinds = {span.kind for span in spans}
    if "count" not in kinds and (many := _many().search(text)):
        start, end = many.span("number" if many["number"] else "figures")
        taken = any(span.start < end and start < span.end and span.kind != "prompt" for span in spans)
        if not taken and (whole(text[start:end]) or 0) > 1:
            yield Span(start, end, "count", _step(spans, start))
    if "side" not in kinds and not {"width", "height"} <= kinds:
        for found in _SIZE.finditer(text):
            start, end = found.span()
            alone = _LEFT.search(text[:start]) and _RIGHT.match(text, end)
            if alone and not any(a < start < b for a, b in quoted):
                step = _step(spans, start)
                yield Span(*found.span("width"), "width", step)
                yield Span(*found.span("height"), "height", step)
                return
    if not kinds & {"res", "aspect", *_SIDES}:
        for found in _RES.finditer(text):
            start, end = found.span()
            right = bool(_RIGHT.match(text, end)) or text[end : end + 1] == "的"
            if _LEFT.search(text[:start]) and right and not any(a < start < b for a, b in quoted):
                yield Span(start, end, "res", _step(spans, start))
                break
    if not kinds & {"aspect", *_SIDES} and (shaped := _SHAPED.search(text)):
        start, end = shaped.span("before" if shaped["before"] else "behind")
        yield Span(start, end, "aspect", _step(spans, start))


def _denied(text: str, spans: list[Span], language: str) -> list[Span]:
    """With what stands alone behind 'no' or 'without', where nothing was marked as such."""
    if any(span.kind == "negative" for span in spans):
        return spans
    for found in _WITHOUT.finditer(text):
        start, end = found.span("what")
        start_of_clause = found.start()
        # a Spanish 'no' stands before verbs
        verb = language == "es" and re.search(r"\bno\s+$", text[:start], re.IGNORECASE)
        if (
            verb
            or _MEDIUM.match(found["what"])
            or _TALK.match(found["what"])
            or any(s.start < end and start_of_clause < s.end for s in spans)
        ):
            continue
        if spans and trimmed(found["what"]):
            return [*spans, Span(start, end, "negative", _step(spans, start))]
    return spans


_GAP = re.compile(r"\s*[^\W\d_]+(?:\s+[^\W\d_]+)?\s*|\s*")


def _whole(text: str, spans: list[Span]) -> list[Span]:
    """Prompts without holes of a word or two, which nobody leaves out when something is to be drawn."""
    joined: list[Span] = []
    for span in spans:
        last = joined[-1] if joined else None
        if last is not None and last.kind == span.kind == "prompt" and last.step == span.step:
            gap = text[last.end : span.start]
            if gap.strip() and len(gap) < 24 and _GAP.fullmatch(gap):
                joined[-1] = last._replace(end=span.end)
                continue
        joined.append(span)
    return joined
