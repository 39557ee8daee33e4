"""The trainer: exact accumulation, exact resumption, guards, checkpoints."""

import dataclasses
import errno
import json
import resource
import signal
from itertools import pairwise

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from test_data import Numbers
from toy_job import ToyJob, ToyStage, toy_config

from diptych.contracts import Picture, Sample, Turn
from diptych.data.conversations.forms import FORMS
from diptych.data.conversations.loader import DocumentDataset, LoaderConfig
from diptych.data.conversations.template import Template
from diptych.data.mixture import Mixture
from diptych.files.typed import convert, to_json
from diptych.flow import FlowConfig
from diptych.models.mot import MoT, by_size
from diptych.optim import batches
from diptych.optim.build import OptimConfig, build_optimisers, learning_rate
from diptych.systems.u1 import family as u1
from diptych.systems.u1.config import Stage, TrainConfig
from diptych.systems.u1.job import JointJob, learns
from diptych.systems.u1.packed import JointTask
from diptych.training import checkpoint, state
from diptych.training.ema import EMA
from diptych.training.export import export
from diptych.training.trainer import Trainer, TrainingStopped


class Mixed:
    """Pictures to draw, with a question about one."""

    name = "mixed"

    def draw(self, number: int) -> Sample:
        rng = np.random.default_rng(number)
        pixels = rng.integers(0, 255, (8, 16, 3), dtype=np.uint8)
        if number % 2:
            return Sample(
                (Turn("user", (Picture(pixels), "what is this?")), Turn("assistant", ("a cat",))),
                "understand",
            )
        return Sample(
            (Turn("user", ("two cats",)), Turn("assistant", (Picture(pixels, drawn=True),))), "generate"
        )


def config(**changes: object) -> TrainConfig:
    optim = OptimConfig(lr=1e-2, warmup=2)
    stages = (
        Stage(name="one", steps=4, mixture={"mixed": 1.0}, optim=optim),
        Stage(name="two", steps=4, mixture={"mixed": 1.0}, optim=optim, trainable="generation"),
    )
    base = TrainConfig(
        name="toy",
        model=by_size(2, 320, 4),
        stages=stages,
        save_every=3,
        sample_every=10**6,
        log_every=1,
        bf16=False,
        flow=FlowConfig(noise_scale_base_tokens=2),
        data=LoaderConfig(documents_per_step=4, row_tokens=32, workers=0),
    )
    return dataclasses.replace(base, **changes)


def trainer(tokenizer, folder, cfg: TrainConfig | None = None) -> Trainer:
    return Trainer(JointJob(cfg or config(), {"mixed": Mixed()}, tokenizer), folder, quiet=True)


def begun(tokenizer, folder, cfg: TrainConfig | None = None) -> Trainer:
    """A run whose model is in place."""
    run = trainer(tokenizer, folder, cfg)
    run.begin()
    return run


def all_state(run: Trainer) -> dict[str, torch.Tensor]:
    return {
        **{f"m.{k}": v for k, v in run.model.state_dict().items()},
        **{f"e.{k}": v for k, v in run.ema.shadow.items()},
        **state.exported(run.optimisers, run._names()),
    }


class Interrupted(Exception):
    pass


@pytest.mark.parametrize(
    ("at", "optimiser"),
    [(2, "muon"), (3, "muon"), (4, "came8bit"), (6, "muon"), (7, "came8bit"), (7, "adamw"), (3, "bfloat16")],
)
def test_a_resumed_run_equals_the_straight_one_to_the_bit(tokenizer, tmp_path, at, optimiser, monkeypatch):
    monkeypatch.setattr(batches, "MIN_EIGHT_BIT", 1024)  # so that the toy's matrices are in 8 bits
    bfloat16 = {"weights": "bfloat16", "ema": 0.0, "bf16": True} if optimiser == "bfloat16" else {}
    name = "came8bit" if bfloat16 else optimiser
    optim = OptimConfig(name=name, lr=1e-2 if optimiser == "muon" else 1e-3, warmup=2)
    chosen = config(
        stages=tuple(dataclasses.replace(stage, optim=optim) for stage in config().stages), **bfloat16
    )
    straight = trainer(tokenizer, tmp_path / "straight", chosen)
    straight.train()
    broken = trainer(tokenizer, tmp_path / "broken", chosen)
    step = Trainer._train_step

    def breaking(self, *arguments):
        if self is broken and self.step == at:
            raise Interrupted
        return step(self, *arguments)

    monkeypatch.setattr(Trainer, "_train_step", breaking)
    with pytest.raises(Interrupted):
        broken.train()
    resumed = trainer(tokenizer, tmp_path / "broken", chosen)
    resumed.train()
    assert_equal_runs(straight, resumed)


