"""Model folders of ours, damaged in every file."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hostile.case import Case
from hostile.stock import Stock

Change = Callable[[Path], object]


def changed(stock_name: str, *changes: Change, sums: bool = False) -> Callable[[Path, Stock], None]:
    """A copy of a model as m/, changed; its card without checksums unless `sums`, so that what is damaged is
    met itself."""

    def make(folder: Path, stock: Stock) -> None:
        model = stock.put(stock_name, folder / "m")
        if not sums and (model / "card.json").exists():
            values("card.json", sha256={})(model)
        for change in changes:
            change(model)

    return make


def values(name: str, /, **new: Any) -> Change:
    """Values of a JSON file; a__b is b in a, and a__0 the first of a."""

    def change(model: Path) -> None:
        path = model / name
        told = json.loads(path.read_text())
        for key, value in new.items():
            *way, last = key.split("__")
            place = told
            for part in way:
                place = place[int(part) if isinstance(place, list) else part]
            place[last] = value
        path.write_text(json.dumps(told))

    return change


def without(name: str, *way: str) -> Change:
    def change(model: Path) -> None:
        told = place = json.loads((model / name).read_text())
        for part in way[:-1]:
            place = place[part]
        del place[way[-1]]
        (model / name).write_text(json.dumps(told))

    return change


def bytes_of(name: str, how: Callable[[bytes], bytes] | bytes) -> Change:
    def change(model: Path) -> None:
        path = model / name
        path.write_bytes(how if isinstance(how, bytes) else how(path.read_bytes()))

    return change


def gone(name: str) -> Change:
    return lambda model: (model / name).unlink()


def linked(name: str, target: str) -> Change:
    def change(model: Path) -> None:
        (model / name).unlink()
        (model / name).symlink_to(target)

    return change


def pipe(name: str) -> Change:
    def change(model: Path) -> None:
        (model / name).unlink()
        os.mkfifo(model / name)

    return change


def grown(name: str, size: int = 50 * 2**30) -> Change:
    """As large as said, and nothing in it."""
    return lambda model: os.truncate(model / name, size)


def folder_at(name: str) -> Change:
    return lambda model: ((model / name).unlink(), (model / name).mkdir())


def _header(data: bytes) -> tuple[int, dict[str, Any]]:
    length = struct.unpack("<Q", data[:8])[0]
    return length, json.loads(data[8 : 8 + length])


def header(change: Callable[[dict[str, Any]], object]) -> Callable[[bytes], bytes]:
    """A safetensors file whose header tells other things of the same bytes."""

    def how(data: bytes) -> bytes:
        length, told = _header(data)
        change(told)
        text = json.dumps(told).encode()
        return struct.pack("<Q", len(text)) + text + data[8 + length :]

    return how


def _first(told: dict[str, Any]) -> dict[str, Any]:
    return next(entry for name, entry in told.items() if name != "__metadata__")


def _no_number(name: str) -> Change:
    """One value of the last tensor of a file is NaN."""

    def change(model: Path) -> None:
        path = model / name
        length, told = _header(path.read_bytes())
        entry = max((e for n, e in told.items() if n != "__metadata__"), key=lambda e: e["data_offsets"][1])
        data = bytearray(path.read_bytes())
        at = 8 + length + entry["data_offsets"][1]
        data[at - 4 : at] = struct.pack("<f", float("nan"))
        path.write_bytes(data)

    return change


PICKLE = b"PK\x03\x04archive/data.pkl\x80\x02cos\nsystem\n(S'touch pwned'\ntR."
WEIGHTS: dict[str, Callable[[bytes], bytes] | bytes] = {
    "cut off": lambda data: data[:-100],
    "empty": b"",
    "a pickle in their clothing": PICKLE,
    "zeros": bytes(1000),
    "a flipped length": lambda data: b"\xff" * 8 + data[8:],
    "a flipped header": lambda data: data[:9] + bytes([data[9] ^ 255]) + data[10:],
    "a header of 90 MB that is not there": lambda data: struct.pack("<Q", 90_000_000) + data[8:],
    "a shape of another size": header(lambda told: _first(told).update(shape=[10**9, 10**9])),
    "a shape below 0": header(lambda told: _first(told).update(shape=[-1, 4])),
    "an offset beyond the end": header(lambda told: _first(told).update(data_offsets=[0, 10**15])),
    "a type that is none": header(lambda told: _first(told).update(dtype="F3")),
    "a name too many": header(lambda told: told.update(__metadata__={"format": "np"}, extra=_first(told))),
    "a name too few": header(lambda told: told.pop(next(n for n in told if n != "__metadata__"))),
    "other names": header(lambda told: told.update({f"x{n}": told.pop(n) for n in list(told)})),
    "html": b"<html>not found</html>",
    "a git lfs pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n",
}
HUGE = (
    "depth",
    "width",
    "heads",
    "ffn_width",
    "vocab_size",
    "head_dim",
    "patch",
    "vision_width",
    "scalar_features",
)
CONFIG: dict[str, tuple[Change, str]] = {
    **{
        f"{name} {number:,}": (values("config.json", **{f"model__{name}": number}), "config.json|m: ")
        for name in HUGE
        for number in ((10**7, 0, -1) if name in ("depth", "width") else (10**7, 0))
    },
    "experts beyond all": (
        values("config.json", model__und_experts={"count": 10**7, "active": 1, "ffn_width": 64}),
        "config.json",
    ),
    "a depth beyond 64 bits": (values("config.json", model__depth=2**70), "config.json"),
    "a depth of a text": (values("config.json", model__depth="2"), "config.json.*depth"),
    "a depth of a half": (values("config.json", model__depth=1.5), "config.json.*depth"),
    "a depth of null": (values("config.json", model__depth=None), "config.json.*depth"),
    "no depth": (without("config.json", "model", "depth"), "config.json.*depth"),
    "no model": (without("config.json", "model"), "config.json.*model"),
    "a key too many": (values("config.json", model__dept=2), "config.json.*'dept'"),
    "code of its own": (values("config.json", auto_map={"AutoModel": "evil.Evil"}), "config.json.*auto_map"),
    "native 0": (values("config.json", native=0), "config.json|native"),
    "native -1": (values("config.json", native=-1), "config.json|native"),
    "native beyond all": (values("config.json", native=10**9), "config.json|native"),
    "another family": (values("config.json", family="gpt"), "names 'gpt'"),
    "a family of a list": (values("config.json", family=["u1"]), "family"),
    "no family": (without("config.json", "family"), "family"),
    "a list": (bytes_of("config.json", b"[1]"), "family|object"),
    "noise": (bytes_of("config.json", bytes(range(256))), "family|JSON"),
    "empty": (bytes_of("config.json", b""), "family|JSON"),
    "deep nesting": (bytes_of("config.json", b"[" * 200_000), "family|nested"),
    "NaN": (bytes_of("config.json", lambda data: data.replace(b"1e-06", b"NaN")), "family|JSON"),
    "noise scale 0": (values("config.json", flow__noise_scale=0.0), "noise_scale"),
    "steps 0": (values("config.json", flow__sampler__num_steps=0), "num_steps"),
    "a solver that is none": (values("config.json", flow__sampler__solver="x"), "solver"),
    "no sigma": (values("config.json", flow__objective__sigma_min=0.0), "sigma_min"),
    "sparse 50 GB": (grown("config.json"), "config.json|family"),
    "a pipe": (pipe("config.json"), "family|config.json"),
    "gone": (gone("config.json"), "family|config.json"),
    "a folder": (folder_at("config.json"), "family|config.json"),
}
TOKENIZER: dict[str, Change] = {
    "gone": gone("tokenizer.json"),
    "empty": bytes_of("tokenizer.json", b""),
    "noise": bytes_of("tokenizer.json", bytes(range(256))),
    "an object": bytes_of("tokenizer.json", b"{}"),
    "a list": bytes_of("tokenizer.json", b"[]"),
    "cut off": bytes_of("tokenizer.json", lambda data: data[:500]),
    "deep nesting": bytes_of("tokenizer.json", b"[" * 200_000),
    "no vocabulary": values("tokenizer.json", model__vocab={}),
    "a vocabulary of texts": values("tokenizer.json", model__vocab={"a": "b"}),
    "numbers beyond all": values("tokenizer.json", model__vocab={"a": 2**40}),
    "a pipe": pipe("tokenizer.json"),
    "a folder": folder_at("tokenizer.json"),
    "sparse 50 GB": grown("tokenizer.json"),
}
CARD: dict[str, tuple[Change, str]] = {
    "a list": (bytes_of("card.json", b"[]"), "card.json"),
    "noise": (bytes_of("card.json", b"\xff\xfe"), "card.json"),
    "checksums of a list": (values("card.json", sha256=[]), "card.json.*sha256"),
    "checksums of ../": (values("card.json", sha256={"../../outside/secret.txt": "0"}), "outside the folder"),
    "checksums of the root": (values("card.json", sha256={"/etc/passwd": "0"}), "outside the folder"),
    "checksums of a zero": (values("card.json", sha256={"a\0b": "0"}), "card.json|damaged"),
    "checksums of a link": (
        lambda m: ((m / "l").symlink_to("/dev/zero"), values("card.json", sha256={"l": "0"})(m)),
        "m/l",
    ),
    "checksums of 5": (values("card.json", sha256={"config.json": 5}), "config.json"),
    "a pipe": (pipe("card.json"), "card.json"),
    "deep nesting": (bytes_of("card.json", b"[" * 200_000), "card.json"),
    "sparse 50 GB": (grown("card.json"), "card.json"),
}
TOLD: dict[str, Change] = {
    "escapes": values("card.json", name="\x1b]0;t\x07\x1b[31m", licence="\u202e\x9b31m"),
    "markup": values("card.json", name="[red]x[/]", data="[/bold]"),
    "parents of 5": values("card.json", parents=5),
    "parents of parents": values("card.json", parents=[{"parents": [{"parents": "x"}]}, None, 5]),
    "a recipe of a list": values("card.json", recipe=[1], worlds=5, data={"a": 1}),
    "a name of null": values("card.json", name=None),
    "gone": gone("card.json"),
}
DRAW = ("do", "a cat", "--model", "m", "--steps", "1", "-o", "a.png")
ALWAYS = {
    "depth 10,000,000",
    "code of its own",
    "a pickle in their clothing",
    "escapes",
    "checksums of ../",
}


def _case(name: str, says: str, *changes: Change, **more: Any) -> Case:
    sums = more.pop("sums", False)
    more = {"argv": DRAW, "always": name.partition(", ")[2] in ALWAYS, **more}
    return Case(name=f"models:{name}", says=says, files=changed("joint", *changes, sums=sums), **more)


CASES = [
    *(_case(f"config, {name}", says, change) for name, (change, says) in CONFIG.items()),
    *(_case(f"tokenizer, {name}", "tokenizer.json", change) for name, change in TOKENIZER.items()),
    *(_case(f"card, {name}", says, change) for name, (change, says) in CARD.items()),
    *(
        _case(f"card, {name}", "family", change, argv=("info", "m"), status=0)
        for name, change in TOLD.items()
    ),
    *(
        _case(f"weights, {name}", "model.safetensors|m: ", bytes_of("model.safetensors", how))
        for name, how in WEIGHTS.items()
    ),
    _case("weights, gone", "model.safetensors", gone("model.safetensors")),
    _case("weights, a pipe", "model.safetensors", pipe("model.safetensors")),
    _case("weights, a folder", "model.safetensors", folder_at("model.safetensors")),
    _case("weights, of a device", "model.safetensors", linked("model.safetensors", "/dev/zero")),
    _case("weights, of nowhere", "model.safetensors", linked("model.safetensors", "nowhere")),
    _case("weights, sparse 50 GB", "model.safetensors|m: ", grown("model.safetensors")),
    _case(
        "weights, only a pickle",
        "pytorch_model.bin is a pickle",
        gone("model.safetensors"),
        lambda m: (m / "pytorch_model.bin").write_bytes(PICKLE),
    ),
    *(
        _case(
            f"weights, an index of {name}",
            "model.safetensors.index.json|weight_map|m/model-2.safetensors is missing",
            lambda m, text=text: (m / "model.safetensors.index.json").write_text(text),
        )
        for name, text in (
            ("nothing", "{}"),
            ("a list", "[]"),
            ("numbers", '{"weight_map": {"a": 5}}'),
            ("../", '{"weight_map": {"a": "../../outside/secret.txt"}}'),
            ("what is not there", '{"weight_map": {"a": "model-2.safetensors"}}'),
            ("names that are not there", '{"weight_map": {"nothing": "model.safetensors"}}'),
        )
    ),
    _case(
        "weights, a byte flipped under a checksum",
        "model.safetensors is damaged",
        bytes_of("model.safetensors", lambda data: data[:-1] + bytes([data[-1] ^ 1])),
        sums=True,
    ),
    _case(
        "card, a checksum of a file that went",
        "tokenizer.json is (damaged|missing)",
        gone("tokenizer.json"),
        sums=True,
    ),
    *(
        Case(
            name=f"models:{argv[0]} with a value that is no number",
            argv=argv,
            says="m/model.safetensors: .* has 1 of .* no finite numbers",
            files=changed("joint", _no_number("model.safetensors")),
        )
        for argv in (
            ("do", "a cat", "--model", "m", "--steps", "1", "-o", "a.png"),
            ("grow", "m", "--depth", "5", "-o", "g"),
            ("evaluate", "m", "--prompts", "1", "--split", "questions", "-o", "g"),
        )
    ),
    *(
        Case(
            name=f"models:convert with a value that is no number in {part}",
            argv=("convert", "m", "out", "--to", "diptych"),
            says="m/.*: .* has 1 of .* no finite numbers",
            files=changed("published", _no_number(f"{part}/{stem}.safetensors")),
        )
        for part, stem in (
            ("transformer", "diffusion_pytorch_model"),
            ("vae", "diffusion_pytorch_model"),
            ("text_encoder", "model"),
        )
    ),
    *(
        Case(name=f"models:{name} as a model", argv=("info", path), says=says, files=files)
        for name, path, says, files in (
            ("a file", "m/config.json", "is a file, not a model folder", changed("joint")),
            ("a pickle", "m.pth", "a pickle", lambda f, _: (f / "m.pth").write_bytes(PICKLE)),
            ("an empty folder", ".", "no model of a known family", lambda f, _: None),
            ("a pipe", "p", "p is a", lambda f, _: os.mkfifo(f / "p")),
        )
    ),
    *(
        Case(
            name=f"models:{name} of a damaged model",
            argv=argv,
            says="m/tokenizer.json",
            files=changed("joint", gone("tokenizer.json")),
            always=name == "growth",
        )
        for name, argv in (
            ("growth", ("grow", "m", "--depth", "5", "-o", "g")),
            ("pruning", ("prune", "m", "--depth", "1", "--calibrate", "m/card.json", "-o", "g")),
            ("an evaluation", ("evaluate", "m", "--prompts", "1", "-o", "g")),
            ("drawings", ("data", "drawn", "g", "--model", "m", "--count", "1")),
            ("a demo", ("demo", "--model", "m", "-o", "g")),
            ("a training", ("train", "emoji-small", "--start", "m", "-o", "g")),
            ("a drawing", ("do", "a cat", "--model", "m", "-o", "g.png")),
            ("the numbers", ("info", "m", "--json")),
        )
    ),
]
