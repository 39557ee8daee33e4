"""Single steps of a run: their rate, their gradient, and what is counted and saved of them."""

import json
import math

import pytest
import torch
from toy_job import ToyJob, ToyStage, ToyTask, toy_config

from diptych.optim.build import OptimConfig, learning_rate
from diptych.training import checkpoint
from diptych.training.log import RunLog, StepReport, sigma_bin
from diptych.training.trainer import Trainer, TrainingStopped


def run_of(folder, **changes):
    return Trainer(ToyJob(toy_config(**changes)), folder, quiet=True)


def test_each_stage_warms_up_and_falls_by_its_own_steps(tmp_path, monkeypatch):
    optims = OptimConfig(name="adamw", lr=1e-2, warmup=3), OptimConfig(name="adamw", lr=1e-3, warmup=2)
    stages = tuple(ToyStage(name=str(n), steps=5, optim=optim) for n, optim in enumerate(optims))
    seen, step = [], Trainer._train_step

    def watched(self, stage, data, lr):
        seen.append(lr)
        return step(self, stage, data, lr)

    monkeypatch.setattr(Trainer, "_train_step", watched)
    run_of(tmp_path, stages=stages).train()
    assert seen == [learning_rate(optim, n, 5) for optim in optims for n in range(5)]


def of_steps(*steps):
    return {"stages": tuple(ToyStage(name=f"s{number}", steps=count) for number, count in enumerate(steps))}


@pytest.mark.parametrize(
    ("begun", "then", "message"),
    [
        ((4,), (3,), r"4 of them in its stage 's0': --stages.0.steps must be 4 or more, got 3"),
        ((3, 2), (5, 2), r"3 of them in its stage 's0': --stages.0.steps must be 3 as they were, got 5"),
        ((3, 2), (2, 3), r"3 of them in its stage 's0': --stages.0.steps must be 3 as they were, got 2"),
        ((3, 2), (3, 1), r"2 of them in its stage 's1': --stages.1.steps must be 2 or more, got 1"),
    ],
)
def test_steps_that_were_taken_stay_those_of_their_stages(tmp_path, begun, then, message):
    run_of(tmp_path, **of_steps(*begun)).train()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=f"has taken {sum(begun)} steps, {message}"):
        run_of(tmp_path, **of_steps(*then))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(("begun", "then"), [((3,), (5,)), ((2, 1), (2, 3)), ((3, 0), (5, 1))])
def test_a_run_may_be_made_longer_and_goes_on_with_its_optimiser(tmp_path, begun, then):
    run_of(tmp_path, **of_steps(*begun)).train()
    longer = run_of(tmp_path, **of_steps(*then))
    longer.begin()
    assert longer.step == sum(begun)
    # nothing was computed yet, and so it was brought along
    assert [optimiser for optimiser in longer.optimisers if optimiser.state]
    longer.train()
    assert longer.step == sum(then)


def spoil(monkeypatch, bad):
    """The gradient is not finite in steps of these numbers, counted from 0."""
    forward, steps = ToyTask.forward, iter(range(10**6))

    def spoilt(self, batch):
        losses = forward(self, batch)
        if next(steps) in bad:
            losses.sums["words"] = losses.sums["words"] * math.nan
        return losses

    monkeypatch.setattr(ToyTask, "forward", spoilt)


def test_steps_that_are_skipped_are_counted_in_a_row(tmp_path, monkeypatch):
    spoil(monkeypatch, {0, 2, 3, 5})
    run = run_of(tmp_path / "apart", steps=6, max_skipped=3)
    run.train()
    assert run.step == 6
    spoil(monkeypatch, {1, 2, 3})
    with pytest.raises(TrainingStopped, match="3 steps in a row"):
        run_of(tmp_path / "together", steps=6, max_skipped=3).train()


def test_the_gradient_is_that_of_the_mean_also_of_one_word(tmp_path):
    run = run_of(tmp_path, rows=1, tokens=1)
    run.begin()
    run._enter(0, run.ranks)
    data = run._dataset(run.config.stages[0])[0]
    losses = run.task(data.batches[0]).sums["words"]
    expected = torch.stack([g.norm() for g in torch.autograd.grad(losses, run.learning)]).norm()
    report = run._train_step(run.config.stages[0], data, 0.0)
    assert report.norm == pytest.approx(float(expected), rel=1e-5)
    assert report.means["words"] == pytest.approx(float(losses.detach()), rel=1e-5)


def saved(folder, step, value):
    return checkpoint.save(folder, step, {"model|x": torch.full((3,), value)}, {"step": step}, keep=3)


def test_a_checkpoint_of_a_step_that_is_taken_again_replaces_the_first(tmp_path):
    saved(tmp_path, 3, 1.0)
    saved(tmp_path, 3, 2.0)
    assert checkpoint.latest(tmp_path).whole("model")["x"].tolist() == [2.0] * 3
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000003"]


def test_a_checkpoint_whose_state_was_changed_is_passed_over(tmp_path):
    saved(tmp_path, 3, 1.0)
    state = saved(tmp_path, 5, 2.0) / "state.json"
    state.write_text(json.dumps({"step": 4}))
    said = []
    assert checkpoint.latest(tmp_path, said.append).state["step"] == 3
    assert "state.json is damaged" in said[0]


def test_noise_levels_fall_into_five_bins_with_both_ends():
    assert [sigma_bin(sigma) for sigma in (0.0, 0.19, 0.2, 0.999, 1.0)] == [
        "sigma/0.0-0.2",
        "sigma/0.0-0.2",
        "sigma/0.2-0.4",
        "sigma/0.8-1.0",
        "sigma/0.8-1.0",
    ]


def test_a_log_holds_means_over_all_accumulations_at_the_steps_that_are_asked_for(tmp_path):
    class Losses:
        def __init__(self, *values):
            self.values = list(values)

        def by_kind(self, batch):
            return {"flow/edit": self.values}

    log = RunLog(tmp_path, toy_config(log_every=3), quiet=False)
    for step in range(1, 7):
        report = StepReport({"flow": 1.0}, 1.0, 1.0, [Losses(1.0, 2.0), Losses(6.0)], (None, None))
        log.step(step, "one", report, 1.0)
    log.close()
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [(row["step"], row["flow/edit"]) for row in rows] == [(3, 3.0), (6, 3.0)]
