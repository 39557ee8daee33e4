"""The public commands with the shipped model, on real files."""

import dataclasses
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import diptych
from diptych import cli
from diptych.commands import convert, do, evaluate, export, grow, info, plan, prune
from diptych.commands import data as data_command
from diptych.commands.arguments import Overrides
from diptych.commands.train import command_type, resolve
from diptych.files.typed import to_json
from diptych.systems.registry import FAMILIES, recipes


def call(*arguments: str, capsys: pytest.CaptureFixture) -> tuple[int, str]:
    """Status, and what was said on stdout and then on stderr."""
    status = cli.main(list(arguments))
    said = capsys.readouterr()
    return status, " ".join((said.out + said.err).split())


def test_draw_ask_and_edit(tmp_path, capsys):
    out, edited = tmp_path / "out.png", tmp_path / "edited.png"
    status, said = call("do", "two cats above a red heart", "--seed", "3", "-o", str(out), capsys=capsys)
    assert status == 0
    assert "text-to-image" in said
    assert Image.open(out).size == (96, 96)
    status, said = call("do", "how many cats are there?", "-i", str(out), capsys=capsys)
    assert status == 0
    assert said.split()[0] in ("zero", "one", "two", "three", "four", "five")
    status, _ = call("do", "change the background to mint", "-i", str(out), "-o", str(edited), capsys=capsys)
    assert status == 0
    assert Image.open(edited).size == (96, 96)


def test_a_picture_from_a_cold_start_in_sixteen_seconds_of_processor(tmp_path):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, "-m", "diptych.cli", "do", "a cat", "-o", str(tmp_path / "out.png")],
        check=True,
        capture_output=True,
        # threads that wait for one another on a busy machine spin, and that counts as well
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # the bar is 8 s on two idle cores; processor time does not grow with what else runs, and slower machines
    # have twice as much
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 32


HEAVY = {"torch", "numba", "transformers", "diffusers", "matplotlib", "tensorboard", "peft", "PIL", "numpy"}
"""What takes longer to load than a plan takes to be made."""


def test_a_plan_is_shown_before_anything_heavy_is_loaded():
    code = "import sys; from diptych.cli import main; main(['plan', 'a cat']); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    # the planner counts with numpy
    assert not (HEAVY - {"numpy"}) & set(done.stdout.splitlines()[-1].split())


