"""The planner that ships: a small tagger, in numpy alone, and what its labels say.

It marks the words that say a prompt, a size, a duration ..., and tells the task, the steps, the language and
the role of each medium; what the marked words say is read by `spans`. Trained by `trainer` on planning data
alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from diptych.files.folder import opened
from diptych.files.typed import convert
from diptych.planning import agree
from diptych.planning.clarify import WANTS, missing, question
from diptych.planning.labels import CONTROLS, LANGUAGES, OUTPUTS, ROLES, TAGS, TASKS, TaggerConfig
from diptych.planning.schema import Control, Input, Intent, Look, Request, Step
from diptych.planning.spans import Span, fields, trimmed
from diptych.planning.tokens import Encoded, encode
from diptych.planning.turns import continued
from diptych.request import MARK, Product, RequestError, Role, Task
from diptych.request import TASKS as FACTS

if TYPE_CHECKING:
    import numpy as np

FILE = "model.safetensors"
TURNS = 4
"""Turns before that are read."""
UNSURE = 0.1
"""Confidence below which a question is asked where nothing is missing and nothing contradicts itself: half of
what is less sure than 0.5 is right, and is told of instead, see `understanding`."""
_SPOKEN_OF = 2.0
"""Logits from which a medium is held to be spoken of: a needless question costs more than a missed one."""
_DOUBT = 3.0
"""Logits by which a mark must be likelier than any other where nothing else speaks for it."""
_SHOWN = {
    Look.EDGES: Control.EDGES,
    Look.DEPTH: Control.DEPTH,
    Look.POSE: Control.POSE,
    Look.BOXES: Control.BOXES,
}


class Learned:
    """Plans requests in a few milliseconds; no torch is loaded."""

    def __init__(self, network: Network, temperature: float = 1.0) -> None:
        self.network, self.temperature = network, temperature

    @classmethod
    def open(cls, folder: Path | None = None) -> Learned | None:
        """The planner of a folder, or the one that ships; None where there is none. Raises ValueError for a
        damaged file."""
        folder = folder or Path(str(resources.files("diptych") / "assets" / "planner"))
        path = folder / FILE
        if not path.is_file():
            return None
        with opened(path, "np") as file:
            about = json.loads((file.metadata() or {})["planner"])
            names = file.keys()
            tensors = {name: file.get_tensor(name) for name in names}
        config = convert(TaggerConfig, about["config"], str(path))
        return cls(Network(config, tensors), float(about["temperature"]))

    def plan(self, request: Request) -> Intent:
        """What a request asks for. Raises RequestError for an empty one."""
        if not request.text.strip():
            raise RequestError("the request is empty: say what to draw, to answer or to change")
        before = self._before(request)
        made = FACTS[before.task].makes if before is not None else None
        kind = {None: "", Product.PICTURE: "picture", Product.CLIP: "clip"}.get(made, "text")
        encoded = encode(request, kind)
        return self._read(request, encoded, self.network(encoded), before)

    def _before(self, request: Request) -> Step | None:
        """The last step of the turn before."""
        turns = [turn for turn in request.turns if turn.strip()][-TURNS:]
        if not turns:
            return None
        return self.plan(Request(text=turns[-1], turns=tuple(turns[:-1]))).steps[-1]

    def _read(
        self, request: Request, encoded: Encoded, logits: Mapping[str, np.ndarray], before: Step | None
    ) -> Intent:
        import numpy as np

        sure = 1.0

        def chosen(scores: np.ndarray) -> int:
            nonlocal sure
            row = scores / self.temperature
            best = int(row.argmax())
            sure *= float(1.0 / np.exp(row - row[best]).sum())
            return best

        text = request.text
        language = agree.written(text, LANGUAGES[int(logits["language"].argmax())])
        wants = {name for name, value in zip(WANTS, logits["wants"], strict=True) if value > _SPOKEN_OF}
        tasks: list[Task] = []
        if before is not None and not request.media and logits["follows"][0] > 0:
            sure *= float(1.0 / (1.0 + np.exp(-logits["follows"][0])))
            tasks, follows = [before.task], True
            cut = len(encoded.tokens)
        else:
            follows, after = False, agree.moved_after(text) if MARK not in text else None
            count = chosen(logits["count"]) + 1 if after is None else 2
            cut = _cut(encoded, logits) if count > 1 else len(encoded.tokens)
            if after is not None:
                cut = next((n for n, token in enumerate(encoded.tokens) if token.start >= after), cut)
        scores = self._first(request, encoded, logits["task0"], cut)
        if not tasks:
            tasks = [Task(TASKS[chosen(agree.fitting(scores, request.media, "clip" in wants))])]
        if cut < len(encoded.tokens):
            rest = text[encoded.tokens[cut].start :]
            tasks.append(Task(TASKS[chosen(agree.following(logits["task1"], tasks[0], rest))]))
        spans = _spans(encoded, logits, cut, text)
        steps: list[Step] = []
        contradictions: list[str] = []
        for number, task in enumerate(tasks):
            said, clashes = fields(text, [s for s in spans if s.step == number], task)
            contradictions += clashes
            takes = FACTS[task].takes
            inputs: tuple[Input, ...] = ()
            control: Control | None = None
            if number == 0:
                roles = self._roles(request, encoded, logits, task)
                sure *= self._sure(encoded, logits, task, roles)
                inputs = tuple(Input(role, n) for n, role in enumerate(roles))
                if Role.CONTROL in takes:
                    control = CONTROLS[int(logits["control"].argmax())]
                    looks = [request.media[n].look for n, role in enumerate(roles) if role is Role.CONTROL]
                    control = control or (_SHOWN.get(looks[0]) if looks else None)
            elif FACTS[task].default_role is not Role.UNUSED:
                inputs = (Input(FACTS[task].default_role, None, number - 1),)
            steps.append(Step(task=task, inputs=inputs, control=control, **said))
        if follows:
            steps = [continued(before, steps[0])]  # type: ignore[arg-type]
        if steps[0].prompt:
            wants.discard("prompt")
        elif "prompt" not in wants:
            steps[0] = replace(steps[0], prompt=trimmed(text.replace(MARK, " ")) or text.strip())
        intent = Intent(
            steps=tuple(steps),
            language=language,
            confidence=min(1.0, max(0.0, sure)),
            missing=missing(steps, wants, request.media),
            contradictions=tuple(dict.fromkeys(contradictions)),
        )
        return replace(intent, question=question(intent, intent.confidence < UNSURE))

    def _first(self, request: Request, encoded: Encoded, scores: np.ndarray, cut: int) -> np.ndarray:
        """Scores of the task of the first step. Of two steps its words are read alone as well, so that those
        of the second do not mislead; but where media stand among those."""
        if cut >= len(encoded.tokens):
            return scores
        at = encoded.tokens[cut].start
        first = request.text[:at]
        if not first.strip() or MARK in request.text[at:]:
            return scores
        alone = encode(replace(request, text=first, turns=()))
        return agree.leading(_both(scores, self.network(alone)["task0"]), first, request.text[at:])

    def _roles(
        self, request: Request, encoded: Encoded, logits: Mapping[str, np.ndarray], task: Task
    ) -> list[Role]:
        """Role of each medium; those that are not read are not used."""
        import numpy as np

        scores = np.full((len(encoded.media), len(ROLES)), -1e9, np.float32)
        scores[:, ROLES.index(Role.UNUSED)] = 0.0
        for number, place in enumerate(encoded.media):
            if place >= 0:
                scores[number] = logits["roles"][place + 1]
        return agree.roles(scores, task, request.media)

    def _sure(
        self, encoded: Encoded, logits: Mapping[str, np.ndarray], task: Task, roles: Sequence[Role]
    ) -> float:
        """How likely these roles are, of those that the task takes."""
        import numpy as np

        allowed = [role in FACTS[task].takes or role is Role.UNUSED for role in ROLES]
        sure = 1.0
        for place, role in zip(encoded.media, roles, strict=True):
            if place >= 0:
                row = np.where(allowed, logits["roles"][place + 1] / self.temperature, -1e9)
                row = np.exp(row - row.max())
                sure *= float(row[ROLES.index(role)] / row.sum())
        return sure


def _both(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Two opinions on the same classes as one, of logarithms of probabilities."""
    import numpy as np

    logs = [scores - scores.max() for scores in (one, other)]
    return sum(scores - np.log(np.exp(scores).sum()) for scores in logs)  # type: ignore[no-any-return]


