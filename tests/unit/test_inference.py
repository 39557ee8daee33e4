"""Drawing and guidance on a small system of known velocities; rows sharing a batch on the shipped model."""

import zlib
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from PIL import Image

import diptych
from diptych.contracts import Prompt
from diptych.flow import SamplerConfig, guided_velocity, projected_guidance
from diptych.inference import Pipeline, Result, draw, stack_of
from diptych.inference.guidance import Guidance
from diptych.planning import Course, Intent, RulePlanner, opened, settle, sized
from diptych.planning.normalise import plan_of
from diptych.planning.schema import Input, Step
from diptych.request import Media, Plan, RequestError, Role, Task
from diptych.settings import Settings
from diptych.spaces import PixelSpace

SIDE = 4


def number(text: str) -> float:
    """-1..1, another one for every text."""
    return zlib.crc32(text.encode()) / 2**31 - 1


@dataclass
class Asked:
    """What a row is denoised under: two numbers, and what was dropped of them."""

    text: float
    negative: float
    given: tuple[float, ...]
    guidance: float = 0.0


class ToyCondition:
    def __init__(self, asked: list[Asked], prepared: list[int]) -> None:
        self.asked, self.prepared, self.scale = asked, prepared, torch.full((len(asked),), 2.0)

    def __len__(self):
        return len(self.asked)

    def prepare(self):
        self.prepared.append(len(self))

    def dropped(self, text, media):
        def one(row, no_text, no_media):
            row = replace(row, text=row.negative) if no_text else row
            return replace(row, given=()) if no_media else row

        rows = zip(self.asked, text.tolist(), media.tolist(), strict=True)
        return ToyCondition([one(*row) for row in rows], self.prepared)

    def with_guidance(self, scales):
        rows = zip(self.asked, scales.tolist(), strict=True)
        return ToyCondition([replace(row, guidance=scale) for row, scale in rows], self.prepared)

    def rows(self, index):
        return ToyCondition([self.asked[i] for i in index], self.prepared)

    def joined(self, others):
        asked = [row for condition in (self, *others) for row in condition.asked]
        if len({len(row.given) for row in asked}) > 1:
            raise ValueError("rows differ in their frames")
        return ToyCondition(asked, self.prepared)


class ToySystem:
    family, card, native, token = "toy", {}, SIDE, 2
    max_frames = max_media = 1
    device = torch.device("cpu")

    def __init__(self, sampler: SamplerConfig, joins_passes=False, embeds_guidance=False):
        self.sampler, self.joins_passes, self.embeds_guidance = sampler, joins_passes, embeds_guidance
        self.calls: list[tuple[list[float], list[Asked]]] = []
        self.read_rows: list[tuple[list, list]] = []
        self.inference = None
        self.prepared: list[int] = []
        self.space = KeepingSpace(2)

    @property
    def settings(self):
        return Settings(
            native=SIDE,
            multiple=2,
            max_side=64,
            tasks=frozenset(Task) - {Task.ANSWER},
            sampler=self.sampler,
            max_frames=self.max_frames,
            max_media=self.max_media,
            controls=("edges",),
        )

    def read(self, prompts, stacks):
        self.read_rows.append((list(prompts), list(stacks)))
        asked = [
            Asked(
                number(prompt.text),
                number(prompt.negative),
                tuple(float(given.pixels.float().mean()) / 255 for given in stack.given),
            )
            for prompt, stack in zip(prompts, stacks, strict=True)
        ]
        return ToyCondition(asked, self.prepared)

    def denoise(self, x, sigma, condition):
        self.inference = torch.is_inference_mode_enabled()
        assert len(x) == len(sigma) == len(condition)
        self.calls.append((sigma.tolist(), condition.asked))
        rows = [
            x[i] * (0.6 + 0.3 * row.text) + sigma[i] * (row.text + sum(row.given)) + 0.1 * row.guidance
            for i, row in enumerate(condition.asked)
        ]
        return torch.stack(rows)

    def fit(self, pixels):
        return pixels


