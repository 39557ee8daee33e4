"""The two stages of Unison's training: a planner through adapters, and a projector between two frozen
models."""

import json

import numpy as np
import pytest
import tiny_unison
import torch
from PIL import Image

from diptych.cli import main
from diptych.contracts import Prompt, Stack
from diptych.files.folder import ModelFolderError, card
from diptych.planning import signals
from diptych.planning.fourteen import PUBLISHED
from diptych.planning.schema import Attached, Request
from diptych.request import Media, Task
from diptych.systems.registry import open_system, read_run
from diptych.systems.unison.adapters import Adapters, grow_vocabulary
from diptych.systems.unison.language import Language
from diptych.systems.unison.seen import thumbnails
from diptych.training.run import train
from diptych.training.trainer import Trainer


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return tiny_unison.folders(tmp_path_factory.mktemp("unison"))


SHADES = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)


def test_a_vocabulary_grows_by_the_fourteen_first_and_is_untied(models):
    language = Language.load(models / "plain")
    before = len(language.tokenizer)
    words = language.asked(Request(text="a cat"))
    was = language.logits(words)
    grow_vocabulary(language)
    assert language.tokenizer.convert_tokens_to_ids(list(PUBLISHED)) == list(range(before, before + 14))
    entering, leaving = (
        layer.weight
        for layer in (language.model.get_input_embeddings(), language.model.get_output_embeddings())
    )
    assert entering is not leaving
    torch.testing.assert_close(language.logits(words)[:, :before], was[:, :before])
    grow_vocabulary(language)
    assert len(language.tokenizer) == before + len(signals.TOKENS)


def test_what_was_learnt_is_merged_as_it_was_computed(models, tmp_path):
    language, other = Language.load(models / "seeing"), Language.load(models / "seeing")
    for one in (language, other):
        grow_vocabulary(one)
    adapters = Adapters(language, 2).to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in adapters.parameters():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    request = Request(text="a", media=(Attached(kind="picture"),))
    read = language.asked(request, [thumbnails(Media.picture(SHADES))])
    before = language.logits(read)
    adapters.hang(language)
    adapters.merge_into(other)
    assert not torch.allclose(language.logits(read), before, atol=1e-2)
    torch.testing.assert_close(other.logits(read), language.logits(read), atol=1e-4, rtol=1e-4)
    other.save(tmp_path / "merged")
    opened = Language.load(tmp_path / "merged")
    torch.testing.assert_close(opened.logits(read), other.logits(read), atol=1e-5, rtol=1e-5)
    assert opened.tokenizer.convert_tokens_to_ids("<CFI>") == other.tokenizer.convert_tokens_to_ids("<CFI>")


EVERY = ["--no-bf16", "--save-every", "2", "--log-every", "1", "--stages.0.steps", "4"]
STEPS = ["--stages.0.optim.warmup", "1", "--stages.0.optim.lr", "0.05"]
PLANNING = ["--lora-rank", "2", "--requests-per-step", "4", "--workers", "0"]
JOINING = ["--data.pictures-per-step", "2", "--data.resolutions", "32", "--data.workers", "0"]
SMALL = ["--data.validation", "0", "--hidden", "16", "--positions", "12", "--tokens", "3"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for number, colour in enumerate(("red", "green", "blue", "white") * 2):
        Image.new("RGB", (32, 32), colour).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"a {colour} square")
    assert main(["data", "index", str(folder)]) == 0
    return folder


def contents(*folders):
    return {path: path.read_bytes() for folder in folders for path in folder.rglob("*") if path.is_file()}


def test_a_planner_learns_through_adapters_and_is_exported_whole(models, tmp_path, capsys):
    start = models / "over-seeing"
    frozen = contents(models / "seeing", models / "wan")
    run, out = tmp_path / "run", tmp_path / "model"
    command = ["train", "unison-planner", "-o", str(run), "--start", str(start), "--sample-every", "2"]
    assert main([*command, *EVERY, *STEPS, *PLANNING]) == 0
    assert main(["export", str(run), "-o", str(out)]) == 0
    assert contents(models / "seeing", models / "wan") == frozen
    old, new = Language.load(models / "seeing"), Language.load(out / "planner")
    for name, tensor in old.model.state_dict().items():
        # rows behind the old words were nobody's, and are new tokens' now
        count = len(old.tokenizer) if "embed_tokens" in name or "lm_head" in name else len(tensor)
        same = torch.equal(new.model.state_dict()[name][:count], tensor[:count])
        assert same != ("language_model.layers" in name and "proj.weight" in name), name
    losses = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert any("validation" in line for line in losses)
    assert "unison-planner" in card(out)["name"]
    assert (
        main(["plan", "a red square", "--task", "text-to-image", "--prompt", "x", "--model", str(out)]) == 0
    )


