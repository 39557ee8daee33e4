"""Instruction sets: prompts balanced over named categories, and the pictures that a model draws for them.

A source like any other: what follows (a judge, near-duplicates, the writers) is a recipe. Prompts of
evaluations are left out, those that say the same in other words too.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import json
import re
import tarfile
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from diptych.curation.read import Place, Unit
from diptych.curation.stage import Shared, StopRun
from diptych.curation.wire import NoAnswer, Server, checked_url, key_of
from diptych.data.foreign import MAX_TEXT, lines
from diptych.data.pictures import open_picture
from diptych.files.typed import convert, parse, read, to_json
from diptych.files.whole import whole
from diptych.request import Plan, RequestError, Task

TOGETHER = 64
"""Prompts of one unit."""
_TOLD = "told.json"
_WORDS = re.compile(r"\w+")


@dataclass(frozen=True, kw_only=True)
class Drawer:
    """Who draws: a model of ours, or a server with an OpenAI-compatible address."""

    model: str = ""
    """'default', a folder, or 'hf:owner/name'."""
    url: str = ""
    served: str = ""
    """What the server calls the model."""
    key: str = ""
    """Environment variable that holds the server's key."""
    size: int = 0
    """Side of a picture, px; 0: the model's own, and 1024 of a server."""
    licence: str = ""
    """Under which what it draws may be used."""
    price: float = 0.0
    """Of one picture, in whatever currency the record is to be read."""
    device: str = "cpu"

    def __post_init__(self) -> None:
        if bool(self.model) == bool(self.url):
            raise ValueError(f"drawer: give either model or url, got {self.model!r}, {self.url!r}")
        if self.url and not self.served:
            raise ValueError("drawer: served says which model of the server draws")
        if not self.licence:
            raise ValueError("drawer: licence says how its pictures may be used, such as 'Apache-2.0'")
        if self.size < 0 or self.price < 0:
            raise ValueError(f"drawer: size and price must be 0 or more, got {self.size}, {self.price}")
        if self.url:
            checked_url(self.url)


@dataclass(frozen=True, kw_only=True)
class Instructions:
    """What is asked for: a JSON file that names prompts and who draws."""

    prompts: str
    """JSONL beside it: {"prompt": "...", "category": "..."} a line."""
    drawer: Drawer
    per_category: int = 0
    """Prompts of each category; 0: as many as the smallest has."""
    exclude: tuple[str, ...] = ()
    """Files of evaluations' prompts beside it: text or JSONL with `prompt`, a line each."""
    nearness: float = 0.7
    """From which share of common words on two prompts count as the same."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.per_category < 0 or not 0 < self.nearness <= 1:
            raise ValueError(
                "per_category must be 0 or more and nearness above 0 and at most 1, got "
                f"{self.per_category}, {self.nearness}"
            )


@dataclass(frozen=True)
class Asked:
    number: int
    """Line of the prompt."""
    prompt: str
    category: str
    problem: str = ""


class InstructSource:
    """The prompts of a file of `Instructions`, chosen and drawn."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.told = read(Instructions, path)

    def units(self) -> list[Unit]:
        """Raises ValueError for files that are missing or hold no prompt, and for a category with too few."""
        if self.told.drawer.url:
            key_of(self.told.drawer.key)
        chosen = list(self._chosen())
        return [
            DrawUnit(self.path.name, self.told, tuple(chosen[at : at + TOGETHER]))
            for at in range(0, len(chosen), TOGETHER)
        ]

    def _chosen(self) -> Iterator[Asked]:
        """Every prompt that is refused, with why, and of the others as many of each category."""
        folder = self.path.parent
        known = Known([prompt for name in self.told.exclude for _, prompt, _ in _prompts(folder / name)])
        by: dict[str, list[Asked]] = {}
        refused: list[Asked] = []
        for number, prompt, category in _prompts(folder / self.told.prompts):
            problem = known.says(prompt, self.told.nearness)
            one = Asked(number, prompt, category, problem)
            (refused if problem else by.setdefault(category, [])).append(one)
        if not by:
            raise ValueError(f"{folder / self.told.prompts} holds no prompt that may be drawn")
        fewest = min(by, key=lambda name: len(by[name]))
        count = self.told.per_category or len(by[fewest])
        if len(by[fewest]) < count:
            raise ValueError(
                f"{self.path}: per_category is {count}, and {fewest!r} has {len(by[fewest])} prompts"
            )
        yield from refused
        for name in sorted(by):
            order = np.random.default_rng([self.told.seed, 12, len(by[name])]).permutation(len(by[name]))
            yield from (by[name][at] for at in np.sort(order[:count]))


