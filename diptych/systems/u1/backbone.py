"""The understanding stream as a language model that others hang on."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych.contracts import Prompt, Sample, Stack
from diptych.data.conversations.tokens import NO_LABEL, Document
from diptych.encoders.backbone import Asked
from diptych.models.mot import PAD, TEXT, Slots, may_see
from diptych.request import RequestError
from diptych.systems.u1.reading import read_prefixes

if TYPE_CHECKING:
    from diptych.systems.u1.system import U1System


class UnderstandingBackbone:
    """Embeddings in, hidden states out (`encoders.backbone.Reader`), of a system's text and clean
    pictures."""

    mark = None
    request = "{}"

    def __init__(self, system: U1System) -> None:
        self.system, self.model, self.tokenizer = system, system.model, system.tokenizer
        self.channels: int = system.model.config.width
        self.context = system.conversation.context

    @property
    def speaker(self) -> U1System:
        return self.system

    def save(self, folder: Path) -> None:
        self.system.save(folder)

    def tokens(self, text: str) -> list[int]:
        return self.tokenizer.encode(text)

    def asked(self, text: str, pictures: Sequence[np.ndarray] = ()) -> Asked:
        """What stands before a picture that the system itself would draw: its turns, and the mark <img>."""
        if pictures:
            raise RequestError("this model's bridge reads text alone, and pictures are attached")
        native = self.system.native
        request = self.system._request(Prompt(text), Stack(native, native))
        return Asked(tuple(request.document(self.system.template).ids.tolist()))

    def embed(self, ids: Tensor) -> Tensor:
        embedded: Tensor = self.model.embedding(ids)
        return embedded

    def embedded(self, asked: Asked) -> Tensor:
        return self.embed(torch.tensor(asked.ids, device=self.system.device))

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

    def states(self, embeddings: Tensor, mask: Tensor, layers: Sequence[int]) -> Tensor:
        """States of several layers; see `models.connector.Layered`."""
        depth = len(self.model.blocks)
        if wrong := [layer for layer in layers if layer != -1 and not 0 <= layer < depth]:
            raise ValueError(f"layers must be 0 to {depth - 1}, or -1 for the last, got {wrong[0]}")
        found: dict[int, Tensor] = {0: embeddings}

        def keep(number: int) -> Any:
            def hook(_: nn.Module, __: Any, output: tuple[Tensor, ...]) -> None:
                # the understanding stream comes first, its rows one after the other
                found[number] = output[0].view_as(embeddings)

            return hook

        hooks = [
            block.register_forward_hook(keep(number)) for number, block in enumerate(self.model.blocks, 1)
        ]
        try:
            found[-1] = self.hidden(embeddings, mask)
        finally:
            for hook in hooks:
                hook.remove()
        return torch.cat([found[layer] for layer in layers], -1)

    def identity(self) -> str:
        digest = hashlib.sha256(repr(self.model.config).encode())
        digest.update(repr(sorted(self.tokenizer.ids.items())).encode())
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            # a sum each, not all bytes: enough to tell one model from another
            digest.update(tensor.detach().float().sum().cpu().numpy().tobytes())
        return digest.hexdigest()[:16]

    def told(self, samples: Sequence[Sample]) -> int:
        """Tokens of the answers in conversations."""
        return sum(int((document.labels != NO_LABEL).sum()) for document in self._documents(samples))

    def answer_loss(self, samples: Sequence[Sample]) -> Tensor:
        """Cross-entropy (B,) of the answers of each conversation, summed over their tokens; differentiable in
        the understanding stream."""
        documents = self._documents(samples)
        hidden, _ = read_prefixes(self.model, self.system.space, documents, self.system.device)
        sums = []
        for row, document in zip(hidden, documents, strict=True):
            labels = torch.from_numpy(document.labels).to(row.device)
            told = (labels != NO_LABEL).nonzero().flatten()
            logits = self.model.text_head(row[told]).float()
            sums.append(F.cross_entropy(logits, labels[told], reduction="sum"))
        return torch.stack(sums)

    def _documents(self, samples: Sequence[Sample]) -> list[Document]:
        return [self.system.template.write(sample) for sample in samples]
