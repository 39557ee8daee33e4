"""SANA as a system: text hidden states -> linear DiT -> latents of a deep compression autoencoder (arXiv
2410.10629)."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from diptych.data.buckets import Bucket, fit
from diptych.data.pictures import resize
from diptych.data.tokens import TextTokenizer
from diptych.flow import ProjectedGuidance, SamplerConfig, guided_velocity
from diptych.models.caption_encoder import CaptionEncoder, CaptionEncoderConfig
from diptych.models.linear_dit import (
    LinearDiT,
    LinearDiTConfig,
    TextCondition,
    TextKeyValue,
    convert,
    trim_text,
)
from diptych.request import Media, Message, Plan, RequestError, Role, Task
from diptych.spaces import LatentSpace, load_space, save_space
from diptych.surgery import prepare
from diptych.systems import folder as model_folder
from diptych.systems.folder import ModelFolderError
from diptych.systems.text import GemmaEncoder, LearnedEncoder, published_instruction

FAMILY = "sana"
NULLS = ("empty", "caption_mask")
SAMPLER = SamplerConfig(num_steps=20, solver="dpm", shift=3.0, first_sigma=0.999, guidance_scale=4.5)
SPRINT_SAMPLER = SamplerConfig(num_steps=2, solver="trigflow", guidance_scale=4.5)


@dataclass(frozen=True)
class Condition:
    """All that is constant across denoising steps, for B pictures of one size and guidance."""

    text: TextCondition
    """Keys and values of B prompts, or of B null conditions and then B prompts where guidance is on."""
    guidance_scale: float
    guidance_norm: str
    guidance_interval: tuple[float, float]
    guided: bool
    projected: ProjectedGuidance | None
    given: Tensor | None
    """Latents (B, channels, height, width) of the control pictures, where there are some."""
    scale: float = 1.0


class SanaSystem:
    """Draws from text with a linear diffusion transformer, published or own."""

    family = FAMILY
    capabilities = frozenset({Task.TEXT_TO_IMAGE})

    def __init__(
        self,
        model: LinearDiT,
        text: GemmaEncoder | LearnedEncoder,
        space: LatentSpace,
        sampler: SamplerConfig,
        native: int,
        null: str = "empty",
        null_caption: Tensor | None = None,
        control: str = "",
        card: dict[str, Any] | None = None,
    ) -> None:
        """`null` is what stands for no caption, in training and in sampling alike: 'empty': the encoding of
        "" with its own mask; 'caption_mask': the stored `null_caption` (tokens, channels) seen through the
        mask of the caption that it replaces, as the native code trains. `control` names what a control
        picture holds, for a model trained with one."""
        if text.channels != model.config.caption_channels:
            raise ValueError(
                f"the text encoder gives {text.channels} channels, the denoiser reads "
                f"{model.config.caption_channels}"
            )
        if space.channels != model.config.channels:
            raise ValueError(
                f"the image space has {space.channels} channels, the denoiser draws {model.config.channels}"
            )
        if null not in NULLS or (null == "caption_mask") != (null_caption is not None):
            raise ValueError(f"null must be 'empty', or 'caption_mask' with a null caption, got {null!r}")
        self.model, self.text, self.space, self.sampler = model.eval(), text, space, sampler
        if control and not model.config.multi_frame:
            raise ValueError(f"control {control!r} needs a model with multi_frame")
        self.native, self.null, self.null_caption, self.control, self.card = (
            native,
            null,
            null_caption,
            control,
            card or {},
        )
        self.max_side = 4096
        self._drawing = self.model

    @property
    def device(self) -> torch.device:
        return self.model.head.weight.device

    def accelerate(self, compile_blocks: bool = False) -> None:
        """Draw with a copy of the denoiser made for speed (`surgery.prepare`); on a CPU where packing pays,
        its matrices are in memory twice from then on."""
        self._drawing = prepare(self.model, compile_blocks)

    def parts(self) -> dict[str, nn.Module]:
        space = self.space.autoencoder
        return {
            "denoiser": self.model,
            "text encoder": self.text.model,
            **({"autoencoder": space} if isinstance(space, nn.Module) else {}),
        }

    @torch.inference_mode()
    def condition(self, plans: Sequence[Plan], media: Sequence[Sequence[Media]] = ()) -> Condition:
        """Text of settled plans of one size and one guidance, read once."""
        guidance = plans[0].guidance_scale
        if guidance is None:
            raise ValueError("condition() takes settled plans: guidance filled in")
        embedded = self.model.config.guidance_embedding
        if embedded and any(plan.negative_prompt for plan in plans):
            raise RequestError(
                "this model has its guidance built in, so a negative prompt has no effect: leave it out"
            )
        guided = guidance != 1.0 and not embedded
        text, mask = self.text.encode([plan.prompt for plan in plans])
        if guided:
            text, mask = _stack(self._null(plans, text, mask), (text, mask))
        trimmed, real = trim_text(text.to(self.model.head.weight.dtype), mask)
        sampler = self.sampler
        projected = ProjectedGuidance(guidance) if sampler.guidance_norm == "projected" else None
        condition = self._drawing.condition(trimmed, real)
        given = self._given(plans, media)
        return Condition(
            condition, guidance, sampler.guidance_norm, sampler.guidance_interval, guided, projected, given
        )

    def _given(self, plans: Sequence[Plan], media: Sequence[Sequence[Media]]) -> Tensor | None:
        if not any(Role.CONTROL in plan.inputs for plan in plans):
            return None
        latents = []
        for plan, pictures in zip(plans, media, strict=True):
            pixels = pictures[plan.inputs.index(Role.CONTROL)].pixels
            assert plan.width is not None
            assert plan.height is not None
            fitted = torch.from_numpy(np.array(fit(pixels, Bucket(plan.width, plan.height))))
            latents.append(self.space.encode(fitted.permute(2, 0, 1)[None]))
        return torch.cat(latents)

    def _null(self, plans: Sequence[Plan], text: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        negatives = [plan.negative_prompt for plan in plans]
        if self.null_caption is None or any(negatives):
            return self.text.encode(negatives, instruct=False)
        null = self.null_caption.to(text)[: text.shape[1]]
        return null.expand(len(plans), -1, -1), mask[:, : len(null)]

    @torch.inference_mode()
    def velocity(self, x: Tensor, sigma: float, condition: Condition) -> Tensor:
        """Guided velocity dx/dsigma for noisy latents x (B, channels, height, width) at one noise level."""
        low, high = condition.guidance_interval
        if not condition.guided:
            embedded = self.model.config.guidance_embedding
            scales = torch.full((len(x),), condition.guidance_scale, device=x.device) if embedded else None
            return self._pass(x, sigma, condition.text, condition.given, scales)
        if not low <= sigma <= high:
            return self._pass(x, sigma, _second_half(condition.text), condition.given)
        twice = None if condition.given is None else torch.cat([condition.given] * 2)
        unconditional, conditional = self._pass(torch.cat([x, x]), sigma, condition.text, twice).chunk(2)
        if condition.projected is not None:
            return condition.projected(x, sigma, conditional, unconditional)
        velocities = {"conditional": conditional, "unconditional": unconditional}
        return guided_velocity(
            velocities, condition.guidance_scale, 1.0, condition.guidance_norm, 1, first_step=sigma == 1.0
        )

    def _pass(
        self,
        x: Tensor,
        sigma: float,
        text: TextCondition,
        given: Tensor | None,
        guidance: Tensor | None = None,
    ) -> Tensor:
        levels = torch.full((len(x),), sigma, device=x.device)
        dtype = self.model.head.weight.dtype
        if given is None:
            return self._drawing(x[:, None].to(dtype), levels, text, guidance)[:, 0].float()
        frames = torch.stack([x, given.to(x)], 1).to(dtype)
        levels = torch.stack([levels, torch.zeros_like(levels)], 1)
        return self._drawing(frames, levels, text, guidance, roles=("target", "control"))[:, 0].float()

    def fit(self, pixels: np.ndarray) -> np.ndarray:
        """A picture at a size that the image space can hold."""
        height, width = pixels.shape[:2]
        return resize(pixels, *self.space.round_size(width, height))

    def answer(self, messages: Sequence[Message]) -> Iterator[str]:
        raise RequestError("this model draws; it does not answer")

    def answers(self, conversations: Sequence[Sequence[Message]]) -> list[str]:
        raise RequestError("this model draws; it does not answer")

    def save(self, folder: str | Path, dtype: torch.dtype | None = None) -> None:
        """Write a whole model folder: denoiser, text encoder, image space, settings and card; weights in
        `dtype` or their own."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        weights = {f"denoiser.{name}": tensor for name, tensor in self.model.state_dict().items()}
        if self.null_caption is not None:
            weights["null_caption"] = self.null_caption
        config = {
            "family": FAMILY,
            "native": self.native,
            "null": self.null,
            "model": dataclasses.asdict(self.model.config),
            "sampler": dataclasses.asdict(self.sampler),
            "control": self.control,
        }
        if isinstance(self.text, GemmaEncoder):
            self.text.save(folder / "text_encoder", folder / "tokenizer")
            config["text"] = {
                "kind": "gemma",
                "instruction": self.text.instruction,
                "lowercase": self.text.lowercase,
            }
        else:
            self.text.tokenizer.save(folder / "tokenizer.json")
            weights |= {f"text.{name}": tensor for name, tensor in self.text.model.state_dict().items()}
            config["text"] = {"kind": "learned", **dataclasses.asdict(self.text.model.config)}
        save_space(self.space, folder / "space")
        model_folder.write(folder, config, weights, self.card, dtype)

    @classmethod
    def load(
        cls, folder: Path, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
    ) -> SanaSystem:
        """Read a folder that `save` wrote, or a published diffusers pipeline folder.

        Raises ModelFolderError for one that is not whole or of another kind.
        """
        if (folder / "model_index.json").is_file():
            return cls._from_diffusers(folder, device, dtype)
        config, weights = model_folder.read(folder)
        if config.get("family") != FAMILY:
            raise ModelFolderError(f"{folder}: family {config.get('family')!r} is not {FAMILY!r}")
        try:
            model = denoiser(LinearDiTConfig(**config["model"]), _prefixed(weights, "denoiser."), dtype)
            sampler = config["sampler"]
            settings = SamplerConfig(**{**sampler, "guidance_interval": tuple(sampler["guidance_interval"])})
            text = _text(folder, dict(config["text"]), weights, dtype)
            space = load_space(folder / "space")
            null = weights.get("null_caption")
            system = cls(
                model,
                text,
                space,
                settings,
                config["native"],
                config["null"],
                null,
                config["control"],
                model_folder.card(folder),
            )
        except (KeyError, TypeError, RuntimeError, ValueError) as error:
            raise ModelFolderError(
                f"{folder}: config and weights are not of one {FAMILY} model ({error})"
            ) from error
        return system.to(device)

    @classmethod
    def _from_diffusers(
        cls, folder: Path, device: torch.device | str, dtype: torch.dtype | None
    ) -> SanaSystem:
        index = json.loads((folder / "model_index.json").read_text())
        kind = index.get("_class_name")
        if kind not in ("SanaPipeline", "SanaSprintPipeline"):
            raise ModelFolderError(
                f"{folder}: pipeline {kind!r} is neither SanaPipeline nor SanaSprintPipeline"
            )
        try:
            values = json.loads((folder / "transformer" / "config.json").read_text())
            config = convert.config_from_diffusers(values)
            sampler, whole_time = _sampler(
                json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
            )
            config = replace(config, whole_time=whole_time)
            weights = model_folder.read_weights(folder / "transformer", "diffusion_pytorch_model")
            model = denoiser(config, convert.from_diffusers(weights), dtype)
            text = GemmaEncoder.load(
                folder / "text_encoder", folder / "tokenizer", published_instruction(), dtype
            )
            space = load_space(folder / "vae")
        except (KeyError, FileNotFoundError, RuntimeError, ValueError) as error:
            raise ModelFolderError(f"{folder} is no whole SANA pipeline: {error}") from error
        side = int(values.get("sample_size", 32)) * space.factor
        card = {
            "name": folder.name,
            "family": FAMILY,
            "licence": "see the folder",
            "parents": [],
            "weights": "published",
        }
        return cls(model, text, space, sampler, side, card=card).to(device)

    def to(self, device: torch.device | str) -> SanaSystem:
        self.model.to(device)
        self.text.model.to(device)
        self.space.to(device)
        return self


