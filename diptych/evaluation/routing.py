"""The routing benchmark: whether planners understand requests as they are meant.

Judged are the task, every typed field, the role of each medium, whether a question is asked where one is
needed and only there, and how much of the prompt is left. A request counts as right altogether where nothing
typed in its intent is wrong; prompts are texts, and have a score of their own.
"""

from __future__ import annotations

import re
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from diptych.evaluation.requests import SHUFFLED, Case, Expected, cases, shufflable
from diptych.evaluation.statistics import Score
from diptych.files.typed import to_json
from diptych.files.whole import write_whole
from diptych.planning.schema import Input, Intent, Planner, Request, Step
from diptych.request import TASKS, Role

OLYMPUS = "Olympus (arXiv 2412.09612) tells 94.75 % of its own single-task requests right; ours are others."
TYPED = tuple(f.name for f in fields(Step) if f.name not in ("task", "prompt", "inputs", "negative_prompt"))
_F1, _TIME = "prompt token F1", "median ms a request"
_SIZES, _LENGTHS = {"width", "height", "aspect", "resolution"}, {"seconds", "fps", "frames"}


@dataclass(frozen=True)
class Verdict:
    """How one request was understood; None: not judged."""

    case: Case
    intent: Intent | None
    """None: no valid plan."""
    task: bool | None
    roles: bool | None
    wrong: tuple[str, ...]
    """What is wrong, by name; () where everything typed is right."""
    prompt: float | None
    """Token F1 with the words that are meant."""
    asked: bool
    seconds: float

    @property
    def right(self) -> bool:
        return not self.wrong


def judge(case: Case, intent: Intent | None, seconds: float = 0.0) -> Verdict:
    """Compare an intent with what a request means; None where the planner gave none."""
    family = case.family
    if intent is None or not _valid(intent, case.request):
        return Verdict(case, None, False, False if case.roles else None, ("invalid",), None, False, seconds)
    wrong: list[str] = []
    # a step too many or too few is another task
    tasks = len(intent.steps) == len(case.steps) and all(
        step.task in expected.tasks for step, expected in zip(intent.steps, case.steps, strict=True)
    )
    if not tasks:
        wrong.append("task")
    roles = _roles(intent, case)
    if roles is False:
        wrong.append("roles")
    if "fields" not in family.ignore:
        for step, expected in zip(intent.steps, case.steps, strict=False):
            wrong += _wrong_fields(step, expected, family.clash)
    if intent.language != (family.language or case.language):
        wrong.append("language")
    if set(intent.missing) != set(family.missing):
        wrong.append("missing")
    if bool(intent.contradictions) != bool(family.clash) or set(intent.contradictions) - set(family.clash):
        wrong.append("contradictions")
    wrong = [name for name in dict.fromkeys(wrong) if name not in family.ignore]
    pairs = zip(intent.steps, case.steps, strict=False)
    scores = [token_f1(step.prompt, expected.prompt) for step, expected in pairs if expected.prompt]
    return Verdict(
        case,
        intent,
        None if "task" in family.ignore else tasks,
        None if "roles" in family.ignore else roles,
        tuple(wrong),
        statistics.fmean(scores) if scores and "fields" not in family.ignore else None,
        bool(intent.question),
        seconds,
    )


def _valid(intent: Intent, request: Request) -> bool:
    """Whether an intent can be written, read again, and speaks of media that are there."""
    try:
        again = Intent.from_json(intent.to_json())
    except ValueError:
        return False
    numbers = [one.medium for step in intent.steps for one in step.inputs if one.medium is not None]
    return again == intent and all(number < len(request.media) for number in numbers)


def roles_of(intent: Intent, count: int) -> tuple[Role, ...]:
    """Role of each of `count` media in the first step."""
    given = {one.medium: one.role for one in intent.steps[0].inputs}
    return tuple(given.get(number, Role.UNUSED) for number in range(count))