def test_do_tells_the_plan_that_it_carries_out_before_anything_heavy_is_loaded(tmp_path):
    """What is loaded when the plan is printed, and the plan that is in the answer."""
    code = f"""
import sys
from diptych.commands import do

said = do.print_plan
do.print_plan = lambda plan: (said(plan), print(*sys.modules, file=sys.stderr))
from diptych.cli import main

main(["do", "a Cat, 64x48, 4 steps", "--json", "-o", {str(tmp_path / "out.png")!r}])
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    told = dict(line.split(maxsplit=1) for line in done.stderr.splitlines() if line.startswith("  "))
    loaded = next(line for line in done.stderr.splitlines() if "diptych.commands.do" in line)
    # but for what reads and names pictures
    assert not (HEAVY - {"PIL", "numpy"}) & set(loaded.split())
    carried_out = json.loads(done.stdout)["plan"]
    assert {key: str(carried_out[key]) for key in told} == told
    assert (told["prompt"], told["width"], told["steps"]) == ("a Cat", "64", "4")


def test_a_vocabulary_of_small_letters_reads_capitals_as_them():
    """The plan keeps capitals, for models that were taught them; the shipped model was not."""
    model = diptych.load()
    small, large = (model.run(text, seed=1, steps=1) for text in ("a red cat", "A RED Cat"))
    assert large.plan.prompt == "A RED Cat"
    assert np.array_equal(small.images[0], large.images[0])
    question = "how many cats are there?"
    assert len({model.run(t, [small.images[0]]).text for t in (question, question.upper())}) == 1


def test_plan_prints_only_the_plan_and_every_field_can_be_overridden(capsys):
    status = cli.main(
        [
            "plan",
            "a cat, 100x70",
            "--seed",
            "9",
            "--guidance-scale",
            "2.5",
            "--negative-prompt",
            "a dog",
            "--steps",
            "11",
        ]
    )
    (plan,) = json.loads(capsys.readouterr().out)["plans"]
    assert status == 0
    assert (plan["width"], plan["height"], plan["seed"], plan["steps"], plan["guidance_scale"]) == (
        96,
        64,
        9,
        11,
        2.5,
    )
    assert plan["negative_prompt"] == "a dog"


def test_info_tells_parts_memory_origin_and_licence(capsys):
    status, said = call("info", capsys=capsys)
    assert status == 0
    for word in ("blocks", "pixel_head", "Apache-2.0", "diptych train emoji", "seconds"):
        assert word in said


def test_shipped_model_is_at_most_20_mb():
    folder = Path(cli.__file__).parent / "assets" / "emoji"
    assert sum(p.stat().st_size for p in folder.iterdir()) <= 20e6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["do", ""], "the request is empty"),
        (["do", "what is this?", "-i", "none.png"], "none.png: no such file"),
        (["do", "remove the cat"], "a picture to change"),
        (["do", "a cat", "--width", "0"], "width must be 1 to 1024 px, got 0"),
        (["do", "a cat", "--width", "1000000000"], "got 1000000000"),
        (["do", "a cat", "--model", "nowhere"], "neither a folder"),
        (["do", "a cat", "--temperature", "0"], "temperature has no effect on 'text-to-image': leave it out"),
        (["do", "a cat", "--stop", "dog"], "stop has no effect on 'text-to-image': leave it out"),
        (["train", "emojy"], "no recipe 'emojy' (nearest: 'emoji')"),
        (["evaluate", "--prompts", "0"], "prompts must be at least 1"),
        (["evaluate", "--prompts", "100000000"], "prompts must be at most 10000"),
        (["evaluate", "--best-of", "2", "--split", "edits"], "--best-of judges drawing alone"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_status_2(arguments, message, capsys):
    status, said = call(*arguments, capsys=capsys)
    assert status == 2
    assert said.startswith("error: ")
    assert message in said


def test_unknown_config_keys_name_the_nearest(capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["train", "emoji", "--data.acumulate", "2"])
    assert stopped.value.code == 2
    captured = capsys.readouterr()
    assert "--data.accumulate" in captured.out + captured.err


COMMANDS = (
    do.Do,
    plan.ShowPlan,
    info.Info,
    evaluate.Evaluate,
    export.Export,
    convert.command_type(),
    data_command.Index,
    data_command.Inspect,
    data_command.Cache,
    data_command.Emoji,
    data_command.Words,
    data_command.Drawn,
    grow.Grow,
    prune.Prune,
    command_type("emoji", recipes()["emoji"][1], recipes()["emoji"][1]()),
    command_type("sana-small", recipes()["sana-small"][1], recipes()["sana-small"][1]()),
    command_type("u1", recipes()["u1"][1], recipes()["u1"][1]()),
)


def test_the_set_of_flags_is_frozen():
    """A flag is for ever: adding one is a decision, taken here."""
    flags = [(command.__name__, [f.name for f in dataclasses.fields(command)]) for command in COMMANDS]
    assert flags == [
        (
            "Do",
            [
                "request",
                "image",
                "settled",
                "history",
                "output",
                "model",
                "dtype",
                "best_of",
                "keep",
                "verifier",
                "candidates",
                "json",
                "plan",
            ],
        ),
        ("ShowPlan", ["request", "image", "settled", "model", "json", "plan"]),
        ("Info", ["model", "json"]),
        (
            "Evaluate",
            [
                "model",
                "dtype",
                "output",
                "prompts",
                "seed",
                "split",
                "wording",
                "routing",
                "best_of",
                "verifier",
                "json",
            ],
        ),
        ("Export", ["run", "output", "hardware"]),
        ("ConvertCommand", ["source", "output", "to", "lora", "settings", "base", "cross_heads"]),
        ("Index", ["folder", "output"]),
        ("Inspect", ["folder", "output", "resolutions", "multiple"]),
        (
            "Cache",
            [
                "folder",
                "output",
                "model",
                "space",
                "resolutions",
                "multiple",
                "batch",
                "validation",
                "control",
                "part",
                "parts",
            ],
        ),
        ("Emoji", ["folder", "size", "tones", "only"]),
        ("Words", ["output", "count", "seed"]),
        ("Drawn", ["folder", "model", "count", "seed"]),
        ("Grow", ["source", "output", "depth", "width", "vocabulary", "keep", "strategy", "seed"]),
        ("Prune", ["source", "depth", "calibrate", "output", "prompts"]),
        ("TrainRecipe", ["output", "size", "depth", "config"]),
        ("TrainRecipe", ["output", "depth", "heads", "config"]),
        ("TrainRecipe", ["output", "size", "depth", "lora", "part", "config"]),
    ]
    assert [f.name for f in dataclasses.fields(Overrides)] == [
        "task",
        "prompt",
        "inputs",
        "width",
        "height",
        "frames",
        "count",
        "seed",
        "steps",
        "guidance_scale",
        "image_guidance_scale",
        "negative_prompt",
        "think",
        "think_tokens",
        "max_tokens",
        "temperature",
        "top_p",
        "stop",
    ]
    emoji = ["emoji", "emoji-clips", "emoji-full", "emoji-recover", "emoji-small", "emoji-verifier"]
    blip3o = ["detokenizer", "editing", "emoji", "joint", "tuning", "unfreezing"]
    assert sorted(recipes()) == [
        "autoencoder",
        "blip3o",
        *(f"blip3o-{name}" for name in blip3o),
        "contrastive",
        *emoji,
        "sana-control",
        "sana-curriculum",
        "sana-finetune",
        "sana-lora",
        "sana-small",
        "u1",
        "unison-planner",
        "unison-projector",
    ]


def test_help_lists_every_command_with_what_it_does(capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["--help"])
    assert stopped.value.code == 0
    said = capsys.readouterr().out
    assert [name for name in cli.COMMANDS if name not in said] == []
    assert "Carry out a request" in said


def test_a_word_that_is_no_command_is_told(capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["drow", "a cat"])
    assert stopped.value.code == 2
    captured = capsys.readouterr()
    assert "drow" in captured.out + captured.err


def test_train_lists_every_recipe_with_what_it_says_of_itself(capsys):
    assert cli.main(["train", "--help"]) == 0
    said = capsys.readouterr().out
    assert [name for name in recipes() if name not in said] == []
    # each tells how long it takes, or that nobody has measured it
    assert said.count("Time:") == len(recipes())


def test_convert_tells_its_forms_and_refuses_others(tmp_path, capsys):
    forms = [form.name for family in FAMILIES for form in family.forms]
    status, said = call("convert", "somewhere", str(tmp_path / "out"), "--to", "onnx", capsys=capsys)
    assert status == 2
    assert "there is no form 'onnx'" in said
    assert all(form in said for form in forms)
    with pytest.raises(SystemExit):
        cli.main(["convert", "--help"])
    help = capsys.readouterr().out
    assert all(form in help for form in forms)


def resolved(folder: Path, *arguments: str):
    return resolve("emoji", recipes()["emoji"][1], ["-o", str(folder), *arguments])[1]


def test_a_dial_makes_the_model_and_a_field_has_the_last_word(tmp_path):
    plain, dialled = resolved(tmp_path), resolved(tmp_path, "--size", "4", "--model.vocab-size", "500")
    assert dialled.model.width == plain.model.width * 4 // 6
    assert dialled.model.vocab_size == 500
    assert dataclasses.replace(dialled, model=plain.model) == plain


def begun(folder: Path, *arguments: str):
    """A run's folder as it lies after its first step."""
    config = resolved(folder, *arguments)
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(to_json({"family": "u1", **dataclasses.asdict(config)}))
    return config


