"""From anyone's words to those that a model was trained on, by its table (`lexicon.Table`).

A request is read in each language of the table as things, counts, places and cues; the reading that leaves
the fewest words unknown is said again in the model's words. What names a thing that the table does not have,
or leaves a count, a colour or a place over, is not understood, and stays as it is.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from diptych.files.typed import convert, read
from diptych.files.whole import write_whole
from diptych.planning.lexicon import Forms, Lexicon, Table, Token
from diptych.request import Task

FILE = "words.json"
"""A model's table, in its folder."""
PLACES = ("relation", "behind", "side")


class NotUnderstood(Exception):
    pass


@dataclass(frozen=True)
class Thing:
    """A thing that a request names."""

    noun: str
    quality: str = ""
    count: int | None = None
    many: bool = False
    known: bool = False
    """Whether it is spoken of as one that is there: 'the cat'."""
    late: bool = False
    """Whether its quality stands behind it, where it may be what the thing is to become."""


@dataclass(frozen=True)
class Mark:
    """What is no thing: a sort of `lexicon.SORTS` with its value, a value of 'word', or 'unknown'."""

    sort: str
    value: str = ""


Item = Thing | Mark


class Rewording:
    """Puts prompts into a model's words."""

    def __init__(self, table: Table) -> None:
        self.table = table

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Rewording) and self.table == other.table

    def __hash__(self) -> int:
        return hash(self.table.version)

    @classmethod
    def open(cls, folder: Path) -> Rewording | None:
        """Of a model folder; None where it has no table. Raises ValueError naming the place of what is
        wrong."""
        path = folder / FILE
        return _opened(path, path.stat().st_mtime_ns) if path.exists() else None

    @classmethod
    def of(cls, values: Any) -> Rewording:
        """Of a table as plain values of JSON. Raises ValueError as `open`."""
        return cls(convert(Table, values, FILE))

    def save(self, folder: Path) -> None:
        # three quarters of a megabyte of indents otherwise
        write_whole(folder / FILE, json.dumps(asdict(self.table), ensure_ascii=False) + "\n")

    @functools.cached_property
    def _lexicons(self) -> list[Lexicon]:
        return [Lexicon(sorts) for sorts in self.table.languages.values()]

    def put(self, task: Task, prompt: str, sure: bool = False) -> str | None:
        """See `settings.Words`."""
        say = _SAY.get(task)
        if say is None:
            return None
        found: list[tuple[int, int, str]] = []
        for number, lexicon in enumerate(self._lexicons):
            try:
                reading = Reading(self.table, lexicon.tokens(prompt))
                said = say(self.table, reading)
                if not sure or _is_sure(task, reading):
                    found.append((reading.unknown, number, said))
            except NotUnderstood:
                continue
        return min(found)[2] if found else None


@functools.lru_cache(maxsize=8)
def _opened(path: Path, changed: int) -> Rewording:
    return Rewording(read(Table, path))


