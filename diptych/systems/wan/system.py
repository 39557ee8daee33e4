"""Wan-VACE as a system: rows of a text encoder -> a transformer over coded clips, through diffusers'
classes."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import torch
from torch import Tensor, nn

from diptych.contracts import BlockFacts, Prompt, Stack, check_rows
from diptych.files import folder as model_folder
from diptych.files.folder import ModelFolderError, check_depth, check_shapes, refuse_code
from diptych.files.weights import FLOATS, open_weights
from diptych.flow import SamplerConfig
from diptych.inference.mute import Mute
from diptych.models.meta import without_storage
from diptych.settings import Settings
from diptych.spaces.causal import CausalAutoencoder, CausalSpace
from diptych.systems.wan import NAME
from diptych.systems.wan.condition import JOINED_ROWS, TEXT_ROWS, WanCondition
from diptych.systems.wan.given import Frames, coded, frames_of
from diptych.systems.wan.settings import Published, read_published


@dataclass(frozen=True)
class Shape:
    """What is told of the transformer."""

    depth: int
    width: int
    heads: int

    def widened(self, factor: int) -> NoReturn:
        raise ValueError(f"models of the family {NAME} are drawn with as they were published")


class Denoiser(nn.Module):
    """diffusers' transformer as a model of blocks."""

    facts: ClassVar = BlockFacts(silent=())

    def __init__(self, transformer: Any) -> None:
        """Raises ValueError for a shape alone, of which surgery would make a model of other size."""
        super().__init__()
        if isinstance(transformer, Shape):
            raise ValueError(f"models of the family {NAME} keep their blocks")
        self.transformer = transformer
        config = transformer.config
        width = config.num_attention_heads * config.attention_head_dim
        self.config = Shape(config.num_layers, width, config.num_attention_heads)

    @property
    def blocks(self) -> nn.ModuleList:
        found: nn.ModuleList = self.transformer.blocks
        return found

    def forward(self, x: Tensor, time: Tensor, context: Tensor, control: Tensor) -> Tensor:
        """Velocity (B, C, F, H, W) of noisy latents of that shape at published times (B,)."""
        dtype = self.transformer.dtype
        velocity: Tensor = self.transformer(
            hidden_states=x.to(dtype),
            timestep=time,
            encoder_hidden_states=context.to(dtype),
            control_hidden_states=control.to(dtype),
            return_dict=False,
        )[0]
        return velocity.float()


