"""German words for clips."""

from diptych.worlds.emoji.words.grammar import Frames
from diptych.worlds.emoji.words.moving import Moving

GERMAN_MOVING = Moving(
    code="de",
    acts={
        "move": Frames(
            trained=(
                "{a} bewegt sich {w}",
                "{a} bewegt sich {w}",
                "{a} geht {w}",
                "{a} wandert {w}",
                "{a} rutscht {w}",
                "{a} läuft {w}",
            ),
            held=("{a} zieht {w}", "{a} schiebt sich {w}"),
        ),
        "jump": Frames(
            trained=("{a} springt {t}", "{a} springt {t}", "{a} hüpft {t}", "{a} springt {t} hoch"),
            held=("{a} macht {t} einen sprung", "{a} hopst {t}"),
        ),
        "appear": Frames(
            trained=(
                "{a} erscheint",
                "{a} erscheint",
                "{a} taucht auf",
                "plötzlich ist {a} da",
                "{a} kommt dazu",
            ),
            held=("plötzlich erscheint {a}", "{a} kommt ins bild"),
        ),
        "vanish": Frames(
            trained=(
                "{a} verschwindet",
                "{a} verschwindet",
                "{a} geht weg",
                "plötzlich ist {a} weg",
                "{a} ist auf einmal weg",
            ),
            held=("{a} löst sich in luft auf", "plötzlich verschwindet {a}"),
        ),
        "grow": Frames(
            trained=("{a} wächst", "{a} wächst", "{a} wird größer", "{a} wird immer größer"),
            held=("{a} nimmt an größe zu",),
        ),
        "shrink": Frames(
            trained=("{a} schrumpft", "{a} schrumpft", "{a} wird kleiner", "{a} wird immer kleiner"),
            held=("{a} nimmt an größe ab",),
        ),
        "swap": Frames(
            trained=(
                "{a} und {b} tauschen die plätze",
                "{a} und {b} tauschen die plätze",
                "{a} und {b} wechseln die plätze",
                "{a} und {b} tauschen ihre plätze",
            ),
            held=("{a} und {b} vertauschen ihre plätze",),
        ),
    },
    orders={
        "move": Frames(
            trained=(
                "bewege {a:the-acc} {w}",
                "lass {a:the-acc} {w} gehen",
                "lass {a:the-acc} {w} wandern",
                "{a:the} soll sich {w} bewegen",
                "kannst du {a:the-acc} {w} bewegen?",
                "schiebe {a:the-acc} {w}",
            ),
            held=("schicke {a:the-acc} {w}", "{a:the} soll {w} laufen"),
        ),
        "jump": Frames(
            trained=(
                "lass {a:the-acc} {t} springen",
                "lass {a:the-acc} {t} hüpfen",
                "{a:the} soll {t} springen",
                "kannst du {a:the-acc} {t} springen lassen?",
            ),
            held=("{a:the} soll {t} einen sprung machen",),
        ),
        "appear": Frames(
            trained=("lass {a:acc} erscheinen", "lass {a:acc} auftauchen", "{a} soll erscheinen"),
            held=("hole {a:acc} dazu",),
        ),
        "vanish": Frames(
            trained=("lass {a:the-acc} verschwinden", "{a:the} soll verschwinden", "{a:the} soll weggehen"),
            held=("zaubere {a:the-acc} weg",),
        ),
        "grow": Frames(
            trained=(
                "lass {a:the-acc} wachsen",
                "mach {a:the-acc} immer größer",
                "{a:the} soll wachsen",
                "lass {a:the-acc} größer werden",
            ),
            held=("{a:the} soll größer werden",),
        ),
        "shrink": Frames(
            trained=(
                "lass {a:the-acc} schrumpfen",
                "mach {a:the-acc} immer kleiner",
                "{a:the} soll schrumpfen",
                "lass {a:the-acc} kleiner werden",
            ),
            held=("{a:the} soll kleiner werden",),
        ),
        "swap": Frames(
            trained=(
                "vertausche {a:the-acc} und {b:the-acc}",
                "lass {a:the-acc} und {b:the-acc} die plätze tauschen",
                "{a:the} und {b:the} sollen die plätze tauschen",
            ),
            held=("{a:the} soll mit {b:the-dat} den platz tauschen",),
        ),
    },
    ways={
        "left": ("nach links", "nach links", "an den linken rand", "zur linken seite"),
        "right": ("nach rechts", "nach rechts", "an den rechten rand", "zur rechten seite"),
        "up": ("nach oben", "nach oben", "an den oberen rand", "ganz nach oben"),
        "down": ("nach unten", "nach unten", "an den unteren rand", "ganz nach unten"),
    },
    times=(("einmal", "einmal", ""), ("zweimal", "zwei mal", "2 mal"), ("dreimal", "drei mal", "3 mal")),
    beside=Frames(
        trained=(
            "{x} neben {b:dat}",
            "{x} neben {b:dat}",
            "da ist {b}, und {x}",
            "{x}, daneben ist {b}",
        ),
        held=("{x} in der nähe von {b:dat}",),
    ),
    then=Frames(
        trained=(
            "zuerst: {x}, dann: {y}",
            "erst: {x}. danach: {y}",
            "{x}, und danach: {y}",
            "{x}, und {y} danach",
        ),
        held=("zu beginn: {x}. am ende: {y}",),
    ),
    clip=Frames(
        trained=(
            "{x}",
            "{x}",
            "{x}",
            "ein clip: {x}",
            "ein video: {x}",
            "mach ein video: {x}",
            "erstelle einen clip: {x}",
            "zeig mir ein video: {x}",
            "bitte eine animation: {x}",
            "ein kurzer film: {x}",
        ),
        held=("filme das: {x}", "ich wünsche mir ein video: {x}"),
    ),
    backwards=Frames(
        trained=(
            "spiele es rückwärts ab",
            "rückwärts bitte",
            "kehre den clip um",
            "lass es rückwärts laufen",
        ),
        held=("vom ende zum anfang bitte",),
    ),
    verbs={
        "move": ("bewegt sich", "bewegt sich"),
        "jump": ("springt", "springt", "hüpft"),
        "appear": ("erscheint", "erscheint", "taucht auf"),
        "vanish": ("verschwindet", "verschwindet", "geht weg"),
        "grow": ("wächst", "wächst", "wird größer"),
        "shrink": ("schrumpft", "schrumpft", "wird kleiner"),
    },
    questions={
        "what acts": Frames(
            trained=("was {v}?", "welches ding {v}?", "was {v} im clip?", "was {v} hier?"),
            held=("was ist es, das hier {v}?",),
        ),
        "where to": Frames(
            trained=(
                "wohin bewegt sich {a:the}?",
                "wohin geht {a:the}?",
                "in welche richtung bewegt sich {a:the}?",
                "in welche richtung geht {a:the}?",
            ),
            held=("zu welcher seite wandert {a:the}?",),
        ),
        "how often": Frames(
            trained=(
                "wie oft springt {a:the}?",
                "wie viele male springt {a:the}?",
                "wie oft hüpft {a:the}?",
                "zähle die sprünge von {a:the-dat}",
            ),
            held=("wie viele sprünge macht {a:the}?",),
        ),
        "what first": Frames(
            trained=(
                "was ist zuerst dran, {a:the} oder {b:the}?",
                "was kommt zuerst, {a:the} oder {b:the}?",
                "was beginnt, {a:the} oder {b:the}?",
            ),
            held=("was war früher, {a:the} oder {b:the}?",),
        ),
        "what happens": Frames(
            trained=(
                "was passiert?",
                "was passiert hier?",
                "beschreibe den clip",
                "beschreibe das video",
                "was geschieht im clip?",
            ),
            held=("fasse den clip in worte",),
        ),
    },
    to={"left": "nach links", "right": "nach rechts", "up": "nach oben", "down": "nach unten"},
    often=("einmal", "zweimal", "dreimal"),
)