class Reading:
    """A request, read in one language. Raises NotUnderstood for a thing that has no name in it."""

    def __init__(self, table: Table, tokens: Sequence[Token]) -> None:
        self.table, self.tokens = table, tokens
        self.items: list[Item] = []
        self.ground = ""
        self.speaks_of_ground = False
        self.acts = {token.read["act"] for token in tokens if "act" in token.read}
        self.asked = {token.read["ask"] for token in tokens if "ask" in token.read}
        self.unknown = sum(not token.read for token in tokens)
        self._used = [False] * len(tokens)
        self._read_ground()
        at = 0
        while at < len(tokens):
            at = self._read_at(at)

    @property
    def things(self) -> list[Thing]:
        return [item for item in self.items if isinstance(item, Thing)]

    def marks(self, *sorts: str) -> list[Mark]:
        return [item for item in self.items if isinstance(item, Mark) and item.sort in sorts]

    def settle(self) -> None:
        """Give each quality that stands alone to the thing before it that can have it, or else to one behind:
        'a circle whose colour is red'; and a number to the one kind that has none."""
        for mark in self.marks("number"):
            bare = [item for item in self.things if item.count is None]
            if len(bare) == 1 and bare[0].many:
                self.items[self.items.index(bare[0])] = replace(bare[0], count=int(mark.value))
                self.items.remove(mark)
        for mark in self.marks("quality"):
            at = next(n for n, item in enumerate(self.items) if item is mark)
            for near in (*range(at - 1, -1, -1), *range(at + 1, len(self.items))):
                thing = self.items[near]
                if (
                    isinstance(thing, Thing)
                    and not thing.quality
                    and mark.value in self.table.kinds[thing.noun]
                ):
                    self.items[near] = replace(thing, quality=mark.value)
                    del self.items[at]
                    break

    def _read_ground(self) -> None:
        """The colour that stands beside the word for what is behind all."""
        for at, token in enumerate(self.tokens):
            if not token.is_word("ground"):
                continue
            self.speaks_of_ground = self._used[at] = True
            # the nearer one, of two as near the one before
            for near in sorted(self._beside(at), key=lambda near: (abs(near - at), near)):
                if "ground" in self.tokens[near].read and not self.ground:
                    self.ground = self.tokens[near].read["ground"]
                    low, high = sorted((at, near))
                    low = self._led(low)
                    self._used[low : high + 1] = [True] * (high + 1 - low)

    def _beside(self, at: int) -> Iterator[int]:
        """What stands before and behind a token, over words that only carry it."""
        for step in (-1, 1):
            near = at + step
            while 0 <= near < len(self.tokens) and self._carries(self.tokens[near]):
                near += step
            if 0 <= near < len(self.tokens):
                yield near

    def _led(self, low: int) -> int:
        """Where what leads to the ground begins: 'over a' of 'over a pink backdrop'."""
        before = low - 1
        while before >= 0 and (
            self.tokens[before].is_word("the") or self.tokens[before].read.get("number") == "1"
        ):
            before -= 1
        return before if before >= 0 and "relation" in self.tokens[before].read else low

    @staticmethod
    def _carries(token: Token) -> bool:
        """Whether a word may stand between the ground and its colour."""
        if token.is_word("of", "the", "skip", "pause", "picture") or token.read.get("number") == "1":
            return True
        return bool(token.read) and not token.read.keys() - {"act", "ask"}

    def _read_at(self, start: int) -> int:
        """Read what begins at a token; returns where the next begins."""
        at, count, quality, known = start, None, "", False
        while at < len(self.tokens):
            token, said = self.tokens[at], self.tokens[at].read
            if self._used[at]:
                break
            if "noun" in said or "nouns" in said:
                return self._thing(at, count, quality, known)
            if token.is_word("the"):
                known = True
            elif "number" in said and count in (None, 1, int(said["number"])):
                count = int(said["number"])
            elif "quality" in said and not quality:
                quality = said["quality"]
            # between a count and its noun stand a measure, and words about the thing
            elif token.is_word("picture") and at > start and count in (None, 1):
                # 'two pictures of a cat' are not two cats
                pass
            elif at == start or not (token.is_word("of", "skip") or (not said and at < start + 4)):
                break
            at += 1
        if at == start:
            self._mark(at)
            return at + 1
        self._loose(start, at, count, quality, known)
        return at

    def _loose(self, start: int, end: int, count: int | None, quality: str, known: bool) -> None:
        """What begins as a thing and names none."""
        if (known or count is not None) and any(not token.read for token in self.tokens[start:end]):
            before, follows = self.tokens[:start][-1:], self.tokens[end : end + 1]
            told = any(token.is_word("and", "pause") for token in before) or not before
            told = told or any(token.is_word("and") or {*PLACES} & token.read.keys() for token in follows)
            if told or self._in_sentence():
                # it names a thing; behind words that say nothing, it is more of these
                self.items.append(Mark("strange"))
        if quality:
            self.items.append(Mark("quality", quality))
        elif count is not None and count != 1:
            self.items.append(Mark("number", str(count)))

    def _in_sentence(self) -> bool:
        """Whether a thing is named since the last pause."""
        for item in reversed(self.items):
            if isinstance(item, Thing) or item.sort == "pause":
                return isinstance(item, Thing)
        return False

    def _mark(self, at: int) -> None:
        said = self.tokens[at].read
        if self._used[at]:
            return
        if "ground" in said and "quality" not in said:
            self.ground = self.ground or said["ground"]
        elif place := next((sort for sort in PLACES if sort in said), ""):
            self.items.append(Mark(place, said[place]))
        elif said.get("word") in ("former", "latter"):
            named = self.things[:1] if said["word"] == "former" else self.things[1:2]
            self.items += [replace(thing, known=True) for thing in named]
        elif said.get("word") in ("and", "from", "instead", "not", "pause", "of", "own"):
            self.items.append(Mark(said["word"], said.get("ask", "")))
        elif "ask" in said:
            self.items.append(Mark("ask", said["ask"]))
        elif not said:
            self.items.append(Mark("unknown"))

    def _thing(self, at: int, count: int | None, quality: str, known: bool) -> int:
        said = self.tokens[at].read
        noun, many, late = said.get("noun") or said["nouns"], "noun" not in said, False
        kinds = self.table.kinds[noun]
        at += 1
        if quality and quality not in kinds:
            # a thing that is only to be had in another colour
            self.items.append(Mark("quality", quality))
            quality = ""
        elif not quality:
            found, after = self._behind(at)
            if found in kinds and found:
                quality, at, late = found, after, True
        if count is None:
            count, at = self._count_behind(at)
        self.items.append(Thing(noun, quality, count, many, known, late))
        return at

    def _behind(self, at: int) -> tuple[str, int]:
        """A quality behind its thing: 'a circle in red'."""
        while at < len(self.tokens) and self.tokens[at].is_word("of"):
            at += 1
        if at >= len(self.tokens) or self._used[at] or "quality" not in self.tokens[at].read:
            return "", at
        after = self.tokens[at + 1].read if at + 1 < len(self.tokens) else {}
        if "noun" in after or "nouns" in after:
            return "", at
        return self.tokens[at].read["quality"], at + 1

    def _count_behind(self, at: int) -> tuple[int | None, int]:
        """A count behind its thing: 'cats: 3'."""
        near = at
        while near < len(self.tokens) and self.tokens[near].is_word("pause"):
            near += 1
        if near >= len(self.tokens) or "number" not in self.tokens[near].read:
            return None, at
        after = near + 1
        while after < len(self.tokens) and self.tokens[after].is_word("skip"):
            after += 1
        follows = self.tokens[after].read if after < len(self.tokens) else {"word": "pause"}
        if not follows or {"noun", "nouns", "quality", "number", "ground"} & follows.keys():
            return None, at
        return int(self.tokens[near].read["number"]), after


