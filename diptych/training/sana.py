"""The SANA job: a linear DiT on an index of pictures, from scratch, fine-tuned whole or through LoRA, with or
without control."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from diptych import surgery
from diptych.data.buckets import BucketPlan
from diptych.data.cache import LatentCache
from diptych.data.index import Index
from diptych.data.picture_loader import PictureBatch, PictureDataset, collate, is_validation
from diptych.data.pictures import CONTROLS
from diptych.data.tokens import TextTokenizer
from diptych.inference import Pipeline, draw
from diptych.inference.sheet import Cell, contact_sheet
from diptych.models.caption_encoder import CaptionEncoder, CaptionEncoderConfig
from diptych.models.linear_dit import LinearDiT
from diptych.spaces import load_space
from diptych.systems.folder import locate
from diptych.systems.sana import SanaSystem
from diptych.systems.text import GemmaEncoder, LearnedEncoder
from diptych.training.job import exchanged
from diptych.training.sana_config import SanaStage, SanaTrainConfig
from diptych.training.sana_task import SanaTask

VALIDATION_PICTURES = 64
VALIDATION_LEVELS = 5
SHOWN = 12


class SanaModel(nn.Module):
    """All that a run may change: the denoiser, and the text encoder where it learns with it."""

    def __init__(self, denoiser: LinearDiT, text: CaptionEncoder | None) -> None:
        super().__init__()
        self.denoiser, self.text = denoiser, text


class SanaJob:
    """Raises ValueError for settings that contradict the model or the pictures."""

    loss_names = ("flow",)

    def __init__(self, config: SanaTrainConfig, folder: Path, start: str | None = None) -> None:
        """`folder` is the run's: what it started from is kept there, so that it goes on and exports without
        the original."""
        self.index = Index(Path(config.pictures))
        parts = folder / "start"
        if start is not None or parts.is_dir():
            base = SanaSystem.load(parts if parts.is_dir() else locate(start))
            config = replace(
                config,
                model=replace(
                    base.model.config, multi_frame=bool(config.control) or base.model.config.multi_frame
                ),
            )
            self.config, self.space, self.null, self.null_caption = (
                config,
                base.space,
                base.null,
                base.null_caption,
            )
            self.encoder: GemmaEncoder | LearnedEncoder = base.text
            denoiser = surgery.with_frames(base.model, config.model)
            self.start: SanaSystem | None = base
        else:
            denoiser = self._from_scratch(config, folder)
        self.config = config
        if config.lora_rank:
            surgery.add_lora(denoiser, config.lora_rank, config.seed)
        self.model = (
            SanaModel(denoiser, self.encoder.model if isinstance(self.encoder, LearnedEncoder) else None)
            .float()
            .train()
        )
        self.encoder.model.requires_grad_(isinstance(self.encoder, LearnedEncoder))
        self.task = SanaTask(self.model, self.read_text, self._encode, config.law)
        self.blocks: Iterable[nn.Module] = cast(Iterable[nn.Module], denoiser.blocks)
        self._prepare_blocks()
        self.control = CONTROLS[config.control] if config.control else None
        self.cache = (
            LatentCache(Path(config.cache), self.space.identity(), self.encoder.identity(), config.control)
            if config.cache
            else None
        )

    def _from_scratch(self, config: SanaTrainConfig, folder: Path) -> LinearDiT:
        if not config.space:
            raise ValueError(
                "a run from scratch needs the autoencoder's folder (--space), or a model to start from "
                "(--start)"
            )
        self.space, self.null, self.null_caption, self.start = (
            load_space(Path(config.space)),
            "empty",
            None,
            None,
        )
        model = config.model
        if self.space.channels != model.channels:
            raise ValueError(
                f"{config.space} has {self.space.channels} latent channels, the model is configured for "
                f"{model.channels}"
            )
        words = folder / "tokenizer.json"
        captions = [caption for row in self.index.rows for caption in row.captions]
        tokenizer = (
            TextTokenizer.load(words)
            if words.is_file()
            else TextTokenizer.train(captions, config.text.vocab_size)
        )
        text = CaptionEncoderConfig(
            vocab_size=tokenizer.vocab_size,
            channels=model.caption_channels,
            depth=config.text.depth,
            heads=config.text.heads,
            max_tokens=config.text.max_tokens,
        )
        torch.manual_seed(config.seed)
        self.encoder = LearnedEncoder(CaptionEncoder(text), tokenizer)
        denoiser = LinearDiT(model)
        denoiser.initialise(torch.Generator().manual_seed(config.seed))
        return denoiser

    def _prepare_blocks(self) -> None:
        """Recompute, then compile, block by block; sharding comes after."""
        for block in self.blocks:
            if self.config.checkpoint_blocks:
                block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False)  # type: ignore[method-assign]
            if self.config.compile_blocks:
                block.compile()

    @torch.no_grad()
    def _encode(self, pixels: Tensor) -> Tensor:
        # one at a time and in the autoencoder's own precision, as the cache is made
        with torch.autocast(pixels.device.type, enabled=False):
            return torch.cat([self.space.encode(picture[None]) for picture in pixels])

    def read_text(self, batch: PictureBatch) -> tuple[Tensor, Tensor]:
        """Hidden states and mask of a batch, the null condition where its caption is dropped: as in
        sampling."""
        if isinstance(self.encoder, LearnedEncoder):
            return self.encoder.encode(
                ["" if gone else c for c, gone in zip(batch.captions, batch.dropped.tolist(), strict=True)]
            )
        text, mask = (batch.text, batch.mask) if batch.text.numel() else self.encoder.encode(batch.captions)
        dropped = batch.dropped.to(text.device)
        if self.null_caption is not None:
            null = nn.functional.pad(
                self.null_caption[: text.shape[1]].to(text),
                (0, 0, 0, max(0, text.shape[1] - len(self.null_caption))),
            )
            return torch.where(dropped[:, None, None], null, text), mask
        null, real = self._null
        text = torch.where(
            dropped[:, None, None],
            nn.functional.pad(null.to(text), (0, 0, 0, text.shape[1] - null.shape[1])),
            text,
        )
        return text, torch.where(
            dropped[:, None], nn.functional.pad(real.to(mask), (0, mask.shape[1] - real.shape[1])), mask
        )

    @functools.cached_property
    def _null(self) -> tuple[Tensor, Tensor]:
        return self.encoder.encode([""], instruct=False)

    def totals(self, batch: PictureBatch) -> dict[str, float]:
        return {"flow": float(batch.weight.sum())}

    def loss_weights(self, stage: SanaStage) -> dict[str, float]:
        return {"flow": 1.0}

    def learns(self, name: str, stage: SanaStage) -> bool:
        return ("lora_" in name) == (stage.trainable == "lora")

    def dataset(self, stage: SanaStage, rank: int, ranks: int) -> PictureDataset:
        config = (
            self.config.data
            if stage.resolutions is None
            else replace(self.config.data, resolutions=stage.resolutions)
        )
        first = sum(s.steps for s in self.config.stages[: self.config.stages.index(stage)])
        return PictureDataset(
            self.index,
            config,
            multiple=self.multiple,
            latent_shape=self._latent_shape,
            seed=self.config.seed,
            rank=rank,
            ranks=ranks,
            cache=self.cache,
            control=self.control,
            first_step=first,
        )

    @property
    def multiple(self) -> int:
        """Sides of pictures are multiples of this, px."""
        return self.space.factor * self.config.model.patch

    def _latent_shape(self, width: int, height: int) -> tuple[int, ...]:
        return self.space.shape(width, height)[1:]

    def describe(self, stage: SanaStage) -> str:
        plan = self.dataset(stage, 0, 1).plan
        joined = f", {len(plan.joined)} buckets joined with their neighbour" if plan.joined else ""
        return (
            f"{stage.trainable} learns; {len(plan.bucket_of)} pictures in {len(plan.members)} "
            f"buckets{joined}, {plan.steps_per_epoch} steps an "
            f"epoch, {plan.dropped} pictures left out of each"
        )

    def prepare(self, folder: Path) -> None:
        if self.start is not None:
            if not (folder / "start").is_dir():
                aside = folder / "start.part"
                self.start.save(aside)
                aside.rename(folder / "start")
        elif isinstance(self.encoder, LearnedEncoder):
            self.encoder.tokenizer.save(folder / "tokenizer.json")

    @functools.cached_property
    def _validation(self) -> list[PictureBatch]:
        """Kept pictures, each with fixed noise and its caption, in batches of one size."""
        config = replace(self.config.data, drop_text=0.0, validation=0.0)
        kept = [
            n
            for n, row in enumerate(self.index.rows)
            if is_validation(row.sha256, self.config.data.validation)
        ][:VALIDATION_PICTURES]
        if not kept:
            return []
        config = replace(config, pictures_per_step=1, accumulate=1)
        data = PictureDataset(
            self.index,
            config,
            multiple=self.multiple,
            latent_shape=self._latent_shape,
            seed=self.config.seed,
            cache=self.cache,
            control=self.control,
        )
        plan = BucketPlan(
            self.index.sizes()[kept], self.config.data.resolutions, self.multiple, 1, self.config.seed
        )
        by_size: dict[Any, list[PictureBatch]] = {}
        for place, number in enumerate(kept):
            bucket = plan.bucket_of[place]
            by_size.setdefault(bucket, []).append(data.sample(number, bucket, 0, 2**40 + number))
        return [collate(group[i : i + 16]) for group in by_size.values() for i in range(0, len(group), 16)]

    @torch.no_grad()
    def validate(self, weights: Mapping[str, Tensor], device: torch.device) -> dict[str, float]:
        """Velocity error on kept pictures at evenly spaced levels (before the shift) and fixed noise, so that
        values compare."""
        totals: dict[str, list[float]] = {}
        with exchanged(self.model, weights):
            for batch in self._validation:
                batch = batch.to(device)
                clean = self.task.latents(batch)
                for level in range(VALIDATION_LEVELS):
                    u = torch.full((len(batch),), (level + 0.5) / VALIDATION_LEVELS, device=device)
                    errors = self.task.errors(batch, clean, self.config.law.shifted(u))
                    totals.setdefault(f"validation/u={(level + 0.5) / VALIDATION_LEVELS:.1f}", []).extend(
                        errors.tolist()
                    )
        means = {name: float(np.mean(values)) for name, values in totals.items()}
        return {"validation": float(np.mean(list(means.values()))), **means} if means else {}

    def sample(self, weights: Mapping[str, Tensor], path: Path) -> None:
        """Pictures of the first captions, beside what they are of."""
        chosen = [
            row for row in self.index.rows if not is_validation(row.sha256, self.config.data.validation)
        ]
        chosen = [chosen[i] for i in np.linspace(0, len(chosen) - 1, min(SHOWN, len(chosen))).astype(int)]
        with exchanged(self.model, weights):
            system = self._system(self.model.denoiser)
            pipeline = Pipeline(system)
            plans = [pipeline.plan(row.captions[0], task="text-to-image", seed=1) for row in chosen]
            media = []
            if self.control is not None:
                numbers = [self.index.rows.index(row) for row in chosen]
                media = [[Pipeline.open(self.control(system.fit(self.index.picture(n))))] for n in numbers]
                plans = [pipeline.plan(row.captions[0], 1, task="text-to-image", seed=1) for row in chosen]
            pictures = draw(system, plans, media or None)
            self.model.train()
        contact_sheet([Cell(p, row.captions[0]) for p, row in zip(pictures, chosen, strict=True)], path)

    def _system(self, denoiser: LinearDiT, card: dict[str, Any] | None = None) -> SanaSystem:
        side = max(self.config.data.resolutions)
        sampler = self.config.sampler if self.start is None else self.start.sampler
        return SanaSystem(
            denoiser,
            self.encoder,
            self.space,
            sampler,
            side,
            self.null,
            self.null_caption,
            self.config.control,
            card,
        )

    def adapters(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Matrices of the run's LoRA, if it has one."""
        return surgery.lora_weights(self.model.denoiser)

    def system(self, weights: Mapping[str, Tensor], card: dict[str, Any]) -> SanaSystem:
        """A system with these weights, adapters merged."""
        self.model.load_state_dict(dict(weights))
        return self._system(surgery.merge_lora(self.model.denoiser), card)


def load_job(run: Path) -> SanaJob:
    """The job of a run's folder, for going on and for export."""
    from diptych.training.config import from_dict

    config = from_dict(
        SanaTrainConfig, json.loads((run / "config.json").read_text()), str(run / "config.json")
    )
    return SanaJob(config, run)
