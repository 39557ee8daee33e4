"""The joint job: a mixture of transformers on a mixture of sources."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diptych import surgery
from diptych.contracts import OpenSystem, Source
from diptych.data.conversations.loader import DocumentDataset
from diptych.data.conversations.packing import Batch
from diptych.data.conversations.tokens import TextTokenizer
from diptych.data.mixture import Mixture, shares_of
from diptych.files.folder import card, locate, open_weights
from diptych.files.typed import convert, read_json
from diptych.inference import Pipeline, draw
from diptych.inference.sheet import Cell, contact_sheet
from diptych.models.mot import MoT
from diptych.systems.u1 import NAME
from diptych.systems.u1.config import Stage, TrainConfig
from diptych.systems.u1.conversation import Conversation
from diptych.systems.u1.files import read_contents, write_adapters
from diptych.systems.u1.packed import JointTask
from diptych.systems.u1.sources import VALIDATION_SEED, kept_sources, sources_of, vocabulary
from diptych.systems.u1.system import U1System
from diptych.training import checkpoint
from diptych.training.export import OPTIMISER
from diptych.training.trainer import CONFIG, PARENT
from diptych.worlds.emoji.source import TASKS

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
# beside '.gen.' of the blocks: all that only noisy pictures go through
_GENERATION = ("gen_norm", "noisy_interface", "time_embedder", "noise_scale_embedder", "pixel_head")


class JointJob:
    """Understanding, generation and editing in one model. Raises ValueError for a mixture that names an
    unknown source."""

    family = NAME
    loss_names: tuple[str, ...] = ("text", "flow")

    def __init__(
        self,
        config: TrainConfig,
        sources: Mapping[str, Source],
        tokenizer: TextTokenizer,
        validation: Mapping[str, Source] | None = None,
        start: Path | None = None,
    ) -> None:
        """`validation` are sources whose samples no run trains on; without them there is no validation loss.
        `start` is the folder of the model that a new run starts from, of the config's sizes."""
        for stage in config.stages:
            shares_of(config.shares(stage), sources)  # an unknown source is found now, not at that stage
        if tokenizer.vocab_size > config.model.vocab_size:
            raise ValueError(
                f"the vocabulary has {tokenizer.vocab_size} tokens, more than model.vocab_size "
                f"({config.model.vocab_size})"
            )
        self.config, self.sources, self.tokenizer = config, sources, tokenizer
        self.template = Conversation().template(tokenizer, config.model.token)
        self.validation, self.start = validation or {}, start
        self.parent = None if start is None else card(start)
        with torch.device("meta"):
            self.model = MoT(config.model)
            if config.lora_rank:
                surgery.add_lora(self.model, config.lora_rank, config.seed)
        # a block mask pays on a GPU; on a CPU its kernel has no backward pass
        self.task = JointTask(self.model, config.flow, flex=torch.cuda.is_available())

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
        weights = open_weights(self.start)
        return ((name, weights[name].float()) for name in weights)

    def optimiser_state(self) -> Mapping[str, Tensor]:
        if self.start is None or not (self.start / OPTIMISER).is_file() or self.config.lora_rank:
            return {}
        return open_weights(self.start, OPTIMISER.removesuffix(".safetensors"))

    def totals(self, batch: Batch) -> dict[str, float]:
        return JointTask.totals(batch, self.task.token)

    def loss_weights(self, stage: Stage) -> dict[str, float]:
        return {"text": stage.text_weight, "flow": stage.flow_weight}

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
        return f"{stage.trainable} learns, mixture {self.config.shares(stage)}"

    def prepare(self, folder: Path) -> None:
        self.tokenizer.save(folder / "tokenizer.json")

    def system(self, card: dict[str, Any]) -> U1System:
        return U1System(self.model, self.tokenizer, self.config.flow, self.config.world.size, card)

    def sample(self, path: Path | None) -> None:
        pipeline = Pipeline(self.system({}))
        plans = [pipeline.plan(prompt, seed=1, task="text-to-image") for prompt in SAMPLE_PROMPTS]
        pictures = [frames[0] for frames in draw(pipeline.system, plans)]
        if path is not None:
            contact_sheet([Cell(p, t) for p, t in zip(pictures, SAMPLE_PROMPTS, strict=True)], path)

    @torch.no_grad()
    def validate(self, device: torch.device) -> dict[str, float]:
        """Mean losses over kept samples of the last stage's mixture, each with its own fixed noise, so that
        values compare."""
        # the last stage's mixture all along, so that stages compare
        shares = self.config.shares(self.config.stages[-1])
        kept = {name: share for name, share in shares.items() if share and name in self.validation}
        if not kept:
            return {}
        mixture = Mixture(self.validation, kept, VALIDATION_SEED)
        data = DocumentDataset(mixture, self.template, replace(self.config.data, workers=0, accumulate=1))
        sums, totals = dict.fromkeys(self.loss_names, 0.0), dict.fromkeys(self.loss_names, 0.0)
        for start in range(0, VALIDATION_DOCUMENTS, self.config.data.documents_per_step):
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