@pytest.mark.parametrize("signals", [1, 2])
def test_a_signal_in_the_middle_of_a_step_loses_nothing_and_takes_no_step_twice(
    tokenizer, tmp_path, monkeypatch, signals
):
    straight = trainer(tokenizer, tmp_path / "straight")
    straight.train()
    stopped = trainer(tokenizer, tmp_path / "stopped")
    update, handlers = EMA.update, [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]

    def interrupted(self, model):
        if self is stopped.ema and stopped.step == 4:
            # the weights have taken the step, their average has not
            for _ in range(signals):
                signal.raise_signal(signal.SIGTERM)
        update(self, model)

    monkeypatch.setattr(EMA, "update", interrupted)
    with pytest.raises(KeyboardInterrupt):
        stopped.train()
    # a second signal does not wait for the end of the step, and keeps what was saved before
    assert checkpoint.latest_step(tmp_path / "stopped" / "checkpoints") == (5 if signals == 1 else 3)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
    resumed = trainer(tokenizer, tmp_path / "stopped")
    resumed.train()
    assert_equal_runs(straight, resumed)


def assert_equal_runs(one: Trainer, other: Trainer) -> None:
    expected, actual = all_state(one), all_state(other)
    assert expected.keys() == actual.keys()
    assert all(torch.equal(expected[key], actual[key]) for key in expected)
    assert one.ema.updates == other.ema.updates


def test_accumulation_of_four_equals_one_batch_of_four_times_the_size(tokenizer, tmp_path):
    small = config(data=LoaderConfig(documents_per_step=8, row_tokens=32, accumulate=4, workers=0))
    large = config(data=LoaderConfig(documents_per_step=8, row_tokens=32, accumulate=1, workers=0))
    runs = [begun(tokenizer, tmp_path / name, cfg) for name, cfg in (("small", small), ("large", large))]
    for run in runs:
        run._enter(0, run.ranks)
        data = run._dataset(run.config.stages[0])[0]
        run._apply = lambda lr: None
        run.model.zero_grad = lambda set_to_none=True: None
        run._train_step(run.config.stages[0], data, 0.0)
    for (name, a), b in zip(runs[0].model.named_parameters(), runs[1].model.parameters(), strict=True):
        if a.grad is not None:
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-6, msg=name)


def test_loss_does_not_depend_on_how_documents_are_packed(tokenizer):
    model = MoT(_toy(tokenizer))
    model.initialise(torch.Generator().manual_seed(0))
    torch.nn.init.normal_(model.pixel_head.second.weight, std=0.1)
    task = JointTask(model, FlowConfig())
    mix = Mixture({"mixed": Mixed()}, {"mixed": 1.0}, 0)
    sums = []
    for row_tokens in (16, 32, 200):
        batch = DocumentDataset(
            mix,
            Template(FORMS["marks"], tokenizer, 8),
            LoaderConfig(documents_per_step=6, row_tokens=row_tokens, workers=0),
        )[0].batches[0]
        losses = task(batch)
        sums.append((losses.sums["text"].item(), losses.sums["flow"].item()))
    assert sums[0] == pytest.approx(sums[1], rel=1e-5)
    assert sums[0] == pytest.approx(sums[2], rel=1e-5)


def _toy(tokenizer):
    return by_size(2, tokenizer.vocab_size, 4)


