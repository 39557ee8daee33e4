"""Published pipeline folders and native checkpoints, damaged or with code of their own."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import torch

from hostile.case import Case
from hostile.corpus.models import (
    PICKLE,
    WEIGHTS,
    Change,
    bytes_of,
    changed,
    gone,
    grown,
    pipe,
    values,
)
from hostile.stock import Stock

EVIL = "import pathlib\npathlib.Path('pwned').touch()\nclass Evil: pass\n"
BLOCKS = "transformer/config.json"
SCHEDULER = "scheduler/scheduler_config.json"
TEXT = "text_encoder/config.json"


def _code(name: str, kind: str, **more: Any) -> Change:
    """A config that names Python code beside it, which leaves a mark where it is run."""

    def change(model: Path) -> None:
        (model / name).parent.joinpath("evil.py").write_text(EVIL)
        values(name, auto_map={kind: "evil.Evil"}, **more)(model)

    return change


def _custom_class(model: Path) -> None:
    (model / "pipeline.py").write_text(EVIL)
    told = json.loads((model / "model_index.json").read_text())
    told["transformer"] = ["evil", "Evil"]
    (model / "transformer" / "evil.py").write_text(EVIL)
    (model / "model_index.json").write_text(json.dumps(told))


FOLDERS: dict[str, tuple[Change, str]] = {
    "code in the text encoder": (_code(TEXT, "AutoModel", model_type="evil"), "auto_map"),
    "code in the text encoder of a known kind": (_code(TEXT, "AutoModel"), "auto_map"),
    "code in the tokenizer": (
        _code("tokenizer/tokenizer_config.json", "AutoTokenizer", tokenizer_class="Evil"),
        "auto_map",
    ),
    "code in the denoiser": (_code(BLOCKS, "AutoModel"), "auto_map"),
    "blocks 10,000,000": (values(BLOCKS, num_layers=10**7), "depth must be at most"),
    "blocks 0": (values(BLOCKS, num_layers=0), "m is no whole|layers|depth"),
    "blocks of a text": (values(BLOCKS, num_layers="2"), "m is no whole|layers"),
    "heads 10,000,000": (values(BLOCKS, num_attention_heads=10**7), "m is no whole|heads"),
    "heads 0": (values(BLOCKS, num_attention_heads=0), "m is no whole|heads"),
    "sample size 0": (values(BLOCKS, sample_size=0), "sample_size|native|m is no whole"),
    "sample size beyond all": (values(BLOCKS, sample_size=10**9), "sample_size|native|m is no whole"),
    "patch 0": (values(BLOCKS, patch_size=0), "patch"),
    "a key of tomorrow": (values(BLOCKS, use_flux_capacitor=True), "use_flux_capacitor"),
    "a denoiser of a list": (bytes_of(BLOCKS, b"[1]"), BLOCKS),
    "a denoiser of noise": (bytes_of(BLOCKS, bytes(range(256))), BLOCKS),
    "no denoiser": (gone(BLOCKS), BLOCKS),
    "a denoiser of a pipe": (pipe(BLOCKS), BLOCKS),
    "a denoiser of 50 GB": (grown(BLOCKS), BLOCKS),
    "a scheduler that is none": (values(SCHEDULER, _class_name="Evil"), "scheduler 'Evil'"),
    "a scheduler of order 3": (values(SCHEDULER, solver_order=3), "solver_order"),
    "a scheduler of Karras": (values(SCHEDULER, use_karras_sigmas=True), "use_karras_sigmas"),
    "a shift of a text": (values(SCHEDULER, flow_shift="x"), "flow_shift"),
    "a shift of 0": (values(SCHEDULER, flow_shift=0.0), "shift"),
    "a shift below 0": (values(SCHEDULER, flow_shift=-3.0), "shift"),
    "a shift of NaN": (
        bytes_of(SCHEDULER, lambda d: d.replace(b'"flow_shift": 3.0', b'"flow_shift": NaN')),
        "shift",
    ),
    "no scheduler": (gone(SCHEDULER), SCHEDULER),
    "an index of another pipeline": (
        values("model_index.json", _class_name="SanaVideoPipeline"),
        "SanaVideoPipeline",
    ),
    "an autoencoder of another kind": (values("vae/config.json", _class_name="AutoencoderEvil"), "vae"),
    "an autoencoder of 10,000,000 layers": (
        values("vae/config.json", encoder_layers_per_block=[10**7, 1]),
        "vae",
    ),
    "an autoencoder of no channels": (values("vae/config.json", latent_channels=0), "vae"),
    "an autoencoder of scale 0": (values("vae/config.json", scaling_factor=0), "scale"),
    "no autoencoder": (gone("vae/diffusion_pytorch_model.safetensors"), "vae"),
    "an autoencoder of a pickle": (bytes_of("vae/diffusion_pytorch_model.safetensors", PICKLE), "vae"),
    "no text encoder": (gone("text_encoder/model.safetensors"), "text_encoder"),
    "a text encoder of a pickle": (bytes_of("text_encoder/model.safetensors", PICKLE), "text_encoder"),
    "a text encoder of 10,000,000 layers": (values(TEXT, num_hidden_layers=10**7), "text_encoder|layers"),
    "a text encoder of width 10,000,000": (values(TEXT, hidden_size=10**7), "text_encoder|hidden_size"),
    "a vocabulary of 10^9": (values(TEXT, vocab_size=10**9), "text_encoder|vocab"),
    "a text encoder of another kind": (values(TEXT, model_type="evil"), "text_encoder|evil"),
    "a text encoder of noise": (bytes_of(TEXT, b"\xff"), "text_encoder"),
    "no tokenizer": (gone("tokenizer/tokenizer.json"), "tokenizer"),
    "a tokenizer of noise": (bytes_of("tokenizer/tokenizer.json", b"\xff"), "tokenizer"),
    "a tokenizer of nothing": (bytes_of("tokenizer/tokenizer.json", b"{}"), "tokenizer"),
    "settings of a tokenizer of noise": (bytes_of("tokenizer/tokenizer_config.json", b"["), "tokenizer"),
}
ALWAYS = {"code in the text encoder", "blocks 10,000,000", "a scheduler of Karras"}
WEIGHTS_AT = "transformer/diffusion_pytorch_model.safetensors"
DRAW = ("do", "a cat", "--model", "m", "--steps", "1", "--width", "16", "--height", "16", "-o", "a.png")


def _native(how: Any) -> Any:
    def make(folder: Path, stock: Stock) -> None:
        stock.put("published", folder / "m")
        path = stock.put("native", folder / "n.safetensors")
        path.write_bytes(how if isinstance(how, bytes) else how(path.read_bytes()))

    return make


def _packed_zeros(path: Path) -> None:
    """A gigabyte in one megabyte."""
    torch.save({"x_embedder.proj.weight": torch.zeros(2**18)}, path)
    with zipfile.ZipFile(path) as parts:
        found = {name: parts.read(name) for name in parts.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as parts:
        for name, data in found.items():
            with parts.open(name, "w", force_zip64=True) as part:
                for _ in range(2**10 if len(data) == 2**20 else 1):
                    part.write(data)


CASES = [
    *(
        Case(
            name=f"published:{name}",
            argv=DRAW,
            says=says,
            files=changed("published", change),
            always=name in ALWAYS,
        )
        for name, (change, says) in FOLDERS.items()
    ),
    *(
        Case(
            name=f"published:weights, {name}",
            argv=DRAW,
            says="diffusion_pytorch_model|m is no whole",
            files=changed("published", bytes_of(WEIGHTS_AT, how)),
        )
        for name, how in WEIGHTS.items()
        if name != "other names" and name != "a name too many"
    ),
    *(
        Case(
            name=f"published:code, {name}",
            argv=argv,
            says="auto_map",
            files=changed("published", _code(TEXT, "AutoModel", model_type="evil")),
            may_make=("run", "run/*") if name == "training" else (),
            always=name == "conversion",
        )
        for name, argv in (
            ("conversion", ("convert", "m", "out", "--to", "diptych")),
            ("growth", ("grow", "m", "--depth", "5", "-o", "g")),
            ("information", ("info", "m")),
        )
    ),
    *(
        Case(
            name=f"published:code that nobody asks for, {name}",
            argv=DRAW,
            says="a.png",
            files=changed("published", change),
            status=0,
            makes=("a.png",),
        )
        for name, change in (
            ("beside the pipeline", _custom_class),
            ("in the autoencoder", _code("vae/config.json", "AutoModel")),
        )
    ),
    *(
        Case(
            name=f"published:a native checkpoint, {name}",
            argv=("convert", "n.safetensors", "out", "--to", "diptych", "--base", "m"),
            says="n.safetensors|native",
            files=_native(how),
            always=name == "a pickle in their clothing",
        )
        for name, how in WEIGHTS.items()
    ),
    Case(
        name="published:a native checkpoint without its base",
        argv=("convert", "n.safetensors", "out", "--to", "diptych"),
        says="--base",
        files=_native(lambda data: data),
    ),
    Case(
        name="published:a native checkpoint of heads that are none",
        argv=("convert", "n.safetensors", "out", "--to", "diptych", "--base", "m", "--cross-heads", "0"),
        says="heads",
        files=_native(lambda data: data),
    ),
    Case(
        name="published:a checkpoint of packed zeros",
        argv=("convert", "n.pth", "out", "--to", "diptych", "--base", "m"),
        says="n.pth has .* bytes and unpacks to",
        files=lambda folder, stock: (
            stock.put("published", folder / "m"),
            _packed_zeros(folder / "n.pth"),
        ),
    ),
    Case(
        name="published:a pickle named .pth",
        argv=("convert", "n.pth", "out", "--to", "diptych", "--base", "m"),
        says="n.pth",
        files=lambda folder, stock: (
            stock.put("published", folder / "m"),
            (folder / "n.pth").write_bytes(PICKLE),
        ),
    ),
]
