"""What draws pictures from features: a linear diffusion transformer over latents, and published SDXL
decoders.

Shapes: P pictures, C channels of a feature, S vectors a side, N = S * S.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diptych.flow import SamplerConfig, solve
from diptych.models.linear_dit import LinearDiT
from diptych.models.linear_dit.layers import position_table
from diptych.spaces.latents import LatentSpace
from diptych.spaces.pixels import to_bytes

APART = 1 << 62
"""Added to a seed, so that a detokenizer's noise is not that which its features were drawn from."""


def _noise(shape: Sequence[int], seeds: Sequence[int]) -> Tensor:
    """Standard normal, on the CPU and one a row: a seed gives the same on every device and in every batch."""
    generators = (torch.Generator().manual_seed((seed + APART) % 2**64) for seed in seeds)
    return torch.stack([torch.randn(*shape, generator=generator) for generator in generators])


def as_words(model: LinearDiT, features: Tensor) -> Tensor:
    """Features (P, C, S, S) -> (P, N, C), row by row, as a denoiser reads them in place of words.

    Where it has a table of positions they have one of theirs: words stand in no place, and by what features
    hold of it alone the right things were drawn in any place."""
    words = features.flatten(2).transpose(1, 2)
    if model.config.position_scale is None:
        return words
    side, channels = features.shape[-1], features.shape[1]
    return words + position_table(side, side, channels, side, model.config.position_scale).to(words)


class LatentDetokenizer:
    """A linear diffusion transformer that draws latents under features in place of text; guided away from
    features of zero, which training shows it in place of some."""

    def __init__(
        self, model: LinearDiT, space: LatentSpace, sampler: SamplerConfig, native: int, reads: str = ""
    ) -> None:
        """`native`: px a side of what it draws; `reads`: identity of the features that it was trained on.
        Raises ValueError for a denoiser of other latents."""
        if space.channels != model.config.channels:
            raise ValueError(
                f"the autoencoder has {space.channels} latent channels, the detokenizer draws "
                f"{model.config.channels}"
            )
        if native % (space.factor * model.config.patch):
            raise ValueError(
                f"a detokenizer's pictures are multiples of {space.factor * model.config.patch} px, "
                f"got {native}"
            )
        self.model, self.space, self.sampler, self.native = model.eval(), space, sampler, native
        self.reads, self.channels = reads, model.config.caption_channels

    @torch.no_grad()
    def draw(self, features: Tensor, seeds: Sequence[int]) -> Tensor:
        like = self.model.head.weight
        told = as_words(self.model, features).to(like)
        condition = self.model.condition(told)
        # all zeros are alike, so one stands for all
        null = self.model.condition(torch.zeros_like(told[:, :1]))
        scale = self.sampler.guidance_scale

        def velocity(x: Tensor, sigma: Tensor) -> Tensor:
            levels = sigma.to(x.device)
            found = self.model(x.to(like.dtype), levels, condition).float()
            if scale == 1:
                return found
            base = self.model(x.to(like.dtype), levels, null).float()
            return base + scale * (found - base)

        shape = self.space.shape(self.native, self.native)
        x = _noise(shape, seeds).to(like.device)
        drawn = solve(self.sampler, velocity, x, self.sampler.num_steps)
        return self.space.decode(drawn)[:, 0]

    def to(self, device: torch.device | str) -> LatentDetokenizer:
        self.model.to(device)
        self.space.to(device)
        return self


