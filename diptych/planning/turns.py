"""A request that goes on from the one before: the step before, with what is said anew. No torch here."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from diptych.planning.schema import Step
from diptych.request import TASKS, Product, Task

_SETTINGS = ("width", "height", "aspect", "resolution", "seconds", "fps", "frames", "steps", "guidance_scale")
# what a new value of one field makes void: a new shape is not drawn at the old size
_VOID = {
    "width": ("aspect", "resolution"),
    "height": ("aspect", "resolution"),
    "aspect": ("width", "height"),
    "resolution": ("width", "height"),
    "seconds": ("frames",),
    "frames": ("seconds",),
}
_CHINESE = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]")
_MOVED = {
    Task.TEXT_TO_IMAGE: Task.TEXT_TO_CLIP,
    Task.REFERENCE_TO_IMAGE: Task.REFERENCE_TO_CLIP,
    Task.CONTROL_TO_IMAGE: Task.CONTROL_TO_CLIP,
}
_COMPARED = re.compile(
    r"\b(wider|broader|taller|higher|breiter|höher|hoeher|más anch[oa]|más alt[oa]|lebih (lebar|tinggi))\b"
    r"|(更|再)(宽|高)|[宽高]一[点些]",
    re.IGNORECASE,
)
_MORE = re.compile(r"more|again|another|noch|weitere|mehr|más|otr[ao]|lagi|[再还又来]", re.IGNORECASE)
_LADDER = ((9, 16), (3, 4), (1, 1), (4, 3), (16, 9), (21, 9))
"""Shapes from the tallest to the widest."""
_LENGTHS = re.compile(
    r"\W*(?:and |now |please |make it |a bit |a little |much |jetzt |mach es |etwas |bitte |ahora |hazlo "
    r"|un poco"
    r" |sekarang |buat |sedikit |现在|请|再|弄)*"
    r"(?:(?P<longer>longer|länger|laenger|más larg[oa]|lebih (?:lama|panjang)|更?长一?[点些]?)"
    r"|(?P<shorter>shorter|kürzer|kuerzer|más cort[oa]|lebih (?:pendek|singkat)|更?短一?[点些]?))"
    r"(?: please| bitte| por favor| ya| dong|吧)?\W*",
    re.IGNORECASE,
)
_USUAL = 5.0
"""Seconds of a clip that says none, where it shall be longer or shorter."""
_UNDO = re.compile(
    r"\W*(?:please |bitte |por favor |tolong |请)?(?:undo(?: (?:it|that|this))?|(?:go )?back"
    r"|as (?:it was )?before"
    r"|revert(?: (?:it|that))?|rückgängig(?: machen)?|mach (?:es|das) rückgängig|zurück|deshaz(?:lo)?"
    r"|deshacer|atrás|vuelve atrás|batalkan(?: itu)?|urungkan|kembalikan|撤销|撤回|还原|恢复)"
    r"(?: please| bitte| por favor| ya| dong|吧)?\W*",
    re.IGNORECASE,
)


def undoes(text: str) -> bool:
    """Whether a request asks for what there was before the last one, and for nothing else."""
    return bool(_UNDO.fullmatch(text))


def lasting(before: Step, text: str) -> Step | None:
    """The step before, twice or half as long, where a request asks for that and for nothing else."""
    found = _LENGTHS.fullmatch(text)
    if found is None or TASKS[before.task].makes is not Product.CLIP:
        return None
    factor = 2.0 if found["longer"] else 0.5
    if before.frames is not None:
        return replace(before, inputs=(), frames=max(1, round(before.frames * factor)), seconds=None)
    return replace(before, inputs=(), seconds=(before.seconds or _USUAL) * factor)


def moving(task: Task) -> Task:
    """What makes a clip of what makes a picture."""
    return _MOVED.get(task, task)


def continued(before: Step, said: Step, text: str = "") -> Step:
    """The step before, drawn again with the words and settings of `said`, in the words of `text`. Where
    nothing is said its seed is not kept: it would draw what is there already."""
    # what it was made of belongs to its own request: such a step lacks its media here
    said = replace(said, aspect=_compared(before, said.aspect, text))
    changed: dict[str, Any] = {"inputs": (), "task": said.task}
    several = said.count is not None and not _MORE.search(text)
    new = bool(several or said.prompt or said.negative_prompt) or any(
        getattr(said, name) is not None for name in _SETTINGS
    )
    if said.seed is not None or not new:
        changed["seed"] = said.seed
    for name in (*_SETTINGS, "count"):
        if (value := getattr(said, name)) is not None:
            changed |= {void: None for void in _VOID.get(name, ()) if getattr(said, void) is None}
            changed[name] = value
    if said.negative_prompt:
        changed["negative_prompt"] = ", ".join(t for t in (before.negative_prompt, said.negative_prompt) if t)
    if said.prompt:
        touching = _CHINESE.match(said.prompt) and _CHINESE.match(before.prompt[-1:])
        changed["prompt"] = (
            before.prompt + ("，" if touching else " ") + said.prompt if before.prompt else said.prompt
        )
    return replace(before, **changed)


def _compared(before: Step, aspect: tuple[int, int] | None, text: str) -> tuple[int, int] | None:
    """A shape that is wider or taller than the one before, where that is what is said."""
    was = before.aspect
    if was is None and before.width and before.height:
        was = (before.width, before.height)
    if aspect is None or was is None or min(was) < 1 or not _COMPARED.search(text):
        return aspect
    shape = was[0] / was[1]
    if aspect[0] > aspect[1]:
        further = [one for one in _LADDER if one[0] / one[1] > 1.05 * shape]
        return further[0] if further else before.aspect or aspect
    further = [one for one in _LADDER if one[0] / one[1] < shape / 1.05]
    return further[-1] if further else before.aspect or aspect