class WanSystem(Mute):
    """Draws clips and pictures; frozen, but for what stands behind its text rows (`Prompt.context`), which
    has gradients."""

    family = NAME
    # one after the other, as published: both together take twice the memory of a long clip
    joins_passes = False
    embeds_guidance = False
    text = None

    def __init__(
        self,
        transformer: Any,
        text_encoder: Any,
        tokenizer: Any,
        space: CausalSpace,
        scheduler: Any,
        published: Published,
        card: dict[str, Any] | None = None,
    ) -> None:
        self.model = Denoiser(transformer.eval().requires_grad_(False))
        self.encoder, self.tokenizer = text_encoder.eval().requires_grad_(False), tokenizer
        self.space, self.scheduler, self.published = space, scheduler, published
        self.card, self.token, self.native = card or {}, published.patch, published.settings.native
        # guidance asks for the same negative text again and again
        self._rows = lru_cache(maxsize=64)(self._encode)

    @property
    def settings(self) -> Settings:
        return self.published.settings

    @property
    def sampler(self) -> SamplerConfig:
        return self.published.sampler

    @property
    def device(self) -> torch.device:
        found: torch.device = self.model.transformer.device
        return found

    @property
    def context_channels(self) -> int:
        """Channels of its text rows, and so of what may stand behind them."""
        return int(self.encoder.config.d_model)

    def read(self, prompts: Sequence[Prompt], stacks: Sequence[Stack]) -> WanCondition:
        """Text, and what is given, coded row by row; see `contracts.System`. Tokens of a projector stand
        behind the rows of the text, where all prompts have some or none has."""
        check_rows(len(prompts), stacks=stacks)
        if len({(stack.width, stack.height, len(stack.times)) for stack in stacks}) > 1:
            raise ValueError("rows of a batch must be of one size and number of frames")
        if len({prompt.context is None for prompt in prompts}) > 1:
            raise ValueError("either all prompts of a batch have context rows, or none has")
        frames = [frames_of(stack, self.space.factor) for stack in stacks]
        if len({len(row.references) for row in frames}) > 1:
            raise ValueError("rows of a batch must have as many references as one another")
        control = torch.stack([coded(self.space, row, self.device) for row in frames])
        beside = len(frames[0].references)
        # nothing is given in any row: nothing has to be coded a second time
        blank = control
        if any(stack.given for stack in stacks):
            nothing = Frames(torch.zeros_like(frames[0].video), torch.ones_like(frames[0].mask), ())
            empty = coded(self.space, nothing, self.device)
            shown = empty.new_zeros(len(empty), beside, *empty.shape[2:])
            blank = torch.cat([shown, empty], 1).expand_as(control)
        return WanCondition(
            text=tuple(self._context(prompt) for prompt in prompts),
            negative=tuple(self._rows(prompt.negative) for prompt in prompts),
            length=TEXT_ROWS if prompts[0].context is None else JOINED_ROWS,
            control=control,
            blank=blank,
            beside=beside,
            scale=torch.ones(len(prompts), device=self.device),
        )

    def _context(self, prompt: Prompt) -> Tensor:
        rows = self._rows(prompt.text)
        if prompt.context is None:
            return rows
        if prompt.context.ndim != 2 or prompt.context.shape[1] != rows.shape[1]:
            raise ValueError(
                f"context rows must be (rows, {rows.shape[1]}), got {tuple(prompt.context.shape)}"
            )
        return torch.cat([rows.float(), prompt.context.to(rows.device).float()])

    @torch.no_grad()
    def _encode(self, text: str) -> Tensor:
        """(T, channels) of a text, by its own length."""
        # its own cleaning: quotes, widths and spaces as the encoder was trained to see them
        from diffusers.pipelines.wan.pipeline_wan_vace import prompt_clean

        ids = self.tokenizer(
            prompt_clean(text), truncation=True, max_length=TEXT_ROWS, return_tensors="pt"
        ).input_ids.to(self.encoder.device)
        rows: Tensor = self.encoder(ids, torch.ones_like(ids)).last_hidden_state[0]
        return rows.to(self.device)

    def denoise(self, x: Tensor, sigma: Tensor, condition: WanCondition) -> Tensor:
        """Velocity (B, F, C, H, W), float32; the frames of references come first. Raises ValueError for
        frames at levels of their own, which this model does not have."""
        if sigma.ndim == 2:
            if not bool((sigma == sigma[:, :1]).all()):
                raise ValueError("all frames of a row have one noise level in this model")
            sigma = sigma[:, 0]
        # whole times, as the published scheduler gives
        time = (sigma.double() * 1000).floor().long()
        velocity: Tensor = self.model(x.transpose(1, 2), time, condition.context, condition.control)
        return velocity.transpose(1, 2)

    def accelerate(self) -> None:
        """There is nothing to be prepared."""

    def parts(self) -> dict[str, nn.Module]:
        autoencoder = self.space.autoencoder.model
        return {"denoiser": self.model, "text encoder": self.encoder, "autoencoder": autoencoder}

    def save(self, folder: Path) -> None:
        """Write a pipeline folder of diffusers, with a card."""
        from diffusers import WanVACEPipeline

        pipeline: Any = WanVACEPipeline(
            tokenizer=self.tokenizer,
            text_encoder=self.encoder,
            vae=self.space.autoencoder.model,
            scheduler=copy.deepcopy(self.scheduler),
            transformer=self.model.transformer,
        )
        pipeline.save_pretrained(folder, safe_serialization=True)
        model_folder.write_card(folder, {**self.card, "family": NAME})

    @classmethod
    def load(
        cls, folder: Path, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
    ) -> WanSystem:
        """From a pipeline folder of diffusers; the autoencoder stays in float32, as published. Raises
        ModelFolderError for one that is not whole or of another kind."""
        published = read_published(folder)
        if find_spec("ftfy") is None:
            raise ModelFolderError(
                f"{folder}: prompts are cleaned by ftfy, which is not installed: pip install 'diptych[wan]'"
            )
        import diffusers
        from transformers import AutoConfig, AutoTokenizer, UMT5EncoderModel

        weights = "diffusion_pytorch_model"
        transformer = _opened(diffusers.WanVACETransformer3DModel, folder / "transformer", weights, dtype)
        vae = _opened(diffusers.AutoencoderKLWan, folder / "vae", weights, torch.float32)
        encoder = _opened(UMT5EncoderModel, folder / "text_encoder", "model", dtype, AutoConfig)
        if transformer.config.text_dim != encoder.config.d_model:
            raise ModelFolderError(
                f"{folder}: the text encoder gives {encoder.config.d_model} channels, the transformer reads "
                f"{transformer.config.text_dim}"
            )
        refuse_code(folder / "tokenizer")
        if not (folder / "tokenizer" / "tokenizer.json").is_file():
            raise ModelFolderError(f"{folder / 'tokenizer'} has no tokenizer.json")
        try:
            tokenizer = AutoTokenizer.from_pretrained(
                folder / "tokenizer", local_files_only=True, trust_remote_code=False
            )
            scheduler = diffusers.UniPCMultistepScheduler.from_pretrained(folder / "scheduler")
        # each library has an error class for each thing that a file may lack
        except Exception as error:
            raise ModelFolderError(f"{folder}: tokenizer or scheduler cannot be read ({error})") from error
        autoencoder = CausalAutoencoder(vae.eval().requires_grad_(False))
        space = CausalSpace(autoencoder, published.space * published.patch)
        card = model_folder.card(folder) or {"name": folder.name, "family": NAME, "weights": "published"}
        return cls(transformer, encoder, tokenizer, space, scheduler, published, card).to(device)

    def to(self, device: torch.device | str) -> WanSystem:
        self.model.to(device)
        self.encoder.to(device)
        self.space.to(device)
        self._rows.cache_clear()
        return self


