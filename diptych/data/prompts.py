"""Prompts to draw: lines of a text file, captions of a JSONL file or of an indexed folder of pictures."""

from __future__ import annotations

from pathlib import Path

from diptych.files.typed import parse

CAPTION_KEYS = ("prompt", "caption", "text")


def read_prompts(path: Path, limit: int) -> list[str]:
    """The first `limit` prompts of `path`: a .txt (one a line), a .jsonl (prompt, caption or text), or an
    indexed folder.

    Raises ValueError naming the file and line of what cannot be used, and for a source without prompts.
    """
    if path.is_dir():
        # pyarrow comes with it, which a text file does not need
        from diptych.data.captioned.index import Index

        prompts = [row.captions[0] for row in Index(path).rows if row.captions]
    elif not path.is_file():
        raise ValueError(f"{path} is neither a file with prompts nor a folder of pictures")
    else:
        try:
            rows = path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is no text in UTF-8 ({error})") from error
        prompts = [_prompt(path, number, row) for number, row in enumerate(rows, 1) if row.strip()]
    if not prompts:
        raise ValueError(f"{path} holds no prompts")
    return prompts[:limit]


def _prompt(path: Path, number: int, row: str) -> str:
    if path.suffix != ".jsonl":
        return row.strip()
    values = parse(row, f"{path}:{number}")
    for key in CAPTION_KEYS:
        if isinstance(values, dict) and isinstance(values.get(key), str) and values[key].strip():
            return str(values[key]).strip()
    raise ValueError(f"{path}:{number}: none of {', '.join(CAPTION_KEYS)} holds a text")
