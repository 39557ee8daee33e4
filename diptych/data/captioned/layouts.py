"""How picture-caption pairs lie on disk: sidecar text files, JSONL, Hugging Face image folders, tar shards of
SANA and BLIP3-o.

A layout only says where pictures and captions are; nothing is decoded here.
"""

from __future__ import annotations

import csv
import math
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diptych.files.typed import parse, read

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
CAPTION_KEYS = ("captions", "caption", "text", "prompt")
PICTURE_KEYS = ("file_name", "image", "path")
CHUNK = 512
"""Pictures of one unit of work."""


@dataclass(frozen=True)
class Found:
    """A picture's place with its captions, or a problem."""

    id: str
    file: str
    offset: int = 0
    size: int = 0
    captions: tuple[str, ...] = ()
    scores: tuple[float, ...] = ()
    problem: str = ""


@dataclass(frozen=True)
class Unit:
    """Work that is done and kept as one: a shard, a list of pictures."""

    files: tuple[str, ...]
    """What its result depends on, relative to the folder."""
    weight: int
    found: tuple[Found, ...] = field(default=(), repr=False)

    def read(self, folder: Path) -> Iterator[Found]:
        if self.found:
            yield from self.found
        else:
            yield from _shard(folder, self.files[0], self.files[1:])