_SPARED = frozenset(
    ("not", "but", "keep", "except", "pero", "aber", "behalte", "tapi", "kecuali", "但", "保留", "除了")
)
"""What stands before a thing that shall stay as it is."""
_BOTH = frozenset(("and", "und", "y", "dan", "和", "与", "跟"))
_TOLD = frozenset({"add", "remove", "replace", "move", "exchange", "put"})


def _is_sure(task: Task, reading: Reading) -> bool:
    """Whether the words say which task is meant."""
    told = reading.acts & _TOLD
    if task is Task.ANSWER:
        return bool(reading.asked & {"how many", "colour", "caption"} or (reading.asked and not told))
    if task is Task.EDIT:
        changed = reading.ground or reading.marks("quality") or any(thing.late for thing in reading.things)
        changed = changed and ("change" in reading.acts or not reading.asked)
        return bool(told or changed or (reading.marks("and") and not reading.asked))
    # what is there already is not drawn
    return not all(thing.known for thing in reading.things)


def _name(table: Table, thing: Thing, whole: bool = True) -> str:
    """`whole`: a thing that has kinds needs one."""
    name = table.kinds[thing.noun].get(thing.quality)
    if name is None and (whole or thing.noun not in table.things):
        raise NotUnderstood
    return name or thing.noun


def _forms(table: Table, thing: Thing) -> Forms:
    return table.things[_name(table, thing, whole=False)]


def _drawing(table: Table, reading: Reading) -> str:
    if "remove" in reading.acts or reading.marks("not", "strange", "instead"):
        raise NotUnderstood
    reading.settle()
    if reading.marks("quality", "number"):
        raise NotUnderstood
    if reading.speaks_of_ground and not reading.ground:
        raise NotUnderstood
    _check_between(reading.items)
    places = reading.marks(*PLACES)
    counts: dict[str, int] = {}
    counted_ones = {_name(table, thing) for thing in reading.things if thing.count is not None}
    for thing in reading.things:
        name = _name(table, thing)
        if thing.count is None and thing.many and name in counted_ones:
            # 'she loves cats, so draw one cat'
            continue
        if name in counts and (thing.known or (places and thing.count is None)):
            continue
        if thing.count in (None, 1) and thing.many:
            # some cats
            raise NotUnderstood
        counts[name] = counts.get(name, 0) + (1 if thing.count is None else thing.count)
    if not counts or any(not 0 < count < len(table.numbers) for count in counts.values()):
        raise NotUnderstood

    def counted(name: str) -> str:
        count, forms = counts[name], table.things[name]
        return forms.a if count == 1 else f"{table.numbers[count]} {forms.many}"

    if places:
        first, relation, second = _placed(table, reading)
        said = table.say["related"].format(
            a=counted(first), w=table.relations[relation].say, b=counted(second)
        )
    else:
        every = [counted(name) for name in counts]
        said = table.say["comma"].join(every[:-1]) + table.say["and"] * (len(every) > 1) + every[-1]
    return table.say["on"].format(x=said, c=table.grounds[reading.ground]) if reading.ground else said


