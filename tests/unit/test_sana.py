"""SANA as a system: a published folder loads by path and draws what diffusers' own pipeline draws."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from published import pipeline as published_pipeline
from safetensors.torch import load_file, save_file

import diptych
from diptych.cli import main
from diptych.contracts import Given, Prompt, Stack
from diptych.files.folder import ModelFolderError
from diptych.inference import draw
from diptych.inference.guidance import Guidance
from diptych.models.linear_dit import LinearDiT
from diptych.request import RequestError, Role
from diptych.systems.sana.system import SanaSystem

PROMPTS = ["A cat above two carrots", "red heart and blue circle with specific sizes"]
SIDE = 32


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    folder = tmp_path_factory.mktemp("published")
    return folder, published_pipeline(folder)


def theirs(pipe, noise, steps, **options):
    with torch.no_grad():
        out = pipe(
            PROMPTS,
            width=SIDE,
            height=SIDE,
            num_inference_steps=steps,
            guidance_scale=4.5,
            latents=noise,
            output_type="pt",
            use_resolution_binning=False,
            **options,
        )
    return out.images.permute(0, 2, 3, 1).numpy()


def ours(system, steps):
    plans = [
        diptych.inference.Pipeline(system).plan(p, width=SIDE, height=SIDE, steps=steps, seed=i)
        for i, p in enumerate(PROMPTS)
    ]
    shape = system.space.shape(SIDE, SIDE)[1:]
    noise = torch.stack(
        [torch.randn(shape, generator=torch.Generator().manual_seed(i)) for i in range(len(PROMPTS))]
    )
    return np.concatenate(draw(system, plans)) / 255, noise


def read(system, prompts=PROMPTS, negative=""):
    return system.read([Prompt(p, negative) for p in prompts], [Stack(SIDE, SIDE)] * len(prompts))


@torch.no_grad()
def guided(system, condition, x, sigma, scale=4.5):
    """Guided velocity of latents x (B, channels, height, width), all at one noise level."""
    guidance = Guidance(system, condition, [scale] * len(x), [1.0] * len(x), has_given=False)
    return guidance(x[:, None], torch.full((len(x),), sigma))[:, 0]


@pytest.mark.parametrize("scheduler", ["dpm", "euler"])
def test_a_published_folder_draws_what_diffusers_draws(scheduler, tmp_path):
    pipe = published_pipeline(tmp_path, scheduler=scheduler)
    picture, noise = ours(diptych.load(tmp_path, "cpu").system, 6)
    # pictures are stored in whole numbers of 1/255: half of one, and 1e-3 on top
    assert np.abs(picture - theirs(pipe, noise, 6)).max() <= 0.5 / 255 + 1e-3


def test_velocities_along_a_guided_run_are_those_of_diffusers(published):
    folder, pipe = published
    system = diptych.load(folder, "cpu").system
    condition = read(system)
    seen = []
    hook = pipe.transformer.register_forward_hook(
        lambda module, args, kwargs, out: seen.append((args, kwargs, out)), with_kwargs=True
    )
    theirs(pipe, torch.randn(2, 4, 16, 16), 4)
    hook.remove()
    for args, kwargs, out in seen:
        null, conditional = out[0].chunk(2)
        expected = null + 4.5 * (conditional - null)
        sigma = float(kwargs["timestep"][0]) / 1000
        velocity = guided(system, condition, args[0][:2], sigma)
        assert float((velocity - expected).abs().max() / expected.abs().max()) < 2e-5


def test_a_published_sprint_folder_draws_what_diffusers_draws(tmp_path):
    pipe = published_pipeline(tmp_path, sprint=True)
    system = diptych.load(tmp_path, "cpu").system
    picture, noise = ours(system, 1)
    with torch.no_grad():
        expected = pipe(
            PROMPTS,
            width=SIDE,
            height=SIDE,
            num_inference_steps=1,
            intermediate_timesteps=None,
            latents=noise,
            output_type="pt",
            use_resolution_binning=False,
        ).images
    assert np.abs(picture - expected.permute(0, 2, 3, 1).numpy()).max() <= 0.5 / 255 + 1e-3
    with pytest.raises(RequestError, match="negative prompt has no effect"):
        diptych.load(tmp_path, "cpu").run("a cat", negative_prompt="a dog", width=SIDE, height=SIDE)


def test_text_is_read_as_diffusers_reads_it(published):
    folder, pipe = published
    encoder = SanaSystem.load(folder).text
    with torch.no_grad():
        instruction = encoder.instruction.split("\n")
        text, mask, null, null_mask = pipe.encode_prompt(
            PROMPTS, complex_human_instruction=instruction, device="cpu"
        )
    for given, given_mask, prompts, instruct in (
        (text, mask, PROMPTS, True),
        (null, null_mask, ["", ""], False),
    ):
        states, real = encoder.encode(prompts, instruct)
        assert real.sum(1).tolist() == given_mask.sum(1).tolist()
        for row in range(2):
            torch.testing.assert_close(
                states[row][real[row]], given[row][given_mask[row].bool()], rtol=0, atol=1e-5
            )


def test_the_instruction_is_read_once(published, monkeypatch):
    encoder = SanaSystem.load(published[0]).text
    lengths = []
    forward = encoder.model.forward
    monkeypatch.setattr(
        encoder.model, "forward", lambda *a, **k: lengths.append(k["input_ids"].shape[1]) or forward(*a, **k)
    )
    for prompt in ("a cat", "a dog", "a cat"):
        encoder.encode([prompt])
    prefix, *prompts = lengths
    assert prefix > 100
    assert len(prompts) == 2, "the third prompt is the first one again"
    assert max(prompts) < 10


def test_a_prompt_that_is_too_long_is_cut_with_a_warning_that_names_what_was_cut(published):
    encoder = SanaSystem.load(published[0]).text
    with pytest.warns(UserWarning, match="carrots' was cut"):
        states, _ = encoder.encode(["cat " * 400 + "carrots"])
    assert states.shape[1] == 300


def test_own_and_published_folders_are_bit_for_bit_the_same_model(published, tmp_path):
    folder, _ = published
    first = SanaSystem.load(folder)
    first.save(tmp_path / "own")
    again = SanaSystem.load(tmp_path / "own")
    assert dataclasses.asdict(again.model.config) == dataclasses.asdict(first.model.config)
    for name, tensor in first.model.state_dict().items():
        assert torch.equal(tensor, again.model.state_dict()[name])
    assert np.array_equal(ours(first, 3)[0], ours(again, 3)[0])


def test_a_picture_is_the_same_alone_and_in_a_batch(published):
    system = SanaSystem.load(published[0])
    pipe = diptych.inference.Pipeline(system)
    plans = [
        pipe.plan(p, width=SIDE, height=SIDE, seed=s, steps=4)
        for s, p in enumerate([*PROMPTS, "a", "two carrots"])
    ]
    together = np.concatenate(draw(system, plans)).astype(int)
    alone = np.concatenate([draw(system, [plan])[0] for plan in plans]).astype(int)
    assert np.abs(together - alone).max() <= 1


def test_guidance_is_off_outside_its_interval(published):
    system = SanaSystem.load(published[0])
    x = torch.randn(1, 4, 8, 8)
    plain = guided(system, read(system, ["a cat"]), x, 0.5, scale=1.0)
    system.sampler = dataclasses.replace(system.sampler, guidance_interval=(0.6, 0.9))
    condition = read(system, ["a cat"])
    torch.testing.assert_close(guided(system, condition, x, 0.5), plain, rtol=0, atol=1e-5)
    assert float((guided(system, condition, x, 0.7) - plain).abs().max()) > 0.1


def test_do_draws_with_a_published_folder(published, tmp_path, capsys):
    out = tmp_path / "cat.png"
    assert (
        main(
            [
                "do",
                "a cat",
                "--model",
                str(published[0]),
                "--width",
                "16",
                "--height",
                "18",
                "--steps",
                "2",
                "-o",
                str(out),
            ]
        )
        == 0
    )
    assert out.is_file()
    assert "size 16x18 -> 16x18" not in capsys.readouterr().err
    assert main(["info", str(published[0])]) == 0
    assert "family sana" in capsys.readouterr().out


def copy(published, tmp_path):
    import shutil

    return shutil.copytree(published[0], tmp_path / "broken")


def test_a_missing_shard_is_named(published, tmp_path):
    folder = copy(published, tmp_path) / "transformer"
    (folder / "diffusion_pytorch_model.safetensors").unlink()
    index = {"weight_map": {"proj_out.weight": "diffusion_pytorch_model-00002-of-00002.safetensors"}}
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelFolderError, match=r"00002-of-00002\.safetensors is missing"):
        diptych.load(folder.parent, "cpu")


def test_weights_that_contradict_the_config_are_named(published, tmp_path):
    folder = copy(published, tmp_path)
    path = folder / "transformer" / "config.json"
    path.write_text(
        json.dumps(
            {
                **json.loads(path.read_text()),
                "num_attention_heads": 3,
                "cross_attention_dim": 96,
                "num_cross_attention_heads": 3,
            }
        )
    )
    with pytest.raises(ModelFolderError, match=r"is \(64.*, the config's sizes make it \(96"):
        diptych.load(folder, "cpu")


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("FluxPipeline", "no model of a known family"),
        ("SanaVideoPipeline", "'SanaVideoPipeline' is neither SanaPipeline nor SanaSprintPipeline"),
    ],
)
def test_a_pipeline_of_another_model_is_refused(published, tmp_path, kind, said):
    folder = copy(published, tmp_path)
    (folder / "model_index.json").write_text(json.dumps({"_class_name": kind}))
    with pytest.raises(ModelFolderError, match=said):
        diptych.load(folder, "cpu")


def files_of(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.safetensors")}


def test_forms_go_round_bit_for_bit(published, tmp_path):
    folder, _ = published
    steps = [
        (folder, "own", "diptych"),
        (tmp_path / "own", "again", "diffusers"),
        (tmp_path / "again", "native.pth", "sana"),
    ]
    for source, out, to in steps:
        assert main(["convert", str(source), str(tmp_path / out), "--to", to]) == 0
    weights = {
        path: data for path, data in files_of(tmp_path / "again").items() if path.parts[0] != "text_encoder"
    }
    original = files_of(folder)
    assert weights
    for path in weights:
        first, second = load_file(tmp_path / "again" / path), load_file(folder / path)
        assert set(first) == set(second)
        assert all(torch.equal(first[name], second[name]) for name in second)
    assert set(files_of(tmp_path / "again")) == set(original)
    assert (
        main(
            [
                "convert",
                str(tmp_path / "native.pth"),
                str(tmp_path / "back"),
                "--to",
                "diptych",
                "--base",
                str(folder),
                "--cross-heads",
                "2",
            ]
        )
        == 0
    )
    first, last = SanaSystem.load(folder).model, SanaSystem.load(tmp_path / "back").model
    assert all(torch.equal(tensor, last.state_dict()[name]) for name, tensor in first.state_dict().items())
    assert np.array_equal(
        ours(SanaSystem.load(tmp_path / "again"), 3)[0], ours(SanaSystem.load(folder), 3)[0]
    )


def test_a_pickle_that_could_run_code_is_refused(published, tmp_path, capsys):
    class Evil:
        def __reduce__(self):
            return (print, ("run",))

    torch.save({"state_dict": Evil()}, tmp_path / "evil.pth")
    arguments = [
        "convert",
        str(tmp_path / "evil.pth"),
        str(tmp_path / "out"),
        "--to",
        "diptych",
        "--base",
        str(published[0]),
    ]
    assert main(arguments) == 2
    assert "could run code: refused" in capsys.readouterr().err.replace("\n", " ")
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_without_its_other_parts_says_what_is_needed(tmp_path, capsys):
    torch.save({"x": torch.zeros(1)}, tmp_path / "some.pth")
    assert main(["convert", str(tmp_path / "some.pth"), str(tmp_path / "out"), "--to", "diptych"]) == 2
    assert "name with --base" in capsys.readouterr().err.replace("\n", " ")


@torch.no_grad()
def test_native_models_use_the_null_caption_through_the_captions_mask(published):
    system = SanaSystem.load(published[0])
    null = torch.randn(20, 24)
    native = SanaSystem(
        system.model, system.text, system.space, system.sampler, system.native, "caption_mask", null
    )
    yes = torch.ones(2, dtype=torch.bool)
    null_text = read(native).dropped(text=yes, media=~yes).text
    assert torch.equal(null_text.mask, read(native).text.mask)
    text, real = native.text.encode(PROMPTS)
    x = torch.randn(2, 4, 16, 16)
    expected = native.model(
        x[:, None],
        torch.full((2,), 0.5),
        native.model.condition(null[: text.shape[1]].expand(2, -1, -1), real),
    )[:, 0]
    conditional = native.model(x[:, None], torch.full((2,), 0.5), native.model.condition(text, real))[:, 0]
    torch.testing.assert_close(
        guided(native, read(native), x, 0.5),
        expected + 4.5 * (conditional - expected),
        rtol=0,
        atol=1e-4,
    )


@torch.no_grad()
def test_a_packed_denoiser_draws_the_same(published, monkeypatch):
    from diptych.surgery import fast

    monkeypatch.setattr(fast, "packing_pays", lambda: True)
    plain, packed = SanaSystem.load(published[0]), SanaSystem.load(published[0])
    packed.accelerate()
    assert any(isinstance(module, fast.PackedLinear) for module in read(packed).denoiser.modules())
    x = torch.randn(1, 4, 16, 16)
    expected = guided(plain, read(plain, ["a cat"]), x, 0.5)
    torch.testing.assert_close(
        guided(packed, read(packed, ["a cat"]), x, 0.5),
        expected,
        rtol=0,
        atol=1e-5 * float(expected.abs().max()),
    )
    assert packed.model.state_dict().keys() == plain.model.state_dict().keys()


def framed(published, seed=0):
    """The published model with frames that it has learned to use."""
    plain = SanaSystem.load(published[0])
    config = dataclasses.replace(plain.model.config, multi_frame=True)
    model = LinearDiT(config)
    model.load_state_dict(plain.model.state_dict(), strict=False)
    generator = torch.Generator().manual_seed(seed)
    parts = [model.roles, model.frame_time.weight]
    parts += [p for block in model.blocks for p in (block.attention.mix, block.attention.beside)]
    for parameter in parts:
        torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    return SanaSystem(model, plain.text, plain.space, plain.sampler, plain.native, control="edges")


def control(value, time=0, role=Role.CONTROL):
    pixels = torch.full((3, SIDE, SIDE), value, dtype=torch.uint8)
    pixels[:, : SIDE // 2] = 255 - value
    return Given(role, pixels, time)


@torch.no_grad()
def test_rows_without_their_frames_are_denoised_as_pictures(published):
    """And the rows beside them stay as they were, to the bit."""
    system = framed(published)
    stacks = [Stack(SIDE, SIDE, given=(control(value),)) for value in (30, 200)]
    condition = system.read([Prompt(p) for p in PROMPTS], stacks)
    x, sigma = torch.randn(2, 1, 4, 16, 16), torch.tensor([0.4, 0.8])
    first, none = torch.tensor([True, False]), torch.zeros(2, dtype=torch.bool)
    together = system.denoise(x, sigma, condition)
    dropped = system.denoise(x, sigma, condition.dropped(text=none, media=first))
    assert torch.equal(dropped[1], together[1])
    alone = system.denoise(x, sigma, read(system))
    assert float((dropped[0] - together[0]).abs().max()) > 1e-2
    torch.testing.assert_close(dropped[0], alone[0], rtol=0, atol=1e-5)


@torch.no_grad()
def test_rows_of_a_batch_do_not_see_one_another(published):
    """Different texts, frames, noise levels and frames dropped; rows and joined are each other's inverse."""
    system = framed(published)
    stacks = [Stack(SIDE, SIDE, given=(control(value),)) for value in (30, 200)]
    condition = system.read([Prompt(p, "blue") for p in PROMPTS], stacks)
    yes = torch.ones(2, dtype=torch.bool)
    every = condition.joined([condition.dropped(yes, ~yes), condition.dropped(yes, yes)])
    assert len(every) == 6
    x, sigma = torch.randn(6, 1, 4, 16, 16), torch.linspace(0.1, 0.9, 6)
    together = system.denoise(x, sigma, every)
    for prepared in (False, True):
        if prepared:
            every.prepare()
        for row in range(6):
            one = system.denoise(x[[row]], sigma[[row]], every.rows([row]))
            torch.testing.assert_close(one[0], together[row], rtol=0, atol=1e-5)


