"""Image spaces of the family on disk: features with what encodes and what draws them, or latents."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from diptych.encoders.features import FeatureEncoder, open_features
from diptych.files.folder import ModelFolderError, check_shapes
from diptych.files.typed import convert, read_json, to_json
from diptych.files.weights import all_finite, open_weights
from diptych.files.whole import whole, write_whole
from diptych.flow import SamplerConfig
from diptych.models.linear_dit import LinearDiT, LinearDiTConfig
from diptych.models.meta import without_storage
from diptych.spaces import LatentSpace, load_space, save_space
from diptych.spaces.detokenizers import LatentDetokenizer, UnetDetokenizer
from diptych.spaces.facts import KIND
from diptych.spaces.features import FeatureSpace, load_features, save_facts

ENCODER, DETOKENIZER, LATENTS = "encoder", "detokenizer", "space"
"""Folders within that of a space of features, and the latents of a detokenizer within its own."""


@dataclass(frozen=True, kw_only=True)
class LatentFolder:
    """config.json of a detokenizer that draws latents."""

    kind: str
    model: LinearDiTConfig
    sampler: SamplerConfig
    native: int
    reads: str


@dataclass(frozen=True, kw_only=True)
class UnetFolder:
    """config.json of a published detokenizer."""

    kind: str
    native: int
    num_steps: int
    guidance_scale: float


def load_any(folder: Path) -> FeatureSpace | LatentSpace:
    """The image space of a folder of ours. Raises ValueError for one that is not whole."""
    path = folder / "config.json"
    if convert(dict[str, Any], read_json(path), str(path)).get("kind") != KIND:
        return load_space(folder)
    encoder: FeatureEncoder | None = None
    if (folder / ENCODER).is_dir():
        encoder = open_features(folder / ENCODER)
    detokenizer = load_detokenizer(folder / DETOKENIZER) if (folder / DETOKENIZER).is_dir() else None
    return load_features(folder, encoder, detokenizer)


def save_any(space: FeatureSpace | LatentSpace, folder: Path) -> None:
    """Write what `load_any` reads."""
    if isinstance(space, LatentSpace):
        save_space(space, folder)
        return
    save_facts(space, folder)
    if space.encoder is not None:
        encoder: Any = space.encoder
        encoder.save(folder / ENCODER)
    if isinstance(space.detokenizer, LatentDetokenizer | UnetDetokenizer):
        save_detokenizer(space.detokenizer, folder / DETOKENIZER)


def load_detokenizer(folder: Path) -> LatentDetokenizer | UnetDetokenizer:
    """Raises ValueError for a folder that is not whole or of another kind."""
    path = folder / "config.json"
    values = convert(dict[str, Any], read_json(path), str(path))
    if values.get("kind") == "sdxl":
        about = convert(UnetFolder, values, str(path))
        unet = UnetDetokenizer.load(folder)
        unet.native, unet.num_steps, unet.guidance_scale = about.native, about.num_steps, about.guidance_scale
        return unet
    if values.get("kind") != "latents":
        raise ModelFolderError(f"{path}: kind must be 'latents' or 'sdxl', got {values.get('kind')!r}")
    told = convert(LatentFolder, values, str(path))
    stored = open_weights(folder)
    with without_storage():
        model = LinearDiT(told.model)
    expected = {name: tuple(empty.shape) for name, empty in model.state_dict().items()}
    check_shapes(expected, stored.shapes(), str(path))
    tensors = stored.all()
    all_finite(tensors.items(), folder)
    model.load_state_dict(tensors, assign=True)
    return LatentDetokenizer(model, load_space(folder / LATENTS), told.sampler, told.native, told.reads)


def save_detokenizer(detokenizer: LatentDetokenizer | UnetDetokenizer, folder: Path) -> None:
    """Write what `load_detokenizer` reads."""
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(detokenizer, UnetDetokenizer):
        detokenizer.save(folder)
        about: Any = UnetFolder(
            kind="sdxl",
            native=detokenizer.native,
            num_steps=detokenizer.num_steps,
            guidance_scale=detokenizer.guidance_scale,
        )
        write_whole(folder / "config.json", to_json(about))
        return
    about = LatentFolder(
        kind="latents",
        model=detokenizer.model.config,
        sampler=detokenizer.sampler,
        native=detokenizer.native,
        reads=detokenizer.reads,
    )
    write_whole(folder / "config.json", to_json(asdict(about)))
    save_space(detokenizer.space, folder / LATENTS)
    tensors = {name: tensor.contiguous() for name, tensor in detokenizer.model.state_dict().items()}
    with whole(folder / "model.safetensors") as aside:
        save_file(tensors, aside)