def _opened(kind: Any, folder: Path, stem: str, dtype: torch.dtype | None, configs: Any = None) -> Any:
    """A part from safetensors, its names and shapes held against its config before any memory is taken."""
    refuse_code(folder)
    stored, where = open_weights(folder, stem), str(folder / "config.json")
    values = model_folder.read_config(folder)
    check_depth(values, stored, where)
    if dtype is None:
        dtype = FLOATS[next(iter(stored.dtypes().values()))]
    try:
        with without_storage():
            if configs is None:
                expected = kind.from_config(values).state_dict()
            else:
                expected = kind(configs.from_pretrained(folder, local_files_only=True)).state_dict()
        shapes = {name: tuple(tensor.shape) for name, tensor in expected.items()}
        # two names of one tensor, of which files hold one
        shapes.pop("encoder.embed_tokens.weight", None)
        held = {
            name: shape for name, shape in stored.shapes().items() if name != "encoder.embed_tokens.weight"
        }
        check_shapes(shapes, held, where)
        named = "torch_dtype" if configs is None else "dtype"
        return kind.from_pretrained(folder, use_safetensors=True, local_files_only=True, **{named: dtype})
    except ModelFolderError:
        raise
    # their errors are of every class, by what the config contradicts
    except Exception as error:
        raise ModelFolderError(f"{folder} cannot be read ({error})") from error
