"""Captions by a model that sees: a transformers folder, or a server with an OpenAI-compatible address.

What was answered is kept beside the run, row by row: an answer that was paid for is never asked for again,
neither after a kill nor with other thresholds.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import io
import json
import os
import re
import secrets
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pyarrow as pa
from PIL import Image

from diptych.curation.decode import Seen, reduced
from diptych.curation.embed import check_model, model_hash
from diptych.curation.stage import Batch, Shared, Stage, StopRun, manner, place
from diptych.curation.wire import NoAnswer, Server, checked_url, key_of
from diptych.data.foreign import MAX_TEXT
from diptych.files import journal
from diptych.files.typed import parse

PROMPT = (
    "Describe this picture in one sentence: what it shows, its colours, its style. Answer with the sentence."
)
_THOUGHT = re.compile(r"<think>.*?</think>", re.DOTALL)
_LETTERS_A_TOKEN = 3
"""For servers that do not say what an answer cost."""


class Said(NamedTuple):
    text: str
    tokens: int
    """That were read and written for it."""


@dataclass(frozen=True, kw_only=True)
class Caption(Stage):
    """One more caption for each picture, by one model and one prompt; several such stages make several.

    `captions` of it are those that the row had, and the new one. A row whose question is refused or answered
    with nonsense ends here with that reason; a later run asks once more where the reason may have gone.
    """

    kind: ClassVar[str] = "caption"
    costly: ClassVar[bool] = True

    folder: str = place("")
    """Of transformers; or `url`."""
    url: str = manner("")
    """Of a server, such as http://localhost:8000/v1."""
    served: str = ""
    """What the server calls the model."""
    key: str = manner("")
    """Environment variable that holds the server's key."""
    prompt: str = PROMPT
    max_tokens: int = 256
    temperature: float = 0.0
    side: int = 512
    """Longest side that the model is shown, px."""
    captions: str = "captions"
    """Column of the captions that there are."""
    alone: bool = False
    """Whether the new caption takes the place of the others."""
    budget: int | None = manner(None)
    """Tokens that all runs in this folder may read and write; then the run stops."""
    seconds: float = manner(60.0)
    retries: int = manner(3)
    connections: int = manner(8)
    """Questions that one worker asks at a time."""
    device: str = manner("auto")

    def needs(self) -> tuple[str, ...]:
        return (self.captions,)

    def gives(self) -> dict[str, pa.DataType]:
        return {
            "captions": pa.list_(pa.string()),
            "text": pa.string(),
            "prompt": pa.string(),
            "by": pa.string(),
            "words": pa.int32(),
            "tokens": pa.int32(),
        }

    def model(self) -> str:
        return model_hash(self.folder) if self.folder else self.served

    def check(self) -> None:
        if bool(self.folder) == bool(self.url):
            raise ValueError(
                f"stage {self.name}: give either folder or url, got {self.folder!r}, {self.url!r}"
            )
        if self.folder:
            check_model(self.name, self.folder)
        else:
            checked_url(self.url)
            key_of(self.key)
            if not self.served:
                raise ValueError(
                    f"stage {self.name}: --set {self.name}.served=NAME says which model is asked"
                )
        if min(self.max_tokens, self.side, self.connections) < 1 or self.seconds <= 0 or self.retries < 0:
            raise ValueError(f"stage {self.name}: max_tokens, side, connections and seconds must be above 0")
        if self.temperature < 0 or not self.prompt.strip():
            raise ValueError(f"stage {self.name}: a prompt and a temperature of at least 0 are needed")

    def load(self, shared: Shared) -> _Teller:
        made: _Teller = shared.get(("caption", self), lambda: _Teller(self, shared.out))
        return made

    def look(self, seen: Seen, loaded: _Teller) -> tuple[str, np.ndarray]:  # type: ignore[override]
        return hashlib.sha256(seen.data).hexdigest(), reduced(seen.small, self.side)

    def compute(self, batch: Batch, loaded: _Teller) -> Mapping[str, Sequence[Any]]:
        told = loaded.tell(batch.looked)
        rows: dict[str, list[Any]] = {name: [] for name in self.gives()}
        for number, (said, before) in enumerate(zip(told, batch[self.captions], strict=True)):
            if isinstance(said, NoAnswer):
                batch.fail(number, f"no caption: {said}", again=said.again)
                said = Said("", 0)
            rows["captions"].append([*(() if self.alone else before), said.text])
            rows["text"].append(said.text)
            rows["prompt"].append(self.prompt_hash)
            rows["by"].append(self.model())
            rows["words"].append(len(said.text.split()))
            rows["tokens"].append(said.tokens)
        return rows

    @property
    def prompt_hash(self) -> str:
        told = [self.prompt, self.max_tokens, self.temperature, self.side]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]

    def asked_of(self) -> str:
        """Names the folder of the answers: model, prompt and how it is asked."""
        return hashlib.sha256(f"{self.model()} {self.prompt_hash}".encode()).hexdigest()[:16]


