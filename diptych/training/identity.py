"""What makes a run the same run: a folder is gone on with under the settings that it was begun with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any

from diptych.files.typed import convert, read_json, to_json
from diptych.training import checkpoint
from diptych.training.config import RunConfig

CONFIG = "config.json"
"""In a run's folder: its family, and its resolved config."""


def described(family: str, config: RunConfig) -> str:
    """A run's config.json."""
    return to_json({"family": family, **asdict(config)})


def check_same(folder: Path, family: str, config: RunConfig) -> None:
    """Raises ValueError, with both values, where the run in a folder was begun with another setting that
    decides what it computes; `config.changeable` are those that do not. So it does for steps of a stage that
    would make others of those which were taken. Writes nothing."""
    path, taken = folder / CONFIG, checkpoint.latest_step(folder / "checkpoints")
    if not path.is_file() or taken is None:
        return
    values = convert(dict[str, Any], read_json(path), str(path))
    # the trainer writes the name beside the config's own fields; left in, it would be an unknown one
    if (other := values.pop("family", family)) != family:
        raise ValueError(
            f"{folder} holds a run of the family {other}, not {family}: choose another folder with -o"
        )
    begun = convert(type(config), values, str(path))
    for place, before, after in _differences(begun, config):
        if place.rpartition(".")[2] not in config.changeable:
            raise ValueError(
                f"{folder} holds a run that was begun with {place} {_short(before)}, not {_short(after)}: "
                f"leave --{place.replace('_', '-')} out to go on with it, or choose another folder with -o"
            )
    _check_steps(folder, taken, begun, config)


def _check_steps(folder: Path, taken: int, begun: RunConfig, config: RunConfig) -> None:
    """A stage that is over stays as long as it was, and the last one that was begun is no shorter than what
    it has had."""
    left = taken
    for number, (before, after) in enumerate(zip(begun.stages, config.stages, strict=True)):
        had, left = min(left, before.steps), left - min(left, before.steps)
        if after.steps < had or (left and after.steps != had):
            right = f"{had} as they were" if left else f"{had} or more"
            raise ValueError(
                f"{folder} has taken {taken} steps, {had} of them in its stage {before.name!r}: "
                f"--stages.{number}.steps must be {right}, got {after.steps}"
            )


def _differences(before: Any, after: Any, place: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(dotted place, value before, value after) of what differs."""
    if is_dataclass(before) and type(before) is type(after):
        for field in fields(before):
            below = f"{place}.{field.name}" if place else field.name
            yield from _differences(getattr(before, field.name), getattr(after, field.name), below)
    elif isinstance(before, tuple) and isinstance(after, tuple) and len(before) == len(after):
        for number, pair in enumerate(zip(before, after, strict=True)):
            yield from _differences(*pair, f"{place}.{number}")
    elif before != after:
        yield place, before, after


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
