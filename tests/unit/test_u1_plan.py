"""Plan turns of the native model."""

import re
from dataclasses import replace

import pytest
import torch
from conftest import TINY

from diptych.data.conversations.tokens import TextTokenizer
from diptych.flow import FlowConfig
from diptych.inference import Pipeline
from diptych.models.mot import MoT
from diptych.planning import signals
from diptych.planning.data.compose import sample
from diptych.planning.schema import Attached, Intent, Look, Request
from diptych.systems.u1.conversation import Conversation
from diptych.systems.u1.planner import PlanSource, asked, plan_texts
from diptych.systems.u1.system import U1System


@pytest.fixture(scope="module")
def system() -> U1System:
    tokenizer = TextTokenizer.train(plan_texts(0, 20), 300)
    model = MoT(replace(TINY, vocab_size=tokenizer.vocab_size))
    model.initialise(torch.Generator().manual_seed(0))
    return U1System(model, tokenizer, FlowConfig(), 16, conversation=Conversation(plans=True))


def test_a_request_tells_what_its_media_are_and_typed_signals_are_words():
    mask = Attached(kind="picture", look=Look.MASK)
    clip = Attached(kind="clip", frames=9)
    request = Request(
        text="put <image> there <CFI> [mask picture]", media=(mask, clip), turns=("a cat <CFV>",)
    )
    said = asked(request)
    assert said.startswith("plan:\na cat ")
    assert "put [mask picture] there" in said
    assert said.endswith("[photo clip]")
    assert not re.search("<(CFI|CFV|IMGPAD|VIDPAD)>", said)


def test_plan_turns_are_the_planning_data():
    turns = PlanSource(3).draw(7)
    made = sample(3, 7)
    assert turns.turns[0].parts == (asked(made.request),)
    assert signals.read(str(turns.turns[1].parts[0]), made.request.media) == made.intent
    assert PlanSource(3).draw(7).turns[1].parts == turns.turns[1].parts


@pytest.mark.parametrize("number", range(6))
def test_weights_that_know_nothing_still_write_valid_plans(system, number, monkeypatch):
    monkeypatch.setattr("diptych.systems.u1.planner.MOST", 40)
    request = sample(1, number).request
    intent = system.planner(()).plan(request)
    assert Intent.from_json(intent.to_json()) == intent
    media = [one.medium for step in intent.steps for one in step.inputs if one.medium is not None]
    assert all(medium < len(request.media) for medium in media)


def test_a_model_that_was_taught_a_plan_writes_it(system, monkeypatch):
    made = sample(1, 3)
    wanted = signals.write(made.intent)
    ids = system.tokenizer.encode(wanted)

    class Taught:
        def __init__(self, logits):
            self.logits, self.at = logits, 0
            self.next()

        def next(self):
            self.logits = self.logits.new_zeros(self.logits.shape)
            if self.at < len(ids):
                self.logits[0, ids[self.at]] = 1.0
            self.at += 1

        def put(self, rows):
            self.next()

    real = system._planning
    monkeypatch.setattr(system, "_planning", lambda words: Taught(real(words).logits))
    assert system.planner(()).plan(made.request) == signals.read(wanted, made.request.media)


def test_the_beginning_of_a_plan_is_ended_shortly():
    grammar = signals.Grammar(1)
    for beginning in ("", "<BOTA", "<BOTASK>edit<EOTASK><BOSEED>1", "<BOTASK>edit<EOTASK><BOTEXT>a ca"):
        ended = grammar.ended(beginning)
        assert ended.startswith(beginning)
        assert grammar.read(ended).steps
    with pytest.raises(ValueError, match="the plan has"):
        grammar.ended("<CFX>")


def test_only_a_model_that_was_taught_so_plans_itself(system):
    assert Pipeline(system).planner() is not None
    plain = U1System(system.model, system.tokenizer, FlowConfig(), 16)
    assert Pipeline(plain).planner() is None
