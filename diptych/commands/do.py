"""diptych do: carry out a request."""

from __future__ import annotations

import dataclasses
import functools
import glob
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from rich.console import Console
from rich.markup import escape

from diptych import planning
from diptych.commands.arguments import (
    Dtype,
    Images,
    Json,
    Overrides,
    PlanOverrides,
    Positional,
    Settled,
    print_plan,
    understood,
)
from diptych.commands.outputs import check_file, check_page
from diptych.commands.terminal import aside, progress
from diptych.files.typed import to_json
from diptych.files.visible import visible
from diptych.planning import Course, Planner
from diptych.request import MARK, TASKS, Media, Message, Plan, Product, RequestError, Role, Task
from diptych.settings import Settings

if TYPE_CHECKING:
    from diptych.inference import Pipeline, Result


@dataclass(frozen=True, kw_only=True)
class Do:
    """Carry out a request: draw, answer, edit, or answer with text and pictures in turn (--task interleave).
    The plan, progress and thoughts go to stderr, the answer or the names of the pictures to stdout."""

    request: Positional[str] = ""
    """In plain words: "two cats above a red heart", "how many cats are there?", "remove the heart"."""
    image: Images = ()
    """Picture or clip to ask about, to change or to draw by."""
    settled: Settled = None
    """A file with what `diptych plan` printed, in place of a request."""
    history: Path | None = None
    """JSON file of earlier turns, [{"role": "user", "text": "...", "media": ["cat.png"]}, ...], with their
    pictures in its folder: they go before the request, and this turn and its answer are added to the file,
    which begins with them where it is not there."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """Picture or clip to write, out.png or out.mp4 unless given; one that is there is replaced. An answer of
    text and pictures is written as out.md with out-0.png, out-1.png ..."""
    model: str = "default"
    """'default', a model folder, or 'hf:owner/name' of the hub."""
    dtype: Dtype = "auto"
    """Type of the model's weights; 'auto': as its family keeps them."""
    best_of: int = 1
    """Draw so many and keep the best by the verifier."""
    keep: int = 1
    """Best ones that are kept."""
    verifier: str | None = None
    """'self' (the model asks itself; so unless given), 'clip', 'clip:MODEL' or 'vlm:MODEL'."""
    candidates: Path | None = None
    """Folder where all candidates and scores are saved; a selection that was stopped goes on from there."""
    json: Json = False
    """Print one JSON object: plan, answer, pictures with seeds and scores."""
    plan: PlanOverrides = field(default_factory=Overrides)


def run(command: Do, console: Console) -> int:
    _check_options(command)
    from diptych.systems.registry import settings_of

    overrides = command.plan
    if command.candidates is not None and overrides.seed is None:
        from diptych.inference.select import begun_with

        overrides = dataclasses.replace(overrides, seed=begun_with(command.candidates))
    settings = settings_of(command.model)
    talk = Talk.read(settings, command.history)
    turns = [turn.text for turn in talk.messages if turn.role == "user"]
    model = _Model(command)
    earlier = any(message.media for message in talk.messages)
    course, found = understood(
        settings, command.request, command.image, overrides, command.settled, turns, model.planner, earlier
    )
    if len(course.plans) > 1:
        return _steps(command, model, course, found, talk)
    plan, media = planning.given(settings, course, 0, found)
    if TASKS[plan.task].writes:
        return _answer(command, model, plan, media, talk)
    if command.best_of > 1 and talk.path is not None:
        raise RequestError("best of N chooses among drawings of one prompt: leave out --history")
    if command.best_of > 1 and (plan.task is not Task.TEXT_TO_IMAGE or plan.count != 1):
        raise RequestError(
            "best of N chooses among drawings of one prompt: ask for one picture, and for no edit"
        )
    from diptych.data.pictures import names

    output = command.output or _usual(plan)
    outputs = names(output, command.keep if command.best_of > 1 else plan.count)
    for path in outputs:
        check_file(path, plan.frames)
    talk.check_apart(outputs)
    print_plan(plan)
    # here and not above: the plan is told before torch and the model are loaded, which takes seconds
    pipeline = model.pipeline
    from diptych.inference import Result

    scores: list[float] | None = None
    if command.best_of > 1:
        best = _best_of(command, pipeline, plan, media)
        scores = [candidate.score for candidate in best]
        seeds = [candidate.seed for candidate in best]
        result = Result(plan, media=tuple(Media.picture(candidate.pixels) for candidate in best))
    else:
        seeds = [plan.seed + number for number in range(plan.count)]
        result = _drawn(pipeline, plan, media, talk.messages)
    # first, as the drawing may be written over the picture that was asked about
    asked = talk.asked(command, plan)
    paths = result.save(output)
    talk.add(asked, MARK * len(paths), paths)
    if result.thought:
        aside.print(escape(visible(result.thought)), highlight=False, soft_wrap=True)
    if command.json:
        pictures = [
            {"path": str(path), "seed": seed, "score": scores[number] if scores else None}
            for number, (path, seed) in enumerate(zip(paths, seeds, strict=True))
        ]
        _print_json(plan, "", pictures)
    elif scores is None:
        for path in paths:
            print(visible(str(path)))
    else:
        for path, seed, score in zip(paths, seeds, scores, strict=True):
            console.print(
                f"{escape(str(path))}  [dim]score {score:.3f}, seed {seed}[/dim]",
                highlight=False,
                soft_wrap=True,
            )
    return 0