def test_training_lowers_the_loss_of_one_batch(tokenizer):
    model = MoT(_toy(tokenizer))
    model.initialise(torch.Generator().manual_seed(0))
    task = JointTask(model, FlowConfig())
    batch = DocumentDataset(
        Mixture({"mixed": Mixed()}, {"mixed": 1.0}, 0),
        Template(FORMS["marks"], tokenizer, 8),
        LoaderConfig(documents_per_step=8, workers=0),
    )[0].batches[0]
    optimisers = build_optimisers(model.named_parameters(), OptimConfig(lr=5e-3))
    history = []
    for _ in range(40):
        losses = task(batch)
        loss = sum(losses.sums[name] / total for name, total in task.totals(batch).items())
        loss.backward()
        for optimiser in optimisers:
            optimiser.step()
            optimiser.zero_grad()
        history.append((losses.sums["text"].item(), losses.sums["flow"].item()))
    assert history[-1][0] < 0.2 * history[0][0]
    assert history[-1][1] < 0.8 * history[0][1]


def test_weights_in_bfloat16_learn_without_a_float32_copy(tokenizer, tmp_path):
    optim = OptimConfig(name="came8bit", lr=3e-4, warmup=2)
    stage = dataclasses.replace(config().stages[0], steps=40, optim=optim)
    job = JointJob(
        config(weights="bfloat16", ema=0.0, bf16=True, stages=(stage,)),
        {"mixed": Mixed()},
        tokenizer,
        {"mixed": Mixed()},
    )
    run = Trainer(job, tmp_path, quiet=True)
    run.begin()
    before = job.validate(torch.device("cpu"))
    run.train()
    assert {p.dtype for p in run.model.parameters()} == {torch.bfloat16}
    assert all(run.ema.shadow[name].data_ptr() == p.data_ptr() for name, p in run.model.named_parameters())
    after = job.validate(torch.device("cpu"))
    assert after["validation/text"] < 0.8 * before["validation/text"]
    with pytest.raises(ValueError, match="set --ema 0"):
        config(weights="bfloat16")
    with pytest.raises(ValueError, match="no stochastic rounding"):
        trainer(tokenizer, tmp_path / "adamw", config(weights="bfloat16", ema=0.0)).train()
    with pytest.raises(ValueError, match="weights must be one of"):
        config(weights="float8")


def test_ema_follows_in_float32():
    model = torch.nn.Linear(2, 2).bfloat16()
    ema = EMA(model, 0.5)
    before = ema.shadow["weight"].clone()
    with torch.no_grad():
        model.weight += 1
    for n in range(3):
        ema.update(model)
        before = before + (1 - min(0.5, (1 + n) / (10 + n))) * (model.weight.float() - before)
    assert ema.shadow["weight"].dtype == torch.float32
    torch.testing.assert_close(ema.shadow["weight"], before)


def test_export_and_samples_use_the_ema_and_not_the_weights(tokenizer, tmp_path):
    run = trainer(tokenizer, tmp_path)
    start = dict(run.job.starting_values())["blocks.0.gen.q.weight"]
    run.train()
    assert run.ema.updates == run.config.steps
    assert not torch.equal(start, run.ema.shadow["blocks.0.gen.q.weight"])
    family = dataclasses.replace(
        u1.FAMILY, job=lambda config, *_: JointJob(config, {"mixed": Mixed()}, tokenizer)
    )
    system = export(family, run.config, tmp_path, tmp_path / "model", None, command="test", hardware="test")
    exported = system.model.state_dict()
    name = "blocks.0.gen.q.weight"
    torch.testing.assert_close(exported[name], run.ema.shadow[name])
    assert not torch.allclose(exported[name], run.model.state_dict()[name])


def test_steps_without_finite_gradient_are_skipped_and_then_stop_the_run(tokenizer, tmp_path):
    run = begun(tokenizer, tmp_path, config(max_skipped=3))
    run._enter(0, run.ranks)
    with torch.no_grad():
        run.model.text_head.weight[0, 0] = torch.nan
    before = run.model.blocks[0].und.q.weight.clone()
    data = run._dataset(run.config.stages[0])
    stage = run.config.stages[0]
    run._train_step(stage, data[1], 1e-2)
    assert torch.equal(before, run.model.blocks[0].und.q.weight)
    run._train_step(stage, data[2], 1e-2)
    with pytest.raises(TrainingStopped, match="not finite 3 steps in a row"):
        run._train_step(stage, data[3], 1e-2)


def test_bad_samples_are_bounded(tokenizer, tmp_path):
    sources = {"mixed": Numbers("mixed", fail_at=1)}
    run = Trainer(JointJob(config(max_bad_samples=0), sources, tokenizer), tmp_path, quiet=True)
    with pytest.raises(TrainingStopped, match="1 samples could not be used"):
        run.train()
    row = json.loads((tmp_path / "bad_samples.jsonl").read_text())
    assert row["reason"] == "mixed:1: broken on purpose"


