"""The tokenizer of a published folder: byte-level BPE of the Qwen kind from its vocabulary and merges."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from diptych.data.conversations.tokens import TextTokenizer
from diptych.files.folder import ModelFolderError
from diptych.files.typed import read_json

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

    Raises ModelFolderError for a file that is missing or no such thing, and for a tokenizer without the marks.
    """
    words = _object(folder / "vocab.json")
    if not 256 <= len(words) <= MAX_WORDS or not all(type(number) is int for number in words.values()):
        raise ModelFolderError(
            f"{folder / 'vocab.json'}: a token -> number table of 256 to {MAX_WORDS:,} tokens"
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
                f"{folder}: the added token {word!r} has number {number}, where {inner.token_to_id(word)} is next"
            )
    try:
        return TextTokenizer(inner, marks)
    except ValueError as error:
        raise ModelFolderError(f"{folder}: {error}") from error


def _added(folder: Path) -> dict[int, tuple[str, bool]]:
    """Number -> (added token, whether it says nothing to a reader)."""
    config = folder / "tokenizer_config.json"
    described = _object(config).get("added_tokens_decoder", {}) if config.is_file() else {}
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
    return {number: (word, word not in shown) for word, number in numbers.items()}


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
