"""SenseNova-U1 as a system: one native model, pixels in and out, no vision encoder and no VAE (arXiv
2605.12500)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from diptych.contracts import AnswerLimits, Given, Picture, Prompt, Sample, Stack, Turn
from diptych.data.conversations.tokens import Document, TextTokenizer
from diptych.data.pictures import resize
from diptych.flow import FlowConfig, SamplerConfig, noise_scale, to_velocity
from diptych.models.mot import Cache, MoT
from diptych.request import TASKS, Message, RequestError, Task
from diptych.spaces import PixelSpace
from diptych.systems.u1 import NAME
from diptych.systems.u1.condition import PrefixCondition, Request
from diptych.systems.u1.conversation import Conversation
from diptych.systems.u1.files import Contents, check_flow, read_folder, write_folder
from diptych.systems.u1.reading import read_prefixes

UNFINISHED = "\ufffd"
"""What a decoder writes for bytes that are no whole character."""
Allowed = Callable[[list[int]], Sequence[int]]


class U1System:
    """Answers, draws and edits with one mixture of transformers."""

    family = NAME
    max_side = 1024
    max_frames = 1
    max_media = 1
    control = ""
    capabilities = frozenset({Task.ANSWER, Task.TEXT_TO_IMAGE, Task.EDIT})
    joins_passes = False
    """A pass without text has a shorter prefix; padded to the others', it would cost more than it saves."""
    embeds_guidance = False
    text = None

    def __init__(
        self,
        model: MoT,
        tokenizer: TextTokenizer,
        flow: FlowConfig,
        native: int,
        card: dict[str, Any] | None = None,
        conversation: Conversation | None = None,
    ) -> None:
        """`native` is the side, px, of the pictures that the model was trained on. Raises ValueError for a
        flow that the model cannot run in, or a tokenizer without the marks of its conversations."""
        check_flow(flow)
        self.model, self.tokenizer, self.flow, self.native = model.eval(), tokenizer, flow, native
        self.card = card or {}
        self.token = model.config.token
        self.conversation = conversation or Conversation()
        self.template = self.conversation.template(tokenizer, self.token)
        self.space = PixelSpace(self.token)

    @property
    def sampler(self) -> SamplerConfig:
        return self.flow.sampler

    @property
    def device(self) -> torch.device:
        return self.model.embedding.weight.device

    def accelerate(self) -> None:
        """Nothing to do: its prefix cache is all that pays at its size."""

    def parts(self) -> dict[str, nn.Module]:
        return dict(self.model.named_children())

    def read(self, prompts: Sequence[Prompt], stacks: Sequence[Stack]) -> PrefixCondition:
        """The conversation before each picture: a user's turn with the given pictures, in their order, and
        the text; then the mark at which the assistant begins to draw. Differentiable in the understanding
        stream and the embeddings.

        The cache of keys and values, which is all that denoising needs, is computed when it is first used, on
        the requests as they are then. Raises RequestError for a frame whose role an edit does not take,
        ValueError for rows of different sizes or sizes that are no multiples of a token.
        """
        first = stacks[0]
        for stack in stacks:
            if (stack.width, stack.height) != (first.width, first.height):
                raise ValueError(
                    "all rows of a batch draw one size, got "
                    f"{first.width}x{first.height} and {stack.width}x{stack.height} px"
                )
            _check_frames(len(stack.times))
        if first.width % self.token or first.height % self.token:
            raise ValueError(f"sides must be multiples of {self.token} px, got {first.width}x{first.height}")
        requests = tuple(
            Request(
                (Turn("user", (*(self._picture(given) for given in stack.given), prompt.text)),),
                prompt.negative,
            )
            for prompt, stack in zip(prompts, stacks, strict=True)
        )
        scale = noise_scale(self.flow, first.width * first.height // self.token**2)
        return PrefixCondition(
            requests=requests,
            width=first.width,
            height=first.height,
            scale=torch.full((len(requests),), scale, device=self.device),
            template=self.template,
            # late: guidance and dropout first decide which conversations are read at all
            reader=lambda documents: self._prefix(documents)[1],
        )

    def _picture(self, given: Given) -> Picture:
        if given.role not in TASKS[Task.EDIT].takes:
            taken = ", ".join(TASKS[Task.EDIT].takes)
            raise RequestError(f"this model reads frames that are {taken}; it reads no {given.role.value}")
        pixels = given.pixels
        if not pixels.numel() and given.target is not None:
            # targets of this space are the pixels, so a cached one gives the picture back
            pixels = self.space.decode(given.target[None, None])[0, 0]
        return Picture(self.fit(pixels.permute(1, 2, 0).contiguous().cpu().numpy()))

    def denoise(self, x: Tensor, sigma: Tensor, condition: PrefixCondition) -> Tensor:
        """Velocity of noisy pictures x (B, 1, 3, height, width), -1..1 where clean, at noise levels (B,) or
        (B, 1).

        The generation stream predicts the clean picture behind the cached prefix, and the velocity is
        (x - predicted) / max(sigma, sigma_min) (JiT, arXiv 2511.13720; SenseNova-U1, section 3).
        Differentiable in x, the weights and, through the cache, all that was read. Raises ValueError for more
        than one frame.
        """
        _check_frames(x.shape[1])
        pictures, sigma = x[:, 0], sigma.reshape(len(x)).float()
        # the model reads its own precision, the velocity is taken from the exact x: at small sigma it divides
        # by little
        stored = pictures.to(self.model.embedding.weight.dtype)
        predicted = self.model.denoise(stored, sigma, condition.scale, condition.cache).float()
        return to_velocity(predicted, pictures, sigma, self.flow.objective.sigma_min)[:, None]

    def fit(self, pixels: np.ndarray) -> np.ndarray:
        """A picture at a size that this model reads: its own area, sides multiples of a token."""
        height, width = pixels.shape[:2]
        shrink = min(1.0, (self.native**2 / (width * height)) ** 0.5)
        size = self.space.round_size(round(width * shrink), round(height * shrink))
        return resize(pixels, *size)

    @torch.inference_mode()
    def answer(self, messages: Sequence[Message], limits: AnswerLimits = AnswerLimits()) -> Iterator[str]:
        """The answer to a conversation, as pieces of text while they come (greedy)."""
        logits, cache = self._first_logits([messages])
        end = self.template.end
        ids: list[int] = []
        said = ""
        while len(ids) < limits.max_tokens:
            token = _choose(logits, [ids], limits.allowed_tokens, end)
            if int(token) == end:
                break
            ids.append(int(token))
            # all of it each time, as a token decoded alone loses its space; a character of several tokens
            # waits for its last one
            text = self.tokenizer.decode(ids)
            if not text.endswith(UNFINISHED):
                yield text[len(said) :]
                said = text
            state, cache = self.model.extend(self.model.embedding(token), cache)
            logits = self.model.text_head(state)
        yield self.tokenizer.decode(ids)[len(said) :]

    @torch.inference_mode()
    def answers(
        self, conversations: Sequence[Sequence[Message]], limits: AnswerLimits = AnswerLimits()
    ) -> list[str]:
        """Answers to many conversations at once (greedy)."""
        logits, cache = self._first_logits(conversations)
        end = self.template.end
        written: list[Tensor] = []
        while len(written) < limits.max_tokens:
            so_far = (
                torch.stack(written, 1).tolist() if written and limits.allowed_tokens else [[]] * len(logits)
            )
            written.append(_choose(logits, so_far, limits.allowed_tokens, end))
            # rows that have ended go on writing until all have: cut off below
            if bool((torch.stack(written) == end).any(0).all()):
                break
            state, cache = self.model.extend(self.model.embedding(written[-1]), cache)
            logits = self.model.text_head(state)
        table = torch.stack(written, 1).tolist()
        return [self.tokenizer.decode(row[: row.index(end)] if end in row else row) for row in table]

    @torch.inference_mode()
    def log_odds(
        self, conversations: Sequence[Sequence[Message]], yes: str = "yes", no: str = "no"
    ) -> list[float]:
        """log p(yes) - log p(no) of the first token of each answer. Raises ValueError where both begin with
        the same token."""
        first, second = (self.tokenizer.encode(word)[0] for word in (yes, no))
        if first == second:
            raise ValueError(f"{yes!r} and {no!r} begin with the same token in this model's vocabulary")
        logits, _ = self._first_logits(conversations)
        return (logits[:, first] - logits[:, second]).float().tolist()

    def _first_logits(self, conversations: Sequence[Sequence[Message]]) -> tuple[Tensor, Cache]:
        """Logits (B, vocabulary) of the first token of each answer, and the cache to go on with."""
        documents = []
        for messages in conversations:
            turns = tuple(
                Turn(m.role, (*(Picture(self.fit(x.pixels)) for x in m.media), m.text)) for m in messages
            )
            documents.append(self.template.answer_prefix(Sample(turns, "answer")))
        hidden, cache = self._prefix(documents)
        lengths = torch.tensor([len(d) for d in documents], device=self.device)
        last = hidden[torch.arange(len(documents), device=self.device), lengths - 1]
        return self.model.text_head(last), cache

    def _prefix(self, documents: Sequence[Document]) -> tuple[Tensor, Cache]:
        return read_prefixes(self.model, self.space, documents, self.device)

    def save(self, folder: str | Path, dtype: torch.dtype = torch.float32) -> None:
        """Write config, tokenizer, weights and card."""
        contents = Contents(
            family=NAME,
            native=self.native,
            model=self.model.config,
            flow=self.flow,
            conversation=self.conversation,
        )
        write_folder(Path(folder), contents, self.tokenizer, self.model.state_dict(), self.card, dtype)

    @classmethod
    def load(cls, folder: Path, device: torch.device | str = "cpu") -> U1System:
        """Read a folder that `save` wrote. Raises ModelFolderError for one that is not whole or of another
        kind."""
        return cls(**read_folder(folder, device))


def _check_frames(count: int) -> None:
    if count != 1:
        raise ValueError(f"this model draws single pictures, one frame at a time; got {count} frames")


def _choose(logits: Tensor, written: Sequence[list[int]], allowed: Allowed | None, end: int) -> Tensor:
    """The likeliest next token of each row (B,), of those that may follow what it has written. A row that
    has ended, or that nothing may follow, ends."""
    if allowed is None:
        return logits.argmax(-1)
    # a bar that is added: what may not follow cannot be the largest, whatever the model thinks
    bar = torch.full_like(logits, -torch.inf)
    for row, ids in enumerate(written):
        may_follow = [end] if end in ids else list(allowed(ids)) or [end]
        bar[row, may_follow] = 0.0
    return (logits + bar).argmax(-1)