def _usual(plan: Plan | None) -> Path:
    """Where what is drawn is written unless something is said."""
    return Path("out.mp4" if plan is not None and plan.frames > 1 else "out.png")


def _check_options(command: Do) -> None:
    """What would have no effect is refused, before the model is loaded."""
    if command.settled is not None and command.history is not None:
        raise RequestError("--history keeps what was asked for: say it in words, without --plan")
    if command.best_of < 1:
        raise RequestError(f"best_of must be at least 1, got {command.best_of}")
    if command.best_of == 1:
        given = {
            "--keep": command.keep != 1,
            "--verifier": command.verifier is not None,
            "--candidates": command.candidates is not None,
        }
        for flag, there in given.items():
            if there:
                raise RequestError(f"{flag} says how the best of several is chosen: give --best-of too")


class _Model:
    """The model of a command, loaded once and when it is first asked for."""

    def __init__(self, command: Do) -> None:
        self.command = command

    @functools.cached_property
    def pipeline(self) -> Pipeline:
        import diptych

        return diptych.load(self.command.model, dtype=self.command.dtype)

    def planner(self, media: Sequence[Media | Path]) -> Planner | None:
        return self.pipeline.planner(media)


def _answer(command: Do, model: _Model, plan: Plan, media: Sequence[Media], talk: Talk) -> int:
    story = TASKS[plan.task].makes is Product.STORY
    if command.best_of > 1 or (command.output is not None and not story):
        raise RequestError("the request is a question, so no picture is drawn: leave out -o and --best-of")
    output = command.output or Path("out")
    if not output.name:
        raise RequestError(f"{output} is a folder; name a page in it with -o, such as {output}/out.md")
    output = output.with_suffix(".md")
    if story:
        check_page(output)
        # as many as the answer may come to hold
        there = sorted(output.parent.glob(f"{glob.escape(output.stem)}-*.png"))
        for path in there:
            check_page(path)
        talk.check_apart([output, *there])
    print_plan(plan)
    pipeline = model.pipeline
    from diptych.inference import Result

    pieces: list[str | Media] = []
    for piece in pipeline.stream(plan, media, history=talk.messages):
        pieces.append(piece)
        # plain print: pieces come as they are written, and are neither wrapped nor read as markup
        if not command.json:
            print(visible(piece) if isinstance(piece, str) else MARK, end="", flush=True)
    result = Result.of(plan, pieces)
    asked = talk.asked(command, plan)
    # the page, and its pictures
    paths = result.save(output) if story else []
    pictures = paths[1:]
    talk.add(asked, result.text, pictures)
    if command.json:
        drawn = [{"path": str(path), "seed": plan.seed, "score": None} for path in pictures]
        _print_json(plan, result.text, drawn)
        return 0
    print()
    for path in paths:
        print(visible(str(path)))
    return 0