def units(folder: Path) -> list[Unit]:
    """All that a folder holds, in a fixed order."""
    # sorted, so that a run that goes on cuts the same units of work
    names = sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    )
    shards = [name for name in names if name.endswith(".tar")]
    work = [
        # about one a picture: the weight is only for the progress bar, and counting members would mean
        # reading them
        Unit((shard, *_sidecars(shard, names)), (folder / shard).stat().st_size // 100_000 + 1)
        for shard in shards
    ]
    listings = [name for name in names if name.endswith((".jsonl", "metadata.csv"))]
    listed: dict[str, Found] = {}
    problems: list[Found] = []
    for name in listings:
        for found in _listing(folder, name):
            if found.problem:
                problems.append(found)
            else:
                # a listing's captions win over a text file beside the picture
                listed[found.file] = found
    pictures = [name for name in names if name.lower().endswith(PICTURES)]
    stems = {str(Path(name).with_suffix("")) for name in pictures}
    for name in names:
        if name.endswith(".txt") and name.removesuffix(".txt") not in stems:
            problems.append(Found(name, name, problem="a caption without a picture"))
    plain = [listed.get(name) or _sidecar(folder, name) for name in pictures]
    everything = plain + problems
    for start in range(0, len(everything), CHUNK):
        part = tuple(everything[start : start + CHUNK])
        texts = {str(Path(f.file).with_suffix(".txt")) for f in part}
        files = {f.file for f in part if (folder / f.file).is_file()} | {
            t for t in texts if (folder / t).is_file()
        }
        # all listings, as any of them may name any picture: change one, and these units are examined anew
        work.append(Unit(tuple(sorted(files | set(listings))), len(part), part))
    return work


def _sidecar(folder: Path, name: str) -> Found:
    """A picture whose captions are the lines of the text file of its name."""
    size = (folder / name).stat().st_size
    text = (folder / name).with_suffix(".txt")
    if not text.is_file():
        return Found(name, name, size=size)
    try:
        # utf-8-sig: Windows editors begin files with a mark that would become part of the first caption
        lines = tuple(
            line.strip() for line in text.read_text(encoding="utf-8-sig").splitlines() if line.strip()
        )
    except UnicodeDecodeError as error:
        return Found(name, name, problem=f"{text.name} is not UTF-8 text (byte {error.start})")
    return Found(name, name, size=size, captions=lines)


def _listing(folder: Path, name: str) -> Iterator[Found]:
    """Lines of a JSONL file or of an image folder's metadata.csv: a file name beside captions."""
    base = Path(name).parent
    try:
        text = (folder / name).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        yield Found(name, name, problem=f"not UTF-8 text (byte {error.start})")
        return
    rows: list[tuple[int, Any]] = []
    if name.endswith(".csv"):
        rows = list(enumerate(csv.DictReader(text.splitlines()), 2))
    else:
        for number, line in enumerate(text.splitlines(), 1):
            if line.strip():
                try:
                    rows.append((number, parse(line, name)))
                except ValueError as error:
                    yield Found(f"{name}:{number}", name, problem=str(error).removeprefix(f"{name}: "))
    for number, row in rows:
        yield _listed(folder, base, f"{name}:{number}", name, row)


def _listed(folder: Path, base: Path, where: str, listing: str, row: Any) -> Found:
    picture = (
        next((row[key] for key in PICTURE_KEYS if isinstance(row.get(key), str)), None)
        if isinstance(row, dict)
        else None
    )
    if picture is None:
        return Found(where, listing, problem=f"no picture: one of {', '.join(PICTURE_KEYS)} is needed")
    # resolved first: links and '..' must not lead out of the folder
    path = (folder / base / picture).resolve()
    if not path.is_relative_to(folder.resolve()):
        return Found(where, listing, problem=f"picture {picture!r} lies outside the folder")
    if not path.is_file():
        return Found(where, listing, problem=f"picture {picture!r} is not there")
    relative = path.relative_to(folder.resolve()).as_posix()
    captions, scores = _captions(row)
    return Found(relative, relative, size=path.stat().st_size, captions=captions, scores=scores)


def _captions(row: dict[str, Any]) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """Captions of a metadata object, and their scores where it has `scores`."""
    value = next((row[key] for key in CAPTION_KEYS if row.get(key)), ())
    captions = tuple(str(v).strip() for v in ([value] if isinstance(value, str) else value) if str(v).strip())
    scores = row.get("scores", ())
    # scores that do not match one to one are worth nothing: which belongs to which?
    return captions, tuple(_number(v) for v in scores) if len(scores) == len(captions) else ()


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def _sidecars(shard: str, names: list[str]) -> list[str]:
    """SANA's caption and score files of a shard: <shard><suffix>.json and <shard><suffix>_clip_score.json."""
    stem = shard.removesuffix(".tar")
    return [name for name in names if name.startswith(stem + "_") and name.endswith(".json")]


def _shard(folder: Path, name: str, sidecars: tuple[str, ...]) -> Iterator[Found]:
    """Members of a tar shard by key: a picture with .json (SANA) or .txt (BLIP3-o) of the same key."""
    members: dict[str, dict[str, tarfile.TarInfo]] = {}
    try:
        with tarfile.open(folder / name) as tar:
            for member in tar:
                if member.isfile():
                    # the last dot: keys may hold dots of their own
                    stem, dot, ending = member.name.rpartition(".")
                    members.setdefault(stem if dot else member.name, {})[dot + ending.lower()] = member
            # read while the file is open; pictures are only located
            texts = {key: _member_texts(tar, parts) for key, parts in members.items()}
    except (tarfile.TarError, EOFError, OSError) as error:
        yield Found(name, name, problem=f"not a whole tar file ({error})")
        return
    captions, scores = _read_sidecars(folder, sidecars)
    for key, parts in members.items():
        picture = next((parts[ending] for ending in PICTURES if ending in parts), None)
        if picture is None:
            yield Found(f"{name}/{key}", name, problem="a caption without a picture")
            continue
        named, problem = texts[key]
        # sidecars name a member without its folder
        short = Path(key).name
        named = {**named, **captions.get(short, {})}
        found = {k: v for k, v in named.items() if v.strip()}
        marks = tuple(_number(scores.get(short, {}).get(k)) for k in found) if short in scores else ()
        yield Found(
            f"{name}/{key}",
            name,
            picture.offset_data,
            picture.size,
            tuple(v.strip() for v in found.values()),
            marks,
            problem,
        )


def _member_texts(tar: tarfile.TarFile, parts: dict[str, tarfile.TarInfo]) -> tuple[dict[str, str], str]:
    """Captions by name of one sample's .json and .txt members, and what is wrong with them."""
    named: dict[str, str] = {}
    for ending in (".json", ".txt"):
        if ending not in parts:
            continue
        handle = tar.extractfile(parts[ending])
        try:
            text = handle.read().decode() if handle is not None else ""
            values = parse(text, "caption") if ending == ".json" else {"text": text}
        except (UnicodeDecodeError, ValueError) as error:
            return {}, f"its {ending} cannot be read ({error})"
        if isinstance(values, dict):
            wanted = {k: v for k, v in values.items() if k in CAPTION_KEYS or k.startswith("caption")}
            named |= {k: v for k, v in wanted.items() if isinstance(v, str)}
            named |= {
                # a list under one name becomes several names, so that scores and captions stay matched by
                # name
                f"{k}.{i}": str(v)
                for k, found in wanted.items()
                if isinstance(found, list)
                for i, v in enumerate(found)
            }
    return named, ""


def _read_sidecars(
    folder: Path, names: tuple[str, ...]
) -> tuple[dict[str, dict[str, str]], dict[str, dict[str, Any]]]:
    captions: dict[str, dict[str, str]] = {}
    scores: dict[str, dict[str, Any]] = {}
    for name in names:
        if name.endswith("_clip_score.json"):
            for key, marks in read(dict[str, dict[str, Any]], folder / name).items():
                scores.setdefault(key, {}).update(marks)
        else:
            for key, words in read(dict[str, dict[str, str]], folder / name).items():
                captions.setdefault(key, {}).update(words)
    return captions, scores
