"""Unison as a system: a language model reads requests and answers questions; what draws is opened when
something is to be drawn."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn

from diptych.contracts import AnswerLimits, Condition, ImageSpace, Prompt, Stack, System, TakesContext
from diptych.family import OpenSystem
from diptych.files import folder as model_folder
from diptych.files.folder import DEFAULT, HUB, ModelFolderError
from diptych.files.typed import to_json
from diptych.files.whole import write_whole
from diptych.flow import SamplerConfig
from diptych.models.projector import Projector
from diptych.planning import signals
from diptych.planning.schema import Attached, Input, Intent, Request, Step
from diptych.request import Media, Message, RequestError, Role, Task
from diptych.settings import Settings
from diptych.systems.unison import FILE, NAME, projector
from diptych.systems.unison.language import Body, Language, Pass
from diptych.systems.unison.seen import thumbnails
from diptych.systems.unison.settings import MAX_MEDIA, Contents, located, read_contents, settings_of
from diptych.systems.unison.writing import PlanWriter, answered

PLANNER, PROJECTOR = "planner", "projector.safetensors"
"""In a folder that `save` writes."""


@dataclass(eq=False)
class _Begun:
    """A pass that has written the plan of a question, and would write its answer next."""

    texts: tuple[str, ...]
    media: tuple[Media | Path, ...]
    running: Pass


class UnisonSystem:
    """Plans and answers with a language model, and draws with other systems. See `contracts.System`,
    `contracts.HandsOn` and `inference.converse.Plans`; nothing is loaded before it is used."""

    family = NAME
    text = None

    def __init__(
        self,
        folder: Path,
        contents: Contents,
        open_system: OpenSystem,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
        card: dict[str, Any] | None = None,
    ) -> None:
        """Names of `contents` are seen from `folder`."""
        self.folder, self.contents, self.card = folder, contents, card or {}
        self.settings: Settings = settings_of(folder, contents, open_system)
        self.native = self.settings.native
        self._open, self.device, self._dtype = open_system, torch.device(device), dtype
        self._opened: dict[int, System] = {}
        self._begun: _Begun | None = None

    @classmethod
    def load(
        cls,
        folder: Path,
        open_system: OpenSystem,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
    ) -> UnisonSystem:
        card = model_folder.card(folder) or {"name": folder.name, "family": NAME}
        return cls(folder, read_contents(folder), open_system, device, dtype, card)

    @functools.cached_property
    def language(self) -> Language:
        name = located(self.folder, self.contents.planner)
        return Language.load(model_folder.locate(name), self.device, self._dtype)

    @functools.cached_property
    def projector(self) -> Projector | None:
        """None where the folder has none yet."""
        if not self.contents.projector:
            return None
        return projector.load(self.folder / self.contents.projector).to(self.device)

    def generator(self, number: int) -> System:
        """A model that draws, with the projector's tokens behind its text where it is to have them."""
        if number not in self._opened:
            told = self.contents.generators[number]
            system = self._open(located(self.folder, told.model), self.device, self._dtype)
            if told.projected and self.projector is not None:
                system = cast(System, Projected(system, self.language, self.projector))
            system.accelerate()
            self._opened[number] = system
        return self._opened[number]

    def carrier(self, task: Task) -> System:
        for number, (tasks, _) in enumerate(self.settings.parts):
            if task in tasks:
                return self.generator(number)
        if task in self.settings.tasks:
            return self
        raise RequestError(
            f"no model at hand can do {task.value!r}; they can do {', '.join(sorted(self.settings.tasks))}"
        )

    def planner(self, media: Sequence[Media | Path]) -> RequestPlanner:
        """See `inference.converse.Plans`."""
        return RequestPlanner(self, tuple(media))

    def plan(self, request: Request, media: Sequence[Media | Path]) -> Intent:
        """See `RequestPlanner.plan`."""
        if len(request.media) > MAX_MEDIA:
            raise RequestError(
                f"{len(request.media)} pictures are attached, but this model looks at {MAX_MEDIA} at most"
            )
        shown = [thumbnails(one) if isinstance(one, Media) else [] for one in media]
        running = Pass(self.language, self.language.asked(request, shown or None))
        written = self._writer.write(running, len(request.media), request.text)
        intent = signals.read(written, request.media)
        self._begun = None
        if len(intent.steps) == 1 and intent.steps[0].task is Task.ANSWER:
            # its answer follows from here: the question is not read a second time
            self._begun = _Begun((request.text, intent.steps[0].prompt), tuple(media), running)
        return intent

    @functools.cached_property
    def _writer(self) -> PlanWriter:
        return PlanWriter(self.language)

    def answer(self, messages: Sequence[Message], limits: AnswerLimits = AnswerLimits()) -> Iterator[str]:
        return answered(self._asked(messages), limits)

    def answers(
        self, conversations: Sequence[Sequence[Message]], limits: AnswerLimits = AnswerLimits()
    ) -> list[str]:
        return ["".join(self.answer(messages, limits)) for messages in conversations]

    def log_odds(self, conversations: Sequence[Sequence[Message]]) -> list[float]:
        return [self._odds(messages) for messages in conversations]

    def _odds(self, messages: Sequence[Message]) -> float:
        chances = self._asked(messages).logits.log_softmax(-1)
        yes, no = (
            [self.language.ids(form)[0] for form in (word, word.capitalize())] for word in ("yes", "no")
        )
        return float(chances[yes].logsumexp(-1) - chances[no].logsumexp(-1))

    def _asked(self, messages: Sequence[Message]) -> Pass:
        """A pass that has read a question, behind the plan that says so."""
        begun, self._begun = self._begun, None
        *earlier, last = messages
        if begun is not None and not earlier and last.text in begun.texts:
            media = [one for one in begun.media if any(one is shown for shown in last.media)]
            if len(media) == len(last.media) == len(begun.media):
                return begun.running
        told = tuple(_told(medium) for medium in last.media)
        turns = tuple(f"{message.role}: {message.text}" for message in earlier)
        request = Request(text=last.text, media=told, turns=turns)
        subjects = tuple(Input(Role.SUBJECT, number) for number in range(len(told)))
        intent = Intent(steps=(Step(task=Task.ANSWER, prompt=last.text, inputs=subjects),))
        read = self.language.asked(request, [thumbnails(medium) for medium in last.media] or None)
        return Pass(self.language, read.followed(self.language.ids(signals.write(intent))))

    # what draws by itself, for commands that ask a system for its own drawing: the first generator

    @property
    def _main(self) -> System:
        if not self.contents.generators:
            raise RequestError("this model plans and answers; its folder names nothing that draws")
        return self.generator(0)

    @property
    def sampler(self) -> SamplerConfig:
        return self.settings.sampler

    @property
    def space(self) -> ImageSpace:
        return self._main.space

    @property
    def joins_passes(self) -> bool:
        return self._main.joins_passes

    @property
    def embeds_guidance(self) -> bool:
        return self._main.embeds_guidance

    def read(self, prompts: Sequence[Prompt], stacks: Sequence[Stack]) -> Condition:
        return self._main.read(prompts, stacks)

    def denoise(self, x: Tensor, sigma: Tensor, condition: Any) -> Tensor:
        return self._main.denoise(x, sigma, condition)

    def fit(self, pixels: np.ndarray) -> np.ndarray:
        return self._main.fit(pixels)

    def accelerate(self) -> None:
        """Each generator is made fast when it is opened."""

    @property
    def model(self) -> Any:
        """The planner as a model of blocks."""
        return Body(self.language.model)

    @model.setter
    def model(self, model: Any) -> None:
        raise RequestError("a planner of transformers keeps its blocks")

    @property
    def token(self) -> int:
        return self._main.token

    @token.setter
    def token(self, token: int) -> None:
        raise RequestError("the token is that of the model that draws")

    def parts(self) -> dict[str, nn.Module]:
        """What the folder itself brings: generators are models of their own."""
        found: dict[str, nn.Module] = {"planner": self.model}
        return found if self.projector is None else {**found, "projector": self.projector}

    def save(self, folder: Path) -> None:
        """Write planner and projector into a folder; generators stay where they are, and are named from
        there."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.language.save(folder / PLANNER)
        write_contents(folder, self.contents, self.folder, self.projector, folder)
        model_folder.write_card(folder, {**self.card, "family": NAME})


@dataclass(frozen=True, eq=False)
class RequestPlanner:
    """The planner of one request, see `planning.Planner`."""

    system: UnisonSystem
    media: tuple[Media | Path, ...]

    def plan(self, request: Request) -> Intent:
        """What a request asks for, by a plan that the language model writes under the grammar."""
        return self.system.plan(request, self.media)


class Projected:
    """A system that draws, told by the projector what the language model understands of each prompt."""

    def __init__(self, system: System, language: Language, projector: Projector) -> None:
        """Raises ModelFolderError for a system or a projector that do not go together."""
        if not isinstance(system, TakesContext):
            raise ModelFolderError(
                f"{system.family}: this model takes nothing behind its text; leave out projected"
            )
        config = projector.config
        if (config.inputs, config.outputs) != (language.channels, system.context_channels):
            raise ModelFolderError(
                f"the projector is {config.inputs} -> {config.outputs} channels, the planner gives "
                f"{language.channels} and the generator reads {system.context_channels}"
            )
        self.generator, self.language, self.projector = system, language, projector
        # training asks for the same captions again, and guidance for the same prompt
        self._states = functools.lru_cache(maxsize=256)(language.states)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.generator, name)

    def read(self, prompts: Sequence[Prompt], stacks: Sequence[Stack]) -> Condition:
        """With the projector's tokens behind each text. Gradients flow to the projector alone."""
        if len(prompts) == len(stacks):
            prompts = [
                replace(prompt, context=self._tokens(prompt, stack))
                for prompt, stack in zip(prompts, stacks, strict=True)
            ]
        return self.generator.read(prompts, stacks)

    def _tokens(self, prompt: Prompt, stack: Stack) -> Tensor:
        roles = [given.role for given in stack.given]
        # frames of one medium stand together; each reference is a medium by itself
        clips = {role for role in roles if roles.count(role) > 1 and role is not Role.REFERENCE}
        pictures = sum(role not in clips for role in roles)
        states = self._states(prompt.text, pictures, len(clips))
        found: Tensor = self.projector(states.to(next(self.projector.parameters())))[0]
        return found


def _told(medium: Media) -> Attached:
    height, width = medium.frames.shape[1:3]
    kind: Literal["picture", "clip"] = "picture" if len(medium.frames) == 1 else "clip"
    return Attached(kind=kind, width=width, height=height, frames=len(medium.frames))


def write_contents(
    folder: Path, contents: Contents, seen_from: Path, learned: Projector | None, place: Path
) -> None:
    """Write unison.json and the projector into a folder that will lie at `place`. A planner that was written
    there is named; all other models stay where they are, seen from `seen_from`."""

    def placed(name: str) -> str:
        if name == DEFAULT or name.startswith(HUB):
            return name
        return os.path.relpath((seen_from / name).resolve(), place.resolve())

    if learned is not None:
        projector.save(learned, folder / PROJECTOR)
    told = replace(
        contents,
        planner=PLANNER if (folder / PLANNER).is_dir() else placed(contents.planner),
        generators=tuple(replace(one, model=placed(one.model)) for one in contents.generators),
        projector="" if learned is None else PROJECTOR,
    )
    write_whole(folder / FILE, to_json(told))
