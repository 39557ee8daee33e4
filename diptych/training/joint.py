"""The joint job: a mixture of transformers on a mixture of sources."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from diptych.data.loader import DocumentDataset
from diptych.data.mixture import Mixture, Source
from diptych.data.packing import Batch
from diptych.data.tokens import TextTokenizer
from diptych.models.mot import MoT, by_size
from diptych.training.config import Stage, TrainConfig
from diptych.training.export import sample_grid
from diptych.training.job import exchanged
from diptych.training.task import JointTask

VALIDATION_SEED = 1_000_001
VALIDATION_DOCUMENTS = 256


class JointJob:
    """Understanding, generation and editing in one model. Raises ValueError for a mixture that names an
    unknown source."""

    loss_names = ("text", "flow")

    def __init__(
        self,
        config: TrainConfig,
        sources: dict[str, Source],
        tokenizer: TextTokenizer,
        validation: dict[str, Source] | None = None,
    ) -> None:
        """`validation` are sources whose samples no run trains on; without them there is no validation
        loss."""
        for stage in config.stages:
            Mixture(sources, stage.mixture, config.seed)  # an unknown source is found now, not at that stage
        self.config, self.sources, self.tokenizer, self.validation = config, sources, tokenizer, validation
        self.model = MoT(by_size(config.size, tokenizer.vocab_size, config.patch, config.depth))
        self.model.initialise(torch.Generator().manual_seed(config.seed))
        self.task = JointTask(self.model, config.flow, flex=torch.cuda.is_available())
        self.blocks: Iterable[nn.Module] = cast(Iterable[nn.Module], self.model.blocks)

    def totals(self, batch: Batch) -> dict[str, float]:
        return JointTask.totals(batch, self.task.token)

    def loss_weights(self, stage: Stage) -> dict[str, float]:
        return {"text": stage.text_weight, "flow": stage.flow_weight}

    def learns(self, name: str, stage: Stage) -> bool:
        return learns(name, stage.trainable)

    def dataset(self, stage: Stage, rank: int, ranks: int) -> DocumentDataset:
        mixture = Mixture(self.sources, stage.mixture, self.config.seed)
        return DocumentDataset(
            mixture, self.tokenizer, self.task.token, self.config.data, rank=rank, ranks=ranks
        )

    def describe(self, stage: Stage) -> str:
        return f"{stage.trainable} learns, mixture {stage.mixture}"

    def prepare(self, folder: Path) -> None:
        self.tokenizer.save(folder / "tokenizer.json")

    def sample(self, weights: Mapping[str, Tensor], path: Path) -> None:
        model = MoT(self.model.config)
        model.load_state_dict(dict(weights))
        sample_grid(model.eval(), self.tokenizer, self.config, path)

    @torch.no_grad()
    def validate(self, weights: Mapping[str, Tensor], device: torch.device) -> dict[str, float]:
        """Mean losses over kept samples of the last stage's mixture, each with its own fixed noise, so that
        values compare."""
        kept = {
            name: share
            for name, share in self.config.stages[-1].mixture.items()
            if share and name in (self.validation or {})
        }
        if not kept or self.validation is None:
            return {}
        mixture = Mixture(self.validation, kept, VALIDATION_SEED)
        data = DocumentDataset(
            mixture, self.tokenizer, self.task.token, replace(self.config.data, workers=0, accumulate=1)
        )
        sums, totals = dict.fromkeys(self.loss_names, 0.0), dict.fromkeys(self.loss_names, 0.0)
        with (
            exchanged(self.model, weights),
            torch.autocast(device.type, torch.bfloat16, enabled=self.config.bf16),
        ):
            for start in range(0, VALIDATION_DOCUMENTS, self.config.data.documents_per_step):
                (batch,) = data[start // self.config.data.documents_per_step].batches
                losses, counted = self.task(batch.to(device)), self.totals(batch)
                for name in self.loss_names:
                    sums[name] += float(losses.sums[name])
                    totals[name] += counted[name]
        means = {name: sums[name] / totals[name] for name in self.loss_names if totals[name]}
        return {
            "validation": means.get("flow", means.get("text", 0.0)),
            **{f"validation/{name}": value for name, value in means.items()},
        }


def learns(name: str, part: str) -> bool:
    """Whether a parameter learns in a stage: 'understanding' (text and clean pictures), 'generation' (noisy
    pictures), 'all'."""
    generation = ".gen." in name or name.startswith(
        ("gen_norm", "noisy_interface", "time_embedder", "noise_scale_embedder", "pixel_head")
    )
    return part == "all" or generation == (part == "generation")
