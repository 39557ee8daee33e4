"""Samples to tokens: the text tokenizer, the conversation template, positions and labels."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from diptych.contracts import CLEAN, NOISY, TEXT, Picture, Sample
from diptych.files.whole import whole

SPECIAL = (
    "<|pad|>",
    "<|user|>",
    "<|assistant|>",
    "<|system|>",
    "<|end|>",
    "<img>",
    "</img>",
    "<IMG_CONTEXT>",
)
NO_LABEL = -100


class TextTokenizer:
    """Byte-level BPE with the conversation's marks; any text can be encoded, and marks in a user's text are
    only text."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.inner = tokenizer
        found = {mark: tokenizer.token_to_id(mark) for mark in SPECIAL}
        self.ids = {mark: number for mark, number in found.items() if number is not None}
        missing = [mark for mark in SPECIAL if mark not in self.ids]
        if missing:
            raise ValueError(f"the tokenizer lacks the marks {', '.join(missing)}")
        # marks typed by a user are cut into ordinary pieces, so that a prompt cannot forge a turn
        tokenizer.encode_special_tokens = True

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> TextTokenizer:
        """Learn a vocabulary; every word of the texts is one token where the size allows."""
        tokenizer = Tokenizer(models.BPE())
        # with a space before it, a word at the beginning is the same token as within a sentence
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=list(SPECIAL),
            # all 256 bytes, whether the texts have them or not: nothing is unknown later
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        tokenizer.train_from_iterator(texts, trainer)
        return cls(tokenizer)

    @classmethod
    def load(cls, path: Path) -> TextTokenizer:
        """Raises ValueError for a file that is missing or holds no tokenizer of ours."""
        if not path.is_file():
            raise ValueError(f"{path} is missing")
        try:
            inner = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises nothing narrower
            raise ValueError(f"{path} holds no tokenizer ({error})") from error
        return cls(inner)

    def save(self, path: Path) -> None:
        """Write the file whole or not at all: other ranks of a run may look for it at this moment."""
        with whole(path) as aside:
            self.inner.save(str(aside))

    @property
    def vocab_size(self) -> int:
        return self.inner.get_vocab_size()

    @property
    def has_capitals(self) -> bool:
        """Whether it was learnt from texts with capital letters: else a word with one is no token of its."""
        pieces = set(self.inner.get_vocab()) - set(SPECIAL)
        return any(len(piece) > 1 and re.search("[A-Z]", piece) for piece in pieces)

    def encode(self, text: str) -> list[int]:
        return self.inner.encode(text, add_special_tokens=False).ids

    def decode(self, ids: list[int]) -> str:
        return self.inner.decode(ids, skip_special_tokens=True).strip()


@dataclass
class Document:
    """One sample as tokens; arrays of length N."""

    ids: np.ndarray
    kind: np.ndarray
    positions: np.ndarray
    """(N, 3): t, h, w."""
    picture: np.ndarray
    """Number of the picture copy within the document, -1 for text."""
    dead: np.ndarray
    labels: np.ndarray
    """The token to predict at each place, NO_LABEL where none."""
    clean: list[np.ndarray]
    noisy: list[np.ndarray]
    task: str

    def __len__(self) -> int:
        return len(self.ids)


class _Writer:
    def __init__(self, marks: dict[str, int]) -> None:
        self.marks = marks
        self.ids: list[int] = []
        self.kind: list[int] = []
        self.positions: list[tuple[int, int, int]] = []
        self.picture: list[int] = []
        self.dead: list[bool] = []
        self.predicted: list[bool] = []
        self.clean: list[np.ndarray] = []
        self.noisy: list[np.ndarray] = []
        self.time = 0
        self.copies = 0

    def text(self, ids: Iterable[int], predicted: bool = False, dead: bool = False) -> None:
        for token in ids:
            self._put(token, TEXT, (self.time, 0, 0), -1, dead, predicted)
            self.time += 1

    def image(self, pixels: np.ndarray, token: int, noisy: bool) -> None:
        rows, columns = pixels.shape[0] // token, pixels.shape[1] // token
        for h in range(rows):
            for w in range(columns):
                self._put(
                    self.marks["<IMG_CONTEXT>"],
                    NOISY if noisy else CLEAN,
                    # one time for the whole picture; rows and columns place its tokens
                    (self.time, h, w),
                    self.copies,
                    False,
                    False,
                )
        self.time += 1
        self.copies += 1
        (self.noisy if noisy else self.clean).append(pixels)

    def _put(
        self, token: int, kind: int, position: tuple[int, int, int], picture: int, dead: bool, predicted: bool
    ) -> None:
        self.ids.append(token)
        self.kind.append(kind)
        self.positions.append(position)
        self.picture.append(picture)
        self.dead.append(dead)
        self.predicted.append(predicted)

    def document(self, task: str) -> Document:
        ids = np.array(self.ids, dtype=np.int64)
        labels = np.full(len(ids), NO_LABEL, dtype=np.int64)
        told = np.flatnonzero(self.predicted)
        # a token is predicted from the slot before it; a role mark comes first and is not predicted, so no
        # place wraps round
        labels[told - 1] = ids[told]
        return Document(
            ids,
            np.array(self.kind, dtype=np.int64),
            np.array(self.positions, dtype=np.int64).reshape(-1, 3),
            np.array(self.picture, dtype=np.int64),
            np.array(self.dead, dtype=bool),
            labels,
            self.clean,
            self.noisy,
            task,
        )


