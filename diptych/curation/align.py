"""Whether captions fit their picture: by the vectors of both, or by a model that is asked."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from diptych.contracts import Verifier
from diptych.curation.decode import Seen
from diptych.curation.embed import Encoder, check_model, model_hash, open_encoder
from diptych.curation.stage import (
    Batch,
    Shared,
    Stage,
    StopRun,
    Verdict,
    View,
    below,
    limit_of,
    manner,
    place,
    threshold,
)

MAX_PARTS = 48
"""Parts of a caption that are read: about two pages."""
_SENTENCES = re.compile(r"(?<=[.!?;。！？])\s+|\n+")


@dataclass(frozen=True, kw_only=True)
class _Scored(Stage):
    """A stage that gives each caption of a picture a score, and lets go where the best one is low."""

    min: float | None = threshold(None)
    """Least score that a picture's best caption must have."""
    share: float | None = threshold(None)
    """In its place: share of the pictures, the best ones, that is kept."""
    captions: str = "captions"
    """Column of the captions."""

    def needs(self) -> tuple[str, ...]:
        return (self.captions,)

    def gives(self) -> dict[str, pa.DataType]:
        return {"scores": pa.list_(pa.float32()), "best": pa.float32()}

    def judge(self, view: View) -> Verdict:
        column = f"{self.name}.best"
        best = view[column]
        limit = limit_of(view, best, self.min, self.share)
        return Verdict(below("wrong caption", best, limit, column))


def _columns(scores: Sequence[Sequence[float]]) -> Mapping[str, Sequence[Any]]:
    # the best of none is no number, and passes no threshold
    return {"scores": scores, "best": [max(row, default=float("nan")) for row in scores]}


@dataclass(frozen=True, kw_only=True)
class Alignment(_Scored):
    """Cosine similarity of picture and caption. A caption that is longer than the encoder reads is read in
    parts, and has the mean of their scores, weighted by their words.

    Its numbers say nothing without the model: 0.25 is much to one and little to another.
    """

    kind: ClassVar[str] = "alignment"

    folder: str = place("")
    """The encoder that made the vectors."""
    device: str = manner("auto")
    vectors: str = "embed.vector"
    """Column of the pictures' vectors."""

    def needs(self) -> tuple[str, ...]:
        return (self.captions, self.vectors)

    def model(self) -> str:
        return model_hash(self.folder)

    def check(self) -> None:
        check_model(self.name, self.folder)
        if self.min is not None and self.share is not None:
            raise ValueError(f"stage {self.name}: give either min or share, not both")

    def load(self, shared: Shared) -> Encoder:
        return open_encoder(shared, self.folder, self.device)

    def compute(self, batch: Batch, loaded: Encoder) -> Mapping[str, Sequence[Any]]:
        pictures = batch[self.vectors].astype(np.float32)
        cut = [[parts(text, loaded) for text in row] for row in batch[self.captions]]
        # each text once: captions repeat, and reading one costs more than all else here
        texts = {text: n for n, text in enumerate(dict.fromkeys(t for row in cut for c in row for t in c))}
        read = list(texts)
        vectors = [loaded.texts(read[at : at + 64]) for at in range(0, len(read), 64)]
        known = np.concatenate(vectors) if vectors else np.zeros((0, pictures.shape[1]), np.float32)
        if known.shape[1] != pictures.shape[1]:
            raise StopRun(
                f"stage {self.name}: {self.folder} makes vectors of {known.shape[1]} numbers, and "
                f"{self.vectors} holds {pictures.shape[1]}: it is of another model"
            )
        return _columns(
            [
                [_mean(picture, known[[texts[t] for t in caption]], caption) for caption in row]
                for picture, row in zip(pictures, cut, strict=True)
            ]
        )


def _mean(picture: np.ndarray, texts: np.ndarray, told: Sequence[str]) -> float:
    weights = np.array([len(text.split()) or 1 for text in told], dtype=np.float32)
    return float((texts @ picture) @ weights / weights.sum())


def parts(text: str, encoder: Encoder) -> list[str]:
    """A caption in parts that the encoder reads whole: sentences as far as they fit, else words."""
    # a token is a letter at least: what has fewer letters need not be counted
    if len(text) + 2 <= encoder.longest or encoder.tokens(text) <= encoder.longest:
        return [text]
    found: list[str] = []
    for sentence in filter(None, _SENTENCES.split(text)):
        joined = f"{found[-1]} {sentence}" if found else sentence
        if found and encoder.tokens(joined) <= encoder.longest:
            found[-1] = joined
        elif encoder.tokens(sentence) <= encoder.longest:
            found.append(sentence)
        else:
            found += _halved(sentence.split(), encoder)
        if len(found) >= MAX_PARTS:
            break
    return found[:MAX_PARTS] or [text]


def _halved(words: list[str], encoder: Encoder) -> list[str]:
    if len(words) < 2 or encoder.tokens(" ".join(words)) <= encoder.longest:
        return [" ".join(words)]
    middle = len(words) // 2
    return _halved(words[:middle], encoder) + _halved(words[middle:], encoder)


@dataclass(frozen=True, kw_only=True)
class Verify(_Scored):
    """A model is asked whether the picture shows what each caption says: the log-odds of yes."""

    kind: ClassVar[str] = "verify"
    costly: ClassVar[bool] = True

    judge_model: str = place("")
    """'vlm:MODEL': a folder of ours or of transformers, or 'hf:owner/name'; 'clip:MODEL' for a cosine."""
    device: str = manner("cpu")

    def model(self) -> str:
        kind, _, name = self.judge_model.partition(":")
        return f"{kind} {model_hash(name)}"

    def check(self) -> None:
        kind, _, name = self.judge_model.partition(":")
        if kind not in ("vlm", "clip") or not name:
            raise ValueError(
                f"stage {self.name}: {self.judge_model!r} names no judge; "
                f"--set {self.name}.judge_model=vlm:FOLDER"
            )
        model_hash(name)

    def load(self, shared: Shared) -> Verifier:
        from functools import partial

        import torch

        from diptych.inference.verifiers import load_verifier

        torch.set_num_threads(1)
        opener = partial(shared.system, device=self.device)
        found: Verifier = shared.get(
            ("judge", self.judge_model, self.device), lambda: load_verifier(self.judge_model, None, opener)
        )
        return found

    def look(self, seen: Seen, loaded: Verifier) -> np.ndarray:  # type: ignore[override]
        return seen.small

    def compute(self, batch: Batch, loaded: Verifier) -> Mapping[str, Sequence[Any]]:
        return _columns(
            [
                [float(loaded.score(text, [pixels])[0]) for text in captions]
                for captions, pixels in zip(batch[self.captions], batch.looked, strict=True)
            ]
        )