Keep = Callable[[str, Said], None]


class _Teller:
    """One worker's captions: what is known from before, and what is asked."""

    def __init__(self, stage: Caption, out: Path | None) -> None:
        self.stage = stage
        self.answers = None if out is None else Answers(out / "asked" / stage.asked_of())
        self.ledger = None if out is None else Ledger(out / "asked" / "tokens", stage.budget)
        self.source: _Served | _Loaded = _Served(stage, self.ledger) if stage.url else _Loaded(stage)

    def tell(self, pictures: Sequence[tuple[str, np.ndarray]]) -> list[Said | NoAnswer]:
        """What is said of each of (hash of its bytes, pixels)."""
        known = self.answers.known if self.answers is not None else {}
        # equal pictures of one batch are asked about once, and get one answer
        left = {key: pixels for key, pixels in pictures if key not in known}
        found: dict[str, Said | NoAnswer] = {**known, **dict(self.source.tell(left, self._keep))}
        return [found[key] for key, _ in pictures]

    def _keep(self, key: str, said: Said) -> None:
        if self.answers is not None:
            self.answers.add(key, said)


class _Served:
    """A server that is asked, several pictures at a time."""

    def __init__(self, stage: Caption, ledger: Ledger | None) -> None:
        self.stage, self.ledger = stage, ledger
        self.server = Server(stage.url, stage.key, stage.seconds, stage.retries)

    def tell(self, pictures: Mapping[str, np.ndarray], keep: Keep) -> Iterator[tuple[str, Said | NoAnswer]]:
        def one(key: str) -> Said | NoAnswer:
            said = self._one(pictures[key])
            if isinstance(said, Said):
                # at once, and not in order: others that were asked meanwhile may end the run
                keep(key, said)
            return said

        pool = ThreadPoolExecutor(self.stage.connections)
        try:
            yield from zip(pictures, pool.map(one, pictures), strict=True)
        finally:
            pool.shutdown(cancel_futures=True)

    def _one(self, pixels: np.ndarray) -> Said | NoAnswer:
        if self.ledger is not None:
            self.ledger.check()
        shown = {"type": "image_url", "image_url": {"url": data_url(pixels)}}
        question = {
            "model": self.stage.served,
            "messages": [{"role": "user", "content": [{"type": "text", "text": self.stage.prompt}, shown]}],
            "max_tokens": self.stage.max_tokens,
            "temperature": self.stage.temperature,
        }
        try:
            said = self.server.ask("chat/completions", question, _said)
        except NoAnswer as error:
            return error
        if self.ledger is not None:
            self.ledger.add(said.tokens)
        return said


def _said(answer: Any) -> Said:
    """A caption out of what such a server answers. Raises ValueError and its like for anything else."""
    content = answer["choices"][0]["message"]["content"]
    if isinstance(content, list):
        content = "".join(part["text"] for part in content if part["type"] == "text")
    text = caption_of(content)
    usage = answer.get("usage")
    tokens = usage.get("total_tokens") if isinstance(usage, dict) else None
    # what is no sane count is not believed: a budget is summed from it
    if not isinstance(tokens, int) or isinstance(tokens, bool) or not 0 <= tokens < 2**31:
        tokens = len(text) // _LETTERS_A_TOKEN + 1
    return Said(text, tokens)


