"""What a planner's labels may be together: tasks that fit what is attached, one role for each medium.

No torch here. Scores are logits, or sums of logarithms of probabilities: higher is likelier.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from diptych.planning.labels import ROLES, TASKS
from diptych.planning.schema import Attached, Look
from diptych.planning.words import listed
from diptych.request import MARK, Product, Role, Task
from diptych.request import TASKS as FACTS

if TYPE_CHECKING:
    import numpy as np

_OF_CLIPS = {Task.EDIT: Task.EDIT_CLIP, Task.CONTROL_TO_IMAGE: Task.CONTROL_TO_CLIP}
"""Task on a picture -> the same on a clip."""
_FOLLOWED = (Look.EDGES, Look.DEPTH, Look.POSE, Look.BOXES)
_CONTROLS = (Task.CONTROL_TO_IMAGE, Task.CONTROL_TO_CLIP)
_AFTER = {
    Product.PICTURE: (Task.IMAGE_TO_CLIP, Task.EDIT, Task.ANSWER),
    Product.CLIP: (Task.EDIT_CLIP, Task.ANSWER),
}
"""What is done with what a step before made."""
_TOGETHER = 4
"""Media whose roles are weighed against one another; of more, each has its likeliest."""
_SOON = 25
"""Characters after 'then' within which it is said what is made."""
_SPOKEN = 4.0
"""Logits that words of motion are worth."""
_CERTAIN = 40.0
_ABSENT = 1.0
"""Logits that it costs to need a medium where none is attached: people rarely forget it."""
_TOO_MANY, _TOO_FEW, _STRANGE = 6.0, 3.0, 2.0
"""Logits that it costs to give a role to more media than a task takes, to leave one that it needs without a
medium, and to see a mask in what is none."""


def fitting(scores: np.ndarray, media: Sequence[Attached], clip_meant: bool) -> np.ndarray:
    """Scores of tasks (len(TASKS),), for these media. A task on a picture is one on a clip where all that is
    attached are clips, and the reverse, but where the words call a clip what is a picture: that is asked
    about."""
    import numpy as np

    out = np.array(scores, np.float32)
    if not media:
        needing = [any(least for least, _ in FACTS[task].takes.values()) for task in TASKS]
        needing[TASKS.index(Task.IMAGE_TO_CLIP)] = True
        out[needing] -= _ABSENT
        return out
    clips = [medium.kind == "clip" for medium in media]
    looks = {medium.look for medium in media}
    moving = all(clips) or (clip_meant and not any(clips))
    for still, clip in _OF_CLIPS.items():
        if any(clips) and not all(clips):
            continue
        if clip is Task.CONTROL_TO_CLIP and not all(clips):
            # a picture may be followed by a clip
            continue
        kept, gone = (clip, still) if moving else (still, clip)
        kept_at, gone_at = TASKS.index(kept), TASKS.index(gone)
        out[kept_at] = np.logaddexp(out[kept_at], out[gone_at])
        out[gone_at] = -1e9
    if looks & {Look.POSE, Look.BOXES}:
        for task in _CONTROLS:
            out[TASKS.index(task)] += 1.0
    if Look.MASK in looks:
        out[[TASKS.index(Task.EDIT), TASKS.index(Task.EDIT_CLIP)]] += 1.0
    return out


_MOVES = re.compile(
    r"\ban[ií]m|\bv[ií]d[eé]o|\bclips?\b|\bfilm|\bgif\b|\bmotion|\bmov(e|ing)\b|to life|\bbeweg|lebendig"
    r"|\bmuev"
    r"|\bmovim|cobr\w+ vida|dale vida|\w*gerak|\bhidup|\bklip|动起来|活起来|动画|视频|短片|影片|动图",
    re.IGNORECASE,
)


_NEXT = re.compile(
    r"\b(?:and |und |y |dan )?(?:then|afterwards|after that|finally|dann|danach|anschließend|luego|después"
    r"|lalu|kemudian|setelah itu)\b|然后|接着|再(?=把|让|将)|(?:并|并且)(?=让|把|做成|将)"
    r"|\b(?:and|und|y|dan) (?=(?:animate|animiere?|animieren|anim[aá](?:lo|la)?|animasikan|gerakkan|hidupkan"
    r"|bring (?:it|the)|(?:make|get|set) (?:it|the result) mov\w+)\b)",
    re.IGNORECASE,
)
_MADE = re.compile(
    r"\b(?:an[ií]m|turn|convert|transform|make (?:it|that|a|the)|bring|mach|verwandl|convi|haz|jadikan"
    r"|dijadikan|ubah|buat|daraus|davon|aus (?:dem|der)|(?:out )?of (?:it|that)|(?:de|con) eso|dari(?:nya"
    r"| itu))"
    r"|做成|转成|变成|动起来",
    re.IGNORECASE,
)


def moved_after(text: str) -> int | None:
    """Where a request, after something else that makes a picture, goes on to have it moved; None: nowhere."""
    for found in _NEXT.finditer(text):
        before, after = text[: found.start()], text[found.end() :]
        told = _MADE.search(after, 0, _SOON)
        if told and _MOVES.search(after, 0, told.start() + 2 * _SOON):
            return found.start() if before.strip() and not _MOVES.search(before) else None
    return None


_DOES = re.compile(
    r"\b(?:add|put|remove|delete|erase|make|turn|change|replace|paint|colou?r|animate|bring|describe"
    r"|caption|tell|convert|give"
    r"|edit|blur|crop|rotate|darken|brighten|sharpen|upscale|füg|fueg|setz|entfern|lösch|mach|änder|ersetz"
    r"|färb|mal|animier"
    r"|beschreib|verwandl|gib|añad|pon|quita|borra|elimina|haz|cambia|convi|anim|describ|tambah|hapus"
    r"|hilang|buat|ubah|ganti"
    r"|jadikan|gerak|hidup|jelaskan|deskripsi)|[加删改换变做让把将画]|去掉|描述|说明",
    re.IGNORECASE,
)
_BETWEEN = re.compile(
    r"(?:\s*[,;.]\s*|\s+)(?:(?:and|und|y|dan) )?(?:then|afterwards|after that|finally|dann|danach"
    r"|anschließend|zum schluss"
    r"|luego|después|al final|lalu|kemudian|setelah itu)\b[, :]*|[，。；]?\s*(?:然后|接着|之后|最后"
    r"|再)(?=[把让将画加改做给换])"
    r"|\s*,\s*(?:and )?(?=(?:make|turn|paint|colou?r|give|animate|describe) (?:it|that|them|the result)\b)"
    r"|\s+and (?=(?:animate|describe|caption) (?:it|that|the result)\b)",
    re.IGNORECASE,
)
_REVERSED = re.compile(
    r"\s*(?P<then>(?:please |bitte |tolong )?(?:animate|animiere?|an[ií]ma(?:lo|la)?|animasikan|make|bring"
    r"|lass)\b[^,:;.]{0,30}?)\s+"
    r"(?:(?P<en>once|after|as soon as|when)|(?P<de>sobald|nachdem|wenn)|(?P<es>cuando|una vez|después de)"
    r"|(?P<id>setelah|sesudah))"
    r"\b[^:;]{0,50}[:;]\s*(?P<first>.+)",
    re.IGNORECASE | re.DOTALL,
)
_THEN = {"en": "then", "de": "dann", "es": "luego", "id": "lalu"}
_ANEW = re.compile(
    r"\W*(?:ok,? |no,? |actually,? )?(?:forget (?:it|that|all that|about (?:it|that))|never ?mind"
    r"|something else|scrap that"
    r"|(?:new|different|another) (?:topic|subject)|change of (?:plan|topic|subject)|let'?s start over"
    r"|vergiss (?:das|es)"
    r"|(?:jetzt )?(?:was|etwas) (?:ganz )?anderes|(?:anderes|neues) thema|themenwechsel|planänderung"
    r"|olv[ií]da\w*"
    r"|(?:ahora )?otra cosa|otro tema|cambi\w+ de (?:tema|planes|idea)|lupakan|(?:ganti|beda) topik"
    r"|topik lain|yang lain saja"
    r"|算了|换个(?:话题|主题|内容)|别管刚才|不说那个|不要那个)",
    re.IGNORECASE,
)


def clauses(text: str) -> list[str]:
    """A request in its steps, where words between them tell three or more; else the whole."""
    parts: list[str] = []
    last = 0
    for found in _BETWEEN.finditer(text):
        if found.start() > last and _DOES.match(text, found.end()):
            parts.append(text[last : found.start()])
            last = found.end()
    parts.append(text[last:])
    whole = MARK in text[len(parts[0]) :] or not all(part.strip() for part in parts)
    return [text] if whole or len(parts) < 3 else parts


_STARTS = re.compile(
    r"(?:first|start\w*|opening) (?:frame|picture|image)|(?:primer|primera) (?:fotograma|imagen|frame)"
    r"|fotograma inicial"
    r"|erste[sn]? (?:bild|frame)|(?:start|anfangs)bild|(?:frame|bingkai|gambar) (?:pertama|awal)|第一帧|首帧"
    r"|起始帧",
    re.IGNORECASE,
)


def goes_on(text: str, cut: int) -> bool:
    """Whether a further step is asked for from a place on: behind a first frame, what comes then is a part of
    the clip unless something is done or told."""
    return not _STARTS.search(text, 0, cut) or bool(_DOES.search(text, cut) or _MOVES.search(text, cut))


def straightened(text: str) -> str:
    """A request whose second step is said first ('animate it once this is done: ...'), in its order."""
    found = _REVERSED.fullmatch(text)
    if found is None or not _MOVES.search(found["then"]) or MARK in text:
        return text
    then = next(word for language, word in _THEN.items() if found[language])
    return f"{found['first'].rstrip(' .!')}, {then} {found['then']}"


def starts_anew(text: str) -> bool:
    """Whether a request drops what was asked for before."""
    return bool(_ANEW.match(text))


def leading(scores: np.ndarray, first: str, rest: str) -> np.ndarray:
    """Scores of tasks of the first of two steps: where only the second one's words are of motion, the first
    makes a picture."""
    import numpy as np

    out = np.array(scores, np.float32)
    if _MOVES.search(rest) and not _MOVES.search(first):
        for place, task in enumerate(TASKS):
            if FACTS[task].makes is Product.CLIP:
                out[place] -= _SPOKEN
    return out


def following(scores: np.ndarray, before: Task, text: str) -> np.ndarray:
    """Scores of tasks of a step that goes on from what `before` makes, by its own words: few things are done
    with a picture, and words of motion tell them apart."""
    import numpy as np

    allowed = _AFTER.get(FACTS[before].makes, (Task.ANSWER,))
    out = np.where([task in allowed for task in TASKS], scores, -1e9)
    moves = _MOVES.search(text)
    # 'animate it', 'make a clip of it': nothing else can be meant
    told = moves and _MADE.search(text)
    out[TASKS.index(Task.IMAGE_TO_CLIP)] += _CERTAIN if told else _SPOKEN if moves else -_SPOKEN
    return out


_PLACE = re.compile(
    r"\b(?:(?P<a>first|erste[nrsm]?|primer[ao]?|pertama|1st)|(?P<b>second|zweite[nrsm]?|segund[ao]|kedua|2nd)"
    r"|(?P<c>third|dritte[nrsm]?|tercer[ao]?|ketiga|3rd))\b|第(?:(?P<d>一)|(?P<e>二)|(?P<f>三))",
    re.IGNORECASE,
)
_GIVES = re.compile(
    r"\b(?:give|hand|lend|dress|gib|schenk|ponle|dale|pónle|vístele|viste|beri|berikan)\b|\bzieh (?:dem"
    r"|der)\b|给",
    re.IGNORECASE,
)
_TAKES = re.compile(
    r"\b(?:take|put|use|grab|move|copy|paste|place|stick|borrow|set|nimm|setz|leg|kopier|häng|kleb|coge|toma"
    r"|pon|coloca|copia|mete"
    r"|ambil|pakaikan|pasang|taruh|tempel\w*|letakkan|pindahkan)\b|把|用|拿|从",
    re.IGNORECASE,
)
_FROM = re.compile(
    r"(?:\b(?:from|de|del|desde|von|vom|dari)|从)(?:\s+(?:the|la|el|dem|der))?\s*(?:gambar |foto )?$",
    re.IGNORECASE,
)
_TO = re.compile(r"\b(?:to|into|al?|hasta|zu|zum|zur|bis|ke|menjadi)\b|到|变", re.IGNORECASE)
_ONTO = re.compile(
    r"\b(?:on|onto|to|into|in|where|auf|dem|der|an|ins|im|dorthin|al?|en|sobre|ke|pada|di)\b"
    r"|到|给|在|进|上",
    re.IGNORECASE,
)


def placed(text: str, media: Sequence[Attached], task: Task) -> dict[int, Role]:
    """What two photos are for, by the places that a sentence calls them by: 'put the hat of the second one
    on the man in the first', 'a clip from the first to the second'."""
    found = [(one.start(), "abcdef".index(str(one.lastgroup)) % 3) for one in _PLACE.finditer(text)]
    photos = [number for number, medium in enumerate(media) if medium.look is not Look.MASK]
    if len(found) != 2 or len(photos) != 2 or {place for _, place in found} != {*photos}:
        return {}
    (at, one), (then, other) = found
    if task is Task.IMAGE_TO_CLIP and _FROM.search(text, 0, at) and _TO.search(text, at, then):
        return {one: Role.FIRST, other: Role.LAST}
    if task is not Task.EDIT:
        return {}
    gives, takes = _GIVES.search(text, 0, at), _TAKES.search(text, 0, at)
    if gives and (not takes or gives.start() <= takes.start()):
        return {one: Role.SOURCE, other: Role.REFERENCE}
    if takes and _ONTO.search(text, at, then):
        return {one: Role.REFERENCE, other: Role.SOURCE}
    return {}


