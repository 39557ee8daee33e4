"""A small text encoder that learns with its denoiser: words of the training captions through a small
transformer."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from diptych.data.conversations.tokens import TextTokenizer
from diptych.models.caption_encoder import CaptionEncoder


class LearnedEncoder:
    """Words of the training captions through a small transformer that was trained with the denoiser."""

    def __init__(self, model: CaptionEncoder, tokenizer: TextTokenizer) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.channels = model.config.channels

    def identity(self) -> None:
        """It changes with every training step, so its hidden states are not cached."""
        return None

    def tokens(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Ids (B, T) and mask (B, T). The first token stands for the whole text; a prompt beyond the limit is
        cut with a warning."""
        limit = self.model.config.max_tokens
        rows = []
        for prompt in prompts:
            # so that an empty prompt has a real token as well: attention over none would be NaN
            ids = [self.tokenizer.ids["<|user|>"], *self.tokenizer.encode(prompt)]
            if len(ids) > limit:
                warnings.warn(
                    f"the prompt is longer than {limit} tokens: {self.tokenizer.decode(ids[limit:])!r} "
                    "was cut",
                    stacklevel=2,
                )
            rows.append(ids[:limit])
        length = max(map(len, rows))
        padded = torch.tensor([row + [self.tokenizer.ids["<|pad|>"]] * (length - len(row)) for row in rows])
        return padded, torch.arange(length) < torch.tensor([len(row) for row in rows])[:, None]

    def encode(self, prompts: Sequence[str], instruct: bool = True) -> tuple[Tensor, Tensor]:
        """Hidden states and mask; there is no instruction to leave out."""
        ids, mask = self.tokens(prompts)
        device = self.model.positions.device
        mask = mask.to(device)
        return self.model(ids.to(device), mask), mask
