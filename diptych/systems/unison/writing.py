"""Plans and answers, token by token. A plan is written under the grammar of the signals: at every place the
likeliest of what may follow, so that an invalid plan cannot be written."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache

import torch
from torch import Tensor

from diptych.contracts import AnswerLimits
from diptych.planning.signals import END, TEXT, Grammar
from diptych.systems.unison.language import Language, Pass

MORE = 200
"""Characters of a text of a plan beyond those of its request: prompts are words of it, questions short."""
ANSWER_TOKENS = 512
"""Most tokens of an answer, unless a request says."""
_SPLIT = re.compile(r"(<[A-Z]+>)")
_NUMBER = re.compile(r"[-\d.,]+")


def spelt(language: Language, plan: str) -> list[int]:
    """Ids of a plan, spelt as it is written here: tokens, numbers and names each by themselves."""
    ids: list[int] = []
    for part in _SPLIT.split(plan):
        pieces = [part]
        if _NUMBER.fullmatch(part):
            pieces = list(part)
        elif (split := re.fullmatch(r"([a-z]+)(,)(\d+)", part)) is not None:
            pieces = [*split.groups()]
        for piece in pieces:
            ids += language.ids(piece)
    return ids


class PlanWriter:
    """Writes plans with a language model."""

    def __init__(self, language: Language) -> None:
        self.language = language
        self._ids = lru_cache(maxsize=1024)(lambda piece: tuple(language.ids(piece)))
        self._plain: Tensor | None = None

    def write(self, running: Pass, media: int, request: str) -> str:
        """The plan of a request with so many media, behind what a pass has read. Raises ValueError where the
        grammar refuses what it allowed, which is a fault of it."""
        grammar, plan = Grammar(media), ""
        while not plan.endswith(END):
            allowed = grammar.allowed(plan)
            if TEXT in allowed:
                (end,) = allowed - {TEXT}
                plan += self._text(running, end, len(request) + MORE)
                allowed = frozenset({end})
            plan += self._piece(running, grammar, plan, sorted(allowed))
        return plan

    def _piece(self, running: Pass, grammar: Grammar, plan: str, allowed: Sequence[str]) -> str:
        """The likeliest of some pieces, token by token."""
        left = {piece: self._ids(piece) for piece in allowed}
        if len(left) > 1:
            # 'edit' begins 'edit-clip': what follows the shorter one tells them apart
            for piece, ids in left.items():
                if any(other[: len(ids)] == ids for name, other in left.items() if name != piece):
                    after = grammar.allowed(plan + piece)
                    if len(after) == 1:
                        left[piece] = (*ids, *self._ids(next(iter(after))))
        at = 0
        while len(left) > 1:
            tokens = sorted({ids[at] for ids in left.values()})
            token = tokens[int(running.logits[tokens].argmax())]
            left = {piece: ids for piece, ids in left.items() if ids[at] == token}
            if len(left) > 1:
                running.write(token)
                at += 1
        (piece,) = left
        running.write(*self._ids(piece)[at:])
        return piece

    def _text(self, running: Pass, end: str, longest: int) -> str:
        """Free text up to `end`, which is not written."""
        first = self._ids(end)[0]
        words = self._words(running.logits)
        written: list[int] = []
        text = ""
        while len(text) < longest and len(written) < longest:
            scores = running.logits.where(words, -torch.inf)
            scores[first] = running.logits[first]
            token = int(scores.argmax())
            if token == first:
                break
            written.append(token)
            text = self.language.text(written)
            running.write(token)
        # tokens that make no letter are no text; without '<' each, they may not make one together
        return text.replace("<", "")

    def _words(self, logits: Tensor) -> Tensor:
        """bool (vocabulary,): tokens that free text may be written in."""
        if self._plain is None:
            tokenizer = self.language.tokenizer
            count = len(tokenizer)
            special = set(tokenizer.all_special_ids)
            plain = torch.zeros(len(logits), dtype=torch.bool)
            for token in range(min(count, len(logits))):
                text = self.language.text([token])
                plain[token] = token not in special and bool(text) and "<" not in text
            self._plain = plain.to(logits.device)
        return self._plain


def answered(running: Pass, limits: AnswerLimits) -> Iterator[str]:
    """What is written on behind a pass, piece by piece, up to the end of the turn."""
    language, generator = running.language, torch.Generator().manual_seed(limits.seed)
    ends = set(language.tokenizer.all_special_ids)
    written: list[int] = []
    told = ""
    for _ in range(limits.max_tokens or ANSWER_TOKENS):
        token = _chosen(running.logits, limits, generator)
        if token in ends:
            break
        written.append(token)
        text = language.text(written)
        cut = min((at for word in limits.stop if (at := text.find(word)) >= 0), default=-1)
        if cut >= 0:
            yield text[len(told) : cut]
            return
        # half a letter, which the next token completes, and what may be the beginning of a word to stop at
        if not text.endswith("\ufffd") and not any(_begins(text, word) for word in limits.stop):
            yield text[len(told) :]
            told = text
        running.write(token)
    if rest := language.text(written)[len(told) :]:
        yield rest


def _begins(text: str, word: str) -> bool:
    return any(text.endswith(word[:length]) for length in range(1, len(word)))


def _chosen(logits: Tensor, limits: AnswerLimits, generator: torch.Generator) -> int:
    if not limits.temperature:
        return int(logits.argmax())
    chances = (logits.cpu() / limits.temperature).softmax(-1)
    sorted_chances, order = chances.sort(descending=True)
    # those before it make up less than top_p: the likeliest is always kept
    kept = sorted_chances.where(sorted_chances.cumsum(-1) - sorted_chances < limits.top_p, 0.0)
    return int(order[torch.multinomial(kept, 1, generator=generator)])
