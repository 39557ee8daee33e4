"""German, in small letters as every request is read: four cases less one, three genders."""

from __future__ import annotations

import numpy as np

from diptych.worlds.emoji.words.grammar import Frames, Noun, Tongue, pick


def _m(one: str, many: str, oblique: str = "") -> Noun:
    return Noun(one, many, "m", oblique or one)


def _f(one: str, many: str) -> Noun:
    return Noun(one, many, "f", one)


def _n(one: str, many: str) -> Noun:
    return Noun(one, many, "n", one)


_A = {
    "m": {"": "ein", "acc": "einen", "dat": "einem"},
    "f": {"": "eine", "acc": "eine", "dat": "einer"},
    "n": {"": "ein", "acc": "ein", "dat": "einem"},
}
_THE = {
    "m": {"": "der", "acc": "den", "dat": "dem"},
    "f": {"": "die", "acc": "die", "dat": "der"},
    "n": {"": "das", "acc": "das", "dat": "dem"},
}
_A_ENDINGS = {
    "m": {"": "er", "acc": "en", "dat": "en"},
    "f": {"": "e", "acc": "e", "dat": "en"},
    "n": {"": "es", "acc": "es", "dat": "en"},
}
_SAME = ("lila", "orange")
"""Colours that take no ending."""


def _say(tongue: Tongue, noun: Noun, count: int, spec: str, rng: np.random.Generator) -> str:
    the, case = spec.startswith("the"), spec.removeprefix("the").lstrip("-")
    several = count > 1 or spec == "many"
    colour = noun.colour
    if several:
        word = noun.many + ("n" if case == "dat" and noun.many[-1] not in "nsh" else "")
        ending = "en" if the or case == "dat" else "e"
        article = ("den" if case == "dat" else "die") if the else ""
        if not the and spec not in ("many", "bare"):
            article = pick(rng, (tongue.numbers[count], str(count)))
    else:
        word = noun.oblique if case else noun.one
        ending = _A_ENDINGS[noun.gender][case]
        if the:
            ending = "en" if case == "dat" or (case == "acc" and noun.gender == "m") else "e"
        a = _A[noun.gender][case]
        article = _THE[noun.gender][case] if the else pick(rng, (a, a, a, a, "1", ""))
        if spec == "bare":
            article = ""
    if colour:
        word = f"{colour if colour in _SAME else colour + ending} {word}"
    return f"{article} {word}".strip()


def _thumbs(tail: str) -> tuple[Noun, ...]:
    return (
        _m(f"daumen hoch{tail}", f"daumen hoch{tail}"),
        _m(f"daumen nach oben{tail}", f"daumen nach oben{tail}"),
    )


