"""The family's form on disk: config.json, tokenizer.json, model.safetensors and card.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from diptych.data.conversations.template import FORMS
from diptych.data.conversations.tokens import TextTokenizer
from diptych.files import folder as model_folder
from diptych.files.folder import ModelFolderError
from diptych.files.typed import convert
from diptych.files.whole import whole
from diptych.flow import FlowConfig
from diptych.models.meta import without_storage
from diptych.models.mot import MoT, MoTConfig
from diptych.systems.u1 import NAME
from diptych.systems.u1.conversation import Conversation

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
    """What a folder says of its model, without the weights. Raises ModelFolderError for one that is not whole
    or of another kind."""
    values = model_folder.read_config(folder)
    if values.get("family") != NAME:
        raise ModelFolderError(f"{folder}: family {values.get('family')!r} is not {NAME!r}")
    if isinstance(values.get("flow"), dict):
        values = {**values, "flow": _nested(values["flow"])}
    try:
        contents = convert(Contents, values, str(folder / "config.json"))
        marks = FORMS[contents.conversation.form].marks
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


def read_folder(folder: Path, device: torch.device | str) -> dict[str, Any]:
    """What a system is made of: model, tokenizer, flow, native and card. Raises ModelFolderError as
    `read_contents`, and where weights are damaged or of another model."""
    contents, tokenizer = read_contents(folder)
    stored = model_folder.open_weights(folder)
    # a config can ask for any number of layers and experts
    model_folder.check_depth(asdict(contents.model), stored, f"{folder / 'config.json'}.model")
    with without_storage():
        model = MoT(contents.model)
    shapes = stored.shapes()
    for name, empty in model.state_dict().items():
        if name in shapes and shapes[name] != empty.shape:
            raise ModelFolderError(
                f"{folder}: {name} is {shapes[name]}, the config's sizes make it {tuple(empty.shape)}"
            )
    weights = stored.all()
    try:
        model.load_state_dict({name: tensor.float() for name, tensor in weights.items()}, assign=True)
    except RuntimeError as error:
        raise ModelFolderError(
            f"{folder}: config and weights are not of one {NAME} model ({error})"
        ) from error
    return {
        "model": model.to(device),
        "tokenizer": tokenizer,
        "flow": contents.flow,
        "native": contents.native,
        "card": model_folder.card(folder),
        "conversation": contents.conversation,
    }


def write_folder(
    folder: Path,
    contents: Contents,
    tokenizer: TextTokenizer,
    weights: Mapping[str, Tensor],
    card: dict[str, Any],
    dtype: torch.dtype,
) -> None:
    """Write a whole folder; weights are stored in `dtype`."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(folder / "tokenizer.json")
    model_folder.write(folder, asdict(contents), dict(weights), card, dtype)


def write_adapters(adapters: Mapping[str, tuple[Tensor, Tensor]], path: Path) -> None:
    """LoRA adapters, A (rank, in) and B (out, rank) by layer, under the names that peft gives them; alpha is
    the rank."""
    tensors = {
        f"base_model.model.{name}.lora_{side}.weight": matrix.contiguous()
        for name, pair in adapters.items()
        for side, matrix in zip("AB", pair, strict=True)
    }
    with whole(path) as aside:
        save_file(tensors, aside)
        aside.chmod(0o644)
