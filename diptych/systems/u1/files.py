"""The family's form on disk: config.json, tokenizer.json, model.safetensors and card.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from diptych.data.conversations.tokens import TextTokenizer
from diptych.files import folder as model_folder
from diptych.files.folder import ModelFolderError
from diptych.files.whole import whole
from diptych.models.meta import without_storage
from diptych.models.mot import MoT
from diptych.systems.u1.settings import Contents, read_contents


def read_parts(folder: Path) -> tuple[Contents, TextTokenizer]:
    """What a folder says of its model, without the weights. Raises ModelFolderError for one that is not whole
    or of another kind."""
    contents = read_contents(folder)
    try:
        tokenizer = TextTokenizer.load(folder / "tokenizer.json")
    except ValueError as error:
        raise ModelFolderError(str(error)) from error
    # fewer is fine: published vocabularies are padded
    if tokenizer.vocab_size > contents.model.vocab_size:
        raise ModelFolderError(
            f"{folder}: the tokenizer has {tokenizer.vocab_size} tokens, but the model "
            f"{contents.model.vocab_size}"
        )
    return contents, tokenizer


def read_folder(folder: Path, device: torch.device | str) -> dict[str, Any]:
    """What a system is made of: model, tokenizer, flow, native and card. Raises ModelFolderError as
    `read_parts`, and where weights are damaged or of another model."""
    contents, tokenizer = read_parts(folder)
    stored = model_folder.open_weights(folder)
    # a config can ask for any number of layers and experts
    model_folder.check_depth(asdict(contents.model), stored, f"{folder / 'config.json'}.model")
    with without_storage():
        model = MoT(contents.model)
    expected = {name: tuple(empty.shape) for name, empty in model.state_dict().items()}
    model_folder.check_shapes(expected, stored.shapes(), str(folder))
    weights = stored.all()
    model.load_state_dict({name: tensor.float() for name, tensor in weights.items()}, assign=True)
    return {
        "model": model.to(device),
        "tokenizer": tokenizer,
        "flow": contents.flow,
        "native": contents.native,
        "card": model_folder.card(folder),
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
