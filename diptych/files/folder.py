"""A model on disk: config.json, weights in safetensors (see `weights`), card.json with checksums, and what
else its system keeps there. No torch here."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from diptych.files.typed import read_json, to_json
from diptych.files.whole import checksum, write_whole

DEFAULT = "default"
MODELS = "models"
"""Where other shipped models lie beside the default one, each in a folder of its name."""
HUB = "hf:"
"""What the name of a model of the hub begins with: a mistyped path is never sent there, as what is fetched
may be anybody's."""
_HUB_NAME = r"\w[\w.-]*/\w[\w.-]*"
PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".pkl")


class ModelFolderError(ValueError):
    """A folder that is no whole model of a known kind; the message says which file and why."""


def locate(name: str | Path | None) -> Path:
    """Folder of a model: the shipped one for None or 'default', a path, another of `shipped`, or
    'hf:owner/name' of the hub (downloaded).

    Of a hub repository only JSON, safetensors and vocabulary files are taken, never code. Raises
    ModelFolderError for any other name.
    """
    if name is None or str(name) == DEFAULT:
        return _assets() / "emoji"
    if (wanted := hub_id(str(name))) is not None:
        return _fetched(wanted)
    if not str(name):
        # what a shell makes of a variable that is not set
        raise ModelFolderError(f"the name of a model is empty; give a folder, {HUB}owner/name or {DEFAULT!r}")
    folder = Path(name)
    try:
        there = folder.exists()
    except (OSError, ValueError) as error:
        raise ModelFolderError(f"{str(name)[:80]!r} is no name of a model ({error})") from error
    if not there:
        # behind what lies here: a model of one's own may have the name of a shipped one
        if str(name) in shipped():
            return _assets() / MODELS / str(name)
        like = re.fullmatch(_HUB_NAME, str(name))
        hint = f"{HUB}{name}" if like else f"{HUB}owner/name"
        known = " or ".join(repr(one) for one in (DEFAULT, *shipped()))
        raise ModelFolderError(
            f"{name} is neither a folder here nor {known}; a model of the hub is written {hint}"
        )
    if not folder.is_dir():
        hint = (
            " (a pickle: it could run code and is refused; convert it to safetensors)"
            if folder.suffix in PICKLES
            else ""
        )
        raise ModelFolderError(f"{folder} is a file, not a model folder{hint}")
    return folder


def shipped() -> list[str]:
    """Names of the models that come with the package, the default one left out."""
    return sorted(path.parent.name for path in (_assets() / MODELS).glob("*/config.json"))


def _assets() -> Path:
    return Path(str(resources.files("diptych") / "assets"))


def hub_id(name: str) -> str | None:
    """The 'owner/name' of 'hf:owner/name'; None for what is no name of a model of the hub. Raises
    ModelFolderError for 'hf:' with anything else behind it."""
    if not name.startswith(HUB):
        return None
    found = name.removeprefix(HUB)
    if not re.fullmatch(_HUB_NAME, found):
        raise ModelFolderError(f"{name[:80]!r} names no model of the hub: it is written {HUB}owner/name")
    return found