class Known:
    """Prompts that must not be drawn."""

    def __init__(self, prompts: Iterable[str]) -> None:
        found = [_plain(prompt) for prompt in prompts]
        self.whole = {" ".join(words) for words in found}
        self.sets = [frozenset(words) for words in found]
        self.by_word: dict[str, list[int]] = {}
        for number, words in enumerate(self.sets):
            for word in words:
                self.by_word.setdefault(word, []).append(number)

    def says(self, prompt: str, nearness: float) -> str:
        """Why a prompt is refused, or ''."""
        words = _plain(prompt)
        if " ".join(words) in self.whole:
            return "a prompt of an evaluation"
        mine = frozenset(words)
        # the rarest words first: whatever is near shares one of so few of them
        for word in sorted(mine, key=lambda w: len(self.by_word.get(w, ())))[: len(mine) // 3 + 1]:
            for number in self.by_word.get(word, ()):
                other = self.sets[number]
                if len(mine & other) >= nearness * len(mine | other):
                    return "near a prompt of an evaluation"
        return ""


_EMPTY = frozenset({"a", "an", "the", "of", "and", "in", "on", "with", "is", "are", "photo", "picture"})


def _plain(prompt: str) -> list[str]:
    """Words that carry a prompt, in one spelling."""
    found = _WORDS.findall(unicodedata.normalize("NFKC", prompt).casefold())
    return [word for word in found if word not in _EMPTY] or found


def _prompts(path: Path) -> Iterator[tuple[int, str, str]]:
    """(line, prompt, category) of a list. Raises ValueError for a line that is none."""
    for line in lines(path):
        where = f"{path}:{line.number}"
        if line.text is None:
            raise ValueError(f"{where}: a line of {line.size:,} bytes is no prompt")
        row: Any = (
            parse(line.text, where) if line.text.lstrip().startswith(b"{") else line.text.decode().strip()
        )
        prompt = row.get("prompt") if isinstance(row, dict) else row
        category = row.get("category", row.get("tag", "")) if isinstance(row, dict) else ""
        if not isinstance(prompt, str) or not isinstance(category, str) or not prompt.strip():
            raise ValueError(f"{where}: 'prompt' and 'category' must be texts")
        if len(prompt) > MAX_TEXT:
            raise ValueError(f"{where}: a prompt of {len(prompt):,} characters ({MAX_TEXT:,} at most)")
        yield line.number, prompt.strip(), category


@dataclass(frozen=True)
class DrawUnit:
    """Some prompts, drawn together into a tar with a record of how."""

    name: str
    told: Instructions
    asked: tuple[Asked, ...]

    @cached_property
    def key(self) -> str:
        from diptych.curation.embed import model_hash

        drawer = asdict(self.told.drawer)
        # where a server or a device is does not change what is drawn
        for manner in ("url", "key", "device"):
            drawer.pop(manner)
        made_by = model_hash(drawer["model"]) if drawer["model"] else ""
        told = [drawer, made_by, self.told.seed, [asdict(one) for one in self.asked]]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:24]

    def read(self, store: Path) -> Iterator[Place]:
        raise StopRun(f"{self.name}: pictures are drawn by workers that may open models")

    def draw(self, store: Path, shared: Shared) -> Iterator[Place]:
        """Its rows, as `Unit.read`; drawn once."""
        path = store / f"{self.key}.tar"
        if not path.is_file():
            store.mkdir(parents=True, exist_ok=True)
            self._draw(path, shared)
        places, failures = {}, {}
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if member.name == _TOLD:
                    handle = tar.extractfile(member)
                    assert handle is not None
                    failures = convert(dict[str, Any], parse(handle.read(), str(path)), str(path))["failed"]
                else:
                    places[member.name.removesuffix(".png")] = (member.offset_data, member.size)
        for one in self.asked:
            label = f"{one.category or 'prompt'}/{one.number:06d}"
            problem = one.problem or failures.get(str(one.number), "")
            if problem:
                yield Place(label, self.name, problem=problem)
            else:
                offset, size = places[f"{one.number:06d}"]
                yield Place(label, self.name, str(path.absolute()), offset, size, (one.prompt,))

    def _draw(self, path: Path, shared: Shared) -> None:
        drawer = self.told.drawer
        painter: _Ours | _Served = shared.get(
            ("drawer", drawer), lambda: _Ours(drawer, shared) if drawer.model else _Served(drawer)
        )
        failures: dict[str, str] = {}
        with whole(path) as aside, tarfile.open(aside, "w:", format=tarfile.USTAR_FORMAT) as tar:
            for one in self.asked:
                if one.problem:
                    continue
                try:
                    pixels = painter.draw(one.prompt, self.told.seed + one.number)
                except (NoAnswer, RequestError) as error:
                    failures[str(one.number)] = f"not drawn: {error}"
                    continue
                file = io.BytesIO()
                Image.fromarray(pixels).save(file, "PNG")
                _add(tar, f"{one.number:06d}.png", file.getvalue())
            drawn = sum(not one.problem for one in self.asked) - len(failures)
            record = {
                "drawer": asdict(drawer),
                "licence": drawer.licence,
                "drawn": drawn,
                "cost": round(drawn * drawer.price, 6),
                "tokens": painter.tokens,
                "failed": failures,
                "categories": {f"{one.number:06d}": one.category for one in self.asked if not one.problem},
            }
            _add(tar, _TOLD, to_json(record).encode())


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


