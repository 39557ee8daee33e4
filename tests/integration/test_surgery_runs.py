"""Growing, pruning and choosing through the public commands, with kills in between."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import diptych
from diptych import cli
from diptych.data.conversations.readers import JsonlSource, within
from diptych.training import checkpoint

SHIPPED = Path(cli.__file__).parent / "assets" / "emoji"
DEPTH = json.loads((SHIPPED / "config.json").read_text())["model"]["depth"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
TINY = [
    "--size",
    "2",
    "--data.documents-per-step",
    "4",
    "--data.workers",
    "0",
    "--save-every",
    "2",
    "--sample-every",
    "1000000",
    "--no-bf16",
    "--stages.0.steps",
    "0",
    "--stages.1.steps",
    "0",
    "--stages.2.steps",
    "0",
    "--stages.3.steps",
]
"""The steps of the last stage follow."""


def call(*arguments: object, capsys: pytest.CaptureFixture) -> tuple[int, str]:
    status = cli.main([str(argument) for argument in arguments])
    return status, " ".join("".join(capsys.readouterr()).split())


def diptych_command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "diptych.cli", *(str(argument) for argument in arguments)]


def newest(run: Path) -> checkpoint.Checkpoint:
    found = checkpoint.latest(run / "checkpoints")
    assert found is not None
    return found


def prompts(folder: Path, count: int = 24) -> Path:
    path = folder / "prompts.txt"
    path.write_text(
        "".join(
            f"{word} {what}\n"
            for word in ("two", "three", "four")
            for what in ("cats", "dogs", "apples", "stars") * 2
        )[:10_000]
    )
    assert len(path.read_text().splitlines()) == count
    return path


@pytest.mark.parametrize("optimiser", ["muon", "came8bit"])
def test_a_run_grows_with_its_optimiser_state_and_goes_on(world, tmp_path, capsys, optimiser):
    run, grown, on = tmp_path / "run", tmp_path / "grown", tmp_path / "on"
    chosen = ["--stages.3.optim.name", optimiser]
    subprocess.run(
        diptych_command("train", "emoji", "-o", run, *TINY, 2, *chosen, "--tokenizer", SHIPPED),
        env=ENVIRONMENT,
        check=True,
        capture_output=True,
    )
    status, said = call("grow", run, "--depth", 3, "--keep", 2, "-o", grown, capsys=capsys)
    assert status == 0
    assert "grown from 2 to 3 blocks (2 kept, 1 new), optimiser state with it" in said
    status, said = call("grow", run, "--width", 128, "-o", tmp_path / "wide", capsys=capsys)
    assert (status, "optimiser state" in said, (tmp_path / "wide" / "optimiser.safetensors").exists()) == (
        0,
        False,
        False,
    )
    before = newest(run).whole("optimiser")
    assert before.keys() == load_file(grown / "optimiser.safetensors").keys()
    # a learning rate of almost nothing: the state, not the weights, tells what came along
    slow = ["--stages.3.optim.lr", "1e-12"]
    done = subprocess.run(
        diptych_command("train", "emoji", "-o", on, *TINY, 1, *chosen, *slow, "--start", grown),
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    last = newest(on)
    assert last.state["step"] == 1
    assert any(name.split("|")[1].startswith("blocks.2.") for name in last.whole("optimiser"))
    assert json.loads((on / "config.json").read_text())["model"]["depth"] == 3
    name = "blocks.1.gen.q.weight"
    assert torch.allclose(last.whole("model")[name], newest(run).whole("ema")[name], atol=1e-8)
    other = diptych_command(
        "train",
        "emoji",
        "-o",
        tmp_path / "other",
        *TINY,
        2,
        "--stages.3.optim.name",
        "adamw",
        "--start",
        grown,
    )
    done = subprocess.run(other, env=ENVIRONMENT, capture_output=True, text=True, check=True)
    assert "another optimiser's and is left out" in " ".join(done.stdout.split())
    status, said = call("info", grown, capsys=capsys)
    assert "family tree grown: grown from 2 to 3 blocks" in said
    assert "emoji: trained 2 steps [diptych train emoji]" in said


def test_a_wider_model_draws_the_same_and_is_trained_on(world, tmp_path, capsys):
    wide, on = tmp_path / "wide", tmp_path / "on"
    status, said = call("grow", "default", "--width", 384, "-o", wide, capsys=capsys)
    assert (status, "grown from 192 to 384 channels" in said) == (0, True), said
    pictures = []
    for model in ("default", wide):
        assert (
            call(
                "do",
                "two red apples",
                "--model",
                model,
                "--seed",
                1,
                "-o",
                tmp_path / "drawn.png",
                capsys=capsys,
            )[0]
            == 0
        )
        pictures.append(np.asarray(Image.open(tmp_path / "drawn.png"), dtype=int))
    assert abs(pictures[0] - pictures[1]).max() <= 1
    chosen = ["-o", on, "--start", wide, "--data.documents-per-step", "4", "--data.workers", "0", "--no-bf16"]
    for steps in (1, 2):  # the second goes on
        subprocess.run(
            diptych_command("train", "emoji-recover", *chosen, "--stages.0.steps", steps),
            env=ENVIRONMENT,
            check=True,
            capture_output=True,
        )
    saved = json.loads((on / "config.json").read_text())["model"]
    assert (saved["width"], saved["depth"]) == (384, DEPTH)
    assert newest(on).state["step"] == 2


def test_a_killed_calibration_goes_on_and_gives_the_same_model(tmp_path, capsys):
    path = prompts(tmp_path)
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    assert call("prune", "default", "--depth", 4, "--calibrate", path, "-o", straight, capsys=capsys)[0] == 0
    command = diptych_command("prune", "default", "--depth", 4, "--calibrate", path, "-o", killed)
    process = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.DEVNULL)
    limit = time.monotonic() + 300
    while not (killed / "calibration.json").is_file():
        assert process.poll() is None
        assert time.monotonic() < limit
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 0 < json.loads((killed / "calibration.json").read_text())["done"] < 24
    assert not (killed / "config.json").exists()
    subprocess.run(command, env=ENVIRONMENT, check=True, capture_output=True)
    a, b = (
        json.loads((folder / "calibration.json").read_text())["importance"] for folder in (straight, killed)
    )
    assert a["tokens"] == b["tokens"]
    for level, sums in a["sums"].items():
        assert sums == pytest.approx(b["sums"][level], rel=1e-4)
    assert (straight / "model.safetensors").read_bytes() == (killed / "model.safetensors").read_bytes()
    assert (straight / "importance.png").is_file()
    assert not list(killed.glob(".*"))
    assert len(diptych.load(killed).system.model.blocks) == 4
    status, said = call("prune", "default", "--depth", 4, "--calibrate", path, "-o", straight, capsys=capsys)
    assert (status, "is a model already" in said) == (2, True)


def test_a_killed_recovery_goes_on_to_the_bit(world, tmp_path, capsys):
    pruned = tmp_path / "pruned"
    assert (
        call(
            "prune",
            "default",
            "--depth",
            2,
            "--calibrate",
            prompts(tmp_path),
            "--prompts",
            8,
            "-o",
            pruned,
            capsys=capsys,
        )[0]
        == 0
    )
    small = [
        "--data.documents-per-step",
        "4",
        "--data.workers",
        "0",
        "--save-every",
        "1",
        "--sample-every",
        "1000000",
        "--stages.0.steps",
        "6",
    ]
    straight, killed = (
        diptych_command("train", "emoji-recover", "--start", pruned, "-o", tmp_path / name, *small)
        for name in ("a", "b")
    )
    subprocess.run(straight, env=ENVIRONMENT, check=True, capture_output=True)
    process = subprocess.Popen(killed, env=ENVIRONMENT, stdout=subprocess.DEVNULL)
    while (checkpoint.latest_step(tmp_path / "b" / "checkpoints") or 0) < 2:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    shutil.rmtree(pruned)  # a run that goes on needs nothing but its own folder
    subprocess.run(
        [part for part in killed if part not in ("--start", str(pruned))],
        env=ENVIRONMENT,
        check=True,
        capture_output=True,
    )
    for group in ("model", "ema", "optimiser"):
        a, b = (newest(tmp_path / name).whole(group) for name in ("a", "b"))
        assert a.keys() == b.keys()
        assert all(torch.equal(a[name], b[name]) for name in a)


def test_what_lies_in_the_output_folder_is_never_touched(tmp_path, capsys):
    (tmp_path / "diary.txt").write_text("mine")
    for output, message in (
        (tmp_path, "holds other files (diary.txt)"),
        (tmp_path / "diary.txt", "is a file"),
    ):
        status, said = call("grow", "default", "--depth", DEPTH + 1, "-o", output, capsys=capsys)
        assert (status, message in said) == (2, True), said
    assert [path.name for path in tmp_path.iterdir()] == ["diary.txt"]


def test_models_without_a_card_are_told(tmp_path, capsys):
    plain = tmp_path / "plain"
    shutil.copytree(SHIPPED, plain)
    (plain / "card.json").unlink()
    assert call("grow", plain, "--depth", DEPTH + 1, "-o", tmp_path / "grown", capsys=capsys)[0] == 0
    _, said = call("info", tmp_path / "grown", capsys=capsys)
    assert "unknown: it had no card" in said
    _, said = call("info", plain, capsys=capsys)
    assert "no card: where it comes from is not known" in said


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        ("", "empty.txt", "empty.txt holds no prompts"),
        ("\n\n", "blank.jsonl", "blank.jsonl holds no prompts"),
        ('{"prompt": "a cat"}\n{"prompt"', "broken.jsonl", "broken.jsonl:2: not JSON"),
        (
            '{"prompt": "a cat"}\n{"picture": "x"}',
            "other.jsonl",
            "other.jsonl:2: none of prompt, caption, text holds a text",
        ),
        (b"\xff\xfe\x00", "binary.txt", "binary.txt:1: no text in UTF-8"),
        (None, "missing.txt", "missing.txt: no such file"),
    ],
)
def test_calibration_data_that_cannot_be_used_is_named(tmp_path, capsys, content, name, message):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    status, said = call(
        "prune", "default", "--depth", 3, "--calibrate", path, "-o", tmp_path / "out", capsys=capsys
    )
    assert (status, message in said) == (2, True), said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["prune", "default", "--depth", "0", "--calibrate", "p.txt", "-o", "x"],
            f"depth must be 1 to {DEPTH - 1}",
        ),
        (
            ["prune", "default", "--depth", str(DEPTH), "--calibrate", "p.txt", "-o", "x"],
            f"fewer than the {DEPTH} blocks",
        ),
        (["grow", "default", "--depth", "5", "-o", "x"], f"has {DEPTH} blocks already"),
        (
            ["grow", "default", "--depth", "12", "--keep", str(DEPTH + 1), "-o", "x"],
            f"keep must be 1 to {DEPTH}",
        ),
        (["grow", "default", "-o", "x"], "give --depth, the blocks of the grown model, --width"),
        (["grow", "default", "--width", "200", "-o", "x"], "width must be a multiple of 192"),
        (["grow", "default", "--width", "384", "--keep", "2", "-o", "x"], "say how a model gets deeper"),
        (["grow", "nowhere", "--depth", "8", "-o", "x"], "nowhere is neither a folder"),
        (["do", "a cat", "--best-of", "0"], "best_of must be at least 1, got 0"),
        (["do", "a cat", "--best-of", "1000000"], "got 1000000"),
        (["do", "a cat", "--best-of", "2", "--keep", "3"], "keep must be 1 to 2"),
        (["do", "a cat", "--best-of", "2", "--verifier", "magic"], "there is no verifier 'magic'"),
        (
            ["do", "how many cats are there?", "-i", "p.png", "--best-of", "2"],
            "the request is a question, so no picture is drawn",
        ),
        (["evaluate", "--best-of", "0"], "got 0"),
    ],
)
def test_requests_that_cannot_be_are_one_sentence(arguments, message, tmp_path, capsys, monkeypatch, world):
    monkeypatch.chdir(tmp_path)
    from PIL import Image

    Image.new("RGB", (96, 96), "red").save("p.png")
    status, said = call(*arguments, capsys=capsys)
    assert (status, message in said) == (2, True), said
    assert not (tmp_path / "x").exists()


def test_score_against_n_is_measured_and_goes_on(world, tmp_path, capsys):
    arguments = [
        "evaluate",
        "--best-of",
        "4",
        "--prompts",
        "1",
        "--verifier",
        "self",
        "--verifier",
        "vlm:default",
        "-o",
        tmp_path,
    ]
    status, said = call(*arguments, capsys=capsys)
    assert status == 0
    assert "self: learnt from labels of the checker's own rule" in said
    result = json.loads((tmp_path / "best_of.json").read_text())
    assert result["counts"] == [1, 2, 4]
    assert set(result["mean"]) == {"self", "vlm:default", "checker (bound)"}
    assert result["mean"]["self"] == result["mean"]["vlm:default"]
    assert all(a <= b for a, b in zip(result["mean"]["self"], result["mean"]["checker (bound)"], strict=True))
    lines = (tmp_path / "candidates.jsonl").read_text().splitlines()
    assert len(lines) == 1 + 6
    assert all(len(json.loads(line)["right"]) == 4 for line in lines[1:])
    (tmp_path / "candidates.jsonl").write_text("\n".join(lines[:4]) + '\n{"cat')
    assert call(*arguments, capsys=capsys)[0] == 0
    assert (tmp_path / "candidates.jsonl").read_text().splitlines() == lines
    assert (tmp_path / "best_of.png").is_file()
    status, said = call("evaluate", "--best-of", "8", "--prompts", "1", "-o", tmp_path, capsys=capsys)
    assert (status, "holds candidates of another model, verifier or number" in said) == (2, True)


def test_drawn_pictures_are_labelled_by_the_checker(world, tmp_path, capsys, monkeypatch):
    from diptych.evaluation import drawn
    from diptych.worlds.emoji import Checker

    monkeypatch.setattr(drawn, "BATCH", 4)
    status, said = call("data", "drawn", tmp_path, "--count", 12, capsys=capsys)
    assert status == 0
    assert "12 pictures" in said
    lines = (tmp_path / "drawn.jsonl").read_text()
    (tmp_path / "drawn.jsonl").write_text(
        "".join(lines.splitlines(keepends=True)[:6])
    )  # stopped within a batch
    assert call("data", "drawn", tmp_path, "--count", 12, capsys=capsys)[0] == 0
    assert (tmp_path / "drawn.jsonl").read_text() == lines
    source = JsonlSource(tmp_path / "drawn.jsonl", seed=0, sizes=within(16, 96))
    checker = Checker(world)
    for index, line in enumerate(lines.splitlines()):
        asked = source.read(index).turns
        assert [turn.role for turn in asked] == ["user", "assistant"] * 2
        assert {asked[1].parts[0], asked[3].parts[0]} <= {"yes", "no"}
        picture = asked[0].parts[0].pixels
        wanted = (
            json.loads(line)["conversations"][0]["value"]
            .removeprefix("<image> does this picture show ")
            .removesuffix("?")
        )
        if wanted in ("a cat", "a dog", "a fish"):
            only = checker.detect(picture).counts() == {wanted.removeprefix("a "): 1}
            assert (asked[1].parts[0] == "yes") == only
