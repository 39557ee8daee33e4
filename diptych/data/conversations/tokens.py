"""Text to tokens, and documents: one sample as tokens with positions and labels. How a conversation is laid
out is told in `template.py`."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

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
OFTEN = 10
"""Times that a word must be met for a vocabulary to grow by it."""
MOST_WORDS = 8192
"""Tokens that a vocabulary may grow by at once."""


class TextTokenizer:
    """Byte-level BPE with a conversation's marks; any text can be encoded, and marks in a user's text are
    only text."""

    def __init__(self, tokenizer: Tokenizer, marks: Sequence[str] = SPECIAL) -> None:
        """`marks` are tokens that the conversation needs. Raises ValueError for a tokenizer without them."""
        parts = json.loads(tokenizer.to_str())
        added = parts["added_tokens"]
        self.ids = {token["content"]: token["id"] for token in added}
        """Number of each mark."""
        self._shown = {token["id"]: token["content"] for token in added if not token["special"]}
        if missing := [mark for mark in marks if mark not in self.ids]:
            raise ValueError(f"the tokenizer lacks the marks {', '.join(missing)}")
        # all that was added counts as a mark here, words of a thinking model too: typed by a user, marks are
        # cut into ordinary pieces, so that a prompt cannot forge a turn or a thought
        parts["added_tokens"] = [token | {"special": True} for token in added]
        self._encoder = Tokenizer.from_str(json.dumps(parts))
        self._encoder.encode_special_tokens = True
        self.inner = tokenizer

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int, marks: Sequence[str] = SPECIAL) -> TextTokenizer:
        """Learn a vocabulary; every word of the texts is one token where the size allows."""
        tokenizer = Tokenizer(models.BPE())
        _cut(tokenizer)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=list(marks),
            # all 256 bytes, whether the texts have them or not: nothing is unknown later
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        tokenizer.train_from_iterator(texts, trainer)
        return cls(tokenizer, marks)

    def grown(self, texts: Iterable[str]) -> tuple[TextTokenizer, list[list[int]]]:
        """A vocabulary in which every word that the texts have often is one token, and for each new token
        the old ones that it stands for.

        The merges go on where they ended: what is one token already stays that one. Raises ValueError for a
        tokenizer that is no byte-level BPE of this kind.
        """
        parts = json.loads(self.inner.to_str())
        cuts = parts["pre_tokenizer"] or {}
        kinds = {cut["type"] for cut in cuts.get("pretokenizers", [cuts])}
        if parts["model"]["type"] != "BPE" or not kinds <= {"ByteLevel", "Split"} or parts["decoder"] is None:
            raise ValueError("only a vocabulary that was learnt here can grow: byte-level BPE")
        tokenizer = Tokenizer.from_str(self.inner.to_str())
        _cut(tokenizer)
        words: Counter[str] = Counter()
        for text in texts:
            words.update(word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text))
        vocabulary = dict(parts["model"]["vocab"])
        split = {word: [piece.value for piece in tokenizer.model.tokenize(word)] for word in words}
        merges: list[list[str]] = []
        whole: dict[str, list[int]] = {}
        while len(whole) < MOST_WORDS and (pair := _commonest(split, words)):
            merges.append(list(pair))
            joined = "".join(pair)
            if joined not in vocabulary:
                vocabulary[joined] = len(vocabulary)
                whole[joined] = [number for piece in pair for number in whole.get(piece, [vocabulary[piece]])]
            split = {word: _joined(pieces, pair) for word, pieces in split.items()}
        parts = json.loads(tokenizer.to_str())
        parts["model"]["vocab"], parts["model"]["merges"] = vocabulary, parts["model"]["merges"] + merges
        return TextTokenizer(Tokenizer.from_str(json.dumps(parts)), tuple(self.ids)), list(whole.values())

    @classmethod
    def load(cls, path: Path, marks: Sequence[str] = SPECIAL) -> TextTokenizer:
        """Raises ValueError for a file that is missing or holds no tokenizer with these marks."""
        if not path.is_file():
            raise ValueError(f"{path} is missing")
        try:
            inner = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises nothing narrower
            raise ValueError(f"{path} holds no tokenizer ({error})") from error
        return cls(inner, marks)

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
        return self._encoder.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of tokens, stripped; marks of turns and pictures say nothing."""
        return self.decode_exactly(ids).strip()

    def decode_exactly(self, ids: Sequence[int]) -> str:
        """The text of tokens with its white space. Marks that are words (thoughts, tools) are shown."""
        said: list[str] = []
        run: list[int] = []
        for token in ids:
            if token in self._shown:
                said += [self._encoder.decode(run), self._shown[token]]
                run = []
            else:
                run.append(token)
        return "".join([*said, self._encoder.decode(run, skip_special_tokens=True)])


def _cut(tokenizer: Tokenizer) -> None:
    """How texts are cut before their bytes are merged."""
    # with a space before it, a word at the beginning is the same token as within a sentence
    words = pre_tokenizers.ByteLevel(add_prefix_space=True)
    # Chinese has no spaces: without a cut at each sign whole sentences would be words. A sign is three bytes
    # here, of which the first is E4 to E9, as in nothing else
    signs = pre_tokenizers.Split(Regex("[ä-é].."), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, signs])


def _commonest(split: dict[str, list[str]], words: Counter[str]) -> tuple[str, str] | None:
    """The pair of pieces that stand side by side most often, the first in order of several; None where none
    does often."""
    pairs: Counter[tuple[str, str]] = Counter()
    for word, pieces in split.items():
        for pair in pairwise(pieces):
            pairs[pair] += words[word]
    best = min(pairs, key=lambda pair: (-pairs[pair], pair), default=None)
    return best if best and pairs[best] >= OFTEN else None


def _joined(pieces: list[str], pair: tuple[str, str]) -> list[str]:
    joined: list[str] = []
    for piece in pieces:
        if joined and (joined[-1], piece) == pair:
            joined[-1] += piece
        else:
            joined.append(piece)
    return joined


@dataclass
class Document:
    """One sample as tokens; arrays of length N."""

    ids: np.ndarray
    kind: np.ndarray
    positions: np.ndarray
    """(N, 3): t, h, w."""
    picture: np.ndarray
    """Number of the copy of a picture or clip within the document, -1 for text."""
    dead: np.ndarray
    labels: np.ndarray
    """The token to predict at each place, NO_LABEL where none."""
    clean: list[np.ndarray]
    """Read frames (height, width, 3), those of a clip one after the other."""
    noisy: list[np.ndarray]
    """To draw: pictures (height, width, 3) and clips (frames, height, width, 3)."""
    task: str

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def times(self) -> np.ndarray:
        """The time of each token for what it may see: frames of a clip share that of the first."""
        times = self.positions[:, 0].copy()
        for number in np.unique(self.picture[self.picture >= 0]):
            times[self.picture == number] = times[self.picture == number].min()
        return times
