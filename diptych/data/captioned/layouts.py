"""How pictures and clips lie on disk with their captions: sidecar text files, JSONL and lists in JSON
(JourneyDB's names of fields included), Hugging Face image folders, and, of pictures alone, tar shards of SANA
and BLIP3-o.

A layout only says where pictures and captions are; nothing is decoded here.
"""

from __future__ import annotations

import csv
import math
import re
import tarfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diptych.data.clips import VIDEOS
from diptych.data.foreign import (
    MAX_LINE,
    MAX_TEXT,
    files_below,
    inside,
    lines,
    printable,
    read_bytes,
    regular,
    shortened,
)
from diptych.files.typed import parse, read_json

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
CAPTION_KEYS = ("captions", "caption", "text", "prompt")
PICTURE_KEYS = ("file_name", "image", "path", "video", "img_path")
DESCRIBED = "Task2"
"""Of JourneyDB: where the description of a picture stands, beside the prompt that it was drawn by."""
MAX_SIDECAR = 2**26
"""Bytes of a file beside a shard, which is read whole."""
MAX_SCORE = 1e30
"""What is beyond has no meaning, and overflows the index's float32."""
MAX_PADDING = 2**20
"""Bytes behind the end of a shard that are looked at."""
BEGINNING = 2**16
"""Bytes of a JSON file that are looked at to tell what it is."""
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
            yield from shard(folder, self.files[0], self.files[1:])


