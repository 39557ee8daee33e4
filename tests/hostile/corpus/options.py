"""Values of options that no command can mean, and commands that are none."""

from __future__ import annotations

from pathlib import Path

from hostile.case import Case
from hostile.stock import DRAWN, JOINT, Stock

NUMBERS = {"width": "px", "height": "px", "count": "1 to 64", "seed": "2.63", "steps": "1 to 1000"}
WHOLE = ("-1", "nan", "1e30", "", "99999999999999999999999", "0x10", "\x1b[31m")
SCALES = ("-1", "nan", "inf", "1e30", "-inf", "", "x" * 100_000)
ALWAYS = {
    ("seed", "99999999999999999999999"),
    ("guidance-scale", "nan"),
}


def _joint(folder: Path, stock: Stock) -> None:
    stock.put("joint", folder / "joint")
    (folder / "lines.jsonl").write_text('{"conversations": [{"from": "gpt", "value": "a cat"}]}\n')


def _pictures(folder: Path, stock: Stock) -> None:
    stock.put("pictures", folder / "pictures")
    stock.put("space", folder / "space")


JOINT_RUN = ("train", "emoji-small", "--start", "joint", "-o", "run", "--jsonl", "lines.jsonl")
DRAWN_RUN = ("train", "sana-small", "-o", "run", "--pictures", "pictures", "--space", "space")
TRAINED = {
    ("--save-every", "0"): "save_every must be at least 1",
    ("--log-every", "0"): "log_every must be at least 1",
    ("--sample-every", "-1"): "sample_every must be at least 1",
    ("--max-skipped", "0"): "max_skipped must be at least 1",
    ("--max-bad-samples", "-1"): "max_bad_samples",
    ("--keep", "-1"): "keep",
    ("--ema", "nan"): "ema",
    ("--ema", "2"): "ema",
    ("--ema", "-1"): "ema",
    ("--seed", "-1"): "seed",
    ("--lora-rank", "-1"): "lora_rank must be",
    ("--parallel", "both"): "parallel must be one of",
    ("--weights", "int3"): "weights must be one of",
    ("--stages.0.steps", "-1"): "steps must not be negative",
    ("--stages.0.optim.clip", "nan"): "clip",
    ("--stages.0.optim.clip", "-1"): "clip",
    ("--stages.0.optim.lr", "nan"): "lr",
    ("--stages.0.optim.lr", "-1"): "lr",
    ("--stages.0.optim.lr", "inf"): "lr",
    ("--stages.0.optim.name", "sgdd"): "sgdd|name",
    ("--stages.0.optim.betas", "2", "3"): "betas",
    ("--stages.0.optim.warmup", "-5"): "warmup",
    ("--stages.0.optim.decay", "7"): "decay",
    ("--stages.0.optim.weight-decay", "nan"): "weight_decay",
    ("--data.accumulate", "1000000"): "accumulate",
    ("--data.accumulate", "0"): "accumulate",
    ("--data.workers", "-1"): "workers must be 0 to",
    ("--data.workers", "100000"): "workers must be 0 to",
}
FIRST = {
    ("--data.documents-per-step", "0"): "documents_per_step",
    ("--data.documents-per-step", "99999999999"): "documents_per_step",
    ("--data.row-tokens", "0"): "row_tokens",
    ("--data.drop-text", "nan"): "drop_text",
    ("--mixture", "lines", "-1"): "mixture weights must be positive",
    ("--mixture", "lines", "nan"): "mixture|share",
    ("--mixture", "lines", "inf"): "mixture|share",
    ("--mixture", "nobody", "1"): "nobody|lines",
    ("--stages.0.text-weight", "nan"): "text_weight",
    ("--stages.0.flow-weight", "-1"): "flow_weight",
    ("--stages.0.trainable", "none"): "trainable must be one of",
    ("--flow.sampler.num-steps", "0"): "num_steps",
    ("--flow.law.std", "-1"): "std",
    ("--flow.law.shift", "nan"): "shift",
}
SECOND = {
    ("--data.resolutions", "1600000000"): "1600000000|resolution",
    ("--data.resolutions", "0"): "resolution",
    ("--data.resolutions", "-32"): "resolution",
    ("--data.pictures-per-step", "0"): "pictures_per_step",
    ("--data.validation", "nan"): "validation",
    ("--data.validation", "1"): "validation",
    ("--data.drop-text", "2"): "drop_text",
    ("--model.depth", "0"): "depth",
    ("--model.depth", "1000000000"): "depth",
    ("--model.width", "33"): "width",
    ("--model.patch", "0"): "patch",
    ("--model.caption-channels", "0"): "caption_channels|channels",
    ("--control", "maps"): "control",
    ("--cache", "nowhere"): "nowhere",
    ("--pictures", "nowhere"): "nowhere",
    ("--space", "nowhere"): "nowhere",
}