def _fetched(name: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors", "*.model", "*.txt"]))
    # no network, no such repository, no permission: the hub's client has an error class for each
    except Exception as error:
        raise ModelFolderError(f"{name} could not be fetched from the hub ({error})") from error


def refuse_code(folder: Path) -> None:
    """Raises ModelFolderError for a folder whose configs name Python code that a loader would run or ask to
    run."""
    for path in sorted(folder.glob("*.json")):
        # weights' indices and vocabularies are large, and name no code
        if not path.name.endswith("config.json"):
            continue
        if path.name == "adapter_config.json":
            raise ModelFolderError(
                f"{path} puts adapters on a model that it names itself: refused, merge them into the weights"
            )
        if key := _code_in(json_object(path)):
            raise ModelFolderError(
                f"{path} names code of its own ({key}): refused, as no code of a model is ever run"
            )


def _code_in(values: Mapping[str, Any]) -> str | None:
    """The key of a config, or of a part's config in it, under which transformers would find code to run."""
    for key, value in values.items():
        # a kernel of the hub is written owner/name where an attention is chosen, there also for each part
        chosen = value.values() if isinstance(value, Mapping) else (value,)
        if key == "auto_map" or (
            key.endswith("_implementation") and any("/" in str(choice) for choice in chosen)
        ):
            return key
        if isinstance(value, Mapping) and (found := _code_in(value)):
            return found
    return None


def check_depth(config: Mapping[str, Any], names: Collection[str], where: str) -> None:
    """Raises ModelFolderError where a config asks for more layers than there are tensors: told from the
    header of the weights, before any layer is made."""
    stored = len(names)
    for key, value in config.items():
        if isinstance(value, Mapping):
            check_depth(value, names, f"{where}.{key}")
        elif "layers" in key or "blocks" in key or key in ("depth", "count") or key.endswith("num_experts"):
            counts = value if isinstance(value, list) else [value]
            asked = sum(count for count in counts if isinstance(count, int))
            if asked > stored:
                raise ModelFolderError(f"{where}: {key} is {value}, but the weights hold {stored} tensors")


Shape = tuple[int, ...]


def check_shapes(expected: Mapping[str, Shape], stored: Mapping[str, Shape], where: str) -> None:
    """Raises ModelFolderError for the first tensor that weights (`stored`, from their headers) lack, have in
    another shape than the config gives it, or have and the config has no place for."""
    for name, shape in expected.items():
        if name not in stored:
            raise ModelFolderError(f"{where}: the weights have no {name}, which the config asks for")
        if tuple(stored[name]) != tuple(shape):
            raise ModelFolderError(
                f"{where}: {name} is {tuple(stored[name])}, the config's sizes make it {tuple(shape)}"
            )
    if extra := sorted(set(stored) - set(expected)):
        raise ModelFolderError(f"{where}: the config has no place for {extra[0]}")


def family_name(folder: Path) -> str | None:
    """What the config of a folder of ours calls its family; None where there is no such config. Never raises:
    families look at every folder with it."""
    try:
        values = read_json(folder / "config.json")
    except ValueError:
        return None
    name = values.get("family") if isinstance(values, dict) else None
    return name if isinstance(name, str) else None


def read_config(folder: Path) -> dict[str, Any]:
    """config.json. Raises ModelFolderError where it is missing or no JSON object."""
    if not (folder / "config.json").is_file():
        raise ModelFolderError(f"{folder} has no config.json, so it is no model folder")
    return json_object(folder / "config.json")


def card(folder: Path) -> dict[str, Any]:
    """The model's card: what it was trained on, by which command, where it came from; {} where there is
    none."""
    path = folder / "card.json"
    return json_object(path) if path.exists() else {}


def json_object(path: Path) -> dict[str, Any]:
    """Raises ModelFolderError for a file that holds none."""
    try:
        values = read_json(path)
    except ValueError as error:
        raise ModelFolderError(str(error)) from error
    if not isinstance(values, dict):
        raise ModelFolderError(f"{path}: a JSON object is needed, got {type(values).__name__}")
    return values


def check_sums(folder: Path) -> None:
    """Raises ModelFolderError for a file that is not the one whose checksum the card has."""
    sums = card(folder).get("sha256", {})
    if not isinstance(sums, dict):
        raise ModelFolderError(f"{folder / 'card.json'}: sha256 must be an object of checksums by file name")
    for name, expected in sums.items():
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise ModelFolderError(
                f"{folder / 'card.json'}: sha256 names {name!r}, which is outside the folder"
            )
        # os.path's, which finds no file under a name that is no file's, such as one too long
        if not os.path.isfile(folder / name) or checksum(folder / name) != expected:
            raise ModelFolderError(f"{folder / name} is damaged: its checksum is not the one in card.json")


def header_shape(path: Path, name: str) -> tuple[int, ...]:
    """Shape of a tensor of a safetensors file, for which torch is not loaded. Raises ModelFolderError for a
    file that is missing or damaged, or has no tensor of that name."""
    with opened(path, "np") as file:
        if name not in set(file.keys()):
            raise ModelFolderError(f"{path} has no tensor {name!r}")
        return tuple(file.get_slice(name).get_shape())


def opened(path: Path, framework: str = "pt") -> Any:
    """A safetensors file, its header read. Raises ModelFolderError for one that is missing or damaged."""
    if not path.is_file():
        raise ModelFolderError(f"{path} is missing")
    try:
        return safe_open(path, framework=framework)
    except (SafetensorError, OSError) as error:
        raise ModelFolderError(
            f"{path} cannot be read ({error}): cut off, damaged or no safetensors file"
        ) from error


def write_card(folder: Path, about: Mapping[str, Any]) -> None:
    """Write card.json with checksums of every file of the folder."""
    # the card last: it vouches for files that are whole by then, those of other parts of the system included
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "card.json")
    sums = {path.relative_to(folder).as_posix(): checksum(path) for path in files}
    write_whole(folder / "card.json", to_json({**about, "sha256": sums}))
