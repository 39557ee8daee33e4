"""The benchmark's clips: what is asked, how it is judged, what is told of it."""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import TINY

from diptych.cli import main
from diptych.clips import clip_turn
from diptych.contracts import Picture, Prompt, Sample, Turn
from diptych.evaluation import EvaluationConfig, clips, evaluate, evaluate_free, report
from diptych.evaluation.clips import PARTS, evaluate_clips
from diptych.flow import FlowConfig, Objective, SamplerConfig
from diptych.inference import Pipeline
from diptych.inference.draw import stack_of
from diptych.models.mot import MoT
from diptych.request import TASKS, Product, RequestError, Role, Task
from diptych.settings import Settings
from diptych.systems.u1.conversation import CLIP_GUIDES, Conversation
from diptych.systems.u1.system import U1System
from diptych.worlds.emoji.motion import FPS, FRAMES, SIZE, is_held_out, moving_world
from diptych.worlds.emoji.motion_words import CLIP_QUESTIONS
from diptych.worlds.emoji.shots import SHOTS, Shot, sample_shot

FLOW = FlowConfig(
    objective=Objective(sigma_min=0.02),
    sampler=SamplerConfig(num_steps=1, guidance_scale=1.0, image_guidance_scale=1.0),
)
CLIP_TASKS = frozenset(task for task, facts in TASKS.items() if facts.makes is Product.CLIP)


class Stage:
    """A pipeline whose model draws what was asked for, as the ground truth has it, but for every `wrong`-th
    clip, which stands still; it answers every question rightly, but for every `wrong`-th."""

    def __init__(self, world, monkeypatch, wrong: int = 0, max_frames: int = 16) -> None:
        self.moving, self.wrong = moving_world(world.config), wrong
        self.shots: list[Shot] = []
        self.plans, self.media, self.questions = [], [], []
        settings = Settings(
            native=96,
            multiple=16,
            max_side=256,
            tasks=CLIP_TASKS | {Task.ANSWER},
            sampler=SimpleNamespace(num_steps=1, guidance_scale=1.0, image_guidance_scale=1.0),
            max_frames=max_frames,
            fps=4.0,
            clip_side=SIZE,
            clip_frames=max_frames,
            max_media=4,
        )
        self.system = SimpleNamespace(settings=settings, answers=self.answers, card={})
        asked, put = clips._shot, clips.motion_words.plain
        monkeypatch.setattr(clips, "_shot", lambda *values: self.noted(self.shots, asked(*values)))
        monkeypatch.setattr(
            clips.motion_words, "plain", lambda *values: self.noted(self.questions, put(*values))
        )
        monkeypatch.setattr(clips, "draw", self.draw)

    @staticmethod
    def noted(found, one):
        found.append(one)
        return one

    def fails(self, number: int) -> bool:
        return bool(self.wrong) and number % self.wrong == 0

    def draw(self, system, plans, media):
        self.plans += plans
        self.media += media
        out = [self.moving.film(shot.film) for shot in self.shots[-len(plans) :]]
        for number, clip in enumerate(out):
            if self.fails(number):
                clip[1:] = 0
        return out

    def answers(self, conversations):
        assert all(message.media[0].frames.shape[0] == FRAMES for (message,) in conversations)
        said = [question.answer for question in self.questions[-len(conversations) :]]
        return ["nothing" if self.fails(number) else answer for number, answer in enumerate(said)]


def test_a_model_that_draws_what_is_asked_has_all_points(world, monkeypatch):
    stage = Stage(world, monkeypatch)
    result = evaluate_clips(stage, world, 3, 5)
    assert result.questions.keys() == set(CLIP_QUESTIONS)
    assert result.drawn.keys() == PARTS.keys()
    for scores in (result.questions, *result.drawn.values()):
        assert all(score.right == score.total for score in scores.values())
    assert all(sum(score.total for score in scores.values()) == 3 for scores in result.drawn.values())
    assert not any(result.faults.values())
    assert max(result.flicker.values()) < 0.1
    assert result.given["picture to clip"].share == 1.0
    assert {plan.task for plan in stage.plans} == CLIP_TASKS
    for plan, given in zip(stage.plans, stage.media, strict=True):
        assert (plan.frames, plan.width, plan.height) == (FRAMES, SIZE, SIZE)
        assert [len(medium.frames) for medium in given] == [
            FRAMES if role in (Role.SOURCE, Role.MASK, Role.CONTROL) else 1 for role in plan.inputs
        ]


