"""English."""

from __future__ import annotations

import numpy as np

from diptych.worlds.emoji.words.english_turns import EDITS, MASKED, QUESTIONS
from diptych.worlds.emoji.words.grammar import Frames, Noun, Tongue, pick


def _n(one: str, many: str = "") -> Noun:
    return Noun(one, many or one + "s")


def _say(tongue: Tongue, noun: Noun, count: int, spec: str, rng: np.random.Generator) -> str:
    colour = noun.colour
    one, many = noun.one, noun.many
    if colour:
        one, many = (f"{colour} {word}" for word in (one, many))
        if not spec and rng.random() < 0.06:
            # a few say the colour behind the thing
            return _counted(tongue, noun.one, noun.many, count, rng) + f" in {colour}"
    if spec == "many":
        return many
    if spec == "bare":
        return one if count == 1 else many
    if spec == "the":
        return f"{pick(rng, ('the', 'the', 'the', 'that') if count == 1 else ('the', 'all the', 'the'))} " + (
            one if count == 1 else many
        )
    return _counted(tongue, one, many, count, rng)


def _counted(tongue: Tongue, one: str, many: str, count: int, rng: np.random.Generator) -> str:
    if count == 1:
        # no u: it is a unicorn
        article = "an" if one[0] in "aeio" else "a"
        return pick(rng, (article, article, article, article, "one", "1", "a single", "")) + " " + one
    number = pick(rng, (tongue.numbers[count], str(count)))
    if count == 2:
        number = pick(rng, (number, number, number, number, "a pair of", "a couple of"))
    return f"{number} {many}"


_FARMERS = {
    "man farmer": (
        _n("man farmer"),
        _n("male farmer"),
        _n("farmer man", "farmer men"),
        _n("farmer who is a man", "farmers who are men"),
    ),
    "woman farmer": (
        _n("woman farmer"),
        _n("female farmer"),
        _n("lady farmer"),
        _n("farmer woman", "farmer women"),
        _n("farmer who is a woman", "farmers who are women"),
    ),
}
_THUMB = ("thumbs up", "thumbs-up", "thumb up", "thumbs up sign", "thumbs up hand")


def _thumbs(frame: str) -> tuple[Noun, ...]:
    return tuple(
        Noun(frame.format(word), frame.format(word if word.endswith("up") else word + "s")) for word in _THUMB
    )