class _Ours:
    """A model of ours."""

    tokens = 0

    def __init__(self, drawer: Drawer, shared: Shared) -> None:
        self.system = shared.system(drawer.model, drawer.device)
        if self.system is None:
            raise StopRun(f"{drawer.model} is no model of ours that draws")
        self.size = drawer.size

    def draw(self, prompt: str, seed: int) -> np.ndarray:
        from diptych.inference.draw import draw
        from diptych.planning.normalise import settle

        side = self.size or None
        plan = Plan(task=Task.TEXT_TO_IMAGE, prompt=prompt, width=side, height=side, seed=seed)
        # one at a time: a picture must not depend on what else is asked for
        return draw(self.system, [settle(plan, self.system.settings)])[0][0]


class _Served:
    """A server that draws."""

    def __init__(self, drawer: Drawer) -> None:
        self.drawer, self.tokens = drawer, 0
        self.server = Server(drawer.url, drawer.key, seconds=300.0)

    def draw(self, prompt: str, seed: int) -> np.ndarray:
        side = self.drawer.size or 1024
        question = {
            "model": self.drawer.served,
            "prompt": prompt,
            "n": 1,
            "size": f"{side}x{side}",
            "response_format": "b64_json",
        }
        pixels, tokens = self.server.ask("images/generations", question, _pixels)
        self.tokens += tokens
        return pixels


def _pixels(answer: Mapping[str, Any]) -> tuple[np.ndarray, int]:
    """A picture out of what such a server answers. Raises ValueError and its like for anything else."""
    found: Sequence[Any] = answer["data"]
    try:
        data = base64.b64decode(found[0]["b64_json"], validate=True)
    except binascii.Error as error:
        raise ValueError("a picture that is not base64") from error
    usage = answer.get("usage")
    tokens = usage.get("total_tokens") if isinstance(usage, dict) else 0
    return open_picture(data, "the answer"), tokens if isinstance(tokens, int) else 0
