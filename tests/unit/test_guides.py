"""Drawing by masks, references and control pictures: laid out as in training, whatever the order."""

import dataclasses

import numpy as np
import pytest
import torch
from conftest import TINY

from diptych.contracts import Prompt
from diptych.evaluation import EvaluationConfig, evaluate
from diptych.flow import FlowConfig, SamplerConfig
from diptych.inference import Pipeline
from diptych.inference.draw import stack_of
from diptych.models.mot import MoT
from diptych.request import Media, Message, Plan, RequestError, Role, Task
from diptych.systems.u1.conversation import GUIDES, Conversation
from diptych.systems.u1.system import U1System
from diptych.worlds.emoji import EmojiWorld, WorldConfig
from diptych.worlds.emoji.guided import GUIDED
from diptych.worlds.emoji.source import EmojiSource


def made(tokenizer, guides: tuple[str, ...]) -> U1System:
    model = MoT(dataclasses.replace(TINY, vocab_size=tokenizer.vocab_size, patch=8))
    model.initialise(torch.Generator().manual_seed(0))
    flow = FlowConfig(noise_scale_base_tokens=16, sampler=SamplerConfig(num_steps=2))
    return U1System(model, tokenizer, flow, native=96, conversation=Conversation(guides=guides))


@pytest.fixture(scope="module")
def taught(tokenizer) -> U1System:
    return made(tokenizer, tuple(GUIDES))


def picture(value: int) -> np.ndarray:
    return np.full((96, 96, 3), value, dtype=np.uint8)


def document(system: U1System, task: Task, text: str, given: list[tuple[Role, np.ndarray]]):
    plan = Plan(task=task, prompt=text, inputs=tuple(role for role, _ in given), width=96, height=96, steps=2)
    media = [Media.picture(pixels) for _, pixels in given]
    condition = system.read([Prompt(text)], [stack_of(plan, media)])
    return condition.requests[0].document(system.template)


def test_the_order_of_attached_pictures_changes_nothing(taught):
    source, mask = (Role.SOURCE, picture(10)), (Role.MASK, picture(255))
    one = document(taught, Task.EDIT, "make it red", [source, mask])
    other = document(taught, Task.EDIT, "make it red", [mask, source])
    assert (one.ids == other.ids).all()
    assert (
        [int(clean.max()) for clean in one.clean] == [int(clean.max()) for clean in other.clean] == [10, 255]
    )


@pytest.mark.parametrize("task", ["masked", "reference", "control"])
def test_drawing_begins_as_in_training(taught, task):
    """Everything before the first noisy token of a training sample is what is read before drawing."""
    source = EmojiSource(EmojiWorld(WorldConfig(words="wide")), task, 0)
    sample = source.draw(3)
    parts = sample.turns[0].parts
    roles = {"masked": (Role.SOURCE, Role.MASK), "reference": (Role.REFERENCE,), "control": (Role.CONTROL,)}
    pixels = [part.pixels for part in parts if not isinstance(part, str)]
    tasks = {"masked": Task.EDIT, "reference": Task.REFERENCE_TO_IMAGE, "control": Task.CONTROL_TO_IMAGE}
    drawn = document(taught, tasks[task], parts[-1], list(zip(roles[task], pixels, strict=True)))
    trained = taught.template.write(sample)
    assert (trained.ids[: len(drawn)] == drawn.ids).all()
    assert (trained.positions[: len(drawn)] == drawn.positions).all()


def test_only_what_was_taught_is_promised(tokenizer, taught):
    plain = made(tokenizer, ())
    assert plain.settings.tasks == {Task.ANSWER, Task.TEXT_TO_IMAGE, Task.EDIT}
    assert plain.settings.max_media == 1
    assert taught.settings.tasks - plain.settings.tasks == {Task.REFERENCE_TO_IMAGE, Task.CONTROL_TO_IMAGE}
    assert taught.settings.max_media == 2
    with pytest.raises(RequestError, match="reads no control"):
        document(plain, Task.CONTROL_TO_IMAGE, "a cat", [(Role.CONTROL, picture(0))])


def test_a_question_takes_one_picture_still(taught):
    asked = Message("user", "what is this?", (Media.picture(picture(1)), Media.picture(picture(2))))
    with pytest.raises(RequestError, match="2 pictures are attached, but this model looks at 1 at most"):
        taught.answers([[asked]])


@pytest.mark.parametrize("wording", ["plain", "trained", "held-out"])
def test_the_benchmark_judges_guided_pictures_too_in_any_words(taught, world, wording):
    found = evaluate(Pipeline(taught), world, EvaluationConfig(prompts=1, wording=wording)).summary()
    assert found["guided"]["by"].keys() == set(GUIDED)
    for part in ("drawing, seen", "drawing, held-out", "edits"):
        assert found[f"{part}, judged leniently"]["by"].keys() == found[part]["by"].keys()


def test_a_model_that_was_not_taught_is_not_asked(tokenizer, world):
    system = made(tokenizer, ())
    result = evaluate(Pipeline(system), world, EvaluationConfig(prompts=1))
    assert not result.guided
    with pytest.raises(RequestError, match="2 pictures are attached"):
        evaluate(Pipeline(system), world, EvaluationConfig(prompts=1, split="guided"))


def test_guides_that_are_no_roles_are_refused():
    with pytest.raises(ValueError, match="guides may be mask, reference, control, not 'subject'"):
        Conversation(guides=("subject",))
