"""What is asked for, before it is put into words: a task, media with their roles and looks, what is missing.

Categories have explicit shares. Which wordings a category may have is said by the names of rules.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field

from diptych.planning.data.grammar import Grammar, Wording
from diptych.planning.schema import Attached, Control, Look
from diptych.request import Role, Task

LANGUAGES: Mapping[str, float] = {"en": 36, "zh": 17, "es": 16, "de": 16, "id": 15, "other": 4}
"""Language -> share. 'other': several that the planner does not know, and shall know that."""
CATEGORIES: Mapping[str, float] = {
    "draw": 16,
    "clip": 9,
    "edit": 12,
    "edit-clip": 4,
    "mask": 6,
    "edit-like": 7,
    "reference": 9,
    "reference-clip": 6,
    "animate": 6,
    "ends": 4,
    "both": 6,
    "control": 7,
    "control-clip": 6,
    "ask": 11,
    "ask-free": 3,
    "story": 4,
    "follow": 5,
    "steps": 9,
    "missing": 12,
    "no-prompt": 3,
    "clash": 6,
    "unused": 4,
}
"""Category -> share; see the README of the data, docs/results/planning.md."""
SETTINGS: Mapping[str, Mapping[str, float]] = {
    "picture": {
        "size": 0.26,
        "aspect": 0.22,
        "res": 0.12,
        "count": 0.17,
        "seed": 0.17,
        "steps": 0.14,
        "guidance": 0.14,
        "negative": 0.17,
    },
    "clip": {
        "size": 0.17,
        "aspect": 0.17,
        "res": 0.14,
        "count": 0.1,
        "seed": 0.12,
        "steps": 0.1,
        "guidance": 0.1,
        "negative": 0.12,
        "seconds": 0.38,
        "fps": 0.2,
        "frames": 0.16,
    },
    "edit": {
        "size": 0.1,
        "seed": 0.12,
        "steps": 0.1,
        "guidance": 0.1,
        "count": 0.07,
        "aspect": 0.04,
        "res": 0.04,
    },
    "text": {},
    "story": {"size": 0.05, "aspect": 0.05, "seed": 0.05},
    "follow": {"seed": 0.08, "steps": 0.08, "count": 0.08},
}
"""Kind of what is made -> setting -> how often it is said."""
_LACKING = {
    "edit": 24,
    "edit-clip": 4,
    "mask": 18,
    "edit-like": 10,
    "animate": 8,
    "ends": 5,
    "both": 4,
    "control": 12,
    "reference": 9,
    "ask": 11,
    "picture-for-clip": 9,
    "picture-asked-as-clip": 9,
}
"""Kind of request whose media are not there -> share; the last two have a picture where a clip is meant."""
CLASHES = ("size", "aspect", "shape", "seed", "steps", "seconds", "fps", "sums", *("count", "still") * 2)
_LOOKS: Mapping[Control, Look] = {
    Control.EDGES: Look.EDGES,
    Control.LINES: Look.EDGES,
    Control.DEPTH: Look.DEPTH,
    Control.POSE: Look.POSE,
    Control.BOXES: Look.BOXES,
}
BY_LOOK: Mapping[Look, Control] = {
    Look.EDGES: Control.EDGES,
    Look.DEPTH: Control.DEPTH,
    Look.POSE: Control.POSE,
    Look.BOXES: Control.BOXES,
}
"""What a medium holds by its look, where the words do not say it."""


@dataclass(frozen=True)
class Medium:
    """A medium before it is attached."""

    role: Role
    clip: bool = False
    look: Look = Look.PHOTO

    def attached(self, rng: random.Random) -> Attached:
        width, height = rng.choice(
            ((96, 96), (512, 512), (1024, 768), (768, 1024), (1920, 1080), (640, 480), (0, 0))
        )
        if not self.clip:
            return Attached(kind="picture", look=self.look, width=width, height=height)
        frames = rng.choice((8, 16, 24, 49, 81, 120))
        return Attached(
            kind="clip", look=self.look, width=width, height=height, frames=frames, seconds=frames / 8.0
        )


@dataclass(frozen=True)
class Scenario:
    category: str
    tasks: tuple[Task, ...]
    rule: str
    line: str
    wording: Wording
    media: tuple[Medium, ...] = ()
    control: Control | None = None
    wants: frozenset[str] = frozenset()
    settings: str = "picture"
    """Whose settings may be said."""
    then: str = ""
    """Rule of the second step."""
    follows: str = ""
    turns: bool = False
    clash: str = ""
    calls_clip: bool = False
    unused_told: bool = False
    bare: bool = False
    """Whether it is only what is to be drawn, or so: chatter would hide it."""
    repeated: bool = False


_RULES = {
    "draw": "draw",
    "clip": "clip",
    "edit": "edit",
    "edit-clip": "edit",
    "mask": "mask",
    "edit-like": "editref",
    "reference": "ref",
    "reference-clip": "refclip",
    "animate": "animate",
    "ends": "ends",
    "both": "both",
    "control": "control",
    "control-clip": "controlclip",
    "ask": "ask",
    "ask-free": "askfree",
    "story": "story",
}
TOP = (
    *dict.fromkeys(_RULES.values()),
    "follow.add",
    "follow.set",
    "follow.again",
    "noprompt.draw",
    "noprompt.clip",
    "noprompt.edit",
)
"""Rules of whole requests."""


def scenario(rng: random.Random, words: Grammar, held: bool) -> Scenario | None:
    """Something to ask for in a language; None where it has no wording of the families."""
    category = rng.choices(list(CATEGORIES), list(CATEGORIES.values()))[0]
    if words.language == "other":
        category = rng.choice(("draw", "draw", "clip", "edit", "ask"))
    made = _Maker(rng, words, held, category)
    match category:
        case "missing":
            return made.missing()
        case "no-prompt":
            return made.no_prompt()
        case "follow":
            return made.follow()
        case "steps":
            # many a first step takes no second one
            return next(filter(None, (made.steps() for _ in range(6))), None)
        case "clash":
            return made.clash()
        case "unused":
            return made.unused()
        case _:
            return made.plain(category)


@dataclass
class _Maker:
    rng: random.Random
    words: Grammar
    held: bool
    category: str
    extra: tuple[Medium, ...] = field(default=())

    def _line(self, rule: str) -> tuple[str, Wording] | None:
        """A wording of the families; None where there is none: rules with few wordings hold none out."""
        lines = (self.words.held_out if self.held else self.words.trained).get(rule, ())
        return self.rng.choice(lines) if lines else None

    def _look(self, look: Look, share: float = 0.85) -> Look:
        return look if self.rng.random() < share else Look.PHOTO

    def _photo(self, role: Role, clip: bool = False) -> Medium:
        look = self.rng.choices((Look.PHOTO, Look.BLANK, Look.DEPTH, Look.EDGES), (90, 4, 3, 3))[0]
        return Medium(role, clip, look)

    def plain(self, kind: str) -> Scenario | None:
        """A request with all that it needs."""
        rng, rule = self.rng, _RULES[kind]
        # a clip that is followed says by itself that a clip is made
        silent = kind == "control-clip" and rng.random() < 0.3
        if silent:
            rule = _RULES["control"]
        found = self._line(rule)
        if found is None:
            return None
        line, wording = found

        def made(task: Task, media: tuple[Medium, ...] = (), **more: object) -> Scenario:
            fields: dict[str, object] = {"settings": "picture"} | more
            given = (self.category, (task,), rule, line, wording, media)
            return Scenario(*given, **fields)  # type: ignore[arg-type]

        match kind:
            case "draw":
                if rng.random() < 0.05 and not line.startswith("["):
                    look = rng.choice((Look.PHOTO, Look.BLANK))
                    return made(Task.TEXT_TO_IMAGE, (Medium(Role.UNUSED, False, look),))
                if rng.random() < 0.05:
                    look = rng.choice(list(BY_LOOK))
                    return made(
                        Task.CONTROL_TO_IMAGE, (Medium(Role.CONTROL, False, look),), control=BY_LOOK[look]
                    )
                return made(Task.TEXT_TO_IMAGE, turns=rng.random() < 0.05, bare=line.startswith("["))
            case "clip":
                return made(Task.TEXT_TO_CLIP, settings="clip", turns=rng.random() < 0.05)
            case "edit" | "edit-clip":
                # without a word for it, the medium says whether a clip is changed
                clip = kind == "edit-clip"
                wants = {"clip"} if clip and "{src" in line else set()
                task = Task.EDIT_CLIP if clip else Task.EDIT
                return made(
                    task,
                    (self._photo(Role.SOURCE, clip),),
                    settings="edit",
                    calls_clip=clip,
                    wants=frozenset(wants),
                    turns=rng.random() < 0.05,
                )
            case "mask":
                clip = rng.random() < 0.2
                wants = {"mask", *(["clip"] if clip and "{src" in line else [])}
                mask = Medium(Role.MASK, clip and rng.random() < 0.5, self._look(Look.MASK, 0.92))
                references = (Medium(Role.REFERENCE),) * line.count("{ref")
                if references:
                    wants.add("reference")
                return made(
                    Task.EDIT_CLIP if clip else Task.EDIT,
                    (self._photo(Role.SOURCE, clip), mask, *references),
                    settings="edit",
                    calls_clip=clip,
                    wants=frozenset(wants),
                )
            case "edit-like":
                clip = rng.random() < 0.15
                wants = {"reference", *(["clip"] if clip and "{src" in line else [])}
                references = (Medium(Role.REFERENCE),) * line.count("{ref")
                return made(
                    Task.EDIT_CLIP if clip else Task.EDIT,
                    (self._photo(Role.SOURCE, clip), *references),
                    settings="edit",
                    calls_clip=clip,
                    wants=frozenset(wants),
                )
            case "reference" | "reference-clip":
                count = max(1, line.count("{ref}"))
                if count == 1 and "{ref}" in line and rng.random() < 0.15:
                    count = rng.randint(2, 4)
                clip = kind == "reference-clip"
                task = Task.REFERENCE_TO_CLIP if clip else Task.REFERENCE_TO_IMAGE
                return made(
                    task,
                    (self._photo(Role.REFERENCE),) * count,
                    settings="clip" if clip else "picture",
                    wants=frozenset({"reference"}),
                )
            case "animate" | "ends" | "both":
                media = {
                    "animate": (self._photo(Role.FIRST),),
                    "ends": (self._photo(Role.LAST),),
                    "both": (Medium(Role.FIRST), Medium(Role.LAST)),
                }[kind]
                wants = {m.role.value for m in media}
                return made(Task.IMAGE_TO_CLIP, media, settings="clip", wants=frozenset(wants))
            case "control" | "control-clip":
                clip = kind == "control-clip"
                options = list(Control) if clip else [c for c in Control if c not in ("flow", "paths")]
                control = rng.choice(options)
                look = self._look(_LOOKS.get(control, Look.PHOTO))
                references = (Medium(Role.REFERENCE),) * line.count("{ref")
                return made(
                    Task.CONTROL_TO_CLIP if clip else Task.CONTROL_TO_IMAGE,
                    (Medium(Role.CONTROL, clip and (silent or rng.random() < 0.6), look), *references),
                    control=control,
                    settings="clip" if clip else "picture",
                )
            case "ask":
                count = max(1, line.count("{sub"))
                if count == 1 and rng.random() < 0.1:
                    count = rng.choice((2, 2, 3, 8, 50))
                clip = rng.random() < 0.2
                looks = rng.choices(
                    (Look.PHOTO, Look.MASK, Look.EDGES, Look.DEPTH, Look.POSE, Look.BOXES, Look.BLANK),
                    (80, 4, 4, 4, 3, 2, 3),
                )[0]
                wants = {"subject", *(["clip"] if clip and "{sub" in line else [])}
                return made(
                    Task.ANSWER,
                    (Medium(Role.SUBJECT, clip, looks),) * count,
                    settings="text",
                    calls_clip=clip,
                    wants=frozenset(wants),
                    turns=rng.random() < 0.05,
                )
            case "ask-free":
                return made(Task.ANSWER, settings="text", turns=rng.random() < 0.1)
            case _:
                count = line.count("{sub")
                return made(
                    Task.INTERLEAVE,
                    (Medium(Role.SUBJECT),) * count,
                    settings="story",
                    wants=frozenset({"subject"} if count else ()),
                )

    def missing(self) -> Scenario | None:
        """A request that speaks of media which are not attached."""
        rng = self.rng
        kind = rng.choices(list(_LACKING), list(_LACKING.values()))[0]
        wrong = kind in ("picture-for-clip", "picture-asked-as-clip")
        plain = {"picture-for-clip": "edit-clip", "picture-asked-as-clip": "ask"}.get(kind, kind)
        found = self.plain(plain)
        # what does not speak of a medium lacks none
        spoken = {"edit-clip": "{src", "ask": "{sub"}.get(plain, "")
        if found is None or spoken not in found.line or (wrong and found.line.count("{sub") > 1):
            return None
        kept: tuple[Medium, ...] = ()
        values = vars(found) | {"turns": kind == "edit" and rng.random() < 0.35}
        if wrong:
            kept = (Medium(Role.SOURCE if plain == "edit-clip" else Role.SUBJECT),)
            values |= {"calls_clip": True, "wants": found.wants | {"clip"}}
        elif kind in ("mask", "edit-like") and rng.random() < 0.75:
            kept = found.media[:1]
        elif kind == "both" and rng.random() < 0.6 and "{fst}" in found.line:
            # which of the two it is cannot be told: as the words begin with the first one, that is there
            kept = found.media[:1]
        return Scenario(**(values | {"media": kept}))

    def no_prompt(self) -> Scenario | None:
        """A request that does not say what is to be drawn or changed."""
        rule = self.rng.choice(("noprompt.draw", "noprompt.clip", "noprompt.edit"))
        found = self._line(rule)
        if found is None:
            return None
        task = {"draw": Task.TEXT_TO_IMAGE, "clip": Task.TEXT_TO_CLIP, "edit": Task.EDIT}[
            rule.partition(".")[2]
        ]
        media = (self._photo(Role.SOURCE),) if task is Task.EDIT else ()
        return Scenario(
            self.category,
            (task,),
            rule,
            *found,
            media,
            wants=frozenset({"prompt"}),
            settings="clip" if task is Task.TEXT_TO_CLIP else "picture" if not media else "text",
        )

    def follow(self) -> Scenario | None:
        """A request that goes on from a drawing before."""
        rule = self.rng.choices(("follow.add", "follow.set", "follow.again"), (4, 4, 2))[0]
        found = self._line(rule)
        if found is None:
            return None
        return Scenario(
            self.category, (Task.TEXT_TO_IMAGE,), rule, *found, follows="again", turns=True, settings="follow"
        )

    def steps(self) -> Scenario | None:
        """Two steps, the second with what the first makes."""
        kind = self.rng.choices(
            ("draw", "edit", "reference", "control", "clip", "edit-clip", "animate", "mask"),
            (30, 30, 8, 8, 8, 4, 6, 6),
        )[0]
        first = self.plain(kind)
        if first is None or first.bare or first.turns:
            return None
        clip = first.tasks[0] in (
            Task.TEXT_TO_CLIP,
            Task.EDIT_CLIP,
            Task.IMAGE_TO_CLIP,
            Task.REFERENCE_TO_CLIP,
        )
        then = self.rng.choices(
            ("animate", "edit", "ask"), (0 if clip else 6, 0 if kind == "edit" else 4, 2)
        )[0]
        second = {
            "animate": Task.IMAGE_TO_CLIP,
            "edit": Task.EDIT_CLIP if clip else Task.EDIT,
            "ask": Task.ANSWER,
        }
        values = vars(first) | {"tasks": (first.tasks[0], second[then]), "then": then}
        if then == "animate":
            values["settings"] = "clip"
        elif then == "ask":
            values["settings"] = "text"
        return Scenario(**values)

    def clash(self) -> Scenario | None:
        """Two values for one setting."""
        clash = self.rng.choice(CLASHES)
        moving = clash in ("seconds", "fps", "sums")
        kinds = ("clip", "animate", "reference-clip") if moving else ("draw", "draw", "reference", "control")
        if clash in ("size", "count", "seed", "steps"):
            kinds = (*kinds, "edit", "mask")
        kind = self.rng.choice(kinds)
        found = self.plain(kind)
        if found is None or (clash == "still" and (found.bare or "{pic}" not in found.line)):
            return None
        return Scenario(**(vars(found) | {"clash": clash, "repeated": True}))

    def unused(self) -> Scenario | None:
        """A medium that the request tells to leave alone."""
        found = self.plain(self.rng.choice(("edit", "ask", "animate", "draw", "control")))
        if (
            found is None
            or found.bare
            or any(m.role is Role.UNUSED for m in found.media)
            or len(found.media) > 3
        ):
            return None
        unused = Medium(Role.UNUSED)
        return Scenario(
            **(vars(found) | {"media": (*found.media, unused), "unused_told": True, "turns": False})
        )