def learns(name: str, part: str) -> bool:
    """Whether a parameter learns in a stage: 'understanding' (text and clean pictures), 'generation' (noisy
    pictures), 'all', or 'lora': adapters, which no other stage trains."""
    # adapters first: 'all' does not mean them
    if "lora_" in name or part == "lora":
        return "lora_" in name and part == "lora"
    # embedding and text head count as understanding
    generation = ".gen." in name or name.startswith(_GENERATION)
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
        return _job(replace(config, model=contents.model), tokenizer, start)
    if (folder / PARENT).is_file():
        # the model that it started from need not be at hand any more
        saved = read_json(folder / CONFIG)
        saved.pop("family", None)
        model = convert(TrainConfig, saved, str(folder / CONFIG)).model
        return _job(replace(config, model=model), TextTokenizer.load(words), None)
    tokenizer = TextTokenizer.load(words) if words.is_file() else vocabulary(config)
    # a vocabulary may turn out smaller than asked for; rows that no word has would never learn
    model = replace(config.model, vocab_size=tokenizer.vocab_size)
    return _job(replace(config, model=model), tokenizer, None)


def _job(config: TrainConfig, tokenizer: TextTokenizer, start: Path | None) -> JointJob:
    return JointJob(config, sources_of(config), tokenizer, kept_sources(config), start)


def export(job: JointJob, about: dict[str, Any], out: Path) -> U1System:
    """Write what a job has trained as a model folder, weights in float16, adapters merged; and adapters, if
    any, beside it by themselves."""
    card = {**about, **_facts(job.config, about)}
    adapters = surgery.lora_weights(job.model)
    model = surgery.merge_lora(job.model) if adapters else job.model
    system = U1System(model, job.tokenizer, job.config.flow, job.config.world.size, card)
    system.save(out, torch.float16)
    if adapters:
        write_adapters(adapters, out.with_name(out.name + "-lora.safetensors"))
    return system


def _facts(config: TrainConfig, about: Mapping[str, Any]) -> dict[str, Any]:
    """What a card says of a run of this family: nothing about data that it does not know."""
    drawn_from = {name for stage in config.stages if stage.steps for name in config.shares(stage)}
    own = [path for path in (*config.jsonl, *config.text) if Path(path).stem in drawn_from]
    world = "emoji world: glyphs of Noto Color Emoji (SIL OFL 1.1), names from Unicode"
    # the emoji world is the project's own, under its licence; what goes on from a model is under that one's
    licences = {parent.get("licence") for parent in about.get("parents", [])} or {"Apache-2.0"}
    facts = {
        "family": NAME,
        "documents": about["steps"] * config.data.documents_per_step,
        "weights": "EMA, stored as float16",
        "data": "; ".join([world] * bool(drawn_from & set(TASKS)) + own),
    }
    if not own and len(licences) == 1 and (licence := licences.pop()):
        facts["licence"] = licence
    return facts