def units(folder: Path) -> list[Unit]:
    """All that a folder holds, in a fixed order."""
    names, problems = names_below(folder)
    known = set(names)
    shards = [name for name in names if name.endswith(".tar")]
    work = [
        # about one a picture: the weight is only for the progress bar, and counting members would mean
        # reading them
        Unit((shard, *sidecars_of(shard, names)), (folder / shard).stat().st_size // 100_000 + 1)
        for shard in shards
    ]
    beside = {name for shard in shards for name in sidecars_of(shard, names)}
    listings = [
        name
        for name in names
        if name.endswith((".jsonl", "metadata.csv"))
        or (name.endswith(".json") and name not in beside and is_list(folder / name))
    ]
    listed: dict[str, Found] = {}
    for name in listings:
        for found in _listing(folder, name):
            if found.problem:
                problems.append(found)
            else:
                # a listing's captions win over a text file beside the picture
                listed[found.file] = found
    pictures = [name for name in names if name.lower().endswith((*PICTURES, *VIDEOS))]
    stems = {str(Path(name).with_suffix("")) for name in pictures}
    for name in names:
        if name.endswith(".txt") and name.removesuffix(".txt") not in stems:
            problems.append(Found(name, name, problem="a caption without a picture"))
    plain = [listed.get(name) or sidecar(folder, name, known) for name in pictures]
    everything = plain + problems
    for start in range(0, len(everything), CHUNK):
        part = tuple(everything[start : start + CHUNK])
        texts = {str(Path(f.file).with_suffix(".txt")) for f in part}
        # all listings, as any of them may name any picture: change one, and these units are examined anew
        work.append(
            Unit(tuple(sorted(({f.file for f in part} | texts | set(listings)) & known)), len(part), part)
        )
    return work


def names_below(folder: Path) -> tuple[list[str], list[Found]]:
    """Files of a folder that are of use, relative to it, and those that cannot be used whatever they hold."""
    root = folder.resolve()
    names, problems = [], []
    # sorted, so that a run that goes on cuts the same units of work
    for name, entry in sorted(files_below(folder), key=lambda found: found[0]):
        if not name.lower().endswith((*PICTURES, *VIDEOS, ".txt", ".jsonl", ".csv", ".json", ".tar")):
            continue
        problem = ""
        if printable(name) != name:
            problem = "its name is not UTF-8: rename it"
        elif entry.is_symlink():
            try:
                inside(root, name)
            except ValueError:
                problem = "a link that leads nowhere, or out of the folder"
        elif not entry.is_file(follow_symlinks=False):
            problem = "a pipe, a device or a socket"
        if problem:
            problems.append(Found(printable(name), printable(name), problem=problem))
        else:
            names.append(name)
    return names, problems


def sidecar(folder: Path, name: str, known: Collection[str]) -> Found:
    """A picture whose captions are the lines of the text file of its name."""
    size = (folder / name).stat().st_size
    text = str(Path(name).with_suffix(".txt"))
    if text not in known:
        return Found(name, name, size=size)
    try:
        regular(folder / text, MAX_LINE)
        captions = [(line.text or b"").decode().strip() for line in lines(folder / text)]
    except UnicodeDecodeError as error:
        return Found(name, name, problem=f"its text file is not UTF-8 text (byte {error.start})")
    except (OSError, ValueError) as error:
        return Found(name, name, problem=f"its text file cannot be read ({error})")
    return _sound(Found(name, name, size=size, captions=tuple(filter(None, captions))))


def _sound(found: Found) -> Found:
    """What was found, or its captions named as a problem."""
    longest = max((len(caption) for caption in found.captions), default=0)
    if longest > MAX_TEXT and not found.problem:
        found = Found(found.id, found.file, problem=_too_long(longest))
    return found


def _too_long(length: int) -> str:
    return f"a caption of {length:,} characters ({MAX_TEXT:,} at most)"


def _listing(folder: Path, name: str) -> Iterator[Found]:
    """Rows of a JSONL file, of a list in JSON or of an image folder's metadata.csv: a file name beside
    captions."""
    readers = {".csv": csv_rows, ".json": json_rows}
    rows = readers.get(Path(name).suffix, jsonl_rows)(folder / name)
    root, base = folder.resolve(), str(Path(name).parent)
    try:
        for number, row, problem in rows:
            where = f"{name}:{number}"
            yield Found(where, name, problem=problem) if problem else listed_row(root, base, where, name, row)
    except (OSError, ValueError) as error:
        yield Found(name, name, problem=f"cannot be read further ({error})")


def jsonl_rows(path: Path) -> Iterator[tuple[int, Any, str]]:
    """(line, values, problem) of each line."""
    for line in lines(path):
        if line.text is None:
            yield line.number, None, f"a line of {line.size:,} bytes ({MAX_LINE:,} at most)"
            continue
        try:
            yield line.number, parse(line.text, "line"), ""
        except ValueError as error:
            yield line.number, None, str(error).removeprefix("line: ")


def is_list(path: Path) -> bool:
    """Whether a JSON file begins as a list of objects that name pictures: other JSON lies beside pictures as
    well."""
    try:
        begins = read_bytes(path, 0, BEGINNING)
    except OSError:
        return False
    named = any(f'"{key}"'.encode() in begins for key in PICTURE_KEYS)
    return named and re.match(rb"\s*\[\s*\{", begins) is not None


def json_rows(path: Path) -> Iterator[tuple[int, Any, str]]:
    """(number, values, problem) of each entry of a list. Raises ValueError for a file that is none."""
    regular(path, MAX_SIDECAR)
    values = read_json(path)
    if not isinstance(values, list):
        raise ValueError(f"a list is needed, got {type(values).__name__}")
    for number, row in enumerate(values, 1):
        yield number, row, ""


def csv_rows(path: Path) -> Iterator[tuple[int, Any, str]]:
    """(last line, values by column, problem) of each row."""

    def decoded() -> Iterator[str]:
        for line in lines(path):
            if line.text is None:
                raise ValueError(f"line {line.number} has {line.size:,} bytes, more than {MAX_LINE:,}")
            # passed on and not refused here: which row a line belongs to is known when quotes were read
            yield line.text.decode(errors="surrogateescape")

    rows = csv.DictReader(decoded())
    while True:
        try:
            row = next(rows)
            damaged = any(printable(value) != value for value in row.values() if isinstance(value, str))
            yield rows.reader.line_num, row, "not UTF-8 text" if damaged else ""
        except StopIteration:
            return
        # a field of over 131 kB, most often a quote that is never closed; the reader goes on behind it
        except csv.Error as error:
            yield rows.reader.line_num, None, f"not CSV ({error})"


def listed_row(root: Path, base: str, where: str, listing: str, row: Any) -> Found:
    picture = (
        next((row[key] for key in PICTURE_KEYS if isinstance(row.get(key), str)), None)
        if isinstance(row, dict)
        else None
    )
    if picture is None:
        return Found(where, listing, problem=f"no picture: one of {', '.join(PICTURE_KEYS)} is needed")
    try:
        path = inside(root, picture, base)
        captions, scores = captions_in(row)
    except ValueError as error:
        return Found(where, listing, problem=f"picture {error}")
    relative = path.relative_to(root).as_posix()
    size = path.stat().st_size
    found = _sound(Found(relative, relative, size=size, captions=captions, scores=scores))
    return Found(where, listing, problem=found.problem) if found.problem else found


def captions_in(row: dict[str, Any]) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """Captions of a metadata object, and their scores where it has `scores`. Raises ValueError for captions
    that are no texts."""
    value = next((row[key] for key in CAPTION_KEYS if row.get(key)), ())
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list | tuple) or not all(isinstance(v, str) for v in values):
        raise ValueError(f"with captions {shortened(str(value)[:200])}, which are no texts")
    described = row.get(DESCRIBED)
    if isinstance(described, dict) and isinstance(described.get("Caption"), str):
        values = [*values, described["Caption"]]
    captions = tuple(v.strip() for v in values if v.strip())
    scores = row.get("scores")
    # scores that do not match one to one are worth nothing: which belongs to which?
    matching = isinstance(scores, list) and len(scores) == len(captions)
    return captions, tuple(map(_number, scores)) if isinstance(scores, list) and matching else ()