def test_a_run_that_goes_on_keeps_what_it_was_begun_with(tmp_path):
    mine = ["--jsonl", "a.jsonl", "--mixture", "a", "0.3", "generate", "0.7"]
    first = begun(tmp_path, "--size", "4", "--seed", "7", *mine)
    assert first.mixture == {"a": 0.3, "generate": 0.7}
    assert first.jsonl == ("a.jsonl",)
    assert resolved(tmp_path) == first
    assert resolved(tmp_path, "--size", "4", "--jsonl", "a.jsonl") == first
    assert resolved(tmp_path, "--save-every", "3") == dataclasses.replace(first, save_every=3)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["emoji", "--seed", "5"], "begun with seed 0, not 5: leave --seed out to go on with it, or choose"),
        (["emoji", "--model.depth", "3"], "begun with model.depth 6, not 3"),
        (["emoji", "--mixture", "edit", "1.0"], "begun with mixture {}, not {'edit': 1.0}"),
        (["emoji", "--start", "default"], "begun with start '', not 'default'"),
        (["emoji-small"], "holds the run 'emoji' of the family u1, not 'emoji-small'"),
        (["sana-small"], "holds the run 'emoji' of the family u1, not 'sana-small'"),
    ],
)
def test_a_run_is_not_taken_over(tmp_path, capsys, given, says):
    begun(tmp_path)
    (tmp_path / "checkpoints" / "step-00000006").mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    status, said = call("train", *given, "-o", str(tmp_path), capsys=capsys)
    assert status == 2
    assert says in said
    assert sorted(tmp_path.rglob("*")) == before


