"""A plan turn: the native model reads a request as a conversation and writes its plan in signals."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from diptych.contracts import Sample, Turn
from diptych.data.conversations.tokens import TextTokenizer
from diptych.planning import signals
from diptych.planning.data.compose import sample
from diptych.planning.fourteen import padded
from diptych.planning.schema import Intent, Request
from diptych.systems.u1.config import PLAN
from diptych.systems.u1.writing import UNFINISHED, Writer

MOST = 384
"""Tokens of a plan that a model writes; what is left of a longer one, the grammar ends."""
_PLACE = re.compile("<(?:IMG|VID)PAD>")


def asked(request: Request) -> str:
    """A request as the user's words of a plan turn: earlier requests first, each on a line, and what each
    medium is where it stands."""
    media = iter(request.media)
    words = padded(request, signals.TOKENS)
    told = _PLACE.sub(lambda _: "[{0.look} {0.kind}]".format(next(media)), words)
    return "\n".join(["plan:", *(padded(Request(text=turn), signals.TOKENS) for turn in request.turns), told])


class PlanSource:
    """Planning data as plan turns: sample `number` is made from (seed, number), of the wordings that training
    may see."""

    name = PLAN

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def draw(self, number: int) -> Sample:
        made = sample(self.seed, number)
        turns = (
            Turn("user", (asked(made.request),)),
            Turn("assistant", (signals.write(made.intent),)),
        )
        return Sample(turns, PLAN, origin=f"planning data, seed {self.seed}, {number}")


def plan_texts(seed: int, count: int) -> Iterator[str]:
    """What is said in plan turns, to learn a vocabulary from."""
    for number in range(count):
        for turn in PlanSource(seed).draw(number).turns:
            yield "".join(part for part in turn.parts if isinstance(part, str))


@dataclass(frozen=True, eq=False)
class PlanTurn:
    """Writes plans token by token: at every place the likeliest token with which a plan can go on, so that
    no invalid one is written (`planning.Planner`)."""

    opened: Callable[[str], Writer]
    """What writes behind a user's words."""
    tokenizer: TextTokenizer

    @torch.inference_mode()
    def plan(self, request: Request) -> Intent:
        grammar, writer = signals.Grammar(len(request.media)), self.opened(asked(request))
        ids: list[int] = []
        plan = ""
        while not plan.endswith(signals.END) and len(ids) < MOST:
            token, plan = self._next(writer.logits[0], ids, plan, grammar)
            ids.append(token)
            writer.put([[token]])
        return grammar.read(grammar.ended(plan))

    def _next(self, logits: Tensor, ids: list[int], plan: str, grammar: signals.Grammar) -> tuple[int, str]:
        """The likeliest token that the grammar lets follow, and the plan with it."""
        for token in logits.argsort(descending=True).tolist():
            # a word's first token may bring a space, and a letter may be in several tokens
            text = self.tokenizer.decode_exactly([*ids, token]).lstrip()
            if (text != plan or text.endswith(UNFINISHED)) and grammar.begins(text):
                return token, text
        raise ValueError("the tokenizer cannot write the signals of a plan")