class UnetDetokenizer:
    """The published decoder: SDXL's UNet with the features as context and their mean as pooled text, from
    diffusers' folders (Emu2's, arXiv 2312.13286)."""

    reads = ""

    def __init__(
        self,
        unet: Any,
        autoencoder: Any,
        scheduler: Any,
        native: int = 0,
        num_steps: int = 50,
        guidance_scale: float = 3.0,
    ) -> None:
        """`native`: px a side of what it draws; 0: the size that the UNet was trained on."""
        self.unet, self.autoencoder, self.scheduler = (
            unet.eval().requires_grad_(False),
            autoencoder.eval().requires_grad_(False),
            scheduler,
        )
        self.num_steps, self.guidance_scale = num_steps, guidance_scale
        self.factor = 2 ** (len(autoencoder.config.block_out_channels) - 1)
        self.native = native or int(unet.config.sample_size) * self.factor
        self.channels = int(unet.config.cross_attention_dim)
        self.negative: Callable[[], Tensor] | None = None
        """Makes the features (1, C, S, S) that guidance leads away from: published, a drawing of an empty
        prompt; None: zeros."""

    @classmethod
    def load(cls, folder: Path, dtype: torch.dtype | None = None) -> UnetDetokenizer:
        """From the parts of a pipeline folder of diffusers: safetensors alone, of any variant."""
        from diffusers import AutoencoderKL, EulerDiscreteScheduler, UNet2DConditionModel

        def part(kind: Any, name: str) -> Any:
            found = sorted((folder / name).glob("diffusion_pytorch_model*.safetensors"))
            if not found:
                raise ValueError(f"{folder / name} has no weights in safetensors")
            # model.bf16.safetensors is the variant bf16
            variant = (
                found[0].name.removeprefix("diffusion_pytorch_model").removesuffix("safetensors").strip(".")
            )
            local: dict[str, Any] = {"local_files_only": True, "use_safetensors": True}
            model = kind.from_pretrained(folder / name, variant=variant or None, **local)
            return model if dtype is None else model.to(dtype)

        try:
            return cls(
                part(UNet2DConditionModel, "unet"),
                part(AutoencoderKL, "vae"),
                EulerDiscreteScheduler.from_pretrained(folder / "scheduler", local_files_only=True),
            )
        except ValueError:
            raise
        # diffusers has errors of every class, by what a folder lacks or contradicts
        except Exception as error:
            raise ValueError(f"{folder}: the detokenizer cannot be read ({error})") from error

    def save(self, folder: Path) -> None:
        for name, part in (("unet", self.unet), ("vae", self.autoencoder)):
            part.save_pretrained(folder / name, safe_serialization=True)
        self.scheduler.save_pretrained(folder / "scheduler")

    @torch.no_grad()
    def draw(self, features: Tensor, seeds: Sequence[int]) -> Tensor:
        unet, like = self.unet, next(self.unet.parameters())
        side = self.native // self.factor
        latents = _noise((unet.config.in_channels, side, side), seeds).to(like)
        negative = torch.zeros_like(features) if self.negative is None else self.negative().to(features)
        drawn = self.latents(features, negative.expand_as(features), latents)
        pictures = self.autoencoder.decode(drawn / self.autoencoder.config.scaling_factor).sample
        return to_bytes(pictures.float())

    def latents(self, features: Tensor, negative: Tensor, noise: Tensor) -> Tensor:
        """Latents (P, c, h, w) of features and negative features (P, C, S, S) from noise of unit variance."""
        like = next(self.unet.parameters())
        # the conditioned half first, the other way round than in the transformer that draws the features
        context = torch.cat([features, negative]).flatten(2).transpose(1, 2).to(like)
        side = float(self.native)
        # height and width, the corner of the crop, height and width that are wanted
        sizes = context.new_tensor([side, side, 0.0, 0.0, side, side]).expand(len(context), -1)
        told = {"text_embeds": context.mean(1), "time_ids": sizes}
        scheduler = self.scheduler
        scheduler.set_timesteps(self.num_steps, device=like.device)
        x = noise.to(like) * scheduler.init_noise_sigma
        for time in scheduler.timesteps:
            scaled = scheduler.scale_model_input(torch.cat([x, x]), time)
            out = self.unet(scaled, time, encoder_hidden_states=context, added_cond_kwargs=told).sample
            conditioned, other = out.chunk(2)
            guided = other + self.guidance_scale * (conditioned - other)
            x = scheduler.step(guided, time, x).prev_sample
        return x

    def to(self, device: torch.device | str) -> UnetDetokenizer:
        self.unet.to(device)
        self.autoencoder.to(device)
        return self