def roles(scores: np.ndarray, task: Task, media: Sequence[Attached]) -> list[Role]:
    """The likeliest role of each medium (media, len(ROLES)), with no more of one than the task takes. What a
    medium is for depends on no other's number, so another order gives the same."""
    takes = FACTS[task].takes
    options = [role for role in ROLES if role in takes or role is Role.UNUSED]
    places = [ROLES.index(role) for role in options]
    weights = [
        [float(row[place]) + _look(role, medium) for role, place in zip(options, places, strict=True)]
        for row, medium in zip(scores, media, strict=True)
    ]
    if len(media) > _TOGETHER:
        return [options[row.index(max(row))] for row in weights]

    def worth(given: tuple[int, ...]) -> float:
        total = sum(row[pick] for row, pick in zip(weights, given, strict=True))
        chosen: list[Role] = [options[pick] for pick in given]
        for role, (least, most) in takes.items():
            count = chosen.count(role)
            total -= _TOO_MANY * max(0, count - most) + _TOO_FEW * max(0, least - count)
        if task is Task.IMAGE_TO_CLIP and not {Role.FIRST, Role.LAST} & set(chosen):
            total -= _TOO_FEW
        return total

    best = max(itertools.product(range(len(options)), repeat=len(media)), key=worth)
    return [options[pick] for pick in best]


