"""What a stranger types: where errors go, what is on stdout, and that nothing is replaced unasked."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import diptych
from diptych import cli
from diptych.commands import plan as plan_command
from diptych.commands.terminal import Terminal
from diptych.files.visible import visible
from diptych.inference.demo import left_over

QUICK = ("--steps", "1")
PLAN = {
    "task": str,
    "prompt": str,
    "inputs": list,
    "media": list,
    "control": str,
    "width": int,
    "height": int,
    "frames": int,
    "fps": type(None),
    "count": int,
    "seed": int,
    "steps": int,
    "guidance_scale": float,
    "image_guidance_scale": float,
    "negative_prompt": str,
    "sizes": list,
    "think": bool,
    "think_tokens": type(None),
    "max_tokens": type(None),
    "temperature": float,
    "top_p": float,
    "stop": list,
    "confidence": float,
    "missing": list,
    "adjustments": list,
}
DO = {"plan": dict, "text": str, "pictures": list}
INFO = {
    "name": str,
    "family": str,
    "depth": int,
    "width": int,
    "heads": int,
    "parts": dict,
    "parameters": int,
    "bytes": dict,
    "streams": dict,
    "cache_bytes": dict,
    "card": dict,
    "family_tree": list,
    "draws": dict,
}
EVALUATE = {"model": str, "results": dict, "files": list}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def refused(capsys, *arguments: str) -> str:
    """The one sentence that a mistake ends in."""
    assert cli.main(list(arguments)) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1
    return said.err


def printed(capsys, *arguments: str) -> dict:
    """The one object on stdout."""
    assert cli.main(list(arguments)) == 0
    return json.loads(capsys.readouterr().out)


def typed(values: dict) -> dict:
    return {key: type(value) for key, value in values.items()}


def test_plan_and_do_print_one_object(capsys):
    course = printed(capsys, "plan", "a cat", "--json")
    assert typed(course) == {"version": int, "intent": dict, "plans": list}
    assert typed(course["plans"][0]) == PLAN
    done = printed(capsys, "do", "two cats", "--json", "--best-of", "2", *QUICK)
    assert typed(done) == DO
    assert typed(done["plan"]) == PLAN
    assert typed(done["pictures"][0]) == {"path": str, "seed": int, "score": float}
    answer = printed(capsys, "do", "how many cats?", "-i", "out.png", "--json")
    assert typed(answer) == DO
    assert answer["text"]


@pytest.mark.parametrize("name", ["default", "u1_8b", "u1_a3b", "sana_0.6b", "sprint_1.6b"])
def test_info_prints_one_object_for_models_and_published_sizes(name, capsys):
    about = printed(capsys, "info", name, "--json")
    assert typed(about) == {**INFO, "draws": dict if name == "default" else type(None)}
    assert about["parameters"] == sum(about["parts"].values())
    assert about["bytes"] == {"float32": about["parameters"] * 4, "bfloat16": about["parameters"] * 2}


def test_the_memory_of_a_run_is_one_object_too(capsys):
    told = printed(capsys, "info", "--train", "sana-small", "--model.depth", "2", "--json")
    assert typed(told) == {"name": str, "family": str, "peak": int, "bytes": dict}
    assert told["peak"] > told["bytes"]["weights"] > 0
    assert printed(capsys, "info", "--json", "--train", "sana-small", "--model.depth", "2") == told
    assert "--train takes the name of a recipe: " in refused(capsys, "info", "--train", "--json")
    assert "memory cannot be estimated for the planner" in refused(capsys, "info", "--train", "planner")


@pytest.mark.parametrize("flag", ["--mixture", "--jsonl", "--stages.0.mixture", "--stages.0.optim.betas"])
def test_a_flag_of_many_values_without_any_is_refused(flag, capsys):
    for argv in (("train", "emoji", "-o", "run", flag), ("train", "emoji", flag, "--seed", "3")):
        assert f"{flag} is given without values: it takes " in refused(capsys, *argv)
    assert not Path("run").exists()


@pytest.mark.parametrize("ending", [".eps", ".pdf", ".ico", ".jp2", ".im", ".PPM", ""])
def test_a_picture_is_written_in_no_format_that_is_not_read(ending, capsys):
    said = refused(capsys, "do", "a cat", "-o", f"a{ending}")
    assert "a picture is written as .png, .jpg, .jpeg, .webp, .gif, .tif, .tiff, .bmp, not as" in said
    assert not list(Path().iterdir())


def test_evaluate_prints_one_object(world, capsys):
    asked = ("evaluate", "--prompts", "1", "--split", "questions", "--json", "-o", "judged")
    told = printed(capsys, *asked)
    assert typed(told) == EVALUATE
    assert all(Path(name).is_file() for name in told["files"])
    assert "holds other files" in refused(capsys, *asked)


def test_a_question_goes_to_stdout_and_its_plan_to_stderr(capsys):
    Image.new("RGB", (96, 96)).save("a.png")
    assert cli.main(["do", "how many cats are there?", "-i", "a.png"]) == 0
    said = capsys.readouterr()
    assert len(said.out.split()) == 1
    assert "answer" in said.err


def test_a_printed_plan_has_a_line_a_field_however_long(capsys):
    text = "a cat beside a red heart and " * 20
    assert cli.main(["do", text, "--steps", "1"]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert any(line.split(maxsplit=1) == ["prompt", text.strip()] for line in lines)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--verifier", "nonsense"], "--verifier says how"),
        (["--keep", "2"], "--keep says how"),
        (["--candidates", "all"], "--candidates says how"),
        (["--best-of", "0"], "best_of must be at least 1"),
        (["--best-of", "2", "--count", "2"], "ask for one picture"),
        (["--image-guidance-scale", "2"], "image_guidance_scale has no effect"),
    ],
)
def test_an_option_without_effect_is_refused(options, message, capsys):
    assert message in refused(capsys, "do", "a cat", *options)
    assert list(Path().iterdir()) == []


def test_a_task_of_another_spelling_is_told_the_right_one(capsys):
    with pytest.raises(SystemExit, match="2"):
        cli.main(["do", "a cat", "--task", "TEXT_TO_IMAGE"])
    assert "text-to-image" in capsys.readouterr().err


@pytest.mark.parametrize("option", [["--steps", "5"], ["-o", "b.png"], ["--seed", "1"]])
def test_how_to_draw_is_refused_for_a_question(option, capsys):
    Image.new("RGB", (96, 96)).save("a.png")
    refused(capsys, "do", "how many cats?", "-i", "a.png", *option)


def test_a_picture_that_cannot_be_written_is_refused_before_it_is_drawn(capsys, monkeypatch):
    Path("folder").mkdir()
    Path("file").write_text("mine")
    drawn = []
    monkeypatch.setattr(diptych.inference.Pipeline, "carry_out", lambda *_: drawn.append(1))
    for name, why in (
        ("folder", "is a folder"),
        ("file/out.png", "is a file, not a folder"),
        ("out.doc", "is written as"),
        ("x" * 300 + ".png", "name too long"),
        ("/proc/out.png", "cannot be written"),
    ):
        assert why in refused(capsys, "do", "a cat", "-o", name)
    assert not drawn
    assert Path("file").read_text() == "mine"


@pytest.mark.parametrize(
    "command",
    [
        ["export", "nowhere", "-o", "there"],
        ["grow", "default", "--depth", "8", "-o", "there"],
        ["evaluate", "-o", "there"],
        ["demo", "-o", "there"],
        ["convert", "default", "there", "--to", "diptych"],
        ["data", "drawn", "there", "--count", "1"],
    ],
)
@pytest.mark.parametrize("kept", ["config.json", "index.html", "drawn.jsonl", "checkpoints/1/state.json"])
def test_what_is_there_is_never_replaced(command, kept, capsys):
    path = Path("there", kept)
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    refused(capsys, *command)
    assert path.read_text() == "mine"
    assert [p for p in Path("there").rglob("*") if p.is_file()] == [path]


def test_a_demo_replaces_only_an_earlier_demo():
    assert left_over(Path()) == ()
    Path("index.html").write_text("<title>my page</title>")
    assert left_over(Path()) == ()
    Path("index.html").write_text("<title>Diptych demo</title>")
    assert "00.png" in left_over(Path())


def test_drawings_go_on_only_with_the_same_seed(capsys):
    draw = ["data", "drawn", "there", "--count", "1"]
    assert cli.main(draw) == 0
    before = Path("there", "drawn.jsonl").read_text()
    capsys.readouterr()
    assert "another model or seed" in refused(capsys, *draw, "--seed", "8")
    assert Path("there", "drawn.jsonl").read_text() == before


def test_an_edit_has_the_size_that_is_asked_for(capsys):
    Image.new("RGB", (96, 96), "red").save("a.png")
    edit = ["do", "change the background to mint", "-i", "a.png", "-o", "b.png", *QUICK]
    assert cli.main([*edit, "--width", "64", "--height", "32"]) == 0
    assert Image.open("b.png").size == (64, 32)
    assert "width                 64" in capsys.readouterr().err
    assert "cannot change a source at 192x192" in refused(capsys, *edit, "--width", "192", "--height", "192")
    assert "give both" in refused(capsys, *edit, "--width", "64")


def test_a_seed_is_fresh_and_repeats_its_picture():
    pipeline = diptych.load()
    first, second = (pipeline.run("a cat", steps=1) for _ in range(2))
    assert first.plan.seed != second.plan.seed
    again = pipeline.run("a cat", steps=1, seed=first.plan.seed)
    assert np.array_equal(again.images[0], first.images[0])


class PanicException(BaseException):
    """Named as pyo3's, which Rust's panics are raised as."""


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (KeyError("x"), 1, "bug: KeyError: 'x' (a mistake of diptych's"),
        (ImportError("no diffusers", name="diffusers"), 2, "pip install 'diptych[sana]'"),
        (ImportError("no such name", name="diptych.files"), 1, "bug: ImportError"),
        (OSError(28, "No space left on device", "a.png"), 2, "error: a.png: no space left on device"),
        (Exception("bad vocabulary"), 2, "cannot be read: bad vocabulary"),
        (PanicException("index out of range"), 2, "cannot be read: index out of range"),
        (MemoryError(), 2, "not enough memory"),
        (RuntimeError("[enforce fail] can't allocate memory: 9"), 2, "not enough memory"),
        (RecursionError(), 2, "nested too deeply"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), 2, "error: 'utf-8' codec"),
        (ValueError("two\nlines \x1b[31mred"), 2, "error: two lines \\x1b[31mred"),
        (KeyboardInterrupt(), 130, "stopped"),
    ],
)
def test_every_error_is_one_line_on_stderr(error, status, said, capsys, monkeypatch):
    def fail(*_):
        raise error

    monkeypatch.setattr(plan_command, "run", fail)
    assert cli.main(["plan", "a cat"]) == status
    told = capsys.readouterr()
    assert told.out == ""
    assert said in told.err
    assert told.err.count("\n") == 1
    monkeypatch.setenv(cli.TRACE, "1")
    cli.main(["plan", "a cat"])
    assert "Traceback" in capsys.readouterr().err


def test_a_closed_pipe_ends_quietly():
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "diptych.cli", "info"], stdout=writing, stderr=subprocess.PIPE, check=False
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")


def test_strangers_text_does_not_command_the_terminal(capsys):
    evil = "a\x1b]0;title\x07b\u202ec\udc80"
    assert visible(evil) == r"a\x1b]0;title\x07b\u202ec\udc80"
    Terminal().print(evil)
    assert capsys.readouterr().out == visible(evil) + "\n"


@pytest.mark.parametrize(
    "words",
    [
        ("info", "--\x1b[31m"),
        ("plan", "a cat", "--task", "\x1b[31m"),
        ("train", "emoji", "--\x1b[31m"),
        ("\x1b[31m",),
    ],
)
def test_words_that_no_command_knows_do_not_command_it_either(words, capsys):
    try:
        status = cli.main(list(words))
    except SystemExit as error:
        status = error.code
    told = capsys.readouterr().err
    assert (status, "\x1b" in told, "x1b[31m" in told) == (2, False, True)


def test_the_version_is_told(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"diptych {diptych.__version__}\n"
