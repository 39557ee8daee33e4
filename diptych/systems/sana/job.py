"""The SANA job: a linear DiT on an index of pictures, from scratch, fine-tuned whole or through LoRA, with or
without control."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from diptych import surgery
from diptych.data.captioned.buckets import Bucket, BucketPlan
from diptych.data.captioned.cache import TargetCache
from diptych.data.captioned.index import Index
from diptych.data.captioned.loader import PictureDataset, is_validation
from diptych.data.conversations.tokens import TextTokenizer
from diptych.data.frames import FrameBatch, collate
from diptych.data.pictures import CONTROLS
from diptych.encoders.learned import LearnedEncoder
from diptych.files.folder import locate
from diptych.files.lineage import data_of
from diptych.files.typed import read as read_typed
from diptych.files.typed import to_json
from diptych.files.weights import open_tensors
from diptych.files.whole import whole, whole_folder, write_whole
from diptych.flow import Objective
from diptych.inference import Pipeline, draw
from diptych.inference.sheet import Cell, contact_sheet
from diptych.models.caption_encoder import CaptionEncoder, CaptionEncoderConfig
from diptych.models.linear_dit import LinearDiT
from diptych.planning import opened
from diptych.request import Task
from diptych.spaces import LatentSpace, load_space
from diptych.systems.sana import NAME
from diptych.systems.sana.config import SanaStage, SanaTrainConfig
from diptych.systems.sana.lora import write_lora
from diptych.systems.sana.parts import Encoder, Parts, open_parts, stored_values
from diptych.systems.sana.system import SanaSystem
from diptych.training import checkpoint
from diptych.training.export import OPTIMISER
from diptych.training.tasks.generate import GenerateTask

START = "start"
"""In the run's folder: the model that the run started from, so that it goes on and exports without the
original."""
FROZEN = "frozen.json"
"""In the run's folder: identities of the parts that do not learn, which must stay what they were."""
VALIDATION_PICTURES = 64
VALIDATION_LEVELS = 5
SHOWN = 12


class SanaModel(nn.Module):
    """All that a run may change: the denoiser, and the text encoder where it learns with it."""

    def __init__(self, denoiser: LinearDiT, text: CaptionEncoder | None) -> None:
        super().__init__()
        self.denoiser, self.text = denoiser, text


