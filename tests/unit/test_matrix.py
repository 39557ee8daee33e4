"""The same matrix over every registered family and a toy that a stranger wrote: one folder, one line.

Each is trained for a few steps at toy size through its recipe; what comes out is read, denoised, compiled,
saved, grown, pruned, adapted, drawn and trained on.
"""

import dataclasses
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from toy_system import family as toy

from diptych.cli import main
from diptych.commands.train import resolve
from diptych.contracts import Condition, Prompt, Stack, System
from diptych.family import Family
from diptych.files import folder as model_folder
from diptych.files import weights as weight_files
from diptych.inference import Pipeline, draw
from diptych.request import Task
from diptych.surgery import grow, prune, widen
from diptych.systems import registry
from diptych.training.export import export
from diptych.training.identity import check_same
from diptych.training.memory import estimate
from diptych.training.run import train
from diptych.training.trainer import Trainer

OF_OTHERS = {"wan", "unison"}
"""Families over models that others made, whose blocks stay as they are: they have tests of their own."""
FAMILIES = (*(family for family in registry.FAMILIES if family.name not in OF_OTHERS), toy.FAMILY)
STEPS = 4


def tiny_u1(folder: Path) -> list[str]:
    return ["emoji-small", "--size", "2", "--data.documents-per-step", "2", "--data.workers", "0"]


def plain_squares(folder: Path, side: int) -> Path:
    """Eight pictures in plain colours with their captions, indexed."""
    folder.mkdir(parents=True)
    for number, colour in enumerate(("red", "green", "blue", "white") * 2):
        Image.new("RGB", (side, side), colour).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"a {colour} square")
    assert main(["data", "index", str(folder)]) == 0
    return folder


def tiny_sana(folder: Path) -> list[str]:
    """Squares in plain colours, and a small autoencoder as diffusers writes it."""
    import published

    pictures = plain_squares(folder / "pictures", 32)
    published.pipeline(folder / "published")
    places = ["--pictures", str(pictures), "--space", str(folder / "published" / "vae")]
    sizes = ["--model.depth", "2", "--model.width", "64", "--model.cross-heads", "2", "--text.heads", "2"]
    sizes += ["--model.channels", "4"]
    data = ["--model.caption-channels", "32", "--data.pictures-per-step", "2", "--data.resolutions", "32"]
    return ["sana-small", *places, *sizes, *data, "--data.workers", "0", "--data.validation", "0"]


def tiny_blip3o(folder: Path) -> list[str]:
    """Squares in plain colours, as features of a tower, behind a model of ours."""
    import tiny_blip3o

    tiny_blip3o.house(folder)
    pictures = plain_squares(folder / "pictures", 64)
    places = ["--pictures", str(pictures), "--space", str(folder / "space")]
    places += ["--backbone", str(folder / "ours")]
    sizes = ["--model.depth", "2", "--model.width", "32", "--model.heads", "2", "--model.ffn-width", "32"]
    sizes += ["--bridge.kind", "queries", "--bridge.queries", "4"]
    data = ["--data.pictures-per-step", "2", "--data.resolutions", "64", "--data.workers", "0"]
    return ["blip3o", *places, *sizes, *data, "--data.validation", "0"]


def tiny_toy(folder: Path) -> list[str]:
    return ["toy"]


TINY: dict[str, Callable[[Path], list[str]]] = {
    "u1": tiny_u1,
    "sana": tiny_sana,
    "blip3o": tiny_blip3o,
    "toy": tiny_toy,
}
"""A family's recipe at toy size, with what it needs made in a folder."""
EVERY = ["--no-bf16", "--save-every", "2", "--log-every", "1", "--sample-every", "1000000", "--ema", "0.9"]
STAGE = ["--stages.0.steps", str(STEPS), "--stages.0.optim.name", "adamw"]


class Trained(NamedTuple):
    """A family with a run of it that has ended, and the model that was exported."""

    family: Family
    config: Any
    run: Path
    model: Path

    def system(self) -> System:
        return registry.open_system(str(self.model))


@pytest.fixture(scope="module", params=[family.name for family in FAMILIES])
def trained(request, tmp_path_factory) -> Iterator[Trained]:
    if request.param == "u1":
        # its data are the emoji world's
        request.getfixturevalue("world")
    folder = tmp_path_factory.mktemp(request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "FAMILIES", FAMILIES)
        name, *arguments = TINY[request.param](folder)
        family, recipe = registry.recipes()[name]
        run, config = resolve(name, recipe, ["-o", str(folder / "run"), *arguments, *EVERY, *STAGE])
        config = train(family, config, run, registry.open_system, quiet=True).config
        export(family, config, run, folder / "model", registry.open_system, command="here", hardware="this")
        yield Trained(family, config, run, folder / "model")


