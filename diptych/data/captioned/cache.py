"""Latents and text computed once: sharded, keyed by what made them, written whole or not at all."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from diptych.data.captioned.buckets import Bucket
from diptych.files.typed import convert, read, read_json, to_json
from diptych.files.whole import checksum, whole, write_whole

MANIFEST = "cache.json"
BEGUN = "encoders.json"
"""Which encoders make a cache, from its first shard on."""
SHARD = 256
"""Entries of a shard."""
LEARNED = "learned"
"""Stands in the manifest for a text encoder that learns and is not cached."""


def target_key(id: str, bucket: Bucket) -> str:
    # the size belongs to the key: other resolutions or batch sizes make other buckets of the same picture
    return f"{bucket.width}x{bucket.height}/{id}"


def text_key(caption: str) -> str:
    return hashlib.sha256(caption.encode()).hexdigest()[:32]


def begin_cache(folder: Path, space: str, text: str | None) -> None:
    """Note which encoders a cache is made by. Raises ValueError where others have begun it: what they left
    would be taken for what these make."""
    path, made_by = folder / BEGUN, {"space": space, "text": LEARNED if text is None else text}
    begun = path if path.is_file() else folder / MANIFEST
    if begun.is_file():
        told = convert(dict[str, Any], read_json(begun), str(begun))
        for name, identity in made_by.items():
            # a text encoder that learns leaves nothing here, and finds nothing
            if LEARNED not in (told.get(name), identity) and told.get(name) != identity:
                raise ValueError(
                    f"{folder} was begun by another {name} encoder ({told.get(name)}, here {identity}): "
                    "choose another folder"
                )
        made_by = {name: told[name] if made == LEARNED else made for name, made in made_by.items()}
    elif folder.is_dir():
        # .encoders.json.PID.part was being written by a process that was killed, or shares the work
        other = [p.name for p in folder.iterdir() if not p.name.startswith(f".{BEGUN}.")]
        if other:
            raise ValueError(
                f"{folder} holds something else than a cache ({min(other)}): choose an empty or a new folder"
            )
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(path, to_json(made_by))


def write_shards(
    folder: Path,
    kind: str,
    keys: Sequence[str],
    make: Callable[[str], Tensor],
    on_entry: Callable[[int], Any] | None = None,
    part: int = 0,
    parts: int = 1,
) -> None:
    """Shards of `kind` ('latents': targets; 'text'; or the name of a control) for keys, in order; shards that
    are there already are kept, unless they are not what a manifest says of them.

    Process `part` of `parts` writes every `parts`-th shard, so several work side by side. A shard's name
    holds the checksum of its keys: other keys make other shards.
    """
    sums = _known_sums(folder)
    for number, start in enumerate(range(0, len(keys), SHARD)):
        if number % parts != part:
            continue
        wanted = keys[start : start + SHARD]
        path = _shard_path(folder, kind, wanted)
        # whole or absent, never half: its presence is enough until a manifest closes the cache
        if not path.is_file() or (path.name in sums and checksum(path) != sums[path.name]):
            with whole(path) as aside:
                save_file({key: make(key).contiguous() for key in wanted}, aside)
        if on_entry is not None:
            on_entry(len(wanted))


def _shard_path(folder: Path, kind: str, keys: Sequence[str]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256("\0".join(keys).encode()).hexdigest()[:20]
    return folder / f"{kind}-{digest}.safetensors"


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What closes a cache."""

    space: str
    text: str
    """Identities of the encoders that made it."""
    sizes: dict[str, int]
    """Bytes of each shard."""
    sha256: dict[str, str]
    places: dict[str, str]
    """Kind and key -> shard."""


def write_manifest(folder: Path, space: str, text: str | None, keys: Mapping[str, Sequence[str]]) -> None:
    """Close a cache: which shard holds which key, and the identities of the encoders that made them."""
    places: dict[str, str] = {}
    for kind, wanted in keys.items():
        for start in range(0, len(wanted), SHARD):
            part = wanted[start : start + SHARD]
            path = _shard_path(folder, kind, part)
            if not path.is_file():
                raise ValueError(f"{path} is not written yet")
            places |= {f"{kind}/{key}": path.name for key in part}
    names = sorted(set(places.values()))
    manifest = Manifest(
        space=space,
        text=LEARNED if text is None else text,
        sizes={name: (folder / name).stat().st_size for name in names},
        sha256={name: checksum(folder / name) for name in names},
        places=places,
    )
    write_whole(folder / MANIFEST, to_json(manifest))


