"""The job of drawing: a bridge and a denoiser behind a language model; see `contracts.Job`."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diptych import surgery
from diptych.contracts import BlockModel
from diptych.data.captioned.cache import TargetCache
from diptych.data.frames import FrameBatch
from diptych.data.loader import StepDataset
from diptych.encoders.backbone import Reader
from diptych.family import OpenSystem
from diptych.files.folder import DEFAULT, HUB, family_name, locate
from diptych.files.typed import read as read_typed
from diptych.files.typed import to_json
from diptych.files.whole import whole_folder, write_whole
from diptych.flow import Objective
from diptych.inference import Pipeline, draw
from diptych.inference.sheet import Cell, contact_sheet
from diptych.models.connector import Bridge, Reference, ReferenceConfig
from diptych.models.connector.config import STATES
from diptych.models.linear_dit import LinearDiTConfig
from diptych.models.meta import without_storage
from diptych.request import Task
from diptych.spaces.features import FeatureSpace
from diptych.systems.blip3o import NAME, caches
from diptych.systems.blip3o.config import BRIDGE, EVERYTHING, REGRESSION, BlipStage, BlipTrainConfig
from diptych.systems.blip3o.drawing import FLOW, TEXT, Learned, Taught, TaughtBatch, TaughtTask, Teachable
from diptych.systems.blip3o.job import BlipJob
from diptych.systems.blip3o.parts import make_denoiser, named_backbone, open_backbone
from diptych.systems.blip3o.settings import NamedBackbone
from diptych.systems.blip3o.spaces import load_any
from diptych.systems.blip3o.system import BlipSystem, Space
from diptych.training import checkpoint
from diptych.training.config import LORA
from diptych.training.tasks.generate import GenerateTask
from diptych.worlds.emoji import EmojiWorld
from diptych.worlds.emoji.source import EmojiSource

START, FROZEN = "start", "frozen.json"
"""In the run's folder: the model that it started from, and identities of what does not learn."""
KEPT, SHOWN, LEVELS = 64, 12, 5