class _Loaded:
    """A model of transformers, one picture at a time: in a batch it would round otherwise."""

    def __init__(self, stage: Caption) -> None:
        import torch

        from diptych.inference.verifiers import VisionLanguageModel

        torch.set_num_threads(1)
        chosen = ("cuda" if torch.cuda.is_available() else "cpu") if stage.device == "auto" else stage.device
        self.stage = stage
        self.model = VisionLanguageModel(stage.folder, chosen)

    def tell(self, pictures: Mapping[str, np.ndarray], keep: Keep) -> Iterator[tuple[str, Said | NoAnswer]]:
        for key, pixels in pictures.items():
            # seeded by the picture: a row says the same in whichever worker and order
            text, tokens = self.model.write(
                self.stage.prompt,
                pixels,
                max_tokens=self.stage.max_tokens,
                temperature=self.stage.temperature,
                seed=int(key[:12], 16),
            )
            try:
                said = Said(caption_of(text), tokens)
            except ValueError as error:
                yield key, NoAnswer(f"nonsense: {error}", again=False)
                continue
            keep(key, said)
            yield key, said


def caption_of(text: Any) -> str:
    """What a model said as a caption: on one line, without thoughts and quotes. Raises ValueError for what is
    none."""
    if not isinstance(text, str):
        raise ValueError("an answer that is no text")
    if len(text) > MAX_TEXT:
        raise ValueError(f"an answer of more than {MAX_TEXT:,} characters")
    said = " ".join(_THOUGHT.sub(" ", text).split())
    if len(said) > 1 and said[0] in "\"'“" and said[-1] in "\"'”":
        said = said[1:-1].strip()
    if not any(letter.isalnum() for letter in said):
        raise ValueError("an answer without a word")
    words = said.split()
    if len(words) > 20 and len(set(words)) * 5 < len(words):
        raise ValueError("an answer that repeats itself")
    if "\ufffd" in said or not said.isprintable():
        raise ValueError("an answer with characters that are none")
    return said


def data_url(pixels: np.ndarray) -> str:
    """A picture, uint8 (height, width, 3), as a server takes it."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="JPEG", quality=92)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


class Answers:
    """What was answered, a line each, in files that no two processes share."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.known: dict[str, Said] = {}
        for path in sorted(folder.glob("*.jsonl")):
            for key, said in _lines(path):
                # the first one: a second answer to the same question must not change what was taken from it
                self.known.setdefault(key, said)
        # a new one each time: what a kill cut off stays cut off, and is not written on
        self.path = folder / f"{os.getpid()}-{secrets.token_hex(4)}.jsonl"
        self._lock = threading.Lock()

    def add(self, key: str, said: Said) -> None:
        with self._lock:
            journal.append(self.path, [{"key": key, "text": said.text, "tokens": said.tokens}])
            self.known[key] = said


def _lines(path: Path) -> Iterable[tuple[str, Said]]:
    for line in path.read_bytes().splitlines(keepends=True):
        try:
            told = parse(line, str(path))
            yield str(told["key"]), Said(str(told["text"]), int(told["tokens"]))
        except (ValueError, KeyError, TypeError):
            # half a line that a kill left: its question is asked again
            continue


class Ledger:
    """Tokens that were spent in a folder, counted over all processes and runs."""

    def __init__(self, path: Path, budget: int | None) -> None:
        self.path, self.budget = path, budget
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()

    def check(self) -> None:
        """Raises StopRun where the budget is spent."""
        if self.budget is not None and (spent := self.spent()) >= self.budget:
            raise StopRun(
                f"{spent:,} tokens are spent, and the budget is {self.budget:,}; what is done is kept, and a "
                "larger budget goes on from here"
            )

    def spent(self) -> int:
        return int(self.path.read_text() or "0")

    def add(self, tokens: int) -> None:
        with self.path.open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            total = int(file.read() or "0") + tokens
            file.seek(0)
            # a total only grows, so what is written is never shorter than what it covers
            file.write(str(total))