def test_every_registered_family_is_in_the_matrix():
    assert set(TINY) | OF_OTHERS == {family.name for family in (*registry.FAMILIES, toy.FAMILY)}


def read(system: System, *words: str) -> Condition:
    side = system.native
    return system.read([Prompt(word) for word in words], [Stack(side, side)] * len(words))


def noisy(system: System, rows: int) -> torch.Tensor:
    shape = system.space.shape(system.native, system.native)
    return torch.randn((rows, *shape), generator=torch.Generator().manual_seed(0))


def velocity(system: System) -> torch.Tensor:
    """What a model computes, as one tensor."""
    with torch.no_grad():
        return system.denoise(noisy(system, 1), torch.tensor([0.6]), read(system, "a red square"))


def test_rows_are_denoised_each_at_its_own_level_as_if_alone(trained):
    system = trained.system()
    levels, x = torch.tensor([0.2, 0.5, 0.9]), noisy(system, 3)
    with torch.no_grad():
        condition = read(system, "a red square", "two blue squares", "green")
        together = system.denoise(x, levels, condition)
        frames = system.denoise(x, levels[:, None], condition)
        alone = [system.denoise(x[i : i + 1], levels[i : i + 1], condition.rows([i])) for i in range(3)]
    assert len(condition) == 3
    assert condition.scale.shape == (3,)
    assert together.shape == x.shape
    assert together.dtype == torch.float32
    assert together.isfinite().all()
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(frames, together, atol=1e-6, rtol=1e-6)
    assert not torch.allclose(together[0], together[1])


