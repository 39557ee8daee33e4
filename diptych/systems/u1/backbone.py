"""The understanding stream as a language model that others hang on."""

from __future__ import annotations

import torch
from torch import Tensor

from diptych.models.mot import PAD, TEXT, Slots, may_see
from diptych.systems.u1.system import U1System


class UnderstandingBackbone:
    """Embeddings in, hidden states out (`contracts.Backbone`), of a system's text and clean pictures."""

    def __init__(self, system: U1System) -> None:
        self.model, self.tokenizer = system.model, system.tokenizer
        self.channels: int = system.model.config.width

    def tokens(self, text: str) -> list[int]:
        return self.tokenizer.encode(text)

    def embed(self, ids: Tensor) -> Tensor:
        embedded: Tensor = self.model.embedding(ids)
        return embedded

    def hidden(self, embeddings: Tensor, mask: Tensor) -> Tensor:
        """Every embedding stands where a text token would: one step of time after the one before it."""
        rows, length, _ = embeddings.shape
        positions = torch.zeros(rows, length, 3, dtype=torch.long, device=mask.device)
        positions[..., 0] = torch.arange(length, device=mask.device)
        # the mask must be right-padded: `prefix` takes a row's length for the place of its end
        kind = torch.where(mask, TEXT, PAD)
        document = torch.arange(rows, device=mask.device)[:, None].expand(rows, length)
        slots = Slots(kind, positions, document, torch.full_like(kind, -1), torch.zeros_like(mask))
        hidden, _ = self.model.prefix(embeddings, positions, mask.sum(1), may_see(slots))
        return hidden
