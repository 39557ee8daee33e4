"""Writing: one token a row and step, chosen from what the model makes of the row so far, and its text."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import torch
from torch import Tensor

from diptych.contracts import AnswerLimits
from diptych.data.conversations.tokens import TextTokenizer
from diptych.models.mot import Cache, MoT

UNFINISHED = "\ufffd"
"""What a decoder writes for bytes that are no whole character."""
LIKELY = 256
"""Tokens among which those of `top_p` are looked for first: a whole vocabulary is slow to sort."""


class Writer:
    """B rows that are being written."""

    cache: Cache
    """All that the rows hold now."""
    logits: Tensor
    """(B, vocabulary) of the token that follows what the cache holds."""

    @torch.inference_mode()
    def __init__(self, model: MoT, hidden: Tensor, cache: Cache) -> None:
        """`hidden` (B, C): normed states of each row's last token; `cache`: what was read. Raises ValueError
        for a model whose weights are damaged."""
        self.model, self.cache = model, cache
        self.logits = model.text_head(hidden)
        if bool(self.logits.isnan().any()):
            # the likeliest of them would be whichever word comes first
            raise ValueError("the model answers with no numbers (NaN): its weights are damaged")
        self._ended: set[int] = set()

    def __len__(self) -> int:
        return len(self.logits)

    def tokens(self, limits: AnswerLimits, ends: Collection[int], most: int) -> Iterator[list[int | None]]:
        """One step a yield: the next token of each row, None for a row that has ended.

        A token of `ends` is yielded, and ends its row; so does what `limits.allowed_tokens` lets nothing
        follow, with None. `most`: tokens a row where `limits.max_tokens` is None. A token is put into the
        cache when the next is asked for: in the end the cache of a single row holds all tokens but the last.
        """
        self._ended = set()
        choice, count = _Choice(limits, len(self)), limits.max_tokens or most
        for number in range(1, count + 1):
            step = choice(self.logits, self._ended)
            self._ended |= {row for row, token in enumerate(step) if token is None or token in ends}
            yield step
            if number == count or len(self._ended) == len(self):
                return
            # rows that have ended go on as padding of the batch: nobody looks at what they write
            self.put([[0 if token is None else token] for token in step])

    def stop(self, row: int) -> None:
        """End a row from outside: what it should say has been said."""
        self._ended.add(row)

    @torch.inference_mode()
    def put(self, rows: Sequence[Sequence[int]]) -> None:
        """Put text tokens behind each row's last, as many for every row."""
        ids = torch.tensor(rows, device=self.logits.device)
        times = torch.arange(ids.shape[1], device=ids.device)
        positions = self.cache.next_time[:, None, None] + times[None, :, None]
        # text has a time and no place on a grid
        self.append(self.model.embedding(ids), positions * positions.new_tensor([1, 0, 0]))

    @torch.inference_mode()
    def append(self, und: Tensor, positions: Tensor) -> None:
        """Put a block of embedded tokens (B, L, C) behind each row's last, at positions (B, L, 3) whose times
        begin at `cache.next_time`: a picture and its marks."""
        hidden, self.cache = self.model.append(und, positions, self.cache)
        self.logits = self.model.text_head(hidden[:, -1])


class _Choice:
    """The next token of each row: the likeliest, or a random one; each row draws by a generator of its own,
    so that it writes what it would write alone."""

    def __init__(self, limits: AnswerLimits, rows: int) -> None:
        self.limits = limits
        self.written: list[list[int]] = [[] for _ in range(rows)]
        # on the CPU, whatever the model runs on: one seed is one answer
        self.generators = [torch.Generator().manual_seed(limits.seed) for _ in range(rows)]

    def __call__(self, logits: Tensor, ended: Collection[int]) -> list[int | None]:
        """Logits (B, vocabulary) -> one token a row; None for rows that have ended or that nothing may
        follow."""
        allowed, temperature = self.limits.allowed_tokens, self.limits.temperature
        chosen: list[int | None] = list(logits.argmax(-1).tolist())
        for row in range(len(logits)):
            may_follow = None if allowed is None or row in ended else list(allowed(self.written[row]))
            if row in ended or may_follow == []:
                chosen[row] = None
            elif temperature or may_follow:
                chosen[row] = self._of_row(row, logits[row], may_follow)
            if (token := chosen[row]) is not None:
                self.written[row].append(token)
        return chosen

    def _of_row(self, row: int, logits: Tensor, may_follow: list[int] | None) -> int:
        """A token for logits (vocabulary,), of those that may follow."""
        if may_follow:
            picked = self._of_row(row, logits[may_follow], None)
            return may_follow[picked]
        if not self.limits.temperature:
            return int(logits.argmax())
        # in float64, where the sums of 151,936 probabilities are exact enough to be cut at one place
        scaled = logits.detach().cpu().double()
        # from the likeliest downwards: divided by next to nothing, several would be infinitely likely
        probabilities = torch.softmax((scaled - scaled.max()) / self.limits.temperature, 0)
        point = torch.rand((), dtype=torch.float64, generator=self.generators[row])
        order = None
        if self.limits.top_p < 1.0:
            probabilities, order = _likeliest(probabilities, self.limits.top_p)
        reached = probabilities.cumsum(0)
        # the draw falls into one token's share; rounding could let it fall behind the last
        place = int(torch.searchsorted(reached, point * reached[-1], right=True).clamp(max=len(reached) - 1))
        return place if order is None else int(order[place])


