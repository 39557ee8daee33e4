"""The vision tower of a contrastive model that was trained here, as an encoder of features."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from diptych.data.conversations.tokens import TextTokenizer
from diptych.files.folder import ModelFolderError, check_depth, check_shapes
from diptych.files.typed import read, to_json
from diptych.files.weights import all_finite, open_weights
from diptych.files.whole import whole, write_whole
from diptych.models.contrastive import Contrastive, ContrastiveConfig
from diptych.models.meta import without_storage

KIND = "contrastive"
BATCH = 256
"""Pictures that are read at once."""


@dataclass(frozen=True, kw_only=True)
class _Folder:
    kind: str
    model: ContrastiveConfig


class ContrastiveFeatures:
    """Features of patches, see `encoders.features.FeatureEncoder`; and the text tower beside it, which says
    how well a picture fits its caption."""

    def __init__(self, model: Contrastive, tokenizer: TextTokenizer) -> None:
        self.model, self.tokenizer = model.eval().requires_grad_(False), tokenizer
        vision = model.config.vision
        self.channels, self.size, self.grid = vision.width, vision.size, vision.grid

    @classmethod
    def load(cls, folder: Path) -> ContrastiveFeatures:
        """Raises ModelFolderError for a folder that is not whole."""
        path = folder / "config.json"
        try:
            config = read(_Folder, path).model
        except ValueError as error:
            raise ModelFolderError(str(error)) from error
        stored = open_weights(folder)
        check_depth({"vision": vars(config.vision), "text": vars(config.text)}, stored, str(path))
        with without_storage():
            model = Contrastive(config)
        expected = {name: tuple(empty.shape) for name, empty in model.state_dict().items()}
        check_shapes(expected, stored.shapes(), str(path))
        values = {name: tensor.float() for name, tensor in stored.all().items()}
        all_finite(values.items(), folder)
        model.load_state_dict(values, assign=True)
        return cls(model, TextTokenizer.load(folder / "tokenizer.json"))

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        """uint8 (P, 3, size, size) -> (P, channels, grid, grid), float32."""
        if tuple(pixels.shape[-2:]) != (self.size, self.size):
            raise ValueError(
                f"this encoder reads pictures of {self.size}x{self.size} px, got "
                f"{pixels.shape[-1]}x{pixels.shape[-2]}"
            )
        return torch.cat(
            [self.model.vision(as_input(part).to(self._device())) for part in pixels.split(BATCH)]
        ).float()

    @torch.no_grad()
    def similarity(self, pixels: Tensor, texts: list[str]) -> Tensor:
        """Cosine similarity (P,) of each picture, uint8 (P, 3, size, size), with its text."""
        ids, mask = tokens(self.tokenizer, texts, self.model.config.text.max_tokens)
        device = self._device()
        pictures = self.model.of_pictures(as_input(pixels).to(device))
        return (pictures * self.model.of_texts(ids.to(device), mask.to(device))).sum(-1)

    def identity(self) -> str:
        """Checksum of the vision tower."""
        digest = hashlib.sha256(repr(self.model.config.vision).encode())
        for name, tensor in sorted(self.model.vision.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:16]

    def save(self, folder: Path) -> None:
        """Write the folder that `load` reads."""
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / "config.json", to_json(_Folder(kind=KIND, model=self.model.config)))
        self.tokenizer.save(folder / "tokenizer.json")
        with whole(folder / "model.safetensors") as aside:
            save_file({name: tensor.contiguous() for name, tensor in self.model.state_dict().items()}, aside)

    def _device(self) -> torch.device:
        return self.model.sharpness.device


def as_input(pixels: Tensor) -> Tensor:
    """uint8 -> -1..1."""
    return pixels.float() / 127.5 - 1.0


def tokens(tokenizer: TextTokenizer, texts: list[str], most: int) -> tuple[Tensor, Tensor]:
    """Ids (P, T) and mask (P, T) of texts behind one mark, at most `most` tokens each; what is longer is
    cut."""
    # the mark: an empty text has a token as well
    rows = [[tokenizer.ids["<|user|>"], *tokenizer.encode(text)][:most] for text in texts]
    length = max(map(len, rows))
    padded = torch.tensor([row + [tokenizer.ids["<|pad|>"]] * (length - len(row)) for row in rows])
    return padded, torch.arange(length) < torch.tensor([len(row) for row in rows])[:, None]