def _look(role: Role, medium: Attached) -> float:
    """What a medium's look says of a role."""
    masked = medium.look is Look.MASK
    if role is Role.MASK:
        return 1.0 if masked else -_STRANGE
    if role is Role.CONTROL and medium.look in _FOLLOWED:
        return 1.0
    return -1.0 if role is Role.SOURCE and (masked or medium.look is Look.POSE) else 0.0


_FOREIGN = re.compile(r"[\u0370-\u03ff\u0400-\u052f\u0590-\u08ff\u0900-\u0dff\u0e00-\u0fff\uac00-\ud7af]")
_KANA = re.compile(r"[\u3040-\u30ff]")
_HAN = re.compile(r"[\u3400-\u9fff]")
# letters of Latin alphabets that none of the languages uses, by words: a name may have one
_STRANGERS = re.compile(r"\w*[łąęśźżćńđơưăạảấầẩậắằặẹẻẽếềểễệỉịọỏốồổỗộớờởỡợụủứừửựåøæğşőűčřšžěãõœ]\w*")
_FOREIGN_WORDS = frozenset(
    listed(
        "het een van op voor met hoeveel mensen naar staan zijn deze maak teken kun ik wil niet le les une "
        "dans avec est sur pour quel quelle combien dessine moi je voudrais fais enlève du des il gli della "
        "nella che sono quanti quale disegna fammi togli nel um uma não com em você quantos desenha desenhe "
        "quero och ett på hur många är rita ta jest ile narysuj usuń bir ve için kaç çiz og hvor mange tegn "
        "fjern"
    )
)
# small words that one of the languages alone has
_SMALL = {
    "en": frozenset(
        listed("the of with and this that draw make please you my an per frames second seconds is are from")
    ),
    "de": frozenset(
        listed(
            "der die das und mit ein eine einen bitte zeichne nicht ist von dem den auf sekunden bilder aus"
        )
    ),
    "es": frozenset(
        listed("el los las una con y por favor dibuja haz que del para segundos imagen un desde")
    ),
    "id": frozenset(
        listed("dan yang dengan ini itu tolong gambar buat sebuah seekor sedang dari untuk ke detik jadi")
    ),
}
_OWN_WORDS = frozenset(
    listed(
        "the a an of in and with on to is are make draw what this that my from for it i der die das den dem "
        "ein eine einen mit auf und ist im zu von mach er es sie el la los las un una de con en y que por "
        "para este esta al yang di dan dengan ini itu dari ke untuk buat pada"
    )
)


