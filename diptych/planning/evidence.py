"""What plain words of a request say of its task, whatever a model makes of them, in five languages.

A clip is spoken of by some word for one, a story by another, and what is to be changed has to be there or be
pointed at. Where no such word stands, a task that needs it is unlikely. No torch here.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from diptych.planning.greetings import greets
from diptych.planning.labels import TASKS
from diptych.planning.schema import Attached, Control, Look
from diptych.planning.words import listed
from diptych.request import TASKS as FACTS
from diptych.request import Product, Task

if TYPE_CHECKING:
    import numpy as np

_UNSAID = 8.0
"""Logits that it costs a task that no word speaks of what it needs."""
_TOLD = 6.0
"""Logits that a form of words is worth which says what is asked for."""
_CERTAIN = 12.0
_MOVING = re.compile(
    r"v[ií]d[eé]?o|\bv[iíe]{1,2}d[ieéo]{1,3}s?\b|\bvids?\b|cl[ip]{1,2}|klip|fil?m|movie|anima|animie"
    r"|\bgifs?\b"
    r"|footage|b-roll|motion"
    r"|\bmov(?:e|es|ing|ed|ie)?\b|loop|lapse|cinemagraph|frames?\b|\bfps\b|\bsec|(?<!\d)\d{1,3} ?s\b|seconds?"
    r"|sekund"
    r"|sekünd|segundo|detik|minut"
    r"|menit|\bhours?\b|fotograma|cuadros|bingkai|bewegt|beweg|lebendig|muev|movim|mover|moviera|\bvida\b"
    r"|gerak|hidup|to life"
    r"|alive|record|shoot|\bgraba|\brueda|rekam|tiktok|youtube|reel|\bcorto|dreh|视频|短片|影片|动|片段|录"
    r"|拍|活|秒|帧|分钟|电影",
    re.IGNORECASE,
)
_BEGINS = re.compile(
    r"begin|start|opening|\bends?\b|ending|final|anfang|anfäng|beginn|endet|ende\b|schluss|principio|comienz"
    r"|inici|empie|empez|termin"
    r"|acab|awal|mulai|berakhir|akhir|开头|开始|结尾|结束|起始",
    re.IGNORECASE,
)
_STORY = re.compile(
    r"stor(?:y|ies)|tale|recipe|tutorial|guide|how[- ]to|step by step|illustrat|comic|book|storyboard"
    r"|article|report|diary|blog"
    r"|poem|interleav|altern|paragraph|in turn|words? and|text|history|explain|teach|\bmix|describe|manual"
    r"|write|schritt|geschicht"
    r"|märchen|maerchen|rezept|anleitung|bebildert|illustrier|bericht|erzähl|abschnitt|schreib|ratgeber"
    r"|artikel|buch|beschreib"
    r"|cuento|cuenta|historia|relato|fábula|receta|guía|paso a paso|cómic|ilustra|artículo|explica|escribe"
    r"|libro|describe|álbum"
    r"|cerita|dongeng|kisah|resep|panduan|langkah demi|ilustrasi|komik|buku|artikel|teks|tulis|故事|童话|寓言"
    r"|图文"
    r"|教程|食谱|指南"
    r"|绘本|漫画|连环画|图画书|配图|插图|游记|文章|报告|讲|写|步|带图|文字和|配文|介绍|描述",
    re.IGNORECASE,
)
_POINTED = re.compile(
    r"\b(?:this|that|these|those|it|its|attach\w*|upload\w*|my|our|the|same|like|style|reference|ref|above"
    r"|given|here|control"
    r"|controlnet|trace|follow\w*)\b|\b(?:dies\w*|das|dem|den|der|die|mein\w*|unser\w*|angehängt\w*|anhang"
    r"|beigefügt\w*|stil|wie|hier"
    r"|nach|aus|vorlage|es)\b|\b(?:est[aeo]s?|es[aeo]s?|el|la|los|las|mi|nuestr\w+|adjunt\w+|estilo|como"
    r"|referencia|lo|según|sigue\w*"
    r"|control)\b|\w+l[oae]s?\b(?<=[aeo]l[oa])|\b(?:ini|itu|saya|kami|terlampir|lampiran|gaya|seperti"
    r"|referensi|aku|ikuti)\b"
    r"|\w+(?:nya|ku)\b|这|那|我的|我们|附|上传|风格|像|参考|把|将|按|它|原图|照片|[图画]里|图中|遮罩|蒙版",
    re.IGNORECASE,
)
# what a drawing shall be like, or follow
_SHOWN = re.compile(
    r"\b(?:this|that|these|those|attach\w*|upload\w*|my|our|same|like|style|reference|ref|controlnet|control"
    r"|trace|following"
    r"|(?:the|from) (?:\w+ )?(?:edges?|edge map|outlines?|sketch|scribble|line drawing|lines|pose|skeleton"
    r"|depth|depth map|boxes|layout"
    r"|segmentation|picture|photo|image))\b|\b(?:dies\w*|mein\w*|unser\w*|angehängt\w*|beigefügt\w*|anhang"
    r"|stil|wie|vorlage|nach"
    r"|(?:kanten|skizze|pose|tiefen|umriss|raster)\w*)\b|\b(?:est[aeo]s?|es[aeo]s?|mi|mis|nuestr\w+|adjunt\w+"
    r"|estilo|como|referencia"
    r"|según|sigu\w+|bordes|boceto|pose|profundidad)\b|\b(?:ini|itu|saya|kami|kita|terlampir|lampiran|gaya"
    r"|seperti|referensi|aku|ikuti"
    r"|sketsa|pose|tepi|kedalaman)\b|\w+(?:nya|ku)\b|这|那|我的|我们|附|上传|风格|像|参考|按|照|图",
    re.IGNORECASE,
)
_LIKE = (
    Task.REFERENCE_TO_IMAGE,
    Task.REFERENCE_TO_CLIP,
    Task.CONTROL_TO_IMAGE,
    Task.CONTROL_TO_CLIP,
)
_DRAWS = re.compile(
    r"(?:^|[:;,.!?，。：！]\s*|\b(?:please|bitte|tolong|por favor|now|jetzt|ahora|sekarang)\s+|请|^先)"
    r"(?:(?:draw|sketch|illustrate|zeichne|dibuja|gambar(?:kan|lah)?|lukis(?:kan|lah)?)\s+(?:me |us |mir "
    r"|uns )?"
    r"(?!(?:it|this|that|over|on|the|es|das|den|die|der|el|la|los|las|lo|ini|itu|in|into|onto|im|auf|en"
    r"|sobre|di|pada)\b)\w"
    r"|(?:画|绘制)(?!(?:上|在|到|进|里))\S)",
    re.IGNORECASE,
)
_OVER = re.compile(
    r"\b(?:in|on|into|onto|over) (?:this|the|my|that|it)\b|\b(?:in|auf|an) (?:dieses?|das|dem|mein\w*|die"
    r"|den)\b"
    r"|\b(?:en|sobre|a) (?:est[ae]|la|el|mi)\b|\b(?:di|pada|ke) (?:\w+ )?(?:ini|itu|saya)\b|这张|上面?$",
    re.IGNORECASE,
)
# what is asked, and not asked for
_ASKS = re.compile(
    r"(?:^|[:;,.!，。：！]\s*|\b(?:so|but|and|also|und|aber|y|pero|dan|tapi)\s+)[¿\"]?\s*(?:"
    r"(?:what(?:'s| is| are| does| do| was| kind| colou?r| time| breed)|who(?:'s| is| are| was)?|whose"
    r"|where(?:'s| is| are| was| do)?"
    r"|when (?:is|was|did|does)|which|why (?:is|are|do|does|did|was)|how (?:many|much|old|long|far|tall"
    r"|big|is|are|do|does|did)"
    r"|(?:is|are|was|were|does|did|has|have) (?!it possible|there (?:a|any) (?:chance|way)|you (?:able"
    r"|willing)|any(?:one|body))\w+)\b"
    r"|(?:was|wer|wo|wohin|woher|wann|warum|wieso|welche[rsnm]?|wie ?viele?|wie (?:heißt|alt|groß|spät"
    r"|lang)|ist|sind|hat|gibt es)\b"
    r"|(?:qué|quién|quiénes|dónde|cuándo|por qué (?!no)|cuál|cuáles|cuánt[oa]s?|cómo se (?:llama|dice)|hay"
    r"|es|está|están|son)\b"
    r"|(?:apa (?!bisa|boleh)|siapa|di ?mana|kapan|kenapa|mengapa|berapa|apakah (?!bisa|boleh|kamu)"
    r"|yang mana)\b"
    r")[^?？]{2,160}[?？]\s*\W*(?:\w+\W*){0,4}$",
    re.IGNORECASE,
)
_ASKS_CHINESE = re.compile(
    r"(?:什么|谁|哪|几[个只张点岁]|多少|为什么|怎么回事|是不是|有没有(?!办法)|真的吗"
    r"|是[^，。]{1,12}吗)[^。！]{0,40}$"
)
# 'what would it look like in motion' and the like ask for something
_WISHES = re.compile(
    r"\b(?:what (?:if|about|would)|how (?:about|would)|why (?:not|don't)|could|can|would|will|kann|könnte"
    r"|kannst|könntest|würde|wäre"
    r"|puede|puedes|podría|podrías|sería|qué tal|bisa|bisakah|dapatkah|bagaimana kalau)\b|能|可以|可否",
    re.IGNORECASE,
)
_PICTURE = (
    r"(?:picture|photo|image|drawing|pic|painting|foto|bild|zeichnung|imagen|fotografía|dibujo|gambar"
    r"|lukisan)"
)
_CLIP = r"(?:video|vídeo|clip|klip|film|movie|gif|animation|animación|animasi|corto)"
# what is there shall become a clip
_BECOMES = re.compile(
    rf"\b(?:becom\w+|turn\w*|mad?ke?|convert\w*|transform\w*|change\w*|as|into|machen?|mach|wird|werden"
    rf"|wandl\w*|verwand\w*|zu|als|daraus"
    rf"|convert\w+|convier\w+|transform\w+|haz|hacer|hag\w+|pasar?|en|jadi|jadikan|menjadi|dijadikan"
    rf"|dibuat|ubah|buat)\b[^.;!]{{0,30}}?\b{_CLIP}\b"
    rf"|\b{_CLIP}\b[^.;!?]{{0,24}}?\b(?:from|of|out of|aus|von|mit|de|con|a partir de"
    rf"|dari)\b[^.;!?]{{0,16}}?\b(?:{_PICTURE}|this|it|that|esto|ini|daraus)\b"
    rf"|\baus (?:dem|diesem|meinem|der|dieser|meiner) {_PICTURE}\b[^.;!?]{{0,16}}\b{_CLIP}\b"
    r"|(?:做成|变成|转成|改成|生成|做|变)[^，。；]{0,6}(?:视频|短片|动画|动图|影片)|动起来|活起来",
    re.IGNORECASE,
)
_CALLED_CLIP = re.compile(
    r"\b(?:th(?:is|e|at)|my|our|attached|whole|entire|uploaded|given)\s+(?:(?:attached|whole|entire|short"
    r"|little|uploaded|full)\s+)?"
    r"(?:video clip|video footage|video|clip|footage|recording|animation|gif)\b(?!['’]?s?[ -]?(?:game"
    r"|camera|player|store|shop|tape|screen"
    r"|wall|call|icon|poster|card|console|cassette|projector|art|board))"
    r"|\b(?:dies\w*|das|dem|des|mein\w*|im|vom|ganze\w*)\s+(?:\w+[em][nsrm]?\s+)?(?:videos?|clips?"
    r"|videoclips?|aufnahme)\b"
    r"|\b(?:est[ea]|el|la|mi|del|al)\s+(?:\w+\s+)?(?:vídeo|video|clip|grabación)\b(?!juego)"
    r"|\b(?:video|klip|rekaman)(?:nya|ku| (?:ini|itu|saya|terlampir))\b|(?:这|那|该|我的|附上的|整)(?:段|个"
    r"|条"
    r"|部)?(?:视频|短片|影片|录像|动画|片子)",
    re.IGNORECASE,
)
_CLIP_NOUN = re.compile(
    rf"\b{_CLIP}s?|footage|recording|aufnahme|grabación|filmación|rekaman|v[ií]d[eé]o|视频|短片|影片|录像"
    rf"|动画|片子|片段|gif",
    re.IGNORECASE,
)
_ANOTHER = re.compile(
    rf"\b(?:the )?(?:other|second|2nd) {_PICTURE}|{_PICTURE} (?:two|2|no\. ?2)\b|\b(?:zweite[nrsm]?"
    rf"|andere[nrsm]?|2\.) {_PICTURE}"
    rf"|\b(?:segund[ao]|otr[ao]) {_PICTURE}|\b{_PICTURE} (?:kedua|lain(?:nya)?|yang lain)\b"
    rf"|第二[张幅个](?:图|照片|图片)?|另一张|图二",
    re.IGNORECASE,
)
_ATTACHED = re.compile(
    r"\battach\w*|\bupload\w*|angehängt\w*|beigefügt\w*|\bim anhang|\badjunt\w+|terlampir|lampiran|附件|附图"
    r"|附上|上传",
    re.IGNORECASE,
)
_HELD = {
    Control.LINES: r"sketch|scribbl|doodl|line ?art|line drawing|skizz|kritzel|strichzeichn|boceto|garabat"
    r"|esbozo|sketsa|coret|线稿|草图"
    r"|涂鸦|手绘|简笔",
    Control.DEPTH: r"\bdepth|tiefen|profundidad|kedalaman|深度",
    Control.POSE: r"\bpose|skelet|stick ?figure|strichmännchen|esqueleto|kerangka|姿势|骨架|骨骼",
    Control.BOXES: r"\bbox(?:es)?\b|bounding|rahmen|kästen|cajas|recuadros|kotak|边框|方框|边界框",
    Control.SEGMENTS: r"segment|分割",
    Control.EDGES: r"\bedges?\b|canny|outline|contour|kanten|umriss|kontur|bordes|contorno|tepi|边缘|轮廓",
}
_HELD_WORDS = {control: re.compile(words, re.IGNORECASE) for control, words in _HELD.items()}
_NOTHING = frozenset(
    listed(
        "a an the one some any me us my i it of for please now would could can you like want need give make "
        "draw do create generate show paint sketch picture image drawing photo art illustration video clip "
        "animation movie film gif thanks hi hello hey so ok ein eine einen mir uns bitte jetzt mach mache "
        "zeichne male erstelle erzeuge bild zeichnung foto gib ich will möchte hätte gern mal danke hallo "
        "und kannst könntest du machen zeichnen un una nos por favor ahora haz crea dibuja genera imagen "
        "dibujo "
        "dame quiero quisiera vídeo corto corta gracias hola puedes podrías hacer dibujar sebuah satu saya "
        "aku tolong sekarang buat buatkan bikin bikinkan gambar gambarkan lukis mau ingin ya dong halo "
        "terima kasih klip animasi detik seconds second sekunden segundos durasi berdurasi selama de and y "
        "dan with "
        "mit con dengan"
    )
)
_NOTHING_CHINESE = re.compile(r"[帮给替我请你画做来生成一张幅个段图片视频吧吗谢了要想的能可以秒下短]*")


_STILL = re.compile(
    r"\bstill (?:picture|image|photo|drawing)|standbild|\beinzelbild\b|imagen (?:fija|estática)|foto fija"
    r"|fotograma"
    r"|(?:gambar|foto) (?:diam|statis)|静止|静态|静帧",
    re.IGNORECASE,
)
_NOT_STILL = re.compile(
    rf"\b(?:no|not|kein\w*|nicht|bukan|nada de)\b[^,;.:]{{0,20}}\b(?:stills?"
    rf"|{_PICTURE})s?\b[^:]{{0,24}}\b{_CLIP}\b"
    r"|(?:不要|不是)[^，。]{0,6}(?:图|照片)[^：]{0,8}(?:视频|动画|短片)",
    re.IGNORECASE,
)
_NOT_CLIP = re.compile(
    rf"\b(?:no|not|kein\w*|nicht|bukan|nada de|sin|ohne|tanpa)\b[^,;.:]{{0,14}}\b{_CLIP}s?\b|(?:不要|不是"
    rf"|别做)[^，。]{{0,4}}(?:视频|动画)",
    re.IGNORECASE,
)
_LEAVE = re.compile(
    r"\b(?:ignore|disregard|skip|ignorier\w*|nicht (?:beachten|nutzen)|ignora\w*|no uses|abaikan|lewati)\b"
    r"|忽略|别管|不用管|无视",
    re.IGNORECASE,
)


def weighed(scores: np.ndarray, text: str, media: Sequence[Attached]) -> np.ndarray:
    """Scores of tasks (len(TASKS),), with what the words of a request say for and against each."""
    import numpy as np

    out = np.array(scores, np.float32)

    def add(value: float, *tasks: Task) -> None:
        for task in tasks:
            out[TASKS.index(task)] += value

    if not media and greets(text):
        add(_CERTAIN, Task.ANSWER)
        return out
    clips = [task for task in TASKS if FACTS[task].makes is Product.CLIP]
    stills = all(medium.kind == "picture" for medium in media)
    if stills and not _MOVING.search(text):
        begins = media and _BEGINS.search(text)
        add(-_UNSAID, *(task for task in clips if not (begins and task is Task.IMAGE_TO_CLIP)))
    if not _STORY.search(text):
        add(-_UNSAID, Task.INTERLEAVE)
    draws = bool(_DRAWS.search(text)) and not _OVER.search(text)
    if not media:
        if not _POINTED.search(text):
            add(-_UNSAID, Task.EDIT, Task.EDIT_CLIP, Task.IMAGE_TO_CLIP)
        if not _SHOWN.search(text):
            add(-_UNSAID, *_LIKE)
        if draws:
            add(-_UNSAID, Task.EDIT, Task.EDIT_CLIP, Task.ANSWER)
        if _NOT_STILL.search(text):
            add(_TOLD, Task.TEXT_TO_CLIP)
        elif _NOT_CLIP.search(text) or (_STILL.search(text) and not _CLIP_NOUN.search(text)):
            add(-_UNSAID, *clips)
    elif len(media) == 1 and draws and _LEAVE.search(text):
        add(_UNSAID, Task.TEXT_TO_IMAGE)
    elif stills and len(media) == 1 and _EDITS.search(text) and not asks(text):
        add(_TOLD / 2, Task.EDIT)
    ends = _ENDS.search(_QUOTED.sub(" ", text))
    if media and ends and not _WISHES.search(ends[0]) and not _EDITS.search(ends[0]):
        add(_TOLD / 2, Task.ANSWER)
    if asks(text):
        add(_TOLD, Task.ANSWER)
    elif media and stills and _BECOMES.search(text):
        add(_UNSAID if _WISHES.search(text) else _TOLD, Task.IMAGE_TO_CLIP)
    elif len(media) == 1 and stills and _ALIVE.search(text):
        add(_TOLD, Task.IMAGE_TO_CLIP)
    elif not media and "?" in text and "?" not in _QUOTED.sub(" ", text):
        add(-_TOLD, Task.ANSWER)
    if media and all(medium.look is Look.PHOTO for medium in media) and not _FOLLOWS.search(text):
        add(-_TOLD, Task.CONTROL_TO_IMAGE, Task.CONTROL_TO_CLIP)
    return out


_QUOTED = re.compile(r"[\"“„«「『][^\"”“»」』]{1,200}[\"”“»」』]")
_ALIVE = re.compile(
    r"\banimate (?:it|this|that|the|my)\b|\bto life\b|\bgif (?:it|this|that)\b|zum leben|lebendig"
    r"|animiere? (?:es|das|die|dieses)"
    r"|\banima (?:est[aeo]|la|el)\b|\b(?:da|dale|dar|cobr\w+) vida\b|hidupkan|animasikan|gerakkan|动起来"
    r"|活起来",
    re.IGNORECASE,
)
_FOLLOWS = re.compile(
    "|".join(_HELD.values())
    + r"|follow|guid|control|condition|structure|layout|composition|shape|along|trace|match|motion"
    r"|moves?\b|movement|track|path|traject|flow|gr[ae]y|luminance|brightness|folg|entlang|richt"
    r"|vorgabe|steuer|bewegung|bahn|fluss|grau"
    r"|sigu|guía|según|movim"
    r"|trayector|flujo|gris|ikuti|sesuai|panduan|gerak|jalur|lintasan|aliran|abu-abu|按|照|沿|跟|控制|轨迹"
    r"|光流|动作|灰度|路径|运动|布局",
    re.IGNORECASE,
)
# something that is drawn already is to be changed
_CHANGES = re.compile(
    r"\b(?:make|paint|turn|colou?r|remove|delete|erase|replace) the (?!(?:picture|image|photo|drawing|clip"
    r"|video|same|whole|result|format"
    r"|size|shape)\b)\w+ \w|\b(?:mach|färbe?|male?|entfern\w*|lösch\w*) (?:die|den|das) (?!(?:bild|foto"
    r"|zeichnung|video|format|gleiche"
    r"|selbe|ganze)\b)\w+ \w|\b(?:pon|pinta|quita|borra|haz) (?:el|la|los|las) (?!(?:imagen|foto|dibujo|vídeo"
    r"|mism[ao]|formato)\b)\w+ \w"
    r"|\b(?:ubah|hapus|hilangkan) (?!gambar|foto|ukuran|format)\w+nya\b"
    r"|把(?![它这那图画])[^，。]{1,8}(?:变成|涂成|去掉|删)",
    re.IGNORECASE,
)


def changes(text: str) -> bool:
    """Whether a request changes a part of what is there, and draws nothing anew."""
    return bool(_CHANGES.search(text))


_ENDS = re.compile(r"[^.!。！?？]*[?？]\W*(?:\w+\W*){0,4}$")
# what is done to a picture that is there
_EDITS = re.compile(
    r"(?:^|[:;,.!，。：！>]\s*|\b(?:please|bitte|tolong|por favor|now|and|ok)\s+)(?:(?:remove|delete|erase"
    r"|replace|get rid of|blur|crop|add"
    r"|recolou?r|brighten|darken|quita|borra|elimina|echa|añade|recorta|pinta (?:el|la|los|las)|entfern\w*"
    r"|lösch\w*|füg\w*|ersetz\w*"
    r"|hapus|hilangkan|buang|tambahkan|ganti)\b|(?:can|could) (?:yo)?u (?:please )?(?:remove|blur|delete"
    r"|crop|replace|brighten)\w*\b|去掉|删|抹掉|擦掉)",
    re.IGNORECASE,
)


def asks(text: str) -> bool:
    """Whether a request has the form of a question that wants an answer, and nothing drawn."""
    # what is written on something asks for nothing
    text = _QUOTED.sub(" ", text)
    found = _ASKS.search(text)
    if found is not None:
        return not _WISHES.search(found[0])
    return bool(_ASKS_CHINESE.search(text)) and not _WISHES.search(text)


_MOVED = re.compile(
    rf"\b{_CLIP}s?\b|\b(?:animated|moving|in motion|animiert|bewegt|in bewegung|animad[oa]|en movimiento"
    rf"|moviéndose|bergerak|dianimasikan)\b"
    r"|视频|短片|动画|动图|影片|片段|录像|gif|动起来|会动",
    re.IGNORECASE,
)


def moves(text: str) -> bool:
    """Whether a request that goes on from a drawing wants it as a clip."""
    return bool(_MOVED.search(text))


def wanted(wants: Collection[str], text: str, media: Sequence[Attached]) -> set[str]:
    """Of `clarify.WANTS`, what was found, without a clip that no word names, and with what the words speak of
    beyond doubt: a clip or a second picture where one picture is attached, a subject where nothing is."""
    found = set(wants)
    if not media:
        return found | ({"subject"} if _ATTACHED.search(text) else set())
    if any(medium.kind == "clip" for medium in media):
        return found
    if not _CLIP_NOUN.search(text):
        found.discard("clip")
    elif _CALLED_CLIP.search(text):
        found.add("clip")
    if len(media) == 1 and _ANOTHER.search(text):
        found.add("reference")
    return found


def held(text: str, guess: Control | None) -> Control | None:
    """What a medium that is followed holds, by the words: that which is guessed, unless another one alone is
    spoken of."""
    named = [control for control, words in _HELD_WORDS.items() if words.search(text)]
    known = guess is None or guess in _HELD_WORDS
    return named[0] if known and len(named) == 1 else guess


def says_nothing(text: str) -> bool:
    """Whether words outside of all settings say nothing of what is to be drawn."""
    words = re.findall(r"[^\W\d_]+", text.casefold())
    return bool(words) and all(word in _NOTHING or _NOTHING_CHINESE.fullmatch(word) for word in words)