@torch.no_grad()
def test_a_dropped_text_leaves_the_other_rows_as_they_are(published):
    system = SanaSystem.load(published[0])
    condition = system.read([Prompt(PROMPTS[0], "a dog"), Prompt(PROMPTS[1])], [Stack(SIDE, SIDE)] * 2)
    dropped = condition.dropped(torch.tensor([True, False]), torch.zeros(2, dtype=torch.bool))
    before, after = condition.text, dropped.text
    assert torch.equal(after.states[1][after.mask[1]], before.states[1][before.mask[1]])
    negative, real = system.text.encode(["a dog"], instruct=False)
    assert torch.equal(after.states[0][after.mask[0]], negative[0][real[0]])


@torch.no_grad()
def test_frames_are_told_apart_by_their_time(published):
    """A clip between its first and its last picture, which are the other way round in the second case."""
    system = framed(published)
    prompts, times = [Prompt(PROMPTS[0])], (0, 1, 2, 3)
    ends = control(20, 0, Role.REFERENCE), control(220, 3, Role.REFERENCE)
    swapped = tuple(dataclasses.replace(frame, time=3 - frame.time) for frame in ends)
    x, sigma = torch.randn(1, 4, 4, 16, 16), torch.tensor([[0.6, 0.6, 0.5, 0.4]])
    one, other = (
        system.denoise(x, sigma, system.read(prompts, [Stack(SIDE, SIDE, times, given)]))
        for given in (ends, swapped)
    )
    assert one.shape == x.shape
    assert float((one - other).abs().max()) > 1e-2
    backwards = system.read(prompts, [Stack(SIDE, SIDE, times[::-1], ends)])
    assert float((one - system.denoise(x, sigma, backwards)).abs().max()) > 1e-2