def test_a_run_of_no_known_family_names_its_file(tmp_path, capsys):
    (tmp_path / "config.json").write_text('{"family": "another"}')
    status, said = call("export", str(tmp_path), "-o", str(tmp_path / "out"), capsys=capsys)
    assert status == 2
    assert f"{tmp_path}/config.json: there is no family 'another'; families: " in said


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "emoji", "--seed", "1" + "0" * 30],
        ["evaluate", "--seed", "-1"],
        ["grow", "default", "--depth", "8", "--seed", str(2**32)],
    ],
)
def test_a_seed_that_is_none_is_refused(tmp_path, capsys, arguments):
    status, said = call(*arguments, "-o", str(tmp_path / "out"), capsys=capsys)
    assert status == 2
    assert "seed must be 0 or more and below 2^32, got" in said
    assert not (tmp_path / "out").exists()


def test_a_recipe_whose_data_are_missing_says_which(tmp_path, capsys):
    out = tmp_path / "out"
    status, said = call("train", "emoji-verifier", "--start", "default", "-o", str(out), capsys=capsys)
    assert status == 2
    assert "draws from 'drawn'" in said
    assert "--jsonl drawn.jsonl" in said
    assert not out.exists()


def test_an_estimate_is_of_the_model_that_the_run_starts_from(capsys):
    weights = {}
    for start in ([], ["--start", "default"]):
        status, said = call("info", "--train", "emoji-small", *start, capsys=capsys)
        assert status == 0
        weights[bool(start)] = int(said.split("weights │ ")[1].split()[0])
    # 8.4M parameters in float32, and a recipe of less than half as many
    assert weights[True] == 32
    assert weights[False] < 11


def test_a_dial_that_contradicts_a_run_is_refused(tmp_path, capsys):
    begun(tmp_path, "--size", "4")
    status, said = call("train", "emoji", "-o", str(tmp_path), "--size", "5", capsys=capsys)
    assert status == 2
    assert "holds a run whose model has" in said


@pytest.mark.parametrize(
    ("arguments", "flag"),
    [
        (["train", "emoji", "--jsonl", "a.jsonl", "--jsonl", "b.jsonl"], "--jsonl"),
        (["train", "emoji", "--bf16", "--no-bf16"], "--bf16"),
        (["do", "a cat", "--seed", "1", "--seed=2"], "--seed"),
        (["do", "a cat", "-o", "a.png", "--output", "b.png"], "--output"),
        (["do", "a cat", "-oa.png", "-o", "b.png"], "--output"),
        (["plan", "a cat", "--guidance-scale", "1", "--guidance_scale", "2"], "--guidance-scale"),
        (["convert", "default", "out", "--to", "mot", "--to", "sana"], "--to"),
        (["data", "emoji", "out", "--size", "64", "--size", "96"], "--size"),
        (["info", "--json", "--json"], "--json"),
    ],
)
def test_a_flag_given_twice_is_refused(tmp_path, monkeypatch, capsys, arguments, flag):
    monkeypatch.chdir(tmp_path)
    status, said = call(*arguments, capsys=capsys)
    assert status == 2
    assert f"{flag} is given 2 times: give it once" in said
    assert not list(tmp_path.iterdir())


