"""Wan-VACE by folder: every task's inputs are those that diffusers' own pipeline is given, and so is what is
drawn."""

import dataclasses
import json
from contextlib import contextmanager
from typing import NamedTuple

import diffusers
import numpy as np
import pytest
import tiny_unison
import torch
from golden_files import load
from PIL import Image

from diptych.contracts import Given, Prompt, Stack
from diptych.files.folder import ModelFolderError
from diptych.flow import SamplerConfig, solve
from diptych.flow.solver import levels_of
from diptych.inference import Pipeline, draw
from diptych.planning import settle
from diptych.request import Media, Plan, RequestError, Role, Task
from diptych.systems.registry import open_system, settings_of
from diptych.systems.wan.condition import JOINED_ROWS, TEXT_ROWS, WanCondition

WIDTH, HEIGHT, FRAMES = 64, 48, 9
TOLD = ("hidden_states", "timestep", "encoder_hidden_states", "control_hidden_states")
SIZE = (HEIGHT, WIDTH, 3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("wan") / "model"
    tiny_unison.wan(place)
    return place


@pytest.fixture(scope="module")
def system(folder):
    return open_system(folder)


@pytest.fixture(scope="module")
def theirs(folder):
    pipeline = diffusers.WanVACEPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def shades(seed, frames=1, size=SIZE):
    return np.random.default_rng(seed).integers(0, 256, (frames, *size), dtype=np.uint8)


FIRST, LAST, SOURCE, FOLLOWED = shades(0), shades(1), shades(2, FRAMES), shades(3, FRAMES)
LOOKS = (shades(4, size=(41, 30, 3)), shades(5, size=(100, 200, 3)))
MASK = np.zeros((1, *SIZE), np.uint8)
MASK[:, 10:30, 20:50] = 255
GRAY, WHITE, BLACK = np.full(SIZE, 0.5), np.ones(SIZE), np.zeros(SIZE)
WITHIN = MASK[0] / 255
HOLED = [frame / 255 * (1 - WITHIN) + 0.5 * WITHIN for frame in SOURCE]


class Case(NamedTuple):
    """A task with its media, and what a user of diffusers would hand to its pipeline."""

    task: Task
    roles: tuple[Role, ...] = ()
    media: tuple[np.ndarray, ...] = ()
    video: list | None = None
    mask: list | None = None
    references: tuple[np.ndarray, ...] = ()


MIDDLE = FRAMES - 2
CASES = {
    "words": Case(Task.TEXT_TO_CLIP),
    "words, a picture": Case(Task.TEXT_TO_IMAGE),
    "first frame": Case(
        Task.IMAGE_TO_CLIP,
        (Role.FIRST,),
        (FIRST,),
        [FIRST[0] / 255, *[GRAY] * (MIDDLE + 1)],
        [BLACK, *[WHITE] * (MIDDLE + 1)],
    ),
    "last frame": Case(
        Task.IMAGE_TO_CLIP,
        (Role.LAST,),
        (LAST,),
        [*[GRAY] * (MIDDLE + 1), LAST[0] / 255],
        [*[WHITE] * (MIDDLE + 1), BLACK],
    ),
    "both ends": Case(
        Task.IMAGE_TO_CLIP,
        (Role.LAST, Role.FIRST),
        (LAST, FIRST),
        [FIRST[0] / 255, *[GRAY] * MIDDLE, LAST[0] / 255],
        [BLACK, *[WHITE] * MIDDLE, BLACK],
    ),
    "a clip within a mask": Case(
        Task.EDIT_CLIP, (Role.MASK, Role.SOURCE), (MASK, SOURCE), HOLED, [WITHIN] * FRAMES
    ),
    "a picture within a mask": Case(
        Task.EDIT, (Role.SOURCE, Role.MASK), (SOURCE[:1], MASK), HOLED[:1], [WITHIN]
    ),
    "a clip within a mask, with a reference": Case(
        Task.EDIT_CLIP,
        (Role.SOURCE, Role.MASK, Role.REFERENCE),
        (SOURCE, MASK, LOOKS[0]),
        HOLED,
        [WITHIN] * FRAMES,
        LOOKS[:1],
    ),
    "along a clip": Case(Task.CONTROL_TO_CLIP, (Role.CONTROL,), (FOLLOWED,), list(FOLLOWED / 255)),
    "along a picture": Case(Task.CONTROL_TO_IMAGE, (Role.CONTROL,), (FOLLOWED[:1],), [FOLLOWED[0] / 255]),
    "references": Case(Task.REFERENCE_TO_CLIP, (Role.REFERENCE,) * 2, LOOKS, references=LOOKS),
    "a reference, a picture": Case(
        Task.REFERENCE_TO_IMAGE, (Role.REFERENCE,), LOOKS[:1], references=LOOKS[:1]
    ),
}


@contextmanager
def told(transformer):
    """What a transformer is told in each of its calls."""
    calls = []

    def keep(_, arguments, named):
        calls.append({name: named[name].detach().clone() for name in TOLD})

    hook = transformer.register_forward_pre_hook(keep, with_kwargs=True)
    yield calls
    hook.remove()


def settled(system, case, **more):
    clip = case.task.value.endswith("clip")
    plan = Plan(
        task=case.task,
        prompt="a cat “runs” at  night &amp; rain",
        negative_prompt="dark, blurred",
        inputs=case.roles,
        control="depth" if Role.CONTROL in case.roles else "",
        width=WIDTH,
        height=HEIGHT,
        frames=FRAMES if clip else 1,
        steps=3,
        seed=5,
    )
    return settle(dataclasses.replace(plan, **more), system.settings)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_transformer_is_told_what_diffusers_tells_it(system, theirs, case):
    plan = settled(system, case)
    media = [Media(frames, "it", 8.0 if len(frames) > 1 else None) for frames in case.media]
    with told(system.model.transformer) as ours:
        (drawn,) = draw(system, [plan], [media])
    beside = len(case.references)
    channels, *shape = system.space.shape(WIDTH, HEIGHT, plan.frames)[1:]
    latent = system.space.shape(WIDTH, HEIGHT, plan.frames)[0]
    noise = torch.randn(beside + latent, channels, *shape, generator=torch.Generator().manual_seed(plan.seed))
    as_given = (
        None if frames is None else np.stack(frames)[None].astype(np.float32)
        for frames in (case.video, case.mask)
    )
    with told(theirs.transformer) as asked:
        result = theirs(
            prompt=plan.prompt,
            negative_prompt=plan.negative_prompt,
            **dict(zip(("video", "mask"), as_given, strict=True)),
            reference_images=[Image.fromarray(look[0]) for look in case.references] or None,
            height=HEIGHT,
            width=WIDTH,
            num_frames=plan.frames,
            num_inference_steps=plan.steps,
            latents=noise.transpose(0, 1)[None],
            output_type="np",
        ).frames[0]
    # a conditioned and an unconditioned pass of each step
    assert len(ours) == len(asked) == 2 * plan.steps
    for one, other in zip(ours, asked, strict=True):
        for name in TOLD:
            torch.testing.assert_close(one[name], other[name], atol=1e-4, rtol=0)
    assert np.abs(drawn / 255 - result).max() < 1 / 255


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 20])
def test_unipc_goes_along_the_states_of_diffusers(steps):
    sampler = SamplerConfig(solver="unipc", schedule="diffusers_unipc", shift=5.0)
    scheduler = diffusers.UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0
    )
    scheduler.set_timesteps(steps)
    assert scheduler.timesteps.tolist() == (levels_of(sampler, steps)[:-1] * 1000).long().tolist()
    noise = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def velocity(x, sigma):
        return torch.tanh(1.3 * x + 2 * sigma.view(-1, 1, 1)) - 0.3 * x

    x = noise
    for number, time in enumerate(scheduler.timesteps):
        flow = velocity(x, scheduler.sigmas[number].double().expand(2))
        x = scheduler.step(flow, time, x, return_dict=False)[0]
    torch.testing.assert_close(solve(sampler, velocity, noise, steps), x, atol=1e-5, rtol=0)