class KeepingSpace(PixelSpace):
    """Keeps targets as they were before they became bytes."""

    def decode(self, target, seeds=None):
        self.target, self.seeds = target.clone(), seeds
        return super().decode(target)


def plan(seed=0, steps=4, guidance=3.0, image_guidance=1.0, **more) -> Plan:
    values = {"task": Task.TEXT_TO_IMAGE, "prompt": f"a cat {seed}", "width": SIDE, "height": SIDE, **more}
    return Plan(
        seed=seed, steps=steps, guidance_scale=guidance, image_guidance_scale=image_guidance, **values
    )


def picture(seed: int, side: int = SIDE) -> Media:
    return Media.picture(np.random.default_rng(seed).integers(0, 255, (side, side, 3), dtype=np.uint8))


def targets(system, plans, media=None) -> torch.Tensor:
    draw(system, plans, media)
    return system.space.target


@pytest.mark.parametrize("joins", [False, True])
@pytest.mark.parametrize("norm", ["none", "global", "channel", "zero_star", "projected"])
@pytest.mark.parametrize("solver", ["euler", "dpm", "trigflow"])
def test_rows_of_other_steps_guidance_and_seed_do_not_change_a_row(solver, norm, joins):
    sampler = SamplerConfig(solver=solver, guidance_norm=norm, guidance_interval=(0.3, 0.95))
    system = ToySystem(sampler, joins)
    edit = {"task": Task.EDIT, "inputs": (Role.SOURCE,)}
    plans = [
        plan(1, 3, 3.0, 1.5, **edit),
        plan(2, 6, 1.0, 1.0, **edit),
        plan(3, 1, 2.0, 2.0, **edit),
        plan(4, 6, 5.0, 1.0, negative_prompt="a dog", **edit),
        plan(5, 4, 0.0, 4.0, **edit),
    ]
    media = [[picture(n)] for n in range(5)]
    together = targets(system, plans, media)
    for row, (one, shown) in enumerate(zip(plans, media, strict=True)):
        torch.testing.assert_close(targets(system, [one], [shown])[0], together[row], rtol=0, atol=1e-5)
    assert together[0].isfinite().all()


@pytest.mark.parametrize(("joins", "calls"), [(False, 2), (True, 1)])
def test_a_step_computes_the_passes_that_rows_need_and_no_more(joins, calls):
    system = ToySystem(SamplerConfig(guidance_interval=(0.0, 0.8)), joins)
    draw(system, [plan(0, 2, 3.0), plan(1, 2, 1.0), plan(2, 1, 3.0)])
    # the first step is above the interval; in the second, one row is done and one is not guided
    assert [len(sigma) for sigma, _ in system.calls] == ([3, 2, 1] if calls == 2 else [3, 3])
    assert system.prepared == ([3, 2] if calls == 2 else [5])
    assert [asked.text for asked in system.calls[-1][1]][-1] == number("")


def test_one_pass_is_guided_by_what_the_rule_says():
    system = ToySystem(SamplerConfig())
    prompts = [Prompt("a", "b"), Prompt("c")]
    media = [[picture(0)], [picture(1)]]
    plans = [plan(n, task=Task.EDIT, inputs=(Role.SOURCE,)) for n in range(2)]
    condition = system.read(prompts, [stack_of(p, m) for p, m in zip(plans, media, strict=True)])
    scales, image_scales = [4.0, 2.0], [1.5, 3.0]
    guidance = Guidance(system, condition, scales, image_scales, has_given=True)
    x, sigma = torch.randn(2, 1, 3, SIDE, SIDE), torch.tensor([0.9, 0.4])
    yes, no = torch.ones(2, dtype=torch.bool), torch.zeros(2, dtype=torch.bool)
    passes = {
        "conditional": system.denoise(x, sigma, condition),
        "picture_only": system.denoise(x, sigma, condition.dropped(yes, no)),
        "unconditional": system.denoise(x, sigma, condition.dropped(yes, yes)),
    }
    expected = guided_velocity(passes, torch.tensor(scales), torch.tensor(image_scales))
    assert torch.equal(guidance(x, sigma), expected)
    guidance.rows([1])
    torch.testing.assert_close(guidance(x[1:], sigma[1:]), expected[1:])


