"""What a sample of BLIP3-o's training costs: as published, and with cached targets and without discarded
work.

Both sides train the same tiny model (a Qwen2 with 64 queries in its sequence, frozen; a feature DiT) on the
same batches, alternating in one process. Published: every step encodes the pictures, and computes a
cross-entropy over the whole vocabulary in float32, which no loss uses. Ours: targets come from a cache, and
the language model gives its states alone; with `states`, those come from a cache as well. Sizes keep the
published shares of arithmetic: EVA-CLIP-E at 448 px costs 2.7 forward passes of a language model of 7B
parameters over 215 tokens (`--size 8b`), and 6.7 of one of 3B (`--size 4b`); the vocabulary is a tenth of the
language model. Recomputation, which the published loop has, is left out on both sides.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from diptych.models.eva_clip import EvaTower, EvaTowerConfig
from diptych.models.feature_dit import FeatureDiT, FeatureDiTConfig

BATCH, WORDS, QUERIES, SIDE = 4, 151, 64, 8
WIDTH, LAYERS, VOCABULARY = 256, 8, 4096

ENCODER = {"8b": 11, "4b": 27}
"""Blocks of the encoder, so that it costs as many forward passes of the language model as in the published
sizes."""


class Tiny:
    """The model of both sides, and batches."""

    def __init__(self, size: str) -> None:
        from transformers import Qwen2Config, Qwen2ForCausalLM

        torch.manual_seed(0)
        self.language = Qwen2ForCausalLM(
            Qwen2Config(
                hidden_size=WIDTH,
                intermediate_size=4 * WIDTH,
                num_hidden_layers=LAYERS,
                num_attention_heads=4,
                num_key_value_heads=2,
                vocab_size=VOCABULARY,
                tie_word_embeddings=False,
            )
        ).requires_grad_(False)
        # 448 px in patches of 14: 1,024 of them, as published
        config = EvaTowerConfig(grid=32, patch=14, width=128, depth=ENCODER[size], heads=2, mlp=512)
        self.encoder = EvaTower(config).requires_grad_(False)
        dit = FeatureDiTConfig(depth=2, width=128, heads=4, channels=128, caption_channels=WIDTH)
        self.denoiser = FeatureDiT(dit)
        self.denoiser.initialise(torch.Generator().manual_seed(0))
        self.queries = torch.nn.Parameter(torch.randn(1, QUERIES, WIDTH))
        self.optimiser = torch.optim.AdamW([self.queries, *self.denoiser.parameters()], lr=1e-4)
        self.pixels = torch.randn(BATCH, 3, 448, 448)
        self.ids = torch.randint(0, VOCABULARY, (BATCH, WORDS))
        self.noise, self.sigma = torch.randn(BATCH, 1, 128, SIDE, SIDE), torch.rand(BATCH)
        self.target = self.encoded()
        with torch.no_grad():
            self.states = self.hidden(None)

    @torch.no_grad()
    def encoded(self) -> Tensor:
        found = self.encoder(self.pixels).transpose(1, 2).unflatten(2, (32, 32))
        return F.avg_pool2d(found, 32 // SIDE)[:, None]

    def hidden(self, queries: Tensor | None) -> Tensor:
        """States of the queries behind the prompts; of the prompts where there are none."""
        words = self.language.get_input_embeddings()(self.ids)
        read = words if queries is None else torch.cat([words, queries.expand(BATCH, -1, -1)], 1)
        found: Tensor = self.language.model(inputs_embeds=read).last_hidden_state
        return found if queries is None else found[:, WORDS:]

    @torch.no_grad()
    def forward(self) -> Tensor:
        """Over prompts and queries."""
        return self.hidden(self.queries)

    def step(self, target: Tensor, states: Tensor) -> None:
        sigma = self.sigma.view(-1, 1, 1, 1, 1)
        noisy = (1 - sigma) * target + sigma * self.noise
        velocity = self.denoiser(noisy, self.sigma, self.denoiser.condition(states))
        (velocity - (self.noise - target)).square().mean().backward()
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)

    def published(self) -> None:
        target = self.encoded()
        words = self.language.get_input_embeddings()(self.ids)
        read = torch.cat([words, self.queries.expand(BATCH, -1, -1)], 1)
        hidden = self.language.model(inputs_embeds=read).last_hidden_state
        logits = self.language.lm_head(hidden).float()
        # computed and thrown away, as in the published loop
        F.cross_entropy(logits[:, : WORDS - 1].flatten(0, 1), self.ids[:, 1:].flatten())
        self.step(target, hidden[:, WORDS:])

    def cached(self) -> None:
        self.step(self.target, self.hidden(self.queries))

    def cached_states(self) -> None:
        self.step(self.target, self.states)


def timed(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--size", choices=ENCODER, default="8b", help="whose shares of arithmetic")
    options = parser.parse_args()
    torch.set_num_threads(1)
    tiny = Tiny(options.size)
    parts = {
        "encoder": tiny.encoded,
        "language model, forward": tiny.forward,
    }
    sides = {"published": tiny.published, "queries": tiny.cached, "states": tiny.cached_states}
    times: dict[str, list[float]] = {name: [] for name in (*sides, *parts)}
    for round_ in range(options.pairs + 1):
        for name, work in {**sides, **parts}.items():
            took = timed(work)
            # the first round warms up
            if round_:
                times[name].append(took)
    medians = {name: statistics.median(values) for name, values in times.items()}
    told: dict[str, Any] = {"ms a sample": {name: round(1000 * m / BATCH, 2) for name, m in medians.items()}}
    for name in ("queries", "states"):
        ratios = [a / b for a, b in zip(times["published"], times[name], strict=True)]
        told[f"published / {name}"] = (
            f"{medians['published'] / medians[name]:.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
        )
    print(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