def _likeliest(probabilities: Tensor, top_p: float) -> tuple[Tensor, Tensor]:
    """The fewest of the likeliest (n,) that together have at least `top_p`, and which they are."""
    count = min(LIKELY, len(probabilities))
    while True:
        values, order = probabilities.topk(count)
        enough = values.cumsum(0) >= top_p
        if bool(enough[-1]) or count == len(probabilities):
            # where rounding keeps even all of them below it, all stay
            kept = int(enough.int().argmax()) + 1 if bool(enough.any()) else count
            return values[:kept], order[:kept]
        count = min(8 * count, len(probabilities))


class Speech:
    """The text of one row's tokens, piece by piece: an unfinished character waits, and what may be the
    beginning of a stop text."""

    def __init__(self, tokenizer: TextTokenizer, stop: Sequence[str] = (), strip: bool = True) -> None:
        """`strip`: without white space at both ends, as an answer is; a stretch of a story keeps it."""
        self.tokenizer, self.stop, self.strip = tokenizer, stop, strip
        self.stopped = False
        """Whether a stop text was found; what is said ends before it."""
        self._ids: list[int] = []
        self._whole = 0
        """Tokens whose text is complete."""
        self._waiting = ""
        self._begun = False

    def add(self, token: int) -> str:
        """What can be said now that this token was written; '' where all of it waits."""
        if self.stopped:
            return ""
        self._ids.append(token)
        # with the tokens before: decoded alone, a token could lose the space that it begins with
        before = self.tokenizer.decode_exactly(self._ids[: self._whole])
        text = self.tokenizer.decode_exactly(self._ids)
        if text.endswith(UNFINISHED):
            return ""
        # of what is complete the last token alone is looked back at
        self._ids, self._whole = self._ids[-1:], 1
        return self._say(text[len(before) :])

    def finish(self) -> str:
        """What was still waiting."""
        if self.stopped:
            return ""
        before = self.tokenizer.decode_exactly(self._ids[: self._whole])
        return self._say(self.tokenizer.decode_exactly(self._ids)[len(before) :], last=True)

    def _say(self, text: str, last: bool = False) -> str:
        text = self._waiting + text
        # the one that is complete first, however the text was cut into tokens
        places = [(place + len(stop), place) for stop in self.stop if (place := text.find(stop)) >= 0]
        self.stopped = bool(places)
        keep = 0 if last else max((_overlap(text, stop) for stop in self.stop), default=0)
        end = min(places)[1] if places else len(text) - keep
        said, self._waiting = text[:end], text[end:]
        if self.strip:
            said = said if self._begun else said.lstrip()
            # white space waits for what follows it: there may be nothing
            kept = said.rstrip()
            said, self._waiting = kept, said[len(kept) :] + self._waiting
        self._begun = self._begun or bool(said)
        return said


def _overlap(text: str, stop: str) -> int:
    """Characters at the end of a text that a stop text may begin with."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)


def say(
    writer: Writer, tokenizer: TextTokenizer, limits: AnswerLimits, ends: Collection[int], most: int
) -> Iterator[list[str]]:
    """Answers of all rows: one step a yield, a piece of text for each row, '' where nothing can be said
    yet."""
    speeches = [Speech(tokenizer, limits.stop) for _ in range(len(writer))]
    for step in writer.tokens(limits, ends, most):
        pieces = []
        for row, (token, speech) in enumerate(zip(step, speeches, strict=True)):
            pieces.append("" if token is None or token in ends else speech.add(token))
            if speech.stopped:
                writer.stop(row)
        yield pieces
    yield [speech.finish() for speech in speeches]