GERMAN = Tongue(
    code="de",
    nouns={
        "cat": (
            _f("katze", "katzen"),
            _f("katze", "katzen"),
            _n("kätzchen", "kätzchen"),
            _m("kater", "kater"),
        ),
        "dog": (
            _m("hund", "hunde"),
            _m("hund", "hunde"),
            _n("hündchen", "hündchen"),
            _m("welpe", "welpen", "welpen"),
        ),
        "apple": (_m("apfel", "äpfel"),),
        "banana": (_f("banane", "bananen"),),
        "carrot": (_f("karotte", "karotten"), _f("möhre", "möhren"), _f("karotte", "karotten")),
        "car": (_n("auto", "autos"), _n("auto", "autos"), _m("wagen", "wagen"), _m("pkw", "pkws")),
        "tree": (
            _m("baum", "bäume"),
            _m("baum", "bäume"),
            _f("tanne", "tannen"),
            _m("tannenbaum", "tannenbäume"),
            _m("nadelbaum", "nadelbäume"),
        ),
        "star": (_m("stern", "sterne"),),
        "fish": (_m("fisch", "fische"),),
        "house": (_n("haus", "häuser"), _n("haus", "häuser"), _n("häuschen", "häuschen")),
        "sunflower": (
            _f("sonnenblume", "sonnenblumen"),
            _f("sonnenblume", "sonnenblumen"),
            _f("blume", "blumen"),
        ),
        "crown": (_f("krone", "kronen"), _f("krone", "kronen"), _f("königskrone", "königskronen")),
        "thumbs up": _thumbs(""),
        "thumbs up: light skin tone": (*_thumbs(" mit heller haut"), *_thumbs(" mit hellem hautton")),
        "thumbs up: dark skin tone": (*_thumbs(" mit dunkler haut"), *_thumbs(" mit dunklem hautton")),
        "man farmer": (_m("bauer", "bauern", "bauern"), _m("landwirt", "landwirte")),
        "woman farmer": (_f("bäuerin", "bäuerinnen"), _f("landwirtin", "landwirtinnen")),
    },
    shapes={
        "circle": (_m("kreis", "kreise"), _m("kreis", "kreise"), _f("scheibe", "scheiben")),
        "square": (_n("quadrat", "quadrate"),),
        "heart": (_n("herz", "herzen"), _n("herz", "herzen"), _n("herzchen", "herzchen")),
    },
    colours={
        "red": ("rot",),
        "orange": ("orange", "orangefarben"),
        "yellow": ("gelb",),
        "green": ("grün",),
        "blue": ("blau",),
        "purple": ("lila", "violett"),
    },
    backgrounds={
        "white": ("weiß", "weiss"),
        "pink": ("rosa", "pink"),
        "mint": ("mintgrün", "hellgrün", "mint"),
        "sky blue": ("himmelblau", "hellblau"),
        "lavender": ("lavendelfarben", "lila", "helllila"),
        "gray": ("grau",),
    },
    unbent=("rosa", "mint", "lila", "helllila"),
    verbs=(("ist", "sind"), ("hat", "haben")),
    numbers=("null", "eins", "zwei", "drei", "vier", "fünf"),
    say=_say,
    joins=(" und ", " und ", " und ", ", ", " sowie ", " plus ", " & "),
    draw=Frames(
        trained=(
            "{x}",
            "{x}",
            "{x}",
            "zeichne {x:acc}",
            "zeichne {x:acc}",
            "zeichne mir {x:acc}",
            "bitte zeichne {x:acc}",
            "zeichne bitte {x:acc}",
            "kannst du {x:acc} zeichnen?",
            "kannst du mir {x:acc} malen?",
            "könntest du {x:acc} zeichnen",
            "male {x:acc}",
            "mal mir {x:acc}",
            "ein bild von {x:dat}",
            "ein bild mit {x:dat}",
            "bild: {x}",
            "erstelle {x:acc}",
            "erstelle ein bild mit {x:dat}",
            "erzeuge {x:acc}",
            "generiere ein bild von {x:dat}",
            "zeig mir {x:acc}",
            "zeige {x:acc}",
            "ich möchte {x:acc}",
            "ich will {x:acc} sehen",
            "ich hätte gern {x:acc}",
            "ich brauche {x:acc}",
            "mach mir {x:acc}",
            "es soll {x:acc} geben",
            "nur {x}",
        ),
        held=(
            "ich wünsche mir {x:acc}",
            "wie wäre es mit {x:dat}?",
            "illustriere {x:acc}",
            "bitte {x:acc} malen",
            "eine zeichnung von {x:dat}",
        ),
    ),
    on=Frames(
        trained=(
            "{x} auf {c:em} hintergrund",
            "{x} vor {c:em} hintergrund",
            "{x}, hintergrund {c}",
            "{x}, {c:er} hintergrund",
            "{x} mit {c:em} hintergrund",
            "auf {c:em} hintergrund: {x}",
            "{x}, der hintergrund ist {c}",
        ),
        held=("{x}, und zwar vor {c:em} hintergrund", "hintergrund {c}: {x}"),
    ),
    stands={
        "left of": ("links von", "links von", "links neben", "auf der linken seite von"),
        "right of": ("rechts von", "rechts von", "rechts neben", "auf der rechten seite von"),
        "above": ("über", "über", "oberhalb von", "direkt über"),
        "below": ("unter", "unter", "unterhalb von", "direkt unter"),
    },
    sides={
        "left of": ("links davon", "links daneben"),
        "right of": ("rechts davon", "rechts daneben"),
        "above": ("darüber", "oben drüber"),
        "below": ("darunter", "unten drunter"),
    },
    related=Frames(
        trained=(
            "{a} {w} {b:dat}",
            "{a} {w} {b:dat}",
            "{a} {w} {b:dat}",
            "{a} und {s2} {b}",
            "{a} und {b}, {a:the} {w} {b:the-dat}",
        ),
        held=("{a}, und zwar {w} {b:dat}",),
    ),
    sentences=Frames(
        trained=(
            "{w} {b:dat} {a}",
            "{w} {b:dat} ist {a}",
            "{w} {b:dat} soll {a} sein",
            "zeichne {w} {b:dat} {a:acc}",
            "zeichne {b:acc} und {s} {a:acc}",
            "da ist {b} und {s} {a}",
            "{b}, {s} {a}",
            "{b} und {s} {a}",
            "setze {a:acc} {w} {b:dat}",
            "{a} ist {w} {b:dat}",
            "ich möchte {b:acc} und {s} {a:acc}",
            "{a} soll {w} {b:dat} sein",
        ),
        held=("male {w} {b:dat} {a:acc}", "erst {b}, {s} dann {a}", "{w} {b:dat} steht {a}"),
    ),
    greetings=("", "", "", "", "", "hallo, ", "hi, ", "bitte ", "hey, "),
    thanks=("", "", "", "", "", " bitte", ", bitte", ", danke", ".", "!"),
    edits={
        "add": Frames(
            trained=(
                "füge {a:acc} hinzu",
                "füge {a:acc} ein",
                "setze {a:acc} ins bild",
                "zeichne noch {a:acc}",
                "zeichne auch {a:acc} dazu",
                "ergänze {a:acc}",
                "tu {a:acc} dazu",
                "noch {a:acc} bitte",
                "kannst du {a:acc} hinzufügen?",
                "ich möchte noch {a:acc} im bild",
            ),
            held=("male {a:acc} hinein", "es fehlt noch {a}", "pack {a:acc} dazu"),
        ),
        "remove": Frames(
            trained=(
                "entferne {the:the-acc}",
                "lösche {the:the-acc}",
                "nimm {the:the-acc} weg",
                "entferne {the:the-acc} aus dem bild",
                "{the} soll weg",
                "mach {the:the-acc} weg",
                "lass {the:the-acc} verschwinden",
                "kannst du {the:the-acc} entfernen?",
                "ich will {the:the-acc} nicht",
                "radiere {the:the-acc} aus",
            ),
            held=("streiche {the:the-acc}", "weg mit {the:the-dat}", "{the:the-acc} bitte löschen"),
        ),
        "replace": Frames(
            trained=(
                "ersetze {the:the-acc} durch {a:acc}",
                "tausche {the:the-acc} gegen {a:acc}",
                "mach aus {the:the-dat} {a:acc}",
                "verwandle {the:the-acc} in {a:acc}",
                "statt {the:the-dat} {a}",
                "zeichne {a:acc} statt {the:the-dat}",
                "ändere {the:the-acc} in {a:acc}",
                "kannst du {the:the-acc} durch {a:acc} ersetzen?",
                "ich möchte {a:acc} statt {the:the-dat}",
            ),
            held=("{the} soll {a} werden", "wechsle {the:the-acc} gegen {a:acc} aus"),
        ),
        "recolour": Frames(
            trained=(
                "mach {the:the-acc} {c}",
                "färbe {the:the-acc} {c}",
                "male {the:the-acc} {c} an",
                "ändere die farbe von {the:the-dat} zu {c}",
                "{the} soll {c} sein",
                "{the} in {c}",
                "färbe {the:the-acc} {c} ein",
                "kannst du {the:the-acc} {c} machen?",
                "ändere {the:the-acc} auf {c}",
            ),
            held=("ich will {the:the-acc} in {c}", "streiche {the:the-acc} {c} an"),
        ),
        "move": Frames(
            trained=(
                "verschiebe {the:the-acc} {m}",
                "bewege {the:the-acc} {m}",
                "schiebe {the:the-acc} {m}",
                "setze {the:the-acc} {m}",
                "rücke {the:the-acc} {m}",
                "{the} soll {m}",
                "kannst du {the:the-acc} {m} schieben?",
            ),
            held=("bring {the:the-acc} {m}", "stelle {the:the-acc} {m}"),
        ),
        "background": Frames(
            trained=(
                "ändere den hintergrund zu {c}",
                "mach den hintergrund {c}",
                "hintergrund {c}",
                "{c:er} hintergrund",
                "färbe den hintergrund {c}",
                "der hintergrund soll {c} sein",
                "nimm einen {c:en} hintergrund",
                "ich möchte einen {c:en} hintergrund",
                "ändere die hintergrundfarbe auf {c}",
            ),
            held=("male den hintergrund {c}", "gib dem bild einen {c:en} hintergrund"),
        ),
        "tone": Frames(
            trained=("gib {the:the-dat} {t}", "{the} soll {t} haben", "{the} mit {t}"),
            held=("ändere {the:the-acc} auf {t}",),
        ),
        "gender": Frames(
            trained=("ändere das geschlecht von {the:the-dat}", "mach aus {the:the-dat} {a:acc}"),
            held=("tausche das geschlecht von {the:the-dat}",),
        ),
    },
    sides_of_picture={
        "left": ("nach links", "an den linken rand", "auf die linke seite"),
        "right": ("nach rechts", "an den rechten rand", "auf die rechte seite"),
        "top": ("nach oben", "an den oberen rand", "ganz nach oben"),
        "bottom": ("nach unten", "an den unteren rand", "ganz nach unten"),
    },
    tones={
        "light skin tone": ("helle haut", "einen hellen hautton"),
        "dark skin tone": ("dunkle haut", "einen dunklen hautton"),
    },
    questions={
        "what": Frames(
            trained=(
                "was ist das?",
                "was siehst du?",
                "was ist auf dem bild?",
                "was ist das hier",
                "was ist zu sehen?",
                "sag mir, was das ist",
                "was zeigt das bild",
            ),
            held=("was haben wir hier?", "was erkennst du?"),
        ),
        "how many": Frames(
            trained=(
                "wie viele {many} gibt es?",
                "wie viele {many} sind es?",
                "wie viele {many} siehst du?",
                "wieviele {many} sind da",
                "zähle die {many}",
                "wie viele {many} sind auf dem bild?",
                "kannst du die {many} zählen?",
                "anzahl der {many}?",
                "wie viele {many} sind zu sehen?",
            ),
            held=("wie viele {many} kannst du zählen?", "nenne die anzahl der {many}"),
        ),
        "colour": Frames(
            trained=(
                "welche farbe {do} {the}?",
                "welche farbe {do} {the}",
                "in welcher farbe {is} {the}?",
                "was ist die farbe von {the:the-dat}?",
                "nenne die farbe von {the:the-dat}",
            ),
            held=("{the}: welche farbe?", "sag mir die farbe von {the:the-dat}"),
        ),
        "where": Frames(
            trained=(
                "wo ist {a:the}, von {b:the-dat} aus gesehen?",
                "wo ist {a:the} im verhältnis zu {b:the-dat}?",
                "auf welcher seite von {b:the-dat} ist {a:the}?",
                "wo steht {a:the}, von {b:the-dat} aus gesehen?",
                "von {b:the-dat} aus gesehen, wo ist {a:the}?",
            ),
            held=("wo befindet sich {a:the} bezüglich {b:the-dat}?",),
        ),
        "is so": Frames(
            trained=(
                "ist {a:the} {w} {b:the-dat}?",
                "steht {a:the} {w} {b:the-dat}?",
                "siehst du {a:acc} {w} {b:the-dat}?",
            ),
            held=("befindet sich {a:the} {w} {b:the-dat}?",),
        ),
        "beside": Frames(
            trained=("was ist {w} {b:the-dat}?", "was siehst du {w} {b:the-dat}?"),
            held=("was steht {w} {b:the-dat}?",),
        ),
        "is there": Frames(
            trained=(
                "gibt es {a:acc}?",
                "siehst du {a:acc}?",
                "ist {a} im bild?",
                "ist da {a}?",
                "gibt es hier {a:acc}?",
                "ist {a} zu sehen?",
            ),
            held=("erkennst du {a:acc}?", "zeigt das bild {a:acc}?"),
        ),
        "caption": Frames(
            trained=(
                "beschreibe das bild",
                "beschreibe, was du siehst",
                "was ist alles auf dem bild?",
                "gib mir eine beschreibung",
                "eine beschreibung bitte",
                "beschreib das foto",
            ),
            held=("fasse das bild in worte", "nenne alles, was zu sehen ist"),
        ),
    },
    answers={
        "yes": "ja",
        "no": "nein",
        "left of": "links",
        "right of": "rechts",
        "above": "darüber",
        "below": "darunter",
    },
    caption="{x}, hintergrund {c}",
    within=Frames(
        trained=(
            "{x}",
            "{x}",
            "{x} innerhalb der maske",
            "nur in der maske: {x}",
            "{x} im weißen bereich",
            "{x} im markierten bereich",
        ),
        held=("{x}, und außerhalb der maske nichts",),
    ),
    masked={
        "add": Frames(
            trained=("füge {a:acc} hinzu", "zeichne hier {a:acc}", "setze {a:acc} hierhin", "{a}"),
            held=("male hier {a:acc} hin",),
        ),
        "remove": Frames(
            trained=("entferne es", "lösche das", "mach das weg", "entferne {the:the-acc}"),
            held=("leere diese stelle",),
        ),
        "replace": Frames(
            trained=(
                "ersetze es durch {a:acc}",
                "mach daraus {a:acc}",
                "stattdessen {a}",
                "verwandle es in {a:acc}",
            ),
            held=("tausche es gegen {a:acc}",),
        ),
        "recolour": Frames(
            trained=("mach es {c}", "färbe es {c}", "ändere die farbe zu {c}"), held=("male es {c} an",)
        ),
    },
    this={
        1: Frames(trained=("dies", "das hier", "dieses ding", "das gezeigte"), held=("das aus dem bild",)),
        2: Frames(trained=("{n} davon", "{n} wie dieses", "{n} von diesen"), held=("{n} stück davon",)),
    },
    along=Frames(
        trained=("{x}", "{x}, den kanten folgend", "{x} entlang dieser linien", "{x} in dieser anordnung"),
        held=("{x}, genau nach dem umriss",),
    ),
)