@pytest.fixture(scope="module")
def joined(models, pictures, tmp_path_factory):
    """A run of the projector that has ended, and what it left of planner and generator."""
    run = tmp_path_factory.mktemp("joined") / "run"
    before = contents(models / "plain", models / "wan")
    command = ["train", "unison-projector", "-o", str(run), "--start", str(models / "over-plain")]
    assert main([*command, "--pictures", str(pictures), *EVERY, *STEPS, *JOINING, *SMALL]) == 0
    return run, before


def test_the_projector_alone_learns(models, joined, tmp_path):
    run, before = joined
    family, config = read_run(run)
    job = family.job(config, tmp_path, open_system)
    parts = {"planner": job.language.model, "generator": job.generator.model, "text": job.generator.encoder}
    parts["space"] = job.generator.space.autoencoder.model
    was = {
        f"{part}.{name}": tensor.clone()
        for part, module in parts.items()
        for name, tensor in module.state_dict().items()
    }
    fresh = dict(job.starting_values())
    trainer = Trainer(job, tmp_path, quiet=True)
    trainer.train()
    assert all(not torch.equal(fresh[name], value) for name, value in trainer.model.named_parameters())
    for part, module in parts.items():
        for name, tensor in module.state_dict().items():
            assert torch.equal(tensor, was[f"{part}.{name}"]), (part, name)
        assert all(parameter.grad is None for parameter in module.parameters())
    assert contents(models / "plain", models / "wan") == before


def test_a_run_that_was_stopped_ends_as_one_that_was_not(joined, models, pictures, tmp_path):
    run, _ = joined
    family, config = read_run(run)
    stopped = Trainer(family.job(config, tmp_path, open_system), tmp_path, quiet=True)
    told = stopped.log.step

    def tell(number, *rest):
        told(number, *rest)
        stopped.asked_to_stop = number == 1

    stopped.log.step = tell
    with pytest.raises(KeyboardInterrupt):
        stopped.train()
    resumed = train(family, config, tmp_path, open_system, quiet=True).model
    straight = family.job(config, run, open_system)
    again = train(family, config, run, open_system, quiet=True).model
    assert straight.start is None
    for (name, one), (_, other) in zip(resumed.named_parameters(), again.named_parameters(), strict=True):
        assert torch.equal(one, other), name


def test_an_exported_projector_tells_the_generator_of_the_prompt(joined, models, tmp_path):
    run, _ = joined
    out = tmp_path / "deep" / "model"
    assert main(["export", str(run), "-o", str(out)]) == 0
    assert sorted(path.name for path in out.iterdir()) == [
        "card.json",
        "projector.safetensors",
        "unison.json",
    ]
    system = open_system(out)
    carrier = system.carrier(Task.TEXT_TO_IMAGE)
    (condition,) = (carrier.read([Prompt("a cat")], [Stack(32, 32)]),)
    bare = carrier.generator.read([Prompt("a cat")], [Stack(32, 32)])
    assert len(condition.text[0]) == len(bare.text[0]) + 3
    states = system.language.states("a cat")
    torch.testing.assert_close(condition.text[0][-3:], system.projector(states)[0])
    assert not system.projector.training


def test_a_generator_that_takes_nothing_behind_its_text_is_refused(joined, models, tmp_path):
    run, _ = joined
    assert main(["export", str(run), "-o", str(models / "for-pictures")]) == 0
    told = json.loads((models / "for-pictures" / "unison.json").read_text())
    told["generators"] = [{"model": "default", "projected": True}]
    (models / "for-pictures" / "unison.json").write_text(json.dumps(told))
    (models / "for-pictures" / "card.json").unlink()
    with pytest.raises(ModelFolderError, match="takes nothing behind its text"):
        open_system(models / "for-pictures").carrier(Task.TEXT_TO_IMAGE)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "needs a model to start from"),
        (["--start", "default"], "has no unison.json"),
        (["--start", "over-plain"], "needs --pictures"),
        (["--start", "unmarked"], "no generator is marked as projected"),
    ],
)
def test_a_run_that_lacks_something_says_what(models, tmp_path, monkeypatch, capsys, arguments, says):
    tiny_unison.compose(models / "unmarked", "../plain", [{"model": "../wan"}])
    monkeypatch.chdir(models)
    assert main(["train", "unison-projector", "-o", str(tmp_path / "run"), *arguments]) != 0
    assert says in " ".join(capsys.readouterr().err.split())
