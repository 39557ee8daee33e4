"""The family's forms on disk: ours (config.json, tokenizer.json, model.safetensors, card.json) and the
published one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from diptych.data.conversations.forms import FORMS
from diptych.data.conversations.tokens import TextTokenizer
from diptych.files import folder as model_folder
from diptych.files.folder import ModelFolderError
from diptych.files.weights import Planned, open_weights, write
from diptych.models.meta import without_storage
from diptych.models.mot import MoT, MoTConfig
from diptych.planning.rewording import Rewording
from diptych.systems.u1 import NAME, is_published
from diptych.systems.u1.defaults import CONVERSATION, told_of
from diptych.systems.u1.published import describe, published_weights, write_config, write_weights
from diptych.systems.u1.settings import Contents, read_config, read_words
from diptych.systems.u1.words import read_tokenizer, write_tokenizer


def read_contents(folder: Path) -> tuple[Contents, TextTokenizer]:
    """What a folder, ours or published, says of its model, without the weights. Raises ModelFolderError for
    one that is not whole or of another kind."""
    contents = _published(folder) if is_published(folder) else read_config(folder)
    marks = FORMS[contents.conversation.form].marks
    if is_published(folder):
        tokenizer = read_tokenizer(folder, marks)
    else:
        try:
            tokenizer = TextTokenizer.load(folder / "tokenizer.json", marks)
        except ValueError as error:
            raise ModelFolderError(str(error)) from error
    # fewer is fine: published vocabularies are padded, and may leave numbers out
    word, number = max(tokenizer.inner.get_vocab().items(), key=lambda item: item[1])
    if number >= contents.model.vocab_size:
        raise ModelFolderError(
            f"{folder}: the tokenizer's {word!r} has number {number}, but the model has "
            f"{contents.model.vocab_size} tokens"
        )
    return contents, tokenizer


def _published(folder: Path) -> Contents:
    model, flow, conversation, native = describe(folder)
    return Contents(family=NAME, native=native, model=model, flow=flow, conversation=conversation)


def stored_weights(folder: Path, model: MoTConfig | None = None) -> Planned:
    """The weights of a folder, ours or published, under our names, read one by one; of a config that was read
    already. Raises ModelFolderError for what is missing, damaged or of another model, told from the headers
    of the files."""
    model = model or read_contents(folder)[0].model
    if is_published(folder):
        return published_weights(folder, model)
    stored = open_weights(folder)
    # a config can ask for any number of layers and experts
    model_folder.check_depth(asdict(model), stored, f"{folder / 'config.json'}.model")
    with without_storage():
        expected = MoT(model).state_dict()
    shapes = {name: tuple(empty.shape) for name, empty in expected.items()}
    model_folder.check_shapes(shapes, stored.shapes(), str(folder))
    return stored


def read_folder(folder: Path, device: torch.device | str, dtype: torch.dtype | None = None) -> dict[str, Any]:
    """What a system is made of: model, tokenizer, flow, native, card, conversation and words. The weights
    are in `dtype`; None: float32 for folders of ours, bfloat16 for published ones.

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
        "words": None if is_published(folder) else read_words(folder),
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
    words: Rewording | None = None,
) -> None:
    """Write a whole folder; weights are stored in `dtype`, or in their own."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(folder / "tokenizer.json")
    if words is not None:
        words.save(folder)
    write(folder, asdict(contents), weights, card, dtype)


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
    told = told_of(contents.native, contents.flow.sampler, contents.conversation)
    dtype = weights.layout()["embedding.weight"].dtype
    write_config(folder, contents.model, contents.flow, told, dtype, tokenizer.ids)
    write_tokenizer(folder, tokenizer)
    write_weights(folder, contents.model, weights, shards)