def _check_between(items: Sequence[Item]) -> None:
    """Raises NotUnderstood for an unknown word that alone stands between two things: it says what one does to
    the other."""
    between: list[str] | None = None
    for item in items:
        if isinstance(item, Thing):
            if between and set(between) == {"unknown"}:
                raise NotUnderstood
            between = []
        elif between is not None:
            between.append(item.sort)


def _placed(table: Table, reading: Reading) -> tuple[str, str, str]:
    """(first, relation, second) of the two things that are named."""
    items = reading.items
    names = list(dict.fromkeys(_name(table, thing) for thing in reading.things))
    if len(names) != 2:
        raise NotUnderstood
    of_side = {relation.side: name for name, relation in table.relations.items()}
    found = []
    for at, item in enumerate(items):
        if not isinstance(item, Mark) or item.sort not in PLACES:
            continue
        relation = item.value if item.sort == "relation" else of_side[item.value]
        before, after = _next_to(items, at, -1), _next_to(items, at, 1)
        # 'to the cat's left'
        owned = item.sort == "side" and at > 0 and items[at - 1] == Mark("own")
        landmark = before if owned else {"relation": after, "behind": before}.get(item.sort)
        # of a side, what stands right before it has it, else what comes next
        placed = before or _any(items[at + 1 :]) or _any(items[:at][::-1])
        assert placed is not None
        known = _name(table, landmark or placed)
        other = next(name for name in names if name != known)
        found.append((other, relation, known) if landmark else (known, relation, other))
    mirrored = {
        one if one[0] == names[0] else (one[2], table.relations[one[1]].opposite, one[0]) for one in found
    }
    if len(mirrored) != 1:
        raise NotUnderstood
    return found[0]


def _next_to(items: Sequence[Item], at: int, step: int) -> Thing | None:
    """The thing right before or after, of which something may be said: '狗的左边'."""
    at += step
    while 0 <= at < len(items):
        item = items[at]
        if isinstance(item, Thing):
            return item
        if item.sort not in ("of", "ask", "own"):
            return None
        at += step
    return None


def _any(items: Sequence[Item]) -> Thing | None:
    return next((item for item in items if isinstance(item, Thing)), None)


def _edit(table: Table, reading: Reading) -> str:
    things = list({_name(table, thing, whole=False): thing for thing in reading.things[::-1]}.values())[::-1]
    qualities = [
        mark.value
        for mark in reading.marks("quality")
        if not things or mark.value != things[0].quality or things[0].late
    ]
    if reading.marks("not") and reading.acts & _TOLD:
        # what shall not be done, or to what not
        raise NotUnderstood
    if any(token.text in _SPARED for token in reading.tokens):
        raise NotUnderstood
    if not things:
        # a colour that no thing has is the ground's; two of them are no ground
        if reading.ground and not qualities and not reading.marks("and"):
            return table.say["ground"].format(c=table.grounds[reading.ground])
        raise NotUnderstood
    if reading.ground or len(things) > 2 or len(qualities) > 1:
        raise NotUnderstood
    if reading.marks("strange") and reading.acts & {"add", "replace"}:
        raise NotUnderstood
    if len(things) == 2:
        return _exchange(table, reading, things)
    (thing,) = things
    forms = _forms(table, thing)
    if qualities:
        return _change(table, thing, qualities[0])
    if "exchange" in reading.acts:
        return table.say["exchange"].format(one=forms.one)
    if "remove" in reading.acts or reading.marks("not"):
        several = thing.many or (thing.count or 1) > 1
        return table.say["remove"].format(one=forms.many if several else forms.one)
    sides = {
        table.relations[mark.value].side if mark.sort == "relation" else mark.value
        for mark in reading.marks(*PLACES)
    }
    if sides:
        if len(sides) > 1 or ("add" in reading.acts and not thing.known):
            raise NotUnderstood
        return table.say["move"].format(one=forms.one, m=sides.pop())
    if thing.late and not thing.count and not reading.acts & {"add", "replace"}:
        return _change(table, Thing(thing.noun), thing.quality)
    added = not thing.known and (thing.count == 1 or bool(reading.marks("and")))
    if "add" in reading.acts or (reading.acts & {"draw", "put", "more"} and not thing.known) or added:
        if (thing.count or 1) > 1 or thing.many:
            raise NotUnderstood
        _name(table, thing)
        return table.say["add"].format(a=forms.a)
    raise NotUnderstood