class DrawingJob(BlipJob):
    """Raises ValueError for settings that contradict the model, the space or the pictures."""

    model: Learned

    def __init__(self, config: BlipTrainConfig, folder: Path, open_system: OpenSystem) -> None:
        super().__init__(config, folder)
        kept = folder / START
        self.source = kept if kept.is_dir() else locate(config.start) if config.start else None
        self.start = None if self.source is None else _opened(self.source, open_system)
        new = checkpoint.latest_step(folder / "checkpoints") is None
        self.parent = self.start.card if self.start is not None and new else None
        self.named: NamedBackbone | None
        if self.start is None:
            if not config.space:
                raise ValueError("a run from scratch needs the folder that it draws in (--space), or --start")
            self.backbone, self.named = language_model(config.backbone, folder, open_system)
            self.space = load_any(Path(config.space))
            self.config = config = filled(config, self.backbone, self.space)
        else:
            self.backbone, self.named, self.space = self.start.backbone, self.start.named, self.start.space
            self.config = config = _under(config, self.start)
        alone = any(stage.trainable == BRIDGE and stage.steps for stage in config.stages)
        if alone and config.bridge.kind == STATES:
            raise ValueError(f"a bridge of {config.bridge.kind!r} has nothing that could learn by itself")
        self.teaches = any(stage.text_weight for stage in config.stages)
        if self.teaches and not isinstance(self.backbone, Teachable):
            raise ValueError(
                "the language model does not tell the loss of its answers: text_weight must be 0"
            )
        self.loss_names = (FLOW, TEXT) if self.teaches else (FLOW,)
        # before a language model that learns has given its values away
        self.frozen = {"image space": self.space.identity(), "language model": self.backbone.identity()}
        self._check_frozen(folder / FROZEN)
        self.unfrozen = any(stage.trainable == EVERYTHING and stage.steps for stage in config.stages)
        known = dict(self.backbone.model.state_dict()) if self.unfrozen else {}
        self._known = {name: value.clone() for name, value in known.items()}
        if self.unfrozen:
            # memory comes when the run has placed it, as for all that learns
            self.backbone.model.to("meta")
        else:
            self.backbone.model.requires_grad_(False)
        with without_storage():
            self.model = Learned(
                make_denoiser(config.linear or config.model),
                Bridge(config.bridge),
                self.backbone.model if self.unfrozen else None,
                self._reference(config),
            ).train()
        if config.lora_rank:
            surgery.add_lora(self.body, config.lora_rank, config.seed)
        flow = GenerateTask(self.system({}), config.law, Objective(), self.model)
        self.flow = flow
        self.task: nn.Module = flow
        if isinstance(self.backbone, Teachable) and self.teaches:
            self.task = TaughtTask(flow, self.backbone)

    def _reference(self, config: BlipTrainConfig) -> Reference | None:
        """What shows the denoiser a given picture, without storage: of a run with edits, and of one that goes
        on with a model that has it."""
        held = None if self.start is None else self.start.reference
        if held is not None:
            return Reference(held.config)
        if not config.edits:
            return None
        if isinstance(self.space, FeatureSpace) and self.space.encoder is None:
            raise ValueError("the image space has no encoder, so no picture can be given: edits must be 0")
        denoiser = config.linear or config.model
        told = {"channels": self.space.channels, "outputs": denoiser.caption_channels}
        return Reference(ReferenceConfig(**told, patch=denoiser.patch))

    @property
    def body(self) -> BlockModel:
        return self.model.denoiser  # type: ignore[return-value]

    def shape(self, width: int, height: int) -> tuple[int, ...]:
        return self.space.shape(width, height)

    @functools.cached_property
    def cache(self) -> TargetCache | None:  # type: ignore[override]
        if not self.config.cache:
            return None
        assert self.index is not None
        return caches.opened(
            Path(self.config.cache),
            self.space,
            None if self.unfrozen else self.flow.system.text,
            self.index,
            self.config.side,
            self.config.data.validation,
        )

    def starting_values(self) -> Iterator[tuple[str, Tensor]]:
        values = self._plain_values()
        if self.config.lora_rank:
            values = surgery.lora_values(self.model, values, self.config.seed)
        yield from values

    def _plain_values(self) -> Iterator[tuple[str, Tensor]]:
        """Of a model without adapters."""
        generator = torch.Generator().manual_seed(self.config.seed)
        learnt: dict[str, Any] = {"denoiser": plain_of(self.model.denoiser), "bridge": self.model.bridge}
        held: dict[str, nn.Module] = {}
        if self.start is not None:
            held = {"denoiser": self.start.model, "bridge": self.start.bridge}
            held |= {} if self.start.reference is None else {"reference": self.start.reference}
        if self.model.reference is not None:
            learnt["reference"] = self.model.reference
        if self.config.new_bridge:
            held.pop("bridge", None)
        for part, module in learnt.items():
            known = held[part].state_dict().items() if part in held else module.starting_values(generator)
            for name, value in known:
                yield f"{part}.{name}", value.float()
        for name, value in self._known.items():
            yield f"backbone.{name}", value.float()

    def totals(self, batch: Any) -> dict[str, float]:
        found = {FLOW: float(batch.weight.sum())}
        if self.teaches and isinstance(self.backbone, Teachable):
            talks = batch.talks if isinstance(batch, TaughtBatch) else ()
            found[TEXT] = float(self.backbone.told(talks)) if talks else 0.0
        return found

    def loss_weights(self, stage: BlipStage) -> dict[str, float]:
        return {FLOW: stage.flow_weight, TEXT: stage.text_weight}

    def learns(self, name: str, stage: BlipStage) -> bool:
        part = name.partition(".")[0]
        if "lora_" in name or stage.trainable == LORA:
            # adapters learn alone, behind a bridge that stays as it is
            return "lora_" in name and stage.trainable == LORA
        if part == "backbone":
            # what the language model itself draws with has no part in this
            drawing = getattr(self.backbone.model, "facts", None)
            apart = drawing.streams.get("generation", ()) if drawing is not None else ()
            return stage.trainable == EVERYTHING and not any(piece in name for piece in apart)
        return part in ("bridge", "reference") or stage.trainable != BRIDGE

    def dataset(self, stage: BlipStage, rank: int, ranks: int) -> StepDataset[Any]:
        pictures = super().dataset(stage, rank, ranks)
        if not self.teaches:
            return pictures
        source = EmojiSource(EmojiWorld(self.config.asked), "understand", self.config.seed)
        talks = self.config.talks_per_step if stage.text_weight else 0
        return Taught(pictures, source, talks, self.config.data.accumulate, rank, ranks)

    def describe(self, stage: BlipStage) -> str:
        counts = {
            part: sum(
                p.numel() for name, p in module.named_parameters() if self.learns(f"{part}.{name}", stage)
            )
            for part, module in self.model.named_children()
        }
        learnt = ", ".join(f"{part} {count:,}" for part, count in counts.items() if count)
        return f"parameters that learn: {learnt}; all else is frozen"

    def _check_frozen(self, path: Path) -> None:
        """Raises ValueError where the space or the language model is not the one that the run began with."""
        if not path.is_file():
            return
        for part, identity in read_typed(dict[str, str], path).items():
            if self.frozen.get(part) != identity:
                raise ValueError(
                    f"the {part} is not the one that the run in {path.parent} began with; put that one "
                    "back, or begin another run"
                )

    def prepare(self, folder: Path) -> None:
        if not (folder / FROZEN).is_file():
            write_whole(folder / FROZEN, to_json(self.frozen))
        if self.start is not None and self.source is not None and self.source != folder / START:
            with whole_folder(folder / START) as aside:
                placed(self.start, self.source, folder / START).save(aside)

    @functools.cached_property
    def _validation(self) -> list[FrameBatch]:
        return self.kept(KEPT)

    @torch.no_grad()
    def validate(self, device: torch.device) -> dict[str, float]:
        """Velocity error on kept pictures at the quantiles of the run's own noise levels, at fixed noise."""
        totals: dict[str, list[float]] = {}
        for batch in self._validation:
            batch = batch.to(device)
            clean = self.flow.clean(batch)
            for level in range(LEVELS):
                u = torch.full((len(batch),), (level + 0.5) / LEVELS, dtype=torch.float64)
                sigma = self.config.law.sigma(torch.special.ndtri(u).float().to(device))
                errors = self.flow.errors(batch, clean, sigma)
                totals.setdefault(f"validation/u={(level + 0.5) / LEVELS:.1f}", []).extend(errors.tolist())
        means = {name: sum(values) / len(values) for name, values in totals.items()}
        return {"validation": sum(means.values()) / len(means), **means} if means else {}

    def sample(self, path: Path | None) -> None:
        """Pictures of captions that were trained on."""
        if self.index is not None:
            captions = [row.captions[0] for row in self.index.rows[:SHOWN]]
        else:
            source = EmojiSource(EmojiWorld(self.config.world), "generate", self.config.seed)
            captions = [str(source.draw(number).turns[0].parts[0]) for number in range(SHOWN)]
        system = self.flow.system
        pipeline = Pipeline(system)
        plans = [pipeline.plan(text, task=Task.TEXT_TO_IMAGE, seed=1) for text in captions]
        pictures = [frames[0] for frames in draw(system, plans)]
        if path is not None:
            contact_sheet([Cell(p, text) for p, text in zip(pictures, captions, strict=True)], path)

    def system(self, card: dict[str, Any]) -> BlipSystem:
        parts: Any = self.model
        return BlipSystem(
            parts.denoiser,
            parts.bridge,
            self.backbone,
            self.space,
            self.config.sampler,
            self.config.side,
            card,
            # a language model that learnt is no longer the one that was named
            None if self.unfrozen else self.named,
            parts.reference,
        )

    def write(self, folder: Path, out: Path) -> BlipSystem:
        system = self.system({})
        if self.config.lora_rank:
            system.model = surgery.merge_lora(system.model)
        placed(system, self.source or self.folder, out).save(folder)
        return system