def test_frames_that_a_model_does_not_have_are_refused(published):
    plain, prompts = SanaSystem.load(published[0]), [Prompt("a cat")]
    with pytest.raises(RequestError, match="its config has multi_frame off"):
        plain.read(prompts, [Stack(SIDE, SIDE, given=(control(1),))])
    with pytest.raises(RequestError, match="no frames of the role 'subject'"):
        framed(published).read(prompts, [Stack(SIDE, SIDE, given=(control(1, role=Role.SUBJECT),))])
    with pytest.raises(ValueError, match="one size, number of frames and roles"):
        plain.read(prompts * 2, [Stack(SIDE, SIDE), Stack(SIDE, 2 * SIDE)])
    small = read(plain, ["a"]), plain.read(prompts, [Stack(16, SIDE)])
    with pytest.raises(ValueError, match="of one size and the same roles"):
        small[0].joined([small[1]])


@torch.no_grad()
def test_a_model_folder_from_before_frames_had_times_still_loads(published, tmp_path):
    system = framed(published)
    torch.nn.init.zeros_(system.model.frame_time.weight)
    weights = system.model.state_dict()
    system.save(tmp_path / "model")
    path = tmp_path / "model" / "model.safetensors"
    stored = load_file(path)
    del stored["denoiser.frame_time.weight"]
    save_file(stored, path)
    (tmp_path / "model" / "card.json").unlink()
    again = SanaSystem.load(tmp_path / "model")
    assert all(torch.equal(tensor, weights[name]) for name, tensor in again.model.state_dict().items())


def test_a_prompt_without_its_stack_is_refused(published):
    system = diptych.load(published[0], "cpu").system
    with pytest.raises(ValueError, match="stacks must have one entry a row, 1 in all, got 2"):
        system.read([Prompt("a")], [Stack(SIDE, SIDE)] * 2)
