"""Folders as BLIP3-o is published: read, drawn with, asked, and written again."""

import json
from itertools import pairwise

import numpy as np
import pytest
import torch
from tiny_blip3o import Published, tokenizer

from diptych.cli import main
from diptych.contracts import Prompt, Stack
from diptych.encoders.backbone import Asked
from diptych.files import weights as weight_files
from diptych.files.folder import ModelFolderError
from diptych.inference import Pipeline, draw
from diptych.models.feature_dit import to_published
from diptych.request import Message, RequestError
from diptych.systems import registry
from diptych.systems.blip3o.published import convert

pytest.importorskip("diffusers")
CHAT = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nPlease generate image "
    "based on the following caption: a red cat<|im_end|>\n<|im_start|>assistant\n[IMG]"
)


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    return Published(tmp_path_factory.mktemp("blip3o") / "published")


@pytest.fixture(scope="module")
def system(published):
    return registry.open_system(published.folder)


def condition_of(published, ids: torch.Tensor) -> torch.Tensor:
    """States at the queries, by transformers alone."""
    words = published.language.get_input_embeddings()(ids)
    joined = torch.cat([words, published.queries.expand(len(ids), -1, -1)], 1)
    places = torch.arange(joined.shape[1])[None]
    with torch.no_grad():
        found = published.language.get_decoder()(inputs_embeds=joined, position_ids=places)
    return found.last_hidden_state[:, -64:]


def test_prompts_become_the_ids_that_the_published_code_makes(system):
    expected = tokenizer()(CHAT)["input_ids"]
    assert list(system.backbone.asked("a red cat").ids) == expected
    assert expected[-1] == system.backbone.mark