def _number(value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan
    return number if abs(number) <= MAX_SCORE else math.nan


def sidecars_of(shard: str, names: list[str]) -> list[str]:
    """SANA's caption and score files of a shard: <shard><suffix>.json and <shard><suffix>_clip_score.json."""
    stem = shard.removesuffix(".tar")
    return [name for name in names if name.startswith(stem + "_") and name.endswith(".json")]


class _Header(tarfile.TarInfo):
    """A member whose headers are of sane sizes: tarfile reads long names and attributes whole."""

    def _proc_member(self, tar: tarfile.TarFile) -> tarfile.TarInfo:
        if self.size < 0 or (self.type in _EXTRA and self.size > MAX_TEXT):
            raise tarfile.ReadError(f"a header of {self.size:,} bytes")
        return super()._proc_member(tar)  # type: ignore[misc, no-any-return]


_EXTRA = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
_TWICE = "a second member of this name, and the last one counts"
_PACKED = {b"\x1f\x8b": "gzip", b"BZ": "bzip2", b"\xfd7": "xz", b"\x28\xb5": "zstd"}


def shard(folder: Path, name: str, sidecars: tuple[str, ...]) -> Iterator[Found]:
    """Members of a tar shard by key: a picture with .json (SANA) or .txt (BLIP3-o) of the same key."""
    members: dict[str, dict[str, tarfile.TarInfo]] = {}
    problems: list[Found] = []
    try:
        packed = _PACKED.get(read_bytes(folder / name, 0, 2))
        if packed is not None:
            # pictures are read by their offsets, which a packed file does not have
            yield Found(name, name, problem=f"packed with {packed}: unpack it")
            return
        with tarfile.open(folder / name, "r:", tarinfo=_Header) as tar:
            for member in tar:
                problem = _member_problem(member)
                if problem:
                    label = printable(f"{name}/{member.name}")
                    problems.append(Found(label, name, problem=problem))
                elif member.isfile():
                    # the last dot: keys may hold dots of their own
                    stem, dot, ending = member.name.rpartition(".")
                    parts = members.setdefault(stem if dot else member.name, {})
                    if dot + ending.lower() in parts:
                        problems.append(Found(f"{name}/{member.name}", name, problem=_TWICE))
                    parts[dot + ending.lower()] = member
            if rest := _unread(folder / name, tar.offset):
                problems.append(Found(name, name, problem=rest))
            # read while the file is open; pictures are only located
            texts = {key: _member_texts(tar, parts) for key, parts in members.items()}
    # tarfile meets damaged headers with errors of many kinds
    except Exception as error:
        yield Found(name, name, problem=f"not a whole tar file ({error})")
        return
    captions, scores, wrong = _read_sidecars(folder, sidecars)
    yield from problems + wrong
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
        yield _sound(
            Found(
                f"{name}/{key}",
                name,
                picture.offset_data,
                picture.size,
                tuple(v.strip() for v in found.values()),
                marks,
                problem,
            )
        )


def _unread(path: Path, end: int) -> str:
    """What is wrong with a shard that reading stopped at: tarfile takes a damaged header for the end."""
    left = path.stat().st_size - end
    # as much as the padding of any writer: an archive may be followed by zeros alone
    rest = read_bytes(path, end, MAX_PADDING)
    if left <= 0 or not rest.strip(b"\0"):
        return ""
    if rest[: tarfile.BLOCKSIZE].strip(b"\0"):
        return f"no valid header at byte {end:,}: what follows is not read"
    return f"the archive ends at byte {end:,}, and the {left:,} bytes behind it are not read"


def _member_problem(member: tarfile.TarInfo) -> str:
    if printable(member.name) != member.name:
        return "its name is not UTF-8"
    # an id names cache entries and may become a file's name one day
    if member.name.startswith("/") or ".." in member.name.split("/"):
        return "its name leads out of the shard"
    if member.issym() or member.islnk():
        return "a link, and links are not followed"
    return "stored with holes, which are not read" if member.issparse() else ""


def _member_texts(tar: tarfile.TarFile, parts: dict[str, tarfile.TarInfo]) -> tuple[dict[str, str], str]:
    """Captions by name of one sample's .json and .txt members, and what is wrong with them."""
    named: dict[str, str] = {}
    for ending in (".json", ".txt"):
        if ending not in parts:
            continue
        if parts[ending].size > MAX_LINE:
            return {}, f"its {ending} has {parts[ending].size:,} bytes ({MAX_LINE:,} at most)"
        handle = tar.extractfile(parts[ending])
        try:
            text = handle.read().decode("utf-8-sig") if handle is not None else ""
            values = parse(text, "caption") if ending == ".json" else {"text": text}
        except (UnicodeDecodeError, ValueError) as error:
            return {}, f"its {ending} cannot be read ({error})"
        if isinstance(values, dict):
            wanted = {k: v for k, v in values.items() if k in CAPTION_KEYS or k.startswith("caption")}
            named |= {k: v for k, v in wanted.items() if isinstance(v, str)}
            named |= {
                # a list under one name becomes several names, so that scores and captions stay matched by
                # name
                f"{k}.{i}": v
                for k, found in wanted.items()
                if isinstance(found, list)
                for i, v in enumerate(found)
                if isinstance(v, str)
            }
        longest = max(map(len, named.values()), default=0)
        if longest > MAX_TEXT:
            # here and not in `_sound`: a shard's captions are all held until its members are told
            return {}, _too_long(longest)
    return named, ""


def _read_sidecars(
    folder: Path, names: tuple[str, ...]
) -> tuple[dict[str, dict[str, str]], dict[str, dict[str, Any]], list[Found]]:
    """Captions and scores by key, then by name; and sidecars that are not as they should be."""
    captions: dict[str, dict[str, str]] = {}
    scores: dict[str, dict[str, Any]] = {}
    problems: list[Found] = []
    for name in names:
        try:
            regular(folder / name, MAX_SIDECAR)
            values = read_json(folder / name)
        except ValueError as error:
            problems.append(Found(name, name, problem=str(error).removeprefix(f"{folder / name}: ")))
            continue
        entries = values if isinstance(values, dict) else {"": values}
        wrong = 0
        for key, entry in entries.items():
            if not isinstance(entry, dict):
                wrong += 1
            elif name.endswith("_clip_score.json"):
                scores.setdefault(key, {}).update(entry)
            else:
                texts = {k: v for k, v in entry.items() if isinstance(v, str)}
                wrong += len(entry) > len(texts)
                captions.setdefault(key, {}).update(texts)
        if wrong:
            problems.append(
                Found(name, name, problem=f"{wrong} of its entries are no texts or scores by name")
            )
    return captions, scores, problems