def test_flags_that_add_to_one_another_may_be_repeated(tmp_path, capsys):
    for name in "ab":
        Image.new("RGB", (96, 96)).save(tmp_path / f"{name}.png")
    pictures = ["-i", str(tmp_path / "a.png"), "--image", str(tmp_path / "b.png")]
    more = ["--inputs", "subject", "unused", "--stop", "cat", "--stop", "dog"]
    # what stands behind a flag is its value, and behind -- there are no flags
    assert cli.main(["plan", *pictures, *more, "--prompt=--seed", "--", "what is --seed --seed?"]) == 0
    (plan,) = json.loads(capsys.readouterr().out)["plans"]
    assert (plan["inputs"], plan["stop"]) == (["subject", "unused"], ["cat", "dog"])


def test_demo_writes_a_page_and_a_contact_sheet(tmp_path, capsys):
    assert cli.main(["demo", "-o", str(tmp_path / "demo")]) == 0
    page = (tmp_path / "demo" / "index.html").read_text()
    assert page.count("<figure>") == 9
    assert Image.open(tmp_path / "demo" / "contact-sheet.png").width > 500
    assert capsys.readouterr().out.count("result") == 9


def test_evaluate_writes_table_json_markdown_and_sheets(world, tmp_path, capsys):
    assert cli.main(["evaluate", "--prompts", "2", "-o", str(tmp_path)]) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    assert set(results) >= {"drawing, seen", "drawing, held-out", "questions", "edits", "exactly swapped"}
    assert set(results["drawing, seen"]["by"]) == {
        "single",
        "two",
        "counting",
        "colours",
        "position",
        "binding",
    }
    assert {p.name for p in tmp_path.glob("*.png")} == {
        "drawing-seen.png",
        "drawing-held-out.png",
        "questions.png",
        "edits.png",
        "guided.png",
    }
    assert "| drawing, seen | mean |" in (tmp_path / "results.md").read_text()
    assert "95 % interval" in capsys.readouterr().out


def test_tasks_and_roles_are_given_in_the_words_of_a_plan(capsys, tmp_path):
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    told = ["--task", "edit", "--inputs", "source", "--image", str(tmp_path / "a.png")]
    status, said = call("plan", "remove the cat", *told, capsys=capsys)
    assert status == 0
    assert json.loads(said)["plans"][0]["inputs"] == ["source"]


def test_a_printed_plan_is_read_back_carried_out_and_printed_the_same(capsys, tmp_path):
    Image.new("RGB", (96, 96), "red").save(tmp_path / "a.png")
    attached = ["-i", str(tmp_path / "a.png")]
    for words, media in (("a cat, 4K, 2 steps", []), ("remove the cat, 2 steps", attached)):
        assert cli.main(["plan", words, "--json", *media]) == 0
        printed = capsys.readouterr().out
        (tmp_path / "plan.json").write_text(printed)
        assert cli.main(["plan", "--plan", str(tmp_path / "plan.json"), *media]) == 0
        assert capsys.readouterr().out == printed
        plan = ["--plan", str(tmp_path / "plan.json"), *media]
        assert cli.main(["do", *plan, "--json", "-o", str(tmp_path / "out.png")]) == 0
        assert json.loads(capsys.readouterr().out)["plan"] == json.loads(printed)["plans"][0]
    edit = {"task": "edit", "prompt": "remove the cat", "steps": 2}
    course = json.loads(printed)
    course["intent"]["steps"] = [{"task": "text-to-image", "prompt": "a cat"}, edit]
    course["intent"]["steps"][1] = {**edit, "inputs": [{"role": "source", "step": 0}]}
    course["plans"] = [
        {"task": "text-to-image", "prompt": "a cat", "steps": 2},
        {**edit, "inputs": ["source"]},
    ]
    (tmp_path / "two.json").write_text(json.dumps(course))
    two = ["do", "--plan", str(tmp_path / "two.json"), "-o", str(tmp_path / "two.png")]
    assert cli.main([*two, "--json"]) == 0
    done = json.loads(capsys.readouterr().out)
    assert [plan["task"] for plan in done["plans"]] == ["text-to-image", "edit"]
    assert Image.open(done["pictures"][0]["path"]).size == (96, 96)
    for wrong, message in (
        (["a cat", "--plan", str(tmp_path / "plan.json")], "leave out the words or --plan"),
        (["--plan", str(tmp_path / "none.json")], "no such file"),
        (["--plan", str(tmp_path / "a.png")], "not JSON"),
        (["--plan", str(tmp_path / "plan.json")], "but there are 0"),
    ):
        status, said = call("do", *wrong, capsys=capsys)
        assert status == 2
        assert message in said