def test_frozen_streams_do_not_move(tokenizer, tmp_path):
    run = trainer(tokenizer, tmp_path, dataclasses.replace(config(), stages=(config().stages[1],)))
    before = dict(run.job.starting_values())
    run.train()
    moved = {name for name, p in run.model.named_parameters() if not torch.equal(before[name], p)}
    assert moved
    assert not any(
        ".und." in name or name.startswith(("embedding", "text_head", "clean_interface")) for name in moved
    )


def test_every_parameter_belongs_to_one_stream(tiny_model):
    for name, _ in tiny_model.named_parameters():
        assert learns(name, "understanding") != learns(name, "generation")
        assert learns(name, "all")


def test_two_processes_never_share_a_folder(tokenizer, tmp_path):
    from diptych.training.trainer import _lock

    held = _lock(tmp_path)
    with pytest.raises(TrainingStopped, match="another process"):
        trainer(tokenizer, tmp_path).train()
    held.close()


def test_a_lock_that_leads_out_of_the_folder_is_refused(tokenizer, tmp_path):
    mine, run = tmp_path / "mine.txt", tmp_path / "run"
    mine.write_text("mine")
    run.mkdir()
    (run / ".lock").symlink_to(mine)
    with pytest.raises(ValueError, match=r"\.lock is a link"):
        trainer(tokenizer, run).train()
    assert mine.read_text() == "mine"


def save(folder, step: int, keep: int = 3):
    return checkpoint.save(folder, step, {"model|w": torch.full((4,), float(step))}, {"step": step}, keep)


def tensors(saved) -> object:
    """The file with the tensors of a checkpoint."""
    return next(saved.glob("*.safetensors"))


