"""What a model folder holds, ours or published: what is small is read at once, the denoiser's and the text
encoder's weights when they are asked for."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diptych.data.conversations.tokens import TextTokenizer
from diptych.encoders.gemma import GemmaEncoder, published_instruction
from diptych.encoders.learned import LearnedEncoder
from diptych.files import folder as model_folder
from diptych.files import weights as weight_files
from diptych.files.typed import convert
from diptych.files.weights import Beneath
from diptych.flow import SamplerConfig
from diptych.models.caption_encoder import CaptionEncoder, CaptionEncoderConfig
from diptych.models.linear_dit import FRAME_PARTS, LinearDiT, LinearDiTConfig
from diptych.models.linear_dit import convert as published
from diptych.models.meta import without_storage
from diptych.spaces import LatentSpace, load_space
from diptych.systems.sana import INDEX, NAME
from diptych.systems.sana.settings import blamed_on, read_contents, read_published

Encoder = GemmaEncoder | LearnedEncoder


@dataclass(frozen=True, kw_only=True)
class GemmaFolder:
    instruction: str
    lowercase: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class Parts:
    """A model folder that was opened."""

    model: LinearDiTConfig
    sampler: SamplerConfig
    native: int
    null: str
    null_caption: Tensor | None
    control: str
    card: dict[str, Any]
    space: LatentSpace
    weights: Mapping[str, Tensor]
    """The denoiser's, by our names, each read from disk when it is asked for."""
    all_weights: Callable[[], Mapping[str, Tensor]]
    """The same at once, mapped into memory instead of copied."""
    text: Callable[[torch.dtype | None], Encoder]
    learned: Mapping[str, Tensor] | None
    """Weights of a text encoder that learns with the denoiser; None for a frozen one."""


def open_parts(folder: Path) -> Parts:
    """Raises ModelFolderError for a folder that is not whole or of another kind."""
    return _published(folder) if (folder / INDEX).is_file() else _ours(folder)


def _ours(folder: Path) -> Parts:
    config = read_contents(folder)
    stored = weight_files.open_weights(folder)
    with blamed_on(folder):
        fields = dict(config.text)
        where, kind = f"{folder / 'config.json'}.text", fields.pop("kind", None)
        if kind not in ("gemma", "learned"):
            raise ValueError(f"{where}: kind must be 'gemma' or 'learned', got {kind!r}")
        learned = Beneath(stored, "text.") if kind == "learned" else None

        def text(dtype: torch.dtype | None) -> Encoder:
            if learned is None:
                about = convert(GemmaFolder, fields, where)
                encoder = GemmaEncoder.load(
                    folder / "text_encoder", folder / "tokenizer", about.instruction, dtype
                )
                # published pipelines lower-case; a folder of ours says for itself
                encoder.lowercase = about.lowercase
                return encoder
            model_folder.check_depth(fields, learned, where)
            model = CaptionEncoder(convert(CaptionEncoderConfig, fields, where))
            # small, and its errors go through every step: float32 whatever the folder's precision
            model.load_state_dict({name: tensor.float() for name, tensor in learned.items()})
            return LearnedEncoder(model.eval(), TextTokenizer.load(folder / "tokenizer.json"))

        return Parts(
            model=config.model,
            sampler=config.sampler,
            native=config.native,
            null=config.null,
            null_caption=stored.get("null_caption"),
            control=config.control,
            card=model_folder.card(folder),
            space=load_space(folder / "space"),
            weights=Beneath(stored, "denoiser."),
            all_weights=lambda: Beneath(stored.all(), "denoiser."),
            text=text,
            learned=learned,
        )


def _published(folder: Path) -> Parts:
    """A pipeline folder of diffusers."""
    with blamed_on(folder):
        about = read_published(folder)
        stored = weight_files.open_weights(folder / "transformer", "diffusion_pytorch_model")
        space = load_space(folder / "vae")

        def text(dtype: torch.dtype | None) -> Encoder:
            return GemmaEncoder.load(
                folder / "text_encoder", folder / "tokenizer", published_instruction(), dtype
            )

        return Parts(
            model=replace(published.config_from_diffusers(about.transformer), whole_time=about.whole_time),
            sampler=about.sampler,
            native=about.native(space.factor),
            # diffusers drops the native null caption and samples with the encoding of '' under its own mask
            null="empty",
            null_caption=None,
            control="",
            card={
                "name": folder.name,
                "family": NAME,
                "parents": [],
                "weights": "published",
            },
            space=space,
            weights=published.from_diffusers(stored),
            all_weights=lambda: published.from_diffusers(stored.all()),
            text=text,
            learned=None,
        )


def stored_values(config: LinearDiTConfig, weights: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """(name, value) of every parameter of a denoiser, one at a time; what `multi_frame` adds is zero where
    the weights are of a model without. Raises ValueError where they contradict the config."""
    # before a layer is made, of which a config can ask for any number
    stored = len({found[1] for name in weights if (found := re.match(r"blocks\.(\d+)\.", name))})
    if stored != config.depth:
        raise ValueError(f"the config has {config.depth} blocks, the weights {stored}")
    with without_storage():
        # names and shapes alone: values are large, and come one at a time
        expected = LinearDiT(config).state_dict()
    if extra := sorted(set(weights) - set(expected)):
        raise ValueError(f"the config has no place for {extra[0]}")
    dtype = torch.float32
    for name, empty in expected.items():
        if name in weights:
            tensor = weights[name]
            # frame parts take the precision of what they stand among
            dtype = tensor.dtype
        elif name.endswith(FRAME_PARTS):
            tensor = torch.zeros(empty.shape, dtype=dtype)
        else:
            raise ValueError(f"the weights have no {name}")
        if tensor.shape != empty.shape:
            raise ValueError(
                f"{name} is {tuple(tensor.shape)}, the config's sizes make it {tuple(empty.shape)}"
            )
        yield name, tensor


def denoiser(
    config: LinearDiTConfig, weights: Mapping[str, Tensor], dtype: torch.dtype | None = None
) -> LinearDiT:
    """A model holding `weights` themselves: nothing is allocated twice. Raises ValueError where they
    contradict the config."""
    values = dict(stored_values(config, weights))
    with without_storage():
        model = LinearDiT(config)
    # assign: the tensors become the parameters, mapped files included
    model.load_state_dict(
        {name: tensor if dtype is None else tensor.to(dtype) for name, tensor in values.items()}, assign=True
    )
    return model
