"""A SANA model from one form on disk to another: our folder, diffusers' pipeline folder, the native
checkpoint file."""

from __future__ import annotations

import pickle
import re
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from diptych.encoders.gemma import GemmaEncoder
from diptych.files.folder import PICKLES, ModelFolderError
from diptych.files.weights import finite
from diptych.files.whole import whole, whole_folder
from diptych.flow import SamplerConfig
from diptych.models.linear_dit import convert as published
from diptych.spaces.latents import DiffusersAutoencoder
from diptych.systems.sana import NAME
from diptych.systems.sana.lora import merge_adapters, read_lora, settings_of, write_lora
from diptych.systems.sana.parts import Parts, denoiser, open_parts
from diptych.systems.sana.settings import SPRINT_SAMPLER
from diptych.systems.sana.system import SanaSystem

FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
"""Types of a native checkpoint's weights that are read."""
LORA = "lora-"
"""Begins the forms that are LoRA files."""


def convert(
    source: Path,
    out: Path,
    form: str,
    base: Path | None = None,
    cross_heads: int | None = None,
    lora: Path | None = None,
) -> list[str]:
    """Write `source` as `form`, with the adapters of the file `lora` merged into it; returns what the
    target's own code will compute otherwise, in words.

    A native checkpoint holds the denoiser alone: text encoder, autoencoder and sampler come from `base`, a
    published pipeline folder or one of ours. `out` appears whole or not at all. Raises ModelFolderError or
    ValueError for what cannot be converted.
    """
    if out.exists():
        raise ValueError(f"{out} exists already: choose another name or remove it first")
    endings = (".safetensors",) if form.startswith(LORA) else PICKLES
    # whoever reads it goes by the ending
    if (form.startswith(LORA) or form == NAME) and out.suffix not in endings:
        raise ValueError(f"{out}: the form {form!r} is a file that ends in {' or '.join(endings[:2])}")
    if form.startswith(LORA):
        for name, value in (("base", base), ("cross-heads", cross_heads), ("lora", lora)):
            if value is not None:
                raise ValueError(f"--{name} is for models; {source} is written as a LoRA file")
        _write_lora(source, out, form.removeprefix(LORA))
        return []
    writers: dict[str, Callable[[SanaSystem, Path], None]] = {
        "diptych": SanaSystem.save,
        "diffusers": _write_diffusers,
        "sana": _write_native,
    }
    if form not in writers:
        raise ValueError(f"the form must be one of {', '.join(writers)}, got {form!r}")
    system = SanaSystem.load(source) if source.is_dir() else from_checkpoint(source, base, cross_heads)
    if lora is not None:
        merge_adapters(system.model, read_lora(read_checkpoint(lora), settings_of(lora)))
        system.card = {**system.card, "parents": [*system.card.get("parents", []), lora.name]}
    with (whole if form == NAME else whole_folder)(out) as aside:
        writers[form](system, aside)
    if form == "diptych":
        return []
    target = "diffusers" if form == "diffusers" else "native"
    return published.conventions_lost(system.model.config, target, system.sampler.solver)


def _write_lora(source: Path, out: Path, style: str) -> None:
    """A LoRA file in another key style. Raises ValueError for a file that is no LoRA of SANA's."""
    weights = read_checkpoint(source)
    # the time layers of a model that embeds its guidance scale are named otherwise, and ours are not
    guided = any(re.search(r"time_embed[._](timestep|guidance)_embedder", key) for key in weights)
    tensors = write_lora(read_lora(weights, settings_of(source)), style, guided)
    with whole(out) as aside:
        save_file(tensors, aside)


def from_checkpoint(path: Path, base: Path | None, cross_heads: int | None = None) -> SanaSystem:
    """A system around a native checkpoint's denoiser."""
    if base is None:
        raise ValueError(
            f"{path} holds the denoiser alone: name with --base a folder whose text encoder and "
            "autoencoder go with it"
        )
    weights = read_checkpoint(path)
    for name, tensor in weights.items():
        if tensor.dtype not in FLOATS:
            raise ModelFolderError(
                f"{path}: {name} is of type {tensor.dtype}: quantised weights are not read"
            )
        finite(name, tensor, path)
    parts = open_parts(base)
    try:
        config = published.config_from_native(weights, cross_heads, **_told_positions(weights, parts))
    except KeyError as error:
        raise ModelFolderError(f"{path} is no native checkpoint: it has no {error}") from error
    model = denoiser(config, published.from_native(weights))
    # trained with the stored caption under the real one's mask, so drawn with it too, whatever `base` does
    null = published.native_null_caption(weights)
    # the sampler goes with the denoiser: a distilled one is of no use with the base's twenty steps
    sampler = SPRINT_SAMPLER if config.guidance_embedding else parts.sampler
    card = {
        "name": path.stem,
        "family": NAME,
        "parents": [path.name],
        "weights": "native checkpoint",
    }
    return SanaSystem(
        model,
        parts.text(None),
        parts.space,
        sampler,
        parts.native,
        "empty" if null is None else "caption_mask",
        null,
        card=card,
    )


