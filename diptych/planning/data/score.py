"""How far a plan is what was meant: right and wrong by field, of one request and of many. No torch here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from diptych.planning.schema import Intent, Step

FIELDS = (
    "width",
    "height",
    "aspect",
    "resolution",
    "seconds",
    "fps",
    "frames",
    "count",
    "seed",
    "steps",
    "guidance_scale",
    "negative_prompt",
    "control",
)
"""Of a step, apart from its task, roles and prompt."""


def compared(found: Intent, meant: Intent) -> dict[str, bool]:
    """Whether task, roles, each field, what is missing and what contradicts itself are as meant; 'typed': all
    of that together, language included and the prompt apart."""
    right = {"task": [s.task for s in found.steps] == [s.task for s in meant.steps]}
    same = len(found.steps) == len(meant.steps)
    right["roles"] = same and all(
        set(a.inputs) == set(b.inputs) for a, b in zip(found.steps, meant.steps, strict=True)
    )
    for name in FIELDS:
        right[name] = same and all(
            _value(a, name) == _value(b, name) for a, b in zip(found.steps, meant.steps, strict=True)
        )
    right["language"] = found.language == meant.language
    right["missing"] = set(found.missing) == set(meant.missing)
    right["contradictions"] = set(found.contradictions) == set(meant.contradictions)
    right["fields"] = all(right[name] for name in FIELDS)
    right["typed"] = all(right.values())
    right["prompt"] = same and all(
        _value(a, "prompt") == _value(b, "prompt") for a, b in zip(found.steps, meant.steps, strict=True)
    )
    return right


def _value(step: Step, name: str) -> object:
    value = getattr(step, name)
    return " ".join(value.casefold().split()) if isinstance(value, str) else value


def token_f1(found: str, meant: str) -> float:
    """Words in common of two prompts, by number: letters of a Chinese one."""
    a, b = (Counter(_words(text)) for text in (found, meant))
    common = sum((a & b).values())
    return 1.0 if a == b else 2 * common / max(1, sum(a.values()) + sum(b.values()))


def _words(text: str) -> list[str]:
    text = text.casefold()
    return (
        [c for c in text if not c.isspace()] if any("\u3400" <= c <= "\u9fff" for c in text) else text.split()
    )


@dataclass
class Tally:
    """Shares of what is right, by class."""

    count: int = 0
    right: Counter[str] = field(default_factory=Counter)
    f1: float = 0.0
    asked: Counter[tuple[bool, bool]] = field(default_factory=Counter)
    """(a question was asked, one was needed) -> how often."""

    def add(self, found: Intent, meant: Intent) -> dict[str, bool]:
        right = compared(found, meant)
        self.count += 1
        self.right.update(name for name, value in right.items() if value)
        pairs = zip(found.steps, meant.steps, strict=False)
        self.f1 += sum(token_f1(a.prompt, b.prompt) for a, b in pairs) / len(meant.steps)
        self.asked[bool(found.question), bool(meant.missing or meant.contradictions)] += 1
        return right

    def share(self, name: str) -> float:
        return self.right[name] / max(1, self.count)

    @property
    def precision(self) -> float:
        """Of the questions that were asked, those that were needed."""
        return self.asked[True, True] / max(1, self.asked[True, True] + self.asked[True, False])

    @property
    def recall(self) -> float:
        """Of the questions that were needed, those that were asked."""
        return self.asked[True, True] / max(1, self.asked[True, True] + self.asked[False, True])


def row(
    name: str, tally: Tally, columns: Iterable[str] = ("task", "roles", "fields", "typed", "prompt")
) -> str:
    """One line of a table."""
    shares = " | ".join(f"{tally.share(column):.3f}" for column in columns)
    return f"| {name} | {tally.count} | {shares} | {tally.f1 / max(1, tally.count):.3f} |"