def test_dropping_text_changes_the_rows_that_are_dropped_and_no_other(trained):
    system = trained.system()
    levels, x = torch.tensor([0.5, 0.5]), noisy(system, 1).expand(2, -1, -1, -1, -1)
    with torch.no_grad():
        condition = read(system, "a red square", "a red square")
        half = condition.dropped(torch.tensor([False, True]), torch.tensor([False, False]))
        kept, dropped = system.denoise(x, levels, half)
        null = condition.rows([0]).dropped(torch.tensor([True]), torch.tensor([True]))
        joined = system.denoise(x, levels, condition.rows([0]).joined([null]))
    torch.testing.assert_close(joined, torch.stack([kept, dropped]), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(kept[None], velocity_at(system, x[:1], 0.5), atol=1e-5, rtol=1e-5)
    assert not torch.equal(kept, dropped)


def test_a_condition_has_rows_and_everything_else_one_entry_for_each(trained):
    system = trained.system()
    condition, side = read(system, "a red square", "blue"), system.native
    no, yes = torch.zeros(2, dtype=torch.bool), torch.ones(3, dtype=torch.bool)
    for wrong in (
        lambda: system.read([], []),
        lambda: system.read([Prompt("a")], []),
        lambda: system.read([Prompt("a")], [Stack(side, side)] * 2),
        lambda: condition.rows([]),
        lambda: condition.dropped(yes, no),
        lambda: condition.dropped(no, yes),
        lambda: condition.dropped(no[:1], no),
    ):
        with pytest.raises(ValueError, match=r"at least one row|must have one entry a row"):
            wrong()
    condition.prepare()
    with pytest.raises(ValueError, match="at least one row"):
        condition.rows([])


def test_adapters_want_a_stage_that_trains_them_and_the_stage_wants_adapters(trained):
    stage = dataclasses.replace(trained.config.stages[0], name="adapters", trainable="lora")
    with pytest.raises(ValueError, match="a stage trains 'lora', but lora_rank is 0"):
        dataclasses.replace(trained.config, stages=(stage,))
    with pytest.raises(ValueError, match="lora_rank is 2, but no stage trains 'lora'"):
        dataclasses.replace(trained.config, lora_rank=2)
    dataclasses.replace(trained.config, lora_rank=2, stages=(*trained.config.stages, stage))
    # a stage of no steps trains nothing
    dataclasses.replace(trained.config, stages=(*trained.config.stages, dataclasses.replace(stage, steps=0)))
    with pytest.raises(ValueError, match="trainable must be one of all, "):
        dataclasses.replace(stage, trainable="nothing")


def velocity_at(system: System, x: torch.Tensor, level: float) -> torch.Tensor:
    with torch.no_grad():
        return system.denoise(x, torch.tensor([level]), read(system, "a red square"))


def test_gradients_reach_every_block_through_read_and_denoise(trained):
    system = trained.system()
    for parameter in system.model.parameters():
        parameter.requires_grad_(True)
    condition = read(system, "a red square", "blue")
    system.denoise(noisy(system, 2), torch.tensor([0.3, 0.8]), condition).square().mean().backward()
    for block in system.model.blocks:
        reached = [p.grad for p in block.parameters() if p.grad is not None]
        assert reached
        assert all(gradient.isfinite().all() for gradient in reached)
        assert any(gradient.abs().sum() > 0 for gradient in reached)


def test_a_compiled_block_computes_the_same(trained):
    plain, compiled = trained.system(), trained.system()
    compiled.model.blocks[0].compile(backend="aot_eager")
    torch.testing.assert_close(velocity(compiled), velocity(plain), atol=1e-5, rtol=1e-5)


def reopened(system: System, folder: Path) -> System:
    system.save(folder)
    return registry.open_system(str(folder))


def test_a_saved_model_is_the_same_when_it_is_opened(trained, tmp_path):
    system = trained.system()
    again = reopened(system, tmp_path / "again")
    assert again.family == trained.family.name
    assert torch.equal(velocity(again), velocity(system))
    assert again.settings == system.settings


def test_a_folder_says_what_its_model_can_do_and_the_system_says_the_same(trained):
    system, told = trained.system(), registry.settings_of(trained.model)
    assert told == system.settings
    assert (told.native, told.sampler) == (system.native, system.sampler)
    for size in ((1, 1), (told.native, 3 * told.native), (37, 1000)):
        assert told.round_size(*size) == system.space.round_size(*size)
        fitted = system.fit(np.zeros((size[1], size[0], 3), np.uint8)).shape
        assert told.read_size(*size) == (fitted[1], fitted[0]) or Task.EDIT not in told.tasks


def test_what_a_model_can_do_is_told_without_torch(trained):
    if trained.family is toy.FAMILY:
        # its record imports what it needs at once, as a small one may
        return
    code = f"""
import sys
from diptych.systems.registry import settings_of

settings_of({str(trained.model)!r})
print(*sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert not {"torch", "numpy", "diffusers", "transformers"} & set(done.stdout.split())


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"seed": 5}, "begun with seed 0, not 5: leave --seed out"),
        ({"name": "other"}, "begun with name '.*', not 'other'"),
        ({"ema": 0.5}, "begun with ema 0.9, not 0.5"),
        ({"start": "default"}, "begun with start '', not 'default'"),
        ("optim", "begun with stages.0.optim.name 'adamw', not 'muon'"),
        ("stages", "begun with stages "),
    ],
)
def test_a_run_goes_on_with_what_it_was_begun_with_alone(trained, tmp_path, wrong, says):
    """And is refused before anything in its folder is written."""
    run, stage = tmp_path / "run", trained.config.stages[0]
    shutil.copytree(trained.run, run)
    if wrong == "optim":
        wrong = {"stages": (dataclasses.replace(stage, optim=dataclasses.replace(stage.optim, name="muon")),)}
    elif wrong == "stages":
        wrong = {"stages": (stage, dataclasses.replace(stage, name="second"))}
    before = contents(run)
    with pytest.raises(ValueError, match=says):
        check_same(run, trained.family.name, dataclasses.replace(trained.config, **wrong))
    if "start" not in wrong:
        # a model to start from must be of the same family, which is looked at first
        with pytest.raises(ValueError, match=says):
            train(trained.family, dataclasses.replace(trained.config, **wrong), run, registry.open_system)
    assert contents(run) == before


def test_a_run_that_goes_on_may_be_longer_and_be_saved_more_often(trained, tmp_path):
    stage = trained.config.stages[0]
    longer = dataclasses.replace(stage, steps=stage.steps + 1)
    check_same(
        trained.run,
        trained.family.name,
        dataclasses.replace(trained.config, save_every=7, keep=3, stages=(longer,)),
    )


def test_another_family_does_not_take_over_a_run(trained):
    with pytest.raises(ValueError, match=f"of the family {trained.family.name}, not another"):
        check_same(trained.run, "another", trained.config)


def test_a_grown_model_computes_the_same_and_opens(trained, tmp_path):
    system = trained.system()
    before, depth = velocity(system), len(system.model.blocks)
    system.model = grow(system.model, depth + 1, keep=depth)
    assert torch.equal(velocity(system), before)
    assert torch.equal(velocity(reopened(system, tmp_path / "grown")), before)


def test_a_wide_model_computes_the_same(trained):
    system = trained.system()
    before = velocity(system)
    system.model = widen(system.model, 2 * system.model.config.width)
    torch.testing.assert_close(velocity(system), before, atol=1e-4, rtol=1e-4)


def test_a_pruned_model_has_fewer_blocks_and_opens(trained, tmp_path):
    system = trained.system()
    system.model = prune(system.model, range(len(system.model.blocks) - 1))
    smaller = reopened(system, tmp_path / "pruned")
    assert len(smaller.model.blocks) == len(trained.system().model.blocks) - 1
    assert torch.equal(velocity(smaller), velocity(system))


def test_an_exported_model_says_what_it_is(trained):
    card = model_folder.card(trained.model)
    assert (card["family"], card["name"], card["steps"]) == (trained.family.name, trained.config.name, STEPS)
    assert set(card["sha256"]) >= {"config.json", "model.safetensors"}
    assert registry.recognised(trained.model) is trained.family
    assert registry.read_run(trained.run) == (trained.family, trained.config)


def test_it_draws_one_picture_for_one_seed(trained):
    pipeline = Pipeline(trained.system())
    (first,), (again,), (other,) = (
        pipeline.run("a red square", task="text-to-image", seed=seed, steps=2).images for seed in (1, 1, 2)
    )
    assert first.shape == (pipeline.system.native, pipeline.system.native, 3)
    assert first.dtype == np.uint8
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_rows_of_different_steps_guidance_and_seed_share_a_batch(trained):
    pipeline = Pipeline(trained.system())
    plans = [
        pipeline.plan("a red square", task="text-to-image", seed=seed, steps=steps, guidance_scale=scale)
        for seed, steps, scale in ((1, 2, 1.0), (2, 3, 3.0), (3, 2, 2.0))
    ]
    together = draw(pipeline.system, plans)
    for plan, frames in zip(plans, together, strict=True):
        (alone,) = draw(pipeline.system, [plan])
        assert np.abs(frames.astype(int) - alone.astype(int)).max() <= 1


def onward(trained: Trained) -> Any:
    """A run that starts from the exported model, and so needs nothing made anew."""
    return dataclasses.replace(trained.config, start=str(trained.model))


def trained_on(trained: Trained, config: Any, folder: Path) -> dict[str, torch.Tensor]:
    trainer = train(trained.family, config, folder, registry.open_system, quiet=True)
    return {name: parameter.detach().clone() for name, parameter in trainer.model.named_parameters()}


def stopped_after(trained: Trained, config: Any, folder: Path, step: int) -> None:
    """A run that hears Ctrl-C as it has taken `step` steps."""
    trainer = Trainer(trained.family.job(config, folder, registry.open_system), folder, quiet=True)
    told = trainer.log.step

    def tell(number: int, *rest: Any) -> None:
        told(number, *rest)
        # heard in the step after: a step is never saved in part
        trainer.asked_to_stop = number == step - 1

    trainer.log.step = tell  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert trainer.step == step


@pytest.fixture(scope="module")
def straight(trained, tmp_path_factory) -> dict[str, torch.Tensor]:
    """Weights of a run that starts from the exported model and is not interrupted."""
    return trained_on(trained, onward(trained), tmp_path_factory.mktemp("straight"))


def test_a_run_that_was_interrupted_ends_as_one_that_was_not(trained, straight, tmp_path):
    stopped_after(trained, onward(trained), tmp_path, 2)
    resumed = trained_on(trained, onward(trained), tmp_path)
    assert straight.keys() == resumed.keys()
    assert [name for name in straight if not torch.equal(straight[name], resumed[name])] == []


def test_a_run_leaves_the_model_that_it_starts_from(trained, straight):
    start = weight_files.open_weights(trained.model)
    assert any(name in start and not torch.equal(start[name], value) for name, value in straight.items())


def test_recomputed_blocks_learn_the_same(trained, straight, tmp_path):
    config = dataclasses.replace(onward(trained), checkpoint_blocks=True)
    recomputed = trained_on(trained, config, tmp_path)
    for name, value in straight.items():
        torch.testing.assert_close(recomputed[name], value, atol=1e-5, rtol=1e-4)


def test_adapters_learn_alone_and_are_merged_on_export(trained, tmp_path):
    stages = tuple(dataclasses.replace(stage, trainable="lora") for stage in trained.config.stages)
    config = dataclasses.replace(onward(trained), lora_rank=2, stages=stages)
    trainer = train(trained.family, config, tmp_path / "run", registry.open_system, quiet=True)
    learnt = dict(trainer.model.named_parameters())
    start = dict(weight_files.open_weights(trained.model).items())
    same, adapters = 0, 0
    for name, value in learnt.items():
        plain = name.replace(".base_layer.", ".")
        if plain in start:
            assert torch.equal(start[plain].float(), value.float()), name
            same += 1
        adapters += "lora_B" in name and bool(value.abs().sum() > 0)
    assert same
    assert adapters
    arguments = (tmp_path / "run", tmp_path / "model", registry.open_system)
    export(trained.family, trainer.config, *arguments, command="here", hardware="this")
    merged = registry.open_system(str(tmp_path / "model"))
    assert not any("lora" in name for name, _ in merged.model.named_parameters())
    assert not torch.equal(velocity(merged), velocity(trained.system()))
    assert merged.card["parents"][0]["name"] == trained.config.name


def test_memory_is_told_before_a_run_begins(trained):
    assert trained.family.probe is not None
    assert estimate(trained.config, trained.family.probe(trained.config)).total > 0
