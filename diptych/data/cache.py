"""Latents and text computed once: sharded, keyed by what made them, written whole or not at all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from diptych.data.buckets import Bucket

MANIFEST = "cache.json"
SHARD = 256
"""Entries of a shard."""


def latent_key(id: str, bucket: Bucket) -> str:
    return f"{bucket.width}x{bucket.height}/{id}"


def text_key(caption: str) -> str:
    return hashlib.sha256(caption.encode()).hexdigest()[:32]


def write_shards(
    folder: Path,
    kind: str,
    keys: Sequence[str],
    make: Callable[[str], Tensor],
    on_entry: Callable[[int], Any] | None = None,
    part: int = 0,
    parts: int = 1,
) -> None:
    """Shards of `kind` ('latents', 'text', or the name of a control) for keys, in order; shards that are
    there already are kept.

    Process `part` of `parts` writes every `parts`-th shard, so several work side by side. A shard's name
    holds the checksum of its keys: other keys make other shards.
    """
    for number, start in enumerate(range(0, len(keys), SHARD)):
        if number % parts != part:
            continue
        wanted = keys[start : start + SHARD]
        path = _shard_path(folder, kind, wanted)
        if not path.is_file():
            save_file({key: make(key).contiguous() for key in wanted}, aside := path.with_suffix(".part"))
            aside.replace(path)
        if on_entry is not None:
            on_entry(len(wanted))


def _shard_path(folder: Path, kind: str, keys: Sequence[str]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256("\0".join(keys).encode()).hexdigest()[:20]
    return folder / f"{kind}-{digest}.safetensors"


def write_manifest(folder: Path, space: str, text: str, keys: Mapping[str, Sequence[str]]) -> None:
    """Close a cache: which shard holds which key, and the identities of the encoders that made them."""
    places: dict[str, str] = {}
    for kind, wanted in keys.items():
        for start in range(0, len(wanted), SHARD):
            part = wanted[start : start + SHARD]
            path = _shard_path(folder, kind, part)
            if not path.is_file():
                raise ValueError(f"{path} is not written yet")
            places |= {f"{kind}/{key}": path.name for key in part}
    sizes = {name: (folder / name).stat().st_size for name in sorted(set(places.values()))}
    aside = folder / (MANIFEST + ".part")
    aside.write_text(json.dumps({"space": space, "text": text, "sizes": sizes, "places": places}))
    aside.replace(folder / MANIFEST)


class LatentCache:
    """A closed cache, opened for training.

    Raises ValueError for one that is not closed, was made by other encoders, lacks the control that is asked
    for, or has a shard that is missing or cut short.
    """

    def __init__(self, folder: Path, space: str, text: str, control: str = "") -> None:
        path = folder / MANIFEST
        if not path.is_file():
            raise ValueError(f"{folder} is no finished cache: make it or go on with `diptych data cache`")
        manifest = json.loads(path.read_text())
        for name, expected in (("space", space), ("text", text)):
            if manifest[name] != expected:
                raise ValueError(
                    f"{folder} was made by another {name} encoder ({manifest[name]}, here {expected}): "
                    "make a new cache"
                )
        for name, size in manifest["sizes"].items():
            shard = folder / name
            if not shard.is_file() or shard.stat().st_size != size:
                state = "is missing" if not shard.is_file() else f"has {shard.stat().st_size} of {size} bytes"
                raise ValueError(f"{shard} {state}: make the cache again, what is whole is kept")
        self.folder = folder
        self.places: dict[str, str] = manifest["places"]
        self.has_text = any(place.startswith("text/") for place in self.places)
        self.control_name = control
        if control and not any(place.startswith(f"{control}/") for place in self.places):
            raise ValueError(
                f"{folder} holds no {control}: go on with `diptych data cache ... --control {control}`, "
                "what is there is kept"
            )
        self._open = lru_cache(maxsize=64)(self._open_shard)

    def _open_shard(self, name: str) -> Any:
        return safe_open(self.folder / name, "pt")

    def _get(self, kind: str, key: str, what: str) -> Tensor:
        name = self.places.get(f"{kind}/{key}")
        if name is None:
            raise ValueError(
                f"{self.folder} has no {kind} of {what}: the cache was made for other pictures, sizes or "
                "captions"
            )
        try:
            return self._open(name).get_tensor(key)
        except SafetensorError as error:
            raise ValueError(f"{self.folder / name} cannot be read ({error})") from error

    def latents(self, id: str, bucket: Bucket) -> Tensor:
        return self._get("latents", latent_key(id, bucket), f"{id} at {bucket.width}x{bucket.height}")

    def control(self, id: str, bucket: Bucket) -> Tensor:
        """Latents of what was computed from a picture to draw along it."""
        return self._get(self.control_name, latent_key(id, bucket), f"{id} at {bucket.width}x{bucket.height}")

    def text(self, caption: str) -> Tensor:
        """Hidden states (T, channels); empty where the encoder learns and is not cached."""
        if not self.has_text:
            return torch.empty(0)
        return self._get("text", text_key(caption), repr(caption[:60]))

    def __getstate__(self) -> dict[str, Any]:
        """Open files stay in this process; a worker opens its own."""
        return {name: value for name, value in self.__dict__.items() if name != "_open"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open = lru_cache(maxsize=64)(self._open_shard)
