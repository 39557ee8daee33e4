"""The golden data of `tests/golden`: read here alone, so that no test knows how it is packed.

A `.planes.xz` file is a safetensors file whose numbers were turned by one bit, which brings sign and exponent
apart, cut into planes of bytes and packed: exponents shrink to a third so, and nothing is lost. Its README
tells how the data was made.
"""

import json
import lzma
import shutil
from math import prod
from pathlib import Path

import numpy as np
import safetensors.torch
from torch import Tensor

FOLDER = Path(__file__).resolve().parent / "golden"
_PACKED = ".planes.xz"


def load(name: str) -> dict[str, Tensor]:
    """Tensors of 'set/file' by name."""
    return safetensors.torch.load(_safetensors(name))


def load_json(name: str) -> dict:
    return json.loads((FOLDER / f"{name}.json").read_text())


def write(name: str, path: Path) -> Path:
    """The plain safetensors file of 'set/file', for what reads its weights from a path."""
    path.write_bytes(_safetensors(name))
    return path


def write_folder(name: str, folder: Path) -> Path:
    """Every file of a set's folder and of those in it: safetensors files plain again, to the byte, all others
    as they are."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in (FOLDER / name).iterdir():
        if path.is_dir():
            write_folder(f"{name}/{path.name}", folder / path.name)
        elif path.name.endswith(_PACKED):
            stem = path.name.removesuffix(_PACKED)
            write(f"{name}/{stem}", folder / f"{stem}.safetensors")
        else:
            shutil.copyfile(path, folder / path.name)
    return folder


def _safetensors(name: str) -> bytes:
    packed = lzma.decompress((FOLDER / f"{name}{_PACKED}").read_bytes())
    at = 8 + int.from_bytes(packed[:8], "little")
    parts, length = [packed[:at]], dict.fromkeys((8, 4, 2, 1), 0)
    header = json.loads(packed[8:at])
    header.pop("__metadata__", None)
    for entry in header.values():
        begin, end = entry["data_offsets"]
        length[(end - begin) // prod(entry["shape"])] += end - begin
    # safetensors puts wide numbers before narrow ones, so that each width has its planes in one piece
    for width, size in length.items():
        planes = np.frombuffer(packed, np.uint8, size, at).reshape(width, -1)
        turned = np.ascontiguousarray(planes.T).view(f"<u{width}")
        parts.append(((turned >> 1) | (turned << (8 * width - 1))).tobytes())
        at += size
    return b"".join(parts)