def _cut(encoded: Encoded, logits: Mapping[str, np.ndarray]) -> int:
    """Where the second step begins: one cut, so that what is after it belongs to that step. As many as there
    are words where there is none."""
    import numpy as np

    words = len(encoded.tokens)
    steps = logits["steps_of"][1 : words + 1]
    place = int(np.concatenate([[0.0], np.cumsum(steps[:, 0] - steps[:, 1])]).argmax())
    return place or words


def _spans(encoded: Encoded, logits: Mapping[str, np.ndarray], cut: int, text: str) -> list[Span]:
    """Marked words, in order, each with its step: the second one from word `cut` on."""
    import numpy as np

    words = len(encoded.tokens)
    tags = logits["tags"][1 : words + 1]
    best = tags.argmax(-1)
    spans: list[Span] = []
    for place, (token, tag) in enumerate(zip(encoded.tokens, best, strict=True)):
        if token.start == encoded.skipped[1] and spans and spans[-1].end == encoded.skipped[0]:
            # what was not read between two words of a prompt is of the prompt
            spans[-1] = spans[-1]._replace(end=encoded.skipped[1])
        name = TAGS[int(tag)]
        if name.endswith("negative") and not agree.NEGATION.search(text, 0, token.start):
            top = np.partition(tags[place], -2)[-2:]
            # a doubtful mark where no word denies anything
            name = "" if top[1] - top[0] < _DOUBT else name
        if not name:
            continue
        edge, kind = name[:2], name[2:]
        step = int(place >= cut)
        goes_on = spans and spans[-1].kind == kind and spans[-1].step == step
        near = goes_on and encoded.tokens[place - 1].end == spans[-1].end
        if near and edge == "I-":
            spans[-1] = spans[-1]._replace(end=token.end)
        else:
            spans.append(Span(token.start, token.end, kind, step))
    return spans


