"""A hostile command as data, and the judgement of what came of it."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from hostile.stock import Stock

SECONDS = 60.0
MEMORY = 1.5 * 2**30
"""Bytes of memory that a command may take at its peak."""
HASHED = 2**24
"""Bytes of a file of which content is compared; of a larger one size and time."""

Prepare = Callable[[Path, Stock], None]
"""Puts files into the folder that the command runs in."""


def nothing(_: Path, __: Stock) -> None:
    """The command runs in an empty folder."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One command, and what is expected of it."""

    name: str
    argv: tuple[str, ...]
    says: str
    """Regular expression that stderr (for a refusal) or both streams hold; of a refusal, in its sentence."""
    files: Prepare = nothing
    status: int = 2
    makes: tuple[str, ...] = ()
    """Patterns of new paths; each stands for one at least, and nothing else is new."""
    may_make: tuple[str, ...] = ()
    """Patterns of new paths that may be there."""
    changes: tuple[str, ...] = ()
    """Patterns of paths that were there and may have changed or gone."""
    stdout: str = "file"
    """'file'; 'closed': nobody reads the pipe; 'full': a disk without room."""
    interrupt: str = ""
    """Ctrl-C comes when stderr holds this."""
    largest: int = 0
    """Bytes of the largest file that can be written, as on a full disk; 0: any."""
    always: bool = False
    """Whether `make test` runs it too."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a command left behind."""

    status: int
    out: str
    err: str
    seconds: float
    memory: int
    """Bytes at the peak."""


def snapshot(folder: Path) -> dict[str, str]:
    """Everything in a folder, by its path: what it is, and a checksum of what it holds."""
    return {os.fsdecode(os.path.relpath(p, folder)): _state(p) for p in sorted(folder.rglob("*"))}


def _state(path: Path) -> str:
    found = path.lstat()
    if stat.S_ISLNK(found.st_mode):
        return f"link to {path.readlink()}"
    if stat.S_ISREG(found.st_mode):
        if found.st_size > HASHED:
            return f"{found.st_size} bytes, of {found.st_mtime_ns}"
        return hashlib.sha256(path.read_bytes()).hexdigest()
    return f"kind {stat.S_IFMT(found.st_mode):o}"


def faults(case: Case, outcome: Outcome, before: dict[str, str], after: dict[str, str]) -> list[str]:
    """What is wrong with an outcome, in words; nothing where all is as it should be."""
    wrong = []
    if outcome.status != case.status:
        wrong.append(f"exit status {outcome.status}, expected {case.status}")
    if "Traceback" in outcome.err + outcome.out or "Error ignored" in outcome.err:
        wrong.append("a traceback")
    if re.search(r"^bug:", outcome.err, re.MULTILINE):
        wrong.append("a mistake of ours")
    if outcome.seconds > SECONDS:
        wrong.append(f"{outcome.seconds:.0f} s")
    if outcome.memory > MEMORY:
        wrong.append(f"{outcome.memory / 2**20:,.0f} MiB")
    if found := re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\x80-\x9f]", outcome.err + outcome.out):
        wrong.append(f"{found[0]!r} reached the terminal")
    said = outcome.err if case.status else outcome.out + outcome.err
    if case.status == 2:
        said = _refusal(said)
        if not said:
            wrong.append("no sentence that begins with 'error:', nor one of the parser's")
        elif len(said) > 2000:
            wrong.append(f"a message of {len(said)} characters")
    if not re.search(case.says, " ".join(said.split())):
        wrong.append(f"said nothing of {case.says!r}")
    return wrong + _traces(case, before, after)


def _refusal(err: str) -> str:
    """The only sentence of an error, or what the parser of the command line printed in a box."""
    sentences = [line for line in err.splitlines() if line.startswith("error:")]
    if len(sentences) == 1 and err.endswith(sentences[0] + "\n"):
        return sentences[0]
    return re.sub(r"[╭╮╰╯│─]", " ", err) if "╭" in err else ""


def _traces(case: Case, before: dict[str, str], after: dict[str, str]) -> list[str]:
    """What was changed, made or left that should not be, and what was to be made and is not."""

    def fits(path: str, patterns: tuple[str, ...]) -> bool:
        return any(fnmatch(path, f"work/{pattern}") for pattern in patterns)

    new = [path for path in after if path not in before]
    other = [path for path in before if after.get(path) != before[path] and not fits(path, case.changes)]
    left = [path for path in new if not fits(path, case.makes + case.may_make)]
    absent = [p for p in case.makes if not any(fnmatch(path, f"work/{p}") for path in new)]
    return [
        *(f"{path} was changed or removed" for path in other),
        *(f"{path} was left" for path in left),
        *(f"{pattern} was not made" for pattern in absent),
    ]
