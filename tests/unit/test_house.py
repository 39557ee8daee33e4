"""The rules of the house that a machine can read off the source."""

import ast
import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from diptych.systems.registry import FAMILIES
from diptych.training.config import RunConfig

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "diptych"
SOURCES = sorted(PACKAGE.rglob("*.py"))
WRITTEN = sorted(
    path for part in ("diptych", "tests", "benchmarks", "scripts") for path in (ROOT / part).rglob("*.py")
)
OWN = ("systems", "models", "encoders", "spaces")
"""Packages that may name systems and what is theirs."""
FRONT = ("systems", "commands", "cli.py", "__init__.py")
"""What may import systems; all else is an engine."""
PUBLISHED = ("unison", "sensenova", "neo_unify")
"""Systems that are to come, by the names that they would have."""
KEYS = (
    "model_index",
    "scheduler_config",
    "sana_pipeline",
    "sana_sprint_pipeline",
    "autoencoder_dc",
    "gemma2",
    "t5",
)
"""Files and classes that only a published system has."""


def words(name: str) -> list[str]:
    """'U1System' and 'u1_system' -> ['u1', 'system']."""
    return [word.lower() for word in re.findall(r"[A-Z]+[0-9]*(?![a-z])|[A-Z]?[a-z0-9]+|[0-9]+", name)]


def names_of_systems() -> list[list[str]]:
    models = [path.name for path in (PACKAGE / "models").iterdir() if (path / "__init__.py").is_file()]
    return [words(name) for name in (*(f.name for f in FAMILIES), *models, *PUBLISHED, *KEYS)]


def spoken(path: Path) -> Iterator[tuple[int, str]]:
    """(line, text) of every identifier, import and string value of a file; docstrings are free."""
    tree = ast.parse(path.read_text())
    free = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 0)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in free:
            yield line, node.value
        for key in ("id", "attr", "arg", "name", "asname", "module"):
            if isinstance(text := getattr(node, key, None), str):
                yield line, text


def inside(path: Path, packages: tuple[str, ...]) -> bool:
    return path.relative_to(PACKAGE).parts[0] in packages


def says(text: str, name: list[str]) -> bool:
    found = words(text)
    return any(found[at : at + len(name)] == name for at in range(len(found) - len(name) + 1))


def test_the_split_into_words_tells_names_from_what_only_looks_like_them():
    assert words("U1System.load_sana_space") == ["u1", "system", "load", "sana", "space"]
    assert says("LinearDiT", ["linear", "di", "t"])
    assert not says("motion", ["mot"])
    assert says("diptych.models.mot", ["mot"])


def test_no_system_is_named_outside_what_is_its_own():
    names = [*names_of_systems(), words("LinearDiT"), words("MoT")]
    found = [
        f"{path.relative_to(ROOT)}:{line}: {text!r}"
        for path in SOURCES
        if not inside(path, OWN)
        for line, text in (*spoken(path), (0, path.stem))
        if any(says(text, name) for name in names)
    ]
    assert not found, "\n".join(found)


def test_no_field_of_one_familys_runs_is_read_outside_its_folder():
    """A run's config belongs to its family: engines read what every run has."""
    every = [{field.name for field in dataclasses.fields(family.config())} for family in FAMILIES]
    special = set().union(*every) - set.intersection(*every) - {f.name for f in dataclasses.fields(RunConfig)}
    found = []
    for path in SOURCES:
        if not inside(path, ("training", "inference", "surgery", "evaluation", "commands", "cli.py")):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and node.attr in special:
                owner = node.value
                name = getattr(owner, "id", getattr(owner, "attr", ""))
                if name in ("config", "recipe"):
                    found.append(f"{path.relative_to(ROOT)}:{node.lineno}: {name}.{node.attr}")
    assert not found, "\n".join(found)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_engines_import_no_system(path):
    if inside(path, FRONT):
        return
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            imported = [node.module or ""]
        elif isinstance(node, ast.Import):
            imported = [alias.name for alias in node.names]
        else:
            continue
        assert not [name for name in imported if name.startswith("diptych.systems")]


def test_files_are_short_and_so_are_lines():
    long = [f"{path.relative_to(ROOT)}: {n} lines" for path in WRITTEN if (n := len(lines(path))) > 600]
    wide = [
        f"{path.relative_to(ROOT)}:{number}: {len(line)} wide"
        for path in WRITTEN
        for number, line in enumerate(lines(path), 1)
        if len(line) > 110
    ]
    assert not long + wide, "\n".join(long + wide)


def test_the_layout_is_the_formatters():
    mark = "fmt: " + "skip"
    assert sum(line.count(mark) for path in WRITTEN for line in lines(path)) <= 5


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines()