def _known_sums(folder: Path) -> dict[str, str]:
    """Checksums by shard of a cache that was closed before; {} for one that was not. Raises ValueError where
    something else has the manifest's name, before any work is done."""
    path = folder / MANIFEST
    if not os.path.lexists(path):
        return {}
    try:
        return read(Manifest, path).sha256
    except ValueError as error:
        raise ValueError(
            f"{path} is there already and closes no cache of ours: remove it or name another folder ({error})"
        ) from error


class TargetCache:
    """A closed cache, opened for training.

    Raises ValueError for one that is not closed, was made by other encoders, lacks the control that is asked
    for, or has a shard that is missing or cut short; later for a shard whose bytes are not those that were
    written.
    """

    def __init__(self, folder: Path, space: str, text: str | None, control: str = "") -> None:
        path = folder / MANIFEST
        if not path.is_file():
            raise ValueError(f"{folder} is no finished cache: make it or go on with `diptych data cache`")
        manifest = read(Manifest, path)
        for name, made, expected in (
            ("space", manifest.space, space),
            ("text", manifest.text, LEARNED if text is None else text),
        ):
            if made != expected:
                raise ValueError(
                    f"{folder} was made by another {name} encoder ({made}, here {expected}): make a new cache"
                )
        if not manifest.sizes.keys() == manifest.sha256.keys() >= set(manifest.places.values()):
            raise ValueError(f"{path} does not tell size and checksum of every shard: make the cache again")
        for name, size in manifest.sizes.items():
            if Path(name).name != name:
                raise ValueError(f"{path} names the shard {name!r}, which is no plain file name")
            shard = folder / name
            # sizes here and checksums at a shard's first use: every run starts with this, and caches can be
            # larger than memory
            if not shard.is_file() or shard.stat().st_size != size:
                state = "is missing" if not shard.is_file() else f"has {shard.stat().st_size} of {size} bytes"
                raise ValueError(f"{shard} {state}: make the cache again, what is whole is kept")
        self.folder = folder
        self.places, self.sums = manifest.places, manifest.sha256
        self._checked: set[str] = set()
        self.has_text = any(place.startswith("text/") for place in self.places)
        self.control_name = control
        if control and not any(place.startswith(f"{control}/") for place in self.places):
            raise ValueError(
                f"{folder} holds no {control}: go on with `diptych data cache ... --control {control}`, "
                "what is there is kept"
            )
        self._open = lru_cache(maxsize=64)(self._open_shard)

    def _open_shard(self, name: str) -> Any:
        # once in each process: what is opened again and again was whole the first time
        if name not in self._checked:
            if checksum(self.folder / name) != self.sums[name]:
                raise ValueError(
                    f"{self.folder / name} is damaged, its checksum is not the one in {MANIFEST}: make the "
                    "cache again, what is whole is kept"
                )
            self._checked.add(name)
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
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{self.folder / name} cannot be read ({error})") from error

    def target(self, id: str, bucket: Bucket) -> Tensor:
        """What the image space made of a picture (C, H, W)."""
        return self._get("latents", target_key(id, bucket), f"{id} at {bucket.width}x{bucket.height}")

    def control(self, id: str, bucket: Bucket) -> Tensor:
        """What it made of what was computed from the picture to draw along it (C, H, W)."""
        return self._get(self.control_name, target_key(id, bucket), f"{id} at {bucket.width}x{bucket.height}")

    def text(self, caption: str) -> Tensor | None:
        """Hidden states (T, channels); None where the encoder learns and is not cached."""
        if not self.has_text:
            return None
        return self._get("text", text_key(caption), repr(caption[:60]))

    def __getstate__(self) -> dict[str, Any]:
        """Open files stay in this process; a worker opens its own."""
        return {name: value for name, value in self.__dict__.items() if name != "_open"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open = lru_cache(maxsize=64)(self._open_shard)
