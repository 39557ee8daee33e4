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
from test_data import Numbers

from diptych.data.loader import DocumentDataset, LoaderConfig
from diptych.data.mixture import Mixture
from diptych.data.schema import Picture, Sample, Turn
from diptych.flow import FlowConfig
from diptych.models.mot import MoT
from diptych.optim import batches
from diptych.optim.build import OptimConfig, build_optimisers, learning_rate
from diptych.training import checkpoint
from diptych.training.config import Stage, TrainConfig, from_dict, to_json
from diptych.training.ema import EMA
from diptych.training.joint import JointJob, learns
from diptych.training.task import JointTask
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
        size=2,
        patch=4,
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


def state(run: Trainer) -> dict[str, torch.Tensor]:
    optimiser = checkpoint.optimiser_tensors(run.optimisers, run._names(), lambda t: t)
    return {
        **{f"m.{k}": v for k, v in run.model.state_dict().items()},
        **{f"e.{k}": v for k, v in run.ema.shadow.items()},
        **optimiser,
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
    expected, actual = state(one), state(other)
    assert expected.keys() == actual.keys()
    assert all(torch.equal(expected[key], actual[key]) for key in expected)
    assert one.ema.updates == other.ema.updates


def test_accumulation_of_four_equals_one_batch_of_four_times_the_size(tokenizer, tmp_path):
    small = config(data=LoaderConfig(documents_per_step=8, row_tokens=32, accumulate=4, workers=0))
    large = config(data=LoaderConfig(documents_per_step=8, row_tokens=32, accumulate=1, workers=0))
    runs = [trainer(tokenizer, tmp_path / name, cfg) for name, cfg in (("small", small), ("large", large))]
    for run in runs:
        run._enter(0)
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
            mix, tokenizer, 8, LoaderConfig(documents_per_step=6, row_tokens=row_tokens, workers=0)
        )[0].batches[0]
        losses = task(batch)
        sums.append((losses.sums["text"].item(), losses.sums["flow"].item()))
    assert sums[0] == pytest.approx(sums[1], rel=1e-5)
    assert sums[0] == pytest.approx(sums[2], rel=1e-5)


def _toy(tokenizer):
    from diptych.models.mot import by_size

    return by_size(2, tokenizer.vocab_size, 4)


def test_training_lowers_the_loss_of_one_batch(tokenizer):
    model = MoT(_toy(tokenizer))
    model.initialise(torch.Generator().manual_seed(0))
    task = JointTask(model, FlowConfig())
    batch = DocumentDataset(
        Mixture({"mixed": Mixed()}, {"mixed": 1.0}, 0),
        tokenizer,
        8,
        LoaderConfig(documents_per_step=8, workers=0),
    )[0].batches[0]
    optimisers = build_optimisers(model.named_parameters(), OptimConfig(lr=5e-3))
    history = []
    for _ in range(40):
        losses = task(batch)
        loss = sum(losses.sums[name] / total for name, total in JointTask.totals(batch, task.token).items())
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
    before = job.validate(run.ema.shadow, torch.device("cpu"))
    run.train()
    assert {p.dtype for p in run.model.parameters()} == {torch.bfloat16}
    assert all(run.ema.shadow[name].data_ptr() == p.data_ptr() for name, p in run.model.named_parameters())
    after = job.validate(run.ema.shadow, torch.device("cpu"))
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
    from diptych.training.export import export

    run = trainer(tokenizer, tmp_path)
    start = run.ema.shadow["blocks.0.gen.q.weight"].clone()
    run.train()
    assert run.ema.updates == run.config.steps
    assert not torch.equal(start, run.ema.shadow["blocks.0.gen.q.weight"])
    exported = export(tmp_path, tmp_path / "model", "test", "test").model.state_dict()
    name = "blocks.0.gen.q.weight"
    torch.testing.assert_close(exported[name], run.ema.shadow[name])
    assert not torch.allclose(exported[name], run.model.state_dict()[name])


def test_steps_without_finite_gradient_are_skipped_and_then_stop_the_run(tokenizer, tmp_path):
    run = trainer(tokenizer, tmp_path, config(max_skipped=3))
    run._enter(0)
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
    before = {name: p.clone() for name, p in run.model.named_parameters()}
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