def written(text: str, guess: Any) -> Any:
    """The language of a text, of one that was guessed: letters of scripts that none of them uses are of
    another language, and Chinese is written with its own."""
    letters = sum(c.isalpha() for c in text)
    foreign, kana, han = (len(script.findall(text)) for script in (_FOREIGN, _KANA, _HAN))
    if 2 * foreign > letters or 5 * kana > kana + han > 0:
        return "und"
    if 2 * han > letters:
        return "zh"
    words = re.findall(r"[^\W\d_]+", text.casefold())
    strange, own = sum(word in _FOREIGN_WORDS for word in words), sum(word in _OWN_WORDS for word in words)
    if len(_STRANGERS.findall(text.casefold())) > 1 or (strange > 1 and strange > own):
        return "und"
    told = {language: sum(word in own for word in words) for language, own in _SMALL.items()}
    best = max(told, key=lambda language: told[language])
    if told[best] > 1 and not told.get(guess, 0) and guess not in ("und", "zh"):
        return best
    return "und" if guess == "zh" and not han else guess


def denied(text: str, start: int) -> bool:
    """Whether something in the same clause, before a place, denies what stands there."""
    ends = [found.end() for found in _NEGATION.finditer(text, 0, start)]
    return bool(ends) and not re.search(r"[,.;!?，。；！？]", text[ends[-1] : start])


_NEGATION = re.compile(
    r"\b(without|w/o|no|not|don'?t|avoid|exclude|leave|keep|free of|minus|neg\w*|ohne|kein\w*|nicht|vermeide"
    r"|lass\w*|weg|sin|nada|ning\w+|evita|fuera|tanpa|jangan|tidak|bukan|hindari|hilangkan|kecualikan)\b"
    r"|[不没无無别勿]|避免|排除|负面|反向",
    re.IGNORECASE,
)
"""Words before what must not be drawn."""
