"""Pictures as vectors, computed once: what alignment, heads, clusters and near-duplicates read."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa
from PIL import Image

from diptych.curation.decode import Seen
from diptych.curation.stage import Batch, Shared, Stage, StopRun, manner, place, vector
from diptych.files.folder import ModelFolderError, locate, read_config
from diptych.files.typed import convert, read_json
from diptych.files.whole import checksum

if TYPE_CHECKING:
    import torch

WEIGHED = (".json", ".safetensors", ".txt", ".model")
"""Endings of the files of a model that its results depend on."""


def model_hash(name: str) -> str:
    """SHA-256 of a model's files, whatever its folder is called; of weights, tokenizer and preprocessing."""
    if not name:
        raise ModelFolderError("no model is named: give the folder of one")
    folder = locate(name)
    files = sorted(p for p in folder.iterdir() if p.suffix in WEIGHED and p.name != "card.json")
    return _hash_of(tuple((p, p.stat().st_size, p.stat().st_mtime_ns) for p in files))


@lru_cache(maxsize=64)
def _hash_of(files: tuple[tuple[Path, int, int], ...]) -> str:
    digest = hashlib.sha256()
    for path, _, _ in files:
        digest.update(f"{path.name}\0{checksum(path)}\0".encode())
    return digest.hexdigest()[:24]


@dataclass(frozen=True)
class Preparation:
    """How an encoder wants its pictures: resized, cut, and moved to its mean and deviation.

    Written down here, and not left to the model's own processor, as that one takes longer than the encoder of
    a small model; what comes out is the same.
    """

    short: int
    """Shorter side after resizing, px; 0 where `height` and `width` are the sides."""
    height: int
    width: int
    """Sides after cutting at the centre."""
    resample: int
    factor: float
    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    @classmethod
    def of(cls, processor: Any, where: str) -> Preparation:
        """Raises ModelFolderError for a processor that does something else."""
        told: dict[str, Any] = processor.to_dict()
        size, crop = dict(told.get("size") or {}), dict(told.get("crop_size") or {})
        short = int(size.get("shortest_edge") or 0)
        cut = bool(told.get("do_center_crop"))
        sides = crop if cut else size
        plain = all(told.get(f"do_{step}", True) for step in ("resize", "rescale", "normalize"))
        if not plain or "height" not in sides or "width" not in sides or (short and not cut):
            raise ModelFolderError(
                f"{where}: its processor does not resize pictures to one size, so they cannot be embedded"
            )
        if cut and not short and (size.get("height"), size.get("width")) != (sides["height"], sides["width"]):
            raise ModelFolderError(f"{where}: its processor resizes to one size and cuts another")
        return cls(
            short,
            int(sides["height"]),
            int(sides["width"]),
            int(told["resample"]),
            float(told["rescale_factor"]),
            tuple(told["image_mean"]),
            tuple(told["image_std"]),
        )

    def pixels(self, seen: Seen) -> np.ndarray:
        """uint8 (height, width, 3) of a picture."""
        need = self.short or max(self.height, self.width)
        source = seen.small if min(seen.small.shape[:2]) >= need else seen.pixels
        height, width = source.shape[:2]
        if not self.short:
            return _resized(source, self.width, self.height, self.resample)
        # the longer side is cut off and not rounded: so published processors do
        sides = self.short, int(self.short * max(height, width) / min(height, width))
        wide, high = sides if width <= height else sides[::-1]
        if max(sides) > 64 * self.short:
            # a thread of a picture: only its middle is seen, and resized whole it would fill the memory
            return _resized(source, self.width, self.height, self.resample)
        image = _resized(source, wide, high, self.resample)
        top, left = (high - self.height) // 2, (wide - self.width) // 2
        return image[top : top + self.height, left : left + self.width]

    def values(self, pixels: Sequence[np.ndarray]) -> torch.Tensor:
        """float32 (B, 3, height, width)."""
        import torch

        batch = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() * self.factor
        mean, deviation = (torch.tensor(v)[:, None, None] for v in (self.mean, self.deviation))
        return (batch - mean) / deviation


def _resized(pixels: np.ndarray, width: int, height: int, resample: int) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling(resample)))


