"""Spanish words for clips."""

from diptych.worlds.emoji.words.grammar import Frames
from diptych.worlds.emoji.words.moving import Moving

SPANISH_MOVING = Moving(
    code="es",
    acts={
        "move": Frames(
            trained=(
                "{a} se mueve {w}",
                "{a} se mueve {w}",
                "{a} va {w}",
                "{a} se desliza {w}",
                "{a} se desplaza {w}",
                "{a} corre {w}",
            ),
            held=("{a} avanza {w}", "{a} se dirige {w}"),
        ),
        "jump": Frames(
            trained=("{a} salta {t}", "{a} salta {t}", "{a} brinca {t}", "{a} da saltos {t}"),
            held=("{a} pega un salto {t}",),
        ),
        "appear": Frames(
            trained=("{a} aparece", "{a} aparece", "aparece {a}", "de repente aparece {a}", "{a} surge"),
            held=("de pronto hay {a}",),
        ),
        "vanish": Frames(
            trained=("{a} desaparece", "{a} desaparece", "{a} se va", "de repente {a} desaparece"),
            held=("{a} se esfuma",),
        ),
        "grow": Frames(
            trained=("{a} crece", "{a} crece", "{a} se hace más grande", "{a} se agranda"),
            held=("{a} aumenta de tamaño",),
        ),
        "shrink": Frames(
            trained=("{a} encoge", "{a} se encoge", "{a} se reduce", "{a} se achica"),
            held=("{a} disminuye de tamaño",),
        ),
        "swap": Frames(
            trained=(
                "{a} y {b} cambian de lugar",
                "{a} y {b} cambian de lugar",
                "{a} y {b} intercambian sus lugares",
                "{a} cambia de lugar con {b}",
            ),
            held=("{a} y {b} se intercambian",),
        ),
    },
    orders={
        "move": Frames(
            trained=(
                "mueve {a:the} {w}",
                "haz que {a:the} se mueva {w}",
                "haz que {a:the} vaya {w}",
                "desliza {a:the} {w}",
                "{a:the} debe moverse {w}",
                "¿puedes mover {a:the} {w}?",
            ),
            held=("lleva {a:the} {w}",),
        ),
        "jump": Frames(
            trained=(
                "haz que {a:the} salte {t}",
                "haz saltar {t} a {a:the}",
                "{a:the} debe saltar {t}",
                "¿puedes hacer que {a:the} salte {t}?",
            ),
            held=("quiero que {a:the} salte {t}",),
        ),
        "appear": Frames(
            trained=("haz aparecer {a}", "haz que aparezca {a}", "debe aparecer {a}"),
            held=("quiero que aparezca {a}",),
        ),
        "vanish": Frames(
            trained=("haz desaparecer {a:the}", "haz que {a:the} desaparezca", "{a:the} debe desaparecer"),
            held=("quiero que {a:the} se vaya",),
        ),
        "grow": Frames(
            trained=(
                "haz crecer {a:the}",
                "haz que {a:the} crezca",
                "agranda {a:the} poco a poco",
                "{a:the} debe crecer",
            ),
            held=("quiero que {a:the} aumente de tamaño",),
        ),
        "shrink": Frames(
            trained=(
                "haz que {a:the} encoja",
                "encoge {a:the}",
                "achica {a:the} poco a poco",
                "{a:the} debe encoger",
            ),
            held=("quiero que {a:the} disminuya de tamaño",),
        ),
        "swap": Frames(
            trained=(
                "intercambia {a:the} y {b:the}",
                "haz que {a:the} y {b:the} cambien de lugar",
                "cambia {a:the} y {b:the} de lugar",
            ),
            held=("quiero que {a:the} y {b:the} cambien de sitio",),
        ),
    },
    ways={
        "left": ("a la izquierda", "hacia la izquierda", "al borde izquierdo"),
        "right": ("a la derecha", "hacia la derecha", "al borde derecho"),
        "up": ("hacia arriba", "arriba", "al borde superior"),
        "down": ("hacia abajo", "abajo", "al borde inferior"),
    },
    times=(("una vez", "una vez", ""), ("dos veces", "2 veces"), ("tres veces", "3 veces")),
    beside=Frames(
        trained=("{x} junto a {b}", "{x} al lado de {b}", "hay {b} y {x}", "{x}, y al lado hay {b}"),
        held=("{x} cerca de {b}",),
    ),
    then=Frames(
        trained=(
            "primero {x}, luego {y}",
            "primero {x}, después {y}",
            "{x} y luego {y}",
            "{x}, después {y}",
        ),
        held=("al principio {x}, al final {y}",),
    ),
    clip=Frames(
        trained=(
            "{x}",
            "{x}",
            "{x}",
            "un clip en el que {x}",
            "un vídeo en el que {x}",
            "un vídeo: {x}",
            "haz un vídeo donde {x}",
            "crea un clip donde {x}",
            "muéstrame cómo {x}",
            "una animación: {x}",
        ),
        held=("filma esto: {x}", "quiero ver cómo {x}"),
    ),
    backwards=Frames(
        trained=("al revés", "invierte el clip", "reprodúcelo al revés", "ponlo marcha atrás"),
        held=("del final al principio",),
    ),
    verbs={
        "move": ("se mueve", "se mueve", "se desplaza"),
        "jump": ("salta", "salta", "brinca"),
        "appear": ("aparece", "aparece", "surge"),
        "vanish": ("desaparece", "desaparece", "se va"),
        "grow": ("crece", "crece", "se hace más grande"),
        "shrink": ("encoge", "encoge", "se achica"),
    },
    questions={
        "what acts": Frames(
            trained=("¿qué {v}?", "¿qué cosa {v}?", "¿qué {v} en el clip?", "¿qué es lo que {v}?"),
            held=("dime qué {v}",),
        ),
        "where to": Frames(
            trained=(
                "¿hacia dónde se mueve {a:the}?",
                "¿adónde va {a:the}?",
                "¿en qué dirección se mueve {a:the}?",
                "¿hacia qué lado va {a:the}?",
            ),
            held=("¿hacia dónde se dirige {a:the}?",),
        ),
        "how often": Frames(
            trained=(
                "¿cuántas veces salta {a:the}?",
                "¿cuántas veces brinca {a:the}?",
                "cuenta los saltos de {a:the}",
                "¿cuántos saltos da {a:the}?",
            ),
            held=("dime cuántas veces salta {a:the}",),
        ),
        "what first": Frames(
            trained=(
                "¿qué es primero, {a:the} o {b:the}?",
                "¿qué va primero, {a:the} o {b:the}?",
                "¿qué empieza, {a:the} o {b:the}?",
            ),
            held=("¿qué fue antes, {a:the} o {b:the}?",),
        ),
        "what happens": Frames(
            trained=(
                "¿qué pasa?",
                "¿qué ocurre?",
                "¿qué pasa en el clip?",
                "describe el clip",
                "describe el vídeo",
            ),
            held=("cuéntame el vídeo",),
        ),
    },
    to={
        "left": "a la izquierda",
        "right": "a la derecha",
        "up": "hacia arriba",
        "down": "hacia abajo",
    },
    often=("una vez", "dos veces", "tres veces"),
)
