"""Text as the denoiser reads it, and what stands for no text: the same in training and in drawing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from diptych.contracts import Prompt
from diptych.encoders.gemma import GemmaEncoder
from diptych.encoders.learned import LearnedEncoder


class Text(NamedTuple):
    """Hidden states of B prompts."""

    states: Tensor
    """(B, T, channels); T is as long as the longest."""
    mask: Tensor
    """bool (B, T): True = real."""

    def rows(self, index: Sequence[int]) -> Text:
        return Text(self.states[list(index)], self.mask[list(index)])

    def padded(self, length: int) -> Text:
        """Padding has no influence on what is denoised, but for rounding."""
        more = length - self.mask.shape[1]
        return Text(F.pad(self.states, (0, 0, 0, more)), F.pad(self.mask, (0, more)))


def joined(texts: Sequence[Text]) -> Text:
    """The rows of several texts, padded to the longest."""
    length = max(text.mask.shape[1] for text in texts)
    texts = [text.padded(length) for text in texts]
    return Text(torch.cat([text.states for text in texts]), torch.cat([text.mask for text in texts]))


class Captions:
    """Reads prompts with a text encoder, and puts what stands for no text in their place."""

    def __init__(self, encoder: GemmaEncoder | LearnedEncoder, null: Tensor | None = None) -> None:
        """`null` (tokens, channels) is a stored null caption, seen through the mask of the caption that it
        replaces, as the native code trains; None: the encoding of "", without instruction, stands for no
        text."""
        self.encoder, self.null = encoder, null

    def read(self, prompts: Sequence[Prompt]) -> Text:
        if isinstance(self.encoder, LearnedEncoder):
            # it learns, so nothing of it can be cached and one pass with gradients reads all
            return Text(*self.encoder.encode([prompt.text for prompt in prompts]))
        # one at a time, as a cache holds them: a batch rounds otherwise
        found = [
            self.encoder.encode([prompt.text])[0] if prompt.states is None else prompt.states[None]
            for prompt in prompts
        ]
        return joined([Text(states, states.new_ones(states.shape[:2], dtype=torch.bool)) for states in found])

    def without(self, text: Text, prompts: Sequence[Prompt], gone: Tensor) -> Text:
        """`text`, but for the rows where `gone` (B,) is True: those read their negative prompt, or the null
        text."""
        chosen = [row for row, dropped in enumerate(gone.tolist()) if dropped]
        if not chosen:
            return text
        negatives = {prompts[row].negative for row in chosen}
        if self.null is not None:
            # '' is then the stored caption and not an encoding
            negatives.discard("")
        # negative prompts and the null text stand without the instruction, as diffusers reads them; each
        # different one is read once, whatever the batch
        encoded = {words: Text(*self.encoder.encode([words], instruct=False)) for words in negatives}
        null = joined(
            [encoded.get(prompts[row].negative) or self._stored(text.rows([row])) for row in chosen]
        )
        length = max(text.mask.shape[1], null.mask.shape[1])
        text, null = text.padded(length), null.padded(length)
        place = torch.tensor(chosen, device=text.mask.device)
        return Text(
            # copied and not written in place: gradients of the other rows, and of a learned null text, go
            # through
            text.states.index_copy(0, place, null.states.to(text.states)),
            text.mask.index_copy(0, place, null.mask.to(text.mask.device)),
        )

    def _stored(self, row: Text) -> Text:
        """The stored null caption through the mask of one row."""
        assert self.null is not None
        # the native code replaces the caption but not its mask, so as many null tokens are seen as the
        # caption had: weights trained so must be sampled so
        states = self.null.to(row.states)[None, : row.mask.shape[1]]
        return Text(states, row.mask[:, : states.shape[1]])