def _steps(command: Do, model: _Model, course: Course, found: Sequence[Media | Path], talk: Talk) -> int:
    """One step after the other; what is drawn last is written, what any of them says is printed."""
    if command.best_of > 1:
        raise RequestError("best of N chooses among drawings of one prompt: ask for one picture, in one step")
    draws = [plan for plan in course.plans if TASKS[plan.task].makes is not Product.TEXT]
    from diptych.data.pictures import names

    output = command.output or _usual(draws[-1] if draws else None)
    for path in names(output, draws[-1].count) if draws else ():
        check_file(path, draws[-1].frames)
    for number, plan in enumerate(course.plans):
        aside.print(f"step {number}", highlight=False)
        print_plan(plan)
    pipeline = model.pipeline
    with progress("drawing, step") as advance:
        steps = max((plan.steps or 0 for plan in draws), default=0)
        last = pipeline.follow(course, found, lambda step: advance(step + 1, steps), talk.messages)
    results = (*last.before, last)
    drawn = next((done for done in reversed(results) if done.media), None)
    paths = drawn.save(output) if drawn else []
    said = "\n".join(done.text for done in results if done.text)
    talk.add(command, said + MARK * len(paths), paths)
    if command.json:
        seed = drawn.plan.seed if drawn else 0
        pictures = [{"path": str(path), "seed": seed + n, "score": None} for n, path in enumerate(paths)]
        plans = [dataclasses.asdict(done.plan) for done in results]
        print(to_json({"plans": plans, "text": said, "pictures": pictures}), end="")
        return 0
    for line in (*said.splitlines(), *map(str, paths)):
        print(visible(line))
    return 0


@dataclass(frozen=True)
class Talk:
    """The file of `--history`, and what it says; nothing where there is none."""

    path: Path | None
    turns: list[Any]
    messages: list[Message]

    @classmethod
    def read(cls, settings: Settings, path: Path | None) -> Talk:
        if path is None:
            return cls(None, [], [])
        if Task.ANSWER not in settings.tasks:
            raise RequestError("this model holds no conversations: leave out --history")
        from diptych.data.talks import media_of, read_talk

        check_page(path)
        turns = read_talk(path)
        messages = [
            Message(
                turn.role,
                turn.text,
                tuple(planning.opened(file, settings.clip_frames) for file in media_of(path, turn)),
            )
            for turn in turns
        ]
        return cls(path, turns, messages)

    def check_apart(self, outputs: Sequence[Path]) -> None:
        """Raises RequestError for an output that would be written over the file or one of its pictures."""
        if self.path is None:
            return
        from diptych.data.talks import media_of

        own = {file.resolve() for turn in self.turns for file in media_of(self.path, turn)}
        for output in outputs:
            if output.resolve() in own | {self.path.resolve()}:
                raise RequestError(
                    f"{output} belongs to the conversation {self.path}: name another file with -o"
                )

    def asked(self, command: Do, plan: Plan) -> Any:
        """The request as a turn of the file; copies of what it showed the model are in the file's folder."""
        if self.path is None:
            return None
        from diptych.data.talks import Said, kept

        pairs = zip(command.image, plan.inputs, strict=True)
        seen = [file for file, role in pairs if role is not Role.UNUSED]
        return Said(role="user", text=command.request, media=kept(self.path, seen))

    def add(self, asked: Any, text: str, pictures: Sequence[Path]) -> None:
        """Write the file with a request and its answer behind what it held."""
        if self.path is None:
            return
        from diptych.data.talks import Said, kept, write_talk

        answered = Said(role="assistant", text=text, media=kept(self.path, pictures))
        write_talk(self.path, [*self.turns, asked, answered])


def _print_json(plan: Plan, text: str, pictures: list[dict[str, Any]]) -> None:
    print(to_json({"plan": dataclasses.asdict(plan), "text": text, "pictures": pictures}), end="")


def _drawn(pipeline: Pipeline, plan: Plan, media: Sequence[Media], history: Sequence[Message]) -> Result:
    from diptych.inference.draw import BATCH

    total = (plan.steps or 0) * -(-plan.count // BATCH)
    steps = 0
    with progress("drawing, step") as advance:

        def step(_: int) -> None:
            nonlocal steps
            steps += 1
            advance(steps, total)

        return pipeline.carry_out(plan, media, step, history)


def _best_of(command: Do, pipeline: Pipeline, plan: Plan, media: Sequence[Media]) -> Sequence[Any]:
    from diptych.inference import best_of, load_verifier
    from diptych.systems.registry import open_ours

    system = pipeline.carrier(plan.task)
    verifier = load_verifier(command.verifier or "self", system, partial(open_ours, device=system.device))
    with progress("drawing and judging") as advance:
        return best_of(
            system,
            plan,
            verifier,
            command.best_of,
            command.keep,
            media,
            command.candidates,
            lambda done: advance(done, command.best_of),
        )
