"""Heads over a picture's vector: how it looks, whether it may be shown, whether it carries a watermark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from diptych.curation.embed import model_hash, read_settings
from diptych.curation.stage import (
    Batch,
    Shared,
    Stage,
    StopRun,
    Verdict,
    View,
    above,
    below,
    limit_of,
    place,
    threshold,
)
from diptych.files.folder import ModelFolderError, locate, opened

BETWEEN = ("none", "relu")
OUTPUTS = ("none", "sigmoid")


@dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """config.json of a head, beside its layers in model.safetensors: `0.weight` (out, in), `0.bias` (out),
    `1.weight` ..."""

    between: str = "none"
    """After every layer but the last: 'none' or 'relu'."""
    output: str = "none"
    """After the last: 'none' or 'sigmoid'."""
    unit: bool = True
    """Whether it reads vectors of length 1, as they are stored; else it cannot be used."""

    def __post_init__(self) -> None:
        if self.between not in BETWEEN or self.output not in OUTPUTS:
            raise ValueError(
                f"between must be one of {', '.join(BETWEEN)} and output one of {', '.join(OUTPUTS)}, got "
                f"{self.between!r}, {self.output!r}"
            )
        if not self.unit:
            raise ValueError("unit must be true: vectors are stored with length 1")


class Layers:
    """A head read from its folder. Raises ModelFolderError for one that is not whole."""

    def __init__(self, folder: str) -> None:
        path = locate(folder)
        self.config: HeadConfig = read_settings(HeadConfig, path / "config.json")
        with opened(path / "model.safetensors", "np") as file:
            names = list(file.keys())
            stored = {name: np.asarray(file.get_tensor(name), dtype=np.float32) for name in names}
        where, count = str(path / "model.safetensors"), len(stored) // 2
        wanted = [f"{n}.{part}" for n in range(count) for part in ("weight", "bias")]
        if not count or sorted(wanted) != sorted(stored):
            raise ModelFolderError(
                f"{where}: layers must be 0.weight, 0.bias, 1.weight ..., got {sorted(stored)}"
            )
        self.layers = [(stored[f"{n}.weight"], stored[f"{n}.bias"]) for n in range(count)]
        for n, (weight, bias) in enumerate(self.layers):
            reads = self.layers[n - 1][0].shape[0] if n else weight.shape[-1]
            if weight.ndim != 2 or bias.shape != weight.shape[:1] or weight.shape[1] != reads:
                raise ModelFolderError(f"{where}: layer {n} is {weight.shape} with a bias of {bias.shape}")
        if self.layers[-1][0].shape[0] != 1:
            raise ModelFolderError(
                f"{where}: a head ends in one number, this one in {len(self.layers[-1][1])}"
            )

    @property
    def width(self) -> int:
        return int(self.layers[0][0].shape[1])

    def __call__(self, vectors: np.ndarray) -> np.ndarray:
        """float32 (B, D) -> (B,)."""
        for n, (weight, bias) in enumerate(self.layers):
            vectors = vectors @ weight.T + bias
            if self.config.between == "relu" and n + 1 < len(self.layers):
                vectors = np.maximum(vectors, 0)
        found = vectors[:, 0]
        # the form that does not overflow: exp of a large negative number is 0
        return 0.5 * (1 + np.tanh(found / 2)) if self.config.output == "sigmoid" else found


@dataclass(frozen=True, kw_only=True)
class Head(Stage):
    """A score of the vector alone, such as "aesthetic", "safety" or "watermark": `name` says which."""

    kind: ClassVar[str] = "head"

    folder: str = place("")
    """With config.json and model.safetensors, see `HeadConfig`; what it holds counts, not where it lies."""
    vectors: str = "embed.vector"
    min: float | None = threshold(None)
    max: float | None = threshold(None)
    share: float | None = threshold(None)
    """In place of `min`: share of the pictures, the best ones, that is kept."""

    def needs(self) -> tuple[str, ...]:
        return (self.vectors,)

    def gives(self) -> dict[str, pa.DataType]:
        return {"score": pa.float32()}

    def model(self) -> str:
        return model_hash(self.folder)

    def check(self) -> None:
        if not self.folder:
            raise ModelFolderError(f"stage {self.name}: names no head; --set {self.name}.folder=FOLDER")
        try:
            Layers(self.folder)
        except ModelFolderError as error:
            raise ModelFolderError(f"stage {self.name}: {error}") from error

    def load(self, shared: Shared) -> Layers:
        found: Layers = shared.get(("head", model_hash(self.folder)), lambda: Layers(self.folder))
        return found

    def compute(self, batch: Batch, loaded: Layers) -> Mapping[str, Sequence[Any]]:
        vectors = batch[self.vectors].astype(np.float32)
        if vectors.shape[1] != loaded.width:
            raise StopRun(
                f"stage {self.name}: its head reads vectors of {loaded.width} numbers, and {self.vectors} "
                f"holds {vectors.shape[1]}: it was made for another encoder"
            )
        return {"score": loaded(vectors).tolist()}

    def judge(self, view: View) -> Verdict:
        column = f"{self.name}.score"
        scores = view[column]
        limit = limit_of(view, scores, self.min, self.share)
        low = below(f"{self.name} too low", scores, limit, column)
        return Verdict([*low, *above(f"{self.name} too high", scores, self.max, column)])
