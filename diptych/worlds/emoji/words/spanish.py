"""Spanish: nouns with gender; all shapes are masculine, and colours agree in number."""

from __future__ import annotations

import unicodedata

import numpy as np

from diptych.worlds.emoji.words.grammar import Frames, Noun, Tongue, pick


def _m(one: str, many: str = "") -> Noun:
    return Noun(one, many or one + "s", "m")


def _f(one: str, many: str = "") -> Noun:
    return Noun(one, many or one + "s", "f")


_ARTICLES = {"m": ("un", "el", "los"), "f": ("una", "la", "las")}
_SAME = ("naranja", "lila", "violeta", "color")


def _say(tongue: Tongue, noun: Noun, count: int, spec: str, rng: np.random.Generator) -> str:
    one, many = noun.one, noun.many
    if noun.colour:
        colour = noun.colour
        if rng.random() < 0.1:
            one, many = (f"{word} de color {colour}" for word in (one, many))
        else:
            one, many = f"{one} {colour}", f"{many} {_plural(colour)}"
    article, the, all_of = _ARTICLES[noun.gender]
    if spec == "many":
        return _typed(many, rng)
    if spec == "bare":
        return _typed(one if count == 1 else many, rng)
    if spec == "the":
        return _typed(f"{the} {one}" if count == 1 else f"{all_of} {many}", rng)
    if count == 1:
        return _typed(f"{pick(rng, (article, article, article, '1', ''))} {one}".strip(), rng)
    return _typed(f"{pick(rng, (tongue.numbers[count], str(count)))} {many}", rng)


def _plural(colour: str) -> str:
    if colour.startswith(_SAME):
        return colour
    return colour + ("s" if colour[-1] in "aeo" else "es")


def _typed(text: str, rng: np.random.Generator) -> str:
    """One in eight is typed without accents."""
    if rng.random() >= 0.12:
        return text
    plain = unicodedata.normalize("NFD", text.replace("ñ", "\0"))
    return "".join(c for c in plain if not unicodedata.combining(c)).replace("\0", "ñ")


def _thumbs(tail: str) -> tuple[Noun, ...]:
    return tuple(
        _m(one + tail, many + tail)
        for one, many in (
            ("pulgar hacia arriba", "pulgares hacia arriba"),
            ("pulgar arriba", "pulgares arriba"),
            ("pulgar levantado", "pulgares levantados"),
        )
    )


