"""The toy as a system: it only draws."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor, nn

from diptych.contracts import AnswerLimits, Prompt, Stack, check_rows
from diptych.files import folder as model_folder
from diptych.files import weights as weight_files
from diptych.files.typed import convert
from diptych.request import Message, RequestError
from diptych.settings import Settings
from diptych.spaces import PixelSpace

from .model import ToyConfig, ToyModel
from .settings import NAME, SAMPLER, settings_of


@dataclasses.dataclass(frozen=True, eq=False)
class ToyCondition:
    text: Tensor
    """(B, C)."""
    negative: Tensor
    """(B, C): what stands for it in a pass without text."""
    scale: Tensor
    size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.text)

    def dropped(self, text: Tensor, media: Tensor) -> ToyCondition:
        check_rows(len(self), text=text, media=media)
        kept = torch.where(text.to(self.text.device)[:, None], self.negative, self.text)
        return dataclasses.replace(self, text=kept)

    def with_guidance(self, scales: Tensor) -> NoReturn:
        raise ValueError("this model is not told its guidance scale")

    def prepare(self) -> None:
        pass

    def rows(self, index: Sequence[int]) -> ToyCondition:
        check_rows(len(index))
        at = torch.as_tensor(list(index), device=self.text.device)
        return ToyCondition(self.text[at], self.negative[at], self.scale[at], self.size)

    def joined(self, others: Sequence[ToyCondition]) -> ToyCondition:
        every = [self, *others]
        if any(other.size != self.size for other in every):
            raise ValueError("conditions of different sizes cannot be joined")
        parts = ((getattr(one, name) for one in every) for name in ("text", "negative", "scale"))
        return ToyCondition(*(torch.cat(list(part)) for part in parts), self.size)


class ToySystem:
    family = NAME
    joins_passes = True
    embeds_guidance = False
    text = None
    sampler = SAMPLER

    def __init__(self, model: ToyModel, native: int = 32, card: dict[str, Any] | None = None) -> None:
        self.model, self.native, self.card = model, native, card or {}
        self.space, self.token = PixelSpace(model.config.patch), model.config.patch

    @property
    def settings(self) -> Settings:
        return settings_of(self.native, self.token)

    @property
    def device(self) -> torch.device:
        return self.model.words.weight.device

    def read(self, prompts: Sequence[Prompt], stacks: Sequence[Stack]) -> ToyCondition:
        check_rows(len(prompts), stacks=stacks)
        sizes = {(stack.width, stack.height, stack.times) for stack in stacks}
        if len(sizes) != 1:
            raise ValueError(f"the rows of a batch must draw one size, got {sorted(sizes)}")
        if any(stack.given for stack in stacks):
            raise RequestError("this model reads no pictures")
        words, negative = ([getattr(p, key) for p in prompts] for key in ("text", "negative"))
        (stack, *_), one = stacks, torch.ones(len(prompts), device=self.device)
        return ToyCondition(self._texts(words), self._texts(negative), one, (stack.width, stack.height))

    def _texts(self, texts: Sequence[str]) -> Tensor:
        rows = [torch.tensor([0, *(1 + byte for byte in text.encode())]) for text in texts]
        ids = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-1).to(self.device)
        return self.model.read(ids.clamp_min(0), ids >= 0)

    def denoise(self, x: Tensor, sigma: Tensor, condition: ToyCondition) -> Tensor:
        levels = sigma if sigma.ndim == 2 else sigma[:, None].expand(-1, x.shape[1])
        return self.model(x, levels, condition.text).float()

    def fit(self, pixels: np.ndarray) -> np.ndarray:
        return pixels

    def answer(self, messages: Sequence[Message], limits: AnswerLimits = AnswerLimits()) -> Iterator[str]:
        raise RequestError("this model draws and does not answer")

    def answers(
        self, conversations: Sequence[Sequence[Message]], limits: AnswerLimits = AnswerLimits()
    ) -> list[str]:
        raise RequestError("this model draws and does not answer")

    def log_odds(self, conversations: Sequence[Sequence[Message]]) -> list[float]:
        raise RequestError("this model draws and does not judge")

    def accelerate(self) -> None:
        pass

    def parts(self) -> dict[str, nn.Module]:
        return {"model": self.model}

    def save(self, folder: Path) -> None:
        config = {"family": NAME, "native": self.native, "model": dataclasses.asdict(self.model.config)}
        weight_files.write(Path(folder), config, self.model.state_dict(), self.card, None)

    @classmethod
    def load(cls, folder: Path, device: torch.device | str = "cpu") -> ToySystem:
        config, weights = weight_files.read(folder)
        with torch.device("meta"):
            model = ToyModel(convert(ToyConfig, config["model"], str(folder / "config.json")))
        model.load_state_dict(weights, assign=True)
        return cls(model.to(device), config["native"], model_folder.card(folder))