def save(folder, step: int, keep: int = 3):
    return checkpoint.save(
        folder, step, {"model": {"w": torch.full((4,), float(step))}}, {"step": step}, keep
    )


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
    damage(save(tmp_path, 2) / "model.safetensors", how)
    said: list[str] = []
    tensors, state = checkpoint.load_latest(tmp_path, said.append)
    assert state["step"] == 1
    assert tensors["model"]["w"][0] == 1
    assert "step-00000002" in said[0]


def test_all_damaged_is_an_error_and_none_is_none(tmp_path):
    assert checkpoint.load_latest(tmp_path) is None
    damage(save(tmp_path, 1) / "model.safetensors", "flipped byte")
    with pytest.raises(checkpoint.CheckpointError, match="no checkpoint"):
        checkpoint.load_latest(tmp_path, lambda text: None)


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

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(checkpoint.CheckpointError, match=r"No space left.*last good checkpoint is step 1"):
        save(tmp_path, 2)
    monkeypatch.undo()
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000001"]
    assert checkpoint.load_latest(tmp_path)[1]["step"] == 1


def test_a_write_that_the_system_refuses_leaves_no_partial_checkpoint(tmp_path):
    """A real failing write: the process may not write files beyond 50 kB."""
    save(tmp_path, 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(checkpoint.CheckpointError, match="last good checkpoint is step 1"):
            checkpoint.save(tmp_path, 2, {"model": {"w": torch.zeros(100_000)}}, {"step": 2}, keep=3)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000001"]


def test_weights_of_another_architecture_are_refused(tokenizer, tmp_path):
    trainer(tokenizer, tmp_path).train()
    other = trainer(
        tokenizer, tmp_path, config(size=3, stages=(dataclasses.replace(config().stages[0], steps=99),))
    )
    with pytest.raises(checkpoint.CheckpointError, match="another architecture"):
        other.train()


def test_validation_loss_compares_weights_on_the_same_noise_and_keeps_them(tokenizer, tmp_path):
    job = JointJob(config(), {"mixed": Mixed()}, tokenizer, {"mixed": Mixed()})
    before = {name: p.detach().clone() for name, p in job.model.named_parameters()}
    other = {name: p + 0.1 * torch.randn_like(p) for name, p in before.items()}
    first, second, again = (job.validate(weights, torch.device("cpu")) for weights in (before, other, before))
    assert first == again != second
    assert set(first) == {"validation", "validation/text", "validation/flow"}
    assert all(torch.equal(p, before[name]) for name, p in job.model.named_parameters())
    assert trainer(tokenizer, tmp_path).job.validate(before, torch.device("cpu")) == {}


def test_a_run_from_other_weights_goes_on_without_them(tokenizer, tmp_path):
    start = trainer(tokenizer, tmp_path / "start", config(depth=3))
    begun = trainer(tokenizer, tmp_path / "begun", config(depth=3))
    begun.begin_from(dict(start.model.named_parameters()))
    again = trainer(tokenizer, tmp_path / "begun", config(depth=3, seed=5))
    again._resume()
    assert len(again.model.blocks) == 3
    assert all(
        torch.equal(a, b) for a, b in zip(again.model.parameters(), start.model.parameters(), strict=True)
    )


def test_a_run_begins_with_the_optimiser_state_that_it_is_given(tokenizer, tmp_path):
    first = trainer(tokenizer, tmp_path / "first")
    first.train()
    given = checkpoint.optimiser_tensors(first.optimisers, first._names(), lambda t: t)
    assert given
    stages = (dataclasses.replace(config().stages[1], steps=4),)  # the same parameters learn
    second = trainer(tokenizer, tmp_path / "second", config(stages=stages))
    second.begin_from(dict(first.model.named_parameters()), given)
    saved = checkpoint.load_latest(tmp_path / "second" / "checkpoints")[0]["optimiser"]
    assert saved.keys() == given.keys()
    assert all(torch.equal(saved[name], given[name]) for name in given)


def test_configs_survive_json_and_unknown_keys_name_the_nearest():
    values = json.loads(to_json(config()))
    assert from_dict(TrainConfig, values) == config()
    values["data"]["acumulate"] = 2
    with pytest.raises(ValueError, match=r"config\.data: unknown key 'acumulate' \(nearest: 'accumulate'\)"):
        from_dict(TrainConfig, values)


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
