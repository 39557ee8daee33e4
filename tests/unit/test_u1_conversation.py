"""Conversations with a published folder: answers, thoughts and stories as the public code has them, and what
is refused before anything is computed."""

import json
from dataclasses import replace
from pathlib import Path

import golden_files
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import diptych
from diptych.contracts import AnswerLimits, Prompt, Stack, Written
from diptych.data.conversations.tokens import Document
from diptych.data.pictures import open_picture
from diptych.inference import Pipeline
from diptych.models.mot import MoT
from diptych.request import Media, Message, RequestError, Task
from diptych.systems.u1.files import read_folder
from diptych.systems.u1.memory import Memory
from diptych.systems.u1.system import U1System

RUNS = golden_files.load_json("u1_folder/index")["runs"]
SYSTEM = {
    "draw": RUNS["draw"]["settings"]["system_prompt"],
    "story": RUNS["story"]["settings"]["system_prompt"],
}
PICTURES = golden_files.FOLDER / "u1_folder/pictures"
STORY = "Show in two steps how a disc becomes a ring."
QUESTION = "What is in the picture?"
NO_DRAWING = {"steps": 1, "guidance_scale": 1.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    made = golden_files.write_folder("u1_folder/model", tmp_path_factory.mktemp("u1"))
    (made / "diptych.json").write_text(json.dumps({"conversation": {"system": SYSTEM}}))
    return made


@pytest.fixture(scope="module")
def system(folder) -> U1System:
    return U1System(**read_folder(folder, "cpu", torch.float32))


@pytest.fixture(scope="module")
def pipeline(system) -> Pipeline:
    return Pipeline(system)


class Watched:
    """What a system reads and draws."""

    def __init__(self, system: U1System, monkeypatch) -> None:
        self.documents, self.targets, self.passages = [], [], []
        self.read: list[int] = []
        """Tokens of each pass through the model's understanding stream."""
        prefix, known, passage = U1System._prefix, Memory.read, U1System.passage
        decode, append, first = system.space.decode, MoT.append, MoT.prefix

        def read(self_, documents):
            self.documents += documents
            return prefix(self_, documents)

        def remembered(self_, document, states=0):
            self.documents.append(document)
            return known(self_, document, states)

        def told(*arguments):
            found = yield from passage(*arguments)
            self.passages.append(found)
            return found

        def shown(target, seeds=None):
            self.targets.append(target.clone())
            return decode(target, seeds)

        def counted(of):
            def through(model, und, *arguments):
                self.read.append(und.shape[1])
                return of(model, und, *arguments)

            return through

        monkeypatch.setattr(U1System, "_prefix", read)
        monkeypatch.setattr(Memory, "read", remembered)
        monkeypatch.setattr(U1System, "passage", told)
        monkeypatch.setattr(system.space, "decode", shown)
        monkeypatch.setattr(MoT, "append", counted(append))
        monkeypatch.setattr(MoT, "prefix", counted(first))


@pytest.fixture
def watched(system, monkeypatch) -> Watched:
    return Watched(system, monkeypatch)


def picture(name: str) -> Media:
    return Media.picture(open_picture(PICTURES / f"{name}.png"), name)


def files(run: dict) -> list[Path]:
    return [PICTURES / f"{name}.png" for name in run["settings"].get("pictures", [])]


def asked(run: dict) -> list[Message]:
    """A chat of the golden runs as messages."""
    told, media = run["settings"], tuple(picture(name) for name in run["settings"]["pictures"])
    messages = []
    for question, answer in told["history"] or []:
        messages += [Message("user", question), Message("assistant", answer)]
    messages.append(Message("user", told["question"]))
    # pictures stand where the first question is
    return [Message("user", messages[0].text, media), *messages[1:]]


def drawing(run: dict) -> dict:
    told = run["settings"]
    sizes = np.reshape(told["image_size"], (-1, 2)).tolist()
    story = run["method"] == "interleave_gen"
    return {
        "think": told["think_mode"],
        "steps": told["num_steps"],
        "seed": told["seed"],
        "guidance_scale": told["cfg_scale"],
        "image_guidance_scale": told.get("img_cfg_scale", 1.0),
        **({"sizes": tuple(map(tuple, sizes))} if story else {"width": sizes[0][0], "height": sizes[0][1]}),
    }


def golden(name: str) -> dict[str, torch.Tensor]:
    """Tensors of one golden run, by what they are."""
    of_file = {
        "chat": "chats",
        "t2i_generate": "draws",
        "it2i_generate": "edits",
        "interleave_gen": "stories",
    }
    tensors = golden_files.load(f"u1_folder/{of_file[RUNS[name]['method']]}")
    return {
        key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")
    }


def whole(tensors: dict[str, torch.Tensor], kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Ids (N,) and positions (N, 3) of all that a pass of the public code has in its cache in the end."""
    none = torch.zeros(3, 0)
    ids = torch.cat([tensors[f"{kind}.input_ids"], tensors.get(f"{kind}.added_ids", none[0])])
    places = torch.cat([tensors[f"{kind}.positions"], tensors.get(f"{kind}.added_positions", none)], 1)
    return ids.long().numpy(), places.long().numpy().T


def check_read(watched: Watched, tensors: dict[str, torch.Tensor]) -> None:
    """All that was read is what a pass of the public code has read by then, and all passes were read."""
    passes = [whole(tensors, key.removesuffix(".input_ids")) for key in tensors if key.endswith(".input_ids")]
    found = set()
    for document in watched.documents:
        length = len(document)
        same = [
            number
            for number, (ids, places) in enumerate(passes)
            if np.array_equal(ids[:length], document.ids)
            and np.array_equal(places[:length], document.positions)
        ]
        assert same
        found |= set(same)
    assert found == set(range(len(passes)))


def close(found: torch.Tensor, expected: torch.Tensor, share: float = 5e-5) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=share * float(expected.abs().max()))


@pytest.mark.parametrize("name", [name for name, run in RUNS.items() if run["method"] == "chat"])
def test_a_chat_has_the_published_tokens_positions_logits_and_answer(system, name):
    tensors, limits = golden(name), AnswerLimits(max_tokens=48)
    document = system._asked(asked(RUNS[name]))
    np.testing.assert_array_equal(document.ids, tensors["input_ids"].numpy())
    np.testing.assert_array_equal(document.positions, tensors["positions"].numpy().T)
    writer = system._writer([document])
    steps, logits, times = [], [], []
    with torch.inference_mode():
        for (token,) in writer.tokens(limits, {system.template.end}, 1):
            steps.append(token)
            logits.append(writer.logits[0])
            times.append(int(writer.cache.next_time))
    assert steps == tensors["output_ids"].tolist()
    close(torch.stack(logits)[: len(tensors["logits"])], tensors["logits"])
    assert times[: len(tensors["output_positions"][0])] == tensors["output_positions"][0].tolist()
    assert "".join(system.answer(asked(RUNS[name]), limits)) == RUNS[name]["answer"]


def test_ragged_chats_are_answered_together_as_alone(system):
    chats = [run for run in RUNS.values() if run["method"] == "chat"]
    assert system.answers([asked(run) for run in chats]) == [run["answer"] for run in chats]


def test_an_answer_comes_piece_by_piece_and_ends_before_a_stop_text(system):
    messages = asked(RUNS["chat_disc"])
    pieces = list(system.answer(messages))
    assert len(pieces) > 3
    assert "".join(system.answer(messages, AnswerLimits(stop=(" above",)))) == "A red disc"


def test_words_drawn_at_random_are_those_of_the_seed(pipeline):
    def said(seed: int, **how) -> str:
        return pipeline.run(QUESTION, [PICTURES / "disc.png"], seed=seed, max_tokens=12, **how).text

    assert said(1, temperature=30.0) == said(1, temperature=30.0) != said(2, temperature=30.0)
    assert said(1, temperature=30.0, top_p=1e-6) == RUNS["chat_disc"]["answer"]
    # so cold that a logit divided by it is infinite
    assert said(1, temperature=1e-310) == RUNS["chat_disc"]["answer"]


def test_a_story_is_that_of_its_seed_and_ends_before_a_stop_text(pipeline):
    how = {"task": Task.INTERLEAVE, "width": 32, "height": 32, **NO_DRAWING}
    first, again, other = (
        pipeline.run(STORY, seed=seed, temperature=30.0, max_tokens=12, **how).text for seed in (1, 1, 2)
    )
    assert first == again != other
    ended = pipeline.run(STORY, stop=["a hole"], **how)
    assert ended.text == "First a full disc:\n<image>\nThen "


@pytest.mark.parametrize("name", [name for name, run in RUNS.items() if "think_text" in run])
def test_thoughts_are_the_published_ones_and_the_conditional_pass_alone_has_them(pipeline, watched, name):
    run, tensors = RUNS[name], golden(name)
    task = Task.EDIT if files(run) else Task.TEXT_TO_IMAGE
    result = pipeline.run(run["settings"]["prompt"], files(run), task=task, **drawing(run))
    assert result.thought == run["think_text"]
    assert result.plan.think
    check_read(watched, tensors)
    close(watched.targets[0][:, 0], tensors["picture"])


def test_thoughts_end_at_their_limit(pipeline, watched):
    run = RUNS["draw_think"]
    limited = pipeline.run(run["settings"]["prompt"], **{**drawing(run), **NO_DRAWING}, think_tokens=3)
    assert run["think_text"].startswith(limited.thought)
    assert 0 < len(limited.thought) < len(run["think_text"])
    closing = watched.documents[-1].ids[-3:].tolist()
    assert closing[-1] == pipeline.system.template.image


@pytest.mark.parametrize("name", [name for name, run in RUNS.items() if run["method"] == "interleave_gen"])
def test_a_story_has_the_published_tokens_text_and_pictures(pipeline, watched, name):
    run, tensors = RUNS[name], golden(name)
    told = run["settings"]
    how = {"max_tokens": told["max_new_tokens"], **drawing(run)}
    result = pipeline.run(told["prompt"], files(run), task=Task.INTERLEAVE, **how)
    assert result.text == run["text"]
    assert [medium.pixels.shape[1::-1] for medium in result.media] == [tuple(d["size"]) for d in run["drawn"]]
    assert "".join(p if isinstance(p, str) else "<image>" for p in result.parts) == run["text"]
    written = [token for passage in watched.passages for token in passage.written.ids]
    marks = {pipeline.system.template.image, pipeline.system.template.end}
    assert written == [token for token in tensors["written_ids"].tolist() if token not in marks]
    assert (watched.passages[-1].ended == "limit") == (run["ended_by"] == "token limit")
    ids, _ = whole(tensors, "conditional")
    last = [doc for doc in watched.documents if np.array_equal(ids[: len(doc)], doc.ids)][-1]
    assert [*last.ids, *watched.passages[-1].written.ids] == ids.tolist()
    if told["cfg_scale"] > 1 and told["img_cfg_scale"] > 1:
        check_read(watched, tensors)
    for number, target in enumerate(watched.targets):
        close(target[:, 0], tensors[f"{number}.picture"])


@pytest.mark.parametrize("name", ["story", "story_picture_think"])
def test_a_story_reads_each_token_once_in_each_pass(pipeline, watched, name):
    run, tensors = RUNS[name], golden(name)
    pipeline.run(run["settings"]["prompt"], files(run), task=Task.INTERLEAVE, **drawing(run))
    beginnings = set()
    for kind in ("conditional", "pictures_only", *["unconditional"] * (len(files(run)) > 0)):
        ids, places = whole(tensors, kind)
        # behind the last picture nothing is drawn, so the passes that have no words need not read it
        end = (
            len(ids)
            if kind == "conditional"
            else np.flatnonzero(ids == pipeline.system.template.image)[-1] + 1
        )
        tokens = [(token, *place) for token, place in zip(ids.tolist(), places.tolist(), strict=True)]
        beginnings |= {tuple(map(tuple, tokens[: n + 1])) for n in range(end)}
    assert sum(watched.read) == len(beginnings)


@torch.inference_mode()
def test_only_what_begins_alike_is_not_read_again(system):
    memory = system.telling()._memory

    def document(text: str, shade: int) -> Document:
        small, large = (np.full((side, side, 3), shade, np.uint8) for side in (600, 640))
        shown = (Media.picture(small), Media.picture(large if shade == 9 else small))
        return system._asked([Message("user", text, shown)])

    asked = [document("What?", 0), document("What?", 1), document("Which one?", 0), document("What?", 9)]
    for document_ in (*asked, *asked):
        hidden, cache = memory.read(document_, states=1)
        alone, expected = system._prefix([document_])
        torch.testing.assert_close(hidden[:, -1], alone[:, -1], rtol=0, atol=1e-4)
        assert cache.next_time == expected.next_time
        for found, fresh in zip(cache.layers, expected.layers, strict=True):
            torch.testing.assert_close(found, fresh, rtol=0, atol=1e-4)


@torch.inference_mode()
def test_what_is_kept_of_a_story_is_a_cache_for_each_pass(system):
    """A negative prompt stands behind the pictures: no document of its pass goes on behind another."""
    memory, shown = system.telling()._memory, picture("disc")
    nothing = system._asked([Message("user", "nothing")])
    reads: list[int] = []
    append, prefix = memory._behind, memory._read
    memory._behind = lambda cache, document, known: (
        reads.append(len(document) - known) or append(cache, document, known)
    )
    memory._read = lambda document: reads.append(len(document)) or prefix(document)
    for count in range(1, 5):
        pictures = (shown,) * count
        memory.read(system._asked([Message("user", "a disc", pictures)]))
        memory.read(system._asked([Message("user", "blurred", pictures)]))
        reads.clear()
        memory.read(nothing)
        # the pass that sees nothing is read once
        assert sum(reads) == 0 or count == 1
    assert len(memory._known) == 3


def test_a_picture_more_than_the_model_may_draw_ends_a_story(system, monkeypatch):
    monkeypatch.setattr(system, "conversation", replace(system.conversation, story_pictures=1))
    run = RUNS["story"]
    result = Pipeline(system).run(STORY, task=Task.INTERLEAVE, **{**drawing(run), **NO_DRAWING})
    assert result.text.count("<image>") == len(result.images) == 1
    assert result.text.startswith("First a full disc:\n<image>\n")


def test_a_drawn_picture_is_read_back_as_it_is(system):
    target = torch.tensor([-1.5, 0.1, 1.25]).view(1, 3, 1, 1).expand(1, 3, 32, 32)
    seen = system.seen(target)
    assert seen.pixels.dtype == np.float32
    np.testing.assert_array_equal(seen.pixels[0, 0], np.float32([-0.25, 0.55, 1.125]))


def test_earlier_turns_go_before_the_request(pipeline):
    history = asked(RUNS["chat_second_turn"])[:-1]
    result = pipeline.run("Which colour is the ground?", history=history)
    assert result.plan.task is Task.ANSWER
    assert result.parts == (result.text,) == ("The ground is pale blue.",)


def test_a_drawing_reads_earlier_turns_with_their_pictures(pipeline, watched):
    history = [Message("user", QUESTION, (picture("disc"),)), Message("assistant", "A red disc.")]
    pipeline.run("Draw it in green", history=history, width=32, height=32, **NO_DRAWING)
    (document,) = watched.documents
    assert len(document.clean) == 1
    assert "A red disc." in pipeline.system.tokenizer.decode(document.ids.tolist())


def test_an_edit_has_the_size_of_its_source_or_the_one_that_is_asked_for(pipeline, watched):
    alone = pipeline.run("Make the disc green.", [PICTURES / "disc.png"], **NO_DRAWING)
    assert alone.images[0].shape[:2] == watched.documents[0].clean[0].shape[:2] == (608, 448)
    asked_for = pipeline.run("Make it green.", [PICTURES / "disc.png"], width=64, height=32, **NO_DRAWING)
    assert asked_for.images[0].shape[:2] == (32, 64)
    assert watched.documents[-1].clean[0].shape[:2] == (608, 448)


def test_ten_references_are_read_and_an_eleventh_is_refused(pipeline, system, monkeypatch):
    small = np.zeros((40, 40, 3), np.uint8)
    with pytest.raises(RequestError, match="11 pictures are attached, but this model looks at 10 at most"):
        pipeline.run("Join them", [small] * 11, task=Task.EDIT)
    turn = Message("user", "look", (Media.picture(small),) * 6)
    with pytest.raises(RequestError, match="12 pictures are attached, but this model looks at 10 at most"):
        list(system.answer([turn, Message("assistant", "yes"), turn]))
    plan = pipeline.plan("Join them", 10, inputs=("source", *("reference",) * 9), task=Task.EDIT)
    prompt = Prompt("Join them")
    parts = system.conversation.placed(prompt.text, list(range(1, 11)), "draw")
    assert plan.inputs.count("reference") == 9
    assert parts[:4] == ("Image-1:", 1, "\nImage-2:", 2)
    assert parts[-1] == "\nJoin them"


def test_sources_of_one_request_share_their_pixels(system):
    large = np.zeros((2048, 2048, 3), np.uint8)
    sizes = [system.conversation.fit(large, 32, 2048, "draw", count).shape[:2] for count in (1, 4, 10)]
    assert sizes == [(2048, 2048), (2048, 2048), (1280, 1280)]


@pytest.mark.parametrize("purpose", ["answer", "draw", "story"])
def test_marks_that_stand_for_no_picture_are_refused(system, purpose):
    with pytest.raises(RequestError, match="2 marks <image>, but 1 pictures are attached"):
        system.conversation.placed("<image> and <image>", ["one"], purpose)


def test_too_long_a_text_is_refused_before_anything_is_computed(pipeline, system, monkeypatch):
    def computed(*_, **__):
        raise AssertionError("the model was called")

    monkeypatch.setattr(system, "_prefix", computed)
    words = "0" * 100_000
    with pytest.raises(RequestError, match=r"has 100,0\d\d tokens .* more than the 32,768"):
        list(system.answer([Message("user", words)]))
    with pytest.raises(RequestError, match=r"tokens .* more than the 32,768"):
        pipeline.run("draw " + "a cat " * 30_000, width=32, height=32, **NO_DRAWING)
    with pytest.raises(RequestError, match=r"characters, more than the 262,?144 that are read"):
        pipeline.run("draw " + words * 10)
    with pytest.raises(RequestError, match=r"characters, more than the 262,144 that are read"):
        list(system.answer([Message("user", words * 10)]))


def test_too_long_a_negative_prompt_is_refused_before_anything_is_computed(pipeline, system, monkeypatch):
    def computed(*_, **__):
        raise AssertionError("the model was called")

    monkeypatch.setattr(system, "_prefix", computed)
    with pytest.raises(RequestError, match=r"has 40,0\d\d tokens .* more than the 32,768"):
        pipeline.run("a cat", negative_prompt="0" * 40_000, width=32, height=32, steps=1)


def test_an_answer_is_told_to_its_end_however_long_its_pictures_make_it(system):
    """What the model itself says and draws is no part of what a request may bring."""
    asked = system._request(Prompt(STORY, begun=()), Stack(64, 64))
    room = len(asked.document(system.template))
    talk = replace(system.conversation, context=room)
    small = U1System(system.model, system.tokenizer, system.flow, system.native, conversation=talk)
    plan = {"task": Task.INTERLEAVE, "width": 64, "height": 64, "seed": 42, "steps": 1}
    told = [Pipeline(of).run(STORY, **plan) for of in (system, small)]
    assert told[0].text == told[1].text
    assert len(told[1].images) == len(told[0].images) == 2
    with pytest.raises(RequestError, match=f"more than the {room} that this model reads"):
        Pipeline(small).run(STORY + " And of a ring", **plan)


def test_what_the_model_said_of_a_mark_is_text_in_the_next_turn(pipeline):
    said = [Message("user", "how are pictures marked?"), Message("assistant", "write <image> there")]
    assert pipeline.run("Which colour is the ground?", history=said, max_tokens=2).text
    with pytest.raises(RequestError, match="1 marks <image>, but 0 pictures"):
        pipeline.run("What?", history=[Message("user", "see <image>")])


def test_a_turn_that_is_no_text_is_refused(pipeline):
    with pytest.raises(RequestError, match="the user's turn holds bytes that are no UTF-8 text"):
        pipeline.run("What?", history=[Message("user", "\ud800")])


def test_a_limit_of_thoughts_that_nobody_asked_for_is_refused(pipeline):
    with pytest.raises(RequestError, match="think_tokens has no effect without think"):
        pipeline.plan("a cat", think_tokens=5)


def test_no_conversations_have_no_answers(system):
    assert system.answers([]) == []


def test_a_thin_strip_is_refused(pipeline):
    strip = np.zeros((1, 10_000, 3), np.uint8)
    for task in (Task.ANSWER, Task.EDIT):
        with pytest.raises(
            RequestError, match="10000x1 px is attached, and one side may be at most 200 times"
        ):
            pipeline.run("What is it?", [strip], task=task)


def test_the_frames_of_a_clip_stand_behind_their_times(system):
    frames = np.zeros((40, 300, 300, 3), np.uint8)
    clip = Media(frames, "clip.mp4", times=tuple(float(n) for n in range(40)))
    parts = system.conversation.shown(clip, 32, 2048, "answer")
    told = [part for part in parts if isinstance(part, str) and part.strip()]
    assert len(told) == system.settings.clip_frames == 32
    assert (told[0], told[-1]) == ("0.0 s: ", "39.0 s: ")
    areas = [part.pixels.shape[0] * part.pixels.shape[1] for part in parts if not isinstance(part, str)]
    assert sum(areas) <= system.conversation.read.most
    assert "".join(system.answer([Message("user", "What happens?", (clip,))], AnswerLimits(max_tokens=2)))


@pytest.mark.parametrize("task", [Task.INTERLEAVE, Task.TEXT_TO_IMAGE])
def test_a_model_that_was_not_taught_to_is_not_made_to_think_or_tell(task):
    options = {"task": task} if task is Task.INTERLEAVE else {"think": True}
    with pytest.raises(RequestError, match=r"cannot do 'interleave'|was not taught to think"):
        diptych.load().run("a cat above a heart", **options)


MARKS = ("<|im_start|>", "<|im_end|>", "<think>", "</think>", "<img>", "</img>", "<IMG_CONTEXT>")
WORDS = ("<|endoftext|>", "assistant\n", "system\n", "\n", "<", "|", ">", "a cat", "é", "<|im_", "start|>")
PIECES = st.sampled_from(MARKS + WORDS)
TEXTS = st.lists(PIECES, min_size=1, max_size=6).map("".join)


@settings(deadline=None, max_examples=60)
@given(text=TEXTS, where=st.sampled_from(["user", "system", "assistant", "prompt", "negative", "story"]))
def test_no_text_of_a_request_forges_a_mark_of_the_template(system, text, where):
    """Whatever is typed: as many marks as with harmless words, and no turn more."""

    def marks(text: str) -> list[int]:
        said = [Message("user", "x"), Message("assistant", "y"), Message("system", "z")]
        if where in ("user", "system", "assistant"):
            said = [replace(m, text=text) if m.role == where else m for m in said]
            ids = system._asked(said).ids.tolist()
        else:
            words = {"prompt": {"text": text}, "negative": {"text": "x", "negative": text}}
            told = {"text": text, "begun": (Written((5,)),)}
            request = system._request(Prompt(**words.get(where, told)), Stack(32, 32))
            ids = replace(request, drop_text=where == "negative").document(system.template).ids.tolist()
        own = set(system.tokenizer.ids.values())
        if where == "assistant":
            # what the model itself says may hold thoughts, see `Template`
            own -= {system.tokenizer.ids["<think>"], system.tokenizer.ids["</think>"]}
        return [token for token in ids if token in own]

    assert marks(text) == marks("harmless")
