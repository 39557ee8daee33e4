"""LoRA files of every wrong kind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from hostile.case import Case
from hostile.corpus.models import WEIGHTS
from hostile.corpus.runs import sparse
from hostile.stock import Stock

Q = "transformer.transformer_blocks.0.attn1.to_q"
A, B = torch.ones(2, 64), torch.ones(64, 2)
GOOD = {f"{Q}.lora_A.weight": A, f"{Q}.lora_B.weight": B}
SETTINGS = {"transformer.r": 2, "transformer.lora_alpha": 4}


def _file(tensors: dict[str, Tensor], **settings: object) -> Callable[[Path, Stock], None]:
    told = {"lora_adapter_metadata": json.dumps(settings["told"])} if "told" in settings else {}
    told |= {"lora_adapter_metadata": str(settings["text"])} if "text" in settings else {}

    def make(folder: Path, stock: Stock) -> None:
        stock.put("published", folder / "m")
        save_file(tensors, folder / "l.safetensors", metadata=told or None)

    return make


def _bytes(how: object) -> Callable[[Path, Stock], None]:
    def make(folder: Path, stock: Stock) -> None:
        stock.put("published", folder / "m")
        path = stock.put("lora", folder / "l.safetensors")
        path.write_bytes(how if isinstance(how, bytes) else how(path.read_bytes()))  # type: ignore[operator]

    return make


def _beside(text: str) -> Callable[[Path, Stock], None]:
    def make(folder: Path, stock: Stock) -> None:
        stock.put("published", folder / "m")
        save_file(GOOD, folder / "adapter_model.safetensors")
        (folder / "adapter_config.json").write_text(text)

    return make


TENSORS = {
    "nothing": {},
    "keys of another model": {"lora_te_text_model_encoder.lora_down.weight": A},
    "keys of noise": {"\x1b[31m": A},
    "half an adapter": {f"{Q}.lora_A.weight": A},
    "an alpha alone": {f"{Q}.alpha": torch.tensor(1.0)},
    "factors without a product": {f"{Q}.lora_A.weight": A, f"{Q}.lora_B.weight": torch.ones(64, 3)},
    "factors of one axis": {f"{Q}.lora_A.weight": torch.ones(64), f"{Q}.lora_B.weight": torch.ones(64)},
    "factors of no axis": {f"{Q}.lora_A.weight": torch.tensor(1.0), f"{Q}.lora_B.weight": torch.tensor(1.0)},
    "factors of no rank": {f"{Q}.lora_A.weight": torch.ones(0, 64), f"{Q}.lora_B.weight": torch.ones(64, 0)},
    "factors of another width": {
        f"{Q}.lora_A.weight": torch.ones(2, 99),
        f"{Q}.lora_B.weight": torch.ones(99, 2),
    },
    "factors of whole numbers": {k: v.to(torch.int32) for k, v in GOOD.items()},
    "factors of NaN": {k: v * float("nan") for k, v in GOOD.items()},
    "factors of infinity": {k: v * float("inf") for k, v in GOOD.items()},
    "a block that is not there": {k.replace("blocks.0", "blocks.99"): v for k, v in GOOD.items()},
    "a block beyond all": {k.replace("blocks.0", "blocks." + "9" * 5000): v for k, v in GOOD.items()},
    "a DoRA": {**GOOD, f"{Q}.lora_magnitude_vector.weight": torch.ones(64)},
    "a bias": {**GOOD, f"{Q}.bias": torch.ones(64)},
    "an alpha of NaN": {**GOOD, f"{Q}.alpha": torch.tensor(float("nan"))},
    "an alpha of many": {**GOOD, f"{Q}.alpha": torch.ones(3)},
    "two adapters": {**GOOD, f"{Q}.lora_A.default.weight": A.clone()},
    "depthwise factors": {
        f"transformer.transformer_blocks.0.ff.conv_depth.{name}.weight": torch.ones(shape)
        for name, shape in (("lora_A", (2, 1, 3, 3)), ("lora_B", (64, 2, 1, 1)))
    },
}
SETTINGS_OF = {
    "no JSON": {"text": "{"},
    "a list": {"told": []},
    "a rank of another number": {"told": {**SETTINGS, "transformer.r": 16}},
    "a rank of 0": {"told": {**SETTINGS, "transformer.r": 0}},
    "a rank of a text": {"told": {**SETTINGS, "transformer.r": "2"}},
    "an alpha of null": {"told": {**SETTINGS, "transformer.lora_alpha": None}},
    "an alpha beyond all": {"text": '{"transformer.r": 2, "transformer.lora_alpha": 1e400}'},
    "a DoRA": {"told": {**SETTINGS, "transformer.use_dora": True}},
    "a bias": {"told": {**SETTINGS, "transformer.bias": "all"}},
    "a key of tomorrow": {"told": {**SETTINGS, "transformer.use_flux": 1}},
    "patterns of a list": {"told": {**SETTINGS, "transformer.rank_pattern": [1]}},
    "a pattern of noise": {"told": {**SETTINGS, "transformer.rank_pattern": {"(": 2}}},
    "a pattern that never ends": {
        "told": {**SETTINGS, "transformer.rank_pattern": {"(([a-z0-9_.])+)+\\d!": 2}}
    },
}
MERGE = ("convert", "m", "out", "--to", "diptych", "--lora", "l.safetensors")
ALWAYS = {"half an adapter", "factors of NaN", "a pattern that never ends"}
CASES = [
    *(
        Case(
            name=f"loras:{name}",
            argv=MERGE,
            says="LoRA|l.safetensors|adapter",
            files=_file(tensors),
            always=name in ALWAYS,
        )
        for name, tensors in TENSORS.items()
    ),
    *(
        Case(
            name=f"loras:settings, {name}",
            argv=MERGE,
            says="lora_adapter_metadata|LoRA",
            files=_file(GOOD, **settings),
            always=name in ALWAYS,
        )
        for name, settings in SETTINGS_OF.items()
    ),
    *(
        Case(
            name=f"loras:{name}",
            argv=MERGE,
            says="l.safetensors|LoRA",
            files=_bytes(how),
            always=name in ALWAYS,
        )
        for name, how in WEIGHTS.items()
        if name != "a name too many"
    ),
    *(
        Case(
            name=f"loras:peft's settings, {name}",
            argv=(*MERGE[:-1], "adapter_model.safetensors"),
            says="adapter_config.json",
            files=_beside(text),
        )
        for name, text in (("no JSON", "["), ("a list", "[]"), ("a DoRA", '{"use_dora": true}'))
    ),
    Case(
        name="loras:not there",
        argv=MERGE,
        says="l.safetensors",
        files=lambda f, s: s.put("published", f / "m"),
    ),
    Case(
        name="loras:a folder",
        argv=MERGE,
        says="l.safetensors",
        files=lambda f, s: (s.put("published", f / "m"), (f / "l.safetensors").mkdir()),
    ),
    Case(
        name="loras:sparse 50 GB",
        argv=MERGE,
        says="l.safetensors",
        files=lambda f, s: (s.put("published", f / "m"), sparse(f / "l.safetensors")),
    ),
    *(
        Case(
            name=f"loras:{name}",
            argv=argv,
            says=says,
            files=lambda f, s: (s.put("published", f / "m"), s.put("lora", f / "l.safetensors")),
        )
        for name, argv, says in (
            ("in a style that is none", ("convert", "l.safetensors", "o", "--to", "lora-x"), "lora-x"),
            (
                "merged into a LoRA",
                ("convert", "l.safetensors", "o.safetensors", "--to", "lora-peft", "--lora", "l.safetensors"),
                "--lora",
            ),
            ("as a model", ("info", "l.safetensors"), "is a file"),
            (
                "over itself",
                ("convert", "l.safetensors", "l.safetensors", "--to", "lora-kohya"),
                "there already",
            ),
        )
    ),
]