SPANISH = Tongue(
    code="es",
    nouns={
        "cat": (_m("gato"), _m("gato"), _m("gatito")),
        "dog": (_m("perro"), _m("perro"), _m("perrito"), _m("cachorro")),
        "apple": (_f("manzana"), _f("manzana"), _f("manzana roja", "manzanas rojas")),
        "banana": (_m("plátano"), _m("plátano"), _f("banana"), _m("banano")),
        "carrot": (_f("zanahoria"),),
        "car": (_m("coche"), _m("coche"), _m("carro"), _m("auto"), _m("automóvil", "automóviles")),
        "tree": (_m("árbol", "árboles"), _m("árbol", "árboles"), _m("pino"), _m("abeto")),
        "star": (_f("estrella"), _f("estrella"), _f("estrella amarilla", "estrellas amarillas")),
        "fish": (_m("pez", "peces"), _m("pez", "peces"), _m("pescado"), _m("pececito")),
        "house": (_f("casa"), _f("casa"), _f("casita")),
        "sunflower": (_m("girasol", "girasoles"), _m("girasol", "girasoles"), _f("flor", "flores")),
        "crown": (_f("corona"), _f("corona"), _f("corona dorada", "coronas doradas")),
        "thumbs up": _thumbs(""),
        "thumbs up: light skin tone": (*_thumbs(" de piel clara"), *_thumbs(" con piel clara")),
        "thumbs up: dark skin tone": (*_thumbs(" de piel oscura"), *_thumbs(" con piel oscura")),
        "man farmer": (_m("granjero"), _m("agricultor", "agricultores"), _m("campesino")),
        "woman farmer": (_f("granjera"), _f("agricultora"), _f("campesina")),
    },
    shapes={
        "circle": (_m("círculo"), _m("círculo"), _m("disco")),
        "square": (_m("cuadrado"),),
        "heart": (_m("corazón", "corazones"),),
    },
    colours={
        "red": ("rojo",),
        "orange": ("naranja", "naranja", "anaranjado"),
        "yellow": ("amarillo",),
        "green": ("verde",),
        "blue": ("azul",),
        "purple": ("morado", "morado", "violeta", "púrpura"),
    },
    backgrounds={
        "white": ("blanco",),
        "pink": ("rosa", "rosado"),
        "mint": ("menta", "verde menta", "verde claro"),
        "sky blue": ("azul cielo", "celeste", "azul claro"),
        "lavender": ("lavanda", "lila"),
        "gray": ("gris",),
    },
    verbs=(("es", "son"), ("tiene", "tienen")),
    how_many={"m": "cuántos", "f": "cuántas"},
    numbers=("cero", "uno", "dos", "tres", "cuatro", "cinco"),
    say=_say,
    joins=(" y ", " y ", " y ", ", ", " con ", " junto a ", " más "),
    draw=Frames(
        trained=(
            "{x}",
            "{x}",
            "{x}",
            "dibuja {x}",
            "dibuja {x}",
            "dibújame {x}",
            "por favor dibuja {x}",
            "dibuja por favor {x}",
            "¿puedes dibujar {x}?",
            "puedes dibujar {x}",
            "¿podrías dibujarme {x}?",
            "una imagen de {x}",
            "una imagen con {x}",
            "una foto de {x}",
            "un dibujo de {x}",
            "crea {x}",
            "crea una imagen con {x}",
            "genera {x}",
            "genera una imagen de {x}",
            "haz {x}",
            "hazme un dibujo de {x}",
            "pinta {x}",
            "quiero {x}",
            "quiero ver {x}",
            "quisiera {x}",
            "muéstrame {x}",
            "muestra {x}",
            "necesito {x}",
            "solo {x}",
        ),
        held=("me gustaría ver {x}", "ilustra {x}", "que haya {x}", "mi hijo quiere {x}", "¿me pintas {x}?"),
    ),
    on=Frames(
        trained=(
            "{x} sobre un fondo {c}",
            "{x} con fondo {c}",
            "{x}, fondo {c}",
            "{x} en un fondo {c}",
            "sobre fondo {c}, {x}",
            "{x} y el fondo {c}",
            "{x} con el fondo de color {c}",
        ),
        held=("fondo {c} con {x}", "{x} delante de un fondo {c}"),
    ),
    stands={
        "left of": ("a la izquierda de", "a la izquierda de", "al lado izquierdo de", "a mano izquierda de"),
        "right of": ("a la derecha de", "a la derecha de", "al lado derecho de", "a mano derecha de"),
        "above": ("encima de", "sobre", "arriba de", "por encima de"),
        "below": ("debajo de", "bajo", "abajo de", "por debajo de"),
    },
    sides={
        "left of": ("a su izquierda", "a la izquierda"),
        "right of": ("a su derecha", "a la derecha"),
        "above": ("encima", "arriba"),
        "below": ("debajo", "abajo"),
    },
    related=Frames(
        trained=(
            "{a} {w} {b}",
            "{a} {w} {b}",
            "{a} {w} {b}",
            "{b} {v} {a}",
            "{b} con {a} {s}",
            "{b} y {s} {a}",
            "{a} que está {w} {b}",
            "{a} y {b}, {a:the} {w} {b:the}",
        ),
        held=("{a} situado {w} {b}", "{b}, y {a} {s}"),
    ),
    sentences=Frames(
        trained=(
            "{w} {b}, dibuja {a}",
            "{w} {b} dibuja {a}",
            "{w} {b} hay {a}",
            "hay {b} y {s} {a}",
            "{b}, {s} {a}",
            "dibuja {b} y pon {a} {s}",
            "pon {a} {w} {b}",
            "coloca {a} {w} {b}",
            "{a} está {w} {b}",
            "quiero {b} y {s} {a}",
        ),
        held=("{w} {b} quiero {a}", "primero {b} y {s} {a}", "{b} tiene {a} {s}"),
    ),
    contractions=((" de el ", " del "), (" a el ", " al ")),
    greetings=("", "", "", "", "", "hola, ", "por favor, ", "oye, "),
    thanks=("", "", "", "", "", " por favor", ", por favor", ", gracias", ".", "!"),
    edits={
        "add": Frames(
            trained=(
                "añade {a}",
                "agrega {a}",
                "pon {a}",
                "pon {a} en la imagen",
                "añade {a} a la imagen",
                "dibuja también {a}",
                "agrega {a} a la foto",
                "¿puedes añadir {a}?",
                "mete {a} en el dibujo",
                "quiero también {a}",
            ),
            held=("inserta {a}", "incluye {a}", "falta {a}, añádelo"),
        ),
        "remove": Frames(
            trained=(
                "quita {the}",
                "elimina {the}",
                "borra {the}",
                "quita {the} de la imagen",
                "elimina {the} de la foto",
                "saca {the}",
                "¿puedes quitar {the}?",
                "haz desaparecer {the}",
                "no quiero {the}",
                "borra {the} por favor",
            ),
            held=("suprime {the}", "deshazte de {the}", "retira {the}"),
        ),
        "replace": Frames(
            trained=(
                "reemplaza {the} por {a}",
                "reemplaza {the} con {a}",
                "sustituye {the} por {a}",
                "cambia {the} por {a}",
                "convierte {the} en {a}",
                "pon {a} en lugar de {the}",
                "{a} en vez de {the}",
                "transforma {the} en {a}",
                "¿puedes cambiar {the} por {a}?",
                "quiero {a} en lugar de {the}",
            ),
            held=("que {the} sea {a}", "intercambia {the} por {a}"),
        ),
        "recolour": Frames(
            trained=(
                "pinta {the} de {c}",
                "pon {the} de color {c}",
                "cambia el color de {the} a {c}",
                "haz {the} {c}",
                "colorea {the} de {c}",
                "{the} en {c}",
                "que {the} sea {c}",
                "¿puedes pintar {the} de {c}?",
                "vuelve {the} {c}",
            ),
            held=("tiñe {the} de {c}", "quiero {the} en {c}"),
        ),
        "move": Frames(
            trained=(
                "mueve {the} {m}",
                "pon {the} {m}",
                "desplaza {the} {m}",
                "lleva {the} {m}",
                "coloca {the} {m}",
                "¿puedes mover {the} {m}?",
                "{the} {m}",
            ),
            held=("empuja {the} {m}", "quiero {the} {m}"),
        ),
        "background": Frames(
            trained=(
                "cambia el fondo a {c}",
                "pon el fondo {c}",
                "haz el fondo {c}",
                "usa un fondo {c}",
                "fondo {c}",
                "pinta el fondo de {c}",
                "quiero un fondo {c}",
                "el fondo de color {c}",
                "que el fondo sea {c}",
            ),
            held=("colorea el fondo de {c}", "dale un fondo {c}"),
        ),
        "tone": Frames(
            trained=("dale {t} a {the}", "{the} con {t}", "cambia {the} a {t}", "ponle {t} a {the}"),
            held=("que {the} tenga {t}",),
        ),
        "gender": Frames(
            trained=("cambia el género de {the}", "convierte {the} en {a}", "cambia el sexo de {the}"),
            held=("que {the} sea {a}",),
        ),
    },
    sides_of_picture={
        "left": ("a la izquierda", "hacia la izquierda", "al lado izquierdo"),
        "right": ("a la derecha", "hacia la derecha", "al lado derecho"),
        "top": ("arriba", "hacia arriba", "a la parte superior"),
        "bottom": ("abajo", "hacia abajo", "a la parte inferior"),
    },
    tones={
        "light skin tone": ("piel clara", "un tono de piel claro"),
        "dark skin tone": ("piel oscura", "un tono de piel oscuro"),
    },
    questions={
        "what": Frames(
            trained=(
                "¿qué es esto?",
                "qué es esto",
                "¿qué ves?",
                "¿qué hay en la imagen?",
                "¿qué se ve aquí?",
                "que hay aqui",
                "dime qué es esto",
            ),
            held=("¿qué muestra la foto?", "¿de qué se trata?"),
        ),
        "how many": Frames(
            trained=(
                "¿{how_many} {many} hay?",
                "{how_many} {many} hay",
                "¿{how_many} {many} ves?",
                "cuenta {the}",
                "¿{how_many} {many} hay en la imagen?",
                "¿puedes contar {the}?",
                "dime {how_many} {many} hay",
                "número de {many}",
            ),
            held=("¿{how_many} {many} puedes contar?", "¿qué cantidad de {many} hay?"),
        ),
        "colour": Frames(
            trained=(
                "¿de qué color {is} {the}?",
                "de qué color {is} {the}",
                "¿qué color {do} {the}?",
                "¿cuál es el color de {the}?",
                "dime el color de {the}",
            ),
            held=("¿{the}, de qué color {is}?", "nombra el color de {the}"),
        ),
        "where": Frames(
            trained=(
                "¿dónde está {a:the} respecto a {b:the}?",
                "¿dónde está {a:the}, visto desde {b:the}?",
                "¿a qué lado de {b:the} está {a:the}?",
                "¿dónde está {a:the} con respecto a {b:the}?",
                "visto desde {b:the}, ¿dónde está {a:the}?",
            ),
            held=("¿en qué posición está {a:the} en relación con {b:the}?",),
        ),
        "is so": Frames(
            trained=(
                "¿está {a:the} {w} {b:the}?",
                "¿hay {a} {w} {b:the}?",
                "{a:the} está {w} {b:the}, ¿verdad?",
            ),
            held=("¿se ve {a:the} {w} {b:the}?",),
        ),
        "beside": Frames(
            trained=("¿qué hay {w} {b:the}?", "qué ves {w} {b:the}"), held=("¿qué está {w} {b:the}?",)
        ),
        "is there": Frames(
            trained=(
                "¿hay {a}?",
                "hay {a}",
                "¿ves {a}?",
                "¿hay {a} en la imagen?",
                "¿se ve {a}?",
                "¿aparece {a}?",
            ),
            held=("¿puedes ver {a}?", "¿contiene la imagen {a}?"),
        ),
        "caption": Frames(
            trained=(
                "describe la imagen",
                "describe esta foto",
                "¿qué muestra la imagen?",
                "describe lo que ves",
                "dame una descripción",
                "una descripción, por favor",
            ),
            held=("escribe una leyenda", "cuéntame qué se ve en total"),
        ),
    },
    answers={
        "yes": "sí",
        "no": "no",
        "left of": "a la izquierda",
        "right of": "a la derecha",
        "above": "arriba",
        "below": "abajo",
    },
    caption="{x} sobre un fondo {c}",
    within=Frames(
        trained=(
            "{x}",
            "{x}",
            "{x} dentro de la máscara",
            "solo dentro de la máscara: {x}",
            "{x} en la zona blanca",
            "{x} en la zona marcada",
        ),
        held=("{x}, sin tocar nada fuera de la máscara",),
    ),
    masked={
        "add": Frames(
            trained=("añade {a}", "pon {a} aquí", "dibuja {a} ahí", "{a}"), held=("coloca {a} aquí",)
        ),
        "remove": Frames(
            trained=("bórralo", "quítalo", "elimina lo que hay ahí", "quita {the}"),
            held=("vacía esta parte",),
        ),
        "replace": Frames(
            trained=("cámbialo por {a}", "reemplázalo por {a}", "pon {a} en su lugar", "conviértelo en {a}"),
            held=("que sea {a}",),
        ),
        "recolour": Frames(
            trained=("píntalo de {c}", "hazlo {c}", "cambia su color a {c}"), held=("que sea {c}",)
        ),
    },
    this={
        1: Frames(
            trained=("esto", "este", "este objeto", "lo que se ve en la imagen"), held=("lo de la foto",)
        ),
        2: Frames(trained=("{n} de estos", "{n} como este", "{n} de esto"), held=("{n} copias de esto",)),
    },
    along=Frames(
        trained=("{x}", "{x} siguiendo los bordes", "{x} según estas líneas", "{x} con esta disposición"),
        held=("{x} siguiendo el contorno",),
    ),
)