class Network:
    """`tagger.Tagger` of one request, in numpy. Tables are bytes with a scale a row, all else half floats."""

    def __init__(self, config: TaggerConfig, tensors: Mapping[str, np.ndarray]) -> None:
        import numpy as np

        self.config = config
        tables = ("words", "pieces")
        self.tables = {n: (tensors[f"{n}.weight"], tensors[f"{n}.scale"].astype(np.float32)) for n in tables}
        rest = {
            k: v.astype(np.float32) for k, v in tensors.items() if not k.startswith(("words.", "pieces."))
        }
        self.weights = {k: v.T.copy() if k.endswith("weight") and v.ndim == 2 else v for k, v in rest.items()}
        for n in range(config.depth):
            # (out, in, kernel) -> (kernel * in, out): one product for all places of the kernel
            near = rest[f"blocks.{n}.near.weight"]
            self.weights[f"blocks.{n}.near.weight"] = near.transpose(2, 1, 0).reshape(-1, near.shape[0])

    def __call__(self, encoded: Encoded) -> dict[str, np.ndarray]:
        """Logits of each head: (size,) of the whole, (1 + places, size) of places."""
        import numpy as np

        w, table = self.weights, self.config.table
        length = len(encoded) + 1
        both = np.zeros((length, 2 * table), np.float32)
        both[1:, :table] = self._rows("words", encoded.words)
        for place, pieces in enumerate(encoded.pieces):
            if pieces:
                both[place + 1, table:] = self._rows("pieces", pieces).mean(0)
        x = both @ w["enter.weight"] + w["enter.bias"]
        for place, features in enumerate(encoded.features):
            x[place + 1] += w["features.weight"][features].sum(0)
        x[0] = w["context.weight"][encoded.context].sum(0) + w["context.bias"]
        bias = _distance_bias(length, self.config.heads)
        for n in range(self.config.depth):
            x = self._block(x, f"blocks.{n}.", bias)
        x = _normed(x, w["norm.weight"])
        both = np.concatenate([x, np.broadcast_to(x[:1], x.shape)], axis=1)
        seen = {"tags": x, "steps_of": x, "roles": both}
        return {
            name: seen.get(name, x[0]) @ w[f"heads.{name}.weight"] + w[f"heads.{name}.bias"]
            for name in OUTPUTS
        }

    def _rows(self, name: str, index: Sequence[int]) -> np.ndarray:
        rows, scale = self.tables[name]
        return rows[index] * scale[index][:, None]

    def _block(self, x: np.ndarray, at: str, bias: np.ndarray) -> np.ndarray:
        import numpy as np

        w, heads, half = self.weights, self.config.heads, self.config.kernel // 2
        length, width = x.shape
        near = np.pad(_normed(x, w[f"{at}near_norm.weight"]), ((half, half), (0, 0)))
        windows = np.concatenate([near[n : n + length] for n in range(2 * half + 1)], axis=1)
        x = x + np.maximum(windows @ w[f"{at}near.weight"] + w[f"{at}near.bias"], 0.0)
        qkv = (_normed(x, w[f"{at}norm.weight"]) @ w[f"{at}qkv.weight"]).reshape(length, 3, heads, -1)
        q, k, v = qkv.transpose(1, 2, 0, 3)
        scores = q @ k.transpose(0, 2, 1) / np.float32(np.sqrt(width // heads)) + bias
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        seen = (scores / scores.sum(-1, keepdims=True)) @ v
        x = x + seen.transpose(1, 0, 2).reshape(length, width) @ w[f"{at}out.weight"]
        wide = np.maximum(
            _normed(x, w[f"{at}wide_norm.weight"]) @ w[f"{at}wide.weight"] + w[f"{at}wide.bias"], 0.0
        )
        return x + wide @ w[f"{at}narrow.weight"] + w[f"{at}narrow.bias"]


def _normed(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return x / (((x * x).mean(-1, keepdims=True) + 1e-6) ** 0.5) * weight


def _distance_bias(length: int, heads: int) -> np.ndarray:
    """See `tagger.distance_bias`."""
    import numpy as np

    places = np.arange(length, dtype=np.float32)
    distance = np.abs(places[:, None] - places[None, :])
    distance[0, :] = distance[:, 0] = 0.0
    slopes = np.array([0.0 if h % 2 else 0.5 ** (h // 2 + 1) for h in range(heads)], np.float32)
    return -slopes[:, None, None] * distance
