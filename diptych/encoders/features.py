"""Frozen encoders that see: pictures to the features of their patches.

EVA-CLIP's tower has a module of its own; CLIP, SigLIP and SigLIP2 come from transformers.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from diptych.files.folder import ModelFolderError, check_depth, check_shapes, read_config, refuse_code
from diptych.files.typed import to_json
from diptych.files.weights import all_finite, open_weights
from diptych.files.whole import whole, write_whole
from diptych.models.eva_clip import EvaTower, EvaTowerConfig, tower_config
from diptych.models.meta import without_storage

CLIP_MEAN, CLIP_DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
BATCH = 16
"""Pictures that are read at once."""
EVA, CONTRASTIVE = "eva_clip", "contrastive"
VISION_MODELS = {
    "clip": "CLIPVisionModel",
    "clip_vision_model": "CLIPVisionModel",
    "siglip": "SiglipVisionModel",
    "siglip_vision_model": "SiglipVisionModel",
}
"""Types of config -> the class of transformers that reads pictures. SigLIP2 of a fixed size has SigLIP's."""


class FeatureEncoder(Protocol):
    """Pictures -> features of their patches."""

    channels: int
    size: int
    """px a side of the pictures that it reads."""
    grid: int
    """Patches a side."""

    @property
    def model(self) -> nn.Module: ...

    def encode(self, pixels: Tensor) -> Tensor:
        """uint8 (P, 3, size, size) -> (P, channels, grid, grid), float32, without gradients."""
        ...

    def identity(self) -> str:
        """Names the encoder and all that its output depends on: caches are keyed by it."""
        ...

    def save(self, folder: Path) -> None:
        """Write the folder that `open_features` reads."""
        ...


def open_features(folder: Path) -> FeatureEncoder:
    """An encoder from a folder: of transformers (CLIP, SigLIP, SigLIP2), with EVA-CLIP's tower alone, or
    with a contrastive model that was trained here. Raises ModelFolderError for one that is not whole or of
    another kind."""
    if not (folder / "config.json").is_file():
        return EvaFeatures.load(folder)
    values = read_config(folder)
    if values.get("kind") == CONTRASTIVE:
        from diptych.encoders.contrastive import ContrastiveFeatures

        return ContrastiveFeatures.load(folder)
    if values.get("kind") == EVA:
        return EvaFeatures.load(folder, values.get("heads"))
    return TransformersFeatures.load(folder)


class _Frozen(ABC):
    """What encoders of both kinds share."""

    def __init__(
        self,
        model: Any,
        channels: int,
        size: int,
        patch: int,
        mean: tuple[float, ...] = CLIP_MEAN,
        deviation: tuple[float, ...] = CLIP_DEVIATION,
    ) -> None:
        self.model, self.channels, self.size, self.grid = (
            model.eval().requires_grad_(False),
            channels,
            size,
            size // patch,
        )
        self.mean, self.deviation = mean, deviation

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        if tuple(pixels.shape[-2:]) != (self.size, self.size):
            raise ValueError(
                f"this encoder reads pictures of {self.size}x{self.size} px, got "
                f"{pixels.shape[-1]}x{pixels.shape[-2]}"
            )
        like = next(iter(self.model.parameters()))
        parts = []
        for part in pixels.split(BATCH):
            x = part.to(like.device).float() / 255
            mean, deviation = (x.new_tensor(v).view(1, 3, 1, 1) for v in (self.mean, self.deviation))
            found = self._read(((x - mean) / deviation).to(like.dtype)).float()
            parts.append(found.transpose(1, 2).unflatten(2, (self.grid, self.grid)))
        return torch.cat(parts).contiguous()

    @abstractmethod
    def _read(self, pictures: Tensor) -> Tensor:
        """Normalised pictures -> (P, patches, channels), row by row."""

    def identity(self) -> str:
        digest = hashlib.sha256(f"{type(self).__name__} {self.size} {self.mean} {self.deviation}".encode())
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            # a sum each, not all bytes: billions of weights are only to be told from other ones
            digest.update(tensor.detach().float().sum().cpu().numpy().tobytes())
        return digest.hexdigest()[:16]