def _with(command: tuple[str, ...], usual: tuple[str, ...], option: tuple[str, ...]) -> tuple[str, ...]:
    """The command with one option instead of its usual value."""
    flag, kept, skipped = option[0], [], False
    for word in (*command, *usual):
        if word.startswith("--"):
            skipped = word == flag
        if not skipped:
            kept.append(word)
    return (*kept, *option)


CASES = [
    *(
        Case(
            name=f"options:--{name} {value[:20]!r}",
            argv=("do", "a cat", "-o", "a.png", f"--{name}", value),
            says=name.replace("-", "[-_]") if len(value) < 100 else "characters",
            always=(name, value) in ALWAYS,
        )
        for names, values in ((NUMBERS, WHOLE), (("guidance-scale", "image-guidance-scale"), SCALES))
        for name in names
        for value in values
    ),
    *(
        Case(
            name=f"options:joint run, {' '.join(option)}",
            argv=_with(JOINT_RUN, JOINT, option),
            says=says,
            files=_joint,
            always=option in (("--save-every", "0"), ("--stages.0.optim.clip", "nan")),
        )
        for option, says in {**TRAINED, **FIRST}.items()
    ),
    *(
        Case(
            name=f"options:drawn run, {' '.join(option)}",
            argv=_with(DRAWN_RUN, DRAWN, option),
            says=says,
            files=_pictures,
            always=option in (("--data.resolutions", "1600000000"), ("--ema", "nan")),
        )
        for option, says in {**TRAINED, **SECOND}.items()
    ),
    *(
        Case(name=f"options:{name}", argv=argv, says=says)
        for name, argv, says in (
            ("no such command", ("draw", "a cat"), "draw|do"),
            ("no command", (), "."),
            ("a command of escapes", ("\x1b[31m",), "."),
            ("no such option", ("do", "a cat", "--sede", "5"), "sede"),
            ("no such recipe", ("train", "emojy"), "no recipe 'emojy'.*emoji"),
            ("a recipe of escapes", ("train", "\x1b]0;t\x07"), "no recipe"),
            ("memory of no recipe", ("info", "--train", "emojy"), "no recipe"),
            ("memory of no depth", ("info", "--train", "emoji", "--size", "0"), "size must be at least 1"),
            (
                "memory of a depth beyond all",
                ("info", "--train", "emoji", "--size", "10000000"),
                "width must be 1 to",
            ),
            ("no such model", ("info", "nothing"), "neither a folder"),
            ("a model of no name", ("do", "a cat", "--model", ""), "name of a model is empty"),
            ("memory of no recipe, as JSON", ("info", "--train", "--json"), "name of a recipe"),
            ("a mixture of nothing", ("train", "emoji", "-o", "run", "--mixture"), "without values"),
            ("data of escapes", ("data", "\x1b[31m"), "x1b"),
            ("a model of 100,000 characters", ("info", "x" * 100_000), "100,000 characters"),
            ("a model with a zero", ("info", "a\0b"), r"a\\x00b"),
            ("a mistyped run", ("info", "/tmp/no/such/run"), "neither a folder"),
            ("what may be a mistyped path", ("info", "runs/typo"), "neither a folder"),
            ("a model that is not on the hub", ("info", "hf:somebody/nothing"), "could not be fetched"),
            ("a hub id of ../", ("info", "hf:../../etc"), "hf:"),
            ("a task that is none", ("plan", "a cat", "--task", "sing"), "sing"),
            ("a role that is none", ("plan", "a cat", "--inputs", "hero"), "hero"),
            ("more roles than pictures", ("plan", "a cat", "--inputs", "source", "mask"), "."),
            ("candidates beyond all", ("do", "a cat", "--best-of", "99999999"), "best of N"),
            ("candidates of none", ("do", "a cat", "--best-of", "0"), "best_of must be"),
            ("no candidate kept", ("do", "a cat", "--best-of", "2", "--keep", "0"), "keep"),
            ("more kept than drawn", ("do", "a cat", "--best-of", "2", "--keep", "5"), "keep"),
            ("an unknown verifier", ("do", "a cat", "--best-of", "2", "--verifier", "x"), "verifier"),
            ("evaluate no prompts", ("evaluate", "--prompts", "0"), "prompts"),
            ("evaluate fewer than none", ("evaluate", "--prompts", "-1"), "prompts"),
            ("evaluate a split that is none", ("evaluate", "--split", "x"), "split"),
            ("evaluate with a seed below 0", ("evaluate", "--seed", "-1", "--prompts", "1"), "seed"),
            ("evaluate the best of too many", ("evaluate", "--best-of", "99999999"), "best of N"),
            ("evaluate with an idle verifier", ("evaluate", "--verifier", "x"), "verifier"),
            ("draw no pictures", ("data", "drawn", "d", "--count", "0"), "count"),
            ("draw fewer than none", ("data", "drawn", "d", "--count", "-1"), "count"),
            ("draw with a seed below 0", ("data", "drawn", "d", "--count", "1", "--seed", "-1"), "seed"),
            ("emoji of no size", ("data", "emoji", "e", "--size", "0"), "size"),
            ("emoji of a size beyond all", ("data", "emoji", "e", "--size", "1000000"), "size"),
            ("emoji that are none", ("data", "emoji", "e", "--only", "zzzz"), "zzzz"),
            ("grow to less", ("grow", "default", "--depth", "2", "-o", "g"), "2"),
            ("grow to nothing", ("grow", "default", "--depth", "-1", "-o", "g"), "-1"),
            ("grow beyond all", ("grow", "default", "--depth", "100000000", "-o", "g"), "depth|100000000"),
            ("grow by nothing", ("grow", "default", "-o", "g"), "--depth"),
            ("grow to an odd width", ("grow", "default", "--width", "200", "-o", "g"), "200"),
            ("grow to a width of nothing", ("grow", "default", "--width", "0", "-o", "g"), "0"),
            (
                "grow to a width beyond all",
                ("grow", "default", "--width", "192000000", "-o", "g"),
                "width|memory",
            ),
            (
                "grow keeping more than there is",
                ("grow", "default", "--depth", "9", "--keep", "8", "-o", "g"),
                "8",
            ),
            (
                "grow with a seed below 0",
                ("grow", "default", "--depth", "9", "--seed", "-1", "-o", "g"),
                "seed",
            ),
            (
                "grow by a strategy that is none",
                ("grow", "default", "--strategy", "x", "-o", "g"),
                "strategy",
            ),
            ("export what is no run", ("export", "nowhere"), "nowhere"),
            ("convert what is not there", ("convert", "a", "b", "--to", "diffusers"), "a"),
            ("convert to nothing", ("convert", "a", "b", "--to", "onnx"), "onnx"),
            (
                "convert a model to a form of another family",
                ("convert", "default", "b", "--to", "sana"),
                "family u1",
            ),
        )
    ),
]
