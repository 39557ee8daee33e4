"""Recipes: functions that return the stages of a run, with what can be changed about them."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import importlib.util
import inspect
import json
import sys
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from diptych.curation.align import Alignment, Verify
from diptych.curation.breadth import Breadth, Buckets, Domain
from diptych.curation.caption import Caption
from diptych.curation.cluster import Cluster
from diptych.curation.duplicates import Duplicates
from diptych.curation.embed import Embed
from diptych.curation.hashes import Pixels, Prints
from diptych.curation.heads import Head
from diptych.curation.probe import Probe
from diptych.curation.split import Exclude, Split
from diptych.curation.stage import Stage
from diptych.curation.text import Text
from diptych.curation.write import Write
from diptych.files.typed import convert

Maker = Callable[..., list[Stage]]


def pairs(*, exclude: str = "", validation: float = 0.02, layout: str = "tar") -> list[Stage]:
    """Pictures with captions that can be used, each once, split without leakage: no model is needed.
    `exclude`: a folder of pictures of evaluations, which must not be among them."""
    stages: list[Stage] = [Probe(), Text(), Prints(), Duplicates()]
    if exclude:
        stages.append(Exclude(examples=exclude))
    return [*stages, Split(validation=validation), Write(layout=layout)]


def broad(
    *, clusters: int = 0, cap: int = 0, examples: str = "", share: float = 0.5, layout: str = "tar"
) -> list[Stage]:
    """As `pairs`, and spread over what the pictures show: at most `cap` of a cluster, or the `share` of them
    nearest to a folder of `examples`."""
    stages: list[Stage] = [Probe(), Text(), Prints(), Pixels(), Duplicates(), Cluster(clusters=clusters)]
    if examples:
        stages.append(Domain(examples=examples, embed=Pixels(), share=share))
    if cap:
        stages.append(Breadth(cap=cap))
    return [*stages, Buckets(), Split(), Write(layout=layout)]


def look(*, layout: str = "") -> list[Stage]:
    """Measures pictures and captions and drops nothing but what cannot be read: to choose thresholds by."""
    measured = [
        Probe(min_side=1, max_aspect=1e9, min_sharpness=None, max_solid=None),
        Text(min_words=None, max_repetition=None, boilerplate=True, addresses=True),
        Prints(),
    ]
    return [*measured, *([Write(layout=layout)] if layout else [])]


def judged(
    *,
    encoder: str,
    least: float | None = None,
    share: float | None = None,
    head: str = "",
    url: str = "",
    served: str = "",
    key: str = "",
    judge: str = "",
    clusters: int = 0,
    cap: int = 0,
    layout: str = "tar",
) -> list[Stage]:
    """With models: captions held against pictures by `encoder` (a folder of CLIP or SigLIP), `least` or
    best `share` kept; a `head` on its vectors; one more caption by the model `served` at `url`; a `judge`
    that is asked whether each picture shows its caption."""
    stages: list[Stage] = [
        Probe(),
        Text(),
        Prints(),
        Embed(folder=encoder),
        Alignment(folder=encoder, min=least, share=share),
    ]
    if head:
        stages.append(Head(folder=head))
    stages += [Duplicates(best="alignment.best"), Cluster(vectors="embed.vector", clusters=clusters)]
    if cap:
        stages.append(Breadth(cap=cap))
    captions = "captions"
    if url:
        stages.append(Caption(url=url, served=served, key=key))
        captions = "caption.captions"
        # what a model says is held against the picture as what people say is
        stages.append(Alignment(name="realigned", folder=encoder, captions=captions, min=least))
    if judge:
        stages.append(Verify(judge_model=judge, captions=captions))
    scores = "realigned.scores" if url else "alignment.scores"
    return [*stages, Split(), Write(layout=layout, captions=captions, scores=scores)]


RECIPES: dict[str, Maker] = {"pairs": pairs, "broad": broad, "judged": judged, "look": look}


@dataclass(frozen=True)
class Recipe:
    """Stages, and how to make them again."""

    reference: str
    """Name of one of RECIPES, or FILE.py:FUNCTION."""
    settings: Mapping[str, Any]
    """Dials by name, and fields by STAGE.FIELD."""
    stages: list[Stage]

    @classmethod
    def load(cls, reference: str, settings: Mapping[str, Any] | None = None) -> Recipe:
        """Raises ValueError for a recipe, a dial, a stage or a field that there is not (with the nearest),
        and for values of another kind."""
        settings = dict(settings or {})
        maker, reference = _maker(reference)
        dials = {name: value for name, value in settings.items() if "." not in name}
        stages = _made(maker, reference, dials)
        for name, value in settings.items():
            if "." in name:
                stages = _with(stages, name, value)
        return cls(reference, settings, stages)

    @property
    def modules(self) -> list[Path]:
        """Files that hold stages of the recipe's own."""
        path, dot, _ = self.reference.rpartition(":")
        return [Path(path)] if dot else []


