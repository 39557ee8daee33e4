"""The system: saving and loading, damage, and pictures that depend on their plan alone."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY

from diptych.contracts import AnswerLimits, Backbone, Prompt, Sample, Stack, Turn
from diptych.files.folder import ModelFolderError, locate
from diptych.flow import FlowConfig, SamplerConfig
from diptych.inference import Pipeline, draw
from diptych.models.mot import MoT
from diptych.request import Media, Message, RequestError, Task
from diptych.systems.u1.backbone import UnderstandingBackbone
from diptych.systems.u1.system import U1System


@pytest.fixture
def system(tiny_model, tokenizer) -> U1System:
    model = MoT(dataclasses.replace(TINY, vocab_size=tokenizer.vocab_size))
    model.initialise(torch.Generator().manual_seed(0))
    torch.nn.init.normal_(model.pixel_head.second.weight, std=0.2, generator=torch.Generator().manual_seed(1))
    flow = FlowConfig(noise_scale_base_tokens=16, sampler=SamplerConfig(num_steps=6, guidance_scale=3.0))
    return U1System(model, tokenizer, flow, native=32, card={"name": "toy"})


def picture(seed: int = 0, size: int = 32) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (size, size, 3), dtype=np.uint8)


def raw(system: U1System, plans: list, media: list | None = None) -> list[np.ndarray]:
    return [p[0].astype(np.float32) / 255 for p in draw(system, plans, media)]


def test_same_seed_and_prompt_alone_in_a_batch_and_in_another_order(system):
    pipeline = Pipeline(system)
    prompts = [
        "a cat",
        "two carrots above a red heart",
        "a dog",
        "what is this",
        "a",
        "how many cats",
        "the red heart",
        "carrots",
    ]
    plans = [pipeline.plan(f"draw {text}", seed=n, task="text-to-image") for n, text in enumerate(prompts)]
    # pictures before rounding to bytes: the velocities themselves are compared
    read = system.read([Prompt(text) for text in prompts], [Stack(32, 32)] * 8)
    x = torch.stack([torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(n)) for n in range(8)])
    sigma = torch.full((8,), 0.7)
    together = system.denoise(x, sigma, read)[3]
    alone = system.denoise(x[3:4], sigma[:1], system.read([Prompt(prompts[3])], [Stack(32, 32)]))[0]
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)
    batch = raw(system, plans)
    backwards = raw(system, plans[::-1])[::-1]
    for index, plan in enumerate(plans):
        single = raw(system, [plan])[0]
        # one step of a byte where rounding falls the other way
        assert np.abs(single - batch[index]).max() <= 1.01 / 255
        assert np.abs(batch[index] - backwards[index]).max() <= 1.01 / 255
    assert np.abs(batch[0] - batch[2]).max() > 0.1


def test_another_seed_is_another_picture(system):
    pipeline = Pipeline(system)
    one, other = (pipeline.run("a cat", seed=seed).images[0] for seed in (1, 2))
    assert (one != other).any()
    assert (one == pipeline.run("a cat", seed=1).images[0]).all()


def test_several_pictures_have_following_seeds(system):
    pipeline = Pipeline(system)
    several = pipeline.run("two pictures of a cat", seed=5)
    assert len(several.images) == 2
    assert np.abs(several.images[1].astype(int) - pipeline.run("a cat", seed=6).images[0]).max() <= 1


def test_an_edit_reads_its_source(system):
    pipeline = Pipeline(system)
    one, other = (pipeline.run("remove the cat", [picture(seed)], seed=1).images[0] for seed in (0, 1))
    assert one.shape == (32, 32, 3)
    assert (one != other).any()


def test_a_negative_prompt_changes_the_picture(system):
    pipeline = Pipeline(system)
    plain, without = (pipeline.run(text, seed=1).images[0] for text in ("a cat", "a cat without a dog"))
    assert (plain != without).any()


def test_answers_alone_and_in_a_batch_are_the_same(system):
    questions = ["what is this?", "how many dogs are there in it?", "a"]
    conversations = [[Message("user", q, (Media.picture(picture(n)),))] for n, q in enumerate(questions)]
    limits = AnswerLimits(max_tokens=12)
    alone = ["".join(system.answer(c, limits)).strip() for c in conversations]
    assert system.answers(conversations, limits) == alone


def test_an_answer_keeps_to_the_tokens_that_are_allowed(system):
    yes, no, end = (
        *(system.tokenizer.encode(word)[0] for word in ("dog", "cat")),
        system.tokenizer.ids["<|end|>"],
    )
    assert yes != no

    def grammar(written: list[int]) -> list[int]:
        return [yes, no] if not written else [no] if len(written) < 3 else [end]

    limits = AnswerLimits(max_tokens=8, allowed_tokens=grammar)
    conversations = [[Message("user", text)] for text in ("what is this?", "how many dogs?", "a")]
    alone = ["".join(system.answer(c, limits)) for c in conversations]
    for text in alone:
        first, *others = system.tokenizer.encode(text)
        assert first in (yes, no)
        assert others == [no, no]
    assert system.answers(conversations, limits) == [text.strip() for text in alone]
    nothing = AnswerLimits(allowed_tokens=lambda written: ())
    assert "".join(system.answer(conversations[0], nothing)) == ""
    assert system.answers(conversations[:2], nothing) == ["", ""]
    with pytest.raises(ValueError, match="max_tokens must be at least 1"):
        AnswerLimits(max_tokens=0)


def test_the_backbone_reads_what_an_answer_is_written_from(system):
    backbone = UnderstandingBackbone(system)
    assert isinstance(backbone, Backbone)
    questions = ["what is this?", "how many dogs are there in it?"]
    samples = [Sample((Turn("user", (text,)),), "answer") for text in questions]
    rows = [system.template.answer_prefix(sample).ids.tolist() for sample in samples]
    assert backbone.tokens("how many dogs") == system.tokenizer.encode("how many dogs")
    mask = torch.zeros(2, max(map(len, rows)), dtype=torch.bool)
    ids = torch.zeros_like(mask, dtype=torch.long)
    for row, tokens in enumerate(rows):
        mask[row, : len(tokens)], ids[row, : len(tokens)] = True, torch.tensor(tokens)
    embeddings = backbone.embed(ids).detach().requires_grad_()
    system.model.requires_grad_(False)
    hidden = backbone.hidden(embeddings, mask)
    assert hidden.shape == (2, mask.shape[1], backbone.channels)
    last = hidden[torch.arange(2), mask.sum(1) - 1]
    read, _ = system._last([system._asked([Message("user", text)]) for text in questions])
    torch.testing.assert_close(system.model.text_head(last), system.model.text_head(read), rtol=0, atol=1e-5)
    last[0].sum().backward()
    gradient = embeddings.grad.abs().sum(-1)
    assert (gradient[0][mask[0]] > 0).all()
    assert not gradient[0][~mask[0]].any()
    assert not gradient[1].any()


def test_prompts_that_cannot_be(system):
    pipeline = Pipeline(system)
    with pytest.raises(RequestError, match="no field 'sead'"):
        pipeline.plan("a cat", sead=3)
    with pytest.raises(RequestError, match="no task 'sing'"):
        pipeline.plan("a cat", task="sing")
    with pytest.raises(RequestError, match="frames must be 1"):
        pipeline.plan("a cat", frames=9)
    assert pipeline.plan("how many cats", task="text-to-image").task is Task.TEXT_TO_IMAGE
    with pytest.raises(RequestError, match="uint8"):
        pipeline.run("what is this?", [np.zeros((4, 4))])


def test_a_saved_model_comes_back_to_the_bit(system, tmp_path):
    system.save(tmp_path)
    again = U1System.load(tmp_path)
    for name, tensor in system.model.state_dict().items():
        assert torch.equal(tensor, again.model.state_dict()[name])
    assert again.flow == system.flow
    assert again.card["name"] == "toy"


def test_a_folder_of_the_first_form_says_the_same(system, tmp_path):
    """Its flow has the law of t = 1 - sigma and the limits of the level beside the other fields."""
    system.save(tmp_path)
    (tmp_path / "card.json").unlink()
    config = json.loads((tmp_path / "config.json").read_text())
    flow = config["flow"]
    law, objective = flow.pop("law"), flow.pop("objective")
    flow |= {"t_mean": -law["mean"], "t_std": law["std"], **objective}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert U1System.load(tmp_path).flow == system.flow
    flow["t_maen"] = 1.0
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelFolderError, match=r"config\.json\.flow: unknown key 't_maen'"):
        U1System.load(tmp_path)


def break_weights(folder, how: str) -> None:
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    if how == "half":
        path.write_bytes(bytes(data[: len(data) // 2]))
    elif how == "byte":
        data[-7] ^= 4
        path.write_bytes(bytes(data))
    elif how == "pickle":
        torch.save({"w": torch.zeros(2)}, folder / "model.pt")
        path.unlink()
    elif how == "none":
        path.unlink()


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("half", "damaged"),
        ("byte", "checksum"),
        ("pickle", "model.pt is a pickle and could run code"),
        ("none", r"no model\.safetensors"),
    ],
)
def test_broken_folders_are_refused(system, tmp_path, how, message):
    system.save(tmp_path)
    break_weights(tmp_path, how)
    with pytest.raises(ModelFolderError, match=message):
        U1System.load(tmp_path)


def test_half_a_file_is_found_without_checksums_too(system, tmp_path):
    system.save(tmp_path)
    (tmp_path / "card.json").unlink()
    break_weights(tmp_path, "half")
    with pytest.raises(ModelFolderError, match="cannot be read"):
        U1System.load(tmp_path)


def test_other_architectures_and_families_are_refused(system, tmp_path):
    system.save(tmp_path)
    (tmp_path / "card.json").unlink()
    config = json.loads((tmp_path / "config.json").read_text())
    for change, message in (
        ({"family": "vae"}, "family 'vae'"),
        ({"model": {**config["model"], "depth": 3}}, "which the config asks for"),
    ):
        (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(ModelFolderError, match=message):
            U1System.load(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelFolderError, match="not JSON"):
        U1System.load(tmp_path)


def test_names_that_are_no_model(tmp_path):
    (tmp_path / "weights.pt").write_bytes(b"")
    with pytest.raises(ModelFolderError, match="a pickle: it could run code"):
        locate(tmp_path / "weights.pt")
    with pytest.raises(ModelFolderError, match="neither a folder"):
        locate("no such model")


def test_other_shipped_models_are_opened_by_name_and_ones_own_come_first(tmp_path, monkeypatch):
    shipped = tmp_path / "assets" / "models" / "small"
    shipped.mkdir(parents=True)
    (shipped / "config.json").write_text("{}")
    (shipped.parent / "empty").mkdir()
    monkeypatch.setattr("diptych.files.folder._assets", lambda: tmp_path / "assets")
    monkeypatch.chdir(tmp_path)
    assert locate("small") == shipped
    with pytest.raises(ModelFolderError, match="neither a folder here nor 'default' or 'small';"):
        locate("empty")
    (tmp_path / "small").mkdir()
    assert locate("small") == Path("small")
    with pytest.raises(ModelFolderError, match=r"no config\.json"):
        U1System.load(tmp_path)
