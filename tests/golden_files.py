"""The golden data of `tests/golden`: read here alone, so that no test knows how it is packed.

A `.planes.xz` file is a safetensors file whose numbers were turned by one bit, which brings sign and exponent
apart, cut into planes of bytes and packed: exponents shrink to a third so, and nothing is lost. Its README
tells how the data was made.
"""

import json
import lzma
from math import prod
from pathlib import Path

import numpy as np
import safetensors.torch
from torch import Tensor

FOLDER = Path(__file__).resolve().parent / "golden"


def load(name: str) -> dict[str, Tensor]:
    """Tensors of 'set/file' by name."""
    return safetensors.torch.load(_safetensors(name))


def load_json(name: str) -> dict:
    return json.loads((FOLDER / f"{name}.json").read_text())


def write(name: str, path: Path) -> Path:
    """The plain safetensors file of 'set/file', for what reads its weights from a path."""
    path.write_bytes(_safetensors(name))
    return path


def _safetensors(name: str) -> bytes:
    packed = lzma.decompress((FOLDER / f"{name}.planes.xz").read_bytes())
    at = 8 + int.from_bytes(packed[:8], "little")
    parts, length = [packed[:at]], dict.fromkeys((8, 4, 2, 1), 0)
    for entry in json.loads(packed[8:at]).values():
        begin, end = entry["data_offsets"]
        length[(end - begin) // prod(entry["shape"])] += end - begin
    # safetensors puts wide numbers before narrow ones, so that each width has its planes in one piece
    for width, size in length.items():
        planes = np.frombuffer(packed, np.uint8, size, at).reshape(width, -1)
        turned = np.ascontiguousarray(planes.T).view(f"<u{width}")
        parts.append(((turned >> 1) | (turned << (8 * width - 1))).tobytes())
        at += size
    return b"".join(parts)
