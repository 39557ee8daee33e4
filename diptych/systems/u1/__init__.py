"""SenseNova-U1: one native model, pixels in and out (arXiv 2605.12500)."""

from pathlib import Path

from diptych.files.typed import read_json

NAME = "u1"


# here, where nothing else is imported: every folder is looked at with it, of whichever family
def is_published(folder: Path) -> bool:
    """Whether a folder is one of the published ones; looks at its config alone and never raises."""
    try:
        values = read_json(folder / "config.json")
    except ValueError:
        return False
    return isinstance(values, dict) and values.get("model_type") == "neo_chat"
