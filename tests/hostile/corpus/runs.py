"""Folders of runs: damaged, of other settings, busy, full of other things."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from hostile.case import Case
from hostile.stock import DRAWN, JOINT, LINE, Stock

STEP = "checkpoints/step-00000002"
SHARD = f"{STEP}/shard-00001-model-00001-of-00001.safetensors"


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(50 * 2**30)


def _run(*changes: Callable[[Path], object]) -> Callable[[Path, Stock], None]:
    def make(folder: Path, stock: Stock) -> None:
        run = stock.put("joint_run", folder / "run")
        stock.put("joint", folder / "joint")
        (folder / "lines.jsonl").write_text(json.dumps(LINE) + "\n")
        for change in changes:
            change(run)

    return make


def _text(name: str, text: str) -> Callable[[Path], object]:
    return lambda run: (run / name).write_text(text)


def _told(name: str, **new: object) -> Callable[[Path], object]:
    def change(run: Path) -> None:
        told = json.loads((run / name).read_text())
        (run / name).write_text(json.dumps({**told, **new}))

    return change


def _gone(name: str) -> Callable[[Path], object]:
    return lambda run: (run / name).unlink()


LOG = "log.jsonl"
_log_gone = _gone(LOG)


def _linked(name: str) -> Callable[[Path], object]:
    """What a run has lies outside of everything."""

    def change(run: Path) -> None:
        target = run.parents[1] / "outside" / name
        (run / name).rename(target)
        (run / name).symlink_to(target)

    return change


def _flipped(name: str) -> Callable[[Path], object]:
    def change(run: Path) -> None:
        data = (run / name).read_bytes()
        (run / name).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))

    return change


def _only(run: Path) -> None:
    """No checkpoint but the newest, so that none before it can be used."""
    for path in (run / "checkpoints").iterdir():
        if path.name != "step-00000002":
            shutil.rmtree(path)


DAMAGED: dict[str, tuple[tuple[Callable[[Path], object], ...], str]] = {
    "no config": ((_gone("config.json"),), "config.json"),
    "a config of noise": ((_text("config.json", "{"),), "config.json"),
    "a config of a list": ((_text("config.json", "[]"),), "config.json|family"),
    "a config of another family": ((_told("config.json", family="gpt"),), "gpt"),
    "a config of a key too many": ((_told("config.json", sede=5),), "sede"),
    "a config of a seed of a text": ((_told("config.json", seed="x"),), "config.json.*seed"),
    "a config of a model of null": ((_told("config.json", model=None),), "config.json.*model"),
    "no tokenizer": ((_gone("tokenizer.json"),), "tokenizer.json"),
    "a tokenizer of noise": ((_text("tokenizer.json", "{"),), "tokenizer.json"),
    "no weights": ((_only, _gone(SHARD)), "checkpoint|shard"),
    "flipped weights": ((_only, _flipped(SHARD)), "no checkpoint under .* is whole"),
    "no state": ((_only, _gone(f"{STEP}/state.json")), "no checkpoint|state.json"),
    "a state of noise": ((_only, _text(f"{STEP}/state.json", "{")), "no checkpoint|state.json"),
    "no checksums": ((_only, _gone(f"{STEP}/checksums.json")), "no checkpoint|checksums"),
    "checksums of a list": ((_only, _text(f"{STEP}/checksums.json", "[]")), "no checkpoint|checksums"),
    "checksums of nothing": (
        (_only, _text(f"{STEP}/checksums.json", "{}")),
        "no checkpoint|checksums|step-00000002",
    ),
    "checksums of numbers": (
        (_only, _text(f"{STEP}/checksums.json", '{"state.json": 5}')),
        "no checkpoint|checksums",
    ),
    "checksums of ../": (
        (_only, _text(f"{STEP}/checksums.json", '{"../../../../outside/secret.txt": "0"}')),
        "no checkpoint|checksums",
    ),
    "no checkpoint": ((lambda run: shutil.rmtree(run / "checkpoints"),), "checkpoint"),
    "checkpoints that are a file": (
        (lambda run: (shutil.rmtree(run / "checkpoints"), (run / "checkpoints").touch()),),
        "checkpoint",
    ),
    "a checkpoint of a pipe": (
        (_only, _gone(SHARD), lambda run: os.mkfifo(run / SHARD)),
        "no checkpoint|shard",
    ),
}
RESUME = ("train", "emoji-small", "-o", "run")
OTHER = {
    "another seed": (("--seed", "5"), "seed"),
    "another model": (("--start", "default"), "start|model"),
    "another optimiser": (("--stages.0.optim.name", "adamw"), "optim"),
    "another size": (("--size", "3"), "size|model|width|depth"),
    "other data": (("--jsonl", "other.jsonl", "--mixture", "other", "1"), "jsonl|mixture|other"),
    "adapters": (("--lora-rank", "2"), "lora"),
}
MAY = (
    "run/log.jsonl",
    "run/*.png",
    "run/tensorboard*",
    "run/bad_samples.jsonl",
    "run/.lock",
    "run/parent.json",
)
ALWAYS = {"flipped weights", "a config of noise", "another seed", "another optimiser", "step-6.bak"}

CASES = [
    *(
        Case(
            name=f"runs:{name}, {command[0]}",
            argv=command,
            says=says,
            files=_run(*changes),
            may_make=MAY if command[0] == "train" else (),
            changes=("run/tensorboard*",) if command[0] == "train" else (),
            always=name in ALWAYS and command[0] == "export",
        )
        for name, (changes, says) in DAMAGED.items()
        for command in (("export", "run", "-o", "out"), ("grow", "run", "--depth", "3", "-o", "out"))
        if command[0] == "export" or name in ("no tokenizer", "flipped weights", "a state of noise")
    ),
    *(
        Case(
            name=f"runs:going on with {name}",
            argv=(*RESUME, *more),
            says=says,
            files=_run(lambda run: (run.parent / "other.jsonl").write_text(json.dumps(LINE) + "\n")),
            always=name in ALWAYS,
        )
        for name, (more, says) in OTHER.items()
    ),
    Case(
        name="runs:going on with another recipe",
        argv=("train", "sana-small", "-o", "run", "--pictures", "d", "--space", "space", *DRAWN),
        says="run",
        files=lambda folder, stock: (
            _run()(folder, stock),
            stock.put("pictures", folder / "d"),
            stock.put("space", folder / "space"),
        ),
        always=True,
    ),
    Case(
        name="runs:going on beside step-6.bak",
        argv=("export", "run", "-o", "out"),
        says="out: written",
        files=_run(lambda run: (run / "checkpoints" / "step-6.bak").mkdir()),
        status=0,
        makes=("out", "out/*"),
        always=True,
    ),
    *(
        Case(
            name=f"runs:into {name}",
            argv=(
                "train",
                "emoji-small",
                "--start",
                "joint",
                "-o",
                "there",
                "--jsonl",
                "lines.jsonl",
                *JOINT,
            ),
            says=says,
            files=lambda folder, stock, change=change: (_run()(folder, stock), change(folder)),
        )
        for name, says, change in (
            ("a file", "there", lambda f: (f / "there").write_text("mine")),
            ("a model", "there", lambda f: shutil.copytree(f / "joint", f / "there")),
            ("what cannot be written", "there", lambda f: (f / "there").symlink_to("/proc/1")),
            ("a link to nowhere", "there", lambda f: (f / "there").symlink_to("nowhere/at/all")),
            (
                "a run whose lock links outside",
                r"lock|there",
                lambda f: (
                    shutil.copytree(f / "run", f / "there"),
                    (f / "there" / ".lock").unlink(missing_ok=True),
                    (f / "there" / ".lock").symlink_to("../../outside/secret.txt"),
                    (f / "there" / "lock").unlink(missing_ok=True),
                    (f / "there" / "lock").symlink_to("../../outside/secret.txt"),
                ),
            ),
        )
    ),
    *(
        Case(
            name=f"runs:going on with {name}",
            argv=(*RESUME, "--stages.0.steps", "3"),
            says=says,
            files=_run(change),
        )
        for name, says, change in (
            ("a log that links outside", "log.jsonl is a link", _linked("log.jsonl")),
            ("a config that links outside", "config.json is a link", _linked("config.json")),
            ("checkpoints that link outside", "checkpoints is a link", _linked("checkpoints")),
            ("a log of a pipe", "log.jsonl is a pipe", lambda run: (_log_gone(run), os.mkfifo(run / LOG))),
        )
    ),
    Case(
        name="runs:stopped by Ctrl-C",
        argv=("do", "a cat", "--count", "64", "--steps", "1000", "-o", "a.png"),
        says="stopped",
        status=130,
        interrupt="seed",
        always=True,
    ),
]
