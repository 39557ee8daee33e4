"""Changing a picture: what the image space makes of it stands behind the words."""

import json
from dataclasses import replace

import pytest
import tiny_blip3o
import torch

from diptych import cli
from diptych.contracts import Given, Prompt, Stack
from diptych.data.captioned.loader import PictureLoaderConfig
from diptych.data.pictures import open_picture, save_picture
from diptych.flow import SamplerConfig
from diptych.models.connector import Bridge, BridgeConfig, Reference, ReferenceConfig
from diptych.request import RequestError, Role, Task
from diptych.systems import registry
from diptych.systems.blip3o.config import BlipTrainConfig
from diptych.systems.blip3o.parts import open_backbone
from diptych.systems.blip3o.pictures import WorldPictures, edits_of
from diptych.systems.blip3o.recipes import SMALL_WORLD
from diptych.systems.blip3o.spaces import load_any
from diptych.systems.blip3o.system import BlipSystem

SIDE = 64


def made(folder, patch=1, **other) -> BlipSystem:
    backbone = open_backbone(folder / "ours", registry.open_system, True)
    space = load_any(folder / "space")
    bridge = Bridge(BridgeConfig(kind="states", inputs=backbone.channels))
    sizes = {"channels": space.channels, "patch": patch, "outputs": bridge.outputs, **other}
    seen = tiny_blip3o.stirred(Starting(ReferenceConfig(**sizes)))
    model = tiny_blip3o.queries_dit(space.channels, bridge.outputs)
    sampler = SamplerConfig(num_steps=2, shift=1.0, guidance_scale=2.0)
    return BlipSystem(model, bridge, backbone, space, sampler, SIDE, {"name": "tiny"}, None, seen)


class Starting(Reference):
    def initialise(self, generator):
        self.load_state_dict(dict(self.starting_values(generator)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made_at = tmp_path_factory.mktemp("house")
    tiny_blip3o.house(made_at, SIDE)
    return made_at


@pytest.fixture(scope="module")
def system(folder):
    return made(folder)


def picture(seed: int, size: int = SIDE) -> Given:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (3, size, size), generator=generator, dtype=torch.uint8)
    return Given(Role.SOURCE, pixels)


def velocity(system, words, given, text=None, media=None):
    """Of rows at one noise level, each with its words and its picture or none."""
    stacks = [Stack(SIDE, SIDE, given=() if one is None else (one,)) for one in given]
    condition = system.read([Prompt(word) for word in words], stacks)
    gone = [torch.tensor(mask or [False] * len(words)) for mask in (text, media)]
    x = torch.randn(1, *system.space.shape(SIDE, SIDE), generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        return system.denoise(
            x.expand(len(words), -1, -1, -1, -1), torch.tensor([0.5] * len(words)), condition.dropped(*gone)
        )


@torch.no_grad()
def test_what_is_drawn_follows_the_picture_and_each_row_its_own(system):
    words = ["make it blue", "a red square, and two blue squares behind it", "blue", "a cat"]
    given, text, media = [picture(1), None, picture(2), picture(1)], [False, False, True, False], [0, 0, 0, 1]
    media = [bool(flag) for flag in media]
    together = velocity(system, words, given, text, media)
    for row, word in enumerate(words):
        alone = velocity(system, [word], [given[row]], [text[row]], [media[row]])
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-5, rtol=0)
    assert (velocity(system, ["make it blue"], [picture(2)]) - together[:1]).abs().max() > 1e-3
    # left out, the picture is no part of it; words that are left out do not take it with them
    torch.testing.assert_close(together[3:], velocity(system, ["a cat"], [None]), atol=1e-5, rtol=0)
    assert (together[2:3] - velocity(system, ["blue"], [picture(1)], [True])).abs().max() > 1e-3


def test_places_of_a_picture_are_told(system):
    target = torch.zeros(1, *system.space.shape(SIDE, SIDE)[1:])
    vectors = system.reference(target)
    assert vectors.shape == (1, 4, system.bridge.outputs)
    assert not torch.allclose(vectors[0, 0], vectors[0, 1])
    # four values of a target in one vector, by their patch
    finer = Reference(ReferenceConfig(channels=8, patch=2, outputs=16))
    assert finer(torch.zeros(3, 8, 4, 6)).shape == (3, 6, 16)


def test_without_a_picture_in_a_batch_its_part_has_a_gradient_of_zero(system):
    system.reference.requires_grad_(True)
    condition = system.read([Prompt("a cat")], [Stack(SIDE, SIDE)])
    x = torch.zeros(1, *system.space.shape(SIDE, SIDE))
    system.denoise(x, torch.tensor([0.5]), condition).square().mean().backward()
    gradients = [parameter.grad for parameter in system.reference.parameters()]
    assert all(gradient is not None and not gradient.any() for gradient in gradients)
    system.reference.requires_grad_(False)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ((picture(1), picture(2)), "one picture at a time, a source; it was given: source, source"),
        ((replace(picture(1), role=Role.REFERENCE),), "it was given: reference"),
    ],
)
def test_other_frames_are_refused(system, given, says):
    with pytest.raises(RequestError, match=says):
        system.read([Prompt("blue")], [Stack(SIDE, SIDE, given=given)])