class SanaJob:
    """A run over an index, see `contracts.Job`. Raises ValueError for settings that contradict the model or
    the pictures."""

    family = NAME
    loss_names: tuple[str, ...] = GenerateTask.loss_names

    def __init__(self, config: SanaTrainConfig, folder: Path) -> None:
        """`folder` is the run's."""
        if not config.pictures:
            raise ValueError("this recipe needs --pictures, a folder that `diptych data index` was run on")
        self.index = Index(Path(config.pictures))
        kept = folder / START
        # the copy first: a run that goes on must not depend on where the original has gone
        self.source = kept if kept.is_dir() else locate(config.start) if config.start else None
        self.start = None if self.source is None else open_parts(self.source)
        new = checkpoint.latest_step(folder / "checkpoints") is None
        self.parent = self.start.card if self.start is not None and new else None
        if self.start is not None:
            # the model's sizes are the start's, whatever the recipe says
            config = replace(config, model=config.framed(self.start.model))
        self.config = config = config.sized(None if self.start is None else self.start.native)
        self.space = _space(config) if self.start is None else self.start.space
        self.encoder = _encoder(config, self.start, self.index, folder / "tokenizer.json")
        self._check_frozen(folder / FROZEN)
        with torch.device("meta"):
            denoiser = LinearDiT(config.model)
            if config.lora_rank:
                surgery.add_lora(denoiser, config.lora_rank, config.seed)
        learned = self.encoder.model if isinstance(self.encoder, LearnedEncoder) else None
        if learned is None:
            # a frozen encoder stays outside SanaModel: it is neither sharded, averaged nor saved
            self.encoder.model.requires_grad_(False)
        # parameters keep their names through this wrapper: 'denoiser.' and 'text.' are what checkpoints and
        # exports hold
        self.model = SanaModel(denoiser, learned).train()
        self.task = GenerateTask(self.system({}), config.law, Objective(), self.model)
        self.control = CONTROLS[config.control] if config.control else None
        self.cache = None
        if config.cache:
            self.cache = TargetCache(
                Path(config.cache), self.space.identity(), self.encoder.identity(), config.control
            )

    @property
    def body(self) -> LinearDiT:
        return self.model.denoiser

    def starting_values(self) -> Iterator[tuple[str, Tensor]]:
        values = self._plain_values()
        if self.config.lora_rank:
            values = surgery.lora_values(self.model, values, self.config.seed)
        yield from values

    def _plain_values(self) -> Iterable[tuple[str, Tensor]]:
        """Of a model without adapters."""
        generator = torch.Generator().manual_seed(self.config.seed)
        text: Iterable[tuple[str, Tensor]] = ()
        # one generator for both: the text's values follow on the denoiser's, so the order of the two loops
        # matters
        if self.start is None:
            with torch.device("meta"):
                plain = LinearDiT(self.config.model)
            denoiser = plain.starting_values(generator)
            text = () if self.model.text is None else self.model.text.starting_values(generator)
        else:
            denoiser = stored_values(self.config.model, self.start.weights)
            text = () if self.start.learned is None else self.start.learned.items()
        for name, value in denoiser:
            yield f"denoiser.{name}", value.float()
        for name, value in text:
            yield f"text.{name}", value.float()

    def optimiser_state(self) -> Mapping[str, Tensor]:
        # state of the whole matrices says nothing of adapters
        if self.source is None or not (self.source / OPTIMISER).is_file() or self.config.lora_rank:
            return {}
        return open_tensors(self.source, OPTIMISER.removesuffix(".safetensors"))

    def totals(self, batch: FrameBatch) -> dict[str, float]:
        return {"flow": float(batch.weight.sum())}

    def loss_weights(self, stage: SanaStage) -> dict[str, float]:
        return {"flow": 1.0}

    def learns(self, name: str, stage: SanaStage) -> bool:
        # under LoRA a text encoder that came with the model is frozen too
        return ("lora_" in name) == (stage.trainable == "lora")

    def dataset(self, stage: SanaStage, rank: int, ranks: int) -> PictureDataset:
        resolutions = stage.resolutions or self.config.data.resolutions
        # a stage counts its epochs from its own first step: its buckets, and so its epochs' lengths, are its
        # own
        first = sum(s.steps for s in self.config.stages[: self.config.stages.index(stage)])
        return PictureDataset(
            self.index,
            replace(self.config.data, resolutions=resolutions),
            multiple=self.multiple,
            shape=self.space.shape,
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
        # a side must be whole in tokens, not only in latents
        return self.space.factor * self.config.model.patch

    def describe(self, stage: SanaStage) -> str:
        plan = self.dataset(stage, 0, 1).plan
        joined = f", {len(plan.joined)} buckets joined with their neighbour" if plan.joined else ""
        return (
            f"{stage.trainable} learns; {len(plan.bucket_of)} pictures in {len(plan.members)} "
            f"buckets{joined}, {plan.steps_per_epoch} steps an "
            f"epoch, {plan.dropped} pictures left out of each"
        )

    def _check_frozen(self, path: Path) -> None:
        """Raises ValueError where the autoencoder or the text encoder is not the one that the run began
        with: what was learned in the latents of one is noise in those of another."""
        if not path.is_file():
            return
        for part, identity in read_typed(dict[str, str | None], path).items():
            if self._frozen().get(part) != identity:
                place = self.config.space if self.source is None else self.source
                raise ValueError(
                    f"{place}: the {part} is not the one that the run in {path.parent} began with; put that "
                    "one back, or begin another run"
                )

    def _frozen(self) -> dict[str, str | None]:
        return {"autoencoder": self.space.identity(), "text encoder": self.encoder.identity()}

    def prepare(self, folder: Path) -> None:
        write_whole(folder / FROZEN, to_json(self._frozen()))
        if self.source is None:
            assert isinstance(self.encoder, LearnedEncoder)
            self.encoder.tokenizer.save(folder / "tokenizer.json")
        elif self.source != folder / START:
            # whole or absent: `kept.is_dir()` above then means a whole copy
            with whole_folder(folder / START) as aside:
                shutil.copytree(self.source, aside, dirs_exist_ok=True)

    @functools.cached_property
    def _validation(self) -> list[FrameBatch]:
        """Kept pictures, each with fixed noise and its caption, in batches of one size."""
        share = self.config.data.validation
        kept = [n for n, row in enumerate(self.index.rows) if is_validation(row.sha256, share)]
        kept = kept[:VALIDATION_PICTURES]
        if not kept:
            return []
        # only its `sample` is used: without dropout, from a plan that one picture fills
        config = replace(self.config.data, drop_text=0.0, validation=0.0, pictures_per_step=1, accumulate=1)
        data = PictureDataset(
            self.index,
            config,
            multiple=self.multiple,
            shape=self.space.shape,
            seed=self.config.seed,
            cache=self.cache,
            control=self.control,
        )
        # batches of one join no buckets: the sizes are those that `precompute` caches for kept pictures
        plan = BucketPlan(
            self.index.sizes()[kept], self.config.data.resolutions, self.multiple, 1, self.config.seed
        )
        by_size: dict[Bucket, list[FrameBatch]] = {}
        for place, number in enumerate(kept):
            bucket = plan.bucket_of[place]
            # 2^40 is beyond any key of training: noise that is never trained on
            by_size.setdefault(bucket, []).append(data.sample(number, bucket, 0, 2**40 + number))
        return [collate(group[i : i + 16]) for group in by_size.values() for i in range(0, len(group), 16)]

    @torch.no_grad()
    def validate(self, device: torch.device) -> dict[str, float]:
        """Velocity error on kept pictures at evenly spaced levels (before the shift) and fixed noise, so that
        values compare."""
        totals: dict[str, list[float]] = {}
        for batch in self._validation:
            batch = batch.to(device)
            clean = self.task.clean(batch)
            for level in range(VALIDATION_LEVELS):
                # the same levels for every run and law but for the shift: a random level would hide small
                # gains in its noise
                u = torch.full((len(batch),), (level + 0.5) / VALIDATION_LEVELS, device=device)
                errors = self.task.errors(batch, clean, self.config.law.shifted(u))
                totals.setdefault(f"validation/u={(level + 0.5) / VALIDATION_LEVELS:.1f}", []).extend(
                    errors.tolist()
                )
        means = {name: float(np.mean(values)) for name, values in totals.items()}
        return {"validation": float(np.mean(list(means.values()))), **means} if means else {}

    def sample(self, path: Path | None) -> None:
        """Pictures of captions from all over the training pictures, each with its caption."""
        share = self.config.data.validation
        learning = [n for n, row in enumerate(self.index.rows) if not is_validation(row.sha256, share)]
        places = np.linspace(0, len(learning) - 1, min(SHOWN, len(learning))).astype(int)
        chosen = [learning[place] for place in places]
        captions = [self.index.rows[n].captions[0] for n in chosen]
        pipeline = Pipeline(self.system({}))
        if self.control is None:
            plans = [pipeline.plan(text, task=Task.TEXT_TO_IMAGE, seed=1) for text in captions]
            media = None
        else:
            plans = [pipeline.plan(text, 1, task=Task.CONTROL_TO_IMAGE, seed=1) for text in captions]
            given = [self.control(pipeline.system.fit(self.index.picture(n))) for n in chosen]
            media = [[opened(pixels)] for pixels in given]
        pictures = [frames[0] for frames in draw(pipeline.system, plans, media)]
        if path is not None:
            contact_sheet([Cell(p, text) for p, text in zip(pictures, captions, strict=True)], path)

    def system(self, card: dict[str, Any]) -> SanaSystem:
        return self.around(self.model.denoiser, card)

    def around(self, denoiser: LinearDiT, card: dict[str, Any]) -> SanaSystem:
        """The system of this run with another denoiser."""
        start = self.start
        return SanaSystem(
            denoiser,
            self.encoder,
            self.space,
            self.config.sampler if start is None else start.sampler,
            max(self.config.data.resolutions),
            # null text as the start was trained with: another would be a new convention to learn
            "empty" if start is None else start.null,
            None if start is None else start.null_caption,
            self.config.control,
            card,
        )


def _space(config: SanaTrainConfig) -> LatentSpace:
    if not config.space:
        raise ValueError(
            "a run from scratch needs the autoencoder's folder (--space), or a model to start from (--start)"
        )
    space = load_space(Path(config.space))
    if space.channels != config.model.channels:
        raise ValueError(
            f"{config.space} has {space.channels} latent channels, the model is configured for "
            f"{config.model.channels}"
        )
    return space


def _encoder(config: SanaTrainConfig, start: Parts | None, index: Index, words: Path) -> Encoder:
    """The text encoder of the run: one that learns lies on the meta device, as the rest that does."""
    if start is not None and start.learned is None:
        return start.text(None)
    if start is not None:
        encoder = start.text(None)
        assert isinstance(encoder, LearnedEncoder)
        with torch.device("meta"):
            return LearnedEncoder(CaptionEncoder(encoder.model.config), encoder.tokenizer)
    # learned once and kept in the run's folder: the index may be another when the run goes on
    captions = [caption for row in index.rows for caption in row.captions]
    tokenizer = (
        TextTokenizer.load(words)
        if words.is_file()
        else TextTokenizer.train(captions, config.text.vocab_size)
    )
    text = CaptionEncoderConfig(
        vocab_size=tokenizer.vocab_size,
        channels=config.model.caption_channels,
        depth=config.text.depth,
        heads=config.text.heads,
        max_tokens=config.text.max_tokens,
    )
    with torch.device("meta"):
        return LearnedEncoder(CaptionEncoder(text), tokenizer)


def export(job: SanaJob, about: dict[str, Any], out: Path) -> SanaSystem:
    """Write what a job has trained as a model folder, adapters merged; and adapters, if any, beside it by
    themselves, for use with the model that the run started from."""
    card = {
        **about,
        "family": NAME,
        "pictures": about["steps"] * job.config.data.pictures_per_step,
        "data": data_of(about["parents"], [job.config.pictures]),
        "licence": "that of the pictures and of the parents",
        "weights": "EMA" if job.config.ema else "trained",
    }
    denoiser = job.model.denoiser
    adapters = surgery.lora_weights(denoiser)
    # merged into a copy: the run's own denoiser trains on with its adapters apart
    system = job.around(surgery.merge_lora(denoiser) if adapters else denoiser, card)
    with whole_folder(out) as folder:
        system.save(folder)
    if adapters:
        with whole(out.with_name(out.name + "-lora.safetensors")) as aside:
            save_file(write_lora(adapters, "diffusers", system.embeds_guidance), aside)
    return system