def _roles(intent: Intent, case: Case) -> bool | None:
    if not case.roles and len(case.steps) == 1:
        return None
    if roles_of(intent, len(case.roles)) != case.roles:
        return False
    if len(case.steps) == 1:
        return True
    expected = Input(TASKS[case.steps[1].tasks[0]].default_role, step=0)
    return len(intent.steps) > 1 and expected in intent.steps[1].inputs


def _wrong_fields(step: Step, expected: Expected, clash: Sequence[str]) -> list[str]:
    # one of two values that contradict each other is as good as none
    free = set(clash)
    for group in (_SIZES, _LENGTHS):
        if free & group:
            free |= group
    wrong = [
        name
        for name in TYPED
        if name not in free and not _among(getattr(step, name), expected.fields.get(name, (None,)))
    ]
    if bool(step.negative_prompt) != bool(expected.negative):
        wrong.append("negative_prompt")
    return wrong


def _among(value: Any, right: Iterable[Any]) -> bool:
    # lists of JSON are tuples of an intent
    return value in [tuple(one) if isinstance(one, list) else one for one in right]


def token_f1(said: str, meant: str) -> float:
    """F1 of the words of two texts as multisets, whatever their case; of scripts without spaces, of their
    characters."""
    one, other = (Counter(_TOKEN.findall(text.casefold())) for text in (said, meant))
    common = (one & other).total()
    return 2 * common / (one.total() + other.total()) if common else 0.0


# CJK ideographs one by one, all else by words
_TOKEN = re.compile(
    r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+"
)


@dataclass(frozen=True)
class Routed:
    """One planner on the benchmark."""

    verdicts: tuple[Verdict, ...]
    shuffled: Score
    """Requests whose media have the same roles in another order."""

    def scores(self) -> dict[str, Score]:
        """Shares over all requests, by what is measured."""
        asked = [v for v in self.verdicts if "ask" not in v.case.family.ignore]
        both = sum(v.asked and v.case.asks for v in asked)
        return {
            **_shares(self.verdicts),
            "invalid plans": Score(sum(v.intent is None for v in self.verdicts), len(self.verdicts)),
            "question precision": Score(both, sum(v.asked for v in asked)),
            "question recall": Score(both, sum(v.case.asks for v in asked)),
            "same roles in another order": self.shuffled,
        }

    def summary(self) -> dict[str, Any]:
        prompts = [v.prompt for v in self.verdicts if v.prompt is not None]
        return {
            "requests": len(self.verdicts),
            **{name: score.as_dict() for name, score in self.scores().items()},
            _F1: round(statistics.fmean(prompts), 4) if prompts else None,
            _TIME: round(1e3 * statistics.median(v.seconds for v in self.verdicts), 3),
            "by class": _grouped(self.verdicts, lambda v: v.case.family.kind),
            "by language": _grouped(self.verdicts, lambda v: v.case.family.language or v.case.language),
            "wrong fields": dict(Counter(name for v in self.verdicts for name in v.wrong).most_common()),
        }


def _shares(verdicts: Sequence[Verdict]) -> dict[str, Score]:
    """Of the verdicts that judge each of these."""
    out = {}
    for name, results in (
        ("task", [v.task for v in verdicts if v.task is not None]),
        ("all fields", [v.right for v in verdicts]),
        ("roles", [v.roles for v in verdicts if v.roles is not None]),
    ):
        if results:
            out[name] = Score(sum(results), len(results))
    return out


def _grouped(verdicts: Sequence[Verdict], key: Callable[[Verdict], str]) -> dict[str, dict[str, Any]]:
    groups: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        groups.setdefault(key(verdict), []).append(verdict)
    return {
        name: {what: score.as_dict() for what, score in _shares(found).items()}
        for name, found in groups.items()
    }


def _planned(planner: Planner, request: Request) -> Intent | None:
    try:
        return planner.plan(request)
    except ValueError:
        return None


