"""Training on one's own data: what is laid out, packed, dropped, weighed, adapted, and gone on with."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import golden_files
import numpy as np
import pytest
import torch
from own_data import said, write_lines, write_list
from PIL import Image
from safetensors.torch import load_file, save_file

from diptych import cli, surgery
from diptych.contracts import NOISY, Picture, Sample, Turn, Written
from diptych.data.conversations.forms import END_THINK, IMAGE
from diptych.data.conversations.loader import DocumentDataset, LoaderConfig
from diptych.data.conversations.packing import collate, pack
from diptych.data.conversations.template import Template
from diptych.data.conversations.tokens import NO_LABEL
from diptych.data.mixture import Mixture
from diptych.models.mot import MoT
from diptych.models.vgg import open_perceptual
from diptych.request import Plan
from diptych.systems import registry
from diptych.systems.u1 import shown
from diptych.systems.u1.conversation import Conversation
from diptych.systems.u1.files import read_contents, stored_weights
from diptych.systems.u1.job import export, make_job
from diptych.systems.u1.lora import Merged, read_adapters
from diptych.systems.u1.packed import JointTask, Weighing
from diptych.systems.u1.probe import micro_batch, probe
from diptych.systems.u1.published import is_published
from diptych.systems.u1.recipes import RECIPES
from diptych.systems.u1.sources import sources_of, vocabulary
from diptych.training.memory import estimate
from diptych.training.parallel import fill
from diptych.training.run import train
from diptych.training.trainer import Trainer

FAMILY = next(family for family in registry.FAMILIES if family.name == "u1")


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return golden_files.write_folder("u1_folder/model", tmp_path_factory.mktemp("published") / "model")


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    return write_list(tmp_path)


def small(published: Path, listed: Path, **changes: Any) -> Any:
    """A run from the published folder on pictures of a few tokens."""
    dials = {name: changes.pop(name) for name in ("lora", "part") if name in changes}
    config = RECIPES["u1"](start=str(published), **dials)
    bounds = replace(config.conversation.read, least=1024, most=4096)
    base = {
        "meta": (str(listed),),
        "draw_pixels": (1024, 4096),
        "conversation": replace(config.conversation, read=bounds, source=bounds),
        "data": LoaderConfig(documents_per_step=5, row_tokens=200, workers=0, validation=0.2),
        "stages": tuple(replace(stage, steps=4) for stage in config.stages),
        "bf16": False,
        "save_every": 2,
        "sample_every": 100,
    }
    return replace(config, **{**base, **changes})


def never(name: str) -> Any:
    raise AssertionError(f"{name} was opened")


def made(config: Any, folder: Path) -> Any:
    job = make_job(config, folder, never)
    job.task.to_empty(device="cpu")
    fill(job.model, job.starting_values())
    return job


@pytest.fixture(scope="module")
def template(published: Path) -> Template:
    contents, tokenizer = read_contents(published)
    return contents.conversation.template(tokenizer, contents.model.token)


def picture(drawn: bool = False, width: int = 64, shade: int = 9) -> Picture:
    return Picture(np.full((32, width, 3), shade, dtype=np.uint8), drawn)


@pytest.mark.parametrize("edit", [False, True])
@pytest.mark.parametrize("thought", ["", "<think>red,\nthen round </think>"])
@pytest.mark.parametrize(("no_text", "no_pictures"), [(False, False), (True, False), (True, True)])
def test_a_picture_is_learnt_behind_what_it_is_drawn_behind(template, edit, thought, no_text, no_pictures):
    user = Turn("user", (picture(), "\nmake it red") if edit else ("a red one",))
    task = "edit" if edit else "generate"
    parts = (thought, picture(True)) if thought else (picture(True),)
    learnt = template.write(Sample((user, Turn("assistant", parts)), task), no_text, no_pictures)
    words = template.tokenizer.encode("red,\nthen round\n")
    said = Written((*words, template.tokenizer.ids[END_THINK])) if thought and not no_text else None
    before = template.drawing_prefix(Sample((user,), task), no_text, no_pictures, said)
    end = len(before)
    assert learnt.ids[:end].tolist() == before.ids.tolist()
    assert learnt.positions[:end].tolist() == before.positions.tolist()
    assert (learnt.kind[end:] == NOISY).all()
    assert learnt.kind[:end].tolist() == before.kind.tolist()


def test_a_story_learns_where_a_picture_begins_and_that_all_is_told(template):
    parts = ("once", picture(True), "then", picture(True, 32))
    learnt = template.write(Sample((Turn("user", ("a tale",)), Turn("assistant", parts)), "interleave"))
    told = learnt.labels[learnt.labels != NO_LABEL].tolist()
    ids = template.tokenizer.ids
    words = [template.tokenizer.encode(word) for word in ("once", "then")]
    assert told == [*words[0], ids[IMAGE], *words[1], ids[IMAGE], template.end]
    assert len(learnt.noisy) == len(learnt.clean) == 2
    # the time after a picture is the same as if there were one copy of it
    prefix = template.story_prefix(
        Sample((Turn("user", ("a tale",)), Turn("assistant", parts[:3])), "interleave")
    )
    live = (learnt.kind != NOISY) & ~learnt.dead
    count = len(prefix)
    assert learnt.positions[live][:count].tolist() == prefix.positions.tolist()
    assert learnt.ids[live][:count].tolist() == prefix.ids.tolist()


def test_a_story_without_its_text_and_pictures_is_its_last_picture_alone(template):
    parts = ("once", picture(True), "then", picture(True, 32))
    sample = Sample((Turn("user", ("a tale",)), Turn("assistant", parts)), "interleave")
    alone = template.write(sample, drop_text=True, drop_pictures=True)
    assert [pixels.shape[1] for pixels in alone.noisy] == [32]
    assert not alone.clean
    assert (alone.labels == NO_LABEL).all()
    pictures = template.write(sample, drop_text=True)
    assert [len(pictures.noisy), len(pictures.clean)] == [2, 1]


class Always:
    """A source of one sample."""

    name = "always"

    def __init__(self, sample: Sample) -> None:
        self.sample = sample

    def draw(self, number: int) -> Sample:
        return self.sample


@pytest.mark.parametrize(
    ("source", "expected"),
    [((), (0.1, 0.0)), ((picture(),), (0.1, 0.1)), ((picture(), picture()), (0.1, 0.1))],
)
def test_guidance_dropout_has_the_published_shares_over_10_000_samples(template, source, expected):
    task = "edit" if source else "generate"
    sample = Sample((Turn("user", (*source, "red")), Turn("assistant", (picture(True),))), task)
    mixture = Mixture({"always": Always(sample)}, {"always": 1.0}, 0)
    data = DocumentDataset(mixture, template, LoaderConfig())
    counted = [data.dropped(n, sample) for n in range(10_000)]
    text, both = expected
    assert np.mean([found == (True, False) for found in counted]) == pytest.approx(text, abs=0.01)
    assert np.mean([found == (True, True) for found in counted]) == pytest.approx(both, abs=0.01)
    assert not any(found == (False, True) for found in counted)
    asked = Sample((Turn("user", (*source, "red?")), Turn("assistant", ("yes",))), "understand")
    assert data.dropped(0, asked) == (False, False)


def test_rows_have_a_budget_of_pictures_too():
    lengths, pictures = [10, 9, 8, 7, 6], [2, 2, 1, 1, 9]
    assert pack(lengths, 100, pictures, 4) == [[0, 1], [2, 3], [4]]
    assert pack(lengths, 100) == [[0, 1, 2, 3, 4]]


def gradients(model: MoT) -> dict[str, torch.Tensor]:
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


def test_packed_rows_of_every_kind_are_what_their_samples_are_alone(published, listed, tmp_path):
    job = made(small(published, listed), tmp_path)
    data = job.dataset(job.config.stages[0], 0, 1)
    documents = [data.document(n) for n in range(12)]
    assert len({document.task for document in documents}) >= 4
    keys = list(range(12))
    packed = collate(pack([len(d) for d in documents], 600), documents, keys, job.template.pad)
    assert len(packed.kind) < 6
    weights = {"text": 0.1, "flow": 1.0}

    def backward(batches: list[Any]) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
        sums = dict.fromkeys(weights, 0.0)
        for batch in batches:
            losses = job.task(batch)
            torch.stack([weights[name] * losses.sums[name] for name in weights]).sum().backward()
            for name in sums:
                sums[name] += float(losses.sums[name].detach())
        return sums, gradients(job.model)

    together, expected = backward([packed])
    alone, found = backward(
        [
            collate([[0]], [document], [key], job.template.pad)
            for document, key in zip(documents, keys, strict=True)
        ]
    )
    for name in weights:
        assert alone[name] == pytest.approx(together[name], rel=1e-5)
    for name, gradient in found.items():
        limit = 1e-5 * max(1.0, float(expected[name].abs().max()))
        torch.testing.assert_close(gradient, expected[name], rtol=0, atol=limit, msg=name)
    assert job.totals(packed)["text"] == pytest.approx(
        sum(float((d.labels != NO_LABEL).sum()) ** 0.5 for d in documents)
    )


@torch.no_grad()
def test_losses_weigh_lengths_by_their_root_or_plainly(published, listed, tmp_path):
    job = made(small(published, listed), tmp_path)
    batch = job.dataset(job.config.stages[0], 0, 1)[0].batches[0]
    for weighing, power in ((Weighing(text="root", flow="root"), 0.5), (Weighing(flow="plain"), 1.0)):
        task = JointTask(job.model, job.config.flow, weighing=weighing)
        losses = task(batch)
        counts = torch.bincount(losses.text_owner)
        by_hand = (losses.text_tokens * counts[losses.text_owner].float() ** (power - 1)).sum()
        torch.testing.assert_close(losses.sums["text"], by_hand, rtol=1e-5, atol=1e-5)
        tokens = [run.shape[-1] * run.shape[-2] / 1024 for run in batch.noisy for _ in run]
        flow = (losses.flow_pictures * torch.tensor(tokens) ** power).sum()
        torch.testing.assert_close(losses.sums["flow"], flow, rtol=1e-5, atol=1e-5)
        assert task.totals(batch)["flow"] == pytest.approx(sum(count**power for count in tokens))
    with pytest.raises(ValueError, match=r"weighing\.text must be root or plain, got 'mean'"):
        Weighing(text="mean")


def vgg(path: Path, lpips: bool = False) -> Path:
    generator = torch.Generator().manual_seed(0)
    shapes = {0: (4, 3), 2: (4, 4), 5: (6, 4)}
    weights = {
        f"features.{n}.weight": torch.randn(*shape, 3, 3, generator=generator) for n, shape in shapes.items()
    }
    weights |= {f"features.{n}.bias": torch.zeros(shape[0]) for n, shape in shapes.items()}
    if lpips:
        weights |= {f"lin{n}.model.1.weight": torch.zeros(1, c, 1, 1) for n, c in enumerate((4, 6))}
    save_file(weights, path)
    return path


def test_a_perceptual_network_of_ones_own_is_a_third_loss(published, listed, tmp_path):
    looks = open_perceptual(vgg(tmp_path / "vgg.safetensors"))
    a, b = torch.rand(2, 3, 32, 48), torch.rand(2, 3, 32, 48, requires_grad=True)
    assert looks(a, a).tolist() == [0.0, 0.0]
    looks(a, b).sum().backward()
    assert bool(b.grad.isfinite().all())
    assert float(b.grad.abs().max()) > 0
    assert open_perceptual(vgg(tmp_path / "lpips.safetensors", lpips=True))(a, b).tolist() == [0.0, 0.0]
    # a picture of one colour has no features in it, and a slope all the same
    flat = torch.zeros(1, 3, 32, 32, requires_grad=True)
    looks(a[:1, :, :, :32], flat).sum().backward()
    assert bool(flat.grad.isfinite().all())
    job = made(small(published, listed, perceptual=str(tmp_path / "vgg.safetensors")), tmp_path / "run")
    assert job.loss_names == ("text", "flow", "perceptual")
    assert job.loss_weights(job.config.stages[0]) == {"text": 0.1, "flow": 1.0, "perceptual": 0.1}
    losses = job.task(job.dataset(job.config.stages[0], 0, 1)[0].batches[0])
    assert losses.sums["perceptual"].item() > 0
    assert not any("features" in name for name, _ in job.task.named_parameters())


def test_a_file_that_is_no_such_network_is_refused(tmp_path):
    save_file({"features.0.weight": torch.zeros(1)}, tmp_path / "flat.safetensors")
    save_file({"conv.weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    for name, message in (
        ("none.safetensors", "has no none.safetensors"),
        ("vgg.pth", "a .safetensors file of a VGG is needed"),
        ("other.safetensors", "is no VGG in torchvision's names"),
        ("flat.safetensors", r"features\.0 is no 3x3 convolution"),
    ):
        with pytest.raises(ValueError, match=message):
            open_perceptual(tmp_path / name)


@pytest.mark.parametrize("part", ["understanding", "generation", "all"])
def test_adapters_of_either_stream_go_there_and_back(published, listed, tmp_path, part):
    job = made(small(published, listed, lora=2, part=part), tmp_path / "run")
    adapters = surgery.lora_weights(job.model)
    streams = {name.split(".")[2] for name in adapters}
    assert streams == {"understanding": {"und"}, "generation": {"gen"}, "all": {"und", "gen"}}[part]
    for name, parameter in job.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05, generator=torch.Generator().manual_seed(len(name)))
    about = {"name": "toy", "steps": 1, "recipe": {}, "parents": []}
    system = export(job, about, tmp_path / "out")
    path = tmp_path / "out-lora.safetensors"
    assert all(key.startswith("language_model.model.layers.") for key in load_file(path))
    read = read_adapters(path, job.config.model)
    merged = Merged(stored_weights(published), read, path)
    for name, value in system.model.state_dict().items():
        torch.testing.assert_close(merged[name].float(), value, rtol=0.02, atol=0.02)
    assert sum(not torch.equal(merged[n], stored_weights(published)[n]) for n in merged) == len(adapters)


def trained(config: Any, folder: Path) -> dict[str, torch.Tensor]:
    trainer = train(FAMILY, config, folder, registry.open_system, quiet=True)
    return {name: parameter.detach().clone() for name, parameter in trainer.model.named_parameters()}


def test_a_run_on_ones_own_data_goes_on_to_the_bit(published, listed, tmp_path):
    config = small(published, listed)
    straight = trained(config, tmp_path / "straight")
    stopped = Trainer(
        FAMILY.job(config, tmp_path / "cut", registry.open_system), tmp_path / "cut", quiet=True
    )
    told = stopped.log.step

    def tell(number: int, *rest: Any) -> None:
        told(number, *rest)
        stopped.asked_to_stop = number == 1

    stopped.log.step = tell  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        stopped.train()
    assert stopped.step == 2
    # what it started from may be gone by then
    away = published.rename(tmp_path / "away")
    resumed = trained(config, tmp_path / "cut")
    away.rename(published)
    assert [name for name in straight if not torch.equal(straight[name], resumed[name])] == []
    start = stored_weights(published)
    assert any(not torch.equal(start[name].float(), value) for name, value in straight.items())


def test_a_vocabulary_is_learnt_from_ones_own_texts_or_named(published, listed, tmp_path):
    config = replace(small(published, listed), start="", mixture={"my-t2i": 0.5, "my-none": 0.5})
    learnt = vocabulary(config, sources_of(config))
    assert len(learnt.encode("is")) == 1
    config = replace(config, tokenizer=str(published))
    assert vocabulary(config, {}).encode("hello") == read_contents(published)[1].encode("hello")
    learnt.save(tmp_path / "plain.json")
    values = json.loads((tmp_path / "plain.json").read_text())
    values["added_tokens"] = []
    (tmp_path / "plain.json").write_text(json.dumps(values))
    words = vocabulary(replace(config, tokenizer=str(tmp_path / "plain.json")), {})
    assert words.decode_exactly([words.ids["<think>"], words.ids["<img>"]]) == "<think>"
    fresh = replace(config, tokenizer="", conversation=Conversation(form="neo1_0"))
    assert make_job(fresh, tmp_path / "run", never).start is None


def test_memory_is_told_of_the_runs_own_micro_batches(published, listed):
    one = small(published, listed)
    more = replace(one, data=replace(one.data, documents_per_step=20, row_tokens=800))
    assert probe(more).block_input > 2 * probe(one).block_input


def test_the_perceptual_networks_share_of_memory_is_told(published, listed, tmp_path):
    plain = small(published, listed)
    looked = replace(plain, perceptual=str(vgg(tmp_path / "vgg.safetensors")))
    held = [estimate(config, probe(config)).activations for config in (plain, looked)]
    # at least the features of the first layer, of each picture to draw and of what is predicted
    pixels = sum(run.shape[0] * run.shape[2] * run.shape[3] for run in micro_batch(plain).noisy)
    width = load_file(tmp_path / "vgg.safetensors")["features.0.weight"].shape[0]
    assert held[1] - held[0] > 2 * 2 * pixels * width


def test_the_public_commands_train_export_and_convert_a_published_folder(published, listed, tmp_path, capsys):
    run, ours, theirs = tmp_path / "run", tmp_path / "ours", tmp_path / "theirs"
    sizes = ("--conversation.read.least", "1024", "--conversation.source.least", "1024")
    most = ("--conversation.source.most", "4096", "--draw-pixels", "1024", "4096")
    arguments = ["--start", str(published), "--meta", str(listed), *sizes, *most]
    steps = ["--stages.0.steps", "2", "--sample-every", "2", "--data.workers", "0", "--no-bf16"]
    assert cli.main(["train", "u1", "-o", str(run), *arguments, *steps, "--data.validation", "0.3"]) == 0
    row = json.loads((run / "log.jsonl").read_text().splitlines()[-1])
    assert row["step"] == 2
    assert row["validation"] > 0
    assert (run / "samples" / "step-00000002.png").is_file()
    assert "model:" in (run / "samples" / "step-00000002.txt").read_text()
    assert cli.main(["export", str(run), "-o", str(ours)]) == 0
    assert cli.main(["convert", str(ours), str(theirs), "--to", "u1"]) == 0
    assert is_published(theirs)
    start, back = stored_weights(published), stored_weights(theirs)
    assert set(start) == set(back)
    assert any(not torch.equal(start[name].float(), back[name].float()) for name in start)
    kept = read_contents(theirs)[0]
    assert kept.native == 64
    assert kept.conversation.source.most == 4096
    contents = read_contents(published)[0]
    assert (kept.model, kept.flow) == (contents.model, contents.flow)
    capsys.readouterr()


def test_samples_of_any_shape_and_words_are_shown_or_passed_over(published, tmp_path, monkeypatch):
    Image.new("RGB", (48, 40), "red").save(tmp_path / "red.png")
    Image.new("RGB", (4000, 40), "red").save(tmp_path / "strip.png")
    rows = [
        said("<image><image> as one", "<image>", *["red.png"] * 3),
        said("an icon of 300x200 px and one of 64x64 px", "<image>", "red.png"),
        said("", "<image>", "red.png"),
        said("a strip", "<image>", "strip.png"),
        said("<image>" * 11 + "which?", "the first", *["red.png"] * 11),
    ]
    path = write_lines(tmp_path / "mine.jsonl", *rows)
    config = small(published, path, meta=(), jsonl=(str(path),), draw_pixels=(1024, 512**2))
    config = replace(config, data=replace(config.data, validation=0.0))
    job = made(config, tmp_path / "run")
    drawn: list[Plan] = []
    real = shown.draw

    def spied(system: Any, plans: list[Plan], *rest: Any, **more: Any) -> Any:
        drawn.extend(plans)
        return real(system, plans, *rest, **more)

    monkeypatch.setattr(shown, "draw", spied)
    job.sample(tmp_path / "sheet.png")
    told = {plan.prompt: plan.inputs for plan in drawn}
    assert told == {
        "<image><image> as one": ("source", "reference"),
        "an icon of 300x200 px and one of 64x64 px": (),
    }
    assert (tmp_path / "sheet.png").is_file()
