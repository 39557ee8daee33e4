"""The tokenizer of a published folder: byte-level BPE of the Qwen kind from its vocabulary and merges."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from diptych.data.conversations.forms import FORMS
from diptych.data.conversations.tokens import TextTokenizer
from diptych.files.folder import ModelFolderError
from diptych.files.typed import read_json
from diptych.files.whole import write_whole

MAX_WORDS = 2**20
"""Tokens of a vocabulary; the published one has 151,936."""
MAX_BYTES = 2**26
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
"""How Qwen2 and Qwen3 cut a text before its bytes are merged."""


def read_tokenizer(folder: Path, marks: Sequence[str]) -> TextTokenizer:
    """From vocab.json, merges.txt and added_tokens.json (or, where that is absent, tokenizer_config.json),
    which every published folder has; a tokenizer.json, which most have not, is not looked at.

    Raises ModelFolderError for a file that is missing or no such thing, and for a tokenizer without the
    marks.
    """
    words = _object(folder / "vocab.json")
    if not 256 <= len(words) <= MAX_WORDS or not all(type(number) is int for number in words.values()):
        raise ModelFolderError(
            f"{folder / 'vocab.json'}: a token -> number table of 256 to {MAX_WORDS:,} tokens is needed"
        )
    if absent := sorted(set(pre_tokenizers.ByteLevel.alphabet()) - words.keys()):
        # what has no token is left out of a text, and nobody is told
        raise ModelFolderError(
            f"{folder / 'vocab.json'}: {absent[0]!r} is missing: each of the 256 bytes needs a token"
        )
    merges = _merges(folder / "merges.txt")
    try:
        inner = Tokenizer(models.BPE(words, merges))
    except Exception as error:  # the library raises nothing narrower
        raise ModelFolderError(f"{folder}: vocab.json and merges.txt do not fit ({error})") from error
    inner.normalizer = normalizers.NFC()
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    inner.decoder = decoders.ByteLevel()
    for number, (word, special) in sorted(_added(folder).items()):
        inner.add_tokens([AddedToken(word, special=special, normalized=False)])
        if inner.token_to_id(word) != number:
            raise ModelFolderError(
                f"{folder}: the added token {word!r} has number {number}, where {inner.token_to_id(word)} is "
                "next"
            )
    try:
        return TextTokenizer(inner, marks)
    except ValueError as error:
        raise ModelFolderError(f"{folder}: {error}") from error


def write_tokenizer(folder: Path, tokenizer: TextTokenizer) -> None:
    """Write the files of a published folder's tokenizer. Raises ValueError for one that cuts texts in another
    way than those files can say."""
    form = FORMS["neo1_0"]
    parts = json.loads(tokenizer.inner.to_str())
    added = sorted(parts["added_tokens"], key=lambda token: token["id"])
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in parts["model"].get("merges", [])]
    write_whole(
        folder / "vocab.json", json.dumps(parts["model"]["vocab"], ensure_ascii=False, separators=(",", ":"))
    )
    write_whole(folder / "merges.txt", "\n".join(["#version: 0.2", *merges, ""]))
    numbers = {token["content"]: token["id"] for token in sorted(added, key=lambda token: token["content"])}
    write_whole(folder / "added_tokens.json", _pretty(numbers))
    plain = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    special = [token["content"] for token in added if token["special"] and token["content"] != form.pad]
    described = {"eos_token": {"content": form.end, **plain}, "pad_token": {"content": form.pad, **plain}}
    write_whole(
        folder / "special_tokens_map.json",
        _pretty({"additional_special_tokens": [{"content": word, **plain} for word in special], **described}),
    )
    config = {
        "add_bos_token": False,
        "added_tokens_decoder": {
            str(token["id"]): {"content": token["content"], **plain, "special": token["special"]}
            for token in added
        },
        "additional_special_tokens": special,
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": form.end,
        "errors": "replace",
        "model_max_length": 12_288,
        "pad_token": form.pad,
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }
    write_whole(folder / "tokenizer_config.json", _pretty(config))
    # what those files cannot say (another way of cutting texts) is seen when they are read
    if json.loads(read_tokenizer(folder, ()).inner.to_str()) != parts:
        raise ValueError(
            "the tokenizer cuts texts in another way than published ones: it cannot be written as one"
        )


def _pretty(values: Any) -> str:
    return json.dumps(values, indent=2, ensure_ascii=False) + "\n"


def _added(folder: Path) -> dict[int, tuple[str, bool]]:
    """Number -> (added token, whether it says nothing to a reader)."""
    config = folder / "tokenizer_config.json"
    described = _object(config).get("added_tokens_decoder", {}) if config.is_file() else {}
    if not isinstance(described, dict):
        raise ModelFolderError(
            f"{config}: added_tokens_decoder must be an object of tokens by number, got "
            f"{type(described).__name__}"
        )
    shown = {
        entry["content"]
        for entry in described.values()
        if isinstance(entry, dict)
        and not entry.get("special", True)
        and isinstance(entry.get("content"), str)
    }
    listed = folder / "added_tokens.json"
    if listed.is_file():
        numbers = _object(listed)
    else:
        numbers = {
            entry["content"]: int(number)
            for number, entry in described.items()
            if isinstance(entry, dict) and isinstance(entry.get("content"), str) and number.isdecimal()
        }
    if not numbers or not all(type(number) is int for number in numbers.values()):
        raise ModelFolderError(f"{listed}: a token -> number table is needed")
    words = {number: word for word, number in numbers.items()}
    if twice := [word for word, number in numbers.items() if words[number] != word]:
        both = f"{twice[0]!r} and {words[numbers[twice[0]]]!r}"
        raise ModelFolderError(f"{listed}: {both} have the same number, {numbers[twice[0]]}")
    return {number: (word, word not in shown) for number, word in words.items()}


def _merges(path: Path) -> list[tuple[str, str]]:
    if not path.is_file() or path.stat().st_size > MAX_BYTES:
        raise ModelFolderError(f"{path} is missing, or larger than {MAX_BYTES // 2**20} MiB")
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise ModelFolderError(f"{path} is not UTF-8 text ({error})") from error
    merges = []
    for number, line in enumerate(lines, 1):
        if not line or (number == 1 and line.startswith("#version")):
            continue
        pair = line.split(" ")
        if len(pair) != 2:
            raise ModelFolderError(f"{path}:{number}: two pieces and a space are needed, got {line[:60]!r}")
        merges.append((pair[0], pair[1]))
    return merges


def _object(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ModelFolderError(f"{path} is missing")
    try:
        values = read_json(path)
    except ValueError as error:
        raise ModelFolderError(str(error)) from error
    if not isinstance(values, dict):
        raise ModelFolderError(f"{path}: a JSON object is needed, got {type(values).__name__}")
    return values