def test_projected_guidance_remembers_each_row_inside_the_interval():
    system = ToySystem(SamplerConfig(guidance_norm="projected", guidance_interval=(0.2, 0.6)))
    condition = system.read([Prompt("a"), Prompt("b")], [stack_of(plan(), [])] * 2)
    guidance = Guidance(system, condition, [4.0, 2.0], [1.0, 1.0], has_given=False)
    x = torch.randn(3, 2, 1, 3, SIDE, SIDE)
    yes, scales = torch.ones(2, dtype=torch.bool), torch.tensor([4.0, 2.0])
    average = torch.zeros_like(x[0])
    for step, sigma in enumerate(torch.tensor([[0.5, 0.9], [0.4, 0.5], [0.3, 0.4]])):
        inside = sigma < 0.6
        conditional = system.denoise(x[step], sigma, condition)
        base = system.denoise(x[step], sigma, condition.dropped(yes, yes))
        moved, later = projected_guidance(x[step], sigma, conditional, base, scales, average)
        column = inside[:, None, None, None, None]
        average = torch.where(column, later, average)
        expected = torch.where(column, moved, conditional)
        torch.testing.assert_close(guidance(x[step], sigma), expected)


def test_a_model_that_embeds_guidance_is_told_the_scale_and_has_one_pass():
    system = ToySystem(SamplerConfig(), embeds_guidance=True)
    draw(system, [plan(0, 2, 3.0), plan(1, 2, 5.0)])
    assert [len(sigma) for sigma, _ in system.calls] == [2, 2]
    assert [asked.guidance for asked in system.calls[0][1]] == [3.0, 5.0]
    with pytest.raises(RequestError, match="guidance built in, so a negative prompt has no effect"):
        draw(system, [plan(negative_prompt="a dog")])


def test_noise_is_that_of_the_seed_whatever_the_batch():
    system = ToySystem(SamplerConfig())
    shown = []
    system.denoise = lambda x, sigma, condition: shown.append(x) or torch.zeros_like(x)
    draw(system, [plan(7, 1, 1.0), plan(8, 1, 1.0)])
    for row, seed in enumerate((7, 8)):
        expected = 2.0 * torch.randn(3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))
        assert torch.equal(shown[0][row, 0], expected)
    assert system.space.seeds == [7, 8]


def test_sizes_and_roles_do_not_mix_and_results_come_in_order():
    system = ToySystem(SamplerConfig())
    control = {"task": Task.CONTROL_TO_IMAGE, "inputs": (Role.CONTROL,)}
    plans = [plan(0), plan(1, width=8), plan(2), plan(3, **control), plan(4, width=8)]
    media = [[], [], [], [picture(0)], []]
    drawn = draw(system, plans, media)
    assert [p.shape for p in drawn] == [(1, 4, w, 3) for w in (4, 8, 4, 4, 8)]
    assert [len(prompts) for prompts, _ in system.read_rows] == [2, 2, 1]
    assert np.array_equal(draw(system, [plans[1]])[0], drawn[1])


def test_a_stack_has_every_frame_with_its_role_and_time():
    clip = Media(np.zeros((3, SIDE, 6, 3), dtype=np.uint8), fps=8.0)
    asked = plan(task=Task.IMAGE_TO_CLIP, inputs=(Role.FIRST, Role.UNUSED, Role.LAST), frames=5)
    stack = stack_of(asked, [picture(0), picture(1), picture(2)])
    assert stack.times == (0, 1, 2, 3, 4)
    assert [(given.role, given.time) for given in stack.given] == [(Role.FIRST, 0), (Role.LAST, 4)]
    assert np.array_equal(stack.given[1].pixels.permute(1, 2, 0).numpy(), picture(2).pixels)
    changed = stack_of(plan(task=Task.EDIT_CLIP, inputs=(Role.SOURCE,), frames=3), [clip])
    assert [(given.role, given.time) for given in changed.given] == [(Role.SOURCE, t) for t in range(3)]
    assert changed.given[0].pixels.shape == (3, SIDE, 6)
    with pytest.raises(RequestError, match="names 3 attached media, but there are 1"):
        stack_of(asked, [picture(0)])
    with pytest.raises(ValueError, match="settled"):
        stack_of(replace(asked, width=None), [picture(0)] * 3)