@pytest.mark.parametrize("pads", [0, 5])
def test_conditions_are_the_states_at_the_queries(published, system, pads):
    ids = torch.tensor([system.backbone.asked("a red cat").ids])
    expected = condition_of(published, ids)
    left = torch.nn.functional.pad(ids, (pads, 0))
    mask = torch.arange(left.shape[1])[None] >= pads
    with torch.no_grad():
        states, _ = system.bridge(system.backbone, left, mask, system.backbone.mark)
    torch.testing.assert_close(states, expected, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("steps", [4, 30])
def test_drawing_follows_the_published_formulas(published, system, steps):
    noise = torch.randn(1, 1, 32, 8, 8, generator=torch.Generator().manual_seed(7))
    states = condition_of(published, torch.tensor([system.backbone.asked("a red cat").ids]))
    dit, x = published.dit, noise
    told, zero = (dit.condition(s) for s in (states, torch.zeros_like(states)))
    # evenly from 1 to 1/n, then 0; times of whole numbers, levels as they are
    levels = [*np.linspace(1, 1 / steps, steps, dtype=np.float32).tolist(), 0.0]
    with torch.no_grad():
        for now, then in pairwise(levels):
            sigma = torch.tensor([now])
            u, c = dit(x, sigma, zero), dit(x, sigma, told)
            x = x + (then - now) * (u + 3 * (c - u))
    assert system.sampler.guidance_scale == 3.0
    plan = Pipeline(system).plan("a red cat", task="text-to-image", seed=7, steps=steps)
    drawn = []
    decode = system.space.decode
    try:
        system.space.decode = lambda target, seeds=None: drawn.append(target) or decode(target, seeds)
        draw(system, [plan])
    finally:
        del system.space.decode
    torch.testing.assert_close(drawn[0], x, atol=1e-4, rtol=1e-4)


def test_a_training_step_learns_through_the_frozen_language_model(published, system):
    """Loss and gradients against the published formulas: the condition of some rows times zero."""
    from diptych.flow import interpolate

    generator = torch.Generator().manual_seed(1)
    clean, noise = (torch.randn(2, 1, 32, 8, 8, generator=generator) for _ in range(2))
    sigma = torch.tensor([0.877, 0.124])
    language, dit = published.language, published.dit
    for dropped in ([False, False], [True, False], [True, True]):
        system.model.requires_grad_(True).zero_grad()
        system.bridge.requires_grad_(True).zero_grad()
        rows = system.read([Prompt("a red cat"), Prompt("two blue dogs")], [Stack(32, 32)] * 2)
        rows = rows.dropped(torch.tensor(dropped), torch.zeros(2, dtype=torch.bool))
        noisy = interpolate(clean, noise, sigma, rows.scale)
        error = system.denoise(noisy, sigma, rows) - (noise - clean)
        error.square().mean().backward()
        queries = published.queries.clone().requires_grad_()
        dit.requires_grad_(True).zero_grad()
        states = []
        for prompt, drop in zip(("a red cat", "two blue dogs"), dropped, strict=True):
            ids = torch.tensor([system.backbone.asked(prompt).ids])
            joined = torch.cat([language.get_input_embeddings()(ids), queries], 1)
            found = language.get_decoder()(inputs_embeds=joined).last_hidden_state[:, -64:]
            states.append(found * (0.0 if drop else 1.0))
        theirs = dit(noisy, sigma, dit.condition(torch.cat(states)))
        loss = (theirs - (noise - clean)).square().mean()
        loss.backward()
        torch.testing.assert_close(error.square().mean(), loss, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(system.bridge.queries.grad, queries.grad, atol=1e-6, rtol=1e-4)
        assert bool(queries.grad.any()) == (not all(dropped))
        for (name, ours), reference in zip(system.model.named_parameters(), dit.parameters(), strict=True):
            torch.testing.assert_close(ours.grad, reference.grad, atol=1e-6, rtol=1e-4, msg=name)
    assert all(parameter.grad is None for parameter in system.backbone.model.parameters())
    system.model.requires_grad_(False)


def test_a_drawing_of_nothing_is_what_guidance_of_the_decoder_leaves(published, system):
    nothing = system._nothing()
    assert nothing.shape == (1, 32, 8, 8)
    assert system._nothing() is nothing
    assert system.space.detokenizer.negative() is nothing
    ids = torch.tensor([[*system.backbone.tokens(" "), system.backbone.mark]])
    with torch.no_grad():
        told = system._bridged([Asked(tuple(ids[0].tolist()))]).states
    torch.testing.assert_close(told, condition_of(published, ids), atol=2e-5, rtol=1e-5)


def test_from_published_to_ours_and_back(published, system, tmp_path):
    convert(published.folder, tmp_path / "ours", "diptych", registry.open_system)
    convert(tmp_path / "ours", tmp_path / "theirs", "blip3o", registry.open_system)
    before, after = (
        weight_files.open_weights(folder).all() for folder in (published.folder, tmp_path / "theirs")
    )
    before.pop("model.gen_vision_tower.vision_tower.model.cls_token")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert set(to_published(published.dit.state_dict())) <= {
        name.removeprefix("model.dit.model.") for name in after
    }
    config = json.loads((tmp_path / "theirs" / "config.json").read_text())
    assert config["model_type"] == "blip3o_qwen"
    assert config["mm_use_im_patch_token"] is False
    pictures, answers = [], []
    for folder in (published.folder, tmp_path / "ours", tmp_path / "theirs"):
        opened = registry.open_system(folder)
        assert registry.settings_of(folder) == opened.settings
        opened.space.detokenizer.num_steps = 2
        pictures.append(Pipeline(opened).run("a red cat", task="text-to-image", seed=3, steps=2).images[0])
        answers.append(opened.log_odds([[Message("user", "is it red?")]])[0])
    assert all(np.array_equal(picture, pictures[0]) for picture in pictures)
    assert len(set(answers)) == 1


def test_what_the_published_layout_does_not_hold_is_refused(published, tmp_path):
    convert(published.folder, tmp_path / "ours", "diptych", registry.open_system)
    system = registry.open_system(tmp_path / "ours")
    system.space.detokenizer = None
    from diptych.systems.blip3o.published import write_published

    with pytest.raises(ValueError, match="this model is made of other parts"):
        write_published(system, tmp_path / "theirs")


def test_do_draws_and_answers_with_a_published_folder(published, tmp_path, capsys):
    words = ["do", "a red cat", "--model", str(published.folder)]
    assert main([*words, "--task", "text-to-image", "-o", str(tmp_path / "cat.png"), "--steps", "2"]) == 0
    assert (tmp_path / "cat.png").is_file()
    assert main(["do", "what is red?", "--model", str(published.folder), "--task", "answer"]) == 0
    # a picture is looked at by the language model, which says something else without it
    capsys.readouterr()
    assert (
        main(["do", "what is this?", "-i", str(tmp_path / "cat.png"), "--model", str(published.folder)]) == 0
    )
    seen = capsys.readouterr().out
    assert main(["do", "what is this?", "--model", str(published.folder), "--task", "answer"]) == 0
    assert seen not in ("", capsys.readouterr().out)


def test_requests_beyond_the_context_are_refused(system):
    with pytest.raises(RequestError, match="64 queries included, more than the 512"):
        system.read([Prompt("a red cat " * 300)], [Stack(32, 32)])


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ("queries", "the weights have no model.latent_queries"),
        ("gate", r"no transformer over features|have no layers\.0\.gate"),
        ("language", "lm_head.weight"),
        ("decoder", "unet"),
        ("next", "is of BLIP3o-NEXT"),
        ("size", "hidden_size|the config's sizes make it"),
    ],
)
def test_published_folders_that_are_not_whole(published, tmp_path, wrong, says):
    import shutil

    from safetensors.torch import load_file, save_file

    folder = tmp_path / "broken"
    shutil.copytree(published.folder, folder)
    weights, path = load_file(folder / "model.safetensors"), folder / "config.json"
    values = json.loads(path.read_text())
    if wrong == "queries":
        weights.pop("model.latent_queries")
    elif wrong == "gate":
        weights.pop("model.dit.model.layers.0.gate")
    elif wrong == "language":
        weights.pop("lm_head.weight")
    elif wrong == "decoder":
        shutil.rmtree(folder / "diffusion-decoder" / "unet")
    elif wrong == "next":
        values["diffusion_name_or_path"] = "somewhere"
    else:
        values["intermediate_size"] = 112
    save_file(weights, folder / "model.safetensors")
    path.write_text(json.dumps(values))
    with pytest.raises((ModelFolderError, ValueError), match=says):
        registry.open_system(folder)


def test_tied_heads_have_no_weight_of_their_own(published, tmp_path):
    import shutil

    from safetensors.torch import load_file, save_file

    folder = tmp_path / "tied"
    shutil.copytree(published.folder, folder)
    weights, path = load_file(folder / "model.safetensors"), folder / "config.json"
    weights.pop("lm_head.weight")
    save_file(weights, folder / "model.safetensors")
    path.write_text(json.dumps({**json.loads(path.read_text()), "tie_word_embeddings": True}))
    model = registry.open_system(folder).backbone.model
    assert model.lm_head.weight.data_ptr() == model.get_input_embeddings().weight.data_ptr()
    convert(folder, tmp_path / "again", "blip3o", registry.open_system)
    assert weight_files.open_weights(tmp_path / "again").all().keys() == weights.keys() - {
        "model.gen_vision_tower.vision_tower.model.cls_token"
    }