class EvaFeatures(_Frozen):
    """EVA-CLIP: the last block's features, as BLIP3-o's targets are made."""

    model: EvaTower

    def __init__(self, model: EvaTower) -> None:
        config = model.config
        super().__init__(model, config.width, config.grid * config.patch, config.patch)

    @classmethod
    def load(cls, folder: Path, heads: Any = None) -> EvaFeatures:
        """Weights by their published names."""
        stored = open_weights(folder)
        if heads is not None and not isinstance(heads, int):
            raise ModelFolderError(f"{folder / 'config.json'}: heads must be a number, got {heads!r}")
        try:
            config = tower_config(stored.shapes(), heads)
        except ValueError as error:
            raise ModelFolderError(f"{folder}: {error}") from error
        return cls(eva_tower(config, stored.shapes(), stored.all(), str(folder)))

    def _read(self, pictures: Tensor) -> Tensor:
        found: Tensor = self.model(pictures)
        return found

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / "config.json", to_json({"kind": EVA, "heads": self.model.config.heads}))
        with whole(folder / "model.safetensors") as aside:
            save_file({name: tensor.contiguous() for name, tensor in self.model.state_dict().items()}, aside)


def eva_tower(
    config: EvaTowerConfig,
    shapes: Mapping[str, tuple[int, ...]],
    values: Mapping[str, Tensor],
    where: str,
) -> EvaTower:
    """A tower that holds these tensors. Raises ModelFolderError where they are not those of the config."""
    with without_storage():
        model = EvaTower(config)
    check_shapes({n: tuple(t.shape) for n, t in model.state_dict().items()}, shapes, where)
    model.load_state_dict(dict(values), assign=True)
    return model


class TransformersFeatures(_Frozen):
    """CLIP's and SigLIP's towers: the last hidden states of the patches."""

    def __init__(self, model: Any, mean: tuple[float, ...], deviation: tuple[float, ...]) -> None:
        config = model.config
        super().__init__(
            model, int(config.hidden_size), int(config.image_size), int(config.patch_size), mean, deviation
        )

    @classmethod
    def load(cls, folder: Path) -> TransformersFeatures:
        """From a folder of the whole model, or of its vision tower: safetensors, no code of its own."""
        refuse_code(folder)
        values, where = read_config(folder), str(folder / "config.json")
        kind = str(values.get("model_type"))
        if kind not in VISION_MODELS:
            raise ModelFolderError(
                f"{where}: model_type {kind!r} is none of {', '.join(sorted(VISION_MODELS))}, nor is it one "
                "of EVA-CLIP"
            )
        stored = open_weights(folder)
        check_depth(values, stored, where)
        import transformers

        vision: Any = getattr(transformers, VISION_MODELS[kind])
        try:
            config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
            config = getattr(config, "vision_config", config)
            with without_storage():
                empty = vision(config)
            # of a whole model its tower alone; either form has this prefix, and its body goes by two names
            beginning = "vision_model."
            shapes = {n.removeprefix(beginning): s for n, s in stored.shapes().items()}
            expected = {n.removeprefix(beginning): tuple(t.shape) for n, t in empty.state_dict().items()}
            check_shapes(expected, {n: shapes[n] for n in shapes if n in expected}, where)
            model = vision.from_pretrained(folder, config=config, local_files_only=True, use_safetensors=True)
            all_finite(model.state_dict().items(), folder)
        except ModelFolderError:
            raise
        # transformers has an error class for each thing that a folder may lack
        except Exception as error:
            raise ModelFolderError(f"{folder}: the vision tower cannot be read ({error})") from error
        mean, deviation = _normalisation(folder, kind)
        return cls(model.float(), mean, deviation)

    def _read(self, pictures: Tensor) -> Tensor:
        found: Tensor = self.model(pixel_values=pictures).last_hidden_state
        # CLIP's first state is the class token's; SigLIP has none
        return found[:, -(self.grid**2) :]

    def save(self, folder: Path) -> None:
        self.model.save_pretrained(folder, safe_serialization=True)
        about = {"image_mean": list(self.mean), "image_std": list(self.deviation)}
        write_whole(folder / "preprocessor_config.json", to_json(about))


def _normalisation(folder: Path, kind: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of pictures: the folder's own, or those of its kind."""
    path = folder / "preprocessor_config.json"
    if not path.is_file():
        return (CLIP_MEAN, CLIP_DEVIATION) if kind.startswith("clip") else ((0.5,) * 3, (0.5,) * 3)
    from diptych.files.typed import convert, read_json

    values = convert(dict[str, Any], read_json(path), str(path))
    mean, deviation = (
        tuple(convert(list[float], values.get(name), f"{path}: {name}"))
        for name in ("image_mean", "image_std")
    )
    if len(mean) != 3 or len(deviation) != 3 or not all(deviation):
        raise ModelFolderError(f"{path}: image_mean and image_std must be three numbers, deviations above 0")
    return mean, deviation