@pytest.mark.parametrize("missing", ["steps", "guidance_scale", "image_guidance_scale"])
def test_plans_that_are_not_settled_are_not_drawn(missing):
    with pytest.raises(ValueError, match="settled"):
        draw(ToySystem(SamplerConfig()), [plan(), replace(plan(), **{missing: None})])


def test_gradients_that_are_off_already_are_left_as_they_are():
    system = ToySystem(SamplerConfig())
    draw(system, [plan()])
    assert system.inference is True
    with torch.no_grad():
        draw(system, [plan()])
    assert system.inference is False


def test_clips_are_drawn_kept_and_written_like_pictures(tmp_path):
    pipeline = Pipeline(ToySystem(SamplerConfig()))
    clip = plan(task=Task.TEXT_TO_CLIP, frames=3)
    result = pipeline.carry_out(clip)
    assert result.images == ()
    assert result.media[0].frames.shape == (3, SIDE, SIDE, 3)
    assert result.save(tmp_path / "clip.webp") == [tmp_path / "clip.webp"]
    assert Image.open(tmp_path / "clip.webp").n_frames == 3
    with pytest.raises(ValueError, match="a clip is written as"):
        result.save(tmp_path / "clip.jpg")
    both = Result(clip, media=(picture(0), picture(1)))
    assert [p.name for p in both.save(tmp_path / "new" / "a.png")] == ["a-0.png", "a-1.png"]
    assert np.array_equal(np.asarray(Image.open(tmp_path / "new" / "a-1.png")), both.images[1])
    with pytest.raises(ValueError, match=r"a\.txt: a picture is written as"):
        Result(clip, media=(picture(0),)).save(tmp_path / "a.txt")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip.webp", "new"]


def test_a_pipeline_settles_plans_by_what_the_system_can_do():
    pipeline = Pipeline(ToySystem(SamplerConfig(num_steps=7)))
    settled = pipeline.plan("draw a cat along these edges", pictures=1)
    assert (settled.task, settled.inputs, settled.steps) == (Task.CONTROL_TO_IMAGE, (Role.CONTROL,), 7)
    result = pipeline.run("make the cat red", [picture(0, 6).pixels], count=2)
    assert [image.shape for image in result.images] == [(6, 6, 3)] * 2
    with pytest.raises(RequestError, match="cannot do 'answer'"):
        pipeline.plan("what is this?", pictures=1)


def test_rows_of_the_shipped_model_do_not_change_one_another(monkeypatch):
    pipeline = diptych.load("default", "cpu")
    system, kept = pipeline.system, []
    decode = system.space.decode
    monkeypatch.setattr(system.space, "decode", lambda x, seeds=None: kept.append(x) or decode(x, seeds))
    plans = [
        pipeline.plan("a cat above two carrots", seed=1, steps=4),
        pipeline.plan("a dog", seed=2, steps=9, guidance_scale=3.5),
        pipeline.plan("three red hearts on a mint background", seed=3, steps=6, guidance_scale=1.0),
        pipeline.plan("a tree without a house", seed=4, steps=9),
    ]
    draw(system, plans)
    for one in plans:
        draw(system, [one])
    together, *alone = kept
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=1e-5)
    sources = [[Media.picture(np.full((96, 96, 3), 40 * n, dtype=np.uint8))] for n in range(3)]
    scales = [(3.0, 1.5, 3), (2.0, 1.0, 5), (1.0, 1.0, 4)]
    edits = [
        pipeline.plan("remove the cat", 1, seed=n, steps=steps, guidance_scale=g, image_guidance_scale=image)
        for n, (g, image, steps) in enumerate(scales)
    ]
    edits = [
        sized(pipeline.system.settings, one, shown)[0] for one, shown in zip(edits, sources, strict=True)
    ]
    kept.clear()
    draw(system, edits, sources)
    for one, shown in zip(edits, sources, strict=True):
        draw(system, [one], [shown])
    together, *alone = kept
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=1e-5)


