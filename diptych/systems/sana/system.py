"""SANA as a system: text hidden states -> linear DiT -> latents of a deep compression autoencoder (arXiv
2410.10629)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diptych.contracts import Prompt, Stack, check_rows
from diptych.data.frames import target_of
from diptych.encoders.gemma import GemmaEncoder
from diptych.encoders.learned import LearnedEncoder
from diptych.files import weights as weight_files
from diptych.flow import SamplerConfig
from diptych.inference.mute import Mute
from diptych.models.linear_dit import FRAME_ROLES, LinearDiT
from diptych.request import RequestError, Role
from diptych.settings import Settings
from diptych.spaces import LatentSpace, save_space
from diptych.surgery import prepare
from diptych.systems.sana import NAME
from diptych.systems.sana.captions import Captions, Text
from diptych.systems.sana.condition import SanaCondition
from diptych.systems.sana.parts import denoiser, open_parts
from diptych.systems.sana.settings import FolderConfig, blamed_on, settings_of

NULLS = ("empty", "caption_mask")


class SanaSystem(Mute):
    """Draws from text with a linear diffusion transformer, published or own."""

    family = NAME
    joins_passes = True

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
        if null_caption is not None and (
            null_caption.ndim != 2 or not len(null_caption) or null_caption.shape[1] != text.channels
        ):
            raise ValueError(
                f"the null caption is {tuple(null_caption.shape)}, and (tokens, {text.channels}) is needed"
            )
        if control and not model.config.multi_frame:
            raise ValueError(f"control {control!r} needs a model with multi_frame")
        self.model, self.text, self.space, self.sampler = model.eval(), text, space, sampler
        self.native, self.null, self.null_caption, self.control = native, null, null_caption, control
        self.card, self.token = card or {}, model.config.patch
        self.captions = Captions(text, null_caption)
        self._fast: LinearDiT | None = None
        # a run makes its system before the model has a place
        self._placed: torch.device | None = None

    @property
    def device(self) -> torch.device:
        return self.model.head.weight.device

    @property
    def settings(self) -> Settings:
        return settings_of(self.native, self.space.factor, self.sampler, self.control)

    @property
    def embeds_guidance(self) -> bool:
        return self.model.config.guidance_embedding

    def accelerate(self, compile_blocks: bool = False) -> None:
        """Draw with a copy of the denoiser made for speed (`surgery.prepare`); on a CPU where packing pays,
        its matrices are in memory twice from then on."""
        self._fast = prepare(self.model, compile_blocks)

    def parts(self) -> dict[str, nn.Module]:
        space = self.space.autoencoder
        return {
            "denoiser": self.model,
            "text encoder": self.text.model,
            **({"autoencoder": space} if isinstance(space, nn.Module) else {}),
        }

    def read(self, prompts: Sequence[Prompt], stacks: Sequence[Stack]) -> SanaCondition:
        """Text through the encoder and given frames through the autoencoder, once; see `contracts.System`.

        Text encoder and autoencoder are frozen, but for the small encoder that learns with its denoiser. What
        is frozen reads one prompt and one frame at a time, so that a condition is the same to the bit whether
        its hidden states and targets are computed here or come from a cache (`Prompt.states`,
        `Given.target`). Keys and values of the text follow when the first step needs them: by then guidance
        has joined its passes, and training has dropped what it drops.

        Raises RequestError for frames of a role that the model has not, and for given frames where its config
        has no multi_frame; ValueError for rows that differ in size, number of frames or roles.
        """
        check_rows(len(prompts), stacks=stacks)
        first, device = stacks[0], self.device
        # what is asked is checked before frozen parts move or read anything
        roles = self._roles(stacks)
        self._follow(device)
        text = self.captions.read(prompts)
        given = None
        if first.given:
            rows = [[target_of(self.space, frame, stack) for frame in stack.given] for stack in stacks]
            given = torch.stack([torch.stack(row) for row in rows])
        # frames to be drawn, then given ones: `denoise` joins latents in this order and cuts by it
        times = [[*stack.times, *(frame.time for frame in stack.given)] for stack in stacks]
        return SanaCondition(
            denoiser=self._drawing,
            captions=self.captions,
            prompts=tuple(prompts),
            text=Text(text.states.to(device), text.mask.to(device)),
            size=(first.width, first.height),
            roles=roles,
            times=torch.tensor(times, dtype=torch.float32, device=device),
            given=None if given is None else given.to(device),
            present=None,
            guidance=None,
            # latents are scaled to unit variance by the image space, so noise needs no scale of its own
            scale=torch.ones(len(prompts), device=device),
        )

    def denoise(self, x: Tensor, sigma: Tensor, condition: SanaCondition) -> Tensor:
        """Velocity (B, F, C, H, W), float32, of noisy latents x of that shape at noise levels sigma (B,) or
        (B, F); see `contracts.System`.

        Given frames go through the denoiser beside the noisy ones, at noise level 0, and are left out of what
        comes back. Raises ValueError where F is not the number of frames that the condition was read for.
        """
        roles, given = condition.roles, condition.given
        frames = x.shape[1]
        if frames + (0 if given is None else given.shape[1]) != len(roles):
            raise ValueError(
                f"the condition is for {len(roles)} frames ({', '.join(roles)}), given ones included; got "
                f"{frames} to denoise"
            )
        # latents in the weights' precision, levels in float32: time decides what is noise
        dtype, levels = self.model.head.weight.dtype, sigma
        if given is not None:
            # a given frame is clean at every step, so each frame has a level of its own from here on
            levels = sigma[:, None].expand(-1, frames) if sigma.ndim == 1 else sigma
            levels = torch.cat([levels, levels.new_zeros(given.shape[:2])], 1)
            x = torch.cat([x, given.to(x)], 1)
        velocity = condition.denoiser(
            x.to(dtype),
            levels,
            condition.keys,
            condition.guidance,
            roles,
            condition.times,
            condition.present,
        )
        return velocity[:, :frames].float()

    @property
    def _drawing(self) -> LinearDiT:
        # the fast copy is for drawing alone: packed matrices would not follow weights that learn
        return self.model if self._fast is None else self._fast

    def _roles(self, stacks: Sequence[Stack]) -> tuple[Role, ...]:
        """Roles of the frames to be drawn and of the given ones, the same in all rows."""
        first = stacks[0]
        roles = tuple(frame.role for frame in first.given)
        for stack in stacks:
            found = tuple(frame.role for frame in stack.given)
            if (stack.width, stack.height, len(stack.times)) != (
                first.width,
                first.height,
                len(first.times),
            ) or found != roles:
                raise ValueError("rows of a batch must be of one size, number of frames and roles of frames")
        if (roles or len(first.times) > 1) and not self.model.config.multi_frame:
            raise RequestError(
                "this model draws single pictures from text alone: its config has multi_frame off"
            )
        for role in roles:
            if role is Role.TARGET or role not in FRAME_ROLES:
                raise RequestError(f"this model has no frames of the role {role.value!r}")
        return (Role.TARGET,) * len(first.times) + roles

    def _follow(self, device: torch.device) -> None:
        """Bring the frozen parts to where a run has placed the denoiser."""
        if self._placed == device:
            return
        # an encoder that learns is part of the run's model and was placed with it
        if isinstance(self.text, GemmaEncoder):
            self.text.model.to(device)
        self.space.to(device)
        self._placed = device

    def save(self, folder: Path, dtype: torch.dtype | None = None) -> None:
        """Write a whole model folder: denoiser, text encoder, image space, settings and card; weights in
        `dtype` or their own."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        weights = {f"denoiser.{name}": tensor for name, tensor in self.model.state_dict().items()}
        if self.null_caption is not None:
            weights["null_caption"] = self.null_caption
        if isinstance(self.text, GemmaEncoder):
            self.text.save(folder / "text_encoder", folder / "tokenizer")
            text = {
                "kind": "gemma",
                "instruction": self.text.instruction,
                "lowercase": self.text.lowercase,
            }
        else:
            self.text.tokenizer.save(folder / "tokenizer.json")
            weights |= {f"text.{name}": tensor for name, tensor in self.text.model.state_dict().items()}
            text = {"kind": "learned", **dataclasses.asdict(self.text.model.config)}
        config = FolderConfig(
            family=NAME,
            native=self.native,
            null=self.null,
            model=self.model.config,
            sampler=self.sampler,
            text=text,
            control=self.control,
        )
        save_space(self.space, folder / "space")
        weight_files.write(folder, dataclasses.asdict(config), weights, self.card, dtype)

    @classmethod
    def load(
        cls, folder: Path, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
    ) -> SanaSystem:
        """Read a folder that `save` wrote, or a published diffusers pipeline folder.

        Raises ModelFolderError for one that is not whole or of another kind.
        """
        parts = open_parts(folder)
        with blamed_on(folder):
            system = cls(
                denoiser(parts.model, parts.all_weights(), dtype),
                parts.text(dtype),
                parts.space,
                parts.sampler,
                parts.native,
                parts.null,
                parts.null_caption,
                parts.control,
                parts.card,
            )
        return system.to(device)

    def to(self, device: torch.device | str) -> SanaSystem:
        self.model.to(device)
        self.text.model.to(device)
        self.space.to(device)
        return self
