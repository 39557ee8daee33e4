"""What is stored of a model of transformers, against what its class holds."""

from __future__ import annotations

from typing import Any

from diptych.files.folder import ModelFolderError, check_shapes


def check_stored(empty: Any, stored: dict[str, tuple[int, ...]], where: str) -> None:
    """Shapes against the headers; names are those of the class, or of folders that were written before it was
    split in body and head, which transformers renames."""
    expected = {name: tuple(tensor.shape) for name, tensor in empty.state_dict().items()}
    tied = set(empty.all_tied_weights_keys or ())
    wanted = {name: shape for name, shape in expected.items() if name not in tied or name in stored}
    if set(wanted) == set(stored):
        check_shapes(wanted, stored, where)
    elif sorted(wanted.values()) != sorted(stored.values()):
        raise ModelFolderError(f"{where}: the weights are not of the sizes that the config says")