def test_unipc_ends_where_wans_own_code_ends():
    run = load("unison/vace")
    sampler = SamplerConfig(solver="unipc", shift=5.0, first_sigma=0.999)
    assert (levels_of(sampler, 3)[:-1] * 1000).long().tolist() == run["times"].tolist()
    velocities = iter(run["velocity"])
    ended = solve(sampler, lambda x, sigma: next(velocities)[None], run["noise"][None], 3)
    torch.testing.assert_close(ended[0], run["result"], atol=1e-4, rtol=0)


def test_tokens_stand_behind_the_text_and_go_with_it():
    run = load("unison/vace")
    empty = torch.zeros(1, 72, 1, 2, 2)
    condition = WanCondition(
        text=(torch.cat([run["text"], run["projected"][0]]),),
        negative=(run["text_negative"],),
        length=64,
        control=empty,
        blank=empty,
        beside=0,
        scale=torch.ones(1),
    )
    yes = torch.tensor([True])
    for made, rows in ((condition, "context"), (condition.dropped(yes, ~yes), "context_negative")):
        torch.testing.assert_close(made.context[0, : len(run[rows])], run[rows], atol=1e-4, rtol=0)
        assert not made.context[0, len(run[rows]) :].any()
        assert made.context.shape[1] == 64


def test_rows_behind_the_text_raise_the_length_and_have_gradients(system):
    stack = Stack(WIDTH, HEIGHT)
    rows = torch.randn(4, system.context_channels, requires_grad=True)
    plain, joined = (system.read([Prompt("a cat", context=context)], [stack]) for context in (None, rows))
    count = len(plain.text[0])
    assert (plain.context.shape[1], joined.context.shape[1]) == (TEXT_ROWS, JOINED_ROWS)
    torch.testing.assert_close(joined.context[0, : count + 4], torch.cat([plain.text[0], rows]))
    x = torch.randn(1, *system.space.shape(WIDTH, HEIGHT))
    system.denoise(x, torch.tensor([0.6]), joined).square().mean().backward()
    assert rows.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in system.model.parameters())


