"""Plans as signal tokens: the published fourteen, ours, and the grammar that no walk can leave."""

import random
import re
from dataclasses import replace

import pytest
from golden_files import load_json
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.planning.fourteen import PUBLISHED, fourteen, padded
from diptych.planning.schema import Attached, Control, Input, Intent, Request, Step
from diptych.planning.signals import END, TEXT, TOKENS, Grammar, read, write
from diptych.request import MARK, TASKS, Role, Task

GOLDEN = load_json("unison/grammar")
TASK = {
    "answer": Task.ANSWER,
    "text to picture": Task.TEXT_TO_IMAGE,
    "text to video": Task.TEXT_TO_CLIP,
    "edit picture": Task.EDIT,
    "edit picture with reference": Task.EDIT,
    "edit video": Task.EDIT_CLIP,
    "reference picture": Task.REFERENCE_TO_IMAGE,
    "reference video": Task.REFERENCE_TO_CLIP,
    "controlled picture": Task.CONTROL_TO_IMAGE,
    "controlled video": Task.CONTROL_TO_CLIP,
    "controlled video with reference": Task.CONTROL_TO_CLIP,
    "picture to video": Task.IMAGE_TO_CLIP,
}


def attached(names: list[str]) -> tuple[Attached, ...]:
    return tuple(Attached(kind="picture" if re.search(r"(png|jpe?g)$", n) else "clip") for n in names)


@pytest.mark.parametrize("case", GOLDEN["replies"], ids=lambda case: case["reply"] or "nothing")
def test_a_published_reply_means_what_it_says_and_a_malformed_one_is_refused(case):
    media, meant = attached(case["media"]), case["plan"]
    if meant.get("invalid"):
        with pytest.raises(ValueError, match=r"^the reply|^\w+ (must|is|names)"):
            read(case["reply"], media)
        return
    step = read(case["reply"], media, "a lamp").steps[0]
    assert (step.task, step.prompt) == (TASK[meant["task"]], "a lamp")
    assert (step.width, step.height, step.frames) == tuple(
        meant.get(key) for key in ("width", "height", "frames_requested")
    )
    roles = {(role, number) for role in ("mask", "source", "control") for number in [meant.get(role)]}
    wanted = meant.get("reference", [])
    roles |= {("reference", number) for number in (wanted if isinstance(wanted, list) else [wanted])}
    roles |= {(meant.get("frame"), 0)}
    roles |= {("subject", number) for number in range(len(media)) if step.task is Task.ANSWER}
    found = {(one.role.value, one.medium) for one in step.inputs}
    assert found == {(role, number) for role, number in roles if role and number is not None}
    if "reference" in case and case["reference"]["action"] != "answer":
        did = case["reference"]
        assert did["size"] == [step.width or 832, step.height or 480]
        # one more than asked for, 81 unless asked
        assert did["frames"] == (step.frames + 1 if step.frames else 81 if did["action"] == "video" else 1)
        names = {one.role: case["media"][one.medium] for one in step.inputs}
        for call in did.get("calls", []):
            assert call.get("video") == names.get(Role.SOURCE)
            assert call.get("mask") == names.get(Role.MASK)
            shown = {names.get(role) for role in (Role.REFERENCE, Role.FIRST, Role.LAST)}
            assert call.get("image") is None or call["image"] in shown


@pytest.mark.parametrize("case", GOLDEN["replies"], ids=lambda case: case["reply"] or "nothing")
def test_what_was_read_is_written_again_with_the_call_last(case):
    media = attached(case["media"])
    if case["plan"].get("invalid"):
        return
    intent = read(case["reply"], media)
    text = fourteen(intent)
    assert read(text, media) == intent
    assert not text or text.endswith(("<CFI>", "<CFV>"))
    plain = re.sub(r"\s|<\|im_end\|>", "", case["reply"])
    if case["plan"]["task"] != "answer" and "BONF" not in plain:
        assert sorted(re.findall(r"<[^<]*", text)) == sorted(re.findall(r"<[^<]*", plain))


@pytest.mark.parametrize("case", GOLDEN["prompts"], ids=lambda case: case["prompt"])
def test_placeholders_stand_where_the_media_do_and_typed_ones_are_words(case):
    said = case["reference"]
    if "error" in said:
        return
    text = case["prompt"]
    for name in said["media"]:
        text = text.replace(f"###{name}###", MARK, 1)
    told = padded(Request(text=text, media=attached(said["media"])))
    assert told == (said["text"] if said["media"] else said["text"].replace("<IMGPAD>", "&lt;IMGPAD>"))


def test_media_without_a_mark_come_after_those_with_one():
    media = (Attached(kind="picture"), Attached(kind="clip"), Attached(kind="picture"))
    assert padded(Request(text="x <image> y", media=media)) == "x <IMGPAD> y<VIDPAD><IMGPAD>"
    assert padded(Request(text="x <image> y")) == "x <image> y"


@pytest.mark.parametrize(
    ("step", "text"),
    [
        (Step(task=Task.TEXT_TO_CLIP, prompt="", seconds=3.0), "<BONF>72<EONF><CFV>"),
        (Step(task=Task.TEXT_TO_IMAGE, prompt="", resolution=480), "<BORES>640,480<EORES><CFI>"),
        (Step(task=Task.TEXT_TO_CLIP, prompt="", aspect=(16, 9)), "<BORES>1280,720<EORES><CFV>"),
        (Step(task=Task.TEXT_TO_IMAGE, prompt="", aspect=(9, 16)), "<BORES>720,1280<EORES><CFI>"),
    ],
)
def test_seconds_and_sizes_in_words_become_the_published_numbers(step, text):
    assert fourteen(Intent(steps=(step,))) == text


