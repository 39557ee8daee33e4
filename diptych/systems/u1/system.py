"""SenseNova-U1 as a system: one native model, pixels in and out, no vision encoder and no VAE (arXiv
2605.12500)."""

from __future__ import annotations

import copy
from collections.abc import Collection, Generator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from diptych.clips import clip_turn
from diptych.contracts import (
    AnswerLimits,
    Given,
    Picture,
    Prompt,
    Sample,
    Stack,
    Turn,
    Written,
    check_rows,
)
from diptych.data.captioned.buckets import Bucket, fit
from diptych.data.conversations.forms import ANSWER, DRAW, END_THINK, STORY
from diptych.data.conversations.tokens import Document, TextTokenizer
from diptych.flow import FlowConfig, SamplerConfig, noise_scale, to_velocity
from diptych.inference.converse import Passage
from diptych.models.mot import Cache, MoT
from diptych.planning.rewording import Rewording
from diptych.request import TASKS, Media, Message, RequestError, Role, Task, check_text
from diptych.settings import Settings
from diptych.spaces import PixelSpace
from diptych.surgery import pack
from diptych.systems.u1 import NAME
from diptych.systems.u1.backbone import UnderstandingBackbone
from diptych.systems.u1.condition import PrefixCondition, Request
from diptych.systems.u1.conversation import Conversation, spread
from diptych.systems.u1.files import read_folder, write_folder
from diptych.systems.u1.memory import Memory
from diptych.systems.u1.planner import PlanTurn
from diptych.systems.u1.reading import read_prefixes
from diptych.systems.u1.settings import CHARACTERS, Contents, check_flow, settings_of
from diptych.systems.u1.writing import Speech, Writer, say