def denoiser(config: LinearDiTConfig, weights: dict[str, Tensor], dtype: torch.dtype | None) -> LinearDiT:
    """A model holding `weights` themselves: nothing is allocated twice. Raises ValueError where they
    contradict the config."""
    with torch.device("meta"):
        model = LinearDiT(config)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    for name, shape in expected.items():
        if name not in weights:
            raise ValueError(f"the weights have no {name}")
        if tuple(weights[name].shape) != shape:
            raise ValueError(f"{name} is {tuple(weights[name].shape)}, the config's sizes make it {shape}")
    if extra := sorted(set(weights) - set(expected)):
        raise ValueError(f"the config has no place for {extra[0]}")
    model.load_state_dict(
        {name: tensor if dtype is None else tensor.to(dtype) for name, tensor in weights.items()}, assign=True
    )
    return model


def _sampler(scheduler: dict[str, Any]) -> tuple[SamplerConfig, bool]:
    """Our sampler for a published scheduler config, and whether the model is given whole times there."""
    kind = scheduler.get("_class_name")
    if kind == "SCMScheduler":
        return SPRINT_SAMPLER, False
    if kind == "FlowMatchEulerDiscreteScheduler":
        return replace(
            SAMPLER,
            solver="euler",
            schedule="diffusers_euler",
            shift=float(scheduler.get("shift", 1.0)),
            num_steps=28,
        ), False
    if (
        kind == "DPMSolverMultistepScheduler"
        and scheduler.get("use_flow_sigmas")
        and scheduler.get("prediction_type") == "flow_prediction"
    ):
        # that scheduler's times are whole numbers
        return replace(SAMPLER, shift=float(scheduler["flow_shift"])), True
    raise ValueError(f"scheduler {kind!r} with these settings is none of SANA's")