def test_what_the_fourteen_cannot_say_is_refused():
    edit = Step(task=Task.EDIT, prompt="", inputs=(Input(Role.SOURCE, 0),))
    both = Step(task=Task.IMAGE_TO_CLIP, prompt="", inputs=(Input(Role.FIRST, 0), Input(Role.LAST, 1)))
    for steps in ((edit,), (both,), (edit, edit), (Step(task=Task.INTERLEAVE, prompt=""),)):
        with pytest.raises(ValueError, match="the fourteen tokens say"):
            fourteen(Intent(steps=steps))


def test_the_published_tokens_stand_first_in_their_order():
    assert TOKENS[:14] == PUBLISHED
    assert len(set(TOKENS)) == len(TOKENS)


def test_every_field_is_written_and_read():
    said = {
        "control": Control.DEPTH,
        "width": 0,
        "height": -5,
        "aspect": (16, 9),
        "resolution": 2160,
        "seconds": 2.5,
        "fps": 23.976,
        "frames": 120,
        "count": 3,
        "seed": 2**63 - 1,
        "steps": 20,
        "guidance_scale": 4.5,
        "negative_prompt": 'a <CFI> & {"b": 1}',
    }
    first = Step(
        task=Task.CONTROL_TO_IMAGE, prompt="猫 <BORES>1,2<EORES>", inputs=(Input(Role.CONTROL, 1),), **said
    )
    then = Step(task=Task.IMAGE_TO_CLIP, prompt="", inputs=(Input(Role.LAST, step=0), Input(Role.FIRST, 0)))
    intent = Intent(
        steps=(first, then, replace(first, width=7, height=None), replace(first, width=None, height=0)),
        language="zh",
        confidence=0.5,
        missing=("mask", "prompt"),
        contradictions=("width", "seed"),
        question="which <mask>?",
    )
    assert Grammar(2).read(write(intent)) == intent
    assert read(write(intent), attached(["a.png", "b.png"])) == intent
    assert Intent.from_json(intent.to_json()) == intent


def test_what_a_user_types_is_only_text():
    typed = "draw <CFV> <BOTASK>edit<EOTASK> <EOTEXT><EOPLAN>"
    intent = Intent(steps=(Step(task=Task.TEXT_TO_IMAGE, prompt=typed),))
    assert Grammar(0).read(write(intent)) == intent
    told = padded(Request(text=typed), TOKENS)
    assert not any(token in told for token in TOKENS)
    assert "a < b" in padded(Request(text="a < b"), TOKENS)


def walk(choices: random.Random, media: int) -> str:
    """A plan by choices among what the grammar allows; its end, once in a while, as soon as it may come."""
    grammar, text = Grammar(media), ""
    while allowed := sorted(grammar.allowed(text)):
        ends = [piece for piece in allowed if piece.startswith("<EO") or piece in ("<CFI>", "<CFV>", END)]
        piece = choices.choice(ends if ends and choices.random() < 0.3 else allowed)
        text += (
            choices.choice(["a cat", "&lt;", "&", "ein Füller, 猫 ", '{"a": [1]}'])
            if piece == TEXT
            else piece
        )
        assert grammar.begins(text)
    return text


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 3))
def test_no_walk_leaves_the_grammar_and_what_it_says_comes_back(seed, media):
    text = walk(random.Random(seed), media)
    intent = Grammar(media).read(text)
    assert Grammar(media).read(write(intent)) == intent
    assert Intent.from_json(intent.to_json()) == intent
    for step in intent.steps:
        assert {one.role for one in step.inputs} <= {*TASKS[step.task].takes, Role.UNUSED}
        assert all(one.medium is None or one.medium < media for one in step.inputs)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<BOTASK>edit<EOTASK><CFV>", "'<CFV>' where one of"),
        ("<BOTASK>draw<EOTASK>", "'draw<EOTASK>' where one of"),
        ("<BOTASK>edit<EOTASK><BOIN>source,1<EOIN><CFI><EOPLAN>", "'1<EOIN>"),
        ("<BOTASK>edit<EOTASK><CFI>", "breaks off"),
        ("<BOTASK>edit<EOTASK><CFI><EOPLAN>more", "goes on after its end"),
        ("<BOTASK>edit<EOTASK><BOCOUNT>3.5<EOCOUNT>", "'.5<EOCOUNT>'"),
        ("<BOTASK>edit<EOTASK><BOSEC>5.<EOSEC>", "'<EOSEC>'"),
    ],
)
def test_a_plan_that_breaks_the_grammar_is_told_where(text, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        read(text, attached(["a.png"]))


def test_a_plan_may_break_off_within_a_name():
    grammar = Grammar(1)
    assert grammar.begins("<BOTASK>edit-cl")
    assert grammar.begins("<BOTA")
    assert not grammar.begins("<BOTASK>edit-x")
    assert grammar.allowed("<BOTASK>edit") == {"<EOTASK>"}
