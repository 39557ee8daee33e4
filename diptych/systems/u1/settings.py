"""What a folder of the family says of its model: config.json, read without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diptych.files import folder as model_folder
from diptych.files.folder import ModelFolderError
from diptych.files.typed import convert
from diptych.flow import FlowConfig, SamplerConfig
from diptych.models.mot import MoTConfig
from diptych.planning.rewording import Rewording
from diptych.request import Role, Task
from diptych.settings import MAX_TEXT, Settings, Words
from diptych.systems.u1 import NAME, is_published
from diptych.systems.u1.conversation import CLIP_GUIDES, CONTROLS, GUIDES, Conversation
from diptych.systems.u1.defaults import told_by

CHARACTERS = 8
"""A text with more of them for each token that is read need not be cut into tokens: it has too many."""
# fields of the first folders, before noise law and objective were objects
_FLAT = {"t_mean", "t_std", "sigma_min", "loss_sigma_min"}


@dataclass(frozen=True, kw_only=True)
class Contents:
    """config.json of a model folder."""

    family: str
    native: int
    """Side, px, of the pictures that the model was trained on."""
    model: MoTConfig
    flow: FlowConfig
    conversation: Conversation = field(default_factory=Conversation)


def check_flow(flow: FlowConfig) -> None:
    """Raises ValueError for a flow that a model which predicts clean pictures cannot run in."""
    if flow.objective.sigma_min <= 0:
        raise ValueError(
            "this model predicts the clean picture, so its velocity divides by the noise level; "
            f"objective.sigma_min must be above 0, got {flow.objective.sigma_min}"
        )


def read_config(folder: Path) -> Contents:
    """Of a folder of ours. Raises ModelFolderError for a folder that is not whole or of another kind."""
    values = model_folder.read_config(folder)
    if values.get("family") != NAME:
        raise ModelFolderError(f"{folder}: family {values.get('family')!r} is not {NAME!r}")
    if isinstance(values.get("flow"), dict):
        values = {**values, "flow": _nested(values["flow"])}
    try:
        return convert(Contents, values, str(folder / "config.json"))
    except ValueError as error:
        raise ModelFolderError(str(error)) from error


def read_words(folder: Path) -> Rewording | None:
    """The words of a model of ours, where its folder has a table of them. Raises ModelFolderError for one
    that is none."""
    try:
        return Rewording.open(folder)
    except ValueError as error:
        raise ModelFolderError(str(error)) from error


def settings_of(
    native: int, token: int, sampler: SamplerConfig, talk: Conversation, words: Words | None = None
) -> Settings:
    """Of a model trained on pictures of `native` px a side, whose tokens have `token` px a side."""
    tasks = {Task.ANSWER, Task.TEXT_TO_IMAGE, Task.EDIT}
    if talk.story_pictures:
        tasks.add(Task.INTERLEAVE)
    tasks |= {task for role, task in GUIDES.items() if role in talk.guides}
    if talk.drawn_frames:
        tasks |= {Task.TEXT_TO_CLIP, *(CLIP_GUIDES[Role(role)] for role in talk.clip_guides)}
        # a mask says where a source is changed, and is none by itself
        if Role.SOURCE not in talk.clip_guides:
            tasks -= {Task.EDIT_CLIP}
    return Settings(
        native=native,
        multiple=token,
        max_side=max(1024, 2 * native),
        tasks=frozenset(tasks),
        sampler=sampler,
        max_media=talk.most_media,
        reads_native=talk.source is None,
        free=talk.free,
        max_text=CHARACTERS * talk.context if talk.free else MAX_TEXT,
        think_tokens=talk.think_tokens,
        story_pictures=talk.story_pictures,
        story_tokens=talk.story_tokens,
        controls=CONTROLS if Role.CONTROL in (*talk.guides, *talk.clip_guides) else (),
        max_frames=max(1, talk.drawn_frames),
        fps=talk.fps,
        keeps_fps=talk.drawn_frames > 0,
        clip_side=talk.clip_side,
        clip_frames=talk.clip_frames,
        plans=talk.plans,
        source=talk.source,
        all_sources=talk.all_sources,
        words=words,
    )


def read_settings(folder: Path) -> Settings:
    """Of a folder, ours or published. Raises ModelFolderError for one that is not whole."""
    try:
        if is_published(folder):
            vision = model_folder.read_config(folder).get("vision_config")
            patch = convert(int, vision.get("patch_size") if isinstance(vision, dict) else None, "patch_size")
            native, sampler, talk = told_by(folder)
            return settings_of(native, 2 * patch, sampler, talk)
        contents = read_config(folder)
        return settings_of(
            contents.native,
            contents.model.token,
            contents.flow.sampler,
            contents.conversation,
            read_words(folder),
        )
    except ModelFolderError:
        raise
    except ValueError as error:
        raise ModelFolderError(f"{folder / 'config.json'}: {error}") from error


def _nested(flow: Mapping[str, Any]) -> dict[str, Any]:
    """The flow of a folder, with the noise law and the objective as objects: the first folders have their
    fields flat, and give the law of the time t = 1 - sigma."""
    if not _FLAT & flow.keys():
        return dict(flow)
    kept = {key: value for key, value in flow.items() if key not in _FLAT}
    # the logit of 1 - sigma is minus that of sigma, so the mean changes its sign; the deviation does not
    law = {"mean": -flow.get("t_mean", -0.8), "std": flow.get("t_std", 0.8), "shift": 1.0}
    objective = {
        "sigma_min": flow.get("sigma_min", 0.05),
        "loss_sigma_min": flow.get("loss_sigma_min"),
    }
    return {**kept, "law": law, "objective": objective}
