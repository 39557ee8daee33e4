"""The family's forms on disk: ours (config.json, tokenizer.json, model.safetensors, card.json) and the
published one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from diptych.data.conversations.template import FORMS
from diptych.data.conversations.tokens import TextTokenizer
from diptych.files import folder as model_folder
from diptych.files.folder import ModelFolderError, Planned
from diptych.files.typed import convert
from diptych.flow import FlowConfig
from diptych.models.meta import without_storage
from diptych.models.mot import MoT, MoTConfig
from diptych.systems.u1 import NAME, is_published
from diptych.systems.u1.conversation import Conversation
from diptych.systems.u1.published import (
    CONVERSATION,
    describe,
    published_weights,
    settings_of,
    write_config,
    write_weights,
)
from diptych.systems.u1.words import read_tokenizer, write_tokenizer

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


def read_contents(folder: Path) -> tuple[Contents, TextTokenizer]:
    """What a folder, ours or published, says of its model, without the weights. Raises ModelFolderError for
    one that is not whole or of another kind."""
    contents = _published(folder) if is_published(folder) else _ours(folder)
    marks = FORMS[contents.conversation.form].marks
    if is_published(folder):
        tokenizer = read_tokenizer(folder, marks)
    else:
        try:
            tokenizer = TextTokenizer.load(folder / "tokenizer.json", marks)
        except ValueError as error:
            raise ModelFolderError(str(error)) from error
    # fewer is fine: published vocabularies are padded
    if tokenizer.vocab_size > contents.model.vocab_size:
        raise ModelFolderError(
            f"{folder}: the tokenizer has {tokenizer.vocab_size} tokens, but the model "
            f"{contents.model.vocab_size}"
        )
    return contents, tokenizer


def _published(folder: Path) -> Contents:
    model, flow, conversation, native = describe(folder)
    return Contents(family=NAME, native=native, model=model, flow=flow, conversation=conversation)


def _ours(folder: Path) -> Contents:
    values = model_folder.read_config(folder)
    if values.get("family") != NAME:
        raise ModelFolderError(f"{folder}: family {values.get('family')!r} is not {NAME!r}")
    if isinstance(values.get("flow"), dict):
        values = {**values, "flow": _nested(values["flow"])}
    try:
        return convert(Contents, values, str(folder / "config.json"))
    except ValueError as error:
        raise ModelFolderError(str(error)) from error


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


def stored_weights(folder: Path, model: MoTConfig | None = None) -> Planned:
    """The weights of a folder, ours or published, under our names, read one by one; of a config that was read
    already. Raises ModelFolderError for what is missing, damaged or of another model, told from the headers
    of the files."""
    model = model or read_contents(folder)[0].model
    if is_published(folder):
        return published_weights(folder, model)
    stored = model_folder.open_weights(folder)
    # a config can ask for any number of layers and experts
    model_folder.check_depth(asdict(model), stored, f"{folder / 'config.json'}.model")
    with without_storage():
        expected = MoT(model).state_dict()
    shapes = stored.shapes()
    for name, empty in expected.items():
        if name in shapes and shapes[name] != empty.shape:
            raise ModelFolderError(
                f"{folder}: {name} is {shapes[name]}, the config's sizes make it {tuple(empty.shape)}"
            )
    if different := sorted(expected.keys() ^ shapes.keys()):
        what = "lack" if different[0] in expected else "also hold"
        raise ModelFolderError(
            f"{folder}: config and weights are not of one {NAME} model (the weights {what} {different[0]})"
        )
    return stored


def read_folder(folder: Path, device: torch.device | str, dtype: torch.dtype | None = None) -> dict[str, Any]:
    """What a system is made of: model, tokenizer, flow, native, card and conversation. The weights are in
    `dtype`; None: float32 for folders of ours, bfloat16 for published ones.

    They are read one by one into memory of their own, so that they are never held twice. Raises
    ModelFolderError as `read_contents` and `stored_weights`.
    """
    contents, tokenizer = read_contents(folder)
    weights = stored_weights(folder, contents.model)
    dtype = dtype or (torch.bfloat16 if is_published(folder) else torch.float32)
    with without_storage():
        model = MoT(contents.model)
    for name in weights:
        layer, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(layer), leaf, nn.Parameter(weights.copy(name, dtype, device)))
    return {
        "model": model,
        "tokenizer": tokenizer,
        "flow": contents.flow,
        "native": contents.native,
        "card": card(folder),
        "conversation": contents.conversation,
    }


def card(folder: Path) -> dict[str, Any]:
    """The card of a folder, ours or published; a published one has none, and is named."""
    found = model_folder.card(folder)
    if found or not is_published(folder):
        return found
    return {"name": folder.resolve().name, "family": NAME, "made": "a published folder"}


def write_folder(
    folder: Path,
    contents: Contents,
    tokenizer: TextTokenizer,
    weights: Mapping[str, Tensor],
    card: dict[str, Any],
    dtype: torch.dtype | None,
) -> None:
    """Write a whole folder; weights are stored in `dtype`, or in their own."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(folder / "tokenizer.json")
    model_folder.write(folder, asdict(contents), weights, card, dtype)


def write_published(
    folder: Path,
    contents: Contents,
    tokenizer: TextTokenizer,
    weights: Planned,
    shards: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Write a whole folder in the published layout, weights in their own types; `shards` as in
    `published.write_weights`. Raises ValueError naming what the layout has no place for."""
    if contents.conversation.form != CONVERSATION.form:
        raise ValueError(
            f"conversation.form is {contents.conversation.form!r}; published folders have "
            f"{CONVERSATION.form!r}"
        )
    folder.mkdir(parents=True, exist_ok=True)
    settings = settings_of(contents.native, contents.flow.sampler, contents.conversation)
    dtype = weights.layout()["embedding.weight"].dtype
    write_config(folder, contents.model, contents.flow, settings, dtype, tokenizer.ids)
    write_tokenizer(folder, tokenizer)
    write_weights(folder, contents.model, weights, shards)