@pytest.mark.parametrize("norm", ["none", "projected"])
def test_rows_of_a_system_that_joins_its_passes_do_not_change_one_another(tmp_path, monkeypatch, norm):
    from published import pipeline as published

    from diptych.systems.registry import open_system

    published(tmp_path / "model")
    system, kept = open_system(str(tmp_path / "model")), []
    assert system.joins_passes
    decode = system.space.decode
    monkeypatch.setattr(system.space, "decode", lambda x, seeds=None: kept.append(x) or decode(x, seeds))
    system.sampler = replace(system.sampler, guidance_norm=norm, guidance_interval=(0.2, 0.97))
    pipeline = Pipeline(system)
    plans = [
        pipeline.plan("a cat", seed=1, steps=3),
        pipeline.plan("a much longer prompt about a red dog", seed=2, steps=6, guidance_scale=2.0),
        pipeline.plan("x", seed=3, steps=5, guidance_scale=1.0),
        pipeline.plan("a tree without a house", seed=4, steps=4),
    ]
    draw(system, plans)
    for one in plans:
        draw(system, [one])
    together, *alone = kept
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=1e-5)


def a_clip(frames: int) -> Media:
    return Media(np.zeros((frames, SIDE, SIDE, 3), np.uint8), "clip", 8.0)


def test_a_clip_of_as_many_frames_as_the_system_draws_comes_from_words_and_no_longer_one():
    system = ToySystem(SamplerConfig(num_steps=2))
    system.max_frames = 3
    pipeline = Pipeline(system)
    (clip,) = pipeline.run("0.5", task="text-to-clip", frames=3, width=SIDE, height=SIDE).media
    assert clip.frames.shape == (3, SIDE, SIDE, 3)
    with pytest.raises(RequestError, match="frames must be 1 to 3, got 4"):
        pipeline.run("0.5", task="text-to-clip", frames=4)


def test_as_many_media_are_looked_at_as_the_system_says():
    system = ToySystem(SamplerConfig(num_steps=2))
    asked = {"task": "reference-to-image", "width": SIDE, "height": SIDE}
    with pytest.raises(RequestError, match="2 pictures are attached, but this model looks at 1"):
        Pipeline(system).plan("0.5", 2, **asked)
    system.max_media = 2
    assert Pipeline(system).plan("0.5", 2, **asked).inputs == (Role.REFERENCE,) * 2


def test_a_clip_is_refused_where_a_picture_is_needed_and_looked_at_whole_elsewhere():
    size = {"prompt": "0.5", "width": SIDE, "height": SIDE}
    for task, role in (
        (Task.CONTROL_TO_IMAGE, Role.CONTROL),
        (Task.REFERENCE_TO_IMAGE, Role.REFERENCE),
        (Task.IMAGE_TO_CLIP, Role.LAST),
    ):
        with pytest.raises(RequestError, match="clip is a clip of 3 frames, and a picture is needed"):
            stack_of(Plan(task=task, inputs=(role,), **size), [a_clip(3)])
    stack = stack_of(Plan(task=Task.EDIT_CLIP, inputs=(Role.SOURCE,), frames=3, **size), [a_clip(3)])
    assert [given.time for given in stack.given] == [0, 1, 2]


def test_an_array_of_four_axes_is_a_clip_and_one_that_shows_nothing_is_refused():
    assert len(opened(np.zeros((2, SIDE, SIDE, 3), np.uint8)).frames) == 2
    for shape in ((0, SIDE, SIDE, 3), (0, 0, 3)):
        with pytest.raises(RequestError, match="must show something"):
            opened(np.zeros(shape, np.uint8))


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("seed", 1.5, "seed"),
        ("width", "96", "width"),
        ("inputs", ("sauce",), "inputs"),
        ("prompt", None, "prompt"),
    ],
)
def test_an_override_of_the_wrong_type_is_named(field, value, said):
    with pytest.raises(RequestError, match=rf"the plan: .*\$\.{said}"):
        Pipeline(ToySystem(SamplerConfig())).plan("0.5", **{field: value})