def route(
    planner: Planner,
    asked: Sequence[Case] | None = None,
    shuffled: int = SHUFFLED,
    progress: Callable[[int, int], Any] | None = None,
) -> Routed:
    """Plan every request (all of the benchmark unless given), and `shuffled` more in two orders of their
    media. `progress(done, total)` is called as they are planned."""
    chosen = cases() if asked is None else asked
    total, verdicts = len(chosen) + shuffled, []
    for number, case in enumerate(chosen):
        start = time.perf_counter()
        intent = _planned(planner, case.request)
        verdicts.append(judge(case, intent, time.perf_counter() - start))
        if progress and number % 50 == 0:
            progress(number, total)
    same = 0
    for number, pair in enumerate(shufflable(shuffled)):
        said = [_planned(planner, case.request) for case in pair]
        # right in both orders, and not only alike: a planner that gives each medium one role is no judge
        same += all(
            intent is not None and roles_of(intent, len(case.roles)) == case.roles
            for intent, case in zip(said, pair, strict=True)
        )
        if progress and number % 50 == 0:
            progress(len(chosen) + number, total)
    return Routed(tuple(verdicts), Score(same, shuffled))


_SHARES = ("task", "all fields", "roles")


def print_tables(results: Mapping[str, Routed], console: Console) -> None:
    """The planners beside each other, over all, by class and by language."""
    for title, head, rows in _tables(results):
        table = Table(*head, title=title)
        for row in rows:
            table.add_row(*row)
        console.print(table)
    console.print(OLYMPUS, highlight=False, soft_wrap=True)


def _tables(results: Mapping[str, Routed]) -> list[tuple[str, list[str], list[list[str]]]]:
    """(title, columns, rows)."""
    summaries = {name: result.summary() for name, result in results.items()}
    some = next(iter(results.values()))
    rows = [
        [what, *(_told(found[what]) for found in summaries.values())] for what in (*some.scores(), _F1, _TIME)
    ]
    tables = [(f"over {len(some.verdicts)} requests", ["", *results], rows)]
    for by in ("by class", "by language"):
        head = ["", "n", *(f"{name}: {what}" for name in results for what in _SHARES)]
        rows = [
            [
                group,
                str(found["all fields"]["n"]),
                *(_told(each[by][group].get(what)) for each in summaries.values() for what in _SHARES),
            ]
            for group, found in next(iter(summaries.values()))[by].items()
        ]
        tables.append((by, head, rows))
    return tables


def _told(score: Mapping[str, float] | float | None) -> str:
    if score is None:
        return ""
    if isinstance(score, float):
        return f"{score:.3f}"
    return f"{score['score']:.3f} ({score['low']:.2f} to {score['high']:.2f})"


def write(results: Mapping[str, Routed], folder: Path) -> list[Path]:
    """routing.json, routing.md, and every request that was misunderstood, in routing_mistakes.json; returns
    what was written."""
    lines = ["# Routing benchmark", ""]
    for title, head, rows in _tables(results):
        lines += [f"## {title}", "", f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
        lines += [f"| {' | '.join(row)} |" for row in rows]
        lines.append("")
    mistakes = {
        name: [_mistake(v) for v in result.verdicts if not v.right] for name, result in results.items()
    }
    pages = {
        "routing.json": to_json({name: result.summary() for name, result in results.items()}),
        "routing.md": "\n".join([*lines, OLYMPUS]) + "\n",
        "routing_mistakes.json": to_json(mistakes),
    }
    for name, text in pages.items():
        write_whole(folder / name, text)
    return [folder / name for name in pages]


def _mistake(verdict: Verdict) -> dict[str, Any]:
    case = verdict.case
    return {
        "family": case.family.name,
        "request": asdict(case.request),
        "wrong": verdict.wrong,
        "meant": [asdict(step) for step in case.steps],
        "roles": case.roles,
        "planned": verdict.intent.plain() if verdict.intent else None,
    }
