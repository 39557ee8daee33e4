"""A micro-batch of a joint run on tensors without storage, for memory estimates."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from diptych import surgery
from diptych.contracts import Picture, Probe, Sample, Turn
from diptych.data.conversations.packing import Batch, collate, pack
from diptych.data.conversations.template import FORMS, Template
from diptych.data.conversations.tokens import TextTokenizer
from diptych.models.mot import MoT
from diptych.systems.u1.config import Stage, TrainConfig
from diptych.systems.u1.packed import JointTask
from diptych.training.memory import default_dtype

_WORDS = {"understand": 64, "verify": 48, "text": 16}
"""Words of a sample of a task; one that draws has a sentence."""
_SENTENCE = 16


def probe(config: TrainConfig) -> Probe:
    """Raises ValueError for a model with experts: how many tokens each gets is known when it runs."""
    if config.model.und_experts or config.model.gen_experts:
        raise ValueError("the memory of a model with experts depends on what its tokens choose")
    batch = micro_batch(config)
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with mode, default_dtype(getattr(torch, config.weights)):
        model = MoT(config.model)
        if config.lora_rank:
            surgery.add_lora(model, config.lora_rank)
    task = JointTask(model, config.flow)
    # where tokens stand depends on values, which tensors without storage do not have
    places = task.places(batch)

    def forward() -> Tensor:
        with mode:
            losses = task.losses(batch, places)
            return losses.sums["text"] + losses.sums["flow"]

    tokens = len(places.layout.und) + len(places.layout.gen)
    return Probe(model=model, body=model, forward=forward, block_input=tokens * config.model.width)


def micro_batch(config: TrainConfig) -> Batch:
    """The packed micro-batch of the stage with the most to keep: its mixture's samples, at the world's size,
    with as many words as they mostly have."""
    # one token a word is all that counting needs
    words = Template(FORMS["marks"], TextTokenizer.train(["a"], 300), config.model.token)
    trained = [stage for stage in config.stages if stage.steps] or list(config.stages)
    batches = [_of_stage(config, stage, words) for stage in trained]
    return max(batches, key=lambda batch: int((batch.kind >= 0).sum()))


def _of_stage(config: TrainConfig, stage: Stage, words: Template) -> Batch:
    count = -(-config.data.documents_per_step // config.data.accumulate)
    shares = config.shares(stage)
    ends = np.cumsum(list(shares.values())) / sum(shares.values())
    # shares laid end to end and read at even steps: the mixture in small, without chance
    tasks = [list(shares)[int(np.searchsorted(ends, (n + 0.5) / count))] for n in range(count)]
    token = config.model.token
    documents = [words.write(_sample(task, config.world.size // token * token)) for task in tasks]
    rows = pack([len(document) for document in documents], config.data.row_tokens)
    return collate(rows, documents, list(range(count)), words.pad)


def _sample(task: str, size: int) -> Sample:
    """One of a task's samples; a source of one's own may hold anything, so it counts as an edit."""
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