def test_overrides_may_be_words_of_roles_and_numbers_of_numpy():
    pipeline = Pipeline(ToySystem(SamplerConfig()))
    plan = pipeline.plan("0.5", 1, task="edit", inputs=("source",), seed=np.int64(7), guidance_scale=2)
    assert (plan.inputs, plan.seed, type(plan.seed), plan.guidance_scale) == ((Role.SOURCE,), 7, int, 2.0)


def test_several_steps_are_carried_out_in_order_each_with_what_the_one_before_made():
    system = ToySystem(SamplerConfig(num_steps=2))
    pipeline = Pipeline(system)
    first = Step(task=Task.TEXT_TO_IMAGE, prompt="0.5", seed=3)
    then = Step(task=Task.EDIT, prompt="0.25", inputs=(Input(Role.SOURCE, step=0),), seed=4)
    intent = Intent(steps=(first, then))
    plans = tuple(settle(plan_of(intent, number, system.settings), system.settings) for number in (0, 1))
    result = pipeline.follow(Course(intent=intent, plans=plans))
    assert [done.plan.task for done in (*result.before, result)] == [Task.TEXT_TO_IMAGE, Task.EDIT]
    alone = pipeline.carry_out(plans[0])
    assert np.array_equal(result.before[0].images[0], alone.images[0])
    edited = pipeline.carry_out(replace(plans[1], media=()), alone.media)
    assert np.array_equal(result.images[0], edited.images[0])


def test_a_request_of_several_steps_is_no_single_plan():
    pipeline = Pipeline(ToySystem(SamplerConfig()))
    with pytest.raises(RequestError, match="2 steps: `course` plans them"):
        pipeline.plan("a cat, then animate it", planner=RulePlanner())


@pytest.mark.parametrize("task", [Task.EDIT, Task.EDIT_CLIP])
def test_what_is_changed_gives_its_size_to_what_is_drawn(task):
    settings = replace(ToySystem(SamplerConfig()).settings, max_frames=3)
    source = a_clip(3) if task is Task.EDIT_CLIP else Media.picture(np.zeros((SIDE, SIDE, 3), np.uint8))
    wide = replace(source, frames=source.frames.repeat(3, axis=2))
    plan = settle(Plan(task=task, prompt="bluer", inputs=(Role.SOURCE,)), settings)
    assert (plan.width, plan.height) == (None, None)
    drawn, media = sized(settings, plan, [wide])
    assert (drawn.width, drawn.height) == wide.frames.shape[2:0:-1] == (3 * SIDE, SIDE)
    assert media[0] is wide
    asked = settle(replace(plan, width=4, height=6), settings)
    drawn, media = sized(settings, asked, [wide])
    assert (drawn.width, drawn.height) == (4, 6)
    assert media[0].frames.shape == (len(wide.frames), 6, 4, 3)
    with pytest.raises(RequestError, match="give both width and height, or neither"):
        settle(replace(plan, width=4), settings)


def test_an_answer_is_about_the_media_that_the_plan_does_not_leave_unused():
    seen = []

    class Answering(ToySystem):
        def answer(self, messages, limits):
            seen.extend(messages)
            return iter(["yes"])

    pipeline = Pipeline(Answering(SamplerConfig()))
    media = [Media.picture(np.full((2, 2, 3), shade, np.uint8)) for shade in (1, 2)]
    plan = Plan(task=Task.ANSWER, prompt="what?", inputs=(Role.UNUSED, Role.SUBJECT))
    assert "".join(pipeline.stream(plan, media)) == "yes"
    assert seen[0].media == (media[1],)
    with pytest.raises(RequestError, match="names 2 attached media, but there are 1"):
        pipeline.stream(plan, media[:1])