ENGLISH = Tongue(
    code="en",
    nouns={
        "cat": (_n("cat"), _n("cat"), _n("kitty", "kitties"), _n("kitten"), _n("cat face"), _n("pussycat")),
        "dog": (_n("dog"), _n("dog"), _n("puppy", "puppies"), _n("doggy", "doggies"), _n("pup"), _n("hound")),
        "apple": (_n("apple"), _n("apple"), _n("red apple")),
        "banana": (_n("banana"),),
        "carrot": (_n("carrot"), _n("carrot"), _n("orange carrot")),
        "car": (_n("car"), _n("car"), _n("automobile"), _n("auto"), _n("motor car"), _n("vehicle")),
        "tree": (
            _n("tree"),
            _n("tree"),
            _n("fir tree"),
            _n("fir"),
            _n("pine"),
            _n("pine tree"),
            _n("evergreen"),
            _n("conifer"),
            _n("spruce"),
        ),
        "star": (_n("star"), _n("star"), _n("yellow star"), _n("gold star"), _n("golden star")),
        "fish": (_n("fish", "fish"), _n("fish", "fishes"), _n("blue fish", "blue fish")),
        "house": (_n("house"), _n("house"), _n("home"), _n("cottage"), _n("little house")),
        "sunflower": (_n("sunflower"), _n("sunflower"), _n("flower"), _n("sun flower")),
        "crown": (_n("crown"), _n("crown"), _n("golden crown"), _n("royal crown"), _n("king's crown")),
        "thumbs up": _thumbs("{}"),
        **{
            f"thumbs up: {tone} skin tone": (
                _n(f"thumbs up: {tone} skin tone", f"thumbs up: {tone} skin tone"),
                *_thumbs(f"{{}} with {tone} skin"),
                *_thumbs(f"{tone}-skinned {{}}"),
                *_thumbs(f"{tone} skin {{}}"),
                *_thumbs(f"{{}} with a {tone} skin tone"),
            )
            for tone in ("light", "dark")
        },
        **_FARMERS,
    },
    shapes={
        "circle": (
            _n("circle"),
            _n("circle"),
            _n("disc"),
            _n("disk"),
            _n("dot"),
            _n("ball"),
            _n("round spot"),
        ),
        "square": (_n("square"), _n("square"), _n("square shape"), _n("block")),
        "heart": (_n("heart"), _n("heart"), _n("love heart"), _n("heart shape")),
    },
    colours={
        "red": ("red", "red", "red", "crimson", "scarlet"),
        "orange": ("orange", "orange", "orange", "tangerine"),
        "yellow": ("yellow", "yellow", "yellow", "golden", "gold"),
        "green": ("green", "green", "green", "emerald"),
        "blue": ("blue", "blue", "blue", "dark blue"),
        "purple": ("purple", "purple", "purple", "violet", "violet"),
    },
    backgrounds={
        "white": ("white", "white", "plain white"),
        "pink": ("pink", "pink", "light pink", "rose"),
        "mint": ("mint", "mint", "mint green", "pale green", "light green"),
        "sky blue": ("sky blue", "sky blue", "sky-blue", "light blue", "pale blue"),
        "lavender": ("lavender", "lavender", "lilac", "light purple", "pale purple"),
        "gray": ("gray", "grey", "gray", "light grey"),
    },
    verbs=(("is", "are"), ("does", "do")),
    numbers=("zero", "one", "two", "three", "four", "five"),
    say=_say,
    joins=(
        " and ",
        " and ",
        " and ",
        ", and ",
        ", ",
        " plus ",
        " with ",
        " & ",
        " together with ",
        " as well as ",
    ),
    draw=Frames(
        trained=(
            "{x}",
            "{x}",
            "{x}",
            "{x}",
            "draw {x}",
            "draw {x}",
            "draw me {x}",
            "please draw {x}",
            "can you draw {x}?",
            "could you draw {x}",
            "could you please draw me {x}",
            "would you paint {x}?",
            "paint {x}",
            "sketch {x}",
            "make {x}",
            "make me {x}",
            "create {x}",
            "generate {x}",
            "generate an image of {x}",
            "create a picture with {x}",
            "a picture of {x}",
            "picture of {x}",
            "an image with {x}",
            "image: {x}",
            "show me {x}",
            "show {x}",
            "give me {x}",
            "give me a drawing of {x}",
            "i want {x}",
            "i would like {x}",
            "i'd like to see {x}",
            "i need a picture of {x}",
            "let me see {x}",
            "let there be {x}",
            "there should be {x}",
            "a scene with {x}",
            "a drawing that shows {x}",
            "illustrate {x}",
            "an illustration of {x}",
            "{x}, that is all",
            "just {x}",
            "only {x}, nothing else",
        ),
        held=(
            "how about {x}?",
            "my kid wants {x}",
            "it would be great to get {x}",
            "render {x}",
            "depict {x} for me",
            "i am looking for an image that has {x} in it",
            "what i want to see is {x}",
            "may i have {x}?",
        ),
    ),
    on=Frames(
        trained=(
            "{x} on a {c} background",
            "{x}, {c} background",
            "{x} in front of a {c} background",
            "{x} on {c}",
            "{x} with a {c} background",
            "{x} and the background is {c}",
            "{x}, background {c}",
            "{x}, on a {c} backdrop",
            "{x} against a {c} background",
            "on a {c} background: {x}",
            "{c} background, {x}",
        ),
        held=("with {c} behind: {x}", "{x} over a {c} backdrop", "background: {c}. {x}"),
    ),
    stands={
        "left of": ("left of", "to the left of", "on the left of", "on the left side of", "at the left of"),
        "right of": (
            "right of",
            "to the right of",
            "on the right of",
            "on the right side of",
            "at the right of",
        ),
        "above": ("above", "over", "on top of", "higher than", "directly above"),
        "below": ("below", "under", "beneath", "underneath", "lower than"),
    },
    sides={
        "left of": ("to its left", "on its left", "to the left of it", "on the left of it"),
        "right of": ("to its right", "on its right", "to the right of it", "on the right of it"),
        "above": ("above it", "over it", "on top of it"),
        "below": ("below it", "under it", "beneath it", "underneath it"),
    },
    related=Frames(
        trained=(
            "{a} {w} {b}",
            "{a} {w} {b}",
            "{a} {w} {b}",
            "{b} {v} {a}",
            "{b} with {a} {s}",
            "{a} that is {w} {b}",
            "{a} placed {w} {b}",
            "{b} and {s} {a}",
            "{a} and {b}, with {a:the} {w} {b:the}",
            "{b} and {a}, {a:the} is {w} {b:the}",
        ),
        held=("{a} located {w} {b}", "{b} having {a} {s}", "{b} and {a}, the latter {w} the former"),
    ),
    sentences=Frames(
        trained=(
            "{w} {b}, draw {a}",
            "{w} {b} draw {a}",
            "{w} {b}, {a}",
            "{w} {b} is {a}",
            "{w} {b} there is {a}",
            "there is {b} and {s} {a}",
            "there is {b}, and {s} there is {a}",
            "{b}, {s} {a}",
            "draw {b} and put {a} {s}",
            "draw {b}, then {a} {s}",
            "put {a} {w} {b}",
            "place {a} {w} {b}",
            "{a} is {w} {b}",
            "{a} should be {w} {b}",
            "{b} has {a} {s}",
            "i want {b}, and {s} {a}",
            "can you put {a} {w} {b}?",
        ),
        held=(
            "{w} {b} i want {a}",
            "first {b}, and {s} {a}",
            "{b} is {v} {a}",
            "{w} {b} stands {a}",
            "have {a} {w} {b}",
        ),
    ),
    greetings=("", "", "", "", "", "", "", "hi, ", "hello, ", "hey, ", "please ", "ok, ", "hi there! "),
    thanks=("", "", "", "", "", "", " please", ", please", ", thanks", ".", "!", " thank you", ", thank you"),
    edits=EDITS,
    sides_of_picture={
        "left": (
            "to the left",
            "to the left side",
            "left",
            "to the left edge",
            "on the left side",
            "on the left",
        ),
        "right": (
            "to the right",
            "to the right side",
            "right",
            "to the right edge",
            "on the right side",
            "on the right",
        ),
        "top": ("to the top", "up", "up to the top", "at the top", "to the upper edge", "upwards"),
        "bottom": (
            "to the bottom",
            "down",
            "down to the bottom",
            "at the bottom",
            "to the lower edge",
            "downwards",
        ),
    },
    tones={
        "light skin tone": ("a light skin tone", "light skin", "a lighter skin tone", "pale skin"),
        "dark skin tone": ("a dark skin tone", "dark skin", "a darker skin tone"),
    },
    questions=QUESTIONS,
    answers={
        "yes": "yes",
        "no": "no",
        "left of": "to the left",
        "right of": "to the right",
        "above": "above",
        "below": "below",
    },
    caption="{x} on a {c} background",
    within=Frames(
        trained=(
            "{x}",
            "{x}",
            "{x}",
            "{x} inside the mask",
            "{x}, only inside the mask",
            "only where it is white: {x}",
            "{x} in the marked area",
            "{x} in the white area",
            "in the masked region {x}",
            "{x} where the mask is white",
            "inside the mask, {x}",
        ),
        held=(
            "{x}, but change nothing outside of the mask",
            "in the marked place {x}",
            "{x} within the white part",
        ),
    ),
    masked=MASKED,
    this={
        1: Frames(
            trained=(
                "this",
                "this one",
                "this thing",
                "it",
                "the one in the picture",
                "this glyph",
                "the thing shown",
                "one like this",
                "the attached thing",
            ),
            held=("what the picture shows", "the thing you see here"),
        ),
        2: Frames(
            trained=(
                "{n} of these",
                "{n} of them",
                "{n} of this",
                "{n} like this",
                "{n} of the attached thing",
            ),
            held=("this {n} times", "{n} copies of it"),
        ),
    },
    along=Frames(
        trained=(
            "{x}",
            "{x}",
            "{x}, following the edges",
            "{x} along these lines",
            "follow the sketch: {x}",
            "{x} using this layout",
            "{x} where the boxes are",
            "fill in the outlines: {x}",
            "with this layout, {x}",
            "{x}, drawn along the edges",
        ),
        held=(
            "{x}, sticking to the given outline",
            "use the lines as a guide: {x}",
            "{x} in just that arrangement",
        ),
    ),
)
