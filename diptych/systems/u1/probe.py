"""A micro-batch of a joint run on tensors without storage, for memory estimates."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from diptych import surgery
from diptych.clips import clip_turn
from diptych.contracts import Picture, Probe, Sample, System, Turn
from diptych.data.conversations.forms import FORMS
from diptych.data.conversations.packing import Batch, collate, pack
from diptych.data.conversations.template import Template
from diptych.data.conversations.tokens import TextTokenizer
from diptych.files.folder import locate
from diptych.models.mot import MoT
from diptych.models.vgg import open_perceptual
from diptych.request import Role
from diptych.systems.u1.config import Stage, TrainConfig
from diptych.systems.u1.conversation import Conversation
from diptych.systems.u1.files import read_contents
from diptych.systems.u1.job import STREAMS, make_job
from diptych.systems.u1.packed import JointTask
from diptych.training.memory import default_dtype
from diptych.worlds.emoji.motion_source import CLIP_TASKS

LOOKED_AT = 3
"""Steps of one's own data that are made for an estimate: pictures keep their sizes, so no two are alike."""
_WORDS = {"understand": 64, "verify": 48, "text": 16}
"""Words of a sample of a task; one that draws has a sentence."""
_SENTENCE = 16
_GIVEN = {"clip-first": Role.FIRST, "clip-reference": Role.REFERENCE, "clip-edit": Role.SOURCE}
"""What a task of clips is mostly given."""


def probe(config: TrainConfig) -> Probe:
    """Raises ValueError for a model with experts: how many tokens each gets is known when it runs."""
    if config.start:
        # as the run itself: the model's sizes are the start's
        config = replace(config, model=read_contents(locate(config.start))[0].model)
    if config.model.und_experts or config.model.gen_experts:
        raise ValueError("the memory of a model with experts depends on what its tokens choose")
    batch = micro_batch(config)
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with mode, default_dtype(getattr(torch, config.weights)):
        model = MoT(config.model)
        if config.lora_rank:
            surgery.add_lora(model, config.lora_rank, within=STREAMS[config.lora_part])
    looks = open_perceptual(Path(config.perceptual)) if config.perceptual else None
    task = JointTask(model, config.flow, weighing=config.weighing, perceptual=looks)
    # where tokens stand depends on values, which tensors without storage do not have
    places = task.places(batch)

    def forward() -> Tensor:
        with mode:
            losses = task.losses(batch, places)
            return torch.stack(list(losses.sums.values())).sum()

    tokens = len(places.layout.und) + len(places.layout.gen)
    return Probe(model=model, body=model, forward=forward, block_input=tokens * config.model.width)


def micro_batch(config: TrainConfig) -> Batch:
    """The packed micro-batch of the stage with the most to keep: of the emoji world its mixture's samples, at
    its size, with as many words as they mostly have; of one's own data the first ones."""
    if config.meta or config.own:
        return _largest(_first(config))
    # one token a word is all that counting needs
    words = Template(FORMS["marks"], TextTokenizer.train(["a"], 300), config.model.token)
    trained = [stage for stage in config.stages if stage.steps] or list(config.stages)
    return _largest([_of_stage(config, stage, words) for stage in trained])


def _largest(batches: list[Batch]) -> Batch:
    # rows are computed at the length of the fullest, and masks grow with its square
    return max(batches, key=lambda batch: batch.kind.numel() * batch.kind.shape[1])


def _first(config: TrainConfig) -> list[Batch]:
    """The micro-batches of the first steps of each stage, as the run itself makes them."""
    with TemporaryDirectory() as nowhere:
        job = make_job(config, Path(nowhere), cast(Any, never))
    data = [job.dataset(stage, 0, 1) for stage in job.config.stages if stage.steps]
    return [batch for of_stage in data for step in range(LOOKED_AT) for batch in of_stage[step].batches]


def never(name: str) -> System:
    raise AssertionError("a joint run uses no other system")


def _of_stage(config: TrainConfig, stage: Stage, words: Template) -> Batch:
    count = -(-config.data.documents_per_step // config.data.accumulate)
    # without any data yet, of what takes most
    shares = config.shares(stage) or {"edit": 1.0}
    ends = np.cumsum(list(shares.values())) / sum(shares.values())
    # shares laid end to end and read at even steps: the mixture in small, without chance
    tasks = [list(shares)[int(np.searchsorted(ends, (n + 0.5) / count))] for n in range(count)]
    token = config.model.token
    talk = config.conversation or Conversation()
    clip = (max(2, talk.drawn_frames), (talk.clip_side or config.native) // token * token)
    documents = [words.write(_sample(task, config.native // token * token, clip)) for task in tasks]
    rows = pack([len(document) for document in documents], config.data.row_tokens)
    return collate(rows, documents, list(range(count)), words.pad)


def _sample(task: str, size: int, clip: tuple[int, int]) -> Sample:
    """One of a task's samples; `clip` is the frames and the side of one."""
    if task in CLIP_TASKS:
        return _filmed(task, *clip)
    pixels = np.zeros((size, size, 3), dtype=np.uint8)
    words = " ".join(["a"] * _WORDS.get(task, _SENTENCE))
    drawn = Turn("assistant", (Picture(pixels, drawn=True),))
    if task == "text":
        return Sample((Turn("assistant", (words,)),), task)
    if task in ("understand", "verify"):
        return Sample((Turn("user", (Picture(pixels), words)), Turn("assistant", ("a",))), task)
    if task in ("generate", "interleave"):
        return Sample((Turn("user", (words,)), drawn), task)
    return Sample((Turn("user", (Picture(pixels), words)), drawn), task)


def _filmed(task: str, frames: int, size: int) -> Sample:
    """One of a task's samples of clips."""
    pixels = np.zeros((frames, size, size, 3), dtype=np.uint8)
    words, role = " ".join(["a"] * _SENTENCE), _GIVEN.get(task, Role.CONTROL)
    if task == "clip-understand":
        return Sample((Turn("user", (Picture(pixels), words)), Turn("assistant", ("a",))), "understand")
    moving = role in (Role.SOURCE, Role.CONTROL)
    given = [] if task == "clip" else [(role, pixels if moving else pixels[0])]
    drawn = Turn("assistant", (Picture(pixels, drawn=True),))
    return Sample((Turn("user", clip_turn(words, given)), drawn), "clip-edit" if given else "clip")