def test_a_part_for_other_targets_is_refused(folder):
    with pytest.raises(ValueError, match=r"channels=5.*is needed"):
        made(folder, channels=5)


def test_the_public_command_changes_a_picture_and_is_asked_about_it(
    system, folder, tmp_path, monkeypatch, capsys
):
    system.save(tmp_path / "model")
    again = registry.open_system(tmp_path / "model")
    assert Task.EDIT in again.settings.tasks
    assert again.settings == registry.settings_of(tmp_path / "model")
    assert all(
        torch.equal(value, again.reference.state_dict()[name])
        for name, value in system.reference.state_dict().items()
    )
    monkeypatch.chdir(tmp_path)
    save_picture(picture(1, 80).pixels.permute(1, 2, 0).numpy(), tmp_path / "one.png")
    asked = ["do", "make it blue", "-i", "one.png", "--model", "model", "-o", "out.png"]
    assert cli.main(asked) == 0, capsys.readouterr()
    assert open_picture((tmp_path / "out.png").read_bytes(), "out.png").shape == (SIDE, SIDE, 3)
    # questions about a picture go to the language model, which answers as it does alone
    answers = []
    for name in ("model", str(folder / "ours")):
        capsys.readouterr()
        assert cli.main(["do", "what is green?", "-i", "one.png", "--model", name]) == 0
        answers.append(capsys.readouterr().out)
    assert answers[0] == answers[1] != ""


def test_a_share_of_the_samples_are_edits_of_the_world_or_of_lines(tmp_path):
    config = PictureLoaderConfig(pictures_per_step=2, resolutions=(48,), workers=0, drop_text=0.5)
    data = WorldPictures(SMALL_WORLD, config, lambda w, h: (1, 4, 6, 6), 3, edits=0.5)
    rows = [data.sample(key) for key in range(64)]
    edits = [row for row in rows if row.stacks[0].given]
    assert 20 < len(edits) < 44
    assert all(row.stacks[0].given[0].role is Role.SOURCE for row in edits)
    # without their words some of them are without their picture as well
    blind = [bool(row.drop_media) for row in edits if row.drop_text]
    assert any(blind)
    assert not all(blind)
    assert not any(row.drop_media for row in rows if not row.drop_text)

    source = data.changes.draw(0)
    (given, words), (drawn,) = (turn.parts for turn in source.turns)
    for name, one in (("before", given), ("after", drawn)):
        save_picture(one.pixels, tmp_path / f"{name}.png")
    said = [{"from": "human", "value": f"<image>\n{words}"}, {"from": "gpt", "value": "<image>"}]
    lines, data.edits = tmp_path / "edits.jsonl", 1.0
    lines.write_text(json.dumps({"conversations": said, "image": ["before.png", "after.png"]}) + "\n")
    data.changes = edits_of(SMALL_WORLD, 3, str(lines))
    batch = data[0].batches[0]
    assert batch.prompts[0].text == words
    assert torch.equal(batch.stacks[0].given[0].pixels, torch.from_numpy(given.pixels).permute(2, 0, 1))
    assert torch.equal(batch.pixels[0, 0], torch.from_numpy(drawn.pixels).permute(2, 0, 1))
    told = {"conversations": [said[0], {"from": "gpt", "value": "no"}], "image": ["before.png"]}
    lines.write_text(json.dumps(told) + "\n")
    data.changes = edits_of(SMALL_WORLD, 3, str(lines))
    step = data[0]
    assert len(step.bad) == 2
    assert "edits.jsonl" in step.bad[0]
    assert not step.batches[0].weight.any()


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"edits": 1.5}, "edits must be a share"),
        ({"edits": 0.5, "pictures": "some"}, "leave out --pictures 'some'"),
        ({"edit_lines": "some.jsonl"}, "read where edits is above 0"),
    ],
)
def test_runs_that_contradict_themselves(wrong, says):
    with pytest.raises(ValueError, match=says):
        BlipTrainConfig(name="x", data=PictureLoaderConfig(resolutions=(48,)), **wrong)
