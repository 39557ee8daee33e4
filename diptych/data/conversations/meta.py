"""SenseNova-U1's list of data sets: a JSON object of names, each with pictures, lines and a share."""

from __future__ import annotations

import difflib
import os.path
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diptych.data.foreign import regular, shortened
from diptych.files.typed import convert, read_json

TASKS = {
    "t2i": "generate",
    "it2i": "edit",
    "interleave_gen": "interleave",
    "text": "text",
    "video": "understand",
    "none": "understand",
}
"""What the file calls a data set's task -> what its samples are here; without one they are asked about."""
MAX_BYTES = 2**26
_READ = ("root", "annotation", "repeat_time", "length", "task")
IGNORED = (
    "data_type",
    "dataset_type",
    "language",
    "data_quality",
    "data_augment",
    "bucket_res",
    "max_dynamic_patch",
    "type",
    "conversations_key",
)
"""Keys that public files have besides: how its own loader sorts and cuts, which has no bearing here."""


@dataclass(frozen=True)
class DataSet:
    name: str
    root: Path
    """Folder that its pictures are in."""
    annotation: Path
    """JSONL file."""
    task: str
    """One of the values of TASKS."""
    share: float
    """repeat_time * length; repeat_time alone where the file gives no length, see `counted`."""
    counted: bool
    """Whether the length is in the share; else it is that of the file's lines."""
    ignored: tuple[str, ...]
    """Keys of no meaning here that it has."""


def read_meta(path: Path) -> list[DataSet]:
    """The data sets of a meta file. Relative paths are taken from the file's own folder, annotations from
    there or from the root. Raises ValueError, naming file and data set, for a root or an annotation that is
    not there, an unknown task or key, and a share that is not above zero."""
    regular(path, MAX_BYTES)
    values = read_json(path)
    if not isinstance(values, dict) or not values:
        raise ValueError(f'{path}: an object of data sets by name is needed, {{"mine": {{"root": ...}}}}')
    return [_data_set(path, name, entry) for name, entry in values.items()]


def _data_set(path: Path, name: str, entry: Any) -> DataSet:
    where = f"{path}: {shortened(name)}"
    if not isinstance(entry, dict):
        raise ValueError(f"{where} must be an object with root, annotation and task")
    for key in entry:
        near = difflib.get_close_matches(key, _READ, n=1, cutoff=0.75)
        if key not in (*_READ, *IGNORED) and near:
            raise ValueError(f"{where}: unknown key {shortened(key)} (nearest: {near[0]!r})")
    for key in ("root", "annotation"):
        if not isinstance(entry.get(key), str) or not entry[key]:
            raise ValueError(f"{where} has no {key}")
    root = path.parent / entry["root"]
    if not os.path.isdir(root):
        raise ValueError(f"{where}: root {shortened(entry['root'])} is no folder")
    places = [base / entry["annotation"] for base in (path.parent, root)]
    annotation = next((place for place in places if os.path.isfile(place)), places[0])
    regular(annotation)
    task = entry.get("task") or "none"
    if not isinstance(task, str) or task not in TASKS:
        raise ValueError(f"{where}: task {shortened(str(task))} is none of {', '.join(TASKS)}")
    share = _number(entry, "repeat_time", where) * _number(entry, "length", where)
    ignored = tuple(key for key in entry if key not in _READ)
    return DataSet(name, root, annotation, TASKS[task], share, entry.get("length") is not None, ignored)


def _number(entry: Mapping[str, Any], key: str, where: str) -> float:
    """Raises ValueError for what is no number above zero; 1 where there is none."""
    value = entry.get(key)
    number = 1.0 if value is None else convert(float, value, f"{where}: {key}")
    if not 0 < number < 1e18:
        raise ValueError(
            f"{where}: {key} is {value}, which is no share of the samples: leave the data set out, or give a "
            "number above 0"
        )
    return number
