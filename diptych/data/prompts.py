"""Prompts to draw: lines of a text file, captions of a JSONL file or of an indexed folder of pictures."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from diptych.data.foreign import MAX_LINE, MAX_TEXT, Line, lines
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
    else:
        # no more than are asked for: the file may hold millions. A line of other scripts' blanks is blank
        prompts = list(islice(filter(None, (_prompt(path, line) for line in lines(path))), limit))
    if not prompts:
        raise ValueError(f"{path} holds no prompts")
    return prompts[:limit]


def _prompt(path: Path, line: Line) -> str:
    where = f"{path}:{line.number}"
    if line.text is None:
        raise ValueError(f"{where}: a line of {line.size:,} bytes; at most {MAX_LINE:,} are read")
    if path.suffix == ".jsonl":
        values = parse(line.text, where)
        texts = [values.get(key) for key in CAPTION_KEYS] if isinstance(values, dict) else []
        text = next((text.strip() for text in texts if isinstance(text, str) and text.strip()), "")
        if not text:
            raise ValueError(f"{where}: none of {', '.join(CAPTION_KEYS)} holds a text")
    else:
        try:
            text = line.text.decode().strip()
        except UnicodeDecodeError as error:
            raise ValueError(f"{where}: no text in UTF-8 (byte {error.start})") from error
    if len(text) > MAX_TEXT:
        raise ValueError(f"{where}: a prompt of {len(text):,} characters; at most {MAX_TEXT:,} are read")
    return text