def _exchange(table: Table, reading: Reading, things: Sequence[Thing]) -> str:
    """One thing for another."""
    old, new = things
    gone = _behind(reading.items, "instead")
    told = bool(reading.acts & {"replace", "change"}) and "remove" not in reading.acts
    if not (told or gone is not None) or reading.marks(*PLACES):
        raise NotUnderstood
    if gone is None and ((old.known and new.known) or any(t.text in _BOTH for t in reading.tokens)):
        # both stay, and change places
        raise NotUnderstood
    if (gone is not None and _name(table, gone, whole=False) == _name(table, new, whole=False)) or (
        gone is None and new.known and not old.known
    ):
        old, new = new, old
    if reading.acts == {"add"} and gone is None:
        raise NotUnderstood
    name = _name(table, new)
    qualities = (quality for quality, kind in table.kinds[old.noun].items() if quality and kind == name)
    if (quality := next(qualities, None)) is not None:
        return _change(table, old, quality)
    return table.say["replace"].format(one=_forms(table, old).one, a=_forms(table, new).a)


def _behind(items: Sequence[Item], word: str, value: str | None = None) -> Thing | None:
    """The thing that stands behind a word."""
    for at, item in enumerate(items):
        if not isinstance(item, Mark) or item.sort != word:
            continue
        if value in (None, item.value) and (found := _next_to(items, at, 1)):
            return found
    return None


def _change(table: Table, thing: Thing, quality: str) -> str:
    """A thing of another kind: another colour."""
    if quality not in table.kinds[thing.noun]:
        raise NotUnderstood
    kinds = table.kinds[thing.noun]
    if not thing.quality and "" not in kinds and len(kinds) == 2:
        # of two kinds, it is the other
        thing = replace(thing, quality=next(other for other in kinds if other != quality))
    return table.say[f"change {table.qualities[quality]}"].format(one=_forms(table, thing).one, c=quality)


def _question(table: Table, reading: Reading) -> str:
    asked = reading.asked
    things = list({_name(table, thing, whole=False): thing for thing in reading.things[::-1]}.values())[::-1]
    if reading.marks("quality") or len(things) > 2:
        raise NotUnderstood
    if len(things) == 2:
        if "where" not in asked:
            raise NotUnderstood
        first, second = things
        seen = _behind(reading.items, "from", "") or _behind(reading.items, "from")
        if seen is not None and _name(table, seen, whole=False) == _name(table, first, whole=False):
            first, second = second, first
        return table.say["where"].format(a=_forms(table, first).one, b=_forms(table, second).one)
    if not things:
        if reading.marks(*PLACES):
            raise NotUnderstood
        if "colour" in asked or ("what" in asked and reading.speaks_of_ground):
            return _needed(table, "colour of ground", reading.speaks_of_ground)
        return _needed(table, "caption" if "caption" in asked else "what", bool({"caption", "what"} & asked))
    (thing,) = things
    if "where" in asked:
        # where from, is not said
        raise NotUnderstood
    forms = _forms(table, thing)
    if "how many" in asked:
        return table.say["how many"].format(many=forms.many)
    if "colour" in asked:
        forms = table.things.get(thing.noun, forms)
        several = thing.many or (thing.count or 1) > 1
        return table.say["colours" if several else "colour"].format(one=forms.one, many=forms.many)
    return _needed(table, "is there", "is there" in asked or not asked).format(a=forms.a)


def _needed(table: Table, said: str, there: bool) -> str:
    if not there:
        raise NotUnderstood
    return table.say[said]


_SAY: Mapping[Task, Callable[[Table, Reading], str]] = {
    Task.TEXT_TO_IMAGE: _drawing,
    Task.CONTROL_TO_IMAGE: _drawing,
    Task.EDIT: _edit,
    Task.ANSWER: _question,
}
