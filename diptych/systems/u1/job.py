"""The joint job: a mixture of transformers on a mixture of sources."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sized
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diptych import surgery
from diptych.contracts import Source
from diptych.data.conversations.forms import FORMS
from diptych.data.conversations.loader import DocumentDataset
from diptych.data.conversations.packing import Batch
from diptych.data.conversations.tokens import TextTokenizer
from diptych.data.mixture import Mixture, shares_of
from diptych.family import OpenSystem
from diptych.files.folder import locate
from diptych.files.lineage import data_of
from diptych.files.typed import convert, read_json
from diptych.files.weights import open_tensors
from diptych.files.whole import whole_folder
from diptych.inference import Pipeline, draw
from diptych.inference.sheet import Cell, contact_sheet
from diptych.models.mot import MoT
from diptych.models.processors import block_mask_pays
from diptych.models.vgg import open_perceptual
from diptych.planning.rewording import Rewording
from diptych.systems.u1 import NAME, is_published
from diptych.systems.u1.config import MADE, WORLD_TASKS, Stage, TrainConfig
from diptych.systems.u1.conversation import Conversation
from diptych.systems.u1.files import card, read_contents, stored_weights
from diptych.systems.u1.lora import write_adapters
from diptych.systems.u1.packed import JointTask
from diptych.systems.u1.settings import read_words
from diptych.systems.u1.shown import show
from diptych.systems.u1.sources import (
    VALIDATION_SEED,
    Sources,
    default_shares,
    kept_sources,
    sources_of,
    vocabulary,
    world_words,
)
from diptych.systems.u1.system import U1System
from diptych.training import checkpoint
from diptych.training.export import OPTIMISER
from diptych.training.identity import CONFIG
from diptych.training.trainer import PARENT
from diptych.worlds.emoji.motion_source import CLIP_TASKS

VALIDATION_DOCUMENTS = 256
SAMPLE_PROMPTS = (
    "a cat",
    "a dog and a car",
    "three apples",
    "a purple heart",
    "a cat left of a dog",
    "a red circle and a blue square",
    "a fish above a house",
    "two stars and a tree on a mint background",
    "four bananas",
    "a crown below a yellow heart",
    "a green square and an orange circle",
    "dua kucing di atas satu hati merah",
)
STREAMS = {"all": "", "understanding": ".und.", "generation": ".gen."}
"""What has adapters -> what the names of its matrices hold."""


class JointJob:
    """Understanding, generation and editing in one model. Raises ValueError for a mixture that names an
    unknown source."""

    family = NAME

    def __init__(
        self,
        config: TrainConfig,
        sources: Mapping[str, Source],
        tokenizer: TextTokenizer,
        validation: Mapping[str, Source] | None = None,
        start: Path | None = None,
        words: Rewording | None = None,
    ) -> None:
        """`validation` are sources whose samples no run trains on; without them there is no validation loss.
        `start` is the folder of the model that a new run starts from, of the config's sizes; `words` are
        those that the model is asked with."""
        for stage in config.stages:
            shares_of(config.shares(stage), sources)  # an unknown source is found now, not at that stage
        if tokenizer.vocab_size > config.model.vocab_size:
            raise ValueError(
                f"the vocabulary has {tokenizer.vocab_size} tokens, more than model.vocab_size "
                f"({config.model.vocab_size})"
            )
        self.config, self.sources, self.tokenizer, self.words = config, sources, tokenizer, words
        self.conversation = config.conversation or Conversation()
        self.template = self.conversation.template(tokenizer, config.model.token)
        self.validation, self.start = validation or {}, start
        self.parent = None if start is None else card(start)
        with torch.device("meta"):
            self.model = MoT(config.model)
            if config.lora_rank:
                surgery.add_lora(self.model, config.lora_rank, config.seed, STREAMS[config.lora_part])
        looks = open_perceptual(Path(config.perceptual)) if config.perceptual else None
        self.task = JointTask(self.model, config.flow, block_mask_pays(), config.weighing, looks)
        self.loss_names: tuple[str, ...] = self.task.loss_names

    @property
    def body(self) -> MoT:
        return self.model

    def starting_values(self) -> Iterator[tuple[str, Tensor]]:
        values = self._fresh() if self.start is None else self._started()
        if self.config.lora_rank:
            values = surgery.lora_values(self.model, values, self.config.seed)
        yield from values

    def _fresh(self) -> Iterable[tuple[str, Tensor]]:
        with torch.device("meta"):
            plain = MoT(self.config.model)
        return plain.starting_values(torch.Generator().manual_seed(self.config.seed))

    def _started(self) -> Iterable[tuple[str, Tensor]]:
        assert self.start is not None
        weights = stored_weights(self.start, self.config.model)
        return ((name, weights[name].float()) for name in weights)

    def optimiser_state(self) -> Mapping[str, Tensor]:
        if self.start is None or not (self.start / OPTIMISER).is_file() or self.config.lora_rank:
            return {}
        return open_tensors(self.start, OPTIMISER.removesuffix(".safetensors"))

    def totals(self, batch: Batch) -> dict[str, float]:
        return self.task.totals(batch)

    def loss_weights(self, stage: Stage) -> dict[str, float]:
        weights = (stage.text_weight, stage.flow_weight, stage.perceptual_weight)
        return dict(zip(self.loss_names, weights, strict=False))

    def learns(self, name: str, stage: Stage) -> bool:
        return learns(name, stage.trainable)

    def dataset(self, stage: Stage, rank: int, ranks: int) -> DocumentDataset:
        for later in self.config.stages:
            # a file that is missing is found now as well, and nothing is opened once more in each worker
            self._mixture(later)
        return DocumentDataset(self._mixture(stage), self.template, self.config.data, rank=rank, ranks=ranks)

    def _mixture(self, stage: Stage) -> Mixture:
        return Mixture(self.sources, self.config.shares(stage), self.config.seed)

    def describe(self, stage: Stage) -> str:
        shares = {name: round(share, 4) for name, share in self.config.shares(stage).items()}
        notes = self.sources.notes if isinstance(self.sources, Sources) else ()
        return "\n".join([f"{stage.trainable} learns, mixture {shares}", *notes])

    def prepare(self, folder: Path) -> None:
        self.tokenizer.save(folder / "tokenizer.json")
        if self.words is not None:
            self.words.save(folder)

    def system(self, card: dict[str, Any]) -> U1System:
        return self.around(self.model, card)

    def around(self, model: MoT, card: dict[str, Any]) -> U1System:
        """The system of this run with another model."""
        flow, native = self.config.flow, self.config.native
        return U1System(model, self.tokenizer, flow, native, card, self.conversation, self.words)

    def sample(self, path: Path | None) -> None:
        shares = self.config.shares(self.config.stages[-1])
        own = [name for name, share in shares.items() if share and name not in MADE]
        if own:
            trained = [(self.sources[name], False) for name in sorted(own)]
            kept = [(self.validation[name], True) for name in sorted(own) if name in self.validation]
            show([(s, k) for s, k in (*trained, *kept) if _size(s)], self.system({}), path)
            return
        system = self.system({})
        plans = [Pipeline(system).plan(prompt, seed=1, task="text-to-image") for prompt in SAMPLE_PROMPTS]
        pictures = [frames[0] for frames in draw(system, plans)]
        if path is not None:
            contact_sheet([Cell(p, t) for p, t in zip(pictures, SAMPLE_PROMPTS, strict=True)], path)
        filmed = [(self.sources[name], False) for name in CLIP_TASKS if shares.get(name)]
        if filmed:
            show(filmed, system, path and path.with_stem(f"{path.stem}-clips"))

    @torch.no_grad()
    def validate(self, device: torch.device) -> dict[str, float]:
        """Mean losses over kept samples of the last stage's mixture, each with its own fixed noise, so that
        values compare."""
        # the last stage's mixture all along, so that stages compare
        shares = self.config.shares(self.config.stages[-1])
        kept = {
            name: share
            for name, share in shares.items()
            if share and name in self.validation and _size(self.validation[name])
        }
        if not kept:
            return {}
        # once through what is kept of files and folders; the world's samples never end
        count = min(VALIDATION_DOCUMENTS, sum(_size(self.validation[name]) for name in kept))
        mixture = Mixture(self.validation, kept, VALIDATION_SEED)
        data = DocumentDataset(mixture, self.template, replace(self.config.data, workers=0, accumulate=1))
        sums, totals = dict.fromkeys(self.loss_names, 0.0), dict.fromkeys(self.loss_names, 0.0)
        for start in range(0, count, self.config.data.documents_per_step):
            (batch,) = data[start // self.config.data.documents_per_step].batches
            with torch.autocast(device.type, torch.bfloat16, enabled=self.config.bf16):
                losses = self.task(batch.to(device))
            for name, counted in self.totals(batch).items():
                sums[name] += float(losses.sums[name])
                totals[name] += counted
        means = {name: sums[name] / totals[name] for name in self.loss_names if totals[name]}
        return {
            "validation": means.get("flow", means.get("text", 0.0)),
            **{f"validation/{name}": value for name, value in means.items()},
        }


def _size(source: Source) -> int:
    """Samples of a source; as many as are ever asked for of one that makes them."""
    return len(source) if isinstance(source, Sized) else VALIDATION_DOCUMENTS


def learns(name: str, part: str) -> bool:
    """Whether a parameter learns in a stage: 'understanding' (text and clean pictures), 'generation' (noisy
    pictures), 'all', or 'lora': adapters, which no other stage trains."""
    # adapters first: 'all' does not mean them
    if "lora_" in name or part == "lora":
        return "lora_" in name and part == "lora"
    # what no stream has for itself, embedding and text head, counts as understanding
    generation = any(piece in name for piece in MoT.facts.streams["generation"])
    return part == "all" or generation == (part == "generation")


def make_job(config: TrainConfig, folder: Path, open_system: OpenSystem) -> JointJob:
    """The job of a run in `folder`: of a new one, which starts from fresh weights or from those of
    `config.start`, or of one that goes on, which has its model's sizes and its vocabulary by itself.

    Weights are read tensor by tensor when the run begins, so `open_system`, which loads a whole model, is not
    asked. Raises ModelFolderError for a model to start from that is not of this family.
    """
    new = checkpoint.latest_step(folder / "checkpoints") is None
    words = folder / "tokenizer.json"
    # three ways to begin: from a model, on from such a run, from scratch (anew or on)
    if new and config.start:
        start = locate(config.start)
        contents, tokenizer = read_contents(start)
        config = replace(
            config, model=contents.model, conversation=config.conversation or contents.conversation
        )
        sources = sources_of(config)
        return _job(_shared(config, sources), sources, tokenizer, start, start)
    marks = FORMS[(config.conversation or Conversation()).form].marks
    if (folder / PARENT).is_file():
        # the model that it started from need not be at hand any more
        saved = read_json(folder / CONFIG)
        saved.pop("family", None)
        begun = convert(TrainConfig, saved, str(folder / CONFIG))
        config = replace(config, model=begun.model, conversation=config.conversation or begun.conversation)
        marks = FORMS[(config.conversation or Conversation()).form].marks
        sources = sources_of(config)
        return _job(_shared(config, sources), sources, TextTokenizer.load(words, marks), None, folder)
    sources = sources_of(config)
    config = _shared(config, sources)
    tokenizer = TextTokenizer.load(words, marks) if words.is_file() else vocabulary(config, sources)
    # a vocabulary may turn out smaller than asked for; rows that no word has would never learn
    model = replace(config.model, vocab_size=tokenizer.vocab_size)
    return _job(replace(config, model=model), sources, tokenizer, None, folder)


def _shared(config: TrainConfig, sources: Sources) -> TrainConfig:
    """The config with the shares of one's own sources where it gives none. Raises ValueError for a run
    without data."""
    if all(config.shares(stage) for stage in config.stages):
        return config
    shares = default_shares(config, sources)
    if not shares:
        raise ValueError(
            "there is nothing to train on: give --meta, --jsonl, --pictures or --text, or a --mixture of the "
            f"emoji world's tasks ({', '.join(WORLD_TASKS)})"
        )
    stages = tuple(replace(s, mixture=config.shares(s) or shares) for s in config.stages)
    return replace(config, stages=stages)


def _job(
    config: TrainConfig, sources: Sources, tokenizer: TextTokenizer, start: Path | None, before: Path
) -> JointJob:
    """`before` is where the model's words are, unless it learns those of the emoji world here."""
    words = None if is_published(before) else read_words(before)
    drawn = {name for stage in config.stages if stage.steps for name in config.shares(stage)}
    if words is None and drawn & set(WORLD_TASKS):
        words = world_words(config)
    return JointJob(config, sources, tokenizer, kept_sources(config, sources), start, words)