class Encoder:
    """A CLIP or SigLIP model of a folder: pictures and texts to vectors of length 1."""

    def __init__(self, folder: str, device: str) -> None:
        import torch

        from diptych.inference.verifiers import Similarity

        # one: workers share the processors, and sums of another number of threads round otherwise
        torch.set_num_threads(1)
        chosen = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        self.model = Similarity(folder, chosen)
        self.prepare = Preparation.of(self.model.processor.image_processor, folder)
        tokenizer: Any = self.model.processor.tokenizer
        self.tokenizer = tokenizer
        positions = getattr(self.model.model.config.text_config, "max_position_embeddings", 64)
        # of tokenizers that know no limit, it is a huge number
        self.longest = min(int(tokenizer.model_max_length), int(positions))

    def pictures(self, pixels: Sequence[np.ndarray]) -> np.ndarray:
        """float32 (B, D) of prepared pictures."""
        return _unit(self.model.pictures(self.prepare.values(pixels)))

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """float32 (B, D)."""
        return _unit(self.model.texts(texts))

    def tokens(self, text: str) -> int:
        """Tokens of a text, its first and last marks included."""
        return len(self.tokenizer(text)["input_ids"])


def _unit(vectors: torch.Tensor) -> np.ndarray:
    found = vectors.float().cpu()
    return (found / found.norm(dim=1, keepdim=True).clamp(min=1e-12)).numpy()


def open_encoder(shared: Shared, folder: str, device: str) -> Encoder:
    """The encoder of a folder, once a worker, however many stages read it."""
    found: Encoder = shared.get(("encoder", model_hash(folder), device), lambda: Encoder(folder, device))
    return found


def width_of(folder: str) -> int:
    """Numbers of a vector. Raises ModelFolderError where the config of the folder does not tell."""
    config = read_config(locate(folder))
    part = config.get("vision_config")
    inner = part if isinstance(part, dict) else {}
    width = config.get("projection_dim", inner.get("hidden_size"))
    if not isinstance(width, int) or not 0 < width <= 2**16:
        raise ModelFolderError(
            f"{folder}/config.json tells no projection_dim, so it is no CLIP or SigLIP model"
        )
    return width


@dataclass(frozen=True, kw_only=True)
class Embed(Stage):
    """A picture's vector by a CLIP or SigLIP model, of length 1 and in float16."""

    kind: ClassVar[str] = "embed"

    folder: str = place("")
    """Of transformers, or 'hf:owner/name'; what it holds counts, not where it lies."""
    device: str = manner("auto")

    def gives(self) -> dict[str, pa.DataType]:
        return {"vector": vector(width_of(self.folder))}

    def model(self) -> str:
        return model_hash(self.folder)

    def check(self) -> None:
        check_model(self.name, self.folder)

    def load(self, shared: Shared) -> Encoder:
        return open_encoder(shared, self.folder, self.device)

    def look(self, seen: Seen, loaded: Encoder) -> np.ndarray:  # type: ignore[override]
        return loaded.prepare.pixels(seen)

    def compute(self, batch: Batch, loaded: Encoder) -> Mapping[str, Sequence[Any]]:
        vectors = loaded.pictures(batch.looked)
        if vectors.shape[1] != (width := width_of(self.folder)):
            raise StopRun(
                f"{self.folder}: gives vectors of {vectors.shape[1]} numbers, its config says {width}"
            )
        found: list[np.ndarray | None] = list(vectors.astype(np.float16))
        for number, row in enumerate(vectors):
            if not np.isfinite(row).all():
                batch.fail(number, "its vector holds NaN")
                found[number] = None
        return {"vector": found}


def check_model(name: str, folder: str) -> None:
    """Raises ModelFolderError for a model that no stage `name` could read."""
    if not folder:
        raise ModelFolderError(f"stage {name}: names no model; --set {name}.folder=FOLDER")
    try:
        path = locate(folder)
    except ModelFolderError as error:
        raise ModelFolderError(f"stage {name}: {error}") from error
    read_config(path)
    if not (path / "preprocessor_config.json").is_file() and not (path / "processor_config.json").is_file():
        raise ModelFolderError(f"stage {name}: {folder} has no preprocessor_config.json: no model that sees")


def read_settings(kind: type[Any], path: Path) -> Any:
    """A typed value of a JSON file. Raises ModelFolderError with the file's name."""
    try:
        return convert(kind, read_json(path), str(path))
    except ValueError as error:
        raise ModelFolderError(str(error)) from error
