"""Training of the learned planner, from planning data alone, on a CPU in about an hour.

Step n sees samples that are a pure function of (seed, n), and a run that was stopped goes on from its last
checkpoint to the same weights.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from diptych.files.journal import append
from diptych.files.typed import convert, read_json, to_json
from diptych.files.whole import whole, write_whole
from diptych.optim.build import OptimConfig, build_optimisers, learning_rate
from diptych.planning.clarify import WANTS
from diptych.planning.data.compose import Sample, sample
from diptych.planning.data.score import Tally, compared
from diptych.planning.labels import CONTROLS, LANGUAGES, ROLES, STEPS, TAGS, TASKS, TaggerConfig
from diptych.planning.learned import FILE, Learned
from diptych.planning.tagger import Batch, Tagger
from diptych.planning.tokens import CONTEXT_FEATURES, FEATURES, MEDIUM_FEATURES, Encoded, encode
from diptych.request import TASKS as FACTS
from diptych.request import Product, Role

IGNORED = -100
POOL = 8
"""Batches whose samples are sorted by length together."""


@dataclass(frozen=True, kw_only=True)
class PlannerRun:
    steps: int = 7500
    batch: int = 64
    seed: int = 0
    save_every: int = 500
    start: str | None = None
    """Folder of a run whose weights this one begins with."""
    dropout: float = 0.12
    """Share of words that are forgotten, see `Tagger.forward`."""
    model: TaggerConfig = field(default_factory=TaggerConfig)
    optim: OptimConfig = field(
        default_factory=lambda: OptimConfig(name="muon", lr=2e-3, weight_decay=0.01, decay=0.6)
    )

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "save_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout must be 0 or more and below 1, got {self.dropout}")


@dataclass(frozen=True, eq=False)
class Labels:
    """What is right: classes of the whole (B,), of places (B, L), IGNORED where nothing is asked."""

    classes: dict[str, Tensor]
    wants: Tensor
    follows: Tensor


def collate(encoded: Sequence[Encoded]) -> Batch:
    """Requests as one batch; place 0 of each stands for the whole."""
    length = max(len(e) for e in encoded) + 1
    words = torch.zeros(len(encoded), length, dtype=torch.long)
    features = torch.zeros(len(encoded), length, FEATURES + MEDIUM_FEATURES)
    context = torch.zeros(len(encoded), CONTEXT_FEATURES)
    mask = torch.zeros(len(encoded), length, dtype=torch.bool)
    pieces: list[int] = []
    offsets: list[int] = []
    for row, e in enumerate(encoded):
        count = len(e)
        words[row, 1 : count + 1] = torch.tensor(e.words)
        mask[row, : count + 1] = True
        context[row, e.context] = 1.0
        offsets.append(len(pieces))
        for place in range(count):
            offsets.append(len(pieces))
            pieces += e.pieces[place]
            features[row, place + 1, e.features[place]] = 1.0
        offsets += [len(pieces)] * (length - count - 1)
    return Batch(words, torch.tensor(pieces), torch.tensor(offsets), features, context, mask)


def before(found: Sample) -> str:
    """What the turn before made."""
    if not found.request.turns:
        return ""
    product = found.before
    return {Product.PICTURE: "picture", Product.CLIP: "clip"}.get(product, "text") if product else "text"


def labels(samples: Sequence[Sample], encoded: Sequence[Encoded], length: int) -> Labels:
    """What is right of a batch whose rows have `length` places."""
    count = len(samples)
    classes = {name: torch.full((count,), IGNORED) for name in ("count", "language", "control")}
    classes |= {f"task{n}": torch.full((count,), IGNORED) for n in range(STEPS)}
    classes |= {name: torch.full((count, length), IGNORED) for name in ("tags", "steps_of", "roles")}
    wants = torch.zeros(count, len(WANTS))
    follows = torch.zeros(count, 1)
    for row, (found, e) in enumerate(zip(samples, encoded, strict=True)):
        intent = found.intent
        classes["language"][row] = LANGUAGES.index(intent.language)
        follows[row] = bool(found.follows)
        for name in found.wants:
            wants[row, WANTS.index(name)] = 1.0
        if not found.follows:
            classes["count"][row] = len(intent.steps) - 1
            for number, step in enumerate(intent.steps):
                classes[f"task{number}"][row] = TASKS.index(step.task)
            if Role.CONTROL in FACTS[intent.steps[0].task].takes:
                classes["control"][row] = CONTROLS.index(intent.steps[0].control)
        for place, token in enumerate(e.tokens):
            tag, number = tagged(found, token.start, token.end)
            classes["tags"][row, place + 1] = TAGS.index(tag)
            classes["steps_of"][row, place + 1] = number
        for number, place in enumerate(e.media):
            if place >= 0:
                classes["roles"][row, place + 1] = ROLES.index(found.roles[number])
    return Labels(classes, wants, follows)


def tagged(found: Sample, start: int, end: int) -> tuple[str, int]:
    """Tag and step of a word by its characters."""
    step = sum(start >= at for at in found.starts) - 1
    for span in found.spans:
        if span.start < end and start < span.end:
            return ("B-" if start <= span.start else "I-") + span.kind, span.step
    return "", max(0, step)


def losses(logits: dict[str, Tensor], wanted: Labels) -> Tensor:
    """Sum of the mean cross-entropies of all heads."""
    total = F.binary_cross_entropy_with_logits(logits["wants"], wanted.wants)
    total = total + F.binary_cross_entropy_with_logits(logits["follows"], wanted.follows)
    for name, classes in wanted.classes.items():
        if (classes != IGNORED).any():
            total = total + F.cross_entropy(
                logits[name].flatten(0, -2), classes.flatten(), ignore_index=IGNORED
            )
    return total


def batches(run: PlannerRun, first: int) -> Iterable[tuple[Batch, Labels]]:
    """Batches from step `first` on. A pool of steps is sorted by length, so that little is padded."""
    pool = first // POOL
    while True:
        size = run.batch * POOL
        samples = [sample(run.seed, number) for number in range(pool * size, (pool + 1) * size)]
        encoded = [encode(s.request, before(s)) for s in samples]
        order = sorted(range(size), key=lambda n: len(encoded[n]))
        chunks = [order[n : n + run.batch] for n in range(0, size, run.batch)]
        # long and short in turn, in an order that only the pool decides
        generator = torch.Generator().manual_seed(run.seed * 1_000_003 + pool)
        chunks = [chunks[n] for n in torch.randperm(POOL, generator=generator).tolist()]
        for place, chunk in enumerate(chunks):
            if pool * POOL + place >= first:
                batch = collate([encoded[n] for n in chunk])
                yield (
                    batch,
                    labels([samples[n] for n in chunk], [encoded[n] for n in chunk], batch.words.shape[1]),
                )
        pool += 1


def train(folder: Path, run: PlannerRun) -> Tagger:
    """Train in a folder, or go on there. Raises ValueError where it holds another run."""
    folder.mkdir(parents=True, exist_ok=True)
    note = folder / "run.json"
    if note.is_file():
        begun = convert(PlannerRun, read_json(note), str(note))
        if begun != run:
            raise ValueError(f"{folder} holds a run with other settings; choose another folder")
    write_whole(note, to_json(run))
    torch.manual_seed(run.seed)
    model = Tagger(run.model)
    optimisers = build_optimisers(model.named_parameters(), run.optim)
    first = _resume(folder, model, optimisers)
    if not first and run.start is not None and not _resume(Path(run.start), model, []):
        raise ValueError(f"--start {run.start}: no checkpoint of a run is there")
    began = time.perf_counter()
    for step, (batch, wanted) in enumerate(batches(run, first), first):
        if step >= run.steps:
            break
        # the words that are forgotten are a function of the step
        torch.manual_seed(run.seed * 7_368_787 + step)
        rate = learning_rate(run.optim, step, run.steps)
        for optimiser in optimisers:
            for group in optimiser.param_groups:
                group["lr"] = rate
        loss = losses(model(batch, run.dropout), wanted)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), run.optim.clip)
        for optimiser in optimisers:
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        if (step + 1) % 50 == 0:
            row = {
                "step": step + 1,
                "loss": round(float(loss.detach()), 4),
                "seconds": round(time.perf_counter() - began, 1),
            }
            append(folder / "log.jsonl", [row])
        if (step + 1) % run.save_every == 0 or step + 1 == run.steps:
            _save(folder, step + 1, model, optimisers)
    return model


def _save(folder: Path, step: int, model: Tagger, optimisers: Sequence[torch.optim.Optimizer]) -> None:
    """One file with all, so that there is no half of a checkpoint."""
    tensors = {f"model.{name}": value.detach().clone() for name, value in model.state_dict().items()}
    for number, optimiser in enumerate(optimisers):
        for key, values in optimiser.state_dict()["state"].items():
            tensors |= {f"optim.{number}.{key}.{name}": value.clone() for name, value in values.items()}
    with whole(folder / "checkpoint.safetensors") as aside:
        save_file(tensors, aside, {"step": str(step)})


def _resume(folder: Path, model: Tagger, optimisers: Sequence[torch.optim.Optimizer]) -> int:
    path = folder / "checkpoint.safetensors"
    if not path.is_file():
        return 0
    from safetensors import safe_open

    tensors = load_file(path)
    with safe_open(path, framework="pt") as file:
        step = int((file.metadata() or {})["step"])
    model.load_state_dict({k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")})
    for number, optimiser in enumerate(optimisers):
        state = optimiser.state_dict()
        state["state"] = {}
        for name, value in tensors.items():
            head, _, rest = name.partition(f"optim.{number}.")
            if head == "" and rest:
                key, _, field_name = rest.partition(".")
                state["state"].setdefault(int(key), {})[field_name] = value
        optimiser.load_state_dict(state)
    return step


HELD_OUT = 1000
"""Requests in held-out wordings that a run is measured on at its end."""
TEMPERATURES = (0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0)


def finish(folder: Path, model: Tagger) -> dict[str, Any]:
    """Write the model of a finished run as it ships, its confidence set by requests in wordings that training
    never saw, and say how it does on others of them."""
    export(model, folder / FILE)
    learned = Learned.open(folder)
    assert learned is not None
    temperature = calibrated(learned, [sample(1, number, "held-out") for number in range(HELD_OUT // 2)])
    export(model, folder / FILE, temperature)
    planner, tally = Learned.open(folder), Tally()
    assert planner is not None
    for number in range(HELD_OUT):
        found = sample(2, number, "held-out")
        tally.add(planner.plan(found.request), found.intent)
    about = {name: round(tally.share(name), 4) for name in ("task", "roles", "fields", "typed", "prompt")}
    about |= {
        "prompt_f1": round(tally.f1 / tally.count, 4),
        "questions_precision": round(tally.precision, 4),
        "questions_recall": round(tally.recall, 4),
        "temperature": temperature,
    }
    write_whole(folder / "measured.json", to_json(about))
    return about


def calibrated(planner: Learned, samples: Sequence[Sample]) -> float:
    """The temperature under which confidence says best how often task and roles are right."""
    costs = []
    for temperature in TEMPERATURES:
        planner.temperature, cost = temperature, 0.0
        for found in samples:
            intent = planner.plan(found.request)
            right = compared(intent, found.intent)
            sure = min(max(intent.confidence, 1e-4), 1 - 1e-4)
            cost -= math.log(sure if right["task"] and right["roles"] else 1 - sure)
        costs.append(cost)
    return TEMPERATURES[costs.index(min(costs))]


def export(model: Tagger, path: Path, temperature: float = 1.0) -> None:
    """The model as `learned.Network` reads it: tables in bytes, a scale a row, all else in half floats."""
    tensors: dict[str, Tensor] = {}
    for name, value in model.state_dict().items():
        if name in ("words.weight", "pieces.weight"):
            scale = value.abs().amax(1).clamp_min(1e-8) / 127
            tensors[name] = (value / scale[:, None]).round().to(torch.int8)
            tensors[name.replace("weight", "scale")] = scale.half()
        else:
            tensors[name] = value.half().contiguous()
    about = {"config": asdict(model.config), "temperature": temperature}
    with whole(path) as aside:
        save_file(tensors, aside, {"planner": json.dumps(about)})