def plain_of(denoiser: Any) -> Any:
    """The same without adapters, and without storage."""
    with without_storage():
        return type(denoiser)(denoiser.config)


def filled(config: BlipTrainConfig, backbone: Reader, space: Space) -> BlipTrainConfig:
    """A config from scratch, with the sizes that language model, bridge and space decide."""
    bridge = replace(config.bridge, inputs=backbone.channels)
    joined: Any = {"channels": space.channels, "caption_channels": bridge.channels}
    linear = None if config.linear is None else replace(config.linear, **joined)
    return replace(config, bridge=bridge, model=replace(config.model, **joined), linear=linear)


def _under(config: BlipTrainConfig, start: BlipSystem) -> BlipTrainConfig:
    """A config whose model and sampler, and the bridge unless it is a new one, are those of the model that it
    starts from, whatever it says."""
    model = start.model.config
    linear = model if isinstance(model, LinearDiTConfig) else None
    law = REGRESSION if getattr(model, "blind", False) else config.law
    return replace(
        config,
        bridge=replace(config.bridge, inputs=start.backbone.channels)
        if config.new_bridge
        else start.bridge.config,
        model=config.model if isinstance(model, LinearDiTConfig) else model,
        linear=linear,
        law=law,
        sampler=start.sampler,
    )


def _opened(folder: Path, open_system: OpenSystem) -> BlipSystem:
    system = open_system(folder)
    if not isinstance(system, BlipSystem):
        raise ValueError(
            f"{folder} holds a model of the family {system.family}, and this recipe goes on from {NAME}"
        )
    return system


def language_model(name: str, folder: Path, open_system: OpenSystem) -> tuple[Reader, NamedBackbone]:
    """The frozen language model of a run from scratch, and how the model that is trained in `folder` names
    it."""
    found = locate(name)
    ours = name == DEFAULT or bool(family_name(found))
    return open_backbone(found, open_system, ours), named_backbone(name, folder, ours=ours)


def placed(system: BlipSystem, seen_from: Path, place: Path) -> BlipSystem:
    """The system with its language model named as seen from `place`, where its name is a path."""
    named = system.named
    if named is not None and named.model != DEFAULT and not named.model.startswith(HUB):
        path = os.path.relpath((seen_from / named.model).resolve(), place.resolve())
        system.named, system.home = replace(named, model=path), place
    return system