def _maker(reference: str) -> tuple[Maker, str]:
    path, dot, name = reference.rpartition(":")
    if not dot:
        if reference not in RECIPES:
            raise ValueError(
                f"there is no recipe {reference!r}{_nearest(reference, RECIPES)}; there are "
                f"{', '.join(RECIPES)}, and FILE.py:FUNCTION for your own"
            )
        return RECIPES[reference], reference
    file = Path(path).absolute()
    if file.suffix != ".py" or not file.is_file():
        raise ValueError(f"{path} is no Python file; a recipe of your own is FILE.py:FUNCTION")
    module = load_module(file)
    made = getattr(module, name, None)
    if not inspect.isfunction(made):
        functions = [n for n, f in vars(module).items() if inspect.isfunction(f)]
        raise ValueError(f"{path} has no function {name!r}{_nearest(name, functions)}")
    return made, f"{file}:{name}"


def load_module(path: Path) -> ModuleType:
    """Somebody's own stages: imported once in each process, under one name. The file's hash belongs to what
    they compute."""
    text = path.read_bytes()
    digest = hashlib.sha256(text).hexdigest()
    name = f"diptych_recipe_{hashlib.sha256(str(path.absolute()).encode()).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # before it runs: its dataclasses look for it, and so does what unpacks its stages in a worker
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise ValueError(f"{path} cannot be imported ({type(error).__name__}: {error})") from error
    for found in vars(module).values():
        if inspect.isclass(found) and issubclass(found, Stage) and found.__module__ == name:
            found.source = digest
    return module


def _made(maker: Maker, reference: str, dials: Mapping[str, Any]) -> list[Stage]:
    known = inspect.signature(maker).parameters
    for name in dials:
        if name not in known:
            raise ValueError(f"the recipe {reference} has no dial {name!r}{_nearest(name, known)}")
    kinds = typing.get_type_hints(maker)
    values = {name: _value(kinds.get(name, Any), value, name) for name, value in dials.items()}
    stages = maker(**values)
    if not isinstance(stages, list) or not all(isinstance(stage, Stage) for stage in stages) or not stages:
        raise ValueError(f"the recipe {reference} must return a list of stages")
    return stages


def _with(stages: list[Stage], name: str, value: Any) -> list[Stage]:
    """The stages with one field changed, named STAGE.FIELD."""
    owner, _, key = name.partition(".")
    names = [stage.name for stage in stages]
    if owner not in names:
        raise ValueError(f"{name}: the recipe has no stage {owner!r}{_nearest(owner, names)}")
    at = names.index(owner)
    fields = [field.name for field in dataclasses.fields(stages[at]) if field.init]
    if key not in fields:
        raise ValueError(f"{name}: the stage {owner} has no setting {key!r}{_nearest(key, fields)}")
    kind = typing.get_type_hints(type(stages[at]))[key]
    changed = dataclasses.replace(stages[at], **{key: _value(kind, value, name)})
    return [*stages[:at], changed, *stages[at + 1 :]]


def _value(kind: Any, value: Any, where: str) -> Any:
    """A setting of its kind; words of the command line are read as JSON where that fits."""
    if isinstance(value, str) and kind is not str:
        try:
            value = json.loads(value)
        except json.JSONDecodeError:
            value = None if value in ("none", "None") else value
    if isinstance(value, int) and not isinstance(value, bool) and kind in (float, float | None):
        value = float(value)
    return convert(kind, value, where)


def _nearest(name: str, known: Any) -> str:
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.4)
    return f" (nearest: {near[0]!r})" if near else ""
