"""The routing benchmark: its truths, and what its scores notice."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from diptych import cli
from diptych.evaluation import routing
from diptych.evaluation.requests import SPOKEN, Case, cases, families, shufflable
from diptych.planning.schema import Input, Intent, Request, Step
from diptych.request import RequestError, Role, Task


def meant(case: Case) -> Intent:
    """The intent that a request means."""
    steps = []
    for number, expected in enumerate(case.steps):
        inputs = tuple(Input(role, n) for n, role in enumerate(case.roles)) if not number else ()
        if number:
            role = {Task.EDIT: Role.SOURCE, Task.IMAGE_TO_CLIP: Role.FIRST}[expected.tasks[0]]
            inputs = (Input(role, step=0),)
        fields = {name: values[0] for name, values in expected.fields.items()}
        fields = {name: tuple(v) if isinstance(v, list) else v for name, v in fields.items()}
        fields["negative_prompt"] = expected.negative
        steps.append(Step(task=expected.tasks[0], prompt=expected.prompt, inputs=inputs, **fields))
    return Intent(
        steps=tuple(steps),
        language=case.family.language or case.language,
        missing=case.family.missing,
        contradictions=case.family.clash[:1],
        question="which one?" if case.asks else "",
    )


class Oracle:
    """Plans by looking the truth up."""

    def __init__(self, known: list[Case]) -> None:
        self.known = {case.request: meant(case) for case in known}

    def plan(self, request: Request) -> Intent:
        return self.known[request]


@pytest.fixture(scope="module")
def every() -> list[Case]:
    return cases()


def test_the_benchmark_has_every_task_language_and_difficulty(every):
    assert len(every) >= 2000
    assert len(families()) >= 150
    tasks = Counter(case.steps[0].tasks[0] for case in every)
    assert set(tasks) == set(Task) - {Task.INTERLEAVE}
    assert min(tasks.values()) >= 40
    answered = {
        tuple(sorted({m.kind for m in c.request.media})) for c in every if c.steps[0].tasks == (Task.ANSWER,)
    }
    assert answered == {(), ("picture",), ("clip",)}
    spoken = Counter(case.language for case in every)
    assert min(spoken[language] for language in SPOKEN) >= 300
    assert {name for family in families() for name in family.missing} == {
        "source",
        "mask",
        "reference",
        "control",
        "first",
        "last",
        "subject",
        "prompt",
        "clip",
    }
    for condition in (
        lambda case: case.family.clash,
        lambda case: case.request.turns,
        lambda case: len(case.steps) > 1,
        lambda case: len(case.roles) > 1,
    ):
        assert sum(bool(condition(case)) for case in every) >= 70


def test_requests_are_always_the_same_and_all_different(every):
    assert every == cases()
    assert len({case.request for case in every}) == len(every)


def test_no_slot_or_mark_is_left_in_a_request(every):
    for case in every:
        for text in (case.request.text, *case.request.turns):
            assert text.strip()
            assert case.family.raw or not set("{}[]~") & set(text), text


def test_whoever_knows_what_is_meant_is_right_in_everything(every):
    pairs = list(shufflable(500))
    result = routing.route(Oracle([*every, *(case for pair in pairs for case in pair)]))
    assert [v.wrong for v in result.verdicts if not v.right] == []
    scores = result.scores()
    assert scores["invalid plans"].right == 0
    assert all(score.share == 1 for name, score in scores.items() if name != "invalid plans")
    assert result.summary()["prompt token F1"] == 1


def test_other_orders_differ_and_their_roles_go_with_the_media():
    for case, other in shufflable(60):
        assert case.request.media != other.request.media
        assert sorted(zip(case.request.media, case.roles, strict=True), key=str) == sorted(
            zip(other.request.media, other.roles, strict=True), key=str
        )


def test_a_planner_that_goes_by_the_order_of_media_is_caught():
    class ByOrder(Oracle):
        def plan(self, request: Request) -> Intent:
            return next(meant(case) for case in self.first if case.request.text == request.text)

    planner = ByOrder([])
    planner.first = [case for case, _ in shufflable(40)]
    assert routing.route(planner, asked=planner.first, shuffled=40).shuffled.right == 0


def _one(every: list[Case], family: str) -> Case:
    return next(case for case in every if case.family.name == family)


def _step(intent: Intent, **changes) -> Intent:
    return replace(intent, steps=(replace(intent.steps[0], **changes), *intent.steps[1:]))


@pytest.mark.parametrize(
    ("family", "change", "wrong"),
    [
        ("draw-count", lambda i: _step(i, count=None), "count"),
        ("number-decoys", lambda i: _step(i, count=7), "count"),
        ("draw-aspect-word", lambda i: _step(i, aspect=(5, 4)), "aspect"),
        ("seconds-fps", lambda i: _step(i, fps=7), "fps"),
        ("pose-follow", lambda i: _step(i, control="edges"), "control"),
        ("draw-without", lambda i: _step(i, negative_prompt=""), "negative_prompt"),
        ("terse-scene", lambda i: _step(i, task=Task.TEXT_TO_CLIP), "task"),
        ("edit-then-animate", lambda i: replace(i, steps=i.steps[:1]), "task"),
        (
            "draw-then-animate",
            lambda i: replace(i, steps=(i.steps[0], replace(i.steps[1], inputs=()))),
            "roles",
        ),
        ("mask-silent", lambda i: _step(i, inputs=i.steps[0].inputs[:1]), "roles"),
        ("lost-source", lambda i: replace(i, missing=()), "missing"),
        ("terse-scene", lambda i: replace(i, missing=("prompt",)), "missing"),
        ("two-seeds", lambda i: replace(i, contradictions=()), "contradictions"),
        ("two-seeds", lambda i: replace(i, contradictions=("seed", "count")), "contradictions"),
        ("other-language-draw", lambda i: replace(i, language="en"), "language"),
        ("bare-ask", lambda i: _step(i, inputs=(Input(Role.SUBJECT, 9),)), "invalid"),
    ],
)
def test_one_mistake_is_noticed_and_named(every, family, change, wrong):
    case = _one(every, family)
    assert routing.judge(case, meant(case)).right
    assert wrong in routing.judge(case, change(meant(case))).wrong


def test_a_question_too_many_or_too_few_costs_precision_or_recall(every):
    chosen = [_one(every, name) for name in ("lost-source", "two-seeds", "terse-scene", "clip-of")]

    def asking(*families: str) -> dict:
        verdicts = [
            routing.judge(case, replace(meant(case), question="?" * (case.family.name in families)))
            for case in chosen
        ]
        scores = routing.Routed(tuple(verdicts), routing.Score(0, 1)).scores()
        return {name: scores[f"question {name}"].share for name in ("precision", "recall")}

    assert asking("lost-source", "two-seeds") == {"precision": 1, "recall": 1}
    assert asking("lost-source", "two-seeds", "clip-of", "terse-scene") == {"precision": 0.5, "recall": 1}
    assert asking("lost-source") == {"precision": 1, "recall": 0.5}


def test_a_planner_that_refuses_gives_an_invalid_plan(every):
    class Refuses:
        def plan(self, request: Request) -> Intent:
            raise RequestError("no")

    result = routing.route(Refuses(), every[:10], shuffled=3)
    assert result.scores()["invalid plans"].right == 10
    assert result.scores()["task"].right == result.shuffled.right == 0


def test_prompts_are_compared_by_their_words():
    assert routing.token_f1("A red Cat", "a red cat") == 1
    assert routing.token_f1("please a red cat", "a red cat") == pytest.approx(6 / 7)
    assert routing.token_f1("戴眼镜的猫", "戴眼镜的狗") == pytest.approx(0.8)
    assert routing.token_f1("", "a cat") == 0


def test_the_report_names_each_planner_and_every_mistake(every, tmp_path):
    case = _one(every, "draw-count")
    results = {
        "good": routing.Routed((routing.judge(case, meant(case)),), routing.Score(1, 1)),
        "bad": routing.Routed((routing.judge(case, _step(meant(case), count=99)),), routing.Score(0, 1)),
    }
    told, page, mistakes = (path.read_text() for path in routing.write(results, tmp_path))
    assert "good" in page
    assert "94.75" in page
    assert '"count": 1' in told
    assert "draw-count" in mistakes


def test_the_command_judges_every_planner_that_is_here(tmp_path, capsys, monkeypatch, every):
    route = routing.route
    monkeypatch.setattr(routing, "route", lambda planner, progress: route(planner, every[::40], 5, progress))
    assert cli.main(["evaluate", "--routing", "--json", "-o", str(tmp_path)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["results"]["rules"]["requests"] == len(every[::40])
    assert sorted(tmp_path.iterdir()) == sorted(Path(name) for name in told["files"])


def test_the_command_takes_nothing_that_would_have_no_effect(tmp_path, capsys):
    assert cli.main(["evaluate", "--routing", "--prompts", "3", "-o", str(tmp_path)]) != 0
    assert "--output and --json alone" in " ".join(capsys.readouterr().err.split())