def damage(path, how: str) -> None:
    data = bytearray(path.read_bytes())
    if how == "cut in half":
        data = data[: len(data) // 2]
    elif how == "flipped byte":
        data[-1] ^= 1
    path.write_bytes(bytes(data)) if how != "missing" else path.unlink()


@pytest.mark.parametrize("how", ["cut in half", "flipped byte", "missing"])
def test_a_damaged_checkpoint_is_reported_and_the_one_before_is_used(tmp_path, how):
    save(tmp_path, 1)
    damage(tensors(save(tmp_path, 2)), how)
    said: list[str] = []
    found = checkpoint.latest(tmp_path, said.append)
    assert found.state["step"] == 1
    assert found.whole("model")["w"][0] == 1
    assert "step-00000002" in said[0]


def test_all_damaged_is_an_error_and_none_is_none(tmp_path):
    assert checkpoint.latest(tmp_path) is None
    damage(tensors(save(tmp_path, 1)), "flipped byte")
    with pytest.raises(checkpoint.CheckpointError, match="no checkpoint"):
        checkpoint.latest(tmp_path, lambda text: None)


def test_a_file_that_somebody_put_into_a_checkpoint_is_never_read(tmp_path):
    save(tmp_path, 1)
    save_file({"model|w": torch.zeros(4)}, save(tmp_path, 2) / "a copy.safetensors")
    said: list[str] = []
    assert checkpoint.latest(tmp_path, said.append).state["step"] == 1
    assert "a copy.safetensors was not written with its checkpoint" in said[0]


def test_folders_of_other_names_are_no_checkpoints(tmp_path):
    (tmp_path / "step-old").mkdir()
    assert checkpoint.latest_step(tmp_path) is None
    save(tmp_path, 1)
    (tmp_path / "step-00000002.bak").mkdir()
    assert checkpoint.latest_step(tmp_path) == 1
    save(tmp_path, 3, keep=1)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000002.bak", "step-00000003", "step-old"]


def test_old_checkpoints_go_and_the_last_stays(tmp_path):
    for step in range(1, 6):
        save(tmp_path, step, keep=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000004", "step-00000005"]
    save(tmp_path, 6, keep=0)
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000006"]


def test_a_full_disk_leaves_the_last_good_checkpoint_and_says_so(tmp_path, monkeypatch):
    save(tmp_path, 1)

    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint.HuggingFaceStorageWriter, "write_data", full)
    with pytest.raises(checkpoint.CheckpointError, match=r"No space left.*last good checkpoint is step 1"):
        save(tmp_path, 2)
    monkeypatch.undo()
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000001"]
    assert checkpoint.latest(tmp_path).state["step"] == 1


def test_a_write_that_the_system_refuses_leaves_no_partial_checkpoint(tmp_path):
    """A real failing write: the process may not write files beyond 50 kB."""
    save(tmp_path, 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(checkpoint.CheckpointError, match="last good checkpoint is step 1"):
            checkpoint.save(tmp_path, 2, {"model|w": torch.zeros(100_000)}, {"step": 2}, keep=3)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000001"]


def test_weights_of_another_architecture_are_refused(tokenizer, tmp_path):
    trainer(tokenizer, tmp_path).train()
    longer = dataclasses.replace(config().stages[1], steps=99)
    other = config(model=by_size(3, 320, 4), stages=(config().stages[0], longer))
    before = (tmp_path / "config.json").read_bytes()
    with pytest.raises(ValueError, match=r"begun with model\.\w+ "):
        trainer(tokenizer, tmp_path, other)
    # the run goes on with its own settings all the same
    assert (tmp_path / "config.json").read_bytes() == before
    (tmp_path / "config.json").unlink()
    with pytest.raises(checkpoint.CheckpointError, match="another architecture"):
        trainer(tokenizer, tmp_path, other).train()
    assert not (tmp_path / "config.json").exists()


def test_validation_loss_compares_weights_on_the_same_noise_and_keeps_them(tokenizer, tmp_path):
    job = JointJob(config(), {"mixed": Mixed()}, tokenizer, {"mixed": Mixed()})
    run = Trainer(job, tmp_path, quiet=True)
    run.begin()
    for shadow in run.ema.shadow.values():
        shadow += 0.1 * torch.randn_like(shadow)
    before = {name: p.detach().clone() for name, p in run.model.named_parameters()}
    averaged = {name: shadow.clone() for name, shadow in run.ema.shadow.items()}
    first = job.validate(torch.device("cpu"))
    with run.ema.exchanged(run.model):
        second = job.validate(torch.device("cpu"))
        assert all(torch.equal(p, averaged[name]) for name, p in run.model.named_parameters())
    again = job.validate(torch.device("cpu"))
    assert first == again != second
    assert set(first) == {"validation", "validation/text", "validation/flow"}
    assert all(torch.equal(p, before[name]) for name, p in job.model.named_parameters())
    assert all(torch.equal(run.ema.shadow[name], value) for name, value in averaged.items())
    assert begun(tokenizer, tmp_path / "none").job.validate(torch.device("cpu")) == {}


def toy(folder, **changes) -> Trainer:
    settings = {name: changes.pop(name) for name in ("parent", "start", "brought") if name in changes}
    run = Trainer(ToyJob(toy_config(**changes), **settings), folder, quiet=True)
    run.begin()
    return run


def test_a_run_from_other_weights_goes_on_without_them(tmp_path):
    weights = {name: value + 1 for name, value in ToyJob(toy_config()).starting_values()}
    card = {"name": "first", "sha256": {}, "steps": 3}
    run = toy(tmp_path, parent=card, start=weights, **{"seed": 0})
    assert all(torch.equal(p, weights[name]) for name, p in run.model.named_parameters())
    parent = json.loads((tmp_path / "parent.json").read_text())
    assert parent == {"start": "", "card": {"name": "first", "steps": 3}}
    again = toy(tmp_path, seed=5)
    assert again.step == 0
    assert all(torch.equal(p, weights[name]) for name, p in again.model.named_parameters())


@pytest.mark.parametrize("wrong", ["name", "shape", "missing"])
def test_starting_values_of_another_model_are_refused(tmp_path, wrong):
    values = dict(ToyJob(toy_config()).starting_values())
    if wrong == "name":
        values["elsewhere"] = torch.zeros(1)
    elif wrong == "shape":
        values["shift"] = torch.zeros(1)
    else:
        del values["shift"]
    with pytest.raises(ValueError, match="elsewhere" if wrong == "name" else "shift"):
        toy(tmp_path, start=values)


def test_a_run_begins_with_the_optimiser_state_that_it_is_given(tmp_path):
    first = toy(tmp_path / "first")
    first.train()
    given = {name: t.clone() for name, t in state.exported(first.optimisers, first._names()).items()}
    assert given
    start = {name: p.detach() for name, p in first.model.named_parameters()}
    second = toy(tmp_path / "second", parent={}, start=start, brought=given)
    saved = checkpoint.latest(tmp_path / "second" / "checkpoints").whole("optimiser")
    assert saved.keys() == given.keys()
    assert all(torch.equal(saved[name], given[name]) for name in given)
    # another optimiser's is left out
    third = toy(tmp_path / "third", parent={}, start=start, brought=given, optimiser="came")
    assert second.optimisers[0].state
    assert not third.optimisers[0].state


def test_a_config_that_could_not_be_read_again_is_refused(tmp_path):
    stage = ToyStage(name="one", steps=1, optim=OptimConfig(clip=float("inf")))
    with pytest.raises(ValueError, match=r"config\.stages\[0\]\.optim\.clip must be a finite number"):
        toy(tmp_path / "run", stages=(stage,))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["save_every", "sample_every", "log_every", "max_skipped"])
def test_what_happens_every_so_many_steps_needs_one_at_least(name):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        toy_config(**{name: 0})


def test_stages_of_one_name_are_refused():
    stage = ToyStage(name="one", steps=2)
    with pytest.raises(ValueError, match="two stages are called 'one'"):
        toy_config(stages=(stage, stage))


def test_a_finished_run_is_not_saved_anew(tmp_path):
    toy(tmp_path).train()
    (saved,) = (tmp_path / "checkpoints").iterdir()
    before = (saved / "checksums.json").read_text()
    assert "optimiser" in "".join(checkpoint.latest(tmp_path / "checkpoints").shapes)
    toy(tmp_path).train()
    assert (saved / "checksums.json").read_text() == before


def test_what_never_learns_has_no_gradient_and_a_stage_freezes_the_rest(tmp_path):
    optim = OptimConfig(name="adamw")
    stages = (
        ToyStage(name="blocks", steps=1, optim=optim, trainable="blocks"),
        ToyStage(name="head", steps=1, optim=optim, trainable="head"),
    )
    run = toy(tmp_path, stages=stages)
    named = dict(run.model.named_parameters())
    assert {name for name, p in named.items() if not p.requires_grad} == {"embedding.weight", "shift"}
    run._enter(1, run.ranks)
    assert {name for name, p in named.items() if p.requires_grad} == {"head.weight"}


def test_recomputed_blocks_train_as_kept_ones(tmp_path):
    plain, recomputed = toy(tmp_path / "plain"), toy(tmp_path / "recomputed", checkpoint_blocks=True)
    assert_equal_runs_after(plain, recomputed)


def assert_equal_runs_after(one: Trainer, other: Trainer) -> None:
    one.train()
    other.train()
    assert_equal_runs(one, other)


def test_configs_survive_json_and_unknown_keys_name_the_nearest():
    values = json.loads(to_json(config()))
    assert convert(TrainConfig, values) == config()
    values["data"]["acumulate"] = 2
    with pytest.raises(ValueError, match=r"config\.data: unknown key 'acumulate' \(nearest: 'accumulate'\)"):
        convert(TrainConfig, values)


def test_learning_rate_warms_up_and_falls():
    optim = OptimConfig(lr=1.0, warmup=10, decay=0.5, final=0.1)
    rates = [learning_rate(optim, step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[30] == 1.0
    assert rates[-1] == pytest.approx(0.1)
    assert all(a >= b for a, b in pairwise(rates[50:]))


def test_unknown_sources_are_found_before_the_run(tokenizer):
    with pytest.raises(ValueError, match="mixture names mixed"):
        JointJob(config(), {"other": Mixed()}, tokenizer)


def test_curves_are_drawn_from_a_log_that_a_kill_cut_short(tmp_path):
    from diptych.training.curves import draw_curves

    assert draw_curves(tmp_path) is None
    rows = [{"step": n, "flow": 1 / n, "sigma/0.0-0.2": 0.1, "validation": 0.5} for n in range(1, 40)]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 40, "fl')
    path = draw_curves(tmp_path)
    assert path is not None
    assert path.stat().st_size > 10_000
