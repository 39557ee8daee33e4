"""Requests with what they mean, each a pure function of (seed, number).

A request is made from the inside out: a scenario says task and media, a wording of the language says them,
then come settings, chatter, marks of media and typing errors. Each piece of text keeps what it says, so that
what a planner shall read in it is known, and no text is ever parsed to find out.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from diptych.planning.clarify import missing, question
from diptych.planning.data.grammar import Grammar, Piece, grammar
from diptych.planning.data.noise import typed
from diptych.planning.data.numbers import made_up, said_number
from diptych.planning.data.scenarios import LANGUAGES, SETTINGS, Medium, Scenario, scenario
from diptych.planning.schema import Attached, Control, Input, Intent, Request, Step
from diptych.planning.spans import Span, fields
from diptych.planning.turns import continued
from diptych.request import MARK, TASKS, Product, Role

FAMILIES = ("trained", "held-out")
_SLOTS = {
    "src": Role.SOURCE,
    "mask": Role.MASK,
    "ref": Role.REFERENCE,
    "ctl": Role.CONTROL,
    "fst": Role.FIRST,
    "lst": Role.LAST,
    "sub": Role.SUBJECT,
}
_TIMES = ("x", "x", "x", "×", " x ", " × ", "*", " X ", "X")
_TOKENS = (
    "<CFI>",
    "<CFV>",
    "<REF>",
    "<CTRL>",
    "<IMGPAD>",
    "<BORES>512,512<EORES>",
    "<BORES>1280,720<EORES>",
    "<BONF>16<EONF>",
    "<BOEDIT>1,0<EOEDIT>",
    "<BOFIDX>0<EOFIDX>",
    '{"task": "edit"}',
    '{"width": 512, "height": 512}',
    '{"seed": 7}',
)
_JOINS = (", ", ", ", ", ", ", ", " ", " ", ". ", "; ", " - ", " / ", "\n", " (")


@dataclass(frozen=True)
class Sample:
    """A request, what it means, and which of its words say so."""

    request: Request
    intent: Intent
    spans: tuple[Span, ...]
    starts: tuple[int, ...]
    """Where each step begins, in characters."""
    roles: tuple[Role, ...]
    """Of each medium."""
    wants: frozenset[str]
    """What the request speaks of, whether it is there or not, see `learned.WANTS`."""
    follows: str
    """What it takes from the turn before: '' for nothing, 'again' for all of it."""
    category: str
    family: str
    """Of the wording: language, rule and line."""
    before: Product | None = None
    """What the turn before made."""


@dataclass
class _Hand:
    """What the rules of a language leave to the request at hand."""

    grammar: Grammar
    held: bool
    """Whether wordings that are held out may be used: all may, for a request of a held-out family."""
    media: dict[Role, list[int]] = field(default_factory=dict)
    control: Control | None = None
    kinds: Sequence[Medium] = ()
    style: str = "plain"
    """How media are spoken of: plain, mark, both (words and mark), ordinal."""
    order: Sequence[int] = ()
    """Place of each medium among those attached, where that is settled before."""
    attributes: list[str] = field(default_factory=list)
    """Settings that may stand before a noun."""
    clip: bool = False
    """Whether the source or subject is called a clip."""
    named: list[int] = field(default_factory=list)
    """Media in the order in which they are spoken of."""
    spoken: tuple[int, str] = (1, "")
    """Place, from 1, and grammatical case of a medium that is called by its place."""

    def say(self, name: str, rng: random.Random, within: str) -> list[Piece] | None:
        language = self.grammar.language
        if name == "x":
            return [Piece(rng.choice(_TIMES), "")]
        if name.startswith("n."):
            return [Piece(said_number(name[2:], rng, language), within)]
        if name == "rand":
            return [Piece(made_up(rng, language), within)]
        if name == "rand.scene":
            space = "" if language == "zh" else " "
            return [Piece(space.join(made_up(rng, language) for _ in range(rng.randint(1, 5))), within)]
        if name == "card":
            return [Piece(str(self.spoken[0]), within)]
        if name == "ordinal":
            return self._rule(self._cased(f"ordinal.{self.spoken[0]}", self.spoken[1]), rng, within)
        if name == "attr":
            return self._attributes(rng)
        if name in ("pic", "vid") and "count" in self.attributes:
            self.attributes.remove("count")
            count = Piece(said_number("count", rng, language), "count")
            space = "" if language == "zh" else " "
            return [count, Piece(space), *self._rule(f"{name}s", rng, within)]
        base, _, case = name.partition(".")
        if base in _SLOTS:
            return self._medium(_SLOTS[base], rng, within, case)
        if name == "unused":
            return self._medium(Role.UNUSED, rng, within, case)
        return None

    def _rule(self, name: str, rng: random.Random, within: str = "") -> list[Piece]:
        return self.grammar.said(self.grammar.choose(name, rng, self.held)[1], rng, self, within)

    def _attributes(self, rng: random.Random) -> list[Piece]:
        pieces: list[Piece] = []
        for kind in [k for k in self.attributes if f"attr.{k}" in self.grammar.rules]:
            self.attributes.remove(kind)
            pieces += self._rule(f"attr.{kind}", rng)
        return pieces

    def _medium(self, role: Role, rng: random.Random, within: str, case: str) -> list[Piece]:
        numbers = self.media.get(role, [])
        fresh = [n for n in numbers if n not in self.named]
        picked = fresh[:1] or numbers[:1]
        several = len(fresh) > 1 and role in (Role.REFERENCE, Role.SUBJECT)
        if several:
            picked = fresh
        self.named += [n for n in picked if n not in self.named]
        clip = self.kinds[picked[0]].clip if picked else self.clip
        if role in (Role.SOURCE, Role.SUBJECT):
            clip = self.clip
        name = "np.clip" if clip else "np.picture"
        if several:
            name += "s"
        if role is Role.MASK:
            name = "np.mask"
        elif role is Role.CONTROL and self.control:
            name = f"ctl.{self.control}"
            moving = f"ctl.clip.{self.control}"
            if clip and moving in self.grammar.rules and rng.random() < 0.5:
                name = moving
        # what a control picture holds is said in words, so it is not called by its place alone
        if self.style == "ordinal" and picked and not several and role is not Role.CONTROL:
            return self._ordinal(picked[0], clip, rng, within, case)
        # one that is spoken of by its place, and is not there
        if not picked and role is Role.REFERENCE and len(self.kinds) == 1 and rng.random() < 0.4:
            self.spoken = 2, case
            return self._rule(self._cased("np.ord", case), rng, within)
        # words that say what it holds stay; a prompt without its nouns would say nothing
        bare = self.style == "mark" and role not in (Role.MASK, Role.CONTROL) and within != "prompt"
        if bare and picked:
            return [Piece(MARK, within, 0, n) for n in picked]
        pieces = self._rule(self._cased(name, case), rng, within)
        if self.style in ("mark", "both") and picked:
            space = rng.choice((" ", " ", "")) if self.grammar.language == "zh" else " "
            for n in picked:
                pieces += [Piece(space, within), Piece(MARK, within, 0, n)]
        return pieces

    def _ordinal(self, number: int, clip: bool, rng: random.Random, within: str, case: str) -> list[Piece]:
        self.spoken = self.order[number] + 1, case
        return self._rule(self._cased("np.ord.clip" if clip else "np.ord", case), rng, within)

    def _cased(self, rule: str, case: str) -> str:
        """The rule in a grammatical case, where the language has it."""
        return f"{rule}.{case}" if f"{rule}.{case}" in self.grammar.rules else rule


def sample(seed: int, number: int, families: str = "trained", language: str | None = None) -> Sample:
    """The sample of a number. `families`: 'trained', or 'held-out' for a request whose wording training never
    sees. Raises ValueError for another word."""
    if families not in FAMILIES:
        raise ValueError(f"families must be one of {', '.join(FAMILIES)}, got {families!r}")
    attempt = 0
    while True:
        rng = random.Random(f"{seed}/{number}/{attempt}/{families}")
        found = _attempt(rng, families == "held-out", language)
        if found is not None:
            return found
        # a line without a held-out form, or a text that came out empty
        attempt += 1


def _attempt(rng: random.Random, held: bool, language: str | None) -> Sample | None:
    chosen = language or rng.choices(list(LANGUAGES), list(LANGUAGES.values()))[0]
    words = grammar(chosen)
    plan = scenario(rng, words, held)
    if plan is None:
        return None
    turns: tuple[str, ...] = ()
    before: Sample | None = None
    if plan.follows or plan.turns:
        before = _before(rng, chosen, plan)
        turns = (before.request.text,)
    hand = _Hand(
        words,
        held,
        {role: [n for n, m in enumerate(plan.media) if m.role is role] for role in Role},
        plan.control,
        plan.media,
        clip=plan.calls_clip,
    )
    hand.style, hand.order = _style(rng, plan)
    settings = _settings(rng, plan, words)
    hand.attributes = [k for k in settings if rng.random() < 0.5]
    if plan.repeated or plan.rule.startswith(("follow", "no.")):
        hand.attributes = []
    wished = set(hand.attributes)
    pieces = words.said(plan.wording, rng, hand)
    settings = [k for k in settings if k not in wished or k in hand.attributes]
    hand.attributes = []
    settings = _without(settings, pieces)
    if plan.unused_told:
        told = hand._rule("no.media", rng)
        pieces = [*told, Piece(". "), *pieces] if rng.random() < 0.4 else [*pieces, Piece(". "), *told]
    pieces = _second(rng, plan, hand, pieces)
    pieces = _dressed(rng, plan, hand, pieces, settings)
    pieces = _with_tokens(rng, pieces)
    pieces = _loose_marks(rng, plan, hand, pieces)
    if not _settled(plan, hand, pieces):
        return None
    return _made(rng, plan, hand, typed(pieces, rng, chosen), turns, before)


def _before(rng: random.Random, language: str, plan: Scenario) -> Sample:
    """The turn before: a drawing or a clip from words."""
    while True:
        found = _attempt(random.Random(rng.random()), False, language)
        if (
            found is not None
            and not found.request.turns
            and not found.request.media
            and len(found.intent.steps) == 1
            and TASKS[found.intent.steps[0].task].draws_from_words
            and not found.intent.missing
            and not found.intent.contradictions
        ):
            return found


def _style(rng: random.Random, plan: Scenario) -> tuple[str, list[int]]:
    count = len(plan.media)
    order = list(range(count))
    rng.shuffle(order)
    # of several media, places are said more often
    shares = (55, 15, 15, 15) if count < 2 else (45, 12, 13, 30)
    style = rng.choices(("plain", "both", "mark", "ordinal"), shares)[0]
    if style == "ordinal" and (count < 2 or count > 4):
        style = "plain"
    if plan.unused_told and style == "plain":
        style = rng.choice(("both", "ordinal")) if count <= 4 else "both"
    return style, order


def _settings(rng: random.Random, plan: Scenario, words: Grammar) -> list[str]:
    found = [k for k, share in SETTINGS[plan.settings].items() if rng.random() < share]
    # a size says a shape, and a number of frames a duration
    if "size" in found:
        found = [k for k in found if k not in ("aspect", "res")]
    if "frames" in found:
        found = [k for k in found if k not in ("seconds",)]
    if plan.clash:
        # nothing else says what is to clash
        found = [k for k in found if k in ("negative", "guidance")]
        found += {
            "size": ["size", "size"],
            "aspect": ["aspect", "aspect"],
            "shape": ["size", "aspect"],
            "count": ["count", "count"],
            "seed": ["seed", "seed"],
            "steps": ["steps", "steps"],
            "seconds": ["seconds", "seconds"],
            "still": ["seconds"],
            "fps": ["fps", "fps"],
            "sums": ["seconds", "fps", "frames"],
        }[plan.clash]
    rng.shuffle(found)
    return [k for k in found if f"s.{k}" in words.rules]


_GROUPS = {"width": "size", "height": "size", "side": "size"}


def _without(settings: list[str], pieces: Sequence[Piece]) -> list[str]:
    """Settings that the wording has not said already."""
    said = {_GROUPS.get(p.kind, p.kind) for p in pieces if p.kind}
    if "frames" in said:
        said.add("seconds")
    if "seconds" in said:
        said.add("frames")
    return [k for k in settings if k not in said]


def _second(rng: random.Random, plan: Scenario, hand: _Hand, pieces: list[Piece]) -> list[Piece]:
    if not plan.then:
        return pieces
    hand.clip = False
    lead = hand._rule("first.lead", rng) if rng.random() < 0.3 else []
    tail = hand.grammar.said(hand.grammar.choose(f"then.{plan.then}", rng, hand.held)[1], rng, hand)
    return [*lead, *pieces, *(p._replace(step=1) for p in tail)]


def _dressed(
    rng: random.Random, plan: Scenario, hand: _Hand, pieces: list[Piece], settings: list[str]
) -> list[Piece]:
    """With settings before and behind, and with what people say around a request."""
    language = hand.grammar.language
    last = 1 if plan.then else 0
    wide = {", ": "，", ". ": "。", "; ": "；", " (": "（"} if language == "zh" else {}

    def join(text: str) -> str:
        return wide.get(text, text) if rng.random() < 0.8 else text

    ending = pieces[-1].text.rstrip()[-1:] if pieces else ""
    for kind in settings:
        said = hand._rule(f"s.{kind}", rng)
        if kind == "negative":
            pieces = [*pieces, *(p._replace(step=last) for p in said)]
        elif rng.random() < 0.25 and not plan.follows:
            pieces = [*said, Piece(join(rng.choice((": ", ", ", " ", ". ", "\n", " - ")))), *pieces]
        else:
            between = rng.choice(_JOINS)
            if ending in "?!.？！。":
                between = " "
            said = [Piece(join(between)), *said, Piece(join(")") if between == " (" else "")]
            pieces = [*pieces, *(p._replace(step=last) for p in said)]
    space = "" if language == "zh" and rng.random() < 0.7 else " "
    if rng.random() < (0.06 if plan.bare else 0.22) and plan.rule != "askfree":
        pieces = [*hand._rule("polite.pre", rng), Piece(space), *pieces]
    if rng.random() < (0.06 if plan.bare else 0.2):
        pieces = [*pieces, *(p._replace(step=last) for p in hand._rule("polite.post", rng))]
    return pieces


def _with_tokens(rng: random.Random, pieces: list[Piece]) -> list[Piece]:
    """With words that look like signals, or like JSON, which are words like all others."""
    places = [n for n, p in enumerate(pieces) if p.kind == "prompt" and p.text.strip() and p.medium is None]
    if not places or rng.random() > 0.03:
        return pieces
    place = rng.choice((places[0], places[-1], rng.choice(places)))
    token = rng.choice(_TOKENS)
    text = rng.choice((f"{token} {pieces[place].text}", f"{pieces[place].text} {token}"))
    return [*pieces[:place], pieces[place]._replace(text=text), *pieces[place + 1 :]]


def _loose_marks(rng: random.Random, plan: Scenario, hand: _Hand, pieces: list[Piece]) -> list[Piece]:
    """Marks of media that the words do not speak of, before or behind all else."""
    marked = {p.medium for p in pieces if p.medium is not None}
    if hand.style == "ordinal" or (hand.style == "plain" and rng.random() > 0.06):
        return pieces
    if hand.style != "plain" and rng.random() < 0.4:
        return pieces
    loose = [n for n in range(len(plan.media)) if n not in marked]
    if marked and loose:
        return pieces
    rng.shuffle(loose)
    if hand.style == "plain" and not _exchangeable(plan, hand):
        return pieces
    marks = [p for n in loose for p in (Piece(MARK, "", 0, n), Piece(" "))]
    if not marks:
        return pieces
    return [*marks, *pieces] if rng.random() < 0.7 else [*pieces, Piece(" "), *marks[:-1]]


def _alike(plan: Scenario, a: int, b: int) -> bool:
    """Whether two media cannot be told apart, and are for something else."""
    one, other = plan.media[a], plan.media[b]
    return one.role is not other.role and (one.clip, one.look) == (other.clip, other.look)


def _exchangeable(plan: Scenario, hand: _Hand) -> bool:
    count = len(plan.media)
    return not any(_alike(plan, a, b) for a in range(count) for b in range(a))


def _settled(plan: Scenario, hand: _Hand, pieces: Sequence[Piece]) -> bool:
    """Whether the words and looks say which medium is which."""
    if hand.style == "ordinal":
        loose = [n for n in range(len(plan.media)) if n not in hand.named]
    else:
        marked = {p.medium for p in pieces if p.medium is not None}
        loose = [n for n in range(len(plan.media)) if n not in marked]
        if not marked:
            # spoken of in the order in which they are attached
            loose = [n for n in loose if n not in hand.named]
            return not any(_alike(plan, a, b) for a in loose for b in range(len(plan.media)))
    return not any(_alike(plan, a, b) for a in loose for b in loose)


def _attached_order(rng: random.Random, plan: Scenario, hand: _Hand, pieces: Sequence[Piece]) -> list[int]:
    """Numbers of the media in the order in which they are attached: marks are taken in order, then the
    others."""
    if hand.style == "ordinal":
        return sorted(range(len(plan.media)), key=lambda n: hand.order[n])
    marked = [p.medium for p in pieces if p.medium is not None]
    loose = [n for n in range(len(plan.media)) if n not in marked]
    rng.shuffle(loose)
    # those that look alike stand as they are spoken of
    for a in range(len(loose)):
        for b in range(a + 1, len(loose)):
            if not _alike(plan, loose[a], loose[b]):
                continue
            spoken = [hand.named.index(n) if n in hand.named else 99 for n in (loose[a], loose[b])]
            if spoken[0] > spoken[1]:
                loose[a], loose[b] = loose[b], loose[a]
    return [*dict.fromkeys(marked), *loose]


def _made(
    rng: random.Random,
    plan: Scenario,
    hand: _Hand,
    pieces: Sequence[Piece],
    turns: tuple[str, ...],
    before: Sample | None,
) -> Sample | None:
    order = _attached_order(rng, plan, hand, pieces)
    # a mark says a medium the first time; spoken of again, it is only words
    text, starts, seen = "", [0], set[int]()
    spans: list[Span] = []
    for piece in pieces:
        said = piece.text
        if piece.medium is not None:
            if piece.medium in seen:
                continue
            seen.add(piece.medium)
        if piece.step == len(starts):
            starts.append(len(text))
        if said and piece.kind:
            follows = spans and spans[-1].end == len(text) and spans[-1].kind == piece.kind
            if follows and spans[-1].step == piece.step:
                spans[-1] = spans[-1]._replace(end=len(text) + len(said))
            else:
                spans.append(Span(len(text), len(text) + len(said), piece.kind, piece.step))
        text += said
    cut = len(text) - len(text.lstrip())
    text = text.strip()
    spans = [
        s._replace(start=max(0, s.start - cut), end=min(len(text), s.end - cut))
        for s in spans
        if s.end > cut and s.start - cut < len(text)
    ]
    starts = [max(0, s - cut) for s in starts]
    if not text:
        return None
    roles = tuple(plan.media[n].role for n in order)
    media = tuple(plan.media[n].attached(rng) for n in order)
    intent = _intent(plan, hand, text, spans, roles, media, before)
    if intent is None:
        return None
    return Sample(
        Request(text=text, media=media, turns=turns),
        intent,
        tuple(spans),
        tuple(starts),
        roles,
        plan.wants,
        plan.follows,
        plan.category,
        f"{hand.grammar.language}/{plan.rule}/{plan.line}",
        TASKS[before.intent.steps[-1].task].makes if before is not None else None,
    )


def _intent(
    plan: Scenario,
    hand: _Hand,
    text: str,
    spans: Sequence[Span],
    roles: Sequence[Role],
    media: Sequence[Attached],
    before: Sample | None,
) -> Intent | None:
    contradictions: list[str] = []
    steps: list[Step] = []
    # what goes on from a clip is a clip
    tasks = (before.intent.steps[-1].task,) if plan.follows and before is not None else plan.tasks
    for number, task in enumerate(tasks):
        said, clashes = fields(text, [s for s in spans if s.step == number], task)
        contradictions += clashes
        if number == 0:
            inputs = tuple(Input(role, n) for n, role in enumerate(roles))
        else:
            inputs = (Input(TASKS[task].default_role, None, number - 1),)
        control = plan.control if number == 0 and Role.CONTROL in TASKS[task].takes else None
        step = Step(task=task, inputs=inputs, control=control, **said)
        if not step.prompt and "prompt" not in plan.wants and not plan.follows:
            return None
        steps.append(step)
    if bool(contradictions) != bool(plan.clash):
        return None
    if plan.follows and before is not None:
        steps = [continued(before.intent.steps[-1], steps[0])]
    language: Any = "und" if hand.grammar.language == "other" else hand.grammar.language
    intent = Intent(
        steps=tuple(steps),
        language=language,
        missing=missing(steps, plan.wants, media),
        contradictions=tuple(dict.fromkeys(contradictions)),
    )
    return replace(intent, question=question(intent))