def test_a_model_that_fails_at_times_loses_as_much_and_is_told_why(world, monkeypatch, tmp_path):
    stage = Stage(world, monkeypatch, wrong=2)
    monkeypatch.setattr(clips, "PARTS", {"picture to clip": (("first",), False)})
    result = evaluate(stage, world, EvaluationConfig(prompts=4, split="clips"))
    assert result.clips.drawn["picture to clip"]["first"].share == 0.5
    assert result.clips.questions["where to"].share == 0.5
    assert result.clips.faults["picture to clip"]["background"] == 2
    assert result.clips.given["picture to clip"].share == 1.0
    assert result.clips.flicker["picture to clip"] > 20
    cells = result.cells["clips-picture-to-clip"]
    assert [cell.right for cell in cells if cell.pixels.ndim == 4] == [True, True, False, False]
    assert "background" in cells[-1].text
    config = EvaluationConfig(prompts=4, split="clips")
    report.write(result, tmp_path, "toy", config)
    told = json.loads((tmp_path / "results.json").read_text())
    assert told["picture to clip"]["mean"] == 0.5
    assert told["mistakes"]["picture to clip"]["background"] == 2
    assert told["given frames kept"]["picture to clip"]["score"] == 1.0
    assert "picture to clip" in (tmp_path / "results.md").read_text()
    assert (tmp_path / "clips-picture-to-clip.png").is_file()


def test_plain_and_wide_words_ask_for_the_same(world):
    moving, films = moving_world(world.config), {}
    for wide in (False, True):
        words, rng = np.random.default_rng(1), np.random.default_rng(2)
        films[wide] = [clips._shot(moving, "jump", rng, words if wide else None, False, False) for _ in "ab"]
    plain, wide = films.values()
    assert [shot.film for shot in plain] == [shot.film for shot in wide]
    assert [shot.text for shot in plain] != [shot.text for shot in wide]


def test_held_out_parts_ask_for_what_is_never_trained(world, monkeypatch):
    stage = Stage(world, monkeypatch)
    for part, (types, unseen) in PARTS.items():
        shots = [
            clips._shot(stage.moving, type, np.random.default_rng(n), None, False, unseen)
            for n, type in enumerate(types)
        ]
        assert all(is_held_out(stage.moving, shot.film.story) is unseen for shot in shots), part
        assert {shot.type for shot in shots} <= SHOTS.keys()


def test_a_model_of_pictures_is_refused_in_one_sentence(world, monkeypatch):
    stage = Stage(world, monkeypatch, max_frames=1)
    with pytest.raises(RequestError, match="draws no clips of 8 frames"):
        evaluate(stage, world, EvaluationConfig(split="clips"))
    with pytest.raises(ValueError, match="clips are not asked for in free words"):
        evaluate_free(stage, world, EvaluationConfig(wording="free", split="clips"))


def test_what_a_model_does_not_do_is_left_out(world, monkeypatch):
    stage = Stage(world, monkeypatch)
    settings = stage.system.settings
    stage.system.settings = dataclasses.replace(settings, tasks=frozenset({Task.TEXT_TO_CLIP}), clip_frames=0)
    result = evaluate_clips(stage, world, 1, 5)
    assert result.drawn.keys() == {"text to clip", "text to clip, held-out"}
    assert not result.questions


def test_an_unknown_split_is_refused():
    with pytest.raises(ValueError, match="guided, clips, got 'films'"):
        EvaluationConfig(split="films")


@pytest.fixture(scope="module")
def system(tokenizer) -> U1System:
    model = MoT(dataclasses.replace(TINY, vocab_size=tokenizer.vocab_size, patch=8))
    model.initialise(torch.Generator().manual_seed(0))
    talk = Conversation(
        max_media=3,
        clip_frames=FRAMES,
        drawn_frames=FRAMES,
        clip_side=SIZE,
        fps=FPS,
        clip_guides=tuple(CLIP_GUIDES),
    )
    return U1System(model, tokenizer, FLOW, native=96, conversation=talk)


@pytest.mark.parametrize("type", SHOTS)
def test_a_shot_is_drawn_from_what_a_sample_of_it_begins_with(world, system, type):
    moving = moving_world(world.config)
    shot = sample_shot(moving, type, np.random.default_rng(0))
    (plan,), (media,) = clips._planned(Pipeline(system), [shot], 0)
    condition = system.read([Prompt(plan.prompt)], [stack_of(plan, media)])
    drawn = condition.requests[0].document(system.template)
    turns = (
        Turn("user", clip_turn(shot.text, shot.given)),
        Turn("assistant", (Picture(moving.film(shot.film), True),)),
    )
    trained = system.template.write(Sample(turns, "clip-edit" if shot.given else "clip"))
    assert (trained.ids[: len(drawn)] == drawn.ids).all()
    assert (trained.positions[: len(drawn)] == drawn.positions).all()


def test_the_command_judges_clips_and_writes_film_strips(system, tmp_path, capsys):
    system.save(tmp_path / "model", torch.float32)
    out = ["-o", str(tmp_path / "out"), "--prompts", "1", "--split", "clips", "--json"]
    assert main(["evaluate", str(tmp_path / "model"), *out]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["results"].keys() >= {"questions about clips", *PARTS, "given frames kept"}
    assert told["results"]["given frames kept"]["picture to clip"]["score"] == 1.0
    assert {path.name for path in (tmp_path / "out").glob("clips-*.png")} >= {"clips-text-to-clip.png"}