def write(
    sample: Sample, tokenizer: TextTokenizer, token: int, drop_text: bool = False, drop_pictures: bool = False
) -> Document:
    """A sample as tokens of `token` px pictures.

    Template: [user] parts [end] [assistant] parts [end]. A read picture is <img> tokens </img>. A drawn
    picture at the end of a sample is <img> and noisy tokens; one with something after it stands twice, noisy
    and then clean at the same positions, with the doubled marks dead as keys. `drop_text` and `drop_pictures`
    empty the other roles' turns (guidance training).

    Raises ValueError for a picture whose sides are no multiples of `token`.
    """
    marks = tokenizer.ids
    out = _Writer(marks)
    # a picture that nothing follows needs no clean copy: nobody reads it
    last = sample.turns[-1].parts[-1] if sample.turns and sample.turns[-1].parts else None
    for turn in sample.turns:
        own = turn.role == "assistant"
        out.text([marks[f"<|{turn.role}|>"]])
        ends_drawn = False
        for part in turn.parts:
            if isinstance(part, str):
                if own or not drop_text:
                    out.text(tokenizer.encode(part), predicted=own)
                continue
            height, width = part.pixels.shape[:2]
            if height % token or width % token:
                raise ValueError(
                    f"{sample.origin or 'sample'}: picture of {width}x{height} px; sides must be "
                    f"multiples of {token}"
                )
            if part.drawn:
                out.text([marks["<img>"]])
                if part is last:
                    out.image(part.pixels, token, noisy=True)
                    ends_drawn = True
                else:
                    _twice(out, part, token)
            elif own or not drop_pictures:
                out.text([marks["<img>"]])
                out.image(part.pixels, token, noisy=False)
                out.text([marks["</img>"]])
        # after the noisy tokens there is nothing to say: drawing ends by its last step, not by a mark
        if not ends_drawn:
            out.text(
                [marks["<|end|>"]], predicted=own and isinstance(turn.parts[-1], str) if turn.parts else False
            )
    return out.document(sample.task)


def _twice(out: _Writer, part: Picture, token: int) -> None:
    # back to the time of <img>: the clean copy stands where the noisy one stood, and what follows goes on as
    # if there were one picture
    start = out.time - 1
    out.image(part.pixels, token, noisy=True)
    out.text([out.marks["</img>"]], dead=True)
    out.time = start
    out.text([out.marks["<img>"]], dead=True)
    out.image(part.pixels, token, noisy=False)
    out.text([out.marks["</img>"]])


def drawing_prefix(
    sample: Sample, tokenizer: TextTokenizer, token: int, drop_text: bool = False, drop_pictures: bool = False
) -> Document:
    """Everything before the picture that is to be drawn: the turns, [assistant] and <img>."""
    document = write(sample, tokenizer, token, drop_text, drop_pictures)
    # ends where `write` puts the noisy tokens, at the same positions: drawing continues as training saw it
    return _append(document, [tokenizer.ids["<|assistant|>"], tokenizer.ids["<img>"]])


def answer_prefix(sample: Sample, tokenizer: TextTokenizer, token: int) -> Document:
    """Everything before the answer: the turns and [assistant]."""
    return _append(write(sample, tokenizer, token), [tokenizer.ids["<|assistant|>"]])


def _append(document: Document, ids: list[int]) -> Document:
    count = len(ids)
    time = int(document.positions[:, 0].max()) + 1 if len(document) else 0
    positions = np.zeros((count, 3), dtype=np.int64)
    positions[:, 0] = np.arange(time, time + count)
    return Document(
        np.concatenate([document.ids, ids]),
        np.concatenate([document.kind, [TEXT] * count]),
        np.concatenate([document.positions, positions]),
        np.concatenate([document.picture, [-1] * count]),
        np.concatenate([document.dead, [False] * count]),
        np.concatenate([document.labels, [NO_LABEL] * count]),
        document.clean,
        document.noisy,
        document.task,
    )