def _text(
    folder: Path, config: dict[str, Any], weights: dict[str, Tensor], dtype: torch.dtype | None
) -> GemmaEncoder | LearnedEncoder:
    kind = config.pop("kind")
    if kind == "gemma":
        encoder = GemmaEncoder.load(
            folder / "text_encoder", folder / "tokenizer", config["instruction"], dtype
        )
        encoder.lowercase = config["lowercase"]
        return encoder
    model = CaptionEncoder(CaptionEncoderConfig(**config))
    model.load_state_dict({name: tensor.float() for name, tensor in _prefixed(weights, "text.").items()})
    return LearnedEncoder(model.eval(), TextTokenizer.load(folder / "tokenizer.json"))


def _prefixed(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}


def _stack(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Two texts and masks in one batch, padded to the longer."""
    length = max(first[0].shape[1], second[0].shape[1])
    texts = [nn.functional.pad(text, (0, 0, 0, length - text.shape[1])) for text, _ in (first, second)]
    masks = [nn.functional.pad(mask, (0, length - mask.shape[1])) for _, mask in (first, second)]
    return torch.cat(texts), torch.cat(masks)


def _second_half(text: TextCondition) -> TextCondition:
    blocks = tuple(TextKeyValue(*(tensor[len(tensor) // 2 :] for tensor in block)) for block in text.blocks)
    return TextCondition(blocks, None if text.mask is None else text.mask[len(text.mask) // 2 :])
