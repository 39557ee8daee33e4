"""Openclipart as Debian packs it, as a list of pictures with captions: titles, keywords and descriptions
of the drawings beside the pictures that were made from them.

    apt-get download openclipart-png openclipart-svg
    for file in openclipart-*.deb; do dpkg -x $file /tmp/openclipart; done
    python benchmarks/curation_openclipart.py /tmp/openclipart/usr/share/openclipart
    diptych curate pairs /tmp/openclipart/usr/share/openclipart/png -o /tmp/curated
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from xml.etree import ElementTree

_TITLE = "{http://purl.org/dc/elements/1.1/}title"
_ABOUT = "{http://purl.org/dc/elements/1.1/}description"
_WORD = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}li"
_WORK = "{http://web.resource.org/cc/}Work"
_NONE = ("", "title", "untitled", "unknown", "hash(0x")


def captions_of(path: Path) -> list[str]:
    """Title and description, and the title with the keywords, as far as a drawing has them."""
    try:
        root = ElementTree.parse(path).getroot()
    except (ElementTree.ParseError, LookupError, OSError, ValueError):
        return []
    work = next(root.iter(_WORK), None)
    if work is None:
        return []
    title, about = (" ".join((work.findtext(tag) or "").split()) for tag in (_TITLE, _ABOUT))
    words = [" ".join((word.text or "").split()) for word in work.iter(_WORD)]
    words = [word for word in dict.fromkeys(words) if word and not word.lower().startswith("hash(0x")]
    # file names stand where nobody wrote a title
    title = re.sub(r"[_-]+", " ", title)
    title = "" if title.lower().startswith(_NONE[1:]) or title.lower() in _NONE else title
    found = [title, f"{title}: {', '.join(words)}" if title and words else ", ".join(words), about]
    return list(dict.fromkeys(caption for caption in found if len(caption) > 2))


def main(folder: Path) -> None:
    pictures = folder / "png"
    count = told = 0
    with (pictures / "pictures.jsonl").open("w", encoding="utf-8") as file:
        for path in sorted(pictures.rglob("*.png")):
            name = path.relative_to(pictures)
            captions = captions_of((folder / "svg" / name).with_suffix(".svg"))
            # the folders are the collection's own subjects
            captions = captions or [" ".join(part.replace("_", " ") for part in name.parts[:-1])]
            file.write(json.dumps({"file_name": str(name), "captions": captions}, ensure_ascii=False) + "\n")
            count, told = count + 1, told + bool(captions)
    print(f"{count} pictures, {told} of them with captions")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