def export(job: JointJob, about: dict[str, Any], out: Path) -> U1System:
    """Write what a job has trained as a model folder, weights in 16 bits, adapters merged; and adapters, if
    any, beside it by themselves, as published ones are."""
    card = {**about, **_facts(job.config, about)}
    adapters = surgery.lora_weights(job.model)
    model = surgery.merge_lora(job.model) if adapters else job.model
    system = job.around(model, card)
    # float16 has more digits, but no place for the smallest values of a model in bfloat16
    with whole_folder(out) as folder:
        system.save(folder, torch.bfloat16 if job.config.weights == "bfloat16" else torch.float16)
    if adapters:
        style = "published" if job.conversation.free else "ours"
        write_adapters(out.with_name(out.name + "-lora.safetensors"), adapters, job.config.model, style)
    return system


def _facts(config: TrainConfig, about: Mapping[str, Any]) -> dict[str, Any]:
    """What a card says of a run of this family: nothing about data that it does not know."""
    drawn_from = {name for stage in config.stages if stage.steps for name in config.shares(stage)}
    own = [path for path in (*config.jsonl, *config.text, *config.pictures) if Path(path).stem in drawn_from]
    own += config.meta
    world = "emoji world: glyphs of Noto Color Emoji (SIL OFL 1.1), names from Unicode"
    # the emoji world is the project's own, under its licence; what goes on from a model is under that one's
    licences = {parent.get("licence") for parent in about.get("parents", [])} or {"Apache-2.0"}
    facts = {
        "family": NAME,
        "documents": about["steps"] * config.data.documents_per_step,
        "weights": f"{'EMA' if config.ema else 'trained'}, stored as "
        f"{'bfloat16' if config.weights == 'bfloat16' else 'float16'}",
        "data": data_of(about.get("parents", []), [world] * bool(drawn_from & set(WORLD_TASKS)) + own),
    }
    if not own and len(licences) == 1 and (licence := licences.pop()):
        facts["licence"] = licence
    return facts