def _told_positions(weights: dict[str, Tensor], parts: Parts) -> dict[str, Any]:
    """Where an empty table leaves open whether the model adds positions, a base of the same size tells."""
    stored, patch = weights.get("pos_embed"), parts.model.patch
    same = (
        stored is not None
        and stored.ndim > 1
        and stored.shape[-2] == (parts.model.position_base // patch) ** 2
    )
    if stored is None or not same or bool(stored.any()) or parts.model.position_scale is None:
        return {}
    return {"position_scale": parts.model.position_scale, "position_base": parts.model.position_base}


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Tensors of a native `.pth` or `.safetensors` file. A pickle that needs more than plain tensors is
    refused: it could run code."""
    if not path.is_file():
        raise ModelFolderError(f"{path} is neither a model folder nor a checkpoint file")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise ModelFolderError(
                f"{path} cannot be read ({error}): cut off, damaged or no safetensors file"
            ) from error
    _check_pickle(path)
    try:
        found: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelFolderError(
            f"{path} needs more than plain tensors to be read and could run code: refused"
        ) from error
    # its reader fails on damaged bytes in as many ways as there are: KeyError, UnicodeDecodeError ...
    except Exception as error:
        raise ModelFolderError(
            f"{path} cannot be read ({error}): cut off, damaged or no checkpoint"
        ) from error
    # training checkpoints hold the weights beside optimiser and step; released files may hold them bare
    found = found.get("state_dict", found) if isinstance(found, dict) else found
    if not isinstance(found, dict) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in found.items()
    ):
        raise ModelFolderError(f"{path} is no state dict of tensors")
    for name, tensor in found.items():
        if not _plain(tensor):
            raise ModelFolderError(
                f"{path}: {name} is no plain tensor: it is sparse, quantised or without values of its own"
            )
    return found


PACKED = 4
"""Bytes that a `.pth` may unpack to for each of its own; torch packs nothing, and weights pack badly."""


def _check_pickle(path: Path) -> None:
    """Raises ModelFolderError for a `.pth` that would take much more memory than it has bytes: told from what
    it says of its parts, before any is unpacked."""
    size = path.stat().st_size
    try:
        with zipfile.ZipFile(path) as parts:
            unpacked = sum(part.file_size for part in parts.infolist())
            if unpacked > max(PACKED * size, 2**20):
                raise ModelFolderError(
                    f"{path} has {size:,} bytes and unpacks to {unpacked:,}: refused, as no checkpoint of "
                    "weights does"
                )
            told = b"".join(
                parts.read(name) for name in parts.namelist() if name.rpartition("/")[2] == "data.pkl"
            )
    # those of before torch 1.6 are no archives: the pickle itself, and the values behind it
    except (zipfile.BadZipFile, OSError, NotImplementedError, RuntimeError, EOFError, zlib.error):
        with path.open("rb") as file:
            told = file.read(2**24)
    # torch lets a pickle ask for zeros of any number by this name, and no state dict does
    if b"bytearray" in told:
        raise ModelFolderError(f"{path} needs more than plain tensors to be read: refused")


def _plain(tensor: Tensor) -> bool:
    """Whether it is dense and the file holds all of its values: a view can claim any size."""
    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_meta:
        return False
    return tensor.untyped_storage().nbytes() >= tensor.numel() * tensor.element_size()


def _write_native(system: SanaSystem, out: Path) -> None:
    weights = published.to_native(dict(system.model.state_dict()), system.null_caption, system.model.config)
    try:
        torch.save({"state_dict": weights}, out)
    # its writer has no other class for a full disk, and no word of it
    except RuntimeError as error:
        raise ValueError(f"{out.parent} cannot be written: is the disk full? ({error})") from error


def _write_diffusers(system: SanaSystem, out: Path) -> None:
    import diffusers

    text, space = system.text, system.space.autoencoder
    if not isinstance(text, GemmaEncoder) or not isinstance(space, DiffusersAutoencoder):
        raise ValueError(
            "a diffusers folder needs a Gemma text encoder and an autoencoder of diffusers; this model "
            "has others"
        )
    values = published.config_to_diffusers(system.model.config)
    with torch.device("meta"):
        transformer = diffusers.SanaTransformer2DModel.from_config(values)
    # diffusers keeps no table of positions among the weights when there is none
    transformer.load_state_dict(
        published.to_diffusers(dict(system.model.state_dict())), strict=False, assign=True
    )
    parts = (text.tokenizer, text.model, space.model, transformer, _scheduler(system.sampler))
    guided = system.model.config.guidance_embedding
    made: Any = diffusers.SanaSprintPipeline(*parts) if guided else diffusers.SanaPipeline(*parts)
    made.save_pretrained(out, safe_serialization=True)


def _scheduler(sampler: SamplerConfig) -> Any:
    import diffusers

    # diffusers ties times to schedulers: only the DPM one gives whole times, see `parts.sampler_of`
    if sampler.solver == "trigflow":
        return diffusers.SCMScheduler()
    if sampler.solver == "euler":
        return diffusers.FlowMatchEulerDiscreteScheduler(shift=sampler.shift)
    return diffusers.DPMSolverMultistepScheduler(
        use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=sampler.shift
    )