class U1System:
    """Answers, draws and edits with one mixture of transformers."""

    family = NAME
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
        words: Rewording | None = None,
    ) -> None:
        """`native` is the side, px, of the pictures that the model was trained on. Raises ValueError for a
        flow that the model cannot run in, or a tokenizer without the marks of its conversations."""
        check_flow(flow)
        self.model, self.tokenizer, self.flow, self.native = model.eval(), tokenizer, flow, native
        self.card = card or {}
        self.token = model.config.token
        self.conversation, self.words = conversation or Conversation(), words
        self.template = self.conversation.template(tokenizer, self.token)
        self.space = PixelSpace(self.token)
        self._capitals = tokenizer.has_capitals
        self._memory: Memory | None = None

    @property
    def settings(self) -> Settings:
        return settings_of(self.native, self.token, self.sampler, self.conversation, self.words)

    @property
    def sampler(self) -> SamplerConfig:
        return self.flow.sampler

    @property
    def device(self) -> torch.device:
        return self.model.embedding.weight.device

    def accelerate(self) -> None:
        """Large layers are packed (`surgery.pack`), where that is faster: the model can then be saved, and no
        longer be trained."""
        pack(self.model)

    def parts(self) -> dict[str, nn.Module]:
        return dict(self.model.named_children())

    def backbone(self) -> UnderstandingBackbone:
        """The understanding stream, for what hangs on a language model; see `encoders.backbone.Lends`."""
        return UnderstandingBackbone(self)

    def read(self, prompts: Sequence[Prompt], stacks: Sequence[Stack]) -> PrefixCondition:
        """The conversation before each picture: its earlier turns, a user's turn with the given pictures and
        the text, what the assistant has said and drawn so far; then the mark at which it begins to draw.
        Differentiable in the understanding stream and the embeddings.

        The cache of keys and values, which is all that denoising needs, is computed when it is first used, on
        the requests as they are then. Raises RequestError for a frame whose role this system does not take
        and for more tokens than it reads, ValueError for rows of different sizes or sizes that are no
        multiples of a token.
        """
        check_rows(len(prompts), stacks=stacks)
        first = stacks[0]
        for stack in stacks:
            if (stack.width, stack.height) != (first.width, first.height):
                raise ValueError(
                    "all rows of a batch draw one size, got "
                    f"{first.width}x{first.height} and {stack.width}x{stack.height} px"
                )
            if stack.times != first.times:
                raise ValueError("all rows of a batch draw the same frames")
        self._check_frames(first.times)
        if first.width % self.token or first.height % self.token:
            raise ValueError(f"sides must be multiples of {self.token} px, got {first.width}x{first.height}")
        requests = tuple(self._request(*row) for row in zip(prompts, stacks, strict=True))
        for request in requests:
            self._bounded(request)
        scale = noise_scale(self.flow, first.width * first.height // self.token**2)
        return PrefixCondition(
            requests=requests,
            width=first.width,
            height=first.height,
            times=first.times,
            held=self._held(stacks),
            scale=torch.full((len(requests),), scale, device=self.device),
            template=self.template,
            # late: guidance and dropout first decide which conversations are read at all
            reader=self._cache,
        )

    def _request(self, prompt: Prompt, stack: Stack) -> Request:
        if len(stack.times) > 1:
            return self._clip_request(prompt, stack)
        given = tuple(Media.picture(self._pixels(frame)) for frame in stack.given)
        asked = [*prompt.history, Message("user", prompt.text, given)]
        if prompt.begun is None:
            turns = self._turns(asked, DRAW)
            if self.conversation.guides:
                turns = (*turns[:-1], self._guided(turns[-1], [frame.role for frame in stack.given]))
        else:
            turns = (*self._turns(asked, STORY), Turn("assistant", prompt.begun))
        return Request(turns, self._heard(prompt.negative), prompt.thought, prompt.think)

    def _clip_request(self, prompt: Prompt, stack: Stack) -> Request:
        """The request of a clip: what is given stands behind the words, at the size of what is drawn, clips
        as so many frames."""
        if prompt.begun is not None:
            raise RequestError("this model draws single pictures within its answers, and no clips")
        given = [(one[0].role, self._shown(one, stack)) for one in _grouped(stack.given)]
        if len(given) > self.conversation.most_media:
            raise RequestError(
                f"{len(given)} media are attached, but this model looks at {self.conversation.most_media} at "
                "most"
            )
        *before, last = self._turns([*prompt.history, Message("user", prompt.text)], DRAW)
        (text,) = last.parts or ("",)
        assert isinstance(text, str)
        asked = (*before, Turn("user", clip_turn(text, given)))
        return Request(asked, self._heard(prompt.negative), prompt.thought, prompt.think, clip=True)

    def _shown(self, given: Sequence[Given], stack: Stack) -> np.ndarray:
        """A picture (height, width, 3), or of a clip (frames, height, width, 3) as many frames as are drawn,
        evenly over its time."""
        taken = self.conversation.clip_guides
        if given[0].role not in taken:
            raise RequestError(
                f"this model draws clips by {', '.join(taken) or 'words alone'}, and by no "
                f"{given[0].role.value}"
            )
        chosen = [given[place] for place in spread(len(given), len(stack.times))]
        frames = np.stack([fit(_array(one), Bucket(stack.width, stack.height)) for one in chosen])
        return frames if len(given) > 1 else frames[0]

    def _held(self, stacks: Sequence[Stack]) -> dict[int, Tensor]:
        """First and last frames of clips that are given, by their places among those that are drawn:
        targets (B, 3, height, width), which stay as they are."""
        found: dict[int, list[Tensor]] = {}
        for stack in stacks:
            for one in stack.given:
                if one.role in (Role.FIRST, Role.LAST) and len(stack.times) > 1:
                    pixels = fit(_array(one), Bucket(stack.width, stack.height))
                    frame = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None, None]
                    target = self.space.encode(frame)[0, 0].to(self.device)
                    found.setdefault(stack.times.index(one.time), []).append(target)
        if any(len(rows) != len(stacks) for rows in found.values()):
            raise ValueError("rows of a batch are given the same frames")
        return {place: torch.stack(rows) for place, rows in found.items()}

    def _guided(self, turn: Turn, roles: Sequence[Role]) -> Turn:
        """A turn whose pictures have an order of their own, and what they are for before them."""
        pictures, words = turn.parts[: len(roles)], turn.parts[len(roles) :]
        told = [part for at, name in self.conversation.guided(roles) for part in (name, pictures[at]) if part]
        return Turn(turn.role, (*told, *words))

    def _heard(self, text: str) -> str:
        """A request as the model's vocabulary has it: one that was learnt from small letters spells any other
        word out in bytes, which it was never shown."""
        return text if self._capitals else text.lower()

    def _turns(self, messages: Sequence[Message], purpose: str) -> tuple[Turn, ...]:
        """Messages with their media at the sizes that they are read at. Raises RequestError for more text or
        media than are read, and for marks that stand for no medium."""
        together = sum(len(message.media) for message in messages)
        talk = self.conversation
        most = max(1, talk.most_media if purpose == DRAW else talk.max_media)
        if together > most:
            raise RequestError(f"{together} pictures are attached, but this model looks at {most} at most")
        # before they are cut into tokens, which takes its time
        most = CHARACTERS * self.conversation.context
        if (length := sum(len(message.text) for message in messages)) > most:
            raise RequestError(f"the request has {length:,} characters, more than the {most:,} that are read")
        turns = []
        for message in messages:
            check_text(f"{message.role}'s turn", message.text)
            if message.role == "assistant" and not message.media:
                # its own words, in which it may well have spoken of a mark: a talk could else not go on
                turns.append(Turn(message.role, (self._heard(message.text),)))
                continue
            shown = [
                self.conversation.shown(medium, self.token, self.native, purpose, together)
                for medium in message.media
            ]
            parts = self.conversation.placed(self._heard(message.text), shown, purpose)
            pieces = [(part,) if isinstance(part, str) else part for part in parts]
            turns.append(Turn(message.role, tuple(piece for run in pieces for piece in run)))
        return tuple(turns)

    def _checked(self, document: Document) -> Document:
        """Raises RequestError for more tokens than the model reads: nothing is computed for them."""
        if len(document) > self.conversation.context:
            raise RequestError(
                f"the request has {len(document):,} tokens with its pictures, more than the "
                f"{self.conversation.context:,} that this model reads"
            )
        return document

    def _bounded(self, request: Request) -> Request:
        """Raises RequestError as `_checked` for what a request brings. What the model itself has thought,
        said and drawn has limits of its own: an answer is not given up in its midst for its length."""
        *asked, last = request.turns
        begun = replace(last, parts=()) if last.role == "assistant" else last
        brought = replace(request, turns=(*asked, begun), thought=None)
        self._checked(brought.document(self.template))
        if request.negative:
            self._checked(replace(brought, drop_text=True).document(self.template))
        return request

    def _check_frames(self, times: Sequence[int]) -> None:
        most = max(1, self.conversation.drawn_frames)
        if most == 1 < len(times):
            raise ValueError(
                f"this model draws single pictures, one frame at a time; got {len(times)} frames"
            )
        if len(times) > most:
            raise ValueError(f"this model draws clips of {most} frames at most; got {len(times)} frames")

    def _pixels(self, given: Given) -> np.ndarray:
        taken = self._taken()
        if given.role is not Role.SUBJECT and given.role not in taken:
            raise RequestError(
                f"this model reads frames that are {', '.join(taken)}; it reads no {given.role.value}"
            )
        pixels = given.pixels
        if not pixels.numel() and given.target is not None:
            # targets of this space are the pixels, so a cached one gives the picture back
            pixels = self.space.decode(given.target[None, None])[0, 0]
        return _array(replace(given, pixels=pixels))

    def _taken(self) -> Collection[Role]:
        """Roles of the frames that it draws by."""
        if self.conversation.free or not self.conversation.guides:
            return TASKS[Task.EDIT].takes
        return [Role.SOURCE, *(Role(name) for name in self.conversation.guides)]

    def denoise(self, x: Tensor, sigma: Tensor, condition: PrefixCondition) -> Tensor:
        """Velocity of noisy pictures and clips x (B, F, 3, height, width), -1..1 where clean, at noise levels
        (B,) or (B, F).

        The generation stream predicts the clean picture behind the cached prefix, and the velocity is
        (x - predicted) / max(sigma, sigma_min) (JiT, arXiv 2511.13720; SenseNova-U1, section 3).
        Differentiable in x, the weights and, through the cache, all that was read. Raises ValueError for
        other frames than the condition was read for.
        """
        count, times = x.shape[1], condition.times
        if count != len(times):
            raise ValueError(f"the condition is of {len(times)} frames; got {count} frames")
        pictures, sigma = x.flatten(0, 1), sigma.reshape(len(x), -1).expand(-1, count).flatten().float()
        # the model reads its own precision, the velocity is taken from the exact x: at small sigma it divides
        # by little
        stored, scale = pictures.to(self.model.embedding.weight.dtype), condition.scale
        scale = scale if count == 1 else scale.repeat_interleave(count)
        predicted = self.model.denoise(stored, sigma, scale, condition.cache, times).float()
        return to_velocity(predicted, pictures, sigma, self.flow.drawn_sigma_min).unflatten(0, x.shape[:2])

    def fit(self, pixels: np.ndarray, together: int = 1) -> np.ndarray:
        """A picture to be changed, one of so many of a request, at the size that this model reads it at."""
        return self.conversation.fit(pixels, self.token, self.native, DRAW, together)

    @torch.inference_mode()
    def answer(self, messages: Sequence[Message], limits: AnswerLimits = AnswerLimits()) -> Iterator[str]:
        """The answer to a conversation, as pieces of text while they come."""
        for (piece,) in self._said([messages], limits):
            if piece:
                yield piece

    @torch.inference_mode()
    def answers(
        self, conversations: Sequence[Sequence[Message]], limits: AnswerLimits = AnswerLimits()
    ) -> list[str]:
        """Answers to many conversations at once."""
        if not conversations:
            return []
        pieces = list(self._said(conversations, limits))
        return ["".join(row) for row in zip(*pieces, strict=True)]

    def _said(self, conversations: Sequence[Sequence[Message]], limits: AnswerLimits) -> Iterator[list[str]]:
        writer = self._writer([self._asked(messages) for messages in conversations])
        return say(writer, self.tokenizer, limits, {self.template.end}, self.conversation.max_tokens)

    @torch.inference_mode()
    def thoughts(self, prompt: Prompt, stack: Stack, limits: AnswerLimits) -> Generator[str, None, Written]:
        """What the model thinks before it draws, piece by piece: up to the mark that ends thoughts, which
        belongs to them, the end of the turn, or the limit."""
        turns = self._bounded(self._request(prompt, stack)).turns
        writer = self._writer([self.template.thought_prefix(Sample(turns, "generate"))])
        closing = self.tokenizer.ids[END_THINK]
        ids, _ = yield from self._words(
            writer, limits, {self.template.end, closing}, self.conversation.think_tokens
        )
        return Written(tuple(token for token in ids if token != self.template.end))

    def telling(self) -> Self:
        """The same system for one answer of text and pictures: it reads on behind what it has read and
        written of it, and nothing twice."""
        made = copy.copy(self)
        made._memory = Memory(self.model, self.space, lambda document: self._prefix([document]))
        return made

    @torch.inference_mode()
    def passage(self, prompt: Prompt, stack: Stack, limits: AnswerLimits) -> Generator[str, None, Passage]:
        """The text behind what was said and drawn so far, up to the end of the turn or the mark of a
        picture."""
        request = self._bounded(self._request(prompt, stack))
        writer = self._writer([self._told(request)])
        end, image = self.template.end, self.template.image
        ids, stopped = yield from self._words(writer, limits, {end, image}, self.conversation.story_tokens)
        last = ids[-1] if ids else None
        ended = "picture" if last == image else "end" if stopped or last == end else "limit"
        written = Written(tuple(ids[:-1] if last in (end, image) else ids))
        if self._memory is not None and ended == "picture":
            # a writer's cache holds all that it wrote but the last token, here the mark of the picture
            self._memory.keep(self._told(request, written), writer.cache)
        return Passage(written, ended)

    def _told(self, request: Request, *more: Written) -> Document:
        """Everything before the next word of an answer that may hold pictures."""
        *asked, answer = request.turns
        turns = (*asked, Turn(answer.role, (*answer.parts, *more)))
        return self.template.story_prefix(Sample(turns, "interleave"), request.think)

    def _words(
        self, writer: Writer, limits: AnswerLimits, ends: Collection[int], most: int
    ) -> Generator[str, None, tuple[list[int], bool]]:
        """One row as pieces of text; returns its tokens with the one that ended it, and whether a stop string
        did."""
        speech = Speech(self.tokenizer, limits.stop, strip=False)
        ids: list[int] = []
        for (token,) in writer.tokens(limits, ends, most):
            if token is None:
                break
            ids.append(token)
            if piece := speech.add(token):
                yield piece
            if speech.stopped:
                break
        if piece := speech.finish():
            yield piece
        return ids, speech.stopped

    def seen(self, target: Tensor) -> Picture:
        """A drawn picture (1, 3, height, width), -1..1, in 0..1 and float32."""
        pixels = target[0].float() / 2 + 0.5
        return Picture(pixels.permute(1, 2, 0).contiguous().cpu().numpy())

    @torch.inference_mode()
    def log_odds(
        self, conversations: Sequence[Sequence[Message]], yes: str = "yes", no: str = "no"
    ) -> list[float]:
        """log p(yes) - log p(no) of the first token of each answer. Raises ValueError where both begin with
        the same token."""
        first, second = (self.tokenizer.encode(word)[0] for word in (yes, no))
        if first == second:
            raise ValueError(f"{yes!r} and {no!r} begin with the same token in this model's vocabulary")
        last, _ = self._last([self._asked(messages) for messages in conversations])
        logits = self.model.text_head(last)
        return (logits[:, first] - logits[:, second]).float().tolist()

    def _asked(self, messages: Sequence[Message]) -> Document:
        """Everything before the answer to a conversation. Raises RequestError as `_checked`."""
        sample = Sample(self._turns(messages, ANSWER), "answer")
        return self._checked(self.template.answer_prefix(sample))

    def planner(self, media: Sequence[Media | Path]) -> PlanTurn:
        """See `inference.converse.Plans`; what it is told of media is what they look like."""
        return PlanTurn(self._planning, self.tokenizer)

    def _planning(self, words: str) -> Writer:
        """What writes a plan behind a user's words."""
        sample = Sample((Turn("user", (words,)),), "answer")
        return self._writer([self._checked(self.template.answer_prefix(sample))])

    def _writer(self, documents: Sequence[Document]) -> Writer:
        """What writes behind documents, each a row."""
        return Writer(self.model, *self._last(documents))

    def _last(self, documents: Sequence[Document]) -> tuple[Tensor, Cache]:
        """Documents, read together -> the normed state of each one's last token (B, C), and their cache."""
        if self._memory is not None and len(documents) == 1:
            hidden, cache = self._memory.read(documents[0], states=1)
            return hidden[:, -1], cache
        hidden, cache = self._prefix(documents)
        lengths = torch.tensor([len(document) for document in documents], device=self.device)
        return hidden[torch.arange(len(documents), device=self.device), lengths - 1], cache

    def _cache(self, documents: Sequence[Document]) -> Cache:
        if self._memory is None:
            return self._prefix(documents)[1]
        first, *others = (self._memory.read(document)[1] for document in documents)
        return first.joined(others) if others else first

    def _prefix(self, documents: Sequence[Document]) -> tuple[Tensor, Cache]:
        return read_prefixes(self.model, self.space, documents, self.device)

    def save(self, folder: str | Path, dtype: torch.dtype = torch.float32) -> None:
        """Write config, tokenizer, words, weights and card."""
        contents = Contents(
            family=NAME,
            native=self.native,
            model=self.model.config,
            flow=self.flow,
            conversation=self.conversation,
        )
        weights = self.model.state_dict()
        write_folder(Path(folder), contents, self.tokenizer, weights, self.card, dtype, self.words)

    @classmethod
    def load(
        cls, folder: Path, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
    ) -> U1System:
        """Read a folder that `save` wrote, or a published one; `dtype` as in `files.read_folder`. Raises
        ModelFolderError for one that is not whole or of another kind."""
        return cls(**read_folder(folder, device, dtype))


def _grouped(given: Sequence[Given]) -> list[list[Given]]:
    """Frames by the medium that they are of: those of a clip have one role, and follow one another in
    time."""
    groups: list[list[Given]] = []
    for one in given:
        last = groups[-1][-1] if groups else None
        if last is not None and (one.role, one.time) == (last.role, last.time + 1):
            groups[-1].append(one)
        else:
            groups.append([one])
    return groups


def _array(given: Given) -> np.ndarray:
    """(height, width, 3)."""
    return given.pixels.permute(1, 2, 0).contiguous().cpu().numpy()