def test_a_row_is_denoised_alike_alone_and_in_a_batch(system):
    look = Given(Role.REFERENCE, torch.from_numpy(LOOKS[0][0]).permute(2, 0, 1))
    stacks = [Stack(WIDTH, HEIGHT, given=(look,))] * 2
    condition = system.read([Prompt("a cat", "dark"), Prompt("two carrots")], stacks)
    assert condition.beside == 1
    x = torch.randn(2, 2, *system.space.shape(WIDTH, HEIGHT)[1:])
    sigma = torch.tensor([0.3, 0.8])
    mixed = condition.dropped(torch.tensor([True, False]), torch.tensor([False, True]))
    with torch.no_grad():
        together = system.denoise(x, sigma, mixed)
        for row in range(2):
            alone = system.denoise(x[row : row + 1], sigma[row : row + 1], mixed.rows([row]))
            torch.testing.assert_close(together[row : row + 1], alone, atol=1e-5, rtol=1e-5)
        joined = mixed.rows([0]).joined([mixed.rows([1])])
        torch.testing.assert_close(system.denoise(x, sigma, joined), together, atol=1e-5, rtol=1e-5)


def test_a_folder_says_what_its_model_can_do(folder, system):
    told = settings_of(folder)
    assert told == system.settings
    assert told.own_size() == (832, 480)
    assert (told.multiple, told.max_frames, told.frame_step, told.fps) == (16, 81, 4, 16.0)


def test_a_clip_has_a_multiple_of_four_frames_and_one_more(system):
    plan = Pipeline(system).plan("a cat", task="text-to-clip", width=70, height=50, frames=12)
    assert (plan.width, plan.height, plan.frames) == (64, 48, 13)


def test_a_source_without_a_mask_is_refused_before_anything_is_read(system):
    case = Case(Task.EDIT, (Role.SOURCE,))
    with pytest.raises(RequestError, match="within a mask alone: attach one"):
        settled(system, case)


def test_a_black_mask_is_refused(system):
    media = [Media.picture(SOURCE[0]), Media.picture(np.zeros(SIZE, np.uint8))]
    with pytest.raises(RequestError, match="black all over"):
        draw(system, [settled(system, CASES["a picture within a mask"])], [media])


def test_a_saved_model_is_the_same(system, tmp_path):
    system.save(tmp_path / "again")
    again = open_system(tmp_path / "again")
    plan = settled(system, CASES["words, a picture"])
    assert np.array_equal(draw(system, [plan])[0], draw(again, [plan])[0])
    assert again.space.identity() == system.space.identity()


@pytest.mark.parametrize(
    ("file", "key", "value", "says"),
    [
        ("model_index.json", "transformer_2", ["diffusers", "X"], "a second transformer"),
        ("scheduler/scheduler_config.json", "solver_order", 3, "solver_order is 3"),
        ("scheduler/scheduler_config.json", "_class_name", "DDIMScheduler", "is not UniPCMultistepScheduler"),
        ("transformer/config.json", "num_layers", 1000, "num_layers is 1000"),
        ("transformer/config.json", "patch_size", [2, 2, 2], "patch_size must be 1"),
        ("transformer/config.json", "text_dim", 25, "the config's sizes make it"),
        ("vae/config.json", "z_dim", 5, "the config's sizes make it"),
        ("text_encoder/config.json", "auto_map", {"AutoModel": "x.y"}, "code of its own"),
    ],
)
def test_a_folder_that_is_not_whole_is_refused_by_name(folder, tmp_path, file, key, value, says):
    import shutil

    wrong = shutil.copytree(folder, tmp_path / "wrong") / file
    wrong.write_text(json.dumps({**json.loads(wrong.read_text()), key: value}))
    with pytest.raises(ModelFolderError, match=says):
        open_system(tmp_path / "wrong")
